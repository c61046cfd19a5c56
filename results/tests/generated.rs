//! Files under `docs/` that derive from the types: the columns of the tables and the JSON schemas. Each test fails
//! where its file is stale; `INFERBENCH_UPDATE=1 cargo test -p inferbench-results --test generated` renews them.

use std::{fmt::Write as _, path::Path};

use inferbench_crds::spec::Objectives;
use inferbench_results::{
    analysis::{Analysis, analyze},
    columns::{Kind, TableRow},
    compare::{Comparison, Options, compare},
    fixtures,
    manifest::{FileEntry, Manifest, TrialEntry},
    record::TrialRecord,
    row::{IterationRow, RequestRow, Row, TelemetryRow},
    summary::{Summary, summarize},
};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

fn is_fresh(name: &str, contents: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name);
    if std::env::var_os("INFERBENCH_UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, contents).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == contents,
        "docs/{name} is stale: INFERBENCH_UPDATE=1 cargo test -p inferbench-results --test generated renews it"
    );
}

fn describe<T: TableRow>(files: &str, out: &mut String) {
    let _ = writeln!(out, "\n## {files}\n\nOne row is {}.\n", T::ROW);
    out.push_str("| column | type | unit | what it says |\n|---|---|---|---|\n");
    for column in T::columns(&[]) {
        let kind = match column.kind {
            Kind::Text => "text",
            Kind::Integer => "integer",
            Kind::Unsigned => "unsigned integer",
            Kind::Number => "number",
            Kind::Numbers => "list of numbers",
            Kind::Boolean => "true or false",
            Kind::Time => "time",
        };
        let may_be_empty = if column.nullable { "" } else { ", never empty" };
        let doc = column.doc.replace('|', "\\|");
        let _ = writeln!(
            out,
            "| `{}` | {kind}{may_be_empty} | {} | {doc} |",
            column.name, column.unit
        );
    }
}

#[test]
fn columns_are_documented() {
    let mut page = String::from(
        "# Columns of the tables\n\nGenerated from `results/src/row.rs`; do not edit. A cell is empty (in Parquet: \
         null) where it does not apply or is unknown; no zero stands for unknown. The Parquet files carry types, and \
         each field's unit and description in its metadata.\n",
    );
    describe::<Row>("trials.csv, trials.parquet", &mut page);
    page.push_str(
        "\nA sweep with parameters has a column `param_<name>` after these for each of them: its level, a number, a text or \
         true or false, and empty where the engine does not take it.\n",
    );
    describe::<IterationRow>("iterations.parquet", &mut page);
    describe::<RequestRow>("requests.parquet", &mut page);
    describe::<TelemetryRow>("telemetry.parquet", &mut page);
    is_fresh("columns.md", &page);
}

fn schema<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>()
        .into()
}

/// The schema is committed, accepts the document, and refuses it without any one of its required members.
fn has_schema<T: JsonSchema>(name: &str, document: &impl serde::Serialize) {
    let schema = schema::<T>();
    is_fresh(
        &format!("schemas/{name}.schema.json"),
        &(serde_json::to_string_pretty(&schema).unwrap() + "\n"),
    );
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource(name, schema.clone()).unwrap();
    let index = compiler.compile(name, &mut schemas).unwrap();
    let document = serde_json::to_value(document).unwrap();
    if let Err(error) = schemas.validate(&document, index) {
        panic!("{error:#}");
    }
    let required = schema["required"].as_array().unwrap();
    assert!(required.len() > 3);
    for member in required {
        let mut without = document.clone();
        without
            .as_object_mut()
            .unwrap()
            .remove(member.as_str().unwrap())
            .unwrap();
        assert!(
            schemas.validate(&without, index).is_err(),
            "{member} is required"
        );
    }
}

#[test]
fn records_have_a_schema() {
    for record in [
        fixtures::record(),
        fixtures::gpu_record(),
        fixtures::out_of_memory(),
        fixtures::served(fixtures::open_loop(2.5), 0),
    ] {
        has_schema::<TrialRecord>("trial", &record);
    }
}

#[test]
fn analyses_have_a_schema() {
    let mut rows = fixtures::Sweep::default().rows(|row| {
        f64::from(row.output_len) + 0.1 * f64::from(row.batch_size) * f64::from(row.input_len)
    });
    rows[3].valid = Some(false);
    rows[4].outcome = None;
    let objectives = Objectives {
        max_ttft: Some(inferbench_crds::Duration::from_millis(10)),
        ..Objectives::default()
    };
    let summary = summarize("fixture", &rows, &objectives);
    has_schema::<Analysis>("analysis", &analyze(&rows, &summary, &objectives));
}

#[test]
fn summaries_and_manifests_have_schemas() {
    let records = [fixtures::record(), fixtures::gpu_record()];
    let rows: Vec<Row> = records.iter().map(Row::of).collect();
    let summary = summarize("fixture", &rows, &Objectives::default());
    has_schema::<Summary>("summary", &summary);

    let trials = rows.iter().map(|row| TrialEntry {
        trial_index: row.trial_index,
        attempt: row.attempt,
        outcome: row.outcome,
        record: Some(FileEntry::of(
            &format!("trials/{}.json", row.trial_key),
            b"{}",
        )),
    });
    let manifest = Manifest::new(
        &summary,
        vec![FileEntry::of("trials.csv", b"")],
        trials.collect(),
    );
    has_schema::<Manifest>("manifest", &manifest);
}

#[test]
fn comparisons_have_a_schema() {
    let rows = |names: [&str; 2]| -> Vec<Row> {
        let records = names.iter().zip(0..).map(|(name, at)| {
            let mut request = fixtures::request();
            request.replicate = at;
            let mut record = fixtures::measured(request, at);
            record.provenance.node = (*name).into();
            Row::of(&record)
        });
        records.collect()
    };
    let options = Options {
        names: None,
        limits: vec!["slower=5%".parse().unwrap()],
    };
    let comparison = compare(&rows(["one", "one"]), &rows(["one", "two"]), &options);
    has_schema::<Comparison>("comparison", &comparison);
}

//! A sweep whose results go to a volume: all of the way, and next to the same one on this machine.

use std::{collections::BTreeMap, fs};

use inferbench_crds::{crd::crd, outcome::Outcome};
use inferbench_results::{key::sha256_hex, row::Row};
use serde_json::Value;

use crate::{
    place::{Place, documents, rows, stderr},
    world::{IMAGE, NAMESPACE, World, condition, on_a_claim},
};

/// Eight trials in two Jobs.
fn spec() -> String {
    on_a_claim(
        "{claimName: results, path: sweeps}",
        "retries: 1, trialsPerJob: 4, parallelism: 2",
    ) + "  objectives: {maxTtft: 1h, maxTpot: 1h, costPerGpuHour: \"2.50\"}\n"
}

/// The same sweep in a local run: it is told the image's digest, which a trial's key covers.
fn local(spec: &str, fault: &str) -> Place {
    let place = Place::new(spec);
    let (_, digest) = IMAGE.split_once('@').unwrap();
    let output = place
        .command(&["run", "spec.yaml", "--out", "out"])
        .env("INFERBENCH_IMAGE_DIGEST", digest)
        .env("INFERBENCH_FAULT", fault)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    place
}

/// The fields of a row that do not depend on where, when and how fast it was measured.
fn fixed(row: &Row) -> String {
    let trial = (
        row.trial_index,
        &row.trial_key,
        row.attempt,
        row.replicate,
        row.run_order,
        row.outcome,
        row.iterations.is_some(),
    );
    let combination = (
        &row.model,
        &row.model_revision,
        &row.architecture,
        row.model_params,
        &row.dtype,
        row.batch_size,
        row.input_len,
        row.output_len,
        row.gpus,
    );
    let by = (
        &row.engine,
        &row.engine_version,
        &row.runner_version,
        &row.image_digest,
        row.prompt_seed,
    );
    format!("{trial:?} {combination:?} {by:?}")
}

fn by_index(rows: &[Row]) -> BTreeMap<u32, String> {
    rows.iter()
        .map(|row| (row.trial_index, fixed(row)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_in_a_cluster_is_the_same_as_on_this_machine() {
    let world = World::new().await;
    let spec = spec();
    world.apply(&spec).await;
    let operator = world.operator();
    let here = tokio::task::spawn_blocking(move || local(&spec, ""));
    let resource = world.wait_for_success("tiny").await;
    world.wait_for_quiet().await;
    let here = here.await.unwrap();
    operator.stop().await;

    // The status.
    let status = resource.status.clone().unwrap();
    // Other tests run beside this one, and may disturb every trial.
    let invalid = status.counts.as_ref().map_or(0, |counts| counts.invalid);
    let ended = match invalid {
        8 => ("False", "NoValidResults"),
        _ => ("True", "Succeeded"),
    };
    for (kind, expected) in [
        ("Accepted", ("True", "Accepted")),
        ("Progressing", ("False", "Finished")),
        ("Suspended", ("False", "NotSuspended")),
        ("ResultsAvailable", ("True", "Collected")),
        ("Succeeded", ended),
    ] {
        let (value, reason) = condition(&status, kind);
        assert_eq!((value.as_str(), reason.as_str()), expected, "{kind}");
    }
    let counts = status.counts.unwrap();
    assert_eq!(
        (counts.done, counts.succeeded, counts.failed, counts.active),
        (8, 8, 0, 0)
    );
    assert_eq!(counts.reused, 0);

    // The files on the volume: the manifest lists them by name and hash, and the status names the manifest.
    let folder = world.claim().join("sweeps").join(NAMESPACE);
    let name = format!("tiny-{}", &resource.metadata.uid.as_deref().unwrap()[..8]);
    let folder = folder.join(name);
    let results = status.results.unwrap();
    assert_eq!(results.rows, 8);
    let manifest = fs::read(folder.join("manifest.json")).unwrap();
    assert_eq!(results.sha256, sha256_hex(&manifest));
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let files = manifest["files"].as_array().unwrap();
    for file in files {
        let bytes = fs::read(folder.join(file["name"].as_str().unwrap())).unwrap();
        assert_eq!(file["sha256"], sha256_hex(&bytes), "{file}");
    }
    assert!(folder.join(&results.report).is_file());

    // The summary: on a busy machine, of all trials that could be vouched for.
    let measured = rows(&folder);
    let valid = measured
        .iter()
        .filter(|row| row.valid == Some(true))
        .count();
    let summary = status.summary.unwrap();
    assert_eq!(
        (summary.trials, summary.invalid),
        (valid as i32, 8 - valid as i32)
    );
    if valid == 8 {
        let mut factors = summary.factors.iter();
        assert!(factors.any(|factor| factor.factor == "batchSize"));
        assert!(!summary.best.is_empty() && !summary.effects.is_empty());
    }
    let found = summary.best.first();
    let found = found.and_then(|best| best.configuration.output_throughput);
    let best = status.progress.unwrap().best;
    let fastest = measured
        .iter()
        .filter(|row| row.valid == Some(true))
        .filter_map(|row| row.output_throughput)
        .reduce(f64::max);
    match (best, fastest) {
        // The status has the digits that matter.
        (Some(best), Some(fastest)) => assert!((best / fastest - 1.0).abs() < 0.01),
        (best, fastest) => assert_eq!(best, fastest),
    }

    // The same trials under the same keys, in the same columns, with the same outcomes.
    let keys = |records: BTreeMap<String, Vec<u8>>| records.into_keys().collect::<Vec<_>>();
    assert_eq!(keys(documents(&folder)), keys(here.documents()));
    let header = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap();
        text.lines().next().unwrap().to_owned()
    };
    assert_eq!(
        header(fs::read(folder.join("trials.csv")).unwrap()),
        header(fs::read(here.out().join("trials.csv")).unwrap())
    );
    assert_eq!(by_index(&measured), by_index(&here.rows()));
    // The same files, but for figures: there is none of what too few trials are valid for.
    let names = |files: &[Value]| -> Vec<String> {
        let names = files.iter().filter_map(|file| file["name"].as_str());
        let names = names.filter(|name| !name.starts_with("figures/"));
        names.map(str::to_owned).collect()
    };
    let there: Value =
        serde_json::from_slice(&fs::read(here.out().join("manifest.json")).unwrap()).unwrap();
    let local_files = there["files"].as_array().unwrap();
    assert_eq!(names(files), names(local_files));
    assert_eq!(manifest["outcomesSha256"], there["outcomesSha256"]);

    // Nothing is left of how it was done, and nothing was done twice.
    assert!(world.job_names().await.is_empty());
    assert_eq!(
        ["preflight", "trial", "collect"].map(|command| world.started.of(command) > 0),
        [true; 3]
    );
    for trial in 0..8 {
        assert_eq!(world.started.times(trial), 1, "trial {trial}");
    }
    let table = table(&world);
    assert_eq!(table["Name"], "tiny");
    assert_eq!(table["State"], ended.1);
    assert_eq!((&table["Done"], &table["Total"]), (&8.into(), &8.into()));
    assert_eq!(table["Failed"], 0);
    assert_eq!(table["Peak"].as_f64(), best, "{table}");
    // The best that is found in the end is over all that comes, and no faster than the fastest trial.
    assert_eq!(table["Best"].as_f64(), found, "{table}");
    assert!(found <= best, "{found:?} {best:?}");
}

/// The row that `kubectl get ib` shows, by the columns of the resource's definition.
fn table(world: &World) -> Value {
    let resources = world.kube.objects("inferencebenchmarks.inferbench.dev");
    let definition = crd();
    let columns = &definition["spec"]["versions"][0]["additionalPrinterColumns"];
    let cells = columns.as_array().unwrap().iter().map(|column| {
        let [name, path] = ["name", "jsonPath"].map(|key| column[key].as_str().unwrap());
        (name.to_owned(), select(&resources[0], path).clone())
    });
    let name = resources[0]["metadata"]["name"].clone();
    cells.chain([("Name".to_owned(), name)]).collect()
}

/// The value at the JSONPath of a column: fields, and at most one item of a list by the value of a field.
fn select<'a>(object: &'a Value, path: &str) -> &'a Value {
    let Some((list, rest)) = path.split_once("[?(@.") else {
        let pointer = path.replace(['.', '['], "/").replace(']', "");
        return object.pointer(&pointer).unwrap_or(&Value::Null);
    };
    let (condition, rest) = rest.split_once(")]").unwrap();
    let (field, value) = condition.split_once("==").unwrap();
    let items = select(object, list).as_array().unwrap();
    let mut items = items.iter();
    let found = items.find(|item| item[field] == value.trim_matches('"'));
    found.map_or(&Value::Null, |item| select(item, rest))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_measured_is_an_outcome_and_the_same_one_as_on_this_machine() {
    // With 300 tokens of input the model is over its 256; trial 0 has too little memory.
    let spec = spec()
        .replace("inputLength: [4, 8]", "inputLength: [4, 300]")
        .replace("replicates: 2", "replicates: 1");
    let world = World::new().await;
    world.fault("oom@trial:0");
    world.apply(&spec).await;
    let operator = world.operator();
    let copy = spec.clone();
    let here = tokio::task::spawn_blocking(move || local(&copy, "oom@trial:0"));
    let resource = world.wait_for_success("tiny").await;
    world.wait_for_quiet().await;
    let here = here.await.unwrap();
    operator.stop().await;

    let counts = resource.status.clone().unwrap().counts.unwrap();
    assert_eq!(
        (
            counts.done,
            counts.succeeded,
            counts.out_of_memory,
            counts.unsupported
        ),
        (4, 1, 1, 2)
    );
    let folder = world.claim().join("sweeps").join(NAMESPACE);
    let name = format!("tiny-{}", &resource.metadata.uid.as_deref().unwrap()[..8]);
    let outcomes = |rows: Vec<Row>| -> BTreeMap<u32, Option<Outcome>> {
        rows.iter()
            .map(|row| (row.trial_index, row.outcome))
            .collect()
    };
    assert_eq!(outcomes(rows(&folder.join(name))), outcomes(here.rows()));
}

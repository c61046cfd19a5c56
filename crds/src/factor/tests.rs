use serde_json::{Value, json};

use super::*;
use crate::{crd, design::Expansion, spec::Design};

fn design(factors: Value) -> Design {
    serde_json::from_value(json!({ "factors": factors })).expect("a design")
}

fn with_parameters() -> Design {
    design(json!({
        "engine": [{ "name": "one", "candle": {} }, { "name": "two", "candle": {} }],
        "model": [{ "name": "m", "source": { "random": { "preset": "tiny-gpt2" } } }],
        "batchSize": [1, 2],
        "gpus": [0],
        "parameters": [
            { "name": "threads", "levels": [1, 2, "auto"], "engines": ["two"], "env": "THREADS" },
            { "name": "pages", "levels": [true, false], "env": "PAGES" },
        ],
    }))
}

/// The table and the typed fields of the spec say the same of every factor.
#[test]
fn the_table_agrees_with_the_schema_of_the_spec() {
    let crd = crd::crd();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let factors = &schema["properties"]["spec"]["properties"]["design"]["properties"]["factors"];
    for builtin in TABLE {
        let name = builtin.name;
        let schema = &factors["properties"][name];
        assert_eq!(schema["maxItems"], builtin.max_levels, "{name}");
        let is_required = factors["required"]
            .as_array()
            .is_some_and(|names| names.contains(&name.into()));
        let is_given = is_required || schema.get("default").is_some();
        assert_eq!(is_given, builtin.given.is_none(), "{name}");
        let items = &schema["items"];
        match builtin.allowed {
            Allowed::Range(least, most) => {
                assert_eq!(
                    (&items["minimum"], &items["maximum"]),
                    (&json!(least), &json!(most)),
                    "{name}"
                );
            }
            Allowed::Above0(most) => {
                assert_eq!(items["maximum"], json!(most), "{name}");
                assert!(items["minimum"].as_f64() > Some(0.0), "{name}");
            }
            Allowed::Names(longest) => {
                assert_eq!(items["properties"]["name"]["maxLength"], longest, "{name}")
            }
            Allowed::OneOf(names) => assert_eq!(items["enum"], json!(names), "{name}"),
        }
    }
    let members: Vec<&String> = factors["properties"]
        .as_object()
        .expect("members")
        .keys()
        .collect();
    assert_eq!(
        members.len(),
        TABLE.len() + 1,
        "{members:?} are the table's factors and {PARAMETERS}"
    );
}

#[test]
fn names_titles_and_columns_are_distinct() {
    for name in [
        |row: &Builtin| row.name,
        |row: &Builtin| row.title,
        |row: &Builtin| row.column,
    ] {
        let mut names: Vec<&str> = TABLE.iter().map(name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}

#[test]
fn a_combination_has_the_levels_of_its_typed_fields() {
    for (index, combination) in Expansion::new(&with_parameters()).combinations() {
        let levels = Levels::of(&combination);
        assert_eq!(
            levels.number(&Factor::BATCH_SIZE),
            Some(f64::from(combination.batch_size)),
            "{index}"
        );
        assert_eq!(
            levels.get(&Factor::ENGINE),
            Some(&Level::from(combination.engine.name.as_str()))
        );
        assert_eq!(levels.get(&Factor::DTYPE), Some(&Level::from("f32")));
        let pages = Factor::named("pages");
        assert_eq!(
            levels.get(&pages),
            Some(&combination.parameters["pages"].level)
        );
    }
}

#[test]
fn a_parameter_has_no_level_for_engines_that_do_not_take_it() {
    let expansion = Expansion::new(&with_parameters());
    let threads = Factor::named("threads");
    let mut found: Vec<(String, Option<Level>, u32, bool)> = Vec::new();
    for (index, combination) in expansion.combinations() {
        let levels = Levels::of(&combination);
        assert_eq!(expansion.level(index, &threads), levels.get(&threads));
        let Some(Level::Boolean(pages)) = levels.get(&Factor::named("pages")) else {
            panic!("{levels:?}")
        };
        let engine = combination.engine.name.clone();
        found.push((
            engine,
            levels.get(&threads).cloned(),
            combination.batch_size,
            *pages,
        ));
    }
    // The first engine: 2 batch sizes × 2 pages. The second one: three times as many. Each of them once.
    assert_eq!(
        found.iter().filter(|(engine, ..)| engine == "one").count(),
        4
    );
    assert_eq!(found.len(), 4 + 12);
    let all = found.len();
    found.sort();
    found.dedup();
    assert_eq!(found.len(), all);
    assert_eq!(expansion.excluded().count(), 0);
}

#[test]
fn exclude_matches_a_parameter_only_where_it_has_a_level() {
    let mut design = with_parameters();
    design.exclude =
        serde_json::from_value(json!([{ "parameters": { "threads": [1] } }])).expect("entries");
    let expansion = Expansion::new(&design);
    let engine = |name| {
        expansion
            .combinations()
            .filter(|(_, one)| one.engine.name == name)
            .count()
    };
    assert_eq!((engine("one"), engine("two")), (4, 8));
    assert!(
        expansion
            .excluded()
            .all(|one| one.combination.engine.name == "two")
    );
}

#[test]
fn trials_share_a_start_where_only_the_load_differs() {
    let expansion = Expansion::new(&with_parameters());
    let all: Vec<_> = expansion.combinations().collect();
    for (a, first) in &all {
        for (b, second) in &all {
            let same = Levels::of_start(first) == Levels::of_start(second);
            assert_eq!(
                expansion.start(*a) == expansion.start(*b),
                same,
                "{a} and {b}"
            );
        }
    }
}

#[test]
fn documents_leave_implied_levels_out_and_nest_parameters() {
    let expansion = Expansion::new(&with_parameters());
    let written: Vec<Value> = expansion
        .combinations()
        .map(|(_, one)| json!(Levels::of(&one)))
        .collect();
    assert_eq!(
        written[0],
        json!({
            "engine": "one", "model": "m", "batchSize": 1, "inputLength": 128, "outputLength": 128, "gpus": 0,
            "dtype": "f32", "parameters": { "pages": true },
        })
    );
    for (value, (_, combination)) in written.iter().zip(expansion.combinations()) {
        let read: Levels = serde_json::from_value(value.clone()).expect("levels");
        assert_eq!(read, Levels::of(&combination));
    }
    let plain = json!({
        "model": "m", "batchSize": 1, "inputLength": 2, "outputLength": 3, "gpus": 4, "dtype": "bf16", "other": {},
    });
    let read: Levels = serde_json::from_value(plain).expect("levels of before");
    assert_eq!(read.get(&Factor::ENGINE), Some(&Level::from("candle")));
    assert_eq!(json!(read)["engine"], Value::Null);
}

#[test]
fn levels_keep_their_type_in_documents_and_cells() {
    for (level, text) in [
        (Level::from(64), "64"),
        (Level::Number(Number::new(0.5).expect("finite")), "0.5"),
        (Level::Number(Number::new(-0.0).expect("finite")), "0"),
        (Level::from("auto"), "auto"),
        (Level::Boolean(true), "true"),
    ] {
        assert_eq!(level.to_string(), text);
        assert_eq!(Level::parse(text), level);
        let json = serde_json::to_string(&level).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Level>(&json).expect("a level"),
            level
        );
    }
    assert_eq!(Number::new(f64::NAN), None);
    assert!(serde_json::from_str::<Level>("null").is_err());
}

#[test]
fn factors_are_ordered_as_the_table_and_parameters_after_it() {
    let mut factors: Vec<Factor> = ["zeta", "dtype", "alpha", "model"]
        .into_iter()
        .map(Factor::named)
        .collect();
    factors.sort();
    let names: Vec<&str> = factors.iter().map(Factor::name).collect();
    assert_eq!(names, ["model", "dtype", "alpha", "zeta"]);
    assert_eq!(Factor::named("alpha").column(), "param_alpha");
    assert_eq!(Factor::GPUS.title(), "GPUs");
}

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    design::Expansion,
    factor::{Factor, Level},
};

fn design(factors: Value, select: Value) -> Design {
    let mut factors = factors;
    if factors.get("model").is_none() {
        factors["model"] = models(1);
    }
    serde_json::from_value(json!({ "factors": factors, "select": select })).expect("a design")
}

fn models(count: usize) -> Value {
    let model =
        |at| json!({ "name": format!("m{at}"), "source": { "random": { "preset": "tiny-gpt2" } } });
    (0..count).map(model).collect()
}

/// Three factors of two levels.
fn cube(combinations: i32, model: Model) -> Design {
    design(
        json!({ "batchSize": [1, 8], "inputLength": [16, 64], "outputLength": [16, 64], "gpus": [0] }),
        json!({ "combinations": combinations, "model": model }),
    )
}

/// The study's factors: 2,016 combinations, or ten times as many.
fn study(large: bool, method: Method, combinations: i32, model: Model) -> Design {
    let mut factors = json!({
        "model": models(7),
        "batchSize": [1, 2, 4, 8, 16, 32],
        "inputLength": [16, 32, 64, 128, 256, 512],
        "outputLength": [16, 64, 256, 512],
        "gpus": [1, 8],
    });
    if large {
        factors["batchSize"] = json!([1, 2, 4, 8, 16, 32]);
        factors["outputLength"] = json!([16, 32, 64, 128, 256, 512, 1024, 2048]);
        factors["gpus"] = json!([1, 2, 4, 6, 8]);
        factors["dtype"] = json!(["bf16", "q8_0"]);
    }
    let select = json!({ "method": method, "combinations": combinations, "model": model });
    let mut design = design(factors, select);
    design.replicates = 1;
    design
}

fn found(design: &Design) -> Selection {
    choose(design, design.select.unwrap()).unwrap()
}

fn terms(terms: &[Term]) -> Vec<String> {
    terms.iter().map(ToString::to_string).collect()
}

#[test]
fn known_designs_are_found() {
    // Half of 2³ and all of it are orthogonal.
    for (combinations, model) in [
        (4, Model::MainEffects),
        (8, Model::MainEffects),
        (8, Model::TwoFactor),
    ] {
        let selection = found(&cube(combinations, model));
        assert!((selection.efficiency - 1.0).abs() < 1e-9, "{selection:?}");
        assert_eq!(selection.chosen.len(), combinations as usize);
        assert!(selection.aliased.is_empty());
    }
    // In the half, a factor's own effect holds all of what the two others do together.
    let half = found(&cube(4, Model::MainEffects));
    let confounded: Vec<(String, String)> = half
        .confounded
        .iter()
        .map(|found| (found.term.to_string(), found.with.to_string()))
        .collect();
    assert_eq!(
        confounded,
        [
            ("batch size".into(), "input length × output length".into()),
            ("input length".into(), "batch size × output length".into()),
            ("output length".into(), "batch size × input length".into()),
        ]
    );
    assert!(
        half.confounded
            .iter()
            .all(|found| (found.share - 1.0).abs() < 1e-9)
    );
    // Six of eight are too few for two-factor effects, and seven enough: of them |XᵀX| is 8⁶, whichever is missing.
    assert_eq!(
        choose(
            &cube(6, Model::TwoFactor),
            cube(6, Model::TwoFactor).select.unwrap()
        ),
        Err(Unfit::TooFew {
            combinations: 6,
            model: Model::TwoFactor,
            terms: 7
        })
    );
    let seven = found(&cube(7, Model::TwoFactor));
    assert!(
        (seven.efficiency - 8_f64.powf(6.0 / 7.0) / 7.0).abs() < 1e-9,
        "{}",
        seven.efficiency
    );
    // 3 × 3 quadratic: nine points, six terms; the best six-point design is known to have |XᵀX| = 256.
    let nine = design(
        json!({ "batchSize": [1, 4, 16], "inputLength": [16, 64, 256], "outputLength": [16], "gpus": [0] }),
        json!({ "combinations": 6, "model": "Quadratic" }),
    );
    let selection = found(&nine);
    let determinant = (6.0 * selection.efficiency).powi(6);
    assert!(determinant > 255.9, "{determinant}");
}

#[test]
fn what_cannot_be_told_is_named() {
    // gpus 1 goes with m0 alone, and 2 with m1: the model's effect is also that of the GPUs.
    let mut tied = design(
        json!({ "model": models(2), "batchSize": [1, 8], "inputLength": [16], "outputLength": [16], "gpus": [1, 2] }),
        json!({ "combinations": 4 }),
    );
    tied.exclude = serde_json::from_value(json!([
        { "model": ["m0"], "gpus": [2] },
        { "model": ["m1"], "gpus": [1] },
    ]))
    .unwrap();
    let selection = found(&tied);
    assert_eq!((selection.terms, selection.aliased.len()), (3, 1));
    assert_eq!(terms(&selection.aliased[0]), ["model", "GPUs"]);
    assert!(selection.is_aliased(&Term::main(Factor::GPUS)));
    assert!(!selection.is_aliased(&Term::main(Factor::BATCH_SIZE)));

    // A parameter of one engine only: no effect with the engine, and none is missed.
    let nested = design(
        json!({
            "engine": [{ "name": "one", "candle": {} }, { "name": "two", "candle": {} }, { "name": "three", "candle": {} }],
            "parameters": [
                { "name": "slots", "levels": [16, 64, 256], "engines": ["two"], "env": "SLOTS" },
                { "name": "pages", "levels": [true, false], "engines": ["two", "three"], "env": "PAGES" },
            ],
            "batchSize": [1, 8], "inputLength": [16], "outputLength": [16], "gpus": [0],
        }),
        json!({ "combinations": 16, "model": "Quadratic" }),
    );
    let selection = found(&nested);
    assert!(selection.aliased.is_empty(), "{:?}", selection.aliased);
    // Of 2 × (1 + 6 + 2) combinations; mean, engine 2, batch, slots, pages, slots², engine × batch 2, engine × pages,
    // batch × slots, batch × pages, slots × pages.
    assert_eq!((selection.candidates, selection.terms), (18, 13));
}

#[test]
fn the_study_is_selected_from() {
    for (method, model) in [
        (Method::DOptimal, Model::MainEffects),
        (Method::DOptimal, Model::TwoFactor),
        (Method::DOptimal, Model::Quadratic),
        (Method::LatinHypercube, Model::MainEffects),
        (Method::Sobol, Model::MainEffects),
        (Method::Random, Model::MainEffects),
    ] {
        let design = study(false, method, 128, model);
        let started = std::time::Instant::now();
        let selection = found(&design);
        println!(
            "{method} {model}: 128 of {}, {} terms, efficiency {:.3} (all: {:.3}), {:?}",
            selection.candidates,
            selection.terms,
            selection.efficiency,
            selection.efficiency_of_all,
            started.elapsed()
        );
        assert_eq!(selection.candidates, 2_016);
        let distinct: BTreeSet<u32> = selection.chosen.iter().copied().collect();
        assert_eq!(distinct.len(), 128);
        assert!(selection.aliased.is_empty());
        match method {
            Method::DOptimal => assert!(selection.efficiency > selection.efficiency_of_all),
            _ => assert!(selection.efficiency > 0.5 * selection.efficiency_of_all),
        }
    }
}

#[test]
fn a_large_grid_is_selected_from() {
    let design = study(true, Method::DOptimal, 128, Model::TwoFactor);
    let started = std::time::Instant::now();
    let selection = found(&design);
    println!(
        "128 of {}, {} terms, efficiency {:.3} (all: {:.3}), {:?}",
        selection.candidates,
        selection.terms,
        selection.efficiency,
        selection.efficiency_of_all,
        started.elapsed()
    );
    assert_eq!(selection.candidates, 20_160);
    assert!(selection.efficiency > 1.3 * selection.efficiency_of_all);
}

#[test]
fn levels_of_a_latin_hypercube_are_as_frequent() {
    let design = study(false, Method::LatinHypercube, 84, Model::MainEffects);
    let expansion = Expansion::new(&design);
    for (factor, each) in [
        (Factor::MODEL, 12),
        (Factor::INPUT_LENGTH, 14),
        (Factor::OUTPUT_LENGTH, 21),
    ] {
        for level in expansion.levels(&factor) {
            let has = |index: &u32| expansion.level(*index, &factor) == Some(level);
            let count = expansion
                .selection()
                .unwrap()
                .chosen
                .iter()
                .filter(|index| has(index))
                .count();
            // A point whose combination is taken moves to the next.
            assert!(
                count.abs_diff(each) <= 3,
                "{factor} {level}: {count} of {each}"
            );
        }
    }
}

#[test]
fn an_expansion_has_the_selection_alone() {
    let design = Design {
        replicates: 3,
        ..study(false, Method::DOptimal, 32, Model::MainEffects)
    };
    let expansion = Expansion::new(&design);
    let selection = expansion.selection().unwrap();
    assert_eq!((expansion.len(), expansion.combinations_len()), (96, 32));
    assert_eq!(expansion.combinations_before_exclusion(), 2_016);
    assert_eq!(expansion.excluded().count(), 0);
    let measured: Vec<u32> = expansion.combinations().map(|(index, _)| index).collect();
    assert_eq!(measured, selection.chosen);
    // The indices are those of the whole grid, and the order is that of its blocks.
    let whole = Expansion::new(&Design {
        select: None,
        ..design.clone()
    });
    let order: Vec<u32> = whole
        .order()
        .filter(|index| selection.has(index % 2_016))
        .collect();
    assert_eq!(expansion.order().collect::<Vec<_>>(), order);
}

#[test]
fn seeds_make_selections() {
    for method in [
        Method::DOptimal,
        Method::LatinHypercube,
        Method::Sobol,
        Method::Random,
    ] {
        let design = study(false, method, 40, Model::MainEffects);
        assert_eq!(found(&design), found(&design), "{method}");
        let other = Design {
            seed: 43,
            ..design.clone()
        };
        assert_ne!(found(&design).chosen, found(&other).chosen, "{method}");
        let again = Design {
            replicates: 7,
            ..design.clone()
        };
        assert_eq!(found(&design), found(&again), "{method}");
    }
}

/// Every later version must select the combinations that a committed resource selected, or its trials would be others.
#[test]
fn selections_stay_what_they_were() {
    let chosen = |method| found(&study(false, method, 12, Model::MainEffects)).chosen;
    let all: Vec<Vec<u32>> = [Method::LatinHypercube, Method::Sobol, Method::Random]
        .map(chosen)
        .to_vec();
    let optimal = found(&cube(4, Model::MainEffects)).chosen;
    insta::assert_snapshot!(format!("{optimal:?} {all:?}"), @"[0, 3, 5, 6] [[202, 304, 555, 574, 656, 1059, 1157, 1277, 1521, 1558, 1599, 1916], [184, 203, 368, 621, 678, 1126, 1173, 1238, 1357, 1707, 1867, 1888], [167, 270, 417, 433, 441, 496, 694, 1426, 1571, 1581, 1582, 1761]]");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn selections_keep_to_the_design(
        seed in 0_i64..1000,
        method in prop::sample::select(vec![Method::DOptimal, Method::LatinHypercube, Method::Sobol, Method::Random]),
        model in prop::sample::select(vec![Model::MainEffects, Model::TwoFactor, Model::Quadratic]),
        excluded in prop::collection::vec((0_u32..4, 0_usize..3), 0..4),
        spare in 0_usize..20,
    ) {
        let batches = [1, 2, 4, 8];
        let mut design = design(
            json!({
                "model": models(3), "batchSize": batches, "inputLength": [16, 64, 256], "outputLength": [16, 64],
                "gpus": [1],
                "engine": [{ "name": "one", "candle": {} }, { "name": "two", "candle": {} }],
                "parameters": [{ "name": "slots", "levels": [16, 64], "engines": ["two"], "env": "SLOTS" }],
            }),
            json!({ "method": method, "combinations": 1, "model": model }),
        );
        design.seed = seed;
        design.exclude = excluded
            .iter()
            .map(|(batch, of)| serde_json::from_value(json!({ "batchSize": [batches[*batch as usize]], "model": [format!("m{of}")] })).unwrap())
            .collect();
        let Err(Unfit::TooFew { terms, .. }) = choose(&design, design.select.unwrap()) else { panic!("one is enough") };
        let candidates = Expansion::new(&Design { select: None, ..design.clone() }).combinations_len() as usize;
        let count = (terms + spare).min(candidates);
        design.select = Some(Select { combinations: count as i32, ..design.select.unwrap() });
        let selection = choose(&design, design.select.unwrap()).unwrap();
        prop_assert_eq!(selection.chosen.len(), count);
        prop_assert!(selection.chosen.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(selection.efficiency.is_finite() && (0.0..=1.0 + 1e-9).contains(&selection.efficiency));
        let whole = Expansion::new(&Design { select: None, ..design.clone() });
        prop_assert!(selection.chosen.iter().all(|index| !whole.is_excluded(*index)));
        if method == Method::DOptimal {
            // With as many combinations as terms it can still tell everything that all of them can.
            prop_assert!(selection.efficiency > 0.0);
        }
        let more = Select { combinations: candidates as i32 + 1, ..design.select.unwrap() };
        prop_assert_eq!(
            choose(&design, more),
            Err(Unfit::TooMany { combinations: candidates as u32 + 1, candidates: candidates as u32 })
        );
        let entry_leaves_out = |index: u32| design.exclude.iter().any(|entry| {
            entry.iter().all(|(factor, listed): (&Factor, &[Level])| whole.level(index, factor).is_some_and(|level| listed.contains(level)))
        });
        prop_assert!(selection.chosen.iter().all(|index| !entry_leaves_out(*index)));
    }
}

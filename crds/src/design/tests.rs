use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    confirm::Confirm,
    engine::Engine,
    spec::{Dtype, Exclude},
};

/// In place of a level of its load, a combination has the search.
#[test]
fn a_search_stands_in_place_of_a_level() {
    let design = |search: &str| -> Design {
        serde_saphyr::from_str(&format!(
            "
factors:
  engine: [{{name: own, candle: {{}}}}, {{name: vllm, server: {{preset: vllm, image: a}}}}]
  model: [{{name: a, source: {{random: {{preset: gpt2}}}}}}]
  inputLength: [8, 16]
{search}"
        ))
        .expect("a design")
    };
    let plain = Expansion::new(&design(""));
    let searched = Expansion::new(&design(
        "search: {factor: concurrency, from: 1, to: 64, within: 5%}",
    ));
    let order = |expansion: &Expansion| expansion.order().collect::<Vec<_>>();
    assert_eq!(order(&plain), order(&searched));
    for ((_, plain), (_, searched)) in plain.combinations().zip(searched.combinations()) {
        assert!(matches!(plain.load(), Load::Batch(1)));
        let Load::Search(search) = searched.load() else {
            panic!("{:?}", searched.load())
        };
        assert_eq!((search.within(), search.to.get()), (0.05, 64.0));
        // Without a search nothing of it is written, so that keys stay what they were.
        let text = |combination| serde_json::to_string(combination).expect("JSON");
        assert!(!text(&plain).contains("search") && text(&searched).contains("search"));
        assert!(plain.unsupported().is_none(), "candle takes batches");
        assert_eq!(
            searched.unsupported().is_some(),
            searched.engine.name == "own"
        );
        let levels = factor::Levels::of(&searched);
        assert!(levels.of_requests() && levels.get(&Factor::BATCH_SIZE).is_none());
        assert!(!factor::Levels::of(&plain).of_requests());
        let read: factor::Levels =
            serde_json::from_value(serde_json::to_value(&levels).expect("JSON")).expect("levels");
        assert_eq!(read, levels);
    }
    assert!(
        searched
            .widest()
            .all(|combination| combination.search.is_some())
    );
}
use crate::spec::{Factors, ModelSource, RandomSource};

fn model(name: &str) -> Model {
    let random = Some(RandomSource {
        preset: "tiny-gpt2".into(),
    });
    Model {
        name: name.into(),
        source: ModelSource {
            random,
            ..ModelSource::default()
        },
    }
}

/// Factors with one level each, but for these models.
fn factors(models: usize) -> Factors {
    let one = model("m0");
    let mut factors: Factors =
        serde_json::from_value(serde_json::json!({ "model": [one] })).expect("factors");
    factors.model = (0..models)
        .map(|index| model(&format!("m{index}")))
        .collect();
    factors
}

fn design(
    models: usize,
    batch_size: &[i32],
    input_length: &[i32],
    replicates: i32,
    seed: i64,
) -> Design {
    Design {
        factors: Factors {
            batch_size: batch_size.to_vec(),
            input_length: input_length.to_vec(),
            output_length: vec![16, 32],
            gpus: vec![1, 2],
            ..factors(models)
        },
        exclude: vec![],
        select: None,
        search: None,
        replicates,
        until: None,
        confirm: None,
        order: Order::Randomized,
        seed,
    }
}

/// The study's design: 2,016 combinations, ten times.
fn thesis() -> Design {
    Design {
        factors: Factors {
            batch_size: vec![1, 2, 4, 8, 16, 32],
            input_length: vec![16, 32, 64, 128, 256, 512],
            output_length: vec![16, 64, 256, 512],
            gpus: vec![1, 8],
            ..factors(7)
        },
        exclude: vec![],
        select: None,
        search: None,
        replicates: 10,
        until: None,
        confirm: None,
        order: Order::Randomized,
        seed: 42,
    }
}

#[test]
fn what_is_best_is_measured_again_after_all_replicates() {
    let plain = design(1, &[1, 2, 4], &[8, 16], 2, 7);
    let confirming = |rivals| Design {
        confirm: Some(Confirm {
            replicates: 3,
            rivals,
        }),
        ..plain.clone()
    };
    let (all, expansion) = (Expansion::new(&plain), Expansion::new(&confirming(1)));
    assert_eq!(
        (all.replicates(), all.blocks_of_all(), all.most_confirmed()),
        (2, 2, 0)
    );
    assert_eq!((expansion.replicates(), expansion.blocks_of_all()), (5, 2));
    // 6 choices of 4 workloads.
    assert_eq!((all.len(), expansion.len()), (48, 120));
    for index in 0..120 {
        assert_eq!(expansion.confirms(index), index >= 48);
        if index < 48 {
            assert_eq!(all.run_order(index), expansion.run_order(index));
        }
    }
    assert!(!all.confirms(47));
    assert_eq!(
        (all.confirming(), expansion.confirming()),
        (48..48, 48..120)
    );
    // Of each workload, and of their mix, the best and one more; all of them at most.
    assert_eq!(expansion.most_confirmed(), 4 * 4);
    assert_eq!(Expansion::new(&confirming(0)).most_confirmed(), 4 * 2);
    assert_eq!(Expansion::new(&confirming(9)).most_confirmed(), 4 * 6);
    let mut one = confirming(1);
    one.factors.input_length = vec![8];
    one.factors.output_length = vec![16];
    assert_eq!(Expansion::new(&one).most_confirmed(), 2);
}

prop_compose! {
    fn any_design()(
        models in 1_usize..4,
        batch_size in 1..5,
        input_length in 1..5,
        replicates in 1..5,
        seed in 0_i64..1_000_000,
        sequential in any::<bool>(),
        exclude in prop::collection::vec((prop::option::of(1_u32..6), prop::option::of(0..3)), 0..3),
    ) -> Design {
        let levels = |count: i32| (1..=count).collect::<Vec<i32>>();
        let mut design = design(models, &levels(batch_size), &levels(input_length), replicates, seed);
        if sequential {
            design.order = Order::Sequential;
        }
        design.exclude = exclude
            .into_iter()
            .map(|(batch_size, model)| {
                let batch_size: Option<u32> = batch_size;
                let batch_size = batch_size.map(|level| (Factor::BATCH_SIZE, vec![Level::from(level)]));
                let model = model.map(|index: i32| (Factor::MODEL, vec![Level::from(format!("m{index}").as_str())]));
                Exclude::new(batch_size.into_iter().chain(model))
            })
            .collect();
        design
    }
}

fn entry_matches(entry: &Exclude, combination: &Combination) -> bool {
    let listed = |factor, level: Level| {
        entry
            .get(&factor)
            .is_none_or(|listed| listed.contains(&level))
    };
    listed(Factor::BATCH_SIZE, combination.batch_size.into())
        && listed(Factor::MODEL, combination.model.name.as_str().into())
}

proptest! {
    #[test]
    fn every_combination_stands_exactly_once_in_each_block(design in any_design()) {
        let expansion = Expansion::new(&design);
        let expected: BTreeSet<u32> = expansion.combinations().map(|(index, _)| index).collect();
        let mut blocks: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for trial in expansion.trials() {
            let combination = trial.index % expansion.combinations_before_exclusion();
            blocks.entry(trial.replicate).or_default().push(combination);
        }
        for block in blocks.values() {
            prop_assert_eq!(block.len(), expected.len());
            prop_assert_eq!(&block.iter().copied().collect::<BTreeSet<u32>>(), &expected);
        }
        prop_assert_eq!(expansion.trials().count(), expansion.len() as usize);
        prop_assert_eq!(expansion.combinations_len() * expansion.replicates(), expansion.len());
    }

    #[test]
    fn trials_come_in_run_order_and_block_by_block(design in any_design()) {
        let expansion = Expansion::new(&design);
        let mut last_replicate = 0;
        for (position, trial) in expansion.trials().enumerate() {
            prop_assert_eq!(trial.run_order as usize, position);
            prop_assert!(trial.replicate >= last_replicate);
            last_replicate = trial.replicate;
        }
    }

    #[test]
    fn an_index_leads_back_to_its_trial(design in any_design()) {
        let expansion = Expansion::new(&design);
        for trial in expansion.trials() {
            prop_assert_eq!(expansion.trial(trial.index), Some(trial));
        }
        prop_assert_eq!(expansion.trial(expansion.len_before_exclusion()), None);
        prop_assert_eq!(expansion.trial(u32::MAX), None);
    }

    #[test]
    fn exclude_leaves_out_what_it_names_and_nothing_else(design in any_design()) {
        let expansion = Expansion::new(&design);
        for (_, combination) in expansion.combinations() {
            prop_assert!(!design.exclude.iter().any(|entry| entry_matches(entry, &combination)));
        }
        let mut excluded = 0;
        for one in expansion.excluded() {
            prop_assert!(entry_matches(&design.exclude[one.entry], &one.combination));
            prop_assert!(!design.exclude[..one.entry].iter().any(|entry| entry_matches(entry, &one.combination)));
            prop_assert!(expansion.is_excluded(one.index));
            excluded += 1;
        }
        prop_assert_eq!(excluded + expansion.combinations_len(), expansion.combinations_before_exclusion());
    }

    #[test]
    fn an_exclude_does_not_reorder_what_remains(design in any_design()) {
        let everything = Expansion::new(&Design { exclude: vec![], ..design.clone() });
        let thinned = Expansion::new(&design);
        let expected: Vec<u32> = everything.order().filter(|&index| !thinned.is_excluded(index)).collect();
        prop_assert_eq!(thinned.order().collect::<Vec<u32>>(), expected);
    }

    #[test]
    fn the_order_depends_on_the_seed_alone(design in any_design(), other in 1_000_000_i64..2_000_000) {
        let order = |design: &Design| Expansion::new(design).order().collect::<Vec<u32>>();
        prop_assert_eq!(order(&design), order(&design.clone()));
        if design.order == Order::Sequential {
            prop_assert!(order(&design).is_sorted());
        } else if Expansion::new(&design).combinations_len() >= 16 {
            // 16! orders: that two seeds agree by chance would be news.
            prop_assert_ne!(order(&design), order(&Design { seed: other, ..design.clone() }));
        }
    }
}

#[test]
fn blocks_differ_from_each_other() {
    let expansion = Expansion::new(&thesis());
    let relative = |replicate| {
        let first = replicate * expansion.combinations_before_exclusion();
        expansion
            .block(replicate)
            .into_iter()
            .map(|index| index - first)
            .collect::<Vec<u32>>()
    };
    let distinct: BTreeSet<Vec<u32>> = (0..10).map(relative).collect();
    assert_eq!(distinct.len(), 10);
}

/// A seed is a promise: the same order in every version. If this fails, do not change the numbers.
#[test]
fn the_order_of_a_seed_never_changes() {
    let expansion = Expansion::new(&design(1, &[1, 2], &[8], 2, 42));
    let order: Vec<u32> = expansion.order().collect();
    assert_eq!(
        order,
        [4, 2, 5, 1, 7, 0, 6, 3, 8, 13, 14, 10, 15, 12, 11, 9]
    );
    let first: Vec<u32> = Expansion::new(&thesis()).order().take(12).collect();
    assert_eq!(
        first,
        [
            1540, 1114, 359, 1981, 417, 848, 79, 571, 1631, 1637, 1559, 172
        ]
    );
}

#[test]
fn the_last_factor_changes_fastest() {
    let mut design = design(2, &[1, 2], &[8], 1, 1);
    design.factors.dtype = vec![Dtype::F32, Dtype::Bf16];
    let expansion = Expansion::new(&design);
    let row = |index| {
        let Combination {
            model,
            batch_size,
            output_length,
            gpus,
            dtype,
            ..
        } = expansion.trial(index).expect("a trial").combination;
        (model.name, batch_size, output_length, gpus, dtype)
    };
    assert_eq!(row(0), ("m0".into(), 1, 16, 1, Dtype::F32));
    assert_eq!(row(1), ("m0".into(), 1, 16, 1, Dtype::Bf16));
    assert_eq!(row(2), ("m0".into(), 1, 16, 2, Dtype::F32));
    assert_eq!(row(4), ("m0".into(), 1, 32, 1, Dtype::F32));
    assert_eq!(row(8), ("m0".into(), 2, 16, 1, Dtype::F32));
    assert_eq!(row(16), ("m1".into(), 1, 16, 1, Dtype::F32));
}

#[test]
fn dtype_defaults_by_device() {
    let mut design = design(1, &[1], &[8], 1, 1);
    let dtypes = |design: &Design| {
        let expansion = Expansion::new(design);
        let levels = expansion
            .levels(&Factor::DTYPE)
            .iter()
            .map(ToString::to_string);
        levels.collect::<Vec<_>>()
    };
    assert_eq!(dtypes(&design), ["bf16"]);
    design.factors.gpus = vec![0];
    assert_eq!(dtypes(&design), ["f32"]);
    design.factors.dtype = vec![Dtype::F16, Dtype::F32];
    assert_eq!(dtypes(&design), ["f16", "f32"]);
}

#[test]
fn the_study_expands_to_20160_trials_of_four_bytes() {
    let expansion = Expansion::new(&thesis());
    assert_eq!(expansion.len_before_exclusion(), 20_160);
    assert_eq!(expansion.len(), 20_160);
    assert_eq!(
        expansion.run_order.capacity() * size_of::<u32>(),
        4 * 20_160
    );
}

#[test]
fn an_empty_design_has_no_trials() {
    let mut empty = design(1, &[], &[8], 3, 1);
    assert!(Expansion::new(&empty).is_empty());
    assert_eq!(Expansion::new(&empty).trials().count(), 0);
    empty = design(1, &[1], &[8], 0, 1);
    assert!(Expansion::new(&empty).is_empty());
    assert_eq!(Expansion::new(&empty).combinations().count(), 0);
}

#[test]
#[should_panic(expected = "was not validated")]
fn a_design_beyond_the_limit_is_refused() {
    let _ = Expansion::new(&design(
        1,
        &(1..=600).collect::<Vec<i32>>(),
        &[1, 2, 3],
        10,
        1,
    ));
}

/// Implied levels change no index and no document; every other level does.
#[test]
fn a_factor_at_its_implied_level_is_as_if_it_were_not_there() {
    let plain = design(2, &[1, 2], &[8], 1, 42);
    let mut stated = plain.clone();
    stated.factors.pipeline_parallel = vec![1];
    stated.factors.engine = vec![Engine::default()];
    let (plain, stated) = (Expansion::new(&plain), Expansion::new(&stated));
    assert!(plain.order().eq(stated.order()));
    for (a, b) in plain.trials().zip(stated.trials()) {
        let json = |trial: &Trial| serde_json::to_string(trial).expect("JSON");
        assert_eq!(json(&a), json(&b));
        assert!(!json(&a).contains("pipelineParallel") && !json(&a).contains("engine"));
    }
}

#[test]
fn gpus_divide_into_stages_and_replicas_or_are_unsupported() {
    let of = |gpus, pipeline_parallel, data_parallel| Combination {
        gpus,
        pipeline_parallel,
        data_parallel,
        ..Combination::default()
    };
    for (combination, ranks) in [
        (of(0, 1, 1), 1),
        (of(4, 1, 1), 4),
        (of(4, 2, 1), 2),
        (of(4, 2, 2), 1),
        (of(12, 3, 2), 2),
    ] {
        assert_eq!(combination.tensor_parallel(), Some(ranks));
        assert_eq!(combination.unsupported(), None);
    }
    for (combination, why) in [
        (
            of(6, 2, 2),
            "gpus 6 cannot be divided by pipelineParallel 2 × dataParallel 2",
        ),
        (
            of(2, 1, 4),
            "gpus 2 cannot be divided by pipelineParallel 1 × dataParallel 4",
        ),
        (
            of(0, 2, 1),
            "the CPU, one device, cannot be divided by pipelineParallel 2 × dataParallel 1",
        ),
        (
            of(8, 0, 1),
            "gpus 8 cannot be divided by pipelineParallel 0 × dataParallel 1",
        ),
    ] {
        assert_eq!(combination.tensor_parallel(), None);
        assert_eq!(combination.unsupported().as_deref(), Some(why));
    }
}

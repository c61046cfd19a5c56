use inferbench_crds::{
    Duration,
    factor::{Factor, Level, Number},
    workload::Weighted,
};
use proptest::prelude::*;

use super::*;
use crate::{
    best::{
        confirmed::Verdict,
        mix::{Mix, Weights},
    },
    fixtures::{Sweep, servers::Servers},
    sample::{combine, latest_attempts, model},
    summary::{Summary, summarize},
};

/// A sweep of choices over workloads, of a known truth.
fn sweep(replicates: u32, noise: f64, seed: u64) -> Vec<Row> {
    Sweep {
        batches: &[1, 4, 16],
        inputs: &[16, 1024],
        outputs: &[1, 64],
        gpus: &[1, 2],
        replicates,
        noise,
        seed,
        ..Sweep::default()
    }
    .rows(time)
}

fn time(row: &Row) -> f64 {
    let (batch, input, output) = (
        f64::from(row.batch_size),
        f64::from(row.input_len),
        f64::from(row.output_len),
    );
    // Long inputs gain nothing from a batch, and lose by a second GPU.
    let gpus = if row.input_len > 100 { 1.2 } else { 0.7 };
    let prefill = 0.01 * batch * input;
    (prefill * 1.2 + output * (2.0 + 0.05 * batch)) * if row.gpus == 2 { gpus } else { 1.0 }
}

fn under(rows: &[Row], objectives: &Objectives) -> Summary {
    summarize("sweep", rows, objectives)
}

fn plain(rows: &[Row]) -> Summary {
    under(rows, &Objectives::default())
}

fn weighted(input: u32, output: u32, weight: f64) -> Weighted {
    serde_json::from_value(serde_json::json!({
        "inputLength": input, "outputLength": output, "weight": weight,
    }))
    .unwrap()
}

fn mixed(workloads: Vec<Weighted>) -> Objectives {
    Objectives {
        workloads,
        ..Objectives::default()
    }
}

#[test]
fn every_workload_has_a_best_choice_of_its_own() {
    let summary = plain(&sweep(3, 0.001, 1));
    assert_eq!((summary.workloads, summary.best.len()), (4, 8));
    for best in &summary.best {
        let own = summary
            .combinations
            .iter()
            .filter(|of| workload(&of.levels) == workload(&best.levels));
        assert_eq!(own.clone().count(), 6);
        let metric = best.criterion.metric();
        let figure = |of: &Estimates| of[metric].mean;
        let found = own.clone().find(|of| of.levels == best.levels).unwrap();
        for other in own {
            let (a, b) = (figure(&found.metrics), figure(&other.metrics));
            assert!(if best.criterion.is_high() {
                a >= b
            } else {
                a <= b
            });
        }
        let test = best.comparison.unwrap();
        assert_eq!(
            (test.others, test.tested, test.comparisons, test.blocks),
            (5, 5, 15, 3)
        );
        assert_eq!(best.near_ties, 5 - test.worse);
        assert_eq!(best.as_good.len(), best.near_ties as usize);
    }
}

#[test]
fn where_choices_alone_vary_there_is_one_workload_and_no_mix() {
    let rows: Vec<Row> = sweep(3, 0.01, 1)
        .into_iter()
        .filter(|row| row.input_len == 16 && row.output_len == 64)
        .collect();
    let summary = plain(&rows);
    assert_eq!((summary.workloads, summary.best.len()), (1, 2));
    assert!(summary.mixes.is_empty());
    assert!(
        summary
            .best
            .iter()
            .all(|best| best.levels.number(&Factor::BATCH_SIZE).is_some())
    );
}

#[test]
fn the_rate_of_a_mix_is_all_tokens_over_all_time() {
    let objectives = mixed(vec![weighted(16, 64, 3.0), weighted(1024, 1, 0.5)]);
    let summary = under(&sweep(1, 0.0, 1), &objectives);
    let [mix] = summary.mixes.as_slice() else {
        panic!("one model has one mix")
    };
    assert_eq!((mix.weights, mix.choices.len()), (Weights::Given, 6));
    for of in &mix.choices {
        let mut row = Row::default();
        for (factor, level) in of.choice.levels().iter() {
            assert!(row.set_level(factor, level));
        }
        let at = |input, output| {
            time(&Row {
                input_len: input,
                output_len: output,
                ..row.clone()
            })
        };
        // 3.5 requests, sequence by sequence of their batches, in ms.
        let batch = f64::from(row.batch_size);
        let (short, long) = (at(16, 64), at(1024, 1));
        let (tokens, took) = (3.0 * 64.0 + 0.5, (3.0 * short + 0.5 * long) / batch);
        let rate = tokens / took * 1e3;
        assert!(
            (of.output_throughput.mean / rate - 1.0).abs() < 1e-9,
            "{of:?} {rate}"
        );
        assert_eq!(of.output_throughput.low, None);
        // The fixture's TTFT is a tenth of its TTLT; it has no TPOT.
        let ttft = (3.0 * short + 0.5 * long) / 3.5 / 10.0;
        assert!((of.ttft_ms.unwrap().mean / ttft - 1.0).abs() < 1e-9);
        assert_eq!(of.tpot_ms, None);
        let rates = [64.0 / short, 1.0 / long].map(|rate| rate * batch * 1e3);
        assert!((rates[1]..=rates[0]).contains(&of.output_throughput.mean));
    }
    assert!(
        summary
            .notes
            .iter()
            .any(|note| note.contains("could not be tested"))
    );
    let test = mix.best[0].comparison.unwrap();
    assert_eq!((test.tested, mix.best[0].near_ties), (0, 5));
}

#[test]
fn the_figure_of_a_mix_has_an_interval_over_blocks() {
    let rows = sweep(5, 0.02, 4);
    let summary = plain(&rows);
    let mix = &summary.mixes[0];
    assert_eq!((mix.weights, mix.workloads.len()), (Weights::Alike, 4));
    for of in &mix.choices {
        // Block by block, by hand.
        let of_block = |block: u32| {
            let own = rows
                .iter()
                .filter(|row| row.replicate == block && Choice::of(&row.levels()) == of.choice);
            let (mut tokens, mut time) = (0.0, 0.0);
            for row in own {
                tokens += f64::from(row.output_len);
                time += f64::from(row.output_len) / row.output_throughput.unwrap();
            }
            tokens / time
        };
        let blocks: Vec<f64> = (0..5).map(of_block).collect();
        let expected = crate::interval::over_blocks(&blocks).unwrap();
        let found = of.output_throughput;
        for (a, b) in [
            (found.mean, expected.value),
            (found.low.unwrap(), expected.low.unwrap()),
            (found.high.unwrap(), expected.high.unwrap()),
        ] {
            assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
        }
        assert_eq!(found.count, 5);
    }
    let best = &mix.best[0];
    let highest = mix.choices.iter().map(|of| of.output_throughput.mean);
    assert_eq!(
        Some(best.of.output_throughput.mean),
        highest.reduce(f64::max)
    );
}

#[test]
fn a_mix_of_one_workload_is_that_workload() {
    let rows = sweep(4, 0.05, 9);
    let summary = under(&rows, &mixed(vec![weighted(16, 64, 7.0)]));
    for best in &summary.mixes[0].best {
        let alone = summary
            .best
            .iter()
            .find(|of| {
                of.criterion == best.criterion
                    && of.levels.number(&Factor::INPUT_LENGTH) == Some(16.0)
                    && of.levels.number(&Factor::OUTPUT_LENGTH) == Some(64.0)
            })
            .unwrap();
        assert_eq!(Choice::of(&alone.levels), best.of.choice);
        assert_eq!(alone.near_ties, best.near_ties);
        for (a, b) in [
            (alone.output_throughput, best.of.output_throughput),
            (alone.ttft_ms.unwrap(), best.of.ttft_ms.unwrap()),
        ] {
            let parts = |of: Estimate| [of.mean, of.low.unwrap(), of.high.unwrap()];
            for (a, b) in parts(a).into_iter().zip(parts(b)) {
                assert!((a / b - 1.0).abs() < 1e-9);
            }
        }
    }
}

#[test]
fn a_choice_that_lacks_a_workload_is_not_eligible_and_said_to_be_so() {
    let mut rows = sweep(3, 0.001, 1);
    let is_best = |row: &Row| row.batch_size == 16 && row.gpus == 1;
    for row in rows
        .iter_mut()
        .filter(|row| is_best(row) && row.input_len == 1024 && row.output_len == 1)
    {
        row.valid = Some(false);
    }
    let summary = plain(&rows);
    let mix = &summary.mixes[0];
    assert_eq!((mix.choices.len(), mix.lacking.len()), (5, 1));
    let lacking = &mix.lacking[0];
    assert_eq!(lacking.workloads, 1);
    assert_eq!(
        lacking.choice.levels().number(&Factor::BATCH_SIZE),
        Some(16.0)
    );
    assert!(mix.best.iter().all(|best| best.of.choice != lacking.choice));
    assert!(
        summary
            .notes
            .iter()
            .any(|note| note.contains("1 choice without a valid trial"))
    );
    // Of other workloads it is the best still.
    let own = |best: &&Best| Choice::of(&best.levels) == lacking.choice;
    assert!(summary.best.iter().any(|best| own(&best)));

    // A workload that nothing can run is none of all that come, unless the mix names it.
    let mut rows = sweep(3, 0.001, 1);
    for row in rows
        .iter_mut()
        .filter(|row| row.input_len == 1024 && row.output_len == 1)
    {
        row.outcome = Some(inferbench_crds::outcome::Outcome::Unsupported);
    }
    let summary = plain(&rows);
    let mix = &summary.mixes[0];
    assert_eq!(
        (mix.workloads.len(), mix.unmeasured, mix.choices.len()),
        (3, 1, 6)
    );
    let named = under(
        &rows,
        &mixed(vec![weighted(16, 1, 1.0), weighted(1024, 1, 1.0)]),
    );
    let mix = &named.mixes[0];
    assert_eq!(
        (mix.best.len(), mix.choices.len(), mix.lacking.len()),
        (0, 0, 6)
    );
    assert!(
        named
            .notes
            .iter()
            .any(|note| note.contains("no choice has a valid trial of every"))
    );
}

#[test]
fn objectives_hold_in_every_workload_of_a_mix() {
    let rows = sweep(2, 0.0, 1);
    let within = |ms: u64| Objectives {
        max_ttft: Some(Duration::from_millis(ms)),
        ..Objectives::default()
    };
    for ms in [2, 10, 20, 100] {
        let summary = under(&rows, &within(ms));
        let mix = &summary.mixes[0];
        for of in &mix.choices {
            let own = summary.combinations.iter();
            let own = own.filter(|c| Choice::of(&c.levels) == of.choice);
            let slowest = own.map(|c| c.metrics["ttftMs"].mean).fold(0.0, f64::max);
            assert_eq!(of.keeps_objectives, Some(slowest <= ms as f64));
        }
        let keeping = mix
            .choices
            .iter()
            .filter(|of| of.keeps_objectives == Some(true));
        let best = mix
            .best
            .iter()
            .find(|best| best.criterion == Criterion::HighestOutputThroughputWithinObjectives);
        let highest = keeping.map(|of| of.output_throughput.mean).reduce(f64::max);
        assert_eq!(
            best.map(|best| best.of.output_throughput.mean),
            highest,
            "{ms}"
        );
    }
}

#[test]
fn a_rate_that_comes_is_a_workload_and_a_batch_of_one_no_choice() {
    let summary = plain(&Servers::open().rows());
    // 3 input lengths and 4 rates.
    assert_eq!(summary.workloads, 12);
    assert_eq!(summary.mixes[0].workloads.len(), 12);
    for of in &summary.mixes[0].choices {
        assert_eq!(of.choice.levels().get(&Factor::BATCH_SIZE), None);
    }
    let closed = plain(&Servers::default().rows());
    assert_eq!((closed.workloads, closed.mixes[0].choices.len()), (3, 12));
}

#[test]
fn too_many_workloads_leave_the_lightest_out() {
    let lengths: Vec<u32> = (1..=30).collect();
    let rows = Sweep {
        batches: &[1],
        inputs: Box::leak(lengths.clone().into_boxed_slice()),
        outputs: Box::leak(lengths.into_boxed_slice()),
        gpus: &[1],
        replicates: 1,
        ..Sweep::default()
    }
    .rows(time);
    let summary = under(
        &rows,
        &mixed(vec![weighted(30, 30, 2.0), weighted(30, 29, 1.0)]),
    );
    assert_eq!((summary.workloads, summary.workloads_left_out), (900, 388));
    assert_eq!(summary.best.len(), 2 * WORKLOADS);
    let heaviest = |best: &&Best| {
        best.levels.number(&Factor::INPUT_LENGTH) == Some(30.0)
            && best.levels.number(&Factor::OUTPUT_LENGTH) >= Some(29.0)
    };
    assert_eq!(summary.best.iter().filter(heaviest).count(), 4);
}

#[test]
fn documents_keep_the_best_and_the_mix() {
    let objectives = Objectives {
        max_ttft: Some(Duration::from_millis(50)),
        ..mixed(vec![weighted(16, 64, 3.0), weighted(1024, 64, 1.0)])
    };
    for rows in [
        sweep(3, 0.02, 1),
        Servers::default().rows(),
        Servers::open().rows(),
    ] {
        let objectives = if rows[0].of_requests() {
            Objectives::default()
        } else {
            objectives.clone()
        };
        let summary = under(&rows, &objectives);
        let text = serde_json::to_string(&summary).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), summary);
    }
}

/// The sweep with three more blocks, of which those measure something again that `again` says.
fn measured_again(again: impl Fn(&Row) -> bool) -> Vec<Row> {
    let mut rows = sweep(6, 0.01, 3);
    rows.retain(|row| row.replicate < 3 || again(row));
    for row in rows.iter_mut().filter(|row| row.replicate >= 3) {
        row.confirming = Some(true);
    }
    rows
}

#[test]
fn the_best_of_a_mix_is_measured_again_in_all_its_workloads() {
    let before = plain(&measured_again(|_| false));
    assert!(
        before.mixes[0]
            .best
            .iter()
            .all(|best| best.confirmation.is_none())
    );
    let chosen = before.mixes[0].best[0].of.choice.clone();
    let is_chosen = |row: &Row| Choice::of(&row.levels()) == chosen;
    let summary = plain(&measured_again(is_chosen));
    let mix = &summary.mixes[0];
    // Chosen and listed by the first three blocks alone.
    assert_eq!(mix.choices, before.mixes[0].choices);
    let found = mix.best[0].confirmation.as_ref().unwrap();
    assert_eq!(
        (found.verdict, found.replicates, found.others),
        (Verdict::Confirmed, 3, 0)
    );
    let shown = mix.best[0].shown().output_throughput;
    assert_eq!(Some(*shown), found.output_throughput);
    assert_ne!(shown.mean, mix.best[0].of.output_throughput.mean);
    assert!(
        summary
            .notes
            .iter()
            .any(|note| note.contains("those of the fresh ones alone"))
    );
    // A workload less, and it is not known what the choice makes of the mix.
    let summary = plain(&measured_again(|row| is_chosen(row) && row.input_len > 100));
    let found = summary.mixes[0].best[0].confirmation.as_ref().unwrap();
    assert_eq!(
        (found.verdict, found.output_throughput),
        (Verdict::NotYet, None)
    );
    // Of the workloads by themselves some are confirmed.
    let confirmed = summary.best.iter().filter(|best| {
        let again = best.confirmation.as_ref().unwrap();
        again.verdict == Verdict::Confirmed
    });
    assert!(confirmed.count() > 0);
    for rows in [measured_again(is_chosen), measured_again(|_| true)] {
        let summary = plain(&rows);
        let text = serde_json::to_string(&summary).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), summary);
    }
}

/// Requests that a server bears at once with two settings; the first trial of the second found no load that fails.
#[test]
fn where_the_load_was_searched_the_highest_that_holds_is_the_best() {
    let mut rows = Vec::new();
    for replicate in 0..3_u32 {
        for (at, input) in [16, 32].into_iter().enumerate() {
            for (nth, low) in [4.0, 7.0].into_iter().enumerate() {
                let mut request = crate::fixtures::open_loop(2.5);
                request.replicate = replicate;
                request.combination.input_length = input;
                request.combination.gpus = nth as u32 + 1;
                let index = replicate * 4 + 2 * at as u32 + nth as u32;
                let low = low + f64::from(replicate) / 10.0;
                let mut row = Row::of(&crate::fixtures::searched(request, index, low, low * 1.1));
                if (replicate, nth) == (0, 1) {
                    (row.capacity_high, row.capacity_rate) = (None, None);
                }
                rows.push(row);
            }
        }
    }
    let objectives = Objectives {
        max_ttft: Some(Duration::from_millis(1)),
        ..Objectives::default()
    };
    let summary = under(&rows, &objectives);
    assert_eq!(summary.decides(), Criterion::HighestCapacity);
    assert!(summary.mixes.is_empty());
    assert_eq!(summary.best.len(), 2);
    for best in &summary.best {
        assert_eq!(best.criterion, Criterion::HighestCapacity);
        assert_eq!(best.levels.number(&Factor::GPUS), Some(2.0));
        let capacity = best.capacity.unwrap();
        assert_eq!((capacity.unit(), capacity.of.count), ("requests/s", 3));
        let root = 1.1_f64.sqrt();
        let mean = (7.0 + 7.1 * root + 7.2 * root) / 3.0;
        assert!((capacity.of.mean - mean).abs() < 1e-9);
        assert_eq!(best.comparison.unwrap().worse, 1);
    }
    assert!(
        !summary
            .notes
            .iter()
            .any(|note| note.contains("No combination keeps"))
    );
}

#[test]
fn two_models_have_a_mix_each() {
    let mut rows = Vec::new();
    for (name, slower) in [("a", 1.0), ("b", 3.0)] {
        rows.extend(sweep(2, 0.01, 1).into_iter().map(|mut row| {
            row.model = name.into();
            row.output_throughput = row.output_throughput.map(|rate| rate / slower);
            row
        }));
    }
    for (index, row) in (0..).zip(&mut rows) {
        row.trial_index = index;
    }
    let summary = plain(&rows);
    assert_eq!(summary.workloads, 8);
    let of: Vec<&str> = summary.mixes.iter().map(|mix| &*mix.model).collect();
    assert_eq!(of, ["a", "b"]);
    let best = |mix: &Mix| mix.best[0].of.output_throughput.mean;
    let ratio = best(&summary.mixes[0]) / best(&summary.mixes[1]);
    assert!((ratio - 3.0).abs() < 1e-9, "{ratio}");
}

proptest! {
    /// Weights are relative, and the figure of a mix lies between those of its workloads.
    #[test]
    fn a_mix_lies_between_its_workloads(
        weights in prop::collection::vec(0.001_f64..1_000.0, 4),
        scale in 0.01_f64..100.0,
        seed in any::<u64>(),
    ) {
        let rows = sweep(1, 0.3, seed);
        let latest = latest_attempts(&rows);
        let combinations = combine(&latest);
        let metrics: Vec<Estimates> = combinations.iter().map(|_| Estimates::new()).collect();
        let candidates: Vec<Candidate<'_>> = combinations
            .iter()
            .zip(&metrics)
            .map(|(of, metrics)| Candidate { levels: &of.levels, metrics, trials: &of.valid })
            .collect();
        let of = |scale: f64| {
            let workloads = [(16, 1), (16, 64), (1024, 1), (1024, 64)].iter().zip(&weights);
            let workloads = workloads.map(|((input, output), weight)| {
                Weighted {
                    weight: Number::new(weight * scale).unwrap(),
                    ..weighted(*input, *output, 1.0)
                }
            });
            mix::mixes(Field { candidates: &candidates, again: None }, &mixed(workloads.collect())).remove(0)
        };
        let (one, other) = (of(1.0), of(scale));
        for (a, b) in one.choices.iter().zip(&other.choices) {
            let (a, b) = (a.output_throughput.mean, b.output_throughput.mean);
            prop_assert!((a / b - 1.0).abs() < 1e-9);
        }
        for of in &one.choices {
            let own = rows.iter().filter(|row| Choice::of(&row.levels()) == of.choice);
            let rates: Vec<f64> = own.clone().filter_map(|row| row.output_throughput).collect();
            let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
            let most = rates.iter().copied().fold(0.0, f64::max);
            let found = of.output_throughput.mean;
            prop_assert!(least * (1.0 - 1e-9) <= found && found <= most * (1.0 + 1e-9));
        }
        prop_assert_eq!(model(candidates[0].levels), one.model.as_str());
        prop_assert!(one.workloads.iter().all(|of| of.workload.get(&Factor::INPUT_LENGTH) != Some(&Level::from(7))));
    }
}

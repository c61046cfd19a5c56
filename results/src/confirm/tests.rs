use std::collections::BTreeMap;

use inferbench_crds::{Duration, outcome::Outcome, splitmix::SplitMix64};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    best::confirmed::Verdict,
    fixtures::normal,
    sample::latest_of_all,
    summary::{Best, Criterion, Summary, summarize},
};

/// Choices of the one workload.
const CHOICES: u32 = 12;
const REPLICATES: u32 = 3;
const FRESH: u32 = 3;

fn design(replicates: u32, rivals: u32) -> Design {
    let batches: Vec<u32> = (1..=CHOICES).collect();
    let design = json!({
        "factors": {
            "model": [{ "name": "m", "source": { "random": { "preset": "tiny-gpt2" } } }],
            "batchSize": batches,
            "gpus": [0],
        },
        "replicates": replicates,
        "confirm": { "replicates": FRESH, "rivals": rivals },
    });
    serde_json::from_value(design).unwrap()
}

/// The row of a trial of a design with this number of replicates: with a throughput, or with none.
fn row(index: u32, replicates: u32, throughput: Option<f64>) -> Row {
    let block = index / CHOICES;
    Row {
        trial_index: index,
        replicate: block,
        confirming: (block >= replicates).then_some(true),
        model: "m".into(),
        batch_size: 1 + index % CHOICES,
        input_len: 16,
        output_len: 16,
        outcome: Some(match throughput {
            Some(_) => Outcome::Succeeded,
            None => Outcome::OutOfMemory,
        }),
        valid: Some(true),
        output_throughput: throughput,
        mean_ttft_ms: throughput.map(|rate| 1e4 / rate),
        ..Row::default()
    }
}

/// A sweep that is run trial by trial, and as often as one likes begun anew from what is stored.
struct Simulated<'a> {
    design: &'a Design,
    values: &'a dyn Fn(u32) -> Option<f64>,
    rows: BTreeMap<u32, Row>,
    begun: Vec<u32>,
}

impl<'a> Simulated<'a> {
    fn new(design: &'a Design, values: &'a dyn Fn(u32) -> Option<f64>) -> Self {
        Self {
            design,
            values,
            rows: BTreeMap::new(),
            begun: Vec::new(),
        }
    }

    fn chosen(&self) -> BTreeSet<u32> {
        let confirming = Confirming::of(self.design).unwrap();
        confirming.chosen(self.rows.values(), &Objectives::default())
    }

    /// Runs from the first trial, skipping what is there, until `most` are done.
    fn run(&mut self, most: usize) {
        let replicates = self.design.replicates.unsigned_abs();
        let mut left = most;
        for block in 0..self.design.blocks() {
            let chosen = (block >= replicates).then(|| self.chosen());
            for choice in 0..CHOICES {
                let index = block * CHOICES + choice;
                let is_left_out = chosen
                    .as_ref()
                    .is_some_and(|chosen| !chosen.contains(&choice));
                if is_left_out || self.rows.contains_key(&index) {
                    continue;
                }
                if left == 0 {
                    return;
                }
                left -= 1;
                self.begun.push(index);
                self.rows
                    .insert(index, row(index, replicates, (self.values)(index)));
            }
        }
    }

    fn summary(&self) -> Summary {
        let rows: Vec<Row> = self.rows.values().cloned().collect();
        summarize("s", &rows, &Objectives::default())
    }
}

/// The best by a criterion.
fn best_by(summary: &Summary, criterion: Criterion) -> &Best {
    let mut all = summary.best.iter();
    all.find(|best| best.criterion == criterion).unwrap()
}

/// The best by throughput.
fn best(summary: &Summary) -> &Best {
    best_by(summary, Criterion::HighestOutputThroughput)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_interruption_comes_to_the_same_trials(
        values in prop::collection::vec(
            prop_oneof![9 => (90.0..110.0_f64).prop_map(Some), 1 => Just(None)],
            (CHOICES * (REPLICATES + FRESH)) as usize,
        ),
        rivals in 0_u32..5,
        replicates in 1..=REPLICATES,
        cuts in prop::collection::vec(0..60_usize, 0..6),
    ) {
        let design = design(replicates, rivals);
        let values = |index: u32| values[index as usize];
        let mut whole = Simulated::new(&design, &values);
        whole.run(usize::MAX);
        let mut interrupted = Simulated::new(&design, &values);
        for cut in cuts {
            interrupted.run(cut);
        }
        interrupted.run(usize::MAX);
        prop_assert_eq!(&interrupted.begun, &whole.begun);
        prop_assert_eq!(interrupted.summary(), whole.summary());
        // The fresh results choose nothing, nor does the order of the records.
        let confirming = Confirming::of(&design).unwrap();
        let of_all: Vec<&Row> = whole.rows.values().filter(|row| row.confirming.is_none()).rev().collect();
        let chosen = confirming.chosen(of_all, &Objectives::default());
        prop_assert_eq!(&chosen, &whole.chosen());
        // The best is among them, and there are no more than there may be.
        let summary = whole.summary();
        if let Some(of) = summary.best.iter().find(|best| best.criterion == Criterion::HighestOutputThroughput) {
            let batch = of.levels.number(&crate::sample::Factor::BATCH_SIZE).unwrap();
            prop_assert!(chosen.contains(&(batch as u32 - 1)));
        }
        prop_assert!(chosen.len() <= 1 + rivals as usize);
        let again = whole.rows.values().filter(|row| row.confirming.is_some()).count();
        prop_assert_eq!(again, chosen.len() * FRESH as usize);
    }
}

#[test]
fn nothing_that_goes_over_all_combinations_knows_of_what_was_measured_again() {
    let design = design(REPLICATES, 2);
    let values = |index: u32| {
        Some(if index >= CHOICES * REPLICATES {
            1.0
        } else {
            100.0 + f64::from(index % 7)
        })
    };
    let mut sweep = Simulated::new(&design, &values);
    sweep.run((CHOICES * REPLICATES) as usize);
    let before = sweep.summary();
    assert!(before.best.iter().all(|best| best.confirmation.is_none()));
    sweep.run(usize::MAX);
    let after = sweep.summary();
    assert_eq!(after.combinations, before.combinations);
    assert_eq!(after.levels, before.levels);
    assert_eq!((before.counts.trials, after.counts.trials), (36, 45));
    let (was, is) = (best(&before), best(&after));
    assert_eq!(
        (&was.levels, was.output_throughput),
        (&is.levels, is.output_throughput)
    );
    let found = is.confirmation.as_ref().unwrap();
    assert_eq!(
        (found.verdict, found.replicates, found.others),
        (Verdict::Confirmed, FRESH, 2)
    );
    assert_eq!(found.output_throughput.unwrap().mean, 1.0);
    assert_eq!(is.shown().output_throughput.mean, 1.0);
    let rows: Vec<Row> = sweep.rows.values().cloned().collect();
    let [analysis, without] = [&rows[..], &rows[..36]].map(|rows| {
        let mut analysis = crate::analysis::analyze(rows, &before, &Objectives::default());
        analysis.trust.outliers.clear();
        analysis
    });
    assert_eq!(analysis.scopes, without.scopes);
    assert_eq!(latest_of_all(&rows).len(), 45);
}

#[test]
fn the_best_may_be_beaten_or_miss_the_objectives() {
    let design = design(REPLICATES, 2);
    let again = |index: u32| index >= CHOICES * REPLICATES;
    // Choices 5 and 6 are as good as each other, and the second is far better in the fresh replicates.
    let values = |index: u32| {
        let noise = f64::from(index / CHOICES) * 0.1;
        Some(match index % CHOICES {
            5 => 200.4 + noise,
            6 if again(index) => 300.0 + noise,
            6 => 200.0 + 3.0 * noise,
            other => 100.0 + f64::from(other) + noise,
        })
    };
    let mut sweep = Simulated::new(&design, &values);
    sweep.run(usize::MAX);
    let summary = sweep.summary();
    let found = best(&summary);
    assert_eq!(
        found.levels.number(&crate::sample::Factor::BATCH_SIZE),
        Some(6.0)
    );
    let confirmation = found.confirmation.as_ref().unwrap();
    assert_eq!(confirmation.verdict, Verdict::Beaten);
    assert_eq!(confirmation.better.len(), 1);

    // Within 60 ms in the replicates of all, and not in the fresh ones.
    let objectives = Objectives {
        max_ttft: Some(Duration::from_millis(60)),
        ..Objectives::default()
    };
    let values = |index: u32| {
        let noise = f64::from(index / CHOICES) * 0.1;
        Some(match index % CHOICES {
            5 if again(index) => 150.0 + noise,
            5 => 200.4 + noise,
            6 => 200.0 + 3.0 * noise,
            other => 100.0 + f64::from(other) + noise,
        })
    };
    let mut sweep = Simulated::new(&design, &values);
    sweep.run(usize::MAX);
    let rows: Vec<Row> = sweep.rows.values().cloned().collect();
    let summary = summarize("s", &rows, &objectives);
    let within = Criterion::HighestOutputThroughputWithinObjectives;
    let found = best_by(&summary, within);
    assert_eq!(
        found.confirmation.as_ref().unwrap().verdict,
        Verdict::MissesObjectives
    );
    // A best that was not measured again is not confirmed, and keeps the figures that it was chosen by.
    let mut rows = rows;
    rows.retain(|row| row.confirming.is_none() || row.batch_size != 6);
    let summary = summarize("s", &rows, &objectives);
    let found = best_by(&summary, within);
    assert_eq!(
        found.confirmation.as_ref().unwrap().verdict,
        Verdict::NotYet
    );
    assert_eq!(*found.shown().output_throughput, found.output_throughput);
}

/// The choices of a sweep, and how the figures of what it calls the best come out.
#[derive(Default)]
struct Shares {
    /// Of the mean to the truth, less 1, in percent.
    naive: f64,
    again: f64,
    /// Intervals that hold the truth, in percent.
    naive_held: f64,
    again_held: f64,
    /// Sweeps in which the best is confirmed, in percent.
    confirmed: f64,
}

/// Simulated sweeps of choices with these true figures, which vary by 5% from trial to trial.
fn simulate(truth: impl Fn(u32) -> f64, seed: u64) -> Shares {
    const SWEEPS: u32 = 1_000;
    let design = design(REPLICATES, 2);
    let mut random = SplitMix64::new(seed);
    let mut shares = Shares::default();
    for _ in 0..SWEEPS {
        let drawn: Vec<f64> = (0..CHOICES * (REPLICATES + FRESH))
            .map(|index| truth(index % CHOICES) * (1.0 + 0.05 * normal(&mut random)))
            .collect();
        let values = |index: u32| drawn.get(index as usize).copied();
        let mut sweep = Simulated::new(&design, &values);
        sweep.run(usize::MAX);
        let summary = sweep.summary();
        let best = best(&summary);
        let batch = best
            .levels
            .number(&crate::sample::Factor::BATCH_SIZE)
            .unwrap();
        let truth = truth(batch as u32 - 1);
        let confirmation = best.confirmation.as_ref().unwrap();
        let again = confirmation.output_throughput.unwrap();
        let held = |estimate: crate::interval::Estimate| {
            f64::from(estimate.low.unwrap() <= truth && truth <= estimate.high.unwrap())
        };
        shares.naive += best.output_throughput.mean / truth - 1.0;
        shares.again += again.mean / truth - 1.0;
        shares.naive_held += held(best.output_throughput);
        shares.again_held += held(again);
        shares.confirmed += f64::from(u8::from(confirmation.verdict == Verdict::Confirmed));
    }
    for share in [
        &mut shares.naive,
        &mut shares.again,
        &mut shares.naive_held,
        &mut shares.again_held,
        &mut shares.confirmed,
    ] {
        *share *= 100.0 / f64::from(SWEEPS);
    }
    shares
}

/// The best of several is flattered by the trials that chose it, and not by those that measure it again.
#[test]
fn what_was_measured_again_flatters_nobody() {
    println!("12 choices, 3 replicates, 3 fresh ones, 5% from trial to trial");
    println!(
        "truth                    | chosen by: bias, holds | measured again: bias, holds | confirmed"
    );
    let alike = simulate(|_| 1_000.0, 1);
    let steps = simulate(|choice| 1_000.0 * (1.0 - 0.02 * f64::from(choice)), 2);
    for (what, shares) in [("all alike", &alike), ("each 2% below the last", &steps)] {
        println!(
            "{what:24} | {:14.1}% {:6.1}% | {:19.1}% {:6.1}% | {:8.1}%",
            shares.naive, shares.naive_held, shares.again, shares.again_held, shares.confirmed
        );
        // A thousand sweeps tell a mean to 0.1%, and a share to 0.7%.
        assert!(shares.again.abs() < 0.3, "{what}: {}", shares.again);
        assert!(
            (93.0..=97.0).contains(&shares.again_held),
            "{what}: {}",
            shares.again_held
        );
        assert!(shares.confirmed > 95.0, "{what}: {}", shares.confirmed);
    }
    assert!(alike.naive > 3.0, "{}", alike.naive);
    assert!(alike.naive_held < 90.0, "{}", alike.naive_held);
    assert!(steps.naive > 1.0, "{}", steps.naive);
}

use std::sync::LazyLock;

use inferbench_crds::{outcome::Outcome, spec::Objectives};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    fixtures::Sweep,
    sample::{Better, METRICS as ALL},
    summary::{summarize, summarize_looked_at},
};

const COMBINATIONS: u32 = 3;

fn design(until: &serde_json::Value, replicates: i32) -> Design {
    let design = json!({
        "factors": {
            "model": [{ "name": "m", "source": { "random": { "preset": "tiny-gpt2" } } }],
            "batchSize": [1, 2, 4],
            "gpus": [0],
        },
        "replicates": replicates,
        "until": until,
    });
    serde_json::from_value(design).unwrap()
}

/// Made once: finding the confidence of the looks takes longer than all the rest.
fn looks() -> &'static Looks {
    static LOOKS: LazyLock<Looks> = LazyLock::new(|| {
        let until = json!({ "metric": "outputThroughput", "halfWidth": "3%", "min": 3 });
        let design = design(&until, 8);
        assert_eq!(design.combinations_before_exclusion(), COMBINATIONS);
        Looks::of(&design).unwrap()
    });
    &LOOKS
}

/// The row of a trial: of its value, or of one that has none.
fn row(block: u32, combination: u32, value: Option<f64>) -> Row {
    Row {
        trial_index: block * COMBINATIONS + combination,
        replicate: block,
        outcome: Some(match value {
            Some(_) => Outcome::Succeeded,
            None => Outcome::OutOfMemory,
        }),
        valid: Some(true),
        output_throughput: value,
        ..Row::default()
    }
}

/// How one combination's trials are: each a value, or none.
type Truth = Vec<Option<f64>>;

/// A sweep that is run block by block, and as often as one likes begun anew from what is stored.
struct Simulated<'a> {
    looks: &'a Looks,
    truths: &'a [Truth],
    rows: BTreeMap<u32, Row>,
    begun: Vec<u32>,
}

impl Simulated<'_> {
    fn enough(&self) -> BTreeMap<u32, u32> {
        self.looks.enough(self.rows.values(), COMBINATIONS)
    }

    /// Runs from the first block, skipping what is there, until `most` trials are done.
    fn run(&mut self, most: usize, fails: &dyn Fn(u32) -> bool) {
        let mut left = most;
        for block in 0..8 {
            let enough = self.enough();
            for combination in 0..COMBINATIONS {
                let index = block * COMBINATIONS + combination;
                if enough.contains_key(&combination) || self.rows.contains_key(&index) {
                    continue;
                }
                if left == 0 {
                    return;
                }
                left -= 1;
                self.begun.push(index);
                if !fails(index) {
                    let value = self.truths[combination as usize][block as usize];
                    self.rows.insert(index, row(block, combination, value));
                }
            }
        }
    }
}

fn truths() -> impl Strategy<Value = Vec<Truth>> {
    let value = prop_oneof![4 => (95.0..105.0_f64).prop_map(Some), 1 => Just(None)];
    prop::collection::vec(
        prop::collection::vec(value, 8),
        COMBINATIONS as usize..=COMBINATIONS as usize,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_interruption_comes_to_the_same_trials(
        truths in truths(), cuts in prop::collection::vec(0..30_usize, 0..6),
    ) {
        let looks = looks();
        let never = |_: u32| false;
        let fresh = || Simulated { looks, truths: &truths, rows: BTreeMap::new(), begun: Vec::new() };
        let mut whole = fresh();
        whole.run(usize::MAX, &never);
        let mut interrupted = fresh();
        for cut in cuts {
            interrupted.run(cut, &never);
        }
        interrupted.run(usize::MAX, &never);
        prop_assert_eq!(&interrupted.begun, &whole.begun);
        prop_assert_eq!(interrupted.enough(), whole.enough());
        // Nothing was measured after the block that was enough.
        for (combination, block) in whole.enough() {
            let last = whole.rows.keys().filter(|index| *index % COMBINATIONS == combination).max();
            prop_assert_eq!(*last.unwrap(), block * COMBINATIONS + combination);
        }
    }

    #[test]
    fn what_is_decided_stays_whatever_fails_and_is_tried_again(
        truths in truths(), flaky in prop::collection::btree_set(0_u32..24, 0..8),
        cuts in prop::collection::vec(1..30_usize, 1..6),
    ) {
        let looks = looks();
        let mut sweep = Simulated { looks, truths: &truths, rows: BTreeMap::new(), begun: Vec::new() };
        let mut decided: BTreeMap<u32, usize> = BTreeMap::new();
        for (attempt, cut) in cuts.into_iter().chain([usize::MAX]).enumerate() {
            sweep.run(cut, &|index| attempt % 2 == 0 && flaky.contains(&index));
            let enough = sweep.enough();
            for (combination, trials) in &decided {
                prop_assert!(enough.contains_key(combination), "taken back: {combination}");
                let measured = sweep.rows.keys().filter(|index| *index % COMBINATIONS == *combination).count();
                prop_assert_eq!(measured, *trials, "measured after the decision: {}", combination);
            }
            for combination in enough.keys() {
                let measured = sweep.rows.keys().filter(|index| *index % COMBINATIONS == *combination).count();
                decided.insert(*combination, measured);
            }
        }
    }
}

#[test]
fn a_look_sees_valid_values_alone() {
    let looks = looks();
    let enough = |values: &[Option<f64>]| {
        let rows: Vec<Row> = (0..)
            .zip(values)
            .map(|(block, value)| row(block, 1, *value))
            .collect();
        looks.enough(&rows, COMBINATIONS)
    };
    assert_eq!(
        enough(&[Some(100.0), Some(100.1), Some(99.9)]),
        BTreeMap::from([(1, 2)])
    );
    assert_eq!(enough(&[Some(100.0), Some(100.1)]), BTreeMap::new());
    // A block without a value counts for none.
    assert_eq!(
        enough(&[Some(100.0), None, Some(100.1), Some(99.9), Some(50.0)]),
        BTreeMap::from([(1, 3)])
    );
    let mut invalid = row(2, 1, Some(99.9));
    invalid.valid = Some(false);
    let rows = [row(0, 1, Some(100.0)), row(1, 1, Some(100.1)), invalid];
    assert_eq!(looks.enough(&rows, COMBINATIONS), BTreeMap::new());
}

#[test]
fn a_design_without_until_is_not_looked_at() {
    let mut design = design(
        &json!({ "metric": "ttftMs", "halfWidth": "0.5%", "confidence": 99 }),
        5,
    );
    let rule = *Looks::of(&design).unwrap().stopping.rule();
    let expected = Rule {
        min: 3,
        max: 5,
        half_width: 0.005,
        confidence: 0.99,
    };
    assert_eq!(rule, expected);
    design.until = None;
    assert!(Looks::of(&design).is_none());
}

/// A user may ask for the metrics that are above 0 in every trial that has them, and that nothing but its record
/// decides: goodput hangs on objectives, and a share, a memory or a quality may well be 0.
#[test]
fn every_time_rate_and_energy_can_be_asked_for() {
    let asked: Vec<&str> = METRICS.to_vec();
    for name in &asked {
        assert!(Metric::named(name).is_some(), "{name} is no metric");
    }
    for metric in ALL {
        let is_time_or_rate = matches!(metric.unit, "ms" | "tokens/s" | "requests/s" | "W" | "J");
        // A count, and a load that a search brackets, does not vary as means do.
        let counted = ["goodput", "capacityRate"].contains(&metric.name);
        let allowed = is_time_or_rate && !counted;
        assert_eq!(asked.contains(&metric.name), allowed, "{}", metric.name);
        assert!(!allowed || metric.better != Better::Neither || metric.unit == "W");
    }
}

#[test]
fn intervals_of_single_combinations_are_wider_and_a_note_says_so() {
    let sweep = Sweep {
        batches: &[1, 2, 4],
        inputs: &[16],
        outputs: &[16],
        gpus: &[1],
        replicates: 8,
        noise: 0.01,
        ..Sweep::default()
    };
    let looks = looks();
    let mut rows = sweep.rows(|row| f64::from(row.output_len) * 10.0);
    let enough = looks.enough(&rows, COMBINATIONS);
    assert!(!enough.is_empty());
    for row in &mut rows {
        let (block, combination) = (
            row.trial_index / COMBINATIONS,
            row.trial_index % COMBINATIONS,
        );
        if enough.get(&combination).is_some_and(|last| block > *last) {
            *row = Row {
                outcome: Some(Outcome::NotNeeded),
                valid: None,
                mean_ttlt_ms: None,
                mean_ttft_ms: None,
                output_throughput: None,
                output_throughput_per_gpu: None,
                normalized_latency_ms: None,
                trial_key: String::new(),
                ..row.clone()
            };
        }
    }
    let objectives = Objectives::default();
    let plain = summarize("s", &rows, &objectives);
    let found = summarize_looked_at("s", &rows, &objectives, Some(looks));
    let not_needed = found.counts.not_needed;
    assert!(not_needed > 0 && found.counts.pending == 0);
    assert_eq!(plain.counts, found.counts);
    let width = |summary: &crate::summary::Summary, at: usize, metric: &str| {
        let estimate = summary.combinations[at].metrics[metric];
        (estimate.high.unwrap() - estimate.low.unwrap()) / estimate.mean
    };
    for at in 0..COMBINATIONS as usize {
        for metric in ["outputThroughput", "normalizedLatencyMs", "ttftMs"] {
            let (before, after) = (width(&plain, at, metric), width(&found, at, metric));
            assert!(after > before, "{metric}: {before} to {after}");
        }
    }
    let said = |summary: &crate::summary::Summary, what: &str| {
        summary.notes.iter().any(|note| note.contains(what))
    };
    assert!(said(
        &found,
        &format!(
            "{not_needed} of 24 trials were not needed: a combination runs no further once the 95% interval of its output \
             throughput is within ±3%"
        )
    ));
    assert!(said(&plain, "by a rule that is not known here"));
    // Figures over several combinations go over the blocks that all of them have.
    let whole = enough.values().min().unwrap() + 1;
    let analysis = crate::analysis::analyze(&rows, &found, &objectives);
    let effects = analysis.scopes[0].attribution.iter();
    let blocks: Vec<u32> = effects
        .flat_map(|of| &of.effects)
        .map(|effect| effect.evidence.blocks)
        .collect();
    assert!(!blocks.is_empty() && blocks.iter().all(|count| *count == whole));
    for level in &found.levels {
        assert_eq!(level.trials, level.combinations * whole);
        assert_eq!(level.metrics["outputThroughput"].count, whole);
    }
    let stopped = found.stopped.clone().unwrap();
    assert_eq!(Looks::again(&stopped).unwrap().stopped(), stopped);
    let json = serde_json::to_value(&stopped).unwrap();
    assert_eq!(json["metric"], "outputThroughput");
    assert_eq!(json["halfWidth"], 0.03);
}

//! The summary: its golden file, what it is made from, and what changes nothing in it.

use inferbench_crds::Duration;
use proptest::prelude::*;

use super::*;
use crate::fixtures;

/// Two batch sizes × two output lengths × `replicates`.
fn rows(replicates: u32) -> Vec<Row> {
    let mut rows = Vec::new();
    for replicate in 0..replicates {
        for batch_size in [1, 8] {
            for output_length in [1, 4] {
                let mut request = fixtures::request();
                request.replicate = replicate;
                request.combination.batch_size = batch_size;
                request.combination.output_length = output_length;
                rows.push(Row::of(&fixtures::measured(request, rows.len() as u32)));
            }
        }
    }
    rows
}

fn objectives() -> Objectives {
    Objectives {
        max_ttft: Some(Duration::from_millis(1)),
        max_tpot: Some(Duration::from_millis(50)),
        cost_per_gpu_hour: Some("2.50".into()),
        ..Objectives::default()
    }
}

#[test]
fn a_summary() {
    let mut rows = rows(2);
    rows[7].valid = Some(false);
    rows[6].outcome = Some(Outcome::TimedOut);
    rows[6].started_at = None;
    rows[6].process_id = None;
    let summary = summarize(
        "sweep",
        &rows,
        &Objectives {
            max_ttft: Some(Duration::from_millis(2)),
            ..objectives()
        },
    );
    insta::assert_snapshot!(serde_json::to_string_pretty(&summary).unwrap());
}

#[test]
fn invalid_trials_change_nothing_but_their_count() {
    let mut rows = rows(3);
    let clean = summarize("sweep", &rows, &Objectives::default());
    let mut wild = rows[0].clone();
    wild.trial_index = 1000;
    wild.valid = Some(false);
    wild.mean_ttft_ms = Some(1e9);
    rows.push(wild);
    let summary = summarize("sweep", &rows, &Objectives::default());
    assert_eq!(summary.counts.invalid, 1);
    assert_eq!(summary.best, clean.best);
    assert_eq!(
        summary
            .levels
            .iter()
            .map(|l| &l.metrics)
            .collect::<Vec<_>>(),
        clean.levels.iter().map(|l| &l.metrics).collect::<Vec<_>>()
    );
}

#[test]
fn a_combination_without_a_valid_trial_is_doubtful() {
    let mut rows = rows(3);
    assert!(doubtful(&rows).is_empty());
    let first = rows[0].levels();
    for row in rows.iter_mut().filter(|row| row.levels() == first) {
        row.valid = Some(false);
        row.mean_ttft_ms = Some(7.0 + f64::from(row.replicate));
    }
    // Beside valid ones it says nothing.
    rows[1].valid = Some(false);
    let found = doubtful(&rows);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&found[0].levels, found[0].trials, found[0].invalid),
        (&first, 0, 3)
    );
    assert_eq!(found[0].metrics["ttftMs"].mean, 8.0);
    let summary = summarize("sweep", &rows, &Objectives::default());
    assert_eq!((summary.basis.valid, summary.basis.invalid), (8, 4));
    let own = summary.combinations.iter().find(|c| c.levels == first);
    assert!(own.unwrap().metrics.is_empty());
}

#[test]
fn the_latest_attempt_counts() {
    let mut rows = rows(1);
    let mut again = rows[0].clone();
    rows[0].valid = Some(false);
    again.attempt = 1;
    again.mean_ttft_ms = Some(99.0);
    rows.insert(0, again);
    let summary = summarize("sweep", &rows, &Objectives::default());
    assert_eq!(
        (
            summary.counts.trials,
            summary.counts.attempts,
            summary.counts.invalid
        ),
        (4, 5, 0)
    );
    assert_eq!(summary.combinations[0].metrics["ttftMs"].mean, 99.0);
}

#[test]
fn objectives_that_nothing_meets_are_said() {
    let summary = summarize("sweep", &rows(2), &objectives());
    assert!(
        summary
            .notes
            .iter()
            .any(|note| note.contains("No combination keeps")),
        "{:?}",
        summary.notes
    );
}

#[test]
fn a_price_makes_a_cost() {
    let row = Row::of(&fixtures::gpu_record());
    let rate = row.output_throughput.unwrap();
    let summary = summarize("sweep", &[row], &objectives());
    let cost = summary.best[0].cost_per_million_output_tokens.unwrap();
    assert!((cost - 2.5 * 2.0 / 3600.0 / rate * 1e6).abs() < 1e-9);
}

#[test]
fn nothing_measured_is_a_summary_too() {
    let summary = summarize(
        "sweep",
        &[Row::of(&fixtures::out_of_memory())],
        &objectives(),
    );
    assert_eq!((summary.counts.out_of_memory, summary.best.len()), (1, 0));
    assert!(summary.combinations[0].metrics.is_empty());
}

proptest! {
    #[test]
    fn the_order_of_rows_does_not_matter(seed in any::<u64>()) {
        let mut shuffled = rows(3);
        let mut generator = inferbench_crds::splitmix::SplitMix64::new(seed);
        shuffled.sort_by_key(|_| generator.next_u64());
        prop_assert_eq!(
            summarize("sweep", &shuffled, &objectives()),
            summarize("sweep", &rows(3), &objectives())
        );
    }
}

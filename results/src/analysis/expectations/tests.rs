use inferbench_crds::expectation::{Function, METRICS as NAMES};
use proptest::prelude::*;

use super::*;
use crate::{
    fixtures::{Sweep, study::Study},
    sample::METRICS,
};

fn one(rows: &[Row], that: &str) -> Judgement {
    let expectation = Expectation {
        name: "one".into(),
        that: that.into(),
        ..Expectation::default()
    };
    judge(rows, &[expectation]).remove(0)
}

/// A batch that pays with its square root, output that costs, one GPU or two.
fn sweep(replicates: u32, noise: f64) -> Vec<Row> {
    Sweep {
        batches: &[1, 2, 4, 8, 16],
        inputs: &[16],
        outputs: &[16, 32],
        gpus: &[1, 2],
        replicates,
        noise,
        ..Sweep::default()
    }
    .rows(|row| {
        f64::from(row.batch_size).sqrt() * f64::from(row.output_len) / f64::from(row.gpus).powf(0.5)
    })
}

#[test]
fn the_names_of_metrics_are_those_of_the_table() {
    let names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names, NAMES);
}

#[test]
fn every_function_finds_the_truth_it_was_made_by() {
    let rows = sweep(4, 0.01);
    for that in [
        "pearson('outputLength', 'ttltMs') > 0.1 && pearson('gpus', 'ttltMs') < 0",
        "spearman('batchSize', 'ttltMs') > 0.5",
        "effect('batchSize', 'ttltMs') > 1.4 && effect('batchSize', 'ttltMs') < 1.43",
        "effect('outputLength', 'ttltMs') > 1.95",
        "exponent('ttltMs', 'batchSize') > 0.45 && exponent('ttltMs', 'batchSize') < 0.55",
        "curve('ttltMs', 'batchSize') == 'power'",
        "curve('ttltMs', 'batchSize') in ['linear', 'power']",
        "logShare('batchSize', 'ttltMs') > logShare('gpus', 'ttltMs')",
        "share('batchSize', 'ttltMs') > 0.3",
        "mean('ttltMs', {'gpus': 1}) / mean('ttltMs', {'gpus': 2}) > 1.3",
        "mean('ttltMs', {'batchSize': [1, 2]}) < mean('ttltMs', {'batchSize': [8, 16]})",
        "best('ttltMs') < 2 * mean('ttltMs', {'batchSize': 1, 'gpus': 2})",
        "best('outputThroughput') > mean('outputThroughput')",
        "bestLevel('gpus', 'ttltMs') == 2",
        "bestLevel('gpus', 'ttltMs') != 1 && bestLevel('gpus', 'ttltMs') in [2, 4]",
    ] {
        let found = one(&rows, that);
        assert_eq!(found.verdict, Verdict::Shown, "{that}: {found:?}");
        let not = one(&rows, &format!("!({that})"));
        assert_eq!(not.verdict, Verdict::Refuted, "{that}: {not:?}");
    }
    for that in [
        // The truth itself is inside of every interval.
        "effect('batchSize', 'ttltMs') > 1.4142135",
        "mean('ttltMs', {'gpus': 1}) == mean('ttltMs', {'gpus': 1})",
    ] {
        assert_eq!(one(&rows, that).verdict, Verdict::NotShown, "{that}");
    }
}

/// A forest needs more combinations to learn from.
#[test]
fn importances_are_in_the_order_that_they_were_made_in() {
    let rows = Sweep {
        replicates: 3,
        noise: 0.02,
        ..Sweep::default()
    }
    .rows(|row| f64::from(row.batch_size) * f64::from(row.output_len).sqrt());
    for that in [
        "importance('batchSize', 'ttltMs') > importance('outputLength', 'ttltMs')",
        "logImportance('outputLength', 'ttltMs') > logImportance('gpus', 'ttltMs')",
        "importance('batchSize', 'ttltMs') > 1",
    ] {
        assert_eq!(one(&rows, that).verdict, Verdict::Shown, "{that}");
    }
    // Of twenty combinations nothing can be learnt.
    let few = one(
        &sweep(2, 0.01)[..20],
        "importance('batchSize', 'ttltMs') > 1",
    );
    assert_eq!(few.verdict, Verdict::Untestable, "{few:?}");
}

#[test]
fn one_replicate_gives_no_interval() {
    let rows = sweep(1, 0.01);
    for that in [
        "effect('batchSize', 'ttltMs') > 1",
        "mean('ttltMs') > 0",
        "share('batchSize', 'ttltMs') > 0.1",
        "bestLevel('gpus', 'ttltMs') == 2",
    ] {
        let found = one(&rows, that);
        assert_eq!(found.verdict, Verdict::NotShown, "{that}");
        assert_eq!(found.why, ["one replicate gives no interval"], "{that}");
        assert_eq!(found.values[0].low, None);
    }
    // A coefficient has one over its 20 combinations, wide as it is.
    let found = one(&rows, "pearson('batchSize', 'ttltMs') > 0.1");
    assert_eq!(found.values[0].over, Some(Over::Combinations));
    let (r, low) = (found.values[0].value.unwrap(), found.values[0].low.unwrap());
    let z = |r: f64| ((1.0 + r) / (1.0 - r)).ln() / 2.0;
    assert!((z(r) - z(low) - 1.959_964 / 17_f64.sqrt()).abs() < 1e-6);
}

#[test]
fn what_a_sweep_lacks_it_cannot_judge() {
    let rows = sweep(3, 0.01);
    for (that, why) in [
        (
            "effect('inputLength', 'ttltMs') > 1",
            "effect('inputLength', 'ttltMs'): inputLength does not vary",
        ),
        (
            "effect('concurrency', 'ttltMs') > 1",
            "effect('concurrency', 'ttltMs'): concurrency does not vary",
        ),
        (
            "mean('ttltMs', {'model': 'gpt9'}) > 1",
            "mean('ttltMs', {'model': 'gpt9'}): there is no valid trial of such a combination",
        ),
        (
            "mean('perplexity') > 1",
            "mean('perplexity'): perplexity was not measured",
        ),
        (
            "share('gpus', 'perplexity') < 1",
            "share('gpus', 'perplexity'): perplexity was not measured",
        ),
        (
            "curve('ttltMs', 'gpus') == 'power'",
            "curve('ttltMs', 'gpus'): 2 levels are too few to tell families of curves apart (4 are needed)",
        ),
        (
            "best('gpuPowerMeanW') > 1",
            "best('gpuPowerMeanW'): whether a high or a low gpuPowerMeanW is the better one is not said",
        ),
        (
            "1 / (mean('ttltMs') - mean('ttltMs')) > 1",
            "1 / (mean('ttltMs') - mean('ttltMs')): it is no finite number",
        ),
        (
            "effect('slots', 'ttltMs') > 1",
            "at character 8: \"slots\" is no factor",
        ),
    ] {
        let found = one(&rows, that);
        assert_eq!(found.verdict, Verdict::Untestable, "{that}: {found:?}");
        assert!(found.why[0].starts_with(why), "{found:?}");
        assert_eq!(
            one(&rows, &format!("!({that})")).verdict,
            Verdict::Untestable
        );
        // A part that decides without it does.
        let or = one(&rows, &format!("mean('ttltMs') > 0 || {that}"));
        assert_eq!(
            or.verdict != Verdict::Untestable,
            !that.contains("slots"),
            "{or:?}"
        );
    }
    let nothing = one(&[], "mean('ttltMs') > 1");
    assert_eq!(nothing.why, ["mean('ttltMs'): there is no valid trial"]);
}

/// Of a best level that is the best by chance alone, others stay candidates.
#[test]
fn levels_that_may_be_as_good_are_not_told_apart() {
    let rows = Sweep {
        batches: &[1, 2],
        inputs: &[16],
        outputs: &[16],
        gpus: &[1, 2, 4],
        replicates: 4,
        noise: 0.05,
        ..Sweep::default()
    }
    .rows(|row| if row.gpus == 1 { 9.0 } else { 5.0 });
    let found = one(&rows, "bestLevel('gpus', 'ttltMs') == 2");
    assert_eq!(found.verdict, Verdict::NotShown, "{found:?}");
    assert_eq!(found.values[0].candidates.len(), 2, "{found:?}");
    assert_eq!(
        one(&rows, "bestLevel('gpus', 'ttltMs') in [2, 4]").verdict,
        Verdict::Shown
    );
    assert_eq!(
        one(&rows, "bestLevel('gpus', 'ttltMs') == 1").verdict,
        Verdict::Refuted
    );
}

/// How often, of 300 seeded sweeps, what is not so is shown: rarely, as intervals are of 95%.
#[test]
fn what_is_not_so_is_rarely_shown() {
    let mut shown = [0_u32; 3];
    for seed in 0..300 {
        let rows = Sweep {
            batches: &[1, 2, 4],
            inputs: &[16],
            outputs: &[16],
            gpus: &[1, 2],
            replicates: 3,
            noise: 0.1,
            seed,
            ..Sweep::default()
        }
        .rows(|_| 7.0);
        for (count, that) in shown.iter_mut().zip([
            "effect('batchSize', 'ttltMs') > 1 || effect('batchSize', 'ttltMs') < 1",
            "bestLevel('gpus', 'ttltMs') == 1",
            "best('ttltMs') < 7",
        ]) {
            *count += u32::from(one(&rows, that).verdict == Verdict::Shown);
        }
    }
    // 5%, 2.5% and less: with room for chance.
    assert!(
        shown[0] <= 26 && shown[1] <= 16 && shown[2] <= 14,
        "{shown:?}"
    );
}

#[test]
fn a_study_is_judged() {
    let rows = Study {
        batch_sizes: vec![1, 2, 4, 8, 16],
        input_lengths: vec![16, 256],
        output_lengths: vec![16, 256],
        ..Study::default()
    }
    .rows();
    let expectation = |name: &str, that: &str, reference: &str| Expectation {
        name: name.into(),
        that: that.into(),
        reference: reference.into(),
    };
    let judged = judge(
        &rows,
        &[
            expectation(
                "batching pays",
                "pearson('batchSize', 'outputThroughput') > 0.4",
                "0.7",
            ),
            expectation(
                "batch first",
                "importance('batchSize', 'outputThroughput', {'model': 'small-1b'}) > \
                 importance('gpus', 'outputThroughput', {'model': 'small-1b'})",
                "",
            ),
            expectation(
                "small is 10 times faster",
                "mean('outputThroughput', {'model': 'small-1b'}) / mean('outputThroughput', {'model': 'large-8b'}) > 10",
                "3 times",
            ),
            expectation(
                "small on one GPU",
                "bestLevel('gpus', 'outputThroughput', {'model': 'small-1b'}) == 1",
                "",
            ),
            expectation(
                "quality stays",
                "share('batchSize', 'perplexity') < 0.05",
                "",
            ),
            expectation(
                "longer prompts cost",
                "effect('inputLength', 'ttltMs') > 1.02 || effect('inputLength', 'ttftMs') < 1",
                "",
            ),
        ],
    );
    let lines = judged.iter().map(|one| {
        format!(
            "{}: {}\n  {}\n  {}\n",
            one.name,
            one.verdict.words(),
            one.that,
            one.lines().join("\n  ")
        )
    });
    insta::assert_snapshot!(lines.collect::<String>());
}

#[test]
fn functions_say_how_they_are_called() {
    for function in Function::ALL {
        assert!(
            function
                .usage()
                .starts_with(&format!("{}(", function.name()))
        );
    }
}

/// A statement over three numbers with ranges, and its negation.
#[derive(Clone, Debug)]
enum Made {
    Compare(usize, Comparison, usize),
    Not(Box<Made>),
    And(Box<Made>, Box<Made>),
    Or(Box<Made>, Box<Made>),
}

impl Made {
    fn truth(&self, ranges: &[Range]) -> Truth {
        match self {
            Self::Compare(a, how, b) => compare(made(ranges, *a), *how, made(ranges, *b)),
            Self::Not(of) => of.truth(ranges).not(),
            Self::And(a, b) => a.truth(ranges).and(b.truth(ranges)),
            Self::Or(a, b) => a.truth(ranges).or(b.truth(ranges)),
        }
    }
}

/// A number, or what arithmetic makes of two.
fn made(ranges: &[Range], at: usize) -> Range {
    let (a, b) = (ranges[at % 3], ranges[(at + 1) % 3]);
    match at / 3 {
        0 => a,
        1 => a.plus(b),
        2 => a.times(b),
        3 => a.over(b),
        _ => a.plus(b.negated()),
    }
}

fn statement() -> impl Strategy<Value = Made> {
    let how = prop::sample::select(vec![
        Comparison::Less,
        Comparison::AtMost,
        Comparison::Greater,
        Comparison::AtLeast,
        Comparison::Equal,
    ]);
    let leaf = (0..15_usize, how, 0..15_usize).prop_map(|(a, how, b)| Made::Compare(a, how, b));
    leaf.prop_recursive(4, 16, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|of| Made::Not(Box::new(of))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Made::And(Box::new(a), Box::new(b))),
            (inner.clone(), inner).prop_map(|(a, b)| Made::Or(Box::new(a), Box::new(b))),
        ]
    })
}

fn ranges() -> impl Strategy<Value = Vec<Range>> {
    let end = -8_i32..=8;
    prop::collection::vec((end.clone(), end), 3).prop_map(|ends| {
        ends.into_iter()
            .map(|(a, b)| Range {
                low: f64::from(a.min(b)),
                high: f64::from(a.max(b)),
            })
            .collect()
    })
}

proptest! {
    /// A wider interval shows and refutes nothing more, and a value inside of one decides as the interval does.
    #[test]
    fn what_is_decided_is_decided_for_all_that_is_inside(
        statement in statement(), ranges in ranges(), wider in prop::collection::vec(0..4_i32, 6), shares in
        prop::collection::vec(0..=4_i32, 3), unknown in 0..4_usize,
    ) {
        let found = statement.truth(&ranges);
        let mut wide: Vec<Range> = ranges
            .iter()
            .enumerate()
            .map(|(at, range)| Range {
                low: range.low - f64::from(wider[2 * at]),
                high: range.high + f64::from(wider[2 * at + 1]),
            })
            .collect();
        if let Some(range) = wide.get_mut(unknown) {
            *range = Range::ALL;
        }
        let of_wide = statement.truth(&wide);
        prop_assert!(of_wide == Truth::Unknown || of_wide == found, "{of_wide:?} of {found:?}");
        // Quarters of small whole numbers: rounding plays no part but in quotients.
        let points: Vec<Range> = ranges
            .iter()
            .zip(&shares)
            .map(|(range, share)| Range::point(range.low + (range.high - range.low) * f64::from(*share) / 4.0))
            .collect();
        let of_point = statement.truth(&points);
        if !has_quotient(&statement) {
            prop_assert!(found == Truth::Unknown || of_point == found, "{found:?} of {of_point:?}");
            prop_assert!(of_point != Truth::Unknown);
        }
    }

    #[test]
    fn a_negation_swaps_shown_and_refuted(statement in statement(), ranges in ranges()) {
        let not = Made::Not(Box::new(statement.clone())).truth(&ranges);
        prop_assert_eq!(not, match statement.truth(&ranges) {
            Truth::True => Truth::False,
            Truth::False => Truth::True,
            other => other,
        });
    }

    #[test]
    fn quotients_hold_what_is_inside(
        ranges in ranges(), shares in prop::collection::vec(0.0..=1.0_f64, 2),
    ) {
        let inside = |at: usize| ranges[at].low + (ranges[at].high - ranges[at].low) * shares[at];
        let quotient = inside(0) / inside(1);
        let range = ranges[0].over(ranges[1]);
        let slack = 1e-12 * quotient.abs();
        if quotient.is_finite() {
            prop_assert!(range.low <= quotient + slack && quotient - slack <= range.high);
        }
    }

    /// More noise, the same means: what a quiet sweep does not show, a noisier one does not either.
    #[test]
    fn what_is_told_by_intervals_alone_is_monotone(low in 0.0..3.0_f64, width in 0.0..1.0_f64, more in 0.0..1.0_f64) {
        let narrow = Range { low, high: low + width };
        let wide = Range { low: low - more, high: low + width + more };
        for how in [Comparison::Less, Comparison::AtMost, Comparison::Greater, Comparison::AtLeast] {
            let (a, b) = (compare(narrow, how, Range::point(1.5)), compare(wide, how, Range::point(1.5)));
            prop_assert!(b == a || b == Truth::Unknown);
        }
    }
}

fn has_quotient(made: &Made) -> bool {
    match made {
        Made::Compare(a, _, b) => a / 3 == 3 || b / 3 == 3,
        Made::Not(of) => has_quotient(of),
        Made::And(a, b) | Made::Or(a, b) => has_quotient(a) || has_quotient(b),
    }
}

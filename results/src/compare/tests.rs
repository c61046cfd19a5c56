//! Whether comparisons hold what they promise, over made-up sweeps whose truth is known.

use std::{f64::consts::TAU, sync::LazyLock};

use inferbench_crds::outcome::Outcome;

use super::*;
use crate::looks::Looks;

/// A standard normal number (Box and Muller).
pub(super) fn normal(random: &mut SplitMix64) -> f64 {
    let mut uniform = || ((random.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    (-2.0 * uniform().ln()).sqrt() * (TAU * uniform()).cos()
}

/// How a made-up sweep varies.
#[derive(Clone, Copy)]
struct Sweep {
    combinations: u32,
    blocks: u32,
    /// Standard deviation, on the log scale, of what a block's combinations share.
    block_sd: f64,
    /// Of what each trial has by itself.
    trial_sd: f64,
    /// All times, times this.
    factor: f64,
    /// Whether combinations run no further once they are narrow enough.
    stops: bool,
}

const SWEEP: Sweep = Sweep {
    combinations: 4,
    blocks: 5,
    block_sd: 0.02,
    trial_sd: 0.01,
    factor: 1.0,
    stops: false,
};

/// Narrow enough at ±3%, from two of at most eight blocks on.
static LOOKS: LazyLock<Looks> = LazyLock::new(|| {
    let design = serde_json::json!({
        "factors": { "model": [{ "name": "tiny", "source": { "random": { "preset": "tiny-gpt2" } } }] },
        "replicates": 8,
        "until": { "metric": "ttltMs", "halfWidth": "3%", "min": 2 },
    });
    Looks::of(&serde_json::from_value(design).unwrap()).unwrap()
});

fn row(combination: u32, block: u32, index: u32, ttlt: f64) -> Row {
    let batch = 1 << combination;
    let rate = f64::from(batch) * 8.0 * 1000.0 / ttlt;
    Row {
        sweep: "made-up".into(),
        trial_index: index,
        replicate: block,
        process_id: Some(format!("process-{index}")),
        outcome: Some(Outcome::Succeeded),
        valid: Some(true),
        model: "tiny".into(),
        model_revision: "tiny@42".into(),
        dtype: "f32".into(),
        batch_size: batch,
        input_len: 16,
        output_len: 8,
        iterations: Some(5),
        mean_ttlt_ms: Some(ttlt),
        output_throughput: Some(rate),
        device: Some("cpu".into()),
        driver: None,
        ..Row::default()
    }
}

impl Sweep {
    fn rows(self, random: &mut SplitMix64) -> Vec<Row> {
        let mut rows = Vec::new();
        for block in 0..self.blocks {
            let shared = self.block_sd * normal(random);
            for combination in 0..self.combinations {
                let log = shared + self.trial_sd * normal(random);
                let ttlt = self.factor * 100.0 * f64::from(combination + 1) * log.exp();
                rows.push(row(combination, block, rows.len() as u32, ttlt));
            }
        }
        if self.stops {
            let enough = LOOKS.enough(&rows, self.combinations);
            for (at, row) in rows.iter_mut().enumerate() {
                let last = enough.get(&(at as u32 % self.combinations));
                if last.is_some_and(|last| row.replicate > *last) {
                    *row = Row {
                        outcome: Some(Outcome::NotNeeded),
                        valid: None,
                        mean_ttlt_ms: None,
                        output_throughput: None,
                        ..row.clone()
                    };
                }
            }
        }
        rows
    }
}

fn ttlt(comparison: &Comparison) -> &MetricComparison {
    comparison
        .metrics
        .iter()
        .find(|metric| metric.metric == "ttltMs")
        .unwrap()
}

fn limits(limits: &[&str]) -> Options {
    Options {
        names: None,
        limits: limits.iter().map(|limit| limit.parse().unwrap()).collect(),
    }
}

/// Compares `runs` pairs of sweeps of the same distribution, B's times being those of A times `factor`; shares of
/// intervals that hold `factor`, of overall intervals that exclude 1, of failed gates, of comparisons with any verdict
/// on a combination.
fn shares(a: Sweep, b: Sweep, runs: u64, limit: &str) -> [f64; 4] {
    let options = limits(&[limit]);
    let mut counts = [0u32; 4];
    for run in 0..runs {
        let mut random = SplitMix64::stream(7, run);
        let (rows_a, rows_b) = (a.rows(&mut random), b.rows(&mut random));
        let comparison = compare(&rows_a, &rows_b, &options);
        let metric = ttlt(&comparison);
        let (low, high) = (metric.low.unwrap(), metric.high.unwrap());
        let truth = b.factor / a.factor;
        let is = [
            low <= truth && truth <= high,
            metric.verdict != Verdict::NotShown,
            comparison.failed(),
            metric
                .combinations
                .iter()
                .any(|c| c.verdict != Verdict::NotShown),
        ];
        for (count, is) in counts.iter_mut().zip(is) {
            *count += u32::from(is);
        }
    }
    counts.map(|count| f64::from(count) / runs as f64)
}

#[test]
fn two_sweeps_of_one_kind_are_hardly_ever_told_apart() {
    for blocks in [2, 3, 5, 10] {
        for block_sd in [0.0, 0.02] {
            let sweep = Sweep {
                blocks,
                block_sd,
                ..SWEEP
            };
            let [covered, excluded, failed, any] = shares(sweep, sweep, 1_000, "slower=0%");
            let said =
                format!("{blocks} blocks, sd {block_sd}: {covered} {excluded} {failed} {any}");
            assert!(excluded <= 0.06 && failed <= 0.05 && any <= 0.05, "{said}");
        }
    }
}

/// Nor are those whose combinations were stopped where they happened to vary little; and the truth is covered.
#[test]
fn sweeps_that_stopped_early_are_compared_by_what_all_combinations_have() {
    for trial_sd in [0.005, 0.02, 0.05] {
        let sweep = Sweep {
            blocks: 8,
            trial_sd,
            stops: true,
            ..SWEEP
        };
        let [covered, excluded, failed, any] = shares(sweep, sweep, 1_000, "slower=0%");
        let said = format!("sd {trial_sd}: {covered} {excluded} {failed} {any}");
        println!("{said}");
        assert!(
            excluded <= 0.06 && failed <= 0.06 && any <= 0.06 && covered >= 0.93,
            "{said}"
        );
    }
    let mut random = SplitMix64::new(3);
    let sweep = Sweep {
        blocks: 8,
        stops: true,
        ..SWEEP
    };
    let [a, b] = [sweep, SWEEP].map(|sweep| sweep.rows(&mut random));
    let comparison = compare(&a, &b, &Options::default());
    let blocks = a
        .iter()
        .filter(|row| row.outcome == Some(Outcome::NotNeeded));
    let blocks = blocks.map(|row| row.replicate).min().unwrap();
    assert_eq!((comparison.a.blocks, comparison.b.blocks), (blocks, 5));
    let said = comparison
        .notes
        .iter()
        .find(|note| note.contains("ran no further"));
    assert!(
        said.is_some_and(|note| note.starts_with("A's combinations")),
        "{said:?}"
    );
}

/// With two blocks each Welch's interval is too wide rather than too narrow: 97.5%.
#[test]
fn intervals_cover_the_truth() {
    for (blocks_a, blocks_b, block_sd) in [
        (2, 2, 0.02),
        (2, 2, 0.0),
        (3, 3, 0.02),
        (5, 5, 0.02),
        (5, 8, 0.02),
        (10, 10, 0.02),
        (12, 15, 0.02),
    ] {
        let a = Sweep {
            blocks: blocks_a,
            block_sd,
            ..SWEEP
        };
        // B varies more, as another machine may.
        let b = Sweep {
            blocks: blocks_b,
            factor: 1.08,
            block_sd: 1.5 * block_sd,
            ..SWEEP
        };
        let [covered, ..] = shares(a, b, 1_000, "slower=5%");
        let most = if blocks_a == 2 { 0.985 } else { 0.97 };
        assert!(
            (0.93..=most).contains(&covered),
            "{blocks_a} and {blocks_b} blocks: {covered}"
        );
    }
}

#[test]
fn few_blocks_against_many_cover_at_least_as_much() {
    for (blocks_a, blocks_b) in [(2, 10), (2, 3), (3, 10), (4, 5)] {
        let a = Sweep {
            blocks: blocks_a,
            ..SWEEP
        };
        let b = Sweep {
            blocks: blocks_b,
            ..SWEEP
        };
        let [covered, ..] = shares(a, b, 1_000, "slower=5%");
        assert!(
            covered >= 0.93,
            "{blocks_a} and {blocks_b} blocks: {covered}"
        );
    }
}

#[test]
fn without_replicates_combinations_make_the_interval() {
    for (combinations, method) in [(5, RatioMethod::PairedT), (20, RatioMethod::BootstrapT)] {
        let sweep = Sweep {
            combinations,
            blocks: 1,
            block_sd: 0.0,
            ..SWEEP
        };
        let [covered, ..] = shares(sweep, sweep, 1_000, "slower=5%");
        assert!((0.93..=0.97).contains(&covered), "{covered}");
        let mut random = SplitMix64::new(1);
        let comparison = compare(
            &sweep.rows(&mut random),
            &sweep.rows(&mut random),
            &Options::default(),
        );
        let metric = ttlt(&comparison);
        assert_eq!(
            (metric.over, metric.method, metric.tested),
            (Over::Combinations, Some(method), 0)
        );
        assert!(comparison.notes[0].contains("without replicates"));
        assert!(metric.combinations.iter().all(|c| c.detectable.is_none()));
    }
}

#[test]
fn gates_fail_only_on_what_is_shown() {
    let mut random = SplitMix64::new(3);
    let a = SWEEP.rows(&mut random);
    let mut slower = |factor| Sweep { factor, ..SWEEP }.rows(&mut random);
    let options = limits(&["slower=5%", "outputThroughput=5%"]);
    for (factor, expected) in [
        (1.2, GateDecision::Failed),
        (1.05, GateDecision::NotShown),
        (0.9, GateDecision::Kept),
    ] {
        let comparison = compare(&a, &slower(factor), &options);
        let decisions: Vec<GateDecision> =
            comparison.gates.iter().map(|gate| gate.decision).collect();
        assert_eq!(decisions, [expected; 2], "{:?}", comparison.gates);
        assert_eq!(comparison.failed(), expected == GateDecision::Failed);
        let [time, rate] = [&comparison.gates[0], &comparison.gates[1]];
        assert!((time.worse.unwrap() / rate.worse.unwrap() - 1.0).abs() < 1e-12);
    }
    // One trial of one combination: nothing says how sure the ratio is.
    let comparison = compare(&a[..1], &slower(2.0)[..1], &options);
    assert_eq!(comparison.gates[0].decision, GateDecision::NotShown);
    assert!(
        comparison.gates[0]
            .message
            .contains("nothing says how sure that is"),
        "{}",
        comparison.gates[0].message
    );
}

#[test]
fn only_valid_latest_attempts_at_common_combinations_enter() {
    let mut random = SplitMix64::new(9);
    let mut a = SWEEP.rows(&mut random);
    let mut b = SWEEP.rows(&mut random);
    // Combination 3 has no valid trial in B; combination 0 is not in A; an earlier attempt is ten times as slow.
    a.retain(|row| row.batch_size != 1);
    for row in &mut b {
        row.valid = Some(row.batch_size != 8);
    }
    let expected = compare(&a, &b, &Options::default());
    let mut retried = b[1].clone();
    retried.mean_ttlt_ms = Some(1e6);
    b[1].attempt = 1;
    b.insert(0, retried);
    let comparison = compare(&a, &b, &Options::default());
    assert_eq!(comparison, expected);
    assert_eq!(
        (
            comparison.matched,
            comparison.only_in_a[0].number(&Factor::BATCH_SIZE),
            comparison.only_in_b[0].number(&Factor::BATCH_SIZE),
            comparison.b.invalid
        ),
        (2, Some(8.0), Some(1.0), 5)
    );
}

#[test]
fn a_missing_trial_does_not_shift_the_ratio() {
    // Without noise but that of blocks; block 1 of B lacks the slowest combination.
    let sweep = Sweep {
        trial_sd: 0.0,
        ..SWEEP
    };
    let mut random = SplitMix64::new(4);
    let a = sweep.rows(&mut random);
    let mut b = a.clone();
    b.remove(7);
    let comparison = compare(&a, &b, &Options::default());
    let ratio = ttlt(&comparison).ratio;
    assert!((ratio - 1.0).abs() < 0.02, "{ratio}");
}

#[test]
fn differences_are_listed_up_front() {
    let mut random = SplitMix64::new(2);
    let a = SWEEP.rows(&mut random);
    let mut b = a.clone();
    for row in &mut b {
        row.driver = Some("580.95.05".into());
        row.model_revision = "tiny@43".into();
        row.iterations = Some(9);
        row.process_id = Some("one".into());
    }
    let comparison = compare(&a, &b, &Options::default());
    let what: Vec<&str> = comparison
        .differences
        .iter()
        .map(|difference| difference.what.as_str())
        .collect();
    assert_eq!(
        what,
        ["driver", "revision of tiny", "timed iterations of a trial"]
    );
    assert!(comparison.differences[0].a.is_empty());
    assert!(
        comparison
            .notes
            .iter()
            .any(|note| note.contains("B's replicates shared processes"))
    );
}

/// Numbers that no logarithm or exponential can hold, names that are markup, sweeps that are nothing.
#[test]
fn hostile_sweeps_give_words_and_no_nan() {
    let mut random = SplitMix64::new(6);
    let plain = SWEEP.rows(&mut random);
    let with = |change: fn(&mut Row)| {
        let mut rows = plain.clone();
        rows.iter_mut().for_each(change);
        rows
    };
    let named = with(|row| row.model = "<script>|\u{1b}[31m, ü\n".into());
    let hostile = [
        Vec::new(),
        plain[..1].to_vec(),
        with(|row| row.mean_ttlt_ms = Some(7.0)),
        with(|row| row.mean_ttlt_ms = Some(0.0)),
        with(|row| row.mean_ttlt_ms = Some(f64::NAN)),
        with(|row| row.mean_ttlt_ms = Some(1e300)),
        with(|row| row.mean_ttlt_ms = Some(if row.replicate == 0 { 1e300 } else { 1e-300 })),
        with(|row| row.outcome = Some(Outcome::Failed)),
        with(|row| row.valid = None),
        named.clone(),
    ];
    let options = limits(&["slower=5%", "ttftMs=1%"]);
    for a in &hostile {
        for b in hostile.iter().chain([&plain]) {
            let comparison = compare(a, b, &options);
            let document = serde_json::to_value(&comparison).unwrap();
            assert!(!document.to_string().contains("null"));
            let back: Comparison = serde_json::from_value(document).unwrap();
            assert_eq!(back.matched, comparison.matched);
            let text = text::plain(&comparison) + &text::markdown(&comparison);
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }
    let comparison = compare(&named, &named[..4], &options);
    let plain_text = text::plain(&comparison);
    assert!(!plain_text.contains('\u{1b}') && !plain_text.contains("31m, ü\n"));
    assert!(!text::markdown(&comparison).contains("<script>"));
}

#[test]
fn two_engines_are_compared_over_what_both_ran() {
    let mut random = SplitMix64::new(12);
    let a = SWEEP.rows(&mut random);
    let mut b = SWEEP.rows(&mut random);
    b.iter_mut()
        .for_each(|row| row.engine = Some("vllm".into()));
    let comparison = compare(&a, &b, &Options::default());
    assert_eq!(comparison.matched, 4);
    assert!(
        comparison
            .notes
            .iter()
            .any(|note| note.contains("the engine candle, B with vllm")),
        "{:?}",
        comparison.notes
    );
    // Where one of them has both, the engine is a factor like any other.
    let mut both = [a, b.clone()].concat();
    (0..)
        .zip(&mut both)
        .for_each(|(index, row)| row.trial_index = index);
    let comparison = compare(&both, &b, &Options::default());
    assert_eq!((comparison.matched, comparison.only_in_a.len()), (4, 4));
}

#[test]
fn a_parameter_keeps_combinations_apart() {
    let parameter = Factor::Parameter("slots".into());
    let mut random = SplitMix64::new(13);
    let a = SWEEP.rows(&mut random);
    let mut b = SWEEP.rows(&mut random);
    for row in &mut b {
        row.set_level(&parameter, &Level::from(64));
    }
    let comparison = compare(&a, &b, &Options::default());
    assert_eq!(comparison.matched, 0);
    assert!(
        comparison.notes[0].ends_with(
            "data type and slots has a valid trial in both: there is nothing to compare"
        )
    );
    let text = text::plain(&comparison);
    assert!(text.contains("slots 64"), "{text}");
}

#[test]
fn the_same_rows_give_the_same_document() {
    let mut random = SplitMix64::new(8);
    let sweep = Sweep {
        blocks: 10,
        ..SWEEP
    };
    let (a, b) = (sweep.rows(&mut random), sweep.rows(&mut random));
    let first = compare(&a, &b, &Options::default());
    assert_eq!(ttlt(&first).method, Some(RatioMethod::BootstrapT));
    let mut shuffled = b.clone();
    random.shuffle(&mut shuffled);
    assert_eq!(compare(&a, &shuffled, &Options::default()), first);
}

#[test]
fn a_comparison_reads_well() {
    let mut random = SplitMix64::new(11);
    let a = SWEEP.rows(&mut random);
    let mut b = Sweep {
        factor: 1.1,
        ..SWEEP
    }
    .rows(&mut random);
    for row in &mut b {
        row.driver = Some("580.95.05".into());
        row.gpu_mem_peak_mib = Some(9_000.0);
        // Only the two small batches have become slower.
        if row.batch_size > 2 {
            row.mean_ttlt_ms = row.mean_ttlt_ms.map(|ms| ms / 1.1);
            row.output_throughput = row.output_throughput.map(|rate| rate * 1.1);
        }
    }
    b.retain(|row| row.batch_size != 8);
    let options = Options {
        names: Some(["runs/before".into(), "runs/after".into()]),
        ..limits(&["slower=2%", "ttftMs=5%"])
    };
    let comparison = compare(&a, &b, &options);
    insta::assert_snapshot!("plain", text::plain(&comparison));
    insta::assert_snapshot!("markdown", text::markdown(&comparison));
}

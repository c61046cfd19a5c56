//! Simulated sweeps in which loads share starts of the engine, and starts differ: how often intervals and tests of both
//! scopes hold, and how often those would that take all trials for independent.

use inferbench_crds::{outcome::Outcome, splitmix::SplitMix64};

use super::{attribution, grid::Grid, trust};
use crate::{
    counts::Counts,
    interval::{Interval, t_quantile},
    row::Row,
    sample::{Factor, Level, Metric, combine, latest_attempts},
};

/// Sweeps of each kind.
const SWEEPS: u64 = 1000;
/// Standard deviations of the logarithm: of blocks, of starts, and of trials of one start.
const NOISE: [f64; 3] = [0.03, 0.05, 0.01];
const ENGINES: [&str; 2] = ["candle", "other"];
const BATCHES: [u32; 4] = [1, 4, 16, 64];
/// The true ratio of the engines, and the exponents of the slots and of the batch size.
const TRUTH: [f64; 3] = [0.8, 0.1, 0.6];

fn slots() -> Factor {
    Factor::Parameter("slots".into())
}

fn normal(random: &mut SplitMix64) -> f64 {
    let mut unit = || (f64::from(random.below(u32::MAX)) + 0.5) / f64::from(u32::MAX);
    (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos()
}

/// 2 engines × 2 levels of a flag, each started once in a block, × 4 loads; a share of the trials is missing.
fn sweep(blocks: u32, missing: f64, truth: [f64; 3], noise: [f64; 3], seed: u64) -> Vec<Row> {
    let mut random = SplitMix64::new(seed);
    let mut rows = Vec::new();
    for replicate in 0..blocks {
        let block = noise[0] * normal(&mut random);
        let mut plots: Vec<(usize, u32)> = vec![(0, 64), (0, 256), (1, 64), (1, 256)];
        random.shuffle(&mut plots);
        for (engine, of_slots) in plots {
            let start = noise[1] * normal(&mut random);
            let mut loads = BATCHES;
            random.shuffle(&mut loads);
            for batch_size in loads {
                let log = block + start + noise[2] * normal(&mut random);
                let is_missing = f64::from(random.below(1 << 20)) < missing * f64::from(1 << 20);
                let ttlt = 100.0
                    * truth[0].powi(engine as i32)
                    * f64::from(of_slots).powf(truth[1])
                    * f64::from(batch_size).powf(truth[2])
                    * log.exp();
                let mut row = Row {
                    trial_index: rows.len() as u32,
                    run_order: rows.len() as u32,
                    trial_key: format!("{:064x}", rows.len()),
                    process_id: Some(format!("{replicate}/{engine}/{of_slots}")),
                    replicate,
                    outcome: Some(Outcome::Succeeded),
                    valid: Some(!is_missing),
                    model: "m".into(),
                    dtype: "bf16".into(),
                    engine: Some(ENGINES[engine].into()),
                    batch_size,
                    input_len: 16,
                    output_len: 16,
                    gpus: 1,
                    mean_ttlt_ms: Some(ttlt),
                    ..Row::default()
                };
                row.set_level(&slots(), &Level::from(of_slots));
                rows.push(row);
            }
        }
    }
    rows
}

/// Ratio of the engines, ratios per doubling of slots and of batch size, with their intervals.
fn judged(rows: &[Row]) -> [Interval; 3] {
    let latest = latest_attempts(rows);
    let combinations = combine(&latest);
    let grid = Grid::new(&combinations.iter().collect::<Vec<_>>());
    let values = grid.values(Metric::named("ttltMs").unwrap());
    let effects = attribution::effects(&grid, &values.map(f64::ln).unwrap());
    let of = |factor: &Factor| effects.iter().find(|effect| effect.factor == *factor);
    [
        of(&Factor::ENGINE).unwrap().ratios.last().unwrap().ratio,
        of(&slots()).unwrap().per_doubling.unwrap(),
        of(&Factor::BATCH_SIZE).unwrap().per_doubling.unwrap(),
    ]
}

/// The same by one regression over all trials, taken for independent. Its columns are orthogonal: nothing is missing.
fn naive(rows: &[Row]) -> [Interval; 3] {
    let columns: [&dyn Fn(&Row) -> f64; 3] = [
        &|row| f64::from(u8::from(row.engine.as_deref() == Some(ENGINES[1]))) - 0.5,
        &|row| row.levels().number(&slots()).unwrap().log2() - 7.0,
        &|row| f64::from(row.batch_size).log2() - 3.0,
    ];
    let y: Vec<f64> = rows
        .iter()
        .map(|row| row.mean_ttlt_ms.unwrap().ln())
        .collect();
    let centre = y.iter().sum::<f64>() / y.len() as f64;
    let fits = columns.map(|column| {
        let x: Vec<f64> = rows.iter().map(column).collect();
        let squares: f64 = x.iter().map(|x| x * x).sum();
        let slope = x.iter().zip(&y).map(|(x, y)| x * (y - centre)).sum::<f64>() / squares;
        (x, squares, slope)
    });
    let residual = |at: usize| {
        let explained = fits.iter().map(|(x, _, slope)| slope * x[at]);
        y[at] - centre - explained.sum::<f64>()
    };
    let degrees = y.len() as f64 - 4.0;
    let variance = (0..y.len()).map(|at| residual(at).powi(2)).sum::<f64>() / degrees;
    fits.map(|(_, squares, slope)| {
        let half = t_quantile(degrees) * (variance / squares).sqrt();
        Interval {
            value: slope.exp(),
            low: Some((slope - half).exp()),
            high: Some((slope + half).exp()),
        }
    })
}

fn holds(interval: &Interval, truth: f64) -> bool {
    interval.low.unwrap() <= truth && truth <= interval.high.unwrap()
}

/// In percent, how often each of the three intervals holds the truth.
fn covered(blocks: u32, missing: f64, judge: impl Fn(&[Row]) -> [Interval; 3]) -> [f64; 3] {
    let truths = [TRUTH[0], 2_f64.powf(TRUTH[1]), 2_f64.powf(TRUTH[2])];
    let mut counts = [0.0; 3];
    for seed in 0..SWEEPS {
        let found = judge(&sweep(blocks, missing, TRUTH, NOISE, seed));
        for ((count, interval), truth) in counts.iter_mut().zip(found).zip(truths) {
            *count += f64::from(u8::from(holds(&interval, truth)));
        }
    }
    counts.map(|count| 100.0 * count / SWEEPS as f64)
}

#[test]
fn intervals_of_both_scopes_hold_as_often_as_they_say() {
    println!("% of 95% intervals that hold     engine  slots  batch");
    for blocks in [3, 5, 10] {
        for (what, missing) in [("all trials", 0.0), ("10% missing", 0.1)] {
            let found = covered(blocks, missing, judged);
            println!("{blocks:2} blocks, {what:12} over blocks {found:6.1?}");
            assert!(
                found.iter().all(|share| (93.0..=97.0).contains(share)),
                "{blocks}: {found:?}"
            );
        }
        let [engine, slots, batch] = covered(blocks, 0.0, naive);
        println!(
            "{blocks:2} blocks, all trials   independent {:6.1?}",
            [engine, slots, batch]
        );
        // The difference between starts, spread over all trials: far too little for a factor of the start, too much for
        // the load.
        assert!(engine < 80.0 && slots < 80.0, "{blocks}: {engine} {slots}");
        assert!(batch > 97.0, "{blocks}: {batch}");
    }
}

#[test]
fn shares_of_nothing_are_told_from_effects() {
    for blocks in [3, 5, 10] {
        let (mut found, mut naively, mut noise, mut share) = ([0; 3], 0, 0.0, 0.0);
        for seed in 0..SWEEPS {
            let rows = sweep(blocks, 0.0, [1.0, 0.0, 0.6], NOISE, seed);
            let latest = latest_attempts(&rows);
            let combinations = combine(&latest);
            let grid = Grid::new(&combinations.iter().collect::<Vec<_>>());
            let values = grid
                .values(Metric::named("ttltMs").unwrap())
                .map(f64::ln)
                .unwrap();
            let factors = attribution::decomposed(&grid, &values).unwrap().factors;
            for (count, factor) in found.iter_mut().zip(&factors) {
                *count += u32::from(factor.p.unwrap() < 0.05);
            }
            assert_eq!(factors[0].factor, Factor::ENGINE);
            share += factors[0].first_order;
            noise += factors[0].noise.unwrap();
            naively += u32::from(!holds(&naive(&rows)[0], 1.0));
        }
        println!(
            "{blocks:2} blocks, no effect but of the batch: p < 0.05 in {found:?} of {SWEEPS}; all trials independent, engine: {naively}"
        );
        // Engine and slots; the batch size has an effect.
        assert!(
            [found[0], found[2]]
                .iter()
                .all(|count| (30..=70).contains(count)),
            "{blocks}: {found:?}"
        );
        assert_eq!(found[1], SWEEPS as u32);
        assert!(naively > 200, "{blocks}: {naively}");
        assert!(
            (noise / share - 1.0).abs() < 0.15,
            "{blocks}: {noise} {share}"
        );
    }
}

#[test]
fn starts_that_differ_are_no_drift() {
    let (mut by_start, mut by_trial) = (0, 0);
    for seed in 0..SWEEPS {
        // Blocks that differ are a drift, or look like one.
        let mut rows = sweep(5, 0.0, TRUTH, [0.0, NOISE[1], NOISE[2]], seed);
        let flagged = |rows: &[Row]| {
            let latest = latest_attempts(rows);
            let trust = trust::judge(&Counts::default(), &latest, &combine(&latest));
            u32::from(trust.drift.iter().any(|drift| drift.flagged))
        };
        by_start += flagged(&rows);
        rows.iter_mut().for_each(|row| row.process_id = None);
        by_trial += flagged(&rows);
    }
    println!(
        "drift of nothing, flagged at p < 0.01: {by_start} of {SWEEPS} by starts, {by_trial} by trials"
    );
    assert!(by_start <= 30, "{by_start}");
    assert!(by_trial > 100, "{by_trial}");
}

#[test]
fn effects_say_what_they_rest_on() {
    let rows = sweep(2, 0.0, TRUTH, NOISE, 1);
    let summary =
        crate::summary::summarize("s", &rows, &inferbench_crds::spec::Objectives::default());
    let analysis = super::analyze(
        &rows,
        &summary,
        &inferbench_crds::spec::Objectives::default(),
    );
    let ttlt = &analysis.scopes[0].attribution[0];
    let said: Vec<_> = ttlt
        .effects
        .iter()
        .map(|effect| {
            let evidence = effect.evidence;
            (
                effect.factor.name(),
                evidence.against,
                evidence.degrees,
                evidence.starts,
            )
        })
        .collect();
    use attribution::Against::{Starts, Trials};
    assert_eq!(
        said,
        [
            ("engine", Starts, 1, Some(4)),
            ("batchSize", Trials, 1, Some(8)),
            ("slots", Starts, 1, Some(4)),
        ]
    );
    let few: Vec<Row> = rows
        .into_iter()
        .filter(|row| row.levels().number(&slots()) == Some(64.0))
        .collect();
    let summary =
        crate::summary::summarize("s", &few, &inferbench_crds::spec::Objectives::default());
    let analysis = super::analyze(
        &few,
        &summary,
        &inferbench_crds::spec::Objectives::default(),
    );
    let note = analysis.notes.iter().find(|note| note.contains("started"));
    assert_eq!(
        note.unwrap(),
        "At some level of engine the engine was started 2 times only: with 1 degree of freedom a 95% interval is 12.7 \
         standard errors wide to each side; more replicates narrow it fast."
    );
}

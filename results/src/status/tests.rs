//! The status of a sweep: that it agrees with the analysis, and fits however large the design is.

use inferbench_crds::spec::Objectives;

use super::*;
use crate::{analysis::analyze, fixtures::Sweep, row::Row, summary::summarize};

fn status(rows: &[Row]) -> Status {
    let objectives = Objectives::default();
    let summary = summarize("sweep", rows, &objectives);
    bounded(&summary, &analyze(rows, &summary, &objectives))
}

#[test]
fn a_status_has_what_the_analysis_says() {
    let rows = Sweep::default().rows(|row| f64::from(row.output_len) / f64::from(row.gpus));
    let status = status(&rows);
    assert_eq!((status.trials, status.invalid), (360, 0));
    assert_eq!(status.intervals, "Replicates");
    let factors: Vec<&str> = status
        .factors
        .iter()
        .map(|factor| &*factor.factor)
        .collect();
    assert_eq!(
        factors,
        ["batchSize", "inputLength", "outputLength", "gpus"]
    );
    let strongest = status
        .effects
        .iter()
        .filter(|effect| effect.metric == "mean_ttlt_ms")
        .max_by(|a, b| a.share.unwrap().total_cmp(&b.share.unwrap()))
        .unwrap();
    assert_eq!(strongest.factor, "outputLength");
    assert!(strongest.importance.is_some() && strongest.correlation.unwrap() > 0.5);
    // The mix by both criteria, then as many of the 9 workloads as there is room for.
    assert_eq!(status.best.len(), limits::SUMMARY_BEST as usize);
    let purposes: Vec<&str> = status
        .best
        .iter()
        .map(|best| best.configuration.workload.as_str())
        .collect();
    assert_eq!(
        purposes[..3],
        [
            "all 9 workloads alike",
            "all 9 workloads alike",
            "16 input and 16 output tokens"
        ]
    );
    assert_eq!(status.workloads_left_out, 3);
    assert!(!status.pareto.is_empty());
    assert!(
        status
            .pareto
            .iter()
            .all(|point| point.workload == purposes[0])
    );
}

#[test]
fn the_heaviest_workloads_come_first() {
    let rows = Sweep::default().rows(|row| f64::from(row.output_len) / f64::from(row.gpus));
    let objectives: Objectives = serde_json::from_value(serde_json::json!({ "workloads": [
            { "inputLength": 16, "outputLength": 64 },
            { "inputLength": 64, "outputLength": 32, "weight": 5 },
        ] }))
    .unwrap();
    let summary = summarize("sweep", &rows, &objectives);
    let status = bounded(&summary, &analyze(&rows, &summary, &objectives));
    let purposes = status
        .best
        .iter()
        .map(|best| best.configuration.workload.as_str());
    let purposes: Vec<&str> = purposes.take(4).collect();
    assert_eq!(
        purposes,
        [
            "the mix of 2 workloads",
            "the mix of 2 workloads",
            "64 input and 32 output tokens",
            "16 input and 64 output tokens"
        ]
    );
    let json = serde_json::to_value(&status.best[0].configuration).unwrap();
    assert_eq!(
        (&json["model"], &json["inputLength"]),
        (&"m".into(), &serde_json::Value::Null)
    );
}

#[test]
fn one_workload_is_said_by_its_levels() {
    let rows = Sweep {
        inputs: &[16],
        outputs: &[16],
        ..Sweep::default()
    }
    .rows(|row| f64::from(row.batch_size));
    let status = status(&rows);
    assert_eq!((status.best.len(), status.workloads_left_out), (2, 0));
    assert!(
        status
            .best
            .iter()
            .all(|best| best.configuration.workload.is_empty())
    );
    assert!(status.pareto.iter().all(|point| point.workload.is_empty()));
}

#[test]
fn the_largest_design_fits() {
    let all: Vec<u32> = (1..=64).map(|level| 1_000_000 - level).collect();
    let few = all.clone();
    // 64 levels of three factors, thinly covered: more than a resource may ask for.
    let mut rows = Sweep {
        batches: Box::leak(all.into_boxed_slice()),
        inputs: &[1],
        outputs: &[1],
        gpus: &[1],
        replicates: 2,
        ..Sweep::default()
    }
    .rows(|row| f64::from(row.batch_size) / 3.0);
    for (at, row) in rows.iter_mut().enumerate() {
        row.input_len = few[at % 64];
        row.output_len = few[at * 7 % 64];
        row.gpus = few[at * 11 % 64];
        row.mean_tpot_ms = row.mean_ttlt_ms;
        row.gpu_util_mean_pct = Some(100.0 / 3.0);
    }
    let status = status(&rows);
    assert!(
        bytes(&status) <= limits::SUMMARY_BYTES,
        "{}",
        bytes(&status)
    );
    assert_eq!(status.factors.len(), 4);
    assert!(
        status
            .factors
            .iter()
            .all(|factor| !factor.metrics.is_empty())
    );
}

/// 8 parameters with names and texts of the greatest length beside 7 factors of the table, two levels each.
#[test]
fn the_most_factors_fit() {
    let text = |at: u32| format!("{at}{}", "x".repeat(limits::PARAMETER_TEXT - 1));
    let parameters: Vec<Factor> = (0..limits::PARAMETERS)
        .map(|at| {
            let longest = limits::PARAMETER_NAME as usize - 2;
            Factor::Parameter(format!("p{at}{}", "n".repeat(longest)).into())
        })
        .collect();
    let mut rows = Vec::new();
    for bits in 0..1_u32 << 10 {
        let bit = |nth: u32| bits.wrapping_mul(0x9e37_79b9) >> (nth + 8) & 1;
        let mut row = Row {
            trial_index: bits,
            outcome: Some(inferbench_crds::outcome::Outcome::Succeeded),
            valid: Some(true),
            model: text(bit(0)).chars().take(63).collect(),
            engine: Some(format!("{}{}", bit(1), "e".repeat(31))),
            dtype: if bit(2) > 0 { "bf16" } else { "q4_0" }.into(),
            batch_size: 65_535 + bit(3),
            input_len: 1_048_575 + bit(4),
            output_len: 1_048_575 + bit(5),
            gpus: 63 + bit(6),
            mean_ttlt_ms: Some(1e3 / 3.0 + f64::from(bits)),
            mean_ttft_ms: Some(1e2 / 3.0 + f64::from(bits % 97)),
            mean_tpot_ms: Some(1e1 / 3.0 + f64::from(bits % 31)),
            output_throughput: Some(1e5 / 7.0 + f64::from(bits % 89)),
            output_throughput_per_gpu: Some(1e3 / 7.0 + f64::from(bits % 83)),
            gpu_util_mean_pct: Some(100.0 / 3.0),
            ..Row::default()
        };
        for (nth, parameter) in (7..).zip(&parameters) {
            row.set_level(parameter, &Level::from(text(bit(nth)).as_str()));
        }
        rows.push(row);
    }
    let status = status(&rows);
    assert!(
        bytes(&status) <= limits::SUMMARY_BYTES,
        "{}",
        bytes(&status)
    );
    assert_eq!(status.factors.len(), limits::FACTORS as usize);
    assert!(
        status
            .factors
            .iter()
            .all(|factor| !factor.metrics.is_empty())
    );
    assert!(!status.best.is_empty() && !status.effects.is_empty() && !status.pareto.is_empty());
}

#[test]
fn nothing_measured_is_a_status_too() {
    let status = status(&[]);
    assert_eq!(
        (status.trials, status.factors.len(), status.best.len()),
        (0, 0, 0)
    );
}

//! Synthetic sweeps with a known truth: what the analysis says of them, and that it says something of any input.

use inferbench_crds::{outcome::Outcome, spec::Objectives};
use inferbench_results::{
    analysis::{Analysis, Scope, analyze, attribution::ShareMethod, curves::Family},
    fixtures::Sweep,
    row::Row,
    sample::Factor,
    summary::summarize,
};

fn analysis(rows: &[Row]) -> Analysis {
    let objectives = Objectives::default();
    analyze(
        rows,
        &summarize("synthetic", rows, &objectives),
        &objectives,
    )
}

fn power_law(row: &Row) -> f64 {
    3.0 * f64::from(row.batch_size).powf(0.3) * f64::from(row.output_len)
        / f64::from(row.gpus).powf(0.5)
}

fn attribution<'a>(
    scope: &'a Scope,
    metric: &str,
) -> &'a inferbench_results::analysis::attribution::Attribution {
    scope
        .attribution
        .iter()
        .find(|a| a.metric == metric)
        .unwrap()
}

#[test]
fn the_shares_of_a_known_truth_are_recovered() {
    let rows = Sweep::default().rows(power_law);
    let analysis = analysis(&rows);
    let scope = &analysis.scopes[0];
    let ttlt = attribution(scope, "ttltMs");
    let log = ttlt.log.as_ref().unwrap();
    assert_eq!(log.method, ShareMethod::FullGrid);
    // Variances of log₂ over the levels times the squared exponents: 2·0.09, 0, 2/3·1 and 1/4·0.25.
    let parts = [
        (Factor::BATCH_SIZE, 2.0 * 0.09),
        (Factor::INPUT_LENGTH, 0.0),
        (Factor::OUTPUT_LENGTH, 2.0 / 3.0),
        (Factor::GPUS, 0.25 * 0.25),
    ];
    let all: f64 = parts.iter().map(|(_, part)| part).sum();
    for (factor, part) in parts {
        let share = log.factors.iter().find(|s| s.factor == factor).unwrap();
        assert!(
            (share.first_order - part / all).abs() < 0.01,
            "{factor:?}: {share:?}, truth {}",
            part / all
        );
        assert!((share.total - share.first_order).abs() < 0.01, "{share:?}");
    }
    for (factor, exponent) in [
        (Factor::BATCH_SIZE, 0.3),
        (Factor::OUTPUT_LENGTH, 1.0),
        (Factor::GPUS, -0.5),
        (Factor::INPUT_LENGTH, 0.0),
    ] {
        let effect = ttlt.effects.iter().find(|e| e.factor == factor).unwrap();
        let ratio = effect.per_doubling.unwrap();
        assert!(
            (ratio.value - 2_f64.powf(exponent)).abs() < 0.02,
            "{factor:?}: {ratio:?}"
        );
        assert!(ratio.low.unwrap() < ratio.value && ratio.value < ratio.high.unwrap());
    }
}

#[test]
fn an_interaction_is_found_where_it_is() {
    // Input and batch act together only: their product.
    let rows = Sweep {
        noise: 0.001,
        ..Sweep::default()
    }
    .rows(|row| 100.0 + f64::from(row.batch_size) * f64::from(row.input_len));
    let analysis = analysis(&rows);
    let raw = attribution(&analysis.scopes[0], "ttltMs")
        .raw
        .as_ref()
        .unwrap();
    let strongest = raw
        .interactions
        .iter()
        .max_by(|a, b| a.share.total_cmp(&b.share))
        .unwrap();
    assert_eq!(
        strongest.factors,
        [Factor::BATCH_SIZE, Factor::INPUT_LENGTH]
    );
    assert!(strongest.share > 0.1, "{strongest:?}");
    let first: f64 = raw.factors.iter().map(|f| f.first_order).sum();
    let pairs: f64 = raw.interactions.iter().map(|i| i.share).sum();
    assert!((first + pairs - 1.0).abs() < 0.001, "{first} + {pairs}");
}

#[test]
fn missing_cells_leave_the_shares_nearly_alone() {
    let rows = Sweep::default().rows(power_law);
    let full = analysis(&rows);
    // The largest do not fit: batch 16 on one GPU with the longest input.
    let part: Vec<Row> = rows
        .iter()
        .filter(|row| !(row.batch_size == 16 && row.gpus == 1 && row.input_len == 64))
        .cloned()
        .collect();
    let part = analysis(&part);
    let coverage = &part.scopes[0].coverage;
    assert_eq!((coverage.grid, coverage.measured), (90, 87));
    assert!(
        coverage.balanced < 87 && !coverage.dropped.is_empty(),
        "{coverage:?}"
    );
    let share = |analysis: &Analysis| {
        attribution(&analysis.scopes[0], "ttltMs")
            .log
            .clone()
            .unwrap()
    };
    let (full, part) = (share(&full), share(&part));
    assert_eq!(part.method, ShareMethod::TypeTwo);
    for (a, b) in full.factors.iter().zip(&part.factors) {
        assert!((a.first_order - b.first_order).abs() < 0.05, "{a:?} {b:?}");
    }
}

#[test]
fn the_exponent_of_a_curve_is_found() {
    let rows = Sweep {
        replicates: 10,
        ..Sweep::default()
    }
    .rows(power_law);
    let analysis = analysis(&rows);
    let curve = analysis.scopes[0]
        .curves
        .iter()
        .find(|c| c.factor == Factor::BATCH_SIZE && c.metric == "ttltMs")
        .unwrap();
    assert_eq!(curve.chosen, Some(Family::Power));
    let exponent = curve.exponent.unwrap();
    assert!(
        exponent.low.unwrap() < 0.3 && 0.3 < exponent.high.unwrap(),
        "{exponent:?}"
    );
    assert!(
        exponent.high.unwrap() - exponent.low.unwrap() < 0.05,
        "{exponent:?}"
    );
    let short = analysis.scopes[0]
        .curves
        .iter()
        .find(|c| c.factor == Factor::OUTPUT_LENGTH)
        .unwrap();
    assert!(
        short.refused.as_ref().unwrap().contains("3 levels"),
        "{short:?}"
    );
}

#[test]
fn a_cost_model_predicts_what_was_not_run() {
    let truth = |row: &Row| {
        let (b, s, n) = (
            f64::from(row.batch_size),
            f64::from(row.input_len),
            f64::from(row.output_len),
        );
        5.0 + 2.0 * n + 0.01 * s * b + 0.1 * n * b + 0.001 * n * b * (s + n / 2.0)
    };
    let rows: Vec<Row> = Sweep {
        noise: 0.01,
        ..Sweep::default()
    }
    .rows(truth)
    .into_iter()
    .filter(|row| !(row.batch_size == 4 && row.input_len == 32))
    .collect();
    let analysis = analysis(&rows);
    assert_eq!(analysis.cost_models.len(), 2);
    for model in &analysis.cost_models {
        assert!(model.check.unwrap().median_error < 0.02, "{model:?}");
        assert_eq!(model.predictions.iter().filter(|p| !p.beyond).count(), 3);
        for prediction in &model.predictions {
            let mut row = Row::default();
            for (factor, level) in prediction.levels.iter() {
                assert!(row.set_level(factor, level), "{factor}");
            }
            let error = (prediction.ttlt_ms / truth(&row) - 1.0).abs();
            assert!(error < 0.05, "{prediction:?}");
        }
    }
}

#[test]
fn drift_and_outliers_are_flagged_and_kept() {
    let mut rows = Sweep::default().rows(power_law);
    let quiet = analysis(&rows);
    assert!(
        quiet.trust.drift.iter().all(|d| !d.flagged),
        "{:?}",
        quiet.trust.drift
    );
    let count = rows.len() as f64;
    for row in &mut rows {
        // 20 % slower at the end than at the beginning.
        let factor = 1.0 + 0.2 * f64::from(row.run_order) / count;
        row.mean_ttlt_ms = row.mean_ttlt_ms.map(|t| t * factor);
    }
    rows[100].mean_ttft_ms = rows[100].mean_ttft_ms.map(|t| t * 3.0);
    let drifting = analysis(&rows);
    let drift = drifting
        .trust
        .drift
        .iter()
        .find(|d| d.metric == "ttltMs")
        .unwrap();
    assert!(
        drift.flagged && (drift.change_pct - 20.0).abs() < 3.0,
        "{drift:?}"
    );
    assert_eq!(drifting.trust.outliers[0].trial_index, 100);
    let ttft = &quiet.scopes[0].curves[0].metric;
    assert_eq!(ttft, "ttftMs");
    assert_ne!(
        quiet.scopes[0].curves[0], drifting.scopes[0].curves[0],
        "it is kept"
    );
}

/// Whether a document is free of numbers that JSON cannot hold: serde_json writes null for them.
fn has_no_nulls_but_coefficients(analysis: &Analysis) {
    let mut value = serde_json::to_value(analysis).unwrap();
    for scope in value["scopes"].as_array_mut().unwrap() {
        scope["correlation"] = serde_json::Value::Null;
    }
    let text = value.to_string().replace("\"correlation\":null", "");
    assert!(!text.contains("null"), "{text}");
}

#[test]
fn plain_noise_hardly_ever_stands_out() {
    for replicates in [2, 3, 10] {
        let mut found = 0;
        let mut among = 0;
        for seed in 0..20 {
            let rows = Sweep {
                replicates,
                seed,
                ..Sweep::default()
            }
            .rows(power_law);
            let trust = analysis(&rows).trust;
            found += trust
                .outliers
                .iter()
                .filter(|o| o.metric == "ttltMs")
                .count();
            among += trust.outliers_among as usize;
        }
        // Of normal noise 0.05 % lie beyond 3.5 deviations.
        assert!(
            found * 500 < among,
            "{replicates} replicates: {found} of {among}"
        );
    }
}

#[test]
fn degenerate_input_is_analysed_too() {
    let whole = Sweep::default().rows(power_law);
    let failed: Vec<Row> = whole
        .iter()
        .map(|row| Row {
            outcome: Some(Outcome::OutOfMemory),
            mean_ttlt_ms: None,
            mean_ttft_ms: None,
            output_throughput: None,
            ..row.clone()
        })
        .collect();
    let scaled = |factor: f64| -> Vec<Row> {
        whole
            .iter()
            .map(|row| Row {
                mean_ttlt_ms: row.mean_ttlt_ms.map(|t| t * factor),
                ..row.clone()
            })
            .collect()
    };
    let with = |value: f64| -> Vec<Row> {
        whole
            .iter()
            .map(|row| Row {
                mean_ttlt_ms: Some(value),
                mean_ttft_ms: Some(value),
                ..row.clone()
            })
            .collect()
    };
    let one_level: Vec<Row> = whole
        .iter()
        .filter(|row| row.batch_size == 1 && row.gpus == 1)
        .filter(|row| row.input_len == 16 && row.output_len == 16)
        .cloned()
        .collect();
    let scattered: Vec<Row> = whole.iter().step_by(7).cloned().collect();
    let invalid: Vec<Row> = whole
        .iter()
        .map(|row| Row {
            valid: Some(false),
            ..row.clone()
        })
        .collect();
    for (what, rows) in [
        ("nothing", Vec::new()),
        ("one row", whole[..1].to_vec()),
        ("one level", one_level),
        ("only failures", failed),
        ("only invalid ones", invalid),
        ("scattered cells", scattered),
        ("all equal", with(5.0)),
        ("nought", with(0.0)),
        ("not a number", with(f64::NAN)),
        ("infinite", with(f64::INFINITY)),
        ("huge", scaled(1e300)),
        ("tiny", scaled(1e-300)),
        (
            "one replicate",
            whole
                .iter()
                .filter(|row| row.replicate == 0)
                .cloned()
                .collect(),
        ),
    ] {
        let analysis = analysis(&rows);
        has_no_nulls_but_coefficients(&analysis);
        if matches!(what, "nothing" | "only failures" | "only invalid ones") {
            assert_eq!(analysis.notes.len(), 1, "{what}: {:?}", analysis.notes);
        }
    }
}

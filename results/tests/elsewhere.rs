//! Tables of trials that were made elsewhere: what is said of them, and that one rule holds for all figures of them.

use inferbench_crds::spec::Objectives;
use inferbench_results::{
    analysis::{Analysis, analyze},
    compare::{Options, compare},
    figures,
    fixtures::Sweep,
    interval::{Observation, estimate},
    report::{Report, html, markdown},
    row::Row,
    summary::{Summary, summarize},
    tables::{read_trials_csv, read_trials_table, write_csv},
};
use proptest::prelude::*;
use serde_json::Value;

const HEADER: &str = "sweep,trial_index,trial_key,attempt,replicate,run_order,outcome,valid,model,model_revision,dtype,\
                      batch_size,input_len,output_len,gpus,mean_ttft_ms,mean_ttlt_ms,output_throughput";

/// A line: what it says of its trial, and its figures.
fn line(index: u32, key: &str, replicate: u32, valid: bool, batch: u32, figures: &str) -> String {
    format!(
        "elsewhere,{index},{key},0,{replicate},{index},Succeeded,{valid},gpt2,,f32,{batch},16,64,1,{figures}"
    )
}

fn table(lines: &[String]) -> Vec<u8> {
    format!("{HEADER}\n{}\n", lines.join("\n")).into_bytes()
}

fn summary_and_analysis(rows: &[Row]) -> (Summary, Analysis) {
    let objectives = Objectives::default();
    let summary = summarize("elsewhere", rows, &objectives);
    let analysis = analyze(rows, &summary, &objectives);
    (summary, analysis)
}

fn report<T>(summary: &Summary, analysis: &Analysis, of: fn(&Report<'_>) -> T) -> T {
    of(&Report {
        summary,
        analysis,
        objectives: &Objectives::default(),
        figures: &figures::all(summary, analysis),
        doubtful: &[],
    })
}

#[test]
fn what_had_to_be_done_with_a_table_is_said() {
    let read = read_trials_table(&table(&[
        line(0, "", 0, true, 1, "12.5,130.25,491.4"),
        // A number that is none, in a valid row and in one that is not.
        line(1, "", 0, true, 2, "NaN,135.5,944.6"),
        line(2, "", 1, false, 2, "inf,135.5,944.6"),
        // The same row again, and the same record again as another trial.
        line(0, "", 0, true, 1, "12.5,130.25,491.4"),
        line(3, "5ca1ab1e", 1, true, 1, "12.625,131.125,488.1"),
        line(4, "5ca1ab1e", 2, true, 1, "12.625,131.125,488.1"),
        // Several trials of one combination in one replicate.
        line(5, "", 0, true, 4, "1e999,150.5,1701"),
        line(6, "", 0, true, 4, "14.5,152.5,1679"),
        line(7, "", 0, true, 4, "14.25,151.5,1690"),
        // Two trials that agree in every digit.
        line(8, "", 0, true, 8, "20.125,180.0625,2843.7"),
        line(9, "", 1, true, 8, "20.125,180.0625,2843.7"),
    ]))
    .unwrap();
    assert_eq!(read.rows.len(), 9);
    assert_eq!(read.rows[1].mean_ttft_ms, None);
    insta::assert_snapshot!(read.notes.join("\n"));

    let (summary, mut analysis) = summary_and_analysis(&read.rows);
    analysis.table_notes = read.notes;
    insta::assert_snapshot!(report(&summary, &analysis, markdown));
    let page = report(&summary, &analysis, html);
    for note in &analysis.table_notes {
        let start = note.split(':').next().unwrap();
        assert!(page.contains(start), "{start}");
    }
}

#[test]
fn many_cases_are_counted_and_few_named() {
    let lines: Vec<String> = (0..40)
        .map(|at| line(at, "", at, true, 1, "NaN,130.25,"))
        .collect();
    let read = read_trials_table(&table(&lines)).unwrap();
    insta::assert_snapshot!(read.notes.join("\n"));
}

#[test]
fn contradictions_are_refused() {
    let first = line(3, "5ca1ab1e", 0, true, 1, "12.5,130.25,491.4");
    let contradictions = [
        // Another figure of the same trial, and much else.
        line(3, "5ca1ab1e", 0, true, 1, "12.5,131,491.4"),
        line(3, "", 1, false, 2, ",131,"),
        // Of the same record, as another trial.
        line(4, "5ca1ab1e", 1, true, 1, "12.5,130.25,NaN"),
        line(4, "5ca1ab1e", 1, true, 8, "12.5,130.25,491.4"),
    ];
    let said: Vec<String> = contradictions
        .into_iter()
        .map(|second| {
            let read = read_trials_table(&table(&[first.clone(), second]));
            read.unwrap_err().to_string()
        })
        .collect();
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn a_record_may_stand_for_models_of_several_names() {
    let a = line(0, "5ca1ab1e", 0, true, 1, "12.5,130.25,491.4");
    let b = line(1, "5ca1ab1e", 0, true, 1, "12.5,130.25,491.4").replace("gpt2", "other");
    let read = read_trials_table(&table(&[a, b])).unwrap();
    assert_eq!((read.rows.len(), read.notes.len()), (2, 0), "{read:?}");
}

#[test]
fn of_a_sweeps_own_table_nothing_is_said() {
    let mut rows = Sweep::default().rows(|row| f64::from(row.output_len));
    // An attempt that was invalid, and a trial without a record.
    rows[7].valid = Some(false);
    let again = Row {
        trial_key: "a key of its own".into(),
        attempt: 1,
        valid: Some(true),
        ..rows[7].clone()
    };
    rows.push(again);
    rows[9] = Row {
        outcome: None,
        valid: None,
        mean_ttlt_ms: None,
        ..rows[9].clone()
    };
    let csv = write_csv(&rows).unwrap();
    let read = read_trials_table(&csv).unwrap();
    assert_eq!(read.notes, [""; 0]);
    assert_eq!(read.rows, read_trials_csv(&csv).unwrap());
}

/// The figures that a synthetic row has.
fn figures_of(row: &mut Row) -> Vec<&mut f64> {
    [
        &mut row.mean_ttft_ms,
        &mut row.std_ttft_ms,
        &mut row.mean_ttlt_ms,
        &mut row.median_ttlt_ms,
        &mut row.std_ttlt_ms,
        &mut row.min_ttlt_ms,
        &mut row.max_ttlt_ms,
        &mut row.mean_tpot_ms,
        &mut row.median_itl_ms,
        &mut row.output_throughput,
        &mut row.output_throughput_per_gpu,
        &mut row.normalized_latency_ms,
        &mut row.gpu_mem_peak_mib,
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn power_law(row: &Row) -> f64 {
    300.0 * f64::from(row.batch_size).powf(0.3) * f64::from(row.output_len)
        / f64::from(row.gpus).sqrt()
}

#[test]
fn several_trials_of_a_replicate_are_their_mean_everywhere() {
    let mut once = Sweep::default().rows(power_law);
    let mut twice = Vec::new();
    for (row, at) in once.iter_mut().zip(0..) {
        // In steps of 1/64, so that the mean of two is exactly the one between them.
        figures_of(row)
            .into_iter()
            .for_each(|of| *of = (*of * 64.0).round() / 64.0);
        for (side, sign) in [(0, 1.0), (1, -1.0)] {
            let mut half = row.clone();
            half.trial_index = 2 * at + side;
            half.trial_key = String::new();
            let apart = sign * f64::from(at % 7) / 64.0;
            figures_of(&mut half)
                .into_iter()
                .for_each(|of| *of += apart);
            twice.push(half);
        }
    }
    let read = read_trials_table(&write_csv(&twice).unwrap()).unwrap();
    assert_eq!(read.rows, twice);
    assert!(
        read.notes.iter().any(|note| note.contains("count as one")),
        "{:?}",
        read.notes
    );
    let (summary, analysis) = summary_and_analysis(&once);
    let (summary_of_two, analysis_of_two) = summary_and_analysis(&twice);
    for (one, two) in summary
        .combinations
        .iter()
        .zip(&summary_of_two.combinations)
    {
        assert_eq!((one.trials * 2, &one.metrics), (two.trials, &two.metrics));
    }
    for (one, two) in summary.levels.iter().zip(&summary_of_two.levels) {
        assert_eq!(one.metrics, two.metrics);
    }
    // Shares, importances, effects, correlations, curves and costs.
    assert_eq!(analysis.scopes, analysis_of_two.scopes);
    assert_eq!(analysis.cost_models, analysis_of_two.cost_models);
    assert_eq!(analysis.decisions, analysis_of_two.decisions);
    let compared = |rows: &[Row]| {
        let slower = Sweep {
            seed: 2,
            ..Sweep::default()
        };
        let slower = slower.rows(|row| 1.02 * power_law(row));
        let mut comparison = compare(rows, &slower, &Options::default());
        comparison.a = comparison.b.clone();
        comparison
    };
    assert_eq!(compared(&once).metrics, compared(&twice).metrics);
}

/// A power of two, about 1e-301: it takes every square of a figure below the least number that there is.
fn tiny() -> f64 {
    2.0_f64.powi(-1000)
}

#[test]
fn no_figure_is_lost_to_a_tiny_or_a_huge_scale() {
    let mut rows = Sweep::default().rows(power_law);
    // Some combinations rest on the iterations of one replicate.
    rows.retain(|row| row.replicate == 0 || row.batch_size < 8);
    for row in &mut rows {
        row.iterations = Some(5);
        row.std_ttlt_ms = row.mean_ttlt_ms.map(|mean| 0.02 * mean);
        row.median_ttlt_ms = row.mean_ttlt_ms;
        row.min_ttlt_ms = row.mean_ttlt_ms.map(|mean| 0.97 * mean);
        row.max_ttlt_ms = row.mean_ttlt_ms.map(|mean| 1.03 * mean);
    }
    let document = |rows: &[Row]| {
        let (summary, analysis) = summary_and_analysis(rows);
        let page = report(&summary, &analysis, html);
        assert!(!page.contains("NaN"));
        serde_json::json!({"summary": summary, "analysis": analysis})
    };
    let plain = document(&rows);
    for scale in [tiny(), 1.0 / tiny()] {
        let mut scaled = rows.clone();
        for row in &mut scaled {
            figures_of(row).into_iter().for_each(|of| *of *= scale);
        }
        same(&plain, &document(&scaled), scale, "");
    }
}

proptest! {
    #[test]
    fn an_estimate_has_no_scale(
        blocks in prop::collection::vec(prop::collection::vec(1.0f64..1e3, 3), 2..6), exponent in -1000_i32..1000,
    ) {
        let scale = 2.0_f64.powi(exponent);
        let of = |scale: f64| {
            let trial = |(value, replicate): (&f64, u32)| Observation { replicate, value: value * scale, within: None };
            let combinations = blocks.iter().map(|values| values.iter().zip(0..).map(trial).collect());
            estimate(&combinations.collect::<Vec<_>>()).unwrap()
        };
        let (plain, scaled) = (of(1.0), of(scale));
        prop_assert_eq!(plain.mean * scale, scaled.mean);
        prop_assert_eq!(plain.sd.map(|sd| sd * scale), scaled.sd);
        prop_assert_eq!(plain.high.map(|high| high * scale), scaled.high);
        prop_assert_eq!(plain.cv, scaled.cv);
    }
}

/// The same members, whose numbers are the same but for the scale, and but for rounding in logarithms.
fn same(plain: &Value, scaled: &Value, scale: f64, path: &str) {
    match (plain, scaled) {
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()), "{path}: {a:?}\n{b:?}");
            for (key, a) in a {
                same(a, &b[key], scale, &format!("{path}.{key}"));
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{path}");
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                same(a, b, scale, &format!("{path}[{at}]"));
            }
        }
        (Value::Number(_), Value::Number(_)) => {
            let (a, b) = (plain.as_f64().unwrap(), scaled.as_f64().unwrap());
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs().max(b.abs());
            let ratio = close(a, b) || (a - b).abs() < 1e-9;
            // Figures, and what they are divided by.
            let figure = close(a, b / scale) || close(a, b * scale);
            assert!(ratio || figure, "{path}: {a} and {b}");
        }
        // Texts hold rounded figures.
        (Value::String(_), Value::String(_)) => {}
        _ => assert_eq!(plain, scaled, "{path}"),
    }
}

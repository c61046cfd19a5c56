//! One factor more, with two levels: it tells combinations apart in everything that is made of rows, and nothing of one
//! level is pooled with anything of the other. For every factor of the table that a row need not name, and for
//! parameters with levels of every type.

use inferbench_crds::{
    factor::{Factor, Kind, Level},
    outcome::Outcome,
    spec::Objectives,
    workload::Workload,
};
use inferbench_results::{
    analysis::{Analysis, analyze},
    beside::beside,
    columns::{Cell, TableRow as _},
    compare::{self, compare},
    export::llm_d,
    figures,
    fixtures::Sweep,
    import::{File, VllmOptions, vllm_latency},
    report::{Report, html, markdown},
    row::Row,
    sample::{combine, factors, latest_attempts},
    status,
    summary::{Summary, summarize},
    tables::{ParquetTable, read_trials_csv, write_csv},
};
use proptest::prelude::*;

/// By what the second level multiplies all times.
const SLOWER: f64 = 2.0;
/// Combinations of the sweep without the factor.
const COMBINATIONS: usize = 20;

/// Every kind of factor that may come, each with two levels.
fn additional() -> Vec<(Factor, [Level; 2])> {
    let parameter = |name: &str| Factor::Parameter(name.into());
    let mut found = vec![
        (parameter("slots"), [Level::from(64), Level::from(256)]),
        (
            parameter("share"),
            [Level::parse("0.5"), Level::parse("0.9")],
        ),
        (
            parameter("policy"),
            [Level::from("fcfs"), Level::from("priority")],
        ),
        (
            parameter("chunked"),
            [Level::Boolean(false), Level::Boolean(true)],
        ),
        (parameter("limit"), [Level::from(8), Level::from("auto")]),
        // Named like something else that is called so.
        (parameter("perplexity"), [Level::from(1), Level::from(2)]),
    ];
    // A load of requests stands in place of batches, not beside them: `fixtures::servers` has one.
    for factor in Factor::builtins().filter(|factor| !factor.may_be_absent()) {
        if let Some(implied) = factor.implied() {
            let other = match implied.number() {
                Some(0.0) => Level::from(50),
                Some(number) => Level::from(2 * number as u32),
                None => Level::from("other"),
            };
            found.push((factor, [implied, other]));
        }
    }
    found
}

/// The time of an iteration as a cost model has it.
fn truth(row: &Row) -> f64 {
    let (b, s, n) = (
        f64::from(row.batch_size),
        f64::from(row.input_len),
        f64::from(row.output_len),
    );
    5.0 + 2.0 * n + 0.01 * s * b + 0.1 * n * b + 0.001 * n * b * (s + n / 2.0)
}

fn sweep(seed: u64) -> Vec<Row> {
    Sweep {
        inputs: &[16, 32],
        outputs: &[16, 32],
        gpus: &[1],
        replicates: 3,
        noise: 0.001,
        seed,
        ..Sweep::default()
    }
    .rows(truth)
}

fn slowed(row: &mut Row, factor: f64) {
    for time in [
        &mut row.mean_ttft_ms,
        &mut row.mean_ttlt_ms,
        &mut row.normalized_latency_ms,
    ] {
        *time = time.map(|time| time * factor);
    }
    for rate in [
        &mut row.output_throughput,
        &mut row.output_throughput_per_gpu,
    ] {
        *rate = rate.map(|rate| rate / factor);
    }
}

fn numbered(mut rows: Vec<Row>) -> Vec<Row> {
    for (index, row) in (0..).zip(&mut rows) {
        row.trial_index = index;
        row.run_order = index;
        row.trial_key = format!("{index:064x}");
    }
    rows
}

/// The sweep at both levels.
fn crossed(factor: &Factor, levels: &[Level; 2]) -> Vec<Row> {
    let mut all = Vec::new();
    for (level, slower) in levels.iter().zip([1.0, SLOWER]) {
        all.extend(sweep(1).into_iter().map(|mut row| {
            assert!(row.set_level(factor, level), "{factor}");
            slowed(&mut row, slower);
            row
        }));
    }
    numbered(all)
}

struct Made {
    summary: Summary,
    analysis: Analysis,
    objectives: Objectives,
}

fn made(rows: &[Row]) -> Made {
    let objectives = Objectives::default();
    let summary = summarize("made-up", rows, &objectives);
    let analysis = analyze(rows, &summary, &objectives);
    Made {
        summary,
        analysis,
        objectives,
    }
}

fn near(found: f64, expected: f64) -> bool {
    (found / expected - 1.0).abs() < 0.01
}

#[test]
fn combinations_and_levels_are_told_apart() {
    for (factor, levels) in additional() {
        let rows = crossed(&factor, &levels);
        let latest = latest_attempts(&rows);
        let combinations = combine(&latest);
        assert_eq!(combinations.len(), 2 * COMBINATIONS, "{factor}");
        for combination in &combinations {
            assert_eq!(combination.valid.len(), 3, "{factor}");
            let own = combination.levels.get(&factor);
            assert!(
                combination
                    .valid
                    .iter()
                    .all(|row| row.levels().get(&factor) == own)
            );
        }
        assert!(factors(combinations.iter().map(|c| &c.levels)).contains(&factor));

        let Made { summary, .. } = made(&rows);
        assert_eq!(summary.combinations.len(), 2 * COMBINATIONS);
        for combination in &summary.combinations {
            let level = combination.levels.get(&factor).unwrap();
            let slower = if *level == levels[0] { 1.0 } else { SLOWER };
            let mut row = Row::default();
            for (factor, level) in combination.levels.iter() {
                assert!(row.set_level(factor, level));
            }
            let ttlt = combination.metrics["ttltMs"].mean;
            assert!(
                near(ttlt, truth(&row) * slower),
                "{factor}: {combination:?}"
            );
        }
        let own: Vec<_> = summary
            .levels
            .iter()
            .filter(|of| of.factor == factor)
            .collect();
        let [first, second] = own.as_slice() else {
            panic!("{factor}: {own:?}");
        };
        assert_eq!([&first.level, &second.level], [&levels[0], &levels[1]]);
        let ratio = second.metrics["ttltMs"].mean / first.metrics["ttltMs"].mean;
        assert!(near(ratio, SLOWER), "{factor}: {ratio}");
        // A factor that nobody chooses has a best choice at each of its levels.
        for best in &summary.best {
            let own = best.levels.get(&factor);
            if Workload::takes(&factor) {
                assert!(levels.iter().any(|level| own == Some(level)), "{factor}");
            } else {
                assert_eq!(own, Some(&levels[0]), "{factor}");
            }
        }
        let workloads = if Workload::takes(&factor) { 8 } else { 4 };
        assert_eq!(summary.workloads, workloads, "{factor}");
        let mix = &summary.mixes[0];
        assert_eq!(mix.workloads.len(), workloads as usize);
        let chosen = (!Workload::takes(&factor)).then_some(&levels[0]);
        for best in &mix.best {
            assert_eq!(best.of.choice.levels().get(&factor), chosen, "{factor}");
        }
    }
}

/// Whether effects go per doubling: nothing doubles from 0.
fn doubles(factor: &Factor, levels: &[Level]) -> bool {
    let above_0 = |level: &Level| level.number().is_some_and(|number| number > 0.0);
    factor.kind(levels) == Kind::Number && levels.iter().all(above_0)
}

#[test]
fn effects_shares_curves_and_costs_know_it() {
    for (factor, levels) in additional() {
        let Made { analysis, .. } = made(&crossed(&factor, &levels));
        let [scope] = analysis.scopes.as_slice() else {
            panic!("{factor}: one model has one scope");
        };
        let coverage = &scope.coverage;
        assert_eq!((coverage.grid, coverage.balanced), (40, 40), "{factor}");
        let own = scope.factors.iter().find(|of| of.factor == factor).unwrap();
        assert_eq!(own.levels, levels);

        let numeric = doubles(&factor, &levels);
        let ttlt = scope
            .attribution
            .iter()
            .find(|of| of.metric == "ttltMs")
            .unwrap();
        let effect = ttlt.effects.iter().find(|of| of.factor == factor).unwrap();
        assert!(
            near(effect.ratios.last().unwrap().ratio.value, SLOWER),
            "{effect:?}"
        );
        let doublings = levels[1].number().zip(levels[0].number());
        let doublings = doublings.map(|(high, low)| (high / low).log2());
        match doublings.filter(|_| numeric) {
            Some(doublings) => {
                let found = effect.per_doubling.unwrap().value;
                assert!(
                    near(found, SLOWER.powf(1.0 / doublings)),
                    "{factor}: {found}"
                );
            }
            None => assert_eq!(effect.per_doubling, None),
        }
        for shares in [&ttlt.log, &ttlt.raw] {
            let shares = shares.as_ref().unwrap();
            let share = shares
                .factors
                .iter()
                .find(|of| of.factor == factor)
                .unwrap();
            assert!(share.first_order > 0.05, "{factor}: {share:?}");
            let importance = &shares.importance;
            assert!(
                importance.factors.iter().any(|of| of.factor == factor),
                "{importance:?}"
            );
        }
        let numeric = factor.kind(&levels) == Kind::Number;
        let pairs = &scope.correlation.pairs;
        let pair = pairs
            .iter()
            .find(|of| of.factor == factor && of.metric == "ttltMs");
        assert_eq!(
            pair.is_some_and(|pair| pair.pearson.unwrap() > 0.2),
            numeric,
            "{factor}"
        );
        let curve = scope
            .curves
            .iter()
            .find(|of| of.factor == factor && of.metric == "ttltMs");
        assert_eq!(
            curve.map(|curve| curve.points.len()),
            doubles(&factor, &levels).then_some(2),
            "{factor}"
        );

        // A model per level, each of which predicts what was held out.
        let models = &analysis.cost_models;
        let of: Vec<_> = models
            .iter()
            .map(|model| model.levels.get(&factor).unwrap())
            .collect();
        assert_eq!(of, [&levels[0], &levels[1]], "{factor}");
        for model in models {
            assert!(
                model.check.unwrap().median_error < 0.01,
                "{factor}: {model:?}"
            );
            let kept = |p: &inferbench_results::analysis::cost::CostPrediction| {
                p.levels.get(&factor) == model.levels.get(&factor)
            };
            assert!(model.predictions.iter().all(kept));
        }
        // Two levels that differ by a factor of two are no outliers of one combination.
        assert!(analysis.trust.outliers.is_empty(), "{factor}");
        for front in &analysis.decisions.fronts {
            let best = |p: &inferbench_results::analysis::decisions::FrontPoint| {
                Workload::takes(&factor) || p.levels.get(&factor) == Some(&levels[0])
            };
            assert!(front.points.iter().all(best), "{factor}");
        }
    }
}

#[test]
fn documents_keep_it() {
    for (factor, levels) in additional() {
        let Made {
            summary, analysis, ..
        } = made(&crossed(&factor, &levels));
        let text = serde_json::to_string(&summary).unwrap();
        assert_eq!(
            serde_json::from_str::<Summary>(&text).unwrap(),
            summary,
            "{factor}"
        );
        let text = serde_json::to_string(&analysis).unwrap();
        let back: Analysis = serde_json::from_str(&text).unwrap();
        assert_eq!(back.cost_models.len(), 2);
        for (back, model) in back.cost_models.iter().zip(&analysis.cost_models) {
            assert_eq!(
                back.levels.get(&factor),
                model.levels.get(&factor),
                "{factor}"
            );
        }
    }
}

#[test]
fn the_status_has_it() {
    for (factor, levels) in additional() {
        let Made {
            summary, analysis, ..
        } = made(&crossed(&factor, &levels));
        let status = status::bounded(&summary, &analysis);
        let own = status
            .factors
            .iter()
            .find(|of| of.factor == factor.name())
            .unwrap();
        assert_eq!(own.levels, levels.each_ref().map(ToString::to_string));
        let effect = |of: &&inferbench_crds::status::Effect| of.factor == factor.name();
        assert!(
            status
                .effects
                .iter()
                .filter(effect)
                .all(|of| of.share.is_some())
        );
        assert!(status.effects.iter().any(|of| effect(&of)), "{factor}");
        let configurations = status.best.iter().map(|best| &best.configuration);
        for point in configurations.chain(&status.pareto) {
            let chosen = point.levels.get(&factor);
            assert!(Workload::takes(&factor) || chosen == Some(&levels[0]));
        }
    }
}

#[test]
fn tables_have_a_column_for_it() {
    for (factor, levels) in additional() {
        let rows = crossed(&factor, &levels);
        let csv = write_csv(&rows).unwrap();
        assert_eq!(read_trials_csv(&csv).unwrap(), rows, "{factor}");
        let columns = Row::columns(&rows);
        let at = columns
            .iter()
            .position(|column| column.name == factor.column())
            .unwrap();
        let further = Row::further_columns(&rows);
        let cells = |row: &Row| format!("{:?}", row.all_cells(&further)[at]);
        assert_ne!(cells(&rows[0]), cells(rows.last().unwrap()), "{factor}");
        assert_ne!(rows.last().unwrap().all_cells(&further)[at], Cell::Empty);

        let mut parquet = ParquetTable::for_rows(&rows).unwrap();
        parquet.push(&rows).unwrap();
        assert_eq!(parquet.rows(), rows.len());
        assert!(!parquet.finish().unwrap().is_empty());
        if let Factor::Parameter(name) = &factor {
            let error = ParquetTable::for_rows(&[])
                .unwrap()
                .push(&rows)
                .unwrap_err()
                .to_string();
            assert!(error.contains(&**name), "{error}");
        }
    }
}

#[test]
fn reports_and_figures_name_it() {
    for (factor, levels) in additional() {
        let made = made(&crossed(&factor, &levels));
        let figures = figures::all(&made.summary, &made.analysis);
        let report = Report {
            summary: &made.summary,
            analysis: &made.analysis,
            objectives: &made.objectives,
            figures: &figures,
            doubtful: &[],
        };
        let page = html(&report);
        let title = factor.title();
        // In the tables of levels, effects, shares and combinations, and in the figures.
        assert!(page.matches(title).count() > 10, "{factor}");
        for level in &levels {
            assert!(page.contains(&level.to_string()), "{factor} {level}");
        }
        let text = markdown(&report);
        assert!(text.contains(&levels[0].to_string()), "{factor}\n{text}");
        let effects = figures
            .iter()
            .find(|figure| figure.name == "effects")
            .unwrap();
        let mut rows = effects.table.rows.iter().filter(|row| row[0] == "TTLT");
        assert!(
            rows.any(|row| row[2] == title),
            "{factor}: {:?}",
            effects.table
        );
        if doubles(&factor, &levels) {
            let along = figures
                .iter()
                .find(|figure| figure.name == "factors")
                .unwrap();
            assert!(
                along.table.rows.iter().any(|row| row[1] == title),
                "{factor}"
            );
        }
        let combinations = figures
            .iter()
            .find(|figure| figure.name == "cost-models")
            .unwrap();
        let legend = &combinations.drawing.as_ref().unwrap().legend;
        assert_eq!(legend.len(), 2, "{factor}: {legend:?}");
        assert_ne!(legend[0].label, legend[1].label);
    }
}

#[test]
fn comparisons_match_it() {
    for (factor, levels) in additional() {
        let rows = crossed(&factor, &levels);
        let comparison = compare(&rows, &rows, &compare::Options::default());
        assert_eq!(comparison.matched as usize, 2 * COMBINATIONS, "{factor}");
        let text = compare::text::plain(&comparison);
        for level in &levels {
            assert!(text.contains(&level.to_string()), "{factor}\n{text}");
        }
        // Only one of the levels is in both.
        let (first, _) = rows.split_at(rows.len() / 2);
        let comparison = compare(&rows, first, &compare::Options::default());
        assert_eq!(
            (comparison.matched as usize, comparison.only_in_a.len()),
            (COMBINATIONS, COMBINATIONS),
            "{factor}"
        );
        let of_a = |of: &inferbench_results::sample::Levels| of.get(&factor) == Some(&levels[1]);
        assert!(comparison.only_in_a.iter().all(of_a));
    }
}

#[test]
fn sweeps_side_by_side_keep_it() {
    for (factor, levels) in additional() {
        let rows = crossed(&factor, &levels);
        let all = beside(vec![rows.clone(), rows]);
        let latest = latest_attempts(&all);
        assert_eq!(combine(&latest).len(), 4 * COMBINATIONS, "{factor}");
    }
}

#[test]
fn exports_and_imports_tell_it_apart() {
    for (factor, levels) in additional() {
        let rows = crossed(&factor, &levels);
        let [first, last] =
            [&rows[0], &rows[rows.len() / 2]].map(|row| llm_d::report(row).unwrap());
        let id = |report: &serde_json::Value, of: &str| {
            report
                .pointer(&format!("/scenario/{of}/metadata/cfg_id"))
                .cloned()
                .unwrap()
        };
        let same = ["stack/0", "load"].map(|of| id(&first, of) == id(&last, of));
        assert!(same.contains(&false), "{factor}");

        // A run that another program measured is no replicate of a trial at the other level.
        let mut before = rows[rows.len() - 1].clone();
        before.sweep = "vllm".into();
        before.gpus = 1;
        let options = VllmOptions {
            sweep: "vllm".into(),
            model: Some(before.model.clone()),
            batch_size: Some(before.batch_size),
            input_length: Some(before.input_len),
            output_length: Some(before.output_len),
            gpus: Some(before.gpus),
            dtype: Some(before.dtype.clone()),
            ..VllmOptions::default()
        };
        let file = File {
            name: "a.json".into(),
            bytes: br#"{"latencies": [0.5, 0.6]}"#.to_vec(),
        };
        let all = vllm_latency(vec![before], &[file], &options).unwrap();
        assert_eq!(all[1].replicate, 0, "{factor}");
    }
}

#[test]
fn what_has_no_measurement_is_told_apart() {
    for (factor, levels) in additional() {
        let mut rows = crossed(&factor, &levels);
        for row in &mut rows {
            row.outcome = Some(Outcome::OutOfMemory);
        }
        let trust = made(&rows).analysis.trust;
        let named: Vec<_> = trust.unmeasured[0]
            .combinations
            .iter()
            .filter_map(|of| of.get(&factor))
            .collect();
        assert_eq!(named.len(), 20, "{factor}: the first twenty are named");
        assert!(named.iter().all(|level| **level == levels[0]));
    }
}

/// Two engines, of which one takes a parameter.
#[test]
fn a_parameter_of_one_engine_is_judged_within_it() {
    let slots = Factor::Parameter("slots".into());
    let mut rows = Vec::new();
    for (engine, level, slower) in [
        ("candle", None, 1.0),
        ("other", Some(64), 3.0),
        ("other", Some(256), 6.0),
    ] {
        rows.extend(sweep(1).into_iter().map(|mut row| {
            row.engine = Some(engine.into());
            if let Some(level) = level {
                assert!(row.set_level(&slots, &Level::from(level)));
            }
            slowed(&mut row, slower);
            row
        }));
    }
    let Made {
        summary, analysis, ..
    } = made(&numbered(rows));
    assert_eq!(summary.combinations.len(), 3 * COMBINATIONS);
    let scope = &analysis.scopes[0];
    let coverage = &scope.coverage;
    assert_eq!(
        (coverage.grid, coverage.measured, coverage.balanced),
        (60, 60, 60)
    );
    let ttlt = scope
        .attribution
        .iter()
        .find(|of| of.metric == "ttltMs")
        .unwrap();
    let effect = |factor: &Factor| ttlt.effects.iter().find(|of| of.factor == *factor).unwrap();
    // From 64 to 256 are two doublings.
    assert!(near(
        effect(&slots).per_doubling.unwrap().value,
        2_f64.sqrt()
    ));
    // The engine's goes over both levels of it: √(3·6).
    let engine = &effect(&Factor::ENGINE).ratios.last().unwrap().ratio;
    assert!(near(engine.value, 18_f64.sqrt()), "{engine:?}");
    let log = ttlt.log.as_ref().unwrap();
    for factor in [&Factor::ENGINE, &slots] {
        let share = log.factors.iter().find(|of| of.factor == *factor).unwrap();
        assert!(share.first_order > 0.05, "{share:?}");
    }
    assert_eq!(analysis.cost_models.len(), 3);
    let curve = scope
        .curves
        .iter()
        .find(|of| of.factor == slots && of.metric == "ttltMs");
    assert_eq!(curve.unwrap().points.len(), 2);
    assert!(
        analysis
            .notes
            .iter()
            .any(|note| note.contains("slots has levels"))
    );
}

proptest! {
    /// Trials are of one combination exactly where all their levels are equal.
    #[test]
    fn groups_are_those_of_equal_levels(
        trials in prop::collection::vec((0..3_u32, 0..3_u32, any::<bool>(), 0..3_usize), 1..40)
    ) {
        let policy = Factor::Parameter("policy".into());
        let chunked = Factor::Parameter("chunked".into());
        let rows: Vec<Row> = trials.iter().zip(0..).map(|((batch, engine, chunks, nth), index)| {
            let mut row = Row {
                trial_index: index,
                batch_size: *batch,
                outcome: Some(Outcome::Succeeded),
                valid: Some(true),
                engine: (*engine > 0).then(|| format!("engine-{engine}")),
                ..Row::default()
            };
            row.set_level(&chunked, &Level::Boolean(*chunks));
            if let Some(level) = [None, Some("fcfs"), Some("priority")][*nth] {
                row.set_level(&policy, &Level::from(level));
            }
            row
        }).collect();
        let distinct: std::collections::BTreeSet<_> = trials.iter().collect();
        let latest = latest_attempts(&rows);
        let combinations = combine(&latest);
        prop_assert_eq!(combinations.len(), distinct.len());
        prop_assert_eq!(combinations.iter().map(|c| c.valid.len()).sum::<usize>(), rows.len());
        // The order of rows does not matter, nor a trip through a table.
        let read = read_trials_csv(&write_csv(&rows).unwrap()).unwrap();
        prop_assert_eq!(combine(&latest_attempts(&read)).len(), distinct.len());
        // Every function copes with whatever groups there are.
        let objectives = Objectives::default();
        let summary = summarize("made-up", &rows, &objectives);
        let analysis = analyze(&rows, &summary, &objectives);
        prop_assert_eq!(summary.combinations.len(), distinct.len());
        prop_assert!(!status::bounded(&summary, &analysis).factors.iter().any(|of| of.levels.len() < 2));
    }
}

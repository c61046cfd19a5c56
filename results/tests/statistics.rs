//! The analysis against scipy, statsmodels and scikit-learn, over `tests/fixtures/statistics.json`:
//! `scripts/fixtures/make_statistics_fixtures.py` says what each of its sections holds and makes it.

use std::collections::BTreeMap;

use inferbench_crds::{outcome::Outcome, spec::Objectives};
use inferbench_results::{
    analysis::{
        Analysis, analyze,
        attribution::{ShareMethod, Shares},
        correlation::{pearson, spearman},
        cost::Coefficients,
        curves::{Family, fit},
        importance::{Importance, SEEDS, importance},
        trust::{median, modified_z, spearman_p},
    },
    compare::ratio::holm,
    interval::{Observation, estimate},
    row::Row,
    sample::Factor,
    summary::summarize,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

fn section<T: DeserializeOwned>(name: &str) -> T {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/statistics.json"))
        .expect("the fixture is JSON");
    serde_json::from_value(fixture[name].clone()).expect(name)
}

#[derive(Deserialize)]
struct Sweep {
    codes: BTreeMap<Factor, Vec<Option<u16>>>,
    seeds: u32,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    name: String,
    y: Vec<f64>,
    r2: f64,
    r2_sd: f64,
    importances: BTreeMap<Factor, Expected>,
}

#[derive(Deserialize)]
struct Expected {
    mean: f64,
    sd: f64,
}

/// Another generator draws other splits and samples: means over as many seeds agree within one seed's spread.
#[test]
fn a_forest_scores_as_scikit_learns_does() {
    let sweep: Sweep = section("forest");
    let features: Vec<(Factor, Vec<Option<u16>>)> = sweep.codes.into_iter().collect();
    for target in sweep.targets {
        let runs: Vec<Importance> = (0..u64::from(sweep.seeds / SEEDS))
            .map(|seed| importance(&features, &target.y, seed))
            .collect();
        let mean = |value: &dyn Fn(&Importance) -> f64| {
            runs.iter().map(value).sum::<f64>() / runs.len() as f64
        };
        let r2 = mean(&|run| run.held_out_r2.unwrap());
        println!("{}: R² {r2:.4}, scikit-learn {:.4}", target.name, target.r2);
        assert!((r2 - target.r2).abs() <= target.r2_sd, "{}", target.name);
        for (at, (factor, _)) in features.iter().enumerate() {
            let expected = &target.importances[factor];
            let found = mean(&|run| run.factors[at].mean);
            println!(
                "  {factor:?} {found:.4}, scikit-learn {:.4} ± {:.4}",
                expected.mean, expected.sd
            );
            assert_eq!(runs[0].factors[at].factor, *factor);
            assert!(
                (found - expected.mean).abs() <= expected.sd + 1e-3,
                "{}, {factor:?}: {found} instead of {} ± {}",
                target.name,
                expected.mean,
                expected.sd
            );
        }
    }
}

/// Equal to 1e-9, relative to the larger one or to `scale`.
fn close(found: f64, expected: f64, scale: f64) -> bool {
    (found - expected).abs() <= 1e-9 * found.abs().max(expected.abs()).max(scale)
}

fn analysis(rows: &[Row]) -> Analysis {
    let objectives = Objectives::default();
    analyze(rows, &summarize("parity", rows, &objectives), &objectives)
}

/// One valid trial.
fn trial(index: usize, ttlt_ms: f64) -> Row {
    Row {
        trial_index: index as u32,
        trial_key: format!("{index:064x}"),
        outcome: Some(Outcome::Succeeded),
        valid: Some(true),
        model: "m".into(),
        dtype: "f32".into(),
        batch_size: 1,
        input_len: 1,
        output_len: 1,
        gpus: 1,
        mean_ttlt_ms: Some(ttlt_ms),
        ..Row::default()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Correlated {
    name: String,
    x: Vec<f64>,
    y: Vec<f64>,
    pearson: f64,
    spearman: f64,
    spearman_p: f64,
}

#[test]
fn correlations_are_scipys() {
    for set in section::<Vec<Correlated>>("correlation") {
        let name = &set.name;
        let (r, rho) = (
            pearson(&set.x, &set.y).unwrap(),
            spearman(&set.x, &set.y).unwrap(),
        );
        assert!(close(r, set.pearson, 1.0), "{name}: {r} {}", set.pearson);
        assert!(
            close(rho, set.spearman, 1.0),
            "{name}: {rho} {}",
            set.spearman
        );
        let p = spearman_p(rho, set.x.len());
        assert!(
            close(p, set.spearman_p, 1.0),
            "{name}: {p} {}",
            set.spearman_p
        );
    }
}

#[derive(Deserialize)]
struct TInterval {
    values: Vec<f64>,
    mean: f64,
    sd: f64,
    low: f64,
    high: f64,
}

#[test]
fn intervals_are_scipys() {
    for set in section::<Vec<TInterval>>("tIntervals") {
        let trials: Vec<Observation> = (0..)
            .zip(&set.values)
            .map(|(replicate, value)| Observation {
                replicate,
                value: *value,
                within: None,
            })
            .collect();
        let found = estimate(&[trials]).unwrap();
        for (found, expected) in [
            (found.mean, set.mean),
            (found.sd.unwrap(), set.sd),
            (found.low.unwrap(), set.low),
            (found.high.unwrap(), set.high),
        ] {
            assert!(close(found, expected, set.mean.abs()), "{found} {expected}");
        }
    }
}

/// A factorial whose columns a, b, c, d become batch size, input length, output length and GPUs.
fn factorial(codes: &BTreeMap<String, Vec<u32>>, y: &[f64]) -> Vec<Row> {
    let columns: Vec<&Vec<u32>> = codes.values().collect();
    let level = |column: usize, at: usize| columns.get(column).map_or(1, |codes| codes[at] + 1);
    y.iter()
        .enumerate()
        .map(|(at, y)| Row {
            batch_size: level(0, at),
            input_len: level(1, at),
            output_len: level(2, at),
            gpus: level(3, at),
            ..trial(at, *y)
        })
        .collect()
}

const COLUMNS: [(&str, Factor); 4] = [
    ("a", Factor::BATCH_SIZE),
    ("b", Factor::INPUT_LENGTH),
    ("c", Factor::OUTPUT_LENGTH),
    ("d", Factor::GPUS),
];

/// The share of a term: of a factor by its column, of a pair by both.
fn share(shares: &Shares, term: &str) -> f64 {
    let factor = |name: &str| {
        COLUMNS
            .iter()
            .find(|(column, _)| *column == name)
            .unwrap()
            .1
            .clone()
    };
    match term.split_once(':') {
        None => {
            let found = shares
                .factors
                .iter()
                .find(|share| share.factor == factor(term));
            found.unwrap().first_order
        }
        Some((a, b)) => {
            let pair = [factor(a), factor(b)];
            let found = shares
                .interactions
                .iter()
                .find(|share| share.factors == pair);
            found.unwrap().share
        }
    }
}

#[derive(Deserialize)]
struct Factorial<T> {
    codes: BTreeMap<String, Vec<u32>>,
    y: Vec<f64>,
    raw: T,
    log: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeTwo {
    total: f64,
    two_way: Sums,
}

#[derive(Deserialize)]
struct Sums {
    sums: BTreeMap<String, f64>,
    explained: f64,
}

#[test]
fn shares_with_missing_cells_are_statsmodels() {
    for set in section::<Vec<Factorial<TypeTwo>>>("typeTwo") {
        let analysis = analysis(&factorial(&set.codes, &set.y));
        let ttlt = &analysis.scopes[0].attribution[0];
        for (shares, expected) in [(&ttlt.raw, &set.raw), (&ttlt.log, &set.log)] {
            let shares = shares.as_ref().unwrap();
            assert_eq!(shares.method, ShareMethod::TypeTwo);
            assert!(close(shares.explained, expected.two_way.explained, 1.0));
            for (term, sum) in &expected.two_way.sums {
                if term != "Residual" {
                    let (found, expected) = (share(shares, term), sum / expected.total);
                    assert!(close(found, expected, 1.0), "{term}: {found} {expected}");
                }
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FullGrid {
    first_order: BTreeMap<String, f64>,
    total_order: BTreeMap<String, f64>,
    interactions: BTreeMap<String, f64>,
}

#[test]
fn shares_of_a_full_grid_are_exact() {
    for set in section::<Vec<Factorial<FullGrid>>>("fullGrid") {
        let analysis = analysis(&factorial(&set.codes, &set.y));
        let ttlt = &analysis.scopes[0].attribution[0];
        for (shares, expected) in [(&ttlt.raw, &set.raw), (&ttlt.log, &set.log)] {
            let shares = shares.as_ref().unwrap();
            assert_eq!(shares.method, ShareMethod::FullGrid);
            for (term, expected) in expected.first_order.iter().chain(&expected.interactions) {
                let found = share(shares, term);
                assert!(close(found, *expected, 1.0), "{term}: {found} {expected}");
            }
            for ((_, factor), expected) in COLUMNS.iter().zip(expected.total_order.values()) {
                let found = shares
                    .factors
                    .iter()
                    .find(|share| share.factor == *factor)
                    .unwrap();
                assert!(
                    close(found.total, *expected, 1.0),
                    "{factor:?}: {found:?} {expected}"
                );
            }
        }
    }
}

#[derive(Deserialize)]
struct Curve {
    name: String,
    x: Vec<f64>,
    y: Vec<f64>,
    families: BTreeMap<Family, ExpectedFit>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExpectedFit {
    scale: f64,
    slope: Option<f64>,
    relative_rmse: f64,
    r2: Option<f64>,
}

#[test]
fn curves_are_scipys() {
    for set in section::<Vec<Curve>>("fits") {
        let fits = fit(&set.x, &set.y);
        for (family, expected) in &set.families {
            let found = fits.iter().find(|fit| fit.family == *family).unwrap();
            let says = format!(
                "{} {family:?}: {found:?} {}",
                set.name, expected.relative_rmse
            );
            assert!(
                close(found.relative_rmse, expected.relative_rmse, 1.0),
                "{says}"
            );
            assert!(
                close(found.scale, expected.scale, 0.0),
                "{says} {}",
                expected.scale
            );
            if let Some(slope) = expected.slope {
                assert!(close(found.slope.unwrap(), slope, 1.0), "{says} {slope}");
            }
            if let (Some(found), Some(expected)) = (found.r2, expected.r2) {
                assert!(close(found, expected, 1.0), "{says} {expected}");
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    name: String,
    batch_size: Vec<u32>,
    input_length: Vec<u32>,
    output_length: Vec<u32>,
    ttlt_ms: Vec<f64>,
    coefficients: [f64; 5],
}

#[test]
fn cost_models_are_scipys() {
    for set in section::<Vec<Cost>>("cost") {
        let rows: Vec<Row> = (0..set.ttlt_ms.len())
            .map(|at| Row {
                batch_size: set.batch_size[at],
                input_len: set.input_length[at],
                output_len: set.output_length[at],
                ..trial(at, set.ttlt_ms[at])
            })
            .collect();
        let analysis = analysis(&rows);
        let Coefficients {
            fixed,
            step,
            input_token,
            output_token,
            context,
        } = analysis.cost_models[0].coefficients.unwrap();
        let found = [fixed, step, input_token, output_token, context];
        for (found, expected) in found.iter().zip(&set.coefficients) {
            assert!(
                close(*found, *expected, 0.0),
                "{}: {found} {expected}",
                set.name
            );
        }
    }
}

#[derive(Deserialize)]
struct Outliers {
    values: Vec<f64>,
    median: f64,
    scores: Vec<f64>,
}

#[test]
fn outliers_are_scipys() {
    for set in section::<Vec<Outliers>>("outliers") {
        let centre = median(set.values.clone());
        assert!(close(centre, set.median, 0.0));
        let deviations: Vec<f64> = set.values.iter().map(|value| value - centre).collect();
        for (found, expected) in modified_z(&deviations).unwrap().iter().zip(&set.scores) {
            assert!(close(*found, *expected, 1.0), "{found} {expected}");
        }
    }
}

#[derive(Deserialize)]
struct Holm {
    p: Vec<f64>,
    adjusted: Vec<f64>,
}

#[test]
fn adjusted_probabilities_are_statsmodels() {
    for set in section::<Vec<Holm>>("holm") {
        for (found, expected) in holm(&set.p).iter().zip(&set.adjusted) {
            assert!(close(*found, *expected, 1.0), "{found} {expected}");
        }
    }
}

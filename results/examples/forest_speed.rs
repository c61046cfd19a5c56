//! How long permutation importance takes: reads `{"codes": [[…], …], "target": […]}` (a column of levels' ranks per
//! factor) from the file that the first argument names, and prints the median seconds of as many runs as the second
//! argument says. `scripts/peers/scikit_learn.py` holds it against scikit-learn.
//!
//! `cargo run --release -p inferbench-results --example forest_speed -- FILE RUNS`

use std::time::Instant;

use inferbench_results::{
    analysis::{
        forest::{Forest, Observations},
        importance::{FactorImportance, MIN_COMBINATIONS, TREES, importance},
    },
    sample::Factor,
};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Data {
    codes: Vec<Vec<u16>>,
    target: Vec<f64>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("no file given")?;
    let runs = arguments.next().map_or(Ok(5), |runs| runs.parse())?;
    let data: Data = serde_json::from_slice(&std::fs::read(file)?)?;
    let columns: Vec<&[u16]> = data.codes.iter().map(Vec::as_slice).collect();
    let observations = Observations::new(&columns, &data.target)?;
    if observations.rows() < MIN_COMBINATIONS {
        return Err("too few rows".into());
    }
    let rows: Vec<usize> = (0..observations.rows()).collect();
    let factors = (0..).map(|at: usize| Factor::Parameter(format!("factor{at}").into()));
    let known = |codes: Vec<u16>| codes.into_iter().map(Some).collect();
    let features: Vec<(Factor, Vec<Option<u16>>)> =
        factors.zip(data.codes.into_iter().map(known)).collect();

    let fit_s = median(runs, || {
        Forest::fit(&observations, &rows, rows.len(), TREES, 1)
    });
    let importance_s = median(runs, || importance(&features, &data.target, 1));
    let result = importance(&features, &data.target, 1);
    let of_factors =
        |of: fn(&FactorImportance) -> f64| -> Vec<f64> { result.factors.iter().map(of).collect() };
    println!(
        "{}",
        json!({
            "threads": rayon::current_num_threads(),
            "fit_s": fit_s,
            "importance_s": importance_s,
            "r2": result.held_out_r2,
            "importances": of_factors(|factor| factor.mean),
            "sds": of_factors(|factor| factor.sd),
            "refused": result.refused,
        })
    );
    Ok(())
}

fn median<T>(runs: usize, work: impl Fn() -> T) -> f64 {
    let mut seconds: Vec<f64> = (0..runs.max(1))
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(work());
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

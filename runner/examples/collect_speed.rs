//! How long the collection of a large sweep takes: writes made-up records (20,160 of 5 iterations × 16 to 64 tokens, or
//! as many as the first argument says) into a temporary folder and collects them into all tables, analysis and report.
//!
//! `cargo run --release -p inferbench --example collect_speed`

use std::time::Instant;

use inferbench_crds::{
    layout::record_path,
    spec::{Dtype, Objectives},
};
use inferbench_results::{fixtures, row::Planned};
use inferbench_runner::{
    store::{Store, StoreOptions},
    sweep::collect::collect,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let trials: u32 = std::env::args()
        .nth(1)
        .map_or(Ok(20_160), |count| count.parse())?;
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("trials"))?;
    let mut plan = Vec::new();
    let mut bytes = 0;
    for trial_index in 0..trials {
        let mut request = fixtures::request();
        // The study's design: 10 blocks of 2,016 combinations.
        request.replicate = trial_index / 2016;
        let combination = trial_index % 2016;
        request.combination.batch_size = 1 << (combination % 7);
        request.combination.input_length = 16 << (combination / 7 % 6);
        request.combination.output_length = 16 * (1 + combination / 42 % 4);
        request.combination.dtype =
            [Dtype::F32, Dtype::Bf16, Dtype::F16][combination as usize / 168 % 3];
        request.combination.model.name = format!("model-{}", combination / 504);
        let document = fixtures::measured(request.clone(), trial_index).write()?;
        bytes += document.len();
        let record = fixtures::measured(request.clone(), trial_index);
        std::fs::write(folder.path().join(record_path(&record.trial_key)), document)?;
        plan.push(Planned {
            trial_index,
            run_order: trial_index,
            request,
            outcome: None,
        });
    }
    println!(
        "{trials} records, {:.1} kB each",
        bytes as f64 / f64::from(trials) / 1e3
    );

    let store = Store::open(
        &folder.path().display().to_string(),
        &StoreOptions::default(),
    )?;
    let start = Instant::now();
    let collected = collect(&store, "speed", plan, 1, &Objectives::default(), &[], None)?;
    println!(
        "collected {} rows in {:.2} s",
        collected.rows.len(),
        start.elapsed().as_secs_f64()
    );
    for file in &collected.manifest.files {
        println!("{:>12} bytes  {}", file.bytes, file.name);
    }
    Ok(())
}

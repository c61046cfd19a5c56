//! Reads the table of a sweep of 20,160 trials (2 models × 7 batch sizes × 6 input lengths × 6 output lengths × 4
//! numbers of GPUs × 10 replicates), analyses it and makes the whole report, and says how long each part takes and how
//! much memory all of it took. The aim is less than 5 s and 500 MiB on two cores:
//! `RAYON_NUM_THREADS=2 cargo run --release -p inferbench-results --features fixtures --example analysis_speed`.

use std::time::Instant;

use inferbench_crds::spec::Objectives;
use inferbench_results::{
    analysis::analyze,
    figures,
    fixtures::study::Study,
    report::{Report, html},
    summary::summarize,
    tables::{read_trials_csv, write_csv},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let csv = write_csv(
        &Study {
            batch_sizes: vec![1, 2, 4, 8, 16, 32, 64],
            input_lengths: vec![16, 32, 64, 128, 256, 512],
            output_lengths: vec![16, 32, 64, 128, 256, 512],
            gpus: vec![1, 2, 4, 8],
            replicates: 10,
            ..Study::default()
        }
        .rows(),
    )?;
    let objectives = Objectives::default();
    let start = Instant::now();
    let mut before = 0.0;
    let mut lap = || {
        let now = start.elapsed().as_secs_f64();
        let lap = now - before;
        before = now;
        lap
    };
    let rows = read_trials_csv(&csv)?;
    let read = lap();
    let summary = summarize("speed", &rows, &objectives);
    let summarized = lap();
    let analysis = analyze(&rows, &summary, &objectives);
    let document = serde_json::to_vec(&analysis)?;
    let analysed = lap();
    let figures = figures::all(&summary, &analysis);
    let page = html(&Report {
        summary: &summary,
        analysis: &analysis,
        objectives: &objectives,
        figures: &figures,
        doubtful: &[],
    });
    let svg: usize = figures.iter().filter_map(|f| Some(f.svg()?.len())).sum();
    let reported = lap();
    println!(
        "{} trials, {} threads: table {read:.2} s, summary {summarized:.2} s, analysis {analysed:.2} s, report \
         {reported:.2} s, all {:.2} s; {} kB of JSON, {} kB of HTML, {} kB of SVG{}",
        rows.len(),
        rayon::current_num_threads(),
        start.elapsed().as_secs_f64(),
        document.len() / 1000,
        page.len() / 1000,
        svg / 1000,
        peak_memory().map_or(String::new(), |mib| format!("; peak memory {mib} MiB"))
    );
    Ok(())
}

fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}

//! Analyses a sweep of 20,160 trials (2 models × 7 batch sizes × 6 input lengths × 6 output lengths × 4 numbers of GPUs
//! × 10 replicates) and says how long each part takes and how much memory all of it took:
//! `cargo run --release -p inferbench-results --features fixtures --example analysis_speed`.

use std::time::Instant;

use inferbench_crds::spec::Objectives;
use inferbench_results::{analysis::analyze, fixtures::Sweep, summary::summarize};

fn main() {
    let rows = Sweep {
        models: &[("gpt2", 124_000_000), ("llama3-8b", 8_000_000_000)],
        batches: &[1, 2, 4, 8, 16, 32, 64],
        inputs: &[16, 32, 64, 128, 256, 512],
        outputs: &[16, 32, 64, 128, 256, 512],
        gpus: &[1, 2, 4, 8],
        replicates: 10,
        noise: 0.05,
        seed: 1,
    }
    .rows(|row| {
        let (batch, input) = (f64::from(row.batch_size), f64::from(row.input_len));
        let (output, gpus) = (f64::from(row.output_len), f64::from(row.gpus));
        let weights = row.model_params.unwrap_or_default() as f64 / 1e9;
        5.0 + output * (1.0 + weights / gpus) + 1e-3 * weights * batch * (input + output) / gpus
    });
    let objectives = Objectives::default();
    let start = Instant::now();
    let summary = summarize("speed", &rows, &objectives);
    let summarized = start.elapsed();
    let analysis = analyze(&rows, &summary, &objectives);
    let analysed = start.elapsed() - summarized;
    let bytes = serde_json::to_vec(&analysis).map_or(0, |bytes| bytes.len());
    println!(
        "{} trials: summary {:.2} s, analysis {:.2} s ({} kB of JSON){}",
        rows.len(),
        summarized.as_secs_f64(),
        analysed.as_secs_f64(),
        bytes / 1000,
        peak_memory().map_or(String::new(), |mib| format!(", peak memory {mib} MiB"))
    );
}

fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}

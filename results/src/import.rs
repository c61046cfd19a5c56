//! Results of other tools as rows, so that reports and comparisons can hold them beside ours.
//!
//! `vllm bench latency --output-json FILE` writes the seconds that each batch took, from handing over the prompts to
//! the last token: TTLT, with vLLM's scheduler in it and, unless `--disable-detokenize` is given, its detokenizing. It
//! tells no first token, so that TTFT, TPOT and the rates of their own stay empty. The file says nothing of what was
//! run; `FILE.pytorch.json`, which vLLM writes beside it where `SAVE_TO_PYTORCH_BENCHMARK_FORMAT` is set, holds all
//! arguments. Either is read; what a file does not say has to be given as an option.
//!
//! `vllm bench serve --save-result` writes statistics over requests that came one by one, in a closed loop
//! (`--max-concurrency`) or an open one (`--request-rate`). Its times begin when a request was sent and not when it was
//! meant to be, and its ITL has one gap for each event: it is read where that is one for each token. Its goodput has
//! objectives of its own, which the file does not tell, and is left out.

mod vllm;
mod vllm_serve;

use thiserror::Error;

pub use self::{vllm::VllmOptions, vllm_serve::VllmServeOptions};
use crate::row::Row;

/// A file with its name.
#[derive(Clone, Debug)]
pub struct File {
    /// As it is shown.
    pub name: String,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// Why a file cannot be imported: names the file, the member, its value and what is allowed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{file}: {problem}")]
pub struct ImportError {
    /// The file.
    pub file: String,
    /// The member, its value and what is allowed.
    pub problem: String,
}

/// The rows of `before`, then one per file of `vllm bench latency`. Files of one combination are its replicates, in their order.
///
/// # Errors
/// Where a file is not of that form, does not say what has not been told, contradicts what has been, or was imported
/// before: a copy is no replicate.
pub fn vllm_latency(
    before: Vec<Row>,
    files: &[File],
    options: &VllmOptions,
) -> Result<Vec<Row>, ImportError> {
    added(before, files, |bytes| vllm::row(bytes, options))
}

/// The rows of `before`, then one per file of `vllm bench serve`. Files of one combination are its replicates, in their
/// order.
///
/// # Errors
/// Where a file is not of that form, has a load or lengths that are no levels of ours, does not say what has not been
/// told, contradicts what has been, or was imported before: a copy is no replicate.
pub fn vllm_serve(
    before: Vec<Row>,
    files: &[File],
    options: &VllmServeOptions,
) -> Result<Vec<Row>, ImportError> {
    added(before, files, |bytes| vllm_serve::row(bytes, options))
}

fn added(
    before: Vec<Row>,
    files: &[File],
    read: impl Fn(&[u8]) -> Result<Row, String>,
) -> Result<Vec<Row>, ImportError> {
    let mut rows = before;
    for file in files {
        let failed = |problem| ImportError {
            file: file.name.clone(),
            problem,
        };
        let mut row = read(&file.bytes).map_err(failed)?;
        if let Some(other) = rows.iter().find(|other| other.sweep != row.sweep) {
            return Err(failed(format!(
                "the sweep is called {:?}, but the table to add to holds {:?}; one table is one sweep",
                row.sweep, other.sweep
            )));
        }
        if let Some(twin) = rows.iter().find(|other| other.trial_key == row.trial_key) {
            return Err(failed(format!(
                "the very same latencies as those of trial {}; a copy, or the .pytorch.json of one run, is no replicate",
                twin.trial_index
            )));
        }
        row.replicate = rows
            .iter()
            .filter(|other| other.levels() == row.levels())
            .map(|other| other.replicate + 1)
            .max()
            .unwrap_or(0);
        row.trial_index = rows
            .iter()
            .map(|other| other.trial_index + 1)
            .max()
            .unwrap_or(0);
        row.run_order = row.trial_index;
        rows.push(row);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        sample::{combine, latest_attempts},
        tables::{read_trials_csv, write_csv},
    };

    fn file(name: &str, document: &Value) -> File {
        File {
            name: name.into(),
            bytes: document.to_string().into_bytes(),
        }
    }

    /// As vLLM writes it: seconds, population percentiles.
    fn output(latencies: &[f64]) -> Value {
        json!({
            "avg_latency": latencies.iter().sum::<f64>() / latencies.len() as f64,
            "std_latency": 0.1,
            "latencies": latencies,
            "percentiles": {"10": 0.5, "25": 0.5, "50": 0.5, "75": 0.5, "90": 0.5, "99": 0.5},
        })
    }

    fn pytorch(latencies: &[f64], args: &Value) -> Value {
        json!([{
            "benchmark": {"name": "vLLM benchmark", "extra_info": {"args": args}},
            "model": {"name": "openai-community/gpt2"},
            "metric": {"name": "latency", "benchmark_values": latencies, "extra_info": {"avg_latency": 0.5}},
        }])
    }

    fn args() -> Value {
        json!({
            "model": "openai-community/gpt2", "revision": "607a30d", "input_len": 32, "output_len": 128,
            "batch_size": 8, "n": 1, "use_beam_search": false, "tensor_parallel_size": 2, "pipeline_parallel_size": 1,
            "dtype": "bfloat16", "enforce_eager": false, "enable_prefix_caching": false, "quantization": null,
        })
    }

    fn told() -> VllmOptions {
        VllmOptions {
            sweep: "vllm".into(),
            model: Some("gpt2".into()),
            batch_size: Some(8),
            input_length: Some(32),
            output_length: Some(128),
            gpus: Some(1),
            dtype: Some("bf16".into()),
            ..VllmOptions::default()
        }
    }

    fn sweep() -> VllmOptions {
        VllmOptions {
            sweep: "vllm".into(),
            ..VllmOptions::default()
        }
    }

    #[test]
    fn seconds_become_the_columns_of_ttlt() {
        let files = [
            file("a.json", &output(&[0.4, 0.5, 0.6])),
            file("b.json", &output(&[0.5])),
        ];
        let rows = vllm_latency(Vec::new(), &files, &told()).unwrap();
        let row = &rows[0];
        assert_eq!(
            (row.mean_ttlt_ms, row.median_ttlt_ms, row.iterations),
            (Some(500.0), Some(500.0), Some(3))
        );
        assert!((row.std_ttlt_ms.unwrap() - 100.0).abs() < 1e-9);
        // 8 × 128 tokens in 0.5 s.
        assert_eq!(row.output_throughput, Some(2048.0));
        assert_eq!(row.normalized_latency_ms, Some(500.0 / 1024.0));
        assert_eq!((row.mean_ttft_ms, row.mean_tpot_ms), (None, None));
        assert_eq!((rows[1].replicate, rows[1].trial_index), (1, 1));
        assert_eq!(rows[1].std_ttlt_ms, None);
    }

    #[test]
    fn the_table_reads_back_and_grows() {
        let first = [file("a.json", &output(&[0.4, 0.6]))];
        let rows = vllm_latency(Vec::new(), &first, &told()).unwrap();
        let read = read_trials_csv(&write_csv(&rows).unwrap()).unwrap();
        assert_eq!(read, rows);
        let others = [
            file("c.json", &output(&[0.41, 0.6])),
            file("d.json", &output(&[0.7])),
        ];
        let larger = VllmOptions {
            batch_size: Some(16),
            ..told()
        };
        let rows = vllm_latency(read, &others, &larger).unwrap();
        let at: Vec<_> = rows
            .iter()
            .map(|row| (row.trial_index, row.replicate))
            .collect();
        assert_eq!(at, [(0, 0), (1, 0), (2, 1)]);
        let latest = latest_attempts(&rows);
        let combinations = combine(&latest);
        assert_eq!(
            combinations
                .iter()
                .map(|c| c.valid.len())
                .collect::<Vec<_>>(),
            [1, 2]
        );
        let error = vllm_latency(rows, &first, &told()).unwrap_err().to_string();
        assert!(
            error.contains("a.json: the very same latencies as those of trial 0"),
            "{error}"
        );
    }

    #[test]
    fn arguments_in_the_file_need_no_telling() {
        let files = [file("a.pytorch.json", &pytorch(&[0.5, 0.5], &args()))];
        let row = vllm_latency(Vec::new(), &files, &sweep())
            .unwrap()
            .remove(0);
        assert_eq!(
            (row.model.as_str(), row.dtype.as_str()),
            ("openai-community/gpt2", "bf16")
        );
        assert_eq!(
            [row.batch_size, row.input_len, row.output_len, row.gpus],
            [8, 32, 128, 2]
        );
        assert_eq!(row.output_throughput_per_gpu, Some(1024.0));
        assert_eq!(
            (row.model_revision.as_str(), row.engine_mode.as_deref()),
            ("607a30d", Some("graph"))
        );
        let renamed = VllmOptions {
            model: Some("gpt2".into()),
            ..sweep()
        };
        let row = vllm_latency(Vec::new(), &files, &renamed)
            .unwrap()
            .remove(0);
        assert_eq!(row.model, "gpt2");
    }

    #[test]
    fn cached_prompts_make_a_trial_invalid() {
        let mut args = args();
        args["enable_prefix_caching"] = true.into();
        let files = [file("a", &pytorch(&[0.5], &args))];
        let row = vllm_latency(Vec::new(), &files, &sweep())
            .unwrap()
            .remove(0);
        assert_eq!(row.valid, Some(false));
        assert!(row.invalid_reasons.unwrap().contains("prefix caching"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let changed = |member: &str, value: Value| {
            let mut args = args();
            args[member] = value;
            pytorch(&[0.5], &args)
        };
        let mut wrong_mean = output(&[0.5]);
        wrong_mean["avg_latency"] = 500.0.into();
        for (document, options, said) in [
            (json!(3), told(), "x.json: is neither what"),
            (
                json!({"elapsed_time": 3}),
                told(),
                "an object with latencies",
            ),
            (
                json!([{"metric": {"name": "throughput"}}]),
                told(),
                "metric.name is latency",
            ),
            (json!({"latencies": []}), told(), "latencies: [] is no list"),
            (
                json!({"latencies": [0.5, -1]}),
                told(),
                "latencies[1]: -1 is no latency; allowed are seconds above 0",
            ),
            (
                json!({"latencies": [0.5, "x"]}),
                told(),
                "latencies[1]: \"x\"",
            ),
            (
                wrong_mean,
                told(),
                "avg_latency: 500.0 is not the mean of latencies, 0.5 s",
            ),
            (
                output(&[0.5]),
                sweep(),
                "batch_size: the file does not say; tell it with --batch-size",
            ),
            (
                pytorch(&[0.5], &args()),
                told(),
                "tensor_parallel_size: 2, but --gpus says 1",
            ),
            (changed("n", 4.into()), sweep(), "n: 4; allowed is 1"),
            (
                changed("use_beam_search", true.into()),
                sweep(),
                "use_beam_search: true",
            ),
            (
                changed("pipeline_parallel_size", 2.into()),
                sweep(),
                "pipeline_parallel_size: 2; allowed is 1: only runs of one stage and one replica are imported",
            ),
            (
                changed("batch_size", 0.into()),
                sweep(),
                "batch_size: 0; allowed are whole numbers from 1 on",
            ),
            (
                changed("dtype", "auto".into()),
                sweep(),
                "tell it with --dtype",
            ),
            (
                changed("dtype", "half".into()),
                VllmOptions {
                    gpus: None,
                    ..told()
                },
                "dtype: f16, but --dtype says bf16",
            ),
        ] {
            let error = vllm_latency(Vec::new(), &[file("x.json", &document)], &options)
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("x.json: ") && error.contains(said),
                "{error}"
            );
        }
        let broken = File {
            name: "x.json".into(),
            bytes: b"{\"latencies\": [NaN]}".to_vec(),
        };
        let error = vllm_latency(Vec::new(), &[broken], &told()).unwrap_err();
        assert!(error.problem.starts_with("is no JSON"), "{error}");
    }

    #[test]
    fn a_cpu_has_no_gpus() {
        let mut args = args();
        args["tensor_parallel_size"] = 1.into();
        let options = VllmOptions {
            gpus: Some(0),
            ..sweep()
        };
        let files = [file("a", &pytorch(&[0.5], &args))];
        let row = vllm_latency(Vec::new(), &files, &options)
            .unwrap()
            .remove(0);
        assert_eq!((row.gpus, row.output_throughput_per_gpu), (0, None));
    }
}

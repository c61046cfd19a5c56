//! Results of other tools as rows, so that reports and comparisons can hold them beside ours.
//!
//! `vllm bench latency --output-json FILE` writes the seconds that each batch took, from handing over the prompts to
//! the last token: TTLT, with vLLM's scheduler in it and, unless `--disable-detokenize` is given, its detokenizing. It
//! tells no first token, so that TTFT, TPOT and the rates of their own stay empty. The file says nothing of what was
//! run; `FILE.pytorch.json`, which vLLM writes beside it where `SAVE_TO_PYTORCH_BENCHMARK_FORMAT` is set, holds all
//! arguments. Either is read; what a file does not say has to be told.

use std::fmt::Display;

use inferbench_crds::outcome::Outcome;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    key::{KEY_LEN, sha256_hex},
    metrics::Stats,
    row::Row,
};

/// What the files do not say, or what is to be said in their place.
#[derive(Clone, Debug, Default)]
pub struct VllmOptions {
    /// The sweep's name.
    pub sweep: String,
    /// The model's level; where absent, the name that vLLM was given.
    pub model: Option<String>,
    /// The revision of the weights.
    pub model_revision: Option<String>,
    /// Sequences in a batch.
    pub batch_size: Option<u32>,
    /// Input tokens of each sequence.
    pub input_length: Option<u32>,
    /// Output tokens of each sequence.
    pub output_length: Option<u32>,
    /// GPUs that share the model; 0 for CPU.
    pub gpus: Option<u32>,
    /// Data type of weights and cache, by our name or by vLLM's.
    pub dtype: Option<String>,
    /// vLLM's version.
    pub engine_version: Option<String>,
    /// The GPU's name, or `cpu`.
    pub device: Option<String>,
}

/// A file with its name.
#[derive(Clone, Debug)]
pub struct File {
    /// As it is shown.
    pub name: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// Why a file cannot be imported: names the file, the member, its value and what is allowed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{file}: {problem}")]
pub struct ImportError {
    /// The file.
    pub file: String,
    /// What is wrong.
    pub problem: String,
}

/// What `vllm bench latency` says of one run.
struct Run {
    latencies_s: Vec<f64>,
    /// The arguments that vLLM was given, as far as the file tells.
    args: Map<String, Value>,
}

/// The rows of `before`, then one per file. Files of one combination are its replicates, in their order.
///
/// # Errors
/// Where a file is not of that form, does not say what has not been told, contradicts what has been, or was imported
/// before: a copy is no replicate.
pub fn vllm_latency(
    before: Vec<Row>,
    files: &[File],
    options: &VllmOptions,
) -> Result<Vec<Row>, ImportError> {
    let mut rows = before;
    for file in files {
        let failed = |problem| ImportError {
            file: file.name.clone(),
            problem,
        };
        let mut row = read(&file.bytes)
            .and_then(|run| row_of(&run, options))
            .map_err(failed)?;
        if let Some(other) = rows.iter().find(|other| other.sweep != row.sweep) {
            return Err(failed(format!(
                "the sweep is called {:?}, but the table to add to holds {:?}; one table is one sweep",
                row.sweep, other.sweep
            )));
        }
        if let Some(twin) = rows.iter().find(|other| other.trial_key == row.trial_key) {
            return Err(failed(format!(
                "latencies: the very same as those of trial {}; a copy, or the .pytorch.json of one run, is no replicate",
                twin.trial_index
            )));
        }
        row.replicate = rows
            .iter()
            .filter(|other| levels(other) == levels(&row))
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

fn levels(row: &Row) -> (&str, &str, [u32; 4]) {
    let numbers = [row.batch_size, row.input_len, row.output_len, row.gpus];
    (&row.model, &row.dtype, numbers)
}

fn read(bytes: &[u8]) -> Result<Run, String> {
    let document: Value =
        serde_json::from_slice(bytes).map_err(|error| format!("is no JSON: {error}"))?;
    match document {
        Value::Object(members) => of_output_json(members),
        Value::Array(records) => of_pytorch_json(&records),
        _ => Err(expected()),
    }
}

fn expected() -> String {
    "is neither what `vllm bench latency --output-json` writes, an object with latencies, nor its .pytorch.json, an \
     array with a record whose metric.name is latency"
        .into()
}

fn of_output_json(members: Map<String, Value>) -> Result<Run, String> {
    let latencies_s = seconds("latencies", members.get("latencies").ok_or_else(expected)?)?;
    if let Some(given) = members.get("avg_latency") {
        let mean = latencies_s.iter().sum::<f64>() / latencies_s.len() as f64;
        let agrees = given
            .as_f64()
            .is_some_and(|given| (given - mean).abs() <= 1e-6 * mean);
        if !agrees {
            return Err(format!(
                "avg_latency: {given} is not the mean of latencies, {mean} s"
            ));
        }
    }
    Ok(Run {
        latencies_s,
        args: members,
    })
}

fn of_pytorch_json(records: &[Value]) -> Result<Run, String> {
    let record = records
        .iter()
        .find(|record| record.pointer("/metric/name") == Some(&Value::from("latency")))
        .ok_or_else(expected)?;
    let values = record
        .pointer("/metric/benchmark_values")
        .ok_or("metric.benchmark_values: missing; the latencies in s belong there")?;
    let mut args = record
        .pointer("/benchmark/extra_info/args")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    if let Some(model) = record.pointer("/model/name") {
        args.entry("model").or_insert_with(|| model.clone());
    }
    Ok(Run {
        latencies_s: seconds("metric.benchmark_values", values)?,
        args,
    })
}

fn seconds(member: &str, value: &Value) -> Result<Vec<f64>, String> {
    let allowed = "allowed are seconds above 0";
    let list = value
        .as_array()
        .filter(|list| !list.is_empty())
        .ok_or_else(|| format!("{member}: {value} is no list of latencies; {allowed}"))?;
    list.iter()
        .enumerate()
        .map(|(at, value)| {
            value
                .as_f64()
                .filter(|seconds| (1e-9..1e9).contains(seconds))
                .ok_or_else(|| format!("{member}[{at}]: {value} is no latency; {allowed}"))
        })
        .collect()
}

fn row_of(run: &Run, options: &VllmOptions) -> Result<Row, String> {
    for (member, why) in [
        ("n", "several sequences of one prompt are no batch of ours"),
        (
            "pipeline_parallel_size",
            "gpus is the tensor-parallel degree",
        ),
        ("data_parallel_size", "gpus is the tensor-parallel degree"),
    ] {
        if let Some(value) = given(&run.args, member).filter(|value| value.as_u64() != Some(1)) {
            return Err(format!("{member}: {value}; allowed is 1: {why}"));
        }
    }
    if is_true(&run.args, "use_beam_search") {
        return Err("use_beam_search: true; allowed is false: it generates other tokens".into());
    }
    let batch_size = level(&run.args, "batch_size", options.batch_size, "--batch-size")?;
    let output_len = level(
        &run.args,
        "output_len",
        options.output_length,
        "--output-len",
    )?;
    let gpus = gpus(&run.args, options.gpus)?;
    let ms: Vec<f64> = run.latencies_s.iter().map(|s| s * 1000.0).collect();
    let stats = Stats::of(&ms).ok_or("latencies: empty")?;
    let tokens = f64::from(batch_size) * f64::from(output_len);
    let throughput = tokens / stats.mean * 1000.0;
    // The prompts are the same in every iteration.
    let cached = is_true(&run.args, "enable_prefix_caching");
    Ok(Row {
        sweep: options.sweep.clone(),
        trial_key: key(&run.latencies_s),
        outcome: Some(Outcome::Succeeded),
        valid: Some(!cached),
        invalid_reasons: cached.then(|| {
            "prefix caching was on, and every iteration has the same prompts: prefill was left out".into()
        }),
        model: model(&run.args, options)?,
        model_revision: options
            .model_revision
            .clone()
            .or_else(|| text(&run.args, "revision"))
            .unwrap_or_default(),
        dtype: dtype(&run.args, options.dtype.as_deref())?,
        batch_size,
        input_len: level(&run.args, "input_len", options.input_length, "--input-len")?,
        output_len,
        gpus,
        iterations: u32::try_from(ms.len()).ok(),
        mean_ttlt_ms: Some(stats.mean),
        median_ttlt_ms: Some(stats.median),
        std_ttlt_ms: stats.std,
        min_ttlt_ms: Some(stats.min),
        max_ttlt_ms: Some(stats.max),
        output_throughput: Some(throughput),
        normalized_latency_ms: Some(stats.mean / tokens),
        output_throughput_per_gpu: (gpus > 0).then(|| throughput / f64::from(gpus)),
        engine: Some("vllm".into()),
        engine_mode: given(&run.args, "enforce_eager")
            .and_then(Value::as_bool)
            .map(|eager| if eager { "eager" } else { "graph" }.into()),
        engine_version: options.engine_version.clone(),
        device: options.device.clone(),
        ..Row::default()
    })
}

/// A hash of the latencies, by which a run is known again.
fn key(latencies_s: &[f64]) -> String {
    let bytes: Vec<u8> = latencies_s
        .iter()
        .flat_map(|seconds| seconds.to_be_bytes())
        .collect();
    let mut key = sha256_hex(&bytes);
    key.truncate(KEY_LEN);
    key
}

fn given<'a>(args: &'a Map<String, Value>, member: &str) -> Option<&'a Value> {
    args.get(member).filter(|value| !value.is_null())
}

fn is_true(args: &Map<String, Value>, member: &str) -> bool {
    given(args, member) == Some(&Value::Bool(true))
}

fn text(args: &Map<String, Value>, member: &str) -> Option<String> {
    let text = given(args, member)?.as_str()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn missing(member: &str, option: &str) -> String {
    format!("{member}: the file does not say; tell it with {option}")
}

fn contradicts(member: &str, said: impl Display, option: &str, told: impl Display) -> String {
    format!("{member}: {said}, but {option} says {told}; allowed is one of the two for a file")
}

/// What the file says of a numeric level, or else what was told.
fn level(
    args: &Map<String, Value>,
    member: &str,
    told: Option<u32>,
    option: &str,
) -> Result<u32, String> {
    let said = given(args, member)
        .map(|value| {
            value
                .as_u64()
                .and_then(|number| u32::try_from(number).ok())
                .filter(|number| *number > 0)
                .ok_or_else(|| format!("{member}: {value}; allowed are whole numbers from 1 on"))
        })
        .transpose()?;
    match (said, told) {
        (Some(said), Some(told)) if said != told => Err(contradicts(member, said, option, told)),
        (_, Some(0)) => Err(format!("{option}: 0; allowed are whole numbers from 1 on")),
        (Some(number), _) | (None, Some(number)) => Ok(number),
        (None, None) => Err(missing(member, option)),
    }
}

/// On CPU vLLM's tensor-parallel degree is 1, too: that there are no GPUs has to be told.
fn gpus(args: &Map<String, Value>, told: Option<u32>) -> Result<u32, String> {
    let said = level(args, "tensor_parallel_size", None, "--gpus");
    match (said, told) {
        (Ok(1), Some(0)) => Ok(0),
        (Ok(said), Some(told)) if said != told => {
            Err(contradicts("tensor_parallel_size", said, "--gpus", told))
        }
        (Err(_), Some(told)) if given(args, "tensor_parallel_size").is_none() => Ok(told),
        (said, _) => said,
    }
}

/// A name that is told takes the place of vLLM's, so that the level is called alike in both sweeps of a comparison.
fn model(args: &Map<String, Value>, options: &VllmOptions) -> Result<String, String> {
    options
        .model
        .clone()
        .or_else(|| text(args, "model"))
        .or_else(|| text(args, "model_id"))
        .ok_or_else(|| missing("model", "--model"))
}

/// vLLM's `auto` is whatever the model's config.json says, which the file does not tell. Quantized weights go by the
/// quantization's name.
fn dtype(args: &Map<String, Value>, told: Option<&str>) -> Result<String, String> {
    let said = text(args, "quantization")
        .or_else(|| text(args, "dtype").filter(|dtype| dtype != "auto"))
        .map(|dtype| our_dtype(&dtype));
    let told = told.map(our_dtype);
    match (said, told) {
        (Some(said), Some(told)) if said != told => {
            Err(contradicts("dtype", said, "--dtype", told))
        }
        (Some(dtype), _) | (None, Some(dtype)) => Ok(dtype),
        (None, None) => Err(missing("dtype", "--dtype (f32, bf16, f16, q4_0 or q8_0)")),
    }
}

fn our_dtype(name: &str) -> String {
    match name.trim_start_matches("torch.") {
        "bfloat16" | "bf16" => "bf16".into(),
        "half" | "float16" | "f16" => "f16".into(),
        "float" | "float32" | "f32" => "f32".into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
            error.contains("a.json: latencies: the very same as those of trial 0"),
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
            levels(&row),
            ("openai-community/gpt2", "bf16", [8, 32, 128, 2])
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
                "pipeline_parallel_size: 2",
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

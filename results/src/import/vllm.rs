//! A file of `vllm bench latency` as a row.

use std::fmt::Display;

use inferbench_crds::outcome::Outcome;
use serde_json::{Map, Value};

use crate::{
    key::{KEY_LEN, sha256_hex},
    metrics::Stats,
    row::Row,
};

/// Values that the files do not hold, or that stand in for theirs.
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

/// One run of `vllm bench latency`.
struct Run {
    latencies_s: Vec<f64>,
    /// The arguments that vLLM was given, as far as the file tells.
    args: Map<String, Value>,
}

/// The row of a file, but for its place in a table.
pub(super) fn row(bytes: &[u8], options: &VllmOptions) -> Result<Row, String> {
    row_of(&read(bytes)?, options)
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
    let undivided = "only runs of one stage and one replica are imported";
    for (member, why) in [
        ("n", "several sequences of one prompt are no batch of ours"),
        ("pipeline_parallel_size", undivided),
        ("data_parallel_size", undivided),
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
        trial_key: hashed(&run.latencies_s),
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

/// A hash of what was measured, by which a run is known again.
pub(super) fn hashed(measured: &[f64]) -> String {
    let bytes: Vec<u8> = measured
        .iter()
        .flat_map(|number| number.to_be_bytes())
        .collect();
    let mut key = sha256_hex(&bytes);
    key.truncate(KEY_LEN);
    key
}

pub(super) fn given<'a>(args: &'a Map<String, Value>, member: &str) -> Option<&'a Value> {
    args.get(member).filter(|value| !value.is_null())
}

fn is_true(args: &Map<String, Value>, member: &str) -> bool {
    given(args, member) == Some(&Value::Bool(true))
}

pub(super) fn text(args: &Map<String, Value>, member: &str) -> Option<String> {
    let text = given(args, member)?.as_str()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

pub(super) fn missing(member: &str, option: &str) -> String {
    format!("{member}: the file does not say; tell it with {option}")
}

pub(super) fn contradicts(
    member: &str,
    said: impl Display,
    option: &str,
    told: impl Display,
) -> String {
    format!("{member}: {said}, but {option} says {told}; allowed is one of the two for a file")
}

/// A numeric level as the file has it, or else as it was told.
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

pub(super) fn our_dtype(name: &str) -> String {
    match name.trim_start_matches("torch.") {
        "bfloat16" | "bf16" => "bf16".into(),
        "half" | "float16" | "f16" => "f16".into(),
        "float" | "float32" | "f32" => "f32".into(),
        other => other.into(),
    }
}

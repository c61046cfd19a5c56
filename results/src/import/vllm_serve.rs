//! A file of `vllm bench serve` as a row.

use inferbench_crds::{
    factor::{Factor, Level, Number},
    outcome::Outcome,
};
use serde_json::{Map, Value};

use super::vllm::{contradicts, given, hashed, missing, our_dtype, text};
use crate::{
    metrics::{P50_SAMPLES, P90_SAMPLES, P99_SAMPLES},
    row::Row,
};

/// Values that the files do not hold, or that stand in for theirs.
#[derive(Clone, Debug, Default)]
pub struct VllmServeOptions {
    /// The sweep's name.
    pub sweep: String,
    /// The model's level; where absent, the name that the client was given.
    pub model: Option<String>,
    /// The revision of the weights.
    pub model_revision: Option<String>,
    /// Input tokens of each request; where absent, what the totals say.
    pub input_length: Option<u32>,
    /// Output tokens of each request; where absent, what the totals say.
    pub output_length: Option<u32>,
    /// The server's GPUs; 0 for CPU.
    pub gpus: Option<u32>,
    /// Data type of the weights, by our name or by vLLM's.
    pub dtype: Option<String>,
    /// The engine's level; `vllm` where absent.
    pub engine: Option<String>,
    /// The engine's version.
    pub engine_version: Option<String>,
    /// The GPU's name, or `cpu`.
    pub device: Option<String>,
}

type Members = Map<String, Value>;

/// The row of a file, but for its place in a table.
pub(super) fn row(bytes: &[u8], options: &VllmServeOptions) -> Result<Row, String> {
    let document: Value =
        serde_json::from_slice(bytes).map_err(|error| format!("is no JSON: {error}"))?;
    let members = document
        .as_object()
        .filter(|members| members.contains_key("request_throughput"))
        .ok_or(
            "is not what `vllm bench serve --save-result` writes, an object with request_throughput",
        )?;
    row_of(members, options)
}

fn row_of(file: &Members, options: &VllmServeOptions) -> Result<Row, String> {
    let (factor, level) = load(file)?;
    let duration_s = positive(file, "duration")?;
    let prompts = count(file, "num_prompts")?;
    let completed = count(file, "completed")?;
    if completed == 0 || completed > prompts {
        return Err(format!(
            "completed: {completed}; allowed are whole numbers from 1 to num_prompts, {prompts}"
        ));
    }
    let failed = prompts - completed;
    if let Some(said) = given(file, "failed").filter(|said| said.as_u64() != Some(failed.into())) {
        return Err(format!(
            "failed: {said} is not num_prompts − completed, {failed}"
        ));
    }
    if let Level::Number(streams) = &level
        && factor == Factor::CONCURRENCY
        && streams.get() > f64::from(prompts)
    {
        return Err(format!(
            "max_concurrency: {level}; allowed is at most num_prompts, {prompts}: else that number is never in flight"
        ));
    }
    let input = length(
        file,
        ("total_input_tokens", completed),
        options.input_length,
        "--input-len",
    )?;
    let output = length(
        file,
        ("total_output_tokens", completed),
        options.output_length,
        "--output-len",
    )?;
    let rate = agreeing(
        file,
        "request_throughput",
        f64::from(completed) / duration_s,
    )?;
    let tokens = f64::from(completed) * f64::from(output);
    let throughput = agreeing(file, "output_throughput", tokens / duration_s)?;
    let gpus = options.gpus.ok_or_else(|| missing("gpus", "--gpus"))?;
    let dtype = options
        .dtype
        .as_deref()
        .ok_or_else(|| missing("dtype", "--dtype (f32, bf16, f16, q4_0 or q8_0)"))?;
    let model = options
        .model
        .clone()
        .or_else(|| text(file, "model_id"))
        .ok_or_else(|| missing("model_id", "--model"))?;
    let ttft = Times::of(file, "ttft", completed)?;
    let tpot = Times::of(file, "tpot", completed)?;
    let e2e = Times::of(file, "e2el", completed)?;
    let gaps = completed.saturating_mul(output.saturating_sub(1));
    let itl = Times::of(file, "itl", gaps)?;
    // A gap for each event: one for each token only where both have the same mean.
    let itl = match (itl.mean, tpot.mean) {
        (Some(gap), Some(token)) if (gap - token).abs() <= 0.01 * token => itl,
        _ => Times::default(),
    };
    let mut row = Row {
        sweep: options.sweep.clone(),
        trial_key: hashed(&[
            duration_s,
            f64::from(completed),
            ttft.mean.unwrap_or_default(),
            tpot.mean.unwrap_or_default(),
        ]),
        outcome: Some(Outcome::Succeeded),
        valid: Some(failed == 0),
        invalid_reasons: (failed > 0).then(|| format!("{failed} of {prompts} requests failed")),
        model,
        model_revision: options.model_revision.clone().unwrap_or_default(),
        dtype: our_dtype(dtype),
        batch_size: 1,
        input_len: input,
        output_len: output,
        gpus,
        iterations: Some(completed),
        requests: Some(prompts),
        request_errors: Some(failed),
        mean_ttft_ms: ttft.mean,
        median_ttft_ms: ttft.median,
        std_ttft_ms: ttft.std,
        p50_ttft_ms: ttft.p50,
        p90_ttft_ms: ttft.p90,
        p99_ttft_ms: ttft.p99,
        mean_ttlt_ms: e2e.mean,
        median_ttlt_ms: e2e.median,
        std_ttlt_ms: e2e.std,
        p50_e2e_ms: e2e.p50,
        p90_e2e_ms: e2e.p90,
        p99_e2e_ms: e2e.p99,
        mean_tpot_ms: tpot.mean,
        median_tpot_ms: tpot.median,
        std_tpot_ms: tpot.std,
        p50_tpot_ms: tpot.p50,
        p90_tpot_ms: tpot.p90,
        p99_tpot_ms: tpot.p99,
        median_itl_ms: itl.median,
        p50_itl_ms: itl.p50,
        p90_itl_ms: itl.p90,
        p99_itl_ms: itl.p99,
        request_throughput: Some(rate),
        output_throughput: Some(throughput),
        output_throughput_per_gpu: (gpus > 0).then(|| throughput / f64::from(gpus)),
        max_in_flight: given(file, "max_concurrent_requests")
            .and_then(Value::as_f64)
            .map(|most| most as u32),
        engine: Some(options.engine.clone().unwrap_or_else(|| "vllm".into())),
        engine_mode: Some("server".into()),
        engine_version: options.engine_version.clone(),
        device: options.device.clone(),
        ..Row::default()
    };
    row.set_level(&factor, &level);
    Ok(row)
}

/// The load: requests in flight, or requests a second at random.
fn load(file: &Members) -> Result<(Factor, Level), String> {
    if let Some(ramp) = given(file, "ramp_up_strategy") {
        return Err(format!(
            "ramp_up_strategy: {ramp}; allowed is none: a rate that changes is no level"
        ));
    }
    let streams = given(file, "max_concurrency");
    match (given(file, "request_rate"), streams) {
        (None, None) => Err("request_rate: the file does not say, and no max_concurrency".into()),
        (None, Some(streams)) => concurrency(streams),
        (Some(rate), Some(streams)) if is_endless(rate) => concurrency(streams),
        (Some(rate), None) if is_endless(rate) => Err(format!(
            "request_rate: {rate} without max_concurrency sends all requests at once, which is neither a concurrency \
             nor a request rate"
        )),
        (Some(rate), Some(streams)) => Err(format!(
            "request_rate: {rate} with max_concurrency {streams}; allowed is one of them, for a load is closed or open"
        )),
        (Some(rate), None) => {
            let burstiness = given(file, "burstiness").and_then(Value::as_f64);
            if let Some(other) = burstiness.filter(|burstiness| *burstiness != 1.0) {
                return Err(format!(
                    "burstiness: {other}; allowed is 1: our requests come as a Poisson process"
                ));
            }
            let number = rate.as_f64().filter(|rate| *rate > 0.0);
            let number = number.and_then(Number::new).ok_or_else(|| {
                format!("request_rate: {rate}; allowed are numbers above 0 and \"inf\"")
            })?;
            Ok((Factor::REQUEST_RATE, Level::Number(number)))
        }
    }
}

fn is_endless(rate: &Value) -> bool {
    rate.as_str() == Some("inf")
}

fn concurrency(streams: &Value) -> Result<(Factor, Level), String> {
    let number = streams
        .as_u64()
        .and_then(|number| u32::try_from(number).ok());
    let number = number.filter(|number| *number > 0).ok_or_else(|| {
        format!("max_concurrency: {streams}; allowed are whole numbers from 1 on")
    })?;
    Ok((Factor::CONCURRENCY, Level::from(number)))
}

fn number(file: &Members, member: &str) -> Result<Option<f64>, String> {
    let Some(value) = given(file, member) else {
        return Ok(None);
    };
    match value.as_f64().filter(|number| *number >= 0.0) {
        Some(number) => Ok(Some(number)),
        None => Err(format!("{member}: {value}; allowed are numbers from 0 on")),
    }
}

fn positive(file: &Members, member: &str) -> Result<f64, String> {
    let value = given(file, member).ok_or_else(|| format!("{member}: missing"))?;
    value
        .as_f64()
        .filter(|number| *number > 0.0)
        .ok_or_else(|| format!("{member}: {value}; allowed are numbers above 0"))
}

fn count(file: &Members, member: &str) -> Result<u32, String> {
    let value = given(file, member).ok_or_else(|| format!("{member}: missing"))?;
    value
        .as_u64()
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| format!("{member}: {value}; allowed are whole numbers"))
}

/// A rate that the file says, which has to be what its other figures make.
fn agreeing(file: &Members, member: &str, made: f64) -> Result<f64, String> {
    let said = positive(file, member)?;
    if (said - made).abs() > 1e-6 * made {
        return Err(format!(
            "{member}: {said} is not what the other figures make, {made}"
        ));
    }
    Ok(made)
}

/// A length that all requests have: a total over the requests, which has to be a multiple of their number.
fn length(
    file: &Members,
    (member, completed): (&str, u32),
    told: Option<u32>,
    option: &str,
) -> Result<u32, String> {
    let total = count(file, member)?;
    if total == 0 || !total.is_multiple_of(completed) {
        return Err(format!(
            "{member}: {total} of {completed} requests; allowed are multiples of these: all requests of a trial have \
             the same lengths (a dataset of random prompts with --random-range-ratio 0 and --ignore-eos does)"
        ));
    }
    let said = total / completed;
    match told {
        Some(told) if told != said => Err(contradicts(member, said, option, told)),
        _ => Ok(said),
    }
}

/// One time as the file has it, by what as many observations suffice for.
#[derive(Default)]
struct Times {
    mean: Option<f64>,
    median: Option<f64>,
    std: Option<f64>,
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
}

impl Times {
    fn of(file: &Members, name: &str, observations: u32) -> Result<Self, String> {
        let of = |statistic: &str| number(file, &format!("{statistic}_{name}_ms"));
        // No gap between tokens is written as 0.
        if of("mean")?.is_none_or(|mean| mean == 0.0) {
            return Ok(Self::default());
        }
        let from =
            |least: usize| move |value: &f64| value.is_finite() && observations as usize >= least;
        let n = f64::from(observations);
        let median = of("median")?;
        Ok(Self {
            mean: of("mean")?,
            median,
            // numpy's has the count in its denominator.
            std: of("std")?
                .filter(|_| observations > 1)
                .map(|std| std * (n / (n - 1.0)).sqrt()),
            p50: median.filter(from(P50_SAMPLES)),
            p90: of("p90")?.filter(from(P90_SAMPLES)),
            p99: of("p99")?.filter(from(P99_SAMPLES)),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::import::{File, vllm_serve};

    fn closed() -> Value {
        json!({
            "date": "20260901-120000", "backend": "vllm", "model_id": "openai-community/gpt2", "num_prompts": 400,
            "request_rate": "inf", "burstiness": 1.0, "max_concurrency": 8, "duration": 20.0, "completed": 400,
            "failed": 0, "total_input_tokens": 51_200, "total_output_tokens": 12_800, "request_throughput": 20.0,
            "request_goodput": null, "output_throughput": 640.0, "max_concurrent_requests": 9,
            "mean_ttft_ms": 30.0, "median_ttft_ms": 28.0, "std_ttft_ms": 5.0, "p99_ttft_ms": 50.0,
            "mean_tpot_ms": 12.0, "median_tpot_ms": 11.5, "std_tpot_ms": 1.0, "p99_tpot_ms": 15.0,
            "mean_itl_ms": 12.0, "median_itl_ms": 11.0, "std_itl_ms": 2.0, "p99_itl_ms": 20.0,
        })
    }

    fn options() -> VllmServeOptions {
        VllmServeOptions {
            sweep: "serve".into(),
            gpus: Some(1),
            dtype: Some("bfloat16".into()),
            ..VllmServeOptions::default()
        }
    }

    fn changed(members: Value) -> Value {
        let mut document = closed();
        let Value::Object(members) = members else {
            unreachable!("members are an object");
        };
        document.as_object_mut().unwrap().extend(members);
        document
    }

    fn imported(document: &Value, options: &VllmServeOptions) -> Result<Row, String> {
        let file = File {
            name: "x.json".into(),
            bytes: document.to_string().into_bytes(),
        };
        vllm_serve(Vec::new(), &[file], options)
            .map(|mut rows| rows.remove(0))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_closed_loop_is_a_row() {
        let row = imported(&closed(), &options()).unwrap();
        assert_eq!(row.levels().number(&Factor::CONCURRENCY), Some(8.0));
        assert_eq!(
            (row.input_len, row.output_len, row.batch_size),
            (128, 32, 1)
        );
        assert_eq!(
            (row.request_throughput, row.output_throughput),
            (Some(20.0), Some(640.0))
        );
        assert_eq!(
            (row.mean_ttft_ms, row.p50_ttft_ms, row.p99_ttft_ms),
            (Some(30.0), Some(28.0), Some(50.0))
        );
        assert_eq!(
            (row.p99_itl_ms, row.mean_ttlt_ms, row.goodput),
            (Some(20.0), None, None)
        );
        assert!((row.std_ttft_ms.unwrap() - 5.0 * (400.0f64 / 399.0).sqrt()).abs() < 1e-12);
        assert_eq!(
            (row.valid, row.max_in_flight, row.dtype.as_str()),
            (Some(true), Some(9), "bf16")
        );
    }

    #[test]
    fn an_open_loop_is_a_row() {
        let document = changed(json!({"request_rate": 19.5, "max_concurrency": null}));
        let row = imported(&document, &options()).unwrap();
        assert_eq!(row.levels().number(&Factor::REQUEST_RATE), Some(19.5));
        assert_eq!(row.levels().number(&Factor::CONCURRENCY), Some(0.0));
    }

    #[test]
    fn gaps_between_events_are_no_gaps_between_tokens() {
        let row = imported(&changed(json!({"mean_itl_ms": 24.0})), &options()).unwrap();
        assert_eq!((row.median_itl_ms, row.p99_itl_ms), (None, None));
        assert_eq!(row.median_tpot_ms, Some(11.5));
    }

    #[test]
    fn few_requests_have_no_99th_percentile() {
        let few = json!({
            "num_prompts": 40, "completed": 40, "duration": 2.0,
            "total_input_tokens": 5_120, "total_output_tokens": 1_280, "p90_ttft_ms": 40.0,
        });
        let row = imported(&changed(few), &options()).unwrap();
        assert_eq!((row.p90_ttft_ms, row.p99_ttft_ms), (Some(40.0), None));
    }

    #[test]
    fn requests_that_failed_make_a_trial_invalid() {
        let row = imported(
            &changed(json!({"num_prompts": 403, "failed": 3})),
            &options(),
        )
        .unwrap();
        assert_eq!((row.valid, row.request_errors), (Some(false), Some(3)));
        assert_eq!(
            row.invalid_reasons.as_deref(),
            Some("3 of 403 requests failed")
        );
    }

    #[test]
    fn what_cannot_be_mapped_is_named() {
        for (members, said) in [
            (
                json!({"max_concurrency": null}),
                "request_rate: \"inf\" without max_concurrency",
            ),
            (
                json!({"request_rate": 4.0}),
                "request_rate: 4.0 with max_concurrency 8",
            ),
            (json!({"max_concurrency": 0}), "max_concurrency: 0"),
            (
                json!({"max_concurrency": 500}),
                "max_concurrency: 500; allowed is at most num_prompts, 400",
            ),
            (
                json!({"request_rate": 4.0, "max_concurrency": null, "burstiness": 0.5}),
                "burstiness: 0.5; allowed is 1",
            ),
            (
                json!({"request_rate": -1, "max_concurrency": null}),
                "request_rate: -1",
            ),
            (
                json!({"ramp_up_strategy": "linear"}),
                "ramp_up_strategy: \"linear\"",
            ),
            (json!({"completed": 0}), "completed: 0"),
            (
                json!({"failed": 7}),
                "failed: 7 is not num_prompts − completed, 0",
            ),
            (
                json!({"duration": 0}),
                "duration: 0; allowed are numbers above 0",
            ),
            (
                json!({"total_input_tokens": 51_201}),
                "total_input_tokens: 51201 of 400 requests",
            ),
            (
                json!({"request_throughput": 21.0}),
                "request_throughput: 21",
            ),
            (
                json!({"output_throughput": 641.0}),
                "output_throughput: 641",
            ),
            (json!({"mean_ttft_ms": "x"}), "mean_ttft_ms: \"x\""),
        ] {
            let error = imported(&changed(members), &options()).unwrap_err();
            assert!(
                error.starts_with("x.json: ") && error.contains(said),
                "{error}"
            );
        }
        let error = imported(&json!({"latencies": [1.0]}), &options()).unwrap_err();
        assert!(error.contains("vllm bench serve"), "{error}");
        for (options, said) in [
            (
                VllmServeOptions {
                    gpus: None,
                    ..options()
                },
                "tell it with --gpus",
            ),
            (
                VllmServeOptions {
                    dtype: None,
                    ..options()
                },
                "tell it with --dtype",
            ),
            (
                VllmServeOptions {
                    output_length: Some(64),
                    ..options()
                },
                "total_output_tokens: 32, but --output-len says 64",
            ),
        ] {
            let error = imported(&closed(), &options).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}

//! A trial as an llm-d Benchmark Report, version 0.2 (llm-d-benchmark, `schema_v0_2.py`): what its analysis tools read.
//!
//! The report speaks of requests, a trial of batches. Each sequence of a batch is a request of its own here, sent
//! together with the others, so that TTFT and request latency are the batch's. `normalized_time_per_output_token`
//! there is a request's latency over its output tokens, ttlt/n, and not our normalized latency, ttlt/(b·n).

use inferbench_crds::factor::{Factor, Scope};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{key::sha256_hex, row::Row, sample::is_invalid};

/// The report's version.
pub const VERSION: &str = "0.2";

/// The label of the one component, which the observations refer to.
const ENGINE: &str = "engine";

/// The name of a trial's report among those of its sweep.
#[must_use]
pub fn file_name(row: &Row) -> String {
    format!("trial-{:05}-{}.json", row.trial_index, row.attempt)
}

/// The report of a trial; `None` where nothing was measured, where it cannot be vouched for, which the report has no
/// place to say, or where requests came one by one and not in batches.
#[must_use]
pub fn report(row: &Row) -> Option<Value> {
    if is_invalid(row) || row.of_requests() {
        return None;
    }
    let ttlt_ms = finite(row.mean_ttlt_ms).filter(|ms| *ms > 0.0)?;
    let mut report = json!({
        "version": VERSION,
        "run": {
            "uid": uid(row),
            "eid": row.sweep,
            "time": row.started_at.map(|at: Timestamp| json!({"start": at.to_string()})),
            "keywords": ["inferbench", "static batch"],
        },
        "scenario": {"stack": [engine(row)], "load": load(row)},
        "results": {
            "request_performance": {"aggregate": aggregate(row, ttlt_ms)},
            "observability": {"components": [{
                "component_label": ENGINE,
                "aggregate": {
                    "gpu_utilization": row.gpu_util_mean_pct.and_then(|mean| {
                        statistics("percent", &[("mean", Some(mean)), ("max", row.gpu_util_max_pct)])
                    }),
                    "power_consumption": statistics("Watts", &[("mean", row.gpu_power_mean_w)]),
                },
            }]},
        },
    });
    tidy(&mut report);
    Some(report)
}

fn uid(row: &Row) -> String {
    if row.trial_key.is_empty() {
        format!("{}-{}-{}", row.sweep, row.trial_index, row.attempt)
    } else {
        row.trial_key.clone()
    }
}

fn engine(row: &Row) -> Value {
    let hardware = if row.gpus == 0 { &row.cpu } else { &row.device };
    let standardized = json!({
        "kind": "inference_engine",
        "tool": row.engine.as_deref().unwrap_or("unknown"),
        "tool_version": row.engine_version.as_deref().unwrap_or("unknown"),
        "role": "replica",
        "replicas": 1,
        "model": {"name": row.model},
        "accelerator": {
            "model": hardware.as_deref().or(row.device.as_deref()).unwrap_or("unknown"),
            "count": row.gpus,
            "parallelism": parallelism(row),
        },
    });
    let mut args = json!({
        "architecture": row.architecture,
        "dtype": row.dtype,
        "engine_mode": row.engine_mode,
        "model_revision": (!row.model_revision.is_empty()).then_some(&row.model_revision),
        "threads": row.threads,
    });
    add_levels(row, Scope::Start, &mut args);
    json!({
        "metadata": {
            "schema_version": "0.0.1",
            "label": ENGINE,
            "cfg_id": hash(json!([standardized, args])),
        },
        "standardized": standardized,
        "native": {
            "args": args,
            "config": {
                "cuda": row.cuda,
                "driver": row.driver,
                "image_digest": row.image_digest,
                "node": row.node,
            },
        },
    })
}

fn load(row: &Row) -> Value {
    let length = |tokens: u32| json!({"distribution": "fixed", "value": tokens});
    let standardized = json!({
        "tool": "inferbench",
        "tool_version": row.runner_version.as_deref().unwrap_or("unknown"),
        "parallelism": 1,
        // The tables do not say whether prompts were cut from a text or drawn.
        "source": "unknown",
        "stage": 0,
        "input_seq_len": length(row.input_len),
        "output_seq_len": length(row.output_len),
        "concurrency": row.batch_size.max(1),
    });
    let mut levels = json!({});
    add_levels(row, Scope::Load, &mut levels);
    let mut config = json!({
        "batch_size": row.batch_size,
        "iterations": row.iterations,
        "prompt_seed": row.prompt_seed,
        "replicate": row.replicate,
        "run_order": row.run_order,
    });
    add_levels(row, Scope::Load, &mut config);
    let id = if levels == json!({}) {
        hash(standardized.clone())
    } else {
        hash(json!([standardized, levels]))
    };
    json!({
        "metadata": {"schema_version": "0.0.1", "cfg_id": id},
        "standardized": standardized,
        "native": {"config": config},
    })
}

/// How the devices divide the work, all of them in one pod.
fn parallelism(row: &Row) -> Value {
    let levels = row.levels();
    let ways = |factor: &str| levels.number(&Factor::builtin(factor)).unwrap_or(1.0);
    let (stages, replicas) = (ways("pipelineParallel"), ways("dataParallel"));
    let ranks = (f64::from(row.gpus) / (stages * replicas)).max(1.0);
    let [ranks, stages, replicas] = [ranks, stages, replicas].map(|ways| ways as u32);
    json!({"tp": ranks, "dp": replicas, "dp_local": replicas, "workers": 1, "ep": 1, "pp": stages})
}

/// Adds the levels of the factors that the report has no member for, by their columns.
fn add_levels(row: &Row, scope: Scope, to: &mut Value) {
    let Value::Object(members) = to else { return };
    for (factor, level) in row
        .further
        .iter()
        .filter(|(factor, _)| factor.scope() == scope)
    {
        members.insert(factor.column().into_owned(), json!(level));
    }
}

fn aggregate(row: &Row, ttlt_ms: f64) -> Value {
    let batch = f64::from(row.batch_size);
    let per_second = |count: f64| Some(count / ttlt_ms * 1000.0);
    let tokens = |count: u32| {
        let count = Some(f64::from(count));
        statistics("count", &[("mean", count), ("min", count), ("max", count)])
    };
    let times = |unit, divisor: f64, [mean, median, std, min, max]: [Option<f64>; 5]| {
        let over = |value: Option<f64>| value.map(|value| value / divisor);
        statistics(
            unit,
            &[
                ("mean", over(mean)),
                ("stddev", over(std)),
                ("min", over(min)),
                ("p50", over(median)),
                ("max", over(max)),
            ],
        )
    };
    let ttft = [
        row.mean_ttft_ms,
        row.median_ttft_ms,
        row.std_ttft_ms,
        row.min_ttft_ms,
        row.max_ttft_ms,
    ];
    let ttlt = [
        row.mean_ttlt_ms,
        row.median_ttlt_ms,
        row.std_ttlt_ms,
        row.min_ttlt_ms,
        row.max_ttlt_ms,
    ];
    let tpot = [
        row.mean_tpot_ms,
        row.median_tpot_ms,
        row.std_tpot_ms,
        row.min_tpot_ms,
        row.max_tpot_ms,
    ];
    json!({
        "requests": {
            "total": u64::from(row.batch_size) * u64::from(row.iterations.unwrap_or(0)),
            "failures": 0,
            "incomplete": 0,
            "input_length": tokens(row.input_len),
            "output_length": tokens(row.output_len),
        },
        "latency": {
            "time_to_first_token": times("ms", 1.0, ttft),
            "time_per_output_token": times("ms/token", 1.0, tpot),
            // Every iteration has the same number of gaps, so that the mean of all of them is the mean of TPOT.
            "inter_token_latency": row.median_itl_ms.and_then(|median| {
                statistics("ms/token", &[
                    ("mean", row.mean_tpot_ms),
                    ("p50", Some(median)),
                    ("p90", row.p90_itl_ms),
                    ("max", row.max_itl_ms),
                ])
            }),
            "normalized_time_per_output_token": times("ms/token", f64::from(row.output_len.max(1)), ttlt),
            "request_latency": times("ms", 1.0, ttlt),
        },
        "throughput": {
            "input_token_rate": statistics("tokens/s", &[("mean", per_second(batch * f64::from(row.input_len)))]),
            "output_token_rate": statistics("tokens/s", &[("mean", per_second(batch * f64::from(row.output_len)))]),
            "total_token_rate": statistics("tokens/s", &[
                ("mean", per_second(batch * (f64::from(row.input_len) + f64::from(row.output_len)))),
            ]),
            "request_rate": statistics("queries/s", &[("mean", per_second(batch))]),
        },
    })
}

/// A member of the report that has a unit; `None` without a mean, which it has to have.
fn statistics(unit: &str, members: &[(&str, Option<f64>)]) -> Option<Value> {
    let mut statistics = Map::from_iter([("units".to_owned(), Value::from(unit))]);
    for (name, value) in members {
        if let Some(value) = finite(*value) {
            statistics.insert((*name).into(), value.into());
        }
    }
    statistics
        .contains_key("mean")
        .then_some(Value::Object(statistics))
}

fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}

fn hash(mut value: Value) -> String {
    tidy(&mut value);
    let mut hash = sha256_hex(value.to_string().as_bytes());
    hash.truncate(32);
    hash
}

/// Leaves out what is not known, and what is empty then. Sorts members: whether `serde_json` keeps them sorted depends
/// on features that any dependency can turn on.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<(String, Value)> = std::mem::take(members).into_iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
            for (name, mut member) in sorted {
                tidy(&mut member);
                if !is_empty(&member) {
                    members.insert(name, member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn reports() -> Vec<Value> {
        [fixtures::record(), fixtures::gpu_record()]
            .iter()
            .map(|record| report(&Row::of(record)).unwrap())
            .collect()
    }

    #[test]
    fn a_report() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&reports()[1]).unwrap());
    }

    /// `INFERBENCH_LLM_D_SCHEMA` names llm-d-benchmark's `br_v0_2_json_schema.json`, or any later one.
    #[test]
    fn reports_keep_to_the_schema() {
        let Some(path) = std::env::var_os("INFERBENCH_LLM_D_SCHEMA") else {
            println!(
                "skipped: INFERBENCH_LLM_D_SCHEMA does not name llm-d's br_v0_2_json_schema.json"
            );
            return;
        };
        let schema = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
        compiler.add_resource("llm-d.json", schema).unwrap();
        let index = compiler.compile("llm-d.json", &mut schemas).unwrap();
        let mut hostile = Row::of(&fixtures::record());
        hostile.mean_ttft_ms = Some(f64::NAN);
        hostile.model = String::new();
        hostile.sweep = String::new();
        hostile.trial_key = String::new();
        hostile.iterations = None;
        let imported = Row {
            model: "gpt2".into(),
            mean_ttlt_ms: Some(500.0),
            outcome: Some(inferbench_crds::outcome::Outcome::Succeeded),
            valid: Some(true),
            ..Row::default()
        };
        for report in reports()
            .into_iter()
            .chain([&hostile, &imported].map(|row| report(row).unwrap()))
        {
            if let Err(error) = schemas.validate(&report, index) {
                panic!("{error:#}\n{report:#}");
            }
        }
    }

    #[test]
    fn what_was_not_measured_or_cannot_be_vouched_for_has_no_report() {
        assert_eq!(report(&Row::of(&fixtures::out_of_memory())), None);
        let mut invalid = fixtures::record();
        invalid.valid = false;
        assert_eq!(report(&Row::of(&invalid)), None);
    }

    #[test]
    fn figures_are_those_of_the_row() {
        let row = Row::of(&fixtures::record());
        let report = report(&row).unwrap();
        let mean = |path: &str| {
            report
                .pointer(&format!(
                    "/results/request_performance/aggregate/{path}/mean"
                ))
                .and_then(Value::as_f64)
                .unwrap()
        };
        let close = |a: f64, b: Option<f64>| (a / b.unwrap() - 1.0).abs() < 1e-12;
        assert!(close(
            mean("throughput/output_token_rate"),
            row.output_throughput
        ));
        assert!(close(mean("latency/request_latency"), row.mean_ttlt_ms));
        // Two sequences in a batch: the request's latency per token is twice our normalized latency.
        assert!(close(
            mean("latency/normalized_time_per_output_token") / 2.0,
            row.normalized_latency_ms
        ));
        assert_eq!(
            report.pointer("/results/request_performance/aggregate/requests/total"),
            Some(&Value::from(10))
        );
    }
}

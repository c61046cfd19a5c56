//! Sweeps held beside others: import, compare, export.

use std::fs;

use crate::place::{Place, SPEC, stderr, stdout};

/// Three runs of one batch, in files as vLLM writes them.
fn write_runs(place: &Place, name: &str, seconds: f64) -> Vec<String> {
    (0..3)
        .map(|run| {
            let file = format!("{name}-{run}.json");
            let latency = seconds * (1.0 + 0.01 * f64::from(run));
            let document = format!("{{\"latencies\": [{latency}, {latency}]}}");
            fs::write(place.path().join(&file), document).unwrap();
            file
        })
        .collect()
}

#[test]
fn latencies_are_imported_compared_and_exported() {
    let place = Place::untouched(SPEC);
    for (name, seconds) in [("before", 0.5), ("after", 1.0)] {
        let files = write_runs(&place, name, seconds);
        let levels =
            "--model gpt2 --batch-size 8 --input-len 32 --output-len 128 --gpus 1 --dtype bf16";
        let mut arguments = vec!["import", "vllm-latency", "--out", name];
        arguments.extend(levels.split(' '));
        arguments.extend(files.iter().map(String::as_str));
        let output = place.command(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(stdout(&output).contains("3 trials, 3 of them new"));
        // The same runs again are no replicates.
        let output = place.command(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
        assert!(
            stderr(&output).contains("the very same"),
            "{}",
            stderr(&output)
        );
    }

    let limit = ["--fail-if", "slower=5%"];
    for (sweeps, code, said) in [
        (["before", "after"], 1, "wholly beyond 1.050: failed"),
        (["after", "before"], 0, "wholly within 1.050: kept"),
        (["before", "nowhere"], 2, ""),
    ] {
        let arguments = [&["compare"][..], &sweeps[..], &limit[..]].concat();
        let output = place.command(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stdout(&output).contains(said), "{}", stdout(&output));
    }
    let output = place
        .command(&["compare", "before", "after/trials.csv", "-o", "json"])
        .output()
        .unwrap();
    let document: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(document["matched"], 1);
    let output = place
        .command(&["compare", "before", "after", "--fail-if", "slower=5"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));

    let output = place
        .command(&["export", "llm-d", "before", "--out", "reports"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        fs::read_dir(place.path().join("reports")).unwrap().count(),
        3
    );
}

/// The output of `vllm bench serve --save-result` for 40 requests, 8 at a time.
fn served(duration_s: f64, model: &str) -> String {
    let (requests, input, output) = (40, 128, 32);
    let rate = f64::from(requests) / duration_s;
    serde_json::json!({
        "model_id": model, "num_prompts": requests, "request_rate": "inf", "max_concurrency": 8,
        "duration": duration_s, "completed": requests, "failed": 0,
        "total_input_tokens": requests * input, "total_output_tokens": requests * output,
        "request_throughput": rate, "output_throughput": rate * f64::from(output),
        "mean_ttft_ms": 30.0, "median_ttft_ms": 28.0, "std_ttft_ms": 5.0,
        "mean_tpot_ms": 12.0, "median_tpot_ms": 11.5, "std_tpot_ms": 1.0,
        "mean_itl_ms": 12.0, "median_itl_ms": 11.0, "std_itl_ms": 2.0,
    })
    .to_string()
}

#[test]
fn requests_that_vllm_timed_are_imported() {
    let place = Place::untouched(SPEC);
    for (run, duration_s) in [2.0, 2.1].into_iter().enumerate() {
        fs::write(
            place.path().join(format!("serve-{run}.json")),
            served(duration_s, "llama"),
        )
        .unwrap();
    }
    let files = ["serve-0.json", "serve-1.json"];
    let import = |more: &[&str]| {
        let arguments = [&["import", "vllm-serve", "--out", "served"], more, &files].concat();
        place.command(&arguments).output().unwrap()
    };
    // The command asks for levels that the files do not have.
    let output = import(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--gpus"), "{}", stderr(&output));

    let output = import(&["--gpus", "1", "--dtype", "bf16", "--engine", "vllm-0.25"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("2 trials, 2 of them new"));
    let table = fs::read_to_string(place.path().join("served/trials.csv")).unwrap();
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next().unwrap().split(',').collect();
    let first: Vec<&str> = lines.next().unwrap().split(',').collect();
    let cell = |name: &str| first[head.iter().position(|column| *column == name).unwrap()];
    let cells = ["engine", "model", "concurrency", "input_len", "output_len"].map(cell);
    assert_eq!(cells, ["vllm-0.25", "llama", "8", "128", "32"]);
    assert_eq!(cell("request_throughput"), "20");

    let output = place
        .command(&["report", "served", "--format", "md"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("vllm-0.25"), "{}", stdout(&output));
}

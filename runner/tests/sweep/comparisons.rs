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

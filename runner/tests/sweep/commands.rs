//! The other commands, as a user meets them.

use std::{fs, path::Path, process::Command};

use inferbench_engine::{Format, Weights, presets, save_gguf};

use crate::place::{Place, SPEC, stderr, stdout};

#[test]
fn validate_counts_or_names_everything_that_is_wrong() {
    let place = Place::untouched(SPEC);
    let output = place.command(&["validate", "spec.yaml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    insta::assert_snapshot!(stdout(&output), @"spec.yaml: tiny: ok (4 combinations, 8 trials)");

    place.write(
        &SPEC
            .replace("[1, 2]", "[1, 0]")
            .replace("tiny-gpt2", "tiny-gpt")
            .replace("retries", "retrys"),
    );
    let output = place.command(&["validate", "spec.yaml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!("validate_wrong", stderr(&output));
    for command in ["run", "plan", "collect"] {
        let output = place.command(&[command, "spec.yaml"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{command}");
    }
    let output = place
        .command(&["validate", "missing.yaml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!(stderr(&output), @"inferbench: missing.yaml: No such file or directory (os error 2)");
}

#[test]
fn a_spec_for_gpus_is_refused_where_nothing_can_measure_on_them() {
    if cfg!(feature = "cuda") || inferbench_engine::gpu::driver().is_ok() {
        eprintln!("skipped: this is a build for GPUs, or a machine with a driver for them");
        return;
    }
    let place = Place::untouched(&SPEC.replace("gpus: [0]", "gpus: [1, 2]"));
    // A copy of the program in a folder of its own, and beside it, later, something with the other one's name.
    let program = place.program("inferbench", Path::new(env!("CARGO_BIN_EXE_inferbench")));
    let run = |more: &[&str]| {
        let args = [&["run", "spec.yaml", "--out", "out"], more].concat();
        let output = place.command_of(&program, &args).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(!place.out().join("sweep.json").exists());
        let folder = place.path().canonicalize().unwrap();
        stderr(&output).replace(folder.to_str().unwrap(), "FOLDER")
    };
    insta::assert_snapshot!(run(&[]), @"inferbench: spec.yaml: spec.design.factors.gpus: [1, 2] asks for GPUs (the default is 1), but FOLDER/inferbench computes on the CPU only, and inferbench-cuda, the same program built for GPUs, is not beside it; write gpus: [0] to measure on the CPU");
    fs::write(place.path().join("inferbench-cuda"), "").unwrap();
    insta::assert_snapshot!(run(&["--in-process"]), @"inferbench: spec.yaml: spec.design.factors.gpus: [1, 2] asks for GPUs (the default is 1), but this machine has no NVIDIA driver, or this container does not see it (libcuda.so.1: cannot open shared object file: No such file or directory); write gpus: [0] to measure on the CPU");
}

#[test]
fn generate_on_gpus_is_the_other_programs_part() {
    if cfg!(feature = "cuda") {
        eprintln!("skipped: this is a build for GPUs");
        return;
    }
    let place = Place::untouched(SPEC);
    let program = place.program("inferbench", Path::new(env!("CARGO_BIN_EXE_inferbench")));
    let args = [
        "generate",
        "--model",
        "tiny-gpt2",
        "--ids",
        "1",
        "--gpus",
        "2",
    ];
    let output = place.command_of(&program, &args).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    let said = stderr(&output);
    assert!(said.starts_with("inferbench: --gpus: "), "{said}");
    assert!(said.contains("inferbench-cuda, the same program built for GPUs, is not beside it"));

    // The stand-in for the driver can be loaded; the one for the other program says how it was called.
    let library = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-shared", "-x", "c", "/dev/null", "-o", "libcuda.so.1"])
        .current_dir(place.path())
        .status()
        .unwrap();
    assert!(library.success());
    let script = place.path().join("script");
    fs::write(&script, "#!/bin/sh\necho \"$CUDA_DEVICE_ORDER: $*\"\n").unwrap();
    place.program("inferbench-cuda", &script);
    let output = place
        .command_of(&program, &args)
        .env("LD_LIBRARY_PATH", place.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "PCI_BUS_ID: generate --model tiny-gpt2 --ids 1 --gpus 2\n"
    );
}

/// A design with levels that are excluded, unsupported and too big for any machine.
const PLANNED: &str = "
apiVersion: inferbench.dev/v1alpha1
kind: InferenceBenchmark
metadata: {name: planned}
spec:
  design:
    factors:
      model: [{name: tiny, source: {random: {preset: tiny-gpt2}}}]
      batchSize: [1, 8]
      inputLength: [16]
      outputLength: [16, 2000000]
      gpus: [1, 2, 5]
      dtype: [f32, bf16]
    exclude: [{batchSize: [8], gpus: [2]}]
    replicates: 3
";

#[test]
fn the_plan_says_what_is_left_out_and_why() {
    let place = Place::untouched(&PLANNED.replace("2000000", "200000"));
    let plan = |form: &str| {
        let output = place
            .command(&["plan", "spec.yaml", "--output", form])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    // The memory of this machine is no part of the golden text.
    let table = plan("table");
    let lines = table
        .lines()
        .map(|line| line.split("; this machine has").next().unwrap());
    let table = lines.collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!("plan_table", table);
    insta::assert_snapshot!("plan_csv", plan("csv"));
    let json: serde_json::Value = serde_json::from_str(&plan("json")).unwrap();
    assert_eq!(json["trials"], 60);
    assert_eq!(json["lines"].as_array().unwrap().len(), 24);
}

#[test]
fn the_plan_names_the_data_type_that_a_models_file_decides() {
    let place = Place::untouched(SPEC);
    let file = place.path().join("m.gguf");
    let config = presets::preset("tiny-mistral").unwrap();
    let weights = Weights::Random { config, seed: 0 };
    save_gguf(&weights, Format::F16, |id| id.to_string(), &file).unwrap();
    let model = "model: [{name: tiny, source: {random: {preset: tiny-gpt2}}}]";
    let two = format!(
        "model: [{{name: tiny, source: {{path: {file:?}}}}}]\n      \
         engine: [{{name: candle, candle: {{}}}}, {{name: llama, server: {{preset: llamaCpp}}}}]"
    );
    place.write(&SPEC.replace(model, &two));
    let output = place
        .command(&["plan", "spec.yaml", "--output", "csv"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let csv = stdout(&output);
    let of = |engine: &str, dtype: &str| {
        let lines = csv.lines().filter(|line| line.contains(engine));
        let lines: Vec<&str> = lines.collect();
        assert!(!lines.is_empty(), "{csv}");
        lines.iter().all(|line| line.contains(dtype))
    };
    assert!(of("candle", "f32") && of("llama", "f16"), "{csv}");
}

#[test]
fn the_plan_of_a_large_design_is_a_summary() {
    let lengths: Vec<String> = (1..=30).map(|length| length.to_string()).collect();
    let lengths = format!("inputLength: [{}]", lengths.join(", "));
    let place = Place::untouched(
        &PLANNED
            .replace("inputLength: [16]", &lengths)
            .replace("2000000", "200000"),
    );
    let plan = |more: &[&str]| {
        let output = place
            .command(&[&["plan", "spec.yaml"], more].concat())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let short = plan(&[]);
    let lines = short
        .lines()
        .map(|line| line.split("; this machine has").next().unwrap());
    insta::assert_snapshot!("plan_summary", lines.collect::<Vec<_>>().join("\n"));
    let long = plan(&["--all"]);
    let summary = short.split("\n\n").next().unwrap();
    assert!(long.starts_with(summary), "{long}");
    // A line for each of 30 × 24 combinations, under the head and its line.
    assert_eq!(
        long.trim_end().lines().count(),
        summary.lines().count() + 1 + 2 + 720
    );
    assert_eq!(plan(&["-o", "csv"]).lines().count(), 721);
}

/// Twelve of a grid's 72 combinations, on up to four GPUs that cost something.
const SELECTED: &str = "
apiVersion: inferbench.dev/v1alpha1
kind: InferenceBenchmark
metadata: {name: selected}
spec:
  design:
    factors:
      model: [{name: tiny, source: {random: {preset: tiny-gpt2}}}]
      batchSize: [1, 4, 16]
      inputLength: [16, 32]
      outputLength: [16, 32]
      gpus: [1, 2, 4]
      dtype: [f32, bf16]
    select: {method: LatinHypercube, combinations: 12}
    replicates: 2
  objectives: {costPerGpuHour: \"2.50\"}
";

#[test]
fn a_plan_says_what_it_costs_with_the_whole_grid_beside_a_selection() {
    let place = Place::untouched(SELECTED);
    let plan = |more: &[&str]| {
        let output = place
            .command(&[&["plan", "spec.yaml"], more].concat())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let text = stdout(&output);
        let lines = text.lines();
        let lines = lines.map(|line| line.split("; this machine has").next().unwrap());
        lines
            .take_while(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    };
    insta::assert_snapshot!("plan_costs_unknown", plan(&[]));
    let given = ["--seconds-per-trial", "90"];
    insta::assert_snapshot!("plan_costs", plan(&given));
    let apart = [&given[..], &["--seconds-per-start", "30"]].concat();
    assert!(plan(&apart).contains("--seconds-per-start 30"));
    let output = place
        .command(&[&["plan", "spec.yaml", "-o", "json"], &given[..]].concat())
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let (costs, grid) = (&json["costs"]["design"], &json["costs"]["fullGrid"]);
    assert_eq!(
        (&costs["trials"], &costs["starts"]),
        (&24.into(), &24.into())
    );
    assert_eq!(
        (&grid["trials"], &grid["hours"]),
        (&144.into(), &3.6.into())
    );
    // A third of the grid each on one, two and four GPUs: 48 × 90 s × 7.
    assert_eq!(
        (&grid["gpuHours"], &grid["cost"]),
        (&8.4.into(), &21.0.into())
    );
    let lines = json["lines"].as_array().unwrap();
    assert!(
        lines
            .iter()
            .all(|line| line["trialS"] == 90.0 && line["trials"] == 2)
    );
    for wrong in [
        &["--seconds-per-trial", "0"][..],
        &["--seconds-per-start", "5"],
        &["--seconds-per-trial", "5", "--from", "out"],
        &["--from", "nowhere"],
        &["--from", "tmp"],
    ] {
        let output = place
            .command(&[&["plan", "spec.yaml"], wrong].concat())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(stderr(&output).contains(wrong[0]), "{}", stderr(&output));
    }
    assert!(!place.path().join("nowhere").exists());
}

#[test]
fn a_plan_takes_its_times_from_an_earlier_sweep() {
    let place = Place::new(SPEC);
    assert_eq!(place.run(&[]).status.code(), Some(0));
    let took_s = |record: &inferbench_results::record::TrialRecord| {
        let ms = |time: &str| time.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        (ms(&record.ended_at) - ms(&record.started_at)) as f64 / 1e3
    };
    let really: f64 = place.records().iter().map(took_s).sum();
    let json = || {
        let output = place
            .command(&["plan", "spec.yaml", "-o", "json", "--from", "out"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_str::<serde_json::Value>(&stdout(&output)).unwrap()
    };
    let costs = json()["costs"].clone();
    let hours = costs["design"]["hours"].as_f64().unwrap();
    assert!(
        (hours * 3600.0 - really).abs() < 1e-6 * really,
        "{hours} {really}"
    );
    assert_eq!(costs["combinationsBy"], serde_json::json!({"same": 4}));
    assert!(costs.get("levelsNotMeasured").is_none() && costs.get("fullGrid").is_none());
    // Another output length, and a longer measurement: both are named. Records stay as they are.
    place.write(
        &SPEC
            .replace("outputLength: [3]", "outputLength: [3, 5]")
            .replace("minDuration: 5ms", "minDuration: 50ms"),
    );
    let before = place.documents();
    let costs = json()["costs"].clone();
    assert_eq!(
        costs["combinationsBy"],
        serde_json::json!({"same": 4, "allButOne": 4})
    );
    assert_eq!(
        costs["levelsNotMeasured"],
        serde_json::json!({"outputLength": [5]})
    );
    assert!(
        costs["doubts"][0].as_str().unwrap().contains("50 ms"),
        "{costs}"
    );
    assert_eq!(place.documents(), before);
    let output = place
        .command(&["plan", "spec.yaml", "--from", "out"])
        .output()
        .unwrap();
    let text = stdout(&output);
    assert!(
        text.contains("hours: by 8 trials and 8 starts of out"),
        "{text}"
    );
    assert!(
        text.contains("not measured there: outputLength 5"),
        "{text}"
    );
}

#[test]
fn generate_is_deterministic_and_writes_logits() {
    let place = Place::untouched(SPEC);
    let generate = |more: &[&str]| {
        let args = [
            &["generate", "--model", "tiny-llama", "--ids", "1,2,3"],
            more,
        ]
        .concat();
        let output = place.command(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let ids = generate(&["--max-tokens", "5", "--logits", "logits.json"]);
    assert_eq!(ids.trim().split(',').count(), 5);
    assert_eq!(ids, generate(&["--max-tokens", "5", "--ranks", "2"]));
    assert_eq!(ids, generate(&["--max-tokens", "5", "--ranks", "3"]));
    assert_ne!(ids, generate(&["--max-tokens", "5", "--seed", "43"]));

    let text = fs::read_to_string(place.path().join("logits.json")).unwrap();
    let logits: Vec<f32> = serde_json::from_str(&text).unwrap();
    assert!(logits.len() > 10 && logits.iter().all(|logit| logit.is_finite()));
    // The first id is the one with the highest logit.
    let best = logits
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1))
        .unwrap()
        .0;
    assert_eq!(ids.split(',').next().unwrap().trim(), best.to_string());
}

#[test]
fn weights_that_are_written_are_the_same_model() {
    let place = Place::untouched(SPEC);
    let run = |args: &[&str]| {
        let output = place.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    run(&[
        "weights",
        "--preset",
        "tiny-gpt2",
        "--seed",
        "7",
        "--out",
        "model",
    ]);
    let made = run(&[
        "generate",
        "--model",
        "tiny-gpt2",
        "--seed",
        "7",
        "--ids",
        "5,6",
        "--max-tokens",
        "6",
    ]);
    let read = run(&[
        "generate",
        "--model",
        "model",
        "--ids",
        "5,6",
        "--max-tokens",
        "6",
    ]);
    assert_eq!(made, read);

    // And a sweep measures it from there, under the hash of its files.
    let model = place.path().join("model");
    let source = format!("path: {}", model.display());
    place.write(
        &SPEC
            .replace("random: {preset: tiny-gpt2}", &source)
            .replace("[4, 8]", "[4]"),
    );
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        place
            .records()
            .iter()
            .all(|r| r.request.model_revision.starts_with("sha256:"))
    );
}

#[test]
fn wrong_input_to_generate_says_what_is_allowed() {
    let place = Place::untouched(SPEC);
    let refuse = |args: &[&str]| {
        let output = place.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        stderr(&output)
    };
    let text = [
        refuse(&["generate", "--model", "gtp2", "--ids", "1"]),
        refuse(&["generate", "--model", "tiny-gpt2", "--prompt", "Hello"]),
        refuse(&["generate", "--model", "tiny-gpt2", "--ids", "1,99999999"]),
        refuse(&[
            "generate",
            "--model",
            "tiny-gpt2",
            "--ids",
            "1",
            "--ranks",
            "5",
        ]),
    ];
    insta::assert_snapshot!(text.concat());
}

#[test]
fn help_has_examples() {
    let place = Place::untouched(SPEC);
    let output = place.command(&["--help"]).output().unwrap();
    insta::assert_snapshot!(stdout(&output));
}

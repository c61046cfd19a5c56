//! The pods of a Job: requests in a file, and reports in the termination message.

use std::{collections::BTreeMap, fs, path::Path, process::Output};

use inferbench_crds::{
    contract::{
        Chunk, PodRequest, PreflightReport, REQUESTS_VARIABLE, SweepRequest,
        TERMINATION_MESSAGE_BYTES, TrialReport,
    },
    file, handover,
    ledger::Outcomes,
    outcome::Outcome,
    spec::ModelSource,
    status::{PinnedModel, PinnedPlan},
    validate::Scope,
};
use inferbench_results::{
    fixtures,
    key::{sha256_hex, trial_key},
};
use inferbench_runner::{
    models::Need,
    pod::{REPORT_VARIABLE, collection::INDEX_VARIABLE, trials::CEILINGS_VARIABLE},
    process::fault,
    store::{Store, records::store_record},
    sweep::{prepared::Prepared, stored::SweepFile},
    trial::{protocol::StoreAt, recording},
};

use crate::place::{Place, SPEC, children_of, signal, stderr, wait_for};

/// Writes the requests of all trials of a spec, as the operator would for one Job.
fn ask(place: &Place, spec: &str) {
    let resource = file::load(spec, "spec.yaml", Scope::Local)
        .unwrap()
        .remove(0);
    let sweep = Prepared::new(&resource, Need::Weights, &|_| None).unwrap();
    let store = StoreAt {
        target: place.out().display().to_string(),
        endpoint: None,
        region: None,
    };
    let lines: String = sweep
        .expansion
        .trials()
        .map(|trial| {
            let request = PodRequest::Trial(Box::new(sweep.ask(&trial, 0, &store).trial));
            serde_json::to_string(&request).unwrap() + "\n"
        })
        .collect();
    fs::write(place.path().join("requests"), lines).unwrap();
}

/// Those of the first test's sweep: measuring them takes seconds.
fn ceilings(place: &Place) -> String {
    let file = fs::read(place.out().join("sweep.json")).unwrap();
    let file: SweepFile = serde_json::from_slice(&file).unwrap();
    let measured = &file.ceilings[0];
    serde_json::to_string(&BTreeMap::from([(measured.dtype, &measured.ceilings)])).unwrap()
}

fn pod(place: &Place, fault: &str) -> (Output, TrialReport) {
    let log = place.path().join("termination-log");
    let _ = fs::remove_file(&log);
    let is_struck = fault.ends_with("@ceilings");
    let given = (!is_struck).then(|| (CEILINGS_VARIABLE, ceilings(place)));
    let output = place
        .command(&["trial"])
        .env(REQUESTS_VARIABLE, "requests")
        .env(REPORT_VARIABLE, &log)
        .envs(given)
        .env(fault::VARIABLE, fault)
        .output()
        .unwrap();
    let report = serde_json::from_slice(&fs::read(log).unwrap()).unwrap();
    (output, report)
}

#[test]
fn a_pod_measures_its_trials_once_and_a_local_run_reuses_them() {
    let place = Place::new(SPEC);
    ask(&place, SPEC);
    let (output, report) = pod(&place, "");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let outcomes = || (0..8).filter_map(|at| report.outcome(at));
    assert_eq!(
        outcomes()
            .filter(|outcome| *outcome == Outcome::Succeeded)
            .count(),
        8
    );
    assert_eq!((report.outcomes.len(), report.reused), (8, 0));
    // A machine that is busy with other things may leave no valid trial, and then there is no best.
    let valid = place.records().iter().any(|record| record.valid);
    assert_eq!(
        report.best.is_some_and(|best| best > 0.0),
        valid,
        "{report:?}"
    );
    assert!(report.message.is_none(), "{report:?}");
    let before = place.documents();

    let (output, again) = pod(&place, "");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!((&again.outcomes, again.reused), (&report.outcomes, 8));
    assert_eq!(place.documents(), before);
    // The same trials, by their keys, as a sweep on this machine would measure.
    let output = place.run(&[]);
    assert!(
        stderr(&output).contains("0 measured now, 8 reused"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_pod_that_breaks_says_where_and_the_next_goes_on() {
    let place = Place::new(SPEC);
    ask(&place, SPEC);
    let broken = place_of(&place, 2);
    let (output, report) = pod(&place, &format!("abort@trial:{broken}"));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let succeeded = |at| report.outcome(at) == Some(Outcome::Succeeded);
    assert!(
        report.outcomes.len() == 2 && succeeded(0) && succeeded(1),
        "{report:?}"
    );
    assert!(report.message.is_some(), "{report:?}");
    let (output, report) = pod(&place, "");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!((report.outcomes.len(), report.reused), (8, 2));
}

/// The number of the trial at a position of the requests.
fn place_of(place: &Place, position: usize) -> u64 {
    let requests = fs::read_to_string(place.path().join("requests")).unwrap();
    let line: serde_json::Value =
        serde_json::from_str(requests.lines().nth(position).unwrap()).unwrap();
    line["trial"]["trialIndex"].as_u64().unwrap()
}

#[test]
fn want_of_memory_and_overdue_trials_are_recorded() {
    let spec = SPEC.replace("retries: 0", "retries: 0, trialTimeout: 1s");
    let place = Place::new(&spec);
    ask(&place, &spec);
    let first = place_of(&place, 0);
    for (kind, outcome) in [("oom", Outcome::OutOfMemory), ("hang", Outcome::TimedOut)] {
        let _ = fs::remove_dir_all(place.out().join("trials"));
        let (output, report) = pod(&place, &format!("{kind}@trial:{first}"));
        assert_eq!(output.status.code(), Some(0), "{kind}: {}", stderr(&output));
        assert_eq!(report.outcome(0), Some(outcome), "{kind}: {report:?}");
        assert_eq!(report.outcomes.len(), 8, "{kind}: {report:?}");
    }
}

/// The next pod would have no more memory.
#[test]
fn want_of_memory_for_the_ceilings_is_a_measurement_and_not_tried_again() {
    let place = Place::new(SPEC);
    ask(&place, SPEC);
    let (output, report) = pod(&place, "oom@ceilings");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(report.outcomes.len(), 8, "{report:?}");
    for record in place.records() {
        assert_eq!(record.outcome, Outcome::OutOfMemory);
        assert_eq!(
            record.message.as_deref(),
            Some(
                "memory allocation of 8796093022208 bytes failed, while the ceilings of the machine were measured"
            )
        );
    }
}

#[test]
fn requests_that_cannot_be_read_are_permanent() {
    let place = Place::new(SPEC);
    for (text, said) in [
        ("", "no trial is asked for"),
        ("{\"trial\": {}}", "missing field"),
        ("not json", "expected"),
    ] {
        fs::write(place.path().join("requests"), text).unwrap();
        let (output, report) = pod(&place, "");
        assert_eq!(
            output.status.code(),
            Some(64),
            "{text}: {}",
            stderr(&output)
        );
        assert!(report.message.unwrap().contains(said), "{text}");
    }
    // A model that is no longer what the sweep began with.
    ask(&place, SPEC);
    let requests = fs::read_to_string(place.path().join("requests")).unwrap();
    fs::write(
        place.path().join("requests"),
        requests.replace("tiny-gpt2@42", "tiny-gpt2@7"),
    )
    .unwrap();
    let (output, report) = pod(&place, "");
    assert_eq!(output.status.code(), Some(65), "{}", stderr(&output));
    assert!(
        report
            .message
            .as_ref()
            .unwrap()
            .contains("the sweep began with tiny-gpt2@7"),
        "{report:?}"
    );
}

#[test]
fn a_pod_that_cannot_measure_on_gpus_says_what_is_missing_and_is_not_tried_again() {
    if cfg!(feature = "cuda") || inferbench_engine::gpu::driver().is_ok() {
        eprintln!("skipped: this is a build for GPUs, or a machine with a driver for them");
        return;
    }
    let place = Place::new(SPEC);
    ask(&place, &SPEC.replace("gpus: [0]", "gpus: [1]"));
    let (output, report) = pod(&place, "");
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    let message = report.message.unwrap();
    // An earlier build may have left that program beside this one.
    let missing = ["inferbench-cuda", "no NVIDIA driver"];
    assert!(
        missing.iter().any(|what| message.contains(what)),
        "{message}"
    );
    assert_eq!(report.outcomes, "");
}

#[test]
fn a_pod_that_is_told_to_stop_never_exits_with_0() {
    let place = Place::new(SPEC);
    ask(&place, SPEC);
    let hanging = place_of(&place, 1);
    let mut child = place
        .command(&["trial"])
        .env(REQUESTS_VARIABLE, "requests")
        .env(REPORT_VARIABLE, place.path().join("log"))
        .env(CEILINGS_VARIABLE, ceilings(&place))
        .env(fault::VARIABLE, format!("hang@trial:{hanging}"))
        .spawn()
        .unwrap();
    wait_for("the first record", || place.documents().len() == 1);
    wait_for("the second trial", || !children_of(child.id()).is_empty());
    signal(child.id(), libc::SIGTERM);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1));
}

/// The request of a preflight or a collection.
fn sweep_request(place: &Place, spec: &str) -> SweepRequest {
    let resource = file::load(spec, "spec.yaml", Scope::Local)
        .unwrap()
        .remove(0);
    SweepRequest {
        sweep: "tiny".into(),
        namespace: "default".into(),
        plan: PinnedPlan {
            models: vec![PinnedModel {
                name: "tiny".into(),
                revision: "tiny-gpt2@42".into(),
            }],
            ..PinnedPlan::default()
        },
        runner: recording::runner_identity(),
        store: StoreAt {
            target: place.out().display().to_string(),
            ..StoreAt::default()
        },
        spec: resource.spec,
        ledger: None,
        chunks: None,
        look: None,
    }
}

fn command(place: &Place, name: &str, request: &SweepRequest, index: u32) -> (Output, Vec<u8>) {
    let log = place.path().join("termination-log");
    let _ = fs::remove_file(&log);
    fs::write(
        place.path().join("requests"),
        serde_json::to_vec(request).unwrap(),
    )
    .unwrap();
    let output = place
        .command(&[name])
        .env(REQUESTS_VARIABLE, "requests")
        .env(REPORT_VARIABLE, &log)
        .env(INDEX_VARIABLE, index.to_string())
        .output()
        .unwrap();
    (output, fs::read(log).unwrap_or_default())
}

#[test]
fn a_preflight_says_what_each_model_is() {
    let levels = "gpus: [1, 2, 5, 10]\n      pipelineParallel: [1, 2]";
    let spec = SPEC.replace("gpus: [0]", levels);
    let place = Place::untouched(&spec);
    let mut request = sweep_request(&place, &spec);
    let (output, log) = command(&place, "preflight", &request, 0);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: PreflightReport = serde_json::from_slice(&log).unwrap();
    assert_eq!(report.models[0].revision, "tiny-gpt2@42");
    assert!(report.models[0].max_tokens.unwrap() > 10);
    // Its heads do not divide by five, nor by ten; and there are three layers.
    assert_eq!(report.models[0].unsupported_tensor_parallel, [5, 10]);
    assert_eq!(report.models[0].max_stages, Some(3));

    request.spec.design.factors.model[0].source = ModelSource {
        path: Some("/nowhere".into()),
        ..ModelSource::default()
    };
    let (output, log) = command(&place, "preflight", &request, 0);
    assert_eq!(output.status.code(), Some(65), "{}", stderr(&output));
    let report: PreflightReport = serde_json::from_slice(&log).unwrap();
    assert!(
        report.message.as_ref().unwrap().contains("/nowhere"),
        "{report:?}"
    );

    request.store.target = "s3://".into();
    let (output, _) = command(&place, "preflight", &request, 0);
    assert_eq!(output.status.code(), Some(73), "{}", stderr(&output));
}

#[test]
fn a_collection_hands_over_the_same_whole_whatever_pod_it_is() {
    let place = Place::new(SPEC);
    ask(&place, SPEC);
    let (output, _) = pod(&place, "");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let mut request = sweep_request(&place, SPEC);
    // The ledger has trial 3 as failed, and its record is there all the same.
    let mut ledger = Outcomes::new(8);
    for index in 0..8 {
        let outcome = if index == 3 {
            Outcome::Failed
        } else {
            Outcome::Succeeded
        };
        ledger.record(index, outcome).unwrap();
    }
    request.ledger = Some(ledger.encode());
    request.chunks = Some(20);
    let mut parts: Vec<String> = Vec::new();
    for index in 0..20 {
        let (output, log) = command(&place, "collect", &request, index);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        if !log.is_empty() {
            assert!(log.len() <= TERMINATION_MESSAGE_BYTES);
            parts.push(String::from_utf8(log).unwrap());
        }
    }
    let first: Chunk = serde_json::from_str(&parts[0]).unwrap();
    assert_eq!(parts.len(), first.parts as usize);
    let collected = handover::join(parts.iter().map(String::as_str)).unwrap();
    assert_eq!(collected.recovered, [(3, Outcome::Succeeded)]);
    assert_eq!(
        (
            collected.results.rows,
            collected.summary.trials + collected.summary.invalid
        ),
        (8, 8)
    );
    let manifest = fs::read(place.out().join("manifest.json")).unwrap();
    assert_eq!(collected.results.sha256, sha256_hex(&manifest));
    assert!(place.out().join(&collected.results.report).exists());

    request.chunks = Some(0);
    let (output, log) = command(&place, "collect", &request, 0);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let chunk: Chunk = serde_json::from_slice(&log).unwrap();
    assert!(
        chunk
            .message
            .unwrap()
            .contains("termination messages, and there are 0 pods")
    );
}

#[test]
fn a_look_decides_by_the_records_of_the_blocks_that_have_ended() {
    let spec = SPEC
        .replace("inputLength: [4, 8]", "inputLength: [4]")
        .replace(
            "replicates: 2",
            "replicates: 4\n    until: {metric: ttltMs, halfWidth: 3%}",
        );
    let place = Place::untouched(&spec);
    let mut request = sweep_request(&place, &spec);
    let resource = file::load(&spec, "spec.yaml", Scope::Local)
        .unwrap()
        .remove(0);
    let sweep = Prepared::new(&resource, Need::Revision, &|_| None).unwrap();
    let store = Store::at(&request.store).unwrap();
    // Batch 1, trials 0, 2, 4 and 6, takes the same time in every block, batch 2 another one.
    for trial in sweep.expansion.trials() {
        let asked = sweep.request(&trial);
        let mut like = asked.clone();
        like.replicate *= 10 * (trial.index % 2);
        let mut record = fixtures::measured(like, trial.index);
        record.trial_key = trial_key(&asked, 0);
        record.request = asked;
        store_record(&store, &record).unwrap();
    }
    let look = |request: &SweepRequest, index| {
        let (output, log) = command(&place, "collect", request, index);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8(log).unwrap()
    };
    // After three blocks batch 1 is enough; after two it is too soon; of what has run to its end nothing is decided.
    for (blocks, ended, expected) in [(3, 6, &[0][..]), (2, 4, &[]), (3, 8, &[])] {
        let mut ledger = Outcomes::new(8);
        for index in 0..ended {
            ledger.record(index, Outcome::Succeeded).unwrap();
        }
        request.ledger = Some(ledger.encode());
        request.chunks = Some(1);
        request.look = Some(blocks);
        let first = look(&request, 0);
        assert_eq!(first, look(&request, 0), "again");
        let decided = handover::join_decided([first.as_str()].into_iter(), blocks, 2);
        assert_eq!(decided.as_deref(), Ok(expected), "{blocks} {ended}");
        assert_eq!(look(&request, 1), "", "one part is all");
    }
    assert!(!place.out().join("manifest.json").exists());
    request.spec.design.until = None;
    let (output, _) = command(&place, "collect", &request, 0);
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
}

/// The operator's golden Jobs hold what this program reads.
#[test]
fn the_operators_requests_are_read() {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../operator/src/controller/build/snapshots");
    let (mut trials, mut sweeps) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines().map(str::trim) {
            if line.starts_with("{\"trial\"") {
                let PodRequest::Trial(wanted) =
                    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                assert_eq!(wanted.remeasure_invalid, 1, "{line}");
                trials += 1;
            } else if let Some(quoted) = line.strip_prefix("inferbench.dev/requests: \"") {
                let json: String = serde_json::from_str(&format!("\"{quoted}")).unwrap();
                serde_json::from_str::<SweepRequest>(&json)
                    .unwrap_or_else(|error| panic!("{error}: {json}"));
                sweeps += 1;
            }
        }
    }
    assert!(trials >= 5 && sweeps >= 2, "{trials} {sweeps}");
}

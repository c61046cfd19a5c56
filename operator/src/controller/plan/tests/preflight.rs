//! Before the trials.

use std::collections::BTreeSet;

use inferbench_crds::{
    contract::{ModelReport, PreflightReport},
    design::Combination,
};

use super::*;
use crate::controller::fixtures::fresh;

#[test]
fn a_fresh_sweep_begins_with_its_preflight_alone() {
    let sweep = fresh(ONE_SHAPE);
    let plan = plan(&sweep, &known(&sweep), &[], &[], at(0));
    assert_eq!(plan.actions, [Action::Create(Create::Preflight(1))]);
    assert_eq!(plan.phase, Phase::Preflight);
    let mut suspended = sweep.clone();
    suspended.spec.suspend = true;
    assert!(
        super::plan(&suspended, &known(&sweep), &[], &[], at(0))
            .actions
            .is_empty()
    );
}

#[test]
fn a_preflight_pins_models_and_records_what_cannot_run() {
    let sweep = fresh(SPEC);
    let job = ended(job(Role::Preflight, &[]), true);
    let model = |most| ModelReport {
        revision: "abc".into(),
        max_tokens: most,
        unsupported_tensor_parallel: vec![3],
        ..ModelReport::default()
    };
    let report = PreflightReport {
        models: vec![model(Some(30)), model(None)],
        message: None,
    };
    let mut pod = pod(&job, PodPhase::Succeeded);
    pod.report = serde_json::to_string(&report).expect("JSON");
    let plan = plan(&sweep, &known(&sweep), &[job], &[pod], at(101));
    assert!(
        matches!(&plan.actions[0], Action::Pin(models) if models[1].revision == "abc"),
        "{:?}",
        plan.actions
    );
    for trial in sweep.expansion.trials() {
        let combination = &trial.combination;
        let long = combination.model.name == "a"
            && combination.input_length + combination.output_length > 30;
        let expected = (long || combination.gpus == 3).then_some(Outcome::Unsupported);
        assert_eq!(plan.ledger.get(trial.index), expected);
    }
    assert_eq!(deletes(&plan), [("preflight-0", false)]);
}

#[test]
fn a_preflight_records_what_cannot_be_divided_so() {
    let levels = "gpus: [2, 6]\n    pipelineParallel: [1, 2, 3]\n    dataParallel: [1, 2]";
    let sweep = fresh(&ONE_SHAPE.replace("gpus: [1]", levels));
    let job = ended(job(Role::Preflight, &[]), true);
    let model = ModelReport {
        revision: "abc".into(),
        unsupported_tensor_parallel: vec![6],
        max_stages: Some(2),
        ..ModelReport::default()
    };
    let report = PreflightReport {
        models: vec![model],
        message: None,
    };
    let mut pod = pod(&job, PodPhase::Succeeded);
    pod.report = serde_json::to_string(&report).expect("JSON");
    let plan = plan(&sweep, &known(&sweep), &[job], &[pod], at(101));
    let runs: BTreeSet<_> = sweep
        .expansion
        .trials()
        .filter(|trial| plan.ledger.get(trial.index).is_none())
        .map(|trial| trial.combination)
        .map(|combination| {
            let Combination {
                gpus,
                pipeline_parallel,
                data_parallel,
                ..
            } = combination;
            [gpus, pipeline_parallel, data_parallel]
        })
        .collect();
    // Neither what leaves six to share a layer, nor three stages, nor what does not divide.
    let expected = [[2, 1, 1], [2, 1, 2], [2, 2, 1], [6, 1, 2], [6, 2, 1]];
    assert_eq!(runs, BTreeSet::from(expected));
}

#[test]
fn a_preflight_records_what_a_server_cannot_read_and_judges_no_server_by_candle() {
    let engines = "engine: [{name: candle, candle: {}}, {name: llama, server: {preset: llamaCpp, image: a}}, \
                   {name: vllm, server: {preset: vllm, image: b}}]\n    gpus: [1, 3]";
    let sweep = fresh(&ONE_SHAPE.replace("gpus: [1]", engines));
    let job = ended(job(Role::Preflight, &[]), true);
    let report = PreflightReport {
        models: vec![ModelReport {
            revision: "abc".into(),
            max_tokens: Some(1),
            unsupported_tensor_parallel: vec![3],
            unsupported_engines: vec![1],
            ..ModelReport::default()
        }],
        message: Some("llama and a: llama.cpp reads GGUF files".into()),
    };
    let mut pod = pod(&job, PodPhase::Succeeded);
    pod.report = serde_json::to_string(&report).expect("JSON");
    let plan = plan(&sweep, &known(&sweep), &[job], &[pod], at(101));
    assert_eq!(plan.never, report.message);
    for trial in sweep.expansion.trials() {
        let runs = trial.combination.engine.name == "vllm";
        let expected = (!runs).then_some(Outcome::Unsupported);
        assert_eq!(plan.ledger.get(trial.index), expected, "{trial:?}");
    }
}

#[test]
fn a_failed_preflight_is_a_problem_and_tried_again_later() {
    let sweep = fresh(ONE_SHAPE);
    let first = ended(job(Role::Preflight, &[]), false);
    let report = PreflightReport {
        message: Some("s3://bucket refuses the credentials".into()),
        ..PreflightReport::default()
    };
    let pod = PodView {
        exit_code: Some(73),
        report: serde_json::to_string(&report).expect("JSON"),
        ..pod(&first, PodPhase::Failed)
    };
    let look = |seconds| {
        plan(
            &sweep,
            &known(&sweep),
            &[first.clone()],
            &[pod.clone()],
            at(seconds),
        )
    };
    let early = look(110);
    assert_eq!(early.actions, [Action::Wait(Duration::from_secs(20))]);
    let problem = early.problem.expect("a problem");
    assert_eq!(problem.reason, "PreflightFailed");
    assert_eq!(
        problem.to_string(),
        "pod preflight-0-pod ended with exit code 73: s3://bucket refuses the credentials (attempt 1, the next at \
         2026-01-01T00:02:10Z)"
    );
    assert_eq!(look(130).actions, [Action::Create(Create::Preflight(2))]);
    // The second attempt takes the first one's place, and it takes longer to the third.
    let mut second = first.clone();
    (second.uid, second.attempt) = ("second".into(), 2);
    let mut running = second.clone();
    (running.end, running.started) = (None, None);
    let under_way = plan(
        &sweep,
        &known(&sweep),
        &[first.clone(), running],
        &[],
        at(131),
    );
    assert!(under_way.retries && under_way.problem.is_none());
    let jobs = [first, second];
    let later = plan(&sweep, &known(&sweep), &jobs, &[], at(200));
    assert_eq!(deletes(&later), [("preflight-0", false)]);
    assert_eq!(later.actions[1], Action::Create(Create::Preflight(3)));
}

//! Acceptance, refusals, and a plan that stays pinned.

use inferbench_crds::{
    crd::API_VERSION, expectation::Expectation, status::InferenceBenchmarkStatus,
};

use super::*;
use crate::controller::fixtures::{defaults, resource};

const SPEC: &str = "
design: {factors: {model: [{name: gpt2, source: {random: {preset: gpt2}}}]}}
results: {store: {url: 's3://bucket/prefix'}}
";

fn refused(spec: &str) -> Vec<String> {
    let violations = validate(&resource(spec), &defaults()).expect_err("refused");
    violations.iter().map(ToString::to_string).collect()
}

#[test]
fn a_resource_becomes_a_sweep_with_the_operators_image() {
    let sweep = validate(&resource(SPEC), &defaults()).expect("valid");
    assert_eq!(API_VERSION, "inferbench.dev/v1alpha1");
    assert_eq!(sweep.image(), defaults().image);
    assert_eq!(
        sweep.runner_identity(),
        format!("sha256:{}", "ab".repeat(32))
    );
    assert!(!sweep.is_pinned());
    assert_eq!(
        (
            sweep.plan.trials,
            sweep.plan.combinations,
            sweep.plan.hash.len()
        ),
        (1, 1, 64)
    );
    assert_eq!(
        sweep.store().target,
        "s3://bucket/prefix/bench/thesis-0f1e2d3c"
    );
}

#[test]
fn what_is_pinned_outlives_a_new_default() {
    let mut resource = resource(SPEC);
    let sweep = validate(&resource, &defaults()).expect("valid");
    resource.status = Some(InferenceBenchmarkStatus {
        plan: Some(sweep.plan.clone()),
        ..InferenceBenchmarkStatus::default()
    });
    let upgraded = Defaults {
        image: "ghcr.io/inferbench/runner:2".into(),
        ..defaults()
    };
    let again = validate(&resource, &upgraded).expect("valid");
    assert_eq!(again.plan, sweep.plan);
}

#[test]
fn what_the_operator_sets_is_refused_with_its_field() {
    let spec = format!(
        "{SPEC}
runner:
  env: [{{name: HF_TOKEN, value: hf_x}}, {{name: INFERBENCH_X, value: y}}]
  resources: {{limits: {{nvidia.com/gpu: '1'}}}}
  podOverrides: {{spec: {{hostNetwork: true}}}}
"
    );
    assert_eq!(
        refused(&spec),
        [
            "spec.runner.env[1].name: \"INFERBENCH_X\" begins with INFERBENCH_, which is reserved",
            "spec.runner.podOverrides.spec.hostNetwork: is not allowed: it shares a namespace of the node",
            "spec.runner.env[0].name: \"HF_TOKEN\" is set by the operator: use runner.huggingFaceTokenSecretRef",
            "spec.runner.resources.limits[nvidia.com/gpu]: is not allowed: GPUs come from design.factors.gpus",
        ]
    );
}

#[test]
fn caches_of_servers_are_the_operators() {
    let env = "\nrunner: {env: [{name: HF_HOME, value: /a}, {name: USER, value: a}]}\n";
    let server = SPEC.replace(
        "{factors: {",
        "{factors: {engine: [{name: vllm, server: {preset: vllm, image: a}}], ",
    );
    let found = refused(&(server.clone() + env));
    assert_eq!(
        found[0],
        "spec.runner.env[0].name: \"HF_HOME\" is set by the operator: the env of an engine's server sets it for that \
         process"
    );
    assert_eq!(found.len(), 2);
    assert!(validate(&resource(&(SPEC.to_owned() + env)), &defaults()).is_ok());
    let own = server.replace("image: a}", "image: a, env: [{name: HF_HOME, value: /a}]}");
    assert!(validate(&resource(&own), &defaults()).is_ok());
}

#[test]
fn a_spec_that_no_annotation_holds_is_refused() {
    let levels: Vec<u32> = (100_000..100_064).collect();
    let excludes: Vec<String> = (0..256)
        .map(|_| {
            format!(
                "{{inputLength: {:?}, outputLength: {:?}}}",
                &levels[1..],
                &levels[1..]
            )
        })
        .collect();
    let spec = format!(
        "design:
  factors:
    model: [{{name: gpt2, source: {{random: {{preset: gpt2}}}}}}]
    inputLength: {levels:?}
    outputLength: {levels:?}
  exclude: [{}]
results: {{store: {{url: 's3://bucket/prefix'}}}}",
        excludes.join(", ")
    );
    let found = refused(&spec);
    assert!(
        found.len() == 1 && found[0].starts_with("spec: has "),
        "{found:?}"
    );
}

#[test]
fn the_collections_inputs_change_with_ledger_and_objectives() {
    let mut sweep = validate(&resource(SPEC), &defaults()).expect("valid");
    let before = sweep.inputs("");
    assert_eq!(sweep.inputs(""), before);
    assert_ne!(sweep.inputs("KQg="), before);
    sweep.spec.objectives.cost_per_gpu_hour = Some("2.50".into());
    let priced = sweep.inputs("");
    assert_ne!(priced, before);
    sweep.spec.expectations = vec![Expectation {
        name: "a".into(),
        that: "true".into(),
        ..Expectation::default()
    }];
    let expecting = sweep.inputs("");
    assert_ne!(expecting, priced);
    sweep.spec.expectations[0].that = "false".into();
    assert_ne!(sweep.inputs(""), expecting);
}

#[test]
fn a_bad_expectation_is_refused_before_anything_runs() {
    let spec = format!("{SPEC}\nexpectations: [{{name: a, that: \"mean('ttft') > 1\"}}]\n");
    let found = refused(&spec);
    assert!(
        found.len() == 1
            && found[0]
                .starts_with("spec.expectations[0].that: at character 6: \"ttft\" is no metric: "),
        "{found:?}"
    );
}

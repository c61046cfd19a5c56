//! Resources for the tests.

use inferbench_crds::{
    InferenceBenchmark, Outcome,
    contract::Collected,
    handover,
    status::{CollectedResults, InferenceBenchmarkStatus, PinnedModel, Summary},
};

use super::{
    sweep::{Defaults, Sweep, light},
    validate::validate,
};

pub const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

pub fn defaults() -> Defaults {
    Defaults {
        image: format!("ghcr.io/inferbench/runner@sha256:{}", "ab".repeat(32)),
        user: Some(65_532),
        light: light(),
    }
}

/// A resource from the YAML of its spec, as the API server would hand it out.
pub fn resource(spec: &str) -> InferenceBenchmark {
    let spec = serde_saphyr::from_str(spec).expect("a spec");
    let mut resource = InferenceBenchmark::new("thesis", spec);
    resource.metadata.namespace = Some("bench".into());
    resource.metadata.uid = Some(UID.into());
    resource.metadata.generation = Some(3);
    resource
}

/// A collection's handover, with one trial that the ledger does not know as it is.
pub fn collected() -> Collected {
    Collected {
        results: CollectedResults {
            uri: "s3://bucket/bench/thesis-0f1e2d3c".into(),
            sha256: "ab".repeat(32),
            rows: 4,
            report: "report.html".into(),
            ..CollectedResults::default()
        },
        summary: Summary {
            trials: 3,
            intervals: "Replicates".into(),
            ..Summary::default()
        },
        recovered: vec![(2, Outcome::Succeeded)],
    }
}

/// The termination messages that hand it over, with `bytes` bytes of it each.
pub fn messages(collected: &Collected, bytes: usize) -> Vec<String> {
    let chunks = handover::cut(collected, bytes).expect("JSON");
    let json = |chunk| serde_json::to_string(chunk).expect("JSON");
    chunks.iter().map(json).collect()
}

/// An accepted sweep, before its preflight.
pub fn fresh(spec: &str) -> Sweep {
    validate(&resource(spec), &defaults()).expect("a valid spec")
}

/// An accepted sweep whose models are pinned.
pub fn sweep(spec: &str) -> Sweep {
    let mut resource = resource(spec);
    let fresh = validate(&resource, &defaults()).expect("a valid spec");
    let models = fresh.expansion.models().iter();
    let models = models
        .map(|model| PinnedModel {
            name: model.name.clone(),
            revision: "607a30d783dfa663caf39e06633721c8d4cfcd7e".into(),
        })
        .collect();
    let plan = Sweep::pin(
        &fresh.spec,
        &fresh.expansion,
        fresh.image().to_owned(),
        models,
    );
    resource.status = Some(InferenceBenchmarkStatus {
        plan: Some(plan),
        ..InferenceBenchmarkStatus::default()
    });
    validate(&resource, &defaults()).expect("a valid spec")
}

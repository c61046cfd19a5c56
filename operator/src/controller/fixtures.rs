//! Resources for the tests.

use inferbench_crds::{
    InferenceBenchmark,
    status::{InferenceBenchmarkStatus, PinnedModel},
};

use super::{
    sweep::{Defaults, Sweep},
    validate::validate,
};

pub const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

pub fn defaults() -> Defaults {
    Defaults {
        image: format!("ghcr.io/inferbench/runner@sha256:{}", "ab".repeat(32)),
        user: Some(65_532),
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

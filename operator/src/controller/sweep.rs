//! A resource that was accepted: what planning and building need of it, with every default filled in.

use inferbench_crds::{
    InferenceBenchmarkSpec,
    contract::StoreAt,
    design::Expansion,
    sha256_hex,
    spec::{Objectives, Store},
    status::{PinnedModel, Plan},
};
use serde::Serialize;

use super::names;

pub use inferbench_crds::contract::RESULTS_FOLDER;

/// How the operator was installed: what a resource does not say itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The runner's image.
    pub image: String,
    /// The user, group and volume group of pods; none where the platform chooses them.
    pub user: Option<i64>,
}

/// A resource that was accepted.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The resource's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// Its spec, which keeps to every rule.
    pub spec: InferenceBenchmarkSpec,
    /// The pinned plan; its models are empty until the preflight has resolved them.
    pub plan: Plan,
    /// The design, expanded.
    pub expansion: Expansion,
    /// The user, group and volume group of its pods; none where the platform chooses them.
    pub user: Option<i64>,
}

/// The plan's hash covers these.
#[derive(Serialize)]
struct Hashed<'a> {
    design: &'a inferbench_crds::spec::Design,
    measurement: &'a inferbench_crds::spec::Measurement,
    runner: &'a inferbench_crds::spec::Runner,
    results: &'a inferbench_crds::spec::Results,
    image: &'a Option<String>,
    models: &'a [PinnedModel],
}

/// The hash of a collection's inputs covers these.
#[derive(Serialize)]
struct Inputs<'a> {
    plan: &'a str,
    ledger: &'a str,
    objectives: &'a Objectives,
}

impl Sweep {
    /// The plan of a resource that has none yet, or whose plan lacks its models.
    #[must_use]
    pub fn pin(
        spec: &InferenceBenchmarkSpec,
        expansion: &Expansion,
        image: String,
        models: Vec<PinnedModel>,
    ) -> Plan {
        let image = Some(image);
        let hashed = Hashed {
            design: &spec.design,
            measurement: &spec.measurement,
            runner: &spec.runner,
            results: &spec.results,
            image: &image,
            models: &models,
        };
        // Plain data with string keys always serializes.
        let hash = sha256_hex(&serde_json::to_vec(&hashed).unwrap_or_default());
        let number = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
        Plan {
            hash,
            combinations: number(expansion.combinations_len()),
            trials: number(expansion.len()),
            image,
            models,
        }
    }

    /// The hash of what a collection at this state of the ledger (`status.ledger.outcomes`) collects from.
    #[must_use]
    pub fn inputs(&self, ledger: &str) -> String {
        let inputs = Inputs {
            plan: &self.plan.hash,
            ledger,
            objectives: &self.spec.objectives,
        };
        sha256_hex(&serde_json::to_vec(&inputs).unwrap_or_default())
    }

    /// Whether more trials have failed than `execution` allows.
    #[must_use]
    pub fn is_over_budget(&self, failed: u32) -> bool {
        let execution = &self.spec.execution;
        execution.is_over_budget(failed as usize, self.expansion.len() as usize)
    }

    /// Whether the preflight has resolved the models.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        !self.plan.models.is_empty()
    }

    /// The image that all pods run.
    #[must_use]
    pub fn image(&self) -> &str {
        self.plan.image.as_deref().unwrap_or_default()
    }

    /// The part of a trial's key that fixes the runner: the image's digest, or its whole reference where it has none.
    #[must_use]
    pub fn runner_identity(&self) -> &str {
        let image = self.image();
        image.split_once('@').map_or(image, |(_, digest)| digest)
    }

    /// The revision that a model was pinned to; empty before the preflight.
    #[must_use]
    pub fn revision(&self, model: &str) -> &str {
        let pinned = self.plan.models.iter().find(|pinned| pinned.name == model);
        pinned.map_or("", |pinned| pinned.revision.as_str())
    }

    /// The sweep's own folder in the store, as its pods see it.
    #[must_use]
    pub fn store(&self) -> StoreAt {
        let store = self.spec.results.store.as_ref();
        let base = match store {
            Some(Store { url: Some(url), .. }) => url.trim_end_matches('/').to_owned(),
            Some(Store {
                persistent_volume_claim: Some(claim),
                ..
            }) => match &claim.path {
                Some(path) => format!("{RESULTS_FOLDER}/{}", path.trim_end_matches('/')),
                None => RESULTS_FOLDER.to_owned(),
            },
            _ => RESULTS_FOLDER.to_owned(),
        };
        let (namespace, name, uid) = (&self.namespace, &self.name, names::short(&self.uid));
        StoreAt {
            target: format!("{base}/{namespace}/{name}-{uid}"),
            endpoint: store.and_then(|store| store.endpoint.clone()),
            region: store.and_then(|store| store.region.clone()),
        }
    }
}

//! A resource that was accepted: what planning and building need of it, with every default filled in.

use inferbench_crds::{
    InferenceBenchmarkSpec,
    contract::StoreAt,
    design::Expansion,
    expectation::Expectation,
    sha256_hex,
    spec::{Objectives, Store},
    status::{PinnedModel, PinnedPlan},
};
use k8s_openapi::{
    api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity,
};
use serde::Serialize;
use serde_json::Value;

use super::names;

pub use inferbench_crds::contract::RESULTS_FOLDER;

/// How the operator was installed: what a resource does not say itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// The runner's image.
    pub image: String,
    /// The user, group and volume group of pods; none where the platform chooses them.
    pub user: Option<i64>,
    /// CPU and memory of the pods of preflight and collection.
    pub light: ResourceRequirements,
}

/// CPU and memory of the pods of preflight and collection, where the operator is given nothing else. They wait for a
/// store most of the time, and a collection of 20,000 rows needs some 200 MiB.
#[must_use]
pub fn light() -> ResourceRequirements {
    let requests = [("cpu", "100m"), ("memory", "256Mi")];
    let requests = requests.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())));
    ResourceRequirements {
        requests: Some(requests.into()),
        ..ResourceRequirements::default()
    }
}

/// Requests and limits from JSON, as a flag has them: with anything else in it, no Job could be created.
///
/// # Errors
/// The fault, and what is allowed.
pub fn resources(text: &str) -> Result<ResourceRequirements, String> {
    let wrong =
        |what: String| format!("{what}: {{\"requests\": {{…}}, \"limits\": {{…}}}} is allowed");
    let given: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let read: ResourceRequirements =
        serde_json::from_value(given.clone()).map_err(|error| wrong(error.to_string()))?;
    if read.claims.is_some() || serde_json::to_value(&read).ok() != Some(given) {
        return Err(wrong("has more than requests and limits".into()));
    }
    Ok(read)
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
    pub plan: PinnedPlan,
    /// The design, expanded.
    pub expansion: Expansion,
    /// The user, group and volume group of its pods; none where the platform chooses them.
    pub user: Option<i64>,
    /// CPU and memory of the pods of its preflight and collection.
    pub light: ResourceRequirements,
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
    /// Left out where there are none, as before there were any.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    expectations: &'a [Expectation],
}

impl Sweep {
    /// The plan of a resource that has none yet, or whose plan lacks its models.
    #[must_use]
    pub fn pin(
        spec: &InferenceBenchmarkSpec,
        expansion: &Expansion,
        image: String,
        models: Vec<PinnedModel>,
    ) -> PinnedPlan {
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
        PinnedPlan {
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
            expectations: &self.spec.expectations,
        };
        sha256_hex(&serde_json::to_vec(&inputs).unwrap_or_default())
    }

    /// The hash of what a look after `blocks` blocks looks at. Stored results of them are not in it: they have ended. The
    /// best, which is measured again, depends on the objectives.
    #[must_use]
    pub fn looked_at(&self, blocks: u32) -> String {
        let mut looked_at = format!("{} look {blocks}", self.plan.hash);
        if blocks >= self.expansion.blocks_of_all() {
            looked_at += &serde_json::to_string(&self.spec.objectives).unwrap_or_default();
        }
        sha256_hex(looked_at.as_bytes())
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

    /// The runner's image: all pods run it, but for those of servers, which have its program and the server's image.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_requests_and_limits_and_nothing_else() {
        let json = r#"{"limits":{"memory":"1Gi"},"requests":{"cpu":"50m","memory":"1Gi"}}"#;
        let read = resources(json).expect("fine");
        assert_eq!(serde_json::to_string(&read).expect("JSON"), json);
        assert_eq!(resources("{}"), Ok(ResourceRequirements::default()));
        for wrong in [
            "",
            "[]",
            r#"{"request": {}}"#,
            r#"{"requests": {"cpu": 1}}"#,
            r#"{"claims": []}"#,
        ] {
            let why = resources(wrong).expect_err(wrong);
            assert!(why.ends_with("is allowed"), "{why}");
        }
    }
}

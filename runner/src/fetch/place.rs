//! Where the results of a resource lie, by its spec and status.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use inferbench_crds::{
    InferenceBenchmark,
    contract::StoreAt,
    spec::{ClaimRef, Runner},
};
use serde_json::Value;
use url::Url;

/// The results of one resource in its cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The resource's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// The sweep's folder, as the pods of the cluster see it.
    pub store: StoreAt,
    /// The SHA-256 of its manifest.json.
    pub manifest_sha256: String,
    /// The Secret whose keys are settings of the store's client.
    pub secret: Option<String>,
    /// The claim of the volume that the folder is on; none for a bucket.
    pub claim: Option<ClaimRef>,
    /// The runner's image.
    pub image: Option<String>,
    /// The spec's settings of pods.
    pub runner: Runner,
}

impl Place {
    /// The place of a resource's results.
    ///
    /// # Errors
    /// Where nothing has been collected, or the spec has no store.
    pub fn of(resource: &InferenceBenchmark) -> Result<Self, String> {
        let name = resource.metadata.name.clone().unwrap_or_default();
        let status = resource.status.as_ref();
        let results = status.and_then(|status| status.results.as_ref());
        let Some(results) = results else {
            return Err(format!("ib/{name}: has no results yet{}", so_far(resource)));
        };
        let Some(store) = &resource.spec.results.store else {
            return Err(format!("ib/{name}: spec.results.store is absent"));
        };
        let secret = store.credentials_secret_ref.as_ref();
        let plan = status.and_then(|status| status.plan.as_ref());
        let runner = resource.spec.runner.clone();
        Ok(Self {
            namespace: resource.metadata.namespace.clone().unwrap_or_default(),
            uid: resource.metadata.uid.clone().unwrap_or_default(),
            store: StoreAt {
                target: results.uri.clone(),
                endpoint: store.endpoint.clone(),
                region: store.region.clone(),
            },
            manifest_sha256: results.sha256.clone(),
            secret: secret.map(|secret| secret.name.clone()),
            claim: store.persistent_volume_claim.clone(),
            image: plan
                .and_then(|plan| plan.image.clone())
                .or(runner.image.clone()),
            runner,
            name,
        })
    }

    /// Whether only pods can reach it: a volume, or an endpoint that has a name inside of the cluster alone.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        let endpoint = self.store.endpoint.as_deref();
        self.claim.is_some() || endpoint.is_some_and(is_inside)
    }
}

/// The state of the conditions, for a sweep without results.
fn so_far(resource: &InferenceBenchmark) -> String {
    let Some(status) = &resource.status else {
        return ": no operator has looked at it".into();
    };
    let conditions = status.conditions.iter();
    let said = conditions
        .filter(|condition| {
            condition.type_ == "ResultsAvailable" || condition.type_ == "Progressing"
        })
        .map(|condition| {
            format!(
                "{} is {} ({})",
                condition.type_, condition.status, condition.reason
            )
        });
    let mut said: Vec<String> = said.collect();
    if let Some(counts) = &status.counts {
        said.insert(0, format!("{} trials are done", counts.done));
    }
    if said.is_empty() {
        return String::new();
    }
    format!(": {}", said.join(", "))
}

/// Whether an endpoint's host is a name of the cluster's: of a Service, or without a dot.
fn is_inside(endpoint: &str) -> bool {
    let url = Url::parse(endpoint).ok();
    let Some(url::Host::Domain(host)) = url.as_ref().and_then(Url::host) else {
        return false;
    };
    let host = host.trim_end_matches('.');
    let single = !host.contains('.') && host != "localhost";
    single || host.ends_with(".svc") || host.contains(".svc.") || host.ends_with(".cluster.local")
}

/// The keys and values of a Secret, as `kubectl get secret -o json` gives it.
///
/// # Errors
/// Where a value is no text in base64.
pub fn settings(secret: &Value) -> Result<Vec<(String, String)>, String> {
    let data: BTreeMap<String, String> = match secret.get("data") {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(data) => {
            serde_json::from_value(data.clone()).map_err(|error| format!("data: {error}"))?
        }
    };
    data.into_iter()
        .map(|(key, value)| {
            let bytes = STANDARD.decode(value);
            let bytes = bytes.map_err(|error| format!("data.{key}: {error}"))?;
            let text = String::from_utf8(bytes).map_err(|_| format!("data.{key}: is no text"))?;
            Ok((key, text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resource(store: Value, status: Value) -> InferenceBenchmark {
        serde_json::from_value(json!({
            "apiVersion": "inferbench.dev/v1alpha1",
            "kind": "InferenceBenchmark",
            "metadata": { "name": "thesis", "namespace": "lab", "uid": "u" },
            "spec": {
                "design": { "factors": { "model": [{ "name": "m", "source": { "random": { "preset": "gpt2" } } }] } },
                "results": { "store": store },
                "runner": { "image": "runner:1" },
            },
            "status": status,
        }))
        .unwrap()
    }

    fn done() -> Value {
        json!({
            "plan": { "image": "runner@sha256:1" },
            "results": { "uri": "s3://bucket/lab/thesis-u", "sha256": "abc" },
        })
    }

    #[test]
    fn the_place_is_what_spec_and_status_say() {
        let store = json!({ "url": "s3://bucket", "region": "r", "credentialsSecretRef": { "name": "creds" } });
        let place = Place::of(&resource(store, done())).unwrap();
        assert_eq!(place.store.target, "s3://bucket/lab/thesis-u");
        assert_eq!(
            (place.store.region.as_deref(), place.secret.as_deref()),
            (Some("r"), Some("creds"))
        );
        assert_eq!(place.image.as_deref(), Some("runner@sha256:1"));
        assert!(!place.is_inside());
        let claim = json!({ "persistentVolumeClaim": { "claimName": "results" } });
        assert!(Place::of(&resource(claim, done())).unwrap().is_inside());
    }

    #[test]
    fn a_sweep_without_results_says_how_far_it_is() {
        let status = json!({
            "counts": { "done": 3 },
            "conditions": [{ "type": "Progressing", "status": "True", "reason": "Measuring", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
        });
        let running = resource(json!({ "url": "s3://bucket" }), status);
        assert_eq!(
            Place::of(&running).unwrap_err(),
            "ib/thesis: has no results yet: 3 trials are done, Progressing is True (Measuring)"
        );
        let new = resource(json!({ "url": "s3://bucket" }), Value::Null);
        assert!(
            Place::of(&new)
                .unwrap_err()
                .ends_with("no operator has looked at it")
        );
    }

    #[test]
    fn endpoints_inside_of_the_cluster_are_told() {
        for inside in [
            "http://minio:9000",
            "http://minio.store.svc:9000",
            "https://minio.store.svc.cluster.local",
        ] {
            assert!(is_inside(inside), "{inside}");
        }
        for outside in [
            "https://s3.example.org",
            "http://localhost:9000",
            "http://127.0.0.1:9000",
            "http://[::1]:9000",
            "nonsense",
        ] {
            assert!(!is_inside(outside), "{outside}");
        }
    }

    #[test]
    fn a_secret_is_a_list_of_settings() {
        let secret = json!({ "data": { "AWS_ACCESS_KEY_ID": "aWQ=", "B": "" } });
        let expected = [("AWS_ACCESS_KEY_ID", "id"), ("B", "")];
        assert_eq!(
            settings(&secret).unwrap(),
            expected.map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
        assert_eq!(settings(&json!({})).unwrap(), []);
        let error = settings(&json!({ "data": { "A": "?" } })).unwrap_err();
        assert!(error.starts_with("data.A: "), "{error}");
        assert!(
            !settings(&json!({ "data": { "A": "/w==" } }))
                .unwrap_err()
                .contains("/w")
        );
    }
}

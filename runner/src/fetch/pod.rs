//! A short-lived pod of the runner's image that sees a sweep's results, as restricted as the operator's own: pure.

use inferbench_crds::{
    contract::RESULTS_FOLDER,
    crd::{API_VERSION, KIND},
};
use serde_json::{Value, json};

use super::place::Place;

/// The name of the container.
pub const CONTAINER: &str = "fetch";
/// How long the pod waits to be asked before it ends by itself, in seconds: should nobody be left to delete it.
const IDLE_S: u64 = 840;
/// How long it may live at all, in seconds.
const DEADLINE_S: u64 = 900;
/// Reasons of a waiting container that no waiting mends.
const HOPELESS: [&str; 13] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "ImageInspectError",
    "InvalidImageName",
    "RegistryUnavailable",
    "SignatureValidationFailed",
    "CreateContainerConfigError",
    "CreateContainerError",
    "PreCreateHookError",
    "PreStartHookError",
    "RunContainerError",
    "CrashLoopBackOff",
];

/// The pod.
#[must_use]
pub fn pod(place: &Place, image: &str, name: &str) -> Value {
    let runner = &place.runner;
    let mut volumes = vec![json!({ "name": "tmp", "emptyDir": {} })];
    let mut mounts = vec![json!({ "name": "tmp", "mountPath": "/tmp" })];
    if let Some(claim) = &place.claim {
        volumes.push(json!({
            "name": "results",
            "persistentVolumeClaim": { "claimName": claim.claim_name },
        }));
        mounts.push(json!({ "name": "results", "mountPath": RESULTS_FOLDER, "readOnly": true }));
    }
    let secrets = place.secret.iter();
    let secrets: Vec<Value> = secrets
        .map(|secret| json!({ "secretRef": { "name": secret } }))
        .collect();
    // The settings that the trials' pods need to get the image and to be admitted, this one needs too.
    let overrides = runner.pod_overrides.as_ref();
    let pull_secrets = overrides.map(|overrides| overrides["spec"]["imagePullSecrets"].clone());
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": place.namespace,
            "labels": { "app.kubernetes.io/name": "inferbench", "app.kubernetes.io/component": "fetch" },
            "ownerReferences": [{ "apiVersion": API_VERSION, "kind": KIND, "name": place.name, "uid": place.uid }],
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": DEADLINE_S,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "serviceAccountName": runner.service_account_name,
            "nodeSelector": runner.node_selector,
            "tolerations": runner.tolerations,
            "imagePullSecrets": pull_secrets,
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "volumes": volumes,
            "containers": [{
                "name": CONTAINER,
                "image": image,
                "command": ["inferbench"],
                "args": ["pack", "--idle", IDLE_S.to_string()],
                "env": [
                    { "name": "HOME", "value": "/tmp" },
                    { "name": "NVIDIA_VISIBLE_DEVICES", "value": "void" },
                ],
                "envFrom": secrets,
                "resources": {
                    "requests": { "cpu": "100m", "memory": "128Mi" },
                    "limits": { "memory": "1Gi" },
                },
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                },
                "volumeMounts": mounts,
            }],
        },
    });
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.retain(|_, value| !value.is_null());
    }
    pod
}

/// How far a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can be asked.
    Ready,
    /// It cannot yet, and why as far as that is known.
    Waiting(String),
    /// It never will be, and why.
    Broken(String),
}

/// How far a pod is, as `kubectl get pod -o json` gives it.
#[must_use]
pub fn standing(pod: &Value) -> Standing {
    let status = &pod["status"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let container = &status["containerStatuses"][0];
    let waiting = &container["state"]["waiting"];
    let reason = text(&waiting["reason"]);
    let because = |reason: String, message: String| match (reason.is_empty(), message.is_empty()) {
        (true, _) => message,
        (false, true) => reason,
        (false, false) => format!("{reason}: {message}"),
    };
    if matches!(status["phase"].as_str(), Some("Failed" | "Succeeded")) {
        let ended = &container["state"]["terminated"];
        let why = because(text(&status["reason"]), text(&status["message"]));
        let code = ended["exitCode"].as_i64();
        let code = code.map_or(String::new(), |code| format!(" with exit code {code}"));
        return Standing::Broken(format!("it has ended{code} {why}").trim_end().to_owned());
    }
    if HOPELESS.contains(&reason.as_str()) {
        return Standing::Broken(because(reason, text(&waiting["message"])));
    }
    if container["ready"] == true {
        return Standing::Ready;
    }
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    let unscheduled = conditions
        .find(|condition| condition["type"] == "PodScheduled" && condition["status"] == "False");
    let (reason, message) = match unscheduled {
        Some(condition) => (text(&condition["reason"]), &condition["message"]),
        None => (reason, &waiting["message"]),
    };
    Standing::Waiting(because(reason, text(message)))
}

#[cfg(test)]
mod tests {
    use inferbench_crds::{
        contract::StoreAt,
        spec::{ClaimRef, Runner},
    };

    use super::*;

    fn place() -> Place {
        Place {
            name: "thesis".into(),
            namespace: "lab".into(),
            uid: "u".into(),
            store: StoreAt::default(),
            manifest_sha256: String::new(),
            secret: None,
            claim: None,
            image: None,
            runner: Runner::default(),
        }
    }

    #[test]
    fn the_pod_is_restricted_and_sees_only_what_it_has_to() {
        let claim = ClaimRef {
            claim_name: "results".into(),
            path: Some("sweeps".into()),
        };
        let place = Place {
            claim: Some(claim),
            runner: Runner {
                service_account_name: Some("runners".into()),
                node_selector: [("zone".into(), "a".into())].into(),
                pod_overrides: Some(
                    json!({ "spec": { "imagePullSecrets": [{ "name": "registry" }] } }),
                ),
                ..Runner::default()
            },
            ..place()
        };
        let pod = pod(&place, "runner:1", "fetch-1");
        // It is one that Kubernetes knows all fields of.
        let typed: k8s_openapi::api::core::v1::Pod = serde_json::from_value(pod.clone()).unwrap();
        let again = serde_json::to_value(&typed).unwrap();
        assert_eq!(
            again["spec"]["containers"][0]["securityContext"],
            pod["spec"]["containers"][0]["securityContext"]
        );
        let spec = typed.spec.unwrap();
        assert_eq!(spec.automount_service_account_token, Some(false));
        assert_eq!(spec.service_account_name.as_deref(), Some("runners"));
        assert_eq!(spec.image_pull_secrets.unwrap()[0].name, "registry");
        assert_eq!(spec.active_deadline_seconds, Some(900));
        let container = &spec.containers[0];
        let mount = container.volume_mounts.as_ref().unwrap().last().unwrap();
        assert_eq!(
            (mount.mount_path.as_str(), mount.read_only),
            (RESULTS_FOLDER, Some(true))
        );
        assert_eq!(container.env_from, Some(Vec::new()));
    }

    #[test]
    fn a_bucket_needs_its_secret_and_no_volume() {
        let place = Place {
            secret: Some("creds".into()),
            ..place()
        };
        let pod = pod(&place, "runner:1", "fetch-1");
        let container = &pod["spec"]["containers"][0];
        assert_eq!(
            container["envFrom"],
            json!([{ "secretRef": { "name": "creds" } }])
        );
        assert_eq!(container["volumeMounts"].as_array().unwrap().len(), 1);
        assert_eq!(pod["spec"].get("imagePullSecrets"), None);
    }

    #[test]
    fn how_far_a_pod_is() {
        let ready =
            json!({ "status": { "phase": "Running", "containerStatuses": [{ "ready": true }] } });
        assert_eq!(standing(&ready), Standing::Ready);
        assert_eq!(standing(&json!({})), Standing::Waiting(String::new()));
        let unscheduled = json!({ "status": { "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes" },
        ] } });
        assert_eq!(
            standing(&unscheduled),
            Standing::Waiting("Unschedulable: 0/1 nodes".into())
        );
        let waiting = |reason: &str| {
            json!({ "status": { "phase": "Pending", "containerStatuses": [
                { "ready": false, "state": { "waiting": { "reason": reason, "message": "no such image" } } },
            ] } })
        };
        for reason in ["ImagePullBackOff", "ErrImageNeverPull", "RunContainerError"] {
            assert_eq!(
                standing(&waiting(reason)),
                Standing::Broken(format!("{reason}: no such image"))
            );
        }
        assert!(matches!(
            standing(&waiting("ContainerCreating")),
            Standing::Waiting(_)
        ));
        let ended = json!({ "status": { "phase": "Failed", "reason": "DeadlineExceeded", "containerStatuses": [
            { "state": { "terminated": { "exitCode": 2 } } },
        ] } });
        assert_eq!(
            standing(&ended),
            Standing::Broken("it has ended with exit code 2 DeadlineExceeded".into())
        );
    }
}

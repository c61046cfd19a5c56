//! Jobs: their defaults, their checks, and the fields that may change.

use serde_json::{Value, json};

use crate::common::{JOBS, World, job, text};

scenarios! {
    async fn a_job_gets_its_defaults(world) {
        let created = world.post(JOBS, job("a")).await.ok();
        let uid = text(&created, "/metadata/uid");
        let labels = json!({
            "batch.kubernetes.io/controller-uid": uid,
            "batch.kubernetes.io/job-name": "a",
            "controller-uid": uid,
            "job-name": "a",
        });
        assert_eq!(created["metadata"]["labels"], labels);
        assert_eq!(created["metadata"]["generation"], 1);
        assert_eq!(created["status"], json!({}));
        assert_eq!(created["spec"], json!({
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 6,
            "selector": { "matchLabels": { "batch.kubernetes.io/controller-uid": uid } },
            "manualSelector": false,
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "containers": [{
                        "name": "c",
                        "image": "i:1",
                        "resources": {},
                        "terminationMessagePath": "/dev/termination-log",
                        "terminationMessagePolicy": "File",
                        "imagePullPolicy": "IfNotPresent",
                    }],
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 30,
                    "dnsPolicy": "ClusterFirst",
                    "securityContext": {},
                    "schedulerName": "default-scheduler",
                },
            },
            "completionMode": "NonIndexed",
            "suspend": false,
            "podReplacementPolicy": "TerminatingOrFailed",
        }));
    }

    async fn invalid_jobs_are_refused(world) {
        type Case = (fn(&mut Value), &'static [(&'static str, &'static str, &'static str)]);
        let cases: &[Case] = &[
            (
                |job| { job["spec"]["template"]["spec"].as_object_mut().expect("a map").remove("restartPolicy"); },
                &[("spec.template.spec.restartPolicy", "FieldValueRequired", "Required value: valid values: \"OnFailure\", \"Never\"")],
            ),
            (
                |job| job["spec"]["template"]["spec"]["containers"] = json!([]),
                &[("spec.template.spec.containers", "FieldValueRequired", "Required value")],
            ),
            (
                |job| job["spec"]["template"]["spec"]["containers"] = json!([{ "name": "c" }]),
                &[("spec.template.spec.containers[0].image", "FieldValueRequired", "Required value")],
            ),
            (
                |job| job["metadata"] = json!({}),
                &[("metadata.name", "FieldValueRequired", "Required value: name or generateName is required")],
            ),
            (
                |job| job["spec"]["backoffLimit"] = json!(-1),
                &[("spec.backoffLimit", "FieldValueInvalid", "Invalid value: -1: must be greater than or equal to 0")],
            ),
            (
                |job| {
                    job["spec"]["podFailurePolicy"] = json!({ "rules": [{ "action": "FailJob", "onExitCodes": { "operator": "In", "values": [1] } }] });
                    job["spec"]["template"]["spec"]["restartPolicy"] = json!("OnFailure");
                },
                &[("spec.template.spec.restartPolicy", "FieldValueInvalid", "Invalid value: \"OnFailure\": only \"Never\" is supported when podFailurePolicy is specified")],
            ),
            (
                |job| job["spec"]["podFailurePolicy"] = json!({ "rules": [{ "action": "FailJob", "onExitCodes": { "operator": "In", "values": [0, 65, 64] } }] }),
                &[
                    ("spec.podFailurePolicy.rules[0].onExitCodes.values[0]", "FieldValueInvalid", "Invalid value: 0: must not be 0 for the In operator"),
                    ("spec.podFailurePolicy.rules[0].onExitCodes.values", "FieldValueInvalid", "Invalid value: [0,65,64]: must be ordered"),
                ],
            ),
            (
                |job| job["spec"]["podFailurePolicy"] = json!({ "rules": [{ "action": "Ignore" }] }),
                &[("spec.podFailurePolicy.rules[0]", "FieldValueInvalid", "Invalid value: specifying one of OnExitCodes and OnPodConditions is required")],
            ),
            (
                |job| job["spec"]["podFailurePolicy"] = json!({ "rules": [{ "action": "FailJob", "onExitCodes": { "containerName": "x", "operator": "In", "values": [1] } }] }),
                &[("spec.podFailurePolicy.rules[0].onExitCodes.containerName", "FieldValueInvalid", "Invalid value: \"x\": must be one of the container or initContainer names in the pod template")],
            ),
            (
                |job| {
                    job["spec"]["podFailurePolicy"] = json!({ "rules": [] });
                    job["spec"]["podReplacementPolicy"] = json!("TerminatingOrFailed");
                },
                &[("spec.podReplacementPolicy", "FieldValueNotSupported", "Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\"")],
            ),
            (
                |job| job["spec"]["completionMode"] = json!("Indexed"),
                &[],
            ),
            (
                |job| { job["spec"]["completionMode"] = json!("Indexed"); job["spec"]["parallelism"] = json!(2); },
                &[("spec.completions", "FieldValueRequired", "Required value: when completion mode is Indexed")],
            ),
            (
                |job| job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]),
                &[("spec.template.spec.containers[0].volumeMounts[0].name", "FieldValueNotFound", "Not found: \"v\"")],
            ),
            (
                |job| job["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({ "requests": { "nvidia.com/gpu": "1" } }),
                &[("spec.template.spec.containers[0].resources.limits", "FieldValueRequired", "Required value: Limit must be set for non overcommitable resources")],
            ),
            (
                |job| job["metadata"]["labels"] = json!({ "a": "b c" }),
                &[("metadata.labels", "FieldValueInvalid", "Invalid value: \"b c\": a valid label must be")],
            ),
            (
                |job| job["metadata"]["annotations"] = json!({ "a": "x".repeat(262_144) }),
                &[("metadata.annotations", "FieldValueTooLong", "Too long: may not be more than 262144 bytes")],
            ),
            (
                |job| job["metadata"]["ownerReferences"] = json!([{ "apiVersion": "v1", "kind": "Pod", "name": "x" }]),
                &[("metadata.ownerReferences.uid", "FieldValueInvalid", "Invalid value: \"\": must not be empty")],
            ),
        ];
        for (index, (change, causes)) in cases.iter().enumerate() {
            let mut new = job(&format!("j{index}"));
            change(&mut new);
            let answer = world.post(JOBS, new).await;
            if causes.is_empty() {
                answer.ok();
            } else {
                answer.invalid(causes);
            }
        }
    }

    async fn a_jobs_template_stays(world) {
        let path = format!("{JOBS}/a");
        world.post(JOBS, job("a")).await.ok();
        let patch = json!({ "spec": { "template": { "spec": { "terminationGracePeriodSeconds": 5 } } } });
        let answer = world.patch(&path, patch).await;
        answer.invalid(&[("spec.template", "FieldValueInvalid", "Invalid value: ")]);
        assert!(answer.refused(422, "Invalid").ends_with("field is immutable"));
        world.patch(&path, json!({ "spec": { "completions": 2 } })).await.invalid(&[("spec.completions", "FieldValueInvalid", "Invalid value: 2: field is immutable")]);
        let changed = world.patch(&path, json!({ "spec": { "parallelism": 0, "suspend": true } })).await.ok();
        assert_eq!(changed["metadata"]["generation"], 2);
        // A Job that has not begun may still change where to run.
        let mut waits = job("b");
        waits["spec"]["suspend"] = json!(true);
        world.post(JOBS, waits).await.ok();
        let patch = json!({ "spec": { "template": { "spec": { "nodeSelector": { "a": "b" } } } } });
        let changed = world.patch(&format!("{JOBS}/b"), patch).await.ok();
        assert_eq!(changed["metadata"]["generation"], 2);
    }
}

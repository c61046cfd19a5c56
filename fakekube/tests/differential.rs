//! What an API server answers, asked of the double always, and of a real one where `INFERBENCH_E2E=1` and `KUBECONFIG`
//! say so: a difference is a bug in one of them.

mod common;

use common::{BENCHMARKS, JOBS, MAPS, PODS, World, benchmark, config_map, job, text, version};
use serde_json::{Value, json};

macro_rules! scenarios {
    ($($(#[$about:meta])* async fn $name:ident($world:ident) $body:block)*) => {$(
        $(#[$about])*
        #[tokio::test]
        async fn $name() {
            async fn scenario($world: &World) $body
            let world = World::fake().await;
            scenario(&world).await;
            world.end().await;
            if let Some(world) = World::real().await {
                scenario(&world).await;
                world.end().await;
            }
        }
    )*};
}

scenarios! {
    async fn a_name_is_taken_once(world) {
        world.post(JOBS, job("a")).await.ok();
        let again = world.post(JOBS, job("a")).await;
        assert_eq!(again.refused(409, "AlreadyExists"), "jobs.batch \"a\" already exists");
        assert_eq!(again.body["details"], json!({ "name": "a", "group": "batch", "kind": "jobs" }));
    }

    async fn what_is_not_there_is_not_found(world) {
        let missing = world.get(&format!("{JOBS}/a")).await;
        assert_eq!(missing.refused(404, "NotFound"), "jobs.batch \"a\" not found");
        world.delete(&format!("{JOBS}/a"), Value::Null).await.refused(404, "NotFound");
        world.patch(&format!("{JOBS}/a"), json!({})).await.refused(404, "NotFound");
        let nowhere = world.post("/apis/batch/v1/namespaces/nowhere/jobs", job("a")).await;
        assert_eq!(nowhere.refused(404, "NotFound"), "namespaces \"nowhere\" not found");
        world.get("/apis/batch/v1/namespaces/{ns}/jobz/a").await.refused(404, "NotFound");
        world.get(&format!("{JOBS}/a/b")).await.refused(404, "NotFound");
        assert_eq!(world.get("/apis/nothing.dev/v1/things").await.code, 404);
        world.post(&format!("{JOBS}/a"), job("a")).await.refused(405, "MethodNotAllowed");
    }

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

    async fn unknown_fields_are_noticed(world) {
        let mut unknown = job("a");
        unknown["spec"]["backofLimit"] = json!(1);
        unknown["spec"]["template"]["spec"]["foo"] = json!({ "bar": 1 });
        let strict = world.post(&format!("{JOBS}?fieldValidation=Strict"), unknown.clone()).await;
        assert_eq!(
            strict.refused(400, "BadRequest"),
            "Job in version \"v1\" cannot be handled as a Job: strict decoding error: unknown field \"spec.backofLimit\", unknown field \"spec.template.spec.foo\""
        );
        let warned = world.post(JOBS, unknown).await;
        assert_eq!(warned.warnings.len(), 2, "{:?}", warned.warnings);
        assert!(warned.warnings[0].contains("unknown field"), "{:?}", warned.warnings);
        assert_eq!(warned.ok()["spec"].get("backofLimit"), None);
        let mut unknown = benchmark("b");
        unknown["spec"]["bogus"] = json!(1);
        world.post(&format!("{BENCHMARKS}?fieldValidation=Strict"), unknown.clone()).await.refused(400, "BadRequest");
        let ignored = world.post(&format!("{BENCHMARKS}?fieldValidation=Ignore"), unknown).await;
        assert!(ignored.warnings.is_empty());
        assert_eq!(ignored.ok()["spec"].get("bogus"), None);
        let patch = json!({ "spec": { "bogus": 1 } });
        world.patch(&format!("{BENCHMARKS}/b?fieldValidation=Strict"), patch).await.refused(422, "Invalid");
    }

    async fn what_cannot_be_read_is_refused(world) {
        let mut wrong = job("a");
        wrong["spec"]["parallelism"] = json!("many");
        let refused = world.post(JOBS, wrong).await.refused(400, "BadRequest");
        assert!(refused.contains("cannot unmarshal string into Go struct field") && refused.contains("of type int32"), "{refused}");
        world.post(MAPS, json!({ "metadata": { "name": "a" }, "data": { "a": 1 } })).await.refused(400, "BadRequest");
        let mut other = benchmark("a");
        other["apiVersion"] = json!("inferbench.dev/v1");
        assert_eq!(
            world.post(BENCHMARKS, other).await.refused(400, "BadRequest"),
            "the API version in the data (inferbench.dev/v1) does not match the expected API version (inferbench.dev/v1alpha1)"
        );
        let mut elsewhere = job("a");
        elsewhere["metadata"]["namespace"] = json!("elsewhere");
        world.post(JOBS, elsewhere).await.refused(400, "BadRequest");
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
        // One that has not begun may be told where to run.
        let patch = json!({ "spec": { "template": { "spec": { "nodeSelector": { "a": "b" } } } } });
        let changed = world.patch(&path, patch).await.ok();
        assert_eq!(changed["metadata"]["generation"], 3);
    }

    async fn status_and_spec_are_written_apart(world) {
        for (list, object, spec, status) in [
            (JOBS, job("a"), "/spec/parallelism", json!({ "active": 1 })),
            (BENCHMARKS, benchmark("a"), "/spec/execution/parallelism", json!({ "observedGeneration": 1 })),
        ] {
            let path = format!("{list}/a");
            let mut given = object.clone();
            given["status"] = status.clone();
            let created = world.post(list, given).await.ok();
            assert_ne!(created["status"], status, "status is not part of a creation");
            let both = json!({ "spec": { "parallelism": 7, "execution": { "parallelism": 7 } }, "status": status });
            let written = world.patch(&format!("{path}/status"), both.clone()).await.ok();
            assert_eq!(written["status"], status);
            assert_eq!(written.pointer(spec), Some(&json!(1)));
            assert_eq!(written["metadata"]["generation"], 1);
            let other = json!({ "spec": both["spec"], "status": { "active": 5, "observedGeneration": 5 } });
            let written = world.patch(&path, other).await.ok();
            assert_eq!(written["status"], status);
            assert_eq!(written.pointer(spec), Some(&json!(7)));
            assert_eq!(written["metadata"]["generation"], 2);
            let labelled = world.patch(&path, json!({ "metadata": { "labels": { "x": "y" } } })).await.ok();
            assert_eq!(labelled["metadata"]["generation"], 2, "labels are no part of what is asked for");
        }
    }

    async fn a_status_patch_leaves_a_custom_resources_metadata(world) {
        world.post(BENCHMARKS, benchmark("a")).await.ok();
        let patch = json!({ "metadata": { "labels": { "a": "b" } }, "status": { "observedGeneration": 1 } });
        let written = world.patch(&format!("{BENCHMARKS}/a/status"), patch).await.ok();
        assert_eq!(written["metadata"].get("labels"), None);
        world.post(JOBS, job("a")).await.ok();
        let patch = json!({ "metadata": { "labels": { "a": "b" } } });
        let written = world.patch(&format!("{JOBS}/a/status"), patch).await.ok();
        assert_eq!(written["metadata"]["labels"]["a"], "b");
    }

    async fn what_changes_nothing_writes_nothing(world) {
        for (list, object) in [(JOBS, job("a")), (BENCHMARKS, benchmark("a")), (MAPS, config_map("a"))] {
            let path = format!("{list}/a");
            let created = world.post(list, object.clone()).await.ok();
            let patched = world.patch(&path, json!({ "metadata": { "labels": null } })).await.ok();
            let patched = if list == JOBS { world.get(&path).await.ok() } else { patched };
            let again = world.patch(&path, json!({ "metadata": { "annotations": {} } })).await.ok();
            assert_eq!(version(&again), version(&patched));
            let whole = world.put(&path, again.clone()).await.ok();
            assert_eq!(version(&whole), version(&again));
            assert_eq!(created["metadata"]["uid"], whole["metadata"]["uid"]);
        }
        let status = json!({ "status": { "observedGeneration": 1 } });
        let path = format!("{BENCHMARKS}/a/status");
        let first = world.patch(&path, status.clone()).await.ok();
        assert_eq!(version(&world.patch(&path, status).await.ok()), version(&first));
    }

    async fn a_patch_may_name_what_it_was_made_for(world) {
        for (list, object) in [(JOBS, job("a")), (BENCHMARKS, benchmark("a"))] {
            for sub in ["", "/status"] {
                let path = format!("{list}/a{sub}");
                let created = match world.post(list, object.clone()).await {
                    answer if answer.code == 409 => world.get(&format!("{list}/a")).await.ok(),
                    answer => answer.ok(),
                };
                let stale = json!({ "metadata": { "resourceVersion": "1" }, "status": { "startTime": "2026-01-01T00:00:00Z" } });
                let refused = world.patch(&path, stale).await.refused(409, "Conflict");
                assert!(refused.ends_with("\"a\": the object has been modified; please apply your changes to the latest version and try again"), "{refused}");
                let other = json!({ "metadata": { "uid": "11111111-1111-4111-8111-111111111111" } });
                let answer = world.patch(&path, other).await;
                if list == BENCHMARKS && sub == "/status" {
                    // Here only the version fences: a custom resource's status is taken whatever uid comes with it.
                    assert_eq!(answer.ok()["metadata"]["uid"], created["metadata"]["uid"]);
                    continue;
                }
                let refused = answer.refused(422, "Invalid");
                assert!(refused.contains("metadata.uid: Invalid value: \"11111111-1111-4111-8111-111111111111\": field is immutable"), "{refused}");
                let right = json!({ "metadata": { "resourceVersion": version(&created), "uid": created["metadata"]["uid"] } });
                world.patch(&path, right).await.ok();
            }
        }
    }

    async fn an_update_is_of_what_was_read(world) {
        let created = world.post(BENCHMARKS, benchmark("a")).await.ok();
        let path = format!("{BENCHMARKS}/a");
        world.put(&path, benchmark("a")).await.invalid(&[("metadata.resourceVersion", "FieldValueInvalid", "Invalid value: 0")]);
        let mut next = created.clone();
        next["spec"]["suspend"] = json!(true);
        let written = world.put(&path, next.clone()).await.ok();
        assert_eq!(written["metadata"]["generation"], 2);
        next["spec"]["suspend"] = json!(false);
        world.put(&path, next).await.refused(409, "Conflict");
        world.put(&path, benchmark("b")).await.refused(400, "BadRequest");
        // Some kinds may be written over whatever is there.
        world.post(MAPS, config_map("a")).await.ok();
        world.put(&format!("{MAPS}/a"), json!({ "metadata": { "name": "a" }, "data": { "c": "d" } })).await.ok();
        let other = json!({ "metadata": { "name": "a", "uid": "11111111-1111-4111-8111-111111111111" } });
        world.put(&format!("{MAPS}/a"), other).await.refused(409, "Conflict");
    }

    async fn leases_are_written_over_what_was_read(world) {
        let leases = "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases";
        let path = format!("{leases}/a");
        let lease = json!({ "metadata": { "name": "a" }, "spec": { "holderIdentity": "x", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000001Z" } });
        let mut mine = world.post(leases, lease).await.ok();
        let theirs = mine.clone();
        mine["spec"]["holderIdentity"] = json!("me");
        world.put(&path, mine).await.ok();
        world.put(&path, theirs).await.refused(409, "Conflict");
    }

    async fn a_deletion_may_name_what_it_is_meant_for(world) {
        let created = world.post(JOBS, job("a")).await.ok();
        let path = format!("{JOBS}/a");
        let refused = world.delete(&path, json!({ "preconditions": { "uid": "1" } })).await;
        assert_eq!(
            refused.refused(409, "Conflict"),
            format!("Operation cannot be fulfilled on Job.batch \"a\": the UID in the precondition (1) does not match the UID in record ({}). The object might have been deleted and then recreated", text(&created, "/metadata/uid"))
        );
        world.delete(&path, json!({ "preconditions": { "resourceVersion": "1" } })).await.refused(409, "Conflict");
        let right = json!({ "preconditions": { "uid": created["metadata"]["uid"], "resourceVersion": version(&created) }, "propagationPolicy": "Background" });
        let deleted = world.delete(&path, right).await.ok();
        assert_eq!((text(&deleted, "/kind"), text(&deleted, "/status")), ("Status", "Success"));
        assert_eq!(deleted["details"], json!({ "name": "a", "group": "batch", "kind": "jobs", "uid": created["metadata"]["uid"] }));
        assert_eq!(world.get(&path).await.code, 404);
    }

    /// Held by a finalizer, so that the collector does not interfere.
    async fn deletion_says_what_becomes_of_dependents(world) {
        for (policy, finalizers) in [(Value::Null, json!(["x.dev/y", "orphan"])), (json!("Foreground"), json!(["x.dev/y", "foregroundDeletion"])), (json!("Background"), json!(["x.dev/y"])), (json!("Orphan"), json!(["x.dev/y", "orphan"]))] {
            let mut held = job("a");
            held["metadata"]["finalizers"] = json!(["x.dev/y"]);
            let created = world.post(JOBS, held).await.ok();
            let path = format!("{JOBS}/a");
            let deleted = world.delete(&path, json!({ "propagationPolicy": policy })).await.ok();
            assert_eq!(deleted["metadata"]["finalizers"], finalizers);
            assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 0);
            assert_eq!(deleted["metadata"]["generation"], 2);
            assert_ne!(version(&deleted), version(&created));
            world.patch(&path, json!({ "metadata": { "finalizers": null } })).await.ok();
            world.gone(&path).await;
        }
        world.delete(&format!("{JOBS}/a"), json!({ "propagationPolicy": "Never" })).await.refused(422, "Invalid");
        // Other kinds let theirs be collected.
        let mut held = config_map("a");
        held["metadata"]["finalizers"] = json!(["x.dev/y"]);
        world.post(MAPS, held).await.ok();
        let deleted = world.delete(&format!("{MAPS}/a"), Value::Null).await.ok();
        assert_eq!(deleted["metadata"]["finalizers"], json!(["x.dev/y"]));
    }

    async fn finalizers_hold_what_is_deleted(world) {
        let mut held = config_map("a");
        held["metadata"]["finalizers"] = json!(["x.dev/y"]);
        world.post(MAPS, held).await.ok();
        let path = format!("{MAPS}/a");
        let deleted = world.delete(&path, Value::Null).await.ok();
        assert!(!text(&deleted, "/metadata/deletionTimestamp").is_empty());
        let again = world.delete(&path, Value::Null).await.ok();
        assert_eq!(version(&again), version(&deleted));
        let more = json!({ "metadata": { "finalizers": ["x.dev/y", "x.dev/z"] } });
        world.patch(&path, more).await.invalid(&[("metadata.finalizers", "FieldValueForbidden", "Forbidden: no new finalizers can be added if the object is being deleted")]);
        let changed = world.patch(&path, json!({ "data": { "c": "d" } })).await.ok();
        assert_eq!(changed["data"]["c"], "d");
        world.patch(&path, json!({ "metadata": { "finalizers": [] } })).await.ok();
        assert_eq!(world.get(&path).await.code, 404);
    }

    async fn names_are_generated(world) {
        let mut new = config_map("");
        new["metadata"] = json!({ "generateName": "gen-" });
        let one = world.post(MAPS, new.clone()).await.ok();
        let two = world.post(MAPS, new).await.ok();
        for made in [&one, &two] {
            let name = text(made, "/metadata/name");
            assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
        }
        assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
    }

    async fn a_list_comes_in_pages_of_one_version(world) {
        for name in ["a", "b", "c", "d", "e"] {
            world.post(MAPS, config_map(name)).await.ok();
        }
        let names = |page: &Value| -> Vec<String> {
            let items = page["items"].as_array().expect("items").iter();
            items.map(|item| text(item, "/metadata/name").to_owned()).filter(|name| name.len() == 1).collect()
        };
        let first = world.get(&format!("{MAPS}?limit=2")).await.ok();
        assert_eq!(names(&first), ["a", "b"]);
        assert!(first["metadata"]["remainingItemCount"].as_u64().is_some_and(|count| count >= 3));
        // What happens in between does not show.
        world.delete(&format!("{MAPS}/d"), Value::Null).await.ok();
        world.post(MAPS, config_map("bb")).await.ok();
        world.patch(&format!("{MAPS}/e"), json!({ "data": { "new": "x" } })).await.ok();
        let token = text(&first, "/metadata/continue");
        let rest = world.get(&format!("{MAPS}?limit=10&continue={token}")).await.ok();
        assert_eq!(names(&rest), ["c", "d", "e"]);
        assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        assert_eq!(text(&rest, "/metadata/continue"), "");
        let e = rest["items"].as_array().expect("items").iter().find(|item| text(item, "/metadata/name") == "e");
        assert_eq!(e.expect("e")["data"].get("new"), None);
        assert_eq!(names(&world.get(MAPS).await.ok()), ["a", "b", "c", "e"]);
        world.get(&format!("{MAPS}?limit=2&continue=abc")).await.refused(400, "BadRequest");
        world.get(&format!("{MAPS}?resourceVersion=999999999")).await.refused(504, "Timeout");
        // Built-in items need not say what they are; others do.
        assert_eq!(first["items"][0].get("kind"), None);
        world.post(BENCHMARKS, benchmark("a")).await.ok();
        let list = world.get(BENCHMARKS).await.ok();
        assert_eq!(list["kind"], "InferenceBenchmarkList");
        assert_eq!(list["items"][0]["kind"], "InferenceBenchmark");
    }

    async fn a_watch_tells_what_changes(world) {
        let path = format!("{MAPS}/a");
        let mut labelled = config_map("a");
        labelled["metadata"]["labels"] = json!({ "x": "y" });
        let start = version(&world.get(&format!("{MAPS}?labelSelector=x%3Dy")).await.ok());
        let query = format!("resourceVersion={start}");
        let mut all = world.watch(MAPS, &format!("{query}&fieldSelector=metadata.name%3Da")).await;
        let mut some = world.watch(MAPS, &format!("{query}&labelSelector=x%3Dy")).await;
        world.post(MAPS, config_map("other")).await.ok();
        world.post(MAPS, labelled).await.ok();
        world.patch(&path, json!({ "data": { "c": "d" } })).await.ok();
        world.patch(&path, json!({ "metadata": { "labels": null } })).await.ok();
        world.patch(&path, json!({ "metadata": { "labels": { "x": "y" } } })).await.ok();
        let last = world.get(&path).await.ok();
        world.delete(&path, Value::Null).await.ok();
        all.expect("ADDED", "a").await;
        for _ in 0..3 {
            all.expect("MODIFIED", "a").await;
        }
        let (what, gone) = all.next().await.expect("an event");
        assert_eq!(what, "DELETED");
        let number = |object: &Value| version(object).parse::<u64>().expect("a version");
        assert!(number(&gone) > number(&last), "a deletion has a version of its own");
        for what in ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"] {
            some.expect(what, "a").await;
        }
    }

    async fn a_watch_may_begin_with_what_is_there(world) {
        world.post(JOBS, job("a")).await.ok();
        world.post(JOBS, job("b")).await.ok();
        let mut any = world.watch(JOBS, "resourceVersion=0").await;
        let mut names = vec![any.name().await.1, any.name().await.1];
        names.sort();
        assert_eq!(names, ["a", "b"]);
        let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        let mut streamed = world.watch(JOBS, query).await;
        streamed.expect("ADDED", "a").await;
        streamed.expect("ADDED", "b").await;
        let (what, mark) = streamed.next().await.expect("an event");
        assert_eq!(what, "BOOKMARK");
        assert_eq!(mark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        world.post(JOBS, job("c")).await.ok();
        streamed.expect("ADDED", "c").await;
        any.expect("ADDED", "c").await;
        world.get(&format!("{JOBS}?watch=true&sendInitialEvents=true")).await.refused(422, "Invalid");
        let mut short = world.watch(JOBS, "resourceVersion=0&timeoutSeconds=1").await;
        for _ in 0..3 {
            short.next().await.expect("an event");
        }
        assert_eq!(short.next().await, None, "it ends when it was asked to");
    }

    async fn metadata_can_be_had_alone(world) {
        world.post(JOBS, job("a")).await.ok();
        let one = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        let found = world.get_as(&format!("{JOBS}/a"), one).await.ok();
        assert_eq!((text(&found, "/kind"), text(&found, "/apiVersion"), text(&found, "/metadata/name")), ("PartialObjectMetadata", "meta.k8s.io/v1", "a"));
        assert_eq!(found.get("spec"), None);
        let list = world.get_as(JOBS, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").await.ok();
        assert_eq!(list["kind"], "PartialObjectMetadataList");
        assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
        let mut events = world.watch_as(JOBS, "resourceVersion=0", one).await;
        let (_, seen) = events.next().await.expect("an event");
        assert_eq!(seen["kind"], "PartialObjectMetadata");
        assert_eq!(seen.get("spec"), None);
    }

    async fn tables_are_printed_by_columns(world) {
        world.post(BENCHMARKS, benchmark("a")).await.ok();
        let status = json!({ "status": { "counts": { "done": 3 }, "conditions": [{ "type": "Succeeded", "status": "Unknown", "reason": "Running", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1 }] } });
        world.patch(&format!("{BENCHMARKS}/a/status"), status).await.ok();
        let table = world.get_as(BENCHMARKS, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await.ok();
        assert_eq!(table["kind"], "Table");
        let columns = table["columnDefinitions"].as_array().expect("columns").iter();
        let names: Vec<&str> = columns.map(|column| text(column, "/name")).collect();
        assert_eq!(names, ["Name", "State", "Done", "Total", "Failed", "Active", "Best", "Age"]);
        let cells = table["rows"][0]["cells"].as_array().expect("cells");
        assert_eq!(cells[..4], [json!("a"), json!("Running"), json!(3), Value::Null]);
        assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "a");
        world.post(JOBS, job("a")).await.ok();
        let table = world.get_as(JOBS, "application/json;as=Table;v=v1;g=meta.k8s.io").await.ok();
        assert_eq!(table["rows"][0]["cells"].as_array().expect("cells")[..4], [json!("a"), json!("Running"), json!("0/1"), json!("")]);
    }

    async fn selectors_select(world) {
        for (name, labels) in [("a", json!({ "x": "1" })), ("b", json!({ "x": "2", "y": "1" })), ("c", json!({}))] {
            let mut map = config_map(name);
            map["metadata"]["labels"] = labels;
            world.post(MAPS, map).await.ok();
        }
        for (query, expected) in [
            ("labelSelector=x%3D1", vec!["a"]),
            ("labelSelector=x%3D%3D2,y%3D1", vec!["b"]),
            ("labelSelector=x", vec!["a", "b"]),
            ("labelSelector=!x", vec!["c"]),
            ("labelSelector=x!%3D1", vec!["b", "c"]),
            ("labelSelector=x+in+(1,2)", vec!["a", "b"]),
            ("labelSelector=x+notin+(1,2)", vec!["c"]),
            ("fieldSelector=metadata.name%3Db", vec!["b"]),
            ("fieldSelector=metadata.name!%3Db", vec!["a", "c"]),
        ] {
            let list = world.get(&format!("{MAPS}?{query}")).await.ok();
            let items = list["items"].as_array().expect("items").iter();
            let names: Vec<&str> = items.map(|item| text(item, "/metadata/name")).filter(|name| name.len() == 1).collect();
            assert_eq!(names, expected, "{query}");
        }
        world.get(&format!("{MAPS}?labelSelector=a+b+c")).await.refused(400, "BadRequest");
        let refused = world.get(&format!("{BENCHMARKS}?fieldSelector=status.phase%3Dx")).await.refused(400, "BadRequest");
        assert_eq!(refused, "field label not supported: status.phase");
    }

    async fn the_definitions_schema_holds(world) {
        let created = world.post(BENCHMARKS, benchmark("a")).await.ok();
        assert_eq!(created["spec"]["design"]["seed"], 42);
        assert_eq!(created["spec"]["execution"]["parallelism"], 1);
        assert_eq!(created["spec"]["runner"], json!({}));
        let path = format!("{BENCHMARKS}/a");
        let wrong = json!({ "spec": { "execution": { "parallelism": 0 }, "suspend": "x", "design": { "order": "Foo" } } });
        world.patch(&path, wrong).await.invalid(&[
            ("spec.suspend", "FieldValueTypeInvalid", "Invalid value: \"string\": spec.suspend in body must be of type boolean: \"string\""),
            ("spec.design.order", "FieldValueNotSupported", "Unsupported value: \"Foo\": supported values: \"Randomized\", \"Sequential\""),
            ("spec.execution.parallelism", "FieldValueInvalid", "Invalid value: 0: spec.execution.parallelism in body should be greater than or equal to 1"),
        ]);
        world.post(BENCHMARKS, json!({ "apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark", "metadata": { "name": "b" } })).await
            .invalid(&[("spec", "FieldValueRequired", "Required value")]);
        let mut twice = benchmark("b");
        twice["spec"]["design"]["factors"]["batchSize"] = json!([1, 2, 1]);
        twice["spec"]["design"]["factors"]["gpus"] = json!([]);
        world.post(BENCHMARKS, twice).await.invalid(&[
            ("spec.design.factors.batchSize[2]", "FieldValueDuplicate", "Duplicate value: 1"),
            ("spec.design.factors.gpus", "FieldValueInvalid", "Invalid value: 0: spec.design.factors.gpus in body should have at least 1 items"),
        ]);
        let mut named = benchmark("b");
        named["spec"]["design"]["factors"]["model"] = json!([{ "name": "g", "source": { "random": { "preset": "gpt2" } } }, { "name": "g", "source": { "random": { "preset": "gpt2" } } }]);
        world.post(BENCHMARKS, named).await.invalid(&[("spec.design.factors.model[1]", "FieldValueDuplicate", "Duplicate value: {\"name\":\"g\"}")]);
        let wrong = json!({ "status": { "observedGeneration": "x" } });
        world.patch(&format!("{path}/status"), wrong).await.invalid(&[("status.observedGeneration", "FieldValueTypeInvalid", "Invalid value: \"string\": ")]);
    }

    async fn the_definitions_rules_hold(world) {
        world.post(BENCHMARKS, benchmark("a")).await.ok();
        let path = format!("{BENCHMARKS}/a");
        let answer = world.patch(&path, json!({ "spec": { "design": { "replicates": 4 } } })).await;
        answer.invalid(&[("spec.design", "FieldValueInvalid", "Invalid value: ")]);
        assert!(answer.refused(422, "Invalid").ends_with("design is immutable: create a new resource"));
        let mut wrong = benchmark("b");
        wrong["spec"]["results"] = json!({});
        wrong["spec"]["design"]["factors"]["model"][0]["source"] = json!({});
        let answer = world.post(BENCHMARKS, wrong).await;
        answer.invalid(&[
            ("spec", "FieldValueInvalid", "Invalid value: "),
            ("spec.design.factors.model[0].source", "FieldValueInvalid", "Invalid value: "),
        ]);
        let message = answer.refused(422, "Invalid");
        assert!(message.contains("results.store is required in a cluster") && message.contains("exactly one of"), "{message}");
        world.patch(&path, json!({ "spec": { "execution": { "parallelism": 3 }, "suspend": true } })).await.ok();
        world.patch(&path, json!({ "spec": { "execution": { "trialsPerJob": 3 } } })).await.refused(422, "Invalid");
    }

    async fn events_are_one_thing_in_two_groups(world) {
        let event = json!({
            "metadata": { "name": "e" },
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "inferbench.dev/operator",
            "reportingInstance": "one",
            "action": "Create",
            "reason": "Created",
            "type": "Normal",
            "note": "a note",
            "regarding": { "kind": "Job", "name": "a", "namespace": world.namespace, "uid": "u" },
        });
        world.post("/apis/events.k8s.io/v1/namespaces/{ns}/events", event.clone()).await.ok();
        let core = "/api/v1/namespaces/{ns}/events";
        let found = world.get(&format!("{core}?fieldSelector=involvedObject.name%3Da,involvedObject.kind%3DJob")).await.ok();
        let items = found["items"].as_array().expect("items");
        assert_eq!(items.len(), 1);
        assert_eq!((text(&items[0], "/message"), text(&items[0], "/involvedObject/uid"), text(&items[0], "/reportingComponent")), ("a note", "u", "inferbench.dev/operator"));
        let mut without = event;
        without["metadata"]["name"] = json!("f");
        without["action"] = json!("");
        world.post("/apis/events.k8s.io/v1/namespaces/{ns}/events", without).await.refused(422, "Invalid");
        let series = json!({ "series": { "count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z" } });
        let patched = world.patch("/apis/events.k8s.io/v1/namespaces/{ns}/events/e", series).await.ok();
        assert_eq!(patched["series"]["count"], 2);
    }

    async fn what_is_applied_has_owners(world) {
        let path = format!("{MAPS}/a");
        let apply = async |manager: &str, force: bool, data: Value| {
            let body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": data });
            world.patch_as(&format!("{path}?fieldManager={manager}&force={force}"), "application/apply-patch+yaml", body).await
        };
        let created = apply("one", false, json!({ "a": "1", "b": "1" })).await;
        assert_eq!(created.code, 201);
        let entry = &created.ok()["metadata"]["managedFields"][0];
        assert_eq!((text(entry, "/manager"), text(entry, "/operation")), ("one", "Apply"));
        assert_eq!(entry["fieldsV1"], json!({ "f:data": { "f:a": {}, "f:b": {} } }));
        // What is no longer applied goes.
        assert_eq!(apply("one", false, json!({ "a": "1" })).await.ok()["data"], json!({ "a": "1" }));
        assert_eq!(apply("two", false, json!({ "a": "1", "c": "2" })).await.ok()["data"], json!({ "a": "1", "c": "2" }));
        let contested = apply("two", false, json!({ "a": "2" })).await;
        let message = contested.refused(409, "Conflict");
        assert_eq!(message, "Apply failed with 1 conflict: conflict with \"one\": .data.a");
        assert_eq!(contested.body["details"]["causes"], json!([{ "reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.a" }]));
        assert_eq!(apply("two", true, json!({ "a": "2" })).await.ok()["data"], json!({ "a": "2" }));
        let before = world.get(&path).await.ok();
        assert_eq!(version(&apply("two", true, json!({ "a": "2" })).await.ok()), version(&before));
        // A patch takes over what it changes.
        world.patch(&format!("{path}?fieldManager=three"), json!({ "data": { "a": "3" } })).await.ok();
        apply("two", false, json!({ "a": "2" })).await.refused(409, "Conflict");
    }

    async fn a_status_can_be_applied(world) {
        world.post(BENCHMARKS, benchmark("a")).await.ok();
        let body = json!({ "apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark", "metadata": { "name": "a" }, "status": { "observedGeneration": 1 } });
        let path = format!("{BENCHMARKS}/a/status?fieldManager=one");
        let applied = world.patch_as(&path, "application/apply-patch+yaml", body).await.ok();
        assert_eq!(applied["status"]["observedGeneration"], 1);
        let entries = applied["metadata"]["managedFields"].as_array().expect("entries");
        let entry = entries.iter().find(|entry| entry["manager"] == "one").expect("an entry");
        assert_eq!((text(entry, "/operation"), text(entry, "/subresource")), ("Apply", "status"));
    }

    async fn patches_of_every_kind(world) {
        let path = format!("{PODS}/a");
        let pod = json!({ "metadata": { "name": "a" }, "spec": { "automountServiceAccountToken": false, "containers": [{ "name": "c", "image": "i:1" }, { "name": "d", "image": "i:1" }] } });
        world.post(PODS, pod).await.ok();
        let strategic = "application/strategic-merge-patch+json";
        let body = json!({ "metadata": { "labels": { "x": "y" } }, "spec": { "containers": [{ "name": "d", "image": "i:2" }] } });
        let patched = world.patch_as(&path, strategic, body).await.ok();
        let images: Vec<&str> = patched["spec"]["containers"].as_array().expect("containers").iter().map(|one| text(one, "/image")).collect();
        assert_eq!(images, ["i:1", "i:2"]);
        let body = json!([{ "op": "test", "path": "/metadata/labels/x", "value": "y" }, { "op": "replace", "path": "/metadata/labels/x", "value": "z" }, { "op": "add", "path": "/metadata/labels/a~1b", "value": "c" }]);
        let patched = world.patch_as(&path, "application/json-patch+json", body).await.ok();
        assert_eq!(patched["metadata"]["labels"], json!({ "x": "z", "a/b": "c" }));
        let body = json!([{ "op": "test", "path": "/metadata/labels/x", "value": "q" }]);
        world.patch_as(&path, "application/json-patch+json", body).await.refused(422, "Invalid");
        world.post(BENCHMARKS, benchmark("a")).await.ok();
        world.patch_as(&format!("{BENCHMARKS}/a"), strategic, json!({})).await.refused(415, "UnsupportedMediaType");
    }

    async fn pods_end_gracefully(world) {
        let pod = |name: &str| json!({ "metadata": { "name": name }, "spec": { "automountServiceAccountToken": false, "containers": [{ "name": "c", "image": "i:1" }] } });
        let created = world.post(PODS, pod("a")).await.ok();
        assert_eq!((text(&created, "/status/phase"), text(&created, "/status/qosClass")), ("Pending", "BestEffort"));
        let path = format!("{PODS}/a");
        // Nobody runs it: it goes at once.
        let deleted = world.delete(&path, Value::Null).await.ok();
        assert_eq!(deleted["kind"], "Pod");
        assert_eq!(world.get(&path).await.code, 404);
        let mut bound = pod("a");
        bound["spec"]["nodeName"] = json!("nowhere");
        world.post(PODS, bound.clone()).await.ok();
        let deleted = world.delete(&path, Value::Null).await.ok();
        assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(deleted["metadata"]["generation"], 2);
        let again = world.delete(&path, Value::Null).await.ok();
        assert_eq!(version(&again), version(&deleted));
        // What its node does in the end.
        world.delete(&path, json!({ "gracePeriodSeconds": 0, "preconditions": { "uid": deleted["metadata"]["uid"] } })).await.ok();
        assert_eq!(world.get(&path).await.code, 404);
        // One that has ended goes at once, unless something holds it.
        bound["metadata"]["finalizers"] = json!(["batch.kubernetes.io/job-tracking"]);
        world.post(PODS, bound).await.ok();
        world.patch(&format!("{path}/status"), json!({ "status": { "phase": "Succeeded" } })).await.ok();
        let deleted = world.delete(&path, Value::Null).await.ok();
        assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 0);
        world.patch(&path, json!({ "metadata": { "finalizers": null } })).await.ok();
        assert_eq!(world.get(&path).await.code, 404);
    }

    async fn a_pod_is_bound_once(world) {
        let pod = json!({ "metadata": { "name": "a" }, "spec": { "automountServiceAccountToken": false, "containers": [{ "name": "c", "image": "i:1" }] } });
        let created = world.post(PODS, pod).await.ok();
        let path = format!("{PODS}/a");
        world.patch(&path, json!({ "spec": { "nodeName": "n" } })).await.refused(422, "Invalid");
        let binding = |node: &str| json!({ "metadata": { "name": "a", "uid": created["metadata"]["uid"] }, "target": { "kind": "Node", "name": node } });
        world.post(&format!("{path}/binding"), binding("n")).await.ok();
        let bound = world.get(&path).await.ok();
        assert_eq!(bound["spec"]["nodeName"], "n");
        let condition = &bound["status"]["conditions"][0];
        assert_eq!((text(condition, "/type"), text(condition, "/status")), ("PodScheduled", "True"));
        let again = world.post(&format!("{path}/binding"), binding("m")).await.refused(409, "Conflict");
        assert_eq!(again, "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n\"");
    }

    async fn a_namespace_that_goes_takes_nothing_new(world) {
        let name = format!("{}-b", world.namespace);
        let path = format!("/api/v1/namespaces/{name}");
        let created = world.post("/api/v1/namespaces", json!({ "metadata": { "name": name } })).await.ok();
        assert_eq!(created["metadata"]["labels"]["kubernetes.io/metadata.name"], json!(name));
        let mut held = config_map("a");
        held["metadata"]["finalizers"] = json!(["x.dev/y"]);
        world.post(&format!("{path}/configmaps"), held).await.ok();
        let deleted = world.delete(&path, Value::Null).await.ok();
        assert_eq!(deleted["status"]["phase"], "Terminating");
        let refused = world.post(&format!("{path}/configmaps"), config_map("b")).await;
        assert_eq!(refused.refused(403, "Forbidden"), format!("configmaps \"b\" is forbidden: unable to create new content in namespace {name} because it is being terminated"));
        assert_eq!(refused.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
        world.patch(&format!("{path}/configmaps/a"), json!({ "metadata": { "finalizers": null } })).await.ok();
        if world.has_controllers {
            world.gone(&path).await;
        }
    }

    async fn a_quota_refuses(world) {
        let quota = json!({ "metadata": { "name": "q" }, "spec": { "hard": { "count/jobs.batch": "1" } } });
        world.post("/api/v1/namespaces/{ns}/resourcequotas", quota).await.ok();
        if world.fake.is_none() {
            // What a controller would do.
            let status = json!({ "status": { "hard": { "count/jobs.batch": "1" }, "used": { "count/jobs.batch": "0" } } });
            world.patch("/api/v1/namespaces/{ns}/resourcequotas/q/status", status).await.ok();
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        world.post(JOBS, job("a")).await.ok();
        let refused = world.post(JOBS, job("b")).await.refused(403, "Forbidden");
        assert_eq!(refused, "jobs.batch \"b\" is forbidden: exceeded quota: q, requested: count/jobs.batch=1, used: count/jobs.batch=1, limited: count/jobs.batch=1");
    }

    async fn a_dry_run_changes_nothing(world) {
        world.post(&format!("{JOBS}?dryRun=All"), job("a")).await.ok();
        assert_eq!(world.get(&format!("{JOBS}/a")).await.code, 404);
        let created = world.post(MAPS, config_map("a")).await.ok();
        let patched = world.patch(&format!("{MAPS}/a?dryRun=All"), json!({ "data": { "c": "d" } })).await.ok();
        assert_eq!(patched["data"]["c"], "d");
        world.delete(&format!("{MAPS}/a?dryRun=All"), Value::Null).await.ok();
        assert_eq!(version(&world.get(&format!("{MAPS}/a")).await.ok()), version(&created));
    }

    async fn many_are_deleted_at_once(world) {
        for (name, label) in [("a", "x"), ("b", "x"), ("c", "z")] {
            let mut map = config_map(name);
            map["metadata"]["labels"] = json!({ "l": label });
            world.post(MAPS, map).await.ok();
        }
        world.delete(&format!("{MAPS}?labelSelector=l%3Dx"), Value::Null).await.ok();
        assert_eq!(world.get(&format!("{MAPS}/a")).await.code, 404);
        assert_eq!(world.get(&format!("{MAPS}/b")).await.code, 404);
        assert_eq!(world.get(&format!("{MAPS}/c")).await.code, 200);
    }

    async fn garbage_is_collected(world) {
        if !world.has_controllers {
            println!("skipped: nobody collects garbage here");
            return;
        }
        let owned = |name: &str, owner: &Value, blocks: bool| {
            let mut map = config_map(name);
            map["metadata"]["ownerReferences"] = json!([{ "apiVersion": "batch/v1", "kind": "Job", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": blocks }]);
            map
        };
        let owner = async |name: &str| {
            let mut new = job(name);
            new["spec"]["suspend"] = json!(true);
            world.post(JOBS, new).await.ok()
        };
        let delete = async |name: &str, policy: &str| {
            world.delete(&format!("{JOBS}/{name}"), json!({ "propagationPolicy": policy })).await.ok();
        };
        let background = owner("background").await;
        world.post(MAPS, owned("a", &background, false)).await.ok();
        delete("background", "Background").await;
        world.gone(&format!("{MAPS}/a")).await;

        let orphan = owner("orphan").await;
        world.post(MAPS, owned("b", &orphan, true)).await.ok();
        delete("orphan", "Orphan").await;
        world.gone(&format!("{JOBS}/orphan")).await;
        let left = world.get(&format!("{MAPS}/b")).await.ok();
        assert_eq!(left["metadata"].get("ownerReferences"), None);

        // It stays until what blocks it has gone, and does not wait for the rest.
        let foreground = owner("foreground").await;
        for (name, blocks) in [("c", true), ("d", false)] {
            let mut held = owned(name, &foreground, blocks);
            held["metadata"]["finalizers"] = json!(["x.dev/y"]);
            world.post(MAPS, held).await.ok();
        }
        delete("foreground", "Foreground").await;
        for name in ["c", "d"] {
            let path = format!("{MAPS}/{name}");
            for _ in 0..300 {
                if !text(&world.get(&path).await.ok(), "/metadata/deletionTimestamp").is_empty() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
        assert_eq!(world.get(&format!("{JOBS}/foreground")).await.code, 200);
        world.patch(&format!("{MAPS}/c"), json!({ "metadata": { "finalizers": null } })).await.ok();
        world.gone(&format!("{JOBS}/foreground")).await;
        assert_eq!(world.get(&format!("{MAPS}/d")).await.code, 200);

        // Whose owner was never there goes, too.
        let ghost = json!({ "metadata": { "name": "ghost", "uid": "11111111-1111-4111-8111-111111111111" } });
        world.post(MAPS, owned("e", &ghost, false)).await.ok();
        world.gone(&format!("{MAPS}/e")).await;
    }
}

//! Writes: refusals, subresources, versions and owners of fields.

use serde_json::{Value, json};

use crate::common::{
    BENCHMARKS, JOBS, MAPS, PODS, World, benchmark, config_map, job, text, version,
};

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
                // Where there is a controller of Jobs, it may be faster.
                let right = async || {
                    let now = world.get(&format!("{list}/a")).await.ok();
                    let right = json!({ "metadata": { "resourceVersion": version(&now), "uid": created["metadata"]["uid"] } });
                    world.patch(&path, right).await
                };
                let mut answer = right().await;
                for _ in 0..50 {
                    if answer.code == 409 && world.fake.is_none() {
                        answer = right().await;
                    }
                }
                answer.ok();
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

    async fn who_wrote_which_field_is_noted(world) {
        world.post(&format!("{BENCHMARKS}?fieldManager=user"), benchmark("a")).await.ok();
        let status = json!({ "status": { "observedGeneration": 1 } });
        let written = world.patch(&format!("{BENCHMARKS}/a/status?fieldManager=one"), status).await.ok();
        let entries = written["metadata"]["managedFields"].as_array().expect("entries");
        let entry = |manager: &str| entries.iter().find(|entry| entry["manager"] == manager).expect("an entry");
        assert_eq!((text(entry("user"), "/operation"), text(entry("user"), "/subresource")), ("Update", ""));
        assert_eq!((text(entry("one"), "/operation"), text(entry("one"), "/subresource")), ("Update", "status"));
        assert_eq!(entry("one")["fieldsV1"], json!({ "f:status": { ".": {}, "f:observedGeneration": {} } }));
        // A patch takes over what it changes.
        world.post(&format!("{MAPS}?fieldManager=one"), config_map("a")).await.ok();
        let patched = world.patch(&format!("{MAPS}/a?fieldManager=two"), json!({ "data": { "a": "c" } })).await.ok();
        let entries = patched["metadata"]["managedFields"].as_array().expect("entries");
        let owners: Vec<&str> = entries.iter().filter(|entry| entry.pointer("/fieldsV1/f:data/f:a").is_some()).map(|entry| text(entry, "/manager")).collect();
        assert_eq!(owners, ["two"]);
    }

    async fn events_say_who_did_what(world) {
        let events = "/apis/events.k8s.io/v1/namespaces/{ns}/events";
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
        world.post(events, event.clone()).await.ok();
        let found = world.get(&format!("{events}/e")).await.ok();
        assert_eq!((text(&found, "/note"), text(&found, "/regarding/uid"), text(&found, "/reportingController")), ("a note", "u", "inferbench.dev/operator"));
        let mut without = event;
        without["metadata"]["name"] = json!("f");
        without["action"] = json!("");
        world.post(events, without).await.refused(422, "Invalid");
        let series = json!({ "series": { "count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z" } });
        let patched = world.patch(&format!("{events}/e"), series).await.ok();
        assert_eq!(patched["series"]["count"], 2);
    }

    async fn a_pod_is_bound_once(world) {
        let pod = json!({ "metadata": { "name": "a" }, "spec": { "schedulerName": "nobody", "automountServiceAccountToken": false, "containers": [{ "name": "c", "image": "i:1" }] } });
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

    async fn a_quota_refuses(world) {
        let quota = json!({ "metadata": { "name": "q" }, "spec": { "hard": { "count/jobs.batch": "1" } } });
        world.post("/api/v1/namespaces/{ns}/resourcequotas", quota).await.ok();
        if world.fake.is_none() {
            // As a controller would.
            let status = json!({ "status": { "hard": { "count/jobs.batch": "1" }, "used": { "count/jobs.batch": "0" } } });
            world.patch("/api/v1/namespaces/{ns}/resourcequotas/q/status", status).await.ok();
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        world.post(JOBS, job("a")).await.ok();
        let refused = world.post(JOBS, job("b")).await.refused(403, "Forbidden");
        assert_eq!(refused, "jobs.batch \"b\" is forbidden: exceeded quota: q, requested: count/jobs.batch=1, used: count/jobs.batch=1, limited: count/jobs.batch=1");
    }
}

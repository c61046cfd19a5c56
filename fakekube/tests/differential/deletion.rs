//! Deletion: preconditions, finalizers, grace periods, namespaces and garbage.

use serde_json::{Value, json};

use crate::common::{JOBS, MAPS, PODS, World, config_map, job, text, version};

scenarios! {
    async fn a_deletion_may_name_what_it_is_meant_for(world) {
        let created = world.post(JOBS, job("a")).await.ok();
        let path = format!("{JOBS}/a");
        let refused = world.delete(&path, json!({ "preconditions": { "uid": "1" } })).await;
        assert_eq!(
            refused.refused(409, "Conflict"),
            format!("Operation cannot be fulfilled on Job.batch \"a\": the UID in the precondition (1) does not match the UID in record ({}). The object might have been deleted and then recreated", text(&created, "/metadata/uid"))
        );
        let right = json!({ "preconditions": { "uid": created["metadata"]["uid"] }, "propagationPolicy": "Background" });
        let deleted = world.delete(&path, right).await.ok();
        assert_eq!((text(&deleted, "/kind"), text(&deleted, "/status")), ("Status", "Success"));
        assert_eq!(deleted["details"], json!({ "name": "a", "group": "batch", "kind": "jobs", "uid": created["metadata"]["uid"] }));
        assert_eq!(world.get(&path).await.code, 404);
        // Of a version, where no controller writes another meanwhile.
        let created = world.post(MAPS, config_map("a")).await.ok();
        let path = format!("{MAPS}/a");
        world.delete(&path, json!({ "preconditions": { "resourceVersion": "1" } })).await.refused(409, "Conflict");
        let right = json!({ "preconditions": { "uid": created["metadata"]["uid"], "resourceVersion": version(&created) } });
        world.delete(&path, right).await.ok();
        assert_eq!(world.get(&path).await.code, 404);
    }

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

    async fn pods_end_gracefully(world) {
        let pod = |name: &str| json!({ "metadata": { "name": name }, "spec": { "schedulerName": "nobody", "automountServiceAccountToken": false, "containers": [{ "name": "c", "image": "i:1" }] } });
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
        // Its node does this in the end.
        world.delete(&path, json!({ "gracePeriodSeconds": 0, "preconditions": { "uid": deleted["metadata"]["uid"] } })).await.ok();
        assert_eq!(world.get(&path).await.code, 404);
        // One that has ended goes at once, unless something holds it.
        bound["metadata"]["finalizers"] = json!(["x.dev/y"]);
        world.post(PODS, bound).await.ok();
        world.patch(&format!("{path}/status"), json!({ "status": { "phase": "Succeeded" } })).await.ok();
        let deleted = world.delete(&path, Value::Null).await.ok();
        assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 0);
        world.patch(&path, json!({ "metadata": { "finalizers": null } })).await.ok();
        assert_eq!(world.get(&path).await.code, 404);
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

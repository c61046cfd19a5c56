//! Lists and watches.

use serde_json::{Value, json};

use crate::common::{BENCHMARKS, JOBS, MAPS, World, benchmark, config_map, job, text, version};

scenarios! {
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
        // Changes in between do not show.
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

    async fn a_watch_tells_what_changes(world) {
        let path = format!("{MAPS}/a");
        let mut labelled = config_map("a");
        labelled["metadata"]["labels"] = json!({ "x": "y" });
        let start = version(&world.get(&format!("{MAPS}?labelSelector=x%3Dy")).await.ok());
        let query = format!("resourceVersion={start}");
        let mut all = world.watch(MAPS, &query).await;
        let mut some = world.watch(MAPS, &format!("{query}&labelSelector=x%3Dy")).await;
        world.post(MAPS, config_map("other")).await.ok();
        world.post(MAPS, labelled).await.ok();
        world.patch(&path, json!({ "data": { "c": "d" } })).await.ok();
        world.patch(&path, json!({ "metadata": { "labels": null } })).await.ok();
        world.patch(&path, json!({ "metadata": { "labels": { "x": "y" } } })).await.ok();
        let last = world.get(&path).await.ok();
        world.delete(&path, Value::Null).await.ok();
        let mut seen = Vec::new();
        while seen.len() < 5 {
            let (what, object) = all.next().await.expect("an event");
            // A control plane puts objects of its own into every namespace.
            if text(&object, "/metadata/name") == "a" {
                seen.push((what, object));
            }
        }
        let kinds: Vec<&str> = seen.iter().map(|(what, _)| what.as_str()).collect();
        assert_eq!(kinds, ["ADDED", "MODIFIED", "MODIFIED", "MODIFIED", "DELETED"]);
        let gone = &seen[4].1;
        let number = |object: &Value| version(object).parse::<u64>().expect("a version");
        assert!(number(gone) > number(&last), "a deletion has a version of its own");
        for what in ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"] {
            some.expect(what, "a").await;
        }
    }

    async fn a_watch_may_begin_with_what_is_there(world) {
        // Not of Jobs, whose controller changes them meanwhile.
        world.post(BENCHMARKS, benchmark("a")).await.ok();
        world.post(BENCHMARKS, benchmark("b")).await.ok();
        let mut any = world.watch(BENCHMARKS, "resourceVersion=0").await;
        let mut names = vec![any.name().await.1, any.name().await.1];
        names.sort();
        assert_eq!(names, ["a", "b"]);
        world.post(BENCHMARKS, benchmark("c")).await.ok();
        any.expect("ADDED", "c").await;
        let mut short = world.watch(BENCHMARKS, "resourceVersion=0&timeoutSeconds=1").await;
        for _ in 0..3 {
            short.next().await.expect("an event");
        }
        assert_eq!(short.next().await, None, "it ends when it was asked to");
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
        ] {
            let list = world.get(&format!("{MAPS}?{query}")).await.ok();
            let items = list["items"].as_array().expect("items").iter();
            let names: Vec<&str> = items.map(|item| text(item, "/metadata/name")).filter(|name| name.len() == 1).collect();
            assert_eq!(names, expected, "{query}");
        }
        world.get(&format!("{MAPS}?labelSelector=a+b+c")).await.refused(400, "BadRequest");
    }
}

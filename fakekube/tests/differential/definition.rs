//! The schema and the rules of the resource's definition.

use serde_json::json;

use crate::common::{BENCHMARKS, World, benchmark};

scenarios! {
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
}

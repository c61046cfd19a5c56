use serde_json::json;

use super::*;
use crate::spec::Dtype;

/// A file with these lines under `spec.design.factors`, beside a model.
fn with_factors(lines: &str) -> String {
    let lines: String = lines
        .lines()
        .map(|line| format!("      {line}\n"))
        .collect();
    format!(
        "apiVersion: inferbench.dev/v1alpha1\nkind: InferenceBenchmark\nmetadata: {{name: test}}\nspec:\n  design:\n    \
         factors:\n      model: [{{name: gpt2, source: {{random: {{preset: gpt2}}}}}}]\n{lines}"
    )
}

fn message(text: &str) -> String {
    match load(text, "bad.yaml", Scope::Local) {
        Ok(resources) => panic!("accepted: {resources:?}"),
        Err(error) => error.to_string(),
    }
}

/// The texts that a user sees, one golden file for each kind of slip.
#[test]
fn messages() {
    let cases = [
        (
            "bad_yaml",
            "apiVersion: inferbench.dev/v1alpha1\nkind: [InferenceBenchmark\nspec: {}\n".to_owned(),
        ),
        (
            "tab",
            "apiVersion: inferbench.dev/v1alpha1\nspec:\n\tdesign: {}\n".to_owned(),
        ),
        ("duplicate_key", with_factors("gpus: [0]\ngpus: [1]")),
        ("empty", "# nothing\n".to_owned()),
        ("not_a_map", "- a\n- b\n".to_owned()),
        (
            "other_kind",
            "apiVersion: batch/v1\nkind: Job\nspec: {}\n".to_owned(),
        ),
        ("old_version", with_factors("").replace("v1alpha1", "v1")),
        (
            "no_kind",
            "apiVersion: inferbench.dev/v1alpha1\nspec: {}\n".to_owned(),
        ),
        (
            "no_model",
            with_factors("gpus: [0]").replace("model:", "models:"),
        ),
        (
            "unknown_fields",
            with_factors("batchsize: [1]\nwarp: 9")
                + "    repliactes: 2\n  exekution: {}\n  measurement: {warmup: 1}\n",
        ),
        (
            "wrong_types",
            with_factors("batchSize: 4\ngpus: [zero]\noutputLength: [1e3, 2.5]\ndtype: [bf61]")
                + "    replicates: ten\n    order: random\n  suspend: maybe\n  measurement: {minDuration: 5}\n  \
                   execution: {trialTimeout: 5 minutes}\n",
        ),
        (
            "shape_and_range",
            with_factors("batchSize: [0, one]") + "    replicates: 0\n",
        ),
        (
            "shape_and_rules",
            with_factors("batchSize: [one, 2]\ninputLength: [16]\ngpus: [0, 1]")
                .replace("{preset: gpt2}", "{preset: gpt2}, path: /models/gpt2")
                + "    exclude: [{inputLength: [32], batchSize: [1], gpus: [one, 2]}]\n    retrys: 2\n  results: {store: \
                   {url: \"s3://bucket\", persistentVolumeClaim: {claimName: results}}}\n  execution: {trialTimeout: \
                   1ms}\n",
        ),
        (
            "what_is_left_out_is_not_missed",
            with_factors("batchsize: [1, 2]\ninputLength: 16\nconcurency: [1]\ngpus: [1, many]\nengine: [{name: vllm, server: {preset: vlm}}]")
                .replace("{random: {preset: gpt2}}", "{random: gpt2}")
                + "    exclude: [{batchSize: [2], inputLength: [32], gpus: [2], prefixShare: [50]}]\n  results: {store: \
                   {urll: \"s3://bucket\", region: x}}\n  measurement: {minDuration: 5}\n  execution: {trialTimeout: \
                   1s}\n",
        ),
        (
            "ranges",
            with_factors("batchSize: [1, 0]\ngpus: [0, 1]") + "    exclude: [{gpus: [2]}]\n",
        ),
        (
            "quotes",
            with_factors("").replace("name: gpt2", "name: no")
                + "  objectives: {costPerGpuHour: 2.50}\n",
        ),
        (
            "large_numbers",
            with_factors("batchSize: [99999999999, 99999999999999999999999, .inf]"),
        ),
        (
            "kubernetes_types",
            with_factors("")
                + "  runner:\n    env: [{nam: A}]\n    tolerations: [{key: 1}]\n    affinity: {nodeAffinty: {}}\n    \
                   resources: {limits: {cpu: [1]}}\n    nodeSelector: {a/b: 1}\n    podOverrides: []\n",
        ),
        (
            "metadata",
            with_factors("").replace(
                "{name: test}",
                "{nmae: test, labels: {a: 1}, annotations: []}",
            ),
        ),
        (
            "nulls",
            with_factors("batchSize: [1, null]\ninputLength:")
                .replace("source: {random: {preset: gpt2}}", "source:"),
        ),
        ("twins", with_factors("") + "---\n" + &with_factors("")),
        (
            "second_document",
            with_factors("") + "---\n" + &with_factors("gpus: [0, 0]"),
        ),
        (
            "every_document",
            with_factors("gpus: [zero]") + "---\n" + &with_factors("gpus: [0, 1]"),
        ),
    ];
    for (name, text) in cases {
        insta::with_settings!({ description => text.clone(), omit_expression => true }, {
            insta::assert_snapshot!(name, message(&text));
        });
    }
}

#[test]
fn a_file_reads_as_the_types_do() {
    let text = with_factors("batchSize: [1, 2]\ngpus: [0]\ndtype: [f32]")
        + "  measurement: {minDuration: 500ms}\n";
    let resources = load(&text, "good.yaml", Scope::Local).expect("a good file");
    let [resource] = resources.as_slice() else {
        panic!("one resource")
    };
    assert_eq!(resource.metadata.name.as_deref(), Some("test"));
    assert_eq!(resource.spec.design.factors.batch_size, [1, 2]);
    assert_eq!(resource.spec.design.factors.dtype, [Dtype::F32]);
    assert_eq!(
        resource
            .spec
            .measurement
            .min_duration
            .map(|length| length.to_string()),
        Some("500ms".into())
    );
    assert_eq!(resource.spec.design.seed, 42);
}

#[test]
fn several_documents_nulls_anchors_and_saved_status_are_read() {
    let saved =
        with_factors("batchSize: &sizes [1, 2]\ninputLength: *sizes\noutputLength: ~").replace(
            "{name: test}",
            "{name: saved, uid: x, generation: 3, labels: {a: b}, managedFields: [{}]}",
        ) + "status: {observedGeneration: 3, anything: 1}\n";
    let resources = load(
        &(with_factors("") + "---\n" + &saved + "---\n"),
        "two.yaml",
        Scope::Local,
    )
    .expect("a good file");
    assert_eq!(resources.len(), 2);
    assert_eq!(resources[1].spec.design.factors.input_length, [1, 2]);
    assert_eq!(resources[1].spec.design.factors.output_length, [128]);
}

#[test]
fn json_is_read() {
    let value = json!({
        "apiVersion": API_VERSION, "kind": KIND, "metadata": { "name": "j" },
        "spec": { "design": { "factors": { "model": [{ "name": "m", "source": { "path": "models/m" } }] } },
                  "runner": { "resources": { "limits": { "cpu": 4, "memory": "8Gi" } } } },
    });
    let resources = parse(
        &serde_json::to_string_pretty(&value).expect("JSON"),
        "good.json",
    )
    .expect("a good file");
    let limits = resources[0]
        .spec
        .runner
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.as_ref());
    assert_eq!(
        limits
            .and_then(|limits| limits.get("cpu"))
            .map(|cpu| cpu.0.as_str()),
        Some("4")
    );
}

/// A bomb of aliases ends in an error, not in memory.
#[test]
fn a_bomb_is_refused() {
    let mut text = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (next, last) in ["b", "c", "d", "e", "f", "g", "h", "i"]
        .iter()
        .zip(["a", "b", "c", "d", "e", "f", "g", "h"])
    {
        text += &format!(
            "{next}: &{next} [{}]\n",
            vec![format!("*{last}"); 10].join(", ")
        );
    }
    assert!(parse(&text, "bomb.yaml").is_err());
}

/// A resource that uses every kind of field.
fn full() -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": KIND, "metadata": { "name": "full", "labels": { "a": "b" } },
        "spec": {
            "design": {
                "factors": {
                    "model": [{ "name": "m", "source": { "huggingFace": { "repo": "a/b", "revision": "main" } } }],
                    "batchSize": [1, 2], "gpus": [1], "dtype": ["bf16"],
                },
                "exclude": [{ "batchSize": [2], "dtype": ["bf16"] }],
                "replicates": 2, "order": "Sequential", "seed": 1,
            },
            "measurement": { "warmupDuration": "1s", "isolation": "Pod", "iterations": 3 },
            "runner": {
                "image": "a/b:c", "nodeSelector": { "a": "b" },
                "tolerations": [{ "key": "k", "tolerationSeconds": 5 }],
                "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k", "optional": true } } }],
                "resources": { "limits": { "cpu": 4, "memory": "8Gi" } },
                "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
                    "weight": 1,
                    "preference": { "matchExpressions": [{ "key": "k", "operator": "In", "values": ["v"] }] },
                }] } },
                "podOverrides": { "spec": {} },
            },
            "results": { "store": { "url": "s3://b", "credentialsSecretRef": { "name": "s" } } },
            "execution": { "parallelism": 2, "trialTimeout": "10m", "onFailure": "Stop" },
            "objectives": { "maxTtft": "200ms", "costPerGpuHour": "2.50" },
            "suspend": true,
        },
    })
}

/// The places of all values inside this one.
fn pointers(value: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.to_owned());
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                pointers(
                    member,
                    &format!("{here}/{}", key.replace('~', "~0").replace('/', "~1")),
                    found,
                );
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointers(item, &format!("{here}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Any value in any field: the schema's words reach the user, never the deserializer's.
#[test]
fn the_schema_finds_all_that_the_types_would_refuse() {
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(3_000_000_000_i64),
        json!(1_u64 << 63),
        json!(u64::MAX),
        json!(1.5),
        json!(""),
        json!("text"),
        json!("999999999h999999999h"),
        json!([]),
        json!([null]),
        json!([1, "a"]),
        json!({}),
        json!({ "unknown": 1 }),
    ];
    let mut places = Vec::new();
    pointers(&full(), "", &mut places);
    assert!(places.len() > 60, "{}", places.len());
    let node = Node::from(full());
    assert!(typed(&node).is_ok(), "{:?}", typed(&node));
    for place in places {
        for value in &values {
            let mut changed = full();
            *changed.pointer_mut(&place).expect("a place") = value.clone();
            if let Err(problems) = typed(&Node::from(changed)) {
                let nameless = problems
                    .iter()
                    .find(|problem| problem.path.is_empty() && !place.is_empty());
                assert_eq!(nameless, None, "{place} = {value}");
            }
        }
    }
}

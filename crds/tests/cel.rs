//! The CEL rules, run: they accept and reject what local validation accepts and rejects.

use std::collections::BTreeSet;

use inferbench_crds::{InferenceBenchmark, Scope, crd, validate};
use kube_cel::{CompiledSchema, Validator, apply_defaults, compile_schema};
use serde_json::{Value, json};

type Change = fn(&mut Value);

/// A resource that runs in a cluster, with a change to its spec.
fn resource(change: Change) -> Value {
    let mut spec = json!({
        "design": {
            "factors": {
                "model": [
                    { "name": "gpt2", "source": { "random": { "preset": "gpt2" } } },
                    { "name": "llama", "source": { "huggingFace": { "repo": "meta-llama/Meta-Llama-3-8B" } } },
                ],
                "batchSize": [1, 2, 4],
                "gpus": [1, 2],
            },
        },
        "results": { "store": { "url": "s3://bucket/prefix", "region": "eu-north-1" } },
    });
    change(&mut spec);
    json!({ "apiVersion": crd::API_VERSION, "kind": crd::KIND, "metadata": { "name": "test" }, "spec": spec })
}

/// The API server's validation of a resource before it accepts it, as far as CEL goes.
struct Server {
    schema: Value,
    compiled: CompiledSchema,
    validator: Validator,
}

impl Server {
    fn new() -> Self {
        let schema = crd::crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        let compiled = compile_schema(&schema);
        assert!(
            !compiled.has_errors(),
            "{:?}",
            compiled.compilation_errors()
        );
        Self {
            schema,
            compiled,
            validator: Validator::new(),
        }
    }

    /// The messages of the rules that a resource, or an edit of one, breaks.
    fn rejections(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let (new, old) = (
            defaulted(&self.schema, new),
            old.map(|old| defaulted(&self.schema, old)),
        );
        match self
            .validator
            .validate_compiled(&self.compiled, &new, old.as_ref())
        {
            Ok(()) => Vec::new(),
            Err(errors) => errors
                .as_slice()
                .iter()
                .map(|error| error.message.clone())
                .collect(),
        }
    }
}

/// A resource as the API server stores it. It also fills in the defaults inside of what a default has just added,
/// which `apply_defaults` does one level at a time.
fn defaulted(schema: &Value, resource: &Value) -> Value {
    let filled = apply_defaults(schema, resource);
    if filled == *resource {
        filled
    } else {
        defaulted(schema, &filled)
    }
}

fn local(value: &Value) -> Vec<String> {
    let resource: InferenceBenchmark = serde_json::from_value(value.clone()).expect("a resource");
    validate(&resource, Scope::Cluster)
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// A design whose load is searched.
fn searches(spec: &mut Value) {
    let factors = &mut spec["design"]["factors"];
    factors["engine"] = json!([{ "name": "a", "server": { "preset": "vllm", "image": "a" } }]);
    factors.as_object_mut().expect("a map").remove("batchSize");
    spec["design"]["search"] =
        json!({ "factor": "requestRate", "from": 0.5, "to": 128, "within": "10%" });
    spec["objectives"] = json!({ "maxTtft": "200ms" });
}

fn levels(count: i32) -> Value {
    json!((1..=count).collect::<Vec<i32>>())
}

const ACCEPTED: &[(&str, Change)] = &[
    ("as it is", |_| {}),
    ("excludes", |spec| {
        spec["design"]["exclude"] = json!([
            { "model": ["gpt2"], "gpus": [2] }, { "batchSize": [1, 4], "inputLength": [128], "outputLength": [128] },
        ]);
    }),
    ("an excluded dtype", |spec| {
        spec["design"]["factors"]["dtype"] = json!(["f16", "bf16"]);
        spec["design"]["exclude"] = json!([{ "dtype": ["f16"] }]);
    }),
    ("engines and their parameters", |spec| {
        spec["design"]["factors"]["engine"] =
            json!([{ "name": "a", "candle": {} }, { "name": "b", "candle": {} }]);
        spec["design"]["factors"]["parameters"] = json!([
            { "name": "threads", "levels": [1, 0.5, "auto", true], "engines": ["b"], "env": "THREADS" },
        ]);
        spec["design"]["exclude"] = json!([
            { "engine": ["a"], "gpus": [2] }, { "parameters": { "threads": ["auto"] } },
        ]);
    }),
    ("servers, their options and their load", |spec| {
        let factors = &mut spec["design"]["factors"];
        factors["engine"] = json!([
            { "name": "vllm", "server": { "preset": "vllm", "image": "vllm/vllm-openai:v0.25.1" } },
            { "name": "own", "server": { "preset": "openai", "image": "a/b:c", "command": ["serve", "$(model)"] } },
        ]);
        factors["parameters"] = json!([
            { "name": "slots", "levels": [16, 256], "engines": ["vllm"], "flag": "--max-num-seqs" },
            { "name": "topK", "levels": [1, 50], "field": "top_k" },
        ]);
        factors["concurrency"] = json!([1, 8]);
        factors["prefixShare"] = json!([0, 50]);
        factors.as_object_mut().expect("a map").remove("batchSize");
        spec["design"]["exclude"] = json!([
            { "engine": ["own"], "concurrency": [8], "prefixShare": [50] },
        ]);
    }),
    ("a rate of requests to an endpoint", |spec| {
        let factors = &mut spec["design"]["factors"];
        factors["engine"] = json!([{ "name": "gateway", "endpoint": {
            "url": "http://llama.prod.svc:8000", "preset": "vllm", "apiKeySecretRef": { "name": "a", "key": "b" },
        } }]);
        factors["gpus"] = json!([0]);
        factors["requestRate"] = json!([0.5, 2]);
        factors["batchSize"] = json!([1]);
        spec["design"]["exclude"] = json!([{ "requestRate": [0.5] }]);
    }),
    ("a mix of workloads", |spec| {
        let factors = &mut spec["design"]["factors"];
        factors["engine"] = json!([{ "name": "a", "server": { "preset": "vllm", "image": "a" } }]);
        factors["batchSize"] = json!([1]);
        factors["requestRate"] = json!([0.5, 2]);
        factors["prefixShare"] = json!([0, 50]);
        factors["inputLength"] = json!([128, 1024]);
        spec["objectives"]["workloads"] = json!([
            { "inputLength": 1024, "requestRate": 2, "prefixShare": 0, "weight": 3 },
            { "inputLength": 128, "outputLength": 128, "requestRate": 0.5, "prefixShare": 50, "weight": 0.25 },
        ]);
    }),
    ("a search of the rate", searches),
    ("a search of the concurrency", |spec| {
        searches(spec);
        spec["design"]["search"] =
            json!({ "factor": "concurrency", "from": 1, "to": 10_000, "share": "99.5%" });
    }),
    ("batches of a server", |spec| {
        spec["design"]["factors"]["engine"] =
            json!([{ "name": "vllm", "server": { "preset": "vllm", "image": "a" } }]);
    }),
    ("CPU", |spec| spec["design"]["factors"]["gpus"] = json!([0])),
    ("50,000 trials", |spec| {
        spec["design"]["factors"]["batchSize"] = levels(50);
        spec["design"]["factors"]["inputLength"] = levels(50);
        spec["design"]["replicates"] = json!(5);
    }),
    ("as many replicates as it takes", |spec| {
        spec["design"]["replicates"] = json!(3);
        spec["design"]["until"] = json!({ "metric": "outputThroughput", "halfWidth": "3%" });
    }),
    ("the best measured again", |spec| {
        spec["design"]["confirm"] = json!({ "replicates": 3, "rivals": 0 });
    }),
    ("a claim", |spec| {
        spec["results"]["store"] =
            json!({ "persistentVolumeClaim": { "claimName": "c", "path": "a/b" } });
    }),
    ("environment", |spec| {
        spec["runner"]["env"] = json!([{ "name": "RUST_LOG", "value": "debug" }])
    }),
    ("overrides", |spec| {
        spec["runner"]["podOverrides"] = json!({ "spec": { "hostNetwork": false } })
    }),
];

const REJECTED: &[(&str, Change)] = &[
    ("no store", |spec| spec["results"] = json!({})),
    ("no results", |spec| {
        spec.as_object_mut().expect("a map").remove("results");
    }),
    ("50,001 trials and more", |spec| {
        spec["design"]["factors"]["batchSize"] = levels(50);
        spec["design"]["factors"]["inputLength"] = levels(50);
        spec["design"]["replicates"] = json!(6);
    }),
    ("a first look after the last replicate", |spec| {
        spec["design"]["replicates"] = json!(3);
        spec["design"]["until"] =
            json!({ "metric": "ttftMs", "halfWidth": "0.5%", "confidence": 99, "min": 4 });
    }),
    ("a first look, and one replicate", |spec| {
        spec["design"]["until"] = json!({ "metric": "ttftMs", "halfWidth": "3%" });
    }),
    ("too many by what is measured again", |spec| {
        spec["design"]["factors"]["batchSize"] = levels(50);
        spec["design"]["factors"]["inputLength"] = levels(50);
        spec["design"]["replicates"] = json!(18);
        spec["design"]["confirm"] = json!({ "replicates": 3 });
    }),
    ("too many by dtype alone", |spec| {
        spec["design"]["factors"]["batchSize"] = levels(50);
        spec["design"]["factors"]["inputLength"] = levels(50);
        spec["design"]["factors"]["dtype"] = json!(["f32", "f16"]);
        spec["design"]["replicates"] = json!(5);
    }),
    ("excluded model", |spec| {
        spec["design"]["exclude"] = json!([{ "model": ["gpt2", "gpt3"] }])
    }),
    ("excluded batchSize", |spec| {
        spec["design"]["exclude"] = json!([{ "gpus": [1] }, { "batchSize": [3] }])
    }),
    ("excluded inputLength", |spec| {
        spec["design"]["exclude"] = json!([{ "inputLength": [127] }])
    }),
    ("excluded outputLength", |spec| {
        spec["design"]["exclude"] = json!([{ "outputLength": [127] }])
    }),
    ("excluded gpus", |spec| {
        spec["design"]["exclude"] = json!([{ "gpus": [8] }])
    }),
    ("excluded dtype", |spec| {
        spec["design"]["factors"]["dtype"] = json!(["bf16"]);
        spec["design"]["exclude"] = json!([{ "dtype": ["f16"] }]);
    }),
    ("excluded dtype of none", |spec| {
        spec["design"]["exclude"] = json!([{ "dtype": ["bf16"] }])
    }),
    ("excluded engine", |spec| {
        spec["design"]["factors"]["engine"] = json!([{ "name": "a", "candle": {} }]);
        spec["design"]["exclude"] = json!([{ "engine": ["candle"] }]);
    }),
    ("excluded engine of none", |spec| {
        spec["design"]["exclude"] = json!([{ "engine": ["candle"] }])
    }),
    ("excluded pipelineParallel of none", |spec| {
        spec["design"]["exclude"] = json!([{ "pipelineParallel": [1] }])
    }),
    ("excluded dataParallel of none", |spec| {
        spec["design"]["exclude"] = json!([{ "dataParallel": [1] }])
    }),
    ("an engine of no kind", |spec| {
        spec["design"]["factors"]["engine"] = json!([{ "name": "a" }])
    }),
    ("an engine of two kinds", |spec| {
        spec["design"]["factors"]["engine"] =
            json!([{ "name": "a", "candle": {}, "server": { "preset": "vllm", "image": "a" } }]);
    }),
    ("a server without an image", |spec| {
        spec["design"]["factors"]["engine"] =
            json!([{ "name": "a", "server": { "preset": "vllm" } }]);
    }),
    ("a server that nobody can start", |spec| {
        spec["design"]["factors"]["engine"] =
            json!([{ "name": "a", "server": { "preset": "openai", "image": "a" } }]);
    }),
    ("a search beside batches", |spec| {
        searches(spec);
        spec["design"]["factors"]["batchSize"] = json!([1, 2]);
    }),
    ("a search beside a rate", |spec| {
        searches(spec);
        spec["design"]["factors"]["requestRate"] = json!([1]);
    }),
    ("a search beside concurrency", |spec| {
        searches(spec);
        spec["design"]["factors"]["concurrency"] = json!([1]);
    }),
    ("a search of nothing", |spec| {
        searches(spec);
        spec["design"]["search"]["from"] = json!(128);
    }),
    ("a search of more streams than may be", |spec| {
        searches(spec);
        spec["design"]["search"] = json!({ "factor": "concurrency", "from": 1, "to": 10_001 });
    }),
    ("a search without an objective", |spec| {
        searches(spec);
        spec["objectives"] = json!({ "costPerGpuHour": "2.50" });
    }),
    ("two loads", |spec| {
        let factors = &mut spec["design"]["factors"];
        factors["engine"] = json!([{ "name": "a", "server": { "preset": "vllm", "image": "a" } }]);
        factors["batchSize"] = json!([1]);
        factors["concurrency"] = json!([1]);
        factors["requestRate"] = json!([1]);
    }),
    ("batches beside concurrency", |spec| {
        let factors = &mut spec["design"]["factors"];
        factors["engine"] = json!([{ "name": "a", "server": { "preset": "vllm", "image": "a" } }]);
        factors["concurrency"] = json!([1]);
    }),
    ("batches beside a rate", |spec| {
        let factors = &mut spec["design"]["factors"];
        factors["engine"] = json!([{ "name": "a", "server": { "preset": "vllm", "image": "a" } }]);
        factors["batchSize"] = json!([2]);
        factors["requestRate"] = json!([1]);
    }),
    ("excluded concurrency of none", |spec| {
        spec["design"]["exclude"] = json!([{ "concurrency": [1] }])
    }),
    ("excluded requestRate of none", |spec| {
        spec["design"]["exclude"] = json!([{ "requestRate": [1] }])
    }),
    ("excluded prefixShare of none", |spec| {
        spec["design"]["exclude"] = json!([{ "prefixShare": [0] }])
    }),
    ("excluded requestRate", |spec| {
        let factors = &mut spec["design"]["factors"];
        factors["engine"] = json!([{ "name": "a", "server": { "preset": "vllm", "image": "a" } }]);
        factors["batchSize"] = json!([1]);
        factors["requestRate"] = json!([1, 2.5]);
        spec["design"]["exclude"] = json!([{ "requestRate": [2] }]);
    }),
    ("a parameter that sets a reserved variable", |spec| {
        spec["design"]["factors"]["parameters"] =
            json!([{ "name": "nodes", "levels": [1], "env": "INFERBENCH_NODE" }]);
    }),
    ("CPU beside GPU", |spec| {
        spec["design"]["factors"]["gpus"] = json!([0, 1])
    }),
    ("no source", |spec| {
        spec["design"]["factors"]["model"][0]["source"] = json!({})
    }),
    ("two sources", |spec| {
        spec["design"]["factors"]["model"][1]["source"]["path"] = json!("/models/x")
    }),
    ("reserved variable", |spec| {
        spec["runner"]["env"] = json!([{ "name": "INFERBENCH_TRIALS", "value": "x" }])
    }),
    ("neither url nor claim", |spec| {
        spec["results"]["store"] = json!({})
    }),
    ("url and claim", |spec| {
        spec["results"]["store"]["persistentVolumeClaim"] = json!({ "claimName": "c" });
    }),
    ("endpoint of a claim", |spec| {
        spec["results"]["store"] =
            json!({ "endpoint": "https://x", "persistentVolumeClaim": { "claimName": "c" } });
    }),
    ("a mix with an inputLength of none", |spec| {
        spec["objectives"]["workloads"] = json!([{ "inputLength": 16 }]);
    }),
    ("a mix with an outputLength of none", |spec| {
        spec["objectives"]["workloads"] = json!([{ "outputLength": 16 }]);
    }),
    ("a mix with a requestRate of none", |spec| {
        spec["objectives"]["workloads"] = json!([{ "requestRate": 2 }]);
    }),
    ("a mix with a prefixShare of none", |spec| {
        spec["objectives"]["workloads"] = json!([{ "prefixShare": 0 }]);
    }),
    ("a mix without an inputLength", |spec| {
        spec["design"]["factors"]["inputLength"] = json!([16, 32]);
        spec["objectives"]["workloads"] = json!([{ "inputLength": 16 }, {}]);
    }),
    ("a mix without an outputLength", |spec| {
        spec["design"]["factors"]["outputLength"] = json!([16, 32]);
        spec["objectives"]["workloads"] = json!([{}]);
    }),
    ("a mix without a requestRate", |spec| {
        let factors = &mut spec["design"]["factors"];
        factors["engine"] = json!([{ "name": "a", "server": { "preset": "vllm", "image": "a" } }]);
        factors["batchSize"] = json!([1]);
        factors["requestRate"] = json!([1, 2]);
        spec["objectives"]["workloads"] = json!([{}]);
    }),
    ("a mix without a prefixShare", |spec| {
        let factors = &mut spec["design"]["factors"];
        factors["engine"] = json!([{ "name": "a", "server": { "preset": "vllm", "image": "a" } }]);
        factors["batchSize"] = json!([1]);
        factors["concurrency"] = json!([1]);
        factors["prefixShare"] = json!([0, 50]);
        spec["objectives"]["workloads"] = json!([{}]);
    }),
    ("a folder", |spec| {
        spec["results"]["store"] = json!({ "url": "file:///tmp/results" })
    }),
];

/// Edits of a resource: what it becomes, and whether it may.
const EDITS: &[(&str, Change, bool)] = &[
    ("nothing", |_| {}, true),
    ("suspend", |spec| spec["suspend"] = json!(true), true),
    (
        "parallelism",
        |spec| spec["execution"]["parallelism"] = json!(8),
        true,
    ),
    (
        "objectives",
        |spec| spec["objectives"]["maxTtft"] = json!("100ms"),
        true,
    ),
    (
        "the mix of workloads",
        |spec| spec["objectives"]["workloads"] = json!([{ "inputLength": 128, "weight": 2 }]),
        true,
    ),
    (
        "expectations",
        |spec| {
            spec["expectations"] =
                json!([{ "name": "fast", "that": "mean('ttftMs') < 100", "reference": "90 ms" }]);
        },
        true,
    ),
    (
        "a default made explicit",
        |spec| spec["measurement"] = json!({ "iterations": 5 }),
        true,
    ),
    (
        "a level",
        |spec| spec["design"]["factors"]["batchSize"] = json!([1, 2, 4, 8]),
        false,
    ),
    (
        "when it is enough",
        |spec| {
            spec["design"]["until"] = json!({ "metric": "ttftMs", "halfWidth": "3%", "min": 2 });
            spec["design"]["replicates"] = json!(2);
        },
        false,
    ),
    (
        "what is measured again",
        |spec| spec["design"]["confirm"] = json!({ "replicates": 2 }),
        false,
    ),
    ("the seed", |spec| spec["design"]["seed"] = json!(43), false),
    (
        "a factor that was absent",
        |spec| spec["design"]["factors"]["dtype"] = json!(["f16"]),
        false,
    ),
    (
        "measurement, absent before",
        |spec| spec["measurement"] = json!({ "iterations": 6 }),
        false,
    ),
    (
        "runner, absent before",
        |spec| spec["runner"] = json!({ "image": "a/b:c" }),
        false,
    ),
    (
        "the store",
        |spec| spec["results"]["store"]["url"] = json!("s3://other"),
        false,
    ),
    (
        "trialsPerJob",
        |spec| spec["execution"]["trialsPerJob"] = json!(2),
        false,
    ),
];

/// Edits of a resource that searches.
const EDITS_OF_A_SEARCH: &[(&str, Change, bool)] = &[
    ("nothing", searches, true),
    (
        "the price",
        |spec| {
            searches(spec);
            spec["objectives"]["costPerGpuHour"] = json!("2.50");
        },
        true,
    ),
    (
        "a time",
        |spec| {
            searches(spec);
            spec["objectives"]["maxTtft"] = json!("300ms");
        },
        false,
    ),
    (
        "another time",
        |spec| {
            searches(spec);
            spec["objectives"]["maxE2e"] = json!("5s");
        },
        false,
    ),
];

#[test]
fn what_both_accept() {
    let server = Server::new();
    for (name, change) in ACCEPTED {
        let resource = resource(*change);
        assert_eq!(local(&resource), [] as [&str; 0], "{name}, locally");
        assert_eq!(
            server.rejections(&resource, None),
            [] as [&str; 0],
            "{name}, in a cluster"
        );
    }
}

#[test]
fn what_both_reject() {
    let server = Server::new();
    for (name, change) in REJECTED {
        let resource = resource(*change);
        assert_eq!(
            local(&resource).len(),
            1,
            "{name}, locally: {:?}",
            local(&resource)
        );
        assert_eq!(
            server.rejections(&resource, None).len(),
            1,
            "{name}, in a cluster: {:?}",
            server.rejections(&resource, None)
        );
    }
}

#[test]
fn what_may_be_edited() {
    let server = Server::new();
    let old = resource(|_| {});
    for (name, change, allowed) in EDITS {
        let found = server.rejections(&resource(*change), Some(&old));
        assert_eq!(found.is_empty(), *allowed, "{name}: {found:?}");
    }
    let old = resource(searches);
    for (name, change, allowed) in EDITS_OF_A_SEARCH {
        let found = server.rejections(&resource(*change), Some(&old));
        assert_eq!(found.is_empty(), *allowed, "a search, {name}: {found:?}");
    }
}

/// No rule stands there untested.
#[test]
fn every_rule_rejects_something() {
    let server = Server::new();
    let old = resource(|_| {});
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (_, change) in REJECTED {
        seen.extend(server.rejections(&resource(*change), None));
    }
    for (_, change, _) in EDITS {
        seen.extend(server.rejections(&resource(*change), Some(&old)));
    }
    let old = resource(searches);
    for (_, change, _) in EDITS_OF_A_SEARCH {
        seen.extend(server.rejections(&resource(*change), Some(&old)));
    }
    for rule in crd::rules() {
        assert!(
            seen.contains(rule.message.as_ref()),
            "{}: {}",
            rule.path,
            rule.message
        );
    }
}

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A resource with these fields, beside a minimal design.
fn resource(change: impl FnOnce(&mut Value)) -> InferenceBenchmark {
    let mut value = json!({
        "apiVersion": "inferbench.dev/v1alpha1",
        "kind": "InferenceBenchmark",
        "metadata": { "name": "test" },
        "spec": { "design": { "factors": {
            "model": [
                { "name": "gpt2", "source": { "random": { "preset": "gpt2" } } },
                { "name": "llama", "source": { "path": "/models/llama" } },
            ],
            "batchSize": [1, 2, 4],
            "gpus": [1, 2],
        } } },
    });
    change(&mut value);
    serde_json::from_value(value).expect("a resource")
}

fn violations(change: impl FnOnce(&mut Value)) -> Vec<String> {
    validate(&resource(change), Scope::Local)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[track_caller]
fn expect(change: impl FnOnce(&mut Value), expected: &[&str]) {
    assert_eq!(violations(change), expected);
}

#[test]
fn quality_of_random_weights_is_noted() {
    let spec = |quality| -> InferenceBenchmarkSpec {
        serde_json::from_value(json!({
            "design": { "factors": { "model": [
                { "name": "made", "source": { "random": { "preset": "gpt2" } } },
                { "name": "real", "source": { "path": "/models/x" } },
            ] } },
            "measurement": { "quality": quality },
        }))
        .unwrap()
    };
    assert_eq!(notes(&spec(false)), [""; 0]);
    let [note] = notes(&spec(true)).try_into().unwrap();
    assert!(
        note.starts_with("spec.measurement.quality: made has random weights"),
        "{note}"
    );
}

#[test]
fn trials_on_the_cpus_of_a_cluster_are_noted_with_the_remedy() {
    let noted = |gpus: i32, store: Value, resources: Value| {
        let resource = resource(|value| {
            value["spec"]["design"]["factors"]["gpus"] = json!([gpus]);
            value["spec"]["results"] = json!({ "store": store });
            value["spec"]["runner"] = json!({ "resources": resources });
        });
        notes(&resource.spec).join("\n")
    };
    let claim = json!({ "persistentVolumeClaim": { "claimName": "results" } });
    let (shared, whole) = ("class Guaranteed", "are the trial's alone only on nodes");
    let given = [
        (json!({}), shared),
        (
            json!({ "requests": { "cpu": "4", "memory": "8Gi" } }),
            shared,
        ),
        (json!({ "limits": { "cpu": "4" } }), shared),
        (
            json!({ "limits": { "cpu": "3500m", "memory": "8Gi" } }),
            shared,
        ),
        (
            json!({ "limits": { "cpu": 4, "memory": "8Gi" }, "requests": { "cpu": 2 } }),
            shared,
        ),
        (json!({ "limits": { "cpu": 4, "memory": "8Gi" } }), whole),
        (
            json!({ "limits": { "cpu": "4000m", "memory": "8Gi" }, "requests": { "memory": "8Gi" } }),
            whole,
        ),
    ];
    for (resources, said) in given {
        let note = noted(0, claim.clone(), resources.clone());
        assert!(
            note.starts_with("spec.runner.resources: in a cluster"),
            "{resources}: {note}"
        );
        assert!(
            note.contains(said) && note.contains("CPU manager policy static"),
            "{resources}: {note}"
        );
        assert!(!note.contains('\n'), "{note}");
    }
    let bucket = json!({ "url": "s3://bucket" });
    assert!(noted(0, bucket.clone(), json!({})).contains(shared));
    // On GPUs, and where all stays on this machine, there is nothing to say.
    assert_eq!(noted(1, bucket, json!({})), "");
    assert_eq!(noted(0, json!({ "url": "file:///results" }), json!({})), "");
}

#[test]
fn a_design_with_a_model_is_enough_locally_but_not_in_a_cluster() {
    let bare = resource(|value| {
        value["spec"]["design"]["factors"] =
            json!({ "model": [{ "name": "m", "source": { "random": { "preset": "gpt2" } } }] });
    });
    assert_eq!(validate(&bare, Scope::Local), []);
    let found = validate(&bare, Scope::Cluster);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        found[0].to_string(),
        "spec.results.store: is required in a cluster: give a url or a persistentVolumeClaim"
    );
}

#[test]
fn every_violation_is_reported_at_once_with_its_path() {
    let found = violations(|value| {
        let spec = &mut value["spec"];
        spec["design"]["factors"]["batchSize"] = json!([1, 2, 0, 2, 70_000]);
        spec["design"]["factors"]["gpus"] = json!([1, 0]);
        spec["design"]["factors"]["inputLength"] = json!([]);
        spec["design"]["replicates"] = json!(0);
        spec["measurement"]["iterations"] = json!(0);
        spec["execution"]["trialTimeout"] = json!("0s");
        spec["objectives"]["costPerGpuHour"] = json!("cheap");
        spec["retention"]["ttlSecondsAfterFinished"] = json!(60);
        spec["runner"]["env"] =
            json!([{ "name": "INFERBENCH_SEED", "value": "1" }, { "name": "1st" }]);
    });
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn a_factor_has_at_most_64_levels() {
    let levels: Vec<i32> = (1..=65).collect();
    expect(
        |value| value["spec"]["design"]["factors"]["inputLength"] = json!(levels),
        &["spec.design.factors.inputLength: has 65 items, and at most 64 are allowed"],
    );
}

#[test]
fn models_have_distinct_names_and_exactly_one_source() {
    expect(
        |value| {
            value["spec"]["design"]["factors"]["model"] = json!([
                { "name": "a", "source": {} },
                { "name": "a", "source": { "path": "x", "random": { "preset": "gpt2" } } },
            ]);
        },
        &[
            "spec.design.factors.model[1].name: \"a\" is listed already, as spec.design.factors.model[0].name",
            "spec.design.factors.model[0].source: has none, and needs exactly one of huggingFace, random, path and \
             objectStore",
            "spec.design.factors.model[1].source: has random and path, and needs exactly one of huggingFace, random, \
             path and objectStore",
        ],
    );
    let models: Vec<Value> = (0..17)
        .map(|index| json!({ "name": format!("m{index}"), "source": { "path": "x" } }))
        .collect();
    expect(
        |value| value["spec"]["design"]["factors"]["model"] = json!(models),
        &["spec.design.factors.model: has 17 items, and at most 16 are allowed"],
    );
}

#[test]
fn an_unknown_preset_is_met_with_the_nearest() {
    expect(
        |value| {
            value["spec"]["design"]["factors"]["model"][0]["source"] =
                json!({ "random": { "preset": "lama3-8b" } })
        },
        &[
            "spec.design.factors.model[0].source.random.preset: \"lama3-8b\" is not one of gpt2, gpt2-medium, \
           gpt2-large, gpt2-xl, llama3-8b, llama3-70b, smollm2-135m, tinyllama-1.1b, qwen2.5-0.5b, tiny-gpt2, \
           tiny-llama, tiny-qwen2, tiny-qwen3, tiny-mistral (did you mean `llama3-8b`?)",
        ],
    );
}

#[test]
fn exclude_names_levels_of_the_design() {
    expect(
        |value| {
            value["spec"]["design"]["exclude"] = json!([
                { "model": ["gpt"], "batchSize": [2, 3] },
                {},
                { "dtype": ["f16"], "gpus": [4] },
                { "outputLength": [] },
            ]);
        },
        &[
            "spec.design.exclude[1]: has none, and needs at least 1 member",
            "spec.design.exclude[3].outputLength: has none, and needs at least 1 item",
            "spec.design.exclude[0].model[0]: \"gpt\" is not a level of model: gpt2, llama (did you mean `gpt2`?)",
            "spec.design.exclude[0].batchSize[1]: 3 is not a level of batchSize: 1, 2, 4",
            "spec.design.exclude[2].gpus[0]: 4 is not a level of gpus: 1, 2",
            "spec.design.exclude[2].dtype[0]: f16 cannot be left out, as spec.design.factors.dtype is absent",
        ],
    );
    expect(
        |value| {
            value["spec"]["design"]["exclude"] =
                json!([{ "model": ["gpt2"] }, { "model": ["llama"] }])
        },
        &["spec.design.exclude: leaves out all 12 trials, and at least one is needed"],
    );
}

#[test]
fn a_design_has_at_most_50000_trials() {
    let design = |replicates: i32| {
        move |value: &mut Value| {
            let levels = |count: i32| json!((1..=count).collect::<Vec<i32>>());
            let factors = &mut value["spec"]["design"]["factors"];
            factors["batchSize"] = levels(50);
            factors["inputLength"] = levels(50);
            value["spec"]["design"]["replicates"] = json!(replicates);
        }
    };
    expect(design(5), &[]);
    expect(
        design(6),
        &[
            "spec.design: 2 × 50 × 50 × 1 × 2 × 1 levels × 6 replicates are 60000 trials, and at most 50000 are allowed",
        ],
    );
}

#[test]
fn a_store_is_a_url_or_a_claim() {
    let store = |store: Value, scope: Scope| -> Vec<String> {
        let resource = resource(|value| value["spec"]["results"]["store"] = store);
        validate(&resource, scope)
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    for url in [
        "s3://bucket/prefix",
        "s3://bucket",
        "gs://b/p/q/",
        "az://container/x y".replace(' ', "-").as_str(),
    ] {
        assert_eq!(
            store(json!({ "url": url }), Scope::Cluster),
            [] as [&str; 0],
            "{url}"
        );
    }
    assert_eq!(
        store(json!({ "url": "file:///tmp/results" }), Scope::Local),
        [] as [&str; 0]
    );
    assert_eq!(
        store(json!({ "url": "file:///tmp/results" }), Scope::Cluster),
        [
            "spec.results.store.url: \"file:///tmp/results\" names a folder of one machine: in a cluster use s3, gs or az"
        ]
    );
    for url in [
        "http://host/bucket",
        "bucket/prefix",
        "s3:/bucket",
        "s3://bucket?x=1",
        "s3://",
        "s3://b/a b",
    ] {
        let found = store(json!({ "url": url }), Scope::Local);
        assert_eq!(found.len(), 1, "{url}: {found:?}");
        assert!(
            found[0].starts_with("spec.results.store.url: ")
                && found[0].contains("is not a URL such as"),
            "{url}"
        );
    }
    assert_eq!(
        store(
            json!({ "persistentVolumeClaim": { "claimName": "c" } }),
            Scope::Cluster
        ),
        [] as [&str; 0]
    );
    assert_eq!(
        store(
            json!({ "persistentVolumeClaim": { "claimName": "c", "path": "../up" }, "region": "x" }),
            Scope::Cluster
        ),
        [
            "spec.results.store.persistentVolumeClaim.path: \"../up\" is not a folder inside the volume, such as runs/first",
            "spec.results.store.region: belongs to url, which is absent",
        ]
    );
    assert_eq!(
        store(json!({}), Scope::Local),
        ["spec.results.store: has none, and needs exactly one of url and persistentVolumeClaim"]
    );
}

#[test]
fn a_trial_has_time_to_measure() {
    expect(
        |value| {
            value["spec"]["measurement"]["minDuration"] = json!("1m");
            value["spec"]["execution"]["trialTimeout"] = json!("1m");
        },
        &[
            "spec.execution.trialTimeout: 1m is not longer than measurement.warmupDuration and minDuration together, \
           1m1s: every trial would time out",
        ],
    );
}

#[test]
fn names_are_those_of_kubernetes() {
    for (name, fine) in [
        ("thesis", true),
        ("a.b-c", true),
        ("Thesis", false),
        ("-a", false),
        (&"x".repeat(64), false),
    ] {
        let found = violations(|value| value["metadata"]["name"] = json!(name));
        assert_eq!(found.is_empty(), fine, "{name}: {found:?}");
    }
    expect(
        |value| value["metadata"] = json!({}),
        &["metadata.name: is required"],
    );
}

proptest! {
    /// A design that validation accepts expands, and has trials.
    #[test]
    fn what_validation_accepts_expands(
        batch_size in prop::collection::vec(-1_i32..9, 0..5),
        gpus in prop::collection::vec(-1_i32..4, 0..4),
        replicates in -1_i32..30_000,
        exclude in prop::option::of(prop::collection::vec(0_i32..9, 0..3)),
    ) {
        let resource = resource(|value| {
            let design = &mut value["spec"]["design"];
            design["factors"]["batchSize"] = json!(batch_size);
            design["factors"]["gpus"] = json!(gpus);
            design["replicates"] = json!(replicates);
            design["exclude"] = exclude.map_or(json!([]), |levels| json!([{ "batchSize": levels }]));
        });
        if validate(&resource, Scope::Local).is_empty() {
            let expansion = Expansion::new(&resource.spec.design);
            prop_assert!(!expansion.is_empty());
            prop_assert!(expansion.trials().all(|trial| trial.combination.batch_size > 0));
        }
    }
}

#[test]
fn parameters_are_held_to_what_no_rule_of_the_schema_can_say() {
    let path = "spec.design.factors.parameters";
    let with = |parameters: Value| {
        move |value: &mut Value| value["spec"]["design"]["factors"]["parameters"] = parameters
    };
    let long = "x".repeat(64);
    for (parameters, expected) in [
        (
            json!([{ "name": "gpus", "levels": [1], "env": "A" }]),
            format!("{path}[0].name: \"gpus\" is the name of another factor"),
        ),
        (
            json!([{ "name": "a", "levels": [1], "env": "INFERBENCH_NODE" }]),
            format!(
                "{path}[0].env: \"INFERBENCH_NODE\" begins with INFERBENCH_, which is reserved"
            ),
        ),
        (
            json!([{ "name": "a", "levels": [1], "env": "A" }, { "name": "b", "levels": [1], "env": "A" }]),
            format!("{path}[1].env: \"A\" is set by the parameter a already"),
        ),
        (
            json!([{ "name": "a", "levels": [1, 2, 1], "env": "A" }]),
            format!("{path}[0].levels[2]: 1 is listed already, as levels[0]"),
        ),
        (
            json!([{ "name": "a", "levels": [long], "env": "A" }]),
            format!("{path}[0].levels[0]: {long:?} is not a text of 1 to 63 printable characters"),
        ),
        (
            json!([{ "name": "a", "levels": ["x", "64"], "env": "A" }]),
            format!(
                "{path}[0].levels[1]: \"64\" is a text that reads as a number, true or false: leave out the quotes"
            ),
        ),
        (
            json!([{ "name": "a", "levels": [1], "engines": ["candel"], "env": "A" }]),
            format!(
                "{path}[0].engines[0]: \"candel\" is not a level of engine: candle (did you mean `candle`?)"
            ),
        ),
    ] {
        expect(with(parameters), &[&expected]);
    }
    expect(
        with(
            json!([{ "name": "a", "levels": [1, 2.5, "x", true], "engines": ["candle"], "env": "A" }]),
        ),
        &[],
    );
}

/// Parameters multiply the trials, which no rule of the schema can see.
#[test]
fn parameters_count_in_the_size_of_a_design() {
    let levels: Vec<u32> = (0..64).collect();
    expect(
        |value| {
            let factors = &mut value["spec"]["design"]["factors"];
            factors["parameters"] = json!([
                { "name": "a", "levels": levels, "env": "A" }, { "name": "b", "levels": levels, "env": "B" },
            ]);
        },
        &[],
    );
    expect(
        |value| {
            let factors = &mut value["spec"]["design"]["factors"];
            factors["dtype"] = json!(["bf16", "f16"]);
            factors["parameters"] = json!([
                { "name": "a", "levels": levels, "env": "A" }, { "name": "b", "levels": levels, "env": "B" },
            ]);
        },
        &[
            "spec.design: 2 × 3 × 1 × 1 × 2 × 2 × 64 × 64 levels × 1 replicates are 98304 trials, and at most 50000 are allowed",
        ],
    );
}

#[test]
fn exclude_names_parameters_of_the_design() {
    expect(
        |value| {
            let design = &mut value["spec"]["design"];
            design["factors"]["parameters"] =
                json!([{ "name": "threads", "levels": [1, 2], "env": "A" }]);
            design["exclude"] = json!([{ "parameters": { "thread": [1], "threads": [3] } }]);
        },
        &[
            "spec.design.exclude[0].parameters.thread: is not a parameter of this design (did you mean `threads`?)",
            "spec.design.exclude[0].parameters.threads[0]: 3 is not a level of threads: 1, 2",
        ],
    );
}

#[test]
fn a_selection_needs_as_many_combinations_as_terms_and_no_more_than_there_are() {
    let select =
        |select: Value| move |value: &mut Value| value["spec"]["design"]["select"] = select;
    expect(select(json!({ "combinations": 4 })), &[]);
    expect(
        select(json!({ "combinations": 3, "method": "Sobol" })),
        &[
            "spec.design.select.combinations: 3 is too few: the model MainEffects of these factors has 4 terms, and needs \
             as many combinations",
        ],
    );
    expect(
        select(json!({ "combinations": 6, "model": "TwoFactor" })),
        &[
            "spec.design.select.combinations: 6 is too few: the model TwoFactor of these factors has 7 terms, and needs as \
             many combinations",
        ],
    );
    expect(
        select(json!({ "combinations": 13 })),
        &[
            "spec.design.select.combinations: 13 is more than the 12 combinations that there are: leave out `select` to run \
             them all",
        ],
    );
}

/// A resource whose engines are these, on the CPU, with no batch size.
fn with_engines(engines: Value, change: impl FnOnce(&mut Value)) -> impl FnOnce(&mut Value) {
    move |value| {
        let factors = &mut value["spec"]["design"]["factors"];
        factors["engine"] = engines;
        factors["gpus"] = json!([0]);
        factors.as_object_mut().expect("a map").remove("batchSize");
        change(factors);
    }
}

#[test]
fn engines_are_one_of_three_and_say_what_they_need() {
    let path = "spec.design.factors.engine[0]";
    for (engine, expected) in [
        (
            json!({ "name": "none" }),
            format!("{path}: has none, and needs exactly one of candle, server and endpoint"),
        ),
        (
            json!({ "name": "two", "candle": {}, "server": { "preset": "vllm" } }),
            format!(
                "{path}: has candle and server, and needs exactly one of candle, server and endpoint"
            ),
        ),
        (
            json!({ "name": "a", "server": { "preset": "openai" } }),
            format!(
                "{path}.server.command: is required for the preset openai: the program to start, and its first arguments"
            ),
        ),
        (
            json!({ "name": "a", "server": { "preset": "vllm", "args": ["--x=$(maxNumSeq)", "$$(y)"] } }),
            format!(
                "{path}.server.args[0]: $(maxNumSeq) is not one of model, gpus, tensorParallel, pipelineParallel, \
                 dataParallel, dtype, port, maxLength, maxConcurrency, totalLength, cpus, serverThreads"
            ),
        ),
        (
            json!({ "name": "a", "server": { "preset": "vllm", "env": [{ "name": "INFERBENCH_X", "value": "1" }] } }),
            format!(
                "{path}.server.env[0].name: \"INFERBENCH_X\" begins with INFERBENCH_, which is reserved"
            ),
        ),
        (
            json!({ "name": "a", "endpoint": { "url": "llama:8080" } }),
            format!(
                "{path}.endpoint.url: \"llama:8080\" is not a URL such as https://minio.example.org:9000"
            ),
        ),
        (
            json!({ "name": "a", "server": { "preset": "vllm", "startupTimeout": "0s" } }),
            format!("{path}.server.startupTimeout: 0s is not at least 1ms"),
        ),
    ] {
        let found = violations(with_engines(json!([engine]), |_| ()));
        assert!(found.contains(&expected), "{expected}\n{found:#?}");
    }
    expect(
        with_engines(
            json!([{ "name": "candle", "candle": {} }, { "name": "v", "server": { "preset": "vllm" } }]),
            |_| (),
        ),
        &[],
    );
}

#[test]
fn in_a_cluster_a_server_needs_its_image() {
    let mut found = resource(with_engines(
        json!([{ "name": "v", "server": { "preset": "vllm" } }]),
        |_| (),
    ));
    found.spec.results.store = serde_json::from_value(json!({ "url": "s3://b" })).unwrap();
    let found = validate(&found, Scope::Cluster);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        found[0].to_string(),
        "spec.design.factors.engine[0].server.image: is required in a cluster: the image that has the server's program"
    );
}

#[test]
fn a_design_has_one_load() {
    let server = json!([{ "name": "v", "server": { "preset": "vllm" } }]);
    let path = "spec.design.factors";
    expect(
        with_engines(server.clone(), |factors| {
            factors["concurrency"] = json!([1, 8]);
            factors["prefixShare"] = json!([0, 50]);
        }),
        &[],
    );
    expect(
        with_engines(server.clone(), |factors| {
            factors["requestRate"] = json!([0.5, 8])
        }),
        &[],
    );
    expect(
        with_engines(server.clone(), |factors| {
            factors["concurrency"] = json!([1, 8]);
            factors["requestRate"] = json!([0.5]);
            factors["batchSize"] = json!([1, 2]);
        }),
        &[
            &format!(
                "{path}.requestRate: a design has one load: give batchSize, concurrency or requestRate"
            ),
            &format!(
                "{path}.batchSize: a design has one load: leave batchSize out beside concurrency or requestRate"
            ),
        ],
    );
    expect(
        with_engines(json!([{ "name": "candle", "candle": {} }]), |factors| {
            factors["concurrency"] = json!([4]);
        }),
        &[&format!(
            "{path}.concurrency: is a load of servers and endpoints, and this design has none: see {path}.engine"
        )],
    );
    expect(
        with_engines(server, |factors| factors["requestRate"] = json!([0])),
        &[&format!("{path}.requestRate[0]: 0 is not at least 0.001")],
    );
}

/// A design that searches its load.
fn searching(search: Value, change: impl FnOnce(&mut Value)) -> impl FnOnce(&mut Value) {
    let engines = json!([{ "name": "vllm", "server": { "preset": "vllm" } }]);
    move |value| {
        with_engines(engines, |_| ())(value);
        let spec = &mut value["spec"];
        spec["design"]["search"] = search;
        spec["objectives"] = json!({ "maxTtft": "200ms" });
        change(value);
    }
}

#[test]
fn a_search_is_the_load_of_a_design_and_is_held_to_times() {
    let rates = || json!({ "factor": "requestRate", "from": 1, "to": 128 });
    expect(searching(rates(), |_| ()), &[]);
    expect(
        searching(rates(), |value| {
            let spec = &mut value["spec"];
            spec["objectives"] = json!({});
            spec["design"]["factors"]["batchSize"] = json!([1, 2]);
            spec["design"]["factors"]["requestRate"] = json!([1]);
        }),
        &[
            "spec.design.factors.batchSize: a design has one load: leave batchSize out beside concurrency or requestRate",
            "spec.design.factors.batchSize: a design has one load, and this one searches its requestRate: leave batchSize \
             out, or spec.design.search",
            "spec.design.factors.requestRate: a design has one load, and this one searches its requestRate: leave \
             requestRate out, or spec.design.search",
            "spec.objectives: spec.design.search looks for the highest load at which times hold: give maxTtft, maxTpot or \
             maxE2e",
        ],
    );
    expect(
        searching(rates(), |value| {
            value["spec"]["design"]["factors"]["engine"] = json!([{ "name": "own", "candle": {} }]);
        }),
        &[
            "spec.design.search.factor: requestRate is a load of servers and endpoints, and this design has none: see \
             spec.design.factors.engine",
        ],
    );
    expect(
        searching(
            json!({ "factor": "concurrency", "from": 0.5, "to": 2, "within": "10", "share": "0%" }),
            |_| (),
        ),
        &[
            "spec.design.search.share: \"0%\" is not a percentage such as 3% or 0.5%: above 0, at most 100, with at most \
             two decimals",
            "spec.design.search.within: \"10\" is not a percentage such as 3% or 0.5%: above 0, at most 100, with at most \
             two decimals",
            "spec.design.search.from: 0.5 is not a whole number from 1 to 10000",
        ],
    );
}

#[test]
fn a_search_that_says_little_is_noted() {
    let noted = |search: Value, change: fn(&mut Value)| {
        let resource = resource(searching(search, change));
        notes(&resource.spec).join("\n")
    };
    let rates = json!({ "factor": "requestRate", "from": 1, "to": 128 });
    insta::assert_snapshot!(noted(rates.clone(), |_| ()), @"spec.measurement.iterations: a load is tested by 5 requests or a few more where it is low, and with fewer than 100 share 99% asks for all of them");
    insta::assert_snapshot!(
        noted(rates, |value| {
            let spec = &mut value["spec"];
            spec["measurement"] = json!({ "iterations": 100, "minDuration": "2m" });
            spec["execution"] = json!({ "trialTimeout": "10m" });
            spec["design"]["factors"]["engine"]
                .as_array_mut()
                .unwrap()
                .push(json!({ "name": "own", "candle": {} }));
        }),
        @r"
    spec.execution.trialTimeout: 10m is short for a search: up to 13 loads of warmupDuration and minDuration are at least 1573 s; where time is over, it ends with what it knows
    spec.design.search: own takes batches alone: its combinations are recorded as Unsupported
    "
    );
    let all = json!({ "factor": "concurrency", "from": 1, "to": 8, "share": "100%" });
    assert_eq!(noted(all, |_| ()), "");
}

#[test]
fn of_an_endpoint_only_the_load_varies() {
    let endpoint = json!([{ "name": "e", "endpoint": { "url": "http://e:8000" } }]);
    let path = "spec.design.factors";
    expect(
        with_engines(endpoint, |factors| {
            factors["gpus"] = json!([1, 2]);
            factors["dataParallel"] = json!([2]);
            factors["dtype"] = json!(["f16", "bf16"]);
            factors["parameters"] = json!([
                { "name": "a", "levels": [1, 2], "env": "A" },
                { "name": "b", "levels": [1, 2], "field": "top_k" },
            ]);
        }),
        &[
            &format!(
                "{path}.gpus: the GPUs of the endpoint e are not this sweep's to give: write [0]"
            ),
            &format!(
                "{path}.dataParallel: the endpoint e divides its work as it does: leave it out"
            ),
            &format!("{path}.dtype: the endpoint e has one data type: name that one"),
            &format!(
                "{path}.parameters[0].env: e is an endpoint, whose environment is not this sweep's to set"
            ),
        ],
    );
}

#[test]
fn a_parameter_goes_somewhere() {
    let engines = json!([
        { "name": "candle", "candle": {} },
        { "name": "v", "server": { "preset": "vllm", "args": ["--max-num-seqs=$(seqs)"] } },
    ]);
    let path = "spec.design.factors.parameters[0]";
    for (parameter, expected) in [
        (
            json!({ "name": "seqs", "levels": [1], "engines": ["v"] }),
            None,
        ),
        (
            json!({ "name": "seqs", "levels": [1] }),
            Some(
                "goes nowhere for candle: give env, flag or field, or write $(seqs) where it belongs",
            ),
        ),
        (
            json!({ "name": "seqs", "levels": [1], "flag": "--x" }),
            Some("flag: candle is not started by a command line: name the engines that are"),
        ),
        (
            json!({ "name": "seqs", "levels": [1], "field": "x" }),
            Some("field: candle is not asked by requests: name the engines that are"),
        ),
        (
            json!({ "name": "seqs", "levels": [1], "env": "X", "field": "x", "engines": ["v"] }),
            Some("has env and field, and at most one of env, flag and field is allowed"),
        ),
        (
            json!({ "name": "seqs", "levels": [1], "flag": "x y", "engines": ["v"] }),
            Some("flag: \"x y\" is not the name of an option such as --max-num-seqs"),
        ),
    ] {
        let found = violations(with_engines(engines.clone(), |factors| {
            factors["parameters"] = json!([parameter]);
        }));
        let found: Vec<&str> = found
            .iter()
            .map(|text| text.trim_start_matches(path))
            .collect();
        let found: Vec<&str> = found
            .iter()
            .map(|text| text.trim_start_matches([':', '.', ' ']))
            .collect();
        assert_eq!(found, Vec::from_iter(expected));
    }
}

#[test]
fn a_load_that_one_engine_cannot_take_is_noted() {
    let resource = resource(with_engines(
        json!([{ "name": "candle", "candle": {} }, { "name": "v", "server": { "preset": "vllm" } }]),
        |factors| factors["concurrency"] = json!([1]),
    ));
    assert_eq!(
        notes(&resource.spec),
        [
            "spec.design.factors.concurrency: candle takes batches alone: its combinations are recorded as Unsupported"
        ]
    );
}

#[test]
fn a_mix_names_workloads_of_the_design() {
    let mixed = |workloads: Value| {
        move |value: &mut Value| {
            value["spec"]["design"]["factors"]["inputLength"] = json!([128, 1024]);
            value["spec"]["objectives"] = json!({ "workloads": workloads });
        }
    };
    expect(
        mixed(
            json!([{ "inputLength": 128, "weight": 3 }, { "inputLength": 1024, "outputLength": 128 }]),
        ),
        &[],
    );
    expect(
        mixed(json!([
            { "inputLength": 256 },
            { "outputLength": 128 },
            { "inputLength": 1024, "prefixShare": 0 },
            { "inputLength": 128, "weight": 0 },
            { "inputLength": 128, "outputLength": 128 },
        ])),
        &[
            "spec.objectives.workloads[3].weight: 0 is not at least 0.001",
            "spec.objectives.workloads[0].inputLength: 256 is not a level of inputLength: 128, 1024",
            "spec.objectives.workloads[1].inputLength: is required, as the design has several levels: 128, 1024",
            "spec.objectives.workloads[2].prefixShare: 0 cannot be named, as spec.design.factors.prefixShare is absent",
            "spec.objectives.workloads[4]: is listed already, as spec.objectives.workloads[3]: give it one weight",
        ],
    );
    // A factor that a person chooses is no workload, and a mix is of every model.
    let found = violations(mixed(
        json!([{ "inputLength": 128, "batchSize": 4, "model": "gpt2" }]),
    ));
    for field in ["batchSize", "model"] {
        let path = format!("spec.objectives.workloads[0].{field}: ");
        let about = found
            .iter()
            .filter(|violation| violation.starts_with(&path));
        assert!(about.count() > 0, "{field}: {found:?}");
    }
    let many: Vec<Value> = (0..65).map(|_| json!({ "inputLength": 128 })).collect();
    let found = violations(mixed(json!(many)));
    assert_eq!(
        found[0],
        "spec.objectives.workloads: has 65 items, and at most 64 are allowed"
    );
}

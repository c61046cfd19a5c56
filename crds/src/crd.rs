//! The CustomResourceDefinition: what `kube` derives from the types, plus what it cannot know: the CEL rules, bounds
//! on embedded Kubernetes types, and defaults that let transition rules see later additions.

use std::{borrow::Cow, sync::LazyLock};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::{
    InferenceBenchmark,
    factor::{Allowed, Builtin, Factor, TABLE},
    limits, patterns,
    workload::Workload,
};

/// A rule in the Common Expression Language, and the place in the schema where it stands.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The place: field names, with `[]` for the items of a list.
    pub path: Cow<'static, str>,
    /// The expression.
    pub rule: Cow<'static, str>,
    /// The text that a user reads where it does not hold.
    pub message: Cow<'static, str>,
}

/// Every rule of the resource. They were measured against the API server's cost limits: keep them as plain as they
/// are, and every list and string that they touch bounded.
#[must_use]
pub fn rules() -> Vec<Rule> {
    let rule = |&[path, rule, message]: &[&'static str; 3]| Rule {
        path: path.into(),
        rule: rule.into(),
        message: message.into(),
    };
    let excludes = TABLE.iter().map(|builtin| Rule {
        path: "spec.design".into(),
        rule: excluded(builtin).into(),
        message: format!(
            "exclude names a level that is not in factors.{}",
            builtin.name
        )
        .into(),
    });
    RULES
        .iter()
        .map(rule)
        .chain([size()])
        .chain(excludes)
        .chain(TABLE.iter().flat_map(mixed))
        .collect()
}

/// That the mix in `objectives` names levels of a workload factor, and one wherever it has several.
fn mixed(builtin: &Builtin) -> Vec<Rule> {
    if !Workload::takes(&Factor::named(builtin.name)) {
        return Vec::new();
    }
    let name = builtin.name;
    let levels = format!("self.design.factors.{name}");
    let (given, absent) = if builtin.given.is_some() {
        (format!("has({levels}) && "), format!("!has({levels}) || "))
    } else {
        (String::new(), String::new())
    };
    let all = |of: String| {
        format!(
            "!has(self.objectives) || !has(self.objectives.workloads) || self.objectives.workloads.all(w, {of})"
        )
    };
    let rule = |rule: String, message: String| Rule {
        path: "spec".into(),
        rule: rule.into(),
        message: message.into(),
    };
    vec![
        rule(
            all(format!("!has(w.{name}) || ({given}w.{name} in {levels})")),
            format!("objectives.workloads names a level that is not in design.factors.{name}"),
        ),
        rule(
            all(format!("has(w.{name}) || {absent}size({levels}) < 2")),
            format!("objectives.workloads needs {name}: design.factors.{name} has several levels"),
        ),
    ]
}

/// The bound of a design's size, as far as rules can tell: what parameters multiply, the operator's validation counts.
fn size() -> Rule {
    let sizes = TABLE.iter().map(|builtin| {
        let size = format!("size(self.factors.{})", builtin.name);
        if builtin.given.is_some() {
            format!(
                "(has(self.factors.{0}) && {size} > 0 ? {size} : 1)",
                builtin.name
            )
        } else {
            size
        }
    });
    let product = sizes.collect::<Vec<_>>().join(" * ");
    let trials = limits::TRIALS;
    Rule {
        path: "spec.design".into(),
        rule: format!(
            "{product} * (self.replicates + (has(self.confirm) ? self.confirm.replicates : 0)) <= {trials}"
        )
        .into(),
        message: format!(
            "the product of the factors' levels and the replicates is more than {trials} trials"
        )
        .into(),
    }
}

/// That `exclude` lists only levels of a factor.
fn excluded(builtin: &Builtin) -> String {
    let name = builtin.name;
    let levels = format!("self.factors.{name}");
    let listed = match builtin.allowed {
        // Levels with a name and more: models and engines.
        Allowed::Names(_) => format!("{levels}.exists(m, m.name == v)"),
        Allowed::Range(..) | Allowed::Above0(_) | Allowed::OneOf(_) => format!("v in {levels}"),
    };
    let mut all = format!("e.{name}.all(v, {listed})");
    if builtin.given.is_some() {
        all = format!("(has({levels}) && {all})");
    }
    format!("!has(self.exclude) || self.exclude.all(e, !has(e.{name}) || {all})")
}

/// The rules that no table gives: place, expression, message.
const RULES: &[[&str; 3]] = &[
    [
        "spec",
        "has(self.results) && has(self.results.store)",
        "results.store is required in a cluster",
    ],
    [
        "spec.design",
        "self == oldSelf",
        "design is immutable: create a new resource",
    ],
    [
        "spec.design",
        "!has(self.until) || self.until.min <= self.replicates",
        "until.min is more than replicates, which are the most",
    ],
    [
        "spec.design",
        "!has(self.search) || (self.factors.batchSize == [1] && (!has(self.factors.concurrency) || \
               size(self.factors.concurrency) == 0) && (!has(self.factors.requestRate) || \
               size(self.factors.requestRate) == 0))",
        "a design has one load: leave batchSize, concurrency and requestRate out beside search",
    ],
    [
        "spec.design.search",
        "self.from < self.to && (self.factor != 'concurrency' || (self.from >= 1.0 && self.to <= 10000.0))",
        "to is above from; of concurrency they are from 1 to 10000",
    ],
    [
        "spec",
        "!has(self.design.search) || (has(self.objectives) && (has(self.objectives.maxTtft) || \
               has(self.objectives.maxTpot) || has(self.objectives.maxE2e)))",
        "design.search looks for the highest load at which times hold: objectives needs maxTtft, maxTpot or maxE2e",
    ],
    [
        "spec",
        "!has(self.design.search) || !has(self.objectives) || !has(oldSelf.objectives) || ((has(self.objectives.maxTtft) \
               ? self.objectives.maxTtft : '') == (has(oldSelf.objectives.maxTtft) ? oldSelf.objectives.maxTtft : '') && \
               (has(self.objectives.maxTpot) ? self.objectives.maxTpot : '') == (has(oldSelf.objectives.maxTpot) ? \
               oldSelf.objectives.maxTpot : '') && (has(self.objectives.maxE2e) ? self.objectives.maxE2e : '') == \
               (has(oldSelf.objectives.maxE2e) ? oldSelf.objectives.maxE2e : ''))",
        "trials with design.search were measured by these objectives: create a new resource",
    ],
    [
        "spec.design.factors.gpus",
        "size(self) == 1 || !(0 in self)",
        "0 means CPU and stands alone",
    ],
    [
        "spec.design.factors.engine[]",
        "[has(self.candle), has(self.server), has(self.endpoint)].filter(x, x).size() == 1",
        "exactly one of candle, server and endpoint is needed",
    ],
    [
        "spec.design.factors.engine[].server",
        "has(self.image)",
        "server.image is required in a cluster",
    ],
    [
        "spec.design.factors.engine[].server",
        "self.preset != 'openai' || (has(self.command) && size(self.command) > 0)",
        "server.command is required for the preset openai",
    ],
    [
        "spec.design.factors",
        "!has(self.concurrency) || !has(self.requestRate) || size(self.concurrency) == 0 || size(self.requestRate) == 0",
        "a design has one load: batchSize, concurrency or requestRate",
    ],
    [
        "spec.design.factors",
        "((!has(self.concurrency) || size(self.concurrency) == 0) && (!has(self.requestRate) || size(self.requestRate) \
               == 0)) || self.batchSize == [1]",
        "a design has one load: leave batchSize out beside concurrency or requestRate",
    ],
    [
        "spec.design.factors.parameters",
        "self.all(p, !has(p.env) || !p.env.startsWith('INFERBENCH_'))",
        "names that begin with INFERBENCH_ are reserved for inferbench itself",
    ],
    [
        "spec.design.factors.model[].source",
        "[has(self.huggingFace), has(self.random), has(self.path), has(self.objectStore)]\
               .filter(x, x).size() == 1",
        "exactly one of huggingFace, random, path and objectStore is needed",
    ],
    [
        "spec.measurement",
        "self == oldSelf",
        "measurement is immutable: create a new resource",
    ],
    [
        "spec.runner",
        "self == oldSelf",
        "runner is immutable: create a new resource",
    ],
    [
        "spec.runner.env",
        "self.all(e, !e.name.startsWith('INFERBENCH_'))",
        "names that begin with INFERBENCH_ are reserved",
    ],
    [
        "spec.results",
        "self == oldSelf",
        "results is immutable: create a new resource",
    ],
    [
        "spec.results.store",
        "[has(self.url), has(self.persistentVolumeClaim)].filter(x, x).size() == 1",
        "exactly one of url and persistentVolumeClaim is needed",
    ],
    [
        "spec.results.store",
        "!has(self.url) || !self.url.startsWith('file:')",
        "a file URL names a folder of one machine: use persistentVolumeClaim",
    ],
    [
        "spec.results.store",
        "has(self.url) || (!has(self.endpoint) && !has(self.region) && !has(self.credentialsSecretRef))",
        "endpoint, region and credentialsSecretRef belong to url",
    ],
    [
        "spec.execution",
        "!has(self.trialsPerJob) || !has(oldSelf.trialsPerJob) || self.trialsPerJob == oldSelf.trialsPerJob",
        "trialsPerJob is immutable: create a new resource",
    ],
];

/// The columns of `kubectl get`: name, path and type. Best is what was found in the end.
const COLUMNS: [[&str; 3]; 8] = [
    [
        "State",
        ".status.conditions[?(@.type==\"Succeeded\")].reason",
        "string",
    ],
    ["Done", ".status.counts.done", "integer"],
    ["Total", ".status.plan.trials", "integer"],
    ["Failed", ".status.counts.failed", "integer"],
    ["Invalid", ".status.counts.invalid", "integer"],
    ["Active", ".status.counts.active", "integer"],
    [
        "Best",
        ".status.summary.best[0].configuration.outputThroughput",
        "number",
    ],
    ["Age", ".metadata.creationTimestamp", "date"],
];

/// The further columns of `kubectl get -o wide`. Peak is the highest throughput of any workload so far.
const WIDE_COLUMNS: [[&str; 3]; 2] = [
    ["Peak", ".status.progress.best", "number"],
    ["NotNeeded", ".status.counts.notNeeded", "integer"],
];

/// The CustomResourceDefinition as the API server gets it.
#[must_use]
pub fn crd() -> Value {
    let derived: CustomResourceDefinition = InferenceBenchmark::crd();
    let mut crd = serde_json::to_value(derived).unwrap_or_default();
    let version = &mut crd["spec"]["versions"][0];
    let column =
        |[name, path, kind]: [&str; 3]| json!({ "name": name, "jsonPath": path, "type": kind });
    let wide = |wide: [&str; 3]| {
        let mut column = column(wide);
        column["priority"] = json!(1);
        column
    };
    let columns = COLUMNS.map(column).into_iter();
    let columns: Vec<Value> = columns.chain(WIDE_COLUMNS.map(wide)).collect();
    version["additionalPrinterColumns"] = columns.into();
    let schema = &mut version["schema"]["openAPIV3Schema"];
    *schema = root();
    for rule in rules() {
        let place = place(schema, &rule.path);
        let rules = &mut place["x-kubernetes-validations"];
        if rules.is_null() {
            *rules = json!([]);
        }
        if let Some(rules) = rules.as_array_mut() {
            rules.push(json!({ "rule": rule.rule, "message": rule.message }));
        }
    }
    crd
}

/// The CustomResourceDefinition as the file that is committed and applied.
///
/// # Errors
/// Where YAML cannot be written, which no value of [`crd`] brings about.
pub fn yaml() -> Result<String, serde_saphyr::ser_error::Error> {
    const HEADER: &str =
        "# Generated from crds/src by `cargo run -p inferbench-crds --bin crdgen`: do not edit.\n";
    Ok(format!("{HEADER}{}", serde_saphyr::to_string(&crd())?))
}

/// The schema that local validation walks: the API server's, without the CEL rules (they are code there), with the
/// metadata that Kubernetes knows, and without a word on the status, which is not the user's.
pub(crate) fn schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let mut schema = root();
        let properties = &mut schema["properties"];
        properties["apiVersion"] = json!({ "type": "string", "enum": [API_VERSION] });
        properties["kind"] = json!({ "type": "string", "enum": [KIND] });
        let anything = json!({ "x-kubernetes-preserve-unknown-fields": true });
        let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
        let metadata = &mut properties["metadata"]["properties"];
        metadata["namespace"] =
            json!({ "type": "string", "maxLength": 63, "pattern": patterns::DNS_SUBDOMAIN });
        metadata["generateName"] = json!({ "type": "string", "maxLength": limits::NAME });
        metadata["labels"] = texts.clone();
        metadata["annotations"] = texts;
        for field in SERVER_METADATA {
            metadata[field] = anything.clone();
        }
        properties["status"] = anything;
        schema["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
        schema
    });
    &SCHEMA
}

/// The schema of the status, as the API server gets it.
pub(crate) fn status_schema() -> Value {
    place(&mut root(), "status").take()
}

/// The resource's group and version.
pub const API_VERSION: &str = "inferbench.dev/v1alpha1";
/// The resource's kind.
pub const KIND: &str = "InferenceBenchmark";

/// Metadata that only controllers and the API server write; a file saved by `kubectl get` has it.
const SERVER_METADATA: [&str; 10] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

fn root() -> Value {
    let derived = serde_json::to_value(InferenceBenchmark::crd()).unwrap_or_default();
    let mut schema = derived["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    schema["description"] = json!(
        "A designed sweep of LLM inference measurements: what is asked for, and what came of it."
    );
    schema["properties"]["apiVersion"] = json!({ "type": "string", "description": API_VERSION });
    schema["properties"]["kind"] = json!({ "type": "string", "description": KIND });
    normalize(&mut schema);
    for field in ["affinity", "tolerations", "env", "resources"] {
        bound(place(&mut schema, &format!("spec.runner.{field}")), true);
    }
    // A default that the server fills in would be a zero that stands for unknown.
    without_defaults(place(&mut schema, "status"));
    bound(place(&mut schema, "status.conditions"), true);
    place(&mut schema, "status.conditions[].message")["maxLength"] =
        json!(limits::CONDITION_MESSAGE);
    for time in ["progress.estimatedFinish", "results.updatedAt"] {
        place(&mut schema, &format!("status.{time}"))["maxLength"] = json!(64);
    }
    // A configuration for a mix has a level of no workload factor but the model.
    for point in ["best[].configuration", "pareto[]"] {
        let point = place(&mut schema, &format!("status.summary.{point}"));
        if let Some(required) = point["required"].as_array_mut() {
            required
                .retain(|name| !Workload::takes(&Factor::named(name.as_str().unwrap_or_default())));
        }
    }
    let env_name = place(&mut schema, "spec.runner.env[].name");
    env_name["pattern"] = json!(patterns::ENV_NAME);
    env_name["maxLength"] = json!(253);
    place(&mut schema, "spec.runner.env[].value")["maxLength"] = json!(32_768);
    let env = place(&mut schema, "spec.runner.env");
    env["x-kubernetes-list-type"] = json!("map");
    env["x-kubernetes-list-map-keys"] = json!(["name"]);
    let labels = place(&mut schema, "spec.runner.nodeSelector");
    labels["additionalProperties"]["maxLength"] = json!(63);
    schema["properties"]["metadata"] = json!({
        "type": "object",
        "properties": { "name": {
            "type": "string", "maxLength": limits::NAME, "pattern": patterns::DNS_SUBDOMAIN,
        } },
    });
    schema
}

/// The schema at a path such as `spec.design.factors.model[].name`.
///
/// # Panics
/// Where there is no such place: the paths are constants of this file, and a test walks them all.
fn place<'a>(schema: &'a mut Value, path: &str) -> &'a mut Value {
    let mut here = schema;
    for step in path.split('.') {
        let (name, items) = step
            .strip_suffix("[]")
            .map_or((step, false), |name| (name, true));
        here = here["properties"]
            .get_mut(name)
            .unwrap_or_else(|| panic!("{path}: the schema has no {name}"));
        if items {
            here = &mut here["items"];
        }
    }
    here
}

/// The normal form of every field: no `nullable` (the API server then prunes nulls, so that `has()` means present),
/// whole-numbered bounds, and `default: {}` for objects, whose members bring their own defaults: a transition rule on
/// an object that was never absent also runs when it is added.
fn normalize(schema: &mut Value) {
    let Value::Object(members) = schema else {
        return;
    };
    members.remove("title");
    if members.get("type") == Some(&json!("object")) && members.contains_key("default") {
        members.insert("default".into(), json!({}));
    }
    for bound in ["minimum", "maximum"] {
        let whole = members
            .get(bound)
            .and_then(Value::as_f64)
            .filter(|number| number.fract() == 0.0);
        if let Some(number) = whole {
            members.insert(bound.into(), json!(number as i64));
        }
    }
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        for property in properties.values_mut().filter_map(Value::as_object_mut) {
            property.remove("nullable");
        }
    }
    each_subschema(members, &mut normalize);
}

/// Bounds every string, list and map that has no bound, and drops the nested descriptions of Kubernetes' own types,
/// which are longer than all the rest.
fn bound(schema: &mut Value, outermost: bool) {
    let Value::Object(members) = schema else {
        return;
    };
    if !outermost {
        members.remove("description");
    }
    let (key, most) = match members.get("type").and_then(Value::as_str) {
        Some("string") if !members.contains_key("enum") => ("maxLength", 1_024),
        Some("array") => ("maxItems", 64),
        Some("object") if members.contains_key("additionalProperties") => ("maxProperties", 64),
        _ => ("", 0),
    };
    if !key.is_empty() {
        members.entry(key).or_insert_with(|| json!(most));
    }
    each_subschema(members, &mut |schema| bound(schema, false));
}

fn without_defaults(schema: &mut Value) {
    let Value::Object(members) = schema else {
        return;
    };
    members.remove("default");
    each_subschema(members, &mut without_defaults);
}

fn each_subschema(members: &mut Map<String, Value>, change: &mut dyn FnMut(&mut Value)) {
    for key in ["items", "additionalProperties"] {
        if let Some(schema) = members.get_mut(key) {
            change(schema);
        }
    }
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        properties.values_mut().for_each(change);
    }
}

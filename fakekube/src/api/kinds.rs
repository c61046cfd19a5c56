//! The kinds that the server knows: those built in, and those that CustomResourceDefinitions add.

use std::sync::{Arc, LazyLock};

use k8s_openapi::{
    api::{
        batch::v1 as batch, coordination::v1 as coordination, core::v1 as core,
        events::v1 as events,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings},
};
use kube_cel::{CompiledSchema, compile_schema};
use serde_json::{Value, json};

use super::{
    json::{at, list, text},
    schema::Schema,
};

/// A kind and what the server does with its objects.
#[derive(Debug)]
pub(crate) struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub list_kind: String,
    pub plural: String,
    pub singular: String,
    pub short: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// Whether status is written through a subresource of its own.
    pub status: bool,
    /// Whether `metadata.generation` counts changes.
    pub generation: bool,
    pub schema: Arc<Schema>,
    /// Of a custom resource: what its definition adds.
    pub custom: Option<Custom>,
}

/// What a CustomResourceDefinition says beyond names.
#[derive(Debug)]
pub(crate) struct Custom {
    pub rules: CompiledSchema,
    pub columns: Vec<Value>,
}

impl Kind {
    /// As messages name it: `jobs.batch`.
    pub fn resource(&self) -> String {
        dotted(&self.plural, &self.group)
    }

    /// As messages about invalid objects name it: `Job.batch`.
    pub fn qualified(&self) -> String {
        dotted(&self.kind, &self.group)
    }

    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub fn is_job(&self) -> bool {
        self.is("batch", "jobs")
    }

    pub fn is_pod(&self) -> bool {
        self.is("", "pods")
    }

    pub fn is_namespace(&self) -> bool {
        self.is("", "namespaces")
    }

    pub fn is_definition(&self) -> bool {
        self.is("apiextensions.k8s.io", "customresourcedefinitions")
    }

    pub fn is_event(&self) -> bool {
        self.custom.is_none() && self.plural == "events"
    }

    /// Under which name its objects are stored. Both kinds of events are one.
    pub fn stored_as(&self) -> Arc<str> {
        if self.is_event() {
            "events".into()
        } else {
            self.resource().into()
        }
    }
}

fn dotted(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

const NAMESPACED: u8 = 1;
const STATUS: u8 = 2;
const GENERATION: u8 = 4;

/// The kinds that need no definition.
pub(crate) static BUILT_IN: LazyLock<Vec<Arc<Kind>>> = LazyLock::new(|| {
    vec![
        built_in::<core::Namespace>("v1", "Namespace", "namespaces", &["ns"], STATUS),
        built_in::<core::Node>("v1", "Node", "nodes", &["no"], STATUS),
        built_in::<core::Pod>(
            "v1",
            "Pod",
            "pods",
            &["po"],
            NAMESPACED | STATUS | GENERATION,
        ),
        built_in::<core::ConfigMap>("v1", "ConfigMap", "configmaps", &["cm"], NAMESPACED),
        built_in::<core::Secret>("v1", "Secret", "secrets", &[], NAMESPACED),
        built_in::<core::ServiceAccount>(
            "v1",
            "ServiceAccount",
            "serviceaccounts",
            &["sa"],
            NAMESPACED,
        ),
        built_in::<core::PersistentVolumeClaim>(
            "v1",
            "PersistentVolumeClaim",
            "persistentvolumeclaims",
            &["pvc"],
            NAMESPACED | STATUS,
        ),
        built_in::<core::ResourceQuota>(
            "v1",
            "ResourceQuota",
            "resourcequotas",
            &["quota"],
            NAMESPACED | STATUS,
        ),
        built_in::<core::Event>("v1", "Event", "events", &["ev"], NAMESPACED),
        built_in::<events::Event>("events.k8s.io/v1", "Event", "events", &["ev"], NAMESPACED),
        built_in::<batch::Job>(
            "batch/v1",
            "Job",
            "jobs",
            &[],
            NAMESPACED | STATUS | GENERATION,
        ),
        built_in::<coordination::Lease>(
            "coordination.k8s.io/v1",
            "Lease",
            "leases",
            &[],
            NAMESPACED,
        ),
        built_in::<CustomResourceDefinition>(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            &["crd", "crds"],
            STATUS | GENERATION,
        ),
    ]
});

fn built_in<T: JsonSchema>(
    api_version: &str,
    kind: &str,
    plural: &str,
    short: &[&str],
    is: u8,
) -> Arc<Kind> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let all = matches!(kind, "Pod" | "Job");
    Arc::new(Kind {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List"),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        short: short.iter().map(|&name| name.into()).collect(),
        categories: all.then(|| "all".to_owned()).into_iter().collect(),
        namespaced: is & NAMESPACED != 0,
        status: is & STATUS != 0,
        generation: is & GENERATION != 0,
        schema: Arc::new(schema_of::<T>()),
        custom: None,
    })
}

fn schema_of<T: JsonSchema>() -> Schema {
    let mut generator: SchemaGenerator = SchemaSettings::draft2020_12().into_generator();
    let root = generator.subschema_for::<T>().to_value();
    let definitions = generator.take_definitions(true);
    Schema::built_in(root, definitions)
}

/// The kinds that a definition adds; one for its storage version, others are not kept.
pub(crate) fn custom(definition: &Value) -> Option<Arc<Kind>> {
    let spec = at(definition, "spec")?;
    let version = list(spec, "versions")
        .iter()
        .find(|version| version["storage"] == json!(true))?;
    let names = at(spec, "names")?;
    let strings = |path| {
        list(names, path)
            .iter()
            .filter_map(Value::as_str)
            .map(Into::into)
            .collect()
    };
    let or = |path, other: String| match text(names, path) {
        "" => other,
        found => found.to_owned(),
    };
    let kind = text(names, "kind").to_owned();
    let schema = at(version, "schema.openAPIV3Schema")?.clone();
    Some(Arc::new(Kind {
        group: text(spec, "group").into(),
        version: text(version, "name").into(),
        list_kind: or("listKind", format!("{kind}List")),
        plural: text(names, "plural").into(),
        singular: or("singular", kind.to_lowercase()),
        short: strings("shortNames"),
        categories: strings("categories"),
        namespaced: text(spec, "scope") == "Namespaced",
        status: at(version, "subresources.status").is_some(),
        generation: true,
        custom: Some(Custom {
            rules: compile_schema(&schema),
            columns: list(version, "additionalPrinterColumns").to_vec(),
        }),
        schema: Arc::new(Schema::custom(schema)),
        kind,
    }))
}

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

/// A kind, and how the server treats its objects.
#[derive(Debug)]
pub(crate) struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub list_kind: String,
    pub plural: String,
    /// As messages name it, and the store: `jobs.batch`.
    pub resource: Arc<str>,
    pub namespaced: bool,
    /// Whether status is written through a subresource of its own.
    pub status: bool,
    /// Whether `metadata.generation` counts changes.
    pub generation: bool,
    pub schema: Schema,
    /// The validation rules of a custom resource; none for kinds that are built in.
    pub rules: Option<CompiledSchema>,
}

impl Kind {
    /// Whether a CustomResourceDefinition defines it.
    pub fn is_custom(&self) -> bool {
        self.rules.is_some()
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
        self.is("events.k8s.io", "events")
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
    const JOB: u8 = NAMESPACED | STATUS | GENERATION;
    vec![
        built_in::<core::Namespace>("v1", "Namespace", "namespaces", STATUS),
        built_in::<core::Node>("v1", "Node", "nodes", STATUS),
        built_in::<core::Pod>("v1", "Pod", "pods", JOB),
        built_in::<core::ConfigMap>("v1", "ConfigMap", "configmaps", NAMESPACED),
        built_in::<core::Secret>("v1", "Secret", "secrets", NAMESPACED),
        built_in::<core::PersistentVolumeClaim>(
            "v1",
            "PersistentVolumeClaim",
            "persistentvolumeclaims",
            NAMESPACED | STATUS,
        ),
        built_in::<core::ResourceQuota>(
            "v1",
            "ResourceQuota",
            "resourcequotas",
            NAMESPACED | STATUS,
        ),
        built_in::<events::Event>("events.k8s.io/v1", "Event", "events", NAMESPACED),
        built_in::<batch::Job>("batch/v1", "Job", "jobs", JOB),
        built_in::<coordination::Lease>("coordination.k8s.io/v1", "Lease", "leases", NAMESPACED),
        built_in::<CustomResourceDefinition>(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            STATUS | GENERATION,
        ),
    ]
});

fn built_in<T: JsonSchema>(api_version: &str, kind: &str, plural: &str, is: u8) -> Arc<Kind> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    Arc::new(Kind {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List"),
        plural: plural.into(),
        resource: dotted(plural, group).into(),
        namespaced: is & NAMESPACED != 0,
        status: is & STATUS != 0,
        generation: is & GENERATION != 0,
        schema: schema_of::<T>(),
        rules: None,
    })
}

fn schema_of<T: JsonSchema>() -> Schema {
    let mut generator: SchemaGenerator = SchemaSettings::draft2020_12().into_generator();
    let root = generator.subschema_for::<T>().to_value();
    let definitions = generator.take_definitions(true);
    Schema::built_in(root, definitions)
}

/// The kind that a definition adds: that of its storage version. Others are not kept.
pub(crate) fn custom(definition: &Value) -> Option<Arc<Kind>> {
    let spec = at(definition, "spec")?;
    let version = list(spec, "versions")
        .iter()
        .find(|version| version["storage"] == json!(true))?;
    let names = at(spec, "names")?;
    let (group, plural) = (text(spec, "group"), text(names, "plural"));
    let kind = text(names, "kind").to_owned();
    let list_kind = match text(names, "listKind") {
        "" => format!("{kind}List"),
        given => given.to_owned(),
    };
    let schema = at(version, "schema.openAPIV3Schema")?.clone();
    Some(Arc::new(Kind {
        group: group.into(),
        version: text(version, "name").into(),
        kind,
        list_kind,
        plural: plural.into(),
        resource: dotted(plural, group).into(),
        namespaced: text(spec, "scope") == "Namespaced",
        status: at(version, "subresources.status").is_some(),
        generation: true,
        rules: Some(compile_schema(&schema)),
        schema: Schema::custom(schema),
    }))
}

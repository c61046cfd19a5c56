//! The types of lists: some are replaced as a whole, others have items that are owned one by one.

use serde_json::Value;

use super::Schema;

/// How the items of a list are identified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListType {
    /// By the item itself.
    Set,
    /// By these fields of the items.
    Map(Vec<String>),
    /// Not at all: the list is replaced as a whole.
    Atomic,
}

/// The field that identifies the items of a list of a built-in kind: k8s-openapi's schemas leave it out.
fn key(field: &str) -> Option<&'static str> {
    Some(match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "secrets"
        | "resourceClaims" => "name",
        "ports" => "containerPort",
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "conditions" | "addresses" => "type",
        "ownerReferences" => "uid",
        "hostAliases" | "podIPs" | "hostIPs" => "ip",
        "taints" => "key",
        "topologySpreadConstraints" => "topologyKey",
        _ => return None,
    })
}

impl Schema {
    /// The schema of the whole.
    pub fn root(&self) -> &Value {
        self.resolve(&self.root)
    }

    /// The schema of a field.
    pub fn property<'a>(&'a self, node: &'a Value, key: &str) -> &'a Value {
        let found = node.get("properties").and_then(|all| all.get(key));
        let found = found.or_else(|| node.get("additionalProperties"));
        found.map_or(&Value::Null, |node| self.resolve(node))
    }

    /// The schema of a list's items, and the type of the list that stands in this field.
    pub fn items<'a>(&'a self, node: &'a Value, field: &str) -> (&'a Value, ListType) {
        let items = node
            .get("items")
            .map_or(&Value::Null, |node| self.resolve(node));
        let strings = |key: &str| -> Vec<String> {
            let all = node
                .get(key)
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            all.filter_map(Value::as_str)
                .map(ToOwned::to_owned)
                .collect()
        };
        let list_type = match node.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("map") => ListType::Map(strings("x-kubernetes-list-map-keys")),
            Some("set") => ListType::Set,
            _ if !self.built_in => ListType::Atomic,
            _ if field == "finalizers" => ListType::Set,
            _ if items.get("properties").is_some() => match key(field) {
                Some(key) => ListType::Map(vec![key.to_owned()]),
                None => ListType::Atomic,
            },
            _ => ListType::Atomic,
        };
        (items, list_type)
    }

    /// Whether an object of this schema has an owner of its own, beside those of its fields.
    pub fn is_map(&self, node: &Value) -> bool {
        !self.built_in || node.get("additionalProperties").is_some()
    }
}

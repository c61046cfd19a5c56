//! The environment of a container: its command, its variables, and the files of its volumes.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, EnvVarSource, ObjectFieldSelector, Pod, Secret, Volume,
};

/// Secrets of the pod's namespace by name.
pub type Secrets = BTreeMap<String, Secret>;

/// The environment that a container is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its variables, each name once.
    pub variables: BTreeMap<String, String>,
    /// Its mounts.
    pub mounts: Vec<Mount>,
}

/// A volume where a container sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The path in the container.
    pub path: String,
    /// The volume's name.
    pub volume: String,
    /// Its content.
    pub source: Source,
}

/// The content of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Space that is gone with the pod.
    Empty,
    /// A claim's, by its name.
    Claim(String),
    /// Files: name and content.
    Files(BTreeMap<String, String>),
}

/// The Secrets that a pod's containers name.
#[must_use]
pub fn secrets_of(pod: &Pod) -> BTreeSet<String> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .flat_map(|container| {
            let whole = container.env_from.iter().flatten();
            let whole = whole.filter_map(|from| Some(from.secret_ref.as_ref()?.name.clone()));
            let keys = container.env.iter().flatten().filter_map(|variable| {
                let from = variable.value_from.as_ref()?;
                Some(from.secret_key_ref.as_ref()?.name.clone())
            });
            whole.chain(keys)
        })
        .collect()
}

/// The claims that a pod names.
#[must_use]
pub fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let claim = |volume: &Volume| {
        let claim = volume.persistent_volume_claim.as_ref()?;
        Some(claim.claim_name.clone())
    };
    volumes.filter_map(claim).collect()
}

impl Environment {
    /// That of a container of this pod.
    ///
    /// # Errors
    /// The message of a container that waits with `CreateContainerConfigError`.
    pub fn of(pod: &Pod, container: &Container, secrets: &Secrets) -> Result<Self, String> {
        let variables = variables(pod, container, secrets)?;
        let given = container.command.iter().chain(&container.args).flatten();
        let command = given.map(|part| expand(part, &variables)).collect();
        let volumes = pod
            .spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten());
        let volumes: BTreeMap<&str, &Volume> = volumes
            .map(|volume| (volume.name.as_str(), volume))
            .collect();
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let volume = volumes
                .get(mount.name.as_str())
                .ok_or_else(|| format!("volume {:?} not found", mount.name))?;
            mounts.push(Mount {
                path: mount.mount_path.clone(),
                volume: mount.name.clone(),
                source: source(pod, volume)?,
            });
        }
        Ok(Self {
            command,
            variables,
            mounts,
        })
    }
}

fn variables(
    pod: &Pod,
    container: &Container,
    secrets: &Secrets,
) -> Result<BTreeMap<String, String>, String> {
    let mut variables = BTreeMap::new();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for from in container.env_from.iter().flatten() {
        let Some(reference) = &from.secret_ref else {
            return Err("only Secrets can be had by envFrom here".into());
        };
        let prefix = from.prefix.as_deref().unwrap_or_default();
        match secrets.get(&reference.name) {
            Some(secret) => variables.extend(
                texts(secret)
                    .into_iter()
                    .map(|(key, text)| (format!("{prefix}{key}"), text)),
            ),
            None if reference.optional == Some(true) => {}
            None => return Err(format!("secret {:?} not found", reference.name)),
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(from)) => match of_source(pod, from, secrets) {
                Ok(Some(value)) => value,
                Ok(None) => continue,
                Err(Missing::Secret(name)) => return Err(format!("secret {name:?} not found")),
                Err(Missing::Key(name, key)) => {
                    return Err(format!(
                        "couldn't find key {key} in Secret {namespace}/{name}"
                    ));
                }
                Err(Missing::Field(path)) => return Err(format!("unsupported field {path}")),
            },
            (value, None) => expand(value.as_deref().unwrap_or_default(), &variables),
        };
        variables.insert(variable.name.clone(), value);
    }
    Ok(variables)
}

fn texts(secret: &Secret) -> BTreeMap<String, String> {
    let data = secret.data.iter().flatten();
    data.into_iter()
        .map(|(key, bytes)| (key.clone(), String::from_utf8_lossy(&bytes.0).into_owned()))
        .collect()
}

enum Missing {
    Secret(String),
    Key(String, String),
    Field(String),
}

fn of_source(pod: &Pod, from: &EnvVarSource, secrets: &Secrets) -> Result<Option<String>, Missing> {
    if let Some(reference) = &from.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = secrets.get(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(Missing::Secret(reference.name.clone()))
            };
        };
        return match texts(secret).remove(&reference.key) {
            None if !optional => Err(Missing::Key(reference.name.clone(), reference.key.clone())),
            found => Ok(found),
        };
    }
    match &from.field_ref {
        Some(reference) => match field(pod, reference) {
            Some(value) => Ok(Some(value)),
            None => Err(Missing::Field(reference.field_path.clone())),
        },
        None => Err(Missing::Field(
            "that is neither a field nor a Secret's key".into(),
        )),
    }
}

/// A field of a pod, as the downward API gives it; none where it does not give that one.
fn field(pod: &Pod, reference: &ObjectFieldSelector) -> Option<String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let path = reference.field_path.as_str();
    if let Some((map, key)) = path
        .strip_suffix("']")
        .and_then(|path| path.split_once("['"))
    {
        let map = match map {
            "metadata.annotations" => &metadata.annotations,
            "metadata.labels" => &metadata.labels,
            _ => return None,
        };
        let value = map.as_ref().and_then(|map| map.get(key));
        return Some(value.cloned().unwrap_or_default());
    }
    let value = match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.hostIP" | "status.podIP" => Some("127.0.0.1".into()),
        _ => return None,
    };
    Some(value.unwrap_or_default())
}

fn source(pod: &Pod, volume: &Volume) -> Result<Source, String> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Ok(Source::Claim(claim.claim_name.clone()));
    }
    if volume.empty_dir.is_some() {
        return Ok(Source::Empty);
    }
    let Some(downward) = &volume.downward_api else {
        return Err(format!(
            "volume {:?}: its kind is not known here",
            volume.name
        ));
    };
    let mut files = BTreeMap::new();
    for item in downward.items.iter().flatten() {
        let text = item.field_ref.as_ref().and_then(|path| field(pod, path));
        let text = text.ok_or_else(|| format!("volume {:?}: unsupported field", volume.name))?;
        files.insert(item.path.clone(), text);
    }
    Ok(Source::Files(files))
}

/// Replaces `$(NAME)` by the variable; `$$(NAME)` becomes `$(NAME)`, and an unknown name stays as it is.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "p", "namespace": "bench", "uid": "u",
                "annotations": {"inferbench.dev/requests": "{\"price\": \"$(A)\"}\n"},
                "labels": {"batch.kubernetes.io/job-completion-index": "3"},
            },
            "spec": {
                "nodeName": "n1",
                "volumes": [
                    {"name": "requests", "downwardAPI": {"items": [
                        {"path": "requests", "fieldRef": {"fieldPath": "metadata.annotations['inferbench.dev/requests']"}},
                    ]}},
                    {"name": "tmp", "emptyDir": {}},
                    {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
                ],
                "containers": [{
                    "name": "runner",
                    "command": ["inferbench"],
                    "args": ["trial", "$(A)", "$$(A)", "$(NONE)", "5$"],
                    "envFrom": [{"secretRef": {"name": "bucket"}}],
                    "env": [
                        {"name": "A", "value": "a"},
                        {"name": "B", "value": "$(A)/b"},
                        {"name": "KEY", "value": "mine"},
                        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                        {"name": "INDEX", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-completion-index']"}}},
                        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}},
                        {"name": "MAYBE", "valueFrom": {"secretKeyRef": {"name": "none", "key": "x", "optional": true}}},
                    ],
                    "volumeMounts": [
                        {"name": "requests", "mountPath": "/var/run/inferbench"},
                        {"name": "tmp", "mountPath": "/tmp"},
                        {"name": "models", "mountPath": "/models"},
                    ],
                }],
            },
        }))
        .expect("a pod")
    }

    fn secrets() -> Secrets {
        let secret = |data: serde_json::Value| {
            serde_json::from_value(json!({"data": data})).expect("a Secret")
        };
        Secrets::from([
            (
                "bucket".into(),
                secret(json!({"KEY": "dGhlaXJz", "SECRET": "cw=="})),
            ),
            ("hf".into(), secret(json!({"token": "dA=="}))),
        ])
    }

    #[test]
    fn a_container_gets_what_its_pod_says() {
        let pod = pod();
        assert_eq!(claims_of(&pod), ["models"]);
        let names: Vec<String> = secrets_of(&pod).into_iter().collect();
        assert_eq!(names, ["bucket", "hf", "none"]);
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        let found = Environment::of(&pod, container, &secrets()).expect("all is there");
        assert_eq!(
            found.command,
            ["inferbench", "trial", "a", "$(A)", "$(NONE)", "5$"]
        );
        let expected = [
            ("A", "a"),
            ("B", "a/b"),
            ("INDEX", "3"),
            ("KEY", "mine"),
            ("NODE", "n1"),
            ("SECRET", "s"),
            ("TOKEN", "t"),
        ];
        let variables: Vec<(&str, &str)> = found
            .variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(variables, expected);
        // The content of a file is never expanded.
        let requests = "{\"price\": \"$(A)\"}\n".to_owned();
        assert_eq!(
            found.mounts[0].source,
            Source::Files([("requests".to_owned(), requests)].into())
        );
        assert_eq!(found.mounts[1].source, Source::Empty);
        assert_eq!(found.mounts[2].source, Source::Claim("models".into()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let pod = pod();
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        let mut there = secrets();
        there.remove("bucket");
        assert_eq!(
            Environment::of(&pod, container, &there),
            Err("secret \"bucket\" not found".into())
        );
        let mut there = secrets();
        there.insert("hf".into(), Secret::default());
        assert_eq!(
            Environment::of(&pod, container, &there),
            Err("couldn't find key token in Secret bench/hf".into())
        );
    }
}

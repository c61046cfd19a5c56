//! Creating, changing and deleting objects.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube_cel::Validator;
use regex_lite::Regex;
use serde_json::{Value, json};
use std::sync::LazyLock;

use super::{
    builtin,
    clock::seconds,
    fields,
    json::{at, copy, has, list, metadata, number, object, text},
    kinds::Kind,
    patch,
    refusal::{Answered, Cause, Refusal},
    request::DeleteOptions,
    state::State,
    store::{Key, Stored, version_of},
};

pub(crate) const ORPHAN: &str = "orphan";
pub(crate) const FOREGROUND: &str = "foregroundDeletion";

/// How a write is to be done.
#[derive(Clone, Debug)]
pub(crate) struct Writing {
    pub now: Timestamp,
    /// Who writes, for `managedFields`.
    pub manager: String,
    /// What becomes of unknown fields: `Strict` refuses them, else they are dropped, and `Warn` says so.
    pub validation: String,
    pub dry_run: bool,
    pub force: bool,
}

/// What a write did.
#[derive(Debug)]
pub(crate) struct Written {
    pub object: Value,
    /// 200 or 201.
    pub code: u16,
    pub warnings: Vec<String>,
}

/// Where a change to an object comes from.
pub(crate) enum Change<'a> {
    /// The whole object.
    Put(Value),
    /// A merge patch.
    Merge(&'a Value),
    /// A JSON patch.
    Json(&'a Value),
    /// A strategic merge patch.
    Strategic(&'a Value),
    /// A server-side apply.
    Apply(&'a Value),
}

impl State {
    /// Creates an object.
    pub fn create(
        &mut self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        body: Value,
        how: &Writing,
    ) -> Answered<Written> {
        let mut new = body;
        let warnings = decode(kind, &mut new, how)?;
        fits(kind, namespace, &mut new)?;
        let given = text(&new, "metadata.name").to_owned();
        if !version_of(&new).is_empty() {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(Refusal::new(500, "", message));
        }
        let uid = self.uid();
        let suffix = self.suffix();
        let meta = metadata(&mut new);
        for field in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "resourceVersion",
            "managedFields",
        ] {
            meta.remove(field);
        }
        let prefix = meta
            .get("generateName")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if given.is_empty() && !prefix.is_empty() {
            let prefix: String = prefix.chars().take(58).collect();
            meta.insert("name".into(), format!("{prefix}{suffix}").into());
        }
        meta.insert("uid".into(), uid.into());
        meta.insert("creationTimestamp".into(), seconds(how.now).into());
        meta.remove("generation");
        if kind.generation {
            meta.insert("generation".into(), 1.into());
        }
        let name = text(&new, "metadata.name").to_owned();
        if let Some(namespace) = namespace {
            self.takes_new(kind, namespace, &name)?;
        }
        match &kind.custom {
            None => builtin::created(kind, &mut new),
            Some(_) => {
                if kind.status {
                    object(&mut new, "").remove("status");
                }
                kind.schema.default(&mut new);
            }
        }
        let causes = invalid(kind, &new, None, None);
        if !causes.is_empty() {
            return Err(Refusal::invalid(kind, &name, &causes));
        }
        self.within_quota(kind, namespace, &name)?;
        let key = key_of(kind, namespace, &name);
        if self.store.get(&key).is_some() {
            return Err(Refusal::already_exists(kind, &name));
        }
        fields::written(kind, &mut new, None, None, how);
        if kind.is_definition() {
            // The real server's controller adds it a moment later.
            metadata(&mut new).insert("finalizers".into(), json!([super::gc::CLEANUP]));
        }
        let stored = self.commit(kind, &key, new, how.dry_run);
        Ok(Written {
            object: stored,
            code: 201,
            warnings,
        })
    }

    /// Changes an object, or one of its subresources.
    pub fn change(
        &mut self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<&str>,
        change: Change<'_>,
        how: &Writing,
    ) -> Answered<Written> {
        let key = key_of(kind, namespace, name);
        let Some(stored) = self.store.get(&key).cloned() else {
            if let (Change::Apply(body), None) = (&change, subresource) {
                return self.apply_new(kind, namespace, name, body, how);
            }
            return Err(Refusal::not_found(kind, name));
        };
        let old = presented(kind, &stored).into_owned();
        let is_put = matches!(change, Change::Put(_));
        let is_apply = matches!(change, Change::Apply(_));
        let (mut new, warnings) = changed(kind, &old, subresource, change, how)?;
        fits(kind, namespace, &mut new)?;
        if text(&new, "metadata.name") != name {
            let message = format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                text(&new, "metadata.name")
            );
            return Err(Refusal::bad_request(message));
        }
        check_version(kind, name, &old, &new)?;
        let uid = text(&new, "metadata.uid");
        if is_put && !uid.is_empty() && uid != text(&old, "metadata.uid") {
            let detail = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                text(&old, "metadata.uid")
            );
            let mut refusal = Refusal::modified(kind, name);
            refusal.message = format!(
                "Operation cannot be fulfilled on {} \"{name}\": {detail}",
                kind.resource()
            );
            return Err(refusal);
        }
        let managed = at(&new, "metadata.managedFields").cloned();
        self.settle(kind, &mut new, &old, subresource);
        if kind.custom.is_some() {
            kind.schema.default(&mut new);
        }
        let causes = invalid(kind, &new, Some(&old), subresource);
        if !causes.is_empty() {
            return Err(Refusal::invalid(kind, name, &causes));
        }
        if kind.generation && counts(kind, &new, &old) {
            let generation = number(&old, "metadata.generation").unwrap_or_default() + 1;
            metadata(&mut new).insert("generation".into(), generation.into());
        }
        if is_apply {
            // Who owns what was settled with what is applied.
            if let Some(managed) = managed {
                metadata(&mut new).insert("managedFields".into(), managed);
            }
        } else {
            fields::written(kind, &mut new, Some(&old), subresource, how);
        }
        if unchanged(&new, &old, is_apply) {
            return Ok(Written {
                object: old,
                code: 200,
                warnings,
            });
        }
        let is_free = list(&new, "metadata.finalizers").is_empty()
            && number(&new, "metadata.deletionGracePeriodSeconds").unwrap_or_default() == 0
            && if kind.is_namespace() {
                list(&new, "spec.finalizers").is_empty()
            } else {
                true
            };
        if is_free && at(&old, "metadata.deletionTimestamp").is_some() {
            if !how.dry_run {
                self.remove(kind, &key);
            }
            return Ok(Written {
                object: new,
                code: 200,
                warnings,
            });
        }
        let object = self.commit(kind, &key, new, how.dry_run);
        Ok(Written {
            object,
            code: 200,
            warnings,
        })
    }

    /// Applies an object that is not there yet.
    fn apply_new(
        &mut self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        name: &str,
        body: &Value,
        how: &Writing,
    ) -> Answered<Written> {
        let mut new = body.clone();
        let given = metadata(&mut new)
            .entry("name")
            .or_insert_with(|| name.into());
        if given != name {
            let message = format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            );
            return Err(Refusal::bad_request(message));
        }
        let applied = new.clone();
        let dry = Writing {
            dry_run: true,
            ..how.clone()
        };
        let mut written = self.create(kind, namespace, new, &dry)?;
        fields::applied_new(kind, &mut written.object, &applied, how);
        let key = key_of(kind, namespace, name);
        written.object = self.commit(kind, &key, written.object, how.dry_run);
        Ok(written)
    }

    /// Puts back what a client may not change this way.
    fn settle(&self, kind: &Kind, new: &mut Value, old: &Value, subresource: Option<&str>) {
        match subresource {
            Some("status") => {
                let status = new.get("status").cloned();
                let meta = new["metadata"].clone();
                *new = old.clone();
                match status {
                    Some(status) => object(new, "").insert("status".into(), status),
                    None => object(new, "").remove("status"),
                };
                // Of custom resources nothing but status is taken, and not even another uid is minded; of others labels
                // and the like, too.
                if kind.custom.is_none() {
                    new["metadata"] = meta;
                }
            }
            Some("finalize") => {
                let spec = new.get("spec").cloned().unwrap_or_default();
                *new = old.clone();
                object(new, "").insert("spec".into(), spec);
            }
            _ if kind.status => copy(old, new, "status"),
            _ => {}
        }
        let from = &old["metadata"];
        let to = &mut new["metadata"];
        for field in [
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "generateName",
            "managedFields",
            "resourceVersion",
            "selfLink",
        ] {
            copy(from, to, field);
        }
        if text(to, "uid").is_empty() {
            copy(from, to, "uid");
        }
        if kind.custom.is_none() && subresource.is_none() {
            builtin::updated(kind, new, old);
        }
    }

    /// Deletes an object; what is left of it, and whether it is gone.
    pub fn delete(
        &mut self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
        now: Timestamp,
    ) -> Answered<(Value, bool)> {
        let policies = ["Foreground", "Background", "Orphan"];
        if let Some(policy) = options
            .propagation
            .as_deref()
            .filter(|policy| !policies.contains(policy))
        {
            let allowed = ["Foreground", "Background", "Orphan", "nil"].map(Value::from);
            let cause = Cause::unsupported("propagationPolicy", &policy.into(), &allowed);
            return Err(Refusal::invalid_as(
                "meta.k8s.io",
                "DeleteOptions",
                "",
                &[cause],
            ));
        }
        let key = key_of(kind, namespace, name);
        let Some(stored) = self.store.get(&key).cloned() else {
            return Err(Refusal::not_found(kind, name));
        };
        let old = presented(kind, &stored).into_owned();
        for (wanted, field, what) in [
            (&options.uid, "uid", "modified"),
            (&options.version, "resourceVersion", "modified"),
        ] {
            let found = text(&old["metadata"], field);
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
                let detail = if field == "uid" {
                    format!(
                        "the UID in the precondition ({wanted}) does not match the UID in record ({found}). The object might have been deleted and then recreated"
                    )
                } else {
                    format!(
                        "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({found}). The object might have been {what}"
                    )
                };
                return Err(Refusal::precondition(kind, name, &detail));
            }
        }
        let mut new = old.clone();
        if kind.is_namespace() {
            return Ok(self.delete_namespace(kind, &key, new, options, now));
        }
        let deleting = at(&old, "metadata.deletionTimestamp").is_some();
        let mut grace = None;
        if kind.is_pod() {
            match pod_grace(&old, options, deleting) {
                // It is going already, and not to go sooner.
                None => return Ok((old, false)),
                Some(seconds) => grace = Some(seconds),
            }
        }
        let finalizers = finalizers(kind, &old, options.propagation.as_deref());
        let is_held = !finalizers.is_empty();
        let meta = metadata(&mut new);
        if finalizers.is_empty() {
            meta.remove("finalizers");
        } else {
            meta.insert("finalizers".into(), finalizers.into());
        }
        let waits = grace.is_some_and(|seconds| seconds > 0);
        if !is_held && !waits && options.dry_run {
            return Ok((new, true));
        }
        let mark = |new: &mut Value, seconds_left: i64| {
            let deadline = now
                .checked_add(SignedDuration::from_secs(seconds_left))
                .unwrap_or(now);
            let generation = number(new, "metadata.generation");
            let meta = metadata(new);
            if !deleting && let Some(generation) = generation {
                meta.insert("generation".into(), (generation + 1).into());
            }
            if !deleting || seconds_left > 0 || kind.is_pod() {
                meta.insert("deletionTimestamp".into(), seconds(deadline).into());
            }
            meta.insert("deletionGracePeriodSeconds".into(), seconds_left.into());
        };
        if is_held || waits {
            mark(&mut new, grace.unwrap_or_default());
            if new == old {
                return Ok((old, false));
            }
            let object = self.commit(kind, &key, new, options.dry_run);
            return Ok((object, false));
        }
        if kind.is_pod() {
            mark(&mut new, 0);
        }
        self.remove(kind, &key);
        metadata(&mut new).insert(
            "resourceVersion".into(),
            self.store.version().to_string().into(),
        );
        Ok((new, true))
    }

    fn delete_namespace(
        &mut self,
        kind: &Arc<Kind>,
        key: &Key,
        mut new: Value,
        options: &DeleteOptions,
        now: Timestamp,
    ) -> (Value, bool) {
        if at(&new, "metadata.deletionTimestamp").is_none() {
            metadata(&mut new).insert("deletionTimestamp".into(), seconds(now).into());
            object(&mut new, "status").insert("phase".into(), "Terminating".into());
            new = self.commit(kind, key, new, options.dry_run);
        }
        (new, false)
    }

    /// Puts a pod on a node, as the scheduler does.
    pub fn bind(
        &mut self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        name: &str,
        binding: &Value,
        how: &Writing,
    ) -> Answered<()> {
        let key = key_of(kind, namespace, name);
        let Some(stored) = self.store.get(&key).cloned() else {
            return Err(Refusal::not_found(kind, name));
        };
        let node = text(binding, "target.name");
        if node.is_empty() {
            let cause = Cause::required("target.name", "");
            return Err(Refusal::invalid_as("", "Binding", name, &[cause]));
        }
        for field in ["uid", "resourceVersion"] {
            let (wanted, found) = (
                text(&binding["metadata"], field),
                text(&stored["metadata"], field),
            );
            if !wanted.is_empty() && wanted != found {
                let detail = format!(
                    "the {field} in the precondition ({wanted}) does not match that in record ({found})"
                );
                return Err(Refusal::precondition(kind, name, &detail));
            }
        }
        let detail = if at(&stored, "metadata.deletionTimestamp").is_some() {
            format!("pod {name} is being deleted, cannot be assigned to a host")
        } else if text(&stored, "spec.nodeName").is_empty() {
            String::new()
        } else {
            format!(
                "pod {name} is already assigned to node {:?}",
                text(&stored, "spec.nodeName")
            )
        };
        if !detail.is_empty() {
            let mut refusal = Refusal::modified(kind, name);
            refusal.message =
                format!("Operation cannot be fulfilled on pods/binding \"{name}\": {detail}");
            return Err(refusal);
        }
        let mut new = presented(kind, &stored).into_owned();
        object(&mut new, "spec").insert("nodeName".into(), node.into());
        let condition = json!({ "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": seconds(how.now) });
        patch::strategic(
            &mut new,
            &json!({ "status": { "conditions": [condition] } }),
        )?;
        self.commit(kind, &key, new, how.dry_run);
        Ok(())
    }

    /// Removes an object for good.
    pub fn remove(&mut self, kind: &Kind, key: &Key) {
        self.store.write(key, None);
        if kind.is_definition() {
            self.define(&key.name, None);
        }
    }

    fn commit(&mut self, kind: &Kind, key: &Key, object: Value, dry_run: bool) -> Value {
        if dry_run {
            return object;
        }
        if kind.is_definition() {
            self.define(&key.name, Some(&object));
        }
        let stored = self.store.write(key, Some(stored(kind, object)));
        stored
            .map(|stored| presented(kind, &stored).into_owned())
            .unwrap_or_default()
    }

    /// Whether something new may be put into a namespace.
    fn takes_new(&self, kind: &Kind, namespace: &str, name: &str) -> Answered<()> {
        let Some(found) = self.namespace(namespace) else {
            let mut refusal = Refusal::new(
                404,
                "NotFound",
                format!("namespaces \"{namespace}\" not found"),
            );
            refusal.details = Some(json!({ "name": namespace, "kind": "namespaces" }));
            return Err(refusal);
        };
        if at(found, "metadata.deletionTimestamp").is_some() {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let cause = Cause {
                field: "metadata.namespace".into(),
                reason: "NamespaceTerminating",
                message: format!("namespace {namespace} is being terminated"),
            };
            return Err(Refusal::forbidden(kind, name, &why).with_causes(&[cause]));
        }
        Ok(())
    }

    /// Holds a new object against the quotas on how many there may be.
    fn within_quota(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Answered<()> {
        let quotas = "resourcequotas".into();
        let (Some(namespace), true) = (namespace, kind.custom.is_none() || kind.namespaced) else {
            return Ok(());
        };
        let counted = [format!("count/{}", kind.resource()), kind.plural.clone()];
        for (_, quota) in self.store.range(&quotas, Some(namespace), None) {
            for resource in &counted {
                let hard = quota["spec"]["hard"].get(resource);
                let hard =
                    hard.and_then(|hard| hard.as_i64().or_else(|| hard.as_str()?.parse().ok()));
                let Some(hard) = hard else {
                    continue;
                };
                let used = self
                    .store
                    .range(&kind.stored_as(), Some(namespace), None)
                    .count();
                if i64::try_from(used).unwrap_or(i64::MAX) >= hard {
                    let why = format!(
                        "exceeded quota: {}, requested: {resource}=1, used: {resource}={used}, limited: {resource}={hard}",
                        text(quota, "metadata.name")
                    );
                    return Err(Refusal::forbidden(kind, name, &why));
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn key_of(kind: &Kind, namespace: Option<&str>, name: &str) -> Key {
    Key {
        kind: kind.stored_as(),
        namespace: namespace.unwrap_or_default().to_owned(),
        name: name.to_owned(),
    }
}

/// The words in which the two kinds of events say the same: core's, and events.k8s.io's, which are stored.
const EVENT_WORDS: [(&str, &str); 7] = [
    ("message", "note"),
    ("involvedObject", "regarding"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// An object as the kind that was asked for shows it.
pub(crate) fn presented<'a>(kind: &Kind, stored: &'a Stored) -> Cow<'a, Value> {
    if !kind.is_event() || !kind.group.is_empty() {
        return Cow::Borrowed(stored);
    }
    let mut value = (**stored).clone();
    let map = object(&mut value, "");
    for (core, word) in EVENT_WORDS {
        if let Some(found) = map.remove(word) {
            map.insert(core.into(), found);
        }
    }
    map.insert("apiVersion".into(), "v1".into());
    Cow::Owned(value)
}

fn stored(kind: &Kind, mut value: Value) -> Value {
    if kind.is_event() {
        let map = object(&mut value, "");
        if kind.group.is_empty() {
            for (core, word) in EVENT_WORDS {
                if let Some(found) = map.remove(core) {
                    map.insert(word.into(), found);
                }
            }
        }
        map.insert("apiVersion".into(), "events.k8s.io/v1".into());
    }
    value
}

/// Reads a body as an object of a kind: fields that do not exist go, or are refused.
fn decode(kind: &Kind, body: &mut Value, how: &Writing) -> Answered<Vec<String>> {
    let (version, name) = (kind.api_version(), &kind.kind);
    if !body.is_object() {
        let message = format!(
            "the object provided is unrecognized (must be of type {name}): couldn't get version/kind"
        );
        return Err(Refusal::bad_request(message));
    }
    let given = text(body, "apiVersion").to_owned();
    if given != version && !(given.is_empty() && kind.custom.is_none()) {
        let message = format!(
            "the API version in the data ({given}) does not match the expected API version ({version})"
        );
        return Err(Refusal::bad_request(message));
    }
    let given = text(body, "kind").to_owned();
    if given != *name && !(given.is_empty() && kind.custom.is_none()) {
        let message =
            format!("the kind in the data ({given}) does not match the expected kind ({name})");
        return Err(Refusal::bad_request(message));
    }
    let unknown = kind.schema.prune(body);
    if kind.custom.is_none()
        && let Some(why) = kind.schema.misread(body)
    {
        let message = format!(
            "{name} in version \"{}\" cannot be handled as a {name}: {why}",
            kind.version
        );
        return Err(Refusal::bad_request(message));
    }
    let map = object(body, "");
    map.insert("apiVersion".into(), version.into());
    map.insert("kind".into(), name.clone().into());
    let unknown_fields: Vec<String> = unknown
        .iter()
        .map(|path| format!("unknown field \"{path}\""))
        .collect();
    if how.validation == "Strict" && !unknown.is_empty() {
        let message = format!(
            "{name} in version \"{}\" cannot be handled as a {name}: strict decoding error: {}",
            kind.version,
            unknown_fields.join(", ")
        );
        return Err(Refusal::bad_request(message));
    }
    Ok(if how.validation == "Ignore" {
        Vec::new()
    } else {
        unknown_fields
    })
}

/// Tidies the metadata, and sees to it that the object is of the namespace that it is written to.
fn fits(kind: &Kind, namespace: Option<&str>, new: &mut Value) -> Answered<()> {
    let meta = metadata(new);
    // What is empty is as good as absent.
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let empty = match meta.get(field) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            meta.remove(field);
        }
    }
    let Some(namespace) = namespace.filter(|_| kind.namespaced) else {
        meta.remove("namespace");
        return Ok(());
    };
    let given = meta.entry("namespace").or_insert_with(|| namespace.into());
    if given.as_str().is_some_and(str::is_empty) {
        *given = namespace.into();
    }
    if given != namespace {
        let message =
            "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Refusal::bad_request(message));
    }
    Ok(())
}

/// The object that a change makes of an old one.
fn changed(
    kind: &Kind,
    old: &Value,
    subresource: Option<&str>,
    change: Change<'_>,
    how: &Writing,
) -> Answered<(Value, Vec<String>)> {
    let mut new = old.clone();
    match change {
        Change::Put(mut body) => {
            let warnings = decode(kind, &mut body, how)?;
            return Ok((body, warnings));
        }
        Change::Merge(body) => patch::merge(&mut new, body),
        Change::Json(body) => patch::json(&mut new, body)?,
        Change::Strategic(body) => {
            if kind.custom.is_some() {
                let allowed = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
                return Err(Refusal::unsupported_media_type(
                    "application/strategic-merge-patch+json",
                    allowed,
                ));
            }
            patch::strategic(&mut new, body)?;
        }
        Change::Apply(body) => {
            let mut applied = body.clone();
            let warnings = decode(kind, &mut applied, how)?;
            new = fields::apply(kind, old, &applied, subresource, how)?;
            return Ok((new, warnings));
        }
    }
    let whole = new.clone();
    let unknown = kind.schema.prune(&mut new);
    if how.validation == "Strict" && !unknown.is_empty() {
        return Err(patch::unknown_fields(&whole, &unknown));
    }
    let lax = Writing {
        validation: "Ignore".into(),
        ..how.clone()
    };
    decode(kind, &mut new, &lax)?;
    let warnings = unknown
        .iter()
        .map(|path| format!("unknown field \"{path}\""));
    Ok((new, warnings.collect()))
}

/// Refuses a write over another version than the one that was read.
fn check_version(kind: &Kind, name: &str, old: &Value, new: &Value) -> Answered<()> {
    let given = version_of(new);
    if given.is_empty() {
        let unconditional =
            kind.custom.is_none() && !kind.is_definition() && kind.plural != "leases";
        if unconditional {
            return Ok(());
        }
        let cause = Cause::invalid(
            "metadata.resourceVersion",
            &json!(0),
            "must be specified for an update",
        );
        return Err(Refusal::invalid_as(
            &kind.group,
            &kind.plural,
            name,
            &[cause],
        ));
    }
    if given == version_of(old) {
        Ok(())
    } else {
        Err(Refusal::modified(kind, name))
    }
}

/// Whether a change counts as one of what is asked for.
fn counts(kind: &Kind, new: &Value, old: &Value) -> bool {
    if kind.custom.is_none() {
        return new.get("spec") != old.get("spec");
    }
    let rest = |value: &Value| -> BTreeMap<String, Value> {
        let map = value.as_object().cloned().unwrap_or_default();
        map.into_iter()
            .filter(|(key, _)| key != "metadata" && !(kind.status && key == "status"))
            .collect()
    };
    rest(new) != rest(old)
}

/// Whether a write would leave everything as it is, but for when who wrote it.
fn unchanged(new: &Value, old: &Value, with_managers: bool) -> bool {
    let rest = |value: &Value| {
        let mut value = value.clone();
        let meta = metadata(&mut value);
        meta.remove("resourceVersion");
        if with_managers {
            for entry in meta
                .get_mut("managedFields")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                object(entry, "").remove("time");
            }
        } else {
            meta.remove("managedFields");
        }
        value
    };
    rest(new) == rest(old)
}

/// The finalizers that a deletion leaves an object with.
fn finalizers(kind: &Kind, old: &Value, policy: Option<&str>) -> Vec<Value> {
    let held = |name| has(old, "metadata.finalizers", name);
    let (orphan, foreground) = match policy {
        Some(policy) => (policy == "Orphan", policy == "Foreground"),
        None if held(ORPHAN) => (true, false),
        None if held(FOREGROUND) => (false, true),
        // For the sake of old clients.
        None => (kind.is_job(), false),
    };
    let mut names: Vec<Value> = list(old, "metadata.finalizers")
        .iter()
        .filter(|name| *name != ORPHAN && *name != FOREGROUND)
        .cloned()
        .collect();
    // Events are not part of the graph of owners.
    if !kind.is_event() {
        names.extend(orphan.then(|| ORPHAN.into()));
        names.extend(foreground.then(|| FOREGROUND.into()));
    }
    names
}

/// How many seconds a pod gets to end; none where it is ending already and is not to end sooner.
fn pod_grace(pod: &Value, options: &DeleteOptions, deleting: bool) -> Option<i64> {
    if deleting {
        let left = number(pod, "metadata.deletionGracePeriodSeconds").unwrap_or_default();
        return options.grace.filter(|&grace| grace < left);
    }
    let asked = options
        .grace
        .or_else(|| number(pod, "spec.terminationGracePeriodSeconds"));
    let ended = matches!(text(pod, "status.phase"), "Succeeded" | "Failed");
    if ended || text(pod, "spec.nodeName").is_empty() {
        return Some(0);
    }
    let asked = asked.unwrap_or(30);
    Some(if asked < 0 { 1 } else { asked })
}

static SUBDOMAIN: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$").ok()
});
static LABEL: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$").ok());

/// Everything that is wrong with an object.
fn invalid(kind: &Kind, new: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<Cause> {
    let mut causes = Vec::new();
    wrong_metadata(kind, new, old, &mut causes);
    let status_alone = subresource == Some("status");
    let Some(custom) = &kind.custom else {
        if subresource.is_none() {
            causes.extend(builtin::validate(kind, new, old));
        }
        return causes;
    };
    let shape = if status_alone {
        kind.schema.validate_field("status", new, old)
    } else {
        kind.schema.validate(new, old)
    };
    let is_sound = shape.is_empty();
    causes.extend(shape);
    if !is_sound {
        causes.push(Cause {
            field: "<nil>".into(),
            reason: "FieldValueInvalid",
            message: "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation".into(),
        });
        return causes;
    }
    // What has not changed has been checked before.
    if old.is_some_and(|old| {
        new.get("spec") == old.get("spec") && new.get("status") == old.get("status")
    }) {
        return causes;
    }
    let (rules, new_part, old_part, prefix) = match custom.rules.properties.get("status") {
        Some(rules) if status_alone => (
            rules,
            new.get("status"),
            old.and_then(|old| old.get("status")),
            "status",
        ),
        _ => (&custom.rules, Some(new), old, ""),
    };
    let Some(new_part) = new_part else {
        return causes;
    };
    let Err(errors) = Validator::new().validate_compiled(rules, new_part, old_part) else {
        return causes;
    };
    causes.extend(errors.as_slice().iter().map(|error| {
        let field = match (prefix, error.field_path.as_str()) {
            ("", path) => path.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, path) => format!("{prefix}.{path}"),
        };
        let reason = match error.reason.as_deref() {
            Some("FieldValueForbidden") => "FieldValueForbidden",
            Some("FieldValueRequired") => "FieldValueRequired",
            Some("FieldValueDuplicate") => "FieldValueDuplicate",
            _ => "FieldValueInvalid",
        };
        Cause {
            field,
            reason,
            message: format!("Invalid value: {}", error.message),
        }
    }));
    causes
}

fn wrong_metadata(kind: &Kind, new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let name = text(new, "metadata.name");
    if name.is_empty() {
        causes.push(Cause::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else if old.is_none() {
        let fits = SUBDOMAIN.as_ref().is_none_or(|regex| regex.is_match(name));
        if !fits || name.len() > 253 {
            causes.push(Cause::invalid("metadata.name", &name.into(), "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"));
        } else if name.len() > 63 && (kind.is_job() || kind.is_namespace()) {
            let field = if kind.is_job() {
                "spec.template.labels"
            } else {
                "metadata.name"
            };
            causes.push(Cause::invalid(
                field,
                &name.into(),
                "must be no more than 63 bytes",
            ));
        }
    }
    let labels = at(new, "metadata.labels").and_then(Value::as_object);
    for (_, value) in labels.into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        if text.len() > 63 {
            causes.push(Cause::invalid(
                "metadata.labels",
                value,
                "must be no more than 63 bytes",
            ));
        } else if LABEL.as_ref().is_some_and(|regex| !regex.is_match(text)) {
            causes.push(Cause::invalid("metadata.labels", value, "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"));
        }
    }
    let annotations = at(new, "metadata.annotations").and_then(Value::as_object);
    let size: usize = annotations
        .into_iter()
        .flatten()
        .map(|(key, value)| key.len() + value.as_str().unwrap_or_default().len())
        .sum();
    if size > 262_144 {
        causes.push(Cause {
            field: "metadata.annotations".into(),
            reason: "FieldValueTooLong",
            message: "Too long: may not be more than 262144 bytes".into(),
        });
    }
    let mut controllers = 0;
    for owner in list(new, "metadata.ownerReferences") {
        for (field, detail) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, field).is_empty() {
                let field = format!("metadata.ownerReferences.{field}");
                causes.push(Cause::invalid(field, &json!(""), detail));
            }
        }
        controllers += u32::from(owner["controller"] == json!(true));
    }
    if controllers > 1 {
        let value = &new["metadata"]["ownerReferences"];
        let detail = "Only one reference can have Controller set to true";
        causes.push(Cause::invalid("metadata.ownerReferences", value, detail));
    }
    let Some(old) = old else {
        return;
    };
    let uid = &new["metadata"]["uid"];
    if *uid != old["metadata"]["uid"] {
        causes.push(Cause::invalid("metadata.uid", uid, "field is immutable"));
    }
    if at(old, "metadata.deletionTimestamp").is_some() {
        let before = list(old, "metadata.finalizers");
        let added: Vec<String> = list(new, "metadata.finalizers")
            .iter()
            .filter(|name| !before.contains(name))
            .map(Value::to_string)
            .collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            causes.push(Cause::forbidden("metadata.finalizers", &detail));
        }
    }
}

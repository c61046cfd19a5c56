//! Creating objects.

use serde_json::{Value, json};

use super::{
    decode::{decode, tidy},
    fields,
    options::{Options, Written},
    validate::validate,
};
use crate::api::{
    builtin,
    cause::Cause,
    clock::seconds,
    finalizers::CLEANUP,
    json::{at, metadata, object, text},
    kinds::Kind,
    refusal::{Answered, Refusal},
    state::{State, key_of},
    store::version_of,
};

impl State {
    /// Creates an object.
    pub fn create(
        &mut self,
        kind: &Kind,
        namespace: Option<&str>,
        body: Value,
        options: &Options,
    ) -> Answered<Written> {
        let mut new = body;
        let warnings = decode(kind, &mut new, options.unknown_fields)?;
        tidy(kind, namespace, &mut new)?;
        if !version_of(&new).is_empty() {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(Refusal::new(500, "", message));
        }
        self.identify(kind, &mut new, options);
        let name = text(&new, "metadata.name").to_owned();
        if let Some(namespace) = namespace {
            self.takes_new(kind, namespace, &name)?;
        }
        if kind.is_custom() {
            if kind.status {
                object(&mut new, "").remove("status");
            }
            kind.schema.default(&mut new);
        } else {
            builtin::created(kind, &mut new);
        }
        let causes = validate(kind, &new, None, None);
        if !causes.is_empty() {
            return Err(Refusal::invalid(kind, &name, &causes));
        }
        self.within_quota(kind, namespace, &name)?;
        let key = key_of(kind, namespace, &name);
        if self.store.get(&key).is_some() {
            return Err(Refusal::already_exists(kind, &name));
        }
        fields::written(kind, &mut new, None, None, options);
        if kind.is_definition() {
            // The real server's controller adds it a moment later.
            metadata(&mut new).insert("finalizers".into(), json!([CLEANUP]));
        }
        Ok(Written {
            object: self.commit(kind, &key, new),
            code: 201,
            warnings,
        })
    }

    /// Gives a new object the metadata that only the server sets, and a name where it asks for a generated one.
    fn identify(&mut self, kind: &Kind, new: &mut Value, options: &Options) {
        let uid = self.uid();
        let suffix = self.suffix();
        let meta = metadata(new);
        for field in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "resourceVersion",
            "managedFields",
            "generation",
        ] {
            meta.remove(field);
        }
        let string = |field: &str| meta.get(field).and_then(Value::as_str).unwrap_or_default();
        let (name, prefix) = (string("name"), string("generateName"));
        if name.is_empty() && !prefix.is_empty() {
            let prefix: String = prefix.chars().take(58).collect();
            meta.insert("name".into(), format!("{prefix}{suffix}").into());
        }
        meta.insert("uid".into(), uid.into());
        meta.insert("creationTimestamp".into(), seconds(options.now).into());
        if kind.generation {
            meta.insert("generation".into(), 1.into());
        }
    }

    /// Whether a new object may be put into a namespace.
    fn takes_new(&self, kind: &Kind, namespace: &str, name: &str) -> Answered<()> {
        let Some(found) = self.namespace(namespace) else {
            let message = format!("namespaces \"{namespace}\" not found");
            let mut refusal = Refusal::new(404, "NotFound", message);
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

    /// Checks a new object against the quotas on numbers of objects.
    fn within_quota(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Answered<()> {
        let Some(namespace) = namespace else {
            return Ok(());
        };
        let quotas = "resourcequotas".into();
        let counted = [format!("count/{}", kind.resource), kind.plural.clone()];
        for (_, quota) in self.store.range(&quotas, Some(namespace), None) {
            for resource in &counted {
                let hard = quota["spec"]["hard"].get(resource);
                let hard =
                    hard.and_then(|hard| hard.as_i64().or_else(|| hard.as_str()?.parse().ok()));
                let Some(hard) = hard else {
                    continue;
                };
                let objects = self.store.range(&kind.resource, Some(namespace), None);
                let used = objects.count();
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

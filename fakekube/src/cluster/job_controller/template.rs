//! The pods of a Job, made from its template.

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};

use super::indexes::INDEX;
use crate::cluster::pod::FINALIZER;

/// A new pod of a Job, with its completion index where the Job is an Indexed one.
pub fn pod_of(job: &Job, index: Option<i32>) -> Pod {
    let spec = job.spec.as_ref();
    let template = spec.map(|spec| spec.template.clone()).unwrap_or_default();
    let namespace = job.metadata.namespace.clone();
    let uid = job.metadata.uid.clone().unwrap_or_default();
    let job = job.metadata.name.clone().unwrap_or_default();
    let mut metadata = template.metadata.unwrap_or_default();
    metadata.namespace = namespace;
    metadata.generate_name = Some(match index {
        Some(index) => format!("{job}-{index}-"),
        None => format!("{job}-"),
    });
    let labels = metadata.labels.get_or_insert_default();
    for prefix in ["", "batch.kubernetes.io/"] {
        labels.insert(format!("{prefix}controller-uid"), uid.clone());
        labels.insert(format!("{prefix}job-name"), job.clone());
    }
    metadata.owner_references = Some(vec![OwnerReference {
        api_version: "batch/v1".into(),
        kind: "Job".into(),
        name: job.clone(),
        uid,
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]);
    metadata.finalizers = Some(vec![FINALIZER.into()]);
    let mut spec = template.spec.unwrap_or_default();
    if let Some(index) = index {
        labels.insert(INDEX.into(), index.to_string());
        metadata
            .annotations
            .get_or_insert_default()
            .insert(INDEX.into(), index.to_string());
        spec.hostname = Some(format!("{job}-{index}"));
        let containers = spec.init_containers.iter_mut().flatten();
        for container in containers.chain(&mut spec.containers) {
            let env = container.env.get_or_insert_default();
            if env.iter().all(|known| known.name != "JOB_COMPLETION_INDEX") {
                env.push(index_variable());
            }
        }
    }
    Pod {
        metadata,
        spec: Some(spec),
        status: None,
    }
}

fn index_variable() -> EnvVar {
    EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".into()),
                field_path: format!("metadata.labels['{INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
    }
}

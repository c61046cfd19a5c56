//! A pod's volumes: what it is asked for, models, results and memory, and where they are mounted.

use inferbench_crds::spec::ClaimRef;
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource, ObjectFieldSelector,
    PersistentVolumeClaimVolumeSource, Volume, VolumeMount,
};

use super::Kind;
use crate::controller::{
    names,
    request::CACHE_FOLDER,
    sweep::{RESULTS_FOLDER, Sweep},
};

/// The folder of what a pod is asked for.
pub const REQUESTS_FOLDER: &str = "/var/run/inferbench";
/// The folder of [`PROGRAM`](inferbench_crds::contract::PROGRAM).
pub const PROGRAM_FOLDER: &str = "/opt/inferbench";
/// The folder that a server writes to: gone with its pod, so that every start finds the same.
pub(super) const ENGINE_FOLDER: &str = "/var/cache/engine";

/// Where the operator's volumes are mounted in the pod of a server, beside [`MOUNTS`].
pub const SERVER_MOUNTS: [&str; 2] = [PROGRAM_FOLDER, ENGINE_FOLDER];

/// Where the operator's volumes are mounted; nothing else may be.
pub const MOUNTS: [&str; 5] = [
    REQUESTS_FOLDER,
    "/tmp",
    CACHE_FOLDER,
    RESULTS_FOLDER,
    "/dev/shm",
];

pub(super) fn volumes(sweep: &Sweep, kind: &Kind<'_>) -> Vec<Volume> {
    let named = |name: &str| Volume {
        name: format!("{}{name}", names::VOLUME_PREFIX),
        ..Volume::default()
    };
    let requests = DownwardAPIVolumeSource {
        items: Some(vec![DownwardAPIVolumeFile {
            path: "requests".into(),
            field_ref: Some(field(&format!(
                "metadata.annotations['{}']",
                names::REQUESTS
            ))),
            ..DownwardAPIVolumeFile::default()
        }]),
        ..DownwardAPIVolumeSource::default()
    };
    let mut volumes = vec![
        Volume {
            downward_api: Some(requests),
            ..named("requests")
        },
        Volume {
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..named("tmp")
        },
        match &sweep.spec.runner.model_cache {
            Some(cache) => claimed(named("models"), &cache.persistent_volume_claim),
            None => Volume {
                empty_dir: Some(EmptyDirVolumeSource::default()),
                ..named("models")
            },
        },
    ];
    if let Some(claim) = results_claim(sweep) {
        volumes.push(claimed(named("results"), claim));
    }
    if kind.server().is_some() {
        for name in ["program", "engine"] {
            volumes.push(Volume {
                empty_dir: Some(EmptyDirVolumeSource::default()),
                ..named(name)
            });
        }
    }
    if shares_memory(kind) {
        let memory = EmptyDirVolumeSource {
            medium: Some("Memory".into()),
            size_limit: None,
        };
        volumes.push(Volume {
            empty_dir: Some(memory),
            ..named("shm")
        });
    }
    volumes
}

pub(super) fn mounts(sweep: &Sweep, kind: &Kind<'_>) -> Vec<VolumeMount> {
    let mut mounts = vec![
        mount("requests", REQUESTS_FOLDER, Some(true)),
        mount("tmp", "/tmp", None),
        mount("models", CACHE_FOLDER, None),
    ];
    if results_claim(sweep).is_some() {
        mounts.push(mount("results", RESULTS_FOLDER, None));
    }
    if kind.server().is_some() {
        mounts.push(mount("program", PROGRAM_FOLDER, Some(true)));
        mounts.push(mount("engine", ENGINE_FOLDER, None));
    }
    if shares_memory(kind) {
        mounts.push(mount("shm", "/dev/shm", None));
    }
    mounts
}

pub(super) fn mount(name: &str, path: &str, read_only: Option<bool>) -> VolumeMount {
    VolumeMount {
        name: format!("{}{name}", names::VOLUME_PREFIX),
        mount_path: path.into(),
        read_only,
        ..VolumeMount::default()
    }
}

/// Whether a pod needs more shared memory than the 64 MiB that it has: the ranks of one model exchange through it what
/// they compute, and the processes of one server their requests.
fn shares_memory(kind: &Kind<'_>) -> bool {
    kind.gpus.unwrap_or(0) > 1 || kind.server().is_some()
}

fn claimed(volume: Volume, claim: &ClaimRef) -> Volume {
    Volume {
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.claim_name.clone(),
            read_only: None,
        }),
        ..volume
    }
}

fn results_claim(sweep: &Sweep) -> Option<&ClaimRef> {
    let store = sweep.spec.results.store.as_ref()?;
    store.persistent_volume_claim.as_ref()
}

pub(super) fn field(path: &str) -> ObjectFieldSelector {
    ObjectFieldSelector {
        api_version: Some("v1".into()),
        field_path: path.into(),
    }
}

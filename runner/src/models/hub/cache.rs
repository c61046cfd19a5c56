//! One model's part of the cache: its folders, the lock of a blob that is downloaded, and which files a snapshot lacks.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::{super::is_commit, HubError};

const LOCK_POLL: Duration = Duration::from_millis(200);
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// A model's files at one commit, in the cache.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit.
    pub commit: String,
    /// The folder of the files.
    pub folder: PathBuf,
}

/// One model's part of the cache.
pub(super) struct Cache {
    pub(super) repo: String,
    /// `models--owner--name`.
    model: PathBuf,
    locks: PathBuf,
}

impl Cache {
    pub(super) fn new(cache: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self {
            repo: repo.into(),
            model: cache.join(&name),
            locks: cache.join(".locks").join(name),
        }
    }

    pub(super) fn folder(&self, commit: &str) -> PathBuf {
        self.model.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.model.join("blobs").join(etag)
    }

    /// Where the commit of a branch or a tag stands; none where its name is no path below another.
    fn reference(&self, revision: &str) -> Option<PathBuf> {
        let plain = |part: &str| !matches!(part, "" | "." | "..");
        let path = self.model.join("refs").join(revision);
        revision.split('/').all(plain).then_some(path)
    }

    /// Notes the commit of a branch or a tag, for whoever is offline later. A cache that is full or read-only is no
    /// reason to fail.
    pub(super) fn remember(&self, revision: &str, commit: &str) {
        if is_commit(revision) {
            return;
        }
        if let Some(path) = self.reference(revision)
            && fs::read_to_string(&path).is_ok_and(|known| known == commit)
        {
            return;
        }
        if let Some(path) = self.reference(revision)
            && let Some(folder) = path.parent()
        {
            let _ = fs::create_dir_all(folder).and_then(|()| fs::write(&path, commit));
        }
    }

    /// The files of a revision that are here, if they are all that is needed.
    pub(super) fn snapshot(&self, revision: &str, weights: bool) -> Result<Snapshot, HubError> {
        let absent = |path: &Path| HubError::NotCached(path.to_path_buf());
        let commit = if is_commit(revision) {
            revision.to_owned()
        } else {
            let reference = self.reference(revision);
            let reference = reference.ok_or_else(|| absent(&self.model.join("refs")))?;
            let commit = fs::read_to_string(&reference).unwrap_or_default();
            let commit = commit.trim();
            if !is_commit(commit) {
                return Err(absent(&reference));
            }
            commit.to_owned()
        };
        let folder = self.folder(&commit);
        match lacking(&folder, weights) {
            Some(name) => Err(absent(&folder.join(name))),
            None => Ok(Snapshot { commit, folder }),
        }
    }

    /// Waits until no other process downloads this blob; none where the file system has no locks.
    pub(super) async fn lock(&self, etag: &str) -> Result<Option<File>, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        let local = |error| HubError::io(&path, error);
        for folder in [&self.locks, &self.model.join("blobs")] {
            fs::create_dir_all(folder).map_err(local)?;
        }
        let mut options = File::options();
        let file = options.create(true).append(true).open(&path);
        let file = file.map_err(local)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
                Err(TryLockError::Error(_)) => return Ok(None),
            }
        }
    }

    /// Makes a blob a file of the snapshot.
    pub(super) fn link(&self, etag: &str, commit: &str, file: &str) -> Result<(), HubError> {
        let folder = self.folder(commit);
        let link = folder.join(file);
        let local = |error| HubError::io(&link, error);
        fs::create_dir_all(&folder).map_err(local)?;
        if !link.exists() {
            // It may be there and lead nowhere.
            let _ = fs::remove_file(&link);
        }
        let target = Path::new("../../blobs").join(etag);
        match std::os::unix::fs::symlink(target, &link) {
            // Another process was first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // A file system without links.
            Err(_) => fs::rename(self.blob(etag), &link).map_err(local),
            Ok(()) => Ok(()),
        }
    }
}

/// A file that a snapshot lacks and an engine would miss. The tokenizer is not among them: not every model has one.
pub(super) fn lacking(folder: &Path, weights: bool) -> Option<String> {
    let here = |name: &str| folder.join(name).exists();
    if !here("config.json") {
        return Some("config.json".into());
    }
    if !weights {
        return None;
    }
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    if here(INDEX) {
        let index = fs::read(folder.join(INDEX)).unwrap_or_default();
        return match serde_json::from_slice::<Index>(&index) {
            Ok(index) => index.weight_map.into_values().find(|name| !here(name)),
            Err(_) => Some(INDEX.into()),
        };
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".safetensors") && here(name))
        .collect();
    match names.iter().any(|name| name.contains("-of-")) {
        // One of several, and nothing says which.
        true => Some(INDEX.into()),
        false if names.is_empty() => Some("model.safetensors".into()),
        false => None,
    }
}

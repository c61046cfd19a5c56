//! The Hugging Face Hub, as far as models need it: the commit of a revision, and its files in the cache that
//! huggingface_hub and hf-hub fill too, so that nothing is loaded twice.
//!
//! In the cache, `models--owner--name/` holds the contents as `blobs/<etag>`, links to them as
//! `snapshots/<commit>/<file>`, and the commits of branches and tags as `refs/<revision>`. A blob is there only when it
//! is whole: it grows beside as `.incomplete`, goes on from there after a cut, is checked, and renamed.

mod error;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, TryLockError},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};

use reqwest::{
    Client, Method, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap,
        HeaderValue, LOCATION, RANGE,
    },
    redirect::Policy,
};
use serde::Deserialize;
use tokio::runtime::Runtime;
use url::Url;

pub use self::error::HubError;
use super::{belongs, file_digest, is_commit};

const ENDPOINT: &str = "https://huggingface.co";
/// The number of times that a request is sent which fails for reasons that may pass.
const TRIES: u32 = 5;
/// The number of files that are downloaded at a time.
const CONNECTIONS: usize = 4;
/// The number of redirects that a request follows.
const HOPS: usize = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence of a server.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest pause between two tries, whatever a server asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const LOCK_POLL: Duration = Duration::from_millis(200);
const INDEX: &str = "model.safetensors.index.json";

/// The settings of the client.
#[derive(Clone)]
pub struct Settings {
    endpoint: Url,
    /// The header's value: marked as sensitive, so that nothing prints it.
    token: Option<HeaderValue>,
    cache: PathBuf,
    offline: bool,
    /// The pause after a first failed try; it doubles with every further one.
    pause: Duration,
}

impl Settings {
    /// The settings of the environment, under huggingface_hub's names: `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`,
    /// `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, and the older ones of the same.
    ///
    /// # Errors
    /// Where the endpoint is no URL, or the token none that a request could carry.
    pub fn from_env() -> Result<Self, HubError> {
        Self::read(&|name| std::env::var(name).ok())
    }

    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let set = |names: &[&str]| {
            let mut values = names.iter().filter_map(|name| variable(name));
            values.find(|value| !value.trim().is_empty())
        };
        let is_true = |names: &[&str]| {
            let value = set(names).unwrap_or_default().to_ascii_uppercase();
            matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
        };
        let user = set(&["HOME"]).map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = |names: &[&str]| {
            let value = set(names)?;
            Some(match value.strip_prefix("~/") {
                Some(below) => user.join(below),
                None => value.into(),
            })
        };
        let home = folder(&["HF_HOME"])
            .or_else(|| Some(folder(&["XDG_CACHE_HOME"])?.join("huggingface")))
            .unwrap_or_else(|| user.join(".cache/huggingface"));
        let token_path = folder(&["HF_TOKEN_PATH"]).unwrap_or_else(|| home.join("token"));
        let token = if is_true(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"]) {
            None
        } else {
            set(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
                .or_else(|| fs::read_to_string(token_path).ok())
        };
        Ok(Self {
            endpoint: endpoint(set(&["HF_ENDPOINT"]).as_deref().unwrap_or(ENDPOINT))?,
            token: bearer(token.as_deref().unwrap_or_default().trim())?,
            cache: folder(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
                .unwrap_or_else(|| home.join("hub")),
            offline: is_true(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]),
            pause: Duration::from_millis(500),
        })
    }
}

fn endpoint(value: &str) -> Result<Url, HubError> {
    match Url::parse(value) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url),
        _ => Err(HubError::Setting(format!(
            "HF_ENDPOINT {value:?} is no URL; one that begins with http:// or https:// is allowed"
        ))),
    }
}

fn bearer(token: &str) -> Result<Option<HeaderValue>, HubError> {
    if token.is_empty() {
        return Ok(None);
    }
    let value = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut value = value.map_err(|_| {
        HubError::Setting("HF_TOKEN has control characters; a token is one line of text".into())
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// A client of the Hub. Calls block; any thread may make them, but none that runs an async executor.
pub struct Hub {
    settings: Settings,
    client: Client,
    runtime: Runtime,
}

/// A model's files at one commit, in the cache.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit.
    pub commit: String,
    /// The folder of the files.
    pub folder: PathBuf,
}

/// The answer about a revision.
#[derive(Deserialize)]
struct Info {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// The file that the Hub is to send, as it describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    /// The name of the blob.
    etag: String,
    size: Option<u64>,
    /// Whether the name is the SHA-256 of the contents, as it is for files in large file storage.
    is_sha256: bool,
}

impl Head {
    /// The description in an answer's headers; those of a redirect describe the file in names of their own.
    fn of(headers: &HeaderMap, redirected: bool) -> Option<Self> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let linked = text("x-linked-etag");
        let etag = linked.or_else(|| text(ETAG.as_str()))?;
        let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        // It becomes a file's name.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if etag.is_empty() || !etag.bytes().all(plain) {
            return None;
        }
        let size = match text("x-linked-size") {
            None if !redirected => text(CONTENT_LENGTH.as_str()),
            size => size,
        };
        Some(Self {
            etag: etag.into(),
            size: size.and_then(|size| size.parse().ok()),
            is_sha256: linked.is_some()
                && etag.len() == 64
                && etag.bytes().all(|byte| byte.is_ascii_hexdigit()),
        })
    }
}

impl Hub {
    /// A client with these settings; no request is sent yet.
    ///
    /// # Errors
    /// Where the machine's certificates cannot be read, or no runtime can be started.
    pub fn new(settings: Settings) -> Result<Self, HubError> {
        // Bytes are counted and hashed as they are stored: they have to come as they are.
        let headers = [(ACCEPT_ENCODING, HeaderValue::from_static("identity"))];
        let mut client = crate::tls::client()
            .user_agent(concat!("inferbench/", env!("CARGO_PKG_VERSION")))
            .default_headers(HeaderMap::from_iter(headers))
            // Redirects are followed here, where it is known who may see the token.
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT);
        if is_loopback(&settings.endpoint) {
            // No proxy reaches this machine's own addresses.
            client = client.no_proxy();
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| HubError::Request(format!("no runtime for requests: {error}")))?;
        Ok(Self {
            settings,
            client: client.build().map_err(HubError::request)?,
            runtime,
        })
    }

    /// Brings a model's configuration, or with `weights` all that an engine reads of it, into the cache. A commit whose
    /// files are there needs no network; a branch or a tag does, unless `HF_HUB_OFFLINE` is set.
    ///
    /// # Errors
    /// Where the Hub has no such model, does not give it to this token, or cannot be reached, or the files cannot be
    /// written.
    pub fn snapshot(
        &self,
        repo: &str,
        revision: &str,
        weights: bool,
    ) -> Result<Snapshot, HubError> {
        let cache = Cache::new(&self.settings.cache, repo);
        if self.settings.offline {
            return cache.snapshot(revision, weights);
        }
        let here = match is_commit(revision) {
            true => cache.snapshot(revision, weights).ok(),
            false => None,
        };
        if let Some(here) = &here
            && (!weights || here.folder.join("tokenizer.json").exists())
        {
            return Ok(Snapshot {
                commit: here.commit.clone(),
                folder: here.folder.clone(),
            });
        }
        // Without a network, what a former run has left will do, and needs no patience.
        let tries = if here.is_some() { 1 } else { TRIES };
        let info = match (self.info(repo, revision, tries), here) {
            (Err(error), Some(here)) if error.is_transient() => return Ok(here),
            (info, _) => info?,
        };
        let commit = info.sha.filter(|sha| is_commit(sha));
        let commit = commit.ok_or_else(|| HubError::NoCommit(revision.into()))?;
        cache.remember(revision, &commit);
        let folder = cache.folder(&commit);
        let mut files: Vec<String> = info
            .siblings
            .into_iter()
            .map(|sibling| sibling.rfilename)
            // Those at the top: what lies in folders is the model in another format.
            .filter(|name| belongs(name) && !name.contains('/'))
            .filter(|name| weights || name == "config.json")
            .filter(|name| !folder.join(name).exists())
            .collect();
        // An index first: what is there of a model after a cut can then be told from all of it.
        files.sort_by_key(|name| !name.ends_with(".json"));
        self.download_all(&cache, &commit, &files)?;
        Ok(Snapshot { commit, folder })
    }

    fn info(&self, repo: &str, revision: &str, tries: u32) -> Result<Info, HubError> {
        let url = self.url(["api", "models"], repo, ["revision", revision]);
        let ask = async || {
            let response = self.walk(Method::GET, &url, 0, |_| false).await?;
            let response = checked(response, |code| match code {
                Some("RepoNotFound") => HubError::RepoNotFound(repo.into()),
                _ => HubError::RevisionNotFound {
                    revision: revision.into(),
                    repo: repo.into(),
                },
            });
            let bytes = response.await?.bytes().await.map_err(HubError::request)?;
            serde_json::from_slice(&bytes)
                .map_err(|error| HubError::Request(format!("{error} in the answer ({url})")))
        };
        self.runtime.block_on(self.retried(tries, ask))
    }

    /// Each on a thread with connections of its own: the checks and TLS take a core for each gigabyte a second.
    fn download_all(&self, cache: &Cache, commit: &str, files: &[String]) -> Result<(), HubError> {
        let next = AtomicUsize::new(0);
        let work = || {
            let hub = Hub::new(self.settings.clone())?;
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let download = hub.runtime.block_on(hub.download(cache, commit, file));
                // The first failure is the end: nothing more is begun.
                download.inspect_err(|_| next.store(files.len(), Ordering::Relaxed))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..files.len().min(CONNECTIONS))
                .map(|_| scope.spawn(work))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a download does not panic"))
                .fold(Ok(()), Result::and)
        })
    }

    async fn download(&self, cache: &Cache, commit: &str, file: &str) -> Result<(), HubError> {
        let url = self.url([], &cache.repo, ["resolve", commit, file]);
        let missing = || HubError::EntryNotFound {
            path: file.into(),
            repo: cache.repo.clone(),
        };
        let describe = async || {
            let described = |response: &Response| Head::of(response.headers(), true).is_some();
            let response = self.walk(Method::HEAD, &url, 0, described).await?;
            let redirected = response.status().is_redirection();
            let response = checked(response, |_| missing()).await?;
            Head::of(response.headers(), redirected).ok_or_else(|| HubError::Malformed {
                what: "an ETag header that can name a file",
                url: url.to_string(),
            })
        };
        let head = self.retried(TRIES, describe).await?;
        let blob = cache.blob(&head.etag);
        let lock = cache.lock(&head.etag).await?;
        let whole = fs::metadata(&blob).is_ok_and(|blob| head.size.is_none_or(|n| n == blob.len()));
        if !whole {
            let partial = match &lock {
                Some(_) => blob.with_added_extension("incomplete"),
                // Where nothing keeps others from writing, it is written under a name of one's own.
                None => blob.with_added_extension(format!("{}.incomplete", unique())),
            };
            self.fetch(&url, file, &head, &partial, &missing).await?;
            fs::rename(&partial, &blob).map_err(|error| HubError::io(&blob, error))?;
        }
        cache.link(&head.etag, commit, file)
    }

    /// Fills `partial` with all of a file, however often the connection is cut, as long as each one brings something.
    async fn fetch(
        &self,
        url: &Url,
        file: &str,
        head: &Head,
        partial: &Path,
        missing: &dyn Fn() -> HubError,
    ) -> Result<(), HubError> {
        let mut failed = 0;
        loop {
            let before = length(partial).unwrap_or(0);
            let filled = match self.fill(url, head, partial, missing).await {
                Ok(()) => check(file, head, partial),
                failed => failed,
            };
            let error = match filled {
                Err(error) if error.is_transient() => error,
                other => return other,
            };
            if let HubError::Damaged { .. } = error {
                let _ = fs::remove_file(partial);
                // Bytes of an earlier try may be at fault; those of this one are what the Hub sends.
                if before == 0 {
                    return Err(error);
                }
            }
            let grown = length(partial).is_some_and(|now| now > before);
            failed = if grown { 1 } else { failed + 1 };
            if failed >= TRIES {
                return Err(error);
            }
            tokio::time::sleep(pause(self.settings.pause, failed, &error)).await;
        }
    }

    /// Requests what `partial` lacks of a file, once.
    async fn fill(
        &self,
        url: &Url,
        head: &Head,
        partial: &Path,
        missing: &dyn Fn() -> HubError,
    ) -> Result<(), HubError> {
        let local = |error| HubError::io(partial, error);
        let present = length(partial);
        if present.is_some() && present == head.size {
            return Ok(());
        }
        let mut have = present.filter(|have| head.size.is_none_or(|size| *have < size));
        let from = have.unwrap_or(0);
        let response = self.walk(Method::GET, url, from, |_| false).await?;
        if from > 0 && response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            fs::remove_file(partial).map_err(local)?;
            return Err(HubError::Request(format!(
                "no bytes from {from} on ({url})"
            )));
        }
        let mut response = checked(response, |_| missing()).await?;
        if !continues(&response, from) {
            have = None;
        }
        let mut have = have.unwrap_or(0);
        let mut options = File::options();
        let mut out = options
            .create(true)
            .write(true)
            .truncate(false)
            .open(partial)
            .map_err(local)?;
        out.set_len(have).map_err(local)?;
        out.seek(SeekFrom::End(0)).map_err(local)?;
        while let Some(bytes) = response.chunk().await.map_err(HubError::request)? {
            out.write_all(&bytes).map_err(local)?;
            have += bytes.len() as u64;
        }
        out.sync_all().map_err(local)?;
        match head.size {
            Some(size) if have < size => Err(HubError::Request(format!(
                "it ended after {have} of {size} bytes ({url})"
            ))),
            _ => Ok(()),
        }
    }

    /// Sends a request and follows its redirects, to the end or to where `stop` says; the token goes to the endpoint
    /// alone, wherever the way leads.
    async fn walk(
        &self,
        method: Method,
        url: &Url,
        from: u64,
        stop: impl Fn(&Response) -> bool,
    ) -> Result<Response, HubError> {
        let mut at = url.clone();
        for _ in 0..=HOPS {
            let mut request = self.client.request(method.clone(), at.clone());
            if let Some(token) = &self.settings.token
                && at.origin() == self.settings.endpoint.origin()
            {
                request = request.header(AUTHORIZATION, token.clone());
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = request.send().await.map_err(HubError::request)?;
            let location = response.headers().get(LOCATION);
            let location = location.and_then(|location| at.join(location.to_str().ok()?).ok());
            match location {
                Some(next) if response.status().is_redirection() && !stop(&response) => at = next,
                _ => return Ok(response),
            }
        }
        Err(HubError::Malformed {
            what: "an end of its redirects",
            url: url.to_string(),
        })
    }

    async fn retried<T>(
        &self,
        tries: u32,
        mut ask: impl AsyncFnMut() -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        let mut failed = 0;
        loop {
            match ask().await {
                Err(error) if error.is_transient() && failed + 1 < tries => {
                    failed += 1;
                    tokio::time::sleep(pause(self.settings.pause, failed, &error)).await;
                }
                other => return other,
            }
        }
    }

    /// A URL below the endpoint; what stands in a repository's name or a revision stays one part of the path each.
    fn url<const N: usize, const M: usize>(
        &self,
        before: [&str; N],
        repo: &str,
        after: [&str; M],
    ) -> Url {
        let mut url = self.settings.endpoint.clone();
        url.path_segments_mut()
            .expect("a URL of http or https has a path")
            .pop_if_empty()
            .extend(before)
            .extend(repo.split('/'))
            .extend(after);
        url
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// The answer, unless it is an error; `missing` says what a 404 means, given the Hub's code for it.
async fn checked(
    response: Response,
    missing: impl FnOnce(Option<&str>) -> HubError,
) -> Result<Response, HubError> {
    let status = response.status();
    if status.is_success() || status.is_redirection() {
        return Ok(response);
    }
    let url = response.url().clone();
    let headers = response.headers().clone();
    // The reason may be there only; without it the error is an error all the same.
    let body = response.bytes().await.unwrap_or_default();
    Err(HubError::of(status, &url, &headers, &body, missing))
}

/// Whether an answer goes on where the file on disk ends.
fn continues(response: &Response, from: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE);
    let range = range.and_then(|range| range.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}

/// Compares what has arrived with the Hub's description of it.
fn check(file: &str, head: &Head, partial: &Path) -> Result<(), HubError> {
    let damaged = |is, should_be| HubError::Damaged {
        file: file.into(),
        is,
        should_be,
    };
    let bytes = length(partial).unwrap_or(0);
    if let Some(size) = head.size.filter(|size| *size != bytes) {
        return Err(damaged(format!("{bytes} bytes"), format!("{size} bytes")));
    }
    if head.is_sha256 {
        let digest = file_digest(partial).map_err(|error| HubError::io(partial, error))?;
        let sha256 = digest.split_once(' ').map_or("", |(_, sha256)| sha256);
        if !sha256.eq_ignore_ascii_case(&head.etag) {
            return Err(damaged(
                format!("SHA-256 {sha256}"),
                format!("SHA-256 {}", head.etag),
            ));
        }
    }
    Ok(())
}

/// The pause after this number of failures in a row: the time that the server asks for, else twice the last one and up
/// to half of it more, so that many that were refused together do not come back together.
fn pause(first: Duration, failed: u32, error: &HubError) -> Duration {
    let doubled = first * 2_u32.saturating_pow(failed.saturating_sub(1));
    let jitter = doubled.mul_f64(f64::from(subsec_nanos()) / 2e9);
    error
        .retry_after()
        .unwrap_or(doubled + jitter)
        .min(LONGEST_PAUSE)
}

fn subsec_nanos() -> u32 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().subsec_nanos()
}

fn unique() -> String {
    format!("{}-{}", std::process::id(), subsec_nanos())
}

fn length(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|file| file.len())
}

/// One model's part of the cache.
struct Cache {
    repo: String,
    /// `models--owner--name`.
    model: PathBuf,
    locks: PathBuf,
}

impl Cache {
    fn new(cache: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self {
            repo: repo.into(),
            model: cache.join(&name),
            locks: cache.join(".locks").join(name),
        }
    }

    fn folder(&self, commit: &str) -> PathBuf {
        self.model.join("snapshots").join(commit)
    }

    fn blob(&self, etag: &str) -> PathBuf {
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
    fn remember(&self, revision: &str, commit: &str) {
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
    fn snapshot(&self, revision: &str, weights: bool) -> Result<Snapshot, HubError> {
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
    async fn lock(&self, etag: &str) -> Result<Option<File>, HubError> {
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
    fn link(&self, etag: &str, commit: &str, file: &str) -> Result<(), HubError> {
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
fn lacking(folder: &Path, weights: bool) -> Option<String> {
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

//! The Hugging Face Hub, as far as models need it: the commit of a revision, and its files in the cache that
//! huggingface_hub and hf-hub fill too, so that nothing is loaded twice.
//!
//! In the cache, `models--owner--name/` holds the contents as `blobs/<etag>`, links to them as
//! `snapshots/<commit>/<file>`, and the commits of branches and tags as `refs/<revision>`. A blob is there only when it
//! is whole: it grows beside as `.incomplete`, goes on from there after a cut, is checked, and renamed.

mod cache;
mod error;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
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

use self::cache::Cache;
pub use self::{cache::Snapshot, error::HubError, settings::Settings};
use super::{belongs, file_digest, is_commit};

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

/// A client of the Hub. Calls block; any thread may make them, but none that runs an async executor.
pub struct Hub {
    settings: Settings,
    client: Client,
    runtime: Runtime,
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

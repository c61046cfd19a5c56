//! The errors of the Hub and of its cache.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use serde::Deserialize;
use thiserror::Error as ThisError;
use url::Url;

use crate::causes::causes;

const ADVICE: &str = "; is the model gated? Accept its licence on the Hub and set HF_TOKEN";

/// Why a model cannot be had from the Hub.
#[derive(Debug, ThisError)]
pub enum HubError {
    /// The environment's settings are refused.
    #[error("{0}")]
    Setting(String),
    /// No token, or one that the Hub does not know.
    #[error("Authentication required{0}{ADVICE}")]
    AuthRequired(Answer),
    /// A token that may not see this model.
    #[error("Forbidden{0}{ADVICE}")]
    Forbidden(Answer),
    /// Too many requests.
    #[error("Rate limited{0}")]
    RateLimited(Answer),
    /// Any other answer that is an error.
    #[error("HTTP error: {status}{answer}", status = .0.status, answer = .0)]
    Http(Answer),
    /// There is no such repository, for this token at least.
    #[error("Repository not found: {0}")]
    RepoNotFound(String),
    /// There is no such branch, tag or commit.
    #[error("Revision not found: {revision} in {repo}")]
    RevisionNotFound {
        /// The revision.
        revision: String,
        /// The repository.
        repo: String,
    },
    /// There is no such file.
    #[error("Entry not found: {path} in {repo}")]
    EntryNotFound {
        /// The file.
        path: String,
        /// The repository.
        repo: String,
    },
    /// The Hub's answer about a revision has no commit in it.
    #[error("the Hub names no commit for {0}")]
    NoCommit(String),
    /// The Hub could not be asked, or its answer broke off.
    #[error("HTTP request error: {0}")]
    Request(String),
    /// An answer lacks what cannot be done without.
    #[error("Hub response missing required data: {what} ({url})")]
    Malformed {
        /// The thing that it lacks.
        what: &'static str,
        /// The request.
        url: String,
    },
    /// A file is not the one that the Hub describes.
    #[error("{file} arrived damaged: it has {is}, and should have {should_be}")]
    Damaged {
        /// The file.
        file: String,
        /// Its size or digest.
        is: String,
        /// The Hub's.
        should_be: String,
    },
    /// The network is not to be used, and the cache does not have it.
    #[error("File not found in local cache: {}", .0.display())]
    NotCached(PathBuf),
    /// The cache cannot be written or read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// An answer that is an error.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    /// The Hub's reason, and what to look the request up by.
    detail: String,
    retry_after: Option<Duration>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl HubError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Request(_) | Self::RateLimited(_) | Self::Damaged { .. } => true,
            Self::Http(answer) => {
                answer.status.is_server_error() || answer.status == StatusCode::REQUEST_TIMEOUT
            }
            _ => false,
        }
    }

    /// The pause that the server asks for.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(answer) | Self::Http(answer) => answer.retry_after,
            _ => None,
        }
    }

    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        Self::Io {
            path: path.into(),
            error,
        }
    }

    /// A request that got no answer, with all reasons down to the first: the outermost says next to nothing.
    pub(super) fn request(error: reqwest::Error) -> Self {
        let url = error.url().map(|url| format!(" ({})", shown(url)));
        let error = error.without_url();
        Self::Request(causes(&error) + &url.unwrap_or_default())
    }

    /// The error that an answer means.
    pub(super) fn of(
        status: StatusCode,
        url: &Url,
        headers: &HeaderMap,
        body: &[u8],
        missing: impl FnOnce(Option<&str>) -> Self,
    ) -> Self {
        #[derive(Deserialize)]
        struct Reason {
            error: String,
        }
        let header = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
        let code = header("x-error-code");
        if status == StatusCode::NOT_FOUND {
            return missing(code.as_deref());
        }
        let reason = header("x-error-message")
            .or_else(|| Some(serde_json::from_slice::<Reason>(body).ok()?.error))
            .filter(|reason| !reason.is_empty());
        let mut detail = reason.map_or(String::new(), |reason| format!(": {reason}"));
        detail += &format!(" (url={}", shown(url));
        for (name, value) in [("request_id", header("x-request-id")), ("error_code", code)] {
            detail += &value.map_or(String::new(), |value| format!(", {name}={value}"));
        }
        let answer = Answer {
            status,
            detail: detail + ")",
            retry_after: header(RETRY_AFTER.as_str())
                .and_then(|seconds| seconds.trim().parse().ok())
                .map(Duration::from_secs),
        };
        match status {
            StatusCode::UNAUTHORIZED => Self::AuthRequired(answer),
            StatusCode::FORBIDDEN => Self::Forbidden(answer),
            StatusCode::TOO_MANY_REQUESTS => Self::RateLimited(answer),
            _ => Self::Http(answer),
        }
    }
}

/// A URL without its query: that of a CDN is a permission of its own.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}

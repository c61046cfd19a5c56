//! The errors of a store, each with its place and what to do about it.

use std::{io::ErrorKind, path::PathBuf};

use object_store::Error;
use thiserror::Error as ThisError;

use crate::causes::causes;

/// An error of a store.
#[derive(Debug, ThisError)]
pub enum StoreError {
    /// The address cannot be opened.
    #[error("results store {target:?}: {problem}")]
    Address {
        /// The address, without any secret in it.
        target: String,
        /// The mistake, and what is allowed.
        problem: String,
    },
    /// The local folder cannot be made or read.
    #[error("results folder {}: {source}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The settings in the environment are refused.
    #[error("results store {place}: the environment's settings for it are refused: {source}")]
    Settings {
        /// The store.
        place: String,
        /// Why.
        source: Error,
    },
    /// The store does not honour create-once.
    #[error(
        "{place}: the store overwrote an object that was to be created once. It ignores conditional writes (HTTP \
         If-None-Match), so results could be lost without a word. Use a store that honours them: AWS S3, Google Cloud \
         Storage, Azure Blob Storage, MinIO, Ceph, Cloudflare R2 or a local folder"
    )]
    Overwrites {
        /// The probe object.
        place: String,
    },
    /// A request failed.
    #[error("cannot {action} {place}: {help}{}", causes(&**source))]
    Failed {
        /// The operation.
        action: &'static str,
        /// The store and the path in it.
        place: String,
        /// Advice, where there is some.
        help: &'static str,
        /// The error of the store's client.
        source: Box<Error>,
    },
    /// The client's runtime cannot be started.
    #[error("cannot start the results store's client: {0}")]
    Runtime(std::io::Error),
}

impl StoreError {
    pub(super) fn failed(action: &'static str, place: String, source: Error) -> Self {
        Self::Failed {
            action,
            help: help(&source),
            place,
            source: Box::new(source),
        }
    }
}

/// Advice for a client's error; ends in a colon and a space, or is empty.
fn help(error: &Error) -> &'static str {
    match error {
        _ if is_refused(error) => {
            "the credentials are wrong or may not do that. They are read from the environment (s3: AWS_ACCESS_KEY_ID, \
             AWS_SECRET_ACCESS_KEY; gs: GOOGLE_APPLICATION_CREDENTIALS; az: AZURE_STORAGE_ACCOUNT_NAME, \
             AZURE_STORAGE_ACCOUNT_KEY). The store says: "
        }
        Error::NotFound { .. } => {
            "there is no such bucket or container: make it first. The store says: "
        }
        _ if io_kind(error) == Some(ErrorKind::Unsupported) => {
            "the folder's file system lacks hard links, without which nothing can be created once; choose another \
             folder. The system says: "
        }
        _ if matches!(
            io_kind(error),
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        ) =>
        {
            "the disk is full: make room, and run the same command again. The system says: "
        }
        // A folder has no endpoint.
        Error::Generic {
            store: "LocalFileSystem",
            ..
        } => "",
        Error::Generic { .. } => {
            "is the endpoint right and reachable, and are credentials set? The store's client says: "
        }
        _ => "",
    }
}

/// A list's refusal comes without a variant of its own.
fn is_refused(error: &Error) -> bool {
    matches!(
        error,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. }
    ) || matches!(error, Error::Generic { source, .. } if source.to_string().contains("403 Forbidden"))
}

fn io_kind(error: &Error) -> Option<ErrorKind> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_fits_the_error() {
        let advice = |store: &'static str, kind: ErrorKind| {
            let source = Box::new(std::io::Error::from(kind));
            help(&Error::Generic { store, source })
        };
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            assert!(advice("LocalFileSystem", kind).contains("disk is full"));
        }
        assert_eq!(advice("LocalFileSystem", ErrorKind::InvalidInput), "");
        assert!(advice("LocalFileSystem", ErrorKind::Unsupported).contains("hard links"));
        assert!(
            advice("S3", ErrorKind::ConnectionRefused).contains("endpoint right and reachable")
        );
    }
}

//! The addresses of stores: how they are read, and the client of each.

use std::{fmt, path::PathBuf, sync::Arc};

use object_store::{
    ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    local::LocalFileSystem,
    path::Path,
};
use url::Url;

use super::error::StoreError;
use crate::tls;

/// Options of a store beside its URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// The endpoint of a server that is not the cloud's own, such as `http://minio:9000`.
    pub endpoint: Option<String>,
    /// The region of an S3 bucket.
    pub region: Option<String>,
    /// Settings that win over the environment, under the names of its variables, such as `AWS_ACCESS_KEY_ID`.
    pub settings: Vec<(String, String)>,
}

/// A store behind a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `s3://bucket/prefix`.
    S3,
    /// `gs://bucket/prefix`.
    Gs,
    /// `az://container/prefix`.
    Az,
}

impl Scheme {
    const fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
        }
    }
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A local folder.
    Folder(PathBuf),
    /// A prefix of a bucket or container.
    Bucket {
        /// Whose.
        scheme: Scheme,
        /// The bucket's or container's name.
        bucket: String,
        /// The prefix without slashes at its ends; empty for the whole bucket.
        prefix: String,
    },
}

impl Address {
    /// Reads a folder or a URL.
    ///
    /// # Errors
    /// Where it is a URL of another scheme, lacks a bucket, or has parts that mean nothing here.
    pub fn parse(target: &str) -> Result<Self, StoreError> {
        if target.is_empty() {
            return Err(refused(
                target,
                "is empty; a folder or an s3://, gs://, az:// or file:// URL is allowed",
            ));
        }
        if !target.contains("://") {
            return Ok(Self::Folder(target.into()));
        }
        let url =
            Url::parse(target).map_err(|error| refused("…", &format!("is no URL: {error}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            let shown = format!(
                "{}://…@{}{}",
                url.scheme(),
                url.host_str().unwrap_or_default(),
                url.path()
            );
            return Err(refused(
                &shown,
                "credentials do not belong in the URL; they are read from the environment",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() || url.port().is_some() {
            return Err(refused(
                target,
                "has a port, query or fragment; a server goes into `endpoint`",
            ));
        }
        let scheme = match url.scheme() {
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            "file" => {
                let folder = url
                    .to_file_path()
                    .map_err(|()| refused(target, "is no local folder; file:///folder is"))?;
                return Ok(Self::Folder(folder));
            }
            other => {
                return Err(refused(
                    target,
                    &format!(
                        "the scheme {other:?} is not one of s3, gs, az and file; or give a folder"
                    ),
                ));
            }
        };
        let bucket = url.host_str().unwrap_or_default().to_owned();
        if bucket.is_empty() {
            return Err(refused(
                target,
                &format!("names no bucket; {}://bucket/prefix does", scheme.as_str()),
            ));
        }
        let path =
            Path::from_url_path(url.path()).map_err(|error| refused(target, &error.to_string()))?;
        Ok(Self::Bucket {
            scheme,
            bucket,
            prefix: path.into(),
        })
    }

    pub(super) fn folder(&self) -> Option<&std::path::Path> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::Bucket { .. } => None,
        }
    }

    /// The path that everything in the store begins with, as its client sees it.
    pub(super) fn root(&self) -> Path {
        match self {
            Self::Folder(_) => Path::default(),
            Self::Bucket { prefix, .. } => Path::from(prefix.as_str()),
        }
    }

    /// The store's client; a hasty one gives up soon.
    pub(super) fn connect(
        &self,
        options: &StoreOptions,
        hasty: bool,
    ) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let mut retry = RetryConfig::default();
        if hasty {
            retry.max_retries = 2;
        }
        let endpoint = options.endpoint.as_deref();
        let settings = || {
            options
                .settings
                .iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value))
        };
        let client: Result<Arc<dyn ObjectStore>, _> = match self {
            Self::Folder(folder) => {
                LocalFileSystem::new_with_prefix(folder).map(|client| arc(client.with_fsync(true)))
            }
            Self::Bucket {
                scheme: Scheme::S3,
                bucket,
                ..
            } => {
                let mut builder = AmazonS3Builder::from_env()
                    .with_http_connector(tls::Connector)
                    .with_bucket_name(bucket)
                    .with_retry(retry);
                for (key, value) in
                    settings().filter_map(|(name, value)| Some((name.parse().ok()?, value)))
                {
                    builder = builder.with_config(key, value);
                }
                if let Some(endpoint) = endpoint {
                    // Of the two settings this is the one that wins over the environment.
                    builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
                }
                if let Some(region) = &options.region {
                    builder = builder.with_region(region);
                }
                let chosen = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
                    .iter()
                    .find_map(|key| builder.get_config_value(key));
                // Who names an http:// endpoint has decided against TLS.
                if chosen.is_some_and(|endpoint| endpoint.starts_with("http://")) {
                    builder = builder.with_allow_http(true);
                }
                builder.build().map(arc)
            }
            Self::Bucket {
                scheme: Scheme::Gs,
                bucket,
                ..
            } => {
                let mut builder = GoogleCloudStorageBuilder::from_env()
                    .with_http_connector(tls::Connector)
                    .with_bucket_name(bucket)
                    .with_retry(retry);
                for (key, value) in
                    settings().filter_map(|(name, value)| Some((name.parse().ok()?, value)))
                {
                    builder = builder.with_config(key, value);
                }
                if let Some(endpoint) = endpoint {
                    builder = builder.with_config(GoogleConfigKey::BaseUrl, endpoint);
                }
                builder.build().map(arc)
            }
            Self::Bucket {
                scheme: Scheme::Az,
                bucket,
                ..
            } => {
                let mut builder = MicrosoftAzureBuilder::from_env()
                    .with_http_connector(tls::Connector)
                    .with_container_name(bucket)
                    .with_retry(retry);
                for (key, value) in
                    settings().filter_map(|(name, value)| Some((name.parse().ok()?, value)))
                {
                    builder = builder.with_config(key, value);
                }
                if let Some(endpoint) = endpoint {
                    builder = builder
                        .with_config(AzureConfigKey::Endpoint, endpoint)
                        .with_allow_http(endpoint.starts_with("http://"));
                }
                builder.build().map(arc)
            }
        };
        client.map_err(|source| StoreError::Settings {
            place: self.to_string(),
            source,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Bucket {
                scheme,
                bucket,
                prefix,
            } if prefix.is_empty() => write!(f, "{}://{bucket}", scheme.as_str()),
            Self::Bucket {
                scheme,
                bucket,
                prefix,
            } => write!(f, "{}://{bucket}/{prefix}", scheme.as_str()),
        }
    }
}

fn arc(client: impl ObjectStore) -> Arc<dyn ObjectStore> {
    Arc::new(client)
}

fn refused(target: &str, problem: &str) -> StoreError {
    StoreError::Address {
        target: target.into(),
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let bucket = |scheme, bucket: &str, prefix: &str| Address::Bucket {
            scheme,
            bucket: bucket.into(),
            prefix: prefix.into(),
        };
        for (text, address, shown) in [
            (
                "s3://results",
                bucket(Scheme::S3, "results", ""),
                "s3://results",
            ),
            (
                "s3://results/a/b/",
                bucket(Scheme::S3, "results", "a/b"),
                "s3://results/a/b",
            ),
            (
                "gs://my_bucket.example/x",
                bucket(Scheme::Gs, "my_bucket.example", "x"),
                "gs://my_bucket.example/x",
            ),
            (
                "az://container/x y",
                bucket(Scheme::Az, "container", "x y"),
                "az://container/x y",
            ),
            ("file:///tmp/x", Address::Folder("/tmp/x".into()), "/tmp/x"),
            (
                "results-thesis",
                Address::Folder("results-thesis".into()),
                "results-thesis",
            ),
            (
                "/var/a b#1",
                Address::Folder("/var/a b#1".into()),
                "/var/a b#1",
            ),
        ] {
            let parsed = Address::parse(text).unwrap();
            assert_eq!(parsed, address);
            assert_eq!(parsed.to_string(), shown);
        }
    }

    #[test]
    fn other_addresses_are_refused_with_what_is_allowed() {
        for (text, said) in [
            ("", "is empty"),
            ("https://bucket/prefix", "not one of s3, gs, az and file"),
            ("s3:///prefix", "names no bucket"),
            ("s3://bucket:9000/prefix", "`endpoint`"),
            ("s3://bucket/prefix?region=x", "`endpoint`"),
            ("file://host/folder", "file:///folder is"),
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn secrets_in_a_url_are_not_repeated() {
        let error = Address::parse("s3://AKIA:hunter2@bucket/prefix")
            .unwrap_err()
            .to_string();
        assert!(error.contains("read from the environment"), "{error}");
        assert!(
            !error.contains("hunter2") && !error.contains("AKIA"),
            "{error}"
        );
    }

    #[test]
    fn every_cloud_has_a_client() {
        // Building one sends nothing.
        let settings = [
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("GOOGLE_SKIP_SIGNATURE", "true"),
            ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
            ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0"),
        ];
        let options = StoreOptions {
            endpoint: Some("http://127.0.0.1:9".into()),
            region: Some("eu-north-1".into()),
            settings: settings
                .map(|(name, value)| (name.into(), value.into()))
                .to_vec(),
        };
        for url in [
            "s3://bucket/prefix",
            "gs://bucket/prefix",
            "az://container/prefix",
        ] {
            let address = Address::parse(url).unwrap();
            for hasty in [false, true] {
                address
                    .connect(&options, hasty)
                    .unwrap_or_else(|error| panic!("{url}: {error}"));
            }
            assert_eq!(address.root(), Path::from("prefix"));
        }
    }
}

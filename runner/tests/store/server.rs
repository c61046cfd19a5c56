//! The S3 server of these tests: moto with authentication on, started on a free loopback port by `scripts/s3-server`.
//! It ends when its standard input closes, so with this process.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use inferbench_runner::store::{Store, StoreOptions};
use serde::Deserialize;

/// A running server.
pub struct Server {
    process: Child,
    ready: Ready,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ready {
    endpoint: String,
    region: String,
    bucket: String,
    access_key_id: String,
    secret_access_key: String,
}

impl Server {
    /// Starts one; `None`, with a word on the standard error, where none is installed.
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Starts one that speaks TLS, with the files of a certificate for `localhost` and of its key.
    #[allow(dead_code, reason = "for the tests of the store")]
    pub fn encrypted(certificate: &Path, key: &Path) -> Option<Self> {
        Self::start_with(&[certificate, key])
    }

    fn start_with(arguments: &[&Path]) -> Option<Self> {
        let Some(python) = python() else {
            assert!(
                std::env::var_os("INFERBENCH_REQUIRE_S3").is_none(),
                "INFERBENCH_REQUIRE_S3 is set, but there is no moto_server: run scripts/install-test-tools"
            );
            eprintln!(
                "skipped: no moto_server on the PATH or in INFERBENCH_MOTO; scripts/install-test-tools makes one"
            );
            return None;
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/s3-server");
        let mut process = Command::new(python)
            .arg(script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the Python beside moto_server starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("scripts/s3-server: {error}: {line:?}"));
        Some(Self { process, ready })
    }

    /// Opens a prefix of its bucket.
    pub fn open(&self, prefix: &str) -> Store {
        self.open_with(prefix, &self.ready.secret_access_key)
    }

    /// Opens a prefix of its bucket with another secret.
    pub fn open_with(&self, prefix: &str, secret: &str) -> Store {
        self.open_bucket(&self.ready.bucket, prefix, secret)
    }

    /// Opens a prefix of any bucket.
    pub fn open_bucket(&self, bucket: &str, prefix: &str, secret: &str) -> Store {
        let settings = [
            ("AWS_ACCESS_KEY_ID", self.ready.access_key_id.as_str()),
            ("AWS_SECRET_ACCESS_KEY", secret),
        ];
        let options = StoreOptions {
            endpoint: Some(self.ready.endpoint.clone()),
            region: Some(self.ready.region.clone()),
            settings: settings
                .map(|(name, value)| (name.into(), value.into()))
                .to_vec(),
        };
        Store::open(&format!("s3://{bucket}/{prefix}"), &options).unwrap()
    }

    /// Its address, its region and its bucket.
    #[allow(dead_code, reason = "for the tests of whole sweeps in a cluster")]
    pub fn address(&self) -> (&str, &str, &str) {
        let Ready {
            endpoint,
            region,
            bucket,
            ..
        } = &self.ready;
        (endpoint, region, bucket)
    }

    /// Whom it lets in.
    #[allow(dead_code, reason = "for the tests of whole sweeps in a cluster")]
    pub fn access_key(&self) -> &str {
        &self.ready.access_key_id
    }

    /// The secret that opens it.
    pub fn secret(&self) -> &str {
        &self.ready.secret_access_key
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The Python that has moto: the one beside `moto_server`, which INFERBENCH_MOTO names, or the PATH, or `.venv`.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("INFERBENCH_MOTO").map(PathBuf::from);
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin");
    let folders = std::env::split_paths(&on_path).chain([own]);
    named
        .into_iter()
        .chain(folders.map(|folder| folder.join("moto_server")))
        .filter(|server| server.is_file())
        .map(|server| server.with_file_name("python3"))
        .find(|python| python.is_file())
}

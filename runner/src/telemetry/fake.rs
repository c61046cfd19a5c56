//! For tests: a stand-in for NVIDIA's management library, which is compiled of `tests/telemetry/fake_nvml.c`; that file
//! says what its devices can do.

use std::{path::PathBuf, process::Command, sync::OnceLock};

use super::nvml::WatchedGpus;

/// Opens GPUs of the stand-in; `None`, with a word, where there is no C compiler.
pub(super) fn open(uuids: &[&str]) -> Option<Result<WatchedGpus, String>> {
    let uuids: Vec<String> = uuids.iter().map(|uuid| (*uuid).to_owned()).collect();
    let library = library()?;
    Some(WatchedGpus::open_with(Some(library.as_os_str()), &uuids))
}

/// The compiled stand-in, once per process.
fn library() -> Option<&'static PathBuf> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    LIBRARY.get_or_init(compiled).as_ref()
}

fn compiled() -> Option<PathBuf> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/telemetry/fake_nvml.c");
    let folder = tempfile::tempdir().unwrap().keep();
    let library = folder.join("libfake-nvml.so");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let ran = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .output();
    match ran {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{source}: {said}");
            Some(library)
        }
        Err(error) => {
            println!("skipped: {} cannot be run: {error}", compiler.display());
            None
        }
    }
}

//! Which program measures on GPUs. One built for them does not even start without the NVIDIA driver's library, so there
//! are two of the same source: `inferbench`, which needs nothing, and `inferbench-cuda` beside it, which it starts for
//! trials on GPUs.

use std::path::{Path, PathBuf};

use inferbench_engine::gpu::{COMPILED, driver};

/// The name of the program that is built for GPUs.
pub const PROGRAM: &str = "inferbench-cuda";

/// The program that measures on this number of GPUs; none where this one can.
///
/// # Errors
/// Names the missing part, where nothing can measure on GPUs here.
pub fn for_gpus(gpus: u32) -> Result<Option<PathBuf>, String> {
    if gpus == 0 || COMPILED {
        return Ok(None);
    }
    let own = std::env::current_exe().map_err(|error| format!("this program's place: {error}"))?;
    beside(&own, &driver).map(Some)
}

fn beside(own: &Path, driver: &dyn Fn() -> Result<(), String>) -> Result<PathBuf, String> {
    let program = own.with_file_name(PROGRAM);
    if !program.is_file() {
        return Err(format!(
            "{} computes on the CPU only, and {PROGRAM}, the same program built for GPUs, is not beside it",
            own.display()
        ));
    }
    driver().map_err(|why| {
        format!("this machine has no NVIDIA driver, or this container does not see it ({why})")
    })?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("inferbench");
        let there = || Ok(());
        let missing = beside(&own, &there).unwrap_err();
        assert!(
            missing.contains("inferbench-cuda, the same program built for GPUs, is not beside it")
        );
        std::fs::write(folder.path().join(PROGRAM), "").unwrap();
        assert_eq!(beside(&own, &there), Ok(folder.path().join(PROGRAM)));
        let missing = beside(&own, &|| Err("no such file".into())).unwrap_err();
        assert!(missing.contains("no NVIDIA driver") && missing.contains("no such file"));
    }
}

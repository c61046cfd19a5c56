//! `inferbench install`: copies this program, so that a pod with another image can run it.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::{
    cli::InstallArgs,
    process::{exit::Exit, print_error},
    tls,
};

/// Copies the file of this process, executable by everyone, and beside it the certificates that are trusted here: the
/// other image may have none, or not those of a company's own store.
pub fn run(args: &InstallArgs) -> Exit {
    let copied = std::env::current_exe()
        .and_then(|program| fs::copy(program, &args.path))
        .and_then(|_| fs::set_permissions(&args.path, fs::Permissions::from_mode(0o755)))
        .and_then(|()| tls::bring_along(&args.path));
    match copied {
        Ok(()) => Exit::Ok,
        Err(error) => {
            print_error(&format!("{}: {error}", args.path.display()));
            Exit::Failed
        }
    }
}

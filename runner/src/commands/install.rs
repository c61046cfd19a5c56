//! `inferbench install`: copies this program, so that a pod with another image can run it.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::{
    cli::InstallArgs,
    process::{exit::Exit, print_error},
};

/// Copies the file of this process, executable by everyone.
pub fn run(args: &InstallArgs) -> Exit {
    let copied = std::env::current_exe()
        .and_then(|program| fs::copy(program, &args.path))
        .and_then(|_| fs::set_permissions(&args.path, fs::Permissions::from_mode(0o755)));
    match copied {
        Ok(()) => Exit::Ok,
        Err(error) => {
            print_error(&format!("{}: {error}", args.path.display()));
            Exit::Failed
        }
    }
}

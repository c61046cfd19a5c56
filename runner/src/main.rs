//! The `inferbench` command.

use std::process::ExitCode;

use inferbench_runner::{cli, commands};

fn main() -> ExitCode {
    commands::run(&cli::parse()).into()
}

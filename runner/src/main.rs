//! The `inferbench` command.

use std::process::ExitCode;

use clap::Parser;
use inferbench_runner::{cli::Cli, commands};

fn main() -> ExitCode {
    commands::run(&Cli::parse()).into()
}

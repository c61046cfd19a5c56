//! The `inferbench-cuda` command: `inferbench`, built to compute on GPUs. `inferbench` starts it for trials on them.

use std::process::ExitCode;

use clap::Parser;
use inferbench_runner::{cli::Cli, commands};

fn main() -> ExitCode {
    commands::run(&Cli::parse()).into()
}

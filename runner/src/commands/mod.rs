//! The commands. A command prints what it has to say and returns how it ended.

mod collect;
mod compare;
mod export;
mod fetch;
mod generate;
mod import;
mod input;
mod install;
mod judge;
mod plan;
mod report;
mod run;
mod table;
mod validate;
mod weights;

use std::{env, path::Path};

use inferbench_crds::contract::REQUESTS_VARIABLE;

use crate::{
    cli::{Cli, Command},
    pod,
    process::exit::Exit,
    trial::serve,
};

/// Does what the command line says.
#[must_use]
pub fn run(cli: &Cli) -> Exit {
    match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Validate(args) => validate::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Weights(args) => weights::run(args),
        Command::Collect(args) => collect::run(args),
        Command::Report(args) => report::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Judge(args) => judge::run(args),
        Command::Import(args) => import::run(args),
        Command::Export(args) => export::run(args),
        Command::Install(args) => install::run(args),
        Command::Fetch(args) => fetch::run(args),
        Command::Pack(args) => fetch::pack(args),
        Command::Preflight(args) => pod::preflight::run(&args.requests),
        // In a pod, whose requests are in a file, it is the parent of such processes.
        Command::Trial => match env::var_os(REQUESTS_VARIABLE) {
            Some(requests) => pod::trials::run(Path::new(&requests)),
            None => serve::run(),
        },
    }
}

//! `inferbench validate`.

use inferbench_crds::{
    design::Expansion,
    validate::{Scope, notes},
};

use super::input::resources;
use crate::{cli::ValidateArgs, process::exit::Exit};

/// Checks every file, also after one that is wrong.
pub fn run(args: &ValidateArgs) -> Exit {
    let scope = if args.cluster {
        Scope::Cluster
    } else {
        Scope::Local
    };
    let mut exit = Exit::Ok;
    for path in &args.files {
        let found = match resources(path, scope) {
            Ok(found) => found,
            Err(error) => {
                exit = error;
                continue;
            }
        };
        for resource in found {
            let expansion = Expansion::new(&resource.spec.design);
            let name = resource.metadata.name.unwrap_or_default();
            let most = if resource.spec.design.until.is_some() {
                "at most "
            } else {
                ""
            };
            println!(
                "{}: {name}: ok ({} combinations, {most}{} trials)",
                path.display(),
                expansion.combinations_len(),
                expansion.len()
            );
            for note in notes(&resource.spec) {
                println!("{}: {name}: note: {note}", path.display());
            }
        }
    }
    exit
}

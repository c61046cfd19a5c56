//! Writes the CustomResourceDefinition beside its source; with `--check` only says whether the file is stale.

use std::{env, fs, path::Path, process::ExitCode};

const FILE: &str = "inferencebenchmarks.inferbench.dev.yaml";

fn main() -> ExitCode {
    match run(&env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("crdgen: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let yaml = inferbench_crds::crd::yaml().map_err(|error| error.to_string())?;
    match arguments {
        [] => fs::write(&path, yaml).map_err(|error| format!("crds/{FILE}: {error}")),
        [only] if only == "--check" => match fs::read_to_string(&path) {
            Ok(committed) if committed == yaml => Ok(()),
            Ok(_) => Err(format!(
                "crds/{FILE} is stale: run `cargo run -p inferbench-crds --bin crdgen`"
            )),
            Err(error) => Err(format!("crds/{FILE}: {error}")),
        },
        _ => Err(format!(
            "unknown arguments {arguments:?}: allowed are none, and --check"
        )),
    }
}

//! `inferbench import`: what other tools have measured, as a trials.csv.

use std::{fs, path::Path};

use inferbench_results::{
    import::{File, VllmOptions, vllm_latency},
    tables::{read_trials_table, write_csv},
};

use super::input::{TRIALS_CSV, open, put, table};
use crate::{
    cli::{ImportArgs, ImportFrom, VllmLatencyArgs},
    process::{exit::Exit, print_error},
};

/// Imports files.
pub fn run(args: &ImportArgs) -> Exit {
    let ImportFrom::VllmLatency(args) = &args.from;
    import(args).err().unwrap_or(Exit::Ok)
}

fn import(args: &VllmLatencyArgs) -> Result<(), Exit> {
    let files = args
        .files
        .iter()
        .map(|path| read(path))
        .collect::<Result<Vec<File>, Exit>>()?;
    let options = VllmOptions {
        sweep: args.sweep.clone(),
        model: args.model.clone(),
        model_revision: args.model_revision.clone(),
        batch_size: args.batch_size,
        input_length: args.input_len,
        output_length: args.output_len,
        gpus: args.gpus,
        dtype: args.dtype.clone(),
        engine_version: args.engine_version.clone(),
        device: args.device.clone(),
    };
    let store = open(&args.out)?;
    let before = match table(&store)? {
        Some(bytes) => {
            let table = read_trials_table(&bytes).map_err(|error| bad(&error))?;
            for note in &table.notes {
                print_error(&format!("{}: {note}", args.out));
            }
            table.rows
        }
        None => Vec::new(),
    };
    let rows = vllm_latency(before, &files, &options).map_err(|error| bad(&error))?;
    let csv = write_csv(&rows).map_err(|error| bad(&error))?;
    put(&store, TRIALS_CSV, &csv)?;
    println!(
        "{}: {TRIALS_CSV} has {} trials, {} of them new",
        store.location(),
        rows.len(),
        files.len()
    );
    Ok(())
}

fn read(path: &Path) -> Result<File, Exit> {
    let name = path.display().to_string();
    match fs::read(path) {
        Ok(bytes) => Ok(File { name, bytes }),
        Err(error) => Err(bad(&format!("{name}: {error}"))),
    }
}

fn bad(error: &dyn std::fmt::Display) -> Exit {
    print_error(error);
    Exit::BadInput
}

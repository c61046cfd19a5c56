//! `inferbench import`: what other tools have measured, as a trials.csv.

use std::{fs, path::Path};

use inferbench_results::{
    import::{File, ImportError, VllmOptions, VllmServeOptions, vllm_latency, vllm_serve},
    row::Row,
    tables::{read_trials_table, write_csv},
};

use super::input::{TRIALS_CSV, open, put, table};
use crate::{
    cli::{ImportArgs, ImportFrom, Imported, VllmLatencyArgs, VllmServeArgs},
    process::{exit::Exit, print_error},
};

/// Imports files.
pub fn run(args: &ImportArgs) -> Exit {
    let imported = match &args.from {
        ImportFrom::VllmLatency(args) => import(&args.import, |before, files| {
            vllm_latency(before, files, &of_latency(args))
        }),
        ImportFrom::VllmServe(args) => import(&args.import, |before, files| {
            vllm_serve(before, files, &of_serve(args))
        }),
    };
    imported.err().unwrap_or(Exit::Ok)
}

fn of_latency(args: &VllmLatencyArgs) -> VllmOptions {
    VllmOptions {
        sweep: args.import.sweep.clone(),
        model: args.model.clone(),
        model_revision: args.model_revision.clone(),
        batch_size: args.batch_size,
        input_length: args.input_len,
        output_length: args.output_len,
        gpus: args.gpus,
        dtype: args.dtype.clone(),
        engine_version: args.engine_version.clone(),
        device: args.device.clone(),
    }
}

fn of_serve(args: &VllmServeArgs) -> VllmServeOptions {
    VllmServeOptions {
        sweep: args.import.sweep.clone(),
        model: args.model.clone(),
        model_revision: args.model_revision.clone(),
        input_length: args.input_len,
        output_length: args.output_len,
        gpus: args.gpus,
        dtype: args.dtype.clone(),
        engine: Some(args.engine.clone()),
        engine_version: args.engine_version.clone(),
        device: args.device.clone(),
    }
}

/// Adds files, read by `rows`, to the table of a folder or URL.
fn import(
    told: &Imported,
    rows: impl FnOnce(Vec<Row>, &[File]) -> Result<Vec<Row>, ImportError>,
) -> Result<(), Exit> {
    let out = &told.out;
    let files = told
        .files
        .iter()
        .map(|path| read(path))
        .collect::<Result<Vec<File>, Exit>>()?;
    let store = open(out)?;
    let before = match table(&store)? {
        Some(bytes) => {
            let table = read_trials_table(&bytes).map_err(|error| bad(&error))?;
            for note in &table.notes {
                print_error(&format!("{out}: {note}"));
            }
            table.rows
        }
        None => Vec::new(),
    };
    let rows = rows(before, &files).map_err(|error| bad(&error))?;
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

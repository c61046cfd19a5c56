//! `inferbench export`: a sweep's trials in the form of another project.

use inferbench_results::{export::llm_d, sample::latest_attempts};

use super::input::{open, put, rows};
use crate::{
    cli::{ExportArgs, ExportTo, LlmDArgs},
    process::{exit::Exit, print_error},
};

/// Exports a sweep.
pub fn run(args: &ExportArgs) -> Exit {
    let ExportTo::LlmD(args) = &args.to;
    export(args).err().unwrap_or(Exit::Ok)
}

fn export(args: &LlmDArgs) -> Result<(), Exit> {
    let rows = rows(&args.sweep)?;
    let latest = latest_attempts(&rows);
    let store = open(&args.out)?;
    let mut written = 0;
    for row in &latest {
        let Some(report) = llm_d::report(row) else {
            continue;
        };
        let document = serde_json::to_vec_pretty(&report).map_err(|error| {
            print_error(&error);
            Exit::Failed
        })?;
        put(&store, &llm_d::file_name(row), &document)?;
        written += 1;
    }
    println!(
        "{}: {written} reports; {} trials without a valid measurement have none",
        store.location(),
        latest.len() - written
    );
    Ok(())
}

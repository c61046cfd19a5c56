//! `inferbench report`: what a sweep's table says, as a page, as Markdown or as JSON, at any time.

use std::path::Path;

use super::input::{TRIALS_CSV, open, put, stored, stored_expectations, trials};
use crate::{
    cli::{ReportArgs, ReportFormat},
    process::{exit::Exit, print_error},
    sweep::collect,
};
use inferbench_crds::{
    layout::{ANALYSIS, DESIGN, MANIFEST, REPORT, SUMMARY},
    spec::{Design, Objectives},
};
use inferbench_results::{
    analysis::{Analysis, analyze, analyze_design, expectations::judge},
    beside::beside,
    figures,
    looks::Looks,
    report::{Report, markdown},
    row::Row,
    summary::{CombinationSummary, Summary, doubtful, summarize_looked_at},
    tables::write_csv,
};

/// Reports on a sweep.
pub fn run(args: &ReportArgs) -> Exit {
    match report(args) {
        Ok(()) => Exit::Ok,
        Err(exit) => exit,
    }
}

fn report(args: &ReportArgs) -> Result<(), Exit> {
    let objectives = objectives(args)?;
    let mut sweeps = Vec::new();
    let mut names = Vec::new();
    let mut notes = Vec::new();
    for sweep in &args.sweeps {
        let mut table = trials(sweep)?;
        leave_out_other_goodput(sweep, &mut table.rows, &objectives)?;
        let name = name(sweep, &table.rows);
        notes.extend(table.notes.iter().map(|note| format!("{name}: {note}")));
        names.push(name);
        sweeps.push(table.rows);
    }
    let rows = beside(sweeps);
    // Sweeps side by side have no rule and no design in common.
    let (looks, design) = match args.sweeps.as_slice() {
        [sweep] => (
            stored::<Summary>(sweep, SUMMARY)?.and_then(|summary| Looks::again(&summary.stopped?)),
            stored::<Design>(sweep, DESIGN)?,
        ),
        _ => (None, None),
    };
    let summary = summarize_looked_at(&names.join(" + "), &rows, &objectives, looks.as_ref());
    let mut analysis = match &design {
        Some(design) => analyze_design(&rows, &summary, &objectives, design),
        None => analyze(&rows, &summary, &objectives),
    };
    analysis.table_notes = notes;
    analysis.expectations = judge(&rows, &stored_expectations(first(args))?);
    let doubtful = if args.valid_only {
        Vec::new()
    } else {
        doubtful(&rows)
    };
    match args.format {
        ReportFormat::Html => write(args, &rows, &summary, &analysis, &doubtful),
        ReportFormat::Md => {
            print!("{}", text(&summary, &analysis, &doubtful));
            Ok(())
        }
        ReportFormat::Json => match serde_json::to_string_pretty(&analysis) {
            Ok(document) => {
                println!("{document}");
                Ok(())
            }
            Err(error) => {
                print_error(&error);
                Err(Exit::Failed)
            }
        },
    }
}

fn text(summary: &Summary, analysis: &Analysis, doubtful: &[CombinationSummary]) -> String {
    markdown(&Report {
        summary,
        analysis,
        objectives: &summary.objectives,
        figures: &figures::all(summary, analysis),
        doubtful,
    })
}

/// Into a folder of its own, with all files that the page refers to: what the collection has made stays as its manifest
/// says, and may have been made under other objectives.
fn write(
    args: &ReportArgs,
    rows: &[Row],
    summary: &Summary,
    analysis: &Analysis,
    doubtful: &[CombinationSummary],
) -> Result<(), Exit> {
    let failed = |error: &dyn std::fmt::Display| {
        print_error(error);
        Exit::Failed
    };
    let out = args.out.clone().unwrap_or_else(|| folder(first(args)));
    let store = open(&out)?;
    let collected = store.get(MANIFEST).map_err(|error| failed(&error))?;
    if collected.is_some() {
        print_error(&format!(
            "{out}: holds a collected sweep, whose {MANIFEST} says what its files are; tell another place with --out"
        ));
        return Err(Exit::BadInput);
    }
    let figures = figures::all(summary, analysis);
    let documents = collect::documents(summary, analysis, &figures, doubtful)
        .map_err(|error| failed(&error))?;
    for (path, bytes) in &documents {
        put(&store, path, bytes)?;
    }
    let summary = serde_json::to_vec_pretty(summary).map_err(|error| failed(&error))?;
    put(&store, SUMMARY, &summary)?;
    let table = write_csv(rows).map_err(|error| failed(&error))?;
    put(&store, TRIALS_CSV, &table)?;
    for figure in &figures {
        if let Some(png) = figure.png() {
            put(&store, &format!("figures/{}.png", figure.name), &png)?;
        }
    }
    println!(
        "{}: {REPORT}, {ANALYSIS}, {SUMMARY}, {TRIALS_CSV}, figures/",
        store.location()
    );
    Ok(())
}

/// `report` in the sweep's folder or below its URL, or beside its table.
fn folder(sweep: &str) -> String {
    let path = Path::new(sweep);
    if sweep.contains("://") {
        return format!("{}/report", sweep.trim_end_matches('/'));
    }
    let folder = if path.is_file() {
        path.parent().unwrap_or(Path::new(""))
    } else {
        path
    };
    folder.join("report").to_string_lossy().into_owned()
}

/// The name in the rows, or that of the place.
fn name(sweep: &str, rows: &[Row]) -> String {
    let named = rows
        .iter()
        .map(|row| row.sweep.as_str())
        .find(|name| !name.is_empty());
    named.unwrap_or(sweep).to_owned()
}

/// The first sweep; the command line asks for at least one.
fn first(args: &ReportArgs) -> &str {
    args.sweeps.first().map_or("", String::as_str)
}

/// Those of the command line, else those that the sweep was collected with.
fn objectives(args: &ReportArgs) -> Result<Objectives, Exit> {
    let stored = stored_objectives(first(args))?;
    Ok(Objectives {
        max_ttft: args.max_ttft.or(stored.max_ttft),
        max_tpot: args.max_tpot.or(stored.max_tpot),
        max_e2e: args.max_e2e.or(stored.max_e2e),
        cost_per_gpu_hour: args.cost_per_gpu_hour.clone().or(stored.cost_per_gpu_hour),
        workloads: stored.workloads,
    })
}

/// Goodput counts the requests that keep to objectives, and a table has it under those that the sweep was collected
/// with: under others it is left out, with a word.
fn leave_out_other_goodput(
    sweep: &str,
    rows: &mut [Row],
    objectives: &Objectives,
) -> Result<(), Exit> {
    let stored = stored_objectives(sweep)?;
    let times = |of: &Objectives| [of.max_ttft, of.max_tpot, of.max_e2e];
    if times(&stored) == times(objectives) || rows.iter().all(|row| row.goodput.is_none()) {
        return Ok(());
    }
    for row in rows {
        row.goodput = None;
    }
    print_error(&format!(
        "{sweep}: its goodput is left out, as it counts requests under other objectives; inferbench collect counts \
         them anew by its records"
    ));
    Ok(())
}

/// A table made elsewhere has no summary beside it, and no objectives then.
fn stored_objectives(sweep: &str) -> Result<Objectives, Exit> {
    Ok(stored::<Summary>(sweep, SUMMARY)?
        .map(|summary| summary.objectives)
        .unwrap_or_default())
}

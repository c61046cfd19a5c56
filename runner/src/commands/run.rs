//! `inferbench run`: a whole sweep on this machine.

use std::{collections::BTreeMap, io::Write, path::Path, time::Duration};

use inferbench_crds::{
    InferenceBenchmark, contract::API_KEY_VARIABLE, design::Combination, layout::TRIALS,
    spec::Model,
};
use inferbench_results::{record::Outcome, sample::in_replicates_of_all};

use super::{
    input::{refuse_gpus, refuse_parameters, resource, store_at},
    judge, table,
};
use crate::{
    backend::Access,
    cli::RunArgs,
    machine::{Machine, quiet},
    models::{Need, Resolved},
    process::{exit::Exit, lock::FolderLock, print_error, signals},
    store::{Store, StoreError},
    sweep::{
        endpoints,
        executor::{Executor, InProcess, Processes},
        prepared::Prepared,
        run::{Run, RunError, SweepEnding},
        stored::{LocalLedger, Pin, SWEEP_FILE, SweepFile, write_failures},
        tables,
    },
    trial::recording,
};

/// Leftovers of a killed run that are older than this are swept away; younger ones may be a neighbour's.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// Runs a sweep.
pub fn run(args: &RunArgs) -> Exit {
    signals::listen();
    try_run(args).unwrap_or_else(|failed| match failed {
        Failed::Printed(exit) => exit,
        Failed::Run(error) => {
            print_error(&error);
            Exit::Failed
        }
    })
}

/// Why a sweep could not go on.
enum Failed {
    /// That has been printed.
    Printed(Exit),
    Run(RunError),
}

impl From<Exit> for Failed {
    fn from(exit: Exit) -> Self {
        Failed::Printed(exit)
    }
}

impl From<RunError> for Failed {
    fn from(error: RunError) -> Self {
        Failed::Run(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Failed::Run(error.into())
    }
}

fn try_run(args: &RunArgs) -> Result<Exit, Failed> {
    let resource = resource(&args.file)?;
    refuse_gpus(&args.file, &resource, args.in_process)?;
    if args.in_process {
        refuse_parameters(&args.file, &resource)?;
    }
    let at = store_at(args.out.as_deref(), &resource);
    let store = Store::at(&at)?;
    let _lock = occupy(&store)?;
    store.probe()?;
    store.remove_leftovers(LEFTOVER_AGE)?;
    let (mut file, damaged) = SweepFile::read(&store)?;
    damaged.iter().for_each(|damage| print_error(damage));
    let sweep = prepare(args, &resource, &mut file)?;
    file.write(&store)?;

    let (ledger, corrupt) = LocalLedger::read(&store, &sweep)?;
    corrupt.iter().for_each(|corrupt| print_error(corrupt));
    let machine = Machine::look();
    let reused = ledger.latest().count();
    introduce(&sweep, &store, reused);
    flag_other_machines(&ledger, &machine);
    let mut executor = executor(args, &sweep, &store, &machine);
    let mut run = Run::new(&sweep, &store, &at, &machine, file, ledger)?;
    if run.finished() < sweep.expansion.len() as usize {
        ask_endpoints(&sweep, &run)?;
        look_around(&sweep, &machine, args.require_quiet)?;
    }
    match run.measure(executor.as_mut())? {
        SweepEnding::Interrupted => Ok(interrupted(args, &run)),
        ending => conclude(args, &run, &sweep, &store, reused, ending),
    }
}

/// Takes a folder for this sweep alone. A folder with anything else in it is left alone.
fn occupy(store: &Store) -> Result<Option<FolderLock>, Failed> {
    let Some(folder) = store.folder() else {
        return Ok(None);
    };
    if holds_something_else(folder) {
        print_error(&format!(
            "{}: the folder holds files, but none of a sweep ({} is missing); choose another with --out",
            folder.display(),
            SWEEP_FILE
        ));
        return Err(Exit::BadInput.into());
    }
    let lock = FolderLock::take(folder).map_err(|error| {
        print_error(&error);
        Exit::Failed
    })?;
    Ok(Some(lock))
}

fn holds_something_else(folder: &Path) -> bool {
    let Ok(entries) = folder.read_dir() else {
        return false;
    };
    let hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
    let visible = entries.flatten().any(|entry| !hidden(&entry.file_name()));
    visible && !folder.join(SWEEP_FILE).exists() && !folder.join(TRIALS).is_dir()
}

/// The sweep with its models, whose revisions `file` gets; they stay what they were when the sweep began.
fn prepare(
    args: &RunArgs,
    resource: &InferenceBenchmark,
    file: &mut SweepFile,
) -> Result<Prepared, Exit> {
    let models = &resource.spec.design.factors.model;
    let pinned = |name: &str| {
        let model = models.iter().find(|model| model.name == name)?;
        file.pinned(name, &model.source).map(str::to_owned)
    };
    let mut sweep = Prepared::new(resource, Need::Weights, &pinned).map_err(|error| {
        print_error(&format!("{}: {error}", args.file.display()));
        Exit::BadInput
    })?;
    if args.in_process {
        sweep.share_process();
    }
    file.name.clone_from(&sweep.name);
    let pin = |(model, level): (&Resolved, &Model)| Pin {
        name: model.name.clone(),
        source: level.source.clone(),
        revision: model.revision.clone(),
    };
    file.models = sweep.models().iter().zip(models).map(pin).collect();
    Ok(sweep)
}

fn executor<'a>(
    args: &RunArgs,
    sweep: &Prepared,
    store: &'a Store,
    machine: &Machine,
) -> Box<dyn Executor + 'a> {
    if args.in_process {
        return Box::new(InProcess::new(store));
    }
    Box::new(Processes::new(
        machine.clone(),
        sweep.spec.execution.trials_per_job,
    ))
}

fn introduce(sweep: &Prepared, store: &Store, reused: usize) {
    let (design, expansion) = (&sweep.spec.design, &sweep.expansion);
    let (least, most) = match &design.until {
        Some(until) => (format!("{} to ", until.min), "at most "),
        None => (String::new(), ""),
    };
    let again = design.confirm.map_or(String::new(), |confirm| {
        let (most, replicates) = (expansion.most_confirmed(), confirm.replicates);
        format!(", and then the best again: at most {most} × {replicates}")
    });
    eprintln!(
        "{}: {} combinations × {least}{} replicates = {most}{} trials{again}{}, into {}",
        sweep.name,
        expansion.combinations_len(),
        design.replicates,
        expansion.combinations_len() * expansion.blocks_of_all(),
        if reused > 0 {
            format!(", {reused} of them measured before")
        } else {
            String::new()
        },
        store.location()
    );
}

/// Asks every endpoint that is still to be measured one request, so that a mistake shows before the first trial.
fn ask_endpoints(sweep: &Prepared, run: &Run<'_>) -> Result<(), Exit> {
    let engines = sweep.spec.design.factors.engines();
    let model = |combination: &Combination| Some(sweep.model(combination));
    let key = |_| Access::key_in(API_KEY_VARIABLE);
    endpoints::ask(&engines, run.to_measure(), &model, &key).map_err(|unusable| {
        print_error(&format!("{unusable}. Nothing was measured"));
        Exit::Failed
    })
}

/// Says whether something else is busy on this machine, before the first trial; where quiet is required, that is the
/// end.
fn look_around(sweep: &Prepared, machine: &Machine, required: bool) -> Result<(), Exit> {
    let cpus = machine.cpus.len();
    let gpus = sweep.spec.design.factors.gpus.iter().copied().max();
    // As trials are judged: on GPUs, a thread for each does nothing but enqueue.
    let threads = match gpus.unwrap_or_default() {
        0 => std::thread::available_parallelism().map_or(cpus, usize::from),
        gpus => gpus.unsigned_abs() as usize,
    };
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let Some(warning) = quiet::warning(&quiet::look(&machine.cpus), count(threads), count(cpus))
    else {
        return Ok(());
    };
    if required {
        print_error(&format!(
            "{warning} Nothing was measured, as --require-quiet asks"
        ));
        return Err(Exit::NotQuiet);
    }
    print_error(&format!(
        "warning: {warning} The run goes on (not with --require-quiet)"
    ));
    Ok(())
}

/// Says which stored records come from another processor, device or driver than this machine would write.
fn flag_other_machines(ledger: &LocalLedger, machine: &Machine) {
    let here = recording::provenance(machine, 0);
    let mut others: BTreeMap<String, usize> = BTreeMap::new();
    let measured = ledger.latest();
    for row in measured.filter(|row| row.outcome == Some(Outcome::Succeeded)) {
        let (device, cpu) = (row.device.as_deref(), row.cpu.as_deref());
        // Of GPUs only those who measure on them know.
        let other_device = row.gpus == 0 && device != Some(&here.device);
        if other_device || cpu != Some(&here.cpu) {
            let place = [device, cpu, row.driver.as_deref()].into_iter().flatten();
            *others
                .entry(place.collect::<Vec<_>>().join(", "))
                .or_default() += 1;
        }
    }
    for (place, count) in others {
        print_error(&format!(
            "warning: {count} stored trials were measured on another machine ({place}; this one: {}, {}); \
             they are kept, but do not compare well",
            here.device, here.cpu
        ));
    }
}

fn interrupted(args: &RunArgs, run: &Run<'_>) -> Exit {
    let out = args.out.as_ref();
    let out = out.map_or(String::new(), |out| format!(" --out {out}"));
    let (done, total) = run.progress();
    eprintln!(
        "\ninterrupted: {done} of {total} trials are done and stored. Resume with\n  inferbench run {}{out}",
        args.file.display()
    );
    Exit::Interrupted
}

/// Collects, and says how it went.
fn conclude(
    args: &RunArgs,
    run: &Run<'_>,
    sweep: &Prepared,
    store: &Store,
    reused: usize,
    ending: SweepEnding,
) -> Result<Exit, Failed> {
    let (ledger, failures) = (run.ledger(), run.failures());
    write_failures(store, &failures)?;
    let collected = tables::make(store, sweep, &tables::of_failures(sweep, &failures))
        .map_err(|error| RunError::Failed(error.to_string()))?;
    let lines = table::lines(in_replicates_of_all(ledger.latest()), args.valid_only);
    let mut out = std::io::stdout().lock();
    // A reader that has seen enough closes the pipe.
    let _ = writeln!(out, "\n{}\n", table::render(&lines));
    for best in table::best(&collected.summary) {
        let _ = writeln!(out, "{best}");
    }
    if !collected.judgements.is_empty() {
        let _ = writeln!(out, "\n{}", judge::render(&collected.judgements));
    }
    drop(out);

    let total = sweep.expansion.len() as usize;
    let numbers = Numbers {
        total,
        reused,
        failed: failures.len(),
        not_needed: run.not_needed(),
    };
    eprintln!("\n{}", counts(ledger, &numbers));
    if let Some(why) = collected.summary.basis.unmeasured_headline() {
        eprintln!("{why}");
    }
    for failure in failures.iter().take(3) {
        eprintln!("  trial {}: {}", failure.trial_index, failure.message);
    }
    eprintln!(
        "{}: report.html, trials.csv, summary.json, …",
        store.location()
    );
    let execution = &sweep.spec.execution;
    if ending == SweepEnding::OverBudget || execution.is_over_budget(failures.len(), total) {
        print_error(&format!(
            "{} of {total} trials failed: more than maxFailedPercent {} with onFailure {:?} allows. The same \
             command tries them again",
            failures.len(),
            execution.max_failed_percent,
            execution.on_failure
        ));
        return Ok(Exit::Failed);
    }
    Ok(Exit::Ok)
}

/// How many trials there are, and what became of those that the stored attempts do not tell.
struct Numbers {
    total: usize,
    reused: usize,
    failed: usize,
    not_needed: usize,
}

fn counts(ledger: &LocalLedger, numbers: &Numbers) -> String {
    let Numbers {
        total,
        reused,
        failed,
        not_needed,
    } = *numbers;
    let measured = ledger.latest().count().saturating_sub(reused);
    let mut parts = vec![
        format!("{total} trials"),
        format!("{measured} measured now"),
    ];
    if reused > 0 {
        parts.push(format!("{reused} reused"));
    }
    for outcome in [
        Outcome::OutOfMemory,
        Outcome::Unsupported,
        Outcome::TimedOut,
    ] {
        let count = ledger.count(outcome);
        if count > 0 {
            parts.push(format!("{count} {outcome:?}"));
        }
    }
    if not_needed > 0 {
        parts.push(format!("{not_needed} not needed"));
    }
    let invalid = ledger.latest().filter(|row| row.valid == Some(false));
    let invalid = invalid.count();
    if invalid > 0 {
        parts.push(format!(
            "{invalid} INVALID (trials.csv says why; left out of the means)"
        ));
    }
    if failed > 0 {
        parts.push(format!("{failed} FAILED"));
    }
    parts.join(", ")
}

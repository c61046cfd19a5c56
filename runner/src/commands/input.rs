//! The input of commands: specs, sweeps, stores and presets. Faults in it are printed here, and the exit code returned.

use std::{fs, path::Path};

use inferbench_crds::{
    InferenceBenchmark, engine::Engine, expectation::Expectation, file, layout::ANALYSIS,
    presets::PRESETS, validate::Scope,
};
use inferbench_results::{
    analysis::{Analysis, expectations::Judgement},
    row::Row,
    tables::{TrialsTable, read_trials_table},
};
use serde::de::DeserializeOwned;

use crate::{
    cli::DtypeArg,
    process::{exit::Exit, print_error, program},
    store::{Store, StoreOptions},
    trial::protocol::StoreAt,
};

/// The resources of a file that keep to every rule; else everything that is wrong has been said.
pub(super) fn resources(path: &Path, scope: Scope) -> Result<Vec<InferenceBenchmark>, Exit> {
    let shown = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| {
        print_error(&format!("{shown}: {error}"));
        Exit::BadInput
    })?;
    file::load(&text, &shown, scope).map_err(|error| {
        eprintln!("{error}");
        Exit::BadInput
    })
}

/// The one resource of a file.
pub(super) fn resource(path: &Path) -> Result<InferenceBenchmark, Exit> {
    let mut found = resources(path, Scope::Local)?;
    if found.len() != 1 {
        print_error(&format!(
            "{}: holds {} resources, 1 is needed",
            path.display(),
            found.len()
        ));
        return Err(Exit::BadInput);
    }
    Ok(found.remove(0))
}

/// Where a sweep's results are: as the command line says, else as the spec does, else in a folder named after it.
pub(super) fn store_at(out: Option<&str>, resource: &InferenceBenchmark) -> StoreAt {
    let name = resource
        .metadata
        .name
        .as_deref()
        .unwrap_or("inferbench-results");
    let store = resource.spec.results.store.as_ref();
    let of_spec = store.and_then(|store| store.url.as_deref());
    let target = match (out, of_spec) {
        (Some(out), _) => out.to_owned(),
        (None, Some(url)) => format!("{}/{name}", url.trim_end_matches('/')),
        (None, None) => name.to_owned(),
    };
    StoreAt {
        target,
        endpoint: store.and_then(|store| store.endpoint.clone()),
        region: store.and_then(|store| store.region.clone()),
    }
}

/// The table of the trials in a sweep's place.
pub(super) const TRIALS_CSV: &str = "trials.csv";

/// The rows of a sweep, given by its folder, its URL or its trials.csv; else what is wrong has been said.
pub(super) fn rows(sweep: &str) -> Result<Vec<Row>, Exit> {
    trials(sweep).map(|table| table.rows)
}

/// The same with notes on the table, which have been said, too, for who shows them beside the figures.
pub(super) fn trials(sweep: &str) -> Result<TrialsTable, Exit> {
    let bad = |what: &dyn std::fmt::Display| {
        print_error(&format!("{sweep}: {what}"));
        Exit::BadInput
    };
    let path = Path::new(sweep);
    let bytes = if path.is_file() {
        fs::read(path).map_err(|error| bad(&error))?
    } else if !sweep.contains("://") && !path.is_dir() {
        return Err(bad(
            &"is neither a folder nor a file; name a sweep's folder or URL, or a trials.csv",
        ));
    } else {
        table(&open(sweep)?)?.ok_or_else(|| {
            bad(&format!(
                "{TRIALS_CSV} is missing; inferbench collect makes it of stored records"
            ))
        })?
    };
    let table = read_trials_table(&bytes).map_err(|error| bad(&error))?;
    for note in &table.notes {
        print_error(&format!("{sweep}: {note}"));
    }
    Ok(table)
}

/// A document that a sweep was collected with; none where there is none to be read, as beside a single table.
pub(super) fn stored<T: DeserializeOwned>(sweep: &str, document: &str) -> Result<Option<T>, Exit> {
    if !sweep.contains("://") && !Path::new(sweep).is_dir() {
        return Ok(None);
    }
    let bytes = open(sweep)?.get(document).map_err(|error| {
        print_error(&error);
        Exit::Failed
    })?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// The expectations that a sweep was collected with; none of a table made elsewhere.
pub(super) fn stored_expectations(sweep: &str) -> Result<Vec<Expectation>, Exit> {
    let analysis = stored::<Analysis>(sweep, ANALYSIS)?;
    let judged = analysis.map(|analysis| analysis.expectations);
    Ok(judged
        .unwrap_or_default()
        .iter()
        .map(Judgement::expectation)
        .collect())
}

/// The bytes of a store's trials.csv, where it has one.
pub(super) fn table(store: &Store) -> Result<Option<Vec<u8>>, Exit> {
    store.get(TRIALS_CSV).map_err(|error| {
        print_error(&error);
        Exit::Failed
    })
}

/// Opens a folder, which is made where it is missing, or a URL.
pub(super) fn open(target: &str) -> Result<Store, Exit> {
    Store::open(target, &StoreOptions::default()).map_err(|error| {
        print_error(&error);
        Exit::BadInput
    })
}

/// Writes a file into a store.
pub(super) fn put(store: &Store, path: &str, bytes: &[u8]) -> Result<(), Exit> {
    store.put(path, bytes).map_err(|error| {
        print_error(&error);
        Exit::Failed
    })
}

/// Refuses a spec that asks for GPUs where nothing can measure on them. `own` says that no other program is to be
/// asked.
pub(super) fn refuse_gpus(
    path: &Path,
    resource: &InferenceBenchmark,
    own: bool,
) -> Result<(), Exit> {
    let factors = &resource.spec.design.factors;
    // The GPUs of servers are theirs to find.
    if factors.engines().iter().all(Engine::takes_requests) {
        return Ok(());
    }
    let gpus = &factors.gpus;
    let most = gpus.iter().map(|gpus| gpus.unsigned_abs()).max();
    let why = match program::for_gpus(most.unwrap_or_default()) {
        Ok(Some(_)) if own => format!(
            "without processes of its own {} measures them",
            program::PROGRAM
        ),
        Ok(_) => return Ok(()),
        Err(why) => why,
    };
    print_error(&format!(
        "{}: spec.design.factors.gpus: {gpus:?} asks for GPUs (the default is 1), but {why}; write gpus: [0] to measure \
         on the CPU",
        path.display()
    ));
    Err(Exit::BadInput)
}

/// Refuses parameters where trials have no process of their own, whose environment they could be.
pub(super) fn refuse_parameters(path: &Path, resource: &InferenceBenchmark) -> Result<(), Exit> {
    let Some(parameter) = resource.spec.design.factors.parameters.first() else {
        return Ok(());
    };
    print_error(&format!(
        "{}: spec.design.factors.parameters[0]: {} sets {} in a trial's process, but with --in-process trials have none \
         of their own; leave out --in-process",
        path.display(),
        parameter.name,
        parameter.env
    ));
    Err(Exit::BadInput)
}

/// Says that there is no such preset.
pub(super) fn unknown_preset(name: &str) -> String {
    let near = inferbench_crds::suggest::did_you_mean(name, PRESETS);
    format!(
        "there is no preset {name:?}{near}; there are {}",
        PRESETS.join(", ")
    )
}

impl From<DtypeArg> for inferbench_engine::Format {
    fn from(dtype: DtypeArg) -> Self {
        match dtype {
            DtypeArg::F32 => Self::F32,
            DtypeArg::Bf16 => Self::BF16,
            DtypeArg::F16 => Self::F16,
            DtypeArg::Q4_0 => Self::Q4_0,
            DtypeArg::Q8_0 => Self::Q8_0,
        }
    }
}

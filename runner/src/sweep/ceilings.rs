//! The ceilings that a sweep's trials are judged by: stored ones of this machine, or measured before the first trial.

use std::collections::BTreeMap;

use inferbench_crds::spec::Dtype;
use inferbench_engine::ceilings::{Ceilings, roofline::ModelShape};

use super::{
    executor::Executor,
    prepared::Prepared,
    stored::{KnownCeilings, SweepFile},
};
use crate::{
    machine::Machine,
    process::print_error,
    trial::{recording, roofline},
};

/// Measures the ceilings for every data type of the trials that are still `to_measure`, where `file` has none of this
/// machine that were measured undisturbed. Each measured one goes to `keep`.
///
/// # Errors
/// Where they cannot be measured, and whatever `keep` returns.
pub fn of_sweep<E: From<String>>(
    sweep: &Prepared,
    machine: &Machine,
    to_measure: &dyn Fn(u32) -> bool,
    file: &mut SweepFile,
    executor: &mut dyn Executor,
    mut keep: impl FnMut(&SweepFile) -> Result<(), E>,
) -> Result<BTreeMap<Dtype, Ceilings>, E> {
    let gpus = fewest_gpus(sweep);
    let mut found = BTreeMap::new();
    for (dtype, shape) in largest_shapes(sweep, to_measure) {
        let here = |known: &&KnownCeilings| {
            is_of(known, machine, dtype, gpus) && known.ceilings.disturbed.is_empty()
        };
        if let Some(known) = file.ceilings.iter().find(here) {
            found.insert(dtype, known.ceilings.clone());
            continue;
        }
        eprintln!("measuring the ceilings of this machine for {dtype:?} …");
        let ceilings = executor
            .ceilings(dtype, shape, gpus)
            .map_err(|message| format!("the ceilings cannot be measured: {message}"))?;
        eprintln!("  {}", describe(&ceilings));
        for why in &ceilings.disturbed {
            print_error(&format!(
                "warning: the ceilings may be too low, and fractions of them too high: each time that they were \
                 measured, {why}"
            ));
        }
        remember(file, sweep, machine, dtype, &ceilings);
        keep(file)?;
        found.insert(dtype, ceilings);
    }
    level(&mut found);
    if found.len() > 1
        && let Some(ceilings) = found.values().next()
    {
        eprintln!(
            "all data types are held against the highest that was read: {:.1} GB/s",
            ceilings.bandwidth.bytes_per_second / 1e9
        );
    }
    Ok(found)
}

/// Raises the ceilings of one machine's data types to what they say of each other.
pub fn level(ceilings: &mut BTreeMap<Dtype, Ceilings>) {
    let mut all: Vec<&mut Ceilings> = ceilings.values_mut().collect();
    Ceilings::level(&mut all);
}

/// Puts ceilings of this machine in the place of those that a sweep's file has of it.
pub fn remember(
    file: &mut SweepFile,
    sweep: &Prepared,
    machine: &Machine,
    dtype: Dtype,
    ceilings: &Ceilings,
) {
    let gpus = fewest_gpus(sweep);
    file.ceilings
        .retain(|known| !is_of(known, machine, dtype, gpus));
    file.ceilings.push(KnownCeilings {
        node: machine.node.clone(),
        cpu: machine.cpu.clone(),
        cpus: machine.cpus.len(),
        gpu: gpus > 0,
        dtype,
        measured_at: recording::now(),
        ceilings: ceilings.clone(),
    });
}

/// The ceilings in few words.
#[must_use]
pub fn describe(ceilings: &Ceilings) -> String {
    format!(
        "reads {:.1} GB/s ({}), products {:.0} GFLOP/s ({})",
        ceilings.bandwidth.bytes_per_second / 1e9,
        ceilings.bandwidth.kernel,
        ceilings.matrix.flops_per_second / 1e9,
        ceilings.matrix.product,
    )
}

/// For each data type the model with the largest layers, whose products are among those tried.
fn largest_shapes(
    sweep: &Prepared,
    to_measure: &dyn Fn(u32) -> bool,
) -> BTreeMap<Dtype, ModelShape> {
    let mut largest: BTreeMap<Dtype, ModelShape> = BTreeMap::new();
    for trial in sweep.expansion.trials() {
        if !to_measure(trial.index) || roofline::missing(&trial.combination).is_some() {
            continue;
        }
        let dtype = trial.combination.dtype;
        let shape = roofline::shape(
            sweep.config(&trial.combination),
            dtype,
            trial.combination.gpus,
        );
        let largest = largest.entry(dtype).or_insert(shape);
        if shape.layer_params > largest.layer_params {
            *largest = shape;
        }
    }
    largest
}

/// The fewest GPUs that the design asks for: none, or at least one for every trial.
fn fewest_gpus(sweep: &Prepared) -> u32 {
    let gpus = &sweep.spec.design.factors.gpus;
    gpus.iter()
        .map(|gpus| gpus.unsigned_abs())
        .min()
        .unwrap_or_default()
}

/// Whether ceilings are those of this machine, or of its GPU.
fn is_of(known: &KnownCeilings, machine: &Machine, dtype: Dtype, gpus: u32) -> bool {
    known.dtype == dtype
        && known.gpu == (gpus > 0)
        && known.node == machine.node
        && known.cpu == machine.cpu
        && known.cpus == machine.cpus.len()
}

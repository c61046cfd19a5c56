//! Notes on a spec that keeps to every rule: what is allowed, but will not do what it looks like.

use k8s_openapi::api::core::v1::ResourceRequirements;

use super::{not_a_level, requests_load, search};
use crate::{
    expectation::Call,
    factor::{self, Factor},
    spec::InferenceBenchmarkSpec,
};

/// Notes on what is allowed, but will not do what it looks like; empty where all is plain.
#[must_use]
pub fn notes(spec: &InferenceBenchmarkSpec) -> Vec<String> {
    let factors = &spec.design.factors;
    let models = factors.model.iter();
    let random = models
        .filter(|model| spec.measurement.quality && model.source.random.is_some())
        .map(|model| {
            format!(
                "spec.measurement.quality: {} has random weights, and what it writes no meaning: its quality is left empty",
                model.name
            )
        });
    let engines = factors.engine.iter();
    let servers = engines
        .clone()
        .filter(|engine| spec.measurement.quality && engine.takes_requests())
        .map(|engine| {
            format!(
                "spec.measurement.quality: {} does not show how likely it finds what it writes: its quality is left empty",
                engine.name
            )
        });
    let load = requests_load(factors);
    let batches = engines
        .filter(|engine| load.is_some() && !engine.takes_requests())
        .map(|engine| {
            format!(
                "spec.design.factors.{}: {} takes batches alone: its combinations are recorded as Unsupported",
                load.unwrap_or_default(),
                engine.name
            )
        });
    let shared = cpus_of_a_cluster(spec);
    let expected = untestable(spec);
    random
        .chain(servers)
        .chain(batches)
        .chain(shared)
        .chain(search::notes(spec))
        .chain(expected)
        .collect()
}

/// Expectations that no sweep of this design can be judged by, one note for each reason: levels that it does not have, and
/// factors that do not vary.
fn untestable(spec: &InferenceBenchmarkSpec) -> Vec<String> {
    let axes = factor::axes(&spec.design.factors);
    let axis_of = |factor: &Factor| axes.iter().find(|axis| axis.factor == *factor);
    let lacks = |call: &Call| -> Option<String> {
        let absent = call.only.0.iter().find_map(|(factor, listed)| {
            let axis = axis_of(factor)?;
            let none = !listed.iter().any(|level| axis.levels.contains(level));
            let first = listed.first().filter(|_| none)?;
            Some(not_a_level(first, axis))
        });
        absent.or_else(|| {
            let factor = call.factor.as_ref()?;
            let mut listed = call.only.0.iter().filter(|(only, _)| only == factor);
            let single =
                axis_of(factor)?.levels.len() < 2 || listed.any(|(_, levels)| levels.len() < 2);
            single.then(|| format!("{factor} does not vary"))
        })
    };
    let parameters = &spec.design.factors.parameters;
    let mut reasons: Vec<(String, Vec<usize>)> = Vec::new();
    for (index, expectation) in spec.expectations.iter().enumerate() {
        let names = parameters.iter().map(|one| one.name.as_str());
        let Ok(statement) = expectation.read(names) else {
            continue;
        };
        for why in statement.calls().into_iter().filter_map(lacks) {
            match reasons.iter_mut().find(|(known, _)| *known == why) {
                Some((_, of)) if of.last() != Some(&index) => of.push(index),
                Some(_) => {}
                None => reasons.push((why, vec![index])),
            }
        }
    }
    reasons
        .into_iter()
        .map(|(why, of)| {
            let of: Vec<String> = of.iter().map(|index| format!("[{index}]")).collect();
            format!(
                "spec.expectations{}: cannot be judged in full, as {why}",
                of.join(", ")
            )
        })
        .collect()
}

/// Trials on the CPUs of a cluster's nodes, which others share unless a pod is given CPUs of its own.
fn cpus_of_a_cluster(spec: &InferenceBenchmarkSpec) -> Option<String> {
    const FIELD: &str = "spec.runner.resources";
    let factors = &spec.design.factors;
    let store = spec.results.store.as_ref()?;
    let local = store
        .url
        .as_deref()
        .is_none_or(|url| url.starts_with("file:"));
    let in_cluster = store.persistent_volume_claim.is_some() || !local;
    let engines = factors.engines();
    let computes = engines.iter().any(|engine| engine.endpoint.is_none());
    if factors.gpus != [0] || !computes || !in_cluster {
        return None;
    }
    Some(if has_whole_cpus(spec.runner.resources.as_ref()) {
        format!(
            "{FIELD}: in a cluster these CPUs are the trial's alone only on nodes whose kubelet has the CPU manager policy \
             static; on others, whatever shares the node makes trials invalid"
        )
    } else {
        format!(
            "{FIELD}: in a cluster, trials on the CPU are invalid where other pods take part of it: give the pod CPUs of \
             its own, by whole CPUs and memory as limits (and requests, if any, equal to them: class Guaranteed), on \
             nodes whose kubelet has the CPU manager policy static"
        )
    })
}

/// Whether a pod with these resources is of the class Guaranteed, with whole CPUs: what the CPU manager gives CPUs to.
fn has_whole_cpus(resources: Option<&ResourceRequirements>) -> bool {
    let Some(limits) = resources.and_then(|resources| resources.limits.as_ref()) else {
        return false;
    };
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let equal = |name: &str| {
        let request = requests.and_then(|requests| requests.get(name));
        limits
            .get(name)
            .is_some_and(|limit| request.is_none_or(|request| request == limit))
    };
    let whole = limits.get("cpu").is_some_and(|cpu| {
        let millis = cpu.0.strip_suffix('m').map(str::parse::<u64>);
        match millis {
            Some(millis) => millis.is_ok_and(|millis| millis > 0 && millis.is_multiple_of(1_000)),
            None => cpu
                .0
                .parse::<f64>()
                .is_ok_and(|cpus| cpus >= 1.0 && cpus.fract() == 0.0),
        }
    });
    whole && equal("cpu") && equal("memory")
}

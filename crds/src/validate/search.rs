//! The rules of `design.search`: it stands in place of a load, needs objectives to hold, and time.

use crate::{InferenceBenchmarkSpec, engine::Engine, search::Search, violation::Found};

const PATH: &str = "spec.design.search";

impl Found {
    /// A search is the load of a design, of engines that take requests, and held to times.
    pub(super) fn search(&mut self, spec: &InferenceBenchmarkSpec) {
        let Some(search) = &spec.design.search else {
            return;
        };
        for (member, why) in search.violations() {
            self.add(format!("{PATH}.{member}"), why);
        }
        let factors = &spec.design.factors;
        let loads = [
            ("batchSize", factors.batch_size != [1]),
            ("concurrency", !factors.concurrency.is_empty()),
            ("requestRate", !factors.request_rate.is_empty()),
        ];
        for (load, _) in loads.into_iter().filter(|(_, given)| *given) {
            self.add(
                format!("spec.design.factors.{load}"),
                format!(
                    "a design has one load, and this one searches its {}: leave {load} out, or {PATH}",
                    search.factor
                ),
            );
        }
        if !factors.engines().iter().any(Engine::takes_requests) {
            self.add(
                format!("{PATH}.factor"),
                format!(
                    "{} is a load of servers and endpoints, and this design has none: see spec.design.factors.engine",
                    search.factor
                ),
            );
        }
        if !spec.objectives.limit_times() {
            self.add(
                "spec.objectives",
                format!("{PATH} looks for the highest load at which times hold: give maxTtft, maxTpot or maxE2e"),
            );
        }
    }
}

/// Notes on a search that is allowed and does not say much.
pub(super) fn notes(spec: &InferenceBenchmarkSpec) -> Vec<String> {
    let Some(search) = &spec.design.search else {
        return Vec::new();
    };
    few_requests(spec, search)
        .into_iter()
        .chain(short_of_time(spec, search))
        .chain(batches_alone(spec))
        .collect()
}

/// A share that so few requests cannot tell from all of them.
fn few_requests(spec: &InferenceBenchmarkSpec, search: &Search) -> Option<String> {
    let left_out = 1.0 - search.share();
    if left_out <= 0.0 {
        return None;
    }
    // One request that does not keep to them is to be allowed.
    let needed = (1.0 / left_out - 1e-9).ceil();
    let iterations = spec.measurement.iterations;
    (f64::from(iterations) < needed).then(|| {
        format!(
            "spec.measurement.iterations: a load is tested by {iterations} requests or a few more where it is low, and \
             with fewer than {needed} share {} asks for all of them",
            search.share
        )
    })
}

fn short_of_time(spec: &InferenceBenchmarkSpec, search: &Search) -> Option<String> {
    let measurement = &spec.measurement;
    let gpus = spec.design.factors.gpus.iter().copied().max().unwrap_or(0);
    let each = measurement.warmup_duration.std() + measurement.min_duration_for(gpus).std();
    let steps = search.steps();
    let least = each * steps;
    let timeout = spec.execution.trial_timeout;
    (least >= timeout.std()).then(|| {
        format!(
            "spec.execution.trialTimeout: {timeout} is short for a search: up to {steps} loads of warmupDuration and \
             minDuration are at least {:.0} s; where time is over, it ends with what it knows",
            least.as_secs_f64()
        )
    })
}

fn batches_alone(spec: &InferenceBenchmarkSpec) -> Vec<String> {
    let engines = spec.design.factors.engine.iter();
    let others = engines.filter(|engine| !engine.takes_requests());
    let note = |engine: &Engine| {
        format!(
            "{PATH}: {} takes batches alone: its combinations are recorded as Unsupported",
            engine.name
        )
    };
    others.map(note).collect()
}

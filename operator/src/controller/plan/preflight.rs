//! Before the trials: the sweep is checked, its models are pinned, and what cannot run is recorded without a GPU.

use inferbench_crds::{
    Outcome,
    contract::{ModelReport, PreflightReport},
    design::Combination,
    status::PinnedModel,
};

use super::{Create, GRACE, Planner, last_ended, why};
use crate::controller::{
    names::Role,
    observe::{JobView, PodPhase},
};

impl Planner<'_> {
    /// Deletes preflights that are not needed any more.
    pub(super) fn forget_preflights(&mut self) {
        for job in self.jobs.iter().filter(|job| job.role == Role::Preflight) {
            self.delete(job);
        }
    }

    /// Goes on with the preflight of a sweep whose models are not pinned.
    pub(super) fn preflight(&mut self) {
        let attempts = || self.jobs.iter().filter(|job| job.role == Role::Preflight);
        let newest = attempts().max_by_key(|job| (job.attempt, job.created));
        for older in attempts().filter(|job| Some(&job.uid) != newest.map(|job| &job.uid)) {
            self.delete(older);
        }
        if let Some(job) = newest {
            self.retries = job.attempt > 1;
            if job.end.is_none() {
                self.note_if_stuck(job);
                return;
            }
            match self.read_preflight(job) {
                Ok(Some(PreflightReport { models, message })) => {
                    self.pin(&models);
                    self.never = message;
                    self.retries = false;
                    self.delete(job);
                    return;
                }
                // Its pod has not been seen yet.
                Ok(None) => return,
                Err(message) => {
                    self.problem = Some(self.attempt_failed(job, "PreflightFailed", message));
                }
            }
        }
        if let Some(attempt) = self.next_attempt(newest)
            && !self.sweep.spec.suspend
        {
            self.creates.push(Create::Preflight(attempt));
        }
    }

    /// The report of a preflight that has ended; none where its pod has not been seen yet.
    fn read_preflight(&mut self, job: &JobView) -> Result<Option<PreflightReport>, String> {
        let pods = self.pods_of(job);
        let complete = job.end.as_ref().is_some_and(|end| end.complete);
        let succeeded = pods.iter().find(|pod| pod.phase == PodPhase::Succeeded);
        let pod = succeeded.copied().or_else(|| last_ended(&pods));
        let at = job.end.as_ref().map_or(job.created, |end| end.at);
        if pod.is_none() && !self.passed(at, GRACE) {
            return Ok(None);
        }
        let report = pod.map_or("", |pod| pod.report.as_str());
        let report: Option<PreflightReport> = serde_json::from_str(report).ok();
        let said = report.as_ref().and_then(|report| report.message.as_deref());
        if !complete {
            return Err(why(pod, job, said));
        }
        let report = report.unwrap_or_default();
        let wanted = self.sweep.spec.design.factors.model.len();
        let fine = |model: &ModelReport| (1..=64).contains(&model.revision.chars().count());
        if report.models.len() == wanted && report.models.iter().all(fine) {
            Ok(Some(report))
        } else {
            let name = &job.name;
            Err(format!(
                "Job {name} completed without a report on each of the {wanted} models: is the image a runner of this \
                 version?"
            ))
        }
    }

    /// Pins the models, and records the trials that can never run.
    fn pin(&mut self, models: &[ModelReport]) {
        let levels = &self.sweep.expansion.models();
        let named = levels.iter().zip(models);
        let pinned = named.clone().map(|(level, model)| PinnedModel {
            name: level.name.clone(),
            revision: model.revision.clone(),
        });
        self.pinned = Some(pinned.collect());
        for trial in self.sweep.expansion.trials() {
            let combination = &trial.combination;
            let Some((_, model)) = named
                .clone()
                .find(|(level, _)| level.name == combination.model.name)
            else {
                continue;
            };
            if self.can_never_run(combination, model) {
                self.record(trial.index, Outcome::Unsupported, "");
            }
        }
    }
    /// Whether a combination can never run with its model.
    fn can_never_run(&self, combination: &Combination, model: &ModelReport) -> bool {
        if combination.unsupported().is_some() {
            return true;
        }
        // Servers divide their work as they do, and say themselves what is too much for them.
        if combination.engine.takes_requests() {
            let engines = &self.sweep.spec.design.factors.engine;
            let unreadable = model.unsupported_engines.iter();
            let mut unreadable = unreadable.filter_map(|at| engines.get(usize::from(*at)));
            return unreadable.any(|engine| engine.name == combination.engine.name);
        }
        let tokens = combination
            .input_length
            .saturating_add(combination.output_length);
        let too_long = model.max_tokens.is_some_and(|most| tokens > most);
        let too_many = combination
            .tensor_parallel()
            .is_some_and(|ranks| model.unsupported_tensor_parallel.contains(&ranks));
        let too_deep = model
            .max_stages
            .is_some_and(|most| combination.pipeline_parallel > most);
        too_long || too_many || too_deep
    }
}

//! After the trials: tables, summary and report are made from what is stored.

use inferbench_crds::{contract::Chunk, handover};

use super::{Create, GRACE, Phase, Planner, last_ended, why};
use crate::controller::{
    names::Role,
    observe::{JobView, PodView},
};

impl Planner<'_> {
    /// Deletes the collections that do not collect from `wanted`; true where any was there.
    pub(super) fn forget_collectors(&mut self, wanted: Option<&str>) -> bool {
        let mut found = false;
        for job in self.jobs.iter().filter(|job| job.role == Role::Collector) {
            if wanted != Some(job.inputs.as_str()) {
                found = true;
                self.delete(job);
            }
        }
        found
    }

    /// Collects, unless the results that the status has are what would come of it.
    pub(super) fn collection(&mut self, have: &str) -> Phase {
        let wanted = self.sweep.inputs(&self.ledger.encode());
        if have == wanted {
            self.forget_collectors(None);
            return Phase::Finished;
        }
        let others = self.forget_collectors(Some(&wanted));
        let attempts = || {
            let collectors = self.jobs.iter().filter(|job| job.role == Role::Collector);
            collectors.filter(|job| job.inputs == wanted)
        };
        let newest = attempts().max_by_key(|job| (job.attempt, job.created));
        for older in attempts().filter(|job| Some(&job.uid) != newest.map(|job| &job.uid)) {
            self.delete(older);
        }
        if let Some(job) = newest
            && let Some(phase) = self.read_collector(job)
        {
            return phase;
        }
        // Two collections at a time would write the same files.
        if !others
            && let Some(attempt) = self.next_attempt(newest)
            && !self.sweep.spec.suspend
        {
            self.creates.push(Create::Collector(attempt));
        }
        Phase::Collecting
    }

    /// Goes on with a collection; none where it has failed and another attempt is needed.
    fn read_collector(&mut self, job: &JobView) -> Option<Phase> {
        self.retries = job.attempt > 1;
        let Some(end) = &job.end else {
            self.note_if_stuck(job);
            return Some(Phase::Collecting);
        };
        let pods = self.pods_of(job);
        let message = if end.complete {
            match handover::join(pods.iter().map(|pod| pod.report.as_str())) {
                Ok(collected) => {
                    for &(index, outcome) in &collected.recovered {
                        self.correct(index, outcome);
                    }
                    let inputs = self.sweep.inputs(&self.ledger.encode());
                    self.collected = Some((Box::new(collected), inputs));
                    self.retries = false;
                    self.delete(job);
                    return Some(Phase::Finished);
                }
                // Its pods may not all have been seen yet.
                Err(_) if !self.passed(end.at, GRACE) => return Some(Phase::Collecting),
                Err(error) => format!("Job {} completed, but {error}", job.name),
            }
        } else {
            let pod: Option<&PodView> = last_ended(&pods);
            let said = pod.and_then(|pod| serde_json::from_str(&pod.report).ok());
            let said: Option<Chunk> = said;
            why(pod, job, said.and_then(|chunk| chunk.message).as_deref())
        };
        self.problem = Some(self.attempt_failed(job, "CollectionFailed", message));
        None
    }
}

//! The trials: Jobs that ended are recorded and deleted, and as many others are created as the window has room for.

use std::collections::{BTreeMap, BTreeSet};

use inferbench_crds::{Outcome, contract::TrialReport, factor::Factor};

use super::{Create, GRACE, MOST_EVICTIONS, Planner, Problem, because, last_ended, why};
use crate::controller::{
    groups::Groups,
    names::Role,
    observe::{End, JobView, PodPhase, PodView},
    request,
};

/// The Jobs that take a place in the window.
#[derive(Debug, Default)]
pub(super) struct Live {
    jobs: usize,
    /// Their trials.
    trials: BTreeSet<u32>,
    /// The room for pods of a form, as far as it is known.
    shapes: BTreeMap<Form, Shape>,
}

/// The needs of a pod that a node has to meet: the GPUs, and the image of the engine, by its name.
type Form = (u32, String);

/// The room for pods of a shape, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    /// There is a Job.
    waits: bool,
    /// A pod runs, or a Job has just ended.
    runs: bool,
    /// A pod does not start.
    stuck: bool,
}

impl Live {
    pub(super) fn trials(&self) -> u32 {
        u32::try_from(self.trials.len()).unwrap_or(u32::MAX)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.jobs == 0
    }

    fn add(&mut self, job: &JobView, form: Form) -> &mut Shape {
        self.jobs += 1;
        self.trials.extend(&job.trials);
        let shape = self.shapes.entry(form).or_default();
        shape.waits = true;
        shape
    }
}

/// The reports of all pods of a Job on its trials, taken together.
struct Reports<'p> {
    outcomes: Vec<Option<Outcome>>,
    /// Whether each of them is invalid.
    invalid: Vec<bool>,
    /// Why the first of these is.
    why_invalid: Option<String>,
    best: Option<f64>,
    reused: u32,
    /// The newest pod that has ended, and what it said.
    last: Option<(&'p PodView, Option<String>)>,
}

impl<'p> Reports<'p> {
    fn of(job: &JobView, pods: &[&'p PodView]) -> Self {
        let read = |pod: &&&PodView| serde_json::from_str::<TrialReport>(&pod.report).ok();
        let reports: Vec<TrialReport> = pods.iter().filter_map(|pod| read(&pod)).collect();
        let of = |position| reports.iter().find_map(|report| report.outcome(position));
        let best = reports.iter().filter_map(|report| report.best);
        let last = last_ended(pods).map(|pod| (pod, read(&&pod).and_then(|it| it.message)));
        let is_invalid = |at| reports.iter().any(|report| report.is_invalid(at));
        Self {
            outcomes: (0..job.trials.len()).map(of).collect(),
            invalid: (0..job.trials.len()).map(is_invalid).collect(),
            why_invalid: reports.iter().find_map(|report| report.invalid.clone()),
            best: best.filter(|best| best.is_finite()).reduce(f64::max),
            // A trial that a later pod found stored, an earlier one of this very Job has measured.
            reused: reports.first().map_or(0, |report| report.reused),
            last,
        }
    }

    /// The first trial without an outcome, if any: the one that the Job broke at.
    fn broke_at(&self) -> Option<usize> {
        self.outcomes.iter().position(Option::is_none)
    }
}

impl Planner<'_> {
    /// Records and deletes what has ended; returns what lives.
    pub(super) fn trials(&mut self) -> Live {
        let mut live = Live::default();
        let mut kept: Vec<(&JobView, &End)> = Vec::new();
        let mut expired: Vec<(&JobView, &PodView)> = Vec::new();
        let jobs = self.jobs;
        for job in jobs.iter().filter(|job| job.role == Role::Trial) {
            let pods = self.pods_of(job);
            if let Some(end) = &job.end {
                let before = self.ended.len();
                if self.record_ended(job, end, &pods) {
                    let shape = live.shapes.entry(self.form(job)).or_default();
                    shape.runs |= self.ended.len() > before;
                    if end.complete {
                        self.delete(job);
                    } else {
                        kept.push((job, end));
                    }
                } else {
                    live.add(job, self.form(job));
                }
                continue;
            }
            if job
                .trials
                .iter()
                .all(|&index| self.ledger.get(index).is_some())
            {
                // A leader that did not know it any more has made it again.
                self.delete(job);
            } else if !job.deleting && self.is_driven_out(job, &pods) {
                self.delete(job);
                live.add(job, self.form(job));
                continue;
            }
            if pods.is_empty() {
                self.note_if_stuck(job);
            }
            let shape = live.add(job, self.form(job));
            let current = pods.iter().rev().find(|pod| !pod.deleting).copied();
            shape.runs |= current.is_some_and(|pod| pod.phase == PodPhase::Running);
            let stuck = current.filter(|pod| pod.phase == PodPhase::Pending);
            if let (Some(pod), false, false) = (stuck, job.suspended, job.deleting) {
                shape.stuck |= pod.stuck.is_some();
                self.note_if_stuck(job);
                if self.has_expired(pod) {
                    expired.push((job, pod));
                }
            }
        }
        self.expire(&live, expired);
        self.retain(kept);
        live
    }

    /// Records a Job that has ended; false where its pods have not been seen yet. A recorded outcome stays as it is, so
    /// that a Job may be looked at again and again.
    fn record_ended(&mut self, job: &JobView, end: &End, pods: &[&PodView]) -> bool {
        let is_known =
            |index: Option<&u32>| index.is_some_and(|&index| self.ledger.get(index).is_some());
        let reports = Reports::of(job, pods);
        let is_recorded = if end.complete {
            job.trials.iter().all(|index| is_known(Some(index)))
        } else {
            // The trials after the one that it broke at are not its any more.
            let broke_at = reports.broke_at().unwrap_or(0);
            is_known(job.trials.first()) && is_known(job.trials.get(broke_at))
        };
        if !is_recorded && reports.last.is_none() && !self.passed(end.at, GRACE) {
            return false;
        }
        let before = self.ended.len();
        self.record_known(job, &reports);
        if end.complete {
            // Exit code 0 says that the rest is stored too, but not how it ended: the collection finds out.
            for &index in &job.trials {
                let why = format!("Job {} completed and its pod left no report", job.name);
                self.record(index, Outcome::Failed, &why);
            }
        } else if let Some(&index) = reports.broke_at().and_then(|at| job.trials.get(at)) {
            let (pod, said) = reports.last.unzip();
            let outcome = match pod {
                Some(pod) if pod.reason == "OOMKilled" => Outcome::OutOfMemory,
                Some(pod) if pod.reason == "DeadlineExceeded" && pod.ran => Outcome::TimedOut,
                _ => Outcome::Failed,
            };
            // The trials after it were never begun: they wait again.
            let why = why(pod, job, said.flatten().as_deref());
            if self.ledger.get(index).is_none() {
                self.record(index, outcome, &why);
            }
        }
        let ended = u32::try_from(self.ended.len() - before).unwrap_or(0);
        if ended > 0 {
            self.measured.trials += ended;
            let took = self.since(job.started.unwrap_or(job.created));
            self.measured.took += took.saturating_sub(self.since(end.at));
        }
        true
    }

    /// Whether nodes have driven out the pods of a Job too often: then the trial that it is at fails. Notes the problem
    /// before that.
    fn is_driven_out(&mut self, job: &JobView, pods: &[&PodView]) -> bool {
        let driven_out = |pod: &&&PodView| pod.disrupted && pod.phase == PodPhase::Failed;
        let evictions = pods.iter().filter(driven_out).count();
        let name = &job.name;
        if evictions < MOST_EVICTIONS {
            if evictions > MOST_EVICTIONS / 2 {
                let message = format!(
                    "nodes have driven out {evictions} pods of Job {name}: after {MOST_EVICTIONS}, its trial fails"
                );
                self.note(Problem::new("Evicted", message));
            }
            return false;
        }
        let reports = Reports::of(job, pods);
        self.record_known(job, &reports);
        if let Some(&index) = reports.broke_at().and_then(|at| job.trials.get(at)) {
            let last = last_ended(pods).map_or(String::new(), because);
            let why = format!("nodes have driven out {evictions} pods of Job {name} ({last})");
            self.record(index, Outcome::Failed, &why);
        }
        true
    }

    /// Records what a Job's pods are known to have stored.
    fn record_known(&mut self, job: &JobView, reports: &Reports<'_>) {
        let before = self.ended.len();
        let told = reports.outcomes.iter().zip(&reports.invalid);
        for (&index, (outcome, &invalid)) in job.trials.iter().zip(told) {
            if let Some(outcome) = *outcome {
                let why = match outcome {
                    Outcome::Failed => "the runner recorded it as failed",
                    _ => "",
                };
                let known = self.ended.len();
                self.record(index, outcome, why);
                if invalid && self.ended.len() > known {
                    self.measured.invalid += 1;
                    let why = &mut self.measured.why_invalid;
                    *why = why.take().or_else(|| reports.why_invalid.clone());
                }
            }
        }
        if self.ended.len() > before {
            self.measured.reused += reports.reused;
            let best = self.measured.best.into_iter().chain(reports.best);
            self.measured.best = best.reduce(f64::max);
        }
    }

    /// Whether a pod that has not started has had all the time that it may take for that.
    fn has_expired(&mut self, pod: &PodView) -> bool {
        let execution = &self.sweep.spec.execution;
        match pod.scheduled {
            None => self.passed(pod.created, execution.pending_timeout.std()),
            Some(scheduled) => self.passed(scheduled, execution.startup_timeout.std()),
        }
    }

    /// Gives up pods that have waited too long. While others of the same shape run, there is room, only not yet: the
    /// trial waits again. Else the oldest fails, and with it one trial: the others of its shape may have better luck.
    fn expire(&mut self, live: &Live, mut expired: Vec<(&JobView, &PodView)>) {
        expired.sort_by_key(|(job, pod)| (pod.created, &job.name));
        let mut failed = BTreeSet::new();
        for (job, pod) in expired {
            let reports = Reports::of(job, &self.pods_of(job));
            self.record_known(job, &reports);
            let form = self.form(job);
            let runs = live.shapes.get(&form).is_some_and(|shape| shape.runs);
            if !runs && failed.insert(form) {
                let waited = if pod.scheduled.is_none() {
                    "pendingTimeout"
                } else {
                    "startupTimeout"
                };
                let (reason, message) = pod.stuck.clone().unwrap_or_default();
                let problem = Problem::of_pod(pod, &reason, &message);
                let why = format!("not started within {waited}: {}", problem.message);
                if let Some(&index) = reports.broke_at().and_then(|at| job.trials.get(at)) {
                    self.record(index, Outcome::Failed, &why);
                }
            }
            self.delete(job);
        }
    }

    /// Keeps the newest of the failed Jobs, for people to look at, and deletes the others.
    fn retain(&mut self, mut kept: Vec<(&JobView, &End)>) {
        kept.sort_by(|(a, ended_a), (b, ended_b)| {
            (ended_b.at, &b.name).cmp(&(ended_a.at, &a.name))
        });
        let most = usize::try_from(self.sweep.spec.retention.failed_jobs).unwrap_or(0);
        for (job, _) in kept.into_iter().skip(most) {
            self.delete(job);
        }
    }

    /// Fills the window. A shape of which nothing is known to run begins with a single Job, and one whose pods do not
    /// start gets no further: neither fills the window with pods that only wait.
    pub(super) fn create_trials(&mut self, live: &Live) {
        let spec = &self.sweep.spec;
        let window = usize::try_from(spec.execution.parallelism).unwrap_or(0);
        let mut room = window.saturating_sub(live.jobs);
        if spec.suspend || room == 0 {
            return;
        }
        let expansion = &self.sweep.expansion;
        let levels = |factor| expansion.levels(factor).len();
        let forms = levels(&Factor::GPUS) * levels(&Factor::ENGINE).max(1);
        let mut shapes = live.shapes.clone();
        let is_open = |shape: &Shape| !shape.stuck && (shape.runs || !shape.waits);
        let mut created: Vec<Create> = Vec::new();
        let groups = Groups::new(expansion, &self.ledger, request::trials_per_job(self.sweep));
        for mut group in groups.of_first(self.open_blocks()) {
            if room == 0 || (shapes.len() >= forms && !shapes.values().any(is_open)) {
                break;
            }
            group.retain(|index| !live.trials.contains(index));
            let Some(&first) = group.first() else {
                continue;
            };
            let form = (expansion.gpus(first), self.engine(first));
            let shape = shapes.entry(form).or_default();
            if is_open(shape) && !self.is_taken(first) {
                shape.waits = true;
                room -= 1;
                created.push(Create::Trials(group));
            }
        }
        self.creates.append(&mut created);
    }

    fn form(&self, job: &JobView) -> Form {
        let first = job.trials.first();
        (
            job.gpus,
            first.map_or(String::new(), |&first| self.engine(first)),
        )
    }

    /// The name of the engine of a trial; empty where the design has only one.
    fn engine(&self, index: u32) -> String {
        let expansion = &self.sweep.expansion;
        if expansion.levels(&Factor::ENGINE).len() < 2 {
            return String::new();
        }
        let level = expansion.level(index, &Factor::ENGINE);
        level.map_or(String::new(), ToString::to_string)
    }

    /// Whether the name of a Job that begins with this trial is still taken.
    fn is_taken(&self, first: u32) -> bool {
        let mut trials = self.jobs.iter().filter(|job| job.role == Role::Trial);
        trials.any(|job| job.trials.first() == Some(&first))
    }
}

//! The next actions: a pure function of a sweep, what its status records, its Jobs and pods, and the time. A trial's
//! state is derived and never stored: in the ledger it has ended, in an unfinished Job it is active, else it waits.

mod collection;
mod looks;
mod preflight;
mod problem;
mod trials;

use std::time::Duration;

use inferbench_crds::{Outcome, contract::Collected, ledger::Outcomes, status::PinnedModel};
use k8s_openapi::jiff::Timestamp;

pub use self::problem::{Attempt, NotCreated, Problem, may_settle};
use super::{
    observe::{JobView, PodPhase, PodView},
    sweep::Sweep,
};

/// How long the pods of a Job that has ended are waited for: the watch on pods may lag behind that on Jobs.
const GRACE: Duration = Duration::from_secs(60);
/// How often nodes may drive out the pods of one Job. Its own retries do not count these, and without a bound a trial
/// that no node keeps would be begun for ever. Pods that vanish together with their node are not seen, and not counted.
const MOST_EVICTIONS: usize = 10;
/// The shortest and longest wait between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1_800));

/// A sweep's record in the status, apart from its plan.
#[derive(Clone, Debug)]
pub struct Known {
    /// How trials ended.
    pub ledger: Outcomes,
    /// The blocks, from the first on, after which it was decided which combinations run no further.
    pub decided: u32,
    /// The hash of the inputs of the results in the status; empty where there are none.
    pub inputs: String,
    /// The Job that the last reconcile could not create, where there is one.
    pub not_created: Option<NotCreated>,
}

/// Something to do. They are carried out in the order in which they stand: what is recorded first, then deletions,
/// then creations; where the record cannot be written, nothing after it happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Record what the models were resolved to.
    Pin(Vec<PinnedModel>),
    /// Record how trials ended.
    Record(Vec<Ended>),
    /// Record that it was decided after this number of blocks which combinations run no further; their trials are among
    /// those that have ended.
    Decide(u32),
    /// Record what a collection from `inputs` has handed over.
    Collect {
        /// The handover.
        collected: Box<Collected>,
        /// The hash of plan, objectives and the ledger as it is afterwards.
        inputs: String,
    },
    /// Delete a Job.
    Delete {
        /// Its name.
        name: String,
        /// Its uid: another Job of the same name is left alone.
        uid: String,
        /// Whether it is still running: its pods have to go first then, and before it is forgotten.
        active: bool,
    },
    /// Create a Job.
    Create(Create),
    /// Look again after this time, if nothing happens before.
    Wait(Duration),
}

/// A Job to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Create {
    /// The preflight, for the nth time.
    Preflight(u32),
    /// One that measures these trials.
    Trials(Vec<u32>),
    /// A look after a number of blocks, for the nth time.
    Look {
        /// The blocks.
        blocks: u32,
        /// Which time.
        attempt: u32,
    },
    /// The collection, for the nth time.
    Collector(u32),
}

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The trial.
    pub index: u32,
    /// How.
    pub outcome: Outcome,
    /// How it was recorded to have ended before: this corrects it.
    pub was: Option<Outcome>,
    /// Why, where it failed, or where its pod's end alone tells how it ended.
    pub why: String,
}

/// Where a sweep stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is being checked.
    Preflight,
    /// Its trials run.
    Measuring,
    /// Its results are being collected.
    Collecting,
    /// All is done that could be.
    Finished,
}

/// The actions to take, and all that status, events and logs say about them.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The actions, in the order in which they are carried out.
    pub actions: Vec<Action>,
    /// The ledger as the actions leave it.
    pub ledger: Outcomes,
    /// How many trials ended in which way, after the actions.
    pub tally: Tally,
    /// Where the sweep stands.
    pub phase: Phase,
    /// Whether more trials have failed than `execution` allows.
    pub over_budget: bool,
    /// Trials in Jobs that have not ended.
    pub active: u32,
    /// Whether a pod runs.
    pub running: bool,
    /// A problem that keeps it from going on.
    pub problem: Option<Problem>,
    /// Whether there are Jobs to create, and the last one that was refused has to wait for its next attempt.
    pub holds: bool,
    /// Whether an attempt is under way that is not the first: until it has ended well, nothing is better than it was.
    pub retries: bool,
    /// Which servers can never read which models, and why, as the preflight has just found.
    pub never: Option<String>,
    /// Sums over the Jobs that have just been recorded.
    pub measured: RecordedSums,
}

/// Sums over the Jobs that have just been recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecordedSums {
    /// Trials whose records were found rather than made.
    pub reused: u32,
    /// Trials that were measured and are invalid.
    pub invalid: u32,
    /// Why one of these is.
    pub why_invalid: Option<String>,
    /// The highest output throughput, in tokens/s.
    pub best: Option<f64>,
    /// How long their Jobs took, from start to end.
    pub took: Duration,
    /// How many trials these Jobs measured.
    pub trials: u32,
}

/// How many trials ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally([u32; Outcome::ALL.len()]);

impl Tally {
    /// Counts a ledger.
    #[must_use]
    pub fn of(ledger: &Outcomes) -> Self {
        let mut tally = Self::default();
        for (_, outcome) in ledger.iter() {
            tally.add(outcome);
        }
        tally
    }

    fn add(&mut self, outcome: Outcome) {
        if let Some(count) = place(outcome).and_then(|at| self.0.get_mut(at)) {
            *count += 1;
        }
    }

    /// How many ended so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u32 {
        let count = place(outcome).and_then(|at| self.0.get(at));
        count.copied().unwrap_or(0)
    }

    /// How many ended at all.
    #[must_use]
    pub fn ended(&self) -> u32 {
        self.0.iter().sum()
    }
}

fn place(outcome: Outcome) -> Option<usize> {
    Outcome::ALL.iter().position(|one| *one == outcome)
}

/// The plan for a sweep.
#[must_use]
pub fn plan(
    sweep: &Sweep,
    known: &Known,
    jobs: &[JobView],
    pods: &[PodView],
    now: Timestamp,
) -> Plan {
    let mut planner = Planner {
        sweep,
        jobs,
        pods,
        now,
        ledger: known.ledger.clone(),
        ended: Vec::new(),
        decided: known.decided,
        has_decided: false,
        pinned: None,
        never: None,
        collected: None,
        deletes: Vec::new(),
        creates: Vec::new(),
        wait: None,
        problem: None,
        retries: false,
        measured: RecordedSums::default(),
    };
    let phase;
    let mut active = 0;
    if sweep.is_pinned() {
        planner.forget_preflights();
        let live = planner.trials();
        planner.look();
        let tally = Tally::of(&planner.ledger);
        active = live.trials();
        let all_ended = tally.ended() >= sweep.expansion.len();
        if !all_ended && !sweep.is_over_budget(tally.count(Outcome::Failed)) {
            planner.forget_collectors(None);
            planner.create_trials(&live);
            phase = Phase::Measuring;
        } else if live.is_empty() {
            phase = planner.collection(&known.inputs);
        } else {
            phase = Phase::Measuring;
        }
    } else {
        planner.preflight();
        phase = Phase::Preflight;
    }
    let holds = planner.hold(known.not_created.as_ref());
    let tally = Tally::of(&planner.ledger);
    Plan {
        tally,
        phase,
        over_budget: sweep.is_over_budget(tally.count(Outcome::Failed)),
        active,
        running: pods.iter().any(|pod| pod.phase == PodPhase::Running),
        actions: planner.actions(),
        ledger: planner.ledger,
        problem: planner.problem,
        holds,
        retries: planner.retries,
        never: planner.never,
        measured: planner.measured,
    }
}

/// A plan in the making: all that is seen of a sweep, and the decisions so far.
struct Planner<'a> {
    sweep: &'a Sweep,
    jobs: &'a [JobView],
    pods: &'a [PodView],
    now: Timestamp,
    ledger: Outcomes,
    ended: Vec<Ended>,
    /// The blocks after which it was decided which combinations run no further.
    decided: u32,
    /// Whether that was just now.
    has_decided: bool,
    pinned: Option<Vec<PinnedModel>>,
    never: Option<String>,
    collected: Option<(Box<Collected>, String)>,
    deletes: Vec<Action>,
    creates: Vec<Create>,
    wait: Option<Duration>,
    problem: Option<Problem>,
    retries: bool,
    measured: RecordedSums,
}

impl<'a> Planner<'a> {
    /// The decisions, in the order in which they may be carried out.
    fn actions(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        actions.extend(self.pinned.take().map(Action::Pin));
        if !self.ended.is_empty() {
            actions.push(Action::Record(std::mem::take(&mut self.ended)));
        }
        if self.has_decided {
            actions.push(Action::Decide(self.decided));
        }
        actions.extend(
            self.collected
                .take()
                .map(|(collected, inputs)| Action::Collect { collected, inputs }),
        );
        actions.append(&mut self.deletes);
        actions.extend(self.creates.drain(..).map(Action::Create));
        actions.extend(self.wait.map(Action::Wait));
        actions
    }

    /// Records how a trial ended, unless the ledger knows better; only what failed can still become something else.
    fn record(&mut self, index: u32, outcome: Outcome, why: &str) {
        if outcome == Outcome::Failed && self.ledger.get(index).is_some() {
            return;
        }
        // A trial that is recorded as something else stays; an index beyond the design is none of ours.
        let was = self.ledger.get(index);
        if !self.sweep.expansion.is_excluded(index)
            && self.ledger.record(index, outcome) == Ok(true)
        {
            let why = why.to_owned();
            self.ended.push(Ended {
                index,
                outcome,
                was,
                why,
            });
        }
    }

    /// Records what the store says of a trial whose pod has not said it.
    fn correct(&mut self, index: u32, outcome: Outcome) {
        let was = self.ledger.get(index);
        if was.is_some() && self.ledger.correct(index, outcome) == Ok(true) {
            self.ended.push(Ended {
                index,
                outcome,
                was,
                why: String::new(),
            });
        }
    }

    fn delete(&mut self, job: &JobView) {
        if !job.deleting {
            self.deletes.push(Action::Delete {
                name: job.name.clone(),
                uid: job.uid.clone(),
                active: job.end.is_none(),
            });
        }
    }

    /// Looks again after this time at the latest.
    fn wait(&mut self, wait: Duration) {
        self.wait = Some(self.wait.map_or(wait, |other| other.min(wait)));
    }

    /// How long ago something was; zero where clocks disagree and it is yet to come.
    fn since(&self, time: Timestamp) -> Duration {
        let millis = self.now.as_millisecond() - time.as_millisecond();
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    /// Whether `limit` has passed; if not, there is a look when it has.
    fn passed(&mut self, since: Timestamp, limit: Duration) -> bool {
        let passed = self.since(since);
        if passed < limit {
            self.wait(limit - passed);
        }
        passed >= limit
    }

    /// The pods of a Job, the newest last.
    fn pods_of(&self, job: &JobView) -> Vec<&'a PodView> {
        let mut pods: Vec<&PodView> = self.pods.iter().filter(|pod| pod.job == job.uid).collect();
        pods.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        pods
    }

    /// Notes the problem of a Job whose pod does not start; the first problem that is noted stays.
    fn note_if_stuck(&mut self, job: &JobView) {
        let pods = self.pods_of(job);
        // The Job controller says why it creates no pod in events of the Job alone.
        if pods.is_empty()
            && !job.suspended
            && !job.deleting
            && let Some(started) = job.started
            && self.passed(started, GRACE)
        {
            let name = &job.name;
            let message = format!("Job {name} has no pod: kubectl describe job {name}");
            self.note(Problem::new("PodNotCreated", message));
        }
        if let Some(pod) = pods.last()
            && let Some((reason, message)) = &pod.stuck
        {
            self.note(Problem::of_pod(pod, reason, message));
        }
        if let Some(pod) = pods.last()
            && let (true, Some(scheduled)) = (pod.bare, pod.scheduled)
            && self.passed(scheduled, GRACE)
        {
            let name = &pod.name;
            let message = format!(
                "pod {name} has no volumes or no network on its node: kubectl describe pod {name}"
            );
            self.note(Problem::new("PodCannotStart", message));
        }
    }

    /// Notes the problem of a Job that could not be created, where there are Jobs to create. Returns whether these have to
    /// wait: the API server would refuse them again.
    fn hold(&mut self, not_created: Option<&NotCreated>) -> bool {
        let Some(not_created) = not_created.filter(|_| !self.creates.is_empty()) else {
            return false;
        };
        self.note(not_created.problem.clone());
        let stands = not_created.stands(self.sweep.generation, self.jobs.len());
        let Some(left) = not_created.left(self.now).filter(|_| stands) else {
            return false;
        };
        self.creates.clear();
        self.wait(left);
        true
    }

    /// Notes a problem; the first that is noted stays.
    fn note(&mut self, problem: Problem) {
        self.problem.get_or_insert(problem);
    }

    /// The problem of an attempt that failed, with when the next one is.
    fn attempt_failed(&self, job: &JobView, reason: &str, why: String) -> Problem {
        let end = job.end.as_ref().filter(|_| !self.sweep.spec.suspend);
        let attempt = Attempt {
            number: job.attempt,
            next: end.and_then(|end| end.at.checked_add(backoff(job.attempt)).ok()),
        };
        Problem {
            attempt: Some(attempt),
            ..Problem::new(reason, why)
        }
    }

    /// Of several attempts the newest is the only one that matters. Returns the number of the next attempt where one
    /// may be created now.
    fn next_attempt(&mut self, newest: Option<&JobView>) -> Option<u32> {
        let Some(job) = newest else {
            return Some(1);
        };
        let end = job.end.as_ref()?;
        self.passed(end.at, backoff(job.attempt))
            .then_some(job.attempt.saturating_add(1))
    }
}

/// How long to wait after the nth attempt, from 1.
fn backoff(attempt: u32) -> Duration {
    let shift = attempt.saturating_sub(1).min(16);
    BACKOFF.0.saturating_mul(1 << shift).min(BACKOFF.1)
}

/// Why a pod failed, for people: what it said itself, else what Kubernetes says.
fn why(pod: Option<&PodView>, job: &JobView, said: Option<&str>) -> String {
    let reason = job.end.as_ref().map_or("", |end| end.reason.as_str());
    let Some(pod) = pod else {
        return format!("Job {} failed ({reason}) and its pods are gone", job.name);
    };
    let code = pod
        .exit_code
        .map_or(String::new(), |code| format!(" with exit code {code}"));
    let why = match said {
        Some(said) if !said.is_empty() => format!(": {said}"),
        _ => match because(pod) {
            because if because.is_empty() => because,
            because => format!(": {because}"),
        },
    };
    format!("pod {} ended{code}{why}", pod.name)
}

/// Why a pod ended, as Kubernetes says it.
fn because(pod: &PodView) -> String {
    match (pod.reason.as_str(), pod.note.as_str()) {
        (reason, "") => reason.to_owned(),
        ("", note) => note.to_owned(),
        (reason, note) => format!("{reason}: {note}"),
    }
}

/// The newest of the pods that have ended.
fn last_ended<'p>(pods: &[&'p PodView]) -> Option<&'p PodView> {
    let ended = |pod: &&&PodView| matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed);
    pods.iter().rev().find(ended).copied()
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

//! A little simulated world for the promises: an API server with Jobs and pods, a store, nodes that fail, and an
//! operator that is killed between any two actions, sees old pods, and has a rival with an old memory.

use std::collections::{BTreeMap, BTreeSet};

use inferbench_crds::{
    contract::{Collected, Decided, ModelReport, PreflightReport, TrialReport},
    splitmix::SplitMix64,
    status::{CollectedResults, Summary},
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::*;
use crate::controller::{fixtures::messages, names::Role, observe::End};

/// How a trial ends for whoever runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    /// It is measured, with this outcome.
    Measured(Outcome),
    /// It breaks its pod with a permanent error.
    Permanent,
    /// It breaks its pod, whatever is tried.
    Breaks,
    /// It needs more memory than its container has.
    Kills,
    /// It never ends by itself.
    Hangs,
}

#[derive(Clone, Debug)]
struct SimJob {
    view: JobView,
    pods: Vec<PodView>,
    failures: i32,
}

/// The world.
pub(super) struct World {
    pub sweep: Sweep,
    pub known: Known,
    version: u64,
    jobs: Vec<SimJob>,
    /// The store: every record, by trial.
    pub store: BTreeMap<u32, Outcome>,
    rng: SplitMix64,
    now: Timestamp,
    next: u64,
    /// Whether things go wrong that would not have to.
    pub faults: bool,
    /// The pods that the operator saw earlier: its memory of them lags.
    old_pods: Vec<PodView>,
    /// The memory of a rival: status version, status and Jobs.
    rival: Option<(u64, Known, Sweep, Vec<JobView>)>,
    /// Numbers of GPUs that no node has.
    pub impossible: BTreeSet<u32>,
    /// Records by which the promises are checked.
    pub creates: usize,
    pub collections: usize,
    pub started: BTreeSet<u32>,
}

impl World {
    pub fn new(sweep: Sweep, seed: u64) -> Self {
        let known = Known {
            ledger: Outcomes::new(sweep.expansion.len_before_exclusion()),
            decided: 0,
            inputs: String::new(),
            not_created: None,
        };
        Self {
            sweep,
            known,
            version: 0,
            jobs: Vec::new(),
            store: BTreeMap::new(),
            rng: SplitMix64::new(seed),
            now: "2026-01-01T00:00:00Z".parse().expect("a time"),
            next: 0,
            faults: true,
            old_pods: Vec::new(),
            rival: None,
            impossible: BTreeSet::new(),
            creates: 0,
            collections: 0,
            started: BTreeSet::new(),
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.below(100) < percent
    }

    /// A fault, while there are any.
    fn fault(&mut self, percent: u32) -> bool {
        let strikes = self.chance(percent);
        strikes && self.faults
    }

    fn nature(index: u32) -> Nature {
        match SplitMix64::stream(7, u64::from(index)).below(20) {
            0 => Nature::Permanent,
            1 => Nature::Breaks,
            2 => Nature::Kills,
            3 => Nature::Hangs,
            4 => Nature::Measured(Outcome::OutOfMemory),
            5 => Nature::Measured(Outcome::TimedOut),
            _ => Nature::Measured(Outcome::Succeeded),
        }
    }

    pub fn views(&self) -> (Vec<JobView>, Vec<PodView>) {
        let jobs = self.jobs.iter().map(|job| job.view.clone()).collect();
        let pods = self.jobs.iter().flat_map(|job| job.pods.clone()).collect();
        (jobs, pods)
    }

    pub fn live(&self) -> usize {
        let trial = |job: &&SimJob| job.view.role == Role::Trial && job.view.end.is_none();
        self.jobs.iter().filter(trial).count()
    }

    pub fn plan(&self) -> Plan {
        let (jobs, pods) = self.views();
        plan(&self.sweep, &self.known, &jobs, &pods, self.now)
    }

    /// A reconcile by the operator: it may see old pods, be killed after any action, and have a rival between two
    /// actions.
    pub fn reconcile(&mut self) {
        let (jobs, mut pods) = self.views();
        if self.fault(20) {
            pods.clone_from(&self.old_pods);
        }
        if self.chance(50) {
            self.old_pods = self.views().1;
        }
        if self.chance(20) {
            let memory = (
                self.version,
                self.known.clone(),
                self.sweep.clone(),
                jobs.clone(),
            );
            self.rival = Some(memory);
        }
        let plan = plan(&self.sweep, &self.known, &jobs, &pods, self.now);
        check_order(&plan.actions);
        let version = self.version;
        let mut left = if self.fault(15) {
            self.rng.below(4) as usize
        } else {
            usize::MAX
        };
        self.act(&plan, version, &mut left, true);
        if self.fault(20) {
            self.rival_reconcile();
        }
    }

    /// Another operator, which believes that it leads, acts on what it saw some time ago. It has one create in flight
    /// at most, as each is preceded by a look at the live resource and its Jobs.
    fn rival_reconcile(&mut self) {
        let Some((version, known, sweep, jobs)) = self.rival.take() else {
            return;
        };
        let plan = plan(&sweep, &known, &jobs, &self.views().1, self.now);
        let mut left = 1;
        self.act(&plan, version, &mut left, false);
    }

    fn act(&mut self, plan: &Plan, version: u64, left: &mut usize, leads: bool) {
        let writes_status = |action: &Action| {
            matches!(
                action,
                Action::Pin(_) | Action::Record(_) | Action::Decide(_) | Action::Collect { .. }
            )
        };
        if plan.actions.iter().any(writes_status) {
            if *left == 0 {
                return;
            }
            *left -= 1;
            if self.version != version {
                return; // 409: the reconcile ends.
            }
            self.patch(plan);
        }
        for action in plan.actions.iter().filter(|action| !writes_status(action)) {
            if *left == 0 {
                return;
            }
            *left = left.saturating_sub(1);
            match action {
                Action::Delete { name, uid, active } => self.delete(name, uid, *active),
                Action::Create(create) => self.create(create, leads),
                _ => {}
            }
        }
    }

    /// One patch for all that is recorded.
    fn patch(&mut self, plan: &Plan) {
        for (index, outcome) in self.known.ledger.iter() {
            let after = plan.ledger.get(index);
            assert!(
                after == Some(outcome) || (outcome.gives_way() && after.is_some()),
                "P3: {index} was {outcome} and became {after:?}"
            );
        }
        self.version += 1;
        self.known.ledger = plan.ledger.clone();
        for action in &plan.actions {
            match action {
                Action::Pin(models) => {
                    let image = self.sweep.image().to_owned();
                    let (spec, expansion) = (&self.sweep.spec, &self.sweep.expansion);
                    self.sweep.plan = Sweep::pin(spec, expansion, image, models.clone());
                }
                Action::Decide(blocks) => {
                    assert!(
                        *blocks > self.known.decided,
                        "decided twice: after {blocks} blocks, and after {} before",
                        self.known.decided
                    );
                    self.known.decided = *blocks;
                }
                Action::Collect { inputs, .. } => {
                    self.known.inputs.clone_from(inputs);
                    self.collections += 1;
                }
                _ => {}
            }
        }
    }

    fn delete(&mut self, name: &str, uid: &str, active: bool) {
        let found = self.jobs.iter_mut().find(|job| job.view.name == name);
        let Some(job) = found.filter(|job| job.view.uid == uid) else {
            return; // 404, or the precondition does not hold.
        };
        if active {
            job.view.deleting = true;
        } else {
            self.jobs.retain(|job| job.view.uid != uid);
        }
    }

    fn create(&mut self, create: &Create, leads: bool) {
        if leads {
            assert!(!self.sweep.spec.suspend, "P9: {create:?} while suspended");
        }
        let (name, role, trials, attempt) = match create {
            Create::Preflight(attempt) => (
                format!("preflight-{attempt}"),
                Role::Preflight,
                Vec::new(),
                *attempt,
            ),
            Create::Trials(trials) => (
                format!("trials-{}", trials[0]),
                Role::Trial,
                trials.clone(),
                1,
            ),
            Create::Look { blocks, attempt } => (
                format!("look-{blocks}-{attempt}"),
                Role::Look,
                Vec::new(),
                *attempt,
            ),
            Create::Collector(attempt) => {
                let inputs = self.sweep.inputs(&self.known.ledger.encode());
                (
                    format!("collect-{}-{attempt}", &inputs[..8]),
                    Role::Collector,
                    Vec::new(),
                    *attempt,
                )
            }
        };
        if self.jobs.iter().any(|job| job.view.name == name) {
            return; // 409: it is ours.
        }
        if leads && role == Role::Trial {
            let window = self.sweep.spec.execution.parallelism.unsigned_abs() as usize;
            assert!(
                self.live() < window,
                "P4: {} Jobs live in a window of {window}",
                self.live()
            );
            for &index in &trials {
                assert_eq!(self.known.ledger.get(index), None, "P2: {index} has ended");
            }
        }
        // Not even by a rival.
        trials.iter().for_each(|index| self.check_open(*index));
        self.creates += usize::from(leads);
        self.next += 1;
        let inputs = self.sweep.inputs(&self.known.ledger.encode());
        let gpus = trials
            .first()
            .and_then(|&index| self.sweep.expansion.trial(index));
        let view = JobView {
            name,
            uid: format!("uid-{}", self.next),
            role,
            gpus: gpus.map_or(0, |trial| trial.combination.gpus),
            trials,
            attempt,
            inputs: match create {
                Create::Collector(_) => inputs,
                Create::Look { blocks, .. } => self.sweep.looked_at(*blocks),
                _ => String::new(),
            },
            created: self.now,
            started: Some(self.now),
            suspended: false,
            end: None,
            deleting: false,
        };
        self.jobs.push(SimJob {
            view,
            pods: Vec::new(),
            failures: 0,
        });
    }

    /// Time passes: pods are made, scheduled, run and end; things go wrong.
    pub fn step(&mut self) {
        self.now += SignedDuration::from_secs(1 + i64::from(self.rng.below(120)));
        let mut jobs = std::mem::take(&mut self.jobs);
        jobs.retain(|job| !job.view.deleting);
        if !jobs.is_empty() && self.fault(5) {
            let victim = self.rng.below(u32::try_from(jobs.len()).expect("few")) as usize;
            jobs.remove(victim);
        }
        for job in &mut jobs {
            if job.view.end.is_none() {
                self.run(job);
            } else if self.fault(5) {
                job.pods.clear();
            }
        }
        self.jobs = jobs;
    }

    fn run(&mut self, job: &mut SimJob) {
        let current = job.pods.last().cloned();
        match current {
            Some(pod) if pod.phase == PodPhase::Pending => {
                let last = job.pods.len() - 1;
                if self.impossible.contains(&job.view.gpus) && job.view.role == Role::Trial {
                    job.pods[last].stuck = Some(("Unschedulable".into(), "0/1 nodes".into()));
                } else if self.chance(70) {
                    let now = self.now;
                    let pod = &mut job.pods[last];
                    (pod.scheduled, pod.phase, pod.stuck) = (Some(now), PodPhase::Running, None);
                    pod.ran = true;
                }
            }
            Some(pod) if pod.phase == PodPhase::Running => {
                if self.chance(60) {
                    self.finish(job);
                }
            }
            _ => {
                self.next += 1;
                let index = job
                    .pods
                    .iter()
                    .filter(|pod| pod.phase == PodPhase::Succeeded)
                    .count();
                job.pods.push(PodView {
                    name: format!("pod-{}", self.next),
                    job: job.view.uid.clone(),
                    index: Some(u32::try_from(index).expect("few")),
                    created: self.now,
                    scheduled: None,
                    deleting: false,
                    phase: PodPhase::Pending,
                    stuck: None,
                    bare: false,
                    ran: false,
                    exit_code: None,
                    reason: String::new(),
                    report: String::new(),
                    disrupted: false,
                    note: String::new(),
                });
            }
        }
    }

    /// The running pod of a Job ends, and perhaps the Job with it.
    fn finish(&mut self, job: &mut SimJob) {
        let (code, reason, report) = match job.view.role {
            Role::Trial => self.measure(&job.view.trials),
            Role::Preflight if self.fault(30) => (73, "Error", "{\"message\":\"403\"}".to_owned()),
            Role::Preflight => {
                let models = self
                    .sweep
                    .spec
                    .design
                    .factors
                    .model
                    .iter()
                    .map(|_| ModelReport {
                        revision: "r".into(),
                        max_tokens: Some(40),
                        unsupported_tensor_parallel: vec![3],
                        ..ModelReport::default()
                    });
                let report = PreflightReport {
                    models: models.collect(),
                    message: None,
                };
                (
                    0,
                    "Completed",
                    serde_json::to_string(&report).expect("JSON"),
                )
            }
            Role::Look if self.fault(30) => (1, "Error", String::new()),
            Role::Look => (0, "Completed", self.decide(&job.view)),
            Role::Collector if self.fault(30) => (1, "Error", String::new()),
            Role::Collector => (0, "Completed", self.collect()),
        };
        let lost = self.fault(5);
        let Some(pod) = job.pods.last_mut() else {
            return;
        };
        pod.exit_code = Some(code);
        pod.reason = reason.into();
        pod.disrupted = reason == "Evicted";
        pod.phase = if code == 0 {
            PodPhase::Succeeded
        } else {
            PodPhase::Failed
        };
        pod.report = report;
        let end = |complete: bool, at, reason: &str| {
            Some(End {
                at,
                complete,
                reason: reason.into(),
            })
        };
        if code == 0 {
            job.view.end = end(true, self.now, "CompletionsReached");
        } else if reason == "Evicted" {
            // Ignored: another pod is made.
        } else if (64..=79).contains(&code) || code == 137 {
            job.view.end = end(false, self.now, "PodFailurePolicy");
        } else {
            job.failures += 1;
            if job.failures > self.sweep.spec.execution.retries {
                job.view.end = end(false, self.now, "BackoffLimitExceeded");
            }
        }
        if lost {
            job.pods.clear();
        }
    }

    /// A runner: skips what is stored, stores what it measures, breaks where it has to.
    fn measure(&mut self, trials: &[u32]) -> (i32, &'static str, String) {
        let mut report = TrialReport::default();
        let say = |report: &TrialReport| serde_json::to_string(report).expect("JSON");
        for &index in trials {
            if let Some(&outcome) = self.store.get(&index) {
                report.add(outcome, true, None);
                continue;
            }
            if self.fault(10) {
                return (1, "Error", say(&report));
            }
            if self.fault(5) {
                return (137, "Evicted", say(&report));
            }
            self.started.insert(index);
            match Self::nature(index) {
                Nature::Measured(outcome) => {
                    self.store.insert(index, outcome);
                    if self.fault(5) {
                        // Killed after the record was stored and before that was said.
                        let reasons = ["Error", "OOMKilled", "DeadlineExceeded"];
                        return (1, reasons[index as usize % 3], say(&report));
                    }
                    report.add(outcome, false, None);
                }
                Nature::Permanent => return (65, "Error", say(&report)),
                Nature::Breaks => return (1, "Error", say(&report)),
                Nature::Kills => return (137, "OOMKilled", say(&report)),
                Nature::Hangs => return (1, "DeadlineExceeded", say(&report)),
            }
        }
        (0, "Completed", say(&report))
    }

    /// A look: a combination is enough with as many results in the store as its number says. After all replicates, every
    /// third is measured again.
    fn decide(&self, job: &JobView) -> String {
        let expansion = &self.sweep.expansion;
        let combinations = expansion.combinations_before_exclusion();
        let blocks = (0..expansion.replicates())
            .find(|blocks| self.sweep.looked_at(*blocks) == job.inputs)
            .expect("a look after some blocks");
        let enough = (0..combinations).filter(|combination| {
            if blocks >= expansion.blocks_of_all() {
                return combination % 3 > 0;
            }
            let results = (0..blocks).filter(|block| {
                let index = block * combinations + combination;
                self.store.get(&index) == Some(&Outcome::Succeeded)
            });
            results.count() as u32 >= 2 + combination % 3
        });
        let decided = Decided::new(blocks, combinations, enough);
        let chunks = inferbench_crds::handover::cut(&decided, 100_000).expect("JSON");
        serde_json::to_string(&chunks[0]).expect("JSON")
    }

    fn collect(&self) -> String {
        let ended = self.known.ledger.iter();
        let stored =
            ended.filter_map(|(index, known)| Some((index, known, *self.store.get(&index)?)));
        let recovered = stored
            .filter(|(_, known, stored)| known != stored)
            .map(|(index, _, stored)| (index, stored));
        let collected = Collected {
            results: CollectedResults {
                rows: self.sweep.plan.trials,
                ..CollectedResults::default()
            },
            summary: Summary::default(),
            recovered: recovered.collect(),
        };
        messages(&collected, 100_000).remove(0)
    }

    /// Faults have stopped: the world goes on until nothing is left to do.
    pub fn settle(&mut self) {
        self.faults = false;
        self.rival = None;
        for _ in 0..20_000 {
            let plan = self.plan();
            let quiet = plan
                .actions
                .iter()
                .all(|action| matches!(action, Action::Wait(_)));
            if plan.phase == Phase::Finished && quiet {
                return;
            }
            self.reconcile();
            self.step();
        }
        let plan = self.plan();
        panic!(
            "P1: it never ends: {:?} {:?} {:?}",
            plan.phase, plan.tally, plan.actions
        );
    }

    /// No trial is begun before it is decided whether its combination runs on.
    fn check_open(&self, index: u32) {
        let expansion = &self.sweep.expansion;
        let is_looked_at = expansion.confirms(index);
        assert!(
            !is_looked_at || self.known.decided >= expansion.blocks_of_all(),
            "trial {index} is begun, and what is measured again is not decided yet"
        );
        assert_ne!(
            self.known.ledger.get(index),
            Some(Outcome::NotNeeded),
            "trial {index} is begun, and decided against"
        );
        if let Some(until) = self
            .sweep
            .spec
            .design
            .until
            .as_ref()
            .filter(|_| !is_looked_at)
        {
            let block = index / self.sweep.expansion.combinations_before_exclusion();
            let min = until.min.unsigned_abs();
            assert!(
                block < min || block <= self.known.decided,
                "trial {index} is begun, and after {} blocks nothing is decided yet",
                self.known.decided
            );
        }
    }

    /// P1: every trial has a stored result that the ledger knows, or a recorded failure.
    pub fn check_end(&self) {
        for trial in self.sweep.expansion.trials() {
            let recorded = self.known.ledger.get(trial.index);
            let stored = self.store.get(&trial.index).copied();
            match (stored, recorded) {
                (Some(stored), Some(recorded)) => {
                    assert_eq!(stored, recorded, "P1: {}", trial.index)
                }
                (None, Some(recorded)) => {
                    assert_ne!(recorded, Outcome::Succeeded, "P1: {}", trial.index);
                    let is_begun = self.started.contains(&trial.index);
                    assert!(
                        recorded != Outcome::NotNeeded || !is_begun,
                        "{} was measured, and decided against",
                        trial.index
                    );
                }
                (_, None) => panic!("P1: {} has no end", trial.index),
            }
        }
        assert_eq!(
            self.known.inputs,
            self.sweep.inputs(&self.known.ledger.encode())
        );
    }
}

/// Records come before deletions, and those before creations.
pub(super) fn check_order(actions: &[Action]) {
    let rank = |action: &Action| match action {
        Action::Pin(_) | Action::Record(_) | Action::Decide(_) | Action::Collect { .. } => 0,
        Action::Delete { .. } => 1,
        Action::Create(_) => 2,
        Action::Wait(_) => 3,
    };
    assert!(actions.is_sorted_by_key(rank), "{actions:?}");
}

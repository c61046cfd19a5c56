//! The runner as the operator sees it: containers that answer in the words of the contract, in no time of the wall's,
//! and the store that they all write to.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use inferbench_crds::{
    Outcome,
    contract::{
        Collected, Decided, ModelReport, PodRequest, PreflightReport, REQUESTS_FILE, SweepRequest,
        TrialReport, TrialRequest,
    },
    handover::{self, CHUNK_BYTES},
    ledger::Outcomes,
    sha256_hex,
    splitmix::SplitMix64,
    status::{CollectedResults, Summary},
};
use inferbench_fakekube::cluster::{Containers, Exit, Signal, Start, environment::Source};

/// How a trial ends for whoever runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
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

impl Nature {
    /// All kinds, most of them fine.
    pub fn mixed(index: u32) -> Self {
        match SplitMix64::stream(7, u64::from(index)).below(16) {
            0 => Self::Permanent,
            1 => Self::Breaks,
            2 => Self::Kills,
            3 => Self::Hangs,
            4 => Self::Measured(Outcome::OutOfMemory),
            5 => Self::Measured(Outcome::TimedOut),
            _ => Self::fine(index),
        }
    }

    /// It is measured, and that is all.
    pub fn fine(_: u32) -> Self {
        Self::Measured(Outcome::Succeeded)
    }
}

/// A record in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key: all that fixes the trial.
    pub request: String,
    pub outcome: Outcome,
}

/// The store that all pods share, and what was done with it.
#[derive(Default)]
pub struct Store {
    /// By sweep folder and trial.
    records: Mutex<BTreeMap<(String, u32), Record>>,
    /// How often each trial's measurement was begun.
    begun: Mutex<BTreeMap<(String, u32), u32>>,
    /// Violations of a promise.
    pub wrong: Mutex<Vec<String>>,
    /// Whether it refuses the credentials.
    pub refuses: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// The records of a sweep, by trial.
    pub fn records(&self, target: &str) -> BTreeMap<u32, Record> {
        let records = locked(&self.records);
        let of = records.iter().filter(|((folder, _), _)| folder == target);
        of.map(|((_, index), record)| (*index, record.clone()))
            .collect()
    }

    /// How often each trial's measurement was begun.
    pub fn begun(&self, target: &str) -> BTreeMap<u32, u32> {
        let begun = locked(&self.begun);
        let of = begun.iter().filter(|((folder, _), _)| folder == target);
        of.map(|((_, index), times)| (*index, *times)).collect()
    }

    /// The outcome that is stored for a trial; a record under another key is another trial's, and must not be there.
    fn find(&self, trial: &TrialRequest, key: &str) -> Option<Outcome> {
        let place = (trial.store.target.clone(), trial.trial_index);
        let record = locked(&self.records).get(&place).cloned()?;
        if record.request != key {
            let index = trial.trial_index;
            locked(&self.wrong).push(format!("P2: trial {index} was asked for by another key"));
        }
        Some(record.outcome)
    }

    /// Creates a record; what is stored already wins.
    fn put(&self, trial: &TrialRequest, key: &str, outcome: Outcome) -> Outcome {
        let place = (trial.store.target.clone(), trial.trial_index);
        let record = Record {
            request: key.to_owned(),
            outcome,
        };
        locked(&self.records).entry(place).or_insert(record).outcome
    }

    fn begin(&self, trial: &TrialRequest) {
        let place = (trial.store.target.clone(), trial.trial_index);
        *locked(&self.begun).entry(place).or_default() += 1;
    }
}

/// The containers.
#[derive(Clone)]
pub struct Runner {
    pub store: Arc<Store>,
    pub nature: fn(u32) -> Nature,
    /// The preflight's report on each model.
    pub model: ModelReport,
    /// The collection's summary, apart from where and how much.
    pub summary: Summary,
    /// How long a trial takes.
    pub takes: fn(u32) -> Duration,
}

impl Containers for Runner {
    fn run(&self, start: Start) -> BoxFuture<'static, Exit> {
        let runner = self.clone();
        runner.go(start).boxed()
    }
}

impl Runner {
    async fn go(self, start: Start) -> Exit {
        let said = Arc::new(Mutex::new(String::new()));
        let mut signals = start.signals.clone();
        let work = self.work(start, Arc::clone(&said));
        let (code, reason) = tokio::select! {
            biased;
            signal = signals.received(Signal::Term) => match signal {
                Signal::Kill => (137, None),
                _ => (1, None),
            },
            code = work => (code, (code == 137).then(|| "OOMKilled".to_owned())),
        };
        let message = locked(&said).clone();
        Exit {
            code,
            message,
            reason,
        }
    }

    async fn work(self, start: Start, said: Arc<Mutex<String>>) -> i32 {
        let folder = REQUESTS_FILE.rsplit_once('/').expect("a folder").0;
        let mounts = &start.environment.mounts;
        let files = mounts.iter().find_map(|mount| match &mount.source {
            Source::Files(files) if mount.path == folder => Some(files),
            _ => None,
        });
        let requests = files.expect("requests")["requests"].clone();
        let command = start.environment.command[1].as_str();
        match command {
            "preflight" => self.preflight(&requests, &said).await,
            "trial" => self.trials(&requests, &said).await,
            "collect" => {
                let index = &start.environment.variables["JOB_COMPLETION_INDEX"];
                let index = index.parse().expect("a number");
                self.collect(&requests, index, &said).await
            }
            other => panic!("no such command: {other}"),
        }
    }

    async fn preflight(&self, requests: &str, said: &Mutex<String>) -> i32 {
        let request: SweepRequest = serde_json::from_str(requests).expect("a request");
        tokio::time::sleep(Duration::from_secs(20)).await;
        let mut report = PreflightReport::default();
        let code = if self.store.refuses.load(Ordering::SeqCst) {
            report.message = Some("the bucket refuses the credentials: 403".into());
            73
        } else {
            report.models = vec![self.model.clone(); request.spec.design.factors.model.len()];
            0
        };
        *locked(said) = serde_json::to_string(&report).expect("JSON");
        code
    }

    async fn trials(&self, requests: &str, said: &Mutex<String>) -> i32 {
        let mut report = TrialReport::default();
        for line in requests.lines() {
            let PodRequest::Trial(trial) = serde_json::from_str(line).expect("a request");
            let key = serde_json::to_string(&trial.request).expect("JSON");
            let found = self.store.find(&trial, &key);
            let outcome = match found {
                Some(stored) => stored,
                None => {
                    self.store.begin(&trial);
                    tokio::time::sleep((self.takes)(trial.trial_index)).await;
                    match (self.nature)(trial.trial_index) {
                        Nature::Measured(_) if self.store.refuses.load(Ordering::SeqCst) => {
                            return 74;
                        }
                        Nature::Measured(outcome) => {
                            let stored = self.store.put(&trial, &key, outcome);
                            // Time to be killed in after the record is stored, and before that is said.
                            tokio::time::sleep(Duration::from_secs(1)).await;
                            stored
                        }
                        Nature::Permanent => return 65,
                        Nature::Breaks => return 2,
                        Nature::Kills => return 137,
                        Nature::Hangs => std::future::pending().await,
                    }
                }
            };
            report.add(outcome, found.is_some(), Some(1_000.0));
            *locked(said) = serde_json::to_string(&report).expect("JSON");
        }
        0
    }

    async fn collect(&self, requests: &str, index: usize, said: &Mutex<String>) -> i32 {
        let request: SweepRequest = serde_json::from_str(requests).expect("a request");
        tokio::time::sleep(Duration::from_secs(30)).await;
        if self.store.refuses.load(Ordering::SeqCst) {
            return 74;
        }
        let chunks = match request.look {
            Some(blocks) => handover::cut(&self.decided(&request, blocks), CHUNK_BYTES),
            None => handover::cut(&self.collected(&request), CHUNK_BYTES),
        };
        let chunks = chunks.expect("JSON");
        if chunks.len() > request.chunks.expect("a collection's") as usize {
            return 70;
        }
        if let Some(chunk) = chunks.get(index) {
            *locked(said) = serde_json::to_string(chunk).expect("JSON");
        }
        0
    }

    /// The decisions after some blocks: a combination is narrow enough with as many results as its number says. Every
    /// third is measured again.
    fn decided(&self, request: &SweepRequest, blocks: u32) -> Decided {
        let records = self.store.records(&request.store.target);
        let design = inferbench_crds::design::Expansion::new(&request.spec.design);
        let combinations = design.combinations_before_exclusion();
        if blocks >= design.blocks_of_all() {
            let others = (0..combinations).filter(|combination| combination % 3 > 0);
            return Decided::new(blocks, combinations, others);
        }
        let enough = (0..combinations).filter(|combination| {
            let results = (0..blocks).filter(|block| {
                let record = records.get(&(block * combinations + combination));
                record.is_some_and(|record| record.outcome == Outcome::Succeeded)
            });
            results.count() >= 2 + *combination as usize % 3
        });
        Decided::new(blocks, combinations, enough)
    }

    /// The handover of what is in the store, with the failures that it knows better.
    fn collected(&self, request: &SweepRequest) -> Collected {
        let records = self.store.records(&request.store.target);
        let design = inferbench_crds::design::Expansion::new(&request.spec.design);
        let ledger = request.ledger.as_deref().expect("a collection's");
        let ledger = Outcomes::decode(ledger, design.len_before_exclusion()).expect("a ledger");
        let recovered = ledger.iter().filter_map(|(index, known)| {
            let stored = records.get(&index)?.outcome;
            (stored != known).then_some((index, stored))
        });
        let rows: Vec<String> = records
            .iter()
            .map(|(index, record)| format!("{index} {} {}", record.outcome, record.request))
            .collect();
        let good = records.values();
        let good = good.filter(|record| record.outcome == Outcome::Succeeded);
        Collected {
            results: CollectedResults {
                uri: request.store.target.clone(),
                sha256: sha256_hex(rows.join("\n").as_bytes()),
                rows: request.plan.trials,
                report: "report.html".into(),
                ..CollectedResults::default()
            },
            summary: Summary {
                trials: i32::try_from(good.count()).expect("few"),
                ..self.summary.clone()
            },
            recovered: recovered.collect(),
        }
    }
}

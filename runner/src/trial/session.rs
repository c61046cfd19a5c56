//! A trial, from its request to its record, step by step; and what the trials of one process share.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use inferbench_crds::{
    design::{Combination, Load},
    spec::Dtype,
};
use inferbench_engine::{
    EngineError,
    ceilings::{Ceilings, roofline::ModelShape},
    gpu::{self, Gpu},
    host::Cgroup,
    threads::Threads,
    tokenizer::Tokenizer,
};
use inferbench_results::record::{
    Effective, Harness, Iteration, Outcome, Provenance, Quality, Roofline, TrialRecord,
};

use super::{
    asked, capacity,
    clock::{Clock, JUDGING, LOADING, MEASURING, WARMING_UP},
    engine::{Ready, Slot, Starter},
    host::Host,
    measure::{Hooks, Stop, Timed, measure},
    protocol::Measure,
    quality, recording, requests, roofline,
    subject::Subject,
    verdict::{TrialEvidence, invalid_reasons},
    watch::{Observed, Watch},
};
use crate::{
    backend::{self, Access, BackendError, candle},
    machine::{self, Machine, ceilings},
    telemetry::{
        min_samples,
        nvml::{self, WatchedGpus},
    },
};

/// The state that the trials of one process share.
pub struct Session {
    machine: Machine,
    threads: Threads,
    process_id: String,
    cgroup: Cgroup,
    access: Access,
    fresh: bool,
    engine: Slot,
    renewed: Option<Ceilings>,
}

/// Who looks for GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finder {
    /// The engine in this process, which computes on them.
    Engine,
    /// The driver's management library: those of a server, on which this process does not compute.
    Driver,
}

impl Finder {
    /// Who looks for the GPUs of a combination.
    #[must_use]
    pub const fn of(combination: &Combination) -> Self {
        if combination.engine.takes_requests() {
            Self::Driver
        } else {
            Self::Engine
        }
    }
}

/// Why a trial has no record.
#[derive(Debug)]
pub enum NoRecord {
    /// It broke.
    Failed {
        /// Why.
        message: String,
        /// Whether trying again cannot help.
        permanent: bool,
    },
    /// It was told to stop.
    Interrupted,
}

impl Session {
    /// Looks at the machine; the threads have been settled before.
    #[must_use]
    pub fn new(threads: Threads) -> Self {
        Self::with_engines(threads, backend::start)
    }

    /// [`Session::new`] with engines that are started so.
    #[must_use]
    pub fn with_engines(threads: Threads, starter: Starter) -> Self {
        let machine = Machine::look();
        Self {
            process_id: machine::process_id(&machine.node),
            cgroup: Cgroup::of_this_process(),
            access: Access::of_this_process(),
            machine,
            threads,
            fresh: true,
            engine: Slot::new(starter),
            renewed: None,
        }
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// This process' name in records.
    #[must_use]
    pub fn process_id(&self) -> &str {
        &self.process_id
    }

    /// Measures the ceilings that trials on the CPU, or on GPUs, are judged by.
    ///
    /// # Errors
    /// Where they cannot be measured.
    pub fn ceilings(
        &self,
        dtype: Dtype,
        shape: &ModelShape,
        gpus: u32,
    ) -> Result<Ceilings, EngineError> {
        let format = candle::format(dtype);
        if gpus > 0 {
            // The activity on the CPU is nothing to them.
            return Ceilings::measure_gpu(format, Some(shape));
        }
        Ok(ceilings::measure(
            &self.machine,
            self.threads.count,
            format,
            shape,
        )?)
    }

    /// Looks at the first `count` GPUs, if that has not been done.
    ///
    /// # Errors
    /// [`EngineError::Device`] where there are fewer, or this build cannot use them.
    pub fn find_gpus(&mut self, count: u32, by: Finder) -> Result<&[Gpu], EngineError> {
        let count = count as usize;
        if self.machine.gpus.all.len() < count {
            let all = match by {
                Finder::Engine => gpu::find(count)?,
                Finder::Driver => nvml::first(count).map_err(EngineError::Device)?,
            };
            let (driver, cuda) = WatchedGpus::open(&[])
                .map(|gpus| gpus.versions())
                .unwrap_or_default();
            self.machine.gpus = machine::Gpus { all, driver, cuda };
        }
        Ok(&self.machine.gpus.all[..count])
    }

    /// Where the server of the last trial writes, where all of that is to be kept.
    #[must_use]
    pub fn server_log(&self) -> Option<&Path> {
        self.engine.log()
    }

    /// Ceilings that the last trial was judged by in place of those that came with it, which it had exceeded.
    pub fn take_renewed_ceilings(&mut self) -> Option<Ceilings> {
        self.renewed.take()
    }

    /// Measures a trial, with the engine that is ready already where that can be used.
    ///
    /// # Errors
    /// Where there is nothing to store: the trial broke, or `interrupted` said so.
    pub fn run(
        &mut self,
        ask: &Measure,
        clock: &Clock,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<TrialRecord, NoRecord> {
        let stop = match self.measure(ask, clock, interrupted) {
            Ok(record) => return Ok(record),
            Err(stop) => stop,
        };
        // A failure may have left it dead, or in the middle of something; the next trial starts anew.
        if !matches!(stop, Stop::Engine(BackendError::Unsupported(_))) {
            self.engine.clear();
        }
        let (outcome, message) = match stop {
            Stop::Interrupted => return Err(NoRecord::Interrupted),
            Stop::TimedOut => (Outcome::TimedOut, clock.message()),
            Stop::Engine(BackendError::Unsupported(why)) => (Outcome::Unsupported, why),
            Stop::Engine(BackendError::OutOfMemory(why)) => (Outcome::OutOfMemory, why),
            Stop::Engine(BackendError::Failed { message, permanent }) => {
                return Err(NoRecord::Failed { message, permanent });
            }
            Stop::Wrong(message) => {
                return Err(NoRecord::Failed {
                    message,
                    permanent: false,
                });
            }
        };
        Ok(self.record(ask, clock, outcome, Some(message)))
    }

    /// The steps of a trial.
    fn measure(
        &mut self,
        ask: &Measure,
        clock: &Clock,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<TrialRecord, Stop> {
        let combination = &ask.trial.request.combination;
        let gpus = self.find_gpus(combination.gpus, Finder::of(combination))?;
        let uuids: Vec<String> = gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        let subject = Subject::of(ask)?;
        let roofline_missing = roofline::missing(combination);
        let (ceilings, ceilings_took) = took(|| {
            let judged = roofline_missing.is_none();
            judged.then(|| self.given_ceilings(&subject)).transpose()
        });
        let ceilings = ceilings?;
        let fresh = std::mem::replace(&mut self.fresh, false);

        let processes = self.engine.processes(&subject);
        let mut watch = Watch::start(&self.machine, &self.cgroup, processes, &uuids);
        clock.enter(LOADING);
        let start = Instant::now();
        let host = Host {
            threads: &self.threads,
            gpu_uuids: &uuids,
            memory: self.machine.memory,
            access: &self.access,
        };
        let engine = self.engine.ready(&subject, &host)?;
        let start_took = start.elapsed();
        engine.backend.begin(combination, clock.deadline());
        watch.follow(engine.backend.processes());

        clock.enter(WARMING_UP);
        let mut hooks = TrialHooks {
            clock,
            interrupted,
            subject: &subject,
            tokenizer: engine.tokenizer.as_ref(),
            watch: &mut watch,
            ready: None,
        };
        let arrivals = requests::arrivals(combination, subject.seed);
        let (timed, server) = match (combination.load(), arrivals) {
            (Load::Search(search), _) => {
                hooks.ready = machine::since_process_start();
                let tokenizer = engine.tokenizer.as_ref();
                let prompts = |number| subject.prompt(tokenizer, number);
                let objectives = ask.trial.request.objectives.clone().unwrap_or_default();
                let task = capacity::Task {
                    search,
                    objectives: &objectives,
                    seed: subject.seed,
                    left: &|| clock.left(),
                };
                let backend = engine.backend.as_mut();
                capacity::measure(backend, &subject.schedule, &task, &prompts, &mut hooks)?
            }
            (_, None) => {
                let timed = measure(engine.backend.as_mut(), &subject.schedule, &mut hooks)?;
                (timed, engine.backend.take_metrics())
            }
            (_, Some(arrivals)) => {
                hooks.ready = machine::since_process_start();
                let tokenizer = engine.tokenizer.as_ref();
                let prompts = |number| subject.prompt(tokenizer, number);
                let (backend, limit) = (engine.backend.as_mut(), clock.left());
                let timed = requests::measure(
                    backend,
                    &subject.schedule,
                    arrivals,
                    limit,
                    &prompts,
                    &mut hooks,
                )?;
                (timed, engine.backend.take_metrics())
            }
        };
        let ready = hooks.ready.filter(|_| fresh);

        let logits_finite = engine.logits_are_finite(&subject)?;
        let observed = watch.finish(timed.window);
        let effective = effective(&subject, &timed, engine);
        let engine_version = engine.backend.description().version.clone();
        // After all that is measured: neither memory nor telemetry are to know of it.
        let (quality, quality_missing) = judge_quality(&subject, &timed, engine, clock);
        let objections = asked::all_objections(
            timed.asked.as_ref(),
            server.as_ref(),
            &subject.schedule.wanted(),
        );
        let invalid_reasons =
            self.invalid_reasons(&subject, &timed, &observed, logits_finite, objections);
        let record = TrialRecord {
            valid: invalid_reasons.is_empty(),
            invalid_reasons,
            effective: Some(effective),
            roofline: ceilings.map(|ceilings| self.judge_roofline(&subject, &timed, ceilings)),
            roofline_missing: roofline_missing.map(Into::into),
            quality,
            quality_missing,
            harness: Some(harness(
                &timed,
                &observed,
                ready,
                start_took + ceilings_took,
            )),
            iterations: timed.iterations,
            client: timed.asked.as_ref().map(|asked| asked.client),
            requests: timed.asked.and_then(|asked| asked.requests),
            capacity: timed.capacity,
            server,
            warmup: timed.warmup,
            telemetry: observed.telemetry,
            ..self.record(ask, clock, Outcome::Succeeded, None)
        };
        let provenance = Provenance {
            engine_version,
            ..record.provenance
        };
        Ok(TrialRecord {
            provenance,
            ..record
        })
    }

    /// Why the measurement cannot be vouched for.
    fn invalid_reasons(
        &self,
        subject: &Subject<'_>,
        timed: &Timed,
        observed: &Observed,
        logits_finite: Option<bool>,
        objections: Vec<String>,
    ) -> Vec<String> {
        let gpus = observed.telemetry.gpus.iter();
        invalid_reasons(&TrialEvidence {
            window: observed.window,
            timed_s: timed.timed.as_secs_f64(),
            min_duration_s: subject.schedule.min_duration.as_secs_f64(),
            iterations: count(timed.count()),
            objections,
            min_iterations: subject.schedule.iterations,
            cpus: count(self.machine.cpus.len()),
            // On GPUs one thread does nothing but enqueue.
            threads: match subject.gpus() {
                0 => count(self.threads.count),
                gpus => gpus,
            },
            samples: observed.samples,
            min_samples: min_samples(Duration::from_secs_f64(observed.window.wall_s)),
            concurrent_trials: observed.neighbours,
            concurrency_allowed: subject.ask.trial.neighbours_allowed,
            logits_finite,
            foreign_gpu_processes: gpus
                .map(|gpu| gpu.foreign_processes.unwrap_or_default())
                .collect(),
            gpu_telemetry_missing: observed.telemetry.gpu_telemetry_missing.clone(),
        })
    }

    /// The ceilings that come with a request, or measured where none do.
    fn given_ceilings(&self, subject: &Subject<'_>) -> Result<Ceilings, EngineError> {
        match &subject.ask.ceilings {
            Some(ceilings) => Ok(ceilings.clone()),
            None => self.ceilings_of(subject),
        }
    }

    fn ceilings_of(&self, subject: &Subject<'_>) -> Result<Ceilings, EngineError> {
        let dtype = subject.ask.trial.request.combination.dtype;
        self.ceilings(dtype, &subject.shape, subject.gpus())
    }

    /// How near a trial came to the ceilings. Above them something lowered them when they were measured. The times are
    /// taken: there is no hurry now. Where they cannot be measured, as beside a model that leaves no memory for it, the
    /// times are none the worse.
    fn judge_roofline(
        &mut self,
        subject: &Subject<'_>,
        timed: &Timed,
        ceilings: Ceilings,
    ) -> Roofline {
        let (ttft_s, tpot_s) = mean_times(timed);
        let judge = |ceilings: &Ceilings| {
            roofline::judge(&subject.shape, &subject.workload, ceilings, ttft_s, tpot_s)
        };
        let judged = judge(&ceilings);
        if !judged.above_ceiling().contains(&true) {
            return judged;
        }
        let Ok(again) = self.ceilings_of(subject) else {
            return judged;
        };
        let ceilings = ceilings.higher(again);
        let judged = judge(&ceilings);
        self.renewed = Some(ceilings);
        judged
    }

    fn record(
        &self,
        ask: &Measure,
        clock: &Clock,
        outcome: Outcome,
        message: Option<String>,
    ) -> TrialRecord {
        TrialRecord {
            message,
            ..recording::unmeasured(
                &ask.trial,
                &self.machine,
                &self.process_id,
                &clock.started_at,
                outcome,
                String::new(),
            )
        }
    }
}

/// A result, and how long it took.
fn took<T>(make: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let made = make();
    (made, started.elapsed())
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The harness's own share of the time. `ready` is the time from the start of the process to the first prompts, where
/// this is the process' first trial: the time of former ones is none of this one's start-up. Of it, `engine` went to
/// the engine and to its ceilings.
fn harness(
    timed: &Timed,
    observed: &Observed,
    ready: Option<Duration>,
    engine: Duration,
) -> Harness {
    Harness {
        ready_s: ready.map(|ready| ready.saturating_sub(engine).as_secs_f64()),
        window_s: observed.window.wall_s,
        timed_s: timed.timed.as_secs_f64(),
    }
}

/// The configuration that ran, as the engine reports it.
fn effective(subject: &Subject<'_>, timed: &Timed, engine: &Ready) -> Effective {
    let description = engine.backend.description().clone();
    let combination = &subject.ask.trial.request.combination;
    let prompts = if engine.tokenizer.is_some() {
        "text"
    } else {
        "ids"
    };
    let start = description.load.as_secs_f64();
    let asked = combination.engine.server.is_some();
    Effective {
        architecture: description.architecture,
        model_params: description.model_params,
        dtype: description
            .dtype
            .unwrap_or_else(|| combination.dtype.name().into()),
        batch_size: count(subject.schedule.batch),
        input_len: count(subject.schedule.input),
        output_len: count(subject.schedule.output),
        gpus: combination.gpus,
        engine: description.engine,
        engine_mode: description.mode,
        configuration: description.configuration,
        weight_bytes: description.weight_bytes,
        // A server does not part its loading from its start.
        model_load_s: if asked { 0.0 } else { start },
        engine_start_s: (asked && engine.started_now).then_some(start),
        threads: description.threads,
        denormals_flushed: description.denormals_flushed,
        prompts: prompts.into(),
        prompt_seed: subject.prompt_seed(timed.first_timed),
    }
}

/// How good what the model writes is, where that is asked for, or why that cannot be said.
fn judge_quality(
    subject: &Subject<'_>,
    timed: &Timed,
    engine: &mut Ready,
    clock: &Clock,
) -> (Option<Quality>, Option<String>) {
    if !subject.ask.trial.request.measurement.quality {
        return (None, None);
    }
    clock.enter(JUDGING);
    match quality::judge(engine, subject, timed.first_timed) {
        Ok(quality) => (Some(quality), None),
        Err(why) => (None, Some(why)),
    }
}

/// The mean TTFT, and the mean TPOT where there are several output tokens, in seconds.
fn mean_times(timed: &Timed) -> (f64, Option<f64>) {
    let count = timed.iterations.len().max(1) as f64;
    let mean = |of: fn(&Iteration) -> Option<f64>| {
        let sum: Option<f64> = timed.iterations.iter().map(of).sum();
        sum.map(|sum| sum / count / 1e3)
    };
    (
        mean(Iteration::ttft_ms).unwrap_or_default(),
        mean(Iteration::tpot_ms),
    )
}

/// All that goes on around the iterations of a trial.
struct TrialHooks<'a, 'b> {
    clock: &'a Clock,
    interrupted: &'a dyn Fn() -> bool,
    subject: &'a Subject<'a>,
    tokenizer: Option<&'a Tokenizer>,
    watch: &'a mut Watch<'b>,
    ready: Option<Duration>,
}

impl Hooks for TrialHooks<'_, '_> {
    fn prompts(&mut self, number: u64) -> Result<Vec<Vec<u32>>, BackendError> {
        if number == 0 {
            self.ready = machine::since_process_start();
        }
        self.subject.prompts(self.tokenizer, number)
    }

    fn before(&mut self) {
        self.clock.enter(MEASURING);
        self.watch.open();
    }

    fn after(&mut self) {
        self.watch.close();
    }

    fn stop(&self) -> Option<Stop> {
        if (self.interrupted)() {
            Some(Stop::Interrupted)
        } else if self.clock.left().is_zero() {
            Some(Stop::TimedOut)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;

//! One trial, from its request to its record.

use std::time::{Duration, Instant};

use inferbench_crds::design::Combination;
use inferbench_engine::{
    Backend, Engine, EngineError, Format, LoadOptions, Weights,
    ceilings::{Ceilings, roofline::Shape},
    config::ModelConfig,
    gpu::{self, Gpu},
    size,
    threads::Threads,
    tokenizer::{self, Tokenizer},
};
use inferbench_results::{
    key::trial_key,
    record::{CpuTelemetry, Effective, Harness, Outcome, TrialRecord},
};

use super::{
    clock::{Clock, JUDGING, LOADING, MEASURING, WARMING_UP},
    measure::{Around, Measured, Plan, Stop, measure},
    protocol::Measure,
    quality::judge,
    recording, roofline,
    verdict::{self, Evidence},
};
use crate::{
    machine::{
        self, Machine,
        activity::{Counters, Interval},
        ceilings,
        cgroup::Cgroup,
        usage,
    },
    models::WeightsAt,
    process::lock::Presence,
    telemetry::{Sampler, min_samples, nvml::Gpus},
};

/// What the trials of one process share.
pub struct Session {
    machine: Machine,
    threads: Threads,
    process_id: String,
    cgroup: Cgroup,
    fresh: bool,
    loaded: Option<Loaded>,
    renewed: Option<Ceilings>,
}

struct Loaded {
    weights: WeightsAt,
    dtype: String,
    world: usize,
    max_batch: usize,
    max_seq: usize,
    engine: Engine,
    tokenizer: Option<Tokenizer>,
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
        let machine = Machine::look();
        Self {
            process_id: machine::process_id(&machine.node),
            cgroup: Cgroup::of_this_process(),
            machine,
            threads,
            fresh: true,
            loaded: None,
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
        format: Format,
        shape: &Shape,
        gpus: u32,
    ) -> Result<Ceilings, EngineError> {
        if gpus > 0 {
            // What goes on on the CPU is nothing to them.
            return Ceilings::measure_gpu(format, Some(shape));
        }
        Ok(ceilings::measure(
            &self.machine,
            self.threads.count,
            format,
            shape,
        )?)
    }

    /// Looks at the first so many GPUs, if that has not been done.
    ///
    /// # Errors
    /// [`EngineError::Device`] where there are fewer, or this build cannot use them.
    pub fn find_gpus(&mut self, count: u32) -> Result<&[Gpu], EngineError> {
        let count = count as usize;
        if self.machine.gpus.all.len() < count {
            let all = gpu::find(count)?;
            let (driver, cuda) = Gpus::open(&[])
                .map(|gpus| gpus.versions())
                .unwrap_or_default();
            self.machine.gpus = machine::Gpus { all, driver, cuda };
        }
        Ok(&self.machine.gpus.all[..count])
    }

    /// Ceilings that the last trial was judged by in place of those that came with it, which it had exceeded.
    pub fn take_renewed_ceilings(&mut self) -> Option<Ceilings> {
        self.renewed.take()
    }

    /// Measures a trial, with the model that is loaded already where that is the one and has room.
    ///
    /// # Errors
    /// Where there is nothing to store: the trial broke, or `interrupted` said so.
    pub fn run(
        &mut self,
        ask: &Measure,
        clock: &Clock,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<TrialRecord, NoRecord> {
        let result = self.measure(ask, clock, interrupted);
        let outcome = |outcome, message: String| {
            Ok(recording::unmeasured(
                &ask.trial,
                &self.machine,
                &self.process_id,
                &clock.started_at,
                outcome,
                message,
            ))
        };
        match result {
            Ok(record) => Ok(record),
            Err(Stop::Interrupted) => Err(NoRecord::Interrupted),
            Err(Stop::TimedOut) => outcome(Outcome::TimedOut, clock.message()),
            Err(Stop::Engine(EngineError::Unsupported(why))) => outcome(Outcome::Unsupported, why),
            Err(Stop::Engine(EngineError::OutOfMemory(why))) => outcome(Outcome::OutOfMemory, why),
            Err(Stop::Engine(EngineError::Invalid(message) | EngineError::Device(message))) => {
                Err(NoRecord::Failed {
                    message,
                    permanent: true,
                })
            }
            Err(Stop::Engine(EngineError::Other(error))) => Err(NoRecord::Failed {
                message: format!("{error:#}"),
                permanent: false,
            }),
            Err(Stop::Wrong(message)) => Err(NoRecord::Failed {
                message,
                permanent: false,
            }),
        }
    }

    fn measure(
        &mut self,
        ask: &Measure,
        clock: &Clock,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<TrialRecord, Stop> {
        let combination = &ask.trial.request.combination;
        let gpus = self.find_gpus(combination.gpus)?;
        let uuids: Vec<String> = gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        let on_gpus = combination.gpus > 0;
        let at = ask.weights.as_ref();
        let at =
            at.ok_or_else(|| invalid("the request does not say where the model lies".into()))?;
        let weights = at.weights().map_err(invalid)?;
        let config = weights.config()?;
        let format = roofline::format(combination.dtype);
        let shape = size::shape(&config, format);

        let aside = Instant::now();
        let mut ceilings = match &ask.ceilings {
            Some(ceilings) => ceilings.clone(),
            None => self.ceilings(format, &shape, combination.gpus)?,
        };
        let aside = aside.elapsed();

        let key = trial_key(&ask.trial.request, ask.trial.attempt);
        let seed = prompt_seed(&key);
        let presence = Presence::enter().ok();
        usage::reset_peak_memory();
        let sampler = Sampler::start(&uuids);

        clock.enter(LOADING);
        let load_start = Instant::now();
        let fresh = std::mem::replace(&mut self.fresh, false);
        let (machine, cgroup) = (&self.machine, &self.cgroup);
        let loaded = load(&mut self.loaded, ask, at, &weights)?;
        let load_time = load_start.elapsed();

        clock.enter(WARMING_UP);
        let measurement = &ask.trial.request.measurement;
        let plan = Plan {
            batch: combination.batch_size as usize,
            input: combination.input_length as usize,
            output: combination.output_length as usize,
            vocab: config.vocab_size,
            warmup_iterations: measurement.warmup_iterations,
            warmup: Duration::from_millis(measurement.warmup_ms),
            iterations: measurement.iterations,
            min_duration: Duration::from_millis(measurement.min_duration_ms),
        };
        let mut around = Surroundings {
            clock,
            interrupted,
            config: &config,
            tokenizer: loaded.tokenizer.as_ref(),
            plan: &plan,
            seed,
            sampler: &sampler,
            presence: presence.as_ref(),
            cgroup,
            cpus: &machine.cpus,
            opened: None,
            window: None,
            neighbours: 0,
            ready: None,
        };
        let measured = measure(&mut loaded.engine, &plan, &mut around)?;
        let Surroundings {
            window,
            neighbours,
            ready,
            ..
        } = around;
        let window = window.unwrap_or_default();

        let prompts = tokenizer::prompts(
            loaded.tokenizer.as_ref(),
            &config,
            1,
            plan.input.min(LOGITS_INPUT),
            seed,
        )?;
        let logits = loaded.engine.last_logits(&prompts)?;
        let logits_finite = logits.iter().flatten().all(|logit| logit.is_finite());

        let mut telemetry = sampler.finish(measured.window.0, measured.window.1);
        telemetry.cpu = CpuTelemetry {
            cpu_time_s: Some(window.cpu_time_s),
            rss_peak_mib: usage::peak_memory_mib(),
            cpu_throttled_ms: window.throttled_ms,
            cpu_steal_pct: window.steal_pct,
            cpu_foreign_pct: window.foreign_pct,
            cpu_freq_mean_mhz: window.freq_mhz,
            numa_nodes: machine.numa_nodes,
            smt: machine.smt,
            concurrent_trials: Some(neighbours),
        };
        let during = telemetry.samples.iter().filter(|sample| {
            sample.phase == inferbench_results::record::Phase::During && sample.gpu_uuid.is_none()
        });
        let evidence = Evidence {
            window,
            timed_s: measured.timed.as_secs_f64(),
            min_duration_s: plan.min_duration.as_secs_f64(),
            iterations: u32::try_from(measured.iterations.len()).unwrap_or(u32::MAX),
            min_iterations: plan.iterations,
            cpus: u32::try_from(machine.cpus.len()).unwrap_or(u32::MAX),
            // On GPUs one thread does nothing but enqueue.
            threads: if on_gpus {
                combination.gpus
            } else {
                u32::try_from(self.threads.count).unwrap_or(u32::MAX)
            },
            samples: during.count(),
            min_samples: min_samples(Duration::from_secs_f64(window.wall_s)),
            concurrent_trials: neighbours,
            concurrency_allowed: ask.trial.neighbours_allowed,
            logits_finite: Some(logits_finite),
            foreign_gpu_processes: telemetry
                .gpus
                .iter()
                .map(|gpu| gpu.foreign_processes.unwrap_or_default())
                .collect(),
            gpu_telemetry_missing: telemetry.gpu_telemetry_missing.clone(),
        };
        let invalid_reasons = verdict::invalid_reasons(&evidence);
        let (ttft_s, tpot_s) = mean_times(&measured);
        let info = loaded.engine.info();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let effective = Effective {
            architecture: info.architecture.clone(),
            model_params: info.params,
            dtype: combination.dtype.name().into(),
            batch_size: count(plan.batch),
            input_len: count(plan.input),
            output_len: count(plan.output),
            gpus: combination.gpus,
            engine: "candle".into(),
            engine_mode: info.mode.into(),
            weight_bytes: info.weight_bytes,
            model_load_s: info.load.as_secs_f64(),
            threads: count(self.threads.count),
            denormals_flushed: self.threads.denormals_flushed,
            prompts: if loaded.tokenizer.is_some() {
                "text"
            } else {
                "ids"
            }
            .into(),
            prompt_seed: seed.wrapping_add(measured.first_timed),
        };
        // After all that is measured: neither memory nor telemetry are to know of it.
        let (quality, quality_missing) = if measurement.quality {
            clock.enter(JUDGING);
            let prompts = seed.wrapping_add(measured.first_timed);
            match judge(
                &mut loaded.engine,
                at,
                loaded.tokenizer.as_ref(),
                &plan,
                &config,
                prompts,
            ) {
                Ok(quality) => (Some(quality), None),
                Err(why) => (None, Some(why)),
            }
        } else {
            (None, None)
        };
        let workload = roofline::workload(combination);
        let mut roofline = roofline::judge(&shape, &workload, &ceilings, ttft_s, tpot_s);
        // Something lowered the ceilings when they were measured. The times are taken: there is no hurry now. Where they
        // cannot be measured, as beside a model that leaves no memory for it, the times are none the worse.
        if roofline.above_ceiling().contains(&true)
            && let Ok(again) = self.ceilings(format, &shape, combination.gpus)
        {
            ceilings = ceilings.higher(again);
            roofline = roofline::judge(&shape, &workload, &ceilings, ttft_s, tpot_s);
            self.renewed = Some(ceilings);
        }
        let harness = Harness {
            // What other trials of the same process did before is none of this one's start-up.
            ready_s: ready
                .filter(|_| fresh)
                .map(|ready| ready.saturating_sub(load_time + aside).as_secs_f64()),
            window_s: window.wall_s,
            timed_s: measured.timed.as_secs_f64(),
        };
        Ok(TrialRecord {
            message: None,
            valid: invalid_reasons.is_empty(),
            invalid_reasons,
            effective: Some(effective),
            iterations: measured.iterations,
            warmup: measured.warmup,
            telemetry,
            roofline: Some(roofline),
            quality,
            quality_missing,
            harness: Some(harness),
            ..recording::unmeasured(
                &ask.trial,
                machine,
                &self.process_id,
                &clock.started_at,
                Outcome::Succeeded,
                String::new(),
            )
        })
    }
}

/// Input ids that the check for finite logits runs over.
const LOGITS_INPUT: usize = 16;

fn invalid(message: String) -> Stop {
    Stop::Engine(EngineError::Invalid(message))
}

/// The loaded model, if it is the one and has room; else it makes way, so that there are never two in memory.
fn load<'a>(
    slot: &'a mut Option<Loaded>,
    ask: &Measure,
    at: &WeightsAt,
    weights: &Weights,
) -> Result<&'a mut Loaded, EngineError> {
    let combination: &Combination = &ask.trial.request.combination;
    let (dtype, world) = (combination.dtype.name(), roofline::world(combination));
    let batch = combination.batch_size as usize;
    let seq = combination.input_length as usize + combination.output_length as usize;
    let fits = slot.as_ref().is_some_and(|loaded| {
        loaded.weights == *at
            && loaded.dtype == dtype
            && loaded.world == world
            && loaded.max_batch >= batch
            && loaded.max_seq >= seq
    });
    if !fits {
        let same = slot.take().filter(|loaded| loaded.weights == *at);
        // Room for what came before too, or two shapes in turn would load the model every time.
        let batch = same
            .as_ref()
            .map_or(0, |loaded| loaded.max_batch)
            .max(batch);
        let seq = same.as_ref().map_or(0, |loaded| loaded.max_seq).max(seq);
        drop(same);
        let options = LoadOptions {
            dtype: roofline::format(combination.dtype),
            backend: if combination.gpus > 0 {
                Backend::Cuda
            } else {
                Backend::Cpu
            },
            world_size: world,
            max_batch: batch,
            max_seq: seq,
        };
        let engine = Engine::load(weights, &options)?;
        let tokenizer = match weights {
            Weights::Path(path) => Tokenizer::load(path)?,
            Weights::Random { .. } => None,
        };
        *slot = Some(Loaded {
            weights: at.clone(),
            dtype: dtype.into(),
            world,
            max_batch: batch,
            max_seq: seq,
            engine,
            tokenizer,
        });
    }
    slot.as_mut()
        .ok_or_else(|| EngineError::Invalid("the model is not loaded".into()))
}

/// The seed of a trial's first prompts: from its key, so that it depends on the design's seed and differs between
/// trials, replicates and attempts; 53 bits, so that it survives programs that read numbers as floats.
fn prompt_seed(key: &str) -> u64 {
    u64::from_str_radix(key.get(..16).unwrap_or_default(), 16).unwrap_or_default() >> 11
}

/// The mean TTFT, and the mean TPOT where there are several output tokens, in seconds.
fn mean_times(measured: &Measured) -> (f64, Option<f64>) {
    let count = measured.iterations.len().max(1) as f64;
    let mean = |of: &dyn Fn(&[f64]) -> Option<f64>| {
        let sum: Option<f64> = measured.iterations.iter().map(|i| of(&i.token_ms)).sum();
        sum.map(|sum| sum / count / 1e3)
    };
    let tpot = |times: &[f64]| match times {
        [first, .., last] => Some((last - first) / (times.len() - 1) as f64),
        _ => None,
    };
    (
        mean(&|times| times.first().copied()).unwrap_or_default(),
        mean(&tpot),
    )
}

/// All that goes on around the iterations of a trial.
struct Surroundings<'a> {
    clock: &'a Clock,
    interrupted: &'a dyn Fn() -> bool,
    config: &'a ModelConfig,
    tokenizer: Option<&'a Tokenizer>,
    plan: &'a Plan,
    seed: u64,
    sampler: &'a Sampler,
    presence: Option<&'a Presence>,
    cgroup: &'a Cgroup,
    cpus: &'a [usize],
    opened: Option<Counters>,
    window: Option<Interval>,
    neighbours: u32,
    ready: Option<Duration>,
}

impl Surroundings<'_> {
    fn count_neighbours(&mut self) {
        let others = self.presence.map_or(0, Presence::others);
        self.neighbours = self.neighbours.max(others);
    }
}

impl Around for Surroundings<'_> {
    fn prompts(&mut self, number: u64) -> Result<Vec<Vec<u32>>, EngineError> {
        if number == 0 {
            self.ready = machine::since_process_start();
        }
        let Plan { batch, input, .. } = *self.plan;
        let seed = self.seed.wrapping_add(number);
        tokenizer::prompts(self.tokenizer, self.config, batch, input, seed)
    }

    fn before(&mut self) {
        self.clock.enter(MEASURING);
        self.count_neighbours();
        self.sampler.sample_now();
        self.opened = Some(Counters::read(self.cgroup, self.cpus));
    }

    fn after(&mut self) {
        let closed = Counters::read(self.cgroup, self.cpus);
        self.window = self.opened.as_ref().map(|opened| opened.until(&closed));
        self.sampler.sample_now();
        self.count_neighbours();
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
mod tests {
    use inferbench_results::record::Iteration;

    use super::*;

    #[test]
    fn mean_times_follow_their_definitions() {
        let iteration = |times: &[f64]| Iteration {
            start_unix_ns: 0,
            token_ms: times.to_vec(),
        };
        let mut measured = Measured {
            warmup: None,
            iterations: vec![
                iteration(&[10.0, 14.0, 20.0]),
                iteration(&[20.0, 22.0, 24.0]),
            ],
            window: (0, 1),
            timed: Duration::ZERO,
            first_timed: 0,
        };
        let (ttft, tpot) = mean_times(&measured);
        assert!((ttft - 0.015).abs() < 1e-12 && (tpot.unwrap() - 0.0035).abs() < 1e-12);
        measured.iterations = vec![iteration(&[10.0])];
        assert_eq!(mean_times(&measured), (0.010, None));
    }

    #[test]
    fn seeds_differ_by_key_and_fit_a_float() {
        let (a, b) = (
            prompt_seed("ffffffffffffffffaa"),
            prompt_seed("00ffffffffffffffaa"),
        );
        assert!(a != b && a < 1 << 53);
    }
}

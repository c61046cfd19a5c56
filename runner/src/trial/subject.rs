//! The subject of a trial: its model, the shape of its batches, how long they are timed, and the seed of its prompts.

use std::time::Duration;

use inferbench_crds::engine::Prompt;
use inferbench_engine::{
    ceilings::roofline::{ModelShape, Workload},
    config::ModelConfig,
    tokenizer::{self, Tokenizer},
};
use inferbench_results::key::trial_key;

use super::{host::Host, measure::Schedule, protocol::Measure, roofline, start::Start};
use crate::{
    backend::{self, BackendError, Room, Setup},
    models::WeightsAt,
};

/// The number of the prompt that prefixes are taken from: beyond that of any request.
const PREFIX: u64 = 1 << 40;

/// The subject of a trial.
pub struct Subject<'a> {
    /// The request.
    pub ask: &'a Measure,
    /// Where its model lies.
    pub weights: &'a WeightsAt,
    /// The model.
    pub config: ModelConfig,
    /// The model's sizes, for the roofline.
    pub shape: ModelShape,
    /// The work that is asked of the model, and how the devices divide it.
    pub workload: Workload,
    /// Its batches, and how long they are timed.
    pub schedule: Schedule,
    /// The seed of its first prompts.
    pub seed: u64,
}

impl<'a> Subject<'a> {
    /// That of a request.
    ///
    /// # Errors
    /// Where the request names no model, or not one that can be read.
    pub fn of(ask: &'a Measure) -> Result<Self, BackendError> {
        let weights = ask.weights.as_ref().ok_or_else(|| {
            BackendError::invalid("the request does not say where the model lies".into())
        })?;
        let config = weights.weights().map_err(BackendError::invalid)?.config()?;
        let combination = &ask.trial.request.combination;
        if let Some(why) = backend::unsupported(&config, weights, combination) {
            return Err(BackendError::Unsupported(why));
        }
        let workload = roofline::workload(combination).ok_or_else(|| {
            BackendError::invalid("the request's work does not divide among its devices".into())
        })?;
        let measurement = &ask.trial.request.measurement;
        let schedule = Schedule {
            batch: combination.batch_size as usize,
            input: combination.input_length as usize,
            output: combination.output_length as usize,
            vocab: config.vocab_size,
            prefix_cache: combination.prefix_share.is_some(),
            texts: combination
                .engine
                .interface()
                .is_some_and(|interface| interface.prompt == Prompt::Text),
            warmup_iterations: measurement.warmup_iterations,
            warmup: Duration::from_millis(measurement.warmup_ms),
            iterations: measurement.iterations,
            min_duration: Duration::from_millis(measurement.min_duration_ms),
        };
        let key = trial_key(&ask.trial.request, ask.trial.attempt);
        Ok(Self {
            ask,
            weights,
            shape: roofline::shape(&config, combination.dtype, combination.gpus),
            config,
            workload,
            schedule,
            seed: prompt_seed(&key),
        })
    }

    /// GPUs; 0 for the CPU.
    #[must_use]
    pub fn gpus(&self) -> u32 {
        self.ask.trial.request.combination.gpus
    }

    /// The levels that its engine's start fixes.
    #[must_use]
    pub fn start(&self) -> Start {
        Start::of(&self.ask.trial.request)
    }

    /// The settings that its engine is started with, with room for `least`, too.
    #[must_use]
    pub fn setup<'b>(&'b self, least: Room, host: &Host<'b>) -> Setup<'b> {
        let combination = &self.ask.trial.request.combination;
        let server = combination.engine.server.as_ref();
        let keep_log = server.is_some_and(|server| server.keep_log);
        let given = self.ask.trial.room.map_or(Room::default(), |room| Room {
            sequences: room.requests as usize,
            tokens: room.tokens as usize,
        });
        Setup {
            weights: self.weights,
            dtype: combination.dtype,
            gpus: combination.gpus,
            parallel: self.workload.parallel,
            room: Room::of(combination).and(given).and(least),
            combination,
            vocab: self.config.vocab_size,
            gpu_uuids: host.gpu_uuids,
            memory: host.memory,
            log: keep_log.then(|| {
                let name = format!("inferbench-{}-{:016x}.log", std::process::id(), self.seed);
                std::env::temp_dir().join(name)
            }),
            threads: host.threads,
            access: host.access,
        }
    }

    /// The prompts with this number: a batch of text where there is a tokenizer, else of ids at random.
    ///
    /// # Errors
    /// Where the tokenizer cannot make them.
    pub fn prompts(
        &self,
        tokenizer: Option<&Tokenizer>,
        number: u64,
    ) -> Result<Vec<Vec<u32>>, BackendError> {
        self.prompts_of(tokenizer, number, self.schedule.batch, self.schedule.input)
    }

    /// Prompts of another shape.
    ///
    /// # Errors
    /// Where the tokenizer cannot make them.
    pub fn prompts_of(
        &self,
        tokenizer: Option<&Tokenizer>,
        number: u64,
        batch: usize,
        input: usize,
    ) -> Result<Vec<Vec<u32>>, BackendError> {
        let make =
            |batch, input, seed| tokenizer::prompts(tokenizer, &self.config, batch, input, seed);
        let mut prompts = make(batch, input, self.prompt_seed(number))?;
        let share = self.ask.trial.request.combination.prefix_share.unwrap_or(0);
        let shared = input * share as usize / 100;
        if shared > 0 {
            // The same of every request of the trial, and of no other trial.
            let prefix = make(1, shared, self.prompt_seed(PREFIX))?.concat();
            for prompt in &mut prompts {
                prompt[..shared].copy_from_slice(&prefix);
            }
        }
        Ok(prompts)
    }

    /// The prompt of the request with this number, of a load that does not come in batches.
    ///
    /// # Errors
    /// Where the tokenizer cannot make it.
    pub fn prompt(
        &self,
        tokenizer: Option<&Tokenizer>,
        number: u64,
    ) -> Result<Vec<u32>, BackendError> {
        let prompts = self.prompts_of(tokenizer, number, 1, self.schedule.input)?;
        Ok(prompts.concat())
    }

    /// The seed of the prompts with this number.
    #[must_use]
    pub fn prompt_seed(&self, number: u64) -> u64 {
        self.seed.wrapping_add(number)
    }
}

/// The seed of a trial's first prompts: from its key, so that it depends on the design's seed and differs between
/// trials, replicates and attempts; 53 bits, so that it survives programs that read numbers as floats.
fn prompt_seed(key: &str) -> u64 {
    u64::from_str_radix(key.get(..16).unwrap_or_default(), 16).unwrap_or_default() >> 11
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ_by_key_and_fit_a_float() {
        let (a, b) = (
            prompt_seed("ffffffffffffffffaa"),
            prompt_seed("00ffffffffffffffaa"),
        );
        assert!(a != b && a < 1 << 53);
    }
}

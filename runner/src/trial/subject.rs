//! The subject of a trial: its model, the shape of its batches, how long they are timed, and the seed of its prompts.

use std::time::Duration;

use inferbench_engine::{
    ceilings::roofline::{ModelShape, Workload},
    config::ModelConfig,
    threads::Threads,
    tokenizer::{self, Tokenizer},
};
use inferbench_results::key::trial_key;

use super::{measure::Schedule, protocol::Measure, roofline, start::Start};
use crate::{
    backend::{self, BackendError, Room, Setup},
    models::WeightsAt,
};

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
        if let Some(why) = backend::unsupported(&config, combination) {
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
    pub fn setup<'b>(&'b self, least: Room, threads: &'b Threads) -> Setup<'b> {
        let combination = &self.ask.trial.request.combination;
        Setup {
            weights: self.weights,
            dtype: combination.dtype,
            gpus: combination.gpus,
            parallel: self.workload.parallel,
            room: Room::of(combination).and(least),
            threads,
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
        let seed = self.prompt_seed(number);
        Ok(tokenizer::prompts(
            tokenizer,
            &self.config,
            batch,
            input,
            seed,
        )?)
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

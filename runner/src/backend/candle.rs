//! The engine of this repository, on candle, in this very process.

use std::collections::BTreeMap;

use inferbench_crds::{design::Combination, spec::Dtype};
use inferbench_engine::{
    Engine, EngineError, Format, LoadOptions, Parallel, Processor,
    config::ModelConfig,
    quality::Score,
    size::{self, Memory},
};

use super::{
    Backend, BackendError, Batch, Description, Inspect, Room, SequenceTimes, Served, Setup,
};
use crate::machine::processes::Processes;

/// Its name.
pub const ENGINE: &str = "candle";
/// The version of candle that it is built on.
pub const CANDLE_VERSION: &str = "0.11.1";

/// The engine with a model.
pub struct Candle {
    engine: Engine,
    description: Description,
    processes: Processes,
    room: Room,
}

impl Candle {
    /// Loads a model.
    ///
    /// # Errors
    /// Those of [`Engine::load`].
    pub fn start(setup: &Setup<'_>) -> Result<Self, BackendError> {
        let weights = setup.weights.weights().map_err(BackendError::invalid)?;
        let options = LoadOptions {
            dtype: format(setup.dtype),
            processor: processor(setup.gpus),
            parallel: setup.parallel,
            max_batch: setup.room.sequences,
            max_seq: setup.room.tokens,
        };
        let engine = Engine::load(&weights, &options)?;
        let info = engine.info();
        let description = Description {
            engine: ENGINE.into(),
            version: version(),
            mode: info.mode.into(),
            dtype: None,
            architecture: info.architecture.clone(),
            model_params: info.params,
            weight_bytes: info.weight_bytes,
            load: info.load,
            threads: u32::try_from(setup.threads.count).unwrap_or(u32::MAX),
            denormals_flushed: setup.threads.denormals_flushed,
            configuration: BTreeMap::from([
                ("tensorParallel".into(), info.parallel.tensor.to_string()),
                (
                    "pipelineParallel".into(),
                    info.parallel.pipeline.to_string(),
                ),
                ("dataParallel".into(), info.parallel.data.to_string()),
                (
                    "activations".into(),
                    options
                        .dtype
                        .activations(options.processor)
                        .as_str()
                        .to_owned(),
                ),
                ("maxBatch".into(), options.max_batch.to_string()),
                ("maxSeq".into(), options.max_seq.to_string()),
            ]),
        };
        Ok(Self {
            engine,
            description,
            processes: Processes::of_this_one(),
            room: setup.room,
        })
    }
}

impl Backend for Candle {
    fn description(&self) -> &Description {
        &self.description
    }

    fn processes(&self) -> Processes {
        self.processes.clone()
    }

    fn room(&self) -> Room {
        self.room
    }

    fn serve(&mut self, batch: &Batch<'_>) -> Result<Served, BackendError> {
        let Batch { prompts, output } = *batch;
        let generation = self.engine.generate(prompts, output)?;
        // A step of the whole batch has one end.
        let times = SequenceTimes {
            count: prompts.len(),
            token_ends: generation.step_ends,
        };
        Ok(Served {
            started: generation.started,
            sequences: vec![times],
            ids: Some(generation.ids),
            exchanges: Vec::new(),
            lag: None,
        })
    }

    fn inspect(&mut self) -> Option<&mut dyn Inspect> {
        Some(self)
    }
}

impl Inspect for Candle {
    fn last_logits(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, BackendError> {
        Ok(self.engine.last_logits(prompts)?)
    }

    fn score(
        &mut self,
        prompts: &[Vec<u32>],
        continuations: &[Vec<u32>],
    ) -> Result<Vec<Score>, BackendError> {
        Ok(self.engine.score(prompts, continuations)?)
    }
}

impl From<EngineError> for BackendError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Unsupported(why) => BackendError::Unsupported(why),
            EngineError::OutOfMemory(why) => BackendError::OutOfMemory(why),
            EngineError::Invalid(message) | EngineError::Device(message) => {
                BackendError::invalid(message)
            }
            EngineError::Other(error) => BackendError::Failed {
                message: format!("{error:#}"),
                permanent: false,
            },
        }
    }
}

/// The version of the engine, with candle's.
#[must_use]
pub fn version() -> String {
    let own = env!("CARGO_PKG_VERSION");
    format!("inferbench-engine {own}, candle {CANDLE_VERSION}")
}

/// The engine's name of a data type.
#[must_use]
pub const fn format(dtype: Dtype) -> Format {
    match dtype {
        Dtype::F32 => Format::F32,
        Dtype::Bf16 => Format::BF16,
        Dtype::F16 => Format::F16,
        Dtype::Q4_0 => Format::Q4_0,
        Dtype::Q8_0 => Format::Q8_0,
    }
}

/// How a combination divides the work among ranks, one for each GPU, or one on the CPU; none where that is
/// [`Combination::unsupported`].
#[must_use]
pub fn parallel(combination: &Combination) -> Option<Parallel> {
    let ranks = combination.tensor_parallel()?;
    Some(Parallel {
        tensor: ranks as usize,
        pipeline: combination.pipeline_parallel as usize,
        data: combination.data_parallel as usize,
    })
}

/// The kind of processor that this number of GPUs is.
#[must_use]
pub const fn processor(gpus: u32) -> Processor {
    match gpus {
        0 => Processor::Cpu,
        _ => Processor::Cuda,
    }
}

/// Why a combination can never run.
pub(super) fn unsupported(config: &ModelConfig, combination: &Combination) -> Option<String> {
    let Some(parallel) = parallel(combination) else {
        return combination.unsupported();
    };
    size::unsupported(
        config,
        parallel,
        combination.input_length as usize,
        combination.output_length as usize,
        format(combination.dtype),
    )
}

/// Whether this number of devices can share every layer of a model, in some data type.
pub(super) fn splits_over(config: &ModelConfig, devices: u32) -> bool {
    let parallel = Parallel::tensor(devices as usize);
    size::unsupported(config, parallel, 1, 1, Format::F32).is_none()
}

/// The memory that one rank of a combination is predicted to need, of those that need the most; none where the work
/// does not divide.
#[must_use]
pub fn memory(config: &ModelConfig, combination: &Combination) -> Option<Memory> {
    let parallel = parallel(combination)?;
    Some(size::memory(
        config,
        (format(combination.dtype), processor(combination.gpus)),
        combination.batch_size as usize,
        combination.input_length as usize,
        combination.output_length as usize,
        parallel,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_candle_is_the_one_that_is_locked() {
        let lock = include_str!("../../../Cargo.lock");
        let entry = format!("name = \"candle-core\"\nversion = \"{CANDLE_VERSION}\"");
        assert!(lock.contains(&entry), "CANDLE_VERSION is stale");
    }

    #[test]
    fn what_does_not_divide_is_never_taken_for_something_else() {
        let config = inferbench_engine::presets::preset("tiny-llama").unwrap();
        let of = |gpus, pipeline_parallel, data_parallel| Combination {
            gpus,
            pipeline_parallel,
            data_parallel,
            ..Combination::default()
        };
        let divided = Parallel {
            tensor: 2,
            pipeline: 3,
            data: 2,
        };
        assert_eq!(parallel(&of(12, 3, 2)), Some(divided));
        assert_eq!(parallel(&of(0, 1, 1)), Some(Parallel::ONE));
        for combination in [of(4, 3, 1), of(0, 1, 2)] {
            assert_eq!(parallel(&combination), None);
            assert_eq!(memory(&config, &combination), None);
            let why = combination.unsupported();
            assert!(why.is_some());
            assert_eq!(unsupported(&config, &combination), why);
        }
    }
}

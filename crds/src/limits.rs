//! How large things may be. The schema, its rules and the local validation share these numbers.

/// Levels of a factor.
pub const LEVELS: u32 = 64;
/// Models of a design.
pub const MODELS: u32 = 16;
/// Engines of a design.
pub const ENGINES: u32 = 8;
/// Characters of an engine's name.
pub const ENGINE_NAME: u32 = 32;
/// Parameters of a design.
pub const PARAMETERS: u32 = 8;
/// Characters of a parameter's name.
pub const PARAMETER_NAME: u32 = 40;
/// Characters of a parameter's level that is a text.
pub const PARAMETER_TEXT: usize = 63;
/// Characters of a level in results, which may come from elsewhere.
pub const LEVEL_TEXT: u32 = 253;
/// Characters of the option or member that a parameter sets.
pub const PARAMETER_FLAG: u32 = 128;
/// Words of a server's command.
pub const COMMAND: u32 = 16;
/// Arguments of a server, its environment variables, and members of its requests.
pub const ARGUMENTS: u32 = 64;
/// Characters of an argument.
pub const ARGUMENT: u32 = 1_024;
/// Requests in flight.
pub const CONCURRENCY: u32 = 10_000;
/// Requests that a server is to take at once where an open loop sets no bound.
pub const OPEN_CONCURRENCY: u32 = 32;
/// Requests a second.
pub const REQUEST_RATE: u32 = 100_000;
/// Characters of the name of an environment variable.
pub const ENV_NAME: u32 = 253;
/// Characters of the reason for which trials are invalid, or have no measurement, with its remedy.
pub const SUMMARY_REASON: u32 = 300;
/// Data types of a design.
pub const DTYPES: u32 = 5;
/// Entries of `exclude`.
pub const EXCLUDES: u32 = 256;
/// Replicates.
pub const REPLICATES: u32 = 1_000;
/// Choices that are measured again beside the best one.
pub const RIVALS: u32 = 16;
/// Trials of a design before exclusion: the product of the factors' levels and the replicates, those that measure the
/// best again among them.
pub const TRIALS: u64 = 50_000;
/// A batch.
pub const BATCH_SIZE: u32 = 65_536;
/// Input or output tokens of a sequence.
pub const LENGTH: u32 = 1_048_576;
/// GPUs of a trial.
pub const GPUS: u32 = 64;
/// Levels of a factor that divides the GPUs.
pub const PARALLEL: u32 = 16;
/// A seed: whatever JSON readers keep exactly.
pub const SEED: i64 = (1 << 53) - 1;
/// Characters of a model's name.
pub const MODEL_NAME: u32 = 63;
/// Characters of the resource's name: it becomes the value of a label.
pub const NAME: u32 = 63;
/// Characters of a Hugging Face repository.
pub const REPOSITORY: u32 = 193;
/// Characters of a Hugging Face revision.
pub const REVISION: u32 = 255;
/// Characters of a path.
pub const PATH: u32 = 1_024;
/// Characters of a URL.
pub const URL: u32 = 512;
/// Characters of an image reference.
pub const IMAGE: u32 = 512;
/// The least seconds that a finished Job is kept: a Job that is deleted sooner may not have been recorded.
pub const MIN_TTL_SECONDS: u32 = 3_600;
/// Factors of a design that have more than one level: more than these cannot have two each within [`TRIALS`].
pub const FACTORS: u32 = 15;
/// Workloads of the mix in objectives.
pub const WORKLOADS: u32 = 64;
/// The least weight of a workload in a mix.
pub const LEAST_WEIGHT: f64 = 0.001;
/// The greatest weight of a workload in a mix.
pub const MOST_WEIGHT: u32 = 1_000_000;
/// Metrics of the status' summary.
pub const SUMMARY_METRICS: u32 = 6;
/// Best configurations of the status' summary.
pub const SUMMARY_BEST: u32 = 8;
/// Characters of a workload in words.
pub const SUMMARY_WORKLOAD: u32 = 64;
/// Points on the Pareto front of the status' summary.
pub const SUMMARY_PARETO: u32 = 12;
/// Bytes of the status' summary, as JSON.
pub const SUMMARY_BYTES: usize = 31 * 1_024;
/// Characters of a metric's name.
pub const METRIC_NAME: u32 = 32;
/// Characters of why trials are invalid, or have no measurement, as status and termination messages say it.
pub const INVALID_REASON: u32 = 100;
/// Expectations of a spec.
pub const EXPECTATIONS: u32 = 32;
/// Characters of an expectation's name.
pub const EXPECTATION_NAME: u32 = 63;
/// Characters of an expectation's expression.
pub const EXPECTATION: u32 = 512;
/// Characters of what an expectation goes back to.
pub const EXPECTATION_REFERENCE: u32 = 200;
/// Names of refuted expectations in the status.
pub const SUMMARY_REFUTED: u32 = 4;
/// Characters of a condition's message.
pub const CONDITION_MESSAGE: u32 = 256;

//! The promises of the operator, P1 to P11, each a test of the whole loop: watches, queue, status, Jobs and events, on
//! an API server in memory with a simulated cluster. Faults come by seeds: `INFERBENCH_SEED` replays one, and
//! `INFERBENCH_SEEDS` says how many there are; `INFERBENCH_EVERY_WRITE` has the operator killed at every write, rather
//! than at some of them.
//!
//! A seed fixes what goes wrong and when; what the libraries leave to chance (the jitter of a watch's back-off) it does
//! not.

mod bystanders;
mod convergence;
mod faults;
mod lab;
mod limits;
mod looks;
mod monitor;
mod runner;

/// A small sweep: 12 trials.
pub const SMALL: &str = "
design:
  factors:
    model: [{name: a, source: {random: {preset: gpt2}}}]
    batchSize: [1, 2, 4]
    inputLength: [8, 16]
    gpus: [1, 2]
results: {store: {url: 's3://bucket'}}
execution: {parallelism: 3, startupTimeout: 10m, pendingTimeout: 10m, trialTimeout: 5m, maxFailedPercent: 100}
";

/// A small sweep with two trials to a Job, two blocks and a model that some of it is too long for: 36 trials.
pub const GROUPED: &str = "
design:
  factors:
    model: [{name: a, source: {random: {preset: gpt2}}}]
    batchSize: [1, 2, 4]
    inputLength: [8, 16, 512]
    gpus: [1, 2]
  replicates: 2
results: {store: {url: 's3://bucket'}}
execution:
  parallelism: 4
  trialsPerJob: 2
  startupTimeout: 10m
  pendingTimeout: 10m
  trialTimeout: 5m
  maxFailedPercent: 100
";

//! The part of a machine that a trial's engine may use.

use inferbench_engine::threads::Threads;

use crate::backend::Access;

/// The part of a machine that an engine may use.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// The threads of this process.
    pub threads: &'a Threads,
    /// The GPUs of the trial, by their UUIDs.
    pub gpu_uuids: &'a [String],
    /// The memory there is, in bytes.
    pub memory: Option<u64>,
    /// How an endpoint is reached.
    pub access: &'a Access,
}

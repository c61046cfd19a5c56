//! The meaning of servers' words: those that they write before they end, and those that they answer.

use crate::{
    backend::BackendError,
    process::{child::ExitStatus, server::ServerProcess},
};

/// Words of servers that ran out of memory.
const OUT_OF_MEMORY: [&str; 9] = [
    "CUDA out of memory",
    "OutOfMemoryError",
    "out of memory",
    "No available memory for the cache blocks",
    "Not enough memory",
    "std::bad_alloc",
    "Cannot allocate memory",
    "failed to allocate",
    "larger than the available KV cache memory",
];
/// Words of servers that can never run what they were asked to.
const UNSUPPORTED: [&str; 6] = [
    "are not supported for now",
    "must be divisible by tensor parallel size",
    "unknown model architecture",
    "unsupported model architecture",
    "is not divisible by the number of",
    "is greater than the derived max_model_len",
];

/// The meaning of a server's end.
pub fn ended(name: &str, process: &ServerProcess, status: &ExitStatus) -> BackendError {
    let line = |words: &[&str]| process.line(|line| words.iter().any(|word| line.contains(word)));
    match BackendError::exited(name, status) {
        BackendError::Failed { message, permanent } => {
            if let Some(line) = line(&OUT_OF_MEMORY) {
                BackendError::OutOfMemory(format!("{name}: {line}"))
            } else if let Some(line) = line(&UNSUPPORTED) {
                BackendError::Unsupported(format!("{name}: {line}"))
            } else {
                BackendError::Failed { message, permanent }
            }
        }
        known => known,
    }
}

/// The meaning of an answer's words, where they are known.
pub fn of_words(message: &str) -> Option<BackendError> {
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if has(&OUT_OF_MEMORY) {
        Some(BackendError::OutOfMemory(message.to_owned()))
    } else if has(&UNSUPPORTED) {
        Some(BackendError::Unsupported(message.to_owned()))
    } else {
        None
    }
}

//! The errors of the engine, told apart by what a caller does about them.

/// The error of a rank that can go no further because another has left.
pub(crate) const GIVEN_UP: &str = "another rank has given up";

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The combination cannot run by design (a degree that does not divide the heads, a sequence over
    /// the context length, an architecture with no code): a measurement, not a failure.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// Memory does not, or did not, suffice.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The input is wrong: a file, a tensor's shape, a prompt. Names what, its value, and what is
    /// allowed.
    #[error("{0}")]
    Invalid(String),
    /// There is no device to compute on as asked for.
    #[error("{0}")]
    Device(String),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl EngineError {
    /// The same error with the place where it arose (a file) in front.
    pub(crate) fn within(self, place: &str) -> Self {
        match self {
            EngineError::Unsupported(m) => EngineError::Unsupported(format!("{place}: {m}")),
            EngineError::Invalid(m) => EngineError::Invalid(format!("{place}: {m}")),
            EngineError::OutOfMemory(m) => EngineError::OutOfMemory(format!("{place}: {m}")),
            EngineError::Device(m) => EngineError::Device(format!("{place}: {m}")),
            EngineError::Other(e) => EngineError::Other(e.context(place.to_owned())),
        }
    }
}

/// candle reports a device that ran out of memory in the driver's words only, or cuBLAS'.
impl From<candle_core::Error> for EngineError {
    fn from(error: candle_core::Error) -> Self {
        let text = error.to_string();
        let words = ["OUT_OF_MEMORY", "out of memory", "ALLOC_FAILED"];
        if words.iter().any(|word| text.contains(word)) {
            EngineError::OutOfMemory(text)
        } else {
            EngineError::Other(error.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_ran_out_of_memory_is_told_from_one_that_failed() {
        let of = |text: &str| EngineError::from(candle_core::Error::Msg(text.into()));
        for text in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
        ] {
            assert!(matches!(of(text), EngineError::OutOfMemory(_)), "{text}");
        }
        let text = "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)";
        assert!(matches!(of(text), EngineError::Other(_)));
    }
}

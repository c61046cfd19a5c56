//! How a trial ends. The one type that the record, the tables and the status share.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a trial ended; all but `Failed` and `NotNeeded` are measurements.
#[derive(
    Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum Outcome {
    /// It was measured.
    Succeeded,
    /// The model, its cache or its activations did not fit.
    OutOfMemory,
    /// The combination cannot run: heads not divisible by gpus, lengths over the context length, and so on.
    Unsupported,
    /// It took longer than `trialTimeout`.
    TimedOut,
    /// It broke.
    Failed,
    /// It was not measured, as its combination was narrow enough without it: see `design.until`. It has no record.
    NotNeeded,
}

impl Outcome {
    /// Every outcome, in the order of the codes.
    pub const ALL: [Self; 6] = [
        Self::Succeeded,
        Self::OutOfMemory,
        Self::Unsupported,
        Self::TimedOut,
        Self::Failed,
        Self::NotNeeded,
    ];

    /// The outcome's number in the ledger, from 1; 0 stands for a trial that has not ended. There is no 6: in a pod's
    /// report it stands for a trial that has succeeded and is invalid.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Succeeded => 1,
            Self::OutOfMemory => 2,
            Self::Unsupported => 3,
            Self::TimedOut => 4,
            Self::Failed => 5,
            Self::NotNeeded => 7,
        }
    }

    /// The outcome with this number; none for 0 and for numbers that no outcome has.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.code() == code)
    }

    /// Whether a stored record outranks it: where the end of a pod alone can have told it, as the pod may have been
    /// killed between storing and telling, and where there was to be no record.
    #[must_use]
    pub const fn gives_way(self) -> bool {
        matches!(
            self,
            Self::Failed | Self::OutOfMemory | Self::TimedOut | Self::NotNeeded
        )
    }

    /// The name that records, tables and status write.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::OutOfMemory => "OutOfMemory",
            Self::Unsupported => "Unsupported",
            Self::TimedOut => "TimedOut",
            Self::Failed => "Failed",
            Self::NotNeeded => "NotNeeded",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_lead_back() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_code(outcome.code()), Some(outcome));
        }
        assert_eq!(Outcome::from_code(0), None);
        assert_eq!(Outcome::from_code(6), None);
    }

    #[test]
    fn names_are_those_of_the_serialization() {
        for outcome in Outcome::ALL {
            assert_eq!(
                serde_json::to_value(outcome).expect("a string"),
                outcome.as_str()
            );
        }
    }
}

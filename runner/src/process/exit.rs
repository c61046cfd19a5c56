//! The exit codes of every command. Scripts and pod failure policies rely on them.

use std::process::ExitCode;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well. Of a trial: its record is stored, whatever its outcome.
    Ok,
    /// The sweep, or the command, failed: the budget of failed trials is exceeded, a file cannot be written. Of a
    /// comparison: a limit is shown to be exceeded. Of a trial: trying again may help.
    Failed,
    /// The input is wrong: an unknown flag, a file that is no valid spec. Nothing was measured.
    BadInput,
    /// The machine is busy with something else, and `--require-quiet` was given. Nothing was measured; trying again may
    /// help.
    NotQuiet,
    /// Of judge: an expectation is refuted.
    Refuted,
    /// Of judge: none is refuted, and one is not shown or cannot be judged by this sweep.
    NotShown,
    /// The trial's request cannot be read; trying again cannot help.
    BadRequest,
    /// The trial's model cannot be loaded as it lies there; trying again cannot help.
    BadModel,
    /// An endpoint refuses the API key, does not have the model, or cannot be asked as the spec has it; trying again
    /// cannot help.
    BadEndpoint,
    /// There is no GPU where the trial asks for one, or no program that can use it; trying again cannot help.
    NoDevice,
    /// The store refuses the record (credentials, a store that overwrites); trying again cannot help.
    BadStore,
    /// Interrupted by Ctrl-C or SIGTERM; the same command goes on.
    Interrupted,
}

impl Exit {
    /// The exit code. Those of [`inferbench_crds::exit_code::PERMANENT`] fail a Job at once.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::BadInput => 2,
            Exit::NotQuiet => 3,
            Exit::Refuted => 4,
            Exit::NotShown => 5,
            Exit::BadRequest => 64,
            Exit::BadModel => 65,
            Exit::BadEndpoint => 68,
            Exit::NoDevice => 69,
            Exit::BadStore => 73,
            Exit::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use inferbench_crds::exit_code::is_permanent;

    use super::*;

    #[test]
    fn permanent_codes_are_the_ones_that_the_pod_failure_policy_names() {
        for exit in [
            Exit::BadRequest,
            Exit::BadModel,
            Exit::BadEndpoint,
            Exit::NoDevice,
            Exit::BadStore,
        ] {
            assert!(is_permanent(i32::from(exit.code())), "{exit:?}");
        }
        for exit in [
            Exit::Ok,
            Exit::Failed,
            Exit::BadInput,
            Exit::NotQuiet,
            Exit::Refuted,
            Exit::NotShown,
            Exit::Interrupted,
        ] {
            assert!(!is_permanent(i32::from(exit.code())), "{exit:?}");
        }
    }
}

//! Exit codes of the runner that the Job of its pod acts upon: the runner ends with them, and the operator writes the
//! pod failure policy by them.

use std::ops::RangeInclusive;

/// Trying again cannot help: the Job fails at once.
pub const PERMANENT: RangeInclusive<i32> = 64..=79;

/// Ended by SIGKILL (128 + 9), as the kernel does for want of memory. It would only happen again: the Job fails at
/// once.
pub const KILLED: i32 = 137;

/// Whether trying again cannot help.
#[must_use]
pub fn is_permanent(code: i32) -> bool {
    PERMANENT.contains(&code)
}

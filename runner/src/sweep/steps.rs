//! The next step of a sweep, as pure functions over what it knows.

/// A stored attempt at a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// A measurement that can be vouched for, or an outcome that is a measurement by itself.
    Settled,
    /// A measurement that cannot be vouched for.
    Invalid,
}

/// The next step of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To be measured, as this attempt.
    Measure(u32),
    /// Nothing more.
    Done,
}

/// The next step of a trial, by its stored attempts (the first one is attempt 0): none when the last one is settled, or
/// when invalid ones have been measured again as often as the spec wants.
#[must_use]
pub fn step(attempts: &[Attempt], remeasure_invalid: u32) -> Step {
    let Some(last) = attempts.last() else {
        return Step::Measure(0);
    };
    let number = u32::try_from(attempts.len() - 1).unwrap_or(u32::MAX);
    after(*last == Attempt::Settled, number, remeasure_invalid)
}

/// The next step of a trial after this attempt, which has its record.
#[must_use]
pub const fn after(valid: bool, attempt: u32, remeasure_invalid: u32) -> Step {
    if valid || attempt >= remeasure_invalid {
        Step::Done
    } else {
        Step::Measure(attempt + 1)
    }
}

/// Whether a trial that has failed so often in this run is tried again.
#[must_use]
pub fn try_again(failures: u32, retries: u32, permanent: bool) -> bool {
    !permanent && failures <= retries
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Attempt::*, *};

    #[test]
    fn steps() {
        assert_eq!(step(&[], 0), Step::Measure(0));
        assert_eq!(step(&[Settled], 5), Step::Done);
        assert_eq!(step(&[Invalid], 0), Step::Done);
        assert_eq!(step(&[Invalid], 1), Step::Measure(1));
        assert_eq!(step(&[Invalid, Invalid], 1), Step::Done);
        assert_eq!(step(&[Invalid, Settled], 9), Step::Done);
    }

    #[test]
    fn retries() {
        assert!(try_again(1, 2, false) && try_again(2, 2, false));
        assert!(!try_again(3, 2, false) && !try_again(1, 2, true) && !try_again(1, 0, false));
    }

    proptest! {
        #[test]
        fn every_trial_ends(valid in prop::collection::vec(any::<bool>(), 20), remeasure in 0_u32..10) {
            let mut attempts = Vec::new();
            while let Step::Measure(attempt) = step(&attempts, remeasure) {
                prop_assert_eq!(attempt as usize, attempts.len());
                attempts.push(if valid[attempts.len()] { Settled } else { Invalid });
            }
            prop_assert!((1..=remeasure as usize + 1).contains(&attempts.len()));
            // Nothing is measured after a settled attempt.
            prop_assert!(attempts.iter().rev().skip(1).all(|attempt| *attempt == Invalid));
        }
    }
}

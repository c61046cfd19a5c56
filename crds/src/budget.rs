//! The failure budget: how many trials of a sweep may fail before it ends.

use crate::spec::{Execution, OnFailure};

impl Execution {
    /// Whether `failed` trials of `total` are more than may fail.
    #[must_use]
    pub fn is_over_budget(&self, failed: usize, total: usize) -> bool {
        match self.on_failure {
            OnFailure::Stop => failed > 0,
            OnFailure::Continue => {
                let percent = u128::from(self.max_failed_percent.max(0).unsigned_abs());
                failed as u128 * 100 > percent * total as u128
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets() {
        let ten = Execution {
            max_failed_percent: 10,
            ..Execution::default()
        };
        assert!(
            !ten.is_over_budget(0, 20) && !ten.is_over_budget(2, 20) && ten.is_over_budget(3, 20)
        );
        let stop = Execution {
            on_failure: OnFailure::Stop,
            ..ten
        };
        assert!(!stop.is_over_budget(0, 20) && stop.is_over_budget(1, 20));
        let all = Execution {
            max_failed_percent: 100,
            ..Execution::default()
        };
        assert!(!all.is_over_budget(20, 20));
        let none = Execution {
            max_failed_percent: 0,
            ..Execution::default()
        };
        assert!(!none.is_over_budget(0, 50_000) && none.is_over_budget(1, 50_000));
    }
}

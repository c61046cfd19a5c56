//! Arithmetic over closed ranges of numbers, whose ends may be infinite where nothing is known: the result holds whatever
//! numbers inside of them make, rounding aside.

/// All numbers from `low` to `high`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    pub low: f64,
    pub high: f64,
}

impl Range {
    /// Nothing is known.
    pub const ALL: Self = Self {
        low: f64::NEG_INFINITY,
        high: f64::INFINITY,
    };

    pub const fn point(value: f64) -> Self {
        Self {
            low: value,
            high: value,
        }
    }

    /// The range of an interval, or all where that has no ends.
    pub fn of(low: Option<f64>, high: Option<f64>) -> Self {
        match (low, high) {
            (Some(low), Some(high)) if low <= high => Self { low, high },
            _ => Self::ALL,
        }
    }

    pub const fn is_bounded(self) -> bool {
        self.low.is_finite() && self.high.is_finite()
    }

    pub fn negated(self) -> Self {
        Self {
            low: -self.high,
            high: -self.low,
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            low: self.low + other.low,
            high: self.high + other.high,
        }
    }

    pub fn times(self, other: Self) -> Self {
        let mut range = Self {
            low: f64::INFINITY,
            high: f64::NEG_INFINITY,
        };
        for a in [self.low, self.high] {
            for b in [other.low, other.high] {
                // Nought times an infinite end: what is inside of the ends is finite.
                let product = if a == 0.0 || b == 0.0 { 0.0 } else { a * b };
                range.low = range.low.min(product);
                range.high = range.high.max(product);
            }
        }
        range
    }

    pub fn over(self, other: Self) -> Self {
        if other.low <= 0.0 && other.high >= 0.0 {
            return Self::ALL;
        }
        self.times(Self {
            low: 1.0 / other.high,
            high: 1.0 / other.low,
        })
    }
}

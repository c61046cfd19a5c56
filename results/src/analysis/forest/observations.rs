//! Rows of levels' codes with a target each, as histograms want them: bins per feature, targets as whole numbers.

use thiserror::Error;

/// Why there is nothing to fit a forest to.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum Unfit {
    /// No rows or no features.
    #[error("{features} features and {rows} rows: a forest needs at least one of each")]
    Empty {
        /// Features.
        features: usize,
        /// Rows of the target.
        rows: usize,
    },
    /// A feature has another number of rows than the target.
    #[error("feature {feature} has {found} rows, the target {expected}")]
    Length {
        /// The feature, counted from 0.
        feature: usize,
        /// Its rows.
        found: usize,
        /// The target's rows.
        expected: usize,
    },
    /// A target is infinite or not a number.
    #[error("target {row} is {value}, not a finite number")]
    NotFinite {
        /// The row, counted from 0.
        row: usize,
        /// Its target.
        value: f64,
    },
    /// Levels of all features together exceed what a histogram is made for.
    #[error("the features have {levels} levels together, more than {MAX_LEVELS}")]
    Levels {
        /// Levels of all features together.
        levels: usize,
    },
}

/// Levels that the features may have together.
pub const MAX_LEVELS: usize = 1 << 16;

/// The data that forests are fitted to: rows of levels and a target for each.
#[derive(Clone, Debug)]
pub struct Observations {
    pub(super) features: usize,
    /// Where each feature's bins start in a histogram of all, and where the last one's end.
    pub(super) starts: Vec<usize>,
    /// Every row's bin in each feature, a row after the other.
    pub(super) bins: Vec<u16>,
    /// The targets as whole numbers from −`scale` to `scale`. Sums of whole numbers that stay below 2⁵³ are exact, so
    /// equal splits score equally whichever way they were summed up, whatever the targets' magnitude.
    pub(super) targets: Vec<f64>,
    pub(super) scale: f64,
    pub(super) centre: f64,
    pub(super) half_range: f64,
}

impl Observations {
    /// Rows of levels, each feature a column of codes (a level's rank, from 0), with their targets. Targets are kept to
    /// 2⁻⁵² × rows of their range.
    ///
    /// # Errors
    /// Nothing to fit to, or lengths that differ, or a target that is not finite.
    pub fn new(features: &[&[u16]], target: &[f64]) -> Result<Self, Unfit> {
        let rows = target.len();
        if features.is_empty() || rows == 0 {
            return Err(Unfit::Empty {
                features: features.len(),
                rows,
            });
        }
        let mut starts = vec![0];
        let mut levels = 0;
        for (feature, codes) in features.iter().enumerate() {
            if codes.len() != rows {
                return Err(Unfit::Length {
                    feature,
                    found: codes.len(),
                    expected: rows,
                });
            }
            levels += codes.iter().max().map_or(0, |&code| usize::from(code) + 1);
            starts.push(levels);
        }
        if levels > MAX_LEVELS {
            return Err(Unfit::Levels { levels });
        }
        if let Some((row, &value)) = target.iter().enumerate().find(|(_, y)| !y.is_finite()) {
            return Err(Unfit::NotFinite { row, value });
        }

        let mut bins = Vec::with_capacity(rows * features.len());
        for row in 0..rows {
            for (codes, start) in features.iter().zip(&starts) {
                // Below MAX_LEVELS.
                bins.push((start + usize::from(codes[row])) as u16);
            }
        }
        let low = target.iter().copied().fold(f64::INFINITY, f64::min);
        let high = target.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // Halves first: the range of finite numbers may be infinite.
        let (centre, half_range) = (low / 2.0 + high / 2.0, high / 2.0 - low / 2.0);
        let scale = 2_f64.powi(52 - rows.next_power_of_two().ilog2() as i32);
        let whole = |y: &f64| match half_range {
            0.0 => 0.0,
            _ => ((y - centre) / half_range * scale).round(),
        };
        Ok(Self {
            features: features.len(),
            starts,
            bins,
            targets: target.iter().map(whole).collect(),
            scale,
            centre,
            half_range,
        })
    }

    /// How many features there are.
    #[must_use]
    pub fn features(&self) -> usize {
        self.features
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.targets.len()
    }

    /// The code of a row's level of a feature.
    #[must_use]
    pub fn code(&self, row: usize, feature: usize) -> u16 {
        // Bins count on from the feature's start.
        self.bins[row * self.features + feature] - self.starts[feature] as u16
    }

    /// A row's target on the scale of `Forest::predict_scaled`: from −1 to 1.
    #[must_use]
    pub fn scaled_target(&self, row: usize) -> f64 {
        self.targets[row] / self.scale
    }
}

//! A model fitted to one metric's logarithms: its coefficients over all and of each block, the intervals of what it says,
//! and what it lacks.

use std::collections::BTreeMap;

use inferbench_crds::{
    factor::Axis,
    selection::{Coding, algebra::dot},
};

use super::{
    super::{
        grid::mean,
        least_squares::{Inverse, invert},
    },
    LackOfFit, ModelFit, digits,
};
use crate::interval::{Interval, f_probability, t_quantile};

/// Below this a contrast has no part in what cannot be told.
const PART: f64 = 1e-6;

/// Rounds in which combinations' means and blocks' effects are made to agree where trials are missing.
const ROUNDS: usize = 20;

/// A model fitted to one metric's logarithms.
#[derive(Clone, Debug)]
pub(in super::super) struct Fitted {
    inverse: Inverse,
    coefficients: Vec<f64>,
    /// The coefficients of each block; one where there is one block.
    pub(super) blocks: Vec<Vec<f64>>,
    combinations: usize,
    r2: f64,
    /// The variance of the means around the model.
    residual: Option<f64>,
    /// That of the means by replicates alone, and its degrees of freedom.
    replicates: Option<(f64, f64)>,
}

impl Fitted {
    /// Of combinations, each with its logarithms by block.
    pub(super) fn new(
        coding: &Coding,
        axes: &[Axis],
        cells: &[(u32, BTreeMap<u32, f64>)],
    ) -> Option<Self> {
        if cells.is_empty() {
            return None;
        }
        let p = coding.columns();
        let mut rows: Vec<Vec<f64>> = Vec::with_capacity(cells.len());
        let mut gram = vec![0.0; p * p];
        for (index, _) in cells {
            let mut row = Vec::with_capacity(p);
            coding.row(&digits(axes, *index), &mut row);
            for (line, x) in gram
                .chunks_exact_mut(p)
                .zip(&row)
                .filter(|(_, x)| **x != 0.0)
            {
                line.iter_mut()
                    .zip(&row)
                    .for_each(|(sum, other)| *sum += x * other);
            }
            rows.push(row);
        }
        let inverse = invert(gram, p);
        let mut known: Vec<u32> = cells
            .iter()
            .flat_map(|(_, by_block)| by_block.keys().copied())
            .collect();
        known.sort_unstable();
        known.dedup();
        let mut means: Vec<f64> = vec![0.0; cells.len()];
        let mut effects: BTreeMap<u32, f64> = known.iter().map(|block| (*block, 0.0)).collect();
        for _ in 0..ROUNDS {
            for (mean, (_, by_block)) in means.iter_mut().zip(cells) {
                let sum: f64 = by_block
                    .iter()
                    .map(|(block, log)| log - effects[block])
                    .sum();
                *mean = sum / by_block.len() as f64;
            }
            for (block, effect) in &mut effects {
                let of = cells.iter().zip(&means);
                let logs = of.filter_map(|((_, by_block), mean)| Some(by_block.get(block)? - mean));
                *effect = mean(logs).unwrap_or_default();
            }
        }
        let centre = mean(means.iter().copied())?;
        let solve = |y: &dyn Fn(usize) -> f64| {
            let mut target = vec![0.0; p];
            for (at, row) in rows.iter().enumerate() {
                let y = y(at);
                target
                    .iter_mut()
                    .zip(row)
                    .for_each(|(sum, x)| *sum += x * y);
            }
            inverse.times(&target)
        };
        let coefficients = solve(&|at| means[at]);
        let total: f64 = means.iter().map(|mean| (mean - centre).powi(2)).sum();
        let errors = rows
            .iter()
            .zip(&means)
            .map(|(row, mean)| (mean - dot(row, &coefficients)).powi(2));
        let squares: f64 = errors.sum();
        let spare = cells.len().saturating_sub(inverse.rank());
        let blocks = if known.len() > 1 {
            let of_block = |block: &u32| {
                solve(&|at| {
                    let own = cells[at].1.get(block);
                    own.copied().unwrap_or_else(|| means[at] + effects[block])
                })
            };
            known.iter().map(of_block).collect()
        } else {
            vec![coefficients.clone()]
        };
        let trials: usize = cells.iter().map(|(_, by_block)| by_block.len()).sum();
        let degrees = trials as f64 - cells.len() as f64 - (known.len() as f64 - 1.0);
        let pure: f64 = cells
            .iter()
            .zip(&means)
            .flat_map(|((_, by_block), mean)| {
                by_block.iter().map(move |(block, log)| (block, log - mean))
            })
            .map(|(block, deviation)| (deviation - effects[block]).powi(2))
            .sum();
        // The variance of a mean over its replicates, averaged over the combinations.
        let of_mean = mean(
            cells
                .iter()
                .map(|(_, by_block)| 1.0 / by_block.len() as f64),
        )?;
        Some(Self {
            inverse,
            coefficients,
            blocks,
            combinations: cells.len(),
            r2: if total > 0.0 {
                1.0 - squares / total
            } else {
                1.0
            },
            residual: (spare > 0).then(|| squares / spare as f64),
            replicates: (degrees >= 1.0).then(|| (pure / degrees * of_mean, degrees)),
        })
    }

    fn spare(&self) -> f64 {
        self.combinations.saturating_sub(self.inverse.rank()) as f64
    }

    pub(super) fn value(&self, row: &[f64]) -> f64 {
        dot(row, &self.coefficients)
    }

    /// The variance that the model lacks, beyond what replicates differ by.
    fn lacking(&self) -> f64 {
        let by_replicates = self.replicates.map_or(0.0, |(variance, _)| variance);
        self.residual
            .map_or(0.0, |residual| (residual - by_replicates).max(0.0))
    }

    /// A linear function of the coefficients with its interval and degrees of freedom; `None` where the combinations
    /// cannot tell it.
    pub(super) fn contrast(&self, contrast: &[f64]) -> Option<(Interval, f64)> {
        self.judge(contrast, 0.0)
    }

    /// The mean of a combination that was not measured: what the model lacks of it is in the interval.
    pub(super) fn predict(&self, row: &[f64]) -> Option<Interval> {
        Some(self.judge(row, 1.0)?.0)
    }

    fn judge(&self, contrast: &[f64], own: f64) -> Option<(Interval, f64)> {
        if !self.inverse.tells(contrast, PART) {
            return None;
        }
        let value = self.value(contrast);
        let leverage = dot(contrast, &self.inverse.times(contrast)) + own;
        let lacking = leverage * self.lacking();
        let known = self.blocks.len() as f64;
        // Without a second block, what the means lie from the model by is all that there is.
        let between = if self.blocks.len() > 1 {
            let of_blocks: Vec<f64> = self
                .blocks
                .iter()
                .map(|block| dot(contrast, block))
                .collect();
            let centre = mean(of_blocks.iter().copied())?;
            of_blocks
                .iter()
                .map(|of| (of - centre).powi(2))
                .sum::<f64>()
                / (known - 1.0)
                / known
        } else {
            0.0
        };
        // Each part with its own t: what is covered is then never less than it says (Banerjee, *On confidence interval for
        // two-means problem based on separate estimates of variances and tabulated values of t-table*, 1961). One t for
        // both by Satterthwaite's degrees of freedom covers too little with few blocks: by chance these differ little,
        // and what is left of the other part, which may be nothing but noise, has many degrees.
        let part = |variance: f64, degrees: f64| match variance > 0.0 {
            true => t_quantile(degrees).powi(2) * variance,
            false => 0.0,
        };
        let half = (part(lacking, self.spare()) + part(between, known - 1.0)).sqrt();
        let unknown = self.blocks.len() < 2 && self.residual.is_none();
        let degrees = if self.blocks.len() > 1 {
            known - 1.0
        } else {
            self.spare()
        };
        let end = |end: f64| Some(end).filter(|end| end.is_finite() && !unknown);
        let interval = Interval {
            value,
            low: end(value - half),
            high: end(value + half),
        };
        value.is_finite().then_some((interval, degrees))
    }

    pub(super) fn describe(&self, metric: &str, coding: &Coding) -> ModelFit {
        let lack_of_fit = match (self.residual, self.replicates) {
            (Some(residual), Some((replicates, degrees))) if replicates > 0.0 => {
                let f = residual / replicates;
                f_probability(f, self.spare(), degrees).map(|p| LackOfFit {
                    f,
                    of_model: self.spare() as u32,
                    of_replicates: degrees as u32,
                    p,
                })
            }
            _ => None,
        };
        let unit = |column: usize| {
            let mut unit = vec![0.0; coding.columns()];
            unit[column] = 1.0;
            unit
        };
        let terms = coding.terms().iter().enumerate();
        let aliased = terms
            .filter(|(at, _)| {
                let mut columns = coding.columns_of(*at);
                columns.any(|column| !self.inverse.tells(&unit(column), PART))
            })
            .map(|(_, term)| term.clone())
            .collect();
        ModelFit {
            metric: metric.into(),
            combinations: self.combinations as u32,
            terms: self.inverse.rank() as u32,
            r2: self.r2,
            residual: self.residual.map(f64::sqrt),
            lack_of_fit,
            aliased,
        }
    }
}

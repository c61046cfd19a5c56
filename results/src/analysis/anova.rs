//! How a variance over combinations divides among factors: exactly where the grid is full, by type II sums of squares
//! where cells are missing.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    grid::{Absent, Grid, mean},
    least_squares::{Factored, Normal},
};
use crate::{interval::f_probability, sample::Factor};

/// How shares were computed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Method")]
pub enum ShareMethod {
    /// Exact analysis of variance of a full grid: Sobol's first-order and total indices for levels of equal weight.
    FullGrid,
    /// Type II sums of squares over the measured combinations, main effects and two-way interactions: cells are
    /// missing.
    TypeTwo,
    /// The same, main effects only: there are too many levels or too few combinations for interactions.
    TypeTwoMainEffects,
}

/// A factor's share of a variance.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FactorShare {
    /// The factor.
    pub factor: Factor,
    /// Alone (Sobol's S₁; type II: its sum of squares over the total one).
    pub first_order: f64,
    /// With all interactions that it takes part in (Sobol's S_T; type II: with the two-way ones).
    pub total: f64,
    /// The part of `first_order` to be expected of no effect at all, by how differently the blocks show the factor: for
    /// a factor that takes a fresh start it contains the variation between starts. Absent without two blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<f64>,
    /// The probability of as large a `first_order` without an effect: F with levels − 1 and (levels − 1)·(blocks − 1)
    /// degrees of freedom. Absent without two blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
}

/// A pair's share of a variance.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InteractionShare {
    /// The two factors.
    pub factors: [Factor; 2],
    /// Their interaction's share.
    pub share: f64,
}

/// The factors of some combinations, prepared for any number of metrics.
#[derive(Debug)]
pub(super) struct Design {
    factors: Vec<Factor>,
    /// The numbers of their levels.
    sizes: Vec<usize>,
    /// Each factor's level in each measured cell, as its rank; `None` where having no level is the effect of the factor
    /// that this one lies inside of.
    pub ranks: Vec<(Factor, Vec<Option<u16>>)>,
    cells: Cells,
}

#[derive(Debug)]
enum Cells {
    /// Every combination of the levels, once: each one's level of each factor.
    Full { codes: Vec<Vec<usize>> },
    /// Some of them: the dummy columns of each one, and the models whose residuals are compared.
    Part {
        rows: Vec<Vec<usize>>,
        columns: usize,
        terms: Vec<Term>,
        all: Factored,
        interactions: bool,
    },
}

/// A factor, or a pair of them.
type Of = (usize, Option<usize>);

/// A factor or a pair of them, with the model that it is added to and the one with it.
#[derive(Debug)]
struct Term {
    of: Of,
    without: Factored,
    with: Factored,
}

/// How a variance divides.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decomposition {
    pub method: ShareMethod,
    pub explained: f64,
    pub factors: Vec<FactorShare>,
    pub interactions: Vec<InteractionShare>,
}

/// Columns up to which interactions are fitted; main effects alone up to twice as many.
const MAX_COLUMNS: usize = 256;

/// Sums of squares below this share of the values' own square are rounding errors.
const ROUNDING: f64 = 1e-20;

impl Design {
    /// The design of the cells that were measured; `None` where no factor varies among them, or too little is left to
    /// tell the levels apart.
    pub fn new(grid: &Grid<'_>, measured: &[bool]) -> Option<Self> {
        let cells: Vec<&[u32]> = grid
            .cells
            .iter()
            .zip(measured)
            .filter(|(_, measured)| **measured)
            .map(|(cell, _)| cell.at.as_slice())
            .collect();
        // Levels are numbered anew: some may have no measured cell.
        let mut factors = Vec::new();
        let mut sizes = Vec::new();
        let mut codes = vec![Vec::new(); cells.len()];
        let mut ranks = Vec::new();
        for (position, axis) in grid.varying() {
            let none = axis.none() as usize;
            let mut number = vec![None; none + 1];
            cells
                .iter()
                .for_each(|at| number[at[position] as usize] = Some(0));
            let within = matches!(axis.absent, Absent::Within(_));
            if within {
                number[none] = None;
            }
            let mut size = 0;
            for code in number.iter_mut().flatten() {
                *code = size;
                size += 1;
            }
            if size < 2 {
                continue;
            }
            let rank = |at: &&[u32]| {
                let rank = number[at[position] as usize]?;
                Some(u16::try_from(rank).unwrap_or(u16::MAX))
            };
            ranks.push((axis.factor.clone(), cells.iter().map(rank).collect()));
            // Where a factor lies inside of another, having no level is that one's effect, and none of this one's.
            for (codes, at) in codes.iter_mut().zip(&cells) {
                codes.push(number[at[position] as usize].unwrap_or(0));
            }
            factors.push(axis.factor.clone());
            sizes.push(size);
        }
        if factors.is_empty() {
            return None;
        }
        let full = sizes
            .iter()
            .try_fold(1_usize, |all, size| all.checked_mul(*size));
        let cells = if full == Some(cells.len()) {
            Cells::Full { codes }
        } else {
            part(&sizes, &codes)?
        };
        Some(Self {
            factors,
            sizes,
            ranks,
            cells,
        })
    }

    /// Divides the variance of one value per measured cell, the mean of the cell's values in `blocks`; `None` where they
    /// do not vary.
    pub fn decompose(&self, means: &[f64], blocks: &[Vec<Option<f64>>]) -> Option<Decomposition> {
        let scale = means
            .iter()
            .fold(0.0_f64, |most, value| most.max(value.abs()));
        if !(scale > 0.0 && scale.is_finite()) {
            return None;
        }
        let count = means.len() as f64;
        let centre = means.iter().map(|value| value / scale).sum::<f64>() / count;
        let values: Vec<f64> = means.iter().map(|value| value / scale - centre).collect();
        let total: f64 = values.iter().map(|value| value * value).sum();
        if total <= ROUNDING * count {
            return None;
        }
        let mut found = self.divide(&values, total);
        let deviations: Vec<Vec<f64>> = blocks
            .iter()
            .filter_map(|block| deviations(block, means, scale))
            .collect();
        if let Some(noise) = self.noise(&deviations) {
            for ((share, squares), levels) in found.factors.iter_mut().zip(noise).zip(&self.sizes) {
                share.noise = Some(squares / total);
                let degrees = *levels as f64 - 1.0;
                let blocks = deviations.len() as f64 - 1.0;
                let ratio = share.first_order * total / squares;
                share.p = f_probability(ratio, degrees, degrees * blocks);
            }
        }
        Some(found)
    }

    /// The sum of squares of each factor's own effect, over the cells' means, that is expected without an effect:
    /// 1/(R(R − 1))·Σ of the same sums over each of R blocks' deviations from the means. In a full grid that is the
    /// mean square of factor × block, the error of a factor whichever its scope: differences between starts are in it
    /// where the levels are of different starts, and are not where a start has all levels.
    fn noise(&self, deviations: &[Vec<f64>]) -> Option<Vec<f64>> {
        let blocks = deviations.len() as f64;
        if blocks < 2.0 {
            return None;
        }
        let mut sums = vec![0.0; self.factors.len()];
        for block in deviations {
            for (sum, squares) in sums.iter_mut().zip(self.alone(block)) {
                *sum += squares;
            }
        }
        Some(
            sums.iter()
                .map(|sum| sum / (blocks * (blocks - 1.0)))
                .collect(),
        )
    }

    /// The sum of squares of each factor's own effect, over centred values.
    fn alone(&self, values: &[f64]) -> Vec<f64> {
        match &self.cells {
            Cells::Full { codes } => (0..self.sizes.len())
                .map(|factor| between(&self.sizes, codes, 1 << factor, values))
                .collect(),
            Cells::Part {
                rows,
                columns,
                terms,
                ..
            } => {
                let mut normal = Normal::new(*columns);
                for (row, value) in rows.iter().zip(values) {
                    normal.add_target(row, *value);
                }
                let residual = |model: &Factored| normal.fit_factored(model).residual;
                let main = terms.iter().filter(|term| term.of.1.is_none());
                main.map(|term| (residual(&term.without) - residual(&term.with)).max(0.0))
                    .collect()
            }
        }
    }

    fn divide(&self, values: &[f64], total: f64) -> Decomposition {
        match &self.cells {
            Cells::Full { codes } => self.full(codes, values, total),
            Cells::Part {
                rows,
                columns,
                terms,
                all,
                interactions,
            } => {
                let mut normal = Normal::new(*columns);
                for (row, value) in rows.iter().zip(values) {
                    normal.add_target(row, *value);
                }
                let residual = |model: &Factored| normal.fit_factored(model).residual / total;
                let gain = |term: &Term| (residual(&term.without) - residual(&term.with)).max(0.0);
                let gains: Vec<(Of, f64)> =
                    terms.iter().map(|term| (term.of, gain(term))).collect();
                self.type_two(&gains, 1.0 - residual(all), *interactions)
            }
        }
    }

    /// The variance of the means over every set of factors, and by inclusion and exclusion what each set adds: Sobol
    /// (2001), for levels of equal weight.
    fn full(&self, codes: &[Vec<usize>], values: &[f64], total: f64) -> Decomposition {
        let k = self.sizes.len();
        let explained = |set: usize| between(&self.sizes, codes, set, values) / total;
        let every = (1 << k) - 1;
        let first: Vec<f64> = (0..k).map(|factor| explained(1 << factor)).collect();
        let factors = (0..k)
            .map(|factor| FactorShare {
                factor: self.factors[factor].clone(),
                first_order: first[factor],
                total: (1.0 - explained(every & !(1 << factor))).max(0.0),
                noise: None,
                p: None,
            })
            .collect();
        let interactions = pairs(k)
            .map(|(a, b)| InteractionShare {
                factors: [self.factors[a].clone(), self.factors[b].clone()],
                share: (explained(1 << a | 1 << b) - first[a] - first[b]).max(0.0),
            })
            .collect();
        Decomposition {
            method: ShareMethod::FullGrid,
            explained: 1.0,
            factors,
            interactions,
        }
    }

    fn type_two(&self, gains: &[(Of, f64)], explained: f64, interactions: bool) -> Decomposition {
        let share = |of: Of| {
            gains
                .iter()
                .find(|(term, _)| *term == of)
                .map_or(0.0, |(_, gain)| *gain)
        };
        let k = self.factors.len();
        let with = |factor: usize| {
            pairs(k)
                .filter(|(a, b)| *a == factor || *b == factor)
                .map(|(a, b)| share((a, Some(b))))
                .sum::<f64>()
        };
        Decomposition {
            method: if interactions {
                ShareMethod::TypeTwo
            } else {
                ShareMethod::TypeTwoMainEffects
            },
            explained,
            factors: (0..k)
                .map(|factor| FactorShare {
                    factor: self.factors[factor].clone(),
                    first_order: share((factor, None)),
                    total: share((factor, None)) + with(factor),
                    noise: None,
                    p: None,
                })
                .collect(),
            interactions: pairs(k)
                .filter(|_| interactions)
                .map(|(a, b)| InteractionShare {
                    factors: [self.factors[a].clone(), self.factors[b].clone()],
                    share: share((a, Some(b))),
                })
                .collect(),
        }
    }
}

/// The sum of squares between the means over a set of factors of a full grid.
fn between(sizes: &[usize], codes: &[Vec<usize>], set: usize, values: &[f64]) -> f64 {
    let of_set = |factor: &usize| set >> factor & 1 == 1;
    let members = || (0..sizes.len()).filter(of_set);
    let size: usize = members().map(|factor| sizes[factor]).product();
    let mut sums = vec![0.0; size];
    for (code, value) in codes.iter().zip(values) {
        sums[members().fold(0, |at, factor| at * sizes[factor] + code[factor])] += value;
    }
    let each = values.len() as f64 / size as f64;
    sums.iter().map(|sum| sum * sum / each).sum()
}

/// A block's deviations from the cells' means, around their own mean: a block that is slow throughout shows no factor
/// differently. A missing trial deviates by nothing. `None` where nothing was measured.
fn deviations(block: &[Option<f64>], means: &[f64], scale: f64) -> Option<Vec<f64>> {
    let deviations: Vec<Option<f64>> = block
        .iter()
        .zip(means)
        .map(|(value, mean)| value.map(|value| (value - mean) / scale))
        .collect();
    let centre = mean(deviations.iter().flatten().copied())?;
    let around = |deviation: Option<f64>| deviation.map_or(0.0, |deviation| deviation - centre);
    Some(deviations.into_iter().map(around).collect())
}

fn pairs(k: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..k).flat_map(move |a| (a + 1..k).map(move |b| (a, b)))
}

/// Dummy columns for every level but the first of each factor, and for every pair of them of two factors.
fn part(sizes: &[usize], codes: &[Vec<usize>]) -> Option<Cells> {
    let k = sizes.len();
    let main: usize = sizes.iter().map(|size| size - 1).sum();
    let crossed: usize = pairs(k)
        .map(|(a, b)| (sizes[a] - 1).saturating_mul(sizes[b] - 1))
        .sum();
    let interactions = 1 + main + crossed <= MAX_COLUMNS.min(codes.len().saturating_sub(1));
    if 1 + main > (2 * MAX_COLUMNS).min(codes.len().saturating_sub(1)) {
        return None;
    }
    // Which columns belong to a factor or to a pair.
    let mut of: Vec<(Of, Range<usize>)> = Vec::new();
    let mut columns = 1;
    for (factor, size) in sizes.iter().enumerate() {
        of.push(((factor, None), columns..columns + size - 1));
        columns += size - 1;
    }
    for (a, b) in pairs(k).filter(|_| interactions) {
        let size = (sizes[a] - 1) * (sizes[b] - 1);
        of.push(((a, Some(b)), columns..columns + size));
        columns += size;
    }
    let rows: Vec<Vec<usize>> = codes
        .iter()
        .map(|code| {
            let column = |((a, b), range): &(Of, Range<usize>)| {
                let level = code[*a].checked_sub(1)?;
                Some(match b {
                    None => range.start + level,
                    Some(b) => range.start + level * (sizes[*b] - 1) + code[*b].checked_sub(1)?,
                })
            };
            std::iter::once(0)
                .chain(of.iter().filter_map(column))
                .collect()
        })
        .collect();
    let mut normal = Normal::new(columns);
    for row in &rows {
        normal.add_columns(row);
    }
    let model = |keep: &dyn Fn(Of) -> bool| {
        let kept = of
            .iter()
            .filter(|(of, _)| keep(*of))
            .flat_map(|(_, range)| range.clone());
        normal.factor(&std::iter::once(0).chain(kept).collect::<Vec<_>>())
    };
    let holds = |outer: Of, inner: Of| {
        outer != inner && inner.1.is_none() && (outer.0 == inner.0 || outer.1 == Some(inner.0))
    };
    let terms = of
        .iter()
        .map(|(term, _)| Term {
            of: *term,
            without: model(&|other| other != *term && !holds(other, *term)),
            with: model(&|other| !holds(other, *term)),
        })
        .collect();
    let all = model(&|_| true);
    Some(Cells::Part {
        rows,
        columns,
        terms,
        all,
        interactions,
    })
}

//! The combinations of a scope as a grid: which levels there are, what is missing, and the part that is complete.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sample::{Combination, Factor, Level, Metric};

/// A factor and its levels, in ascending order.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FactorLevels {
    /// The factor.
    pub factor: Factor,
    /// Its levels.
    pub levels: Vec<Level>,
}

/// How much of the grid of levels was measured.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Coverage {
    /// Combinations in the full grid of the levels.
    pub grid: u32,
    /// Those with at least one valid trial.
    pub measured: u32,
    /// Combinations of the balanced part: a full grid over the levels that are left when those with holes are dropped.
    /// Means over a factor's levels are compared there. Equal to `grid` where nothing is missing.
    pub balanced: u32,
    /// The levels that the balanced part does without.
    pub dropped: Vec<FactorLevels>,
}

/// A factor's levels along the grid.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub factor: Factor,
    /// Ascending.
    pub levels: Vec<Level>,
    /// Each level as a number: itself, a model's parameters, a data type's bits; absent where one is unknown.
    pub numbers: Option<Vec<f64>>,
}

impl Axis {
    pub fn varies(&self) -> bool {
        self.levels.len() > 1
    }

    /// Whether "per doubling" means something: a count, and never 0.
    pub fn doubles(&self) -> bool {
        let counts = !matches!(self.factor, Factor::Model | Factor::Dtype);
        counts && self.varies() && self.levels.iter().all(|level| *level != Level::Number(0))
    }
}

/// A measured combination.
#[derive(Clone, Debug)]
pub(crate) struct Cell<'a> {
    pub combination: &'a Combination<'a>,
    /// Its level along each axis.
    pub at: [u32; Factor::ALL.len()],
    /// Whether it belongs to the balanced part.
    pub balanced: bool,
}

/// The combinations of a scope.
#[derive(Clone, Debug)]
pub(crate) struct Grid<'a> {
    /// One per factor, in the order of [`Factor::ALL`].
    pub axes: Vec<Axis>,
    /// Those with a valid trial, in the order of their levels.
    pub cells: Vec<Cell<'a>>,
    pub coverage: Coverage,
}

/// Levels in all beyond which no balanced part is looked for: no design has as many.
const MAX_LEVELS: usize = 1024;

impl<'a> Grid<'a> {
    pub fn new(combinations: &[&'a Combination<'a>]) -> Self {
        let axes: Vec<Axis> = Factor::ALL
            .into_iter()
            .map(|factor| axis(factor, combinations))
            .collect();
        let position = |axis: &Axis, combination: &Combination<'_>| {
            let level = axis.factor.level(&combination.levels);
            axis.levels.binary_search(&level).unwrap_or_default() as u32
        };
        let mut cells: Vec<Cell<'a>> = combinations
            .iter()
            .filter(|combination| !combination.valid.is_empty())
            .map(|combination| {
                let mut at = [0; Factor::ALL.len()];
                for (at, axis) in at.iter_mut().zip(&axes) {
                    *at = position(axis, combination);
                }
                Cell {
                    combination,
                    at,
                    balanced: true,
                }
            })
            .collect();
        let dropped = balance(&axes, &mut cells);
        let coverage = Coverage {
            grid: product(axes.iter().map(|axis| axis.levels.len())),
            measured: cells.len() as u32,
            balanced: cells.iter().filter(|cell| cell.balanced).count() as u32,
            dropped,
        };
        Self {
            axes,
            cells,
            coverage,
        }
    }

    /// The axes that vary, with their position among all.
    pub fn varying(&self) -> impl Iterator<Item = (usize, &Axis)> {
        self.axes
            .iter()
            .enumerate()
            .filter(|(_, axis)| axis.varies())
    }
}

/// A metric over a grid: taken out of the rows once, for everything that goes over it.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    /// The mean over each cell's valid trials.
    pub means: Vec<Option<f64>>,
    /// The value of each cell in each block.
    pub by_block: Vec<Vec<Option<f64>>>,
}

impl Grid<'_> {
    /// A metric's values.
    pub fn values(&self, metric: &Metric) -> Values {
        let blocks = self.blocks();
        let mut by_block = vec![vec![None; self.cells.len()]; blocks.len()];
        let mut means = Vec::with_capacity(self.cells.len());
        for (at, cell) in self.cells.iter().enumerate() {
            let mut known = Vec::new();
            for row in &cell.combination.valid {
                let value = metric.value(row);
                if let (Some(value), Ok(block)) = (value, blocks.binary_search(&row.replicate)) {
                    by_block[block][at] = Some(value);
                    known.push(value);
                }
            }
            means.push(mean(known.into_iter()));
        }
        Values { means, by_block }
    }

    /// Blocks in which anything was measured, ascending.
    fn blocks(&self) -> Vec<u32> {
        let blocks: BTreeSet<u32> = self
            .cells
            .iter()
            .flat_map(|cell| &cell.combination.valid)
            .map(|row| row.replicate)
            .collect();
        blocks.into_iter().collect()
    }
}

impl Values {
    /// The same of a function of the values; `None` where it is no finite number for one of them.
    pub fn map(&self, function: impl Fn(f64) -> f64) -> Option<Self> {
        let map = |values: &[Option<f64>]| -> Option<Vec<Option<f64>>> {
            values
                .iter()
                .map(|value| match value.map(&function) {
                    Some(mapped) if !mapped.is_finite() => None,
                    mapped => Some(mapped),
                })
                .collect()
        };
        let by_block: Vec<Vec<Option<f64>>> = self
            .by_block
            .iter()
            .map(|values| map(values))
            .collect::<Option<_>>()?;
        // The mean of what the function makes of the trials, not what it makes of their mean.
        let means = (0..self.means.len())
            .map(|cell| mean(by_block.iter().filter_map(|block| block[cell])))
            .collect();
        Some(Self { means, by_block })
    }
}

/// The mean of finite numbers; `None` of none.
pub(crate) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0_u32);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0)
        .then(|| sum / f64::from(count))
        .filter(|mean| mean.is_finite())
}

fn axis(factor: Factor, combinations: &[&Combination<'_>]) -> Axis {
    let levels: BTreeSet<Level> = combinations
        .iter()
        .map(|combination| factor.level(&combination.levels))
        .collect();
    let levels: Vec<Level> = levels.into_iter().collect();
    let numbers = match factor {
        Factor::Model => {
            let params: BTreeMap<&str, u64> = combinations
                .iter()
                .flat_map(|combination| &combination.valid)
                .filter_map(|row| Some((row.model.as_str(), row.model_params?)))
                .collect();
            levels
                .iter()
                .map(|level| match level {
                    Level::Name(name) => params.get(name.as_str()).map(|count| *count as f64),
                    Level::Number(_) => None,
                })
                .collect()
        }
        Factor::Dtype => levels
            .iter()
            .map(|level| match level {
                Level::Name(name) => bits(name),
                Level::Number(_) => None,
            })
            .collect(),
        _ => levels
            .iter()
            .map(|level| match level {
                Level::Number(number) => Some(f64::from(*number)),
                Level::Name(_) => None,
            })
            .collect(),
    };
    Axis {
        factor,
        levels,
        numbers,
    }
}

/// The bits of one element: the first number in a data type's name (`bf16`, `f32`, `q4_0`).
fn bits(dtype: &str) -> Option<f64> {
    let digits: String = dtype
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

fn product(sizes: impl Iterator<Item = usize>) -> u32 {
    sizes.fold(1_u32, |product, size| {
        product.saturating_mul(u32::try_from(size.max(1)).unwrap_or(u32::MAX))
    })
}

/// Drops one level after the other, each time the one that misses the largest share of its combinations (of equals the
/// one that costs the fewest measured ones, then the highest), until none is missing; returns what was dropped.
fn balance(axes: &[Axis], cells: &mut [Cell<'_>]) -> Vec<FactorLevels> {
    let mut left: Vec<Vec<bool>> = axes
        .iter()
        .map(|axis| vec![true; axis.levels.len()])
        .collect();
    let count = |left: &[Vec<bool>], axis: usize| left[axis].iter().filter(|l| **l).count();
    let levels: usize = axes.iter().map(|axis| axis.levels.len()).sum();
    if cells.is_empty() || levels > MAX_LEVELS {
        cells.iter_mut().for_each(|cell| cell.balanced = false);
        return Vec::new();
    }
    let mut measured: Vec<Vec<u32>> = axes.iter().map(|axis| vec![0; axis.levels.len()]).collect();
    for cell in cells.iter() {
        for (axis, at) in cell.at.iter().enumerate() {
            measured[axis][*at as usize] += 1;
        }
    }
    let mut kept = cells.len() as f64;
    loop {
        let sizes: Vec<f64> = (0..axes.len())
            .map(|axis| count(&left, axis) as f64)
            .collect();
        let full: f64 = sizes.iter().product();
        if kept >= full {
            break;
        }
        let worst = (0..axes.len())
            .filter(|axis| sizes[*axis] > 1.0)
            .flat_map(|axis| (0..left[axis].len()).map(move |level| (axis, level)))
            .filter(|(axis, level)| left[*axis][*level])
            .map(|(axis, level)| {
                let size = full / sizes[axis];
                let has = f64::from(measured[axis][level]);
                ((size - has) / size, -has, (axis, level))
            })
            .max_by(|a, b| {
                a.0.total_cmp(&b.0)
                    .then(a.1.total_cmp(&b.1))
                    .then(a.2.cmp(&b.2))
            });
        // A single combination is a full grid, so there is always a level to drop.
        let Some((.., (axis, level))) = worst else {
            break;
        };
        left[axis][level] = false;
        for cell in cells.iter_mut() {
            if cell.balanced && cell.at[axis] as usize == level {
                cell.balanced = false;
                kept -= 1.0;
                for (axis, at) in cell.at.iter().enumerate() {
                    measured[axis][*at as usize] -= 1;
                }
            }
        }
    }
    axes.iter()
        .zip(&left)
        .filter(|(_, left)| left.contains(&false))
        .map(|(axis, left)| FactorLevels {
            factor: axis.factor,
            levels: axis
                .levels
                .iter()
                .zip(left)
                .filter(|(_, left)| !**left)
                .map(|(level, _)| level.clone())
                .collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        fixtures::Sweep,
        sample::{combine, latest_attempts},
    };

    proptest! {
        #[test]
        fn the_balanced_part_is_a_full_grid(gone in prop::collection::vec(any::<u16>(), 0..60)) {
            let mut rows = Sweep { replicates: 1, ..Sweep::default() }.rows(|_| 1.0);
            for index in gone {
                let at = usize::from(index) % rows.len();
                rows[at].valid = Some(false);
            }
            let latest = latest_attempts(&rows);
            let combinations = combine(&latest);
            let grid = Grid::new(&combinations.iter().collect::<Vec<_>>());
            let balanced: Vec<&Cell<'_>> = grid.cells.iter().filter(|cell| cell.balanced).collect();
            let full: usize = (0..grid.axes.len())
                .map(|axis| balanced.iter().map(|cell| cell.at[axis]).collect::<BTreeSet<_>>().len())
                .product();
            prop_assert_eq!(balanced.len(), full);
            prop_assert_eq!(balanced.len() as u32, grid.coverage.balanced);
            // Nothing is dropped where nothing is missing, and something is left where anything was measured.
            prop_assert_eq!(grid.coverage.dropped.is_empty(), grid.coverage.measured == grid.coverage.grid);
            prop_assert_eq!(balanced.is_empty(), grid.cells.is_empty());
        }
    }

    #[test]
    fn bits_of_data_types() {
        for (name, found) in [
            ("f32", Some(32.0)),
            ("bf16", Some(16.0)),
            ("q4_0", Some(4.0)),
            ("x", None),
        ] {
            assert_eq!(bits(name), found, "{name}");
        }
    }
}

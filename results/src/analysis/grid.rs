//! The combinations of a scope as a grid: which levels there are, what is missing, and the part that is complete.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use inferbench_crds::factor::Kind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sample::{Combination, Factor, Level, Metric, factors};

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
    /// The meaning of combinations without a level of it.
    pub absent: Absent,
    /// The axis whose level says which level this one has: its effect is that axis's.
    pub alias: Option<usize>,
}

/// The meaning of combinations without a level of a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// There are none.
    Never,
    /// The factor lies inside of the one with this axis, some of whose levels do not know it: an engine that does not
    /// take a parameter. Having no level is no effect of the parameter then, but one of the engine.
    Within(usize),
    /// Having no level is as good as a level.
    Counts,
}

impl Axis {
    pub fn varies(&self) -> bool {
        self.alias.is_none() && self.levels.len() + usize::from(self.absent == Absent::Counts) > 1
    }

    /// Whether "per doubling" means something: a number, and always above 0.
    pub fn doubles(&self) -> bool {
        let above = |level: &Level| level.number().is_some_and(|number| number > 0.0);
        self.factor.kind(&self.levels) == Kind::Number
            && self.varies()
            && self.levels.iter().all(above)
    }

    /// The axis that this one lies inside of, or whose effect its own is.
    pub fn outer(&self) -> Option<usize> {
        match self.absent {
            Absent::Within(outer) => Some(outer),
            _ => self.alias,
        }
    }

    /// The code in a cell of a combination without a level.
    pub fn none(&self) -> u32 {
        self.levels.len() as u32
    }
}

/// A measured combination.
#[derive(Clone, Debug)]
pub(crate) struct Cell<'a> {
    pub combination: &'a Combination<'a>,
    /// The position of its level along each axis; [`Axis::none`] where it has none.
    pub at: Vec<u32>,
    /// Whether it belongs to the balanced part.
    pub balanced: bool,
}

/// The combinations of a scope.
#[derive(Clone, Debug)]
pub(crate) struct Grid<'a> {
    /// One per factor, in the order of the factors.
    pub axes: Vec<Axis>,
    /// Those with a valid trial, in the order of their levels.
    pub cells: Vec<Cell<'a>>,
    pub coverage: Coverage,
}

/// Levels in all beyond which no balanced part is looked for: no design has as many.
const MAX_LEVELS: usize = 1024;

impl<'a> Grid<'a> {
    pub fn new(combinations: &[&'a Combination<'a>]) -> Self {
        let mut axes: Vec<Axis> = factors(combinations.iter().map(|c| &c.levels))
            .into_iter()
            .map(|factor| axis(factor, combinations))
            .collect();
        let codes: Vec<Vec<u32>> = combinations
            .iter()
            .map(|combination| axes.iter().map(|axis| code(axis, combination)).collect())
            .collect();
        relate(&mut axes, &codes);
        let sides = Sides::new(&axes, &codes);
        let mut cells: Vec<Cell<'a>> = combinations
            .iter()
            .zip(codes)
            .filter(|(combination, _)| !combination.valid.is_empty())
            .map(|(combination, at)| Cell {
                combination,
                at,
                balanced: true,
            })
            .collect();
        let dropped = balance(&axes, &sides, &mut cells);
        let coverage = Coverage {
            grid: product(sides.sizes()),
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

    /// Starts of the engine at the level of an axis that has the fewest; `None` where a valid trial does not tell its
    /// process.
    pub fn starts(&self, position: usize) -> Option<u32> {
        let mut starts: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
        for cell in &self.cells {
            let of_level = starts.entry(cell.at[position]).or_default();
            for row in &cell.combination.valid {
                of_level.insert(row.process_id.as_deref()?);
            }
        }
        starts.values().map(|starts| starts.len() as u32).min()
    }

    /// Whether trials that shared a start of the engine had different levels of an axis.
    pub fn is_within_starts(&self, position: usize) -> bool {
        let mut levels: HashMap<&str, u32> = HashMap::new();
        self.cells.iter().any(|cell| {
            let mut processes = cell
                .combination
                .valid
                .iter()
                .filter_map(|row| row.process_id.as_deref());
            let level = cell.at[position];
            processes.any(|process| *levels.entry(process).or_insert(level) != level)
        })
    }

    /// The axes that lie inside of the one at a position, and those inside of these.
    pub fn within(&self, position: usize) -> impl Iterator<Item = usize> {
        (0..self.axes.len()).filter(move |at| outward(&self.axes, *at).any(|at| at == position))
    }

    /// Sentences about factors that cannot be told apart from others, or have levels for some combinations only.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        self.axes.iter().filter_map(|axis| {
            let title = axis.factor.title();
            let of = |outer: usize| self.axes[outer].factor.title();
            match (axis.absent, axis.alias) {
                (Absent::Within(outer), _) => Some(format!(
                    "{title} has levels for some levels of {0} only: its own effect goes over these, and that of {0} over \
                     all levels of {title}.",
                    of(outer)
                )),
                (Absent::Counts, _) => Some(format!(
                    "Some combinations have no level of {title}: they are a group of their own."
                )),
                (Absent::Never, Some(model)) => Some(format!(
                    "Each {0} was measured with one {title}: what differs with {title} is shown as an effect of {0}.",
                    of(model)
                )),
                (Absent::Never, None) => None,
            }
        })
    }
}

/// The axes around the one at a position, from the next one outwards.
fn outward(axes: &[Axis], at: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(axes[at].outer(), move |at| axes[*at].outer())
}

fn code(axis: &Axis, combination: &Combination<'_>) -> u32 {
    match combination.levels.get(&axis.factor) {
        Some(level) => axis.levels.binary_search(level).unwrap_or_default() as u32,
        None => axis.none(),
    }
}

/// Finds out what absent levels mean, and whether the engine says nothing that the model does not say: where several
/// sweeps stand side by side, each model was measured by one engine.
fn relate(axes: &mut [Axis], codes: &[Vec<u32>]) {
    let position =
        |factor: &Factor, axes: &[Axis]| axes.iter().position(|axis| axis.factor == *factor);
    let engine = position(&Factor::ENGINE, axes);
    let model = position(&Factor::MODEL, axes);
    if let (Some(engine), Some(model)) = (engine, model)
        && axes[model].levels.len() > 1
        && decides(codes, model, |at| at[engine])
    {
        axes[engine].alias = Some(model);
    }
    for at in 0..axes.len() {
        let none = axes[at].none();
        if codes.iter().all(|code| code[at] != none) {
            continue;
        }
        let outer = [engine, model].into_iter().flatten().find(|outer| {
            *outer != at && decides(codes, *outer, |code| u32::from(code[at] == none))
        });
        axes[at].absent = outer.map_or(Absent::Counts, Absent::Within);
    }
}

/// Whether equal levels along an axis always come with an equal value.
fn decides(codes: &[Vec<u32>], axis: usize, value: impl Fn(&[u32]) -> u32) -> bool {
    let mut known: BTreeMap<u32, u32> = BTreeMap::new();
    codes
        .iter()
        .all(|code| *known.entry(code[axis]).or_insert_with(|| value(code)) == value(code))
}

/// The sides of the grid: axes, but for those of which one lies inside of the other. Their combinations are the levels
/// of one side, because a full grid of them cannot be.
struct Sides {
    /// The axes of each side.
    axes: Vec<Vec<usize>>,
    /// The levels of each side: the codes along its axes.
    levels: Vec<Vec<Vec<u32>>>,
}

impl Sides {
    fn new(axes: &[Axis], codes: &[Vec<u32>]) -> Self {
        let mut sides: Vec<(usize, Vec<usize>)> = Vec::new();
        for at in 0..axes.len() {
            let outermost = outward(axes, at).last().unwrap_or(at);
            match sides.iter_mut().find(|(of, _)| *of == outermost) {
                Some((_, side)) => side.push(at),
                None => sides.push((outermost, vec![at])),
            }
        }
        let axes: Vec<Vec<usize>> = sides.into_iter().map(|(_, side)| side).collect();
        let levels = axes
            .iter()
            .map(|side| {
                let found: BTreeSet<Vec<u32>> = codes.iter().map(|code| part(code, side)).collect();
                found.into_iter().collect()
            })
            .collect();
        Self { axes, levels }
    }

    fn sizes(&self) -> impl Iterator<Item = usize> {
        self.levels.iter().map(Vec::len)
    }

    /// The position of a cell's level along each side.
    fn at(&self, code: &[u32]) -> Vec<usize> {
        self.axes
            .iter()
            .zip(&self.levels)
            .map(|(side, levels)| levels.binary_search(&part(code, side)).unwrap_or_default())
            .collect()
    }
}

fn part(code: &[u32], side: &[usize]) -> Vec<u32> {
    side.iter().map(|axis| code[*axis]).collect()
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
            for of in cell.combination.observe(metric) {
                if let Ok(block) = blocks.binary_search(&of.replicate) {
                    by_block[block][at] = Some(of.value);
                    known.push(of.value);
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
    let levels: BTreeSet<&Level> = combinations
        .iter()
        .filter_map(|combination| combination.levels.get(&factor))
        .collect();
    let levels: Vec<Level> = levels.into_iter().cloned().collect();
    let numbers = match &factor {
        of if *of == Factor::MODEL => {
            let params: BTreeMap<&str, u64> = combinations
                .iter()
                .flat_map(|combination| &combination.valid)
                .filter_map(|row| Some((row.model.as_str(), row.model_params?)))
                .collect();
            let count = |level: &Level| match level {
                Level::Text(name) => params.get(&**name).map(|count| *count as f64),
                _ => None,
            };
            levels.iter().map(count).collect()
        }
        of if *of == Factor::DTYPE => {
            let bits = |level: &Level| match level {
                Level::Text(name) => bits(name),
                _ => None,
            };
            levels.iter().map(bits).collect()
        }
        _ => levels.iter().map(Level::number).collect(),
    };
    Axis {
        factor,
        levels,
        numbers,
        absent: Absent::Never,
        alias: None,
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

/// Drops one level of a side after the other, each time the one that misses the largest share of its combinations (of
/// equals the one that costs the fewest measured ones, then the highest), until none is missing; returns the levels
/// that the balanced part does without.
fn balance(axes: &[Axis], sides: &Sides, cells: &mut [Cell<'_>]) -> Vec<FactorLevels> {
    let sizes: Vec<usize> = sides.sizes().collect();
    if cells.is_empty() || sizes.iter().sum::<usize>() > MAX_LEVELS {
        cells.iter_mut().for_each(|cell| cell.balanced = false);
        return Vec::new();
    }
    let mut left: Vec<Vec<bool>> = sizes.iter().map(|size| vec![true; *size]).collect();
    let mut measured: Vec<Vec<u32>> = sizes.iter().map(|size| vec![0; *size]).collect();
    let places: Vec<Vec<usize>> = cells.iter().map(|cell| sides.at(&cell.at)).collect();
    for place in &places {
        for (side, at) in place.iter().enumerate() {
            measured[side][*at] += 1;
        }
    }
    let mut kept = cells.len() as f64;
    loop {
        let sizes: Vec<f64> = left
            .iter()
            .map(|left| left.iter().filter(|l| **l).count() as f64)
            .collect();
        let full: f64 = sizes.iter().product();
        if kept >= full {
            break;
        }
        let worst = (0..left.len())
            .filter(|side| sizes[*side] > 1.0)
            .flat_map(|side| (0..left[side].len()).map(move |level| (side, level)))
            .filter(|(side, level)| left[*side][*level])
            .map(|(side, level)| {
                let size = full / sizes[side];
                let has = f64::from(measured[side][level]);
                ((size - has) / size, -has, (side, level))
            })
            .max_by(|a, b| {
                a.0.total_cmp(&b.0)
                    .then(a.1.total_cmp(&b.1))
                    .then(a.2.cmp(&b.2))
            });
        // A single combination is a full grid, so there is always a level to drop.
        let Some((.., (side, level))) = worst else {
            break;
        };
        left[side][level] = false;
        for (cell, place) in cells.iter_mut().zip(&places) {
            if cell.balanced && place[side] == level {
                cell.balanced = false;
                kept -= 1.0;
                for (side, at) in place.iter().enumerate() {
                    measured[side][*at] -= 1;
                }
            }
        }
    }
    let without = |(at, axis): (usize, &Axis)| {
        let kept: BTreeSet<u32> = cells
            .iter()
            .filter(|cell| cell.balanced)
            .map(|cell| cell.at[at])
            .collect();
        let levels = axis.levels.iter().zip(0..);
        let levels: Vec<Level> = levels
            .filter(|(_, code)| !kept.contains(code))
            .map(|(level, _)| level.clone())
            .collect();
        (!levels.is_empty()).then(|| FactorLevels {
            factor: axis.factor.clone(),
            levels,
        })
    };
    axes.iter().enumerate().filter_map(without).collect()
}

#[cfg(test)]
mod tests;

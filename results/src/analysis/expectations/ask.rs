//! The figures of the analysis that expectations ask for, each for the combinations that are asked about.
//!
//! Where there are replicates, a figure's interval is Student's t over the figure of each block, centred on the figure
//! over all: blocks are the independent repetitions, and combinations are fixed. A trial that a block lacks counts as its
//! combination's mean, and blocks that lack half of their trials do not count.

use std::{collections::BTreeMap, rc::Rc};

use inferbench_crds::{
    expectation::{Call, Function, Only},
    factor::Level,
};
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{
    super::{
        anova::Design,
        attribution::{self, FOREST_SEED},
        correlation,
        curves::{self, Family},
        grid::{Axis, Grid, Values, mean},
        importance::importance,
    },
    Choice, Number, Over, Range,
};
use crate::{
    interval::{self, Estimate, Interval, Observation, over_blocks},
    sample::{Better, Combination, Factor, Metric},
};

/// Why there is no interval.
const ONE_REPLICATE: &str = "one replicate gives no interval";

/// Blocks beyond which neighbours are taken together before forests are fitted to each.
const FORESTS: usize = 10;

/// The quantile of a normal distribution for a two-sided 95% interval.
const NORMAL: f64 = 1.959_963_985;

/// Answers about the combinations of a sweep.
pub(super) struct Asker<'a> {
    combinations: &'a [Combination<'a>],
    grids: BTreeMap<Only, Rc<Grid<'a>>>,
    /// Importances over all and in each block, by what they are of.
    importances: BTreeMap<(Only, &'static str, bool), Divided>,
}

/// How a metric divides among factors, over all and in each block.
type Divided = Result<Rc<(Parts, Vec<Parts>)>, String>;
type Parts = Vec<(Factor, f64)>;

impl<'a> Asker<'a> {
    pub fn new(combinations: &'a [Combination<'a>]) -> Self {
        Self {
            combinations,
            grids: BTreeMap::new(),
            importances: BTreeMap::new(),
        }
    }

    /// The number that a call gives.
    ///
    /// # Errors
    /// Why the sweep cannot tell.
    pub fn number(&mut self, call: &Call) -> Result<Number, String> {
        let metric = metric(call)?;
        let grid = self.grid(&call.only)?;
        match call.function {
            Function::Pearson => coefficient(&grid, call, metric, correlation::pearson, |_, n| {
                1.0 / (n - 3.0).sqrt()
            }),
            // Bonett and Wright, "Sample size requirements for estimating Pearson, Kendall and Spearman correlations"
            // (Psychometrika 65, 2000).
            Function::Spearman => {
                coefficient(&grid, call, metric, correlation::spearman, |r, n| {
                    ((1.0 + r * r / 2.0) / (n - 3.0)).sqrt()
                })
            }
            Function::Share => share(&grid, call, metric, false),
            Function::LogShare => share(&grid, call, metric, true),
            Function::Importance => self.importance(&grid, call, metric, false),
            Function::LogImportance => self.importance(&grid, call, metric, true),
            Function::Effect => effect(&grid, call, metric),
            Function::Exponent => exponent(&grid, call, metric),
            Function::Mean => mean_of(&grid, metric),
            Function::Best => best(&grid, metric),
            Function::Curve | Function::BestLevel => Err("it is no number".into()),
        }
    }

    /// The level or the family that a call chooses.
    ///
    /// # Errors
    /// Why the sweep cannot tell.
    pub fn choice(&mut self, call: &Call) -> Result<Choice, String> {
        let metric = metric(call)?;
        let grid = self.grid(&call.only)?;
        match call.function {
            Function::Curve => family(&grid, call, metric),
            _ => best_level(&grid, call, metric),
        }
    }

    fn grid(&mut self, only: &Only) -> Result<Rc<Grid<'a>>, String> {
        let combinations = self.combinations;
        let grid = self.grids.entry(only.clone()).or_insert_with(|| {
            let kept: Vec<&Combination<'a>> = combinations
                .iter()
                .filter(|combination| only.holds(&combination.levels))
                .collect();
            Rc::new(Grid::new(&kept))
        });
        if grid.cells.is_empty() {
            return Err(if only.0.is_empty() {
                "there is no valid trial".into()
            } else {
                "there is no valid trial of such a combination".into()
            });
        }
        Ok(Rc::clone(grid))
    }

    fn importance(
        &mut self,
        grid: &Grid<'_>,
        call: &Call,
        metric: &'static Metric,
        log: bool,
    ) -> Result<Number, String> {
        axis(grid, call)?;
        let key = (call.only.clone(), metric.name, log);
        let found = self.importances.entry(key).or_insert_with(|| {
            let values = logarithms(grid.values(metric), log)?;
            let whole = Whole::new(grid, &values)?;
            let all = whole.importance(&whole.means)?;
            let blocks = neighbours(&values.by_block, FORESTS);
            let blocks = blocks
                .iter()
                .filter_map(|block| whole.filled(block))
                .filter_map(|block| whole.importance(&block).ok());
            Ok(Rc::new((all, blocks.collect())))
        });
        let found = Rc::clone(found.as_ref().map_err(Clone::clone)?);
        let of = |parts: &Parts| part(parts, call);
        let value = of(&found.0)?;
        let blocks: Vec<f64> = found.1.iter().filter_map(|block| of(block).ok()).collect();
        Ok(over_replicates(value, &blocks, Range::ALL))
    }
}

fn metric(call: &Call) -> Result<&'static Metric, String> {
    Metric::named(call.metric).ok_or_else(|| format!("{} is not known", call.metric))
}

/// The axis of a call's factor, where that varies.
fn axis<'g>(grid: &'g Grid<'_>, call: &Call) -> Result<(usize, &'g Axis), String> {
    let factor = call.factor.as_ref().ok_or("it names no factor")?;
    let found = grid.axes.iter().position(|axis| axis.factor == *factor);
    let at = found.ok_or_else(|| format!("{factor} does not vary"))?;
    let axis = &grid.axes[at];
    if let Some(other) = axis.alias {
        let other = &grid.axes[other].factor;
        return Err(format!("{factor} varies with {other} alone"));
    }
    if axis.varies() {
        Ok((at, axis))
    } else {
        Err(format!("{factor} does not vary"))
    }
}

/// A factor's part.
fn part(parts: &Parts, call: &Call) -> Result<f64, String> {
    let found = parts
        .iter()
        .find(|(factor, _)| Some(factor) == call.factor.as_ref());
    found
        .map(|(_, part)| *part)
        .ok_or_else(|| format!("{} does not vary where it was measured", name(call)))
}

fn name(call: &Call) -> &str {
    call.factor.as_ref().map_or("the factor", Factor::name)
}

fn unmeasured(metric: &Metric) -> String {
    format!("{} was not measured", metric.name)
}

fn logarithms(values: Values, log: bool) -> Result<Values, String> {
    if !log {
        return Ok(values);
    }
    let positive = values.means.iter().flatten().all(|mean| *mean > 0.0);
    let mapped = values.map(f64::ln).filter(|_| positive);
    mapped.ok_or_else(|| "not all values are above 0".into())
}

/// A figure with the interval of each block's figure around it, cut to what it can be.
fn over_replicates(value: f64, blocks: &[f64], possible: Range) -> Number {
    let range = match over_blocks(blocks) {
        Some(Interval {
            value: centre,
            low: Some(low),
            high: Some(high),
        }) => Range::of(
            Some((value + low - centre).max(possible.low)),
            Some((value + high - centre).min(possible.high)),
        ),
        _ => Range::ALL,
    };
    with_range(value, range)
}

fn with_range(value: f64, range: Range) -> Number {
    let known = range.is_bounded();
    Number {
        value,
        range,
        over: known.then_some(Over::Replicates),
        lacks: if known {
            Vec::new()
        } else {
            vec![ONE_REPLICATE.into()]
        },
    }
}

/// A block's values in the cells that have any, a missing one as the cell's mean; `None` where half are missing.
fn filled(block: &[Option<f64>], means: &[Option<f64>]) -> Option<Vec<Option<f64>>> {
    let known = block.iter().flatten().count();
    let cells = means.iter().flatten().count();
    let filled = block.iter().zip(means);
    (2 * known > cells).then(|| filled.map(|(own, mean)| own.or(*mean)).collect())
}

/// At most `most` blocks: of more, neighbours are taken together, by their mean.
fn neighbours(blocks: &[Vec<Option<f64>>], most: usize) -> Vec<Vec<Option<f64>>> {
    let size = blocks.len().div_ceil(most).max(1);
    let together = |blocks: &[Vec<Option<f64>>]| -> Vec<Option<f64>> {
        let cells = blocks.first().map_or(0, Vec::len);
        (0..cells)
            .map(|cell| mean(blocks.iter().filter_map(|block| block[cell])))
            .collect()
    };
    blocks.chunks(size).map(together).collect()
}

/// Pearson's or Spearman's coefficient of a factor's levels and a metric, over combinations' means. With one block, by
/// Fisher's z over the combinations, whose standard error `error` says: an interval for what other combinations of the
/// same kind would say, as nothing tells what another run would.
fn coefficient(
    grid: &Grid<'_>,
    call: &Call,
    metric: &Metric,
    coefficient: fn(&[f64], &[f64]) -> Option<f64>,
    error: fn(f64, f64) -> f64,
) -> Result<Number, String> {
    let (position, axis) = axis(grid, call)?;
    let numbers = axis
        .numbers
        .as_ref()
        .ok_or_else(|| format!("the levels of {} are no numbers", name(call)))?;
    let values = grid.values(metric);
    let pairs = |values: &[Option<f64>]| -> (Vec<f64>, Vec<f64>) {
        let cells = grid.cells.iter().zip(values);
        cells
            .filter_map(|(cell, value)| {
                Some((*numbers.get(cell.at[position] as usize)?, (*value)?))
            })
            .unzip()
    };
    let of = |values: &[Option<f64>]| {
        let (x, y) = pairs(values);
        coefficient(&x, &y)
    };
    let found = of(&values.means).ok_or_else(|| {
        if values.means.iter().all(Option::is_none) {
            unmeasured(metric)
        } else {
            format!("{} or {} does not vary", name(call), metric.name)
        }
    })?;
    let possible = Range {
        low: -1.0,
        high: 1.0,
    };
    let blocks: Vec<f64> = values
        .by_block
        .iter()
        .filter_map(|block| of(&filled(block, &values.means)?))
        .collect();
    if blocks.len() > 1 {
        return Ok(over_replicates(found, &blocks, possible));
    }
    let count = pairs(&values.means).0.len() as f64;
    let (z, half) = (found.atanh(), NORMAL * error(found, count));
    let (low, high) = ((z - half).tanh(), (z + half).tanh());
    Ok(if count > 3.0 && z.is_finite() && half.is_finite() {
        Number {
            value: found,
            range: Range { low, high },
            over: Some(Over::Combinations),
            lacks: Vec::new(),
        }
    } else {
        with_range(found, Range::ALL)
    })
}

/// The cells that have a metric, and how their levels divide it.
struct Whole {
    design: Design,
    means: Vec<f64>,
    /// The mean of each cell of the grid.
    of_cells: Vec<Option<f64>>,
}

impl Whole {
    fn new(grid: &Grid<'_>, values: &Values) -> Result<Self, String> {
        let measured: Vec<bool> = values.means.iter().map(Option::is_some).collect();
        let design = Design::new(grid, &measured).ok_or(
            "no factor varies among the combinations that have this metric, or they are too few",
        )?;
        Ok(Self {
            design,
            means: values.means.iter().flatten().copied().collect(),
            of_cells: values.means.clone(),
        })
    }

    fn filled(&self, block: &[Option<f64>]) -> Option<Vec<f64>> {
        Some(
            filled(block, &self.of_cells)?
                .into_iter()
                .flatten()
                .collect(),
        )
    }

    fn importance(&self, values: &[f64]) -> Result<Parts, String> {
        let found = importance(&self.design.ranks, values, FOREST_SEED);
        match found.refused {
            Some(why) => Err(why),
            None => Ok(found
                .factors
                .into_iter()
                .map(|found| (found.factor, found.mean))
                .collect()),
        }
    }

    fn shares(&self, values: &[f64]) -> Option<Parts> {
        let found = self.design.decompose(values, &[])?;
        let parts = found.factors.into_iter();
        Some(parts.map(|share| (share.factor, share.total)).collect())
    }
}

/// A factor's total share of the variance of combinations' means.
fn share(grid: &Grid<'_>, call: &Call, metric: &Metric, log: bool) -> Result<Number, String> {
    axis(grid, call)?;
    let values = logarithms(grid.values(metric), log)?;
    if values.means.iter().all(Option::is_none) {
        return Err(unmeasured(metric));
    }
    let whole = Whole::new(grid, &values)?;
    let all = whole
        .shares(&whole.means)
        .ok_or_else(|| format!("{} does not vary", metric.name))?;
    let blocks: Vec<f64> = values
        .by_block
        .iter()
        .filter_map(|block| whole.shares(&whole.filled(block)?))
        .filter_map(|parts| part(&parts, call).ok())
        .collect();
    let possible = Range {
        low: 0.0,
        high: 1.0,
    };
    Ok(over_replicates(part(&all, call)?, &blocks, possible))
}

/// The ratio per doubling, as the analysis has it.
fn effect(grid: &Grid<'_>, call: &Call, metric: &Metric) -> Result<Number, String> {
    let (_, axis) = axis(grid, call)?;
    if !axis.doubles() {
        return Err(format!(
            "the levels of {} are not all numbers above 0",
            name(call)
        ));
    }
    let values = grid.values(metric);
    if values.means.iter().all(Option::is_none) {
        return Err(unmeasured(metric));
    }
    let logarithms = logarithms(values, true)?;
    let found = attribution::effects(grid, &logarithms)
        .into_iter()
        .find(|effect| Some(&effect.factor) == call.factor.as_ref())
        .and_then(|effect| effect.per_doubling)
        .ok_or("the combinations that were measured do not tell it from other factors")?;
    Ok(with_range(found.value, Range::of(found.low, found.high)))
}

fn curve(grid: &Grid<'_>, call: &Call, metric: &Metric) -> Result<curves::Curve, String> {
    let (position, axis) = axis(grid, call)?;
    if !axis.doubles() {
        return Err(format!(
            "the levels of {} are not all numbers above 0",
            name(call)
        ));
    }
    let found = curves::curve(grid, position, axis, metric).ok_or_else(|| {
        format!(
            "{} was not measured at two levels of {}",
            metric.name,
            name(call)
        )
    })?;
    match found.refused {
        Some(why) => Err(why),
        None => Ok(found),
    }
}

/// The exponent of the power curve.
fn exponent(grid: &Grid<'_>, call: &Call, metric: &Metric) -> Result<Number, String> {
    let found = curve(grid, call, metric)?
        .exponent
        .ok_or("no power could be fitted")?;
    Ok(with_range(found.value, Range::of(found.low, found.high)))
}

/// The family of the curve, and those that may describe it as well.
fn family(grid: &Grid<'_>, call: &Call, metric: &Metric) -> Result<Choice, String> {
    let found = curve(grid, call, metric)?;
    let chosen = found.chosen.ok_or("no family could be chosen")?;
    let families = std::iter::once(chosen).chain(found.as_good);
    let level = |family| {
        Level::from(match family {
            Family::Constant => "constant",
            Family::Inverse => "inverse",
            Family::Linear => "linear",
            Family::Power => "power",
        })
    };
    Ok(Choice {
        candidates: families.map(level).collect(),
        lacks: None,
    })
}

/// The trials of each combination that has a metric.
fn observed(grid: &Grid<'_>, metric: &Metric) -> Result<Vec<Vec<Observation>>, String> {
    let cells = grid.cells.iter().map(|cell| {
        let trials = cell.combination.valid.iter();
        trials.filter_map(|row| metric.observe(row)).collect()
    });
    let observed: Vec<Vec<Observation>> =
        cells.filter(|trials: &Vec<_>| !trials.is_empty()).collect();
    if observed.is_empty() {
        return Err(unmeasured(metric));
    }
    Ok(observed)
}

/// An interval over replicates; what iterations of one process differ by says nothing of another one.
fn of_replicates(estimate: &Estimate) -> Range {
    if estimate.over == interval::Over::Replicates {
        Range::of(estimate.low, estimate.high)
    } else {
        Range::ALL
    }
}

/// The mean over combinations.
fn mean_of(grid: &Grid<'_>, metric: &Metric) -> Result<Number, String> {
    let observed = observed(grid, metric)?;
    let estimate = interval::estimate(&observed).ok_or_else(|| unmeasured(metric))?;
    Ok(with_range(estimate.mean, of_replicates(&estimate)))
}

/// The best mean that a combination has. No true mean is beyond the upper ends of all intervals; but the highest of many
/// lower ends is by chance too high, so that these are of intervals for all combinations together (Bonferroni).
fn best(grid: &Grid<'_>, metric: &Metric) -> Result<Number, String> {
    // As if high values were the better ones.
    let sign = direction(metric)?;
    let observed = observed(grid, metric)?;
    let share = 0.025 / observed.len() as f64;
    let mut value = f64::NEG_INFINITY;
    let mut range = Range {
        low: f64::NEG_INFINITY,
        high: f64::NEG_INFINITY,
    };
    for trials in &observed {
        let Some(estimate) = interval::estimate(std::slice::from_ref(trials)) else {
            continue;
        };
        let own = of_replicates(&estimate);
        let own = if sign < 0.0 { own.negated() } else { own };
        let centre = sign * estimate.mean;
        let degrees = f64::from(estimate.count) - 1.0;
        let wider = t(degrees, 1.0 - share) / t(degrees, 0.975);
        value = value.max(centre);
        range.high = range.high.max(own.high);
        if own.is_bounded() && wider.is_finite() {
            range.low = range.low.max(centre - (centre - own.low) * wider);
        }
    }
    let range = if sign < 0.0 { range.negated() } else { range };
    Ok(with_range(sign * value, range))
}

/// 1 where high values of a metric are the better ones, -1 where low ones are.
fn direction(metric: &Metric) -> Result<f64, String> {
    match metric.better {
        Better::Higher => Ok(1.0),
        Better::Lower => Ok(-1.0),
        Better::Neither => Err(format!(
            "whether a high or a low {} is the better one is not said",
            metric.name
        )),
    }
}

/// Student's t quantile.
fn t(degrees: f64, quantile: f64) -> f64 {
    StudentsT::new(0.0, 1.0, degrees).map_or(f64::INFINITY, |t| t.inverse_cdf(quantile))
}

/// The level with the best mean over the balanced part of the grid, and those that are not shown to be worse: by the
/// difference in each block, with Bonferroni's correction for the number of levels.
fn best_level(grid: &Grid<'_>, call: &Call, metric: &Metric) -> Result<Choice, String> {
    let sign = direction(metric)?;
    let (position, axis) = axis(grid, call)?;
    let values = grid.values(metric);
    if values.means.iter().all(Option::is_none) {
        return Err(unmeasured(metric));
    }
    let level_means = |values: &[Option<f64>]| -> Vec<Option<f64>> {
        (0..axis.levels.len())
            .map(|level| {
                let cells = grid.cells.iter().zip(values);
                let cells =
                    cells.filter(|(cell, _)| cell.balanced && cell.at[position] as usize == level);
                mean(cells.filter_map(|(_, value)| *value))
            })
            .collect()
    };
    let means = level_means(&values.means);
    let known: Vec<usize> = (0..means.len())
        .filter(|level| means[*level].is_some())
        .collect();
    let of = |means: &[Option<f64>], level: usize| means[level].map(|mean| sign * mean);
    let best = known
        .iter()
        .copied()
        .rev()
        .max_by(|a, b| {
            let (a, b) = (of(&means, *a), of(&means, *b));
            a.unwrap_or(f64::NEG_INFINITY)
                .total_cmp(&b.unwrap_or(f64::NEG_INFINITY))
        })
        .filter(|_| known.len() > 1)
        .ok_or_else(|| {
            format!(
                "{} was not measured at two levels of {} for the same levels of all else",
                metric.name,
                name(call)
            )
        })?;
    let blocks: Vec<Vec<Option<f64>>> = values
        .by_block
        .iter()
        .filter_map(|block| Some(level_means(&filled(block, &values.means)?)))
        .collect();
    let share = 0.025 / (known.len() - 1) as f64;
    let is_worse = |level: usize| {
        let differences: Vec<f64> = blocks
            .iter()
            .filter_map(|block| Some(of(block, best)? - of(block, level)?))
            .collect();
        let Some(Interval {
            value,
            low: Some(low),
            ..
        }) = over_blocks(&differences)
        else {
            return false;
        };
        let degrees = differences.len() as f64 - 1.0;
        let wider = t(degrees, 1.0 - share) / t(degrees, 0.975);
        value - (value - low) * wider > 0.0
    };
    let as_good = known
        .iter()
        .copied()
        .filter(|level| *level != best && !is_worse(*level));
    let candidates = std::iter::once(best).chain(as_good);
    Ok(Choice {
        candidates: candidates.map(|level| axis.levels[level].clone()).collect(),
        lacks: (blocks.len() < 2).then(|| ONE_REPLICATE.into()),
    })
}

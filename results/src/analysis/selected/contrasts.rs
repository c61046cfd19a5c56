//! The effects of factors as contrasts of the model: each a factor's levels, averaged over all that could have been
//! chosen.

use std::collections::BTreeMap;

use inferbench_crds::factor::{self, Axis, Kind};

use super::{
    super::{
        attribution::{Against, Effect, Evidence, LevelRatio},
        grid::mean,
    },
    Selection, digits,
    fitted::Fitted,
};
use crate::sample::Factor;

/// The contrasts of a factor: a level's position and its row of the model.
type Contrasts = Vec<(usize, Vec<f64>)>;
impl Selection<'_> {
    /// The contrasts of a factor's effect: averaged over all that could have been chosen, or over those with these
    /// levels.
    fn contrasts(&self, axis: usize, within: Option<(usize, usize)>) -> Vec<(usize, Vec<f64>)> {
        let axes = self.expansion.axes();
        let mut sums: BTreeMap<usize, (Vec<f64>, f64)> = BTreeMap::new();
        let mut row = Vec::new();
        let engine = axes.iter().position(|axis| axis.factor == Factor::ENGINE);
        for (_, digits) in self.every() {
            if within.is_some_and(|(at, digit)| digits[at] != digit) || !self.takes(axis, &digits) {
                continue;
            }
            let mut moved = digits.clone();
            for level in 0..axes[axis].levels.len() {
                moved[axis] = level;
                // A factor that one engine alone takes is no part of the engines' effects on each other.
                if engine != Some(axis) && !self.takes(axis, &moved) {
                    continue;
                }
                self.coding.row(&moved, &mut row);
                let (sum, count) = sums
                    .entry(level)
                    .or_insert_with(|| (vec![0.0; row.len()], 0.0));
                sum.iter_mut().zip(&row).for_each(|(sum, x)| *sum += x);
                *count += 1.0;
            }
        }
        sums.into_iter()
            .map(|(level, (sum, count))| (level, sum.into_iter().map(|sum| sum / count).collect()))
            .collect()
    }

    /// Digits of all combinations, those that differ in a parameter which the engine does not take each by itself: so
    /// engines are compared over all levels of what some of them take.
    fn every(&self) -> impl Iterator<Item = (u32, Vec<usize>)> {
        let axes = self.expansion.axes();
        let known: std::collections::BTreeSet<u32> =
            self.candidates.iter().map(|(index, _)| *index).collect();
        (0..self.expansion.combinations_before_exclusion()).filter_map(move |index| {
            let own = digits(axes, index);
            let mut taken = own.clone();
            for (at, digit) in taken.iter_mut().enumerate() {
                if !self.takes(at, &own) {
                    *digit = 0;
                }
            }
            known
                .contains(&index_of(axes, &taken))
                .then_some((index, own))
        })
    }

    pub(super) fn takes(&self, axis: usize, digits: &[usize]) -> bool {
        let axes = self.expansion.axes();
        let Some(engines) = &axes[axis].engines else {
            return true;
        };
        let engine = axes.iter().position(|axis| axis.factor == Factor::ENGINE);
        engine.is_some_and(|at| match axes[at].levels.get(digits[at]) {
            Some(factor::Level::Text(name)) => engines.iter().any(|engine| **engine == **name),
            _ => false,
        })
    }

    /// The contrasts of every factor that varies.
    pub(super) fn all_contrasts(&self, model: Option<&str>) -> Vec<(usize, Kind, Contrasts)> {
        let axes = self.expansion.axes();
        let of_model = |name: &str| {
            let at = axes.iter().position(|axis| axis.factor == Factor::MODEL)?;
            let digit = axes[at]
                .levels
                .iter()
                .position(|level| *level == factor::Level::from(name))?;
            Some((at, digit))
        };
        let within = model.and_then(of_model);
        self.coding
            .varies()
            .into_iter()
            .filter(|(at, _)| within.is_none_or(|(model, _)| *at != model))
            .map(|(at, kind)| (at, kind, self.contrasts(at, within)))
            .collect()
    }

    pub(super) fn effect(
        &self,
        (at, kind, levels): &(usize, Kind, Vec<(usize, Vec<f64>)>),
        fitted: &Fitted,
    ) -> Effect {
        let axis = &self.expansion.axes()[*at];
        let number = |level: usize| axis.levels[level].number().unwrap_or_default();
        let mut sorted: Vec<&(usize, Vec<f64>)> = levels.iter().collect();
        sorted.sort_by(|(a, _), (b, _)| axis.levels[*a].cmp(&axis.levels[*b]));
        let mut degrees = f64::INFINITY;
        let mut judge = |contrast: &[f64]| {
            let (interval, of) = fitted.contrast(contrast)?;
            degrees = degrees.min(of);
            interval.map(f64::exp)
        };
        let doubles = *kind == Kind::Number && sorted.iter().all(|(level, _)| number(*level) > 0.0);
        let per_doubling = doubles.then(|| {
            let x: Vec<f64> = sorted
                .iter()
                .map(|(level, _)| number(*level).log2())
                .collect();
            let centre = mean(x.iter().copied()).unwrap_or_default();
            let squares: f64 = x.iter().map(|x| (x - centre).powi(2)).sum();
            let mut slope = vec![0.0; self.coding.columns()];
            for (x, (_, row)) in x.iter().zip(&sorted) {
                let weight = (x - centre) / squares;
                slope
                    .iter_mut()
                    .zip(row)
                    .for_each(|(sum, x)| *sum += weight * x);
            }
            judge(&slope)
        });
        let per_doubling = per_doubling.flatten();
        let mut ratios = Vec::new();
        if let Some(((_, first), others)) = sorted.split_first() {
            for (level, row) in others {
                let contrast: Vec<f64> =
                    row.iter().zip(first).map(|(x, first)| x - first).collect();
                if let Some(ratio) = judge(&contrast) {
                    let level = axis.levels[*level].clone();
                    ratios.push(LevelRatio { level, ratio });
                }
            }
        }
        Effect {
            factor: axis.factor.clone(),
            per_doubling,
            ratios,
            evidence: Evidence {
                against: match axis.scope {
                    factor::Scope::Start => Against::Starts,
                    factor::Scope::Load => Against::Trials,
                },
                blocks: fitted.blocks.len() as u32,
                degrees: if degrees.is_finite() {
                    degrees as u32
                } else {
                    0
                },
                starts: self.starts(*at),
            },
        }
    }

    /// Starts of the engine at the level that has the fewest.
    fn starts(&self, axis: usize) -> Option<u32> {
        let axes = self.expansion.axes();
        let mut starts: BTreeMap<usize, std::collections::BTreeSet<&str>> = BTreeMap::new();
        for (index, rows) in &self.trials {
            let digits = digits(axes, *index);
            if self.takes(axis, &digits) {
                for row in rows {
                    let of_level = starts.entry(digits[axis]).or_default();
                    of_level.insert(row.process_id.as_deref()?);
                }
            }
        }
        starts.values().map(|starts| starts.len() as u32).min()
    }
}

fn index_of(axes: &[Axis], digits: &[usize]) -> u32 {
    let pairs = axes.iter().zip(digits);
    pairs.fold(0, |index, (axis, digit)| {
        index * axis.levels.len() as u32 + *digit as u32
    })
}

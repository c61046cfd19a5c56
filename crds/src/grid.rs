//! The grid of a design: every combination of its factors' levels by its index, and what `exclude` leaves out. Nothing
//! is made before it is asked for.
//!
//! A combination's index is the number whose digits are the positions of its levels, in the order of the factors
//! ([`factor::axes`]: the table's, then the parameters; the last changes fastest).

use crate::{
    combination::Combination,
    exclude::Exclude,
    factor::{self, Axis, Factor, Level},
    factors::Factors,
    model::Model,
    search::Search,
    spec::Design,
};

/// The positions of a combination's levels in the design's axes; none where a parameter has no level, as the engine
/// does not take it.
type Positions = Vec<Option<usize>>;

/// An entry of `exclude`: for each factor that it names, whether it lists the level at each position.
#[derive(Clone, Debug)]
struct Mask(Vec<Option<Vec<bool>>>);

impl Mask {
    fn of(entry: &Exclude, axes: &[Axis]) -> Self {
        let listed = |axis: &Axis| {
            let listed = entry.get(&axis.factor)?;
            Some(
                axis.levels
                    .iter()
                    .map(|level| listed.contains(level))
                    .collect(),
            )
        };
        Self(axes.iter().map(listed).collect())
    }

    /// Whether every factor that the entry names has a listed level.
    fn matches(&self, positions: &Positions) -> bool {
        let mut factors = self.0.iter().zip(positions);
        factors.all(|(listed, at)| match (listed, at) {
            (None, _) => true,
            (Some(listed), Some(at)) => listed[*at],
            (Some(_), None) => false,
        })
    }
}

/// The combinations of a design's levels.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    factors: Factors,
    search: Option<Search>,
    axes: Vec<Axis>,
    masks: Vec<Mask>,
}

impl Grid {
    pub(crate) fn new(design: &Design) -> Self {
        let axes = factor::axes(&design.factors);
        let entries = design.exclude.iter();
        let masks = entries.map(|entry| Mask::of(entry, &axes)).collect();
        Self {
            factors: design.factors.clone(),
            search: design.search.clone(),
            axes,
            masks,
        }
    }

    /// The levels of each factor, in the order of the index.
    pub(crate) fn axes(&self) -> &[Axis] {
        &self.axes
    }

    /// The models, in the order of their levels.
    pub(crate) fn models(&self) -> &[Model] {
        &self.factors.model
    }

    /// Of each of the first combinations, whether it is left out: by `exclude` or as another one over again. A reconcile
    /// asks this for every combination of a design, most of which leave out none.
    pub(crate) fn left_out(&self, combinations: u32) -> Vec<bool> {
        let everywhere = self.axes.iter().all(|axis| axis.engines.is_none());
        if everywhere && self.masks.is_empty() {
            return vec![false; combinations as usize];
        }
        let is_left_out = |index| match self.positions(index) {
            None => true,
            Some(positions) => self.masks.iter().any(|mask| mask.matches(&positions)),
        };
        (0..combinations).map(is_left_out).collect()
    }

    /// The first entry of `exclude` that leaves out the combination with this index.
    pub(crate) fn excluded_by(&self, index: u32) -> Option<usize> {
        let positions = self.positions(index)?;
        self.masks.iter().position(|mask| mask.matches(&positions))
    }

    /// The level of a factor in the combination with this index, without making it; none where the factor has no level
    /// there.
    pub(crate) fn level(&self, index: u32, factor: &Factor) -> Option<&Level> {
        let at = self.axes.iter().position(|axis| axis.factor == *factor)?;
        let position = self.positions(index)?[at]?;
        self.axes[at].levels.get(position)
    }

    /// The combination with this index.
    pub(crate) fn combination(&self, index: u32) -> Combination {
        self.at(&self.digits(index))
    }

    /// The combination at these digits, with the search that stands in place of its load's level.
    pub(crate) fn at(&self, digits: &[usize]) -> Combination {
        Combination {
            search: self.search.clone(),
            ..factor::combination(&self.factors, digits)
        }
    }

    /// The digits of a combination's index in the mixed radix of the factors' sizes.
    pub(crate) fn digits(&self, index: u32) -> Vec<usize> {
        let mut rest = index as usize;
        let mut digits = vec![0; self.axes.len()];
        for (digit, axis) in digits.iter_mut().zip(&self.axes).rev() {
            *digit = rest % axis.levels.len();
            rest /= axis.levels.len();
        }
        digits
    }

    /// Where the levels of the combination with this index stand; none where it is another one over again: it differs
    /// from that only in a parameter that its engine does not take.
    fn positions(&self, index: u32) -> Option<Positions> {
        let digits = self.digits(index);
        let position = |(axis, digit): (&Axis, usize)| {
            // Most are taken by every engine, whose name is not looked for then.
            let taken = axis.engines.is_none() || axis.is_taken_by(self.engine(&digits));
            match (taken, digit) {
                (true, digit) => Some(Some(digit)),
                (false, 0) => Some(None),
                (false, _) => None,
            }
        };
        self.axes
            .iter()
            .zip(digits.iter().copied())
            .map(position)
            .collect()
    }

    /// The name of the engine at these digits.
    fn engine(&self, digits: &[usize]) -> Option<&str> {
        let mut axes = self.axes.iter().zip(digits);
        let engine = axes.find(|(axis, _)| axis.factor == Factor::ENGINE);
        match engine.and_then(|(axis, &digit)| axis.levels.get(digit)) {
            Some(Level::Text(name)) => Some(name),
            _ => None,
        }
    }
}

/// The trials of a design before exclusion; saturates.
#[must_use]
pub fn size(axes: &[Axis], replicates: u32) -> u64 {
    axes.iter().fold(u64::from(replicates), |product, axis| {
        product.saturating_mul(axis.levels.len() as u64)
    })
}

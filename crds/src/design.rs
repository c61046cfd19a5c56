//! The expansion of a design into trials: its grid, a selection of that, blocked and seeded order, all lazy.
//!
//! A trial's index is its replicate times the combinations, plus its combination's index in the grid: it says everything
//! about the trial, so that a sweep's bookkeeping needs nothing but indices.

mod groups;

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use serde::{Deserialize, Serialize};

pub use crate::{
    combination::{Combination, Load, Setting},
    grid::size,
};
use crate::{
    confirm::Confirm,
    factor::{self, Axis, Factor, Level, Role, Scope},
    grid::Grid,
    limits,
    selection::{self, Selection},
    spec::{Design, Model, Order},
    splitmix::SplitMix64,
};

/// A combination in one replicate: one row of the results.
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// The trial's number: the replicate times the combinations, plus the combination's mixed-radix index,
    /// counted before exclusion, so that it is stable while levels stay in place.
    pub index: u32,
    /// The block, from 0.
    pub replicate: u32,
    /// The position in the order of execution, from 0, counted after exclusion.
    pub run_order: u32,
    /// The levels.
    pub combination: Combination,
}

/// A combination that an entry of `exclude` leaves out.
#[derive(Clone, Debug, PartialEq)]
pub struct Excluded {
    /// The combination's mixed-radix index.
    pub index: u32,
    /// The levels.
    pub combination: Combination,
    /// The position in `design.exclude` of the first entry that matches.
    pub entry: usize,
}

impl Design {
    /// The blocks in which every combination has a trial: the replicates, and those that measure the best again.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        let confirming = self.confirm.map_or(0, |confirm| confirm.replicates);
        let blocks = self.replicates.max(0).unsigned_abs();
        blocks.saturating_add(confirming.max(0).unsigned_abs())
    }

    /// The number by which a trial's index is counted, which is its block times that, plus its combination's: the
    /// combinations if nothing were excluded, and every engine took every parameter. Saturates.
    #[must_use]
    pub fn combinations_before_exclusion(&self) -> u32 {
        u32::try_from(size(&factor::axes(&self.factors), 1)).unwrap_or(u32::MAX)
    }
}

/// The run order of a trial that is left out.
const LEFT_OUT: u32 = u32::MAX;

/// A design, expanded. Trials are made when asked for; what is kept is four bytes for each.
#[derive(Clone, Debug)]
pub struct Expansion {
    grid: Grid,
    combinations: u32,
    /// Blocks, those that measure the best again among them.
    replicates: u32,
    confirm: Option<Confirm>,
    selection: Option<Arc<Selection>>,
    /// By trial index: the position in the order of execution, or `LEFT_OUT`.
    run_order: Vec<u32>,
    included: u32,
}

impl Expansion {
    /// Expands a design that `validate` has accepted.
    ///
    /// # Panics
    /// Where the design has more than [`limits::TRIALS`] trials before exclusion, which `validate` reports.
    #[must_use]
    pub fn new(design: &Design) -> Self {
        let replicates = design.blocks();
        let trials = size(&factor::axes(&design.factors), replicates);
        assert!(
            trials <= limits::TRIALS,
            "a design of {trials} trials was not validated: at most {} are allowed",
            limits::TRIALS
        );
        // Within limits::TRIALS unless there is no replicate and so nothing to expand.
        let combinations = if replicates == 0 {
            0
        } else {
            design.combinations_before_exclusion()
        };
        let grid = Grid::new(design);
        // `validate` reports a selection that cannot be made; without one nothing is left.
        let selection = selection::of(design).map(Result::unwrap_or_default);
        let left_out: Vec<bool> = match &selection {
            Some(selection) => (0..combinations)
                .map(|index| !selection.has(index))
                .collect(),
            None => grid.left_out(combinations),
        };
        let mut expansion = Self {
            grid,
            combinations,
            replicates,
            confirm: design.confirm,
            selection,
            run_order: vec![LEFT_OUT; trials as usize],
            included: 0,
        };

        let mut block: Vec<u32> = Vec::with_capacity(combinations as usize);
        for replicate in 0..replicates {
            block.clear();
            block.extend(0..combinations);
            if design.order == Order::Randomized {
                // All of the block is shuffled and then thinned: an exclude does not reorder what remains.
                SplitMix64::stream(design.seed.cast_unsigned(), u64::from(replicate))
                    .shuffle(&mut block);
            }
            for &combination in block
                .iter()
                .filter(|&&combination| !left_out[combination as usize])
            {
                expansion.run_order[(replicate * combinations + combination) as usize] =
                    expansion.included;
                expansion.included += 1;
            }
        }
        expansion
    }

    /// The combinations that `select` chose, and what they can tell; none of a design without it.
    #[must_use]
    pub fn selection(&self) -> Option<&Selection> {
        self.selection.as_deref()
    }

    /// The levels of each factor, in the order of the mixed-radix index.
    #[must_use]
    pub fn axes(&self) -> &[Axis] {
        self.grid.axes()
    }

    /// The levels of a factor; empty where the design does not know it.
    #[must_use]
    pub fn levels(&self, factor: &Factor) -> &[Level] {
        let axis = self.axes().iter().find(|axis| axis.factor == *factor);
        axis.map_or(&[], |axis| &axis.levels)
    }

    /// The models, in the order of their levels.
    #[must_use]
    pub fn models(&self) -> &[Model] {
        self.grid.models()
    }

    /// The level of a factor in a trial or combination with this index, without making it; none where the factor has no
    /// level there.
    #[must_use]
    pub fn level(&self, index: u32, factor: &Factor) -> Option<&Level> {
        self.grid.level(index % self.combinations.max(1), factor)
    }

    /// The devices of the trial or combination with this index, without making it; 0 for CPU.
    #[must_use]
    pub fn gpus(&self, index: u32) -> u32 {
        let gpus = self.level(index, &Factor::GPUS).and_then(Level::number);
        gpus.unwrap_or_default() as u32
    }

    /// For every engine and model the combination whose levels take the most room in a document. It need not be one of
    /// the design: `exclude` may leave it out.
    pub fn widest(&self) -> impl Iterator<Item = Combination> {
        let longest = |axis: &Axis| {
            let widths = axis
                .levels
                .iter()
                .map(|level| level.to_string().len())
                .enumerate();
            widths
                .max_by_key(|(_, width)| *width)
                .map_or(0, |(at, _)| at)
        };
        let positions: Vec<usize> = self.axes().iter().map(longest).collect();
        let at = |factor| self.axes().iter().position(|axis| axis.factor == factor);
        let (engine, model) = (at(Factor::ENGINE), at(Factor::MODEL));
        let count = |at: Option<usize>| at.map_or(0, |at| self.axes()[at].levels.len());
        let pairs = (0..count(engine)).flat_map(move |e| (0..count(model)).map(move |m| (e, m)));
        pairs.map(move |(e, m)| {
            let mut positions = positions.clone();
            if let (Some(engine), Some(model)) = (engine, model) {
                (positions[engine], positions[model]) = (e, m);
            }
            self.grid.at(&positions)
        })
    }

    /// A number that trials share whose levels force no fresh start of the engine between them, and no others: the
    /// digits of the factors of scope start. It is below
    /// [`combinations_before_exclusion`](Self::combinations_before_exclusion).
    #[must_use]
    pub fn start(&self, index: u32) -> u32 {
        let mut rest = index % self.combinations.max(1);
        let (mut start, mut radix) = (0, 1);
        for axis in self.axes().iter().rev() {
            let count = (axis.levels.len() as u32).max(1);
            if axis.scope == Scope::Start {
                start += rest % count * radix;
                radix *= count;
            }
            rest /= count;
        }
        start
    }

    /// How many blocks there are, those that measure the best again among them.
    #[must_use]
    pub const fn replicates(&self) -> u32 {
        self.replicates
    }

    /// How many blocks there are before those that measure the best again: all of them in a design without such.
    #[must_use]
    pub fn blocks_of_all(&self) -> u32 {
        let confirming = self.confirm.map_or(0, |confirm| confirm.replicates);
        self.replicates - confirming.max(0).unsigned_abs()
    }

    /// The indices of the trials that may measure the best again: the last ones, excluded ones among them.
    #[must_use]
    pub fn confirming(&self) -> Range<u32> {
        self.blocks_of_all() * self.combinations..self.len_before_exclusion()
    }

    /// Whether the trial with this index is one that measures the best again.
    #[must_use]
    pub fn confirms(&self, index: u32) -> bool {
        self.confirming().contains(&index)
    }

    /// How many combinations are measured again, at most: the best and its rivals of every workload, and of the mix where
    /// a model has several workloads. None in a design that confirms nothing.
    #[must_use]
    pub fn most_confirmed(&self) -> u32 {
        let Some(confirm) = self.confirm else {
            return 0;
        };
        let at = |factor| self.axes().iter().position(|axis| axis.factor == factor);
        let model = at(Factor::MODEL);
        let mut by_model: BTreeMap<usize, BTreeMap<Vec<usize>, u32>> = BTreeMap::new();
        for index in (0..self.combinations).filter(|&index| !self.is_excluded(index)) {
            let digits = self.grid.digits(index);
            let of_workload = |(at, axis): (usize, &Axis)| {
                (axis.factor.role() == Role::Workload).then(|| digits[at])
            };
            let workload = self
                .axes()
                .iter()
                .enumerate()
                .filter_map(of_workload)
                .collect();
            let own = by_model
                .entry(model.map_or(0, |at| digits[at]))
                .or_default();
            *own.entry(workload).or_default() += 1;
        }
        let most = |own: &BTreeMap<Vec<usize>, u32>| -> u32 {
            let goals = 1 + u32::from(own.len() > 1);
            own.values()
                .map(|&choices| choices.min(goals * confirm.choices()))
                .sum()
        };
        by_model.values().map(most).sum()
    }

    /// How many trials there are.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.included
    }

    /// Whether there is no trial at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.included == 0
    }

    /// How many trials there would be if nothing were excluded; every index is below it.
    #[must_use]
    pub const fn len_before_exclusion(&self) -> u32 {
        self.combinations * self.replicates
    }

    /// How many combinations there would be if nothing were excluded, and every engine took every parameter: every
    /// combination's index is below it.
    #[must_use]
    pub const fn combinations_before_exclusion(&self) -> u32 {
        self.combinations
    }

    /// How many combinations there are.
    #[must_use]
    pub fn combinations_len(&self) -> u32 {
        self.included.checked_div(self.replicates).unwrap_or(0)
    }

    /// The combinations that are measured with their mixed-radix indices, in the order of the index.
    pub fn combinations(&self) -> impl Iterator<Item = (u32, Combination)> {
        (0..self.combinations)
            .filter(|&index| !self.is_excluded(index))
            .map(|index| (index, self.grid.combination(index)))
    }

    /// The combinations that `exclude` leaves out, in the order of the index.
    pub fn excluded(&self) -> impl Iterator<Item = Excluded> {
        (0..self.combinations)
            .filter(|&index| self.is_excluded(index))
            .filter_map(|index| {
                Some(Excluded {
                    index,
                    combination: self.grid.combination(index),
                    entry: self.grid.excluded_by(index)?,
                })
            })
    }

    /// Whether the trial with this index is left out, by `exclude` or because `select` did not choose its combination; an
    /// index beyond the design is.
    #[must_use]
    pub fn is_excluded(&self, index: u32) -> bool {
        self.run_order(index).is_none()
    }

    /// The position of a trial in the order of execution; none where it is excluded or beyond the design.
    #[must_use]
    pub fn run_order(&self, index: u32) -> Option<u32> {
        self.run_order
            .get(index as usize)
            .copied()
            .filter(|&position| position != LEFT_OUT)
    }

    /// The trial with this index; none where it is excluded or beyond the design.
    #[must_use]
    pub fn trial(&self, index: u32) -> Option<Trial> {
        let run_order = self.run_order(index)?;
        Some(Trial {
            index,
            replicate: index / self.combinations,
            run_order,
            combination: self.grid.combination(index % self.combinations),
        })
    }

    /// The indices of one block in the order of execution.
    #[must_use]
    pub fn block(&self, replicate: u32) -> Vec<u32> {
        let first = replicate.saturating_mul(self.combinations);
        let mut indices: Vec<u32> = (first..first.saturating_add(self.combinations))
            .filter(|&index| !self.is_excluded(index))
            .collect();
        indices.sort_unstable_by_key(|&index| self.run_order[index as usize]);
        indices
    }

    /// The indices of all trials in the order of execution, one block at a time.
    pub fn order(&self) -> impl Iterator<Item = u32> {
        (0..self.replicates).flat_map(|replicate| self.block(replicate))
    }

    /// All trials in the order of execution, made one at a time.
    pub fn trials(&self) -> impl Iterator<Item = Trial> {
        self.order().filter_map(|index| self.trial(index))
    }
}

#[cfg(test)]
mod tests;

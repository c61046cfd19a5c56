//! The expansion of a design into trials: mixed-radix index, excludes, blocked and seeded order, all lazy.
//!
//! A combination's index is the number whose digits are the positions of its levels, in the order of the factors
//! ([`factor::axes`]: the table's, then the parameters; the last changes fastest). A trial's index is its replicate
//! times the combinations, plus that number: it says everything about the trial, so that a sweep's bookkeeping needs
//! nothing but indices.

mod groups;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    confirm::Confirm,
    engine::Engine,
    factor::{self, Axis, Factor, Level, Number, Role, Scope},
    limits,
    search::Search,
    select::{self, Selection},
    spec::{Design, Dtype, Exclude, Factors, Model, ModelSource, Order},
    splitmix::SplitMix64,
};

/// One level of each factor. What came after the first release is left out where it is at its implied level, so that
/// the keys of trials stay what they were.
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Combination {
    /// The engine.
    #[serde(default, skip_serializing_if = "Engine::is_default")]
    pub engine: Engine,
    /// The model.
    pub model: Model,
    /// Sequences in a batch.
    pub batch_size: u32,
    /// Input tokens of each sequence.
    pub input_length: u32,
    /// Output tokens of each sequence.
    pub output_length: u32,
    /// Devices of the engine; 0 means CPU.
    pub gpus: u32,
    /// Stages that the model's layers are divided into.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub pipeline_parallel: u32,
    /// Replicas of the model that divide the sequences among them.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub data_parallel: u32,
    /// Data type of weights and cache.
    pub dtype: Dtype,
    /// Requests in flight; 0 where the load is another one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub concurrency: u32,
    /// Requests a second; 0 where the load is another one.
    #[serde(default, skip_serializing_if = "Number::is_zero")]
    pub request_rate: Number,
    /// Percent of the input tokens that all requests have in common; none where the design does not vary it, so that
    /// servers keep no prefix cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_share: Option<u32>,
    /// The parameters that the engine takes, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, Setting>,
    /// The search that stands in place of a level of the load; none where the load has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
}

/// A parameter's level and where it goes.
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// The level.
    pub level: Level,
    /// The environment variable of the engine's process that has it as its value; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub env: String,
    /// The option of the server's command line that has it as its value; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flag: String,
    /// The member of every request's body that has it as its value; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// The load of a trial: how its requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load<'a> {
    /// So many leave together, and the next ones when all are done.
    Batch(u32),
    /// So many are in flight: one is sent when another is done.
    Concurrency(u32),
    /// So many come a second, at random.
    Rate(f64),
    /// As many as it finds.
    Search(&'a Search),
}

impl Default for Combination {
    /// One sequence of one token, of no model in particular, on the CPU: the levels are for the caller to set.
    fn default() -> Self {
        Self {
            engine: Engine::default(),
            model: Model {
                name: String::new(),
                source: ModelSource::default(),
            },
            batch_size: 1,
            input_length: 1,
            output_length: 1,
            gpus: 0,
            pipeline_parallel: 1,
            data_parallel: 1,
            dtype: Dtype::F32,
            concurrency: 0,
            request_rate: Number::default(),
            prefix_share: None,
            parameters: BTreeMap::new(),
            search: None,
        }
    }
}

fn one() -> u32 {
    1
}

// The signature is serde's.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_one(number: &u32) -> bool {
    *number == 1
}

// The signature is serde's.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Combination {
    /// How its requests come.
    #[must_use]
    pub fn load(&self) -> Load<'_> {
        if let Some(search) = &self.search {
            return Load::Search(search);
        }
        match (self.concurrency, self.request_rate.get()) {
            (0, 0.0) => Load::Batch(self.batch_size),
            (0, rate) => Load::Rate(rate),
            (streams, _) => Load::Concurrency(streams),
        }
    }

    /// Devices that share every layer: `gpus / (pipelineParallel × dataParallel)`, and 1 on the CPU; none where that does
    /// not divide.
    #[must_use]
    pub fn tensor_parallel(&self) -> Option<u32> {
        let devices = self.gpus.max(1);
        let apart = self.pipeline_parallel.saturating_mul(self.data_parallel);
        devices.is_multiple_of(apart).then(|| devices / apart)
    }

    /// Why no model can run with these levels; none where that depends on the model.
    #[must_use]
    pub fn unsupported(&self) -> Option<String> {
        if !self.engine.takes_requests() {
            let load = match self.load() {
                Load::Batch(_) => None,
                Load::Concurrency(_) => Some("concurrency"),
                Load::Rate(_) => Some("requestRate"),
                Load::Search(search) => Some(search.factor.name()),
            };
            let factor = load.or(self.prefix_share.map(|_| "prefixShare"));
            if let Some(factor) = factor {
                return Some(format!(
                    "{factor} is a load of servers and endpoints: {} takes batches",
                    self.engine.name
                ));
            }
        }
        if self.tensor_parallel().is_some() {
            return None;
        }
        let devices = match self.gpus {
            0 => "the CPU, one device,".into(),
            gpus => format!("gpus {gpus}"),
        };
        Some(format!(
            "{devices} cannot be divided by pipelineParallel {} × dataParallel {}",
            self.pipeline_parallel, self.data_parallel
        ))
    }

    /// The environment variables that the parameters set in the engine's process, by their names.
    pub fn environment(&self) -> impl Iterator<Item = (&str, String)> {
        let settings = self.parameters.values();
        let settings = settings.filter(|setting| !setting.env.is_empty());
        settings.map(|setting| (setting.env.as_str(), setting.level.to_string()))
    }
}

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
    factors: Factors,
    axes: Vec<Axis>,
    combinations: u32,
    /// Blocks, those that measure the best again among them.
    replicates: u32,
    confirm: Option<Confirm>,
    masks: Vec<Mask>,
    selection: Option<Arc<Selection>>,
    search: Option<Search>,
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
        let axes = factor::axes(&design.factors);
        let replicates = design.blocks();
        let trials = size(&axes, replicates);
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
        let masks = design
            .exclude
            .iter()
            .map(|entry| Mask::of(entry, &axes))
            .collect();
        let mut expansion = Self {
            factors: design.factors.clone(),
            axes,
            combinations,
            replicates,
            confirm: design.confirm,
            masks,
            // What cannot be selected, `validate` reports; without a selection nothing is left.
            selection: select::of(design).map(Result::unwrap_or_default),
            search: design.search.clone(),
            run_order: vec![LEFT_OUT; trials as usize],
            included: 0,
        };
        let mut left_out = expansion.left_out();
        if let Some(selection) = &expansion.selection {
            left_out = (0..combinations)
                .map(|index| !selection.has(index))
                .collect();
        }

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

    /// By combination: whether it is left out, by `exclude` or as another one over again. A reconcile asks this for every
    /// combination of a design, most of which leave out none.
    fn left_out(&self) -> Vec<bool> {
        let everywhere = self.axes.iter().all(|axis| axis.engines.is_none());
        if everywhere && self.masks.is_empty() {
            return vec![false; self.combinations as usize];
        }
        let is_left_out = |index| match self.positions(index) {
            None => true,
            Some(positions) => self.masks.iter().any(|mask| mask.matches(&positions)),
        };
        (0..self.combinations).map(is_left_out).collect()
    }

    /// The combinations that `select` chose, and what they can tell; none of a design without it.
    #[must_use]
    pub fn selection(&self) -> Option<&Selection> {
        self.selection.as_deref()
    }

    /// The levels of each factor, in the order of the mixed-radix index.
    #[must_use]
    pub fn axes(&self) -> &[Axis] {
        &self.axes
    }

    /// The levels of a factor; empty where the design does not know it.
    #[must_use]
    pub fn levels(&self, factor: &Factor) -> &[Level] {
        let axis = self.axes.iter().find(|axis| axis.factor == *factor);
        axis.map_or(&[], |axis| &axis.levels)
    }

    /// The models, in the order of their levels.
    #[must_use]
    pub fn models(&self) -> &[Model] {
        &self.factors.model
    }

    /// The level of a factor in a trial or combination with this index, without making it; none where the factor has no
    /// level there.
    #[must_use]
    pub fn level(&self, index: u32, factor: &Factor) -> Option<&Level> {
        let at = self.axes.iter().position(|axis| axis.factor == *factor)?;
        let position = self.positions(index % self.combinations.max(1))?[at]?;
        self.axes[at].levels.get(position)
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
        let positions: Vec<usize> = self.axes.iter().map(longest).collect();
        let at = |factor| self.axes.iter().position(|axis| axis.factor == factor);
        let (engine, model) = (at(Factor::ENGINE), at(Factor::MODEL));
        let count = |at: Option<usize>| at.map_or(0, |at| self.axes[at].levels.len());
        let pairs = (0..count(engine)).flat_map(move |e| (0..count(model)).map(move |m| (e, m)));
        pairs.map(move |(e, m)| {
            let mut positions = positions.clone();
            if let (Some(engine), Some(model)) = (engine, model) {
                (positions[engine], positions[model]) = (e, m);
            }
            self.at(&positions)
        })
    }

    /// A number that trials share whose levels force no fresh start of the engine between them, and no others: the
    /// digits of the factors of scope start. It is below
    /// [`combinations_before_exclusion`](Self::combinations_before_exclusion).
    #[must_use]
    pub fn start(&self, index: u32) -> u32 {
        let mut rest = index % self.combinations.max(1);
        let (mut start, mut radix) = (0, 1);
        for axis in self.axes.iter().rev() {
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

    /// Whether the trial with this index is one that measures the best again.
    #[must_use]
    pub fn confirms(&self, index: u32) -> bool {
        index >= self.blocks_of_all() * self.combinations
    }

    /// How many combinations are measured again, at most: the best and its rivals of every workload, and of the mix where
    /// a model has several workloads. None in a design that confirms nothing.
    #[must_use]
    pub fn most_confirmed(&self) -> u32 {
        let Some(confirm) = self.confirm else {
            return 0;
        };
        let at = |factor| self.axes.iter().position(|axis| axis.factor == factor);
        let model = at(Factor::MODEL);
        let mut by_model: BTreeMap<usize, BTreeMap<Vec<usize>, u32>> = BTreeMap::new();
        for index in (0..self.combinations).filter(|&index| !self.is_excluded(index)) {
            let digits = self.digits(index);
            let of_workload = |(at, axis): (usize, &Axis)| {
                (axis.factor.role() == Role::Workload).then(|| digits[at])
            };
            let workload = self
                .axes
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
            .map(|index| (index, self.combination(index)))
    }

    /// The combinations that `exclude` leaves out, in the order of the index.
    pub fn excluded(&self) -> impl Iterator<Item = Excluded> {
        (0..self.combinations)
            .filter(|&index| self.is_excluded(index))
            .filter_map(|index| {
                let positions = self.positions(index)?;
                let entry = self
                    .masks
                    .iter()
                    .position(|mask| mask.matches(&positions))?;
                Some(Excluded {
                    index,
                    combination: self.combination(index),
                    entry,
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
            combination: self.combination(index % self.combinations),
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

    fn combination(&self, index: u32) -> Combination {
        self.at(&self.digits(index))
    }

    /// The combination at these digits, with the search that stands in place of its load's level.
    fn at(&self, digits: &[usize]) -> Combination {
        Combination {
            search: self.search.clone(),
            ..factor::combination(&self.factors, digits)
        }
    }

    /// The digits of a combination's index in the mixed radix of the factors' sizes.
    fn digits(&self, index: u32) -> Vec<usize> {
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
            let taken = axis.engines.as_ref().is_none_or(|engines| {
                let engine = self.engine(&digits);
                engines.iter().any(|name| name == engine)
            });
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
    fn engine(&self, digits: &[usize]) -> &str {
        let mut axes = self.axes.iter().zip(digits);
        let engine = axes.find(|(axis, _)| axis.factor == Factor::ENGINE);
        match engine.and_then(|(axis, &digit)| axis.levels.get(digit)) {
            Some(Level::Text(name)) => name,
            _ => "",
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

#[cfg(test)]
mod tests;

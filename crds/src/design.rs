//! The expansion of a design into trials: mixed-radix index, excludes, blocked and seeded order, all lazy.
//!
//! A combination's index is the number whose digits are the positions of its levels, in the factor order model,
//! batchSize, inputLength, outputLength, gpus, dtype (the last changes fastest). A trial's index is its replicate
//! times the combinations, plus that number: it says everything about the trial, so that a sweep's bookkeeping
//! needs nothing but indices.

use serde::{Deserialize, Serialize};

use crate::{
    limits,
    spec::{Design, Dtype, Exclude, Model, Order},
    splitmix::SplitMix64,
};

/// The number of factors.
pub const FACTORS: usize = 6;

/// One level of each factor.
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Combination {
    /// The model.
    pub model: Model,
    /// Sequences in a batch.
    pub batch_size: u32,
    /// Input tokens of each sequence.
    pub input_length: u32,
    /// Output tokens of each sequence.
    pub output_length: u32,
    /// Tensor-parallel degree; 0 means CPU.
    pub gpus: u32,
    /// Data type of weights and cache.
    pub dtype: Dtype,
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

/// The distinct levels of each factor, as the trials see them.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    /// The models.
    pub model: Vec<Model>,
    /// Sequences in a batch.
    pub batch_size: Vec<u32>,
    /// Input tokens of each sequence.
    pub input_length: Vec<u32>,
    /// Output tokens of each sequence.
    pub output_length: Vec<u32>,
    /// Tensor-parallel degrees; 0 means CPU.
    pub gpus: Vec<u32>,
    /// Data types; never empty, as a default stands in.
    pub dtype: Vec<Dtype>,
}

impl Levels {
    /// The levels of a design. An absent dtype becomes f32 where the design runs on the CPU, else bf16.
    #[must_use]
    pub fn of(design: &Design) -> Self {
        let factors = &design.factors;
        let numbers = |levels: &[i32]| {
            levels
                .iter()
                .map(|&level| level.max(0).unsigned_abs())
                .collect()
        };
        let dtype = match factors.dtype.as_slice() {
            [] if factors.gpus == [0] => vec![Dtype::F32],
            [] => vec![Dtype::Bf16],
            given => given.to_vec(),
        };
        Self {
            model: factors.model.clone(),
            batch_size: numbers(&factors.batch_size),
            input_length: numbers(&factors.input_length),
            output_length: numbers(&factors.output_length),
            gpus: numbers(&factors.gpus),
            dtype,
        }
    }

    /// How many levels each factor has, in the factor order.
    #[must_use]
    pub fn counts(&self) -> [usize; FACTORS] {
        [
            self.model.len(),
            self.batch_size.len(),
            self.input_length.len(),
            self.output_length.len(),
            self.gpus.len(),
            self.dtype.len(),
        ]
    }

    /// The combination whose levels stand at these positions.
    fn at(&self, digits: [usize; FACTORS]) -> Combination {
        Combination {
            model: self.model[digits[0]].clone(),
            batch_size: self.batch_size[digits[1]],
            input_length: self.input_length[digits[2]],
            output_length: self.output_length[digits[3]],
            gpus: self.gpus[digits[4]],
            dtype: self.dtype[digits[5]],
        }
    }
}

/// An entry of `exclude`: for each factor, whether it matches the level at each position.
#[derive(Clone, Debug)]
struct Mask([Vec<bool>; FACTORS]);

impl Mask {
    fn of(entry: &Exclude, levels: &Levels) -> Self {
        fn positions<L, E>(
            levels: &[L],
            entry: Option<&Vec<E>>,
            same: impl Fn(&L, &E) -> bool,
        ) -> Vec<bool> {
            levels
                .iter()
                .map(|level| entry.is_none_or(|listed| listed.iter().any(|one| same(level, one))))
                .collect()
        }
        let number = |level: &u32, listed: &i32| i64::from(*level) == i64::from(*listed);
        Self([
            positions(&levels.model, entry.model.as_ref(), |level, name| {
                level.name == *name
            }),
            positions(&levels.batch_size, entry.batch_size.as_ref(), number),
            positions(&levels.input_length, entry.input_length.as_ref(), number),
            positions(&levels.output_length, entry.output_length.as_ref(), number),
            positions(&levels.gpus, entry.gpus.as_ref(), number),
            positions(&levels.dtype, entry.dtype.as_ref(), |level, listed| {
                level == listed
            }),
        ])
    }

    fn matches(&self, digits: [usize; FACTORS]) -> bool {
        self.0
            .iter()
            .zip(digits)
            .all(|(listed, digit)| listed[digit])
    }
}

/// The run order of a trial that is left out.
const LEFT_OUT: u32 = u32::MAX;

/// A design, expanded. Trials are made when asked for; what is kept is four bytes for each.
#[derive(Clone, Debug)]
pub struct Expansion {
    levels: Levels,
    counts: [usize; FACTORS],
    combinations: u32,
    replicates: u32,
    masks: Vec<Mask>,
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
        let levels = Levels::of(design);
        let counts = levels.counts();
        let replicates = design.replicates.max(0).unsigned_abs();
        let trials = size(counts, replicates);
        assert!(
            trials <= limits::TRIALS,
            "a design of {trials} trials was not validated: at most {} are allowed",
            limits::TRIALS
        );
        // Within limits::TRIALS unless there is no replicate and so nothing to expand.
        let combinations = if replicates == 0 {
            0
        } else {
            (trials / u64::from(replicates)) as u32
        };
        let masks: Vec<Mask> = design
            .exclude
            .iter()
            .map(|entry| Mask::of(entry, &levels))
            .collect();
        let left_out: Vec<bool> = (0..combinations)
            .map(|index| {
                let digits = digits(index, counts);
                masks.iter().any(|mask| mask.matches(digits))
            })
            .collect();

        let mut run_order = vec![LEFT_OUT; trials as usize];
        let mut included = 0;
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
                run_order[(replicate * combinations + combination) as usize] = included;
                included += 1;
            }
        }
        Self {
            levels,
            counts,
            combinations,
            replicates,
            masks,
            run_order,
            included,
        }
    }

    /// The levels of each factor.
    #[must_use]
    pub const fn levels(&self) -> &Levels {
        &self.levels
    }

    /// How many blocks there are.
    #[must_use]
    pub const fn replicates(&self) -> u32 {
        self.replicates
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

    /// How many combinations there would be if nothing were excluded.
    #[must_use]
    pub const fn combinations_before_exclusion(&self) -> u32 {
        self.combinations
    }

    /// How many combinations there are.
    #[must_use]
    pub fn combinations_len(&self) -> u32 {
        self.included.checked_div(self.replicates).unwrap_or(0)
    }

    /// The combinations with their mixed-radix indices, excluded ones left out, in the order of the index.
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
                let digits = digits(index, self.counts);
                let entry = self.masks.iter().position(|mask| mask.matches(digits))?;
                Some(Excluded {
                    index,
                    combination: self.levels.at(digits),
                    entry,
                })
            })
    }

    /// Whether the trial with this index is left out; an index beyond the design is.
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
        self.levels.at(digits(index, self.counts))
    }
}

/// The trials before exclusion of a design with so many levels of each factor; saturates.
#[must_use]
pub fn size(counts: [usize; FACTORS], replicates: u32) -> u64 {
    counts
        .iter()
        .fold(u64::from(replicates), |product, &count| {
            product.saturating_mul(count as u64)
        })
}

/// The positions of a combination's levels: the digits of its index in the mixed radix of the factors' sizes.
fn digits(index: u32, counts: [usize; FACTORS]) -> [usize; FACTORS] {
    let mut rest = index as usize;
    let mut digits = [0; FACTORS];
    for factor in (0..FACTORS).rev() {
        digits[factor] = rest % counts[factor];
        rest /= counts[factor];
    }
    digits
}

#[cfg(test)]
mod tests;

//! How a model's work is divided among ranks, and which part is whose: plain arithmetic.

use std::ops::Range;

/// Into how many parts the work is divided, in three ways at once. Every rank has a GPU of its own, where there are
/// GPUs; those of one stage are neighbours, as they have the most to say to each other, then those of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parallel {
    /// Ranks that share every layer of a stage.
    pub tensor: usize,
    /// Stages, each with some of the layers, one after another.
    pub pipeline: usize,
    /// Replicas of the model, each with some of the sequences.
    pub data: usize,
}

impl Parallel {
    /// One rank that does it all.
    pub const ONE: Self = Self::tensor(1);

    /// Ranks that all share every layer.
    pub const fn tensor(ranks: usize) -> Self {
        Self {
            tensor: ranks,
            pipeline: 1,
            data: 1,
        }
    }

    /// Ranks that share one replica of the model.
    pub const fn replica(self) -> usize {
        self.tensor * self.pipeline
    }

    /// All ranks.
    pub const fn world(self) -> usize {
        self.replica() * self.data
    }

    /// The stages of a replica.
    pub(crate) fn stages(self) -> impl Iterator<Item = Stage> {
        (0..self.pipeline).map(move |index| Stage {
            index,
            count: self.pipeline,
        })
    }
}

/// One of the stages that the layers are divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stage {
    pub index: usize,
    pub count: usize,
}

impl Stage {
    /// The only one.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Whether it begins with ids.
    pub fn is_first(self) -> bool {
        self.index == 0
    }

    /// Whether it ends with logits.
    pub fn is_last(self) -> bool {
        self.index + 1 == self.count
    }

    /// Its layers, of `all`.
    pub fn layers(self, all: usize) -> Range<usize> {
        part(all, self.count, self.index)
    }
}

/// The part with this number of `all` things in `parts` parts, as equal as can be, the larger ones first.
pub(crate) fn part(all: usize, parts: usize, index: usize) -> Range<usize> {
    let start = |index: usize| index * (all / parts) + index.min(all % parts);
    start(index)..start(index + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_are_the_whole_and_differ_by_one_at_most(all in 0usize..100, parts in 1usize..20) {
            let lengths: Vec<_> = (0..parts).map(|index| part(all, parts, index).len()).collect();
            let together: Vec<_> = (0..parts).flat_map(|index| part(all, parts, index)).collect();
            prop_assert_eq!(together, (0..all).collect::<Vec<_>>());
            prop_assert!(lengths[0] - lengths[parts - 1] <= 1);
            prop_assert!(lengths.is_sorted_by(|a, b| a >= b));
        }
    }
}

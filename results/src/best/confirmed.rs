//! The verdict of measuring the best again, in replicates of its own after all others.
//!
//! The best of many is chosen by the same trials that it is judged by: the luckiest of equals looks better than they are,
//! and the more there are, the luckier it is. Trials that had no part in the choice do not know of it. So their mean is
//! that of the choice, without flattery, and a test among them needs no more than its own comparisons.

use inferbench_crds::workload::Choice;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Capacity, Criterion, Entry, against};
use crate::interval::Estimate;

/// Whether the best may be called so.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord,
)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It has not been measured again, or has fewer than two valid trials of that.
    #[default]
    NotYet,
    /// It keeps to the objectives, where it is the best within them, and nothing beside it is shown to be better.
    Confirmed,
    /// Its means do not keep to the objectives.
    MissesObjectives,
    /// A choice beside it is shown to be better.
    Beaten,
}

impl Verdict {
    /// In a word or two.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::NotYet => "not confirmed",
            Self::Confirmed => "confirmed",
            Self::MissesObjectives => "misses the objectives",
            Self::Beaten => "beaten",
        }
    }
}

/// The best, measured again. Its figures rest on these trials alone.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Confirmation {
    /// Whether it may be called the best.
    pub verdict: Verdict,
    /// Fresh replicates in which it has a valid trial; for a mix, in which its figure is known.
    pub replicates: u32,
    /// Its output tokens per second; absent where it was not measured again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_throughput: Option<Estimate>,
    /// Its time to first token, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<Estimate>,
    /// Its time per output token, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot_ms: Option<Estimate>,
    /// The cost of a million output tokens, where a GPU's price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_per_million_output_tokens: Option<f64>,
    /// Where trials searched their load: the highest one at which the objectives hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// Other choices that were measured again.
    pub others: u32,
    /// Those of them that are shown to be better, by paired t-tests of logarithms over the fresh replicates with Holm's
    /// correction over all pairs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub better: Vec<Choice>,
}

/// The figures of a best choice that are shown: those of measuring it again, where that was done, else those that it was
/// chosen by.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// Output tokens per second.
    pub output_throughput: &'a Estimate,
    /// Time to first token, ms.
    pub ttft_ms: Option<&'a Estimate>,
    /// Time per output token, ms.
    pub tpot_ms: Option<&'a Estimate>,
    /// The cost of a million output tokens.
    pub cost: Option<f64>,
    /// The highest load at which the objectives hold, where that was searched.
    pub capacity: Option<&'a Capacity>,
    /// The verdict of measuring it again, in a sweep that does.
    pub confirmation: Option<&'a Confirmation>,
}

impl<'a> Shown<'a> {
    /// These figures, or those of measuring them again.
    pub(super) fn or_again(self, confirmation: Option<&'a Confirmation>) -> Self {
        let known = confirmation.filter(|of| of.verdict != Verdict::NotYet);
        let again = known.and_then(|of| {
            Some(Self {
                output_throughput: of.output_throughput.as_ref()?,
                ttft_ms: of.ttft_ms.as_ref(),
                tpot_ms: of.tpot_ms.as_ref(),
                cost: of.cost_per_million_output_tokens,
                capacity: of.capacity.as_ref(),
                confirmation,
            })
        });
        again.unwrap_or(Self {
            confirmation,
            ..self
        })
    }
}

impl Confirmation {
    /// With the verdict on the entry at `at`, among all that were measured again.
    pub(super) fn judged(
        self,
        criterion: Criterion,
        at: usize,
        entries: &[Entry],
        choice: impl Fn(usize) -> Choice,
        keeps: bool,
    ) -> Self {
        let blocks: Vec<_> = entries.iter().map(|entry| &entry.blocks).collect();
        // Worse the other way round is better.
        let ahead = against::judge(&blocks, at, !criterion.is_high()).worse;
        let better: Vec<Choice> = (0..entries.len())
            .filter(|other| ahead[*other] == Some(true))
            .map(choice)
            .collect();
        let replicates = entries[at].blocks.len() as u32;
        let within = criterion == Criterion::HighestOutputThroughputWithinObjectives;
        let verdict = if replicates < 2 {
            Verdict::NotYet
        } else if within && !keeps {
            Verdict::MissesObjectives
        } else if better.is_empty() {
            Verdict::Confirmed
        } else {
            Verdict::Beaten
        };
        Self {
            verdict,
            replicates,
            others: entries.len() as u32 - 1,
            better,
            ..self
        }
    }
}

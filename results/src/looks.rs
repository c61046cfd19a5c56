//! Which combinations of a design with `until` run no further: what is looked at, and when.
//!
//! After every block, from `min` on, each combination is looked at by itself. A look sees its **values**: the metric of
//! each of its trials that has a valid record, the latest attempt counting, in the order of the blocks. A trial that
//! failed, ran out of memory, is invalid or lacks the metric gives no value: it makes no block narrow, and a combination
//! without `min` values runs on to its last replicate. The combination is narrow enough with the first values that
//! [`Stopping::decide`] says so of; none of its trials is begun after that, neither later replicates nor earlier ones
//! that have failed or are to be measured again. Measured trials stay and count.
//!
//! So a decision depends on nothing but stored records of its combination, and once made it stays: no value is added
//! before those that it rests on, as nothing more is begun. An interruption, a look in the middle of a block, or all looks
//! over again find the same. Only a record that is lost can change it.
//!
//! Both orders have blocks, so that the rule is the same for `Randomized` and `Sequential`.

use std::collections::BTreeMap;

use inferbench_crds::{
    spec::Design,
    until::{METRICS, Until},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    interval::{Estimates, Over},
    numbers,
    row::Row,
    sample::{Metric, is_valid},
    stopping::{Decision, Rule, Stopping},
};

/// A design's rule for when replicates are enough, ready to be asked.
#[derive(Clone, Debug)]
pub struct Looks {
    metric: &'static Metric,
    stopping: Stopping,
}

/// The rule by which a sweep's combinations were stopped, as its summary says it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    /// The metric that was looked at.
    pub metric: String,
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
    /// The nominal confidence of the t-interval at each look.
    pub nominal: f64,
    /// The nominal confidence of the intervals of single combinations, of which 95% hold the truth.
    pub reported: f64,
}

/// The rule of a design's `until`.
fn rule(until: &Until, replicates: i32) -> Option<Rule> {
    Some(Rule {
        min: until.min.try_into().ok()?,
        max: replicates.try_into().ok()?,
        half_width: until.half_width_share()?,
        confidence: until.confidence / 100.0,
    })
}

impl Looks {
    /// The looks of a design that validation has accepted; none where it has no `until`.
    #[must_use]
    pub fn of(design: &Design) -> Option<Self> {
        let until = design.until.as_ref()?;
        Self::new(&until.metric, rule(until, design.replicates)?)
    }

    /// The looks of a summary's rule.
    #[must_use]
    pub fn again(stopped: &Stopped) -> Option<Self> {
        Self::new(&stopped.metric, stopped.rule)
    }

    fn new(metric: &str, rule: Rule) -> Option<Self> {
        Some(Self {
            metric: Metric::named(metric)?,
            stopping: Stopping::new(rule).ok()?,
        })
    }

    /// The rule, for a summary.
    #[must_use]
    pub fn stopped(&self) -> Stopped {
        Stopped {
            metric: self.metric.name.into(),
            rule: *self.stopping.rule(),
            nominal: self.stopping.nominal(),
            reported: self.stopping.reported(),
        }
    }

    /// After how many values a combination is narrow enough; none where it is not, as far as these go.
    #[must_use]
    pub fn enough_after(&self, values: &[f64]) -> Option<usize> {
        let min = self.stopping.rule().min as usize;
        (min..=values.len()).find(|count| {
            values
                .get(..*count)
                .is_some_and(|seen| self.stopping.decide(seen) == Decision::Enough)
        })
    }

    /// The combinations that are narrow enough, each with the block, from 0, that made it so. `latest` are the latest
    /// attempts at trials of the design, of which those that measure the best again are left alone, and `combinations` the
    /// number that a trial's index is counted by: [`Design::combinations_before_exclusion`].
    #[must_use]
    pub fn enough<'a>(
        &self,
        latest: impl IntoIterator<Item = &'a Row>,
        combinations: u32,
    ) -> BTreeMap<u32, u32> {
        let combinations = combinations.max(1);
        let mut values: BTreeMap<u32, BTreeMap<u32, f64>> = BTreeMap::new();
        let looked_at = |row: &&Row| is_valid(row) && row.confirming.is_none();
        for row in latest.into_iter().filter(looked_at) {
            if let Some(value) = self.metric.value(row) {
                let (block, combination) = (
                    row.trial_index / combinations,
                    row.trial_index % combinations,
                );
                values.entry(combination).or_default().insert(block, value);
            }
        }
        let decided = |(combination, by_block): (u32, BTreeMap<u32, f64>)| {
            let values: Vec<f64> = by_block.values().copied().collect();
            let last = self.enough_after(&values)?.checked_sub(1)?;
            Some((combination, *by_block.keys().nth(last)?))
        };
        values.into_iter().filter_map(decided).collect()
    }

    /// Puts intervals of which 95% hold the truth in the place of the plain t-intervals of one combination, given its
    /// valid trials: those of every time, rate and energy. A metric that moves with the one that is looked at is narrow
    /// by chance where that is, normalized latency for one, as it is throughput's inverse.
    pub(crate) fn widen(&self, estimates: &mut Estimates, valid: &[&Row]) {
        for metric in METRICS.iter().filter_map(|name| Metric::named(name)) {
            let Some(estimate) = estimates.get_mut(metric.name) else {
                continue;
            };
            let values: Vec<f64> = valid.iter().filter_map(|row| metric.value(row)).collect();
            let found = self.stopping.reported_interval(&values);
            if let Some((low, high)) = found.and_then(|found| found.low.zip(found.high))
                && estimate.over == Over::Replicates
            {
                // The interval is one of the geometric mean, which lies below the mean by next to nothing.
                estimate.low = Some(low.min(estimate.mean));
                estimate.high = Some(high.max(estimate.mean));
            }
        }
    }

    /// The note for readers of a sweep that was looked at: `not_needed` of `trials` trials were not needed.
    #[must_use]
    pub(crate) fn note(&self, not_needed: u32, trials: u32) -> String {
        // Two decimals at most: 3, 0.5, 97.31.
        let percent = |share: f64| (1e4 * share).round() / 1e2;
        let rule = self.stopping.rule();
        format!(
            "{} of {} trials were not needed: a combination runs no further once the {}% interval of its {} is within ±{}%, \
             after {} replicates or more. As that is looked at block after block, the intervals of times, rates and energies \
             of single combinations are made at {}%, so that 95% of them hold. What goes over several combinations goes over the replicates that all of them have.",
            numbers::count(not_needed),
            numbers::count(trials),
            percent(rule.confidence),
            self.metric.title,
            percent(rule.half_width),
            rule.min,
            percent(self.stopping.reported()),
        )
    }
}

#[cfg(test)]
mod tests;

//! Limits that a comparison is held against: `slower=5%`, `ttftMs=5%`.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MetricComparison, text};
use crate::sample::{Better, METRICS, Metric};

/// The metric that `slower` stands for: one batch takes longer. Output throughput is its exact inverse, and is judged
/// alike.
const SLOWER: &str = "ttltMs";

/// By how much a metric may be worse in B than in A.
#[derive(Clone, Debug)]
pub struct Limit {
    /// As it was written.
    pub text: String,
    /// The metric.
    pub metric: &'static Metric,
    /// How often as bad B's may be: 1.05 for 5%.
    pub factor: f64,
}

impl FromStr for Limit {
    type Err = String;

    /// Reads `slower=5%` or `<metric>=5%`.
    fn from_str(text: &str) -> Result<Self, String> {
        let judged: Vec<&str> = METRICS
            .iter()
            .filter(|metric| metric.better != Better::Neither)
            .map(|metric| metric.name)
            .collect();
        let grammar = || {
            format!(
                "{text:?} is no limit: write slower=5% or METRIC=5%, where METRIC is one of {}",
                judged.join(", ")
            )
        };
        let (name, percent) = text.split_once('=').ok_or_else(grammar)?;
        let name = name.trim();
        let metric = Metric::named(if name == "slower" { SLOWER } else { name })
            .filter(|metric| metric.better != Better::Neither)
            .ok_or_else(grammar)?;
        let percent: f64 = percent
            .trim()
            .strip_suffix('%')
            .and_then(|number| number.trim().parse().ok())
            .filter(|percent| (0.0..=1e6).contains(percent))
            .ok_or_else(|| {
                format!(
                    "{text:?}: {percent:?} is no percentage; write a number from 0 on and %, such as 5% or 0.5%"
                )
            })?;
        Ok(Self {
            text: text.into(),
            metric,
            factor: 1.0 + percent / 100.0,
        })
    }
}

/// How a limit is judged.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Decision")]
pub enum GateDecision {
    /// The interval lies wholly beyond the limit.
    Failed,
    /// The interval lies wholly within the limit.
    Kept,
    /// The interval contains the limit, or there is none: neither is shown.
    NotShown,
}

/// A limit, and what it comes to.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// The limit as it was written.
    pub limit: String,
    /// The metric.
    pub metric: String,
    /// How often as bad B's may be.
    pub factor: f64,
    /// How often as bad B's is: B's over A's where less is better, A's over B's where more is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worse: Option<f64>,
    /// The lower end of its 95% interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// How it is judged.
    pub decision: GateDecision,
    /// The same in words.
    pub message: String,
}

/// Holds the comparison of a metric, where there is one, against a limit.
#[must_use]
pub fn judge(limit: &Limit, found: Option<&MetricComparison>) -> Gate {
    let inverted = limit.metric.better == Better::Higher;
    let worse = found.map(|found| {
        if inverted {
            1.0 / found.ratio
        } else {
            found.ratio
        }
    });
    let interval = found
        .and_then(|found| found.low.zip(found.high))
        .map(|(low, high)| {
            if inverted {
                (1.0 / high, 1.0 / low)
            } else {
                (low, high)
            }
        });
    let decision = match interval {
        Some((low, _)) if low > limit.factor => GateDecision::Failed,
        Some((_, high)) if high <= limit.factor => GateDecision::Kept,
        _ => GateDecision::NotShown,
    };
    let title = limit.metric.title;
    let by = |worse: f64| {
        let (b, a) = if inverted { ("A", "B") } else { ("B", "A") };
        format!("{title} of {b} is {} times {a}'s", text::ratio(worse))
    };
    let beyond = text::ratio(limit.factor);
    let message = match (worse, interval) {
        (Some(worse), Some((low, high))) => {
            let interval = format!("95% interval {} to {}", text::ratio(low), text::ratio(high));
            let verdict = match decision {
                GateDecision::Failed => format!("wholly beyond {beyond}: failed"),
                GateDecision::Kept => format!("wholly within {beyond}: kept"),
                GateDecision::NotShown => {
                    format!(
                        "on both sides of {beyond}: not shown, neither that it fails nor that it keeps"
                    )
                }
            };
            format!("{} ({interval}), {verdict}", by(worse))
        }
        (Some(worse), None) => format!(
            "{}, but nothing says how sure that is: not shown; measure with two replicates at least",
            by(worse)
        ),
        (None, _) => format!("no combination has {title} in both: not shown"),
    };
    Gate {
        limit: limit.text.clone(),
        metric: limit.metric.name.into(),
        factor: limit.factor,
        worse,
        low: interval.map(|(low, _)| low),
        high: interval.map(|(_, high)| high),
        decision,
        message: format!("{}: {message}", limit.text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        for (text, metric, factor) in [
            ("slower=5%", "ttltMs", 1.05),
            ("ttftMs=0%", "ttftMs", 1.0),
            ("outputThroughput=12.5%", "outputThroughput", 1.125),
        ] {
            let limit: Limit = text.parse().unwrap();
            assert_eq!((limit.metric.name, limit.factor), (metric, factor));
        }
        for (text, said) in [
            ("slower", "write slower=5% or METRIC=5%"),
            ("faster=5%", "ttftMs, ttltMs"),
            ("gpuUtilMeanPct=5%", "is no limit"),
            ("slower=5", "\"5\" is no percentage"),
            ("slower=-5%", "from 0 on"),
            ("slower=NaN%", "no percentage"),
            ("slower=inf%", "no percentage"),
        ] {
            let error = text.parse::<Limit>().unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}

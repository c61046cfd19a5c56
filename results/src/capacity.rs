//! The capacity of a configuration: the highest load at which the objectives hold, as a trial that searched it found it.
//! When a load holds, `load_verdict` says.

use inferbench_crds::search::Searched;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The search of one trial.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// The load that was searched.
    pub factor: Searched,
    /// The highest load that was measured to hold, below all that were not; absent where the lowest one did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<End>,
    /// The lowest load that was measured not to hold; absent where the highest one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<End>,
    /// How the search ended.
    pub ended: Ended,
    /// Loads whose tests contradict each other, or that held above one that did not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contradictions: Vec<End>,
    /// Every test, in its order.
    pub steps: Vec<Step>,
}

/// A load, and how its tests came out.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// The load: requests a second, or in flight.
    pub load: f64,
    /// Tests in which it held.
    pub held: u32,
    /// Tests in which it did not.
    pub failed: u32,
}

/// How a search ended.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Ended {
    /// The ends are as near as was asked for, and each was tested twice with the same result.
    Within,
    /// The highest load that was to be tried holds, twice: the capacity is not below it.
    AtLeast,
    /// The lowest load that was to be tried does not hold, twice: the capacity is below it.
    Below,
    /// As many loads were tested as may be, because tests contradicted each other.
    Steps,
    /// The trial's time was over: its ends are what was known then.
    Time,
}

/// The test of one load.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The load: requests a second, or in flight.
    pub load: f64,
    /// Why it was tested: `search`, `confirm` or `decide`.
    pub purpose: String,
    /// When its window opened, ns since the Unix epoch.
    pub window_start_unix_ns: i64,
    /// How long that was, in seconds.
    pub window_s: f64,
    /// Requests that were meant to be sent in it.
    pub requests: u32,
    /// Of these, the ones that keep to every objective.
    pub kept: u32,
    /// Requests that failed.
    pub errors: u32,
    /// Of a request rate: whether requests came faster than they were served; absent where they were too few to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saturated: Option<bool>,
    /// The time to first token that the share of requests keep to which has to, in ms; absent where too many failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    /// The time per output token, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot_ms: Option<f64>,
    /// The time to last token, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e2e_ms: Option<f64>,
    /// Whether the load holds by this test.
    pub held: bool,
    /// Why not; absent where it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Capacity {
    /// The capacity as a number: the geometric middle of the bracket. None where that is open, or wider than it was to
    /// be, or an end was not tested again.
    #[must_use]
    pub fn middle(&self) -> Option<f64> {
        match (self.ended, self.low, self.high) {
            (Ended::Within, Some(low), Some(high)) => Some((low.load * high.load).sqrt()),
            _ => None,
        }
    }

    /// A note on the bracket beside its ends; none where there is nothing to say.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let ended = match self.ended {
            Ended::Within => None,
            Ended::AtLeast => Some("the highest load holds".to_owned()),
            Ended::Below => Some("the lowest load does not hold".to_owned()),
            Ended::Steps => Some(format!("ended after {} tests", self.steps.len())),
            Ended::Time => Some("ended when the time was over".to_owned()),
        };
        let odd = self.contradictions.iter().map(|end| {
            let End { load, held, failed } = end;
            format!("{load} held in {held} of {} tests", held + failed)
        });
        let notes: Vec<String> = ended.into_iter().chain(odd).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_narrow_and_confirmed_bracket_has_a_middle() {
        let end = |load, held, failed| Some(End { load, held, failed });
        let capacity = |low, high, ended| Capacity {
            factor: Searched::RequestRate,
            low,
            high,
            ended,
            contradictions: Vec::new(),
            steps: Vec::new(),
        };
        let closed = capacity(end(4.0, 2, 0), end(9.0, 0, 2), Ended::Within);
        assert_eq!((closed.middle(), closed.note()), (Some(6.0), None));
        let odd = Capacity {
            contradictions: vec![End {
                load: 4.0,
                held: 2,
                failed: 1,
            }],
            ..closed
        };
        assert_eq!(odd.note().as_deref(), Some("4 held in 2 of 3 tests"));
        for (low, high, ended) in [
            (end(4.0, 2, 0), None, Ended::AtLeast),
            (None, end(4.0, 0, 2), Ended::Below),
            (end(4.0, 1, 0), end(9.0, 0, 1), Ended::Time),
        ] {
            let open = capacity(low, high, ended);
            assert!(open.middle().is_none() && open.note().is_some());
        }
    }
}

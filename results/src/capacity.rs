//! The capacity of a configuration: the highest load at which the objectives hold, as a trial that searched it found it.
//! What one load was tested to be is judged here, from its requests alone.
//!
//! A load **holds** where at least a share of the requests that were meant to be sent in its window keep to every
//! objective ([`Answer::keeps_to`], which goodput counts, too; a failed request keeps to none), and the requests did not
//! come faster than they were served.

use inferbench_crds::{search::Searched, spec::Objectives};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    metrics::Answer,
    record::{RequestTimes, Requests},
};

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
    /// Those that failed.
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

    /// What is to be known of the bracket beside its ends; none where there is nothing.
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

impl Step {
    /// The verdict on the requests of a window at this load.
    #[must_use]
    pub fn of(
        load: f64,
        purpose: &str,
        requests: &Requests,
        objectives: &Objectives,
        share: f64,
    ) -> Self {
        let all = requests.requests.len();
        let answers = Answer::of_requests(requests);
        let kept = answers.iter().filter(|answer| answer.keeps_to(objectives));
        let kept = kept.count();
        let errors = requests.requests.iter().filter(|one| one.error.is_some());
        let errors = errors.count();
        // One of no request says nothing.
        let needed = ((share * all as f64 - 1e-9).ceil() as usize).max(1);
        let time = |of: fn(&RequestTimes) -> Option<f64>| {
            let mut times: Vec<f64> = requests.answered().filter_map(of).collect();
            times.sort_unstable_by(f64::total_cmp);
            times.get(needed - 1).copied()
        };
        let saturated = requests.saturated == Some(true);
        let mut step = Self {
            load,
            purpose: purpose.to_owned(),
            window_start_unix_ns: requests.window_start_unix_ns,
            window_s: requests.window_s,
            requests: count(all),
            kept: count(kept),
            errors: count(errors),
            saturated: requests.saturated,
            ttft_ms: time(RequestTimes::ttft_ms),
            tpot_ms: time(RequestTimes::tpot_ms),
            e2e_ms: time(RequestTimes::e2e_ms),
            held: kept >= needed && !saturated,
            why: None,
        };
        let mut why = Vec::new();
        if kept < needed {
            why.push(format!(
                "{kept} of {all} requests kept to every objective, {needed} have to"
            ));
            if errors > 0 {
                why.push(format!("{errors} failed"));
            }
        }
        if saturated {
            why.push("requests came faster than they were served".to_owned());
        }
        step.why = (!why.is_empty()).then(|| why.join("; "));
        step
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn requests() -> Requests {
        let record = fixtures::served(fixtures::open_loop(2.5), 3);
        record.requests.unwrap()
    }

    fn within(ttft_ms: u64) -> Objectives {
        Objectives {
            max_ttft: Some(inferbench_crds::Duration::from_millis(ttft_ms)),
            ..Objectives::default()
        }
    }

    #[test]
    fn a_load_holds_where_enough_requests_keep_to_the_objectives() {
        // 40 requests with 20.0, 20.1 … 23.9 ms.
        let all = Step::of(2.5, "search", &requests(), &within(24), 1.0);
        assert!(all.held && all.why.is_none());
        assert_eq!((all.requests, all.kept, all.errors), (40, 40, 0));
        assert!((all.ttft_ms.unwrap() - 23.9).abs() < 1e-9);
        let most = Step::of(2.5, "search", &requests(), &within(23), 0.75);
        // 20.0 … 23.0.
        assert_eq!((most.kept, most.held), (31, true));
        assert!((most.ttft_ms.unwrap() - 22.9).abs() < 1e-9);
        let few = Step::of(2.5, "search", &requests(), &within(23), 0.99);
        assert!(!few.held);
        insta::assert_snapshot!(
            few.why.unwrap(),
            @"31 of 40 requests kept to every objective, 40 have to"
        );
    }

    #[test]
    fn failed_requests_keep_to_nothing() {
        let mut requests = requests();
        for request in &mut requests.requests[..2] {
            request.error = Some("cut".into());
        }
        let step = Step::of(2.5, "search", &requests, &within(1_000), 0.99);
        assert_eq!((step.kept, step.errors, step.held), (38, 2, false));
        assert_eq!(step.ttft_ms, None);
        insta::assert_snapshot!(
            step.why.unwrap(),
            @"38 of 40 requests kept to every objective, 40 have to; 2 failed"
        );
        let step = Step::of(2.5, "search", &requests, &within(1_000), 0.95);
        assert!(step.held && step.why.is_none());
    }

    #[test]
    fn what_saturates_does_not_hold() {
        let mut requests = requests();
        requests.saturated = Some(true);
        let step = Step::of(2.5, "search", &requests, &within(1_000), 0.99);
        assert!(!step.held);
        assert_eq!(
            step.why.as_deref(),
            Some("requests came faster than they were served")
        );
    }

    #[test]
    fn no_request_holds_nothing() {
        let mut requests = requests();
        requests.requests.clear();
        assert!(!Step::of(2.5, "search", &requests, &within(1_000), 0.99).held);
    }

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

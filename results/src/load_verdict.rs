//! Whether a load holds, judged from the requests of one window at it, by a trial that searches its
//! [capacity](crate::capacity).
//!
//! A load **holds** where at least a share of the requests that were meant to be sent in its window keep to every
//! objective ([`Answer::keeps_to`], which goodput counts, too; a failed request keeps to none), and the requests did not
//! come faster than they were served.

use inferbench_crds::spec::Objectives;

use crate::{
    capacity::Step,
    metrics::Answer,
    record::{RequestTimes, Requests},
};

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
}

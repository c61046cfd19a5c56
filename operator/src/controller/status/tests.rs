//! The status: its contents, that nothing is written twice, and that it stays small.

use std::time::Duration;

use inferbench_crds::{
    contract::Collected,
    ledger::Outcomes,
    limits,
    splitmix::SplitMix64,
    status::{CONDITIONS, CollectedResults, EXPECTATIONS, Expectations, PinnedModel, Summary},
};
use serde_json::{Map, Value, json};

use super::*;
use crate::controller::{
    fixtures::{fresh, sweep},
    plan::{Attempt, Ended, Known, Phase, Problem, RecordedSums, Tally, plan},
};

const SPEC: &str = "
design:
  factors:
    model: [{name: a, source: {random: {preset: gpt2}}}]
    batchSize: [1, 2, 4, 8]
    gpus: [1]
results: {store: {url: 's3://bucket'}}
";

fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-01-01T00:00:00.25Z".parse().expect("a time");
    start + SignedDuration::from_secs(seconds)
}

fn ledger(sweep: &Sweep, outcomes: &[(u32, Outcome)]) -> Outcomes {
    let mut ledger = Outcomes::new(sweep.expansion.len_before_exclusion());
    for &(index, outcome) in outcomes {
        ledger.record(index, outcome).expect("new");
    }
    ledger
}

/// A plan that does nothing, at some state of the ledger.
fn quiet(sweep: &Sweep, ledger: Outcomes) -> Plan {
    let known = Known {
        ledger,
        decided: 0,
        inputs: String::new(),
        not_created: None,
    };
    let mut plan = plan(sweep, &known, &[], &[], at(0));
    plan.actions.clear();
    plan
}

fn said<'a>(status: &'a InferenceBenchmarkStatus, kind: &str) -> (&'a str, &'a str, &'a str) {
    let found = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind);
    let found = found.expect("every condition is there");
    (&found.status, &found.reason, &found.message)
}

#[test]
fn every_condition_is_there_from_the_first_visit() {
    let sweep = fresh(SPEC);
    let status = status(
        &sweep,
        &InferenceBenchmarkStatus::default(),
        &quiet(&sweep, ledger(&sweep, &[])),
        at(0),
    );
    let kinds: Vec<&str> = status
        .conditions
        .iter()
        .map(|condition| condition.type_.as_str())
        .collect();
    assert_eq!(kinds, CONDITIONS);
    assert!(
        status
            .conditions
            .iter()
            .all(|condition| condition.observed_generation == Some(3))
    );
    assert_eq!(said(&status, "Accepted").0, "True");
    assert_eq!(said(&status, "Progressing").1, "Preflight");
    assert_eq!(
        said(&status, "Succeeded"),
        ("Unknown", "Preflight", "The sweep has not ended.")
    );
    assert_eq!(status.plan.expect("pinned").trials, 4);
    let counts = status.counts.expect("counted");
    assert_eq!((counts.done, counts.pending, counts.active), (0, 4, 0));
    assert_eq!(status.ledger, None, "nothing is recorded yet");
}

#[test]
fn nothing_changed_is_nothing_written() {
    let sweep = sweep(SPEC);
    let plan = quiet(&sweep, ledger(&sweep, &[(0, Outcome::Succeeded)]));
    let first = status(&sweep, &InferenceBenchmarkStatus::default(), &plan, at(0));
    // As the API server hands it back, hours later.
    let text = serde_json::to_string(&first).expect("JSON");
    let read: InferenceBenchmarkStatus = serde_json::from_str(&text).expect("a status");
    assert_eq!(read, first);
    assert_eq!(status(&sweep, &read, &plan, at(9_999)), read);
}

#[test]
fn what_is_recorded_is_counted_with_progress() {
    let sweep = sweep(&format!("{SPEC}execution: {{maxFailedPercent: 50}}\n"));
    let mut plan = quiet(
        &sweep,
        ledger(
            &sweep,
            &[
                (0, Outcome::Succeeded),
                (1, Outcome::OutOfMemory),
                (2, Outcome::Failed),
            ],
        ),
    );
    let ended = Ended {
        index: 0,
        outcome: Outcome::Succeeded,
        was: None,
        why: String::new(),
    };
    plan.actions = vec![Action::Record(vec![ended])];
    plan.measured = RecordedSums {
        reused: 1,
        best: Some(1_234.56),
        took: Duration::from_secs(30),
        trials: 3,
        ..RecordedSums::default()
    };
    let status = status(&sweep, &InferenceBenchmarkStatus::default(), &plan, at(0));
    let counts = status.counts.expect("counted");
    assert_eq!(
        (
            counts.done,
            counts.succeeded,
            counts.out_of_memory,
            counts.failed
        ),
        (3, 1, 1, 1)
    );
    assert_eq!((counts.pending, counts.reused), (1, 1));
    let progress = status.progress.clone().expect("there");
    assert_eq!(progress.best, Some(1_235.0));
    assert_eq!(progress.estimated_finish, Some(Time(whole_seconds(at(10)))));
    assert_eq!(status.ledger.as_ref().expect("there").failed, "2");
    // A slower Job moves the estimate, by a part; a lower throughput is no best.
    plan.measured = RecordedSums {
        reused: 0,
        best: Some(7.0),
        took: Duration::from_secs(110),
        trials: 1,
        ..RecordedSums::default()
    };
    let later = super::status(&sweep, &status, &plan, at(0));
    let progress = later.progress.expect("there");
    assert_eq!(progress.best, Some(1_235.0));
    assert_eq!(progress.estimated_finish, Some(Time(whole_seconds(at(29)))));
    assert_eq!(later.counts.expect("counted").reused, 1);
}

#[test]
fn what_a_selection_leaves_out_is_not_waited_for() {
    let selected = SPEC.replace(
        "gpus: [1]\n",
        "gpus: [1]\n  select: {method: Random, combinations: 3}\n",
    );
    for (spec, trials) in [(SPEC, 4), (&selected, 3)] {
        let sweep = sweep(spec);
        let index = sweep.expansion.order().next().expect("a trial");
        let mut plan = quiet(&sweep, ledger(&sweep, &[(index, Outcome::Succeeded)]));
        plan.actions = vec![Action::Record(vec![Ended {
            index,
            outcome: Outcome::Succeeded,
            was: None,
            why: String::new(),
        }])];
        plan.measured = RecordedSums {
            took: Duration::from_secs(30),
            trials: 1,
            ..RecordedSums::default()
        };
        let status = status(&sweep, &InferenceBenchmarkStatus::default(), &plan, at(0));
        assert_eq!(status.plan.expect("pinned").trials, trials);
        assert_eq!(status.counts.expect("counted").pending, trials - 1);
        let finish = status.progress.expect("there").estimated_finish;
        let seconds = 30 * i64::from(trials - 1);
        assert_eq!(finish, Some(Time(whole_seconds(at(seconds)))));
    }
}

#[test]
fn of_what_is_measured_again_no_more_is_expected_than_there_can_be() {
    let spec = SPEC.replace(
        "gpus: [1]\n",
        "gpus: [1]\n  confirm: {replicates: 5, rivals: 0}\n",
    );
    let sweep = sweep(&spec);
    let recorded = |indices: &[u32], outcome| {
        let ended = |&index: &u32| Ended {
            index,
            outcome,
            was: None,
            why: String::new(),
        };
        Action::Record(indices.iter().map(ended).collect())
    };
    let done: Vec<(u32, Outcome)> = (0..3).map(|index| (index, Outcome::Succeeded)).collect();
    let mut plan = quiet(&sweep, ledger(&sweep, &done));
    plan.actions = vec![recorded(&[0, 1, 2], Outcome::Succeeded)];
    plan.measured = RecordedSums {
        took: Duration::from_secs(30),
        trials: 3,
        ..RecordedSums::default()
    };
    let first = status(&sweep, &InferenceBenchmarkStatus::default(), &plan, at(0));
    // One more, and one of four again, five times.
    let finish = |status: &InferenceBenchmarkStatus| {
        status.progress.clone().expect("there").estimated_finish
    };
    assert_eq!(finish(&first), Some(Time(whole_seconds(at(60)))));
    assert_eq!(first.plan.as_ref().expect("pinned").trials, 24);
    assert_eq!(
        said(&first, "Progressing").2,
        "4 trials are planned, and then at most 5 that measure the best again."
    );
    // Of the last one the estimate takes no notice, and of the decision none either: so many were expected.
    let others: Vec<u32> = (1..6)
        .flat_map(|block| (1..4).map(move |of| block * 4 + of))
        .collect();
    let mut outcomes = done;
    outcomes.push((3, Outcome::Succeeded));
    outcomes.extend(others.iter().map(|index| (*index, Outcome::NotNeeded)));
    let mut plan = quiet(&sweep, ledger(&sweep, &outcomes));
    plan.actions = vec![recorded(&others, Outcome::NotNeeded), Action::Decide(1)];
    let decided = status(&sweep, &first, &plan, at(0));
    assert_eq!(finish(&decided), finish(&first));
    assert_eq!(decided.ledger.as_ref().expect("there").decided, 1);
    let counts = decided.counts.expect("counted");
    assert_eq!((counts.not_needed, counts.pending), (15, 5));
}

#[test]
fn a_problem_is_told_until_it_has_gone() {
    let sweep = sweep(SPEC);
    let mut plan = quiet(&sweep, ledger(&sweep, &[]));
    let message = "pod p cannot be scheduled: 0/3 nodes are available";
    plan.problem = Some(Problem::new("Unschedulable", message));
    let stuck = status(&sweep, &InferenceBenchmarkStatus::default(), &plan, at(0));
    assert_eq!(
        said(&stuck, "Progressing"),
        ("False", "Unschedulable", message)
    );
    assert_eq!(said(&stuck, "Succeeded").1, "Unschedulable");
    plan.running = true;
    let partly = status(&sweep, &stuck, &plan, at(10));
    assert_eq!(said(&partly, "Progressing").0, "True");
    assert_eq!(said(&partly, "Succeeded").1, "Measuring");
    plan.problem = None;
    let fine = status(&sweep, &partly, &plan, at(20));
    assert_eq!(said(&fine, "Progressing").1, "Measuring");
    let since =
        |status: &InferenceBenchmarkStatus| status.conditions[1].last_transition_time.clone();
    assert_ne!(since(&stuck), since(&partly), "its value has changed");
    assert_eq!(since(&partly), since(&fine), "its value has not");
}

#[test]
fn what_holds_up_a_preflight_shows_in_the_state_column() {
    let sweep = fresh(SPEC);
    let mut plan = quiet(&sweep, ledger(&sweep, &[]));
    let message = "pod p ended with exit code 73: s3://bucket refuses the credentials";
    for reason in [
        "PreflightFailed",
        "ImagePullFailed",
        "ClaimNotReady",
        "PodCannotStart",
        "Unschedulable",
        "PodNotCreated",
        "NameTaken",
    ] {
        plan.problem = Some(Problem::new(reason, message));
        let status = status(&sweep, &InferenceBenchmarkStatus::default(), &plan, at(0));
        assert_eq!(said(&status, "Progressing"), ("False", reason, message));
        assert_eq!(said(&status, "Succeeded").1, reason);
    }
}

#[test]
fn what_failed_stands_until_another_attempt_has_ended() {
    let sweep = fresh(SPEC);
    let mut plan = quiet(&sweep, ledger(&sweep, &[]));
    let message =
        "pod p ended with exit code 73: 403 (attempt 1, the next at 2026-01-01T00:01:00Z)";
    plan.problem = Some(Problem::new("PreflightFailed", message));
    let failed = status(&sweep, &InferenceBenchmarkStatus::default(), &plan, at(0));
    plan.problem = None;
    plan.retries = true;
    let again = status(&sweep, &failed, &plan, at(60));
    assert_eq!(again, failed);
    // A pod that waits for its image says so, and has no failure to go back to.
    plan.problem = Some(Problem::new("ImagePullFailed", "pod p cannot pull it"));
    let stuck = status(&sweep, &again, &plan, at(61));
    assert_eq!(said(&stuck, "Succeeded").1, "ImagePullFailed");
    plan.problem = None;
    let pulled = status(&sweep, &stuck, &plan, at(62));
    assert_eq!(said(&pulled, "Succeeded").1, "Preflight");
    plan.retries = false;
    let fine = status(&sweep, &failed, &plan, at(60));
    assert_eq!(said(&fine, "Succeeded").1, "Preflight");
}

/// A plan that collects, with `invalid` invalid trials.
fn collects(plan: &Plan, invalid: i32, reason: Option<&str>) -> Plan {
    let collected = Collected {
        summary: Summary {
            invalid,
            invalid_reason: reason.map(str::to_owned),
            ..Summary::default()
        },
        ..Collected::default()
    };
    let mut plan = plan.clone();
    plan.phase = Phase::Finished;
    plan.actions = vec![Action::Collect {
        collected: Box::new(collected),
        inputs: "abc".into(),
    }];
    plan
}

#[test]
fn invalid_trials_are_told_from_the_first_one_on() {
    let sweep = sweep(SPEC);
    let one = ledger(&sweep, &[(0, Outcome::Succeeded)]);
    let mut plan = quiet(&sweep, one);
    let old = InferenceBenchmarkStatus::default();
    let fine = status(&sweep, &old, &plan, at(0));
    assert_eq!(said(&fine, "Valid").0, "Unknown");
    plan.measured.invalid = 1;
    plan.measured.why_invalid = Some("2 other processes used GPU 1".into());
    let first = status(&sweep, &fine, &plan, at(1));
    assert_eq!(first.counts.expect("counted").invalid, 1);
    let message = "Invalid trials: 1; for example, 2 other processes used GPU 1. See docs/operator.md, InvalidTrials.";
    assert_eq!(said(&first, "Valid"), ("False", "InvalidTrials", message));
    // Nothing new is recorded: nothing changes, however often it is looked at.
    plan.measured = RecordedSums::default();
    assert_eq!(status(&sweep, &first, &plan, at(2)), first);
    // The collection knows better than the pods.
    let all: Vec<(u32, Outcome)> = (0..4).map(|index| (index, Outcome::Succeeded)).collect();
    let done = quiet(&sweep, ledger(&sweep, &all));
    let most = "the GPUs could not be watched: no driver";
    let some = status(&sweep, &first, &collects(&done, 3, Some(most)), at(3));
    assert_eq!(some.counts.expect("counted").invalid, 3);
    assert_eq!(
        said(&some, "Valid").2,
        format!("Invalid trials: 3, mostly because {most}. See docs/operator.md.")
    );
    assert_eq!(
        said(&some, "Succeeded"),
        (
            "True",
            "Succeeded",
            "All 4 trials ended; 0 failed, 3 invalid."
        )
    );
    let mut rests = done.clone();
    rests.phase = Phase::Finished;
    assert_eq!(status(&sweep, &some, &rests, at(9)), some);
    let valid = status(&sweep, &first, &collects(&done, 0, None), at(3));
    assert_eq!(
        said(&valid, "Valid"),
        (
            "True",
            "AllValid",
            "All 4 trials that were measured are valid."
        )
    );
}

#[test]
fn a_sweep_without_a_valid_trial_has_not_succeeded() {
    let on_cpu = sweep(&SPEC.replace("gpus: [1]", "gpus: [0]"));
    let all: Vec<(u32, Outcome)> = (0..4).map(|index| (index, Outcome::Succeeded)).collect();
    let plan = quiet(&on_cpu, ledger(&on_cpu, &all));
    let old = InferenceBenchmarkStatus::default();
    let why = "x".repeat(limits::INVALID_REASON as usize);
    let none = status(&on_cpu, &old, &collects(&plan, 4, Some(&why)), at(0));
    let (value, reason, message) = said(&none, "Succeeded");
    assert_eq!((value, reason), ("False", "NoValidResults"));
    assert!(
        message.starts_with("No trial is valid. Invalid trials: 4, mostly because xx")
            && message.ends_with("xx. See docs/operator.md."),
        "{message}"
    );
    let mut measured = plan;
    measured.measured.invalid = 4;
    let measured = status(&on_cpu, &old, &measured, at(0));
    assert_eq!(
        said(&measured, "Valid").2,
        "Invalid trials: 4. Ask for whole CPUs, limits as requests, under a static CPU manager: docs/operator.md."
    );
    let sweep = sweep(SPEC);
    let all: Vec<(u32, Outcome)> = (0..4).map(|index| (index, Outcome::OutOfMemory)).collect();
    let plan = quiet(&sweep, ledger(&sweep, &all));
    let nothing = status(&sweep, &old, &collects(&plan, 0, None), at(0));
    assert_eq!(
        said(&nothing, "Succeeded"),
        (
            "False",
            "NoValidResults",
            "None of 4 trials has a measurement: 4 OutOfMemory."
        )
    );
    // Why not, and what to do, is not what is cut.
    let why = "x".repeat(limits::INVALID_REASON as usize);
    let remedy = "give it more memory (runner.resources.limits.memory), or lower batchSize, concurrency or lengths";
    let because = |why: &str, all: &[(u32, Outcome)]| {
        let mut plan = collects(&quiet(&sweep, ledger(&sweep, all)), 0, None);
        if let Some(Action::Collect { collected, .. }) = plan.actions.first_mut() {
            let why = format!("{why}. What to do: {remedy}");
            collected.summary.unmeasured_reason = Some(why);
        }
        let status = status(&sweep, &old, &plan, at(0));
        said(&status, "Succeeded").2.to_owned()
    };
    let message = because(&why, &all);
    assert!(
        message.starts_with("None of 4 trials has a measurement: 4 OutOfMemory. Mostly: xx")
            && message.ends_with(&format!("... What to do: {remedy}.")),
        "{message}"
    );
    let mut some = all;
    some[0].1 = Outcome::Succeeded;
    let message = because(&why, &some);
    assert!(
        message.starts_with("All 4 trials ended; 0 failed, 3 OutOfMemory. Mostly: xx")
            && message.ends_with(&format!("... What to do: {remedy}.")),
        "{message}"
    );
    assert_eq!(
        because("512 MiB available", &some),
        format!(
            "All 4 trials ended; 0 failed, 3 OutOfMemory. Mostly: 512 MiB available. What to do: {remedy}."
        )
    );
    assert_eq!(said(&nothing, "Valid").0, "Unknown");
}

#[test]
fn suspension_and_the_end_are_told() {
    let mut sweep = sweep(SPEC);
    sweep.spec.suspend = true;
    let old = InferenceBenchmarkStatus::default();
    let paused = status(&sweep, &old, &quiet(&sweep, ledger(&sweep, &[])), at(0));
    assert_eq!(said(&paused, "Suspended").0, "True");
    assert_eq!(said(&paused, "Progressing").1, "Suspended");
    assert_eq!(
        said(&paused, "Succeeded"),
        ("Unknown", "Suspended", "The sweep has not ended.")
    );

    sweep.spec.suspend = false;
    let all: Vec<(u32, Outcome)> = (0..4).map(|index| (index, Outcome::Succeeded)).collect();
    let mut plan = quiet(&sweep, ledger(&sweep, &all));
    assert_eq!(plan.phase, Phase::Collecting);
    let collecting = status(&sweep, &paused, &plan, at(1));
    assert_eq!(said(&collecting, "Succeeded").1, "Collecting");
    assert_eq!(said(&collecting, "ResultsAvailable").0, "False");
    plan.phase = Phase::Finished;
    let collected = Collected {
        results: CollectedResults {
            rows: 4,
            ..CollectedResults::default()
        },
        ..Collected::default()
    };
    plan.actions = vec![Action::Collect {
        collected: Box::new(collected),
        inputs: "abc".into(),
    }];
    let done = status(&sweep, &collecting, &plan, at(2));
    assert_eq!(
        said(&done, "Succeeded"),
        ("True", "Succeeded", "All 4 trials ended; 0 failed.")
    );
    assert_eq!(said(&done, "ResultsAvailable").0, "True");
    assert_eq!(said(&done, "Progressing").1, "Finished");
    let results = done.results.clone().expect("there");
    assert_eq!((results.inputs.as_str(), results.rows), ("abc", 4));
    // New objectives: the old results stay until they are renewed.
    plan.phase = Phase::Collecting;
    plan.actions.clear();
    let again = status(&sweep, &done, &plan, at(3));
    assert_eq!(said(&again, "ResultsAvailable").1, "Outdated");
    assert_eq!(again.results, done.results);
}

#[test]
fn expectations_have_a_condition_where_there_are_any() {
    let expecting = format!("{SPEC}expectations: [{{name: fast, that: \"mean('ttftMs') < 9\"}}]\n");
    let sweep = sweep(&expecting);
    let all: Vec<(u32, Outcome)> = (0..4).map(|index| (index, Outcome::Succeeded)).collect();
    let mut plan = quiet(&sweep, ledger(&sweep, &all));
    let start = status(&sweep, &InferenceBenchmarkStatus::default(), &plan, at(0));
    assert_eq!(
        said(&start, EXPECTATIONS),
        (
            "Unknown",
            "NotCollected",
            "Expectations are judged when the results are collected."
        )
    );
    plan.phase = Phase::Finished;
    let mut judged = |shown, refuted, not_shown, untestable, names: &[&str]| {
        plan.actions = vec![Action::Collect {
            collected: Box::new(Collected {
                summary: Summary {
                    expectations: Some(Expectations {
                        shown,
                        refuted,
                        not_shown,
                        untestable,
                        refuted_names: names.iter().map(ToString::to_string).collect(),
                    }),
                    ..Summary::default()
                },
                ..Collected::default()
            }),
            inputs: "abc".into(),
        }];
        status(&sweep, &start, &plan, at(1))
    };
    for (counts, expected) in [
        (judged(3, 0, 0, 0, &[]), ("True", "AllShown", "3 shown.")),
        (
            judged(3, 2, 1, 0, &["fast"]),
            (
                "False",
                "Refuted",
                "3 shown, 2 refuted, 1 not shown. Refuted: fast, ....",
            ),
        ),
        (
            judged(3, 0, 1, 1, &[]),
            (
                "Unknown",
                "NotShown",
                "3 shown, 1 not shown, 1 cannot be judged.",
            ),
        ),
        (
            judged(3, 0, 0, 1, &[]),
            ("Unknown", "Untestable", "3 shown, 1 cannot be judged."),
        ),
    ] {
        assert_eq!(said(&counts, EXPECTATIONS), expected);
    }
    // While results are made anew, the old judgement does not stand.
    let done = judged(1, 0, 0, 0, &[]);
    plan.actions.clear();
    plan.phase = Phase::Collecting;
    let again = status(&sweep, &done, &plan, at(2));
    assert_eq!(said(&again, EXPECTATIONS).1, "NotCollected");
}

#[test]
fn too_many_failures_are_no_success() {
    let sweep = sweep(SPEC);
    let mut plan = quiet(&sweep, ledger(&sweep, &[(0, Outcome::Failed)]));
    plan.phase = Phase::Finished;
    assert!(plan.over_budget);
    let status = status(&sweep, &InferenceBenchmarkStatus::default(), &plan, at(0));
    assert_eq!(
        said(&status, "Succeeded"),
        (
            "False",
            "TooManyFailures",
            "1 of 4 trials failed, and execution allows 10%."
        )
    );
}

#[test]
fn a_resource_that_breaks_rules_is_told_which() {
    let violation = |path: &str| Violation {
        path: path.into(),
        message: "is wrong".into(),
    };
    let old = InferenceBenchmarkStatus::default();
    let few = rejected(7, &old, &[violation("spec.a"), violation("spec.b")], at(0));
    assert_eq!(
        said(&few, "Accepted"),
        ("False", "Invalid", "spec.a: is wrong; spec.b: is wrong")
    );
    assert_eq!(few.observed_generation, Some(7));
    let many = rejected(7, &few, &vec![violation("spec.a"); 40], at(0));
    let message = said(&many, "Accepted").2;
    assert!(
        message.len() == 256 && message.ends_with("..."),
        "{message}"
    );
}

#[test]
fn when_it_is_tried_again_is_not_what_is_cut() {
    let sweep = fresh(SPEC);
    let mut plan = quiet(&sweep, ledger(&sweep, &[]));
    let told = |plan: &Plan| {
        let status = status(&sweep, &InferenceBenchmarkStatus::default(), plan, at(0));
        said(&status, "Progressing").2.to_owned()
    };
    let message = "they say (attempt 3, the next at 2026-01-01T00:09:00Z)";
    let attempt = Attempt {
        number: 12,
        next: Some(at(60)),
    };
    let problem = Problem {
        attempt: Some(attempt),
        ..Problem::new("CollectionFailed", message)
    };
    plan.problem = Some(problem.clone());
    let behind = " (attempt 12, the next at 2026-01-01T00:01:00Z)";
    assert_eq!(told(&plan), format!("{message}{behind}"));
    // Words of somebody else's that look like it are cut as any others.
    let long = format!("{}{message}", "é".repeat(240));
    plan.problem = Some(Problem {
        message: long.clone(),
        ..problem
    });
    let cut = told(&plan);
    assert_eq!(cut.chars().count(), limits::CONDITION_MESSAGE as usize);
    assert!(cut.ends_with(&format!("é...{behind}")), "{cut}");
    plan.problem = Some(Problem::new("CollectionFailed", long));
    let cut = told(&plan);
    assert_eq!(cut.chars().count(), limits::CONDITION_MESSAGE as usize);
    assert!(cut.ends_with("they say (att..."), "{cut}");
}

/// The API server's record of who wrote which field, as it writes it: lists without keys are one field.
fn managed(value: &Value) -> Value {
    let Value::Object(members) = value else {
        return json!({});
    };
    let mut fields = Map::new();
    for (name, member) in members {
        let field = match member {
            Value::Array(items) if name == "conditions" => {
                let keyed = items.iter().map(|item| {
                    let mut fields = managed(item);
                    fields["."] = json!({});
                    (format!("k:{{\"type\":{}}}", item["type"]), fields)
                });
                Value::Object(keyed.collect())
            }
            other => managed(other),
        };
        fields.insert(format!("f:{name}"), field);
    }
    Value::Object(fields)
}

#[test]
fn the_largest_status_is_small_enough() {
    let levels = |most: u32| (1..=most).collect::<Vec<_>>();
    let spec = format!(
        "
design:
  factors:
    model: [{{name: a, source: {{random: {{preset: gpt2}}}}}}]
    batchSize: {:?}
    inputLength: {:?}
    gpus: [1]
  replicates: 20
results: {{store: {{url: 's3://bucket'}}}}",
        levels(50),
        levels(50)
    );
    let spec = format!("{spec}\nexpectations: [{{name: a, that: 'true'}}]");
    let mut sweep = sweep(&spec);
    assert_eq!(sweep.expansion.len(), 50_000);
    // As many models with as long names as there may be, and the longest reference to an image.
    sweep.plan.models = vec![
        PinnedModel {
            name: "m".repeat(63),
            revision: "r".repeat(64)
        };
        16
    ];
    sweep.plan.image = Some("i".repeat(512));
    let mut rng = SplitMix64::new(1);
    let mut order: Vec<u32> = (0..50_000).collect();
    rng.shuffle(&mut order);
    let mut ledger = Outcomes::new(50_000);
    for &index in &order[..25_000] {
        let outcome = Outcome::ALL[rng.below(5) as usize];
        ledger.record(index, outcome).expect("new");
    }
    let mut plan = quiet(&sweep, ledger);
    plan.problem = Some(Problem::new("CollectionFailed", "x".repeat(9_999)));
    plan.measured = RecordedSums {
        reused: 9,
        best: Some(1.234e100),
        took: Duration::from_secs(9),
        trials: 9,
        ..RecordedSums::default()
    };
    let collected = Collected {
        results: CollectedResults {
            uri: "u".repeat(768),
            sha256: "s".repeat(64),
            rows: 50_000,
            report: "report.html".into(),
            ..CollectedResults::default()
        },
        summary: Summary {
            intervals: "x".repeat(limits::SUMMARY_BYTES - 110),
            ..Summary::default()
        },
        recovered: Vec::new(),
    };
    let ended = Ended {
        index: 0,
        outcome: Outcome::Succeeded,
        was: None,
        why: String::new(),
    };
    plan.actions = vec![
        Action::Record(vec![ended]),
        Action::Collect {
            collected: Box::new(collected),
            inputs: "i".repeat(64),
        },
    ];
    plan.tally = Tally::of(&plan.ledger);
    let status = status(&sweep, &InferenceBenchmarkStatus::default(), &plan, at(0));
    let summary = serde_json::to_vec(&status.summary).expect("JSON").len();
    assert!(
        (limits::SUMMARY_BYTES - 64..=limits::SUMMARY_BYTES).contains(&summary),
        "{summary}"
    );
    let value = serde_json::to_value(&status).expect("JSON");
    let bytes = value.to_string().len();
    let fields = json!({
        "manager": "inferbench-operator", "operation": "Update", "apiVersion": "inferbench.dev/v1alpha1",
        "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "subresource": "status",
        "fieldsV1": {"f:status": managed(&value)},
    });
    let managed = fields.to_string().len();
    assert!(managed <= MANAGED_FIELDS, "{managed}");
    assert!(bytes + managed <= MAX_BYTES, "{bytes} + {managed}");
    // A list that was cut says so.
    let failed = status.ledger.expect("there").failed;
    assert!(failed.ends_with(",...") && failed.len() > 500, "{failed}");
}

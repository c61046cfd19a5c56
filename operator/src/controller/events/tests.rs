//! Which transitions have an event, and that none has two.

use inferbench_crds::{
    Violation,
    contract::{Collected, TrialReport},
    ledger::Outcomes,
    status::{CollectedResults, PinnedModel},
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::*;
use crate::controller::{
    fixtures::{fresh, sweep},
    names::Role,
    observe::{End, JobView, PodPhase, PodView},
    plan::{Attempt, Known, Problem, Tally, plan},
    status::{rejected, status},
};

const SPEC: &str = "
design:
  factors:
    model: [{name: a, source: {random: {preset: gpt2}}}]
    batchSize: [1, 2, 4, 8]
    gpus: [1]
  order: Sequential
results: {store: {url: 's3://bucket'}}
execution: {maxFailedPercent: 25}
";

fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    start + SignedDuration::from_secs(seconds)
}

fn ledger(sweep: &Sweep, failed: u32) -> Outcomes {
    let mut ledger = Outcomes::new(sweep.expansion.len_before_exclusion());
    for index in 0..failed {
        ledger.record(index, Outcome::Failed).expect("new");
    }
    ledger
}

/// Reconciles of a sweep, one after the other, each on the status that the one before has left.
struct Story {
    sweep: Sweep,
    status: InferenceBenchmarkStatus,
}

impl Story {
    fn of(sweep: Sweep) -> Self {
        Self {
            sweep,
            status: InferenceBenchmarkStatus::default(),
        }
    }

    fn reconcile(&mut self, plan: &Plan) -> Vec<Event> {
        let new = status(&self.sweep, &self.status, plan, at(0));
        let events = of_reconcile(&self.sweep, &self.status, &new, plan);
        let again = of_reconcile(
            &self.sweep,
            &new,
            &status(&self.sweep, &new, &unmoved(plan), at(9)),
            &unmoved(plan),
        );
        assert_eq!(again, [], "nothing has changed, there is no event");
        self.status = new;
        events
    }

    /// The plan of a reconcile that knows nothing but a ledger.
    fn plan(&self, ledger: Outcomes) -> Plan {
        let known = Known {
            ledger,
            decided: 0,
            inputs: String::new(),
            not_created: None,
        };
        plan(&self.sweep, &known, &[], &[], at(0))
    }
}

/// The same state of affairs with nothing more to record.
fn unmoved(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    plan.actions.clear();
    plan
}

fn reasons(events: &[Event]) -> Vec<(&str, bool)> {
    events
        .iter()
        .map(|event| (event.reason.as_str(), event.warning))
        .collect()
}

#[test]
fn a_sweep_tells_its_story_once() {
    let mut story = Story::of(fresh(SPEC));
    let mut pinned = story.plan(ledger(&story.sweep, 0));
    let events = story.reconcile(&unmoved(&pinned));
    assert_eq!(reasons(&events), [("Accepted", false)]);
    assert!(
        events[0]
            .note
            .starts_with("4 trials of 4 combinations, by ghcr.io/"),
        "{}",
        events[0].note
    );

    let model = PinnedModel {
        name: "a".into(),
        revision: "gpt2@42".into(),
    };
    pinned.actions = vec![Action::Pin(vec![model])];
    let events = story.reconcile(&pinned);
    assert_eq!(reasons(&events), [("PreflightPassed", false)]);
    assert_eq!(events[0].note, "Models: a@gpt2@42");
    let mut never = pinned.clone();
    never.never = Some("llama and a: llama.cpp reads GGUF files".into());
    never.tally = Tally::of(&{
        let mut ledger = ledger(&story.sweep, 0);
        ledger.record(0, Outcome::Unsupported).expect("new");
        ledger
    });
    let told = preflight(&InferenceBenchmarkStatus::default(), &never).expect("an event");
    assert_eq!(
        told.note,
        "1 trials can never run (llama and a: llama.cpp reads GGUF files). Models: a@gpt2@42"
    );

    story.sweep.plan = story.status.plan.clone().expect("pinned");
    let mut measuring = story.plan(ledger(&story.sweep, 0));
    assert_eq!(
        story.reconcile(&measuring),
        [],
        "its Job is only about to be created"
    );
    measuring.active = 2;
    assert_eq!(
        reasons(&story.reconcile(&measuring)),
        [("MeasuringStarted", false)]
    );

    let mut failed = story.plan(ledger(&story.sweep, 1));
    let ended = Ended {
        index: 0,
        outcome: Outcome::Failed,
        was: None,
        why: "pod p ended with exit code 65".into(),
    };
    failed.actions = vec![Action::Record(vec![ended])];
    let events = story.reconcile(&failed);
    assert_eq!(reasons(&events), [("TrialFailed", true)]);
    assert!(
        events[0].note.contains("Trial 0") && events[0].note.ends_with("exit code 65"),
        "{}",
        events[0].note
    );

    let over = story.plan(ledger(&story.sweep, 2));
    let events = story.reconcile(&over);
    assert_eq!(reasons(&events), [("TooManyFailures", true)]);
    assert!(
        events[0].note.starts_with("2 of 4 trials failed"),
        "{}",
        events[0].note
    );

    let mut done = over.clone();
    done.phase = crate::controller::plan::Phase::Finished;
    let collected = Collected {
        results: CollectedResults {
            uri: "s3://bucket/bench/thesis-0f1e2d3c".into(),
            rows: 4,
            ..CollectedResults::default()
        },
        ..Collected::default()
    };
    done.actions = vec![Action::Collect {
        collected: Box::new(collected),
        inputs: "i".into(),
    }];
    let events = story.reconcile(&done);
    assert_eq!(
        reasons(&events),
        [("ResultsCollected", false), ("Failed", true)]
    );
    assert!(
        events[0]
            .note
            .ends_with("s3://bucket/bench/thesis-0f1e2d3c"),
        "{}",
        events[0].note
    );
}

#[test]
fn invalid_trials_are_told_once() {
    let mut story = Story::of(sweep(SPEC));
    let mut measuring = story.plan(ledger(&story.sweep, 0));
    story.reconcile(&unmoved(&measuring));
    measuring.measured.invalid = 1;
    measuring.measured.why_invalid = Some("the CPU was busy".into());
    let events = story.reconcile(&unmoved(&measuring));
    assert_eq!(reasons(&events), [("InvalidTrials", true)]);
    assert_eq!(
        events[0].note,
        "Invalid trials: 1; for example, the CPU was busy. See docs/operator.md, InvalidTrials. status.counts.invalid \
         counts those that follow."
    );
    let events = story.reconcile(&unmoved(&measuring));
    assert_eq!(reasons(&events), [], "a second one is no news");
}

#[test]
fn what_keeps_it_from_going_on_is_told_when_it_begins_to() {
    let mut story = Story::of(sweep(SPEC));
    let quiet = unmoved(&story.plan(ledger(&story.sweep, 0)));
    story.reconcile(&quiet);
    let with = |reason: &str, message: &str| {
        let mut plan = quiet.clone();
        plan.problem = Some(Problem::new(reason, message));
        plan
    };
    let refused = with("ImagePullFailed", "pod p cannot pull its image");
    let events = story.reconcile(&refused);
    assert_eq!(reasons(&events), [("ImagePullFailed", true)]);
    assert_eq!(
        (events[0].action, events[0].note.as_str()),
        ("StartPod", "pod p cannot pull its image")
    );
    // Another pod with the same trouble is no news; another trouble is.
    assert_eq!(
        story.reconcile(&with("ImagePullFailed", "pod q cannot pull its image")),
        []
    );
    assert_eq!(
        reasons(&story.reconcile(&with("Unschedulable", "no node"))),
        [("Unschedulable", true)]
    );
    // It goes on, and is stuck again.
    assert_eq!(story.reconcile(&quiet), []);
    assert_eq!(
        reasons(&story.reconcile(&with("Unschedulable", "no node"))),
        [("Unschedulable", true)]
    );
}

#[test]
fn a_refused_store_is_told_with_what_the_preflight_said() {
    let mut story = Story::of(fresh(SPEC));
    let job = JobView {
        name: "preflight".into(),
        uid: "u".into(),
        role: Role::Preflight,
        trials: Vec::new(),
        gpus: 0,
        attempt: 1,
        inputs: String::new(),
        created: at(0),
        started: None,
        suspended: false,
        end: Some(End {
            at: at(9),
            complete: false,
            reason: "PodFailurePolicy".into(),
        }),
        deleting: false,
    };
    let report = TrialReport {
        message: Some("s3://bucket: 403 AccessDenied".into()),
        ..TrialReport::default()
    };
    let pod = PodView {
        name: "p".into(),
        job: "u".into(),
        index: None,
        created: at(0),
        scheduled: Some(at(1)),
        deleting: false,
        phase: PodPhase::Failed,
        stuck: None,
        bare: false,
        ran: true,
        exit_code: Some(73),
        reason: "Error".into(),
        report: serde_json::to_string(&report).expect("JSON"),
        disrupted: false,
        note: String::new(),
    };
    let known = Known {
        ledger: ledger(&story.sweep, 0),
        decided: 0,
        inputs: String::new(),
        not_created: None,
    };
    let failed = plan(
        &story.sweep,
        &known,
        std::slice::from_ref(&job),
        std::slice::from_ref(&pod),
        at(10),
    );
    let events = story.reconcile(&failed);
    assert_eq!(
        reasons(&events),
        [("Accepted", false), ("PreflightFailed", true)]
    );
    assert!(
        events[1]
            .note
            .contains("s3://bucket: 403 AccessDenied (attempt 1, "),
        "{}",
        events[1].note
    );
    // Nothing while it is tried again, and one more where that fails, too.
    let mut again = JobView { attempt: 2, ..job };
    let end = again.end.take();
    let under_way = plan(&story.sweep, &known, &[again.clone()], &[], at(40));
    assert_eq!(story.reconcile(&under_way), []);
    again.end = end;
    let failed = plan(&story.sweep, &known, &[again], &[pod], at(50));
    let events = story.reconcile(&failed);
    assert_eq!(reasons(&events), [("PreflightFailed", true)]);
    assert!(
        events[0].note.contains("(attempt 2, "),
        "{}",
        events[0].note
    );
    assert_eq!(story.reconcile(&failed), []);
}

#[test]
fn suspending_and_resuming_are_told() {
    let mut story = Story::of(sweep(SPEC));
    let quiet = unmoved(&story.plan(ledger(&story.sweep, 0)));
    story.reconcile(&quiet);
    story.sweep.spec.suspend = true;
    assert_eq!(reasons(&story.reconcile(&quiet)), [("Suspended", false)]);
    story.sweep.spec.suspend = false;
    assert_eq!(reasons(&story.reconcile(&quiet)), [("Resumed", false)]);
}

#[test]
fn broken_rules_are_told_until_they_are_others() {
    let reject = |old: &InferenceBenchmarkStatus, message: &str| {
        let violation = Violation {
            path: "spec.runner".into(),
            message: message.into(),
        };
        rejected(1, old, &[violation], at(0))
    };
    let old = InferenceBenchmarkStatus::default();
    let new = reject(&old, "is wrong");
    let events = of_rejection(&old, &new);
    assert_eq!(reasons(&events), [("Rejected", true)]);
    assert_eq!(events[0].note, "spec.runner: is wrong");
    assert_eq!(of_rejection(&new, &reject(&new, "is wrong")), []);
    assert_eq!(of_rejection(&new, &reject(&new, "is worse")).len(), 1);
    // Mended, it is accepted.
    let sweep = fresh(SPEC);
    let mut story = Story::of(sweep);
    story.status = new;
    let quiet = unmoved(&story.plan(ledger(&story.sweep, 0)));
    assert_eq!(reasons(&story.reconcile(&quiet)), [("Accepted", false)]);
}

#[test]
fn a_note_is_cut_between_characters() {
    assert_eq!(cut("short", ""), "short");
    for long in ["x".repeat(5_000), "é".repeat(600), "\u{1F600}".repeat(300)] {
        let fits = |note: &str| {
            assert!(
                (NOTE_BYTES - 6..=NOTE_BYTES).contains(&note.len()),
                "{}",
                note.len()
            );
        };
        let note = cut(&long, "");
        fits(&note);
        assert!(note.ends_with("..."));
        // When it is tried again is not what is cut.
        let attempt = Attempt {
            number: 1,
            next: Some(at(60)),
        };
        let problem = Problem {
            attempt: Some(attempt),
            ..Problem::new("CollectionFailed", long)
        };
        let note = problem.said(cut);
        fits(&note);
        assert!(
            note.ends_with("... (attempt 1, the next at 2026-01-01T00:01:00Z)"),
            "{note}"
        );
    }
}

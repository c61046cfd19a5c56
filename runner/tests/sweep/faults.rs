//! Trials whose process dies or hangs: their outcome, and the sweep goes on.

use inferbench_results::record::Outcome;

use crate::place::{Place, SPEC, stderr};

/// Outcome and number of rows of the tables, in the order of the outcomes.
fn outcomes(place: &Place) -> Vec<(Outcome, usize)> {
    let rows = place.rows();
    Outcome::ALL
        .into_iter()
        .map(|outcome| {
            (
                outcome,
                rows.iter()
                    .filter(|row| row.outcome == Some(outcome))
                    .count(),
            )
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[test]
fn a_crash_is_a_failure_that_the_next_run_tries_again() {
    let place = Place::new(SPEC);
    let output = place.run_with_fault("abort@trial:3", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("FAILED: the measuring process was ended by signal 6"));
    assert_eq!(place.documents().len(), 7, "a failure leaves no record");
    assert_eq!(
        outcomes(&place),
        [(Outcome::Succeeded, 7), (Outcome::Failed, 1)]
    );

    // Collected anew, the failure is not forgotten.
    let output = place
        .command(&["collect", "spec.yaml", "--out", "out"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        outcomes(&place),
        [(Outcome::Succeeded, 7), (Outcome::Failed, 1)]
    );

    let output = place.run(&[]);
    assert!(
        stderr(&output).contains("8 trials, 1 measured now, 7 reused"),
        "{}",
        stderr(&output)
    );
    assert_eq!(outcomes(&place), [(Outcome::Succeeded, 8)]);
}

#[test]
fn retries_and_the_budget_are_kept() {
    let place = Place::new(&SPEC.replace(
        "retries: 0, maxFailedPercent: 50",
        "retries: 2, maxFailedPercent: 0",
    ));
    let output = place.run_with_fault("exit:7@trial:0", &[]);
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert_eq!(
        log.matches("exited with 7; to be tried again").count(),
        2,
        "{log}"
    );
    assert!(
        log.contains("1 of 8 trials failed: more than maxFailedPercent 0"),
        "{log}"
    );
    // A trial that cannot get better is not tried again.
    let output = place.run_with_fault("exit:65@trial:0", &[]);
    assert!(
        !stderr(&output).contains("to be tried again"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn on_failure_stop_ends_the_sweep_at_the_first() {
    let place = Place::new(&SPEC.replace("maxFailedPercent: 50", "onFailure: Stop"));
    let output = place.run_with_fault("panic@trial:0", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("a fault was asked for"),
        "{}",
        stderr(&output)
    );
    // Trial 0 is in the first block, so the second one has not begun.
    assert!(place.documents().len() < 4);
}

#[test]
fn a_trial_that_hangs_is_timed_out_by_its_own_watchdog() {
    let place = Place::new(&SPEC.replace("retries: 0", "retries: 0, trialTimeout: 5s"));
    let output = place.run_with_fault("hang@trial:2", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(place.records().iter().any(|record| {
        record.outcome == Outcome::TimedOut
            && record.trial_index == 2
            && record
                .message
                .as_ref()
                .unwrap()
                .contains("trialTimeout of 5.0 s")
    }));
    // A measurement, not an error: nobody measures it again.
    let before = place.documents();
    place.run(&[]);
    assert_eq!(before, place.documents());
}

#[test]
fn want_of_memory_is_an_outcome_and_a_mere_kill_a_failure() {
    let place = Place::new(SPEC);
    let output = place.run_with_fault("oom@trial:1", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        outcomes(&place),
        [(Outcome::Succeeded, 7), (Outcome::OutOfMemory, 1)]
    );
    let record = place
        .records()
        .into_iter()
        .find(|r| r.outcome == Outcome::OutOfMemory)
        .unwrap();
    assert_eq!(
        record.message.as_deref(),
        Some("memory allocation of 8796093022208 bytes failed")
    );
    assert_eq!(record.provenance.node, "test-node");

    let place = Place::new(SPEC);
    let output = place.run_with_fault("kill@trial:1", &[]);
    assert_eq!(
        outcomes(&place),
        [(Outcome::Succeeded, 7), (Outcome::Failed, 1)]
    );
    assert!(
        stderr(&output).contains("ended by signal 9"),
        "{}",
        stderr(&output)
    );
}

//! A design with `until`: combinations that are narrow enough run no further, whenever the sweep was interrupted.

use std::collections::{BTreeMap, BTreeSet};

use inferbench_crds::{file, outcome::Outcome, spec::Design};
use inferbench_results::{
    fixtures, looks::Looks, record::Request, row::Row, sample::latest_attempts,
};
use inferbench_runner::sweep::{prepared::Prepared, run::SweepEnding, tables};

use crate::{
    place::{Place, SPEC, signal, stderr, stdout},
    sessions::{prepared, sessions},
};

/// As wide as a half width may be, so that trials of milliseconds on a busy machine are narrow at last.
fn spec(until: &str) -> String {
    SPEC.replace("inputLength: [4, 8]", "inputLength: [4]")
        .replace(
            "replicates: 2",
            &format!("replicates: 8\n    until: {until}"),
        )
}

const WIDE: &str = "{metric: ttltMs, halfWidth: 100%, confidence: 80, min: 3}";

fn design(place: &Place) -> Design {
    let text = std::fs::read_to_string(place.path().join("spec.yaml")).unwrap();
    let mut found = file::parse(&text, "spec.yaml").unwrap();
    found.remove(0).spec.design
}

/// The table keeps to the design's rule: nothing was measured after the block that was enough, everything else was, and
/// trials that were not needed say so.
fn check(place: &Place) -> usize {
    let (design, rows) = (design(place), place.rows());
    let combinations = design.combinations_before_exclusion();
    let rule = Looks::of(&design).unwrap();
    let latest: Vec<&Row> = latest_attempts(&rows);
    let enough = rule.enough(latest.iter().copied(), combinations);
    for row in &latest {
        let (block, combination) = (
            row.trial_index / combinations,
            row.trial_index % combinations,
        );
        let needed = enough.get(&combination).is_none_or(|last| block <= *last);
        let expected = if needed {
            Outcome::Succeeded
        } else {
            Outcome::NotNeeded
        };
        assert_eq!(row.outcome, Some(expected), "trial {}", row.trial_index);
        assert_eq!(row.trial_key.is_empty(), !needed);
    }
    assert_eq!(latest.len(), 16);
    latest
        .iter()
        .filter(|row| row.outcome == Some(Outcome::NotNeeded))
        .count()
}

#[test]
fn narrow_combinations_run_no_further_and_an_interruption_decides_nothing_else() {
    let place = Place::new(&spec(WIDE));
    let late = inferbench_crds::design::Expansion::new(&design(&place))
        .order()
        .nth(4)
        .unwrap();
    let child = place.start_until_hanging(late, 4);
    let before = place.documents();
    signal(child.id(), libc::SIGINT);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));

    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let log = stderr(&output);
    assert!(
        log.contains(
            "2 combinations × 3 to 8 replicates = at most 16 trials, 4 of them measured before"
        ),
        "{log}"
    );
    let not_needed = check(&place);
    let measured = place.documents();
    assert_eq!(measured.len(), 16 - not_needed);
    assert!(
        before
            .iter()
            .all(|(key, bytes)| measured.get(key) == Some(bytes)),
        "none measured twice"
    );
    if not_needed > 0 {
        assert!(log.contains(&format!("{not_needed} not needed")), "{log}");
        assert!(log.contains("combinations are narrow enough"), "{log}");
    }

    // Once more: nothing is left to do, and nothing is decided otherwise.
    let again = place.run(&[]);
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert!(
        stderr(&again).contains("0 measured now"),
        "{}",
        stderr(&again)
    );
    assert_eq!(place.documents(), measured);
    assert_eq!(check(&place), not_needed);
    // As is a report made of the table, which knows the rule by the summary.
    let report = place
        .command(&["report", "out", "--format", "md"])
        .output()
        .unwrap();
    let said = stdout(&report);
    assert!(!said.contains("a rule that is not known"), "{said}");
}

#[test]
fn records_that_are_there_count_whatever_is_decided() {
    let fixed = spec(WIDE).replace(&format!("\n    until: {WIDE}"), "");
    let place = Place::new(&fixed);
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let before = place.documents();
    assert_eq!(before.len(), 16);
    place.write(&spec(WIDE));
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("16 trials, 0 measured now, 16 reused"),
        "{}",
        stderr(&output)
    );
    assert_eq!(place.documents(), before);
    let outcomes: BTreeSet<_> = place.rows().iter().map(|row| row.outcome).collect();
    assert_eq!(outcomes, BTreeSet::from([Some(Outcome::Succeeded)]));
}

#[test]
fn the_plan_says_the_fewest_and_the_most_trials() {
    let place = Place::untouched(&spec(WIDE));
    let plan = |form: &str| {
        let output = place
            .command(&["plan", "spec.yaml", "--output", form])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let table = plan("table");
    let first = table.lines().next().unwrap();
    assert!(
        first.starts_with(
            "tiny: 2 combinations × 3 to 8 replicates = 6 to 16 trials; 6 to 16 to measure, in 6 to 16 starts of an engine: \
             at least "
        ),
        "{first}"
    );
    assert!(
        first.contains(" where every combination is narrow enough at the first look, "),
        "{first}"
    );
    let json: serde_json::Value = serde_json::from_str(&plan("json")).unwrap();
    let numbers: BTreeMap<&str, &serde_json::Value> = ["leastTrials", "trials", "leastToMeasure"]
        .into_iter()
        .map(|name| (name, &json[name]))
        .collect();
    assert_eq!(numbers["leastTrials"], 6);
    assert_eq!(numbers["trials"], 16);
    assert_eq!(numbers["leastToMeasure"], 6);
}

#[test]
fn a_rule_that_is_none_is_refused_by_its_fields() {
    let place = Place::untouched(&spec(
        "{metric: outputThrougput, halfWidth: 3, confidence: 100, min: 1}",
    ));
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!("until_violations", stderr(&output));
}

/// Three combinations in 3 to 8 blocks.
fn three() -> Prepared {
    let spec = SPEC
        .replace("batchSize: [1, 2]", "batchSize: [1, 2, 4]")
        .replace("inputLength: [4, 8]", "inputLength: [4]")
        .replace(
            "replicates: 2",
            "replicates: 8\n    until: {metric: outputThroughput, halfWidth: 5%}",
        );
    prepared(&spec)
}

/// The trials that each session has begun, where the second trial of batch 2 may fail in a session. Batch 1 takes the same
/// time in every block, batch 2 another one in the first, and batch 4 is wild.
fn begun(sweep: &Prepared, cuts: &[usize], fails: &dyn Fn(usize) -> bool) -> Vec<Vec<u32>> {
    let make = |session: usize, request: &Request, index: u32| {
        let (batch, block) = (request.combination.batch_size, request.replicate);
        if fails(session) && (batch, block) == (2, 1) {
            return None;
        }
        let mut like = request.clone();
        like.replicate = match batch {
            1 => 0,
            2 => u32::from(block == 0),
            _ => 20 * (block % 2),
        };
        Some(fixtures::measured(like, index))
    };
    let mut decided: BTreeMap<u32, u32> = BTreeMap::new();
    let looks = Looks::of(&sweep.spec.design).unwrap();
    sessions(sweep, cuts, &make, |run, ending, begun, store| {
        for index in begun {
            assert!(
                !decided.contains_key(&(index % 3)),
                "trial {index} was decided against"
            );
        }
        let enough = looks.enough(run.ledger().latest(), 3);
        let kept = |(combination, _): (&u32, &u32)| enough.contains_key(combination);
        assert!(decided.iter().all(kept), "{decided:?}, and then {enough:?}");
        decided = enough;
        if ending == SweepEnding::Interrupted {
            return;
        }
        // Complete: what was not measured was not needed, and the tables say so.
        let rows = tables::make(store, sweep, &BTreeMap::new()).unwrap().rows;
        let not_needed = rows
            .iter()
            .filter(|row| row.outcome == Some(Outcome::NotNeeded))
            .count();
        assert_eq!(not_needed, run.not_needed());
        // A failed trial is done where it was not needed.
        assert!(run.finished() + run.failures().len() >= 24);
    })
}

#[test]
fn wherever_a_sweep_is_interrupted_the_same_is_decided() {
    let sweep = three();
    let whole = begun(&sweep, &[usize::MAX], &|_| false).remove(0);
    let of = |batch: u32| whole.iter().filter(|index| *index % 3 == batch).count();
    assert_eq!((of(0), of(2)), (3, 8));
    assert!((4..8).contains(&of(1)), "{}", of(1));
    for cut in 0..=whole.len() {
        let begun = begun(&sweep, &[cut, usize::MAX], &|_| false);
        assert_eq!(begun.concat(), whole, "after {cut}");
    }
}

#[test]
fn a_failure_that_is_tried_again_changes_no_decision() {
    let sweep = three();
    for cut in [2, 5, 9, 14, usize::MAX] {
        let begun = begun(&sweep, &[cut, usize::MAX], &|session| session == 0);
        let all = begun.concat();
        // Batch 1 is enough with three, whatever becomes of the others.
        assert_eq!(all.iter().filter(|index| *index % 3 == 0).count(), 3);
        let twice = all.iter().filter(|index| **index == 4).count();
        assert!((1..=2).contains(&twice), "{twice}");
    }
}

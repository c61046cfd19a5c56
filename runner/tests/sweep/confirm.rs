//! A design with `confirm`: what is best after all replicates is measured again, whenever the sweep was interrupted.

use std::collections::{BTreeMap, BTreeSet};

use inferbench_crds::{file, outcome::Outcome, validate::Scope};
use inferbench_results::{
    confirm::Confirming,
    fixtures,
    record::Request,
    row::Row,
    summary::{Criterion, Summary},
};
use inferbench_runner::sweep::{
    prepared::Prepared, run::SweepEnding, stored::write_failures, tables,
};

use crate::{
    place::{Place, SPEC, signal, stderr, stdout},
    sessions::{prepared, sessions},
};

/// Four combinations in two replicates, and the best of each of two workloads and of their mix twice again.
fn spec() -> String {
    SPEC.replace(
        "replicates: 2",
        "replicates: 2\n    confirm: {replicates: 2, rivals: 0}",
    )
}

/// The tables hold to the design: of each workload the best was measured again, and nothing that is not the
/// best of anything.
fn check(place: &Place) -> usize {
    let text = std::fs::read_to_string(place.path().join("spec.yaml")).unwrap();
    let design = file::parse(&text, "spec.yaml")
        .unwrap()
        .remove(0)
        .spec
        .design;
    let rows = place.rows();
    assert_eq!(rows.len(), 16);
    let confirming = Confirming::of(&design).unwrap();
    let chosen = confirming.chosen(&rows, &Default::default());
    let mut again = 0;
    for row in &rows {
        let is_again = row.trial_index >= 8;
        assert_eq!(row.confirming, is_again.then_some(true));
        let needed = !is_again || chosen.contains(&(row.trial_index % 4));
        let expected = if needed {
            Outcome::Succeeded
        } else {
            Outcome::NotNeeded
        };
        assert_eq!(row.outcome, Some(expected), "trial {}", row.trial_index);
        again += usize::from(is_again && needed);
    }
    assert_eq!(again, 2 * chosen.len());
    again
}

#[test]
fn the_best_is_measured_again_and_an_interruption_chooses_nothing_else() {
    let place = Place::new(&spec());
    // Killed while a trial of the second replicate hangs.
    let text = std::fs::read_to_string(place.path().join("spec.yaml")).unwrap();
    let resource = file::load(&text, "spec.yaml", Scope::Local)
        .unwrap()
        .remove(0);
    let expansion = inferbench_crds::design::Expansion::new(&resource.spec.design);
    let late = expansion.order().nth(5).unwrap();
    let child = place.start_until_hanging(late, 5);
    let before = place.documents();
    signal(child.id(), libc::SIGINT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let said = stderr(&output);
    // At most two of two workloads by themselves, and as many for the mix: all four.
    assert!(
        said.contains("interrupted: 5 of 16 trials are done"),
        "{said}"
    );

    let output = place.run(&[]);
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(
        log.contains(
            "4 combinations × 2 replicates = 8 trials, and then the best again: at most 4 × 2, 5 of them measured before"
        ),
        "{log}"
    );
    assert!(
        log.contains("after 2 replicates, the best of 4 combinations are measured again: "),
        "{log}"
    );
    let again = check(&place);
    let measured = place.documents();
    assert_eq!(measured.len(), 8 + again);
    assert!(
        before
            .iter()
            .all(|(key, bytes)| measured.get(key) == Some(bytes))
    );
    let summary = std::fs::read(place.out().join("summary.json")).unwrap();
    let summary: Summary = serde_json::from_slice(&summary).unwrap();
    let decides = |best: &&inferbench_results::summary::Best| {
        best.criterion == Criterion::HighestOutputThroughput
    };
    // On a busy machine trials may be invalid, and then nothing is the best.
    let rows = place.rows();
    if rows.iter().all(|row| row.valid != Some(false)) {
        for best in summary.best.iter().filter(decides) {
            let found = best.confirmation.as_ref().expect("a sweep that confirms");
            assert_eq!(found.replicates, 2, "{best:?}");
            assert!(found.output_throughput.is_some());
        }
        let said = stdout(&output);
        assert!(said.contains(" in 2 fresh replicates"), "{said}");
        let report = std::fs::read_to_string(place.out().join("report.html")).unwrap();
        assert!(report.contains("measured again"), "no column");
    }

    // Once more: nothing is left to do, and nothing is chosen otherwise.
    let again = place.run(&[]);
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert!(
        stderr(&again).contains("0 measured now"),
        "{}",
        stderr(&again)
    );
    assert_eq!(place.documents(), measured);
    check(&place);
    // More replicates adopt no trial that measured something again.
    place.write(&spec().replace("replicates: 2\n", "replicates: 3\n"));
    let more = place.run(&[]);
    assert_eq!(more.status.code(), Some(0), "{}", stderr(&more));
    let rows = place.rows();
    let third: BTreeSet<&str> = rows
        .iter()
        .filter(|row| row.replicate == 2)
        .map(|row| row.trial_key.as_str())
        .collect();
    assert_eq!(third.len(), 4);
    assert!(third.iter().all(|key| !measured.contains_key(*key)));
}

#[test]
fn the_plan_says_how_many_trials_measure_the_best_again() {
    let place = Place::untouched(&spec());
    let plan = |arguments: &[&str]| {
        let arguments = [&["plan", "spec.yaml"], arguments].concat();
        let output = place.command(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let said = plan(&["--seconds-per-trial", "10"]);
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].starts_with("tiny: 4 combinations × 2 replicates = 8 trials; 8 to measure"),
        "{said}"
    );
    assert_eq!(
        lines[1],
        "then the best is measured again, in 2 fresh replicates: at most 4 combinations, 8 trials more"
    );
    let again = lines
        .iter()
        .find(|line| line.contains("the best again, at most"));
    assert!(
        again.is_some_and(|line| line.contains("1 min 20 s")),
        "{said}"
    );
    let json: serde_json::Value = serde_json::from_str(&plan(&["--output", "json"])).unwrap();
    assert_eq!(json["trials"], 8);
    assert_eq!(json["confirming"]["trials"], 8);
}

/// Six choices of one workload, twice, and the best and one rival twice again.
fn six() -> Prepared {
    let spec = SPEC
        .replace("batchSize: [1, 2]", "batchSize: [1, 2, 4, 8, 16, 32]")
        .replace("inputLength: [4, 8]", "inputLength: [4]")
        .replace(
            "replicates: 2",
            "replicates: 2\n    confirm: {replicates: 2, rivals: 1}",
        );
    prepared(&spec)
}

/// The trials that each session has begun, where one of a session may fail; and the rows at the end.
fn begun_and_rows(
    sweep: &Prepared,
    cuts: &[usize],
    fails: &dyn Fn(usize) -> Option<u32>,
) -> (Vec<Vec<u32>>, Vec<Row>) {
    let make = |session: usize, request: &Request, index: u32| {
        (fails(session) != Some(index)).then(|| fixtures::measured(request.clone(), index))
    };
    let mut rows = Vec::new();
    let begun = sessions(sweep, cuts, &make, |run, ending, _, store| {
        let (done, total) = run.progress();
        assert!(done <= total && total <= 16, "{done} of {total}");
        if ending == SweepEnding::Interrupted {
            return;
        }
        assert_eq!(total, 16);
        let failures = run.failures();
        write_failures(store, &failures).unwrap();
        let outcomes: BTreeMap<u32, Outcome> = tables::of_failures(sweep, &failures);
        rows = tables::make(store, sweep, &outcomes).unwrap().rows;
        let not_needed = rows
            .iter()
            .filter(|row| row.outcome == Some(Outcome::NotNeeded))
            .count();
        assert_eq!((not_needed, run.not_needed()), (8, 8));
    });
    (begun, rows)
}

#[test]
fn wherever_a_sweep_is_interrupted_the_same_is_measured_again() {
    let sweep = six();
    let (whole, _) = begun_and_rows(&sweep, &[usize::MAX], &|_| None);
    let whole = whole.concat();
    assert_eq!(whole.len(), 12 + 4);
    // The largest batches have the highest throughput.
    let again: BTreeSet<u32> = whole[12..].iter().map(|index| index % 6).collect();
    assert_eq!(again, BTreeSet::from([4, 5]));
    for cut in 0..=whole.len() {
        let (begun, _) = begun_and_rows(&sweep, &[cut, usize::MAX], &|_| None);
        assert_eq!(begun.concat(), whole, "after {cut}");
    }
}

#[test]
fn what_had_failed_before_is_not_tried_again_once_the_best_is_measured_again() {
    let sweep = six();
    // The first trial of batch 32.
    let best = sweep
        .expansion
        .order()
        .find(|index| index % 6 == 5)
        .unwrap();
    for (cut, tried) in [(12, 2), (13, 1), (usize::MAX, 1)] {
        let fails = |session: usize| (session == 0).then_some(best);
        let (begun, rows) = begun_and_rows(&sweep, &[cut, usize::MAX, usize::MAX], &fails);
        let all = begun.concat();
        let times = all.iter().filter(|index| **index == best).count();
        assert_eq!(times, tried, "after {cut}: {begun:?}");
        let again: BTreeSet<u32> = all
            .iter()
            .filter(|index| **index >= 12)
            .map(|index| index % 6)
            .collect();
        assert_eq!(again.len(), 2, "{again:?}");
        let failed: Vec<u32> = rows
            .iter()
            .filter(|row| row.outcome == Some(Outcome::Failed))
            .map(|row| row.trial_index)
            .collect();
        let expected = if tried == 1 { vec![best] } else { Vec::new() };
        assert_eq!(failed, expected);
        assert!(begun[2].is_empty(), "{begun:?}");
    }
}

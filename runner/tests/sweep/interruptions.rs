//! Sweeps that are stopped at any moment go on with the same command and measure nothing twice.

use std::fs;

use crate::place::{Place, SPEC, children_of, runs, signal, stderr, wait_for};

/// In which order the trials run is the seed's to say; this one is late in the second block.
fn a_late_trial(place: &Place) -> u32 {
    let text = fs::read_to_string(place.path().join("spec.yaml")).unwrap();
    let resource = inferbench_crds::file::parse(&text, "spec.yaml")
        .unwrap()
        .remove(0);
    let expansion = inferbench_crds::design::Expansion::new(&resource.spec.design);
    expansion.order().nth(6).unwrap()
}

#[test]
fn ctrl_c_says_how_to_go_on() {
    let place = Place::new(SPEC);
    let child = place.start_until_hanging(a_late_trial(&place), 6);
    let before = place.documents();
    signal(child.id(), libc::SIGINT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let log = stderr(&output);
    assert!(
        log.contains("interrupted: 6 of 8 trials are done and stored"),
        "{log}"
    );
    assert!(log.contains("inferbench run spec.yaml --out out"), "{log}");
    assert_eq!(before, place.documents());

    let output = place.run(&[]);
    assert!(
        stderr(&output).contains("8 trials, 2 measured now, 6 reused"),
        "{}",
        stderr(&output)
    );
    let after = place.documents();
    assert!(
        before
            .iter()
            .all(|(key, bytes)| after.get(key) == Some(bytes))
    );
}

#[test]
fn sigterm_is_no_different() {
    let place = Place::new(SPEC);
    let child = place.start_until_hanging(a_late_trial(&place), 6);
    signal(child.id(), libc::SIGTERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
}

#[test]
fn a_killed_sweep_takes_its_trial_with_it_and_goes_on() {
    let place = Place::new(SPEC);
    let mut child = place.start_until_hanging(a_late_trial(&place), 6);
    wait_for("the seventh trial's process", || {
        !children_of(child.id()).is_empty()
    });
    let measuring = children_of(child.id());
    let before = place.documents();
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the trial's process to end", || {
        !measuring.iter().any(|pid| runs(*pid))
    });
    assert_eq!(before, place.documents());

    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("8 trials, 2 measured now, 6 reused"),
        "{}",
        stderr(&output)
    );
    let after = place.documents();
    assert_eq!(after.len(), 8, "one record per trial");
    assert!(
        before
            .iter()
            .all(|(key, bytes)| after.get(key) == Some(bytes)),
        "none measured twice"
    );
    assert_eq!(place.rows().len(), 8);
}

#[test]
fn a_second_sweep_into_the_same_folder_is_refused() {
    let place = Place::new(SPEC);
    let child = place.start_until_hanging(a_late_trial(&place), 1);
    let second = place.run(&[]);
    assert_eq!(second.status.code(), Some(1));
    assert!(
        stderr(&second).contains("another inferbench is running a sweep"),
        "{}",
        stderr(&second)
    );
    signal(child.id(), libc::SIGINT);
    child.wait_with_output().unwrap();
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let place = Place::untouched(SPEC);
    fs::create_dir(place.out()).unwrap();
    fs::write(place.out().join("thesis.tex"), "precious").unwrap();
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("sweep.json is missing"),
        "{}",
        stderr(&output)
    );
    let left: Vec<_> = fs::read_dir(place.out()).unwrap().collect();
    assert_eq!(left.len(), 1);
}

//! Expectations of sweeps: judged at the end of a run, and at any time.

use std::fs;

use inferbench_results::{
    analysis::{
        Analysis,
        expectations::{Judgement, Verdict},
    },
    fixtures::study::Study,
    tables::write_csv,
};

use crate::place::{Place, SPEC, stderr, stdout};

const EXPECTED: &str = "  expectations:
  - {name: it takes time, that: \"best('ttltMs') >= 0 || mean('ttltMs') > 0\", reference: everything does}
  - {name: GPUs help, that: \"effect('gpus', 'ttltMs') < 1\"}
  execution:";

#[test]
fn a_run_judges_what_its_spec_expects() {
    let place = Place::new(&SPEC.replace("  execution:", EXPECTED));
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(
        said.contains("it takes time") && said.contains("cannot be judged"),
        "{said}"
    );
    let analysis = fs::read(place.out().join("analysis.json")).unwrap();
    let analysis: Analysis = serde_json::from_slice(&analysis).unwrap();
    assert_eq!(analysis.expectations.len(), 2);
    assert_eq!(analysis.expectations[0].reference, "everything does");
    assert_eq!(analysis.expectations[1].verdict, Verdict::Untestable);
    let page = fs::read_to_string(place.out().join("report.html")).unwrap();
    assert!(page.contains("What was expected") && page.contains("GPUs help"));
    // The same expectations, from what the collection has left; and the same page.
    let output = place
        .command(&["judge", "out", "-o", "json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    let again: Vec<Judgement> = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(again, analysis.expectations);
    let output = place.command(&["report", "out"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let again = fs::read_to_string(place.out().join("report/report.html")).unwrap();
    assert_eq!(again, page);
}

#[test]
fn a_bad_expectation_measures_nothing() {
    let place = Place::untouched(&SPEC.replace(
        "  execution:",
        "  expectations: [{name: a, that: \"mean('ttft') > 1\"}]\n  execution:",
    ));
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output)
            .contains("spec.expectations[0].that: at character 6: \"ttft\" is no metric"),
        "{}",
        stderr(&output)
    );
    assert!(!place.out().exists());
}

#[test]
fn the_exit_code_says_what_came_of_it() {
    let place = Place::untouched(SPEC);
    let study = Study {
        batch_sizes: vec![1, 2, 4, 8, 16],
        input_lengths: vec![16, 256],
        output_lengths: vec![16, 256],
        ..Study::default()
    };
    fs::write(
        place.path().join("trials.csv"),
        write_csv(&study.rows()).unwrap(),
    )
    .unwrap();
    let judge = |expected: &[(&str, &str)], arguments: &[&str]| {
        let list: String = expected
            .iter()
            .map(|(name, that)| format!("- {{name: {name}, that: \"{that}\"}}\n"))
            .collect();
        fs::write(
            place.path().join("expected.yaml"),
            format!("expectations:\n{list}"),
        )
        .unwrap();
        let mut command = vec!["judge", "trials.csv", "--expect", "expected.yaml"];
        command.extend(arguments);
        place.command(&command).output().unwrap()
    };
    let holds = ("holds", "effect('batchSize', 'outputThroughput') > 1");
    let fails = ("fails", "effect('batchSize', 'outputThroughput') < 1");
    let lacks = ("lacks", "mean('perplexity') < 9");
    for (expected, code) in [
        (vec![holds], 0),
        (vec![holds, fails, lacks], 4),
        (vec![holds, lacks], 5),
    ] {
        let output = judge(&expected, &[]);
        assert_eq!(output.status.code(), Some(code), "{}", stdout(&output));
    }
    let output = judge(&[holds, fails, lacks], &[]);
    insta::assert_snapshot!(stdout(&output));
    // The fault of a file is named at its place.
    let output = judge(&[("bad", "mean('perplexity')")], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).starts_with("expected.yaml:2:"),
        "{}",
        stderr(&output)
    );
    // A table made elsewhere has none of its own.
    let output = place.command(&["judge", "trials.csv"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--expect"), "{}", stderr(&output));
}

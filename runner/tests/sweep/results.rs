//! The records and tables of a sweep, and that it measures nothing twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use inferbench_results::record::Outcome;
use inferbench_runner::sweep::stored::SweepFile;
use serde_json::Value;

use crate::place::{Place, SPEC, stderr, stdout};

#[test]
fn a_sweep_leaves_a_record_per_trial_and_tables_and_measures_nothing_twice() {
    let place = Place::new(SPEC);
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for file in [
        "trials.csv",
        "trials.parquet",
        "iterations.parquet",
        "telemetry.parquet",
        "design.json",
        "summary.json",
        "manifest.json",
        "sweep.json",
    ] {
        assert!(place.out().join(file).is_file(), "{file} is missing");
    }
    let (table, log) = (stdout(&output), stderr(&output));
    assert!(
        table.contains("TTFT ms")
            && (table.contains("highest throughput") || table.contains("of invalid trials alone")),
        "{table}"
    );
    assert!(log.contains("8 trials, 8 measured now"), "{log}");
    assert_eq!(
        log.lines().filter(|line| line.starts_with('[')).count(),
        8,
        "{log}"
    );

    let records = place.records();
    assert_eq!((records.len(), place.rows().len()), (8, 8));
    for record in &records {
        assert_eq!(record.outcome, Outcome::Succeeded);
        let asked = &record.request.combination;
        let ran = record.effective.as_ref().unwrap();
        assert_eq!(
            (ran.batch_size, ran.input_len),
            (asked.batch_size, asked.input_length)
        );
        assert!(record.iterations.len() >= 2);
        assert!(
            record
                .iterations
                .iter()
                .flat_map(|iteration| &iteration.sequences)
                .all(|times| times.token_ms.len() == 3)
        );
        // At least one, and for a millisecond: a quiet machine does two in that time.
        assert!(record.warmup.as_ref().unwrap().iterations >= 1);
        assert_eq!(
            (ran.prompts.as_str(), ran.engine_mode.as_str()),
            ("ids", "eager")
        );
        assert_eq!(record.request.model_revision, "tiny-gpt2@42");
        let roofline = record.roofline.as_ref().unwrap();
        assert!(roofline.decode_fraction.unwrap() > 0.0 && roofline.fits_cache);
        let cpu = &record.telemetry.cpu;
        assert!(cpu.rss_peak_mib.unwrap() > 1.0 && cpu.cpu_time_s.is_some());
        assert_eq!(cpu.concurrent_trials, Some(0));
        let harness = record.harness.as_ref().unwrap();
        assert!(harness.timed_s <= harness.window_s && harness.ready_s.is_some());
    }
    let seeds: BTreeSet<u64> = records
        .iter()
        .map(|record| record.effective.as_ref().unwrap().prompt_seed)
        .collect();
    assert_eq!(seeds.len(), 8, "every trial has prompts of its own");
    let processes: BTreeSet<&str> = records
        .iter()
        .map(|record| record.process_id.as_str())
        .collect();
    assert_eq!(processes.len(), 8, "every trial has a process of its own");

    let before = place.documents();
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        stderr(&output).contains("8 trials, 0 measured now, 8 reused"),
        "{}",
        stderr(&output)
    );
    assert_eq!(before, place.documents());
}

#[test]
fn a_spec_that_gains_a_level_measures_only_what_is_new() {
    let place = Place::new(SPEC);
    assert_eq!(place.run(&[]).status.code(), Some(0));
    let before = place.documents();
    place.write(&SPEC.replace("inputLength: [4, 8]", "inputLength: [4, 6, 8]"));
    let output = place.run(&[]);
    assert!(
        stderr(&output).contains("12 trials, 4 measured now, 8 reused"),
        "{}",
        stderr(&output)
    );
    let after = place.documents();
    assert!(
        before
            .iter()
            .all(|(key, bytes)| after.get(key) == Some(bytes))
    );
    assert_eq!(after.len(), 12);
    // Trials are numbered by the design as it is now.
    let numbers: BTreeSet<u32> = place.rows().iter().map(|row| row.trial_index).collect();
    assert_eq!(numbers, (0..12).collect());
}

#[test]
fn a_damaged_record_is_never_read_and_its_trial_is_measured_again() {
    let place = Place::new(SPEC);
    assert_eq!(place.run(&[]).status.code(), Some(0));
    let (key, whole) = place.documents().into_iter().next().unwrap();
    let path = place.out().join("trials").join(format!("{key}.json"));
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();

    let output = place.run(&[]);
    let log = stderr(&output);
    assert!(log.contains("8 trials, 1 measured now, 7 reused"), "{log}");
    assert!(
        log.contains(&format!("trials/{key}.json is no record")),
        "{log}"
    );
    assert_eq!(place.records().len(), 8);
    let aside = path.with_file_name(format!("{key}.json.corrupt-0"));
    assert_eq!(fs::read(aside).unwrap(), &whole[..whole.len() / 2]);
}

#[test]
fn records_of_version_1_are_not_measured_again() {
    let place = Place::new(SPEC);
    assert_eq!(place.run(&[]).status.code(), Some(0));
    let table = fs::read(place.out().join("trials.csv")).unwrap();
    for (key, document) in place.documents() {
        let mut record: Value = serde_json::from_slice(&document).unwrap();
        record["schemaVersion"] = "inferbench.dev/trial/v1".into();
        for iteration in record["iterations"].as_array_mut().unwrap() {
            let iteration = iteration.as_object_mut().unwrap();
            let mut sequences = iteration.remove("sequences").unwrap();
            iteration.insert("tokenMs".into(), sequences[0]["tokenMs"].take());
        }
        let path = place.out().join("trials").join(format!("{key}.json"));
        fs::write(path, serde_json::to_vec(&record).unwrap()).unwrap();
    }
    let before = place.documents();

    let log = stderr(&place.run(&[]));
    assert!(log.contains("8 trials, 0 measured now, 8 reused"), "{log}");
    assert_eq!(place.documents(), before);
    assert_eq!(fs::read(place.out().join("trials.csv")).unwrap(), table);
}

/// The sweep that `results/tests/fixtures/version1` has the records and the table of, as an older program wrote them.
const OLD_SPEC: &str = "
apiVersion: inferbench.dev/v1alpha1
kind: InferenceBenchmark
metadata: {name: version1}
spec:
  design:
    factors:
      model: [{name: tiny, source: {random: {preset: tiny-gpt2}}}]
      batchSize: [3]
      inputLength: [4, 100000]
      outputLength: [3]
      gpus: [0]
  measurement:
    warmupIterations: 1
    warmupDuration: 1ms
    iterations: 2
    minDuration: 5ms
    remeasureInvalid: 0
  execution: {retries: 0, maxFailedPercent: 100}
";

/// By trial's key: the cells of a table by their columns.
fn cells(table: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let split = |line: &str| -> Vec<String> {
        let mut quoted = false;
        let separates = |c: char| {
            quoted ^= c == '"';
            c == ',' && !quoted
        };
        line.split(separates).map(str::to_owned).collect()
    };
    let mut lines = table.lines();
    let columns = split(lines.next().unwrap());
    let rows = lines.map(|line| columns.iter().cloned().zip(split(line)).collect());
    rows.map(|row: BTreeMap<_, _>| (row["trial_key"].clone(), row))
        .collect()
}

#[test]
fn a_sweep_of_an_older_program_is_resumed_and_its_table_stays_as_it_was() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/tests/fixtures/version1");
    let stored = cells(&fs::read_to_string(fixtures.join("trials.csv")).unwrap());
    let place = Place::new(OLD_SPEC);
    fs::create_dir(place.out().join("trials")).unwrap();
    for key in stored.keys() {
        let name = format!("{key}.json");
        fs::copy(fixtures.join(&name), place.out().join("trials").join(&name)).unwrap();
    }
    let before = place.documents();
    assert_eq!(before.len(), 2);

    let log = stderr(&place.run(&[]));
    assert!(log.contains("2 trials, 0 measured now, 2 reused"), "{log}");
    assert_eq!(place.documents(), before);
    let table = cells(&fs::read_to_string(place.out().join("trials.csv")).unwrap());
    assert_eq!(table.len(), stored.len());
    for (key, row) in &stored {
        for (column, cell) in row {
            assert_eq!(table[key].get(column), Some(cell), "{column} of {key}");
        }
    }

    // Where it had been interrupted, what is missing is measured, and nothing else.
    fs::remove_file(
        place
            .out()
            .join("trials")
            .join(format!("{}.json", stored.keys().last().unwrap())),
    )
    .unwrap();
    let log = stderr(&place.run(&[]));
    assert!(log.contains("2 trials, 1 measured now, 1 reused"), "{log}");
    let after = place.documents();
    assert_eq!(
        after.keys().collect::<Vec<_>>(),
        before.keys().collect::<Vec<_>>()
    );
}

#[test]
fn what_cannot_run_is_an_outcome_with_its_reason() {
    let place = Place::new(&SPEC.replace("inputLength: [4, 8]", "inputLength: [4, 100000]"));
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("4 trials are Unsupported: 100000 input"),
        "{}",
        stderr(&output)
    );
    let records = place.records();
    let unsupported: Vec<_> = records
        .iter()
        .filter(|record| record.outcome == Outcome::Unsupported)
        .collect();
    assert_eq!((records.len(), unsupported.len()), (8, 4));
    assert!(
        unsupported
            .iter()
            .all(|record| record.message.as_ref().unwrap().contains("context"))
    );
}

#[test]
fn in_process_the_trials_share_a_process_and_say_so() {
    let place = Place::new(SPEC);
    let output = place.run(&["--in-process"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let records = place.records();
    assert_eq!(records.len(), 8);
    let processes: BTreeSet<&str> = records
        .iter()
        .map(|record| record.process_id.as_str())
        .collect();
    assert_eq!(processes.len(), 1);
    // Fresh processes are another measurement: the records do not stand in for each other.
    let output = place.run(&[]);
    assert!(
        stderr(&output).contains("8 trials, 8 measured now"),
        "{}",
        stderr(&output)
    );
    assert_eq!(place.records().len(), 16);
}

#[test]
fn the_trials_of_a_pod_share_a_process_within_their_group() {
    let spec = SPEC
        .replace("remeasureInvalid: 0", "isolation: Pod")
        .replace("retries: 0", "retries: 0, trialsPerJob: 2");
    let place =
        Place::new(&spec.replace("isolation: Pod", "isolation: Pod\n    remeasureInvalid: 0"));
    assert_eq!(place.run(&[]).status.code(), Some(0));
    let records = place.records();
    let processes: BTreeSet<&str> = records
        .iter()
        .map(|record| record.process_id.as_str())
        .collect();
    assert_eq!((records.len(), processes.len()), (8, 4));
}

#[test]
fn ceilings_that_a_trial_exceeds_are_measured_again() {
    let place = Place::new(SPEC);
    // As something else might have left them.
    let path = place.out().join("sweep.json");
    let mut file: SweepFile = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let known = &mut file.ceilings[0].ceilings;
    (
        known.bandwidth.bytes_per_second,
        known.bandwidth.cache_bytes,
    ) = (1e3, None);
    let matrix = known.matrix.flops_per_second;
    fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();

    let output = place.run(&[]);
    let said = stderr(&output);
    assert!(
        said.contains("above the ceilings, so measured again"),
        "{said}"
    );
    for record in place.records() {
        let roofline = record.roofline.unwrap();
        assert!(roofline.bandwidth_bytes_per_s > 1e6, "{roofline:?}");
        assert!(roofline.matrix_flops_per_s >= matrix, "{roofline:?}");
        assert_eq!(roofline.above_ceiling(), [false; 2], "{roofline:?}");
    }
    let file: SweepFile = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(file.ceilings.len(), 1);
    assert!(file.ceilings[0].ceilings.bandwidth.bytes_per_second > 1e6);
}

#[test]
fn an_invalid_trial_is_measured_again_and_every_attempt_is_kept() {
    // Nobody can sample a window of 5 ms less than twice, but a neighbour makes any trial invalid.
    let spec = SPEC
        .replace("remeasureInvalid: 0", "remeasureInvalid: 2")
        .replace("[1, 2]", "[1]");
    let place = Place::new(&spec.replace("[4, 8]", "[4]"));
    let neighbours = place.path().join("tmp/inferbench-running");
    fs::create_dir_all(&neighbours).unwrap();
    let neighbour = fs::File::create(neighbours.join("neighbour")).unwrap();
    neighbour.lock().unwrap();

    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("2 INVALID"), "{}", stderr(&output));
    let records = place.records();
    let attempts: Vec<u32> = records.iter().map(|record| record.attempt).collect();
    assert_eq!(records.len(), 6);
    assert_eq!(
        (0..3)
            .map(|n| attempts.iter().filter(|a| **a == n).count())
            .max(),
        Some(2)
    );
    for record in &records {
        assert!(
            record
                .invalid_reasons
                .iter()
                .any(|r| r.contains("1 other trials")),
            "{record:?}"
        );
    }
    // There is no fourth attempt, whoever asks.
    place.run(&[]);
    assert_eq!(place.records().len(), 6);
}

#[test]
fn a_report_of_a_stored_sweep_goes_by_its_design() {
    let select = "select: {method: Random, combinations: 3, model: MainEffects}\n    replicates: 3";
    let place = Place::new(&SPEC.replace("replicates: 2", select));
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let stored = fs::read(place.out().join("analysis.json")).unwrap();
    let stored: Value = serde_json::from_slice(&stored).unwrap();
    let sweep = place.out().display().to_string();
    let output = place
        .command(&["report", &sweep, "--format", "json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let again: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(stored["selected"].is_object(), "{}", stored["selected"]);
    assert_eq!(again["selected"], stored["selected"]);
}

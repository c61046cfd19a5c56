//! Factors that the user names, from the spec to the process that measures, the record and the tables.

use std::collections::BTreeSet;

use inferbench_crds::factor::{Factor, Level, Levels};

use crate::place::{Place, SPEC, stderr};

/// Two engines that are both candle; only one of them takes the parameter.
fn spec(levels: &str) -> String {
    let factors = format!(
        "      engine: [{{name: plain, candle: {{}}}}, {{name: threaded, candle: {{}}}}]
      parameters: [{{name: threads, levels: [{levels}], engines: [threaded], env: RAYON_NUM_THREADS}}]
      gpus: [0]"
    );
    SPEC.replace("      gpus: [0]", &factors)
        .replace("[4, 8]", "[4]")
        .replace("replicates: 2", "replicates: 1")
}

#[test]
fn a_parameter_reaches_the_process_and_the_record() {
    let place = Place::new(&spec("1, 2"));
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let threads = Factor::named("threads");
    let records = place.records();
    // Batch sizes 1 and 2, once for the engine that does not take it, twice for the other one.
    assert_eq!(records.len(), 2 + 4);
    let available = std::thread::available_parallelism().unwrap().get() as u32;
    let mut processes = BTreeSet::new();
    for record in &records {
        let combination = &record.request.combination;
        let levels = Levels::of(combination);
        let expected = match levels.get(&threads) {
            Some(Level::Number(number)) => available.min(number.get() as u32),
            Some(other) => panic!("{other}"),
            None => available,
        };
        assert_eq!(
            levels.get(&threads).is_some(),
            combination.engine.name == "threaded"
        );
        assert_eq!(record.effective.as_ref().unwrap().threads, expected);
        assert!(
            processes.insert(record.process_id.clone()),
            "a process was shared"
        );
    }

    // A level more measures only what is new.
    place.write(&spec("1, 2, 3"));
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("8 trials, 2 measured now"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn parameters_need_processes_of_their_own() {
    let place = Place::new(&spec("1"));
    let output = place.run(&["--in-process"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "inferbench: spec.yaml: spec.design.factors.parameters[0]: threads sets RAYON_NUM_THREADS in a trial's process, but \
         with --in-process trials have none of their own; leave out --in-process\n"
    );
}

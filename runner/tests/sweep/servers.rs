//! Sweeps over a real server: llama.cpp's own, which scripts/install-test-tools brings.

use inferbench_results::record::{Outcome, TrialRecord};

use super::{
    llama::{Llama, Sweep},
    place::{Place, stderr},
};

/// A spec with these factors beside the model, for candle and llama.cpp.
fn spec(llama: &Llama, factors: &str, more: &str) -> String {
    llama.spec(&Sweep {
        engines: "- {name: candle, candle: {}}",
        server: "keepLog: true",
        factors,
        execution: "trialsPerJob: 8",
        more,
    })
}

fn of_engine<'a>(records: &'a [TrialRecord], name: &str) -> Vec<&'a TrialRecord> {
    let records = records.iter();
    records
        .filter(|record| record.request.combination.engine.name == name)
        .collect()
}

#[test]
fn loads_and_flags_of_llama_cpp_are_factors() {
    let Some(llama) = Llama::find() else { return };
    let spec = spec(
        &llama,
        "concurrency: [1, 2]
      parameters: [{name: ubatch, levels: [16, 32], flag: --ubatch-size, engines: [llama]}]",
        "objectives: {maxE2e: 60s}",
    );
    let place = Place::new(&spec);
    let output = place.run(&[]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let records = place.records();
    // Two loads of candle, which takes batches alone; two flags by two loads of the server.
    assert_eq!(records.len(), 6, "{said}");
    for record in of_engine(&records, "candle") {
        assert_eq!(record.outcome, Outcome::Unsupported);
        let why = record.message.as_deref().unwrap_or_default();
        assert!(
            why.starts_with("concurrency is a load of servers and endpoints"),
            "{why}"
        );
    }
    let measured = of_engine(&records, "llama");
    for record in &measured {
        assert_eq!(record.outcome, Outcome::Succeeded, "{:?}", record.message);
        let requests = record.requests.as_ref().expect("requests");
        assert!(requests.requests.len() >= 3 && requests.counting == "timings");
        let streams = record.request.combination.concurrency;
        assert_eq!(requests.max_in_flight, streams);
        for request in &requests.requests {
            assert_eq!(
                (request.token_ms.len(), request.input_tokens),
                (8, Some(12)),
                "{request:?}"
            );
            assert_eq!(request.error, None);
        }
        let effective = record.effective.as_ref().expect("what ran");
        // The file's own data type, whatever the design has.
        assert_eq!(
            (&*effective.dtype, &*effective.engine),
            ("q4_1", "llama.cpp")
        );
        assert_eq!(effective.configuration["total_slots"], "2");
        assert!(effective.configuration["command"].contains("--ubatch-size"));
        assert!(record.client.is_some() && record.iterations.is_empty());
        assert!(
            record.telemetry.cpu.cpu_time_s > Some(0.0),
            "its CPU time is the server's"
        );
        assert!(
            place
                .out()
                .join(format!("logs/{}.log", record.trial_key))
                .is_file()
        );
    }
    // One start for the loads of a flag, another for the other flag.
    let started = measured.iter().filter(|record| {
        let effective = record.effective.as_ref();
        effective.is_some_and(|effective| effective.engine_start_s.is_some())
    });
    assert_eq!(started.count(), 2);
    let mut processes: Vec<&str> = measured.iter().map(|record| &*record.process_id).collect();
    processes.sort_unstable();
    processes.dedup();
    assert_eq!(processes.len(), 2);

    // A second run measures nothing again.
    let again = place.run(&[]);
    assert!(stderr(&again).contains("6 reused"), "{}", stderr(&again));
}

#[test]
fn candle_and_llama_cpp_stand_side_by_side_on_the_same_weights() {
    let Some(llama) = Llama::find() else { return };
    let place = Place::new(&spec(&llama, "batchSize: [1, 2]", ""));
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let records = place.records();
    assert_eq!(records.len(), 4);
    for record in &records {
        assert_eq!(record.outcome, Outcome::Succeeded, "{:?}", record.message);
        assert!(record.iterations.len() >= 3);
        let batch = record.request.combination.batch_size;
        for iteration in &record.iterations {
            let sequences: u32 = iteration.sequences.iter().map(|times| times.count).sum();
            assert_eq!(sequences, batch);
        }
    }
    for record in of_engine(&records, "llama") {
        // Batches are watched as any load is, and their tokens counted as the server declares them.
        let server = record.server.as_ref().expect("its own metrics");
        assert_eq!(
            (server.prefix_hit_pct, server.restarted),
            (Some(0.0), false)
        );
        let effective = record.effective.as_ref().expect("what ran");
        assert_eq!(effective.configuration["tokenCounting"], "timings");
        assert!(record.roofline.is_some() && record.roofline_missing.is_none());
    }
    let revisions: Vec<&str> = records
        .iter()
        .map(|record| &*record.request.model_revision)
        .collect();
    assert!(revisions.windows(2).all(|pair| pair[0] == pair[1]));
}

/// Its heads are wider than llama.cpp takes for a model of that kind.
#[test]
fn a_model_that_llama_cpp_cannot_read_is_unsupported_in_its_own_words() {
    let Some(llama) = Llama::find() else { return };
    let spec = llama.spec(&Sweep::default());
    let spec = spec.replace(
        &format!("path: {:?}", llama.model),
        "random: {preset: tiny-qwen2}",
    );
    let place = Place::new(&spec);
    let said = stderr(&place.run(&[]));
    let records = place.records();
    let [record] = &records[..] else {
        panic!("{said}")
    };
    assert_eq!(record.outcome, Outcome::Unsupported, "{said}");
    let why = record.message.as_deref().unwrap_or_default();
    let line =
        "error loading model: check_tensor_dims: tensor 'blk.0.attn_q.weight' has wrong shape";
    assert!(
        why.starts_with("llama: ") && why.contains(line) && why.lines().count() == 1,
        "{why}"
    );
}

#[test]
fn what_prompts_share_is_found_in_the_prefix_cache() {
    let Some(llama) = Llama::find() else { return };
    let spec = spec(&llama, "concurrency: [1]\n      prefixShare: [0, 75]", "")
        .replace("inputLength: [12]", "inputLength: [64]")
        // Enough for the requests at the window's borders, which are counted on one side alone, to weigh little.
        .replace("iterations: 3,", "iterations: 24,");
    let place = Place::new(&spec);
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let records = place.records();
    let measured = of_engine(&records, "llama");
    assert_eq!(measured.len(), 2);
    for record in measured {
        let share = record.request.combination.prefix_share.expect("a share");
        let server = record.server.as_ref().expect("its own metrics");
        let hit = server.prefix_hit_pct.expect("a share of hits");
        // A token may be alike by chance.
        assert!(
            (hit - f64::from(share)).abs() < 10.0,
            "{hit} % of tokens were found where {share} % are shared"
        );
        let why = record.roofline_missing.as_deref().unwrap_or_default();
        assert!(why.starts_with("requests come one by one"), "{why}");
    }
}

#[test]
fn a_server_that_cannot_start_fails_with_what_it_said() {
    let Some(llama) = Llama::find() else { return };
    let spec = spec(
        &llama,
        "batchSize: [1]
      parameters: [{name: frob, levels: [1], flag: --frob, engines: [llama]}]",
        "",
    );
    let place = Place::new(&spec);
    let output = place.run(&[]);
    let said = stderr(&output);
    assert!(
        said.contains("FAILED: the process of llama exited with 2")
            && said.contains("unrecognized arguments: --frob"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1), "half of two trials failed");
}

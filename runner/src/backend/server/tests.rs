use inferbench_crds::spec::Engine;
use inferbench_engine::{Parallel, threads::Threads};

use super::*;
use crate::{
    load::{
        Arrivals, LoadEnding,
        timed::{self, Timed},
        window::Bounds,
    },
    models::WeightsAt,
};

const THREADS: Threads = Threads {
    count: 1,
    available: 1,
    denormals_flushed: true,
};

fn combination(engine: Value) -> Combination {
    let engine: Engine = serde_json::from_value(engine).unwrap();
    Combination {
        engine,
        batch_size: 3,
        input_length: u32::try_from(timed::PROMPT).unwrap(),
        output_length: 4,
        ..Combination::default()
    }
}

fn start(combination: &Combination) -> Result<Box<dyn Backend>, BackendError> {
    start_with(combination, &Access::default())
}

fn start_with(
    combination: &Combination,
    access: &Access,
) -> Result<Box<dyn Backend>, BackendError> {
    let weights = WeightsAt::Random {
        preset: "tiny-gpt2".into(),
        seed: 1,
    };
    let setup = Setup {
        weights: &weights,
        dtype: combination.dtype,
        gpus: 0,
        parallel: Parallel::ONE,
        room: Room::of(combination),
        combination,
        vocab: 256,
        gpu_uuids: &[],
        memory: None,
        log: None,
        threads: &THREADS,
        access,
    };
    crate::backend::start(&setup)
}

/// The timed server as an endpoint, which answers in this script.
fn endpoint(server: &Timed, script: &str) -> Combination {
    combination(json!({ "name": "timed", "endpoint": {
        "url": format!("http://{}", server.address), "preset": "vllm", "model": script,
    } }))
}

fn failure(result: Result<Box<dyn Backend>, BackendError>) -> BackendError {
    match result {
        Err(error) => error,
        Ok(_) => panic!("it has started"),
    }
}

/// A server that is a shell with this script.
fn shell(script: &str) -> Result<Box<dyn Backend>, BackendError> {
    start(&combination(json!({ "name": "shell", "server": {
        "preset": "openai", "command": ["sh", "-c", script], "startupTimeout": "300ms",
        "interface": { "prompt": "ids" },
    } })))
}

#[test]
fn a_batch_is_asked_of_an_endpoint_with_times_of_each_sequence() {
    let timed = Timed::start().unwrap();
    let combination = endpoint(&timed, "steady");
    let mut engine = start(&combination).unwrap();
    engine.begin(&combination, Instant::now() + Duration::from_secs(60));
    let prompts = vec![vec![1; 7]; 3];
    let served = engine
        .serve(&Batch {
            prompts: &prompts,
            output: 4,
        })
        .unwrap();
    assert_eq!(served.sequences.len(), 3);
    for times in &served.sequences {
        assert_eq!((times.count, times.token_ends.len()), (1, 4));
        assert!(times.token_ends[0] >= timed::FIRST && times.token_ends.is_sorted());
    }
    assert!(served.lag.is_some() && served.ids.is_none());
    let description = engine.description();
    assert_eq!(
        (&*description.engine, &*description.mode),
        ("vLLM", "endpoint")
    );
    // The place that requests went to is named, and secret parts of a URL are not.
    assert_eq!(
        description.configuration["url"],
        format!("http://{}", timed.address)
    );
}

#[test]
fn a_closed_loop_is_driven_and_told_of_its_stages() {
    let timed = Timed::start().unwrap();
    let combination = endpoint(&timed, "steady");
    let mut engine = start(&combination).unwrap();
    engine.begin(&combination, Instant::now() + Duration::from_secs(60));
    let mut stages = Vec::new();
    let run = engine
        .drive(Drive {
            load: load::RequestLoad {
                arrivals: Arrivals::Closed { streams: 3 },
                bounds: Bounds {
                    warmup_requests: 3,
                    warmup: Duration::ZERO,
                    iterations: 12,
                    min_duration: Duration::ZERO,
                    tokens_each: 4,
                },
                limit: Duration::from_secs(10),
                max_failures: 3,
            },
            prompts: &|number| Ok(vec![u32::try_from(number % 200).unwrap(); 7]),
            stage: &mut |stage| {
                stages.push(stage);
                false
            },
        })
        .unwrap();
    assert_eq!(run.ending, LoadEnding::Complete);
    assert!(
        run.exchanges
            .iter()
            .all(|exchange| exchange.error.is_none())
    );
    stages.dedup();
    assert_eq!(stages.last(), Some(&Stage::Closed));
    assert!(stages.contains(&Stage::InWindow) && stages.is_sorted());
    // Every request had a prompt of its own.
    assert!(run.exchanges.len() >= 15);
}

#[test]
fn an_endpoint_that_refuses_is_named_with_its_answer() {
    let timed = Timed::start().unwrap();
    for (script, wanted) in [("refused", "503"), ("error", "error")] {
        match failure(start(&endpoint(&timed, script))) {
            BackendError::Failed { message, .. } => {
                assert!(
                    message.starts_with("timed: ") && message.contains(wanted),
                    "{message}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_end_of_a_server_that_starts_is_told_by_what_it_said() {
    let said = |script: &str| failure(shell(script)).to_string();
    assert_eq!(
        said("echo 'no such option: --frob' >&2; exit 2"),
        "the process of shell exited with 2; it said: no such option: --frob"
    );
    let memory = failure(shell(
        "echo 'torch.OutOfMemoryError: CUDA out of memory. Tried' >&2; exit 1",
    ));
    assert_eq!(
        memory,
        BackendError::OutOfMemory(
            "shell: torch.OutOfMemoryError: CUDA out of memory. Tried".into()
        )
    );
    let other = failure(shell(
        "echo \"Model architectures ['X'] are not supported for now\" >&2; exit 1",
    ));
    assert_eq!(
        other,
        BackendError::Unsupported(
            "shell: Model architectures ['X'] are not supported for now".into()
        )
    );
    let late = said("echo loading; sleep 60");
    assert!(
        late.starts_with("shell: not ready within startupTimeout 0 s: ")
            && late.ends_with("it said last: loading"),
        "{late}"
    );
}

#[test]
fn a_program_that_is_not_there_is_a_failure_for_good() {
    let missing = start(&combination(json!({ "name": "none", "server": {
        "preset": "openai", "command": ["no-such-program-at-all"],
    } })));
    match failure(missing) {
        BackendError::Failed { message, permanent } => {
            assert!(
                permanent && message.starts_with("none: no-such-program-at-all cannot be started"),
                "{message}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_body_has_what_the_server_knows_and_the_prompt_as_ids() {
    let mut combination = combination(json!({ "name": "v", "server": { "preset": "vllm" } }));
    combination.output_length = 9;
    let interface = combination.engine.interface().unwrap();
    let made = body("model", &interface, None, &combination, &[3, 1, 2]).unwrap();
    let made: Value = serde_json::from_slice(&made).unwrap();
    assert_eq!(
        made,
        json!({
            "model": "model", "prompt": [3, 1, 2], "max_tokens": 9, "temperature": 0, "stream": true,
            "ignore_eos": true, "min_tokens": 9, "return_token_ids": true,
            "stream_options": { "include_usage": true, "continuous_usage_stats": true },
        })
    );
    let text = Interface {
        prompt: Prompt::Text,
        ..interface
    };
    assert!(matches!(
        body("model", &text, None, &combination, &[3]),
        Err(BackendError::Unsupported(_))
    ));
}

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use inferbench_engine::ceilings::{bandwidth::Bandwidth, matrix::Matrix};
use inferbench_results::fixtures;

use super::*;
use crate::{
    backend::{Batch, fake},
    machine::{activity::Counters, processes::Processes},
    trial::protocol::{StoreAt, TrialRequest},
};

#[test]
fn mean_times_follow_their_definitions() {
    let iteration = |times: &[f64]| Iteration::of_batch(0, 2, times.to_vec());
    let mut timed = Timed {
        warmup: None,
        iterations: vec![
            iteration(&[10.0, 14.0, 20.0]),
            iteration(&[20.0, 22.0, 24.0]),
        ],
        window: (0, 1),
        timed: Duration::ZERO,
        first_timed: 0,
        asked: None,
        capacity: None,
    };
    let (ttft, tpot) = mean_times(&timed);
    assert!((ttft - 0.015).abs() < 1e-12 && (tpot.unwrap() - 0.0035).abs() < 1e-12);
    timed.iterations = vec![iteration(&[10.0])];
    assert_eq!(mean_times(&timed), (0.010, None));
}

/// A trial of 2 sequences and 4 tokens each, judged by made-up ceilings.
fn ask() -> Measure {
    let mut request = fixtures::request();
    request.measurement.warmup_iterations = 1;
    request.measurement.warmup_ms = 0;
    request.measurement.iterations = 3;
    request.measurement.min_duration_ms = 300;
    Measure {
        trial: TrialRequest {
            sweep: "fake".into(),
            trial_index: 0,
            run_order: 0,
            attempt: 0,
            remeasure_invalid: 0,
            request,
            store: StoreAt {
                target: String::new(),
                endpoint: None,
                region: None,
            },
            timeout_ms: 60_000,
            neighbours_allowed: true,
            room: None,
        },
        weights: Some(crate::models::WeightsAt::Random {
            preset: "tiny-gpt2".into(),
            seed: 42,
        }),
        ceilings: Some(Ceilings {
            bandwidth: Bandwidth {
                bytes_per_second: 1e12,
                kernel: "1 thread".into(),
                repeats: 3,
                buffer_bytes: 1 << 20,
                cache_bytes: None,
            },
            matrix: Matrix {
                flops_per_second: 1e13,
                product: "2x2x2".into(),
                repeats: 3,
                dtype: "f32".into(),
            },
            disturbed: Vec::new(),
        }),
    }
}

const THREADS: Threads = Threads {
    count: 1,
    available: 1,
    denormals_flushed: true,
};

fn run(starter: Starter) -> Result<TrialRecord, NoRecord> {
    let clock = Clock::start(Duration::from_secs(60));
    Session::with_engines(THREADS, starter).run(&ask(), &clock, &|| false)
}

#[test]
fn an_engine_in_another_process_is_measured_as_its_own() {
    // More than the engine holds: not the engine's.
    let held = std::hint::black_box(vec![1_u8; 256 << 20]);
    let record = run(fake::start).unwrap();
    drop(held);
    assert_eq!(record.outcome, Outcome::Succeeded);
    let effective = record.effective.as_ref().unwrap();
    assert_eq!(
        (
            effective.engine.as_str(),
            record.provenance.engine_version.as_str()
        ),
        (fake::ENGINE, "sh")
    );
    // Each sequence has its own times, and the batch is as late as the last.
    assert!(record.iterations.len() >= 3);
    for iteration in &record.iterations {
        let [first, second] = &iteration.sequences[..] else {
            panic!("{iteration:?}")
        };
        assert!((first.count, second.count) == (1, 1) && first.token_ms[0] < second.token_ms[0]);
        assert_eq!(iteration.ttlt_ms(), second.token_ms.last().copied());
    }
    let timed_s = record.harness.as_ref().unwrap().timed_s;
    let cpu = &record.telemetry.cpu;
    // It works all the time, in processes that have ended; on a busy machine with a part of a CPU.
    assert!(cpu.cpu_time_s.unwrap() > 0.1 * timed_s, "{cpu:?}");
    let peak = cpu.rss_peak_mib.unwrap();
    assert!((fake::HELD_MIB..256.0).contains(&peak), "{peak}");
    let during = |sample: &&inferbench_results::record::Sample| {
        sample.phase == inferbench_results::record::Phase::During
    };
    let memory = record.telemetry.samples.iter().filter(during);
    assert!(memory.clone().count() > 0);
    assert!(
        memory
            .clone()
            .all(|s| s.mem_mib.is_some_and(|mib| mib < 256.0))
    );
    // It cannot show logits, and nothing is made of that.
    assert_eq!(record.quality, None);
    let document = record.write().unwrap();
    assert_eq!(
        TrialRecord::read(&record.trial_key, &document).unwrap(),
        record
    );
}

#[test]
fn what_the_engine_computes_is_not_foreign() {
    let ask = ask();
    let subject = Subject::of(&ask).unwrap();
    let host = Host {
        threads: &THREADS,
        gpu_uuids: &[],
        memory: None,
        access: &Access::default(),
    };
    let mut engine = fake::start(&subject.setup(backend::Room::default(), &host)).unwrap();
    let machine = Machine::look();
    let cgroup = Cgroup::of_this_process();
    let (own, none) = (engine.processes(), Processes::below([]));
    let read = || [&own, &none].map(|processes| Counters::read(processes, &cgroup, &machine.cpus));
    let before = read();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(600) {
        let prompts = [vec![1], vec![1]];
        engine
            .serve(&Batch {
                prompts: &prompts,
                output: 4,
            })
            .unwrap();
    }
    let after = read();
    let [with, without] = [0, 1].map(|at| before[at].until(&after[at]));
    assert_eq!(without.cpu_time_s, 0.0);
    let share = 100.0 * with.cpu_time_s / (with.wall_s * machine.cpus.len() as f64);
    let (with, without) = (with.foreign_pct.unwrap(), without.foreign_pct.unwrap());
    assert!(
        without >= with + 0.5 * share && share > 1.0,
        "{without} {with} {share}"
    );
}

#[test]
fn the_death_of_an_engine_is_a_failure_that_says_why() {
    match run(fake::start_to_exit).unwrap_err() {
        NoRecord::Failed { message, permanent } => {
            let wanted =
                "the process of fake exited with 3; it said: the fake engine was told to die";
            assert_eq!((message.as_str(), permanent), (wanted, false));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_engine_that_is_killed_for_memory_is_out_of_memory() {
    let record = run(fake::start_to_be_killed).unwrap();
    assert_eq!(record.outcome, Outcome::OutOfMemory);
    let message = record.message.as_deref().unwrap();
    assert!(
        message.starts_with("killed for want of memory when it used "),
        "{message}"
    );
    assert!(record.iterations.is_empty());
}

#[test]
fn the_trial_after_a_death_has_an_engine_of_its_own() {
    static STARTS: AtomicU32 = AtomicU32::new(0);
    fn starter(setup: &backend::Setup<'_>) -> Result<Box<dyn backend::Backend>, BackendError> {
        match STARTS.fetch_add(1, Ordering::Relaxed) {
            0 => fake::start_to_exit(setup),
            _ => fake::start(setup),
        }
    }
    let mut session = Session::with_engines(THREADS, starter);
    let mut run = || session.run(&ask(), &Clock::start(Duration::from_secs(60)), &|| false);
    assert!(matches!(run(), Err(NoRecord::Failed { .. })));
    assert_eq!(run().unwrap().outcome, Outcome::Succeeded);
    // A third one shares the second's.
    assert_eq!(run().unwrap().outcome, Outcome::Succeeded);
    assert_eq!(STARTS.load(Ordering::Relaxed), 2);
}

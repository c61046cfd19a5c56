//! The costs: counts and hours by hand, from given durations and from earlier sweeps.

use inferbench_crds::{factor::Number, spec::Isolation};
use inferbench_results::fixtures;
use proptest::prelude::*;

use super::*;

/// An attempt that took this long in all, of it a part to load the model.
fn took(batch: u32, gpus: u32, process: &str, at_ms: i64, total_s: f64, load_s: f64) -> Took {
    let mut request = fixtures::request();
    request.combination.batch_size = batch;
    request.combination.gpus = gpus;
    Took {
        combination: request.combination,
        measurement: request.measurement,
        process: process.into(),
        started_ms: at_ms,
        is_first: true,
        total_s,
        load_s,
        start_s: None,
    }
}

fn work(batch: u32, gpus: u32, trials: u32, starts: u32) -> Work {
    let like = took(batch, gpus, "", 0, 0.0, 0.0);
    Work {
        combination: like.combination,
        measurement: like.measurement,
        trials,
        starts,
    }
}

fn earlier(took: &[Took]) -> Durations {
    Durations::Earlier(Box::new(Earlier::of("out", took, 0).unwrap()))
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-9 * b.abs().max(1.0), "{a} is not {b}");
}

#[test]
fn without_durations_there_are_counts_and_no_hours() {
    let all = [work(1, 1, 3, 3), work(2, 4, 3, 1)];
    let cost = Durations::Unknown.cost(all.iter(), Some(2.5));
    assert_eq!((cost.trials, cost.starts), (6, 4));
    assert_eq!((cost.hours, cost.gpu_hours, cost.cost), (None, None, None));
}

#[test]
fn given_durations_are_counted_on_every_gpu_and_priced() {
    let all = [work(1, 1, 3, 3), work(2, 4, 3, 1)];
    let given = Durations::Given {
        trial_s: 100.0,
        start_s: 60.0,
    };
    let cost = given.cost(all.iter(), Some(2.0));
    close(cost.hours.unwrap(), (600.0 + 240.0) / 3600.0);
    // 3 × 100 + 3 × 60 on one, 3 × 100 + 60 on four.
    close(cost.gpu_hours.unwrap(), (480.0 + 4.0 * 360.0) / 3600.0);
    close(cost.cost.unwrap(), 2.0 * 1_920.0 / 3600.0);
    assert_eq!(given.cost(all.iter(), None).cost, None);
}

#[test]
fn an_earlier_sweep_parts_trials_from_starts() {
    // Two processes; the second trial of the first one finds the model loaded, and says how long that took, too.
    let took = [
        took(1, 1, "a", 0, 30.0, 20.0),
        took(1, 1, "a", 40_000, 12.0, 20.0),
        took(2, 1, "b", 60_000, 40.0, 26.0),
    ];
    let known = earlier(&took);
    let cost = known.cost([work(1, 1, 2, 1)].iter(), None);
    // 2 × (10 + 12)/2 + (20 + 26)/2.
    close(cost.hours.unwrap() * 3600.0, 45.0);
    assert_eq!(
        known.trial_s(&work(2, 1, 1, 1).combination),
        Some((14.0, Some(Kin::Same)))
    );
    let Durations::Earlier(earlier) = known else {
        unreachable!()
    };
    assert_eq!((earlier.trials(), earlier.starts()), (3, 2));
}

#[test]
fn what_was_not_measured_takes_the_times_of_the_nearest() {
    let mut far = took(8, 2, "c", 0, 50.0, 0.0);
    far.combination.input_length = 999;
    let known = earlier(&[
        took(1, 1, "a", 0, 10.0, 0.0),
        took(2, 1, "b", 0, 20.0, 0.0),
        far,
    ]);
    let kin = |batch, gpus, input| {
        let mut combination = work(batch, gpus, 1, 1).combination;
        combination.input_length = input;
        let (seconds, kin) = known.trial_s(&combination).unwrap();
        (seconds, kin.unwrap())
    };
    let input = fixtures::request().combination.input_length;
    assert_eq!(kin(1, 1, input), (10.0, Kin::Same));
    assert_eq!(kin(4, 1, input), (15.0, Kin::AllButOne));
    assert_eq!(kin(4, 1, 77), (15.0, Kin::SameStart));
    let mut bf16 = work(4, 2, 1, 1).combination;
    bf16.dtype = inferbench_crds::spec::Dtype::Bf16;
    assert_eq!(known.trial_s(&bf16), Some((50.0, Some(Kin::SameGpus))));
    assert_eq!(kin(4, 8, 77).1, Kin::All);
    let Durations::Earlier(earlier) = &known else {
        unreachable!()
    };
    let missing = earlier.missing([&work(4, 8, 1, 1).combination].into_iter());
    let missing: Vec<_> = missing
        .into_iter()
        .map(|(factor, levels)| (factor, levels.into_iter().collect::<Vec<_>>()))
        .collect();
    assert_eq!(
        missing,
        [
            (Factor::BATCH_SIZE, vec![Level::from(4)]),
            (Factor::GPUS, vec![Level::from(8)])
        ]
    );
}

#[test]
fn attempts_at_one_trial_add_up() {
    let again = Took {
        is_first: false,
        ..took(1, 1, "b", 0, 14.0, 0.0)
    };
    let known = earlier(&[took(1, 1, "a", 0, 10.0, 0.0), again]);
    let (seconds, _) = known.trial_s(&work(1, 1, 1, 1).combination).unwrap();
    close(seconds, 24.0);
}

#[test]
fn another_measurement_is_told() {
    let Durations::Earlier(earlier) = earlier(&[took(1, 1, "a", 0, 10.0, 0.0)]) else {
        unreachable!()
    };
    let asked = fixtures::request().measurement;
    assert_eq!(earlier.otherwise([&asked].into_iter()), None);
    // Who shares a process is another matter.
    let shared = EffectiveMeasurement {
        isolation: Isolation::Pod,
        ..asked.clone()
    };
    assert_eq!(earlier.otherwise([&shared].into_iter()), None);
    let longer = EffectiveMeasurement {
        min_duration_ms: 10_000,
        ..asked
    };
    let told = earlier.otherwise([&shared, &longer].into_iter()).unwrap();
    assert!(told.ends_with("then 5 iterations and 10000 ms)"), "{told}");
}

#[test]
fn records_give_their_times_and_unmeasured_ones_do_not() {
    let mut record = fixtures::record();
    record.started_at = "2026-01-02T03:04:05.000Z".into();
    record.ended_at = "2026-01-02T03:04:17.500Z".into();
    let took = Took::of(&record).unwrap();
    assert_eq!((took.total_s, took.is_first), (12.5, true));
    assert_eq!(took.load_s, record.effective.as_ref().unwrap().model_load_s);
    assert_eq!(Took::of(&fixtures::out_of_memory()), None);
    let served = fixtures::served(fixtures::open_loop(2.5), 3);
    assert_eq!(Took::of(&served).unwrap().start_s, Some(12.5));
    assert!(Earlier::of("out", &[], 2).is_none());
}

#[test]
fn the_gpus_of_an_endpoint_are_not_the_sweeps() {
    let mut there = work(1, 4, 2, 0);
    there.combination.request_rate = Number::new(2.0).unwrap();
    there.combination.engine.endpoint = Some(inferbench_crds::engine::Endpoint::default());
    let given = Durations::Given {
        trial_s: 10.0,
        start_s: 0.0,
    };
    let cost = given.cost([there].iter(), Some(2.0));
    assert_eq!((cost.gpu_hours, cost.cost), (Some(0.0), Some(0.0)));
    close(cost.hours.unwrap() * 3600.0, 20.0);
}

proptest! {
    /// The estimate of a design that was measured in full is what it took.
    #[test]
    fn a_sweep_costs_what_it_took(
        times in prop::collection::vec((1_u32..4, 1_u32..3, 1.0_f64..50.0, 0.0_f64..1.0), 1..30),
    ) {
        let took: Vec<Took> = times
            .iter()
            .enumerate()
            .map(|(at, (batch, gpus, total_s, share))| {
                took(*batch, *gpus, &at.to_string(), 0, *total_s, share * total_s)
            })
            .collect();
        let known = earlier(&took);
        let all: Vec<Work> = times.iter().map(|(batch, gpus, ..)| work(*batch, *gpus, 1, 1)).collect();
        let cost = known.cost(all.iter(), None);
        let really: f64 = times.iter().map(|(_, _, total_s, _)| total_s).sum();
        prop_assert!((cost.hours.unwrap() * 3600.0 - really).abs() < 1e-6 * really);
        let really: f64 = times.iter().map(|(_, gpus, total_s, _)| total_s * f64::from(*gpus)).sum();
        prop_assert!((cost.gpu_hours.unwrap() * 3600.0 - really).abs() < 1e-6 * really);
    }
}

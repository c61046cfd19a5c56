//! The definitions of the metrics: by hand, and what holds between them for any trial.

use proptest::prelude::*;

use super::*;
use crate::record::SequenceTimes;

fn iteration(gaps: &[f64]) -> Iteration {
    let token_ms = gaps.iter().scan(0.0, |now, gap| {
        *now += gap;
        Some(*now)
    });
    Iteration::of_batch(0, 1, token_ms.collect())
}

#[test]
fn a_trial_by_hand() {
    let iterations = [iteration(&[10.0, 2.0, 4.0]), iteration(&[14.0, 3.0, 7.0])];
    let shape = BatchShape {
        batch_size: 4,
        input_len: 50,
        output_len: 3,
    };
    let metrics = TrialMetrics::of(&iterations, shape).unwrap();
    assert_eq!(
        (metrics.ttft.mean, metrics.ttft.min, metrics.ttft.max),
        (12.0, 10.0, 14.0)
    );
    assert_eq!(metrics.ttft.std, Some(8f64.sqrt()));
    assert_eq!((metrics.ttlt.mean, metrics.ttlt.median), (20.0, 20.0));
    assert_eq!(metrics.tpot.unwrap().mean, 4.0);
    assert_eq!(
        metrics.itl.unwrap(),
        ItlStats {
            median_ms: 3.5,
            quantiles: Quantiles::default(),
            max_ms: 7.0
        }
    );
    assert_eq!(metrics.output_throughput, 4.0 * 3.0 / 0.020);
    assert_eq!(metrics.decode_throughput, Some(4.0 * 2.0 / 0.008));
    assert_eq!(metrics.prefill_throughput, 4.0 * 50.0 / 0.012);
    assert_eq!(metrics.normalized_latency_ms, 20.0 / 12.0);
}

#[test]
fn a_batch_is_as_late_as_its_last_sequence() {
    let times = |count, token_ms: &[f64]| SequenceTimes {
        count,
        token_ms: token_ms.to_vec(),
    };
    let iteration = Iteration {
        start_unix_ns: 0,
        sequences: vec![times(1, &[5.0, 9.0, 21.0]), times(3, &[8.0, 10.0, 20.0])],
    };
    assert_eq!(
        (
            iteration.ttft_ms(),
            iteration.ttlt_ms(),
            iteration.tpot_ms()
        ),
        (Some(8.0), Some(21.0), Some(6.5))
    );
    assert_eq!(iteration.itl_ms().collect::<Vec<_>>(), [2.0, 11.0]);
}

#[test]
fn one_output_token_has_no_decode() {
    let metrics = TrialMetrics::of(
        &[iteration(&[10.0])],
        BatchShape {
            batch_size: 1,
            input_len: 8,
            output_len: 1,
        },
    )
    .unwrap();
    assert_eq!(
        (metrics.tpot, metrics.itl, metrics.decode_throughput),
        (None, None, None)
    );
    assert_eq!(metrics.ttft.std, None, "one iteration has no spread");
    assert_eq!(metrics.ttft, metrics.ttlt);
}

#[test]
fn nothing_has_no_metrics() {
    let shape = BatchShape {
        batch_size: 1,
        input_len: 1,
        output_len: 1,
    };
    assert_eq!(TrialMetrics::of(&[], shape), None);
    assert_eq!(TrialMetrics::of(&[iteration(&[])], shape), None);
}

#[test]
fn a_quantile_comes_with_its_samples() {
    for (q, least) in [
        (0.5f64, P50_SAMPLES),
        (0.9, P90_SAMPLES),
        (0.99, P99_SAMPLES),
    ] {
        assert!(q.powi(least as i32) <= 0.025 && q.powi(least as i32 - 1) > 0.025);
    }
    let gaps: Vec<f64> = (1..=401).map(f64::from).collect();
    let of = |count: usize| ItlStats::of(&gaps[..count]).unwrap().quantiles;
    assert_eq!((of(5).p50, of(7).p50), (None, Some(4.0)));
    assert_eq!((of(35).p90, of(41).p90), (None, Some(37.0)));
    assert_eq!((of(367).p99, of(401).p99), (None, Some(397.0)));
}

fn request(token_ms: &[f64]) -> RequestTimes {
    RequestTimes {
        intended_unix_ns: 0,
        sent_ms: Some(0.1),
        token_ms: token_ms.to_vec(),
        input_tokens: None,
        cached_tokens: None,
        error: None,
    }
}

#[test]
fn a_loop_by_hand() {
    let failed = RequestTimes {
        error: Some("the stream ended".into()),
        ..request(&[1.0, 2.0])
    };
    let mut requests = Requests {
        window_start_unix_ns: 0,
        window_s: 2.0,
        window_output_tokens: 11,
        window_completed: 4,
        max_in_flight: 2,
        saturated: None,
        counting: "tokenIds".into(),
        requests: vec![
            request(&[10.0, 12.0, 14.0]),
            failed,
            request(&[20.0, 20.0, 40.0]),
        ],
    };
    let objectives = Objectives {
        max_ttft: Some(Duration::from_millis(15)),
        max_tpot: Some(Duration::from_millis(20)),
        ..Objectives::default()
    };
    let metrics = RequestMetrics::of(&requests, &objectives);
    let mean = |times: Times| times.stats.unwrap().mean;
    assert_eq!(mean(metrics.times.ttft), 15.0);
    assert_eq!(mean(metrics.times.e2e), 27.0);
    assert_eq!(mean(metrics.times.tpot), 6.0);
    let itl = metrics.itl.unwrap();
    assert_eq!((itl.median_ms, itl.max_ms), (2.0, 20.0));
    assert_eq!(
        (metrics.output_throughput, metrics.request_throughput),
        (5.5, 2.0)
    );
    assert_eq!(metrics.goodput, Some(0.5));
    let late = Objectives {
        max_e2e: Some(Duration::from_millis(40)),
        ..Objectives::default()
    };
    assert_eq!(RequestMetrics::of(&requests, &late).goodput, Some(1.0));
    requests.counting = Requests::FINAL_USAGE.into();
    let metrics = RequestMetrics::of(&requests, &Objectives::default());
    assert_eq!((metrics.itl, metrics.goodput), (None, None));
}

#[test]
fn every_sequence_of_a_batch_is_an_answer() {
    let times = |count, token_ms: &[f64]| SequenceTimes {
        count,
        token_ms: token_ms.to_vec(),
    };
    let iteration = Iteration {
        start_unix_ns: 0,
        sequences: vec![times(2, &[5.0, 9.0]), times(1, &[8.0, 10.0])],
    };
    let answers = Answer::of_batches(&[iteration]);
    assert_eq!(answers.len(), 3);
    let ttft = AnswerTimes::of(&answers).ttft.stats.unwrap();
    assert_eq!((ttft.mean, ttft.max), (6.0, 8.0));
}

prop_compose! {
    fn trial()(batch in 1u32..=512, input in 1u32..=8192, output in 1usize..=48, count in 1usize..=12)
        (gaps in prop::collection::vec(prop::collection::vec(1e-4f64..1e4, output), count),
         batch in Just(batch), input in Just(input), output in Just(output as u32)) -> (Vec<Iteration>, BatchShape) {
        let shape = BatchShape { batch_size: batch, input_len: input, output_len: output };
        (gaps.iter().map(|gaps| iteration(gaps)).collect(), shape)
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

proptest! {
    #[test]
    fn gaps_sum_up((iterations, _) in trial()) {
        for iteration in &iterations {
            let sum: f64 = iteration.itl_ms().sum();
            prop_assert!(close(sum, iteration.ttlt_ms().unwrap() - iteration.ttft_ms().unwrap()));
            prop_assert_eq!(iteration.itl_ms().count() + 1, iteration.sequences[0].token_ms.len());
        }
    }

    #[test]
    fn normalized_latency_is_the_inverse_of_throughput((iterations, shape) in trial()) {
        let metrics = TrialMetrics::of(&iterations, shape).unwrap();
        prop_assert!(close(metrics.normalized_latency_ms / 1000.0 * metrics.output_throughput, 1.0));
    }

    #[test]
    fn rates_agree_with_times((iterations, shape) in trial()) {
        let metrics = TrialMetrics::of(&iterations, shape).unwrap();
        let batch = f64::from(shape.batch_size);
        prop_assert_eq!(metrics.tpot.is_some(), shape.output_len > 1);
        if let Some(tpot) = metrics.tpot {
            prop_assert!(close(metrics.decode_throughput.unwrap() * tpot.mean / 1000.0 / batch, 1.0));
            prop_assert!(metrics.ttft.mean < metrics.ttlt.mean);
        }
    }

    #[test]
    fn statistics_are_ordered(sample in prop::collection::vec(-1e6f64..1e6, 1..50)) {
        let stats = Stats::of(&sample).unwrap();
        prop_assert!(stats.min <= stats.mean && stats.mean <= stats.max);
        prop_assert!(stats.min <= stats.median && stats.median <= stats.max);
        prop_assert_eq!(stats.std.is_some(), sample.len() > 1);
        prop_assert!(stats.std.unwrap_or(0.0) <= (stats.max - stats.min) + 1e-6);
    }
}

//! The definitions of every metric: pure functions over iterations, whose doc comments are the formulas.
//!
//! `b` sequences in a batch, `s` input tokens and `n` output tokens of each. Times are in ms, counted from the moment
//! at which the input ids are ready on the host; rates are in tokens/s. A batch shares its timings, so `b` is never a
//! sample size: one iteration is one observation. Where requests come one by one, each of them is one, and its times are
//! counted from the moment at which it was meant to be sent.

use inferbench_crds::{Duration, spec::Objectives};

use crate::{
    interval::magnitude,
    record::{Iteration, RequestTimes, Requests},
};

/// The shape of a trial, all lengths exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// `b`: sequences in a batch.
    pub batch_size: u32,
    /// `s`: input tokens of each sequence.
    pub input_len: u32,
    /// `n`: output tokens of each sequence.
    pub output_len: u32,
}

impl Iteration {
    /// Time to first token in ms: until the first sampled ids of the whole batch are on the host. It counts neither
    /// tokenizing nor a scheduler. `None` without tokens.
    #[must_use]
    pub fn ttft_ms(&self) -> Option<f64> {
        self.whole_batch(|times| times.first())
    }

    /// Time to last token in ms: the same start, until the last ids are on the host. `None` without tokens.
    #[must_use]
    pub fn ttlt_ms(&self) -> Option<f64> {
        self.whole_batch(|times| times.last())
    }

    /// Time per output token in ms: (ttlt − ttft)/(n − 1). `None` for n ≤ 1.
    #[must_use]
    pub fn tpot_ms(&self) -> Option<f64> {
        let gaps = self.tokens().checked_sub(1).filter(|gaps| *gaps > 0)?;
        Some((self.ttlt_ms()? - self.ttft_ms()?) / gaps as f64)
    }

    /// Inter-token latencies in ms: the n − 1 gaps between successive tokens of the whole batch. They sum up to
    /// ttlt − ttft.
    pub fn itl_ms(&self) -> impl Iterator<Item = f64> + '_ {
        let mut last = self.ttft_ms();
        (1..self.tokens()).filter_map(move |token| {
            let at = self.whole_batch(|times| times.get(token));
            let before = std::mem::replace(&mut last, at)?;
            Some(at? - before)
        })
    }

    /// Output tokens of each sequence: the fewest, should they differ.
    fn tokens(&self) -> usize {
        let lengths = self.sequences.iter().map(|times| times.token_ms.len());
        lengths.min().unwrap_or(0)
    }

    /// The time at which every sequence had reached what `of` says of its times. `None` without sequences, or where one
    /// never does.
    fn whole_batch(&self, of: impl Fn(&[f64]) -> Option<&f64>) -> Option<f64> {
        let reached = self.sequences.iter().map(|times| of(&times.token_ms));
        reached
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .copied()
            .reduce(f64::max)
    }
}

/// Mean, median, spread and range of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stats {
    /// Observations.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their median; the mean of the two in the middle for an even count.
    pub median: f64,
    /// Their standard deviation, with count − 1 in the denominator. `None` for one observation.
    pub std: Option<f64>,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Stats {
    /// The statistics of a sample of finite numbers; `None` of an empty one.
    #[must_use]
    pub fn of(sample: &[f64]) -> Option<Self> {
        let sorted = sorted(sample);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let count = sorted.len();
        // Rounding may carry a mean past the extremes of nearly equal numbers.
        let mean = (sorted.iter().sum::<f64>() / count as f64).clamp(min, max);
        let std = (count > 1).then(|| {
            let scale = magnitude(sorted.iter().copied());
            let squares: f64 = sorted.iter().map(|x| ((x - mean) / scale).powi(2)).sum();
            (squares / (count - 1) as f64).sqrt() * scale
        });
        Some(Self {
            count,
            mean,
            median: quantile(&sorted, 0.5),
            std,
            min,
            max,
        })
    }
}

/// The least number of observations for which a quantile q is given: the first k with q^k ≤ 2.5%, so that the greatest
/// of them is an upper 97.5% confidence limit of the quantile. With fewer the quantile may well lie beyond everything
/// that was seen. (It holds for independent observations; the gaps of one iteration are neighbours.)
pub const P50_SAMPLES: usize = 6;
/// The same of the 90th percentile.
pub const P90_SAMPLES: usize = 36;
/// The same of the 99th percentile.
pub const P99_SAMPLES: usize = 368;

/// Quantiles of a sample, each where there are enough observations for it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quantiles {
    /// The 50th percentile, from [`P50_SAMPLES`] on.
    pub p50: Option<f64>,
    /// The 90th percentile, from [`P90_SAMPLES`] on.
    pub p90: Option<f64>,
    /// The 99th percentile, from [`P99_SAMPLES`] on.
    pub p99: Option<f64>,
}

impl Quantiles {
    /// The quantiles of a sample.
    #[must_use]
    pub fn of(sample: &[f64]) -> Self {
        Self::of_sorted(&sorted(sample))
    }

    fn of_sorted(sorted: &[f64]) -> Self {
        let from = |least: usize, q: f64| (sorted.len() >= least).then(|| quantile(sorted, q));
        Self {
            p50: from(P50_SAMPLES, 0.5),
            p90: from(P90_SAMPLES, 0.9),
            p99: from(P99_SAMPLES, 0.99),
        }
    }
}

/// The inter-token latencies of a trial, those of all iterations or requests pooled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ItlStats {
    /// The median in ms.
    pub median_ms: f64,
    /// The quantiles in ms.
    pub quantiles: Quantiles,
    /// The maximum in ms.
    pub max_ms: f64,
}

impl ItlStats {
    /// The statistics of pooled latencies in ms; `None` of none.
    #[must_use]
    pub fn of(gaps: &[f64]) -> Option<Self> {
        let sorted = sorted(gaps);
        Some(Self {
            max_ms: *sorted.last()?,
            median_ms: quantile(&sorted, 0.5),
            quantiles: Quantiles::of_sorted(&sorted),
        })
    }
}

/// All metrics of one trial. Rates come from mean times, so that normalized latency is throughput's exact inverse.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialMetrics {
    /// Time to first token over the iterations, ms.
    pub ttft: Stats,
    /// Time to last token over the iterations, ms.
    pub ttlt: Stats,
    /// Time per output token over the iterations, ms; `None` for n = 1.
    pub tpot: Option<Stats>,
    /// Inter-token latencies, pooled; `None` for n = 1.
    pub itl: Option<ItlStats>,
    /// b·n / mean(ttlt), tokens/s.
    pub output_throughput: f64,
    /// b·(n − 1) / (mean(ttlt) − mean(ttft)), tokens/s; `None` for n = 1.
    pub decode_throughput: Option<f64>,
    /// b·s / mean(ttft), tokens/s.
    pub prefill_throughput: f64,
    /// mean(ttlt) / (b·n), ms: exactly the inverse of output throughput, no second piece of evidence.
    pub normalized_latency_ms: f64,
}

impl TrialMetrics {
    /// The metrics of a trial of this shape; `None` where there is no iteration, or one without tokens.
    #[must_use]
    pub fn of(iterations: &[Iteration], shape: BatchShape) -> Option<Self> {
        let collect = |metric: fn(&Iteration) -> Option<f64>| {
            iterations.iter().map(metric).collect::<Option<Vec<_>>>()
        };
        let ttft = Stats::of(&collect(Iteration::ttft_ms)?)?;
        let ttlt = Stats::of(&collect(Iteration::ttlt_ms)?)?;
        let tpot = collect(Iteration::tpot_ms).and_then(|tpot| Stats::of(&tpot));
        let gaps: Vec<f64> = iterations.iter().flat_map(Iteration::itl_ms).collect();
        let [batch, input, output] =
            [shape.batch_size, shape.input_len, shape.output_len].map(f64::from);
        let per_second = |tokens: f64, ms: f64| tokens / (ms / 1000.0);
        Some(Self {
            output_throughput: per_second(batch * output, ttlt.mean),
            decode_throughput: tpot
                .map(|_| per_second(batch * (output - 1.0), ttlt.mean - ttft.mean)),
            prefill_throughput: per_second(batch * input, ttft.mean),
            normalized_latency_ms: ttlt.mean / (batch * output),
            itl: ItlStats::of(&gaps),
            ttft,
            ttlt,
            tpot,
        })
    }
}

/// One request that was answered, or one sequence of a server's batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// Time to its first token, ms.
    pub ttft_ms: f64,
    /// Its time per output token after the first, ms; `None` for one.
    pub tpot_ms: Option<f64>,
    /// Time to its last token, ms.
    pub e2e_ms: f64,
}

impl Answer {
    /// The requests that did not fail.
    #[must_use]
    pub fn of_requests(requests: &Requests) -> Vec<Self> {
        let answered = requests.answered();
        answered
            .filter_map(|request| Self::of(&request.token_ms))
            .collect()
    }

    /// Every sequence of every batch.
    #[must_use]
    pub fn of_batches(iterations: &[Iteration]) -> Vec<Self> {
        let groups = iterations.iter().flat_map(|iteration| &iteration.sequences);
        groups
            .filter_map(|times| Some((Self::of(&times.token_ms)?, times.count as usize)))
            .flat_map(|(answer, count)| std::iter::repeat_n(answer, count))
            .collect()
    }

    fn of(token_ms: &[f64]) -> Option<Self> {
        let (ttft_ms, e2e_ms) = (*token_ms.first()?, *token_ms.last()?);
        let gaps = token_ms.len() - 1;
        Some(Self {
            ttft_ms,
            tpot_ms: (gaps > 0).then(|| (e2e_ms - ttft_ms) / gaps as f64),
            e2e_ms,
        })
    }

    /// Whether it keeps to every objective. One of one output token has no time per output token, and so keeps to any.
    #[must_use]
    pub fn keeps_to(&self, objectives: &Objectives) -> bool {
        let within = |ms: Option<f64>, limit: Option<Duration>| {
            let limit = limit.map(|limit| limit.std().as_secs_f64() * 1e3);
            ms.zip(limit).is_none_or(|(ms, limit)| ms <= limit)
        };
        within(Some(self.ttft_ms), objectives.max_ttft)
            && within(self.tpot_ms, objectives.max_tpot)
            && within(Some(self.e2e_ms), objectives.max_e2e)
    }
}

/// One time of all answers: statistics, and the quantiles that these suffice for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// Mean, median, spread and range, ms; `None` without answers.
    pub stats: Option<Stats>,
    /// The quantiles, ms.
    pub quantiles: Quantiles,
}

/// The times of requests, or of the sequences of a server's batches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AnswerTimes {
    /// Time to first token.
    pub ttft: Times,
    /// Time per output token.
    pub tpot: Times,
    /// Time to last token.
    pub e2e: Times,
}

impl AnswerTimes {
    /// The times of these answers.
    #[must_use]
    pub fn of(answers: &[Answer]) -> Self {
        let times = |of: fn(&Answer) -> Option<f64>| {
            let sample: Vec<f64> = answers.iter().filter_map(of).collect();
            Times {
                stats: Stats::of(&sample),
                quantiles: Quantiles::of(&sample),
            }
        };
        Self {
            ttft: times(|answer| Some(answer.ttft_ms)),
            tpot: times(|answer| answer.tpot_ms),
            e2e: times(|answer| Some(answer.e2e_ms)),
        }
    }
}

/// All metrics of a closed or an open loop: latencies of the requests that were intended in the window and did not
/// fail, rates of all that came in it.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestMetrics {
    /// The latencies.
    pub times: AnswerTimes,
    /// Inter-token latencies, pooled; `None` for n = 1, and where events with several tokens cannot be told apart.
    pub itl: Option<ItlStats>,
    /// Output tokens that came in the window / its length, tokens/s.
    pub output_throughput: f64,
    /// Requests that ended well in the window / its length.
    pub request_throughput: f64,
    /// Requests that were intended in the window and keep to every objective / its length; `None` without objectives.
    pub goodput: Option<f64>,
}

impl RequestMetrics {
    /// The metrics of these requests under these objectives.
    #[must_use]
    pub fn of(requests: &Requests, objectives: &Objectives) -> Self {
        let answers = Answer::of_requests(requests);
        let tells_tokens = requests.counting != Requests::FINAL_USAGE;
        let answered = requests.answered().filter(|_| tells_tokens);
        let gaps: Vec<f64> = answered.flat_map(RequestTimes::itl_ms).collect();
        let good = answers.iter().filter(|answer| answer.keeps_to(objectives));
        let good = objectives.limit_times().then(|| good.count() as f64);
        Self {
            times: AnswerTimes::of(&answers),
            itl: ItlStats::of(&gaps),
            output_throughput: requests.window_output_tokens as f64 / requests.window_s,
            request_throughput: f64::from(requests.window_completed) / requests.window_s,
            goodput: good.map(|good| good / requests.window_s),
        }
    }
}

impl RequestTimes {
    /// The gaps between its tokens in ms; 0 within one event.
    pub fn itl_ms(&self) -> impl Iterator<Item = f64> + '_ {
        self.token_ms.windows(2).map(|pair| pair[1] - pair[0])
    }
}

fn sorted(sample: &[f64]) -> Vec<f64> {
    let mut sorted = sample.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// The quantile `q` of a sorted sample by linear interpolation between order statistics at (count − 1)·q.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let position = (sorted.len() - 1) as f64 * q;
    let below = position.floor();
    let (low, high) = (sorted[below as usize], sorted[position.ceil() as usize]);
    low + (high - low) * (position - below)
}

#[cfg(test)]
mod tests {
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
}

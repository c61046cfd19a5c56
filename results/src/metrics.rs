//! The definitions of every metric: pure functions over iterations, whose doc comments are the formulas.
//!
//! `b` sequences in a batch, `s` input tokens and `n` output tokens of each. Times are in ms, counted from the moment
//! at which the input ids are ready on the host; rates are in tokens/s. A batch shares its timings, so `b` is never a
//! sample size: one iteration is one observation.

use crate::record::Iteration;

/// The shape of a trial, all lengths exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
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
            let squares: f64 = sorted.iter().map(|x| (x - mean).powi(2)).sum();
            (squares / (count - 1) as f64).sqrt()
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

/// Median, 90th percentile and maximum of the inter-token latencies of all iterations of a trial, pooled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ItlStats {
    /// The median in ms.
    pub median_ms: f64,
    /// The 90th percentile in ms, from [`P90_SAMPLES`] on.
    pub p90_ms: Option<f64>,
    /// The maximum in ms.
    pub max_ms: f64,
}

/// The least number of inter-token latencies for which a 90th percentile is given: the first k with 0.9^k ≤ 2.5%, so
/// that the greatest of them is an upper 97.5% confidence limit of the percentile. With fewer the percentile may well
/// lie beyond everything that was seen. (It holds for independent latencies; those of one iteration are neighbours.)
pub const P90_SAMPLES: usize = 36;

impl ItlStats {
    /// The statistics of pooled latencies in ms; `None` of none.
    #[must_use]
    pub fn of(gaps: &[f64]) -> Option<Self> {
        let sorted = sorted(gaps);
        let max_ms = *sorted.last()?;
        let p90_ms = (sorted.len() >= P90_SAMPLES).then(|| quantile(&sorted, 0.9));
        Some(Self {
            median_ms: quantile(&sorted, 0.5),
            p90_ms,
            max_ms,
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
    pub fn of(iterations: &[Iteration], shape: Shape) -> Option<Self> {
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
        let shape = Shape {
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
                p90_ms: None,
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
            Shape {
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
        let shape = Shape {
            batch_size: 1,
            input_len: 1,
            output_len: 1,
        };
        assert_eq!(TrialMetrics::of(&[], shape), None);
        assert_eq!(TrialMetrics::of(&[iteration(&[])], shape), None);
    }

    #[test]
    fn the_percentile_comes_with_its_samples() {
        assert!(
            0.9f64.powi(P90_SAMPLES as i32) <= 0.025 && 0.9f64.powi(P90_SAMPLES as i32 - 1) > 0.025
        );
        let gaps: Vec<f64> = (1..=41).map(f64::from).collect();
        assert_eq!(ItlStats::of(&gaps[..35]).unwrap().p90_ms, None);
        assert_eq!(ItlStats::of(&gaps).unwrap().p90_ms, Some(37.0));
    }

    prop_compose! {
        fn trial()(batch in 1u32..=512, input in 1u32..=8192, output in 1usize..=48, count in 1usize..=12)
            (gaps in prop::collection::vec(prop::collection::vec(1e-4f64..1e4, output), count),
             batch in Just(batch), input in Just(input), output in Just(output as u32)) -> (Vec<Iteration>, Shape) {
            let shape = Shape { batch_size: batch, input_len: input, output_len: output };
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

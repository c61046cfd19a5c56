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
mod tests;

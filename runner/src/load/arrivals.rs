//! When requests are meant to leave.

use std::time::Duration;

use inferbench_crds::splitmix::SplitMix64;

/// A rule by which requests arrive. (A batch, whose requests all leave at once, is [`Client::batch`].)
///
/// [`Client::batch`]: super::Client::batch
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// A closed loop: each stream means to send its next request when its last has ended.
    Closed {
        /// Requests in flight.
        streams: usize,
    },
    /// An open loop: a Poisson process, whatever the server does.
    Open {
        /// Requests a second, on average.
        per_second: f64,
        /// The seed of the gaps.
        seed: u64,
        /// Requests in flight at most. Those above wait in the client, and their waiting counts: they are measured from
        /// the time at which they were meant to leave.
        most: usize,
    },
}

impl Arrivals {
    /// Streams that it needs at once.
    #[must_use]
    pub const fn most(&self) -> usize {
        match *self {
            Self::Closed { streams } => streams,
            Self::Open { most, .. } => most,
        }
    }
}

/// The times of a Poisson process, as offsets from its start.
#[derive(Clone, Debug)]
pub struct Poisson {
    random: SplitMix64,
    per_second: f64,
    at_s: f64,
}

impl Poisson {
    /// A process of this number of events a second.
    #[must_use]
    pub const fn new(per_second: f64, seed: u64) -> Self {
        Self {
            random: SplitMix64::new(seed),
            per_second,
            at_s: 0.0,
        }
    }
}

impl Iterator for Poisson {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.at_s += exponential(&mut self.random) / self.per_second;
        Duration::try_from_secs_f64(self.at_s).ok()
    }
}

/// An exponentially distributed number of mean 1.
pub(super) fn exponential(random: &mut SplitMix64) -> f64 {
    // 53 bits: from 0 up to, but without, 1; so the logarithm is finite.
    let uniform = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    -(1.0 - uniform).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_times_always() {
        let times = |seed| -> Vec<Duration> { Poisson::new(10.0, seed).take(50).collect() };
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
        assert!(times(1).is_sorted());
    }

    /// Kolmogorov and Smirnov's distance of the gaps from the exponential distribution, at the level of 1 %.
    #[test]
    fn gaps_are_exponential_at_the_rate_asked_for() {
        let times: Vec<f64> = Poisson::new(25.0, 3)
            .take(20_000)
            .map(|at| at.as_secs_f64())
            .collect();
        let mut gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        gaps.sort_by(f64::total_cmp);
        let n = gaps.len() as f64;
        let distance = gaps
            .iter()
            .enumerate()
            .map(|(rank, gap)| (1.0 - (-25.0 * gap).exp() - rank as f64 / n).abs())
            .fold(0.0, f64::max);
        assert!(distance < 1.63 / n.sqrt(), "{distance}");
    }

    /// Earlier arrivals say nothing of later ones: the counts of disjoint seconds are uncorrelated and as variable as
    /// they are large.
    #[test]
    fn counts_of_seconds_have_a_poisson_s_variance() {
        let mut counts = vec![0.0_f64; 4_000];
        for at in Poisson::new(7.0, 11).take_while(|at| at.as_secs() < 4_000) {
            counts[at.as_secs() as usize] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / 4_000.0;
        let variance = counts.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / 3_999.0;
        let lag_1 = counts
            .windows(2)
            .map(|c| (c[0] - mean) * (c[1] - mean))
            .sum::<f64>()
            / 3_999.0;
        assert!((mean - 7.0).abs() < 0.15, "{mean}");
        assert!((variance / mean - 1.0).abs() < 0.08, "{variance} {mean}");
        assert!((lag_1 / variance).abs() < 0.05, "{lag_1} {variance}");
    }
}

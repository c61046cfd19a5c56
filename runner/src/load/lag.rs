//! How late the client itself was, and whether that spoils what it measured.
//!
//! The lag of a stamp (from the moment data can be read to the stamp of the read) is estimated by a timer of the kernel
//! that goes off every 5 ms and is waited for among the sockets: it becomes readable as they do, queues behind them as
//! they do, and its own due time is known. (Time stamps by the kernel, `SO_TIMESTAMPING`, would tell it of each read;
//! but they tell the wall clock's time, of the last packet of a read only, and cost a control message for every read.)

use std::time::Duration;

/// Where a request, at the 99th percentile, leaves later than meant by so much, and by [`MAX_SEND_SHARE`] of the time
/// to its first token, the trial is invalid.
pub const MAX_SEND_LAG: Duration = Duration::from_millis(1);
/// See [`MAX_SEND_LAG`].
pub const MAX_SEND_SHARE: f64 = 0.05;
/// Where a stamp, at the 99th percentile, is late by so much, and by [`MAX_STAMP_SHARE`] of the gap between tokens, the
/// trial is invalid.
pub const MAX_STAMP_LAG: Duration = Duration::from_millis(1);
/// See [`MAX_STAMP_LAG`].
pub const MAX_STAMP_SHARE: f64 = 0.25;
/// A client that computes for this share of the time could have been what limited the load.
pub const MAX_CPU_SHARE: f64 = 0.9;

/// Quantiles of a lag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
    /// Of how many.
    pub count: usize,
}

impl Quantiles {
    /// The quantiles of a sample (nearest rank); zeros where it is empty.
    #[must_use]
    pub fn of(mut sample: Vec<Duration>) -> Self {
        sample.sort_unstable();
        let Some(&max) = sample.last() else {
            return Self::default();
        };
        let rank = |share: f64| {
            sample[((share * sample.len() as f64).ceil() as usize).clamp(1, sample.len()) - 1]
        };
        Self {
            p50: rank(0.5),
            p99: rank(0.99),
            max,
            count: sample.len(),
        }
    }
}

/// The client's measurements of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lag {
    /// From the time at which a request was meant to leave to the return of the write of its last byte.
    pub send: Quantiles,
    /// From the time at which data could be read to its stamp, estimated.
    pub stamp: Quantiles,
    /// CPU time of the client's thread.
    pub cpu: Duration,
    /// In this time.
    pub wall: Duration,
}

/// The typical times that a lag is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Typical {
    /// The median time to the first token.
    pub ttft: Duration,
    /// The median gap between tokens, where there is one.
    pub itl: Option<Duration>,
}

impl Lag {
    /// The share of the time that the client's thread computed.
    #[must_use]
    pub fn cpu_share(&self) -> f64 {
        if self.wall.is_zero() {
            0.0
        } else {
            self.cpu.as_secs_f64() / self.wall.as_secs_f64()
        }
    }

    /// Why what was measured cannot be vouched for: empty where it can.
    #[must_use]
    pub fn objections(&self, typical: &Typical) -> Vec<String> {
        let mut objections = Vec::new();
        let send = MAX_SEND_LAG.max(typical.ttft.mul_f64(MAX_SEND_SHARE));
        if self.send.p99 > send {
            objections.push(format!(
                "the client sent late: 1 % of the requests left more than {} after they were meant to, and at most {} is \
                 tolerated",
                ms(self.send.p99),
                ms(send)
            ));
        }
        let stamp = MAX_STAMP_LAG.max(typical.itl.unwrap_or(typical.ttft).mul_f64(MAX_STAMP_SHARE));
        if self.stamp.p99 > stamp {
            objections.push(format!(
                "the client read late: 1 % of its time stamps are more than {} late, and at most {} is tolerated",
                ms(self.stamp.p99),
                ms(stamp)
            ));
        }
        if self.cpu_share() > MAX_CPU_SHARE {
            objections.push(format!(
                "the client's thread computed {:.0} % of the time, more than {:.0} %: it may have limited the load",
                100.0 * self.cpu_share(),
                100.0 * MAX_CPU_SHARE
            ));
        }
        objections
    }
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", 1e3 * time.as_secs_f64())
}

/// CPU time of this thread.
pub(super) fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of ours.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return Duration::ZERO;
    }
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    fn good() -> Lag {
        Lag {
            send: Quantiles {
                p99: micros(900),
                ..Quantiles::default()
            },
            stamp: Quantiles {
                p99: micros(400),
                ..Quantiles::default()
            },
            cpu: Duration::from_secs(8),
            wall: Duration::from_secs(10),
        }
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        let quantiles = Quantiles::of((1..=200).rev().map(micros).collect());
        assert_eq!(
            quantiles,
            Quantiles {
                p50: micros(100),
                p99: micros(198),
                max: micros(200),
                count: 200
            }
        );
        assert_eq!(Quantiles::of(Vec::new()), Quantiles::default());
        assert_eq!(Quantiles::of(vec![micros(3)]).p99, micros(3));
    }

    #[test]
    fn a_lag_is_held_against_what_is_measured() {
        let fast = Typical {
            ttft: micros(10_000),
            itl: Some(micros(2_000)),
        };
        assert_eq!(good().objections(&fast), Vec::<String>::new());
        let late = Lag {
            send: Quantiles {
                p99: micros(12_000),
                ..Quantiles::default()
            },
            ..good()
        };
        assert_eq!(
            late.objections(&fast),
            [
                "the client sent late: 1 % of the requests left more than 12.0 ms after they were meant to, and at most 1.0 ms \
              is tolerated"
            ]
        );
        // The same lag is nothing beside a second.
        let slow = Typical {
            ttft: Duration::from_secs(1),
            itl: None,
        };
        assert_eq!(late.objections(&slow), Vec::<String>::new());
    }

    #[test]
    fn every_bound_has_its_figure() {
        let bad = Lag {
            stamp: Quantiles {
                p99: micros(7_300),
                ..Quantiles::default()
            },
            cpu: micros(9_700),
            wall: micros(10_000),
            ..good()
        };
        let objections = bad.objections(&Typical {
            ttft: micros(50_000),
            itl: Some(micros(10_000)),
        });
        assert_eq!(objections.len(), 2, "{objections:?}");
        for objection in &objections {
            assert!(
                inferbench_results::validity::remedy(objection).is_some(),
                "{objection}"
            );
        }
        assert!(objections[0].contains("7.3 ms late") && objections[0].contains("2.5 ms"));
        assert!(objections[1].contains("97 %"));
    }

    #[test]
    fn cpu_time_of_the_thread_rises_with_its_work_alone() {
        let before = thread_cpu();
        let mut random = inferbench_crds::splitmix::SplitMix64::new(1);
        while thread_cpu() == before {
            std::hint::black_box(random.next_u64());
        }
        assert!(thread_cpu() > before);
        assert_eq!(Lag::default().cpu_share(), 0.0);
    }
}

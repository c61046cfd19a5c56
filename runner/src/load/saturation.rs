//! Whether the backlog of an open loop grows: whether it asks for more than the server can do.
//!
//! The backlog is seen by every request of the window when it is meant to leave: how many are in flight. Its mean over
//! the last tenth of them is held against that over the first. At a load ρ > 1 it grows by 1 − 1/ρ for every request,
//! without end; below 1 it only wanders, by an amount that grows with the square root of its own level and not with the
//! number of requests. The bound lies between, from simulations of queues with one server to 256 and with service times
//! that are exponential or all alike (the test below repeats them): at ρ ≤ 0.8 it is passed in less than 1 % of the
//! windows, however many requests they have; at ρ ≥ 1.2 in nearly all with 1,000 requests and more.

use std::time::Instant;

use super::{Exchange, window::Borders};

/// The growth that a backlog may have, whatever its level.
const ALWAYS: f64 = 12.0;
/// The growth that it may have besides, in square roots of its level at the beginning.
const ROOTS: f64 = 3.0;
/// The growth that it may have for each request, lest long windows flag a slow wandering: a ρ of 1.03.
const EACH: f64 = 0.02;
/// Requests without which a backlog that did not grow proves nothing.
const ENOUGH: usize = 400;
/// The multiple of the level at the beginning that has to leave, too: this number of service times has passed then
/// (Little's law).
const TIMES: f64 = 4.0;

/// The backlog of a load over its window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Saturation {
    /// A closed loop has none.
    DoesNotApply,
    /// Too few requests to tell.
    Unknown,
    /// It does not grow.
    Steady,
    /// It grows: the load is more than the server can do.
    Growing {
        /// Requests in flight at the beginning, on average.
        from: f64,
        /// Requests in flight at the end, on average.
        to: f64,
    },
}

/// The verdict on an open loop.
#[must_use]
pub fn of(exchanges: &[Exchange], window: &Borders) -> Saturation {
    let times: Vec<(Instant, Instant)> = exchanges
        .iter()
        .map(|one| (one.intended, one.ended))
        .collect();
    judge(&in_flight(&times, |intended| window.hold(intended)))
}

/// How many requests were in flight when each of those that are asked for was meant to leave, itself left out.
fn in_flight<T: Copy + Ord>(times: &[(T, T)], is_asked: impl Fn(T) -> bool) -> Vec<usize> {
    let mut begins: Vec<T> = times.iter().map(|time| time.0).collect();
    let mut ends: Vec<T> = times.iter().map(|time| time.1).collect();
    begins.sort_unstable();
    ends.sort_unstable();
    let mut ended = 0;
    let mut levels = Vec::new();
    for (begun, &at) in begins.iter().enumerate() {
        while ends.get(ended).is_some_and(|&end| end <= at) {
            ended += 1;
        }
        if is_asked(at) {
            levels.push(begun.saturating_sub(ended));
        }
    }
    levels
}

/// The verdict on the numbers of requests in flight.
#[must_use]
pub fn judge(in_flight: &[usize]) -> Saturation {
    let count = in_flight.len();
    let tenth = (count / 10).max(1).min(count);
    if count == 0 {
        return Saturation::Unknown;
    }
    let mean = |levels: &[usize]| levels.iter().sum::<usize>() as f64 / levels.len() as f64;
    let (from, to) = (mean(&in_flight[..tenth]), mean(&in_flight[count - tenth..]));
    let bound = (ALWAYS + ROOTS * from.sqrt()).max(EACH * count as f64);
    if to - from > bound {
        Saturation::Growing { from, to }
    } else if count < ENOUGH || (count as f64) < TIMES * from {
        Saturation::Unknown
    } else {
        Saturation::Steady
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use inferbench_crds::splitmix::SplitMix64;

    use super::{
        super::arrivals::{Poisson, exponential},
        *,
    };

    /// The verdict of `count` requests after a warm-up, where `servers` servers take them in turn.
    fn queue(seed: u64, servers: usize, load: f64, count: usize, alike: bool) -> Saturation {
        let mut random = SplitMix64::stream(seed, 1);
        let mut free: BinaryHeap<Reverse<u64>> = std::iter::repeat_n(Reverse(0), servers).collect();
        let warm = 3 * servers + 50;
        let mut times = Vec::new();
        for at in Poisson::new(load * servers as f64, seed).take(warm + count) {
            let at = at.as_nanos() as u64;
            let service = if alike { 1.0 } else { exponential(&mut random) };
            let Reverse(begins) = free.pop().unwrap_or(Reverse(0));
            let end = begins.max(at) + (service * 1e9) as u64;
            free.push(Reverse(end));
            times.push((at, end));
        }
        let opened = times[warm].0;
        judge(&in_flight(&times, |at| at >= opened))
    }

    /// Of 300 windows, how many are said to grow and how many to be steady.
    fn verdicts(servers: usize, load: f64, count: usize, alike: bool) -> (usize, usize) {
        let verdicts: Vec<_> = (0..300)
            .map(|seed| queue(seed, servers, load, count, alike))
            .collect();
        let growing = verdicts
            .iter()
            .filter(|verdict| matches!(verdict, Saturation::Growing { .. }));
        let steady = verdicts
            .iter()
            .filter(|&&verdict| verdict == Saturation::Steady);
        (growing.count(), steady.count())
    }

    #[test]
    fn a_load_that_is_borne_is_hardly_ever_flagged() {
        for (servers, alike) in [
            (1, true),
            (1, false),
            (8, false),
            (64, true),
            (64, false),
            (256, false),
        ] {
            for count in [100, 400, 3000] {
                for load in [0.5, 0.8] {
                    let (growing, _) = verdicts(servers, load, count, alike);
                    assert!(
                        growing <= 3,
                        "{servers} servers, load {load}, {count} requests: {growing} of 300"
                    );
                }
            }
        }
    }

    #[test]
    fn a_load_that_is_too_much_is_nearly_always_flagged() {
        for (servers, alike) in [
            (1, true),
            (1, false),
            (8, false),
            (64, true),
            (64, false),
            (256, true),
        ] {
            for (load, count) in [(1.2, 1500), (1.5, 1000), (2.0, 1000)] {
                let (growing, _) = verdicts(servers, load, count, alike);
                assert!(
                    growing >= 294,
                    "{servers} servers, load {load}, {count} requests: {growing} of 300"
                );
            }
        }
    }

    #[test]
    fn few_requests_prove_nothing_and_many_do() {
        assert_eq!(judge(&[]), Saturation::Unknown);
        assert_eq!(judge(&[3; 399]), Saturation::Unknown);
        assert_eq!(judge(&[3; 400]), Saturation::Steady);
        // Less than four service times.
        assert_eq!(judge(&[200; 700]), Saturation::Unknown);
        // But what has grown has.
        let grown: Vec<usize> = (0..100).collect();
        assert_eq!(
            judge(&grown),
            Saturation::Growing {
                from: 4.5,
                to: 94.5
            }
        );
        assert_eq!(verdicts(8, 0.5, 1000, true), (0, 300));
    }

    #[test]
    fn in_flight_are_those_that_left_before_and_have_not_ended() {
        let times = [(0, 5), (1, 2), (3, 9), (5, 6), (10, 11)];
        assert_eq!(in_flight(&times, |_| true), [0, 1, 1, 1, 0]);
        assert_eq!(in_flight(&times, |at| at >= 5), [1, 0]);
    }
}

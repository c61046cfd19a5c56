//! The window of a load: what is measured of a stream of requests that goes on. The rules:
//!
//! 1. The load begins with a warm-up of its own kind. The window **opens** once the asked number of requests has ended
//!    and the asked time has passed, whichever is later.
//! 2. It **closes** once the asked number of requests that were meant to leave inside of it have ended and its asked
//!    length is reached, whichever is later; or before, at 100,000 requests meant to leave inside of it or at as many
//!    as make up 2,000,000 tokens.
//! 3. A request belongs to it if it was *meant to leave* inside of it: at its opening or later, and before its closing.
//!    Statistics of latency are over these requests, all of them, however late they end.
//! 4. So the load goes on, with new requests, until the last of them has ended: none of them sees a server that
//!    empties.
//! 5. Throughput counts the tokens that *arrived* inside of it, of any request, over its length.
//!
//! A request that failed has ended, too: what becomes of failures is for others to say.

use std::{collections::HashMap, time::Duration};

use super::Exchange;

/// Tokens in a window at most.
pub const MAX_TOKENS: u64 = 2_000_000;
/// Requests in a window at most.
pub const MAX_REQUESTS: u64 = 100_000;

/// The bounds that a window has to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Requests that have to end before it opens.
    pub warmup_requests: u64,
    /// Time that has to pass before it opens.
    pub warmup: Duration,
    /// Requests inside of it that have to end before it closes.
    pub iterations: u64,
    /// Its length at least.
    pub min_duration: Duration,
    /// Output tokens that each request asks for.
    pub tokens_each: u64,
}

/// A window, of a load that has begun at zero.
#[derive(Clone, Debug)]
pub struct Window {
    bounds: Bounds,
    warm: u64,
    opened: Option<Duration>,
    closed: Option<Duration>,
    /// When each request in flight was meant to leave.
    in_flight: HashMap<u64, Duration>,
    inside: u64,
    inside_ended: u64,
    /// When enough of them had ended.
    enough: Option<Duration>,
    /// Requests that were meant to leave before it closed, and have not ended. Known once it has closed.
    awaited: usize,
}

impl Window {
    /// A window that has not opened.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let mut window = Self {
            bounds,
            warm: 0,
            opened: None,
            closed: None,
            in_flight: HashMap::new(),
            inside: 0,
            inside_ended: 0,
            enough: None,
            awaited: 0,
        };
        window.passes(Duration::ZERO);
        window
    }

    /// Takes note that request `index` is meant to leave at `at`.
    pub fn intends(&mut self, index: u64, at: Duration) {
        self.passes(at);
        self.in_flight.insert(index, at);
        if self.is_inside(at) {
            self.inside += 1;
            let most = MAX_REQUESTS
                .min(MAX_TOKENS / self.bounds.tokens_each.max(1))
                .max(1);
            if self.closed.is_none() && self.inside >= most {
                // The border lies behind this one.
                self.close(at + Duration::from_nanos(1));
            }
        }
    }

    /// Takes note that request `index` has ended at `at`.
    pub fn ends(&mut self, index: u64, at: Duration) {
        let Some(intended) = self.in_flight.remove(&index) else {
            return;
        };
        if self.opened.is_none() {
            self.warm += 1;
        } else if self.is_inside(intended) {
            self.inside_ended += 1;
            if self.inside_ended >= self.bounds.iterations {
                self.enough.get_or_insert(at);
            }
        }
        if self.closed.is_some_and(|closed| intended < closed) {
            self.awaited -= 1;
        }
        self.passes(at);
    }

    /// Takes note that it is `now`.
    pub fn passes(&mut self, now: Duration) {
        if self.opened.is_none()
            && self.warm >= self.bounds.warmup_requests
            && now >= self.bounds.warmup
        {
            self.opened = Some(now);
            if self.bounds.iterations == 0 {
                self.enough = Some(now);
            }
        }
        if let (Some(opened), Some(enough), None) = (self.opened, self.enough, self.closed) {
            // Exactly there, not when somebody happened to look; requests since then are outside.
            let border = enough.max(opened + self.bounds.min_duration);
            if now >= border {
                self.close(border);
            }
        }
    }

    /// When it opened.
    #[must_use]
    pub const fn opened(&self) -> Option<Duration> {
        self.opened
    }

    /// When it closed.
    #[must_use]
    pub const fn closed(&self) -> Option<Duration> {
        self.closed
    }

    /// Whether it has closed and every request that was meant to leave before that has ended.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.closed.is_some() && self.awaited == 0
    }

    fn is_inside(&self, intended: Duration) -> bool {
        self.opened.is_some_and(|opened| intended >= opened)
            && self.closed.is_none_or(|closed| intended < closed)
    }

    fn close(&mut self, at: Duration) {
        self.closed = Some(at);
        // Requests of the warm-up, too: their tokens count in the window's throughput.
        self.awaited = self
            .in_flight
            .values()
            .filter(|&&intended| intended < at)
            .count();
    }
}

/// The borders of a window that has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Borders {
    /// Its first moment.
    pub opened: std::time::Instant,
    /// The moment after its last.
    pub closed: std::time::Instant,
}

impl Borders {
    /// Its length.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.closed.duration_since(self.opened)
    }

    /// Whether a moment lies inside of it.
    #[must_use]
    pub fn hold(&self, at: std::time::Instant) -> bool {
        at >= self.opened && at < self.closed
    }

    /// The requests that belong to it.
    pub fn requests<'a>(&self, exchanges: &'a [Exchange]) -> impl Iterator<Item = &'a Exchange> {
        let borders = *self;
        exchanges
            .iter()
            .filter(move |exchange| borders.hold(exchange.intended))
    }

    /// The output tokens that arrived inside of it, of any request.
    #[must_use]
    pub fn tokens(&self, exchanges: &[Exchange]) -> u64 {
        exchanges
            .iter()
            .flat_map(|exchange| &exchange.reply.arrivals)
            .filter(|arrival| self.hold(arrival.at))
            .map(|arrival| u64::from(arrival.tokens))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn bounds() -> Bounds {
        Bounds {
            warmup_requests: 2,
            warmup: ms(100),
            iterations: 3,
            min_duration: ms(1000),
            tokens_each: 10,
        }
    }

    #[test]
    fn it_opens_at_the_later_of_requests_and_time() {
        let mut window = Window::new(bounds());
        window.intends(0, ms(0));
        window.intends(1, ms(0));
        window.ends(0, ms(20));
        window.ends(1, ms(30));
        assert_eq!(window.opened(), None);
        window.passes(ms(120));
        assert_eq!(window.opened(), Some(ms(120)));

        let mut window = Window::new(bounds());
        window.intends(0, ms(0));
        window.intends(1, ms(0));
        window.ends(0, ms(20));
        window.passes(ms(150));
        assert_eq!(window.opened(), None);
        window.ends(1, ms(160));
        assert_eq!(window.opened(), Some(ms(160)));
    }

    #[test]
    fn without_a_warm_up_it_is_open_from_the_start() {
        let window = Window::new(Bounds {
            warmup_requests: 0,
            warmup: Duration::ZERO,
            ..bounds()
        });
        assert_eq!(window.opened(), Some(Duration::ZERO));
    }

    /// One after the other from zero, so long each.
    fn run(window: &mut Window, each: Duration) -> (Vec<(Duration, Duration)>, Duration) {
        let mut requests = Vec::new();
        let mut now = Duration::ZERO;
        for index in 0.. {
            if window.is_over() {
                break;
            }
            window.intends(index, now);
            let intended = now;
            now += each;
            window.ends(index, now);
            requests.push((intended, now));
        }
        (requests, now)
    }

    #[test]
    fn it_closes_at_the_later_of_iterations_and_length() {
        // Long requests: the third that left inside of it ends 1.2 s after it opened.
        let mut window = Window::new(bounds());
        run(&mut window, ms(400));
        assert_eq!(window.opened(), Some(ms(800)));
        assert_eq!(window.closed(), Some(ms(2000)));
        // Short ones: its length decides, exactly, and the load goes on until the one across the border has ended.
        let mut window = Window::new(bounds());
        let (_, end) = run(&mut window, ms(70));
        assert_eq!(window.opened(), Some(ms(140)));
        assert_eq!(window.closed(), Some(ms(1140)));
        assert_eq!(end, ms(1190));
    }

    #[test]
    fn it_waits_for_those_of_the_warm_up_as_well() {
        let mut window = Window::new(Bounds {
            warmup_requests: 0,
            warmup: ms(10),
            iterations: 1,
            ..bounds()
        });
        window.intends(0, ms(0));
        window.intends(1, ms(20));
        window.ends(1, ms(30));
        window.passes(ms(1200));
        assert_eq!(window.closed(), Some(ms(1020)));
        window.intends(2, ms(1200));
        assert!(!window.is_over());
        window.ends(0, ms(1300));
        assert!(window.is_over());
    }

    #[test]
    fn it_holds_a_bounded_number_of_requests_and_tokens() {
        let mut window = Window::new(Bounds {
            warmup_requests: 0,
            warmup: Duration::ZERO,
            iterations: u64::MAX,
            tokens_each: 100_000,
            ..bounds()
        });
        for index in 0..20 {
            window.intends(index, ms(index));
        }
        assert!(window.closed().is_some_and(|closed| closed > ms(19)));
        window.intends(20, ms(20));
        for index in 0..20 {
            assert!(!window.is_over());
            window.ends(index, ms(30));
        }
        assert!(window.is_over());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// For all loads: it is over only when everything that left before its end has ended, it is as long as asked,
        /// and enough requests lie inside.
        #[test]
        fn what_it_promises_holds(
            lasts in proptest::collection::vec(1_u64..500, 400),
            streams in 1_usize..9,
            warmup_requests in 0_u64..10,
            warmup in 0_u64..500,
            iterations in 0_u64..20,
            min_duration in 0_u64..1000,
        ) {
            let mut window = Window::new(Bounds {
                warmup_requests,
                warmup: ms(warmup),
                iterations,
                min_duration: ms(min_duration),
                tokens_each: 1,
            });
            let mut free = vec![ms(0); streams];
            let mut flying: Vec<(Duration, u64, usize, Duration)> = Vec::new();
            let mut all = Vec::new();
            let mut lasts = lasts.into_iter().cycle();
            let mut index = 0;
            let mut now = ms(0);
            while !window.is_over() {
                for (stream, &since) in free.iter().enumerate() {
                    if !flying.iter().any(|request| request.2 == stream) {
                        window.intends(index, since);
                        flying.push((since + ms(lasts.next().unwrap_or(1)), index, stream, since));
                        index += 1;
                    }
                }
                let next = flying.iter().enumerate().min_by_key(|(_, request)| request.0).map(|(at, _)| at);
                let (end, index, stream, intended) = flying.remove(next.unwrap_or(0));
                now = end;
                window.ends(index, end);
                free[stream] = end;
                all.push((intended, end));
            }
            let (opened, closed) = (window.opened().unwrap_or_default(), window.closed().unwrap_or_default());
            prop_assert!(opened >= ms(warmup) && closed >= opened + ms(min_duration) && now >= closed);
            prop_assert!(all.iter().filter(|(_, end)| *end <= opened).count() as u64 >= warmup_requests);
            let inside = all.iter().filter(|(intended, end)| *intended >= opened && *intended < closed && *end <= closed);
            prop_assert!(inside.count() as u64 >= iterations);
            prop_assert!(flying.iter().all(|request| request.3 >= closed));
        }
    }
}

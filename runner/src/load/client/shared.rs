//! The state that the client's tasks share: the streams, the requests that are made, wait and are in flight, and how these
//! pass from one to the other.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::super::{
    Exchange, LoadEnding, Progress, RequestLoad,
    error::RequestError,
    io::nanos,
    lag::{Lag, Quantiles, thread_cpu},
    stream::{Cancel, Command, Common, Finished, Job, Slot, Stream},
    window::{Borders, Window},
};

/// How often a run looks whether it is to stop and what has taken too long.
const TICK: Duration = Duration::from_millis(50);
/// How long the end of a body may be awaited after `[DONE]`.
const AFTER_DONE: Duration = Duration::from_secs(1);
/// Bytes of responses that are kept to be counted later: of those that have ended, and of those in flight.
const MAX_KEPT: usize = 128 << 20;
/// Bodies that are made ahead, at most.
const MAX_STOCK: usize = 1024;
/// Bodies that are made before the sockets are looked at again.
const MADE_AT_ONCE: usize = 8;

/// The state that the client's tasks share. All of them run on the thread that is inside of the client: locks are never
/// waited for.
pub(super) struct Shared {
    pub(super) common: Arc<Common>,
    pub(super) slots: Mutex<Vec<Arc<Slot>>>,
    pub(super) core: Mutex<Core>,
    pub(super) root: Notify,
}

/// The state of what is going on.
#[derive(Default)]
pub(super) struct Core {
    mode: Mode,
    /// New requests are sent.
    pub(super) sending: bool,
    pub(super) in_flight: usize,
    pub(super) window: Option<(u64, Window)>,
    /// Bodies that are made, and the number of the next.
    stock: VecDeque<(u64, Bytes)>,
    stock_wanted: usize,
    next_index: u64,
    /// Requests that are meant to have left and have no body yet, with their stream where they have one.
    unmade: VecDeque<(u64, u64, Option<usize>)>,
    /// Requests that wait for a stream.
    waiting: VecDeque<Job>,
    /// Streams without a request, those whose connection was used last at the end.
    pub(super) idle: Vec<usize>,
    finished: Vec<Exchange>,
    /// Ended, not counted yet, and how many bytes they keep.
    raw: Vec<Finished>,
    raw_bytes: usize,
    failures: u64,
    pub(super) longest: u64,
    pub(super) waited: u64,
    pub(super) probes: Vec<(u64, u64)>,
    pub(super) opening: Opening,
    pub(super) fault: Option<std::io::Error>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Batch,
    Closed,
    Open {
        most: usize,
    },
}

#[derive(Default)]
pub(super) struct Opening {
    pub(super) left: usize,
    pub(super) error: Option<RequestError>,
}

impl Shared {
    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn slots(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> u64 {
        nanos(self.common.base.elapsed())
    }

    pub(super) fn at(&self, nanos: u64) -> Instant {
        self.common.base + Duration::from_nanos(nanos)
    }

    pub(super) fn add_slot(self: &Arc<Self>) -> Arc<Slot> {
        let mut slots = self.slots();
        let slot = Arc::new(Slot::new(slots.len()));
        slots.push(Arc::clone(&slot));
        let stream = Stream::new(Arc::clone(&self.common), Arc::clone(&slot));
        tokio::spawn(serve(stream, Arc::clone(&slot), Arc::clone(self)));
        slot
    }

    /// Takes note of how a [`Command::Connect`] ended.
    fn connected(&self, result: Result<(), RequestError>) {
        let opening = &mut self.core().opening;
        opening.left -= 1;
        if let Err(error) = result {
            opening.error.get_or_insert(error);
        }
        self.root.notify_one();
    }

    pub(super) fn begin(&self, mode: Mode, limit: Duration, streams: usize) {
        let settle_at = (MAX_KEPT / streams.max(1)).clamp(8 << 10, 1 << 20);
        self.common.limit.store(nanos(limit), Relaxed);
        self.common.settle_at.store(settle_at, Relaxed);
        self.common.connects.store(0, Relaxed);
        let mut core = self.core();
        *core = Core {
            mode,
            stock_wanted: match mode {
                Mode::Batch => 0,
                Mode::Closed | Mode::Open { .. } => streams.clamp(16, MAX_STOCK),
            },
            ..Core::default()
        };
    }

    /// Makes bodies that are wanted, a few at a time, and sends those that should have left; says whether more are
    /// wanted.
    pub(super) fn make(self: &Arc<Self>, bodies: &mut dyn FnMut(u64) -> Bytes) -> bool {
        for _ in 0..MADE_AT_ONCE {
            let (index, late) = {
                let mut core = self.core();
                match core.unmade.pop_front() {
                    Some((index, intended, slot)) => (index, Some((intended, slot))),
                    None if core.stock.len() < core.stock_wanted => (core.number(), None),
                    None => return false,
                }
            };
            let body = bodies(index);
            let mut core = self.core();
            match late {
                None => core.stock.push_back((index, body)),
                Some((intended, slot)) => {
                    let job = Job {
                        index,
                        body,
                        intended,
                    };
                    self.assign(&mut core, job, slot);
                }
            }
        }
        true
    }

    /// Sends the next request, which is meant to leave at `intended`.
    pub(super) fn dispatch(self: &Arc<Self>, intended: u64) {
        let mut core = self.core();
        match core.stock.pop_front() {
            Some((index, body)) => {
                core.intends(index, intended);
                self.assign(
                    &mut core,
                    Job {
                        index,
                        body,
                        intended,
                    },
                    None,
                );
            }
            None => core.postpone(intended, None),
        }
        if core.stock.len() < core.stock_wanted / 2 {
            self.root.notify_one();
        }
    }

    /// Gives a request to a stream: this one, or an idle or a new one, or the first that will be free.
    fn assign(self: &Arc<Self>, core: &mut Core, job: Job, slot: Option<usize>) {
        match slot.or_else(|| core.idle.pop()) {
            Some(slot) => {
                core.in_flight += 1;
                let slot = Arc::clone(&self.slots()[slot]);
                slot.tell(Command::Send(job));
            }
            None if matches!(core.mode, Mode::Open { most } if core.in_flight < most) => {
                core.in_flight += 1;
                self.add_slot().tell(Command::Send(job));
            }
            None => {
                core.waited += 1;
                core.waiting.push_back(job);
            }
        }
    }

    /// Takes note that a request has ended, and says what its stream does next.
    fn ended(&self, slot: &Slot, finished: Finished) -> Option<Job> {
        let mut core = self.core();
        let (index, ended) = (finished.index, finished.ended);
        core.in_flight -= 1;
        core.failures += u64::from(finished.failure.is_some());
        core.longest = core.longest.max(ended.saturating_sub(finished.intended));
        if let Some((start, window)) = &mut core.window {
            window.ends(index, Duration::from_nanos(ended.saturating_sub(*start)));
            if window.is_over() {
                self.root.notify_one();
            }
        }
        let kept = finished.recording.kept();
        if core.raw_bytes + kept > MAX_KEPT {
            let exchange = Exchange::of(finished, self.common.base);
            core.finished.push(exchange);
        } else {
            core.raw_bytes += kept;
            core.raw.push(finished);
        }
        let next = match core.mode {
            Mode::Closed if core.sending => match core.stock.pop_front() {
                Some((index, body)) => {
                    core.intends(index, ended);
                    Some(Job {
                        index,
                        body,
                        intended: ended,
                    })
                }
                None => {
                    core.postpone(ended, Some(slot.number));
                    None
                }
            },
            Mode::Open { .. } if core.sending => {
                let next = core.waiting.pop_front();
                if next.is_none() {
                    core.idle.push(slot.number);
                }
                next
            }
            _ => None,
        };
        core.in_flight += usize::from(next.is_some());
        if core.in_flight == 0 || core.stock.len() < core.stock_wanted / 2 {
            self.root.notify_one();
        }
        next
    }

    /// Keeps a run going until it ends; says how, and how much the thread computed inside of the window.
    pub(super) async fn watch(
        self: &Arc<Self>,
        load: &RequestLoad,
        bodies: &mut dyn FnMut(u64) -> Bytes,
        stop: &mut dyn FnMut(Progress) -> bool,
    ) -> (LoadEnding, (Duration, Duration)) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut opened = None;
        let mut used = None;
        let mut told = Progress::WarmingUp;
        let mut looked = self.now();
        let ending = loop {
            if self.make(bodies) {
                // Events that have come meanwhile are read first.
                tokio::task::yield_now().await;
            } else {
                tokio::select! {
                    _ = tick.tick() => {}
                    () = self.root.notified() => {}
                }
            }
            let now = self.now();
            let is_time = now - looked >= nanos(TICK);
            let (is_over, failures, progress) = {
                let mut core = self.core();
                let failures = core.failures;
                let Some((start, window)) = &mut core.window else {
                    break LoadEnding::Stopped;
                };
                window.passes(Duration::from_nanos(now - *start));
                let meter = || (thread_cpu(), Duration::from_nanos(now));
                if window.opened().is_some() && opened.is_none() {
                    opened = Some(meter());
                }
                if window.closed().is_some() && used.is_none() {
                    used = opened.map(|(cpu, at)| {
                        (
                            thread_cpu().saturating_sub(cpu),
                            Duration::from_nanos(now) - at,
                        )
                    });
                }
                let progress = match (opened, window.closed()) {
                    (None, _) => Progress::WarmingUp,
                    (Some(_), None) => Progress::InWindow,
                    (Some(_), Some(_)) => Progress::Closed,
                };
                (window.is_over(), failures, progress)
            };
            if is_over {
                stop(progress);
                break LoadEnding::Complete;
            }
            if failures > load.max_failures {
                break LoadEnding::Failures;
            }
            if is_time {
                looked = now;
                let slots = self.slots();
                for slot in slots.iter() {
                    slot.sweep(now, load.limit, AFTER_DONE);
                }
            }
            if (is_time || progress != told) && stop(progress) || self.core().fault.is_some() {
                break LoadEnding::Stopped;
            }
            told = progress;
        };
        (ending, used.unwrap_or_default())
    }

    /// Awaits what is in flight; after `patience`, or where it is to stop, cuts it off.
    pub(super) async fn drain(
        &self,
        slots: &[Arc<Slot>],
        limit: Duration,
        patience: Option<Duration>,
        stop: &mut dyn FnMut() -> bool,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let began = self.now();
        let mut cut = false;
        while self.core().in_flight > 0 {
            let now = self.now();
            let out_of_patience = patience.is_some_and(|patience| now - began >= nanos(patience));
            if cut || out_of_patience || stop() {
                cut = true;
                for slot in slots {
                    slot.cancel(Cancel::Cut);
                }
            } else {
                for slot in slots {
                    slot.sweep(now, limit, AFTER_DONE);
                }
            }
            // Woken when the last has ended.
            tokio::select! {
                _ = tick.tick() => {}
                () = self.root.notified() => {}
            }
        }
    }

    /// All requests, counted, in the order of their numbers, and the lag of those inside of a window; `cpu` is the time
    /// that the thread computed, and in which time.
    pub(super) fn take(
        &self,
        cpu: (Duration, Duration),
        window: Option<&Borders>,
    ) -> (Vec<Exchange>, Lag) {
        let core = std::mem::take(&mut *self.core());
        let mut exchanges = core.finished;
        exchanges.extend(
            core.raw
                .into_iter()
                .map(|finished| Exchange::of(finished, self.common.base)),
        );
        exchanges.sort_unstable_by_key(|exchange| exchange.index);
        let is_inside = |at: Instant| window.is_none_or(|window| window.hold(at));
        let send = exchanges
            .iter()
            .filter(|exchange| is_inside(exchange.intended));
        let stamp = core
            .probes
            .iter()
            .filter(|(due, _)| is_inside(self.at(*due)));
        let lag = Lag {
            send: Quantiles::of(send.filter_map(Exchange::send_lag).collect()),
            stamp: Quantiles::of(stamp.map(|&(_, late)| Duration::from_nanos(late)).collect()),
            cpu: cpu.0,
            wall: cpu.1,
        };
        (exchanges, lag)
    }
}

impl Core {
    /// The number of the next request.
    const fn number(&mut self) -> u64 {
        self.next_index += 1;
        self.next_index - 1
    }

    /// Takes note that a request is meant to leave.
    fn intends(&mut self, index: u64, at: u64) {
        if let Some((start, window)) = &mut self.window {
            window.intends(index, Duration::from_nanos(at.saturating_sub(*start)));
        }
    }

    /// Takes note of a request whose body is not made yet.
    fn postpone(&mut self, intended: u64, slot: Option<usize>) {
        let index = self.number();
        self.intends(index, intended);
        self.unmade.push_back((index, intended, slot));
    }
}

/// A stream's whole life: waits for commands and carries them out, for as long as the client lives.
async fn serve(mut stream: Stream, slot: Arc<Slot>, shared: Arc<Shared>) {
    loop {
        match stream.next().await {
            Command::Connect => shared.connected(stream.connect().await),
            Command::Send(job) => {
                let mut job = Some(job);
                while let Some(one) = job {
                    job = shared.ended(&slot, stream.perform(one).await);
                }
            }
        }
    }
}

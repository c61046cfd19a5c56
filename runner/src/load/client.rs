//! The client: its event loop, its streams, and what they do when one request has ended.

use std::{
    collections::VecDeque,
    net::ToSocketAddrs,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{runtime::Runtime, sync::Notify};
use tokio_rustls::TlsConnector;
use url::Url;

use super::{
    BatchRun, Exchange, LoadEnding, Progress, RequestLoad, Run, Target,
    alarm::Alarm,
    arrivals::{Arrivals, Poisson},
    error::{ClientError, RequestError},
    io::nanos,
    lag::{Lag, Quantiles, thread_cpu},
    saturation::{self, Saturation},
    stream::{Cancel, Command, Common, Finished, Job, Route, Slot, Stream},
    window::{Borders, Window},
};

/// How often a run looks whether it is to stop and what has taken too long.
const TICK: Duration = Duration::from_millis(50);
/// How often the lag of stamps is looked at.
const PROBE: Duration = Duration::from_millis(5);
/// How long the end of a body may be awaited after `[DONE]`.
const AFTER_DONE: Duration = Duration::from_secs(1);
/// Connections that are being opened at a time: more overflow the queues in which servers keep them.
const OPENING: usize = 64;
/// Bytes of responses that are kept to be counted later: of those that have ended, and of those in flight.
const MAX_KEPT: usize = 128 << 20;
/// Descriptors that are left to the rest of the process.
const OTHER_FILES: usize = 64;
/// Bodies that are made ahead, at most.
const MAX_STOCK: usize = 1024;
/// Bodies that are made before the sockets are looked at again.
const MADE_AT_ONCE: usize = 8;

/// A client of one target, with its streams.
pub struct Client {
    runtime: Runtime,
    shared: Arc<Shared>,
    warm: usize,
}

/// The state that the client's tasks share. All of them run on the thread that is inside of the client: locks are never
/// waited for.
struct Shared {
    common: Arc<Common>,
    slots: Mutex<Vec<Arc<Slot>>>,
    core: Mutex<Core>,
    root: Notify,
}

/// The state of what is going on.
#[derive(Default)]
struct Core {
    mode: Mode,
    /// New requests are sent.
    sending: bool,
    in_flight: usize,
    window: Option<(u64, Window)>,
    /// Bodies that are made, and the number of the next.
    stock: VecDeque<(u64, Bytes)>,
    stock_wanted: usize,
    next_index: u64,
    /// Requests that are meant to have left and have no body yet, with their stream where they have one.
    unmade: VecDeque<(u64, u64, Option<usize>)>,
    /// Requests that wait for a stream.
    waiting: VecDeque<Job>,
    /// Streams without a request, those whose connection was used last at the end.
    idle: Vec<usize>,
    finished: Vec<Exchange>,
    /// Ended, not counted yet, and how many bytes they keep.
    raw: Vec<Finished>,
    raw_bytes: usize,
    failures: u64,
    longest: u64,
    waited: u64,
    probes: Vec<(u64, u64)>,
    opening: Opening,
    fault: Option<std::io::Error>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Batch,
    Closed,
    Open {
        most: usize,
    },
}

#[derive(Default)]
struct Opening {
    left: usize,
    error: Option<RequestError>,
}

impl Client {
    /// Opens `streams` connections to the target.
    ///
    /// # Errors
    /// Where the target cannot be what it says, or a connection does not come about.
    pub fn connect(target: &Target, streams: usize) -> Result<Self, ClientError> {
        allowed(streams)?;
        let route = route(target)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Between two looks at the sockets, every one that was readable may be read.
            .event_interval(256)
            .max_io_events_per_tick(1024)
            .build()
            .map_err(ClientError::Start)?;
        let mut client = Self {
            runtime,
            shared: Arc::new(Shared {
                common: Arc::new(Common::new(route)),
                slots: Mutex::default(),
                core: Mutex::default(),
                root: Notify::new(),
            }),
            warm: 0,
        };
        client.prepare(streams)?;
        client.warm = streams;
        Ok(client)
    }

    /// Sends all bodies at once, each over a stream of its own, and awaits all of them. `stop` is asked every 50 ms
    /// whether to give up.
    ///
    /// # Errors
    /// Where a connection that is missing does not come about.
    pub fn batch(
        &mut self,
        bodies: Vec<Bytes>,
        limit: Duration,
        stop: &mut dyn FnMut() -> bool,
    ) -> Result<BatchRun, ClientError> {
        allowed(bodies.len())?;
        self.prepare(bodies.len())?;
        let shared = Arc::clone(&self.shared);
        shared.begin(Mode::Batch, limit, bodies.len());
        let (started, cpu) = self.runtime.block_on(async {
            let probe = tokio::spawn(probe(Arc::clone(&shared)));
            let slots = shared.slots().clone();
            shared.core().in_flight = bodies.len();
            let cpu = thread_cpu();
            let intended = shared.now();
            for (index, (body, slot)) in (0..).zip(bodies.into_iter().zip(&slots)) {
                slot.tell(Command::Send(Job {
                    index,
                    body,
                    intended,
                }));
            }
            shared.drain(&slots, limit, None, stop).await;
            probe.abort();
            let wall = Duration::from_nanos(shared.now() - intended);
            (
                shared.at(intended),
                (thread_cpu().saturating_sub(cpu), wall),
            )
        });
        let (exchanges, lag) = shared.take(cpu, None);
        Ok(BatchRun {
            started,
            exchanges,
            lag,
        })
    }

    /// Keeps up a load until its window is over (see [`window`](super::window)), or `stop`, asked every 50 ms and when the
    /// window opens and closes, says so, or too many requests have failed. `bodies` makes the body of each request by its number, ahead of its time.
    ///
    /// # Errors
    /// Where a connection that is missing does not come about.
    pub fn run(
        &mut self,
        load: &RequestLoad,
        bodies: &mut dyn FnMut(u64) -> Bytes,
        stop: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Run, ClientError> {
        let most = load.arrivals.most();
        allowed(most)?;
        let (mode, ready) = match load.arrivals {
            Arrivals::Closed { streams } => (Mode::Closed, streams),
            Arrivals::Open { .. } => (Mode::Open { most }, most.min(self.warm)),
        };
        self.prepare(ready)?;
        let shared = Arc::clone(&self.shared);
        shared.begin(mode, load.limit, most);
        let (ending, start, cpu) = self.runtime.block_on(async {
            while shared.make(bodies) {}
            let probe = tokio::spawn(probe(Arc::clone(&shared)));
            let start = shared.now();
            {
                let mut core = shared.core();
                core.window = Some((start, Window::new(load.bounds)));
                core.sending = true;
                core.idle = (0..shared.slots().len().min(most)).rev().collect();
            }
            let pacer = match load.arrivals {
                Arrivals::Closed { streams } => {
                    for _ in 0..streams {
                        shared.dispatch(start);
                    }
                    None
                }
                Arrivals::Open {
                    per_second, seed, ..
                } => {
                    let times = Poisson::new(per_second, seed);
                    Some(tokio::spawn(pace(Arc::clone(&shared), start, times)))
                }
            };
            let (ending, cpu) = shared.watch(load, bodies, stop).await;
            shared.core().sending = false;
            if let Some(pacer) = pacer {
                pacer.abort();
            }
            let slots = shared.slots().clone();
            // Requests that are still in flight left after the window. The next load is not to find them on the server;
            // but where they take longer than any request so far, there is a backlog, and it is cut off.
            let patience = match ending {
                LoadEnding::Complete => Duration::from_nanos(shared.core().longest),
                LoadEnding::Stopped | LoadEnding::Failures => Duration::ZERO,
            };
            let mut stop = || stop(Progress::Closed);
            shared
                .drain(&slots, load.limit, Some(patience), &mut stop)
                .await;
            probe.abort();
            (ending, start, cpu)
        });
        let (window, fault, waited) = {
            let mut core = shared.core();
            (core.window.take(), core.fault.take(), core.waited)
        };
        if let Some(fault) = fault {
            return Err(ClientError::Start(fault));
        }
        let at = |offset: Duration| shared.at(start) + offset;
        let window = window
            .and_then(|(_, window)| window.opened().zip(window.closed()))
            .map(|(opened, closed)| Borders {
                opened: at(opened),
                closed: at(closed),
            });
        let (exchanges, lag) = shared.take(cpu, window.as_ref());
        let saturation = match (load.arrivals, window) {
            (Arrivals::Open { .. }, Some(borders)) => saturation::of(&exchanges, &borders),
            _ => Saturation::DoesNotApply,
        };
        Ok(Run {
            started: shared.at(start),
            window,
            ending,
            exchanges,
            lag,
            saturation,
            waited,
            connects: shared.common.connects.load(Relaxed),
        })
    }

    /// Sees to it that the first `streams` streams are there and connected.
    fn prepare(&mut self, streams: usize) -> Result<(), ClientError> {
        let shared = Arc::clone(&self.shared);
        self.runtime.block_on(async {
            // Connections that servers have closed since the last time are noticed only now.
            tokio::task::yield_now().await;
            while shared.slots().len() < streams {
                shared.add_slot();
            }
            let slots = shared.slots().clone();
            shared.core().opening = Opening {
                left: streams,
                error: None,
            };
            let mut told = 0;
            loop {
                let left = {
                    let opening = &mut shared.core().opening;
                    if opening.error.is_some() {
                        // Streams that got no command are not awaited.
                        opening.left -= streams - told;
                        told = streams;
                    }
                    opening.left
                };
                if left == 0 {
                    break;
                }
                while told < streams && told - (streams - left) < OPENING {
                    slots[told].tell(Command::Connect);
                    told += 1;
                }
                shared.root.notified().await;
            }
            let error = shared.core().opening.error.take();
            error.map_or(Ok(()), |error| Err(error.into()))
        })
    }
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        nanos(self.common.base.elapsed())
    }

    fn at(&self, nanos: u64) -> Instant {
        self.common.base + Duration::from_nanos(nanos)
    }

    fn add_slot(self: &Arc<Self>) -> Arc<Slot> {
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

    fn begin(&self, mode: Mode, limit: Duration, streams: usize) {
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
    fn make(self: &Arc<Self>, bodies: &mut dyn FnMut(u64) -> Bytes) -> bool {
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
    fn dispatch(self: &Arc<Self>, intended: u64) {
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
    async fn watch(
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
    async fn drain(
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
    fn take(&self, cpu: (Duration, Duration), window: Option<&Borders>) -> (Vec<Exchange>, Lag) {
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

/// Sends requests at the times of an open loop.
async fn pace(shared: Arc<Shared>, start: u64, times: Poisson) {
    let alarm = match Alarm::new() {
        Ok(alarm) => alarm,
        Err(error) => {
            shared.core().fault = Some(error);
            return;
        }
    };
    for offset in times {
        let at = shared.at(start) + offset;
        // However late it is, what has come is read in between.
        if at <= Instant::now() {
            tokio::task::yield_now().await;
        } else if let Err(error) = alarm.until(at).await {
            shared.core().fault = Some(error);
            return;
        }
        shared.dispatch(start + nanos(offset));
    }
}

/// Takes note of how late a timer is seen that went off among the sockets.
async fn probe(shared: Arc<Shared>) {
    let Ok(alarm) = Alarm::new() else { return };
    loop {
        let due = Instant::now() + PROBE;
        if alarm.until(due).await.is_err() {
            return;
        }
        let late = nanos(due.elapsed());
        let due = nanos(due.duration_since(shared.common.base));
        shared.core().probes.push((due, late));
    }
}

/// Whether there can be this number of streams.
fn allowed(streams: usize) -> Result<(), ClientError> {
    let most = most_streams(streams);
    if streams == 0 || streams > most {
        return Err(ClientError::Streams { streams, most });
    }
    Ok(())
}

/// Streams that the limit of open files allows; it is raised for `wanted` as far as it may be.
fn most_streams(wanted: usize) -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a limit of ours.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return wanted;
    }
    let needed = libc::rlim_t::try_from(wanted + OTHER_FILES).unwrap_or(libc::rlim_t::MAX);
    if limit.rlim_cur < needed && limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit {
            rlim_cur: needed.min(limit.rlim_max),
            ..limit
        };
        // SAFETY: as above.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            limit = raised;
        }
    }
    usize::try_from(limit.rlim_cur)
        .unwrap_or(usize::MAX)
        .saturating_sub(OTHER_FILES)
}

/// The way to a target.
fn route(target: &Target) -> Result<Route, ClientError> {
    let wrong = |reason: &str| ClientError::Url {
        url: target.url.clone(),
        reason: reason.to_owned(),
    };
    let url = Url::parse(&target.url).map_err(|error| wrong(&error.to_string()))?;
    let is_tls = match url.scheme() {
        "http" => false,
        "https" => true,
        _ => return Err(wrong("neither http nor https")),
    };
    let host = url.host_str().ok_or_else(|| wrong("no host"))?;
    let port = url
        .port_or_known_default()
        .ok_or_else(|| wrong("no port"))?;
    // An IPv6 address stands in brackets in a URL alone.
    let bare = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let addresses: Vec<_> = (bare.as_str(), port)
        .to_socket_addrs()
        .map_err(|source| ClientError::Resolve {
            host: bare.clone(),
            source,
        })?
        .collect();
    let tls = if is_tls {
        let name = ServerName::try_from(bare.clone()).map_err(|error| wrong(&error.to_string()))?;
        Some((TlsConnector::from(Arc::new(tls(target)?)), name))
    } else {
        None
    };
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let authority = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let mut headers = HeaderMap::new();
    let value = |name: &str, value: &str| {
        HeaderValue::from_str(value).map_err(|_| ClientError::Header {
            name: name.to_owned(),
            reason: "its value has characters that cannot be sent".into(),
        })
    };
    headers.insert(header::HOST, value("host", &authority)?);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::ACCEPT,
        HeaderValue::from_static("text/event-stream"),
    );
    for (name, text) in &target.headers {
        let parsed =
            HeaderName::from_bytes(name.as_bytes()).map_err(|error| ClientError::Header {
                name: name.clone(),
                reason: error.to_string(),
            })?;
        headers.insert(parsed, value(name, text)?);
    }
    Ok(Route {
        name: format!("{host}:{port}"),
        addresses,
        tls,
        path: path
            .parse::<Uri>()
            .map_err(|error| wrong(&error.to_string()))?,
        headers,
        rule: target.rule,
    })
}

/// The roots that TLS trusts: the target's own, or those of every client.
fn tls(target: &Target) -> Result<ClientConfig, ClientError> {
    let mut roots = RootCertStore::empty();
    match &target.roots {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate =
                    certificate.map_err(|error| ClientError::Roots(error.to_string()))?;
                roots
                    .add(certificate)
                    .map_err(|error| ClientError::Roots(error.to_string()))?;
            }
        }
        None => roots = crate::tls::roots(),
    }
    if roots.is_empty() {
        return Err(ClientError::Roots("none was found".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Roots(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

//! The client: its event loop, and the loads that it runs over its streams.

mod shared;
mod target;

use std::{
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{runtime::Runtime, sync::Notify};

use self::{
    shared::{Mode, Opening, Shared},
    target::{allowed, route},
};
use super::{
    BatchRun, LoadEnding, Progress, RequestLoad, Run, Target,
    alarm::Alarm,
    arrivals::{Arrivals, Poisson},
    error::ClientError,
    io::nanos,
    lag::thread_cpu,
    saturation::{self, Saturation},
    stream::{Command, Common, Job},
    window::{Borders, Window},
};

/// How often the lag of stamps is looked at.
const PROBE: Duration = Duration::from_millis(5);
/// Connections that are being opened at a time: more overflow the queues in which servers keep them.
const OPENING: usize = 64;

/// A client of one target, with its streams.
pub struct Client {
    runtime: Runtime,
    shared: Arc<Shared>,
    warm: usize,
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

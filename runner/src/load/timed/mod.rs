//! A server whose every byte has a known time, to hold a client against. It plays scripts: bytes, and how long after
//! the request each lot of them is written; and keeps when it really wrote them. One thread and raw epoll, so that a
//! thousand streams at a token every 5 ms are no trouble. Shared by the tests and the example `client_accuracy`.

mod scripts;
mod server;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

pub use self::{scripts::script, server::serve};

/// From a request to its first token, where a script does not say otherwise.
pub const FIRST: Duration = Duration::from_millis(20);
/// From one token to the next.
pub const EACH: Duration = Duration::from_millis(5);
/// Prompt tokens that every script says it was given.
pub const PROMPT: u64 = 7;

/// Bytes that are written together.
#[derive(Clone, Debug)]
pub struct Step {
    /// How long after the request.
    pub after: Duration,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// How many tokens are complete with them.
    pub tokens: u32,
}

/// The fate of a connection after a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It takes the next request.
    Stay,
    /// It is closed.
    Close,
    /// It is reset.
    Reset,
    /// Nothing more is written, and it stays open.
    Hang,
}

/// A response, and when it is written.
#[derive(Clone, Debug)]
pub struct Script {
    /// In the order of their times.
    pub steps: Vec<Step>,
    /// And then.
    pub then: Then,
}

/// The record of the writes to one request.
#[derive(Clone, Debug)]
pub struct Truth {
    /// The number in the request's field `user`.
    pub request: u64,
    /// When its last byte had been read: ns of the monotonic clock.
    pub received: u64,
    /// When the write of each step began, which is the earliest moment at which its bytes could be read.
    pub written: Vec<u64>,
}

/// The monotonic clock, in ns: the one behind `Instant`, so that its times mean the same in another process.
#[must_use]
pub fn monotonic() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The pair of clock readings that turns moments into times of the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    instant: std::time::Instant,
    nanos: u64,
}

impl Clock {
    /// Reads both clocks, anew until nothing came in between.
    #[must_use]
    pub fn read() -> Self {
        loop {
            let nanos = monotonic();
            let instant = std::time::Instant::now();
            if monotonic() - nanos < 1_000 {
                return Self { instant, nanos };
            }
        }
    }

    /// A moment that has passed, in ns.
    #[must_use]
    pub fn nanos(&self, at: std::time::Instant) -> u64 {
        self.nanos - self.instant.saturating_duration_since(at).as_nanos() as u64
    }
}

/// A server in a thread of this process.
pub struct Timed {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Truth>>>,
}

impl Timed {
    /// Starts it on a free port.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || serve(&listener, &told).unwrap_or_default());
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// Stops it; what it wrote.
    pub fn stop(mut self) -> Vec<Truth> {
        self.stop.store(true, Relaxed);
        self.thread
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

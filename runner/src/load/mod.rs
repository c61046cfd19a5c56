//! Loads on a server that speaks OpenAI's completions API: requests that leave when they are meant to, and the times of
//! what comes back.
//!
//! [`Client`] keeps warm connections to one target and sends bodies that were made beforehand, all at once
//! ([`Client::batch`]) or as [`arrivals`] says until a [`window`] is over ([`Client::run`]). Time is taken where a read
//! returns, before anything is parsed; what was read is told apart into [`events`] and [`count`]ed as the server counts
//! when the requests have ended. The client watches itself ([`lag`]), and whether an open loop outruns the server
//! ([`saturation`]).
//!
//! Everything runs on the thread that calls the client, and nothing else should run there.

use std::time::{Duration, Instant};

mod alarm;
pub mod arrivals;
mod client;
pub mod count;
mod error;
pub mod events;
mod io;
pub mod lag;
mod recording;
mod rule;
pub mod saturation;
mod stream;
pub mod window;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod timed;

pub use arrivals::Arrivals;
pub use client::Client;
pub use count::{Arrival, Reply};
pub use error::{ClientError, RequestError};
pub use lag::Lag;
pub use rule::Rule;
pub use saturation::Saturation;

/// The address of a server, and how it is to be understood.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where requests go: `http://host:port/v1/completions`, or `https`.
    pub url: String,
    /// Headers of every request besides host, content type and accept.
    pub headers: Vec<(String, String)>,
    /// Certificates to trust, in PEM; absent: those that the machine trusts.
    pub roots: Option<Vec<u8>>,
    /// How tokens are counted.
    pub rule: Rule,
}

/// A load that goes on until its window is over.
#[derive(Clone, Copy, Debug)]
pub struct RequestLoad {
    /// When requests are meant to leave.
    pub arrivals: Arrivals,
    /// The bounds that its window has to reach.
    pub bounds: window::Bounds,
    /// The time that a request may take from its start on a stream.
    pub limit: Duration,
    /// Failed requests after which the run ends.
    pub max_failures: u64,
}

/// One request and its result.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Its number, from 0: which of the bodies it was.
    pub index: u64,
    /// The stream that it went over.
    pub stream: usize,
    /// When it was meant to leave.
    pub intended: Instant,
    /// When the write of its last byte returned; absent where it was never sent.
    pub sent: Option<Instant>,
    /// When the read returned that completed the response, or when it failed.
    pub ended: Instant,
    /// The content of the response, as far as it came.
    pub reply: Reply,
    /// Why it has no result that counts.
    pub error: Option<RequestError>,
}

impl Exchange {
    /// How much later it left than it was meant to.
    #[must_use]
    pub fn send_lag(&self) -> Option<Duration> {
        self.sent
            .map(|sent| sent.saturating_duration_since(self.intended))
    }

    /// From the time at which it was meant to leave to its first token.
    #[must_use]
    pub fn ttft(&self) -> Option<Duration> {
        self.reply
            .first()
            .map(|at| at.saturating_duration_since(self.intended))
    }

    /// From the time at which it was meant to leave to its last token.
    #[must_use]
    pub fn ttlt(&self) -> Option<Duration> {
        self.reply
            .last()
            .map(|at| at.saturating_duration_since(self.intended))
    }

    fn of(finished: stream::Finished, base: Instant) -> Self {
        let at = |nanos| base + Duration::from_nanos(nanos);
        let (reply, error) = finished.recording.finish(base, finished.failure);
        Self {
            index: finished.index,
            stream: finished.stream,
            intended: at(finished.intended),
            sent: finished.sent.map(at),
            ended: at(finished.ended),
            reply,
            error,
        }
    }
}

/// The result of a batch.
#[derive(Clone, Debug)]
pub struct BatchRun {
    /// When its requests were meant to leave.
    pub started: Instant,
    /// Its requests, in the order of their bodies.
    pub exchanges: Vec<Exchange>,
    /// How late the client itself was.
    pub lag: Lag,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its window has not opened.
    WarmingUp,
    /// Its window is open.
    InWindow,
    /// Its window has closed; requests that belong to it may not have ended.
    Closed,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadEnding {
    /// Its window is over.
    Complete,
    /// It was told to stop.
    Stopped,
    /// Too many requests failed.
    Failures,
}

/// The result of a load.
#[derive(Clone, Debug)]
pub struct Run {
    /// When it began.
    pub started: Instant,
    /// Its window; absent where it ended before the window closed.
    pub window: Option<window::Borders>,
    /// How it ended.
    pub ending: LoadEnding,
    /// All of its requests by number, those of the warm-up and those after the window as well.
    pub exchanges: Vec<Exchange>,
    /// How late the client itself was inside of the window.
    pub lag: Lag,
    /// Whether the backlog of an open loop grew.
    pub saturation: Saturation,
    /// Requests that had to wait for a stream, because as many as allowed were in flight.
    pub waited: u64,
    /// Connections that were opened while the load ran: streams beyond the warm ones, and those that servers closed.
    pub connects: u64,
}

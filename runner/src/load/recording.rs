//! The bytes of a response, kept as they came, and when the reads that brought them returned. Events are told apart and
//! counted later, off the path on which time is taken.

use std::time::{Duration, Instant};

use super::{
    count::{Counter, Reply},
    error::RequestError,
    events::Splitter,
    rule::Rule,
};

/// The body of a response so far.
#[derive(Debug)]
pub(super) struct Recording {
    bytes: Vec<u8>,
    /// For each read, how long the body was after it, and when it returned (ns since the client's base).
    reads: Vec<(u64, u64)>,
    length: u64,
    splitter: Splitter,
    counter: Counter,
}

impl Recording {
    pub(super) fn new(rule: Rule) -> Self {
        Self {
            bytes: Vec::new(),
            reads: Vec::new(),
            length: 0,
            splitter: Splitter::default(),
            counter: Counter::new(rule),
        }
    }

    /// Adds what a read brought that returned at `at`.
    pub(super) fn push(&mut self, bytes: &[u8], at: u64) {
        self.bytes.extend_from_slice(bytes);
        self.length += bytes.len() as u64;
        match self.reads.last_mut() {
            Some(last) if last.1 == at => last.0 = self.length,
            _ => self.reads.push((self.length, at)),
        }
    }

    /// Bytes that are kept, and not counted.
    pub(super) fn kept(&self) -> usize {
        self.bytes.len()
    }

    /// The kept bytes: all of a body that has not been counted.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the last event seems to be `[DONE]`, without looking at more than its end.
    pub(super) fn seems_done(&self) -> bool {
        self.bytes.trim_ascii_end().ends_with(b"[DONE]")
    }

    /// Counts what is kept, and keeps it no longer.
    pub(super) fn settle(&mut self, base: Instant) {
        let (reads, counter) = (&self.reads, &mut self.counter);
        let mut read = 0;
        self.splitter.push(&self.bytes, |event| {
            // The read that brought its last byte.
            while reads[read].0 < event.end {
                read += 1;
            }
            counter.event(
                event.data,
                event.error,
                base + Duration::from_nanos(reads[read].1),
            );
        });
        self.bytes = Vec::new();
        self.reads = Vec::new();
    }

    /// The content of the response; `failure` is the reason why it ended before its time.
    pub(super) fn finish(
        mut self,
        base: Instant,
        failure: Option<RequestError>,
    ) -> (Reply, Option<RequestError>) {
        self.settle(base);
        let events = self.counter.events();
        let (reply, error) = self.counter.finish(self.splitter.rest());
        let error = match (error, failure) {
            // A server that says what is wrong often breaks off then: its words tell more.
            (Some(error @ RequestError::Server { .. }), _) => Some(error),
            (_, Some(failure)) => Some(failure.after(events)),
            (error, None) => error,
        };
        (reply, error)
    }
}

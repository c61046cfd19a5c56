//! How a request fails, and how a client does, in words that a person understands.

use std::{error::Error as StdError, io, time::Duration};

use super::rule::Rule;

/// How many characters of a body an error quotes.
const QUOTED: usize = 300;

/// The reason why a request has no result that counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Nothing listens there.
    #[error("{address} refuses connections: is the server running?")]
    Refused {
        /// Host and port.
        address: String,
    },
    /// No connection came about for another reason.
    #[error("no connection to {address}: {reason}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// The operating system's or the TLS library's words.
        reason: String,
    },
    /// The server, or what is in between, broke the connection off.
    #[error("the connection was reset {}", after(*.events))]
    Reset {
        /// Events before it.
        events: u32,
    },
    /// The connection ended before the response did.
    #[error("the server closed the connection {}", after(*.events))]
    Closed {
        /// Events before it.
        events: u32,
    },
    /// The connection failed in another way.
    #[error("the connection failed: {reason}")]
    Connection {
        /// The words of whatever noticed.
        reason: String,
    },
    /// The server answered with something other than 200.
    #[error("the server answered HTTP {code}{}", quoted(.body))]
    Status {
        /// The status.
        code: u16,
        /// The beginning of what came with it.
        body: String,
    },
    /// The server answered 200, but no event stream.
    #[error("the server answered with {content_type} instead of an event stream (text/event-stream){}", quoted(.body))]
    NotAStream {
        /// The type that it named, or "no content type".
        content_type: String,
        /// The beginning of it.
        body: String,
    },
    /// The server said in the stream that something went wrong.
    #[error("the server reported an error in the stream: {message}")]
    Server {
        /// Its words.
        message: String,
    },
    /// An event is not what the API has there.
    #[error("event {event} of the stream is malformed ({reason}){}", quoted(.data))]
    Malformed {
        /// Which one, from 1.
        event: u32,
        /// The fault.
        reason: String,
        /// The beginning of it.
        data: String,
    },
    /// The response ended in good order, but without the last event.
    #[error("the stream ended after {events} events without [DONE]: its end may be missing")]
    NoDone {
        /// Events before it.
        events: u32,
    },
    /// The limit of a request passed.
    #[error("no end after {limit:?}, the limit of a request ({events} events until then)")]
    TimeOut {
        /// The limit.
        limit: Duration,
        /// Events until then.
        events: u32,
    },
    /// The response ended in good order without a single token.
    #[error("the response is complete but has no token ({events} events)")]
    NoToken {
        /// How many events it had.
        events: u32,
    },
    /// There is text, but nothing that says how many tokens.
    #[error("{events} events have text, but none has {}, by which tokens are to be counted", .rule.field())]
    NotCounted {
        /// How it was to be counted.
        rule: Rule,
        /// Events with text.
        events: u32,
    },
    /// Two ways of counting disagree.
    #[error("{counted} tokens by {}, but {told} by the final usage", .rule.field())]
    CountsDiffer {
        /// How it was counted.
        rule: Rule,
        /// Tokens by this rule.
        counted: u64,
        /// `usage.completion_tokens` at the end.
        told: u64,
    },
    /// The run ended first. No failure of the server's.
    #[error("the run ended before this request did")]
    Cut,
}

/// The reason why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The target is no address of a server.
    #[error(
        "url {url:?}: {reason}; allowed is http://host[:port]/path or https://host[:port]/path"
    )]
    Url {
        /// The URL that was given.
        url: String,
        /// The fault.
        reason: String,
    },
    /// A header cannot be sent.
    #[error("header {name:?}: {reason}")]
    Header {
        /// Which one.
        name: String,
        /// The fault.
        reason: String,
    },
    /// Too many or too few streams.
    #[error("{streams} streams: allowed are 1 to {most} (the limit of open files, less 64)")]
    Streams {
        /// The number that was asked for.
        streams: usize,
        /// The number that the machine allows.
        most: usize,
    },
    /// No certificates to trust.
    #[error("no trusted certificates: {0}")]
    Roots(String),
    /// The name has no address.
    #[error("no address for {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// No connection came about.
    #[error(transparent)]
    Connect(#[from] RequestError),
    /// The client's own event loop or clock did not come about.
    #[error("the client cannot start: {0}")]
    Start(#[source] io::Error),
}

impl RequestError {
    /// The error of an attempt to connect.
    pub(super) fn connecting(address: &str, error: &io::Error) -> Self {
        let address = address.to_owned();
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused { address },
            _ => Self::Unreachable {
                address,
                reason: error.to_string(),
            },
        }
    }

    /// The error of an exchange that hyper gave up.
    pub(super) fn exchanging(error: &hyper::Error) -> Self {
        let events = 0;
        let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(inner) = cause {
            if let Some(io) = inner.downcast_ref::<io::Error>() {
                return match io.kind() {
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                        Self::Reset { events }
                    }
                    io::ErrorKind::UnexpectedEof => Self::Closed { events },
                    _ => Self::Connection {
                        reason: io.to_string(),
                    },
                };
            }
            cause = inner.source();
        }
        if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            return Self::Closed { events };
        }
        Self::Connection {
            reason: error
                .source()
                .map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
        }
    }

    /// The same, with what the server said changed so.
    #[must_use]
    pub fn map_said(mut self, change: impl Fn(&str) -> String) -> Self {
        if let Self::Status { body: said, .. }
        | Self::NotAStream { body: said, .. }
        | Self::Server { message: said }
        | Self::Malformed { data: said, .. } = &mut self
        {
            *said = change(said);
        }
        self
    }

    /// The same, now that it is known how many events came before it.
    pub(super) fn after(mut self, count: u32) -> Self {
        if let Self::Reset { events } | Self::Closed { events } | Self::TimeOut { events, .. } =
            &mut self
        {
            *events = count;
        }
        self
    }
}

/// The first characters of a body, with what cannot be printed replaced.
pub(super) fn beginning(body: &[u8]) -> String {
    // A character takes at most four bytes.
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * QUOTED)]);
    text.trim().chars().take(QUOTED).collect()
}

fn quoted(body: &str) -> String {
    if body.is_empty() {
        String::new()
    } else {
        format!(": {body}")
    }
}

fn after(events: u32) -> String {
    match events {
        0 => "before the first event".into(),
        1 => "after 1 event".into(),
        _ => format!("after {events} events"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_happened_and_quote_what_came() {
        let status = RequestError::Status {
            code: 503,
            body: beginning(b"  Loading model\n"),
        };
        assert_eq!(
            status.to_string(),
            "the server answered HTTP 503: Loading model"
        );
        assert_eq!(
            RequestError::Reset { events: 1 }.to_string(),
            "the connection was reset after 1 event"
        );
        assert_eq!(
            RequestError::NotCounted {
                rule: Rule::Ids,
                events: 3
            }
            .to_string(),
            "3 events have text, but none has choices[].token_ids, by which tokens are to be counted"
        );
    }

    #[test]
    fn a_quotation_has_at_most_300_characters() {
        assert_eq!(beginning("é".repeat(1000).as_bytes()).chars().count(), 300);
        assert_eq!(beginning(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }
}

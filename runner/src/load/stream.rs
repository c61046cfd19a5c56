//! One stream: a connection and the requests that go over it, one after the other.

use std::{
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{future::poll_fn, task::AtomicWaker};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::{
    body::{Body, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{
    error::{RequestError, beginning},
    io::{Stamped, Stamps, Wire, nanos},
    recording::Recording,
    rule::Rule,
};

/// How long a connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The bytes of a response that is not what was asked for, at most.
const MAX_REFUSAL: usize = 64 << 10;

/// The way to the target, and what every request to it begins with.
pub(super) struct Route {
    /// Host and port, as errors name them.
    pub name: String,
    pub addresses: Vec<SocketAddr>,
    pub tls: Option<(TlsConnector, ServerName<'static>)>,
    pub path: Uri,
    pub headers: HeaderMap,
    pub rule: Rule,
}

/// The state that all streams of a client have in common.
pub(super) struct Common {
    /// All times count from here.
    pub base: Instant,
    pub route: Route,
    /// The time that a request may take, in ns.
    pub limit: AtomicU64,
    /// Bytes of a response that are kept before they are counted.
    pub settle_at: AtomicUsize,
    /// Connections that were opened while time was taken.
    pub connects: AtomicU64,
}

impl Common {
    pub(super) fn new(route: Route) -> Self {
        Self {
            base: Instant::now(),
            route,
            limit: AtomicU64::new(0),
            settle_at: AtomicUsize::new(0),
            connects: AtomicU64::new(0),
        }
    }

    /// The request that carries a body.
    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.route.path.clone();
        *request.headers_mut() = self.route.headers.clone();
        request
    }
}

/// A request to send.
#[derive(Debug)]
pub(super) struct Job {
    pub index: u64,
    pub body: Bytes,
    /// When it is meant to leave, in ns since the client's base.
    pub intended: u64,
}

/// A request that has ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub index: u64,
    pub stream: usize,
    pub intended: u64,
    pub sent: Option<u64>,
    pub ended: u64,
    pub failure: Option<RequestError>,
    pub recording: Recording,
}

/// A command to a stream.
#[derive(Debug)]
pub(super) enum Command {
    /// Have a connection.
    Connect,
    /// Send this, and all that comes after it.
    Send(Job),
}

/// Why a request is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Cancel {
    No,
    /// Its limit has passed.
    TimeOut,
    /// The run has ended.
    Cut,
    /// It has said `[DONE]` some time ago, only the body does not end.
    Enough,
}

/// Where a stream is spoken to from outside.
#[derive(Debug)]
pub(super) struct Slot {
    pub number: usize,
    command: Mutex<Option<Command>>,
    waker: AtomicWaker,
    cancel: AtomicU8,
    /// When it began with its request (ns since the client's base); 0 where it has none.
    began: AtomicU64,
    /// When `[DONE]` came; 0 where it has not.
    done: AtomicU64,
}

impl Slot {
    pub(super) fn new(number: usize) -> Self {
        Self {
            number,
            command: Mutex::new(None),
            waker: AtomicWaker::new(),
            cancel: AtomicU8::new(Cancel::No as u8),
            began: AtomicU64::new(0),
            done: AtomicU64::new(0),
        }
    }

    pub(super) fn tell(&self, command: Command) {
        *self.command.lock().unwrap_or_else(PoisonError::into_inner) = Some(command);
        self.waker.wake();
    }

    pub(super) fn cancel(&self, why: Cancel) {
        self.cancel.store(why as u8, Relaxed);
        self.waker.wake();
    }

    /// Gives up what has taken too long, at `now`.
    pub(super) fn sweep(&self, now: u64, limit: Duration, after_done: Duration) {
        let since = |at: u64| Duration::from_nanos(now.saturating_sub(at));
        let (began, done) = (self.began.load(Relaxed), self.done.load(Relaxed));
        if done != 0 && since(done) > after_done {
            self.cancel(Cancel::Enough);
        } else if began != 0 && since(began) > limit {
            self.cancel(Cancel::TimeOut);
        }
    }

    fn cancelled(&self, cx: &Context<'_>) -> Cancel {
        self.waker.register(cx.waker());
        match self.cancel.load(Relaxed) {
            why if why == Cancel::TimeOut as u8 => Cancel::TimeOut,
            why if why == Cancel::Cut as u8 => Cancel::Cut,
            why if why == Cancel::Enough as u8 => Cancel::Enough,
            _ => Cancel::No,
        }
    }
}

/// A connection that is open, and what drives it: polled by the one task that uses it, so that nothing has to be woken
/// between the read and its stamp.
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: http1::Connection<TokioIo<Wire>, Full<Bytes>>,
    stamps: Arc<Stamps>,
    is_alive: bool,
    /// A request has gone over it.
    used: bool,
}

impl Connection {
    async fn open(route: &Route, base: Instant) -> Result<Self, RequestError> {
        let stamps = Stamps::new(base);
        let opening = async {
            let socket = TcpStream::connect(&route.addresses[..])
                .await
                .map_err(|error| RequestError::connecting(&route.name, &error))?;
            let unreachable = |error: std::io::Error| RequestError::Unreachable {
                address: route.name.clone(),
                reason: error.to_string(),
            };
            socket.set_nodelay(true).map_err(unreachable)?;
            let stamped = Stamped::new(socket, Arc::clone(&stamps));
            Ok(match &route.tls {
                None => Wire::Plain(stamped),
                Some((connector, host)) => Wire::Tls(Box::new(
                    connector
                        .connect(host.clone(), stamped)
                        .await
                        .map_err(unreachable)?,
                )),
            })
        };
        let wire = tokio::time::timeout(CONNECT_LIMIT, opening)
            .await
            .unwrap_or_else(|_| {
                Err(RequestError::Unreachable {
                    address: route.name.clone(),
                    reason: format!("no answer within {CONNECT_LIMIT:?}"),
                })
            })?;
        let (sender, driver) = http1::Builder::new()
            .handshake(TokioIo::new(wire))
            .await
            .map_err(|error| RequestError::exchanging(&error))?;
        Ok(Self {
            sender,
            driver,
            stamps,
            is_alive: true,
            used: false,
        })
    }

    /// Moves bytes, and says why the connection has ended where it has.
    fn drive(&mut self, cx: &mut Context<'_>) -> Option<RequestError> {
        if !self.is_alive {
            return Some(RequestError::Closed { events: 0 });
        }
        let Poll::Ready(result) = Pin::new(&mut self.driver).poll(cx) else {
            return None;
        };
        self.is_alive = false;
        Some(result.map_or_else(
            |error| RequestError::exchanging(&error),
            |()| RequestError::Closed { events: 0 },
        ))
    }

    /// Waits until it can take a request.
    async fn ready(&mut self) -> Result<(), RequestError> {
        poll_fn(|cx| {
            if let Some(error) = self.drive(cx) {
                return Poll::Ready(Err(error));
            }
            self.sender
                .poll_ready(cx)
                .map_err(|error| RequestError::exchanging(&error))
        })
        .await
    }

    /// Sends a request and records what comes back. `heard` says when the last byte had left before
    /// anything of a response came, if anything did.
    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        recording: &mut Recording,
        slot: &Slot,
        heard: &mut Option<u64>,
        settle_at: usize,
        base: Instant,
    ) -> Result<(), RequestError> {
        self.ready().await?;
        self.used = true;
        let mut response = pin!(self.sender.send_request(request));
        let mut body: Option<Answer> = None;
        poll_fn(|cx| {
            match slot.cancelled(cx) {
                Cancel::No => {}
                Cancel::Enough => return Poll::Ready(Ok(())),
                Cancel::Cut => return Poll::Ready(Err(RequestError::Cut)),
                // `perform` knows the limit.
                Cancel::TimeOut => {
                    return Poll::Ready(Err(RequestError::TimeOut {
                        limit: Duration::ZERO,
                        events: 0,
                    }));
                }
            }
            loop {
                let ended = self.drive(cx);
                match &mut body {
                    None => match response.as_mut().poll(cx) {
                        Poll::Ready(Ok(head)) => {
                            *heard = Some(self.stamps.written());
                            body = Some(Answer::of(head));
                            continue;
                        }
                        Poll::Ready(Err(error)) => {
                            return Poll::Ready(Err(RequestError::exchanging(&error)));
                        }
                        Poll::Pending => {}
                    },
                    Some(answer) => match Pin::new(&mut answer.body).poll_frame(cx) {
                        Poll::Ready(Some(Ok(frame))) => {
                            if let Some(data) = frame.data_ref() {
                                recording.push(data, self.stamps.read());
                                if answer.is_stream {
                                    if recording.seems_done() {
                                        slot.done.store(self.stamps.read(), Relaxed);
                                    }
                                    if recording.kept() > settle_at {
                                        recording.settle(base);
                                    }
                                } else if recording.kept() > MAX_REFUSAL {
                                    return Poll::Ready(Err(answer.refusal(recording)));
                                }
                            }
                            continue;
                        }
                        Poll::Ready(Some(Err(error))) => {
                            return Poll::Ready(Err(RequestError::exchanging(&error)));
                        }
                        Poll::Ready(None) if answer.is_stream => return Poll::Ready(Ok(())),
                        Poll::Ready(None) => return Poll::Ready(Err(answer.refusal(recording))),
                        Poll::Pending => {}
                    },
                }
                return ended.map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
            }
        })
        .await
    }
}

/// A response whose head is here.
struct Answer {
    status: StatusCode,
    content_type: Option<HeaderValue>,
    is_stream: bool,
    body: Incoming,
}

impl Answer {
    fn of(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let content_type = head.headers.get(header::CONTENT_TYPE).cloned();
        let is_event_stream = content_type.as_ref().is_some_and(|value| {
            let value = value.as_bytes();
            value.len() >= 17 && value[..17].eq_ignore_ascii_case(b"text/event-stream")
        });
        Self {
            status: head.status,
            is_stream: head.status == StatusCode::OK && is_event_stream,
            content_type,
            body,
        }
    }

    fn refusal(&self, recording: &Recording) -> RequestError {
        let body = beginning(recording.bytes());
        if self.status == StatusCode::OK {
            RequestError::NotAStream {
                content_type: self.content_type.as_ref().map_or_else(
                    || "no content type".into(),
                    |value| String::from_utf8_lossy(value.as_bytes()).into_owned(),
                ),
                body,
            }
        } else {
            RequestError::Status {
                code: self.status.as_u16(),
                body,
            }
        }
    }
}

/// A stream: its connection, where it has one, and where it is spoken to.
pub(super) struct Stream {
    common: Arc<Common>,
    slot: Arc<Slot>,
    connection: Option<Connection>,
}

impl Stream {
    pub(super) fn new(common: Arc<Common>, slot: Arc<Slot>) -> Self {
        Self {
            common,
            slot,
            connection: None,
        }
    }

    /// The next command; meanwhile notices that the server closes the connection.
    pub(super) async fn next(&mut self) -> Command {
        let Self {
            slot, connection, ..
        } = self;
        poll_fn(|cx| {
            slot.waker.register(cx.waker());
            if connection
                .as_mut()
                .is_some_and(|open| open.drive(cx).is_some())
            {
                *connection = None;
            }
            let command = slot
                .command
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            command.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Opens a connection where there is none.
    pub(super) async fn connect(&mut self) -> Result<(), RequestError> {
        if self.connection.is_none() {
            let Common { route, base, .. } = &*self.common;
            self.connection = Some(Connection::open(route, *base).await?);
        }
        Ok(())
    }

    /// Sends a request, over a new connection where there is none, and once more where a connection that had been used
    /// turns out to have been closed by the server in the meantime.
    pub(super) async fn perform(&mut self, job: Job) -> Finished {
        let Self {
            common,
            slot,
            connection,
        } = self;
        let base = common.base;
        let began = nanos(base.elapsed()).max(1);
        slot.cancel.store(Cancel::No as u8, Relaxed);
        slot.done.store(0, Relaxed);
        slot.began.store(began, Relaxed);
        let mut recording = Recording::new(common.route.rule);
        let mut sent = None;
        let mut ended = None;
        let result = loop {
            let was_open = connection.is_some();
            let open = match connection {
                Some(open) => open,
                None => {
                    common.connects.fetch_add(1, Relaxed);
                    match opened(slot, common).await {
                        Ok(open) => connection.insert(open),
                        Err(error) => break Err(error),
                    }
                }
            };
            let mut heard = None;
            let used = open.used;
            let request = common.request(job.body.clone());
            let settle_at = common.settle_at.load(Relaxed);
            let result = open
                .exchange(request, &mut recording, slot, &mut heard, settle_at, base)
                .await;
            // Over TLS, more may be written later.
            let written = heard.unwrap_or_else(|| open.stamps.written());
            sent = (written >= began).then_some(written);
            if heard.is_some() {
                ended = Some(open.stamps.read());
            }
            if result.is_err() || slot.cancel.load(Relaxed) != Cancel::No as u8 {
                // The rest of the response would be taken for the next one's.
                *connection = None;
            }
            let closed_between = matches!(
                result,
                Err(RequestError::Closed { .. } | RequestError::Reset { .. })
            );
            if closed_between && was_open && used && heard.is_none() {
                continue;
            }
            break result;
        };
        slot.began.store(0, Relaxed);
        let failure = result.err().map(|error| match error {
            RequestError::TimeOut { events, .. } => RequestError::TimeOut {
                limit: Duration::from_nanos(common.limit.load(Relaxed)),
                events,
            },
            error => error,
        });
        Finished {
            index: job.index,
            stream: slot.number,
            intended: job.intended,
            sent,
            // The end of a time-out is when it was noticed, not the last thing that came.
            ended: match (&failure, ended) {
                (None, Some(ended)) => ended,
                _ => nanos(base.elapsed()),
            },
            failure,
            recording,
        }
    }
}

/// A new connection, unless it is given up meanwhile.
async fn opened(slot: &Slot, common: &Common) -> Result<Connection, RequestError> {
    let mut opening = pin!(Connection::open(&common.route, common.base));
    poll_fn(|cx| match slot.cancelled(cx) {
        Cancel::No => opening.as_mut().poll(cx),
        Cancel::Cut => Poll::Ready(Err(RequestError::Cut)),
        Cancel::TimeOut | Cancel::Enough => Poll::Ready(Err(RequestError::TimeOut {
            limit: Duration::ZERO,
            events: 0,
        })),
    })
    .await
}

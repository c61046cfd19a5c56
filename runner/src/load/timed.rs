//! A server whose every byte has a known time, to hold a client against. It plays scripts: bytes, and how long after
//! the request each lot of them is written; and keeps when it really wrote them. One thread and raw epoll, so that a
//! thousand streams at a token every 5 ms are no trouble. Shared by the tests and the example `client_accuracy`.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

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

/// A connection.
struct Peer {
    generation: u32,
    input: Vec<u8>,
    playing: Option<Playing>,
}

struct Playing {
    script: Arc<Script>,
    truth: Truth,
    step: usize,
    /// Bytes of the step that are written.
    done: usize,
}

/// Serves until it is told to stop, which it looks at every 20 ms; what it wrote.
pub fn serve(listener: &TcpListener, stop: &AtomicBool) -> io::Result<Vec<Truth>> {
    listener.set_nonblocking(true)?;
    // SAFETY: plain calls on descriptors that are open; no memory is handed over.
    let epoll = unsafe {
        // A thousand clients may come at once; the timer of a wait is to be exact.
        libc::listen(listener.as_raw_fd(), 4096);
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        libc::epoll_create1(libc::EPOLL_CLOEXEC)
    };
    if epoll < 0 {
        return Err(io::Error::last_os_error());
    }
    watch(epoll, listener.as_raw_fd())?;
    let mut server = Server {
        epoll,
        peers: Vec::new(),
        due: BinaryHeap::new(),
        scripts: HashMap::new(),
        truths: Vec::new(),
        generation: 0,
    };
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
    while !stop.load(Relaxed) {
        let next = server
            .due
            .peek()
            .map_or(u64::MAX, |Reverse((due, ..))| *due);
        let wait = next.saturating_sub(monotonic()).min(20_000_000);
        if wait > 0 {
            let mut poll = libc::pollfd {
                fd: epoll,
                events: libc::POLLIN,
                revents: 0,
            };
            let timeout = libc::timespec {
                tv_sec: 0,
                tv_nsec: wait as libc::c_long,
            };
            // SAFETY: both pointers are to values of ours that outlive the call.
            unsafe { libc::ppoll(&raw mut poll, 1, &raw const timeout, std::ptr::null()) };
        }
        // SAFETY: the events are ours, and as many as is said.
        let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as i32, 0) };
        for event in &events[..count.max(0) as usize] {
            let descriptor = event.u64 as RawFd;
            if descriptor == listener.as_raw_fd() {
                server.accept(descriptor)?;
            } else {
                server.read(descriptor);
            }
        }
        // Then again a look at who asks.
        for _ in 0..64 {
            match server.due.peek() {
                Some(&Reverse((due, descriptor, generation))) if due <= monotonic() => {
                    server.due.pop();
                    server.play(descriptor, generation);
                }
                _ => break,
            }
        }
    }
    for descriptor in 0..server.peers.len() {
        server.close(descriptor as RawFd, false);
    }
    // SAFETY: it is ours, and not used again.
    unsafe { libc::close(epoll) };
    Ok(server.truths)
}

fn watch(epoll: RawFd, descriptor: RawFd) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: descriptor as u64,
    };
    // SAFETY: the pointer is to an event of ours.
    if unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, descriptor, &raw mut event) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

struct Server {
    epoll: RawFd,
    /// By descriptor.
    peers: Vec<Option<Peer>>,
    /// Which connection has to write when; the generation tells a descriptor's users apart.
    due: BinaryHeap<Reverse<(u64, RawFd, u32)>>,
    scripts: HashMap<(String, u64), Arc<Script>>,
    truths: Vec<Truth>,
    generation: u32,
}

impl Server {
    fn accept(&mut self, listener: RawFd) -> io::Result<()> {
        loop {
            // SAFETY: the address is not asked for.
            let descriptor = unsafe {
                libc::accept4(
                    listener,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                )
            };
            if descriptor < 0 {
                return Ok(());
            }
            set(descriptor, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1_i32);
            watch(self.epoll, descriptor)?;
            let index = descriptor as usize;
            if self.peers.len() <= index {
                self.peers.resize_with(index + 1, || None);
            }
            self.generation += 1;
            self.peers[index] = Some(Peer {
                generation: self.generation,
                input: Vec::new(),
                playing: None,
            });
        }
    }

    fn close(&mut self, descriptor: RawFd, reset: bool) {
        let Some(mut peer) = self
            .peers
            .get_mut(descriptor as usize)
            .and_then(Option::take)
        else {
            return;
        };
        if let Some(playing) = peer.playing.take() {
            self.truths.push(playing.truth);
        }
        if reset {
            let linger = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            set(descriptor, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
        }
        // SAFETY: it is ours, and not used again.
        unsafe { libc::close(descriptor) };
    }

    fn read(&mut self, descriptor: RawFd) {
        let Some(peer) = self
            .peers
            .get_mut(descriptor as usize)
            .and_then(Option::as_mut)
        else {
            return;
        };
        let mut buffer = [0_u8; 16 << 10];
        loop {
            // SAFETY: the buffer is ours, and as long as is said.
            let read =
                unsafe { libc::recv(descriptor, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            match usize::try_from(read) {
                Ok(0) => return self.close(descriptor, false),
                Ok(length) => {
                    peer.input.extend_from_slice(&buffer[..length]);
                    if length < buffer.len() {
                        break;
                    }
                }
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return self.close(descriptor, false),
            }
        }
        self.begin(descriptor);
    }

    /// Begins with the next request, where it is complete.
    fn begin(&mut self, descriptor: RawFd) {
        let Some(peer) = self
            .peers
            .get_mut(descriptor as usize)
            .and_then(Option::as_mut)
        else {
            return;
        };
        if peer.playing.is_some() {
            return;
        }
        let Some(end) = find(&peer.input, b"\r\n\r\n").map(|at| at + 4) else {
            return;
        };
        let head = peer.input[..end].to_ascii_lowercase();
        let length = find(&head, b"content-length:")
            .and_then(|at| digits(&head[at..]))
            .unwrap_or(0) as usize;
        if peer.input.len() < end + length {
            return;
        }
        let received = monotonic();
        let body = &peer.input[end..end + length];
        let (model, tokens) = (
            text(body, b"\"model\"").unwrap_or_default(),
            find(body, b"\"max_tokens\"")
                .and_then(|at| digits(&body[at..]))
                .unwrap_or(16),
        );
        let request = find(body, b"\"user\"")
            .and_then(|at| digits(&body[at..]))
            .unwrap_or(0);
        let script = if head.starts_with(b"post ") {
            let key = (model, tokens);
            match self.scripts.get(&key) {
                Some(script) => Arc::clone(script),
                None => {
                    let script = Arc::new(script(&key.0, tokens));
                    self.scripts.insert(key, Arc::clone(&script));
                    script
                }
            }
        } else {
            Arc::new(models())
        };
        peer.input.drain(..end + length);
        let first = script
            .steps
            .first()
            .map_or(Duration::ZERO, |step| step.after);
        peer.playing = Some(Playing {
            truth: Truth {
                request,
                received,
                written: Vec::with_capacity(script.steps.len()),
            },
            script,
            step: 0,
            done: 0,
        });
        let generation = peer.generation;
        if first.is_zero() {
            self.play(descriptor, generation);
        } else {
            self.due.push(Reverse((
                received + first.as_nanos() as u64,
                descriptor,
                generation,
            )));
        }
    }

    /// Writes what is due, and says when the next is.
    fn play(&mut self, descriptor: RawFd, generation: u32) {
        let Some(peer) = self
            .peers
            .get_mut(descriptor as usize)
            .and_then(Option::as_mut)
        else {
            return;
        };
        if peer.generation != generation {
            return;
        }
        let Some(playing) = &mut peer.playing else {
            return;
        };
        if let Some(step) = playing.script.steps.get(playing.step) {
            if playing.done == 0 {
                playing.truth.written.push(monotonic());
            }
            let rest = &step.bytes[playing.done..];
            // SAFETY: the bytes are ours, and as many as is said.
            let sent = unsafe {
                libc::send(
                    descriptor,
                    rest.as_ptr().cast(),
                    rest.len(),
                    libc::MSG_NOSIGNAL,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) if sent == rest.len() => {
                    playing.step += 1;
                    playing.done = 0;
                }
                Ok(sent) => playing.done += sent,
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return self.close(descriptor, false),
            }
            if playing.done > 0 {
                self.due
                    .push(Reverse((monotonic() + 100_000, descriptor, generation)));
                return;
            }
        }
        if let Some(next) = playing.script.steps.get(playing.step) {
            let due = playing.truth.received + next.after.as_nanos() as u64;
            self.due.push(Reverse((due, descriptor, generation)));
            return;
        }
        match playing.script.then {
            Then::Hang => {}
            Then::Stay => {
                self.truths
                    .extend(peer.playing.take().map(|playing| playing.truth));
                // One that did not wait for the answer.
                self.begin(descriptor);
            }
            Then::Close => self.close(descriptor, false),
            Then::Reset => self.close(descriptor, true),
        }
    }
}

fn set<T>(descriptor: RawFd, level: i32, name: i32, value: &T) {
    // SAFETY: the value is ours, and as long as is said.
    unsafe {
        libc::setsockopt(
            descriptor,
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        );
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The first number in a text.
fn digits(text: &[u8]) -> Option<u64> {
    let start = text.iter().position(u8::is_ascii_digit)?;
    let rest = &text[start..];
    let length = rest
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(rest.len());
    std::str::from_utf8(&rest[..length]).ok()?.parse().ok()
}

/// The text that follows a key.
fn text(body: &[u8], key: &[u8]) -> Option<String> {
    let rest = &body[find(body, key)? + key.len()..];
    let start = rest.iter().position(|&byte| byte == b'"')? + 1;
    let length = rest[start..].iter().position(|&byte| byte == b'"')?;
    String::from_utf8(rest[start..start + length].to_vec()).ok()
}

/// The bytes of one chunk of a response.
fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";

/// A step in the making, without its time.
fn step(after: Duration, bytes: Vec<u8>, tokens: u32) -> Step {
    Step {
        after,
        bytes,
        tokens,
    }
}

/// An event as vLLM writes it.
fn ids(ids: &str, text: &str, finish: &str) -> String {
    format!(
        "{{\"id\":\"cmpl-8e1c2f4ab2c94d6f8a3b\",\"object\":\"text_completion\",\"created\":1790000000,\"model\":\"steady\",\
         \"choices\":[{{\"index\":0,\"text\":\"{text}\",\"logprobs\":null,\"finish_reason\":{finish},\"stop_reason\":null,\
         \"token_ids\":[{ids}],\"prompt_token_ids\":null}}],\"usage\":null}}"
    )
}

/// An event of llama.cpp, after `predicted` tokens.
fn llama(text: &str, predicted: u64, finish: &str) -> String {
    format!(
        "{{\"choices\":[{{\"text\":\"{text}\",\"index\":0,\"logprobs\":null,\"finish_reason\":{finish}}}],\
         \"object\":\"text_completion\",\"timings\":{{\"cache_n\":3,\"prompt_n\":4,\"predicted_n\":{predicted}}}}}"
    )
}

/// An event that says how many tokens there have been.
fn usage(text: &str, tokens: u64, finish: &str) -> String {
    format!(
        "{{\"object\":\"text_completion\",\"choices\":[{{\"index\":0,\"text\":\"{text}\",\"finish_reason\":{finish}}}],\
         \"usage\":{}}}",
        used(tokens)
    )
}

fn used(tokens: u64) -> String {
    format!(
        "{{\"prompt_tokens\":{PROMPT},\"completion_tokens\":{tokens},\"total_tokens\":{},\
         \"prompt_tokens_details\":{{\"cached_tokens\":2}}}}",
        PROMPT + tokens
    )
}

/// The last event of OpenAI's API, which has no choice.
fn total(tokens: u64) -> String {
    format!(
        "{{\"object\":\"text_completion\",\"choices\":[],\"usage\":{}}}",
        used(tokens)
    )
}

/// A stream in the making: events with their times, each in a chunk of its own.
struct Writer {
    steps: Vec<Step>,
    first: Duration,
    each: Duration,
    /// Between events.
    end: &'static str,
}

impl Writer {
    fn new() -> Self {
        Self {
            steps: vec![step(Duration::ZERO, HEAD.into(), 0)],
            first: FIRST,
            each: EACH,
            end: "\n\n",
        }
    }

    /// When token number `index` is due.
    fn at(&self, index: u64) -> Duration {
        self.first + self.each * index as u32
    }

    fn event(&mut self, index: u64, data: &str, tokens: u32) {
        let bytes = chunk(&format!("data: {data}{}", self.end));
        self.steps.push(step(self.at(index), bytes, tokens));
    }

    /// Bytes of the body, whatever they are.
    fn raw(&mut self, index: u64, bytes: &str, tokens: u32) {
        self.steps.push(step(self.at(index), chunk(bytes), tokens));
    }

    /// The usage, [DONE] and the end of the body, together with the last token.
    fn end(mut self, tokens: u64) -> Script {
        let index = tokens.saturating_sub(1);
        let last = format!(
            "data: {}{}data: [DONE]{}",
            total(tokens),
            self.end,
            self.end
        );
        let mut bytes = chunk(&last);
        bytes.extend_from_slice(b"0\r\n\r\n");
        self.steps.push(step(self.at(index), bytes, 0));
        self.then(Then::Stay)
    }

    fn then(self, then: Then) -> Script {
        Script {
            steps: self.steps,
            then,
        }
    }
}

/// The list of models, for which a client asks first.
fn models() -> Script {
    let listed = ["steady", "refused", "error"]
        .map(|name| format!("{{\"id\":\"{name}\",\"object\":\"model\"}}"))
        .join(",");
    let body = format!("{{\"object\":\"list\",\"data\":[{listed}]}}");
    plain("200 OK", "application/json", &body)
}

/// A response that is no stream.
fn plain(status: &str, content_type: &str, body: &str) -> Script {
    let bytes = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    Script {
        steps: vec![step(Duration::ZERO, bytes.into(), 0)],
        then: Then::Stay,
    }
}

/// The script of a model's name: the plain ones (`steady`, `slow`) and the awkward.
#[must_use]
#[allow(clippy::too_many_lines)]
pub fn script(name: &str, tokens: u64) -> Script {
    let mut writer = Writer::new();
    let finish = |index: u64| {
        if index + 1 == tokens {
            "\"length\""
        } else {
            "null"
        }
    };
    let plain_ids = |writer: &mut Writer, until: u64| {
        for index in 0..until {
            writer.event(index, &ids("1234", " word", finish(index)), 1);
        }
    };
    match name {
        // As slow as makes a stream that is open and mostly idle.
        "slow" => {
            writer.each = Duration::from_secs(1);
            plain_ids(&mut writer, tokens);
            writer.end(tokens)
        }
        "usage" => {
            for index in 0..tokens {
                writer.event(index, &usage(" word", index + 1, finish(index)), 1);
            }
            writer.end(tokens)
        }
        // Only the total is told; every other event has two tokens.
        "final" => {
            for index in (0..tokens).step_by(2) {
                writer.event(
                    index,
                    &usage(" two words", 0, "null").replace(&used(0), "null"),
                    2,
                );
            }
            writer.end(tokens)
        }
        // Empty events first (`return_progress`), then bytes held back: every third token shows with the next one.
        "llama" => {
            writer.steps.push(step(
                Duration::from_millis(2),
                chunk(&format!("data: {}\n\n", llama("", 0, "null"))),
                0,
            ));
            writer.steps.push(step(
                Duration::from_millis(4),
                chunk(&format!("data: {}\n\n", llama("", 0, "null"))),
                0,
            ));
            let mut shown = 0;
            for index in 0..tokens {
                if index % 3 == 1 && index + 1 < tokens {
                    continue;
                }
                writer.event(
                    index,
                    &llama("é", index + 1, finish(index)),
                    (index + 1 - shown) as u32,
                );
                shown = index + 1;
            }
            writer.end(tokens)
        }
        // Several ids in an event.
        "speculative" => {
            for index in (0..tokens).step_by(4) {
                let count = (tokens - index).min(4);
                let list = vec!["7"; count as usize].join(",");
                writer.event(
                    index,
                    &ids(&list, " a b c d", finish(index + count - 1)),
                    count as u32,
                );
            }
            writer.end(tokens)
        }
        // Four events in a write, each of a token.
        "bundled" => {
            for index in (0..tokens).step_by(4) {
                let count = (tokens - index).min(4);
                let events: String = (0..count)
                    .map(|more| format!("data: {}\n\n", ids("1", " w", finish(index + more))))
                    .collect();
                writer.raw(index, &events, count as u32);
            }
            writer.end(tokens)
        }
        // Each event over three writes, a millisecond apart; the last brings no more than its second line feed.
        "cut" => {
            for index in 0..tokens {
                let event = format!("data: {}\n\n", ids("1", " w", finish(index)));
                let (half, last) = (event.len() / 2, event.len() - 1);
                for (part, piece) in [&event[..half], &event[half..last], &event[last..]]
                    .into_iter()
                    .enumerate()
                {
                    let after = writer.at(index) + Duration::from_millis(part as u64);
                    writer
                        .steps
                        .push(step(after, chunk(piece), u32::from(part == 2)));
                }
            }
            let mut script = writer.end(tokens);
            if let Some(last) = script.steps.last_mut() {
                last.after += Duration::from_millis(2);
            }
            script
        }
        "comments" => {
            for index in 0..tokens {
                writer.raw(
                    index,
                    &format!(
                        ": ping\n\nid: 3\ndata: {}\n: pong\n\n",
                        ids("1", " w", finish(index))
                    ),
                    1,
                );
            }
            writer.end(tokens)
        }
        "crlf" => {
            writer.end = "\r\n\r\n";
            plain_ids(&mut writer, tokens);
            writer.end(tokens)
        }
        // One byte each millisecond.
        "trickle" => {
            let event = chunk(&format!("data: {}\n\n", ids("1", " w", "\"length\"")));
            let last = event.len() - 1;
            for (index, byte) in event.into_iter().enumerate() {
                let after = FIRST + Duration::from_millis(index as u64);
                // The event is complete before the chunk is: its last two bytes are the chunk's.
                let token = u32::from(index == last - 2);
                writer.steps.push(step(after, vec![byte], token));
            }
            let after = FIRST + Duration::from_millis(last as u64 + 1);
            writer.steps.push(step(
                after,
                [chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat(),
                0,
            ));
            writer.then(Then::Stay)
        }
        "error" | "error-done" => {
            plain_ids(&mut writer, tokens / 2);
            let data = "{\"error\":{\"message\":\"EngineCore died\",\"type\":\"InternalServerError\",\"code\":500}}";
            writer.event(tokens / 2, data, 0);
            if name == "error-done" {
                writer.event(tokens / 2, "[DONE]", 0);
            }
            let after = writer.at(tokens / 2);
            writer.steps.push(step(after, b"0\r\n\r\n".to_vec(), 0));
            writer.then(Then::Stay)
        }
        "no-done" => {
            plain_ids(&mut writer, tokens);
            let after = writer.at(tokens);
            writer.steps.push(step(after, b"0\r\n\r\n".to_vec(), 0));
            writer.then(Then::Stay)
        }
        "early" => {
            plain_ids(&mut writer, tokens / 2);
            writer.then(Then::Close)
        }
        "reset" => {
            plain_ids(&mut writer, tokens / 2);
            // Else the reset would overtake the bytes.
            let after = writer.at(tokens / 2);
            writer.steps.push(step(after, Vec::new(), 0));
            writer.then(Then::Reset)
        }
        "malformed" => {
            plain_ids(&mut writer, 1);
            writer.event(1, "{\"choices\":[{\"text\":", 0);
            writer.end(tokens)
        }
        "uncounted" => {
            for index in 0..tokens {
                writer.event(index, "{\"choices\":[{\"index\":0,\"text\":\" w\"}]}", 0);
            }
            writer.end(tokens)
        }
        // The usage at the end says that there was one token more.
        "lying" => {
            plain_ids(&mut writer, tokens);
            let script = writer.end(tokens + 1);
            Script {
                then: Then::Stay,
                ..script
            }
        }
        "no-token" => writer.end(0),
        "refused" => plain(
            "503 Service Unavailable",
            "application/json",
            "{\"error\":\"Loading model\"}",
        ),
        "json" => plain(
            "200 OK",
            "application/json",
            "{\"choices\":[{\"text\":\"all at once\"}]}",
        ),
        "silent" => Script {
            steps: Vec::new(),
            then: Then::Hang,
        },
        "hanging" => {
            plain_ids(&mut writer, tokens / 2);
            writer.then(Then::Hang)
        }
        // [DONE], but no end of the body.
        "unended" => {
            plain_ids(&mut writer, tokens);
            writer.event(tokens - 1, "[DONE]", 0);
            writer.then(Then::Hang)
        }
        // Says so, and closes.
        "closing" => {
            plain_ids(&mut writer, tokens);
            let mut script = writer.end(tokens);
            script.steps[0].bytes = HEAD
                .replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")
                .into();
            script.then = Then::Close;
            script
        }
        // Closes without a word, as a server may between two requests.
        "leaving" => {
            plain_ids(&mut writer, tokens);
            let mut script = writer.end(tokens);
            script.then = Then::Close;
            script
        }
        _ => {
            plain_ids(&mut writer, tokens);
            writer.end(tokens)
        }
    }
}

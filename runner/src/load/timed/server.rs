//! The server itself: its connections, the requests that it reads of them, and the writes when they are due.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    io,
    net::TcpListener,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    Script, Then, Truth, monotonic,
    scripts::{models, script},
};

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

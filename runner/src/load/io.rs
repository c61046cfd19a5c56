//! The connection's bytes, with the time of every read and write taken where the system call returns, before anything
//! is decrypted or parsed.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// The times of a connection's last read and last write, readable beside it.
///
/// hyper hands on a frame of the body before it reads again, so the time of the last read is that of the read which
/// completed the frame.
#[derive(Debug)]
pub(super) struct Stamps {
    base: Instant,
    read: AtomicU64,
    written: AtomicU64,
}

impl Stamps {
    pub(super) fn new(base: Instant) -> Arc<Self> {
        Arc::new(Self {
            base,
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
        })
    }

    /// When the last read returned, in ns since the base.
    pub(super) fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// When the last write returned, in ns since the base.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Both, on one thread: an atomic is only what lets the connection move to another with its client.
    fn stamp(&self, which: &AtomicU64) {
        which.store(nanos(self.base.elapsed()), Relaxed);
    }
}

/// Whole nanoseconds: enough for 584 years.
pub(super) const fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// A socket that keeps [`Stamps`].
#[derive(Debug)]
pub(super) struct Stamped {
    socket: TcpStream,
    stamps: Arc<Stamps>,
}

impl Stamped {
    pub(super) const fn new(socket: TcpStream, stamps: Arc<Stamps>) -> Self {
        Self { socket, stamps }
    }
}

impl AsyncRead for Stamped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.socket).poll_read(cx, buf);
        if result.is_ready() {
            self.stamps.stamp(&self.stamps.read);
        }
        result
    }
}

impl AsyncWrite for Stamped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(cx, buf);
        if result.is_ready() {
            self.stamps.stamp(&self.stamps.written);
        }
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        if result.is_ready() {
            self.stamps.stamp(&self.stamps.written);
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A connection, encrypted or not.
pub(super) enum Wire {
    Plain(Stamped),
    Tls(Box<TlsStream<Stamped>>),
}

/// Hands a call on to whichever it is.
macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Wire::Plain($stream) => $call,
            Wire::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

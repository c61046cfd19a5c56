//! An alarm of the kernel's own clock. The timers of tokio go off at whole milliseconds: too coarse for sending on
//! time.

use std::{io, time::Instant};

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use tokio::io::{Interest, unix::AsyncFd};

    use super::{Instant, io};

    /// An alarm that becomes readable, like a socket, when it goes off.
    #[derive(Debug)]
    pub(in super::super) struct Alarm(AsyncFd<OwnedFd>);

    impl Alarm {
        /// An alarm on the event loop that is entered.
        pub(in super::super) fn new() -> io::Result<Self> {
            // SAFETY: creates a descriptor; nothing is handed over.
            let descriptor = unsafe {
                libc::timerfd_create(
                    libc::CLOCK_MONOTONIC,
                    libc::TFD_NONBLOCK | libc::TFD_CLOEXEC,
                )
            };
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: it was just created and is nobody else's.
            let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
            // SAFETY: it stays the same descriptor, and open, for as long as it is registered.
            let registered = unsafe { AsyncFd::register_with_interest(owned, Interest::READABLE) };
            Ok(Self(registered?))
        }

        /// Waits until `at`; returns at once where that has passed.
        pub(in super::super) async fn until(&self, at: Instant) -> io::Result<()> {
            let wait = at.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return Ok(());
            }
            let timer = libc::itimerspec {
                it_interval: libc::timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                },
                it_value: libc::timespec {
                    tv_sec: libc::time_t::try_from(wait.as_secs()).unwrap_or(libc::time_t::MAX),
                    tv_nsec: wait.subsec_nanos().into(),
                },
            };
            // SAFETY: the descriptor is open for as long as we are; the pointer is to a timer of ours.
            let set = unsafe {
                libc::timerfd_settime(
                    self.0.as_raw_fd(),
                    0,
                    &raw const timer,
                    std::ptr::null_mut(),
                )
            };
            if set != 0 {
                return Err(io::Error::last_os_error());
            }
            loop {
                let mut guard = self.0.readable().await?;
                let mut expirations = 0_u64;
                let result = guard.try_io(|descriptor| {
                    // SAFETY: the pointer is to eight bytes of ours.
                    let read = unsafe {
                        libc::read(descriptor.as_raw_fd(), (&raw mut expirations).cast(), 8)
                    };
                    if read < 0 {
                        Err(io::Error::last_os_error())
                    } else {
                        Ok(())
                    }
                });
                match result {
                    Ok(result) => return result,
                    Err(_would_block) => {}
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use super::{Instant, io};

    /// An alarm by tokio's timer, where the kernel has no other that is waited for like a socket.
    #[derive(Debug)]
    pub(in super::super) struct Alarm;

    impl Alarm {
        pub(in super::super) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        /// Waits until `at`.
        pub(in super::super) async fn until(&self, at: Instant) -> io::Result<()> {
            tokio::time::sleep_until(at.into()).await;
            Ok(())
        }
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::Alarm;
#[cfg(not(target_os = "linux"))]
pub(super) use other::Alarm;

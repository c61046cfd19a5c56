//! Signals: Ctrl-C and SIGTERM ask a sweep to stop, and end a trial's process at once.

use std::sync::atomic::{AtomicBool, Ordering};

use super::exit::Exit;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether Ctrl-C or SIGTERM has arrived since [`listen`].
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// From now on Ctrl-C and SIGTERM are noted, see [`interrupted`]; a second one ends the process.
pub fn listen() {
    extern "C" fn note(_: libc::c_int) {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            // SAFETY: _exit is async-signal-safe.
            unsafe { libc::_exit(i32::from(Exit::Interrupted.code())) }
        }
    }
    install(note);
}

/// From now on SIGTERM and Ctrl-C end the process with [`Exit::Failed`]: a trial that was told to stop has no
/// record, so never 0; and as the first process of a container it would otherwise not notice the signal at all.
pub fn exit_on_signal() {
    extern "C" fn exit(_: libc::c_int) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(i32::from(Exit::Failed.code())) }
    }
    install(exit);
}

fn install(handler: extern "C" fn(libc::c_int)) {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: both handlers touch an atomic and call _exit only, which are async-signal-safe; a zeroed sigaction
        // is a valid one with an empty mask. No SA_RESTART: whoever waits is to wake up and look.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

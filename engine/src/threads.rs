//! How many threads compute, and how each of them treats denormals.
//!
//! candle looks only at environment variables and core counts; a container's affinity and quota are
//! what counts. [`init`] therefore decides once, before anything computes, for all three pools:
//! rayon (candle's own operations), candle's barrier pool (the kernels) and this thread.

use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::utils::barrier_pool;

/// The settings that [`init`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads {
    /// Threads that compute, the calling one among them.
    pub count: usize,
    /// CPUs this process may use: those of its affinity mask, or fewer under a cgroup quota.
    pub available: usize,
    /// Denormals are zero on every one of the threads, as found by computing with one.
    pub denormals_flushed: bool,
}

static THREADS: OnceLock<Threads> = OnceLock::new();

/// Sets the number of threads of every pool, and denormals to be flushed to zero on each.
///
/// Call it first thing in the process, on its main thread; later calls only return what the first
/// one settled. `None` means as many as are available, or as `RAYON_NUM_THREADS` asks for where that is fewer.
pub fn init(count: Option<usize>) -> Threads {
    *THREADS.get_or_init(|| {
        // The smaller of the affinity mask and the cgroup quota (v1 or v2), by the standard library.
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let wanted = count.unwrap_or_else(|| asked_for(available)).max(1);
        for name in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
            // SAFETY: Rust code reads the environment under the same lock, and this runs before
            // any thread of ours that could read it otherwise.
            unsafe { std::env::set_var(name, wanted.to_string()) };
        }
        // Fails where the pool exists already; then its threads get their settings below.
        let _ = rayon::ThreadPoolBuilder::new()
            .num_threads(wanted)
            .build_global();
        on_every_thread(flush_denormals);
        keep_freed_memory();
        Threads {
            count: barrier_pool().n_workers() + 1,
            available,
            denormals_flushed: denormals_flushed(),
        }
    })
}

/// The threads that `RAYON_NUM_THREADS` asks for, at most as many as are available; all of those where it asks for
/// none.
fn asked_for(available: usize) -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    asked
        .filter(|&count| count > 0)
        .map_or(available, |count: usize| count.min(available))
}

/// Makes the allocator keep what is freed: activations of a large prefill are else mapped anew, and
/// their pages cleared by the kernel, for every operation.
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// The most that glibc takes for a threshold.
        const MMAP_THRESHOLD: libc::c_int = 32 << 20;
        const TRIM_THRESHOLD: libc::c_int = 1 << 30;
        // SAFETY: sets two numbers of the allocator under its own lock.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
        }
    }
}

/// Whether every thread of every pool, and this one, takes denormals for zero, both as operands
/// and as results; found out by computing.
pub fn denormals_flushed() -> bool {
    let all = AtomicBool::new(true);
    on_every_thread(|| {
        let normal = black_box(f32::MIN_POSITIVE);
        let denormal = black_box(f32::from_bits(1 << 20));
        let result = black_box(normal * black_box(0.25));
        let operand = black_box(denormal * black_box(f32::MAX));
        if result != 0.0 || operand != 0.0 {
            all.store(false, Ordering::Relaxed);
        }
    });
    all.into_inner()
}

fn on_every_thread(f: impl Fn() + Sync) {
    barrier_pool().execute(|_| f());
    rayon::broadcast(|_| f());
}

/// Makes this thread take denormals for zero: arithmetic with them is up to a hundred times slower,
/// and no weight or activation depends on numbers that small.
///
/// For threads that compute outside the pools, such as tensor-parallel ranks.
pub fn flush_denormals() {
    #[cfg(target_arch = "x86_64")]
    {
        /// Flush to zero (results) and denormals are zero (operands).
        const FTZ_DAZ: u32 = 0x8040;
        let mut control = 0u32;
        // SAFETY: stores and loads the control register of this thread's SSE unit; only the two
        // bits change, and neither rounding nor exceptions.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &mut control, options(nostack, preserves_flags));
            control |= FTZ_DAZ;
            std::arch::asm!("ldmxcsr [{}]", in(reg) &control, options(nostack, preserves_flags));
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        /// FPCR.FZ.
        const FZ: u64 = 1 << 24;
        // SAFETY: sets one bit of this thread's floating-point control register.
        unsafe {
            let mut control: u64;
            std::arch::asm!("mrs {}, fpcr", out(reg) control, options(nomem, nostack));
            control |= FZ;
            std::arch::asm!("msr fpcr, {}", in(reg) control, options(nomem, nostack));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pool_gets_the_count_and_flushes_denormals() {
        let threads = init(None);
        assert_eq!(threads.count, threads.available);
        assert_eq!(rayon::current_num_threads(), threads.count);
        assert!(threads.denormals_flushed);
        assert!(denormals_flushed());
        assert_eq!(
            init(Some(threads.count + 1)),
            threads,
            "only the first call decides"
        );
    }

    #[test]
    fn a_fresh_thread_keeps_denormals_until_told() {
        std::thread::spawn(|| {
            let tiny = || black_box(f32::MIN_POSITIVE) * black_box(0.25);
            assert_ne!(tiny(), 0.0);
            flush_denormals();
            assert_eq!(tiny(), 0.0);
        })
        .join()
        .unwrap();
    }
}

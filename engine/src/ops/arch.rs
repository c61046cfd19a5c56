//! The processor's instructions that kernels ask for by name: vectors, chosen at run time, and prefetches.

use pulp::{Simd, WithSimd};

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arch {
    /// AVX2 with FMA. pulp chooses it only under a feature that would have to be on in every crate
    /// that shares it.
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    /// The one that pulp chooses: AVX-512, NEON, or plain code that the compiler vectorises as it can.
    Detected(pulp::Arch),
}

#[cfg(test)]
thread_local! {
    /// Overrides the choice of instruction set for calls made on this thread.
    pub(super) static FORCED: std::cell::Cell<Option<Arch>> = const { std::cell::Cell::new(None) };
}

impl Arch {
    /// The best there is; in a test the one that [`FORCED`] names.
    pub(crate) fn new() -> Self {
        #[cfg(test)]
        if let Some(forced) = FORCED.get() {
            return forced;
        }
        #[cfg(target_arch = "x86_64")]
        if pulp::x86::V4::try_new().is_none()
            && let Some(simd) = pulp::x86::V3::try_new()
        {
            return Self::Avx2(simd);
        }
        Self::Detected(pulp::Arch::new())
    }

    /// Runs `op`, compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn dispatch<Op: WithSimd>(self, op: Op) -> Op::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => Simd::vectorize(simd, op),
            Self::Detected(arch) => arch.dispatch(op),
        }
    }

    /// All of them, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::Detected(pulp::Arch::new())];
        #[cfg(target_arch = "x86_64")]
        {
            all.push(Self::Detected(pulp::Arch::Scalar));
            all.extend(pulp::x86::V3::try_new().map(Self::Avx2));
        }
        all
    }
}

/// Asks for the cache line `ahead` bytes past `at`, into the second-level cache; a hint without effect
/// on what is computed.
#[inline(always)]
pub(crate) fn prefetch(at: *const f32, ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast::<i8>().wrapping_add(ahead)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, ahead);
}

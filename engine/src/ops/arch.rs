//! The vector instructions to compute with, chosen at run time.

use pulp::{Simd, WithSimd};

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arch {
    /// AVX2 with FMA. pulp chooses it only under a feature that would have to be on in every crate
    /// that shares it.
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    /// What pulp chooses: AVX-512, NEON, or plain code that the compiler vectorises as it can.
    Detected(pulp::Arch),
}

impl Arch {
    /// The best there is.
    pub(crate) fn new() -> Self {
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

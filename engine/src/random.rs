//! The counter-based generator behind random weights and prompts: SplitMix64's output function
//! (Steele, Lea and Flood, 2014), applied to any index without the ones before it.

/// The `index`-th output for a state that starts at `-γ`: a bijection with good avalanche.
#[inline(always)]
pub(crate) fn mix(index: u64) -> u64 {
    let z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Where the stream of that name begins: FNV-1a of the name, stirred with the seed.
pub(crate) fn stream(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    mix(hash ^ mix(seed.wrapping_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs of the published SplitMix64 for seed 0.
    #[test]
    fn mix_is_splitmix64() {
        assert_eq!(mix(1), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(2), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(mix(3), 0x06c4_5d18_8009_454f);
    }

    #[test]
    fn streams_differ_by_seed_and_name() {
        assert_ne!(stream(1, "a"), stream(2, "a"));
        assert_ne!(stream(1, "a"), stream(1, "b"));
    }
}

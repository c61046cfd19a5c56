//! Rotary position embedding (Su et al., 2021): its parameters, and the frequencies that follow from them.

/// How rotary position angles are scaled beyond the trained context.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// No scaling.
    Default,
    /// All angles divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a linear blend between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position / low_freq_factor` count as low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position / high_freq_factor` count as high frequencies.
        high_freq_factor: f64,
        /// The context length that the model was first trained for.
        original_max_position: usize,
    },
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the geometric series of frequencies.
    pub theta: f64,
    /// The scaling beyond the trained context.
    pub scaling: RopeScaling,
    /// The share of a head that is rotated: 1 but for Phi-3.
    pub partial: f64,
}

impl Rope {
    /// The angle per position of each pair of elements: `theta^(-2i/D)`, scaled. The blend of `Llama3` is
    /// that of Llama 3.1's reference code (Grattafiori et al., 2024).
    pub(crate) fn frequencies(&self, head_dim: usize) -> Vec<f64> {
        (0..head_dim / 2)
            .map(|i| self.theta.powf(-2.0 * i as f64 / head_dim as f64))
            .map(|frequency| match self.scaling {
                RopeScaling::Default => frequency,
                RopeScaling::Linear { factor } => frequency / factor,
                RopeScaling::Llama3 {
                    factor,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position,
                } => {
                    // How many turns the pair makes over the original context.
                    let turns = original_max_position as f64 * frequency / std::f64::consts::TAU;
                    let keep = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let keep = keep.clamp(0.0, 1.0);
                    keep * frequency + (1.0 - keep) * frequency / factor
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_scaling_keeps_fast_pairs_and_slows_slow_ones() {
        let plain = Rope {
            theta: 5e5,
            scaling: RopeScaling::Default,
            partial: 1.0,
        };
        let scaled = Rope {
            theta: 5e5,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position: 8192,
            },
            partial: 1.0,
        };
        let (plain, scaled) = (plain.frequencies(128), scaled.frequencies(128));
        assert_eq!(plain[0], scaled[0]);
        assert!((plain[63] / scaled[63] - 8.0).abs() < 1e-12);
        assert!(
            plain
                .iter()
                .zip(&scaled)
                .all(|(p, s)| s <= p && *s >= p / 8.0 - 1e-18)
        );
    }
}

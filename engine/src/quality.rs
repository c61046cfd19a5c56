//! The quality of generated text, judged by the model itself and by counting: no other model, no reference text.
//!
//! - Likelihood: `mean(ln p(x_t | x_<t))` over the continuation's tokens, in nats, and from it the perplexity
//!   `exp(−mean)` (Jelinek et al., 1977). That a model finds its own greedy continuation likely says how sure it is,
//!   not that it is right: text that goes round in circles is likely, too (Holtzman et al., "The Curious Case of Neural
//!   Text Degeneration", 2020), so that likelihood and repetition are to be read together.
//! - Repetition: the share of 4-grams that have occurred before in the continuation, `1 − distinct/all` (`seq-rep-4` of
//!   Welleck et al., "Neural Text Generation with Unlikelihood Training", 2020).
//! - Similarity of prompt and continuation: the cosine of the means of their tokens' last hidden states, after the
//!   final norm. Hidden states of one model have a common direction (Ethayarajh, 2019): compare values of one model
//!   only.

use std::collections::HashSet;

/// A model's own judgement of one row's continuation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Mean log-likelihood of the continuation's tokens, in nats.
    pub mean_log_likelihood: f64,
    /// Cosine of the mean hidden states of prompt and continuation.
    pub similarity: f64,
}

/// Tokens of the pieces that repetition is counted over.
pub const GRAM: usize = 4;

/// The share of 4-grams that have occurred before; none where there is not one.
pub fn repetition_rate(ids: &[u32]) -> Option<f64> {
    let all = ids.windows(GRAM).len();
    let distinct: HashSet<_> = ids.windows(GRAM).collect();
    (all > 0).then(|| 1.0 - distinct.len() as f64 / all as f64)
}

/// The natural logarithm of the softmax of `logits` at `id`, in f64.
pub(crate) fn log_softmax_at(logits: &[f32], id: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    f64::from(logits[id as usize] - max) - sum.ln()
}

/// The cosine of two vectors; NaN where one is zero.
pub(crate) fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_by_hand() {
        assert_eq!(repetition_rate(&[1, 2, 3]), None);
        assert_eq!(repetition_rate(&[1, 2, 3, 4]), Some(0.0));
        // 1212, 2121, 1212, 2121, 1212: two distinct of five.
        assert_eq!(repetition_rate(&[1, 2, 1, 2, 1, 2, 1, 2]), Some(0.6));
        assert_eq!(repetition_rate(&[7; 13]), Some(0.9));
    }

    #[test]
    fn likelihood_and_cosine_by_hand() {
        // Odds of 1:3, far from zero: only differences count.
        let logits = [1000.0, 1000.0 + 3f32.ln()];
        assert!((log_softmax_at(&logits, 0) - 0.25f64.ln()).abs() < 1e-4);
        assert!((log_softmax_at(&logits, 1) - 0.75f64.ln()).abs() < 1e-4);
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0]) - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(cosine(&[2.0, 1.0], &[-4.0, -2.0]), -1.0);
    }
}

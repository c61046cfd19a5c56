//! Random weights: every element is a pure function of seed, tensor name and index, so that neither
//! threads nor the degree of parallelism change a value.

use std::ops::Range;

use super::element::Element;
use super::part::Part;
use crate::random::{mix, stream};

/// The weights of a model that nobody trained, with the spread of ones that somebody did.
pub(crate) struct Random {
    seed: u64,
    layers: usize,
}

/// How one tensor is distributed.
struct Spread {
    mean: f32,
    std: f32,
}

impl Random {
    pub fn new(seed: u64, layers: usize) -> Self {
        Self { seed, layers }
    }

    /// GPT-2's initialisation: 0.02, less by 1/√(2·layers) for what is added to the residual stream.
    /// Norms and biases vary a little around their initial 1 and 0, so that leaving one out shows.
    fn spread(&self, name: &str) -> Spread {
        let residual = ["c_proj.weight", "o_proj.weight", "down_proj.weight"];
        let norm = name.ends_with(".weight") && (name.contains("norm") || name.contains(".ln_"));
        let (mean, std) = if norm {
            (1.0, 0.02)
        } else if residual.iter().any(|end| name.ends_with(end)) {
            (0.0, 0.02 / (2.0 * self.layers as f32).sqrt())
        } else {
            (0.0, 0.02)
        };
        Spread { mean, std }
    }

    pub fn fill<T: Element>(&self, part: &Part, rows: Range<usize>, out: &mut [T], stride: usize) {
        let spread = self.spread(&part.name);
        let width = part.stored_width();
        let key = stream(self.seed, &part.name);
        for (row, out) in rows.zip(out.chunks_mut(stride)) {
            let (first, step) = if part.transposed {
                (part.cols.start * width + row, width)
            } else {
                (row * width + part.cols.start, 1)
            };
            let first = key.wrapping_add(first as u64);
            draw(first, step as u64, &spread, &mut out[..part.cols.len()]);
        }
    }
}

/// Draws the elements `first`, `first + step`, … of a tensor's stream.
fn draw<T: Element>(first: u64, step: u64, spread: &Spread, out: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { draw_avx512(first, step, spread, out) };
    }
    draw_anywhere(first, step, spread, out);
}

/// The same loop, for the compiler to use 64-bit vector products in: three times as fast.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn draw_avx512<T: Element>(first: u64, step: u64, spread: &Spread, out: &mut [T]) {
    draw_anywhere(first, step, spread, out);
}

#[inline(always)]
fn draw_anywhere<T: Element>(first: u64, step: u64, spread: &Spread, out: &mut [T]) {
    let scale = spread.std / UNIT_STD;
    for (i, out) in out.iter_mut().enumerate() {
        let index = first.wrapping_add((i as u64).wrapping_mul(step));
        let value = spread.mean + scale * bell(mix(index));
        // A subnormal costs some processors dozens of times a normal product.
        *out = T::from_f32(if value.abs() < T::MIN_NORMAL {
            0.0
        } else {
            value
        });
    }
}

/// The sum of four independent uniform 16-bit numbers, centred: bell-shaped (Irwin-Hall), bounded at
/// 3.5 standard deviations, and cheap.
#[inline(always)]
fn bell(bits: u64) -> f32 {
    let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    sum as i32 as f32 - 131_070.0
}

/// The standard deviation of [`bell`]: √(4·(2³² − 1)/12).
const UNIT_STD: f32 = 37_837.226;

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: &str, n: usize) -> Vec<f32> {
        let random = Random::new(7, 12);
        let mut out = vec![0.0; n];
        random.fill(&Part::new(name, &[1, n]), 0..1, &mut out, n);
        out
    }

    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values
            .iter()
            .map(|&v| (f64::from(v) - mean).powi(2))
            .sum::<f64>()
            / n;
        (mean, variance.sqrt())
    }

    #[test]
    fn spread_is_that_of_a_fresh_gpt2() {
        for (name, mean, std) in [
            ("transformer.h.0.attn.c_attn.weight", 0.0, 0.02),
            (
                "transformer.h.0.attn.c_proj.weight",
                0.0,
                0.02 / 24f64.sqrt(),
            ),
            ("transformer.h.0.ln_1.weight", 1.0, 0.02),
            ("model.norm.weight", 1.0, 0.02),
        ] {
            let (m, s) = moments(&values(name, 1 << 16));
            assert!((m - mean).abs() < 4.0 * std / 256.0, "{name}: mean {m}");
            assert!((s / std - 1.0).abs() < 0.02, "{name}: std {s}");
        }
    }

    /// Vector instructions, transposition and the place of a part change no value.
    #[test]
    fn an_element_is_a_function_of_its_index_alone() {
        let random = Random::new(7, 12);
        let (rows, cols) = (37, 53);
        let part = Part::new("w", &[rows, cols]);
        let mut plain = vec![0f32; rows * cols];
        random.fill(&part, 0..rows, &mut plain, cols);
        let mut across = vec![0f32; rows * cols];
        random.fill(&part.clone().transposed(), 0..cols, &mut across, rows);
        let mut piece = vec![0f32; 3 * 7];
        random.fill(&part.cols(11..18), 5..8, &mut piece, 7);
        let mut scalar = vec![0f32; rows * cols];
        draw_anywhere(stream(7, "w"), 1, &random.spread("w"), &mut scalar);
        assert_eq!(scalar, plain);
        for row in 0..rows {
            for col in 0..cols {
                assert_eq!(across[col * rows + row], plain[row * cols + col]);
                if (5..8).contains(&row) && (11..18).contains(&col) {
                    assert_eq!(piece[(row - 5) * 7 + col - 11], plain[row * cols + col]);
                }
            }
        }
    }

    #[test]
    fn neighbours_are_uncorrelated_and_tensors_differ() {
        let a = values("a", 1 << 16);
        let b = values("b", 1 << 16);
        let dot = |x: &[f32], y: &[f32]| -> f64 {
            let sum: f64 = x.iter().zip(y).map(|(&x, &y)| f64::from(x * y)).sum();
            sum / (x.len() as f64 * 0.0004)
        };
        // Four standard errors of a correlation over 65,536 pairs.
        assert!(dot(&a[1..], &a[..a.len() - 1]).abs() < 4.0 / 256.0);
        assert!(dot(&a, &b).abs() < 4.0 / 256.0);
    }

    #[test]
    fn nothing_is_subnormal_in_any_type() {
        fn check<T: Element>() {
            let n = 1 << 18;
            let mut out = vec![T::from_f32(0.0); n];
            let random = Random::new(3, 80);
            random.fill(
                &Part::new("h.0.mlp.c_proj.weight", &[1, n]),
                0..1,
                &mut out,
                n,
            );
            for v in out {
                let v = v.to_f64().abs();
                assert!(v == 0.0 || v >= f64::from(T::MIN_NORMAL), "{v:e}");
            }
        }
        check::<f32>();
        check::<half::bf16>();
        check::<half::f16>();
    }
}

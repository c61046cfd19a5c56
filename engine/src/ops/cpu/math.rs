//! Vectorised elementary functions.

use pulp::Simd;

/// `1.5 · 2²³`: adding it to a float of small magnitude rounds that to an integer, which then
/// stands in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// `exp(x)`, to about 2 units in the last place; 0 below −87.3, ∞ above 88.3; NaN stays NaN.
///
/// `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2`; `exp(r)` by its Taylor series to the seventh power (whose
/// remainder, `r⁸/8!`, is below 5e-9), times `2ⁿ` put together from its bits.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const LOWEST: f32 = -87.3;
    const HIGHEST: f32 = 88.3;
    let clamped = simd.min_f32s(
        simd.max_f32s(x, simd.splat_f32s(LOWEST)),
        simd.splat_f32s(HIGHEST),
    );
    let rounded = simd.mul_add_e_f32s(
        clamped,
        simd.splat_f32s(std::f32::consts::LOG2_E),
        simd.splat_f32s(ROUND),
    );
    let n = simd.sub_f32s(rounded, simd.splat_f32s(ROUND));
    // ln 2 in two parts, the first with zeros at its end so that n times it is exact.
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-0.693_359_4), clamped);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(2.121_944_4e-4), r);
    let mut p = simd.splat_f32s(1.0 / 5040.0);
    for c in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(c));
    }
    let bits = simd.wrapping_dyn_shl_u32s(
        simd.add_u32s(
            simd.transmute_u32s_f32s(rounded),
            simd.splat_u32s(127u32.wrapping_sub(ROUND.to_bits())),
        ),
        simd.splat_u32s(23),
    );
    let y = simd.mul_f32s(p, simd.transmute_f32s_u32s(bits));
    // Minimum and maximum may swallow a NaN.
    let y = simd.select_f32s(simd.equal_f32s(x, x), y, x);
    let infinity = simd.splat_f32s(f32::INFINITY);
    let y = simd.select_f32s(
        simd.greater_than_f32s(x, simd.splat_f32s(HIGHEST)),
        infinity,
        y,
    );
    let below = simd.less_than_f32s(x, simd.splat_f32s(LOWEST));
    simd.select_f32s(below, simd.splat_f32s(0.0), y)
}

/// `x / (1 + exp(−x))`.
#[inline(always)]
pub(super) fn silu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    divide_by_one_plus_exp(simd, x, simd.neg_f32s(x))
}

/// GELU in its tanh form, `x/2 · (1 + tanh u)` with `u = √(2/π) · (x + 0.044715·x³)`, written
/// as the equal `x / (1 + exp(−2u))`.
#[inline(always)]
pub(super) fn gelu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let x2 = simd.mul_f32s(x, x);
    let minus_2u = simd.mul_f32s(
        x,
        simd.mul_add_e_f32s(
            x2,
            simd.splat_f32s(-2.0 * SQRT_2_OVER_PI * 0.044_715),
            simd.splat_f32s(-2.0 * SQRT_2_OVER_PI),
        ),
    );
    divide_by_one_plus_exp(simd, x, minus_2u)
}

#[inline(always)]
fn divide_by_one_plus_exp<S: Simd>(simd: S, x: S::f32s, exponent: S::f32s) -> S::f32s {
    simd.div_f32s(x, simd.add_f32s(simd.splat_f32s(1.0), exp(simd, exponent)))
}

/// Sum over `a[i] · b[i]`; the slices are of equal length.
#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let (a_body, a_tail) = S::as_simd_f32s(a);
    let (b_body, b_tail) = S::as_simd_f32s(b);
    let mut acc = [simd.splat_f32s(0.0); 4];
    let blocks = a_body.len() / 4 * 4;
    for i in (0..blocks).step_by(4) {
        for j in 0..4 {
            acc[j] = simd.mul_add_e_f32s(a_body[i + j], b_body[i + j], acc[j]);
        }
    }
    for i in blocks..a_body.len() {
        acc[0] = simd.mul_add_e_f32s(a_body[i], b_body[i], acc[0]);
    }
    if !a_tail.is_empty() {
        let (x, y) = (
            simd.partial_load_f32s(a_tail),
            simd.partial_load_f32s(b_tail),
        );
        acc[1] = simd.mul_add_e_f32s(x, y, acc[1]);
    }
    simd.reduce_sum_f32s(
        simd.add_f32s(simd.add_f32s(acc[0], acc[1]), simd.add_f32s(acc[2], acc[3])),
    )
}

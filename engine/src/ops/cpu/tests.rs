//! Each kernel against plain candle, over odd shapes and layouts, on every instruction set that
//! this processor has.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{D, DType, Device, Result, Tensor};
use proptest::prelude::*;

use crate::ops::arch::{Arch, FORCED};
use crate::ops::{self, Weight, reference};

/// Runs `f` once per instruction set.
fn everywhere(f: impl Fn()) {
    for arch in Arch::all() {
        FORCED.set(Some(arch));
        f();
        FORCED.set(None);
    }
}

/// Numbers in −1 to 1 from a linear congruential generator.
pub(super) fn tensor(dims: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let data: Vec<f32> = std::iter::repeat_with(next)
        .take(dims.iter().product())
        .collect();
    Tensor::from_vec(data, dims, &Device::Cpu).unwrap()
}

#[track_caller]
fn assert_close(got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.dims(), want.dims());
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (i, (got, want)) in flat(got).iter().zip(flat(want)).enumerate() {
        assert!(
            (got - want).abs() <= tolerance * want.abs().max(1.0),
            "element {i} is {got}, plain candle says {want}"
        );
    }
}

/// The kernel's own result: the fallback would make every comparison true.
#[track_caller]
fn taken<T>(result: Result<Option<T>>) -> T {
    result
        .unwrap()
        .expect("the kernel should take these operands")
}

/// The formats of packed weights.
const PACKED: [std::result::Result<DType, GgmlDType>; 4] = [
    Ok(DType::BF16),
    Ok(DType::F16),
    Err(GgmlDType::Q8_0),
    Err(GgmlDType::Q4_0),
];

/// A matrix in one of [`PACKED`], and the values that it has there.
fn packed(w: &Tensor, format: std::result::Result<DType, GgmlDType>) -> (Weight, Tensor) {
    match format {
        Ok(dtype) => {
            let w = w.to_dtype(dtype).unwrap();
            let values = w.to_dtype(DType::F32).unwrap();
            (Weight::Dense(w), values)
        }
        Err(kind) => {
            let w = QTensor::quantize(w, kind).unwrap();
            let values = w.dequantize(&Device::Cpu).unwrap();
            (Weight::Quantized(w.into()), values)
        }
    }
}

/// By the kernel for this format.
#[track_caller]
fn product(x: &Tensor, w: &Weight, bias: Option<&Tensor>, epilogue: super::Epilogue) -> Tensor {
    taken(match w {
        Weight::Dense(w) => super::linear(x, w, bias, epilogue),
        Weight::Quantized(w) => super::linear_quantized(x, w, bias, epilogue),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn linear_is_candles(
        m in prop_oneof![1usize..=17, 30usize..=70],
        n in 1usize..150,
        k in 1usize..200,
        bias: bool,
        gelu: bool,
        seed: u64,
    ) {
        let (x, w) = (tensor(&[m, k], seed), tensor(&[n, k], seed ^ 1));
        let b = tensor(&[n], seed ^ 2);
        let bias = bias.then_some(&b);
        let mut want = reference::linear(&x, &w, bias).unwrap();
        if gelu {
            want = want.gelu().unwrap();
        }
        let epilogue = if gelu { super::Epilogue::BiasGelu } else { super::Epilogue::Bias };
        everywhere(|| assert_close(&taken(super::linear(&x, &w, bias, epilogue)), &want, 2e-5));
    }

    /// As of the same values in f32: nothing but the weights is rounded.
    #[test]
    fn packed_products_are_those_of_the_unpacked_matrix(
        m in prop_oneof![1usize..=40, 30usize..=70],
        n in 1usize..60,
        blocks in prop_oneof![1usize..5, 31usize..70],
        format in prop::sample::select(
            PACKED.to_vec(),
        ),
        bias: bool,
        gelu: bool,
        // Down to subnormal scales.
        spread in prop_oneof![Just(1.0), Just(1e-3), Just(1e-5)],
        seed: u64,
    ) {
        let k = 32 * blocks;
        let x = tensor(&[m, k], seed);
        let w = (tensor(&[n, k], seed ^ 1) * spread).unwrap();
        let b = (tensor(&[n], seed ^ 2) * spread).unwrap();
        let bias = bias.then_some(&b);
        let (w, values) = packed(&w, format);
        let mut want = reference::linear(&x, &values, bias).unwrap();
        if gelu {
            want = want.gelu().unwrap();
        }
        let epilogue = if gelu { super::Epilogue::BiasGelu } else { super::Epilogue::Bias };
        everywhere(|| {
            let got = product(&x, &w, bias, epilogue);
            assert_eq!(got.dims(), want.dims());
            // Sums of up to 2,208 products of up to `spread`, rounded in another order; a weight that is one step off
            // would be off by more than ten times as much.
            let off = (got - &want).unwrap().abs().unwrap().max_all().unwrap();
            let off = off.to_scalar::<f32>().unwrap();
            assert!(f64::from(off) <= 2e-4 * spread, "off by {off}");
        });
    }

    #[test]
    fn attention_is_candles(
        b in 1usize..=3,
        kvh in 1usize..=3,
        group in 1usize..=4,
        s in prop_oneof![Just(1usize), 2usize..90],
        past in 0usize..600,
        spare in 0usize..5,
        d in 1usize..70,
        seed: u64,
    ) {
        let (h, len) = (kvh * group, past + s);
        // As a model makes them: views of one merged product, and a cache with room to spare.
        let merged = tensor(&[b, s, (h + 2 * kvh) * d], seed);
        let q = merged.narrow(D::Minus1, 0, h * d).unwrap();
        let q = q.reshape((b, s, h, d)).unwrap().transpose(1, 2).unwrap();
        let k = tensor(&[b, kvh, len + spare, d], seed ^ 1);
        let v = tensor(&[b, kvh, len + spare, d], seed ^ 2);
        let scale = 1.0 / (d as f32).sqrt();
        let want = reference::attention(&q, &k, &v, len, scale).unwrap();
        everywhere(|| {
            assert_close(&taken(super::attention(&q, &k, &v, len, scale)), &want, 2e-5);
        });
    }

    #[test]
    fn kv_append_is_candles(
        b in 1usize..=3, h in 1usize..=3, s in 1usize..9, d in 1usize..40,
        before in 0usize..5, after in 0usize..5, seed: u64,
    ) {
        let merged = tensor(&[b, s, 3 * h * d], seed);
        let new = merged.narrow(D::Minus1, h * d, h * d).unwrap();
        let new = new.reshape((b, s, h, d)).unwrap().transpose(1, 2).unwrap();
        let got = tensor(&[b, h, before + s + after, d], seed ^ 1);
        let want = got.copy().unwrap();
        reference::kv_append(&want, &new, before).unwrap();
        assert!(super::kv_append(&got, &new, before).unwrap());
        assert_close(&got, &want, 0.0);
    }

    #[test]
    fn norms_are_candles(rows in 1usize..100, n in 1usize..900, seed: u64) {
        // Off centre: a variance that forgets the mean would show.
        let x = (tensor(&[rows, n], seed) + 3.0).unwrap();
        let (w, b) = (tensor(&[n], seed ^ 1), tensor(&[n], seed ^ 2));
        let rms = reference::rms_norm(&x, &w, 1e-5).unwrap();
        // candle's own forms the variance by E x² − (E x)², which cancels: the slow form does not.
        let layer = candle_nn::ops::layer_norm_slow(&x, &w, &b, 1e-5).unwrap();
        everywhere(|| {
            assert_close(&taken(super::rms_norm(&x, &w, 1e-5)), &rms, 2e-5);
            assert_close(&taken(super::layer_norm(&x, &w, &b, 1e-5)), &layer, 1e-4);
        });
    }

    #[test]
    fn rope_is_candles(
        b in 1usize..=3, h in 1usize..=4, s in 1usize..40, half in 1usize..70,
        offset in 0usize..9, seed: u64,
    ) {
        let merged = tensor(&[b, s, h * 2 * half], seed);
        let x = merged.reshape((b, s, h, 2 * half)).unwrap().transpose(1, 2).unwrap();
        let (cos, sin) = (tensor(&[50, half], seed ^ 1), tensor(&[50, half], seed ^ 2));
        let want = reference::rope(&x, &cos, &sin, offset).unwrap();
        everywhere(|| assert_close(&taken(super::rope(&x, &cos, &sin, offset)), &want, 1e-6));
    }

    #[test]
    fn silu_mul_is_candles(rows in 1usize..40, f in 1usize..300, seed: u64) {
        let x = (tensor(&[rows, 2 * f], seed) * 12.0).unwrap();
        let want = reference::silu_mul(&x).unwrap();
        everywhere(|| assert_close(&taken(super::silu_mul(&x)), &want, 2e-6));
    }

    #[test]
    fn the_best_is_candles(rows in 1usize..5, v in 1usize..2000, steps in 1u32..40, seed: u64) {
        // Few distinct values, so that ties are common.
        let steps = f64::from(steps);
        let x = ((tensor(&[rows, v], seed) * steps).unwrap().round().unwrap() / steps).unwrap();
        let want = reference::best_last(&x, 5).unwrap().to_vec2::<f32>().unwrap();
        everywhere(|| assert_eq!(taken(super::best_last(&x, 5)).to_vec2::<f32>().unwrap(), want));
    }
}

/// Every number of rows up to where blocks begin, and some beyond; columns that no tile divides.
#[test]
fn packed_products_hold_for_every_number_of_rows() {
    for format in PACKED {
        for (n, k) in [(1, 32), (2, 96), (3, 64), (29, 160), (53, 1056)] {
            let (w, values) = packed(&tensor(&[n, k], 11), format);
            for m in 1..=40 {
                let x = tensor(&[m, k], m as u64);
                let want = reference::linear(&x, &values, None).unwrap();
                everywhere(|| {
                    let got = product(&x, &w, None, super::Epilogue::Bias);
                    assert_close(&got, &want, 1e-4);
                });
            }
        }
    }
}

/// Rows of `x` that are 1 at one place: whatever else a product may round, a weight is not.
#[test]
fn weights_meet_any_number_of_rows_with_their_values() {
    let (n, k) = (5, 64);
    // With subnormal scales among the others.
    let spread = tensor(&[n, 1], 3).powf(6.0).unwrap();
    let w = tensor(&[n, k], 4).broadcast_mul(&spread).unwrap();
    let places = Tensor::eye(k, DType::F32, &Device::Cpu).unwrap();
    for format in PACKED {
        let (w, values) = packed(&w, format);
        for m in [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 32, 64] {
            for first in (0..=k - m).step_by(m) {
                let x = places.narrow(0, first, m).unwrap();
                let want = values.narrow(1, first, m).unwrap().t().unwrap();
                let want = want.contiguous().unwrap();
                everywhere(|| {
                    let got = product(&x, &w, None, super::Epilogue::Bias);
                    assert_close(&got, &want, 0.0);
                });
            }
        }
    }
}

#[test]
fn activations_hold_over_the_whole_range() {
    // From the flush of tiny results to the overflow of exp, and the values in between.
    let mut x: Vec<f32> = (-4000..4000).map(|i| i as f32 / 37.0).collect();
    x.extend([0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30, f32::MAX, f32::MIN]);
    let n = x.len();
    let x = Tensor::from_vec(x, (n, 1), &Device::Cpu).unwrap();
    let one = Tensor::ones((1, 1), DType::F32, &Device::Cpu).unwrap();
    let ones = x.ones_like().unwrap();
    let gate_up = Tensor::cat(&[&x, &ones], 1).unwrap();
    // candle's f32 tanh form loses its last digits for negative x, where it subtracts from 1.
    let wide = x.to_dtype(DType::F64).unwrap();
    let gelu = wide.gelu().unwrap().to_dtype(DType::F32).unwrap();
    let silu = wide.silu().unwrap().to_dtype(DType::F32).unwrap();
    let epilogue = super::Epilogue::BiasGelu;
    everywhere(|| {
        assert_close(&taken(super::linear(&x, &one, None, epilogue)), &gelu, 1e-6);
        assert_close(&taken(super::silu_mul(&gate_up)), &silu, 1e-6);
    });
}

#[test]
fn a_nan_is_never_hidden() {
    let nan = |dims: &[usize], at: usize| {
        let flat = tensor(dims, 7).flatten_all().unwrap();
        let mut data = flat.to_vec1::<f32>().unwrap();
        data[at] = f32::NAN;
        Tensor::from_vec(data, dims, &Device::Cpu).unwrap()
    };
    let some_nan = |t: &Tensor| {
        t.flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .any(|x| x.is_nan())
    };
    everywhere(|| {
        for s in [1, 20] {
            let q = nan(&[1, 1, s, 20], 3);
            let cache = tensor(&[1, 1, 40, 20], 1);
            assert!(some_nan(
                &ops::attention(&q, &cache, &cache, 30, 1.0).unwrap()
            ));
            let (q, k) = (tensor(&[1, 1, s, 20], 2), nan(&[1, 1, 40, 20], 0));
            assert!(some_nan(&ops::attention(&q, &k, &cache, 30, 1.0).unwrap()));
        }
        assert!(some_nan(&ops::silu_mul(&nan(&[1, 40], 1)).unwrap()));
        let (x, w, b) = (nan(&[1, 33], 32), tensor(&[5, 33], 1), tensor(&[5], 2));
        assert!(some_nan(&ops::linear_bias_gelu(&x, &w, &b).unwrap()));
        for at in [0, 15, 16, 34] {
            assert!(some_nan(&ops::best_last(&nan(&[1, 35], at), 0).unwrap()));
        }
    });
}

#[test]
fn operands_that_do_not_fit_are_left_to_the_reference_and_its_errors() {
    let (x, w, b) = (tensor(&[2, 8], 1), tensor(&[4, 7], 2), tensor(&[4], 3));
    assert!(ops::linear(&x, &w, None).is_err());
    assert!(ops::linear(&x, &tensor(&[4, 8], 2), Some(&tensor(&[5], 3))).is_err());
    assert!(ops::rms_norm(&x, &b, 1e-5).is_err());
    assert!(ops::silu_mul(&tensor(&[2, 7], 1)).is_err());
    let (q, cache) = (tensor(&[1, 2, 3, 4], 1), tensor(&[1, 2, 6, 4], 2));
    for len in [2, 7] {
        assert!(ops::attention(&q, &cache, &cache, len, 1.0).is_err());
    }
    assert!(ops::kv_append(&cache, &cache.copy().unwrap(), &q, &q, 4).is_err());
    let table = tensor(&[5, 2], 4);
    assert!(ops::rope(&q, &table, &table, 3).is_err());
}

/// Tensor-parallel ranks are threads that call at the same time.
#[test]
fn threads_may_call_at_the_same_time() {
    let (x, w, b) = (
        tensor(&[3, 700], 1),
        tensor(&[400, 700], 2),
        tensor(&[400], 3),
    );
    let want = reference::linear_bias_gelu(&x, &w, &b).unwrap();
    let (q, cache) = (tensor(&[2, 4, 50, 32], 4), tensor(&[2, 2, 90, 32], 5));
    let attended = reference::attention(&q, &cache, &cache, 77, 0.2).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_close(&ops::linear_bias_gelu(&x, &w, &b).unwrap(), &want, 2e-5);
                    let got = ops::attention(&q, &cache, &cache, 77, 0.2).unwrap();
                    assert_close(&got, &attended, 2e-5);
                }
            });
        }
    });
}

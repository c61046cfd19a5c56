//! Every kernel against plain candle in f32 on the CPU, on fresh random inputs and odd shapes, in every type. Without a
//! GPU each of these tests prints that it is skipped, or fails where `INFERBENCH_REQUIRE_GPU` is set.

use candle_core::{DType, Device, Result, Tensor};

use crate::gpu::for_test as device;
use crate::ops::cuda::{self, Greedy};
use crate::ops::{self, Heads, Offset, Rotation, Weight, reference};

const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Random numbers as they are in `dtype`: on the GPU in that type, and on the CPU in f32.
fn numbers(shape: &[usize], dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
    let cpu = Tensor::randn(0f32, 1.0, shape, &Device::Cpu)?.to_dtype(dtype)?;
    Ok((cpu.to_device(device)?, cpu.to_dtype(DType::F32)?))
}

/// That two tensors are the same but for rounding: `ulps` roundings of numbers as large as the largest.
fn same(what: &str, got: &Tensor, want: &Tensor, ulps: f32) -> Result<()> {
    let epsilon = match got.dtype() {
        DType::BF16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
        _ => 2e-6,
    };
    assert_eq!(got.dims(), want.dims(), "{what}");
    let flat = |t: &Tensor| -> Result<Vec<f32>> {
        t.to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1()
    };
    let (got, want) = (flat(got)?, flat(want)?);
    let largest = want.iter().fold(1f32, |most, x| most.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let near = (got - want).abs() <= ulps * epsilon * largest;
        assert!(near, "{what}: {got} at {i}, wanted {want}");
    }
    Ok(())
}

/// The result of a kernel that has to be made for these operands.
fn some<T>(what: &str, made: Result<Option<T>>) -> T {
    made.unwrap()
        .unwrap_or_else(|| panic!("{what}: the kernel is not for these operands"))
}

#[test]
fn activations_and_biases() -> Result<()> {
    let Some((device, _alone)) = device("activations_and_biases") else {
        return Ok(());
    };
    for dtype in DTYPES {
        for (rows, n) in [(1, 2), (1, 8), (1, 1000), (1, 2312), (3, 74), (17, 1000)] {
            let (x, x0) = numbers(&[rows, n], dtype, &device)?;
            let y = some("silu_mul", cuda::silu_mul(&x));
            same("silu_mul", &y, &reference::silu_mul(&x0)?, 4.0)?;
            let (w, w0) = numbers(&[2 * n, n], dtype, &device)?;
            let (b, b0) = numbers(&[2 * n], dtype, &device)?;
            // The sums are as long as n, and rounded before the bias is added.
            let y = ops::linear(&x, &w, Some(&b))?;
            same("linear", &y, &reference::linear(&x0, &w0, Some(&b0))?, 4.0)?;
            let y = ops::linear_bias_gelu(&x, &w, &b)?;
            let want = reference::linear_bias_gelu(&x0, &w0, &b0)?;
            same("gelu", &y, &want, 4.0)?;
        }
    }
    Ok(())
}

#[test]
fn norms() -> Result<()> {
    let Some((device, _alone)) = device("norms") else {
        return Ok(());
    };
    for dtype in DTYPES {
        for (b, s, n) in [(1, 1, 5), (2, 3, 300), (3, 2, 4096)] {
            let (x, x0) = numbers(&[b, s, n], dtype, &device)?;
            let (d, d0) = numbers(&[b, 1, n], dtype, &device)?;
            let (w, w0) = numbers(&[n], dtype, &device)?;
            let (bias, bias0) = numbers(&[n], dtype, &device)?;
            let y = some("rms_norm", cuda::rms_norm(&x, &w, 1e-5));
            same("rms_norm", &y, &reference::rms_norm(&x0, &w0, 1e-5)?, 4.0)?;
            let y = some("layer_norm", cuda::layer_norm(&x, &w, &bias, 1e-5));
            let want = reference::layer_norm(&x0, &w0, &bias0, 1e-5)?;
            same("layer_norm", &y, &want, 4.0)?;
            // The last position of every sequence: rows apart.
            let (x, x0) = (x.narrow(1, s - 1, 1)?, x0.narrow(1, s - 1, 1)?);
            let sum0 = (&x0 + &d0)?;
            let (sum, y) = some("add_rms_norm", cuda::add_rms_norm(&x, &d, &w, 1e-5));
            same("sum", &sum, &sum0, 1.0)?;
            // The norm is of the sum as it is stored.
            let stored = sum.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            let want = reference::rms_norm(&stored, &w0, 1e-5)?;
            same("add_rms_norm", &y, &want, 4.0)?;
            let add = cuda::add_layer_norm(&x, &d, &w, &bias, 1e-5);
            let (sum, y) = some("add_layer_norm", add);
            same("sum", &sum, &sum0, 1.0)?;
            let want = reference::layer_norm(&stored, &w0, &bias0, 1e-5)?;
            same("add_layer_norm", &y, &want, 4.0)?;
        }
    }
    Ok(())
}

#[test]
fn attention_of_prompts_and_of_steps() -> Result<()> {
    let Some((device, _alone)) = device("attention_of_prompts_and_of_steps") else {
        return Ok(());
    };
    for dtype in DTYPES {
        for (b, kv, group, s, len, max, dim) in [
            (1, 1, 1, 5, 5, 5, 64),
            (2, 2, 4, 3, 33, 40, 128),
            (3, 2, 3, 1, 7, 9, 8),
            (1, 8, 4, 1, 1027, 2048, 128),
            (2, 12, 1, 1, 300, 301, 64),
            (1, 2, 8, 1, 64, 65, 256),
            (2, 3, 2, 7, 11, 12, 96),
            (2, 2, 4, 24, 64, 64, 128),
        ] {
            let (q, q0) = numbers(&[b, kv * group, s, dim], dtype, &device)?;
            let (k, k0) = numbers(&[b, kv, max, dim], dtype, &device)?;
            let (v, v0) = numbers(&[b, kv, max, dim], dtype, &device)?;
            let scale = 0.9 / (dim as f32).sqrt();
            let y = some("attention", cuda::attention(&q, &k, &v, len, scale));
            let want = reference::attention(&q0, &k0, &v0, len, scale)?;
            // Scores and weights are rounded to the type in between where a prompt is long.
            same("attention", &y, &want, 8.0)?;
        }
    }
    Ok(())
}

#[test]
fn whole_self_attention_by_either_offset() -> Result<()> {
    let Some((device, _alone)) = device("whole_self_attention_by_either_offset") else {
        return Ok(());
    };
    for dtype in DTYPES {
        for (turn, norm, s, queries) in [
            (false, false, 1, 1),
            (true, false, 1, 1),
            (true, true, 1, 1),
            (true, false, 6, 6),
            (true, true, 6, 1),
        ] {
            let (b, max, offset) = (2, 19, 9);
            let heads = Heads {
                query: 6,
                kv: 2,
                dim: 64,
            };
            let width = (heads.query + 2 * heads.kv) * heads.dim;
            let (qkv, qkv0) = numbers(&[b, s, width], dtype, &device)?;
            let table = || numbers(&[max, heads.dim / 2], dtype, &device);
            let ((cos, cos0), (sin, sin0)) = (table()?, table()?);
            let weight = || numbers(&[heads.dim], dtype, &device);
            let ((qn, qn0), (kn, kn0)) = (weight()?, weight()?);
            let caches = || -> Result<_> {
                let shape = (b, heads.kv, max, heads.dim);
                let (k, k0) = numbers(&[shape.0, shape.1, shape.2, shape.3], dtype, &device)?;
                let (v, v0) = numbers(&[shape.0, shape.1, shape.2, shape.3], dtype, &device)?;
                Ok(((k, v), (k0, v0)))
            };
            let ((k, v), (k0, v0)) = caches()?;
            let on_gpu = Rotation {
                tables: turn.then_some((&cos, &sin)),
                norms: norm.then_some((&qn, &kn, 1e-5)),
            };
            let on_cpu = Rotation {
                tables: turn.then_some((&cos0, &sin0)),
                norms: norm.then_some((&qn0, &kn0, 1e-5)),
            };
            let want = ops::self_attention(
                &qkv0,
                &heads,
                &on_cpu,
                (&k0, &v0),
                Offset::Host(offset),
                queries,
            )?;
            let position = Tensor::new(&[offset as u32], &device)?;
            let mut offsets = vec![Offset::Host(offset)];
            if s == 1 {
                offsets.push(Offset::Device(&position));
            }
            for at in offsets {
                let made = cuda::self_attention(&qkv, &heads, &on_gpu, (&k, &v), at, queries);
                same("self_attention", &some("it", made), &want, 16.0)?;
                same("keys", &k, &k0, 4.0)?;
                same("values", &v, &v0, 1.0)?;
            }
        }
    }
    Ok(())
}

#[test]
fn embeddings() -> Result<()> {
    let Some((device, _alone)) = device("embeddings") else {
        return Ok(());
    };
    for dtype in DTYPES {
        let (table, table0) = numbers(&[11, 33], dtype, &device)?;
        let (positions, positions0) = numbers(&[9, 33], dtype, &device)?;
        let (table, table0) = (Weight::Dense(table), Weight::Dense(table0));
        let ids0 = Tensor::new(&[[0u32, 10, 3], [7, 7, 2]], &Device::Cpu)?;
        let ids = ids0.to_device(&device)?;
        let five = Tensor::new(&[5u32], &device)?;
        for at in [Offset::Host(5), Offset::Device(&five)] {
            let y = some(
                "embed",
                cuda::embed(&ids, &table, None, Some((&positions, at))),
            );
            let host = Some((&positions0, Offset::Host(5)));
            same(
                "embed",
                &y,
                &reference::embed(&ids0, &table0, None, host)?,
                1.0,
            )?;
        }
        let share = Some((3, 5));
        let y = some("embed", cuda::embed(&ids, &table, share, None));
        same(
            "share",
            &y,
            &reference::embed(&ids0, &table0, share, None)?,
            0.0,
        )?;
    }
    Ok(())
}

#[test]
fn the_first_of_the_largest_logits() -> Result<()> {
    let Some((device, _alone)) = device("the_first_of_the_largest_logits") else {
        return Ok(());
    };
    for dtype in DTYPES {
        for v in [1, 31, 509, 50257] {
            // As a head leaves them: rows of a wider product.
            let (wide, wide0) = numbers(&[3, v + 7], dtype, &device)?;
            let (x, x0) = (wide.narrow(1, 0, v)?, wide0.narrow(1, 0, v)?);
            let best = some("best", cuda::best_last(&x, 5)).to_vec2::<f32>()?;
            assert_eq!(best, reference::best_last(&x0, 5)?.to_vec2::<f32>()?);
            // A share of a vocabulary may be empty.
            let nothing = some("best", cuda::best_last(&x.narrow(1, 0, 0)?, 5));
            assert_eq!(nothing.to_vec2::<f32>()?, [[f32::NEG_INFINITY, 5.0]; 3]);
        }
        let equal = Tensor::ones((2, 300), DType::F32, &device)?.to_dtype(dtype)?;
        let best = some("best", cuda::best_last(&equal, 0)).to_vec2::<f32>()?;
        assert_eq!(best, [[1.0, 0.0]; 2]);
    }
    Ok(())
}

#[test]
fn ids_are_taken_from_the_rank_that_has_the_largest_logit() -> Result<()> {
    let Some((device, _alone)) = device("ids_are_taken_from_the_rank_that_has_the_largest_logit")
    else {
        return Ok(());
    };
    let greedy = Greedy::new(3, 4, &device)?;
    let best = |best: [[[f32; 2]; 3]; 2]| Tensor::new(&best, &device);
    // Larger on one rank, larger on the other, and equal: the first.
    let first = best([
        [[2.0, 3.0], [1.0, 4.0], [5.0, 6.0]],
        [[1.0, 103.0], [2.0, 104.0], [5.0, 106.0]],
    ])?;
    greedy.take(&first)?;
    assert_eq!(greedy.ids.to_vec1::<u32>()?, [3, 104, 6]);
    assert_eq!(greedy.bad.to_vec1::<u32>()?, [0]);
    let second = best([
        [[0.0, 1.0], [f32::NAN, 2.0], [0.0, 3.0]],
        [[1.0, 101.0], [9.0, 102.0], [-1.0, 103.0]],
    ])?;
    greedy.take(&second)?;
    assert_eq!(greedy.bad.to_vec1::<u32>()?, [2]);
    let history = greedy.history.to_vec2::<u32>()?;
    assert_eq!(history, [[3, 101, 0, 0], [104, 2, 0, 0], [6, 3, 0, 0]]);
    assert_eq!(greedy.step.to_vec1::<u32>()?, [2]);
    assert_eq!(greedy.position.to_vec1::<u32>()?, [2]);
    assert!(greedy.take(&first.narrow(1, 0, 2)?).is_err());
    Ok(())
}

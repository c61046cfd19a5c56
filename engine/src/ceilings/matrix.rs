//! How fast matrices can be multiplied, by the best of the products that matter.

use std::fmt;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::best::best_of;
use super::roofline::ModelShape;
use crate::ops;

/// The matrix throughput of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Matrix {
    /// Operations per second, a multiply-add counting two: the median over the repeats of the best
    /// product.
    pub flops_per_second: f64,
    /// The product and the routine that won.
    pub product: String,
    /// How often it was computed.
    pub repeats: usize,
    /// The element type multiplied.
    pub dtype: String,
}

/// `[rows, depth] · [columns, depth]ᵀ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Product {
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result: rows of the weights.
    pub columns: usize,
    /// Length of the sums.
    pub depth: usize,
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.rows, self.columns, self.depth)
    }
}

impl Product {
    fn flops(self) -> f64 {
        2.0 * self.rows as f64 * self.columns as f64 * self.depth as f64
    }

    /// Bytes of its factors and of the result, in f32.
    fn bytes(self) -> usize {
        let Self {
            rows,
            columns,
            depth,
        } = self;
        size_of::<f32>() * (rows * depth + columns * depth + rows * columns)
    }
}

/// Products worth measuring: two squares and, given a model, what its prefill multiplies.
pub fn products(shape: Option<&ModelShape>) -> Vec<Product> {
    some_products([1024, 2048], 512, shape)
}

/// As [`products`], as large as a GPU needs them to be busy.
#[cfg(feature = "cuda")]
pub(super) fn gpu_products(shape: Option<&ModelShape>) -> Vec<Product> {
    some_products([4096, 8192], crate::size::PREFILL_ROWS, shape)
}

fn some_products(squares: [usize; 2], rows: usize, shape: Option<&ModelShape>) -> Vec<Product> {
    let mut products: Vec<Product> = squares
        .map(|size| Product {
            rows: size,
            columns: size,
            depth: size,
        })
        .into();
    if let Some(shape) = shape {
        // Feed-forward matrices are the larger part of a layer; their width follows from the
        // parameters that attention leaves.
        let e = shape.hidden;
        let attention = 2 * e * (shape.heads + shape.kv_heads) * shape.head_dim;
        let per_layer = shape.layer_params / shape.layers.max(1);
        let wide = (per_layer.saturating_sub(attention) / (2 * e)).clamp(e, 8 * e);
        products.push(Product {
            rows,
            columns: wide,
            depth: e,
        });
        products.push(Product {
            rows,
            columns: e,
            depth: wide,
        });
    }
    products.sort_by(|a, b| a.flops().total_cmp(&b.flops()));
    products.dedup();
    products
}

/// The products whose factors lie in `room` bytes together, the smallest first and in any case; and the largest of the
/// others.
pub(super) fn within(products: &[Product], room: usize) -> (Vec<Product>, Option<Product>) {
    let mut taken = 0;
    let (mut fitting, mut beyond) = (Vec::new(), None);
    for product in products {
        if fitting.is_empty() || product.bytes() <= room.saturating_sub(taken) {
            taken += product.bytes();
            fitting.push(*product);
        } else {
            beyond = Some(*product);
        }
    }
    (fitting, beyond)
}

/// How long a GPU rests before each measurement: kept busy, it lowers its clocks to keep to its limit of power, and what
/// a prompt after other work may reach would be more than the ceiling.
const REST: Duration = Duration::from_millis(15);
/// Products that a GPU is given at once: a wait for it costs microseconds.
const TURNS: usize = 4;

/// Multiplies for about `budget`, each product by candle and by the engine's own routine.
///
/// # Errors
/// When `dtype` cannot be multiplied on `device`, or memory cannot be had.
pub fn measure(
    device: &Device,
    dtype: DType,
    products: &[Product],
    budget: Duration,
) -> Result<Matrix> {
    type Routine = fn(&Tensor, &Tensor) -> Result<Tensor>;
    let routines: [(&str, Routine); 2] = [
        ("candle", |x, w| ops::reference::linear(x, w, None)),
        ("engine", |x, w| ops::linear(x, w, None)),
    ];
    let mut candidates = Vec::new();
    let mut operands = Vec::new();
    for product in products {
        let normal =
            |rows| Tensor::randn(0f32, 1.0, (rows, product.depth), device)?.to_dtype(dtype);
        operands.push((*product, normal(product.rows)?, normal(product.columns)?));
        candidates.extend((0..routines.len()).map(|routine| (operands.len() - 1, routine)));
    }
    let mut failure = None;
    let (best, rate, repeats) = best_of(&candidates, budget, |(operand, routine)| {
        let (product, x, w) = &operands[operand];
        let mut turns = 1;
        if !device.is_cpu() {
            std::thread::sleep(REST);
            turns = TURNS;
        }
        let start = Instant::now();
        let done = (0..turns)
            .try_for_each(|_| routines[routine].1(x, w).map(drop))
            .and_then(|()| device.synchronize());
        if let Err(error) = done {
            failure = Some(error);
            return 0.0;
        }
        turns as f64 * product.flops() / start.elapsed().as_secs_f64()
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(Matrix {
            flops_per_second: rate,
            product: format!("{} ({})", operands[best.0].0, routines[best.1].0),
            repeats,
            dtype: dtype.as_str().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_memory_has_no_room_for_is_left_out() {
        let products = products(None);
        let [small, large] = products[..] else {
            panic!("{products:?}")
        };
        assert_eq!((small.bytes(), large.bytes()), (12 << 20, 48 << 20));
        assert_eq!(within(&products, 60 << 20), (vec![small, large], None));
        for room in [59 << 20, 12 << 20, 0] {
            assert_eq!(within(&products, room), (vec![small], Some(large)));
        }
    }

    #[test]
    fn a_model_adds_its_feed_forward_products() {
        let gpt2 = ModelShape {
            layers: 12,
            hidden: 768,
            heads: 12,
            kv_heads: 12,
            head_dim: 64,
            vocab: 50257,
            layer_params: 12 * 12 * 768 * 768,
            matmul_weight_bytes: 494_128_128,
            dtype_bytes: 4,
        };
        let products: Vec<String> = products(Some(&gpt2))
            .iter()
            .map(Product::to_string)
            .collect();
        for wanted in [
            "1024x1024x1024",
            "2048x2048x2048",
            "512x3072x768",
            "512x768x3072",
        ] {
            assert!(
                products.iter().any(|p| p == wanted),
                "{wanted} is missing in {products:?}"
            );
        }
    }
}

//! One step of decoding on one GPU by few kernels, which write into buffers that are there from step to step: captured
//! as a graph it is kernels alone, each of which may start before the one before it has ended.
//!
//! A layer of one sequence takes five: the norm with queries, keys and values; attention; its output added to the
//! stream; the norm with the first half of the feed-forward layer; and its second half added to the stream. Of several
//! sequences, cuBLAS multiplies.

use candle_core::{DType, Device, Result, Tensor};

use super::activation::by_columns;
use super::attention::{Shares, append, decode_into};
use super::device::{Arg, Grid, How, Kit, dense};
use super::greedy::{Greedy, best_into};
use super::linear::{activation, product_into};
use super::norm;
use super::source::Variant;
use super::switch;
use crate::models::cache::KvCache;
use crate::ops::cpu::Epilogue;
use crate::ops::{Heads, Offset, Rotation};

/// A norm: LayerNorm where there is a bias, else RMSNorm.
pub(crate) struct Norm {
    /// `[E]`.
    pub weight: Tensor,
    /// `[E]`.
    pub bias: Option<Tensor>,
    /// The epsilon: added to the variance or the mean square.
    pub eps: f32,
}

/// A product with a matrix.
pub(crate) struct Product {
    /// `[n, k]`.
    pub weight: Tensor,
    /// `[n]`.
    pub bias: Option<Tensor>,
}

/// A decoder layer.
pub(crate) struct Layer {
    /// Before attention.
    pub norm_1: Norm,
    /// Queries, keys and values.
    pub qkv: Product,
    /// Weights of the norms of queries' and keys' heads, and their epsilon.
    pub head_norms: Option<(Tensor, Tensor, f32)>,
    /// Attention's output.
    pub out: Product,
    /// Before the feed-forward layer.
    pub norm_2: Norm,
    /// The feed-forward layer's first half: `silu(gate)·up` where `gated`, else GELU.
    pub up: Product,
    /// Whether `up` is two matrices, the gate's before the other.
    pub gated: bool,
    /// The feed-forward layer's second half.
    pub down: Product,
}

/// A whole model on one GPU: the weights that a step multiplies by, in its order.
pub(crate) struct Parts {
    /// `[V, E]`.
    pub tokens: Tensor,
    /// Learned positions, `[positions, E]`.
    pub positions: Option<Tensor>,
    /// Cosines and sines of rotary positions, `[positions, D/2]`.
    pub tables: Option<(Tensor, Tensor)>,
    /// Heads of attention.
    pub heads: Heads,
    /// All layers.
    pub layers: Vec<Layer>,
    /// After them.
    pub norm: Norm,
    /// `[rows, E]`.
    pub head: Tensor,
    /// How many of the head's rows are entries of the vocabulary.
    pub entries: usize,
}

/// A model's step for one shape, with the buffers between its kernels.
pub(crate) struct Step {
    parts: Parts,
    batch: usize,
    /// The stream, `[B, E]`.
    x: Tensor,
    /// Its norm, `[B, E]`.
    h: Tensor,
    /// `[B, 1, (H + 2·KVH)·D]`.
    qkv: Tensor,
    /// `[B, H, 1, D]`.
    q: Tensor,
    /// `[B, H·D]`.
    a: Tensor,
    /// Both halves of a gated layer, `[B, 2F]`, or what GELU is taken of in place, `[B, F]`.
    up: Tensor,
    /// `[B, F]`.
    f: Tensor,
    /// `[B, rows of the head]`.
    logits: Tensor,
    /// `[1, B, 2]`.
    best: Tensor,
    shares: Shares,
    /// Whether attention is one kernel.
    one_kernel: bool,
    /// Blocks of `step_attention` that are done, `[B·KVH]`; zeros between steps.
    done: Tensor,
}

/// Threads of a block of `step_product`.
const BLOCK: usize = 512;

/// Bytes of shared memory of `step_product`: the row, and what is on its way for each warp.
fn shared_bytes(k: usize, dtype: DType) -> usize {
    let ahead = match dtype {
        DType::F32 => 8 * 256,
        _ => 16 * 256,
    };
    (k + BLOCK / 32 * ahead) * dtype.size_in_bytes()
}

/// The end of each sum of `step_product`, as its source says.
#[derive(Clone, Copy)]
enum Mode {
    Plain,
    Gelu,
    Silu,
    Onto,
}

impl Step {
    /// The step of `batch` sequences with caches of `max` positions; none where there are no kernels for the model.
    pub fn new(parts: Parts, batch: usize, max: usize) -> Result<Option<Self>> {
        let Some(kit) = Kit::of(&parts.tokens)? else {
            return Ok(None);
        };
        let Heads { query, kv, dim } = parts.heads;
        let dtype = parts.tokens.dtype();
        let (e, rows) = (parts.tokens.dim(1)?, parts.head.dim(0)?);
        let Some(first) = parts.layers.first() else {
            return Ok(None);
        };
        let (up, f) = (first.up.weight.dim(0)?, first.down.weight.dim(1)?);
        let rows_of = [e, query * dim, f];
        let fits = rows_of
            .iter()
            .all(|k| k % 8 == 0 && (batch > 1 || shared_bytes(*k, dtype) <= kit.shared))
            && !switch::off("fused")
            && dim >= 16
            // GELU is taken with the bias.
            && parts.layers.iter().all(|layer| layer.gated || layer.up.bias.is_some())
            && Variant::attention(dtype, query / kv, dim).is_some()
            && parts.all_dense(dtype);
        if !fits {
            return Ok(None);
        }
        // Of many grouped heads the cache is long to read, for which there are tensor cores.
        let one_kernel = query == kv || batch * kv <= kit.processors / 2;
        let device = Device::Cuda(kit.device.clone());
        let new = |shape: &[usize]| kit.empty(shape, dtype);
        Ok(Some(Self {
            x: new(&[batch, e])?,
            h: new(&[batch, e])?,
            qkv: new(&[batch, 1, (query + 2 * kv) * dim])?,
            q: new(&[batch, query, 1, dim])?,
            a: new(&[batch, query * dim])?,
            up: new(&[batch, up])?,
            f: new(&[batch, f])?,
            logits: new(&[batch, rows])?,
            best: kit.empty((1, batch, 2), DType::F32)?,
            shares: if one_kernel {
                Shares::short(&kit, batch, &parts.heads, max)?
            } else {
                Shares::new(&kit, batch, &parts.heads, max)?
            },
            one_kernel,
            done: Tensor::zeros(batch * kv, DType::U32, &device)?,
            parts,
            batch,
        }))
    }

    /// Enqueues the step: the last ids in, the next ids out. The cache is of the shape that the step was made for.
    pub fn run(&self, greedy: &Greedy, cache: &KvCache) -> Result<()> {
        let Some(kit) = Kit::of(&self.x)? else {
            candle_core::bail!("a step on a GPU is asked for elsewhere");
        };
        let all = Launches::of(&kit, self.x.dtype())?;
        self.embed(&all, greedy)?;
        self.layers(&all, greedy, cache)?;
        let logits = self.logits.narrow(1, 0, self.parts.entries)?;
        best_into(&kit, &logits, 0, &self.best, all.how)?;
        greedy.take(&self.best)
    }

    /// From the stream to the logits.
    fn layers(&self, all: &Launches, greedy: &Greedy, cache: &KvCache) -> Result<()> {
        let head = Product {
            weight: self.parts.head.clone(),
            bias: None,
        };
        for (layer, caches) in self.parts.layers.iter().zip(&cache.layers) {
            let Layer {
                qkv, out, up, down, ..
            } = layer;
            self.normed_product(all, &layer.norm_1, qkv, &self.qkv, Mode::Plain)?;
            self.attention(all, layer, caches, greedy)?;
            self.product_onto(all, &self.a, out)?;
            let mode = if layer.gated { Mode::Silu } else { Mode::Gelu };
            self.normed_product(all, &layer.norm_2, up, &self.f, mode)?;
            self.product_onto(all, &self.f, down)?;
        }
        self.normed_product(all, &self.parts.norm, &head, &self.logits, Mode::Plain)
    }

    fn embed(&self, all: &Launches, greedy: &Greedy) -> Result<()> {
        let e = self.x.dim(1)?;
        let (entries, _) = self.parts.tokens.dims2()?;
        // SAFETY: as in `super::embed`; the position is counted on the device, and the cache has room for it.
        unsafe {
            all.launch(
                "embed",
                ([1, self.batch, 1], e.next_multiple_of(32).min(256)),
                &[
                    Arg::of(&greedy.ids)?,
                    Arg::of(&self.parts.tokens)?,
                    Arg::maybe(self.parts.positions.as_ref())?,
                    Arg::of(&self.x)?,
                    Arg::of(&greedy.position)?,
                    Arg::Int(0),
                    Arg::Int(0),
                    Arg::int(entries)?,
                    Arg::int(e)?,
                ],
            )
        }
    }

    /// `y` from the norm of the stream.
    fn normed_product(
        &self,
        all: &Launches,
        norm: &Norm,
        product: &Product,
        y: &Tensor,
        mode: Mode,
    ) -> Result<()> {
        if self.batch == 1 {
            return all.product(&self.x, Some(norm), product, y, mode);
        }
        let bias = norm.bias.as_ref();
        norm::into(
            all.kit,
            &self.x,
            &norm.weight,
            bias,
            norm.eps,
            &self.h,
            all.how,
        )?;
        match mode {
            Mode::Silu => {
                product_into(all.kit, &self.h, &product.weight, &self.up, false)?;
                if let Some(bias) = &product.bias {
                    all.add_bias(&self.up, bias, Epilogue::Bias)?;
                }
                let f = y.dim(1)?;
                // SAFETY: `up` has rows of 2f, and y of f.
                unsafe {
                    all.launch(
                        "silu_mul",
                        by_columns(self.batch, f),
                        &[Arg::of(&self.up)?, Arg::of(y)?, Arg::int(f)?],
                    )
                }
            }
            Mode::Plain | Mode::Gelu | Mode::Onto => {
                product_into(all.kit, &self.h, &product.weight, y, false)?;
                let epilogue = match mode {
                    Mode::Gelu => Epilogue::BiasGelu,
                    _ => Epilogue::Bias,
                };
                match &product.bias {
                    Some(bias) => all.add_bias(y, bias, epilogue),
                    None => Ok(()),
                }
            }
        }
    }

    /// Adds a product to the stream.
    fn product_onto(&self, all: &Launches, from: &Tensor, product: &Product) -> Result<()> {
        if self.batch == 1 {
            return all.product(from, None, product, &self.x, Mode::Onto);
        }
        product_into(all.kit, from, &product.weight, &self.x, true)?;
        match &product.bias {
            Some(bias) => all.add_bias(&self.x, bias, Epilogue::Bias),
            None => Ok(()),
        }
    }

    fn attention(
        &self,
        all: &Launches,
        layer: &Layer,
        (k, v): &(Tensor, Tensor),
        greedy: &Greedy,
    ) -> Result<()> {
        let heads = &self.parts.heads;
        let rotation = Rotation {
            tables: self.parts.tables.as_ref().map(|(cos, sin)| (cos, sin)),
            norms: layer.head_norms.as_ref().map(|(q, k, eps)| (q, k, *eps)),
        };
        let position = &greedy.position;
        let caches = (k, v);
        if !self.one_kernel {
            let at = Offset::Device(position);
            append(
                all.kit, &self.qkv, heads, &rotation, caches, at, &self.q, all.how,
            )?;
            return decode_into(all.kit, &self.q, caches, at, &self.shares, &self.a, all.how);
        }
        let Heads { query, kv, dim } = *heads;
        let Some(variant) = Variant::attention(self.x.dtype(), query / kv, dim) else {
            candle_core::bail!("attention: no kernel for heads {heads:?}");
        };
        let (cos, sin) = rotation.tables.unzip();
        let (q_norm, k_norm) = rotation.norms.map(|(q, k, _)| (q, k)).unzip();
        // SAFETY: the buffers are of the sizes that the kernel's comment names, and the caches have room for the position.
        unsafe {
            all.kit.launch_as(
                variant,
                "step_attention",
                ([self.shares.splits, kv, self.batch], 128),
                &[
                    Arg::of(&self.qkv)?,
                    Arg::maybe(cos)?,
                    Arg::maybe(sin)?,
                    Arg::maybe(q_norm)?,
                    Arg::maybe(k_norm)?,
                    Arg::of(k)?,
                    Arg::of(v)?,
                    Arg::of(position)?,
                    Arg::of(&self.a)?,
                    Arg::of(&self.shares.out)?,
                    Arg::of(&self.shares.stats)?,
                    Arg::of(&self.done)?,
                    Arg::int(kv)?,
                    Arg::int(k.dim(2)?)?,
                    Arg::Float(rotation.norms.map_or(0.0, |(.., eps)| eps)),
                    Arg::Float(heads.scale()),
                ],
                all.how,
            )
        }
    }
}

impl Parts {
    /// Whether all weights are dense and of one type.
    fn all_dense(&self, dtype: DType) -> bool {
        let norm = |norm: &Norm| {
            dense(&[&norm.weight], dtype)
                && norm.bias.as_ref().is_none_or(|bias| dense(&[bias], dtype))
        };
        let product = |product: &Product| {
            dense(&[&product.weight], dtype)
                && product
                    .bias
                    .as_ref()
                    .is_none_or(|bias| dense(&[bias], dtype))
        };
        let tables = self
            .positions
            .iter()
            .chain(self.tables.iter().flat_map(|(cos, sin)| [cos, sin]));
        dense(&[&self.tokens, &self.head], dtype)
            && norm(&self.norm)
            && tables.into_iter().all(|table| dense(&[table], dtype))
            && self.layers.iter().all(|layer| {
                norm(&layer.norm_1)
                    && norm(&layer.norm_2)
                    && product(&layer.qkv)
                    && product(&layer.out)
                    && product(&layer.up)
                    && product(&layer.down)
                    && layer
                        .head_norms
                        .as_ref()
                        .is_none_or(|(q, k, _)| dense(&[q, k], dtype))
            })
    }
}

/// How a step's kernels are launched.
struct Launches<'a> {
    kit: &'a Kit,
    variant: Variant,
    how: How,
}

impl<'a> Launches<'a> {
    fn of(kit: &'a Kit, dtype: DType) -> Result<Self> {
        let Some(variant) = Variant::base(dtype) else {
            candle_core::bail!("no kernel takes a tensor of {dtype:?}");
        };
        let how = How {
            overlaps: !switch::off("overlap"),
            ..How::default()
        };
        Ok(Self { kit, variant, how })
    }

    /// # Safety
    /// As [`Kit::launch`].
    unsafe fn launch(&self, kernel: &'static str, grid: Grid, args: &[Arg]) -> Result<()> {
        // SAFETY: the caller's; every kernel waits for the one before.
        unsafe {
            self.kit
                .launch_as(self.variant, kernel, grid, args, self.how)
        }
    }

    /// The product of one row.
    fn product(
        &self,
        x: &Tensor,
        norm: Option<&Norm>,
        product: &Product,
        y: &Tensor,
        mode: Mode,
    ) -> Result<()> {
        let (rows, k) = product.weight.dims2()?;
        let n = match mode {
            Mode::Silu => rows / 2,
            _ => rows,
        };
        let mode = match mode {
            Mode::Plain => 0,
            Mode::Gelu => 1,
            Mode::Silu => 2,
            Mode::Onto => 3,
        };
        let blocks = n.div_ceil(BLOCK / 32).min(self.kit.processors);
        let how = How {
            shared: shared_bytes(k, x.dtype()),
            ..self.how
        };
        // SAFETY: x has k elements, the matrix rows of as many, and y n; all begin at multiples of 16 bytes, as tensors
        // do, and rows are of whole eights.
        unsafe {
            self.kit.launch_as(
                self.variant,
                "step_product",
                ([blocks, 1, 1], BLOCK),
                &[
                    Arg::of(x)?,
                    Arg::maybe(norm.map(|norm| &norm.weight))?,
                    Arg::maybe(norm.and_then(|norm| norm.bias.as_ref()))?,
                    Arg::of(&product.weight)?,
                    Arg::maybe(product.bias.as_ref())?,
                    Arg::of(y)?,
                    Arg::int(n)?,
                    Arg::int(k)?,
                    Arg::Int(mode),
                    Arg::Float(norm.map_or(0.0, |norm| norm.eps)),
                ],
                how,
            )
        }
    }

    fn add_bias(&self, y: &Tensor, bias: &Tensor, epilogue: Epilogue) -> Result<()> {
        let n = bias.elem_count();
        // SAFETY: y has rows of n.
        unsafe {
            self.launch(
                "add_bias",
                by_columns(y.elem_count() / n, n),
                &[
                    Arg::of(y)?,
                    Arg::of(bias)?,
                    Arg::int(n)?,
                    activation(epilogue),
                ],
            )
        }
    }
}

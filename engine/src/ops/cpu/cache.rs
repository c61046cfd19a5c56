//! Writing new keys and values into the cache.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};

use super::pool::{Disjoint, share};
use super::view::{Rows4, View};

/// Writes `new [B, KVH, S, D]` into `cache [B, KVH, Smax, D]` from position `offset` on; `false`
/// where the operands are not for this path.
///
/// Unlike candle's `slice_set`, `new` may be strided: a view of the merged q, k, v product.
pub(in crate::ops) fn kv_append(cache: &Tensor, new: &Tensor, offset: usize) -> Result<bool> {
    {
        let (Some(cache), Some(new)) = (View::of(cache), View::of(new)) else {
            return Ok(false);
        };
        let (Some(_), Some(new), &[b, h, max, d]) = (cache.contiguous(), new.rows4(), cache.dims())
        else {
            return Ok(false);
        };
        let [_, _, s, _] = new.dims;
        if new.dims != [b, h, s, d] || offset + s > max || b * h * s * d == 0 {
            return Ok(false);
        }
    }
    cache.inplace_op2(new, &Append { offset })?;
    Ok(true)
}

/// The copy itself, as candle lets a tensor be written in place.
struct Append {
    offset: usize,
}

impl InplaceOp2 for Append {
    fn name(&self) -> &'static str {
        "kv-append"
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        cache_layout: &Layout,
        new: &CpuStorage,
        new_layout: &Layout,
    ) -> Result<()> {
        let (CpuStorage::F32(cache), CpuStorage::F32(new), Some((start, end)), &[_, _, max, _]) = (
            cache,
            new,
            cache_layout.contiguous_offsets(),
            cache_layout.dims(),
        ) else {
            bail!("kv-append: the operands are not what kv_append checked");
        };
        let Some(new) = Rows4::of(new, new_layout) else {
            bail!("kv-append: the rows of the new positions are not dense");
        };
        let [b, h, s, d] = new.dims;
        let cache = Disjoint::new(&mut cache[start..end]);
        share(b * h, b * h * s * d, |heads| {
            for head in heads {
                for i in 0..s {
                    let start = (head * max + self.offset + i) * d;
                    // SAFETY: each row belongs to one head, each head to one range.
                    let row = unsafe { cache.slice(start..start + d) };
                    row.copy_from_slice(new.row(head / h, head % h, i));
                }
            }
        });
        Ok(())
    }
}

//! Looking up embeddings.

use candle_core::{DType, Result, Tensor};

use super::device::{Arg, Kit, dense};
use super::source::Variant;
use crate::ops::{Offset, Weight, reference};

/// See [`crate::ops::embed`].
pub(in crate::ops) fn embed(
    ids: &Tensor,
    table: &Weight,
    entries: Option<(usize, usize)>,
    positions: Option<(&Tensor, Offset)>,
) -> Result<Option<Tensor>> {
    let tokens = match table {
        Weight::Dense(tokens) => tokens,
        Weight::Quantized(_) => return quantized(ids, table, entries, positions),
    };
    let Some(kit) = Kit::of(tokens)? else {
        return Ok(None);
    };
    let dtype = tokens.dtype();
    let ((b, s), (rows, e)) = (ids.dims2()?, tokens.dims2()?);
    let fits = dense(&[ids], DType::U32)
        && dense(&[tokens], dtype)
        && positions
            .is_none_or(|(table, _)| dense(&[table], dtype) && table.dims().last() == Some(&e));
    let (Some(variant), true) = (Variant::base(dtype), fits) else {
        return Ok(None);
    };
    if let Some((table, Offset::Host(offset))) = positions
        && offset + s > table.dim(0)?
    {
        return Ok(None);
    }
    let (start, count) = entries.unwrap_or((0, rows));
    if count > rows {
        return Ok(None);
    }
    let at = positions.map_or(Offset::Host(0), |(_, at)| at);
    let y = kit.empty((b, s, e), dtype)?;
    // SAFETY: y is new; ids outside of the table's rows are not looked up, and the positions are in theirs: checked
    // above, or by whoever counts on the device.
    unsafe {
        kit.launch(
            variant,
            "embed",
            ([s, b, 1], e.next_multiple_of(32).min(256)),
            &[
                Arg::of(ids)?,
                Arg::of(tokens)?,
                Arg::maybe(positions.map(|(table, _)| table))?,
                Arg::of(&y)?,
                Arg::maybe(at.on_device())?,
                Arg::int(at.on_host())?,
                Arg::int(start)?,
                Arg::int(count)?,
                Arg::int(e)?,
            ],
        )?;
    }
    Ok(Some(y))
}

/// As [`embed`], of a whole vocabulary: candle looks up its rows without the host, but no positions that are on the
/// device.
fn quantized(
    ids: &Tensor,
    table: &Weight,
    entries: Option<(usize, usize)>,
    positions: Option<(&Tensor, Offset)>,
) -> Result<Option<Tensor>> {
    let (None, Some((rows, _))) = (entries, positions) else {
        return Ok(None);
    };
    // No id is an entry of this table: what comes is zeros, and the positions.
    let Some(at) = embed(ids, &Weight::Dense(rows.clone()), Some((0, 0)), positions)? else {
        return Ok(None);
    };
    (reference::embed(ids, table, None, None)? + at).map(Some)
}

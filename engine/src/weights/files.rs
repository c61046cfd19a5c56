//! Weights in safetensors files, one or several, mapped into memory and read slice by slice.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::element::Element;
use super::part::Part;
use crate::error::EngineError;

/// Files, and where in them each tensor lies.
pub(crate) struct Files {
    maps: Vec<(PathBuf, Mmap)>,
    tensors: HashMap<String, Entry>,
}

struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl Files {
    /// Opens the weights in `dir`: the files that `model.safetensors.index.json` names, else
    /// `model.safetensors`, else every `*.safetensors`.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] names the file that is missing or broken.
    pub fn open(dir: &Path) -> Result<Self, EngineError> {
        let mut maps = Vec::new();
        let mut tensors = HashMap::new();
        for path in paths(dir)? {
            let broken = |e: &dyn std::fmt::Display| {
                EngineError::Invalid(format!("{}: {e}", path.display()))
            };
            let file = File::open(&path).map_err(|e| broken(&e))?;
            // SAFETY: the map is only read. That nobody truncates the file meanwhile is the
            // caller's to see to, as for any program that maps its inputs.
            let map = unsafe { Mmap::map(&file) }.map_err(|e| broken(&e))?;
            let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| broken(&e))?;
            // After the header comes its length in 8 bytes; offsets count from behind both.
            let start = header + 8;
            for (name, info) in metadata.tensors() {
                let (from, to) = info.data_offsets;
                let entry = Entry {
                    file: maps.len(),
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    bytes: start + from..start + to,
                };
                if tensors.insert(name.clone(), entry).is_some() {
                    return Err(broken(&format!("tensor {name} is in another file, too")));
                }
            }
            maps.push((path, map));
        }
        Ok(Self { maps, tensors })
    }

    /// Every tensor that the files hold, by the name that it has there.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The files, for a message.
    pub fn place(&self) -> String {
        let files = self.maps.iter().map(|(path, _)| path.display().to_string());
        files.collect::<Vec<_>>().join(", ")
    }

    /// The name that a tensor has in the files: some checkpoints, GPT-2's among them, hold the decoder alone and leave
    /// its prefix out.
    pub fn stored_name<'a>(&self, name: &'a str) -> Option<&'a str> {
        let prefixes = ["", "transformer.", "model."];
        let mut names = prefixes
            .iter()
            .filter_map(|prefix| name.strip_prefix(prefix));
        names.find(|name| self.tensors.contains_key(*name))
    }

    fn find(&self, name: &str) -> Option<&Entry> {
        self.tensors.get(self.stored_name(name)?)
    }

    /// Whether two tensors hold the very same bytes.
    pub fn same(&self, one: &str, other: &str) -> bool {
        let (Some(one), Some(other)) = (self.find(one), self.find(other)) else {
            return false;
        };
        let bytes = |entry: &Entry| &self.maps[entry.file].1[entry.bytes.clone()];
        one.dtype == other.dtype && one.shape == other.shape && bytes(one) == bytes(other)
    }

    /// Checks a tensor's presence, shape and dtype.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<(), EngineError> {
        let Some(entry) = self.find(name) else {
            return Err(EngineError::Invalid(format!(
                "{}: tensor {name} is missing",
                self.place()
            )));
        };
        let file = self.maps[entry.file].0.display();
        if entry.shape != shape {
            return Err(EngineError::Invalid(format!(
                "{file}: tensor {name} has shape {:?}, wanted {shape:?}",
                entry.shape
            )));
        }
        if !matches!(entry.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(EngineError::Unsupported(format!(
                "{file}: tensor {name} has dtype {:?}, allowed are F32, F16 and BF16",
                entry.dtype
            )));
        }
        Ok(())
    }

    /// See [`super::Source::fill`]; the part has passed [`Files::check`].
    pub fn fill<T: Element>(&self, part: &Part, rows: Range<usize>, out: &mut [T], stride: usize) {
        let entry = self.find(&part.name).expect("checked before");
        let bytes = &self.maps[entry.file].1[entry.bytes.clone()];
        let width = part.stored_width();
        if part.transposed {
            return match entry.dtype {
                Dtype::F32 => transpose::<T, 4>(bytes, width, part, rows, out, stride, |b| {
                    f32::from_le_bytes(b)
                }),
                Dtype::F16 => transpose::<T, 2>(bytes, width, part, rows, out, stride, |b| {
                    f16::from_le_bytes(b).to_f32()
                }),
                _ => transpose::<T, 2>(bytes, width, part, rows, out, stride, |b| {
                    bf16::from_le_bytes(b).to_f32()
                }),
            };
        }
        let size = entry.dtype.bitsize() / 8;
        for (row, out) in rows.zip(out.chunks_mut(stride)) {
            let start = row * width;
            let from = (start + part.cols.start) * size;
            let to = (start + part.cols.end) * size;
            convert(&bytes[from..to], entry.dtype, &mut out[..part.cols.len()]);
        }
    }
}

fn paths(dir: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let index = dir.join("model.safetensors.index.json");
    if index.is_file() {
        let broken =
            |e: &dyn std::fmt::Display| EngineError::Invalid(format!("{}: {e}", index.display()));
        let text = std::fs::read_to_string(&index).map_err(|e| broken(&e))?;
        let json: Value = serde_json::from_str(&text).map_err(|e| broken(&e))?;
        let map = json
            .get("weight_map")
            .and_then(Value::as_object)
            .ok_or_else(|| broken(&"weight_map: missing"))?;
        let names: BTreeSet<_> = map.values().filter_map(Value::as_str).collect();
        return Ok(names.into_iter().map(|name| dir.join(name)).collect());
    }
    let single = dir.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let entries = std::fs::read_dir(dir)
        .map_err(|e| EngineError::Invalid(format!("{}: {e}", dir.display())))?;
    let mut found: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    found.sort();
    if found.is_empty() {
        return Err(EngineError::Invalid(format!(
            "{}: no *.safetensors file",
            dir.display()
        )));
    }
    Ok(found)
}

/// Copies, or widens and narrows, little-endian numbers.
fn convert<T: Element>(bytes: &[u8], stored: Dtype, out: &mut [T]) {
    if stored == T::STORED && cfg!(target_endian = "little") {
        assert_eq!(bytes.len(), size_of_val(out));
        // SAFETY: both are `bytes.len()` bytes long and apart; f32, bf16 and f16, the only
        // Elements, are valid for every bit pattern, and the file's is this machine's byte order.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), out.as_mut_ptr().cast(), bytes.len());
        }
        return;
    }
    match stored {
        Dtype::F32 => each::<T, 4>(bytes, out, f32::from_le_bytes),
        Dtype::F16 => each::<T, 2>(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        _ => each::<T, 2>(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
    }
}

fn each<T: Element, const N: usize>(bytes: &[u8], out: &mut [T], read: impl Fn([u8; N]) -> f32) {
    let (chunks, _) = bytes.as_chunks::<N>();
    for (out, chunk) in out.iter_mut().zip(chunks) {
        *out = T::from_f32(read(*chunk));
    }
}

/// Writes columns of what is stored as rows, tile by tile: the lines that a tile reads from stay in
/// the first cache until it is done.
fn transpose<T: Element, const N: usize>(
    bytes: &[u8],
    width: usize,
    part: &Part,
    rows: Range<usize>,
    out: &mut [T],
    stride: usize,
    read: impl Fn([u8; N]) -> f32,
) {
    const TILE: usize = 16;
    let (stored, _) = bytes.as_chunks::<N>();
    let cols = part.cols.clone();
    for row0 in rows.clone().step_by(TILE) {
        let tile_rows = row0..(row0 + TILE).min(rows.end);
        for col0 in cols.clone().step_by(TILE) {
            let tile_cols = col0..(col0 + TILE).min(cols.end);
            for row in tile_rows.clone() {
                let start = (row - rows.start) * stride + col0 - cols.start;
                let out = &mut out[start..start + tile_cols.len()];
                for (col, out) in tile_cols.clone().zip(out) {
                    *out = T::from_f32(read(stored[col * width + row]));
                }
            }
        }
    }
}

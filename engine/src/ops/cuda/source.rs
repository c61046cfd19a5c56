//! The kernels' sources, and the variants that NVRTC compiles of them. Neither needs a GPU.

use candle_core::DType;

/// The source of every kernel but those on tensor cores; [`Variant::definitions`] say for which types and shapes.
const KERNELS: &str = include_str!("kernels.cu");
/// The source of attention on tensor cores.
const FLASH: &str = include_str!("flash.cu");

/// One way to compile the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variant {
    store: u8,
    attention: Option<(usize, usize)>,
    /// On tensor cores.
    flash: bool,
}

impl Variant {
    /// All kernels but those of attention, for elements of this type; none where they are not made for it.
    pub fn base(dtype: DType) -> Option<Self> {
        let store = match dtype {
            DType::F32 => 0,
            DType::BF16 => 1,
            DType::F16 => 2,
            _ => return None,
        };
        Some(Self {
            store,
            attention: None,
            flash: false,
        })
    }

    /// Attention of `group` query heads to a key/value head of `head_dim` elements; none for shapes that it is not made
    /// for.
    pub fn attention(dtype: DType, group: usize, head_dim: usize) -> Option<Self> {
        let fits =
            (1..=8).contains(&group) && (8..=256).contains(&head_dim) && head_dim.is_power_of_two();
        let base = Self::base(dtype).filter(|_| fits)?;
        Some(Self {
            attention: Some((group, head_dim)),
            ..base
        })
    }

    /// As [`Variant::attention`], on tensor cores: for 16-bit types.
    pub fn flash(dtype: DType, group: usize, head_dim: usize) -> Option<Self> {
        let fits = dtype != DType::F32 && [64, 128].contains(&head_dim);
        let attention = Self::attention(dtype, group, head_dim).filter(|_| fits)?;
        Some(Self {
            flash: true,
            ..attention
        })
    }

    /// The source that is compiled.
    pub fn source(self) -> &'static str {
        if self.flash { FLASH } else { KERNELS }
    }

    /// The compiler's options beside the GPU's generation.
    pub fn definitions(self) -> Vec<String> {
        let mut all = vec![format!("-DSTORE={}", self.store)];
        if let Some((group, head_dim)) = self.attention {
            all.push(format!("-DG={group}"));
            all.push(format!("-DD={head_dim}"));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_definitions_of_its_own() {
        let base = Variant::base(DType::BF16).unwrap();
        let attention = Variant::attention(DType::BF16, 4, 128).unwrap();
        assert_eq!(base.definitions(), ["-DSTORE=1"]);
        assert_eq!(attention.definitions(), ["-DSTORE=1", "-DG=4", "-DD=128"]);
        assert_eq!(Variant::base(DType::U32), None);
        let flash = Variant::flash(DType::BF16, 4, 128).unwrap();
        assert_eq!(flash.definitions(), attention.definitions());
        assert_ne!(flash, attention);
        assert_ne!(flash.source(), attention.source());
        assert_eq!(Variant::flash(DType::F32, 4, 128), None);
        assert_eq!(Variant::flash(DType::F16, 4, 32), None);
        for (group, head_dim) in [(0, 64), (9, 64), (1, 96), (1, 4), (1, 512)] {
            assert_eq!(Variant::attention(DType::F32, group, head_dim), None);
        }
    }
}

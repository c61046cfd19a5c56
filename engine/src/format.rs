//! The formats of weights: plain floats, and blocks of small integers that share a scale.

use std::fmt;

use candle_core::DType;
use candle_core::quantized::GgmlDType;

use crate::gpu::Processor;

/// How weights are stored.
///
/// The quantized formats are GGUF's of the same names: 32 neighbours in a row share one 16-bit scale. Matrices are
/// stored so; norms, biases and learned positions, and with them activations and cache, stay in f32. On a CPU, which has
/// no arithmetic in 16 bits, those stay in f32 with bf16 and f16 too: every weight is rounded to the format, and nothing
/// else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32-bit IEEE float.
    F32,
    /// bfloat16.
    BF16,
    /// 16-bit IEEE float.
    F16,
    /// Blocks of 32 integers of 4 bits: 4.5 bits a weight.
    Q4_0,
    /// Blocks of 32 integers of 8 bits: 8.5 bits a weight.
    Q8_0,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::F32, Self::BF16, Self::F16, Self::Q4_0, Self::Q8_0];

    /// The type of activations, cache, and whatever weights are no matrices.
    pub const fn activations(self, processor: Processor) -> DType {
        match processor {
            Processor::Cpu => DType::F32,
            Processor::Cuda => self.stored(),
        }
    }

    /// The type of weights where they are plain numbers; of quantized formats that of those that are no matrices.
    pub const fn stored(self) -> DType {
        match self {
            Self::F32 | Self::Q4_0 | Self::Q8_0 => DType::F32,
            Self::BF16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }

    /// The type of a matrix' blocks; none where it is plain numbers.
    pub const fn blocks(self) -> Option<GgmlDType> {
        match self {
            Self::F32 | Self::BF16 | Self::F16 => None,
            Self::Q4_0 => Some(GgmlDType::Q4_0),
            Self::Q8_0 => Some(GgmlDType::Q8_0),
        }
    }

    /// Elements of one block; the length of a matrix' rows has to be a multiple of it.
    pub fn block_len(self) -> usize {
        self.blocks().map_or(1, |blocks| blocks.block_size())
    }

    /// Bytes of one element of activations and cache.
    pub fn element_bytes(self, processor: Processor) -> usize {
        self.activations(processor).size_in_bytes()
    }

    /// Bytes of `elements` elements of matrices whose rows are whole blocks.
    pub fn matrix_bytes(self, elements: u64) -> u64 {
        match self.blocks() {
            None => elements * self.stored().size_in_bytes() as u64,
            Some(blocks) => {
                elements.div_ceil(blocks.block_size() as u64) * blocks.type_size() as u64
            }
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::BF16 => "bf16",
            Self::F16 => "f16",
            Self::Q4_0 => "q4_0",
            Self::Q8_0 => "q8_0",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By GGUF's definition a block is a 2-byte scale with 32 integers.
    #[test]
    fn bytes_of_matrices() {
        let bytes = Format::ALL.map(|format| format.matrix_bytes(64));
        assert_eq!(bytes, [256, 128, 128, 2 * (2 + 16), 2 * (2 + 32)]);
        assert_eq!(Format::ALL.map(Format::block_len), [1, 1, 1, 32, 32]);
        let activations = |processor| Format::ALL.map(|format| format.element_bytes(processor));
        assert_eq!(activations(Processor::Cuda), [4, 2, 2, 4, 4]);
        assert_eq!(activations(Processor::Cpu), [4; 5]);
    }
}

//! Where a model lies, and how it is opened there.

use std::path::{Path, PathBuf};

use super::files::Files;
use super::gguf::{self, Gguf};
use super::inventory;
use super::random::Random;
use super::source::Source;
use crate::config::ModelConfig;
use crate::error::EngineError;

/// Where the model comes from.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for a model, and a configuration is small beside it"
)]
pub enum Weights {
    /// A shape with seeded random weights: every value is a function of the seed, the tensor's name and
    /// its index alone.
    Random {
        /// The shape; see [`crate::presets`].
        config: ModelConfig,
        /// The seed.
        seed: u64,
    },
    /// A Hugging Face folder, with `config.json` and `*.safetensors`, sharded or not; or a GGUF file, or
    /// a folder with one.
    Path(PathBuf),
}

impl Weights {
    /// The model's description, without its weights.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] names the file and the field that is missing or of the wrong kind;
    /// [`EngineError::Unsupported`] names what no code here can run.
    pub fn config(&self) -> Result<ModelConfig, EngineError> {
        match self {
            Weights::Random { config, .. } => Ok(config.clone()),
            Weights::Path(path) => read_config(path),
        }
    }

    /// The weights, opened: every tensor that the model has is there, and no other that could matter.
    pub(crate) fn source(&self, config: &ModelConfig) -> Result<Source, EngineError> {
        let source = match self {
            Weights::Random { seed, .. } => {
                return Ok(Source::Random(Random::new(*seed, config.layers)));
            }
            Weights::Path(path) => match gguf::find(path)? {
                Some(file) => Source::Gguf(Gguf::open(&file)?),
                None => Source::Files(Files::open(path)?),
            },
        };
        inventory::check(&source, config)?;
        Ok(source)
    }
}

/// Reads `config.json` in the folder `path`, or where it has none the header of the GGUF file there; `path` may be such
/// a file itself.
fn read_config(path: &Path) -> Result<ModelConfig, EngineError> {
    if let Some(file) = gguf::find(path)? {
        return Gguf::open(&file)?.config();
    }
    let file = path.join("config.json");
    let text = std::fs::read_to_string(&file)
        .map_err(|e| EngineError::Invalid(format!("{}: {e}", file.display())))?;
    ModelConfig::parse(&text).map_err(|e| e.within(&file.display().to_string()))
}

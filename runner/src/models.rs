//! Where a spec's models come from: each source resolved to files on this machine (or none) and to a revision that
//! fixes the weights, so that a resumed sweep never mixes two versions of a model.

mod hub;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use inferbench_crds::{
    contract::CACHE_VARIABLE,
    presets::PRESETS,
    spec::{HuggingFaceSource, Model, ObjectStoreSource},
};
use inferbench_engine::{EngineError, Weights, config::ModelConfig, gguf_file, presets};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::hub::{Hub, HubError, Settings};
use crate::store::{Store, StoreError, StoreOptions};

/// A model that is ready to be loaded.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The name of the level.
    pub name: String,
    /// The shape; absent where only the revision was asked for.
    pub config: Option<ModelConfig>,
    /// Where it lies.
    pub weights: WeightsAt,
    /// The revision that fixes the weights: a commit (`huggingFace`), `sha256:…` over the files' names and contents
    /// (`path`,
    /// `objectStore`), or `preset@seed` (`random`).
    pub revision: String,
}

/// Where a model lies.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum WeightsAt {
    /// Nowhere: it is made.
    Random {
        /// The name of the shape.
        preset: String,
        /// The seed of the weights.
        seed: i64,
    },
    /// In a local folder, or a GGUF file.
    Folder(PathBuf),
}

impl WeightsAt {
    /// As the engine wants it.
    ///
    /// # Errors
    /// Where there is no such preset.
    pub fn weights(&self) -> Result<Weights, String> {
        match self {
            WeightsAt::Random { preset, seed } => match presets::preset(preset) {
                Some(config) => Ok(Weights::Random {
                    config,
                    seed: seed.cast_unsigned(),
                }),
                None => Err(format!(
                    "there is no preset {preset:?}; there are {}",
                    PRESETS.join(", ")
                )),
            },
            WeightsAt::Folder(folder) => Ok(Weights::Path(folder.clone())),
        }
    }
}

/// How much of a model is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The revision only: one that is pinned already needs none of the model's files.
    Revision,
    /// Its configuration only; the revision may be left open.
    Config,
    /// All of it.
    Weights,
}

/// Why a model cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("model {name}: {why}")]
pub struct ModelError {
    /// The name of the level.
    name: String,
    why: Box<Why>,
}

impl ModelError {
    /// Whether trying again cannot help: the model is not what or where the spec says.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match &*self.why {
            Why::Source(_) | Why::Engine(_) => true,
            Why::Store(_) => false,
            Why::Io { error, .. } => error.kind() == io::ErrorKind::NotFound,
            Why::Hub { error, .. } => !error.is_transient(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("{0}")]
    Source(String),
    #[error("{0}")]
    Engine(#[from] EngineError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("huggingFace {repo} at {revision}: {error}")]
    Hub {
        repo: String,
        revision: String,
        error: HubError,
    },
}

/// Resolves a model; `seed` is the design's, `pinned` the revision that the sweep has begun with, if it has.
///
/// # Errors
/// Where the source has no such model, cannot be reached, or the files are not those of a model that can run.
pub fn resolve(
    model: &Model,
    seed: i64,
    need: Need,
    pinned: Option<&str>,
) -> Result<Resolved, ModelError> {
    let source = &model.source;
    let name = model.name.clone();
    if let (Need::Revision, Some(revision)) = (need, pinned) {
        let weights = WeightsAt::Folder(PathBuf::new());
        return Ok(Resolved {
            name,
            config: None,
            weights,
            revision: revision.into(),
        });
    }
    let resolved = if let Some(random) = &source.random {
        of_preset(&random.preset, seed)
    } else if let Some(folder) = &source.path {
        of_folder(Path::new(folder), need)
    } else if let Some(hub) = &source.hugging_face {
        of_hub(hub, need, pinned)
    } else if let Some(store) = &source.object_store {
        of_store(store, need)
    } else {
        Err(Why::Source("it has no source".into()))
    };
    match resolved {
        Ok((config, weights, revision)) => Ok(Resolved {
            name,
            config: Some(config),
            weights,
            revision,
        }),
        Err(why) => Err(ModelError {
            name,
            why: Box::new(why),
        }),
    }
}

fn io_error(path: &Path, error: io::Error) -> Why {
    Why::Io {
        path: path.into(),
        error,
    }
}

type Found = (ModelConfig, WeightsAt, String);

fn of_preset(name: &str, seed: i64) -> Result<Found, Why> {
    let config = presets::preset(name).ok_or_else(|| {
        Why::Source(format!(
            "there is no preset {name:?}; there are {}",
            PRESETS.join(", ")
        ))
    })?;
    let weights = WeightsAt::Random {
        preset: name.into(),
        seed,
    };
    Ok((config, weights, format!("{name}@{seed}")))
}

fn of_folder(folder: &Path, need: Need) -> Result<Found, Why> {
    let folder = fs::canonicalize(folder).map_err(|error| io_error(folder, error))?;
    let config = Weights::Path(folder.clone()).config()?;
    let revision = match (need, gguf_file(&folder)?) {
        (Need::Config, _) => String::new(),
        (_, Some(file)) => {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            digest(file.parent().unwrap_or(&folder), vec![name.into_owned()])?
        }
        (_, None) => digest(&folder, safetensors(&folder)?)?,
    };
    Ok((config, WeightsAt::Folder(folder), revision))
}

/// The files of a model that an engine reads; all else in a folder is left alone.
fn belongs(name: &str) -> bool {
    matches!(name, "config.json" | "tokenizer.json")
        || name.ends_with(".safetensors")
        || name.ends_with(".safetensors.index.json")
}

/// The names of a model's files in a folder of the Hub's layout.
fn safetensors(folder: &Path) -> Result<Vec<String>, Why> {
    let broken = |error| io_error(folder, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(broken)? {
        let name = entry.map_err(broken)?.file_name();
        names.extend(
            name.to_str()
                .filter(|name| belongs(name))
                .map(str::to_owned),
        );
    }
    if !names.iter().any(|name| name.ends_with(".safetensors")) {
        return Err(Why::Source(format!(
            "{} has no *.safetensors",
            folder.display()
        )));
    }
    Ok(names)
}

/// SHA-256 over the names, lengths and contents of a model's files. All of every file is read: sizes and times would
/// miss a file that was replaced by one of the same size, and loading reads all of it for every trial anyway.
fn digest(folder: &Path, mut names: Vec<String>) -> Result<String, Why> {
    names.sort();
    // One thread a file: sharded models are read as fast as the disk allows.
    let digests: Vec<Result<String, Why>> = std::thread::scope(|scope| {
        let threads: Vec<_> = names
            .iter()
            .map(|name| {
                let path = folder.join(name);
                scope.spawn(move || file_digest(&path).map_err(|error| io_error(&path, error)))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(Why::Source("hashing panicked".into())))
            })
            .collect()
    });
    let mut all = Sha256::new();
    for (name, digest) in names.iter().zip(digests) {
        all.update(format!("{name} {}\n", digest?));
    }
    Ok(format!("sha256:{}", &hex(&all.finalize())[..32]))
}

fn file_digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hash, mut buffer, mut length) = (Sha256::new(), vec![0; 1 << 20], 0_u64);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{length} {}", hex(&hash.finalize()))),
            count => {
                hash.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The client takes its endpoint, token and cache from the environment, under the names of huggingface_hub.
fn of_hub(source: &HuggingFaceSource, need: Need, pinned: Option<&str>) -> Result<Found, Why> {
    let asked = pinned.unwrap_or(&source.revision);
    let snapshot = Settings::from_env()
        .and_then(Hub::new)
        .and_then(|hub| hub.snapshot(&source.repo, asked, need == Need::Weights))
        .map_err(|error| Why::Hub {
            repo: source.repo.clone(),
            revision: asked.into(),
            error,
        })?;
    let config = Weights::Path(snapshot.folder.clone()).config()?;
    Ok((config, WeightsAt::Folder(snapshot.folder), snapshot.commit))
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Downloads the model's files below the cache folder; what lies there already is taken when the store's listing
/// still says the same of it.
fn of_store(source: &ObjectStoreSource, need: Need) -> Result<Found, Why> {
    let store = Store::open(&source.url, &StoreOptions::default())?;
    let folder = cache_folder()
        .join("models")
        .join(&hex(&Sha256::digest(&source.url))[..16]);
    fs::create_dir_all(&folder).map_err(|error| io_error(&folder, error))?;
    let listed = store.list("")?;
    let files: Vec<_> = listed.iter().filter(|entry| belongs(&entry.path)).collect();
    if !files.iter().any(|entry| entry.path == "config.json") {
        return Err(Why::Source(format!("{} has no config.json", source.url)));
    }
    for entry in files {
        if need == Need::Config && entry.path != "config.json" {
            continue;
        }
        let path = folder.join(&entry.path);
        let present = fs::metadata(&path).is_ok_and(|file| file.len() == entry.bytes);
        if !present || entry.path.ends_with(".json") {
            store.download(&entry.path, &path)?;
        }
    }
    of_folder(&folder, need)
}

/// `INFERBENCH_CACHE`, else `inferbench` below the user's cache folder.
/// The folder that models are kept in.
#[must_use]
pub fn cache_folder() -> PathBuf {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    variable(CACHE_VARIABLE)
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("inferbench")))
        .or_else(|| Some(variable("HOME")?.join(".cache/inferbench")))
        .unwrap_or_else(|| std::env::temp_dir().join("inferbench-cache"))
}

#[cfg(test)]
mod tests {
    use inferbench_crds::spec::{ModelSource, RandomSource};

    use super::*;

    fn random(preset: &str) -> Model {
        let random = Some(RandomSource {
            preset: preset.into(),
        });
        Model {
            name: "m".into(),
            source: ModelSource {
                random,
                ..ModelSource::default()
            },
        }
    }

    /// The names are the resource's and the shapes the engine's, and neither crate knows of the other.
    #[test]
    fn every_preset_of_the_resource_is_one_of_the_engine() {
        assert!(presets::names().eq(PRESETS));
    }

    #[test]
    fn a_preset_is_fixed_by_its_name_and_seed() {
        let resolved = resolve(&random("tiny-gpt2"), 7, Need::Weights, None).unwrap();
        assert_eq!(resolved.revision, "tiny-gpt2@7");
        let unknown = resolve(&random("gpt9"), 7, Need::Weights, None)
            .unwrap_err()
            .to_string();
        assert!(unknown.starts_with("model m: there is no preset \"gpt9\"; there are gpt2, "));
    }

    #[test]
    fn a_folder_is_fixed_by_every_byte_of_its_model() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        write("config.json", b"{}");
        assert!(
            safetensors(folder.path())
                .unwrap_err()
                .to_string()
                .contains("no *.safetensors")
        );
        let digest = |path: &Path| digest(path, safetensors(path).unwrap());
        write("model.safetensors", &[1; 5000]);
        let before = digest(folder.path()).unwrap();
        assert_eq!(before, digest(folder.path()).unwrap());
        write("README.md", b"of no consequence");
        assert_eq!(before, digest(folder.path()).unwrap());
        let mut other = [1; 5000];
        other[4321] = 2;
        write("model.safetensors", &other);
        assert_ne!(before, digest(folder.path()).unwrap());
        fs::rename(
            folder.path().join("model.safetensors"),
            folder.path().join("m.safetensors"),
        )
        .unwrap();
        assert_ne!(before, digest(folder.path()).unwrap());
    }

    /// A folder without config.json means its GGUF file, and so does the file's own path.
    #[test]
    fn a_gguf_file_is_fixed_by_itself_alone() {
        use candle_core::quantized::gguf_file::{Value, write};
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.gguf");
        let fill = |context| {
            let metadata = [
                ("general.architecture", Value::String("gpt2".into())),
                ("gpt2.context_length", Value::U32(context)),
                ("gpt2.embedding_length", Value::U32(32)),
                ("gpt2.feed_forward_length", Value::U32(64)),
                ("gpt2.block_count", Value::U32(1)),
                ("gpt2.attention.head_count", Value::U32(2)),
                ("gpt2.attention.layer_norm_epsilon", Value::F32(1e-5)),
            ];
            let metadata: Vec<_> = metadata.iter().map(|(k, v)| (*k, v)).collect();
            let zeros = candle_core::Tensor::zeros(
                (8, 32),
                candle_core::DType::F32,
                &candle_core::Device::Cpu,
            );
            let kind = candle_core::quantized::GgmlDType::F32;
            let tensor = candle_core::quantized::QTensor::quantize(&zeros.unwrap(), kind).unwrap();
            let tensors = [("token_embd.weight", &tensor)];
            write(&mut File::create(&file).unwrap(), &metadata, &tensors).unwrap();
        };
        let resolved = |path: &Path, need| {
            let model = Model {
                name: "m".into(),
                source: ModelSource {
                    path: Some(path.to_str().unwrap().into()),
                    ..ModelSource::default()
                },
            };
            resolve(&model, 7, need, None).unwrap()
        };
        fill(64);
        let one = resolved(&file, Need::Weights);
        assert_eq!(one.config.unwrap().max_position, 64);
        assert_eq!(
            resolved(folder.path(), Need::Revision).revision,
            one.revision
        );
        fs::write(folder.path().join("tokenizer.json"), "of no consequence").unwrap();
        assert_eq!(resolved(&file, Need::Revision).revision, one.revision);
        fill(65);
        assert_ne!(resolved(&file, Need::Revision).revision, one.revision);
        assert_eq!(resolved(&file, Need::Config).revision, "");
    }

    #[test]
    fn commits_are_told_from_branches() {
        assert!(is_commit("607a30d783dfa663caf39e06633721c8d4cfcd7e"));
        assert!(!is_commit("main") && !is_commit("607a30d"));
    }
}

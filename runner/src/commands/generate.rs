//! `inferbench generate`.

use std::{env, fs, io, os::unix::process::CommandExt, path::Path, process::Command};

use inferbench_crds::spec::{HuggingFaceSource, Model, ModelSource, RandomSource};
use inferbench_engine::{
    Engine, EngineError, LoadOptions, Parallel, Processor, Weights, presets, threads,
    tokenizer::Tokenizer,
};

use super::input::unknown_preset;
use crate::{
    cli::GenerateArgs,
    models::{Need, resolve},
    process::{exit::Exit, print_error, program},
};

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Input(String),
    #[error("--gpus: {0}")]
    NoDevice(String),
    #[error("{0}")]
    Engine(#[from] EngineError),
    #[error("{0}")]
    Other(String),
}

/// Continues a prompt.
pub fn run(args: &GenerateArgs) -> Exit {
    threads::init(None);
    match generate(args) {
        Ok(text) => {
            println!("{text}");
            Exit::Ok
        }
        Err(error) => {
            print_error(&error);
            match error {
                Failure::NoDevice(_) | Failure::Engine(EngineError::Device(_)) => Exit::NoDevice,
                Failure::Other(_) | Failure::Engine(EngineError::Other(_)) => Exit::Failed,
                _ => Exit::BadInput,
            }
        }
    }
}

fn generate(args: &GenerateArgs) -> Result<String, Failure> {
    if let Some(program) = program::for_gpus(args.gpus).map_err(Failure::NoDevice)? {
        let error = become_program(&program);
        return Err(Failure::NoDevice(format!("{}: {error}", program.display())));
    }
    let source = source(&args.model).map_err(Failure::Input)?;
    let model = Model {
        name: args.model.clone(),
        source,
    };
    let resolved = resolve(&model, args.seed, Need::Weights, None)
        .map_err(|error| Failure::Input(error.to_string()))?;
    let weights = resolved.weights.weights().map_err(Failure::Input)?;
    let tokenizer = match &weights {
        Weights::Path(path) => Tokenizer::load(path)?,
        Weights::Random { .. } => None,
    };
    let ids = match (&args.prompt, &args.ids, &tokenizer) {
        (Some(prompt), _, Some(tokenizer)) => tokenizer.encode(prompt)?,
        (Some(_), _, None) => {
            return Err(Failure::Input(format!(
                "--prompt: {} has no tokenizer that is understood; give token ids with --ids 1,2,3",
                args.model
            )));
        }
        (None, ids, _) => ids.clone().unwrap_or_default(),
    };
    let count = args.max_tokens as usize;
    let (processor, ranks) = match args.gpus {
        0 => (Processor::Cpu, args.ranks),
        gpus => (Processor::Cuda, gpus),
    };
    let options = LoadOptions {
        dtype: args.dtype.into(),
        processor,
        parallel: Parallel::tensor(ranks as usize),
        max_batch: 1,
        max_seq: ids.len() + count,
    };
    let mut engine = Engine::load(&weights, &options)?;
    let prompts = [ids];
    if let Some(path) = &args.logits {
        let logits = engine.last_logits(&prompts)?;
        let text = serde_json::to_string(&logits[0]).map_err(|e| Failure::Other(e.to_string()))?;
        fs::write(path, text).map_err(|e| Failure::Other(format!("{}: {e}", path.display())))?;
    }
    let generation = engine.generate(&prompts, count)?;
    let new = &generation.ids[0];
    match &tokenizer {
        Some(tokenizer) if args.prompt.is_some() => Ok(tokenizer.decode(new)?),
        _ => Ok(new.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
    }
}

/// Goes on as another program, told the same; returns only where that cannot be started.
fn become_program(program: &Path) -> io::Error {
    Command::new(program)
        .args(env::args_os().skip(1))
        // The same GPUs as for a trial.
        .env("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        .exec()
}

/// The meaning of `--model`: a preset, `hf:owner/name[@revision]`, or a folder or GGUF file.
fn source(model: &str) -> Result<ModelSource, String> {
    if let Some(repo) = model.strip_prefix("hf:") {
        let (repo, revision) = repo.split_once('@').unwrap_or((repo, "main"));
        let hub = HuggingFaceSource {
            repo: repo.into(),
            revision: revision.into(),
        };
        return Ok(ModelSource {
            hugging_face: Some(hub),
            ..ModelSource::default()
        });
    }
    if presets::preset(model).is_some() {
        let random = RandomSource {
            preset: model.into(),
        };
        return Ok(ModelSource {
            random: Some(random),
            ..ModelSource::default()
        });
    }
    if Path::new(model).exists() {
        return Ok(ModelSource {
            path: Some(model.into()),
            ..ModelSource::default()
        });
    }
    Err(format!(
        "--model: there is no folder or file {model:?}, and {}",
        unknown_preset(model)
    ))
}

//! The engine's logits for models in folders or GGUF files: what `engine/peers/transformers_logits.py` and
//! `engine/peers/llama_cpp_logits.py` hold against their peers.
//!
//! Every line on standard input is a request in JSON, `{"model": PATH, "dtype": "f32", "prompts": [[1, 2], …], "new": 0}`,
//! and is answered by a line: `{"mode": "eager", "rows": […]}` with one member per prompt, which may be of different
//! lengths, or `{"refused": "why"}` where the model is none that the engine computes. A member is `{"logits": […]}` after
//! the prompt's last id, with the `"ids"` that follow greedily where `new` is above 0, or `{"refused": "why"}`.
//! `"prefillRows"` says how many positions are computed at once. On the CPU.

use std::io::{BufRead, Write, stdin, stdout};
use std::path::PathBuf;

use inferbench_engine::{
    Engine, EngineError, Format, LoadOptions, Parallel, Processor, Weights, threads,
};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Request {
    model: PathBuf,
    dtype: String,
    prompts: Vec<Vec<u32>>,
    #[serde(default)]
    new: usize,
    prefill_rows: Option<usize>,
}

fn main() -> anyhow::Result<()> {
    threads::init(None);
    for line in stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let answer = or_refused(answer(&request))?;
        let mut out = stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

/// The refusal of a model that the engine does not compute by design, or cannot read, is an answer.
fn or_refused(answer: Result<Value, EngineError>) -> Result<Value, EngineError> {
    match answer {
        Err(EngineError::Unsupported(why) | EngineError::Invalid(why)) => {
            Ok(json!({"refused": why}))
        }
        answer => answer,
    }
}

fn answer(request: &Request) -> Result<Value, EngineError> {
    let formats = [
        Format::F32,
        Format::BF16,
        Format::F16,
        Format::Q8_0,
        Format::Q4_0,
    ];
    let dtype = formats
        .into_iter()
        .find(|format| format.to_string() == request.dtype)
        .ok_or_else(|| EngineError::Invalid(format!("there is no dtype {:?}", request.dtype)))?;
    let longest = request.prompts.iter().map(Vec::len).max().unwrap_or(1);
    let options = LoadOptions {
        dtype,
        processor: Processor::Cpu,
        parallel: Parallel::ONE,
        max_batch: 1,
        max_seq: longest + request.new,
    };
    let mut engine = Engine::load(&Weights::Path(request.model.clone()), &options)?;
    if let Some(rows) = request.prefill_rows {
        engine.set_prefill_rows(rows);
    }
    let rows: Vec<Value> = request
        .prompts
        .iter()
        .map(|prompt| or_refused(row(&mut engine, prompt, request.new)))
        .collect::<Result<_, EngineError>>()?;
    Ok(json!({"mode": engine.info().mode, "rows": rows}))
}

fn row(engine: &mut Engine, prompt: &[u32], new: usize) -> Result<Value, EngineError> {
    let prompts = [prompt.to_vec()];
    let mut row = json!({"logits": engine.last_logits(&prompts)?[0]});
    if new > 0 {
        row["ids"] = json!(engine.generate(&prompts, new)?.ids[0]);
    }
    Ok(row)
}

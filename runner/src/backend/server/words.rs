//! The meaning of servers' words: those that they write before they end, and those that they answer.

use inferbench_crds::engine::preset::PresetRow;

use crate::{
    backend::BackendError,
    process::{child::ExitStatus, server::ServerProcess},
};

/// Words of servers that can never run what they were asked to, beside those of each about models.
const UNSUPPORTED: [&str; 3] = [
    "must be divisible by tensor parallel size",
    "is not divisible by the number of",
    "is greater than the derived max_model_len",
];

/// Whether a text of a server of this kind tells that it can never run what it was asked to.
fn tells_of_limits(row: &PresetRow, text: &str) -> bool {
    UNSUPPORTED.iter().any(|word| text.contains(word)) || row.tells_of_unreadable(text)
}

/// The meaning of the end of a server of this kind.
pub fn ended(
    name: &str,
    row: &PresetRow,
    process: &ServerProcess,
    status: &ExitStatus,
) -> BackendError {
    match BackendError::exited(name, status) {
        BackendError::Failed { message, permanent } => {
            if let Some(line) = process.line(|line| row.tells_of_memory(line)) {
                BackendError::OutOfMemory(format!("{name}: {line}"))
            } else if let Some(line) = process.line(|line| tells_of_limits(row, line)) {
                BackendError::Unsupported(format!("{name}: {line}"))
            } else {
                BackendError::Failed { message, permanent }
            }
        }
        known => known,
    }
}

/// The meaning of an answer's words, where they are known.
pub fn of_words(row: &PresetRow, message: &str) -> Option<BackendError> {
    if row.tells_of_memory(message) {
        Some(BackendError::OutOfMemory(message.to_owned()))
    } else if tells_of_limits(row, message) {
        Some(BackendError::Unsupported(message.to_owned()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use inferbench_crds::engine::Preset;

    use super::*;

    /// How a server of a preset ended that wrote this text before.
    fn after(preset: Preset, text: &str) -> BackendError {
        let argv = ["sh", "-c", &format!("cat >&2 <<'END'\n{text}\nEND\nexit 1")];
        let argv = argv.map(str::to_owned);
        let mut process = ServerProcess::spawn(&argv, &[], None, None).unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        let status = loop {
            if let Some(status) = process.exited() {
                break status;
            }
            assert!(Instant::now() < patience);
            std::thread::sleep(Duration::from_millis(5));
        };
        ended("shell", preset.row(), &process, &status)
    }

    #[test]
    fn a_model_that_llama_cpp_cannot_read_is_told_from_one_that_it_cannot_load() {
        let said = |why: &str| {
            let end = "llama_model_load_from_file_impl: failed to load model\n\
                       srv load_model: failed to load model, '/models/a.gguf'\n\
                       main: exiting due to model loading error";
            after(Preset::LlamaCpp, &format!("{why}\n{end}"))
        };
        let load = "llama_model_load: error loading model: ";
        for why in [
            "error loading model hyperparameters: key not found in model: qwen2.context_length",
            "error loading model vocabulary: unknown pre-tokenizer type: 'new'",
            "check_tensor_dims: tensor 'output.weight' has wrong shape; expected 64, 256, got 64, 255",
            "check_tensor_dims: tensor 'blk.0.attn_q.bias' not found",
            "done_getting_tensors: wrong number of tensors; expected 27, got 26",
            "unknown model architecture: 'new'",
        ] {
            let line = format!("{load}{why}");
            let wanted = format!("shell: {line}");
            assert_eq!(said(&line), BackendError::Unsupported(wanted));
        }
        let memory = "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9 MiB on device 0: cudaMalloc failed: out of memory";
        assert!(matches!(
            said(&format!("{memory}\n{load}unable to allocate CUDA0 buffer")),
            BackendError::OutOfMemory(_)
        ));
        // What another download, or another port, mends.
        for why in [
            "gguf_init_from_file: failed to open GGUF file '/models/a.gguf' (No such file or directory)",
            "llama_model_load: error loading model: tensor 'output.weight' data is not within the file bounds, model is corrupted or incomplete",
            "start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080",
        ] {
            match said(why) {
                BackendError::Failed { message, .. } => assert!(message.contains(why), "{message}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

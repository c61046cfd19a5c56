//! A folder with a spec to run the program in, and what a sweep has left there.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use inferbench_results::{record::TrialRecord, row::Row, tables::read_trials_csv};
use inferbench_runner::sweep::stored::SweepFile;
use tempfile::TempDir;

/// Long enough for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with `spec.yaml`, whose sweep goes into `out`.
pub struct Place {
    folder: TempDir,
}

/// Eight trials of a tiny model: two batch sizes, two input lengths, two replicates.
pub const SPEC: &str = "
apiVersion: inferbench.dev/v1alpha1
kind: InferenceBenchmark
metadata: {name: tiny}
spec:
  design:
    factors:
      model: [{name: tiny, source: {random: {preset: tiny-gpt2}}}]
      batchSize: [1, 2]
      inputLength: [4, 8]
      outputLength: [3]
      gpus: [0]
    replicates: 2
  measurement:
    warmupIterations: 1
    warmupDuration: 0ms
    iterations: 2
    minDuration: 5ms
    remeasureInvalid: 0
  execution: {retries: 0, maxFailedPercent: 50}
";

/// The `sweep.json` of a first sweep, with the ceilings of this machine.
static FIRST: OnceLock<Vec<u8>> = OnceLock::new();

impl Place {
    /// A place whose sweep knows the ceilings of this machine already: measuring them takes seconds.
    pub fn new(spec: &str) -> Self {
        let first = FIRST.get_or_init(|| {
            let place = Self::untouched(&SPEC.replace("[1, 2]", "[1]").replace("[4, 8]", "[4]"));
            let output = place.run(&[]);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            assert!(
                stderr(&output).contains("measuring the ceilings"),
                "{}",
                stderr(&output)
            );
            // Other tests run beside this one. Ceilings that were disturbed would be measured again every time.
            let bytes = fs::read(place.out().join("sweep.json")).unwrap();
            let mut file: SweepFile = serde_json::from_slice(&bytes).unwrap();
            for known in &mut file.ceilings {
                known.ceilings.disturbed.clear();
            }
            serde_json::to_vec(&file).unwrap()
        });
        let place = Self::untouched(spec);
        fs::create_dir(place.out()).unwrap();
        fs::write(place.out().join("sweep.json"), first).unwrap();
        place
    }

    /// A place where nothing has happened yet.
    pub fn untouched(spec: &str) -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        place.write(spec);
        fs::create_dir(place.path().join("tmp")).unwrap();
        place
    }

    pub fn write(&self, spec: &str) {
        fs::write(self.path().join("spec.yaml"), spec).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn out(&self) -> PathBuf {
        self.path().join("out")
    }

    /// The program, in this folder. Its temporary files are its own too: trials of tests that run at the same time
    /// are no neighbours.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_inferbench")), args)
    }

    /// As `command`, of a copy of the program.
    pub fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.path())
            .env("TMPDIR", self.path().join("tmp"));
        command
            .env_remove("INFERBENCH_FAULT")
            .env("INFERBENCH_NODE", "test-node");
        command
    }

    /// A program in this folder: a copy of a file, which another process writes. Had this one written it, a child that
    /// another test starts meanwhile would hold it open for writing for a moment, in which it cannot be started.
    pub fn program(&self, name: &str, source: &Path) -> PathBuf {
        let program = self.path().join(name);
        let mut install = Command::new("install");
        install.args(["-m", "755"]).arg(source).arg(&program);
        assert!(install.status().unwrap().success());
        program
    }

    pub fn run(&self, more: &[&str]) -> Output {
        self.run_with_fault("", more)
    }

    pub fn run_with_fault(&self, fault: &str, more: &[&str]) -> Output {
        let args = [&["run", "spec.yaml", "--out", "out"], more].concat();
        self.command(&args)
            .env("INFERBENCH_FAULT", fault)
            .output()
            .unwrap()
    }

    /// Starts a sweep that will hang in this trial, and waits until some others are stored.
    pub fn start_until_hanging(&self, trial: u32, stored: usize) -> Child {
        let child = self
            .command(&["run", "spec.yaml", "--out", "out"])
            .env("INFERBENCH_FAULT", format!("hang@trial:{trial}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for("stored trials", || self.documents().len() >= stored);
        child
    }

    pub fn documents(&self) -> BTreeMap<String, Vec<u8>> {
        documents(&self.out())
    }

    pub fn records(&self) -> Vec<TrialRecord> {
        records(&self.out())
    }

    pub fn rows(&self) -> Vec<Row> {
        rows(&self.out())
    }
}

/// The records below a sweep's folder by key, as bytes.
pub fn documents(sweep: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(sweep.join("trials"));
    let entries = entries.into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let key = name.strip_suffix(".json")?.to_owned();
            Some((key, fs::read(entry.path()).ok()?))
        })
        .collect()
}

/// The records below a sweep's folder, in the order of their keys.
pub fn records(sweep: &Path) -> Vec<TrialRecord> {
    let documents = documents(sweep);
    documents
        .iter()
        .map(|(key, bytes)| TrialRecord::read(key, bytes).unwrap())
        .collect()
}

/// The rows of a sweep's `trials.csv`.
pub fn rows(sweep: &Path) -> Vec<Row> {
    read_trials_csv(&fs::read(sweep.join("trials.csv")).unwrap()).unwrap()
}

pub fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes that a process has started.
pub fn children_of(parent: u32) -> Vec<u32> {
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    numbers
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            after_name.split_whitespace().nth(1) == Some(&parent.to_string())
        })
        .collect()
}

/// Whether a process runs; one that has ended and waits to be noticed does not.
pub fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest.trim());
    !state.is_empty() && !state.starts_with('Z')
}

pub fn signal(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).unwrap();
    // SAFETY: sends a signal to a process that the test has started.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

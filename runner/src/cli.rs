//! The command line.

use std::{env, ffi::OsStr, path::PathBuf};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use inferbench_crds::{Duration, contract::REQUESTS_VARIABLE};
use inferbench_results::compare::gate::Limit;

/// Benchmarks LLM inference over a designed sweep of factors.
#[derive(Debug, Parser)]
#[command(
    name = "inferbench",
    version,
    about,
    arg_required_else_help = true,
    after_help = "Examples:
  inferbench plan examples/quickstart.yaml   what would be measured
  inferbench run examples/quickstart.yaml    measure it, or resume it
  inferbench report quickstart               what it says, as a page
  inferbench compare before after --fail-if slower=5%
  inferbench judge quickstart --expect expectations.yaml
  inferbench fetch ib/thesis -n lab          report and tables of a sweep in a cluster
  inferbench generate --model tiny-llama --ids 1,2,3 --max-tokens 8

Exit codes: 0 ok, 1 failed or a limit of compare is exceeded, 2 wrong input, 3 not quiet,
4 an expectation is refuted, 5 one is not shown, 130 interrupted."
)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The name that makes this program a plugin of kubectl's, `kubectl inferbench …`, where it has it on the PATH.
const PLUGIN: &str = "kubectl-inferbench";

/// Reads this process' command line; what is wrong with it ends the process.
#[must_use]
pub fn parse() -> Cli {
    let own = env::args_os().next().map(PathBuf::from);
    let own = own.as_deref().and_then(|path| path.file_name());
    let command = if own == Some(OsStr::new(PLUGIN)) {
        Cli::command().bin_name("kubectl inferbench")
    } else {
        Cli::command()
    };
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure a whole sweep on this machine.
    ///
    /// Every trial runs in a process of its own and leaves a record; at the end come the tables. Interrupted at any
    /// moment, the same command goes on and measures nothing twice. A spec that has gained levels measures only what
    /// is new.
    Run(RunArgs),
    /// Check specs, and say everything that is wrong with them.
    Validate(ValidateArgs),
    /// Show the trials of a spec, what cannot run and why, the memory that it takes, and what it costs.
    ///
    /// Trials and starts of an engine are counted; hours, GPU-hours and their price need to know how long a trial takes:
    /// as --seconds-per-trial says, or as a sweep measured earlier says (--from). Beside a selection of combinations
    /// stands the whole grid.
    Plan(PlanArgs),
    /// Continue a prompt, to see that a model really runs.
    ///
    /// Greedily, and by exactly as many tokens as asked for: the end of text is a token like any other.
    Generate(GenerateArgs),
    /// Write a preset's random weights as a Hugging Face folder, so that other programs can load the very same model.
    Weights(WeightsArgs),
    /// Make the tables anew from the records that are stored.
    Collect(CollectArgs),
    /// Say what a sweep's table says: what to run, which factors matter, how it behaves, whether to trust it.
    ///
    /// At any time, also while the sweep runs, and of a table made elsewhere with the same columns.
    Report(ReportArgs),
    /// Say by how much sweep B differs from sweep A, and whether that is shown.
    ///
    /// Over the combinations that both measured: the geometric mean of B/A with a 95% interval over replicates, then
    /// each combination by itself. `~` stands for: nothing is shown; beside it stands what could have been found.
    Compare(CompareArgs),
    /// Judge what is expected of a sweep: shown, refuted or not shown.
    ///
    /// An expectation is shown where it holds over the whole 95% interval of what was measured, refuted where it fails
    /// over all of it, and not shown where the interval holds both. Exits with 0 where all are shown, with 4 where one is
    /// refuted, else with 5 where one is not shown or cannot be judged by this sweep.
    Judge(JudgeArgs),
    /// Make a table of what another tool has measured, for report and compare.
    Import(ImportArgs),
    /// Write a sweep's trials in the form of another project.
    Export(ExportArgs),
    /// Bring a sweep's report and tables out of a cluster.
    ///
    /// By the kubectl on the PATH, with its configuration: what its user may read is enough. From a bucket they come
    /// with the credentials of the sweep's Secret, from a volume or a store inside of the cluster by a pod of the runner's
    /// image that lives as long as that takes. Every file is checked against the manifest, and that against the status.
    /// As kubectl-inferbench on the PATH, by a link, this program is a plugin: kubectl inferbench fetch ib/NAME.
    Fetch(FetchArgs),
    /// Hand over the files of a collected sweep on standard output (the pod of `inferbench fetch` runs this).
    #[command(hide = true)]
    Pack(PackArgs),
    /// Check a sweep before any GPU is asked for (a Job starts this).
    #[command(hide = true)]
    Preflight(PreflightArgs),
    /// Measure trials that are asked for on standard input (`inferbench run` and Jobs start this).
    #[command(hide = true)]
    Trial,
    /// Copy this program to a path (the init container of a server's pod starts this).
    #[command(hide = true)]
    Install(InstallArgs),
}

/// Arguments of `install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Where the copy goes.
    pub path: PathBuf,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The file with an InferenceBenchmark, YAML or JSON.
    pub file: PathBuf,
    /// Where the results go: a folder, or a URL (s3://, gs://, az://). By default the spec's results.store, else a
    /// folder named after the resource.
    #[arg(long, value_name = "DIR")]
    pub out: Option<String>,
    /// Measure in this process, with a model that stays loaded, as `isolation: Pod` does: faster, but replicates are
    /// no longer independent, time-outs are noticed between iterations only, and a crash ends the sweep.
    #[arg(long)]
    pub in_process: bool,
    /// Show valid trials alone at the end. Else combinations that have none are shown, too, and marked.
    #[arg(long)]
    pub valid_only: bool,
    /// Measure nothing where something else is busy on this machine, and exit with 3; without it, the run says so and
    /// goes on.
    #[arg(long)]
    pub require_quiet: bool,
}

/// Arguments of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// The files.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Hold them to the rules of a cluster, where results.store is required.
    #[arg(long)]
    pub cluster: bool,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The file with an InferenceBenchmark.
    pub file: PathBuf,
    /// The form: a summary for people, with the combinations where there are few, or everything as JSON or CSV.
    #[arg(long, short, value_enum, default_value = "table")]
    pub output: PlanOutput,
    /// List every combination, however many there are.
    #[arg(long)]
    pub all: bool,
    /// How long a trial takes, in seconds: with the start of its engine, unless --seconds-per-start says that apart.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "from")]
    pub seconds_per_trial: Option<f64>,
    /// How long a start of an engine takes, in seconds.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "seconds_per_trial")]
    pub seconds_per_start: Option<f64>,
    /// Take the times from the records of a sweep that was measured earlier: its folder or URL.
    #[arg(long, value_name = "SWEEP")]
    pub from: Option<String>,
}

/// A time on the command line.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: Option<f64> = text.parse().ok();
    seconds
        .filter(|seconds| seconds.is_finite() && *seconds > 0.0)
        .ok_or_else(|| format!("{text:?} is not a number of seconds above 0, such as 30 or 1.5"))
}

/// The forms of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlanOutput {
    /// For people.
    Table,
    /// One document.
    Json,
    /// One line per combination.
    Csv,
}

/// Arguments of `generate`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("input").required(true))]
pub struct GenerateArgs {
    /// A preset (gpt2, tiny-llama, …; random weights), a folder with config.json and safetensors, a GGUF
    /// file, or hf:owner/name or hf:owner/name@revision.
    #[arg(long, short)]
    pub model: String,
    /// The prompt; needs a model with a tokenizer.
    #[arg(long, short, group = "input")]
    pub prompt: Option<String>,
    /// The prompt as token ids.
    #[arg(long, value_delimiter = ',', value_name = "ID,ID,…", group = "input")]
    pub ids: Option<Vec<u32>>,
    /// How many tokens to add.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// Share the model among this number of ranks (tensor parallelism; threads on the CPU).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub ranks: u32,
    /// Compute on this number of GPUs, which share the model, rather than on the CPU.
    #[arg(long, default_value_t = 0, conflicts_with = "ranks")]
    pub gpus: u32,
    /// The data type of the weights.
    #[arg(long, value_enum, default_value = "f32")]
    pub dtype: DtypeArg,
    /// The seed of a preset's weights.
    #[arg(long, default_value_t = 42)]
    pub seed: i64,
    /// Write the logits after the prompt's last token as JSON.
    #[arg(long, value_name = "FILE")]
    pub logits: Option<PathBuf>,
}

/// A data type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// 32-bit float.
    F32,
    /// bfloat16.
    Bf16,
    /// 16-bit float.
    F16,
    /// Blocks of 4-bit integers.
    #[value(name = "q4_0")]
    Q4_0,
    /// Blocks of 8-bit integers.
    #[value(name = "q8_0")]
    Q8_0,
}

/// Arguments of `weights`.
#[derive(Debug, Args)]
pub struct WeightsArgs {
    /// The shape.
    #[arg(long)]
    pub preset: String,
    /// The seed.
    #[arg(long, default_value_t = 42)]
    pub seed: i64,
    /// The data type that is written: f32, bf16 or f16.
    #[arg(long, value_enum, default_value = "f32")]
    pub dtype: DtypeArg,
    /// The folder to write; it is made where it is missing.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Arguments of `collect`.
#[derive(Debug, Args)]
pub struct CollectArgs {
    /// The file with the InferenceBenchmark that was run. A Job's pod has its request elsewhere.
    #[arg(required_unless_present = "requests")]
    pub file: Option<PathBuf>,
    /// The file with the request of a Job's pod.
    #[arg(long, env = REQUESTS_VARIABLE, hide = true)]
    pub requests: Option<PathBuf>,
    /// Where its results are; as for run.
    #[arg(long, value_name = "DIR")]
    pub out: Option<String>,
}

/// Arguments of `preflight`.
#[derive(Debug, Args)]
pub struct PreflightArgs {
    /// The file with the request of a Job's pod.
    #[arg(long, env = REQUESTS_VARIABLE)]
    pub requests: PathBuf,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The sweep: its folder or URL, or a trials.csv. Several stand side by side: a model that more than one has
    /// measured is told apart by engine or sweep.
    #[arg(required = true, value_name = "SWEEP")]
    pub sweeps: Vec<String>,
    /// The form: report.html with the tables behind it and figures (SVG and PNG) in a folder, Markdown for a pull
    /// request, or the analysis as JSON.
    #[arg(long, short, value_enum, default_value = "html")]
    pub format: ReportFormat,
    /// Where the page goes: a folder or URL, other than a collected sweep's. By default `report` in the (first) sweep's
    /// folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<String>,
    /// The longest time to first token, such as 200ms. By default what the (first) sweep was collected with; so are the
    /// next two.
    #[arg(long, value_name = "DURATION")]
    pub max_ttft: Option<Duration>,
    /// The longest time per output token, such as 50ms.
    #[arg(long, value_name = "DURATION")]
    pub max_tpot: Option<Duration>,
    /// The longest time from a request to its last token, such as 5s.
    #[arg(long, value_name = "DURATION")]
    pub max_e2e: Option<Duration>,
    /// Show valid trials alone. Else combinations that have none are shown, too, and marked.
    #[arg(long)]
    pub valid_only: bool,
    /// The price of a GPU for an hour, such as 2.50.
    #[arg(long, value_name = "PRICE", value_parser = price)]
    pub cost_per_gpu_hour: Option<String>,
}

/// The forms of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// A page with its figures.
    Html,
    /// Markdown.
    Md,
    /// The analysis.
    Json,
}

fn price(text: &str) -> Result<String, String> {
    let bad = || format!("{text:?} is not a price such as 2.50");
    let price: f64 = text.parse().map_err(|_| bad())?;
    let plain = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    (plain && price.is_finite())
        .then(|| text.to_owned())
        .ok_or_else(bad)
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The sweep to compare with: its folder or URL, or a trials.csv.
    pub a: String,
    /// The sweep that is compared.
    pub b: String,
    /// Exit with 1 where B is worse than that, as `slower=5%` (time to last token) or `METRIC=5%` such as `ttftMs=5%`:
    /// where the whole 95% interval of the overall ratio lies beyond it. May be given several times. A difference that
    /// is not shown fails nothing, and is said.
    #[arg(long, value_name = "LIMIT")]
    pub fail_if: Vec<Limit>,
    /// The form.
    #[arg(long, short, value_enum, default_value = "table")]
    pub output: CompareOutput,
}

/// The forms of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompareOutput {
    /// For a terminal.
    Table,
    /// For a pull request.
    Markdown,
    /// Everything, as one document.
    Json,
}

/// Arguments of `judge`.
#[derive(Debug, Args)]
pub struct JudgeArgs {
    /// The sweep: its folder or URL, or a trials.csv. Several are judged together, side by side.
    #[arg(required = true, value_name = "SWEEP")]
    pub sweeps: Vec<String>,
    /// The file with what is expected: `expectations: [{name, that, reference}]`, or an InferenceBenchmark with
    /// spec.expectations. By default what the (first) sweep was collected with.
    #[arg(long, value_name = "FILE")]
    pub expect: Option<PathBuf>,
    /// The form.
    #[arg(long, short, value_enum, default_value = "table")]
    pub output: JudgeOutput,
}

/// The forms of a judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JudgeOutput {
    /// For a terminal.
    Table,
    /// Everything, as one document.
    Json,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The format that is imported.
    #[command(subcommand)]
    pub from: ImportFrom,
}

/// The formats that can be imported.
#[derive(Debug, Subcommand)]
pub enum ImportFrom {
    /// Files that `vllm bench latency --output-json` has written, or the .pytorch.json beside them.
    ///
    /// A .pytorch.json (vLLM writes it where SAVE_TO_PYTORCH_BENCHMARK_FORMAT=1) says what was run; a plain file says
    /// only the latencies, and the rest has to be told. Files of one combination are its replicates. Where DIR holds a
    /// table already, the files are added to it.
    VllmLatency(VllmLatencyArgs),
    /// Files that `vllm bench serve --save-result` has written.
    ///
    /// They tell the load (`--max-concurrency` or `--request-rate`, one of them), the totals of tokens, and statistics of
    /// the requests; GPUs, data type and device have to be told. Lengths have to be exact: `--ignore-eos` and a
    /// `--random-range-ratio` of 0. Files of one combination are its replicates. Where DIR holds a table already, the
    /// files are added to it.
    VllmServe(VllmServeArgs),
}

/// The arguments of every import.
#[derive(Debug, Args)]
pub struct Imported {
    /// The files, one per run.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The folder or URL that trials.csv goes to.
    #[arg(long, value_name = "DIR")]
    pub out: String,
    /// The name of the sweep.
    #[arg(long, default_value = "vllm")]
    pub sweep: String,
}

/// Arguments of `import vllm-serve`.
#[derive(Debug, Args)]
pub struct VllmServeArgs {
    /// The files, and where they go.
    #[command(flatten)]
    pub import: Imported,
    /// The model's level, as the other sweep calls it; where absent, the name that the client was given.
    #[arg(long)]
    pub model: Option<String>,
    /// The revision of the weights.
    #[arg(long)]
    pub model_revision: Option<String>,
    /// Input tokens of each request; where absent, what the totals say.
    #[arg(long)]
    pub input_len: Option<u32>,
    /// Output tokens of each request; where absent, what the totals say.
    #[arg(long)]
    pub output_len: Option<u32>,
    /// The server's GPUs; 0 for CPU.
    #[arg(long)]
    pub gpus: Option<u32>,
    /// Data type of the weights: f32, bf16, f16, q4_0 or q8_0.
    #[arg(long)]
    pub dtype: Option<String>,
    /// The engine's level, as the other sweep calls it.
    #[arg(long, default_value = "vllm")]
    pub engine: String,
    /// The engine's version.
    #[arg(long)]
    pub engine_version: Option<String>,
    /// The GPU's name, or `cpu`.
    #[arg(long)]
    pub device: Option<String>,
}

/// Arguments of `import vllm-latency`.
#[derive(Debug, Args)]
pub struct VllmLatencyArgs {
    /// The files, and where they go.
    #[command(flatten)]
    pub import: Imported,
    /// The model's level, as the other sweep calls it.
    #[arg(long)]
    pub model: Option<String>,
    /// The revision of the weights.
    #[arg(long)]
    pub model_revision: Option<String>,
    /// Sequences in a batch.
    #[arg(long)]
    pub batch_size: Option<u32>,
    /// Input tokens of each sequence.
    #[arg(long)]
    pub input_len: Option<u32>,
    /// Output tokens of each sequence.
    #[arg(long)]
    pub output_len: Option<u32>,
    /// GPUs that share the model; 0 for CPU.
    #[arg(long)]
    pub gpus: Option<u32>,
    /// Data type of weights and cache: f32, bf16 or f16.
    #[arg(long)]
    pub dtype: Option<String>,
    /// vLLM's version.
    #[arg(long)]
    pub engine_version: Option<String>,
    /// The GPU's name, or `cpu`.
    #[arg(long)]
    pub device: Option<String>,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The form.
    #[command(subcommand)]
    pub to: ExportTo,
}

/// The forms that can be exported to.
#[derive(Debug, Subcommand)]
pub enum ExportTo {
    /// One llm-d Benchmark Report (version 0.2, JSON) per valid trial.
    LlmD(LlmDArgs),
}

/// Arguments of `export llm-d`.
#[derive(Debug, Args)]
pub struct LlmDArgs {
    /// The sweep: its folder or URL, or a trials.csv.
    pub sweep: String,
    /// The folder or URL that the reports go to.
    #[arg(long, value_name = "DIR")]
    pub out: String,
}

/// Arguments of `fetch`.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// The resource: its name, or ib/NAME.
    #[arg(value_name = "ib/NAME", value_parser = resource)]
    pub resource: String,
    /// Its namespace; by default that of kubectl's context.
    #[arg(long, short, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The context of the kubeconfig; by default the current one.
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
    /// The folder that the files go to; by default one named after the resource.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Let a pod send the files even if their bucket may be reached from here: it takes no reading of Secrets.
    #[arg(long)]
    pub by_pod: bool,
    /// The image of that pod; by default the one that has measured.
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// How long that pod may take to start.
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    pub timeout: Duration,
}

/// Arguments of `pack`.
#[derive(Debug, Args)]
pub struct PackArgs {
    /// The sweep's folder or URL; without it, nothing is handed over.
    pub target: Option<String>,
    /// The endpoint of an S3-compatible server.
    #[arg(long)]
    pub endpoint: Option<String>,
    /// The region of a bucket.
    #[arg(long)]
    pub region: Option<String>,
    /// Wait this number of seconds instead.
    #[arg(long, default_value_t = 0, conflicts_with = "target")]
    pub idle: u64,
}

/// The name of a resource, which may stand after its kind as kubectl writes it.
fn resource(text: &str) -> Result<String, String> {
    let (kind, name) = text.rsplit_once('/').unwrap_or(("ib", text));
    let kinds = ["ib", "inferencebenchmark", "inferencebenchmarks"];
    let kind = kind
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    if !kinds.contains(&kind.as_str()) {
        return Err(format!("{text:?} is of another kind; ib/NAME is allowed"));
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if name.is_empty() || name.starts_with(['-', '.']) || !name.chars().all(plain) {
        return Err(format!("{name:?} is not the name of a resource"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn resources_are_named_as_kubectl_names_them() {
        for text in [
            "thesis",
            "ib/thesis",
            "inferencebenchmark/thesis",
            "inferencebenchmarks.inferbench.dev/thesis",
        ] {
            assert_eq!(resource(text).as_deref(), Ok("thesis"), "{text}");
        }
        for text in ["", "ib/", "pod/thesis", "--all", "../thesis", "ib/.."] {
            assert!(resource(text).is_err(), "{text}");
        }
    }
}

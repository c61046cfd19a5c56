//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Benchmarks LLM inference over a designed sweep of factors.
#[derive(Debug, Parser)]
#[command(
    name = "inferbench",
    version,
    about,
    arg_required_else_help = true,
    after_help = "Examples:
  inferbench plan examples/quickstart.yaml   what would be measured
  inferbench run examples/quickstart.yaml    measure it, or go on with it
  inferbench generate --model tiny-llama --ids 1,2,3 --max-tokens 8

Exit codes: 0 ok, 1 failed, 2 wrong input, 130 interrupted."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
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
    /// Show the trials of a spec, what cannot run and why, and the memory that it takes.
    Plan(PlanArgs),
    /// Continue a prompt, to see that a model really runs.
    ///
    /// Greedily, and by exactly as many tokens as asked for: the end of text is a token like any other.
    Generate(GenerateArgs),
    /// Write a preset's random weights as a Hugging Face folder, so that other programs can load the very same model.
    Weights(WeightsArgs),
    /// Make the tables anew from the records that are stored.
    Collect(CollectArgs),
    /// Measure trials that are asked for on standard input (`inferbench run` and Jobs start this).
    #[command(hide = true)]
    Trial,
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
    /// The form: a table for people (long designs are cut), or everything as JSON or CSV.
    #[arg(long, short, value_enum, default_value = "table")]
    pub output: PlanOutput,
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
    /// A preset (gpt2, tiny-llama, …; random weights), a folder with config.json and safetensors, or
    /// hf:owner/name or hf:owner/name@revision.
    #[arg(long, short)]
    pub model: String,
    /// The prompt; needs a model with a tokenizer.json.
    #[arg(long, short, group = "input")]
    pub prompt: Option<String>,
    /// The prompt as token ids.
    #[arg(long, value_delimiter = ',', value_name = "ID,ID,…", group = "input")]
    pub ids: Option<Vec<u32>>,
    /// How many tokens to add.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// Share the model among so many ranks (tensor parallelism; threads on the CPU).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub ranks: u32,
    /// The data type of weights and cache.
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
    /// The data type that is written.
    #[arg(long, value_enum, default_value = "f32")]
    pub dtype: DtypeArg,
    /// The folder to write; it is made where it is missing.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Arguments of `collect`.
#[derive(Debug, Args)]
pub struct CollectArgs {
    /// The file with the InferenceBenchmark that was run.
    pub file: PathBuf,
    /// Where its results are; as for run.
    #[arg(long, value_name = "DIR")]
    pub out: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

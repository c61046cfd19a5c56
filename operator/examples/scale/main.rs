//! How much the operator takes, and how fast it is: 20,160 trials whose Jobs end at once, and 200 resources that have
//! nothing to do. Three processes, so that each has its own memory and time: the API server in memory, a bare client
//! that creates and deletes the same Jobs, and the operator.
//!
//! `cargo run --release -p inferbench-operator --example scale [-- --blocks 10 --idle 200 --idle-seconds 30]`

mod bare;
mod measure;
mod reconciles;
mod server;

use std::sync::Arc;

use clap::Parser;
use inferbench_operator::{
    client::client,
    controller::sweep::{Defaults, light},
};
use kube::{Client, Config};
use serde_json::{Value, json};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Jobs at a time.
const WINDOW: usize = 64;
const NAMESPACE: &str = "default";

#[derive(Debug, Parser)]
#[command(about = "Measures what the operator takes")]
struct Cli {
    /// Which of the three processes this is.
    #[arg(long, default_value = "operator")]
    part: String,
    /// Where the API server listens.
    #[arg(long, default_value = "")]
    server: String,
    /// Blocks of 2,016 trials.
    #[arg(long, default_value_t = 10)]
    blocks: u32,
    /// Resources that have nothing to do.
    #[arg(long, default_value_t = 200)]
    idle: u32,
    /// For how long they are watched.
    #[arg(long, default_value_t = 30)]
    idle_seconds: u64,
}

fn main() -> Result<(), Failed> {
    let cli = Cli::parse();
    let one_thread = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    };
    match cli.part.as_str() {
        "server" => tokio::runtime::Runtime::new()?.block_on(server::serve()),
        "bare" => one_thread()?.block_on(bare::run(&cli)),
        // As the operator runs.
        _ => one_thread()?.block_on(measure::run(&cli)),
    }
}

fn spec(blocks: u32, suspend: bool) -> Value {
    json!({
        "design": {
            "factors": {
                "model": [
                    {"name": "gpt2", "source": {"random": {"preset": "gpt2"}}},
                    {"name": "llama3-8b", "source": {"random": {"preset": "llama3-8b"}}},
                ],
                "batchSize": [1, 2, 4, 8, 16, 32, 64],
                "inputLength": [16, 32, 64, 128, 256, 512],
                "outputLength": [16, 32, 64, 128, 256, 512],
                "gpus": [1, 2, 4, 8],
            },
            "replicates": blocks,
        },
        "results": {"store": {"url": "s3://bucket"}},
        "execution": {"parallelism": WINDOW},
        "suspend": suspend,
    })
}

fn defaults() -> Defaults {
    Defaults {
        image: format!("ghcr.io/inferbench/runner@sha256:{}", "ab".repeat(32)),
        user: Some(65_532),
        light: light(),
    }
}

/// A client of the one who measures.
fn user(server: &str) -> Result<Client, Failed> {
    Ok(client(Config::new(server.parse()?), Arc::default())?)
}

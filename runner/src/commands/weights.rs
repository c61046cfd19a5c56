//! `inferbench weights`.

use inferbench_engine::{Weights, presets, save, threads};

use super::{complain, unknown_preset};
use crate::{cli::WeightsArgs, exit::Exit};

/// Writes a preset's random weights.
pub fn run(args: &WeightsArgs) -> Exit {
    let Some(config) = presets::preset(&args.preset) else {
        complain(&format!("--preset: {}", unknown_preset(&args.preset)));
        return Exit::BadInput;
    };
    threads::init(None);
    let weights = Weights::Random {
        config,
        seed: args.seed.cast_unsigned(),
    };
    match save(&weights, args.dtype.into(), &args.out) {
        Ok(()) => {
            println!(
                "{} with seed {} is in {}",
                args.preset,
                args.seed,
                args.out.display()
            );
            Exit::Ok
        }
        Err(error) => {
            complain(&format!("{}: {error:#}", args.out.display()));
            Exit::Failed
        }
    }
}

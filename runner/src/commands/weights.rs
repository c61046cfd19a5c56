//! `inferbench weights`.

use inferbench_engine::{Weights, presets, save, threads};

use super::input::unknown_preset;
use crate::{
    cli::WeightsArgs,
    process::{exit::Exit, print_error},
};

/// Writes a preset's random weights.
pub fn run(args: &WeightsArgs) -> Exit {
    let Some(config) = presets::preset(&args.preset) else {
        print_error(&format!("--preset: {}", unknown_preset(&args.preset)));
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
            print_error(&format!("{}: {error:#}", args.out.display()));
            Exit::Failed
        }
    }
}

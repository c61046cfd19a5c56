//! `inferbench compare`: two sweeps, and the limits that the second has to keep to.

use inferbench_results::compare::{Comparison, Options, compare, text};

use super::input::trials;
use crate::{
    cli::{CompareArgs, CompareOutput},
    process::{exit::Exit, print_error},
};

/// Compares two sweeps.
pub fn run(args: &CompareArgs) -> Exit {
    let comparison = match compared(args) {
        Ok(comparison) => comparison,
        Err(exit) => return exit,
    };
    match args.output {
        CompareOutput::Table => print!("{}", text::plain(&comparison)),
        CompareOutput::Markdown => print!("{}", text::markdown(&comparison)),
        CompareOutput::Json => match serde_json::to_string_pretty(&comparison) {
            Ok(document) => println!("{document}"),
            Err(error) => {
                print_error(&error);
                return Exit::Failed;
            }
        },
    }
    if comparison.matched == 0 {
        print_error(&"the two sweeps have no combination with a valid trial in both");
        return Exit::BadInput;
    }
    // The document has them too, but whoever reads it is not who looks for the reason of an exit code.
    if args.output == CompareOutput::Json {
        for gate in &comparison.gates {
            print_error(&gate.message);
        }
    }
    if comparison.failed() {
        Exit::Failed
    } else {
        Exit::Ok
    }
}

fn compared(args: &CompareArgs) -> Result<Comparison, Exit> {
    let options = Options {
        names: Some([args.a.clone(), args.b.clone()]),
        limits: args.fail_if.clone(),
    };
    let (a, b) = (trials(&args.a)?, trials(&args.b)?);
    let mut comparison = compare(&a.rows, &b.rows, &options);
    let of = |side: &'static str, notes: Vec<String>| {
        let notes = notes.into_iter();
        notes.map(move |note| format!("{side}: {}", note.trim_end_matches('.')))
    };
    comparison
        .notes
        .splice(0..0, of("A", a.notes).chain(of("B", b.notes)));
    Ok(comparison)
}

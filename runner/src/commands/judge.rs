//! `inferbench judge`: what is expected of a sweep, held to what was measured.

use std::{fs, path::Path};

use comfy_table::{ContentArrangement, Table};
use inferbench_crds::{expectation::Expectation, file};
use inferbench_results::{
    analysis::expectations::{Judgement, Tally, judge, parameters},
    beside::beside,
    row::Row,
};

use super::{
    input::{rows, stored_expectations},
    table::STYLE,
};
use crate::{
    cli::{JudgeArgs, JudgeOutput},
    process::{exit::Exit, print_error},
};

/// Judges sweeps.
pub fn run(args: &JudgeArgs) -> Exit {
    match judged(args) {
        Ok(judgements) => {
            match args.output {
                JudgeOutput::Table => println!("{}", render(&judgements)),
                JudgeOutput::Json => match serde_json::to_string_pretty(&judgements) {
                    Ok(document) => println!("{document}"),
                    Err(error) => {
                        print_error(&error);
                        return Exit::Failed;
                    }
                },
            }
            exit(Tally::of(&judgements))
        }
        Err(exit) => exit,
    }
}

fn judged(args: &JudgeArgs) -> Result<Vec<Judgement>, Exit> {
    let sweeps: Vec<Vec<Row>> = args
        .sweeps
        .iter()
        .map(|sweep| rows(sweep))
        .collect::<Result<_, _>>()?;
    let rows = beside(sweeps);
    let first = args.sweeps.first().map_or("", String::as_str);
    let expectations = match &args.expect {
        Some(path) => expected(path, &rows)?,
        None => stored_expectations(first)?,
    };
    if expectations.is_empty() {
        print_error(&match &args.expect {
            Some(path) => format!(
                "{}: expects nothing: it has no expectations",
                path.display()
            ),
            None => format!(
                "{first}: nothing was expected when it was collected; name a file with --expect, or write \
                 spec.expectations"
            ),
        });
        return Err(Exit::BadInput);
    }
    Ok(judge(&rows, &expectations))
}

/// The expectations of a file; else everything that is wrong with it has been said.
fn expected(path: &Path, rows: &[Row]) -> Result<Vec<Expectation>, Exit> {
    let shown = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| {
        print_error(&format!("{shown}: {error}"));
        Exit::BadInput
    })?;
    let parameters = parameters(rows);
    file::load_expectations(&text, &shown, parameters.iter().map(String::as_str)).map_err(|error| {
        eprintln!("{error}");
        Exit::BadInput
    })
}

/// A refuted expectation decides, and then one that is not shown.
const fn exit(tally: Tally) -> Exit {
    if tally.refuted > 0 {
        Exit::Refuted
    } else if tally.not_shown > 0 || tally.untestable > 0 {
        Exit::NotShown
    } else {
        Exit::Ok
    }
}

/// Columns of a terminal that the table takes at most: parts of expressions are long.
const WIDTH: u16 = 120;

/// The judgements as a table of text, and their numbers below it.
pub(super) fn render(judgements: &[Judgement]) -> String {
    let referred = judgements.iter().any(|one| !one.reference.is_empty());
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH);
    let mut head = vec!["expectation", "verdict", "measured"];
    if referred {
        head.push("from");
    }
    table.set_header(head);
    for one in judgements {
        let mut cells = vec![
            one.name.clone(),
            one.verdict.words().to_owned(),
            one.lines().join("\n"),
        ];
        if referred {
            cells.push(one.reference.clone());
        }
        table.add_row(cells);
    }
    format!(
        "{}\n\n{} of {} expected",
        table.trim_fmt(),
        Tally::of(judgements).in_words(),
        judgements.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refuted_decides_the_exit_code() {
        let tally = |shown, refuted, not_shown, untestable| Tally {
            shown,
            refuted,
            not_shown,
            untestable,
        };
        assert_eq!(exit(tally(3, 0, 0, 0)), Exit::Ok);
        assert_eq!(exit(tally(3, 1, 1, 1)), Exit::Refuted);
        assert_eq!(exit(tally(3, 0, 1, 0)), Exit::NotShown);
        assert_eq!(exit(tally(3, 0, 0, 1)), Exit::NotShown);
    }
}

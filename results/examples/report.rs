//! Writes the report and the figures of a made-up sweep into a folder, for looking at and for
//! `scripts/check_report.py`:
//! `cargo run -p inferbench-results --example report -- FOLDER [study|cpu|gaps|empty|hostile|large|servers|open|busy|confirmed]`.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Instant};

use inferbench_crds::{
    Duration, factor::Levels, outcome::Outcome, spec::Objectives, workload::Choice,
};
use inferbench_results::{
    analysis::analyze,
    figures,
    fixtures::{servers::Servers, study::Study},
    report::{Report, html, markdown},
    row::Row,
    summary::{doubtful, summarize},
};

/// The study, and three fresh replicates of the best for each workload and for the mix, and of what may be as good.
fn confirmed(study: &Study) -> Vec<Row> {
    let mut rows = Study {
        replicates: study.replicates + 3,
        ..study.clone()
    }
    .rows();
    let is_fresh = |row: &Row| row.replicate >= study.replicates;
    let of_all: Vec<Row> = rows.iter().filter(|row| !is_fresh(row)).cloned().collect();
    let summary = summarize("made-up", &of_all, &Objectives::default());
    let best: BTreeSet<&Levels> = summary.best.iter().map(|best| &best.levels).collect();
    let mixes = summary.mixes.iter().flat_map(|mix| &mix.best);
    let choices: Vec<&Choice> = mixes
        .flat_map(|best| std::iter::once(&best.of.choice).chain(best.as_good.iter().take(2)))
        .collect();
    for row in rows.iter_mut().filter(|row| is_fresh(row)) {
        let levels = row.levels();
        row.confirming = Some(true);
        if !best.contains(&levels) && !choices.contains(&&Choice::of(&levels)) {
            *row = Row {
                outcome: Some(Outcome::NotNeeded),
                valid: None,
                ..row.clone()
            };
        }
    }
    rows
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| "report".into()));
    let kind = arguments.next().unwrap_or_else(|| "study".into());
    let study = match kind.as_str() {
        "cpu" => Study {
            models: vec![("tiny".into(), 0.1)],
            gpus: vec![0],
            batch_sizes: vec![1, 2, 4],
            output_lengths: vec![8, 32],
            input_lengths: vec![32],
            replicates: 1,
            ..Study::default()
        },
        "gaps" => Study {
            memory_tokens: 40_000.0,
            invalid_every: 37,
            ..Study::default()
        },
        "empty" => Study {
            models: Vec::new(),
            ..Study::default()
        },
        "hostile" => Study {
            models: vec![
                ("<script>alert(1)</script>".into(), 1.0),
                ("a\"b'c&d|e`f$x$ \u{202e}rtl שלום".into(), 2.0),
                ("very-long-".repeat(40), 3.0),
            ],
            replicates: 2,
            ..Study::default()
        },
        "large" => Study {
            batch_sizes: vec![1, 2, 4, 8, 16, 32, 64],
            input_lengths: vec![16, 32, 64, 128, 256, 512],
            output_lengths: vec![16, 32, 64, 128, 256, 512],
            gpus: vec![1, 2, 4, 8],
            replicates: 10,
            ..Study::default()
        },
        _ => Study::default(),
    };
    let rows = match kind.as_str() {
        "busy" => {
            let mut rows = study.rows();
            for row in &mut rows {
                row.valid = Some(false);
                row.invalid_reasons = Some(
                    "other processes took 30.0 % of the CPU time that was needed (at most 10 %)"
                        .into(),
                );
            }
            rows
        }
        "confirmed" => confirmed(&study),
        "servers" => Servers::default().rows(),
        "open" => Servers::open().rows(),
        _ => study.rows(),
    };
    let objectives = if ["study", "servers", "open", "confirmed"].contains(&kind.as_str()) {
        Objectives {
            max_ttft: Some(Duration::from_millis(200)),
            max_tpot: Some(Duration::from_millis(20)),
            cost_per_gpu_hour: Some("2.50".into()),
            ..Objectives::default()
        }
    } else {
        Objectives::default()
    };
    let summary = summarize("made-up", &rows, &objectives);
    let analysis = analyze(&rows, &summary, &objectives);
    let begun = Instant::now();
    let figures = figures::all(&summary, &analysis);
    let report = Report {
        summary: &summary,
        analysis: &analysis,
        objectives: &objectives,
        figures: &figures,
        doubtful: &doubtful(&rows),
    };
    let page = html(&report);
    println!(
        "{} rows: figures and page in {:.0} ms, {} kB",
        rows.len(),
        begun.elapsed().as_secs_f64() * 1e3,
        page.len() / 1000
    );
    fs::create_dir_all(folder.join("figures"))?;
    fs::write(folder.join("report.html"), page)?;
    fs::write(folder.join("report.md"), markdown(&report))?;
    for figure in &figures {
        for (ending, bytes) in [
            ("svg", figure.svg().map(String::into_bytes)),
            ("png", figure.png()),
        ] {
            if let Some(bytes) = bytes {
                let name = format!("{}.{ending}", figure.name);
                fs::write(folder.join("figures").join(name), bytes)?;
            }
        }
    }
    Ok(())
}

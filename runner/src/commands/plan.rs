//! `inferbench plan`: what a spec would measure, without measuring anything.

use std::io::{self, Write};

use comfy_table::Table;
use inferbench_crds::{
    design::Combination,
    factor::{Factor, Level, Levels},
};
use inferbench_results::sample;
use serde::Serialize;

use super::{
    input::resource,
    table::{STYLE, aligned},
};
use crate::{
    cli::{PlanArgs, PlanOutput},
    machine::Machine,
    models::Need,
    process::{exit::Exit, print_error},
    sweep::{
        levels::Columns,
        prepared::{Fate, Prepared, gib},
    },
};

/// More lines than that are left to the other forms.
const MAX_LINES: usize = 40;

/// The whole plan.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    name: String,
    replicates: u32,
    /// Combinations that are not excluded.
    combinations: usize,
    /// Their trials.
    trials: usize,
    /// Trials that will be measured, as far as is known now.
    to_measure: usize,
    machine_memory_bytes: Option<u64>,
    models: Vec<ModelLine>,
    /// Settings that will not do what they look like.
    notes: Vec<String>,
    lines: Vec<Line>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ModelLine {
    name: String,
    architecture: String,
    params: u64,
    context: usize,
}

/// One combination.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    index: u32,
    #[serde(flatten)]
    levels: Levels,
    /// `measure`, `excluded`, `unsupported` or `outOfMemory`.
    status: &'static str,
    /// Why it is not measured.
    reason: Option<String>,
    /// Of one rank, as are the others; none for what can never run.
    weights_bytes: Option<u64>,
    kv_cache_bytes: Option<u64>,
    peak_bytes: Option<u64>,
    /// Whether the predicted peak fits this machine's memory; none for combinations on GPUs.
    fits: Option<bool>,
}

/// Shows the plan.
pub fn run(args: &PlanArgs) -> Exit {
    let resource = match resource(&args.file) {
        Ok(resource) => resource,
        Err(exit) => return exit,
    };
    let sweep = match Prepared::new(&resource, Need::Config, &|_| None) {
        Ok(sweep) => sweep,
        Err(error) => {
            print_error(&format!("{}: {error}", args.file.display()));
            return Exit::BadInput;
        }
    };
    let plan = plan(&sweep, Machine::look().memory);
    let text = match args.output {
        PlanOutput::Table => table(&plan),
        PlanOutput::Json => serde_json::to_string_pretty(&plan).unwrap_or_default(),
        PlanOutput::Csv => csv(&plan),
    };
    // A reader that has seen enough closes the pipe.
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
    Exit::Ok
}

fn plan(sweep: &Prepared, memory: Option<u64>) -> Plan {
    let mut lines: Vec<Line> = sweep
        .expansion
        .combinations()
        .map(|(index, combination)| line(sweep, index, &combination, memory, None))
        .collect();
    let combinations = lines.len();
    let to_measure = lines.iter().filter(|line| line.status == "measure").count();
    for left_out in sweep.expansion.excluded() {
        let reason = format!("spec.design.exclude[{}]", left_out.entry);
        lines.push(line(
            sweep,
            left_out.index,
            &left_out.combination,
            memory,
            Some(reason),
        ));
    }
    lines.sort_by_key(|line| line.index);
    let replicates = sweep.spec.design.replicates.unsigned_abs();
    Plan {
        name: sweep.name.clone(),
        replicates,
        combinations,
        trials: combinations * replicates as usize,
        to_measure: to_measure * replicates as usize,
        machine_memory_bytes: memory,
        models: sweep
            .models()
            .iter()
            .filter_map(|model| {
                let config = model.config.as_ref()?;
                Some(ModelLine {
                    name: model.name.clone(),
                    architecture: config.architecture().into(),
                    params: inferbench_engine::size::params(config),
                    context: config.max_sequence(),
                })
            })
            .collect(),
        notes: inferbench_crds::validate::notes(&sweep.spec),
        lines,
    }
}

fn line(
    sweep: &Prepared,
    index: u32,
    combination: &Combination,
    memory: Option<u64>,
    excluded: Option<String>,
) -> Line {
    let (status, reason) = match (excluded, sweep.fate(combination, memory)) {
        (Some(entry), _) => ("excluded", Some(entry)),
        (None, Fate::Measure) => ("measure", None),
        (None, Fate::Unsupported(reason)) => ("unsupported", Some(reason)),
        (None, Fate::TooBig(reason)) => ("outOfMemory", Some(reason)),
    };
    let needs = sweep.memory(combination);
    let all = memory.filter(|_| combination.gpus == 0);
    Line {
        index,
        levels: Levels::of(combination),
        status,
        reason,
        weights_bytes: needs.map(|needs| needs.weights),
        kv_cache_bytes: needs.map(|needs| needs.kv_cache),
        peak_bytes: needs.map(|needs| needs.peak()),
        fits: all.zip(needs).map(|(all, needs)| needs.peak() <= all),
    }
}

fn table(plan: &Plan) -> String {
    let mut table = Table::new();
    table.load_style(STYLE);
    let columns = Columns::of(plan.lines.iter().map(|line| &line.levels));
    let memory = ["weights GiB", "cache GiB", "peak GiB"];
    let heads = columns.heads().into_iter();
    table.set_header(
        heads
            .chain(memory.map(str::to_owned))
            .chain([String::new()]),
    );
    let numbers = columns.starts()..=columns.count() + memory.len() - 1;
    for line in plan.lines.iter().take(MAX_LINES) {
        let amount = |bytes: Option<u64>| bytes.map_or(String::new(), |b| format!("{:.3}", gib(b)));
        let note = match (&line.reason, line.fits) {
            (Some(reason), _) => format!("{}: {reason}", line.status),
            (None, Some(false)) => "may not fit this machine's memory".into(),
            _ => String::new(),
        };
        let cells = [
            amount(line.weights_bytes),
            amount(line.kv_cache_bytes),
            amount(line.peak_bytes),
            note,
        ];
        let cells = columns.cells(&line.levels).into_iter().chain(cells);
        table.add_row(aligned(cells, numbers.clone()));
    }
    let mut text = format!("{}\n", table.trim_fmt());
    if plan.lines.len() > MAX_LINES {
        text += &format!(
            "… {} more; all of them with --output csv or json\n",
            plan.lines.len() - MAX_LINES
        );
    }
    text += "\n";
    for model in &plan.models {
        text += &format!(
            "{}: {}, {:.1} M parameters, context {}\n",
            model.name,
            model.architecture,
            model.params as f64 / 1e6,
            model.context
        );
    }
    for note in &plan.notes {
        text += &format!("note: {note}\n");
    }
    let count = |status| {
        plan.lines
            .iter()
            .filter(|line| line.status == status)
            .count()
    };
    text += &format!(
        "{}: {} combinations × {} replicates = {} trials; {} to measure",
        plan.name, plan.combinations, plan.replicates, plan.trials, plan.to_measure
    );
    for (status, what) in [
        ("excluded", "combinations excluded"),
        ("unsupported", "combinations unsupported"),
        ("outOfMemory", "combinations that cannot fit"),
    ] {
        if count(status) > 0 {
            text += &format!("; {} {what}", count(status));
        }
    }
    let largest = plan
        .lines
        .iter()
        .filter(|line| line.status == "measure")
        .filter_map(|line| line.peak_bytes)
        .max();
    if let Some(largest) = largest {
        text += &format!("\npredicted peak memory {:.2} GiB per rank", gib(largest));
        if let Some(all) = plan.machine_memory_bytes {
            text += &format!("; this machine has {:.2} GiB", gib(all));
        }
    }
    text
}

fn csv(plan: &Plan) -> String {
    let factors = sample::factors(plan.lines.iter().map(|line| &line.levels));
    let columns = factors
        .iter()
        .map(Factor::column)
        .collect::<Vec<_>>()
        .join(",");
    let mut text =
        format!("index,{columns},status,reason,weights_bytes,kv_cache_bytes,peak_bytes,fits\n");
    let optional = |bytes: Option<u64>| bytes.map_or(String::new(), |bytes| bytes.to_string());
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    for line in &plan.lines {
        let level = |factor: &Factor| match line.levels.get(factor) {
            // As before: only names that a user chooses are quoted.
            Some(Level::Text(text)) if *factor != Factor::DTYPE => quoted(text),
            Some(level) => level.to_string(),
            None => String::new(),
        };
        let levels = factors.iter().map(level).collect::<Vec<_>>().join(",");
        let fields = [
            line.index.to_string(),
            levels,
            line.status.into(),
            line.reason.as_deref().map(quoted).unwrap_or_default(),
            optional(line.weights_bytes),
            optional(line.kv_cache_bytes),
            optional(line.peak_bytes),
            line.fits.map_or(String::new(), |fits| fits.to_string()),
        ];
        text += &fields.join(",");
        text.push('\n');
    }
    text
}

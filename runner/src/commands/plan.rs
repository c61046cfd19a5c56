//! `inferbench plan`: what a spec would measure, without measuring anything.

mod costs;

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io::{self, Write},
};

use comfy_table::Table;
use inferbench_crds::{
    design::Combination,
    factor::{Factor, Level, Levels},
    spec::Isolation,
};
use inferbench_results::sample;
use serde::Serialize;

use self::costs::Costs;
use super::{
    input::resource,
    table::{STYLE, aligned},
};
use crate::{
    cli::{PlanArgs, PlanOutput},
    machine::{Machine, gib, size},
    models::Need,
    process::{exit::Exit, print_error},
    sweep::{
        costs::{Durations, Kin, Work},
        estimate::{Class, Forecast, spoken},
        levels::Columns,
        prepared::{Fate, Prepared},
    },
};

/// More combinations than that are listed only where they are asked for.
const MAX_LINES: usize = 40;
/// Reasons for leaving combinations out that are named.
const MAX_REASONS: usize = 5;

/// The whole plan.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    name: String,
    replicates: u32,
    /// Replicates that every combination has, before it may be narrow enough; all of them without `until`.
    least_replicates: u32,
    /// Combinations that are not excluded.
    combinations: usize,
    /// Their trials, at most.
    trials: usize,
    /// Their trials where every combination is narrow enough at the first look.
    least_trials: usize,
    /// Trials that will be measured, as far as is known now, at most.
    to_measure: usize,
    /// The same where every combination is narrow enough at the first look.
    least_to_measure: usize,
    /// The trials that measure the best again, in a design that does.
    #[serde(skip_serializing_if = "Option::is_none")]
    confirming: Option<Again>,
    machine_memory_bytes: Option<u64>,
    models: Vec<ModelLine>,
    /// Settings that will not do what they look like.
    notes: Vec<String>,
    /// The costs of the plan, and of the whole grid beside a selection.
    costs: Costs,
    lines: Vec<Line>,
}

/// The trials that measure the best again.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Again {
    replicates: u32,
    /// Combinations, at most.
    combinations: u32,
    /// Trials, at most; not among the numbers above.
    trials: u32,
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
    /// Its trials that will be measured.
    trials: u32,
    /// Seconds that one of them is expected to take without a start of its engine; none where nothing says so.
    trial_s: Option<f64>,
    /// The trials of the earlier sweep that this is taken from.
    trial_s_from: Option<Kin>,
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
    let durations = match costs::durations(args) {
        Ok(durations) => durations,
        Err(exit) => return exit,
    };
    let (plan, efforts) = plan(&sweep, &durations, Machine::look().memory);
    let text = match args.output {
        PlanOutput::Table => table(&plan, &efforts, args.all),
        PlanOutput::Json => serde_json::to_string_pretty(&plan).unwrap_or_default(),
        PlanOutput::Csv => csv(&plan),
    };
    // A reader that has seen enough closes the pipe.
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
    Exit::Ok
}

/// The plan, and the effort of the fewest replicates that there can be, and of all.
fn plan(sweep: &Prepared, durations: &Durations, memory: Option<u64>) -> (Plan, [Effort; 2]) {
    let mut lines: Vec<Line> = sweep
        .expansion
        .combinations()
        .map(|(index, combination)| line(sweep, index, &combination, memory, None))
        .collect();
    let combinations = lines.len();
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
    let design = &sweep.spec.design;
    let replicates = sweep.expansion.blocks_of_all();
    let least = design.until.as_ref().map(|until| until.min.unsigned_abs());
    let least = least.unwrap_or(replicates).min(replicates);
    let (work, most) = work(sweep, memory, replicates);
    let fewest = match least == replicates {
        true => most,
        false => self::work(sweep, memory, least).1,
    };
    for line in &mut lines {
        let Some(work) = work.get(&line.index) else {
            continue;
        };
        let took = durations.trial_s(&work.combination);
        line.trials = work.trials;
        line.trial_s = took.map(|(seconds, _)| seconds);
        line.trial_s_from = took.and_then(|(_, kin)| kin);
    }
    // A combination that cannot run never becomes narrow.
    let never = combinations - work.len();
    let plan = Plan {
        name: sweep.name.clone(),
        replicates,
        least_replicates: least,
        combinations,
        trials: combinations * replicates as usize,
        least_trials: never * replicates as usize + work.len() * least as usize,
        to_measure: work.values().map(|work| work.trials as usize).sum(),
        least_to_measure: work.len() * least as usize,
        confirming: design.confirm.map(|confirm| {
            let replicates = confirm.replicates.unsigned_abs();
            // A combination that cannot run is never the best.
            let combinations = sweep.expansion.most_confirmed().min(work.len() as u32);
            Again {
                replicates,
                combinations,
                trials: combinations * replicates,
            }
        }),
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
        costs: Costs::of(sweep, &work, durations, memory),
        lines,
    };
    (plan, [fewest, most])
}

/// The effort of all trials that will be measured, as far as it is known before anything is.
#[derive(Clone, Copy)]
struct Effort {
    /// Fresh starts of engines.
    starts: usize,
    /// Seconds that warming up and timing take at least, with the usual time of a start.
    least_s: f64,
}

/// The work of the combinations that will be measured, by index, in this many blocks; and all of it together.
fn work(sweep: &Prepared, memory: Option<u64>, blocks: u32) -> (BTreeMap<u32, Work>, Effort) {
    let (spec, expansion) = (&sweep.spec, &sweep.expansion);
    let mut work: BTreeMap<u32, Work> = expansion
        .combinations()
        .filter(|(_, combination)| sweep.fate(combination, memory) == Fate::Measure)
        .map(|(index, combination)| {
            let measurement = sweep.measurement(&combination);
            let work = Work {
                combination,
                measurement,
                trials: 0,
                starts: 0,
            };
            (index, work)
        })
        .collect();
    let per_start = spec.execution.trials_per_job.unsigned_abs().max(1);
    let mut forecast = Forecast::default();
    let mut last = None;
    for index in (0..blocks).flat_map(|replicate| sweep.block(replicate)) {
        let before_exclusion = expansion.combinations_before_exclusion().max(1);
        let Some(work) = work.get_mut(&(index % before_exclusion)) else {
            continue;
        };
        // How long an iteration takes is not known before one is measured.
        let class = Class::new(0.0, &work.combination);
        forecast.expect(index, class, work.measurement.clone(), 1.0);
        work.trials += 1;
        let shared = spec.measurement.isolation_for(&work.combination.engine) == Isolation::Pod;
        let group = (index / before_exclusion, expansion.start(index));
        last = match last {
            Some((same, served)) if shared && same == group && served < per_start => {
                Some((same, served + 1))
            }
            _ => {
                // Nothing is started for an endpoint: it is there already.
                work.starts += u32::from(work.combination.engine.endpoint.is_none());
                Some((group, 1))
            }
        };
    }
    let starts = work.values().map(|work| work.starts as usize).sum();
    let least_s = forecast.remaining_s();
    (work, Effort { starts, least_s })
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
        levels: sweep.levels(combination),
        status,
        reason,
        weights_bytes: needs.map(|needs| needs.weights),
        kv_cache_bytes: needs.map(|needs| needs.kv_cache),
        peak_bytes: needs.map(|needs| needs.peak()),
        fits: all.zip(needs).map(|(all, needs)| needs.peak() <= all),
        trials: 0,
        trial_s: None,
        trial_s_from: None,
    }
}

/// The plan at a glance.
fn summary(plan: &Plan, [least, most]: &[Effort; 2]) -> String {
    let span = |least: usize, most: usize| match least == most {
        true => most.to_string(),
        false => format!("{least} to {most}"),
    };
    let mut text = format!(
        "{}: {} combinations × {} replicates = {} trials; {} to measure",
        plan.name,
        plan.combinations,
        span(plan.least_replicates as usize, plan.replicates as usize),
        span(plan.least_trials, plan.trials),
        span(plan.least_to_measure, plan.to_measure)
    );
    if plan.to_measure > 0 {
        text += &format!(
            ", in {} starts of an engine: at least {}",
            span(least.starts, most.starts),
            spoken(least.least_s)
        );
        if plan.least_replicates < plan.replicates {
            text += &format!(
                " where every combination is narrow enough at the first look, {} where none is",
                spoken(most.least_s)
            );
        }
    }
    text.push('\n');
    if let Some(again) = &plan.confirming {
        text += &format!(
            "then the best is measured again, in {} fresh replicates: at most {} combinations, {} trials more\n",
            again.replicates, again.combinations, again.trials
        );
    }
    text += &plan.costs.text();
    for (status, what) in [
        ("excluded", "excluded"),
        ("unsupported", "unsupported"),
        ("outOfMemory", "cannot fit"),
    ] {
        let lines = plan.lines.iter().filter(|line| line.status == status);
        text += &left_out(what, lines.filter_map(|line| line.reason.as_deref()));
    }
    text += &memory(plan);
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
    text
}

/// The most memory that a trial is predicted to take: beside what this machine has, where it would run on this machine.
fn memory(plan: &Plan) -> String {
    let measured = plan.lines.iter().filter(|line| line.status == "measure");
    let (mut on_cpu, mut on_gpu) = (None, None);
    for line in measured {
        let most = match line.levels.number(&Factor::GPUS) {
            Some(0.0) => &mut on_cpu,
            _ => &mut on_gpu,
        };
        *most = (*most).max(line.peak_bytes);
    }
    let cpu = on_cpu.map(|most| {
        let here = plan.machine_memory_bytes.map_or_else(String::new, |all| {
            format!("; this machine has {}", size(all))
        });
        format!("predicted peak memory {}{here}\n", size(most))
    });
    let gpu = on_gpu.map(|most| format!("predicted peak memory {} of each GPU\n", size(most)));
    cpu.into_iter().chain(gpu).collect()
}

/// How many combinations are left out, and for which reasons, the most frequent first; empty where there are none.
/// Reasons that differ in numbers alone are one, of which the first is shown.
fn left_out<'a>(what: &str, reasons: impl Iterator<Item = &'a str>) -> String {
    let mut kinds: BTreeMap<String, (usize, &str, bool)> = BTreeMap::new();
    for reason in reasons {
        let kind = reason.split(|c: char| c.is_ascii_digit()).collect();
        let (count, first, differ) = kinds.entry(kind).or_insert((0, reason, false));
        *count += 1;
        *differ |= *first != reason;
    }
    let total: usize = kinds.values().map(|(count, ..)| count).sum();
    if total == 0 {
        return String::new();
    }
    let mut kinds: Vec<_> = kinds.into_values().collect();
    kinds.sort_by_key(|(count, ..)| Reverse(*count));
    let mut text = format!("{what}: {total} combinations\n");
    let width = total.to_string().len();
    for (count, first, differ) in kinds.iter().take(MAX_REASONS) {
        let such = if *differ { "such as: " } else { "" };
        text += &format!("  {count:>width$}  {such}{first}\n");
    }
    let others = kinds.iter().skip(MAX_REASONS);
    let others: usize = others.map(|(count, ..)| count).sum();
    if others > 0 {
        text += &format!("  {others:>width$}  other reasons\n");
    }
    text
}

/// The summary, and the combinations where there are few, or all are asked for.
fn table(plan: &Plan, efforts: &[Effort; 2], all: bool) -> String {
    let mut text = summary(plan, efforts) + "\n";
    if !all && plan.lines.len() > MAX_LINES {
        text += &format!(
            "The {} combinations are listed with --all, or with --output csv or json.\n",
            plan.lines.len()
        );
        return text;
    }
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
    for line in &plan.lines {
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
    text + &table.trim_fmt()
}

fn csv(plan: &Plan) -> String {
    let factors = sample::factors(plan.lines.iter().map(|line| &line.levels));
    let columns = factors
        .iter()
        .map(Factor::column)
        .collect::<Vec<_>>()
        .join(",");
    let mut text = format!(
        "index,{columns},status,reason,weights_bytes,kv_cache_bytes,peak_bytes,fits,trials,trial_s,trial_s_from\n"
    );
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
            line.trials.to_string(),
            line.trial_s.map_or(String::new(), |s| format!("{s:.3}")),
            line.trial_s_from.map(costs::name).unwrap_or_default(),
        ];
        text += &fields.join(",");
        text.push('\n');
    }
    text
}

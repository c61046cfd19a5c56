//! The costs in a plan: where the times come from, the design beside the whole grid, and what the times rest on.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use comfy_table::Table;
use inferbench_crds::{
    design::Expansion,
    factor::{Factor, Level},
    layout::{TRIALS, record_key, record_path},
};
use inferbench_results::record::TrialRecord;
use serde::Serialize;

use super::work;
use crate::{
    cli::PlanArgs,
    commands::{
        input::open,
        table::{STYLE, aligned},
    },
    process::{exit::Exit, print_error},
    sweep::{
        costs::{Cost, Durations, Earlier, Kin, Took, Work},
        estimate::spoken,
        prepared::Prepared,
    },
};

/// Records that are read at a time.
const CHUNK: usize = 256;
/// Levels of a factor that are named as missing.
const MAX_LEVELS: usize = 8;

/// The costs of a plan.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Costs {
    /// The design as it will be measured.
    pub(super) design: Cost,
    /// Of a design that measures the best again: that, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    confirming: Option<Cost>,
    /// Of a design that selects combinations: the same sweep over all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    full_grid: Option<Cost>,
    /// The price of a GPU for an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_per_gpu_hour: Option<String>,
    /// The basis of the hours, or how to get them.
    basis: String,
    /// Combinations by the trials of the earlier sweep that their times are taken from; absent without one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    combinations_by: BTreeMap<Kin, usize>,
    /// Levels that the earlier sweep has not measured, by factor.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    levels_not_measured: BTreeMap<Factor, BTreeSet<Level>>,
    /// Why the hours may be far off.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    doubts: Vec<String>,
}

/// The durations that the command line names; else what is wrong with it has been said.
pub(super) fn durations(args: &PlanArgs) -> Result<Durations, Exit> {
    match (args.seconds_per_trial, &args.from) {
        (Some(trial_s), _) => Ok(Durations::Given {
            trial_s,
            start_s: args.seconds_per_start.unwrap_or(0.0),
        }),
        (None, Some(from)) => earlier(from).map(|earlier| Durations::Earlier(Box::new(earlier))),
        (None, None) => Ok(Durations::Unknown),
    }
}

/// Reads the times of an earlier sweep. Nothing of it is changed: a damaged record is left for `run` and `collect`.
fn earlier(from: &str) -> Result<Earlier, Exit> {
    let bad = |what: &dyn std::fmt::Display| {
        print_error(&format!("--from {from}: {what}"));
        Exit::BadInput
    };
    if !from.contains("://") && !Path::new(from).is_dir() {
        return Err(bad(
            &"is not a folder; name the folder or URL of a sweep that was measured",
        ));
    }
    let store = open(from)?;
    let records = store.list(TRIALS).map_err(|error| bad(&error))?;
    let keys: Vec<&str> = records
        .iter()
        .filter_map(|entry| record_key(&entry.path))
        .collect();
    let (mut took, mut unreadable) = (Vec::new(), 0);
    for keys in keys.chunks(CHUNK) {
        let paths: Vec<String> = keys.iter().map(|key| record_path(key)).collect();
        let documents = store.get_many(&paths).map_err(|error| bad(&error))?;
        for (key, document) in keys.iter().zip(documents) {
            match document.map(|document| TrialRecord::read(key, &document)) {
                Some(Ok(record)) => took.extend(Took::of(&record)),
                Some(Err(_)) => unreadable += 1,
                None => {}
            }
        }
    }
    Earlier::of(from, &took, unreadable).ok_or_else(|| {
        bad(&format!(
            "none of the {} records in its folder {TRIALS} is of a trial that was measured",
            keys.len()
        ))
    })
}

impl Costs {
    /// Those of a sweep whose combinations take this work.
    pub(super) fn of(
        sweep: &Prepared,
        planned: &BTreeMap<u32, Work>,
        durations: &Durations,
        memory: Option<u64>,
    ) -> Self {
        let price = sweep.spec.objectives.cost_per_gpu_hour.clone();
        let each = price.as_deref().and_then(|price| price.parse().ok());
        let grid = sweep.expansion.selection().map(|_| {
            let mut grid = sweep.clone();
            grid.spec.design.select = None;
            grid.expansion = Expansion::new(&grid.spec.design);
            let (work, _) = work(&grid, memory, grid.expansion.blocks_of_all());
            durations.cost(work.values(), each)
        });
        let again = costliest(sweep, planned, durations);
        let mut costs = Self {
            design: durations.cost(planned.values(), each),
            confirming: again.map(|again| durations.cost(again.iter(), each)),
            full_grid: grid,
            cost_per_gpu_hour: price,
            basis: String::new(),
            combinations_by: BTreeMap::new(),
            levels_not_measured: BTreeMap::new(),
            doubts: Vec::new(),
        };
        costs.basis = match durations {
            Durations::Unknown => "hours: unknown until something says how long a trial takes: --seconds-per-trial 30, or \
                                   --from SWEEP, a sweep that was measured earlier"
                .into(),
            Durations::Given { trial_s, start_s } if *start_s > 0.0 => format!(
                "hours: by --seconds-per-trial {trial_s} and --seconds-per-start {start_s}"
            ),
            Durations::Given { trial_s, .. } => {
                format!("hours: by --seconds-per-trial {trial_s}, starts of engines included")
            }
            Durations::Earlier(earlier) => costs.rest_on(earlier, planned),
        };
        costs
    }

    /// The basis of hours that come from an earlier sweep; takes note of doubts about them.
    fn rest_on(&mut self, earlier: &Earlier, planned: &BTreeMap<u32, Work>) -> String {
        for work in planned.values() {
            let (_, kin) = earlier.trial_s(&work.combination);
            *self.combinations_by.entry(kin).or_default() += 1;
        }
        let combinations = planned.values().map(|work| &work.combination);
        self.levels_not_measured = earlier.missing(combinations);
        let measurements = planned.values().map(|work| &work.measurement);
        self.doubts.extend(earlier.otherwise(measurements));
        if earlier.unreadable > 0 {
            let count = earlier.unreadable;
            self.doubts
                .push(format!("{count} of its records cannot be read"));
        }
        format!(
            "hours: by {} trials and {} starts of {}, one after another",
            earlier.trials(),
            earlier.starts(),
            earlier.place
        )
    }

    /// The costs for people.
    pub(super) fn text(&self) -> String {
        let again = self.confirming.as_ref();
        let rows = std::iter::once(("this design", &self.design))
            .chain(again.map(|again| ("the best again, at most", again)))
            .chain(self.full_grid.as_ref().map(|grid| ("the whole grid", grid)));
        let mut text = String::new();
        // The line above says trials and starts already.
        if self.full_grid.is_some() || self.design.hours.is_some() {
            text = self.table(rows);
        }
        text += &format!("{}\n", self.basis);
        let by = self.combinations_by.iter();
        let by: Vec<String> = by
            .map(|(kin, count)| format!("{count} {}", kin.title()))
            .collect();
        if !by.is_empty() {
            text += &format!("  combinations: {}\n", by.join(", "));
        }
        for (factor, levels) in &self.levels_not_measured {
            let shown = levels.iter().take(MAX_LEVELS).map(ToString::to_string);
            let mut shown = shown.collect::<Vec<_>>().join(", ");
            if levels.len() > MAX_LEVELS {
                shown += &format!(" and {} more", levels.len() - MAX_LEVELS);
            }
            text += &format!(
                "  not measured there: {factor} {shown}; what takes longer with them is not in the hours\n"
            );
        }
        for doubt in &self.doubts {
            text += &format!("  {doubt}\n");
        }
        text
    }

    fn table<'a>(&self, rows: impl Iterator<Item = (&'static str, &'a Cost)>) -> String {
        let mut table = Table::new();
        table.load_style(STYLE);
        let timed = self.design.hours.is_some();
        let priced = timed && self.cost_per_gpu_hour.is_some();
        let mut heads = vec![String::new(), "trials".into(), "starts".into()];
        if timed {
            heads.extend(["time".into(), "GPU-hours".into()]);
        }
        if let Some(price) = self.cost_per_gpu_hour.as_ref().filter(|_| priced) {
            heads.push(format!("cost at {price}"));
        }
        table.set_header(heads);
        for (name, cost) in rows {
            let mut cells = vec![
                name.to_owned(),
                cost.trials.to_string(),
                cost.starts.to_string(),
            ];
            if timed {
                cells.push(cost.hours.map_or(String::new(), |h| spoken(h * 3600.0)));
                cells.push(cost.gpu_hours.map_or(String::new(), amount));
            }
            if priced {
                cells.push(cost.cost.map_or(String::new(), |c| format!("{c:.2}")));
            }
            table.add_row(aligned(cells, 1..=5));
        }
        table.trim_fmt() + "\n"
    }
}

/// The work of measuring the best again, of a design that does: of as many combinations as there can be, those that take
/// longest.
fn costliest(
    sweep: &Prepared,
    planned: &BTreeMap<u32, Work>,
    durations: &Durations,
) -> Option<Vec<Work>> {
    let replicates = sweep.spec.design.confirm?.replicates.unsigned_abs();
    let mut all: Vec<&Work> = planned.values().collect();
    let gpu_s = |work: &&Work| {
        let trial_s = durations.trial_s(&work.combination).map_or(0.0, |(s, _)| s);
        trial_s * f64::from(work.combination.gpus.max(1))
    };
    all.sort_by(|a, b| gpu_s(b).total_cmp(&gpu_s(a)));
    all.truncate(sweep.expansion.most_confirmed() as usize);
    let again = all.into_iter().map(|work| Work {
        trials: replicates,
        starts: match work.combination.engine.endpoint {
            Some(_) => 0,
            None => replicates,
        },
        ..work.clone()
    });
    Some(again.collect())
}

/// GPU-hours, with as many digits as they are worth.
fn amount(hours: f64) -> String {
    if hours >= 100.0 {
        format!("{hours:.0}")
    } else {
        format!("{hours:.2}")
    }
}

/// A kin's name, as documents write it.
pub(super) fn name(kin: Kin) -> String {
    let name = serde_json::to_value(kin).unwrap_or_default();
    name.as_str().unwrap_or_default().to_owned()
}

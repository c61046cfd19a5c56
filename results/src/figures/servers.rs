//! Figures of loads: engines side by side over the same load, throughput against latency as it grows, and goodput. One
//! panel for each workload, one line for each choice.

use std::collections::BTreeMap;

use inferbench_crds::factor::Role;

use super::{
    Drawing, Figure, Key, KeyKind, Panel, Question, Table,
    lookup::{
        Context, level_cells, level_columns, level_heading, level_in_words, metric_heading,
        metric_title, metric_unit, name, sentence,
    },
    palette,
    panels::{Path, Paths, Spot},
};
use crate::{
    numbers,
    sample::{Factor, Level, Levels, factors, model},
    summary::CombinationSummary,
};

/// Workloads that a figure has panels of at most.
const WORKLOADS: usize = 6;

/// The figures that have something to say.
pub(super) fn all(context: &Context<'_>) -> Vec<Figure> {
    let loads = Loads::of(context);
    [engines(&loads), curves(&loads), goodput(&loads)]
        .into_iter()
        .flatten()
        .collect()
}

/// A measured combination, taken apart.
struct Loaded<'a> {
    combination: &'a CombinationSummary,
    /// The levels of the workload that comes.
    workload: Levels,
    /// The levels that were chosen to serve it.
    choice: Levels,
    /// The factor of the load, and its level.
    load: (Factor, f64),
}

impl<'a> Loaded<'a> {
    fn of(combination: &'a CombinationSummary) -> Option<Self> {
        let levels = &combination.levels;
        let factor = [
            Factor::CONCURRENCY,
            Factor::REQUEST_RATE,
            Factor::BATCH_SIZE,
        ]
        .into_iter()
        .find(|factor| levels.shown(factor).is_some())?;
        let number = levels.number(&factor)?;
        let part = |role: Role| {
            let levels = levels
                .iter()
                .filter(|(of, _)| of.role() == role && !is_load(of));
            let levels = levels.map(|(of, level)| (of.clone(), level.clone()));
            Levels::new(levels)
        };
        combination
            .metrics
            .contains_key("outputThroughput")
            .then(|| Self {
                combination,
                workload: part(Role::Workload),
                choice: part(Role::Choice),
                load: (factor, number),
            })
    }

    fn value(&self, metric: &str) -> Option<f64> {
        let value = self.combination.metrics.get(metric)?.mean;
        value.is_finite().then_some(value)
    }
}

fn is_load(factor: &Factor) -> bool {
    [
        Factor::CONCURRENCY,
        Factor::REQUEST_RATE,
        Factor::BATCH_SIZE,
    ]
    .contains(factor)
}

/// All measured combinations, by workload and choice.
struct Loads<'a> {
    all: Vec<Loaded<'a>>,
    /// The choices, in their order; those beyond what can be told apart are in tables only.
    choices: Vec<Levels>,
    /// The factors in which the choices differ.
    chosen: Vec<Factor>,
    /// The factors in which the workloads differ.
    given: Vec<Factor>,
}

impl<'a> Loads<'a> {
    fn of(context: &Context<'a>) -> Self {
        let all: Vec<Loaded<'_>> = context
            .summary
            .combinations
            .iter()
            .filter_map(Loaded::of)
            .collect();
        let mut choices: Vec<Levels> = all.iter().map(|of| of.choice.clone()).collect();
        choices.sort();
        choices.dedup();
        let mut workloads: Vec<&Levels> = all.iter().map(|of| &of.workload).collect();
        workloads.sort();
        workloads.dedup();
        Self {
            chosen: differing(&choices.iter().collect::<Vec<_>>()),
            given: differing(&workloads),
            choices,
            all,
        }
    }

    fn choice_name(&self, choice: &Levels) -> String {
        let parts: Vec<String> = self
            .chosen
            .iter()
            .filter_map(|factor| Some(level_in_words(factor, choice.shown(factor)?)))
            .collect();
        if parts.is_empty() {
            name(model(choice))
        } else {
            parts.join(", ")
        }
    }

    fn workload_name(&self, workload: &Levels) -> Option<String> {
        let parts: Vec<String> = self
            .given
            .iter()
            .filter_map(|factor| Some(level_in_words(factor, workload.shown(factor)?)))
            .collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    fn series(&self, choice: &Levels) -> Option<usize> {
        let series = self.choices.iter().position(|of| of == choice);
        series.filter(|series| *series < palette::SERIES)
    }

    fn legend(&self) -> Vec<Key> {
        self.choices
            .iter()
            .take(palette::SERIES)
            .enumerate()
            .map(|(series, choice)| Key {
                label: sentence(&self.choice_name(choice)),
                series,
                kind: KeyKind::Line,
            })
            .collect()
    }

    /// Whether any trial was saturated; its key in a legend.
    fn saturation(&self) -> Option<Key> {
        let saturated = self.all.iter().any(|of| of.combination.saturated > 0);
        saturated.then(|| Key {
            label: "saturated: requests came faster than they were served".into(),
            series: 0,
            kind: KeyKind::Hollow,
        })
    }

    /// The combinations of each workload under each kind of load, as many as there is room for.
    fn panels(&self, with: &str) -> Vec<(&Levels, &Factor, Vec<&Loaded<'a>>)> {
        let mut panels: BTreeMap<(&Levels, &Factor), Vec<&Loaded<'_>>> = BTreeMap::new();
        for of in self.all.iter().filter(|of| of.value(with).is_some()) {
            panels
                .entry((&of.workload, &of.load.0))
                .or_default()
                .push(of);
        }
        panels
            .into_iter()
            .take(WORKLOADS)
            .map(|((workload, load), of)| (workload, load, of))
            .collect()
    }

    /// Lines, one for each choice, along the load.
    fn paths(
        &self,
        of: &[&Loaded<'_>],
        point: impl Fn(&Loaded<'_>) -> Option<(f64, f64)>,
    ) -> Vec<Path> {
        let mut paths: BTreeMap<usize, Vec<&Loaded<'_>>> = BTreeMap::new();
        for of in of {
            if let Some(series) = self.series(&of.choice) {
                paths.entry(series).or_default().push(of);
            }
        }
        let mut found = Vec::new();
        for (series, mut of) in paths {
            of.sort_by(|a, b| a.load.1.total_cmp(&b.load.1));
            let spots = of.iter().filter_map(|of| {
                let (x, y) = point(of)?;
                Some(Spot {
                    x,
                    y,
                    label: numbers::tick(of.load.1),
                    hollow: of.combination.saturated > 0,
                })
            });
            found.push(Path {
                series,
                spots: spots.collect(),
            });
        }
        found.retain(|path| !path.spots.is_empty());
        found
    }

    /// A sentence about what is left out; begins with a space.
    fn omission(&self) -> String {
        match self.choices.len().saturating_sub(palette::SERIES) {
            0 => String::new(),
            more => format!(
                " {} more in the table only.",
                numbers::counted(more as u64, "line")
            ),
        }
    }

    /// The numbers behind a figure.
    fn table(&self, metrics: &[&str], compared: Option<&str>) -> Table {
        let metrics: Vec<&str> = metrics
            .iter()
            .copied()
            .filter(|metric| self.measured(metric))
            .collect();
        let saturated = self.saturation().is_some();
        let columns = level_columns(self.all.iter().map(|of| &of.combination.levels));
        let mut header = vec!["model".to_owned()];
        header.extend(columns.iter().map(level_heading));
        header.extend(metrics.iter().map(|metric| metric_heading(metric)));
        if let Some(metric) = compared {
            header.push(format!(
                "{} as against {}",
                metric_title(metric),
                self.choice_name(&self.choices[0])
            ));
        }
        if saturated {
            header.push("saturated trials".into());
        }
        let mut table = Table::new(header);
        let mut all: Vec<&Loaded<'_>> = self.all.iter().collect();
        all.sort_by(|a, b| {
            (&a.workload, &a.load.0)
                .cmp(&(&b.workload, &b.load.0))
                .then(a.load.1.total_cmp(&b.load.1))
                .then(a.choice.cmp(&b.choice))
        });
        for of in all {
            let levels = &of.combination.levels;
            let mut row = vec![name(model(levels))];
            row.extend(level_cells(levels, &columns));
            row.extend(metrics.iter().map(|metric| {
                let estimate = of.combination.metrics.get(*metric);
                estimate.map_or_else(|| numbers::NOT_AVAILABLE.into(), numbers::estimate)
            }));
            if let Some(metric) = compared {
                let ratio = self.ratio(of, metric);
                row.push(ratio.map_or_else(|| numbers::NOT_AVAILABLE.into(), times));
            }
            if saturated {
                row.push(numbers::count(of.combination.saturated));
            }
            table.push(row);
        }
        table
    }

    /// A metric over that of the first choice at the same workload and load.
    fn ratio(&self, of: &Loaded<'_>, metric: &str) -> Option<f64> {
        let first = self.all.iter().find(|other| {
            other.choice == self.choices[0]
                && other.workload == of.workload
                && other.load == of.load
        })?;
        let ratio = of.value(metric)? / first.value(metric)?;
        (ratio.is_finite() && ratio > 0.0).then_some(ratio)
    }

    /// The first of these metrics that all requests have, so that no line lacks points; else the last.
    fn common<'m>(&self, metrics: &[&'m str]) -> Option<&'m str> {
        let of_requests = || {
            let all = self.all.iter();
            all.filter(|of| of.combination.levels.of_requests())
        };
        let by_all = |metric: &&&str| of_requests().all(|of| of.value(metric).is_some());
        let found = metrics.iter().find(by_all).or(metrics.last()).copied();
        found.filter(|metric| of_requests().any(|of| of.value(metric).is_some()))
    }

    fn measured(&self, metric: &str) -> bool {
        self.all.iter().any(|of| of.value(metric).is_some())
    }
}

fn times(ratio: f64) -> String {
    format!("×{}", numbers::number(ratio))
}

/// The factors whose levels are not all the same.
fn differing(levels: &[&Levels]) -> Vec<Factor> {
    let mut found = factors(levels.iter().copied());
    found.retain(|factor| {
        let mut of = levels.iter().map(|levels| levels.shown(factor));
        let first = of.next();
        first.is_some_and(|first| of.any(|other| other != first))
    });
    // An engine at its implied level is stated by none, and differs from others all the same.
    let engines: std::collections::BTreeSet<Option<&Level>> = levels
        .iter()
        .map(|levels| levels.get(&Factor::ENGINE))
        .collect();
    if engines.len() > 1 && !found.contains(&Factor::ENGINE) {
        found.insert(0, Factor::ENGINE);
    }
    found
}

fn figure(
    loads: &Loads<'_>,
    name: &'static str,
    title: &str,
    caption: String,
    panels: Vec<Panel>,
    table: Table,
) -> Option<Figure> {
    if panels.is_empty() {
        return None;
    }
    let mut legend = loads.legend();
    legend.extend(loads.saturation());
    Some(Figure {
        name,
        title: title.into(),
        study: None,
        question: Question::Decide,
        caption: caption + &loads.omission(),
        drawing: Some(Drawing {
            panels,
            columns: 2,
            legend,
        }),
        table,
    })
}

/// A metric of each choice along the load, where there are several engines.
fn engines(loads: &Loads<'_>) -> Option<Figure> {
    if !loads.chosen.contains(&Factor::ENGINE) {
        return None;
    }
    let metrics: Vec<&str> = ["outputThroughput", "ttftMs", "tpotMs"]
        .into_iter()
        .filter(|metric| loads.measured(metric))
        .collect();
    let mut panels = Vec::new();
    for (workload, load, of) in loads.panels("outputThroughput") {
        for metric in &metrics {
            let paths = loads.paths(&of, |of| Some((of.load.1, of.value(metric)?)));
            panels.extend(panel(
                loads,
                (metric, workload),
                &load_title(load),
                paths,
                true,
            ));
        }
    }
    let ratios = loads.choices.iter().skip(1).filter_map(|choice| {
        let own = loads.all.iter().filter(|of| of.choice == *choice);
        let logarithms: Vec<f64> = own
            .filter_map(|of| loads.ratio(of, "outputThroughput"))
            .map(f64::ln)
            .collect();
        let mean = logarithms.iter().sum::<f64>() / logarithms.len() as f64;
        mean.is_finite()
            .then(|| format!("{} of {}", times(mean.exp()), loads.choice_name(choice)))
    });
    let ratios: Vec<String> = ratios.take(palette::SERIES).collect();
    let caption = if ratios.is_empty() {
        "No two engines were measured under the same load.".into()
    } else {
        format!(
            "As against {}, at the same model, lengths and load: an output throughput {} (geometric means).",
            loads.choice_name(&loads.choices[0]),
            numbers::listed(&ratios)
        )
    };
    let table = loads.table(&metrics, Some("outputThroughput"));
    figure(
        loads,
        "engines",
        "Engines side by side",
        caption,
        panels,
        table,
    )
}

/// Throughput against latency as the load grows, of requests that come one by one.
fn curves(loads: &Loads<'_>) -> Option<Figure> {
    let latencies: Vec<&str> = [
        loads.common(&["p99TtftMs", "p50TtftMs", "ttftMs"]),
        loads.common(&["p99TpotMs", "tpotMs"]),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut panels = Vec::new();
    let mut fastest: Option<&Loaded<'_>> = None;
    for (workload, _, of) in loads.panels("outputThroughput") {
        let of: Vec<&Loaded<'_>> = of
            .into_iter()
            .filter(|of| of.combination.levels.of_requests())
            .collect();
        for latency in &latencies {
            let paths = loads.paths(&of, |of| {
                Some((of.value("outputThroughput")?, of.value(latency)?))
            });
            if paths.iter().any(|path| path.spots.len() > 1) {
                panels.extend(panel(
                    loads,
                    (latency, workload),
                    &metric_heading("outputThroughput"),
                    paths,
                    false,
                ));
            }
        }
        let rate = |of: &&&Loaded<'_>| of.value("outputThroughput").unwrap_or_default();
        let own = of.iter().filter(|of| of.combination.saturated == 0);
        let own = own.max_by(|a, b| rate(a).total_cmp(&rate(b)));
        fastest = fastest.or(own.copied());
    }
    let fastest = fastest.map_or_else(String::new, |of| {
        let latency = latencies
            .first()
            .and_then(|latency| Some((latency, of.value(latency)?)));
        format!(
            " {}{}: {} reaches {} at {}{}.",
            name(model(&of.combination.levels)),
            loads
                .workload_name(&of.workload)
                .map_or_else(String::new, |workload| format!(", {workload}")),
            loads.choice_name(&of.choice),
            numbers::with_unit(of.value("outputThroughput").unwrap_or_default(), "tokens/s"),
            level_in_words(
                &of.load.0,
                of.combination
                    .levels
                    .get(&of.load.0)
                    .unwrap_or(&Level::from(0))
            ),
            latency.map_or_else(String::new, |(latency, value)| format!(
                ", with {} of {}",
                numbers::with_unit(value, metric_unit(latency)),
                metric_title(latency)
            ))
        )
    });
    let caption = format!(
        "Each line is one choice under a growing load, which the points are labelled with.{fastest}"
    );
    let mut metrics = vec!["outputThroughput", "requestThroughput", "p50TtftMs"];
    metrics.extend(latencies);
    metrics.dedup();
    let table = loads.table(&metrics, None);
    figure(
        loads,
        "load-curves",
        "Throughput against latency as the load grows",
        caption,
        panels,
        table,
    )
}

/// Requests that keep to the objectives, along the load.
fn goodput(loads: &Loads<'_>) -> Option<Figure> {
    let mut panels = Vec::new();
    let mut best: Vec<String> = Vec::new();
    for (workload, load, of) in loads.panels("goodput") {
        let paths = loads.paths(&of, |of| Some((of.load.1, of.value("goodput")?)));
        panels.extend(panel(
            loads,
            ("goodput", workload),
            &load_title(load),
            paths,
            true,
        ));
        let good = |of: &&Loaded<'_>| of.value("goodput").unwrap_or_default();
        let most = of
            .iter()
            .copied()
            .max_by(|a, b| good(a).total_cmp(&good(b)));
        best.extend(most.filter(|of| good(of) > 0.0).map(|of| {
            format!(
                "{}{} at {} ({})",
                loads
                    .workload_name(workload)
                    .map_or_else(String::new, |workload| format!("{workload}: ")),
                loads.choice_name(&of.choice),
                level_in_words(
                    load,
                    of.combination.levels.get(load).unwrap_or(&Level::from(0))
                ),
                numbers::with_unit(good(&of), "requests/s")
            )
        }));
    }
    let caption = match best.as_slice() {
        [] => "No request kept to every objective.".into(),
        best => format!(
            "Most requests that keep to every objective: {}.",
            best.join("; ")
        ),
    };
    let table = loads.table(&["goodput", "requestThroughput", "ttftMs", "tpotMs"], None);
    figure(
        loads,
        "goodput",
        "Goodput over the load",
        caption,
        panels,
        table,
    )
}

fn load_title(load: &Factor) -> String {
    match load.unit() {
        "" | "requests" | "sequences" => sentence(load.title()),
        unit => format!("{}, {unit}", sentence(load.title())),
    }
}

/// A panel, where there is a point to show.
fn panel(
    loads: &Loads<'_>,
    (metric, workload): (&str, &Levels),
    x_title: &str,
    paths: Vec<Path>,
    along_levels: bool,
) -> Option<Panel> {
    if paths.is_empty() {
        return None;
    }
    let given = loads.workload_name(workload);
    Some(Panel {
        alt: format!(
            "{} along {x_title}{}: {}.",
            metric_heading(metric),
            given
                .as_ref()
                .map_or_else(String::new, |given| format!(" for {given}")),
            numbers::counted(paths.len() as u64, "line")
        ),
        scene: Paths {
            title: metric_heading(metric),
            subtitle: given,
            x_title: x_title.into(),
            paths,
            along_levels,
        }
        .draw(),
    })
}

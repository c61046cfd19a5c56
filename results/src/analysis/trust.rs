//! Whether to trust a sweep: what is missing or invalid, what stands out, what drifted, and what it was measured with.

use std::collections::BTreeMap;

use inferbench_crds::outcome::Outcome;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF as _, StudentsT};

use super::{correlation::spearman, grid::mean};
use crate::{
    counts::Counts,
    row::Row,
    sample::{Combination, Levels, Metric, is_invalid},
};

/// Whether to trust a sweep.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// How the trials ended.
    pub counts: Counts,
    /// Trials that were left out, by what made them invalid; one trial may have several reasons.
    pub invalid: Vec<Reason>,
    /// Trials that have no measurement, by outcome.
    pub unmeasured: Vec<Unmeasured>,
    /// Valid trials in which fewer GPUs were seen at work than the trial asked for.
    #[serde(default)]
    pub idle_gpus: u32,
    /// Trials that stand out from the others of their combination. They are kept.
    pub outliers: Vec<Outlier>,
    /// Trials that were looked at for outliers; 0 with fewer than two replicates.
    pub outliers_among: u32,
    /// Whether metrics drifted with the order of execution.
    pub drift: Vec<Drift>,
    /// Machine, engine and versions: everything that should be the same throughout.
    pub provenance: Vec<Provenance>,
}

/// Why trials are invalid, or have no measurement.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// The reason with its figures taken out: `# % of the CPU time …`.
    pub kind: String,
    /// Trials.
    pub trials: u32,
    /// The first one's reason in full.
    pub example: String,
    /// The first one's trial index.
    pub example_trial: u32,
}

/// Trials without a measurement.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Unmeasured {
    /// The outcome; absent for trials that have not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Trials.
    pub trials: u32,
    /// Why they have none, the most frequent reasons first, 20 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    /// The combinations that they belong to, the first 20.
    pub combinations: Vec<Levels>,
}

/// A trial that stands out.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Outlier {
    /// The trial's number in the design.
    pub trial_index: u32,
    /// Its block.
    pub replicate: u32,
    /// Its levels.
    #[serde(flatten)]
    pub levels: Levels,
    /// The metric.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// The median of its combination.
    pub median: f64,
    /// The modified z-score of the logarithm: 0.6745·deviation/MAD, beyond ±3.5.
    pub z: f64,
}

/// A metric along the order of execution.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    /// The metric.
    pub metric: String,
    /// Trials of combinations with at least two.
    pub trials: u32,
    /// Spearman's ρ between when each trial ran and what it measured, both as deviations from their combination's mean.
    pub spearman: f64,
    /// The probability of one as far from 0 without any drift, with trials − combinations − 1 degrees of freedom; where
    /// trials shared starts of the engine, ρ and p go over the starts' means in their place.
    pub p: f64,
    /// Starts of the engine that ρ goes over where trials shared them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<u32>,
    /// Change from the first trial to the last, in percent, by least squares of the same deviations.
    pub change_pct: f64,
    /// Whether p is below 0.01.
    pub flagged: bool,
}

/// Something that should be the same throughout.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    /// The column: `device`, `driver`, …
    pub column: String,
    /// Its values, most frequent first.
    pub values: Vec<ProvenanceValue>,
}

/// A value and how many trials have it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProvenanceValue {
    /// The value; absent where it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Measured trials.
    pub trials: u32,
}

/// The metrics that are looked at for outliers and drift: the first and the last token's time say all that is measured.
const WATCHED: [&str; 2] = ["ttftMs", "ttltMs"];
/// A modified z-score beyond this stands out: Iglewicz and Hoaglin (1993).
const OUTLYING: f64 = 3.5;
/// Drift is flagged below this probability.
const DRIFT_P: f64 = 0.01;
/// Fewer trials say nothing of a drift.
const MIN_TRIALS: usize = 8;
/// Combinations and reasons that are named per outcome, and outliers in all.
const MAX_NAMED: usize = 20;
const MAX_OUTLIERS: usize = 200;

/// Judges the latest attempts at all trials.
pub(super) fn judge(counts: &Counts, latest: &[&Row], combinations: &[Combination<'_>]) -> Trust {
    let mut outliers = Vec::new();
    let mut drift = Vec::new();
    let mut among = 0;
    for metric in WATCHED.iter().filter_map(|name| Metric::named(name)) {
        let deviations = deviations(combinations, metric);
        among = among.max(deviations.len() as u32);
        outliers.extend(outlying(metric, &deviations));
        drift.extend(drifting(metric, &deviations));
    }
    outliers.sort_by(|a: &Outlier, b| b.z.abs().total_cmp(&a.z.abs()));
    outliers.truncate(MAX_OUTLIERS);
    Trust {
        counts: counts.clone(),
        invalid: reasons(latest),
        unmeasured: unmeasured(latest),
        idle_gpus: idle_gpus(combinations),
        outliers,
        outliers_among: among,
        drift,
        provenance: provenance(latest),
    }
}

/// A trial's logarithm beside those of its combination.
struct Deviation<'a> {
    row: &'a Row,
    levels: &'a Levels,
    value: f64,
    median: f64,
    /// ln(value) − ln(median).
    from_median: f64,
    /// ln(value) − mean of the logarithms.
    from_mean: f64,
    /// Its place in the order of execution − mean of the places.
    later: f64,
    /// Trials of the combination.
    trials: usize,
}

/// The trials of every combination that has at least two, in relative terms: combinations differ, but not in how much a
/// replicate may be off.
fn deviations<'a>(combinations: &'a [Combination<'a>], metric: &Metric) -> Vec<Deviation<'a>> {
    let mut found = Vec::new();
    for combination in combinations {
        let trials: Vec<(&Row, f64)> = combination
            .valid
            .iter()
            .filter_map(|row| Some((*row, metric.value(row)?)))
            .filter(|(_, value)| *value > 0.0 && value.is_finite())
            .collect();
        if trials.len() < 2 {
            continue;
        }
        let median = median(trials.iter().map(|(_, value)| *value).collect());
        let Some(centre) = mean(trials.iter().map(|(_, value)| value.ln())) else {
            continue;
        };
        let places = trials.iter().map(|(row, _)| f64::from(row.run_order));
        let place = mean(places).unwrap_or_default();
        found.extend(trials.iter().map(|(row, value)| Deviation {
            row,
            levels: &combination.levels,
            value: *value,
            median,
            from_median: (value / median).ln(),
            from_mean: value.ln() - centre,
            later: f64::from(row.run_order) - place,
            trials: trials.len(),
        }));
    }
    found
}

/// The median of some numbers; 0 of none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Modified z-scores of numbers around a centre of their own: 0.6745·d/MAD, MAD being the median of |d|. `None` where
/// that is 0: most are alike to the last digit, and nothing can be said of the others.
#[must_use]
pub fn modified_z(deviations: &[f64]) -> Option<Vec<f64>> {
    let mad = median(deviations.iter().map(|d| d.abs()).collect());
    (mad > 0.0).then(|| deviations.iter().map(|d| 0.6745 * d / mad).collect())
}

/// With few replicates one combination says little of its spread, so the deviations of all are judged together, as far
/// as they would be from the mean of endless replicates: those of k trials from their own mean are smaller by √((k −
/// 1)/k). A trial also has to lie as far from its combination's median: one that stands out draws the mean away from
/// the others.
fn outlying(metric: &Metric, deviations: &[Deviation<'_>]) -> Vec<Outlier> {
    let scaled: Vec<f64> = deviations
        .iter()
        .map(|d| {
            let trials = d.trials as f64;
            d.from_mean * (trials / (trials - 1.0)).sqrt()
        })
        .collect();
    let Some(scores) = modified_z(&scaled).filter(|_| scaled.len() >= MIN_TRIALS) else {
        return Vec::new();
    };
    let mad = median(scaled.iter().map(|d| d.abs()).collect());
    deviations
        .iter()
        .zip(scores)
        .filter(|(d, z)| {
            let from_median = if d.trials > 2 {
                d.from_median
            } else {
                d.from_mean
            };
            z.abs() > OUTLYING && 0.6745 * from_median.abs() / mad > OUTLYING
        })
        .map(|(d, z)| Outlier {
            trial_index: d.row.trial_index,
            replicate: d.row.replicate,
            levels: d.levels.clone(),
            metric: metric.name.into(),
            value: d.value,
            median: d.median,
            z,
        })
        .collect()
}

/// A combination's mean takes one degree of freedom out of its trials, and where it ran takes part in it: so both sides
/// are deviations from the combination's means, and the means are counted. With the plain order of execution and
/// all trials counted, two replicates would find a drift of nothing in 5% of sweeps instead of 1%.
///
/// Trials that shared a start of the engine have what that start differs by in common, and count once, as their mean:
/// each by itself, starts that differ by 5% would be taken for a drift in far more than 1% of sweeps.
fn drifting(metric: &Metric, deviations: &[Deviation<'_>]) -> Option<Drift> {
    let starts = by_start(deviations);
    if starts.len() < MIN_TRIALS {
        return None;
    }
    let over = |of: &dyn Fn(&Deviation<'_>) -> f64| -> Vec<f64> {
        let means = starts
            .iter()
            .map(|start| start.iter().map(|d| of(d)).sum::<f64>() / start.len() as f64);
        means.collect()
    };
    let rho = spearman(&over(&|d| d.later), &over(&|d| d.from_mean))?;
    // Each combination's trials add up to one, and so do the starts of a plot.
    let means: f64 = over(&|d| 1.0 / d.trials as f64).iter().sum();
    let p = spearman_p(
        rho,
        starts.len() + 1 - (means.round() as usize).min(starts.len()),
    );
    let (mut xy, mut xx) = (0.0, 0.0);
    for deviation in deviations {
        xy += deviation.later * deviation.from_mean;
        xx += deviation.later * deviation.later;
    }
    let order = || deviations.iter().map(|d| f64::from(d.row.run_order));
    let first = order().fold(f64::INFINITY, f64::min);
    let last = order().fold(f64::NEG_INFINITY, f64::max);
    let change_pct = 100.0 * (xy / xx * (last - first)).exp_m1();
    change_pct.is_finite().then(|| Drift {
        metric: metric.name.into(),
        trials: deviations.len() as u32,
        spearman: rho,
        p,
        starts: (starts.len() < deviations.len()).then_some(starts.len() as u32),
        change_pct,
        flagged: p < DRIFT_P,
    })
}

/// The deviations of the trials of each start; a trial whose process is unknown is taken for one of its own.
fn by_start<'a, 'b>(deviations: &'a [Deviation<'b>]) -> Vec<Vec<&'a Deviation<'b>>> {
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    let mut starts: Vec<Vec<&Deviation<'_>>> = Vec::new();
    for deviation in deviations {
        let next = starts.len();
        let at = match deviation.row.process_id.as_deref() {
            Some(process) => *known.entry(process).or_insert(next),
            None => next,
        };
        if at == next {
            starts.push(Vec::new());
        }
        starts[at].push(deviation);
    }
    starts
}

/// The two-sided probability of a Spearman coefficient as far from 0 by chance, by Student's t with count − 2 degrees
/// of freedom.
#[must_use]
pub fn spearman_p(rho: f64, count: usize) -> f64 {
    if count < 3 {
        return 1.0;
    }
    let degrees = count as f64 - 2.0;
    let t = rho.abs() * (degrees / ((1.0 - rho) * (1.0 + rho)).max(f64::MIN_POSITIVE)).sqrt();
    StudentsT::new(0.0, 1.0, degrees).map_or(1.0, |student| 2.0 * student.sf(t))
}

/// Why trials are invalid, the most frequent reason first.
pub(crate) fn reasons(latest: &[&Row]) -> Vec<Reason> {
    let invalid = latest.iter().filter(|row| is_invalid(row));
    by_kind(invalid.flat_map(|row| reasons_of(row).map(move |reason| (*row, reason))))
}

/// Why trials have no measurement, the most frequent reason first.
pub(crate) fn reasons_unmeasured(latest: &[&Row]) -> Vec<Reason> {
    let ended = latest.iter();
    by_kind(ended.filter_map(|row| Some((*row, why_unmeasured(row)?))))
}

/// Why a trial that has ended has no measurement; none where it has one, or needed none. Without a record the outcome alone
/// is known: from the end of its pod, or from the preflight. Tables of earlier versions have no messages.
pub(crate) fn why_unmeasured(row: &Row) -> Option<&str> {
    let has_record = row.started_at.is_some() || row.process_id.is_some();
    let without_record = match row.outcome? {
        Outcome::Succeeded | Outcome::NotNeeded => return None,
        _ if has_record => "the table does not say why",
        Outcome::OutOfMemory => "its pod was killed for want of memory, and left no record",
        Outcome::TimedOut => "its pod ran out of time, and left no record",
        Outcome::Unsupported => {
            "the preflight found that it can never run: `inferbench plan` says why"
        }
        Outcome::Failed => "it failed, and left no record",
    };
    Some(row.message.as_deref().unwrap_or(without_record))
}

/// Reasons that differ in their figures only taken together, the most frequent first.
fn by_kind<'a>(all: impl Iterator<Item = (&'a Row, &'a str)>) -> Vec<Reason> {
    let mut kinds: BTreeMap<String, Reason> = BTreeMap::new();
    for (row, reason) in all {
        let kind = without_figures(reason);
        let found = kinds.entry(kind.clone()).or_insert_with(|| Reason {
            kind,
            trials: 0,
            example: reason.into(),
            example_trial: row.trial_index,
        });
        found.trials += 1;
    }
    let mut reasons: Vec<Reason> = kinds.into_values().collect();
    reasons.sort_by(|a, b| b.trials.cmp(&a.trials).then_with(|| a.kind.cmp(&b.kind)));
    reasons
}

/// The reasons of an invalid trial.
pub(crate) fn reasons_of(row: &Row) -> impl Iterator<Item = &str> {
    let text = row.invalid_reasons.as_deref();
    text.unwrap_or("no reason is given").split("; ")
}

/// Every number replaced by `#`, so that reasons which differ in their figures only count as one.
pub(crate) fn without_figures(reason: &str) -> String {
    let mut kind = String::with_capacity(reason.len());
    let mut inside = false;
    for c in reason.chars() {
        let figure = c.is_ascii_digit() || (inside && c == '.');
        if figure && !inside {
            kind.push('#');
        } else if !figure {
            kind.push(c);
        }
        inside = figure;
    }
    kind
}

fn unmeasured(latest: &[&Row]) -> Vec<Unmeasured> {
    let mut found: Vec<Unmeasured> = Vec::new();
    for row in latest
        .iter()
        // Nothing is amiss with what was not needed, and the counts say how many there are.
        .filter(|row| !matches!(row.outcome, Some(Outcome::Succeeded | Outcome::NotNeeded)))
    {
        let at = found.iter().position(|one| one.outcome == row.outcome);
        let at = at.unwrap_or_else(|| {
            found.push(Unmeasured {
                outcome: row.outcome,
                trials: 0,
                reasons: reasons_of_outcome(latest, row.outcome),
                combinations: Vec::new(),
            });
            found.len() - 1
        });
        let one = &mut found[at];
        one.trials += 1;
        let levels = row.levels();
        if one.combinations.len() < MAX_NAMED && !one.combinations.contains(&levels) {
            one.combinations.push(levels);
        }
    }
    found
}

/// The most frequent reasons of the trials that ended so.
fn reasons_of_outcome(latest: &[&Row], outcome: Option<Outcome>) -> Vec<Reason> {
    let rows = latest.iter().copied();
    let rows: Vec<&Row> = rows.filter(|row| row.outcome == outcome).collect();
    let mut reasons = reasons_unmeasured(&rows);
    reasons.truncate(MAX_NAMED);
    reasons
}

fn idle_gpus(combinations: &[Combination<'_>]) -> u32 {
    let valid = combinations.iter().flat_map(|c| &c.valid);
    let idle = valid.filter(|row| row.gpus_active.is_some_and(|active| active < row.gpus));
    idle.count() as u32
}

fn provenance(latest: &[&Row]) -> Vec<Provenance> {
    type Column = (&'static str, fn(&Row) -> Option<String>);
    let columns: [Column; 11] = [
        ("engine", |row| row.engine.clone()),
        ("engine_mode", |row| row.engine_mode.clone()),
        ("engine_version", |row| row.engine_version.clone()),
        ("runner_version", |row| row.runner_version.clone()),
        ("device", |row| row.device.clone()),
        ("driver", |row| row.driver.clone()),
        ("cuda", |row| row.cuda.clone()),
        ("cpu", |row| row.cpu.clone()),
        ("threads", |row| {
            row.threads.map(|threads| threads.to_string())
        }),
        ("node", |row| row.node.clone()),
        ("image_digest", |row| row.image_digest.clone()),
    ];
    columns
        .into_iter()
        .filter_map(|(column, value)| {
            let mut counts: BTreeMap<Option<String>, u32> = BTreeMap::new();
            for row in latest
                .iter()
                .filter(|row| row.outcome == Some(Outcome::Succeeded))
            {
                *counts.entry(value(row)).or_default() += 1;
            }
            if counts.keys().all(Option::is_none) {
                return None;
            }
            let mut values: Vec<ProvenanceValue> = counts
                .into_iter()
                .map(|(value, trials)| ProvenanceValue { value, trials })
                .collect();
            values.sort_by_key(|value| std::cmp::Reverse(value.trials));
            Some(Provenance {
                column: column.into(),
                values,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use inferbench_crds::splitmix::SplitMix64;

    use super::*;
    use crate::{
        fixtures::Sweep,
        sample::{combine, latest_attempts},
    };

    /// In how many of 1,000 sweeps a drift is flagged, whose times grow by this factor from the first trial to the
    /// last; every block in an order of its own.
    fn flagged(replicates: u32, growth: f64) -> usize {
        let metric = Metric::named("ttltMs").unwrap();
        let flagged = |seed: &u64| {
            let mut rows = Sweep {
                inputs: &[16],
                gpus: &[1],
                replicates,
                noise: 0.1,
                seed: *seed,
                ..Sweep::default()
            }
            .rows(|_| 1.0);
            let block = rows.len() / replicates as usize;
            let mut random = SplitMix64::new(*seed);
            let mut places: Vec<u32> = (0..rows.len() as u32).collect();
            for block in places.chunks_mut(block) {
                random.shuffle(block);
            }
            let last = rows.len() as f64;
            for (row, place) in rows.iter_mut().zip(places) {
                row.run_order = place;
                let factor = growth.powf(f64::from(place) / last);
                row.mean_ttlt_ms = row.mean_ttlt_ms.map(|ms| ms * factor);
            }
            let latest = latest_attempts(&rows);
            let combinations = combine(&latest);
            drifting(metric, &deviations(&combinations, metric)).is_some_and(|drift| drift.flagged)
        };
        (0..1000).filter(flagged).count()
    }

    #[test]
    fn a_drift_is_flagged_where_there_is_one_and_hardly_ever_else() {
        for replicates in [2, 3, 10] {
            let (without, with) = (flagged(replicates, 1.0), flagged(replicates, 1.5));
            // 1% in the long run; 20 of 1,000 are as many as hardly ever come.
            assert!(without <= 20, "{replicates} blocks: {without} of 1000");
            assert!(with > 900, "{replicates} blocks: {with} of 1000");
        }
    }

    #[test]
    fn gpus_that_do_nothing_are_counted() {
        let mut rows = Sweep::default().rows(|_| 1.0);
        for row in &mut rows {
            row.gpus_active = Some(row.gpus);
        }
        let judged = |rows: &[Row]| {
            let latest = latest_attempts(rows);
            judge(&Counts::default(), &latest, &combine(&latest)).idle_gpus
        };
        assert_eq!(judged(&rows), 0);
        for row in rows.iter_mut().filter(|row| row.gpus == 2).take(3) {
            row.gpus_active = Some(1);
        }
        assert_eq!(judged(&rows), 3);
        // Where nobody told, nothing is said.
        rows.iter_mut().for_each(|row| row.gpus_active = None);
        assert_eq!(judged(&rows), 0);
    }

    #[test]
    fn reasons_are_told_apart_by_their_words() {
        assert_eq!(
            without_figures("the hypervisor gave 12.3 % of the CPU time to others (at most 5 %)"),
            "the hypervisor gave # % of the CPU time to others (at most # %)"
        );
        assert_eq!(without_figures("GPU 1 failed."), "GPU # failed.");
        assert_eq!(without_figures(""), "");
    }

    #[test]
    fn most_numbers_alike_say_nothing_of_the_others() {
        assert_eq!(modified_z(&[0.0, 0.0, 0.0, 9.0]), None);
        let z = modified_z(&[1.0, -1.0, 2.0, -2.0, 30.0]).unwrap();
        assert!((z[4] - 0.6745 * 15.0).abs() < 1e-12);
    }
}

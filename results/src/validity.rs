//! The basis of a sweep's figures: how many trials are valid, why the others are not, and what to do about it.

use std::collections::{BTreeMap, BTreeSet};

use inferbench_crds::outcome::Outcome;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    analysis::trust::{reasons, reasons_of, reasons_unmeasured, why_unmeasured, without_figures},
    numbers,
    row::Row,
    sample::{is_invalid, is_valid, latest_attempts},
};

/// Stands behind values of trials that cannot be vouched for.
pub const MARK: &str = "†";

/// The basis of figures.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Basis {
    /// Trials that were measured and are valid: all figures go over these.
    pub valid: u32,
    /// Trials that were measured and cannot be vouched for.
    pub invalid: u32,
    /// The most frequent reason; absent where none is invalid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_reason: Option<MainReason>,
    /// Trials that have ended without a measurement: memory or time did not suffice, they can never run, or they failed.
    #[serde(default, skip_serializing_if = "crate::counts::is_zero")]
    pub unmeasured: u32,
    /// The most frequent reason of these, with the figures of the first; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmeasured_reason: Option<MainReason>,
}

/// The most frequent reason for which trials are invalid, or have no measurement.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MainReason {
    /// The reason.
    pub reason: String,
    /// Trials that have it.
    pub trials: u32,
    /// The remedy.
    pub remedy: String,
}

/// A reason as records have it begins or contains this; what it is called, and the remedy.
const KNOWN: &[(&str, &str, &str)] = &[
    (
        "other processes took",
        "other processes took CPU time that was needed",
        "end them, or wait until they are done; in a cluster give trials whole CPUs (Guaranteed pods, static CPU manager)",
    ),
    (
        "the CPU quota stopped",
        "the CPU quota stopped the process",
        "ask for whole CPUs, requests and limits alike",
    ),
    (
        "the hypervisor gave",
        "the hypervisor gave CPU time to others",
        "use a machine whose CPUs are not shared",
    ),
    (
        "other processes used GPU",
        "other processes used the GPUs",
        "keep the GPUs for the trials alone",
    ),
    (
        "other trials ran",
        "other trials ran on the same machine",
        "forbid it: execution.colocation: Forbid, or a parallelism of 1",
    ),
    (
        "samples of telemetry",
        "there were too few samples of telemetry",
        "measure longer: measurement.minDuration",
    ),
    (
        "were timed",
        "the timed window was too short",
        "raise execution.trialTimeout, or ask for fewer iterations",
    ),
    (
        "the GPUs could not be watched",
        "the GPUs could not be watched",
        "give the container the driver's utilities, as NVIDIA's container toolkit does",
    ),
    (
        "the logits are not all finite",
        "the logits are not all finite numbers",
        "try dtype f32: if they are not finite there either, the weights are broken",
    ),
    (
        "the client sent late",
        "the client was late itself",
        "leave CPUs to the client: fewer threads for the server, or a lower load",
    ),
    (
        "the client read late",
        "the client was late itself",
        "leave CPUs to the client: fewer threads for the server, or a lower load",
    ),
    (
        "the client's thread computed",
        "the client was late itself",
        "leave CPUs to the client: fewer threads for the server, or a lower load",
    ),
    (
        "tokens where",
        "the server read or wrote other numbers of tokens than it was asked to",
        "see docs/engines.md on exact lengths: the request's fields for them, and prompts as token ids",
    ),
    (
        "did not say of every event",
        "the server did not say how many tokens its events brought",
        "give the engine's interface another counting, or let it count: see docs/engines.md",
    ),
    (
        "more than one process",
        "the server was restarted, or several answer at its address",
        "ask one server directly, and see its log for why it ended",
    ),
    (
        "prefix cache",
        "the server's prefix cache was at work",
        "switch it off among the server's arguments",
    ),
    (
        "requests failed",
        "requests failed",
        "see the server's log, which server.keepLog keeps",
    ),
];

impl Basis {
    /// The basis of figures of these rows: the latest attempt at each trial.
    #[must_use]
    pub fn of(rows: &[Row]) -> Self {
        Self::of_latest(&latest_attempts(rows))
    }

    pub(crate) fn of_latest(latest: &[&Row]) -> Self {
        let count = |holds: fn(&Row) -> bool| latest.iter().filter(|row| holds(row)).count() as u32;
        // Of each name that a reason is known by, the trials that have any such.
        let mut trials: BTreeMap<String, u32> = BTreeMap::new();
        for row in latest.iter().filter(|row| is_invalid(row)) {
            let names = reasons_of(row).map(|reason| told(&without_figures(reason)).0);
            for name in names.collect::<BTreeSet<String>>() {
                *trials.entry(name).or_default() += 1;
            }
        }
        // Of equals the one whose reasons come first.
        let mut main_reason: Option<MainReason> = None;
        for reason in reasons(latest) {
            let (reason, remedy) = told(&reason.kind);
            let trials = trials.get(&reason).copied().unwrap_or_default();
            if main_reason.as_ref().is_none_or(|of| trials > of.trials) {
                main_reason = Some(MainReason {
                    reason,
                    trials,
                    remedy: remedy.into(),
                });
            }
        }
        Self {
            valid: count(is_valid),
            invalid: count(is_invalid),
            main_reason,
            unmeasured: count(|row| why_unmeasured(row).is_some()),
            unmeasured_reason: unmeasured_reason(latest),
        }
    }

    /// How many trials are invalid, the main reason and the remedy, in a sentence or two; none where all are valid.
    #[must_use]
    pub fn headline(&self) -> Option<String> {
        if self.invalid == 0 {
            return None;
        }
        let measured = self.valid + self.invalid;
        let mut said = format!(
            "{} of {} measured {} cannot be vouched for",
            numbers::count(self.invalid),
            numbers::count(measured),
            if measured == 1 { "trial" } else { "trials" },
        );
        if let Some(MainReason {
            reason,
            trials,
            remedy,
        }) = &self.main_reason
        {
            let mostly = if *trials == self.invalid {
                "because"
            } else {
                "mostly because"
            };
            said += &format!(", {mostly} {reason}. What to do: {remedy}");
        }
        Some(said + ".")
    }

    /// How many trials have ended without a measurement, the most frequent reason and the remedy; none where all have one.
    #[must_use]
    pub fn unmeasured_headline(&self) -> Option<String> {
        let MainReason {
            reason,
            trials,
            remedy,
        } = self.unmeasured_reason.as_ref()?;
        let has = if self.unmeasured == 1 { "has" } else { "have" };
        let these = if *trials == self.unmeasured {
            String::new()
        } else {
            format!("{trials} of them ")
        };
        Some(format!(
            "{} {has} no measurement, {these}for this reason: {reason}. What to do: {remedy}.",
            numbers::counted(self.unmeasured, "trial")
        ))
    }
}

/// The most frequent reason for which trials have ended without a measurement, in the words of the first that has it. Of
/// failures, each of which is told where it happens, only where there is no other.
fn unmeasured_reason(latest: &[&Row]) -> Option<MainReason> {
    let first_of = |rows: &[&Row]| reasons_unmeasured(rows).into_iter().next();
    let others = latest.iter().copied();
    let others: Vec<&Row> = others
        .filter(|row| row.outcome != Some(Outcome::Failed))
        .collect();
    let main = first_of(&others).or_else(|| first_of(latest))?;
    let mut rows = latest.iter();
    let first = rows.find(|row| row.trial_index == main.example_trial)?;
    let reason: String = main.example.chars().take(LONGEST_REASON).collect();
    Some(MainReason {
        remedy: remedy_of(first.outcome?, &main.example).into(),
        reason: reason.trim_end_matches('.').into(),
        trials: main.trials,
    })
}

/// The remedy for a trial that ended so, without a measurement, with this message.
#[must_use]
pub fn remedy_of(outcome: Outcome, message: &str) -> &'static str {
    match outcome {
        Outcome::OutOfMemory if OF_GPUS.iter().any(|words| message.contains(words)) => {
            "use more GPUs or larger ones, or lower batchSize, concurrency or lengths"
        }
        Outcome::OutOfMemory => {
            "give it more memory (runner.resources.limits.memory), or lower batchSize, concurrency or lengths"
        }
        Outcome::TimedOut => "raise execution.trialTimeout, or measure for a shorter time",
        Outcome::Unsupported => "leave such combinations out by design.exclude, or let them be",
        Outcome::Failed => "see the operator's log, or failures.json of a sweep on one machine",
        Outcome::Succeeded | Outcome::NotNeeded => "nothing",
    }
}

/// Words of messages about the memory of GPUs.
const OF_GPUS: &[&str] = &[
    "GPU",
    "CUDA",
    "cuda",
    "CUBLAS",
    "HIP",
    "KV cache memory",
    "cache blocks",
];

/// The remedy for a reason as records have it; none of one that is not known.
#[must_use]
pub fn remedy(reason: &str) -> Option<&'static str> {
    known(reason).map(|(.., remedy)| remedy)
}

fn known(reason: &str) -> Option<(&'static str, &'static str, &'static str)> {
    let mut known = KNOWN.iter().copied();
    known.find(|(part, ..)| reason.contains(part))
}

/// A reason in words for people, and its remedy.
fn told(kind: &str) -> (String, &'static str) {
    match known(kind) {
        Some((_, said, remedy)) => (said.into(), remedy),
        None => {
            // Limits in brackets are no part of the reason.
            let said = kind.split(" (").next().unwrap_or(kind);
            let said: String = said.chars().take(LONGEST_REASON).collect();
            (said, "see invalid_reasons in trials.csv")
        }
    }
}

const LONGEST_REASON: usize = 120;

/// The trials whose mean stands for a combination: the valid ones or, where there are none, those that were measured
/// and cannot be vouched for. These are to be marked, and are never mixed with valid ones.
#[must_use]
pub fn standing_for<'a>(trials: &[&'a Row]) -> (Vec<&'a Row>, bool) {
    let all = |holds: fn(&Row) -> bool| -> Vec<&Row> {
        trials.iter().copied().filter(|row| holds(row)).collect()
    };
    let valid = all(is_valid);
    if valid.is_empty() {
        let invalid = all(is_invalid);
        let marked = !invalid.is_empty();
        (invalid, marked)
    } else {
        (valid, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn rows(reasons: &[&str]) -> Vec<Row> {
        let row = |(at, reason): (u32, &&str)| Row {
            trial_index: at,
            valid: Some(reason.is_empty()),
            invalid_reasons: (!reason.is_empty()).then(|| (*reason).to_owned()),
            ..Row::of(&fixtures::record())
        };
        (0..).zip(reasons).map(row).collect()
    }

    #[test]
    fn the_main_reason_comes_with_its_remedy() {
        let busy = "other processes took 30.0 % of the CPU time that was needed (at most 10 %)";
        let busier = "other processes took 31.5 % of the CPU time that was needed (at most 10 %); 2 s were timed, 3 s were asked for";
        let basis = Basis::of(&rows(&[
            busy,
            busier,
            "",
            "something of 3 others (at most 2)",
        ]));
        assert_eq!((basis.valid, basis.invalid), (1, 3));
        assert_eq!(
            basis.headline().unwrap(),
            "3 of 4 measured trials cannot be vouched for, mostly because other processes took CPU time that was needed. \
             What to do: end them, or wait until they are done; in a cluster give trials whole CPUs (Guaranteed pods, static \
             CPU manager)."
        );
        // Two reasons of one name are one reason of a trial.
        let late = "the client sent late: 1 % of the requests left more than 3.6 ms late; the client read late: 1 %";
        let both = format!("{busy}; {late}");
        let basis = Basis::of(&rows(&[&both, busy]));
        let main = basis.main_reason.unwrap();
        assert_eq!((main.trials, &main.reason[..15]), (2, "other processes"));
        // Of two names that are equally frequent, the one whose reasons come first: the most frequent, then by their words.
        let cached = "the server's prefix cache was at work";
        let late = "the client sent late: 1 %";
        let of = |reasons: &[&str]| Basis::of(&rows(reasons)).main_reason.unwrap().reason;
        assert_eq!(of(&[cached, late]), "the client was late itself");
        let read = "the client read late: 1 %";
        assert_eq!(
            of(&[late, read, cached, cached]),
            "the server's prefix cache was at work"
        );
        let other = Basis::of(&rows(&["something of 3 others (at most 2)"]));
        assert_eq!(
            other.headline().unwrap(),
            "1 of 1 measured trial cannot be vouched for, because something of # others. What to do: see invalid_reasons in \
             trials.csv."
        );
        assert_eq!(Basis::of(&rows(&["", ""])).headline(), None);
        assert_eq!(Basis::of(&[]), Basis::default());
    }

    /// Rows of trials that ended so, each with its message.
    fn unmeasured(ended: &[(Outcome, Option<&str>)]) -> Vec<Row> {
        let row = |(at, (outcome, message)): (u32, &(Outcome, Option<&str>))| Row {
            trial_index: at,
            outcome: Some(*outcome),
            message: message.map(str::to_owned),
            started_at: None,
            process_id: None,
            ..Row::of(&fixtures::record())
        };
        (0..).zip(ended).map(row).collect()
    }

    #[test]
    fn why_trials_have_no_measurement_comes_with_its_remedy() {
        use Outcome::{NotNeeded, OutOfMemory, Succeeded, Unsupported};
        let headline =
            |ended: &[(Outcome, Option<&str>)]| Basis::of(&unmeasured(ended)).unmeasured_headline();
        assert_eq!(headline(&[(Succeeded, None), (NotNeeded, None)]), None);
        // What differs in its figures is one reason.
        assert_eq!(
            headline(&[
                (Unsupported, Some("12 heads do not divide by 5")),
                (OutOfMemory, Some("about 812 MiB needed, 512 MiB available")),
                (OutOfMemory, Some("about 999 MiB needed, 512 MiB available")),
                (Succeeded, None),
            ])
            .unwrap(),
            "3 trials have no measurement, 2 of them for this reason: about 812 MiB needed, 512 MiB available. What to do: give \
             it more memory (runner.resources.limits.memory), or lower batchSize, concurrency or lengths."
        );
        assert_eq!(
            headline(&[(OutOfMemory, Some("vllm: CUDA out of memory."))]).unwrap(),
            "1 trial has no measurement, for this reason: vllm: CUDA out of memory. What to do: use more GPUs or larger ones, \
             or lower batchSize, concurrency or lengths."
        );
        // Without a record there is the outcome alone.
        let said = headline(&[(OutOfMemory, None)]).unwrap();
        assert!(
            said.contains("its pod was killed for want of memory"),
            "{said}"
        );
        assert!(said.contains("runner.resources.limits.memory"), "{said}");
        // With one, in a table that has no messages yet, nothing is known.
        let mut rows = unmeasured(&[(OutOfMemory, None)]);
        rows[0].process_id = Some("p".into());
        let said = Basis::of(&rows).unmeasured_headline().unwrap();
        assert!(said.contains("the table does not say why"), "{said}");
        // What failed was told already.
        let said = headline(&[
            (Outcome::Failed, Some("a")),
            (Outcome::Failed, Some("a")),
            (Unsupported, Some("12 heads")),
        ]);
        assert!(
            said.unwrap()
                .contains("1 of them for this reason: 12 heads.")
        );
        let said = headline(&[(Outcome::Failed, Some("it broke"))]).unwrap();
        assert!(said.contains("it broke"), "{said}");
    }

    #[test]
    fn invalid_trials_stand_for_a_combination_only_alone() {
        let rows = rows(&["x", "", "y"]);
        let all: Vec<&Row> = rows.iter().collect();
        assert_eq!(standing_for(&all), (vec![&rows[1]], false));
        assert_eq!(
            standing_for(&[&rows[0], &rows[2]]),
            (vec![&rows[0], &rows[2]], true)
        );
        assert_eq!(standing_for(&[]), (vec![], false));
    }
}

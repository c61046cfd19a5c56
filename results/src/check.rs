//! Whether a stored document is the record that it claims to be: nothing half-written, mislabelled or impossible is
//! ever read as a result.

use std::fmt;

use inferbench_crds::{design::Load, search::Searched};
use jiff::Timestamp;

use crate::{
    key::trial_key,
    record::{Outcome, RequestTimes, Requests, SCHEMA_VERSION, SequenceTimes, TrialRecord},
    record_v1,
};

/// Why a document is no record of the trial it is stored for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotARecord(Vec<String>);

impl NotARecord {
    /// Every problem, at least one.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for NotARecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for NotARecord {}

impl TrialRecord {
    /// Reads the document stored under a trial's key; one of a former version is converted to this one.
    ///
    /// # Errors
    /// Where it is no JSON, is cut short, lacks a member, carries another key or fails [`TrialRecord::check`].
    pub fn read(key: &str, document: &[u8]) -> Result<Self, NotARecord> {
        let record = record_v1::upgraded(document)
            .unwrap_or_else(|| serde_json::from_slice(document))
            .map_err(|error| {
                NotARecord(vec![format!(
                    "{} bytes are no complete record: {error}",
                    document.len()
                )])
            })?;
        if record.trial_key != key {
            return Err(NotARecord(vec![format!(
                "trialKey: {:?} is stored as {key:?}",
                record.trial_key
            )]));
        }
        record.check().map(|()| record)
    }

    /// The document to store.
    ///
    /// # Errors
    /// Where it would not read back as a result, see [`TrialRecord::check`].
    pub fn write(&self) -> Result<Vec<u8>, NotARecord> {
        self.check()?;
        serde_json::to_vec(self).map_err(|error| NotARecord(vec![error.to_string()]))
    }

    /// Whether the record can be what it says: schema and key, token counts and lengths, times in order, a window that
    /// holds its requests, finite numbers, and a verdict that agrees with what ran.
    ///
    /// # Errors
    /// Every problem at once, each with the member's path, its value and what is allowed.
    pub fn check(&self) -> Result<(), NotARecord> {
        let mut problems = Problems::default();
        self.check_identity(&mut problems);
        self.check_verdict(&mut problems);
        self.check_iterations(&mut problems);
        self.check_requests(&mut problems);
        self.check_capacity(&mut problems);
        self.check_effective(&mut problems);
        self.check_numbers(&mut problems);
        if problems.0.is_empty() {
            Ok(())
        } else {
            Err(NotARecord(problems.0))
        }
    }

    fn check_identity(&self, problems: &mut Problems) {
        problems.unless(self.schema_version == SCHEMA_VERSION, || {
            format!(
                "schemaVersion: {:?} is not {SCHEMA_VERSION:?}",
                self.schema_version
            )
        });
        let key = trial_key(&self.request, self.attempt);
        problems.unless(self.trial_key == key, || {
            format!(
                "trialKey: {:?} is not {key:?}, the key of request and attempt",
                self.trial_key
            )
        });
        for (member, time) in [("startedAt", &self.started_at), ("endedAt", &self.ended_at)] {
            problems.unless(time.parse::<Timestamp>().is_ok(), || {
                format!("{member}: {time:?} is no RFC 3339 time")
            });
        }
    }

    fn check_verdict(&self, problems: &mut Problems) {
        problems.unless(self.valid == self.invalid_reasons.is_empty(), || {
            format!(
                "valid: {} with {} invalidReasons",
                self.valid,
                self.invalid_reasons.len()
            )
        });
        let succeeded = self.outcome == Outcome::Succeeded;
        problems.unless(self.outcome != Outcome::NotNeeded, || {
            "outcome: NotNeeded, yet there is a record".into()
        });
        problems.unless(
            succeeded
                || self
                    .message
                    .as_ref()
                    .is_some_and(|message| !message.is_empty()),
            || format!("message: absent, yet the outcome is {:?}", self.outcome),
        );
        problems.unless(!succeeded || self.effective.is_some(), || {
            "effective: absent, yet it Succeeded".into()
        });
        let load = self.request.combination.load();
        // A search says in its steps how many of the requests failed.
        let least = if self.valid && !matches!(load, Load::Search(_)) {
            self.request.measurement.iterations.max(1) as usize
        } else {
            1
        };
        let batches = matches!(load, Load::Batch(_));
        let (member, measured) = match &self.requests {
            Some(of) => ("requests.requests without an error", of.answered().count()),
            None => ("iterations", self.iterations.len()),
        };
        problems.unless(!succeeded || measured >= least, || {
            format!("{member}: {measured} of at least {least}")
        });
        problems.unless(batches || self.iterations.is_empty(), || {
            "iterations: there, yet requests came one by one".into()
        });
        problems.unless(!batches || self.requests.is_none(), || {
            "requests: there, yet they came in batches".into()
        });
    }

    fn check_iterations(&self, problems: &mut Problems) {
        let asked = &self.request.combination;
        let output_len = asked.output_length as usize;
        let ran = self.effective.as_ref().map(|ran| ran.batch_size);
        let batch_size = u64::from(ran.unwrap_or(asked.batch_size));
        for (at, iteration) in self.iterations.iter().enumerate() {
            let sequences = &iteration.sequences;
            let counted: u64 = sequences.iter().map(|times| u64::from(times.count)).sum();
            let all_count = sequences.iter().all(|times| times.count > 0);
            problems.unless(counted == batch_size && all_count, || {
                format!("iterations[{at}].sequences: {counted} instead of {batch_size}, each at least once")
            });
            for (group, SequenceTimes { token_ms, .. }) in sequences.iter().enumerate() {
                let member = || format!("iterations[{at}].sequences[{group}].tokenMs");
                problems.unless(token_ms.len() == output_len, || {
                    format!(
                        "{}: {} tokens instead of {output_len}",
                        member(),
                        token_ms.len()
                    )
                });
                problems.unless(token_ms.iter().all(|ms| ms.is_finite()), || {
                    format!("{}: not all finite", member())
                });
                problems.unless(
                    token_ms.first().is_none_or(|first| *first > 0.0) && token_ms.is_sorted(),
                    || format!("{}: not positive and in order", member()),
                );
            }
        }
    }

    fn check_requests(&self, problems: &mut Problems) {
        let Some(of) = &self.requests else { return };
        problems.unless(of.window_s.is_finite() && of.window_s > 0.0, || {
            format!("requests.windowS: {} is no length above 0", of.window_s)
        });
        problems.unless(Requests::COUNTINGS.contains(&of.counting.as_str()), || {
            let allowed = Requests::COUNTINGS.join(", ");
            format!("requests.counting: {:?} is none of {allowed}", of.counting)
        });
        let load = self.request.combination.load();
        let is_rate = match load {
            Load::Rate(_) => true,
            Load::Search(search) => search.factor == Searched::RequestRate,
            Load::Batch(_) | Load::Concurrency(_) => false,
        };
        problems.unless(of.saturated.is_none() || is_rate, || {
            "requests.saturated: there, yet the load is no request rate".into()
        });
        let streams = match load {
            Load::Concurrency(streams) => Some(streams),
            Load::Search(search) if !is_rate => Some(search.to.get() as u32),
            _ => None,
        };
        if let Some(streams) = streams {
            problems.unless(of.max_in_flight <= streams, || {
                format!("requests.maxInFlight: {} of {streams}", of.max_in_flight)
            });
        }
        let mut last = i64::MIN;
        for (at, request) in of.requests.iter().enumerate() {
            let member = format!("requests.requests[{at}]");
            let intended = request.intended_unix_ns;
            problems.unless(intended >= last, || {
                format!("{member}.intendedUnixNs: {intended} is before the one before it")
            });
            last = intended;
            let (into_ms, window_ms) = (of.into_window_ms(intended), of.window_s * 1e3);
            problems.unless(
                (-BORDER_MS..=window_ms + BORDER_MS).contains(&into_ms),
                || format!("{member}.intendedUnixNs: {into_ms} ms into a window of {window_ms} ms"),
            );
            self.check_request(&member, request, problems);
        }
        // Listed requests are part of all that came; borders are left out, for they are rounded.
        let before_end = |request: &RequestTimes, ms: f64| {
            of.into_window_ms(request.intended_unix_ns) + ms < of.window_s * 1e3 - BORDER_MS
        };
        let requests = || of.requests.iter();
        let tokens = requests().map(|request| {
            let times = request.token_ms.iter();
            times.filter(|ms| before_end(request, **ms)).count() as u64
        });
        let tokens: u64 = tokens.sum();
        problems.unless(of.window_output_tokens >= tokens, || {
            format!(
                "requests.windowOutputTokens: {}, yet {tokens} of the listed requests came in it",
                of.window_output_tokens
            )
        });
        let completed = requests()
            .filter(|request| request.e2e_ms().is_some_and(|ms| before_end(request, ms)))
            .count();
        problems.unless(of.window_completed as usize >= completed, || {
            format!(
                "requests.windowCompleted: {}, yet {completed} of the listed requests ended in it",
                of.window_completed
            )
        });
    }

    /// A trial that searched has a bracket, whose ends are loads that its steps tested so.
    fn check_capacity(&self, problems: &mut Problems) {
        let search = match (self.request.combination.load(), &self.capacity) {
            (Load::Search(search), _) => search,
            (_, None) => return,
            (_, Some(_)) => {
                problems.unless(false, || {
                    "capacity: there, yet the load was not searched".into()
                });
                return;
            }
        };
        let Some(found) = &self.capacity else {
            problems.unless(self.outcome != Outcome::Succeeded, || {
                "capacity: absent, yet the load was searched and it Succeeded".into()
            });
            return;
        };
        problems.unless(found.factor == search.factor, || {
            format!(
                "capacity.factor: {} instead of {}",
                found.factor, search.factor
            )
        });
        problems.unless(!found.steps.is_empty(), || "capacity.steps: none".into());
        let (from, to) = (search.from.get(), search.to.get());
        for (at, step) in found.steps.iter().enumerate() {
            problems.unless((from..=to).contains(&step.load), || {
                format!(
                    "capacity.steps[{at}].load: {} is not from {from} to {to}",
                    step.load
                )
            });
            problems.unless(
                step.kept.saturating_add(step.errors) <= step.requests,
                || {
                    format!(
                        "capacity.steps[{at}]: {} kept and {} errors of {} requests",
                        step.kept, step.errors, step.requests
                    )
                },
            );
            problems.unless(step.held == step.why.is_none(), || {
                format!("capacity.steps[{at}].why: held is {}", step.held)
            });
        }
        let tests = |load: f64, held: bool| {
            let steps = found.steps.iter();
            steps
                .filter(|step| step.load == load && step.held == held)
                .count()
        };
        for (member, end, held) in [("low", found.low, true), ("high", found.high, false)] {
            let Some(end) = end else { continue };
            let counted = [tests(end.load, true), tests(end.load, false)];
            let told = [end.held, end.failed].map(|count| count as usize);
            let most = if held {
                told[0] > told[1]
            } else {
                told[1] > told[0]
            };
            problems.unless(counted == told && most, || {
                format!("capacity.{member}: {end:?}, yet its tests are {counted:?}")
            });
        }
        if let (Some(low), Some(high)) = (found.low, found.high) {
            problems.unless(low.load < high.load, || {
                format!(
                    "capacity.low: {} is not below high, {}",
                    low.load, high.load
                )
            });
        }
    }

    fn check_request(&self, member: &str, request: &RequestTimes, problems: &mut Problems) {
        let asked = &self.request.combination;
        let (output_len, tokens) = (asked.output_length as usize, request.token_ms.len());
        match &request.error {
            None => problems.unless(tokens == output_len, || {
                format!("{member}.tokenMs: {tokens} tokens instead of {output_len}")
            }),
            Some(error) => {
                problems.unless(!error.is_empty(), || format!("{member}.error: empty"));
                problems.unless(tokens <= output_len, || {
                    format!("{member}.tokenMs: {tokens} tokens of at most {output_len}")
                });
            }
        }
        problems.unless(request.error.is_some() || request.sent_ms.is_some(), || {
            format!("{member}.sentMs: absent, yet it did not fail")
        });
        problems.unless(request.sent_ms.is_none_or(|sent| sent >= 0.0), || {
            format!("{member}.sentMs: {:?} is before 0", request.sent_ms)
        });
        let times = &request.token_ms;
        problems.unless(times.iter().all(|ms| ms.is_finite()), || {
            format!("{member}.tokenMs: not all finite")
        });
        let sent = request.sent_ms.unwrap_or(0.0);
        let follows = |first: &f64| *first > 0.0 && *first >= sent;
        problems.unless(
            times.first().is_none_or(follows) && times.is_sorted(),
            || format!("{member}.tokenMs: not after sentMs and in order"),
        );
        let served = request.input_tokens;
        problems.unless(
            !self.valid || served.is_none_or(|served| served == asked.input_length),
            || {
                format!(
                    "{member}.inputTokens: {} instead of {}",
                    served.unwrap_or_default(),
                    asked.input_length
                )
            },
        );
        let cached = request.cached_tokens.unwrap_or(0);
        problems.unless(cached <= served.unwrap_or(cached), || {
            format!("{member}.cachedTokens: {cached} is more than its inputTokens")
        });
    }

    /// A valid record ran what was asked; an invalid one may say what else ran.
    fn check_effective(&self, problems: &mut Problems) {
        let Some(ran) = self.effective.as_ref().filter(|_| self.valid) else {
            return;
        };
        let asked = &self.request.combination;
        let dtype = asked.dtype.name();
        // A server may take weights as they are stored, and says so.
        let as_stored = asked.engine.takes_requests();
        problems.unless(as_stored || ran.dtype == dtype, || {
            format!("effective.dtype: {:?} ran instead of {dtype:?}", ran.dtype)
        });
        for (member, ran, asked) in [
            ("batchSize", ran.batch_size, asked.batch_size),
            ("inputLen", ran.input_len, asked.input_length),
            ("outputLen", ran.output_len, asked.output_length),
            ("gpus", ran.gpus, asked.gpus),
        ] {
            problems.unless(ran == asked, || {
                format!("effective.{member}: {ran} ran instead of {asked}")
            });
        }
    }

    /// Optional numbers may be absent, and JSON has no infinities; the required ones would be stored as null.
    fn check_numbers(&self, problems: &mut Problems) {
        let mut numbers = Vec::new();
        if let Some(effective) = &self.effective {
            numbers.push(("effective.modelLoadS", effective.model_load_s));
        }
        if let Some(warmup) = &self.warmup {
            numbers.push(("warmup.durationS", warmup.duration_s));
            numbers.push((
                "warmup.firstIterationTtftMs",
                warmup.first_iteration_ttft_ms,
            ));
        }
        if let Some(roofline) = &self.roofline {
            numbers.push((
                "roofline.bandwidthBytesPerS",
                roofline.bandwidth_bytes_per_s,
            ));
            numbers.push(("roofline.matrixFlopsPerS", roofline.matrix_flops_per_s));
        }
        if let Some(quality) = &self.quality {
            // A likelihood's logarithm is not positive.
            numbers.push(("quality.-meanLogLikelihood", -quality.mean_log_likelihood));
            numbers.push(("quality.perplexity", quality.perplexity));
            numbers.push((
                "quality.1+promptSimilarity",
                1.0 + quality.prompt_similarity,
            ));
        }
        for (member, number) in numbers {
            problems.unless(number.is_finite() && number >= 0.0, || {
                format!("{member}: {number} is not a finite number of at least 0")
            });
        }
    }
}

/// Times at the border of a window may be off by this much, for they are rounded.
const BORDER_MS: f64 = 1.0;

#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn unless(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push(problem());
        }
    }
}

#[cfg(test)]
mod tests;

//! The evidence of a trial's requests: whether they can be vouched for, and how late the client was that made them.

use std::time::Duration;

use inferbench_crds::engine::Counting;
use inferbench_results::record::{Client, Requests, ServerMetrics};

use crate::{
    backend::Served,
    load::{Exchange, Lag, lag::Typical},
};

/// The share of failed requests beyond which a trial cannot be vouched for.
const MAX_ERROR_SHARE: f64 = 0.01;
/// The share of input tokens that a prefix cache which is off may seem to have found.
const MAX_CACHED_SHARE: f64 = 0.01;
/// Input tokens, and their share, by which a server's count of a text may differ from ours: it may put a token before
/// the text, and where a text is cut, two tokens may have become one.
const TEXT_SLACK: (u64, f64) = (2, 0.02);

/// The results of a load that went to a server as requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// The requests of a load that does not come in batches.
    pub requests: Option<Requests>,
    /// How late the client was.
    pub client: Client,
    /// Why what was measured cannot be vouched for, as far as the requests tell.
    pub objections: Vec<String>,
}

/// The properties that every request is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Input tokens.
    pub input: usize,
    /// Output tokens.
    pub output: usize,
    /// Whether they are meant to find a part of their prompts in a prefix cache.
    pub prefix_cache: bool,
    /// Whether their prompts are texts, whose tokens the server counts by itself.
    pub texts: bool,
}

/// The lags and objections of batches that went to a server as requests; nothing of batches that did not.
#[derive(Debug, Default)]
pub struct Batches {
    lags: Vec<Lag>,
    objections: Vec<String>,
}

impl Batches {
    /// A timed batch.
    pub fn add(&mut self, served: &Served, wanted: &Wanted, counting: Option<Counting>) {
        let Some(lag) = served.lag else { return };
        self.lags.push(lag);
        let exchanges: Vec<&Exchange> = served.exchanges.iter().collect();
        for objection in objections(&exchanges, wanted, counting, &lag) {
            // One of a kind is enough; figures differ.
            let kind = |text: &str| {
                text.split(|c: char| c.is_ascii_digit())
                    .next()
                    .map(str::to_owned)
            };
            if !self
                .objections
                .iter()
                .any(|known| kind(known) == kind(&objection))
            {
                self.objections.push(objection);
            }
        }
    }

    /// All batches together: the worst quantiles of any, and the sums.
    #[must_use]
    pub fn finish(self) -> Option<Asked> {
        if self.lags.is_empty() {
            return None;
        }
        let worst = |of: fn(&Lag) -> Duration| self.lags.iter().map(of).max().unwrap_or_default();
        let sum = |of: fn(&Lag) -> Duration| self.lags.iter().map(of).sum();
        let mut all = Lag {
            cpu: sum(|lag| lag.cpu),
            wall: sum(|lag| lag.wall),
            ..Lag::default()
        };
        all.send.p50 = worst(|lag| lag.send.p50);
        all.send.p99 = worst(|lag| lag.send.p99);
        all.send.max = worst(|lag| lag.send.max);
        all.stamp.p99 = worst(|lag| lag.stamp.p99);
        Some(Asked {
            requests: None,
            client: client(&all),
            objections: self.objections,
        })
    }
}

/// Why requests cannot be vouched for: empty where they can.
#[must_use]
pub fn objections(
    inside: &[&Exchange],
    wanted: &Wanted,
    counting: Option<Counting>,
    lag: &Lag,
) -> Vec<String> {
    let all = failures(inside).into_iter();
    all.chain(doubts(inside, wanted, counting, lag)).collect()
}

/// Why requests cannot be vouched for where too many of them failed.
#[must_use]
pub fn failures(inside: &[&Exchange]) -> Option<String> {
    let all = inside.len();
    let failed: Vec<_> = inside
        .iter()
        .filter_map(|exchange| exchange.error.as_ref())
        .collect();
    let first = failed.first()?;
    (failed.len() as f64 > MAX_ERROR_SHARE * all as f64).then(|| {
        format!(
            "{} of {all} requests failed, the first by: {first}",
            failed.len()
        )
    })
}

/// Why requests cannot be vouched for, however many of them failed: empty where those can that did not.
#[must_use]
pub fn doubts(
    inside: &[&Exchange],
    wanted: &Wanted,
    counting: Option<Counting>,
    lag: &Lag,
) -> Vec<String> {
    let mut objections = Vec::new();
    let good: Vec<_> = inside
        .iter()
        .filter(|exchange| exchange.error.is_none())
        .collect();
    let written = good
        .iter()
        .map(|exchange| Some(exchange.reply.output_tokens));
    objections.extend(other_length("wrote", "output", written, wanted.output, 0));
    let read = good.iter().map(|exchange| exchange.reply.prompt_tokens);
    objections.extend(other_length(
        "says that it read",
        "input",
        read,
        wanted.input,
        slack(wanted),
    ));
    if !wanted.prefix_cache {
        let cached: u64 = good
            .iter()
            .filter_map(|exchange| exchange.reply.cached_tokens)
            .sum();
        let share = cached as f64 / (good.len() * wanted.input).max(1) as f64;
        if share > MAX_CACHED_SHARE {
            objections.push(format!(
                "the server found {:.1} % of the input tokens in its prefix cache, which was to be off",
                100.0 * share
            ));
        }
    }
    if counting.is_some_and(|counting| counting != Counting::FinalUsage)
        && good.iter().any(|exchange| !exchange.reply.proven)
    {
        objections.push(
            "the server did not say of every event how many tokens it brought: the gaps are those between events".into(),
        );
    }
    objections.extend(lag.objections(&typical(&good)));
    objections
}

/// The number of input tokens by which a server's count may differ from ours.
fn slack(wanted: &Wanted) -> u64 {
    let (tokens, share) = TEXT_SLACK;
    match wanted.texts {
        true => tokens.max((share * wanted.input as f64) as u64),
        false => 0,
    }
}

/// All that is said against what was measured on a server: by its requests, and by the server's own counters. Nothing of
/// an engine that is asked none.
#[must_use]
pub fn all_objections(
    asked: Option<&Asked>,
    metrics: Option<&ServerMetrics>,
    wanted: &Wanted,
) -> Vec<String> {
    let requests = asked.map_or(&[][..], |asked| &asked.objections);
    let counters = metrics.map_or(Vec::new(), |metrics| objections_of(metrics, wanted));
    requests.iter().cloned().chain(counters).collect()
}

/// The objections to a load from a server's own counters; empty where there are none.
#[must_use]
pub fn objections_of(metrics: &ServerMetrics, wanted: &Wanted) -> Vec<String> {
    let mut objections = Vec::new();
    let hits = metrics.prefix_hit_pct.filter(|_| !wanted.prefix_cache);
    if let Some(pct) = hits.filter(|pct| *pct > 100.0 * MAX_CACHED_SHARE) {
        objections.push(format!(
            "the server's counters have {pct:.1} % of the input tokens found in its prefix cache, which was to be off"
        ));
    }
    if metrics.restarted {
        objections.push(
            "the server's metrics came from more than one process: it was restarted, or several answer at this address"
                .into(),
        );
    }
    objections
}

/// Tells of lengths that are others than asked for.
fn other_length(
    verb: &str,
    of: &str,
    lengths: impl Iterator<Item = Option<u64>>,
    asked: usize,
    slack: u64,
) -> Option<String> {
    let lengths: Vec<u64> = lengths.flatten().collect();
    let other: Vec<u64> = lengths
        .iter()
        .copied()
        .filter(|length| length.abs_diff(asked as u64) > slack)
        .collect();
    let (least, most) = (other.iter().min()?, other.iter().max()?);
    let range = if least == most {
        least.to_string()
    } else {
        format!("{least} to {most}")
    };
    Some(format!(
        "the server {verb} {range} {of} tokens where {asked} were asked for, in {} of {} requests",
        other.len(),
        lengths.len()
    ))
}

/// The typical times that the client's lag is held against.
fn typical(good: &[&&Exchange]) -> Typical {
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    };
    let gaps = good.iter().flat_map(|exchange| {
        let arrivals = exchange.reply.arrivals.windows(2);
        arrivals.map(|pair| pair[1].at.saturating_duration_since(pair[0].at))
    });
    Typical {
        ttft: median(good.iter().filter_map(|exchange| exchange.ttft()).collect())
            .unwrap_or_default(),
        itl: median(gaps.collect()),
    }
}

/// How late the client was, as records have it.
#[must_use]
pub fn client(lag: &Lag) -> Client {
    let some = |time: Duration| Some(micros(time));
    Client {
        send_lag_p50_ms: some(lag.send.p50),
        send_lag_p99_ms: some(lag.send.p99),
        send_lag_max_ms: some(lag.send.max),
        stamp_lag_p99_ms: some(lag.stamp.p99),
        cpu_s: Some(lag.cpu.as_secs_f64()),
        cpu_pct: Some(100.0 * lag.cpu_share()),
    }
}

/// Milliseconds to a microsecond: what is beyond is noise, and takes room in every record.
#[must_use]
pub fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests;

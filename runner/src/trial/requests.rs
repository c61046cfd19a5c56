//! A load of requests, measured: driven until its window is over, held to what was asked for, and put into the form of
//! a record. How the window's borders cut is said in [`crate::load::window`].

use std::time::{Duration, Instant};

use inferbench_crds::{
    design::{self, Combination},
    engine::Counting,
};
use inferbench_results::record::{RequestTimes, Requests, Warmup};

use super::{
    asked::{Asked, client, doubts, failures, micros},
    measure::{Hooks, Schedule, Stop, Timed, millis, unix_at},
};
use crate::{
    backend::{Backend, BackendError, Drive, Stage},
    load::{self, Arrivals, Exchange, Saturation, window::Bounds},
    machine::unix_ns,
};

/// Failed requests after which a load ends.
const MAX_FAILURES: u64 = 100;
/// Requests in flight at most in an open loop, whatever the server does.
pub(super) const MAX_OPEN: usize = 4_096;

/// How requests come for a combination; none where they come in batches, or that is to be searched.
#[must_use]
pub fn arrivals(combination: &Combination, seed: u64) -> Option<Arrivals> {
    match combination.load() {
        design::Load::Batch(_) | design::Load::Search(_) => None,
        design::Load::Concurrency(streams) => Some(Arrivals::Closed {
            streams: streams as usize,
        }),
        design::Load::Rate(per_second) => Some(Arrivals::Open {
            per_second,
            seed,
            most: MAX_OPEN,
        }),
    }
}

/// A load that was driven until its window was over.
#[derive(Clone, Debug)]
pub struct Driven {
    /// The timed requests; their objections leave failed ones out.
    pub timed: Timed,
    /// Why it cannot be vouched for where too many requests failed.
    pub failures: Option<String>,
    /// Where no request of the window succeeded: why.
    pub all_failed: Option<BackendError>,
}

/// Drives a load until its window is over, and holds it to what was asked for. `prompts` makes the input ids of a request
/// by its number.
///
/// # Errors
/// Where the engine fails, no request succeeds, or `hooks` says to stop.
pub fn measure(
    engine: &mut dyn Backend,
    schedule: &Schedule,
    arrivals: Arrivals,
    limit: Duration,
    prompts: &(dyn Fn(u64) -> Result<Vec<u32>, BackendError> + Sync),
    hooks: &mut dyn Hooks,
) -> Result<Timed, Stop> {
    let most = MAX_FAILURES;
    let driven = drive(engine, schedule, arrivals, limit, most, prompts, hooks)?;
    if let Some(error) = driven.all_failed {
        return Err(Stop::Engine(error));
    }
    let mut timed = driven.timed;
    if let (Some(asked), Some(failures)) = (&mut timed.asked, driven.failures) {
        asked.objections.insert(0, failures);
    }
    Ok(timed)
}

/// Drives a load until its window is over, or more requests than `max_failures` have failed.
///
/// # Errors
/// Where the engine fails, or `hooks` says to stop.
pub fn drive(
    engine: &mut dyn Backend,
    schedule: &Schedule,
    arrivals: Arrivals,
    limit: Duration,
    max_failures: u64,
    prompts: &(dyn Fn(u64) -> Result<Vec<u32>, BackendError> + Sync),
    hooks: &mut dyn Hooks,
) -> Result<Driven, Stop> {
    // The client counts in Instants; one pair of readings ties them to the calendar.
    let epoch = (Instant::now(), unix_ns());
    let counting = engine.counting();
    let (mut opened, mut closed, mut stopped) = (false, false, None);
    let mut stage = |stage: Stage| {
        if stage >= Stage::InWindow && !std::mem::replace(&mut opened, true) {
            hooks.before();
        }
        if stage == Stage::Closed && !std::mem::replace(&mut closed, true) {
            hooks.after();
        }
        stopped = hooks.stop();
        stopped.is_some()
    };
    let run = engine.drive(Drive {
        load: load::RequestLoad {
            arrivals,
            bounds: Bounds {
                warmup_requests: schedule.warmup_iterations.into(),
                warmup: schedule.warmup,
                iterations: schedule.iterations.into(),
                min_duration: schedule.min_duration,
                tokens_each: schedule.output as u64,
            },
            limit,
            max_failures,
        },
        prompts,
        stage: &mut stage,
    });
    if let Some(stop) = stopped {
        return Err(stop);
    }
    let run = run?;
    let Some(borders) = run.window else {
        return Err(Stop::Wrong(
            "the load ended before its window had closed".into(),
        ));
    };
    let inside: Vec<&Exchange> = borders.requests(&run.exchanges).collect();
    let mut errors = inside.iter().map(|exchange| exchange.error.as_ref());
    let first = errors.clone().flatten().next();
    let all_failed = first.filter(|_| errors.all(|error| error.is_some()));
    let all_failed = all_failed.map(|first| BackendError::Failed {
        message: format!(
            "all {} requests of the window failed, the first by: {first}",
            inside.len()
        ),
        permanent: false,
    });
    let before = run
        .exchanges
        .iter()
        .filter(|exchange| exchange.intended < borders.opened);
    let first = run.exchanges.first().and_then(Exchange::ttft);
    let length = borders.length();
    let objections = doubts(&inside, &schedule.wanted(), counting, &run.lag);
    let failures = failures(&inside);
    let requests = Requests {
        window_start_unix_ns: unix_at(epoch, borders.opened),
        window_s: length.as_secs_f64(),
        window_output_tokens: borders.tokens(&run.exchanges),
        window_completed: count(
            run.exchanges
                .iter()
                .filter(|exchange| exchange.error.is_none() && borders.hold(exchange.ended))
                .count(),
        ),
        max_in_flight: max_in_flight(&run.exchanges),
        saturated: match run.saturation {
            Saturation::Growing { .. } => Some(true),
            Saturation::Steady => Some(false),
            Saturation::DoesNotApply | Saturation::Unknown => None,
        },
        counting: counting.map_or("", Counting::name).to_owned(),
        requests: inside
            .iter()
            .map(|exchange| times(exchange, epoch))
            .collect(),
    };
    let timed = Timed {
        warmup: first.map(|first| Warmup {
            iterations: count(before.count()),
            duration_s: borders.opened.duration_since(run.started).as_secs_f64(),
            first_iteration_ttft_ms: millis(first),
        }),
        iterations: Vec::new(),
        window: (
            unix_at(epoch, borders.opened),
            unix_at(epoch, borders.closed),
        ),
        timed: length,
        first_timed: 0,
        asked: Some(Asked {
            requests: Some(requests),
            client: client(&run.lag),
            objections,
        }),
        capacity: None,
    };
    Ok(Driven {
        timed,
        failures,
        all_failed,
    })
}

/// A request as records have it: offsets from the time at which it was meant to leave.
fn times(exchange: &Exchange, epoch: (Instant, i64)) -> RequestTimes {
    let offset = |at: Instant| micros(at.saturating_duration_since(exchange.intended));
    let tokens = |count: Option<u64>| count.and_then(|count| u32::try_from(count).ok());
    RequestTimes {
        intended_unix_ns: unix_at(epoch, exchange.intended),
        sent_ms: exchange.sent.map(offset),
        token_ms: exchange.reply.token_ends().map(offset).collect(),
        input_tokens: tokens(exchange.reply.prompt_tokens),
        cached_tokens: tokens(exchange.reply.cached_tokens),
        error: exchange.error.as_ref().map(ToString::to_string),
    }
}

/// The most requests that were in flight at once.
fn max_in_flight(exchanges: &[Exchange]) -> u32 {
    let begun = exchanges
        .iter()
        .filter_map(|exchange| Some((exchange.sent?, 1)));
    let ended = exchanges.iter().filter(|exchange| exchange.sent.is_some());
    let mut changes: Vec<(Instant, i32)> = begun
        .chain(ended.map(|exchange| (exchange.ended, -1)))
        .collect();
    // One that ends when another begins makes room for it.
    changes.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, change) in changes {
        now += change;
        most = most.max(now);
    }
    most.unsigned_abs()
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

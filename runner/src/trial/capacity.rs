//! A trial that searches the highest load at which the objectives hold: one load after another on the same engine, each
//! warmed up and measured over a window of its own, as [`bracket`](super::bracket) says, until both ends of the bracket
//! are known and were tested again, or the trial's time is nearly over.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use inferbench_crds::{
    search::{Search, Searched},
    spec::Objectives,
};
use inferbench_results::{
    capacity::{Capacity, End, Ended, Step},
    record::ServerMetrics,
};

use super::{
    asked::Asked,
    bracket::{Bracket, Next, Purpose, SearchEnding, Tested},
    measure::{Hooks, Schedule, Stop, Timed},
    requests::{self, Driven, MAX_OPEN},
};
use crate::{
    backend::{Backend, BackendError},
    load::Arrivals,
};

/// Prompts of one step: the next one has others.
const PROMPTS_OF_A_STEP: u64 = 1 << 24;
/// The share of the time that is left at the beginning which is kept for the record to be made and stored.
const KEPT_SHARE: f64 = 0.02;
/// The least that is kept, unless that is half of what is left.
const KEPT_LEAST: Duration = Duration::from_secs(1);
/// How much longer than the last one the next step may take: requests beyond the capacity wait.
const LONGER: f64 = 1.5;

/// The search, and the objectives by which a load is judged.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    /// The search.
    pub search: &'a Search,
    /// The objectives.
    pub objectives: &'a Objectives,
    /// The seed of the arrivals.
    pub seed: u64,
    /// How much of the trial's time is left.
    pub left: &'a dyn Fn() -> Duration,
}

/// Searches. The figures of the answer are those of the last test of the bracket's lower end; where no load held, of
/// the lowest one. Its window is that of all tests together. The second part is the server's own metrics in that test.
///
/// # Errors
/// Where the engine fails, the first load has no answer at all, or `hooks` says to stop; `TimedOut` where the time was
/// over before one load was tested.
pub fn measure(
    engine: &mut dyn Backend,
    schedule: &Schedule,
    task: &Task<'_>,
    prompts: &(dyn Fn(u64) -> Result<Vec<u32>, BackendError> + Sync),
    hooks: &mut dyn Hooks,
) -> Result<(Timed, Option<ServerMetrics>), Stop> {
    let mut bracket = Bracket::new(task.search);
    let mut tests = Tests::default();
    let spare = kept_back((task.left)());
    let mut took = Duration::ZERO;
    let mut opened = false;
    let ended = loop {
        let (load, purpose) = match bracket.next() {
            Next::Test(load, purpose) => (load, purpose),
            Next::Done(ending) => break ended(ending),
        };
        let left = (task.left)().saturating_sub(spare);
        if left <= took.mul_f64(LONGER) && !tests.steps.is_empty() {
            break Ended::Time;
        }
        let number = tests.steps.len() as u64;
        let mut hooks = StepHooks {
            hooks: &mut *hooks,
            opened: &mut opened,
            left: task.left,
            spare,
            cut: Cell::new(false),
        };
        let began = Instant::now();
        let driven = requests::drive(
            engine,
            schedule,
            arrivals(task.search.factor, load, task.seed.wrapping_add(number)),
            left,
            // However many fail: that the load does not hold then is a result.
            u64::MAX,
            &|request| prompts(number * PROMPTS_OF_A_STEP + request),
            &mut hooks,
        );
        let driven = match driven {
            Ok(driven) => driven,
            Err(Stop::TimedOut) if hooks.cut.get() && !tests.steps.is_empty() => break Ended::Time,
            Err(stop) => return Err(stop),
        };
        took = began.elapsed();
        let held = tests.add(load, purpose, driven, engine.take_metrics(), task)?;
        bracket.add(load, held);
    };
    if opened {
        hooks.after();
    }
    tests.finish(&bracket, ended, task.search.factor)
}

/// The time that is kept back of what is left.
fn kept_back(left: Duration) -> Duration {
    left.mul_f64(KEPT_SHARE).max(KEPT_LEAST).min(left / 2)
}

fn arrivals(factor: Searched, load: f64, seed: u64) -> Arrivals {
    match factor {
        Searched::RequestRate => Arrivals::Open {
            per_second: load,
            seed,
            most: MAX_OPEN,
        },
        Searched::Concurrency => Arrivals::Closed {
            streams: load as usize,
        },
    }
}

const fn ended(ending: SearchEnding) -> Ended {
    match ending {
        SearchEnding::Within => Ended::Within,
        SearchEnding::AtLeast => Ended::AtLeast,
        SearchEnding::Below => Ended::Below,
        SearchEnding::Steps => Ended::Steps,
    }
}

const fn end(tested: Tested) -> End {
    End {
        load: tested.load,
        held: tested.held,
        failed: tested.failed,
    }
}

/// A test whose figures may become the trial's.
struct Kept {
    load: f64,
    timed: Timed,
    server: Option<ServerMetrics>,
}

/// The tests so far.
#[derive(Default)]
struct Tests {
    steps: Vec<Step>,
    /// The last one of each load that held, and of the lowest load.
    kept: Vec<Kept>,
    objections: Vec<String>,
    window: Option<(i64, i64)>,
    warmup: Option<inferbench_results::record::Warmup>,
}

impl Tests {
    /// Takes up a test; says whether its load held.
    fn add(
        &mut self,
        load: f64,
        purpose: Purpose,
        driven: Driven,
        server: Option<ServerMetrics>,
        task: &Task<'_>,
    ) -> Result<bool, Stop> {
        let Driven {
            timed, all_failed, ..
        } = driven;
        // A server that has never answered is no measurement of its capacity.
        let ever = self.steps.iter().any(|step| step.errors < step.requests);
        if let Some(error) = all_failed.filter(|_| !ever) {
            return Err(Stop::Engine(error));
        }
        let asked = timed.asked.as_ref();
        let Some(requests) = asked.and_then(|asked| asked.requests.as_ref()) else {
            return Err(Stop::Wrong("a load of requests left none behind".into()));
        };
        let purpose = match purpose {
            Purpose::Search => "search",
            Purpose::Confirm => "confirm",
            Purpose::Decide => "decide",
        };
        let share = task.search.share();
        let step = Step::of(load, purpose, requests, task.objectives, share);
        let held = step.held;
        for objection in asked.map_or(&[][..], |asked| &asked.objections) {
            if !self.objections.iter().any(|known| alike(known, objection)) {
                self.objections.push(objection.clone());
            }
        }
        let (start, close) = timed.window;
        self.window = Some(
            self.window
                .map_or((start, close), |(first, _)| (first, close)),
        );
        if self.warmup.is_none() {
            self.warmup.clone_from(&timed.warmup);
        }
        if held || self.steps.is_empty() || self.steps[0].load == load {
            self.kept.retain(|kept| kept.load != load);
            self.kept.push(Kept {
                load,
                timed,
                server,
            });
        }
        self.steps.push(step);
        Ok(held)
    }

    fn finish(
        mut self,
        bracket: &Bracket,
        ended: Ended,
        factor: Searched,
    ) -> Result<(Timed, Option<ServerMetrics>), Stop> {
        let shown = bracket.low().map(|low| low.load);
        let at = self.kept.iter().position(|kept| Some(kept.load) == shown);
        // Where no load held, the lowest one was tested first.
        if self.kept.is_empty() {
            return Err(Stop::TimedOut);
        }
        let kept = self.kept.swap_remove(at.unwrap_or(0));
        let asked = kept.timed.asked.map(|asked| Asked {
            objections: self.objections,
            ..asked
        });
        let timed = Timed {
            warmup: self.warmup,
            window: self.window.unwrap_or(kept.timed.window),
            asked,
            capacity: Some(Capacity {
                factor,
                low: bracket.low().map(end),
                high: bracket.high().map(end),
                ended,
                contradictions: bracket.contradictions().into_iter().map(end).collect(),
                steps: self.steps,
            }),
            ..kept.timed
        };
        Ok((timed, kept.server))
    }
}

/// Whether two objections differ in their figures alone.
fn alike(one: &str, other: &str) -> bool {
    let kind = |text: &str| {
        let mut parts = text.split(|c: char| c.is_ascii_digit());
        parts.next().map(str::to_owned)
    };
    kind(one) == kind(other)
}

/// The hooks of one step: the trial's window opens with the first step's, and the trial closes it.
struct StepHooks<'a, 'b> {
    hooks: &'a mut dyn Hooks,
    opened: &'a mut bool,
    left: &'b dyn Fn() -> Duration,
    spare: Duration,
    cut: Cell<bool>,
}

impl Hooks for StepHooks<'_, '_> {
    fn prompts(&mut self, number: u64) -> Result<Vec<Vec<u32>>, BackendError> {
        self.hooks.prompts(number)
    }

    fn before(&mut self) {
        if !std::mem::replace(self.opened, true) {
            self.hooks.before();
        }
    }

    fn after(&mut self) {}

    fn stop(&self) -> Option<Stop> {
        let stop = self.hooks.stop();
        if stop.is_none() && (self.left)() <= self.spare {
            self.cut.set(true);
            return Some(Stop::TimedOut);
        }
        stop
    }
}

#[cfg(test)]
mod tests;

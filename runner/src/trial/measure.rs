//! The loop around the engine: warm up, then time batches until there are enough of them and they have lasted long
//! enough. Every answer of the engine is checked before it counts.

use std::time::{Duration, Instant};

use inferbench_engine::EngineError;
use inferbench_results::{
    capacity::Capacity,
    record::{Iteration, SequenceTimes, Warmup},
};

use super::asked::{Asked, Batches, Wanted};
use crate::{
    backend::{Backend, BackendError, Batch, Served, Stage},
    machine::unix_ns,
};

/// The shape of a batch, and how long it is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Sequences, `b`.
    pub batch: usize,
    /// Input ids of each, `s`.
    pub input: usize,
    /// Output ids of each, `n`.
    pub output: usize,
    /// Ids are below this.
    pub vocab: usize,
    /// Whether requests are meant to find a part of their prompts in a prefix cache.
    pub prefix_cache: bool,
    /// Whether prompts are sent as texts, whose tokens the server counts by itself.
    pub texts: bool,
    /// Warm-up iterations, at least.
    pub warmup_iterations: u32,
    /// Warm-up time, at least.
    pub warmup: Duration,
    /// Timed iterations, at least.
    pub iterations: u32,
    /// Time from start to last ids, summed over the timed iterations, at least.
    pub min_duration: Duration,
}

impl Timed {
    /// Iterations, or requests of the window where they do not come in batches.
    #[must_use]
    pub fn count(&self) -> usize {
        let requests = self
            .asked
            .as_ref()
            .and_then(|asked| asked.requests.as_ref());
        requests.map_or(self.iterations.len(), |requests| requests.requests.len())
    }
}

impl Schedule {
    /// The properties that every request is to have.
    #[must_use]
    pub const fn wanted(&self) -> Wanted {
        Wanted {
            input: self.input,
            output: self.output,
            prefix_cache: self.prefix_cache,
            texts: self.texts,
        }
    }
}

/// Hooks into the loop: it asks them for prompts, and tells them of the timed window.
pub trait Hooks {
    /// Makes the prompts of the iteration with this number, counted from the first warm-up iteration: `b` rows of `s`
    /// ids, other ones for every number.
    ///
    /// # Errors
    /// Where the tokenizer cannot make them.
    fn prompts(&mut self, number: u64) -> Result<Vec<Vec<u32>>, BackendError>;
    /// The window opens.
    fn before(&mut self);
    /// The window has closed.
    fn after(&mut self);
    /// Why to stop, asked between iterations.
    fn stop(&self) -> Option<Stop>;
}

/// Why a measurement ended early.
#[derive(Debug)]
pub enum Stop {
    /// The trial's time is over.
    TimedOut,
    /// The sweep is to end.
    Interrupted,
    /// The engine answered something that cannot be right.
    Wrong(String),
    /// The engine failed.
    Engine(BackendError),
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Self {
        Stop::Engine(error.into())
    }
}

impl From<BackendError> for Stop {
    fn from(error: BackendError) -> Self {
        Stop::Engine(error)
    }
}

/// A measurement that was timed to its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timed {
    /// The warm-up; none where there was not one iteration of it.
    pub warmup: Option<Warmup>,
    /// The timed iterations.
    pub iterations: Vec<Iteration>,
    /// The window's borders, ns since the Unix epoch.
    pub window: (i64, i64),
    /// The iterations' times, summed.
    pub timed: Duration,
    /// The prompts' number at the first timed iteration.
    pub first_timed: u64,
    /// The figures that only requests have; none of an engine that is asked none.
    pub asked: Option<Asked>,
    /// The bracket of a load that was searched.
    pub capacity: Option<Capacity>,
}

/// Warms up and measures.
///
/// # Errors
/// Where the engine fails or answers wrongly, or `hooks` says to stop.
pub fn measure(
    engine: &mut dyn Backend,
    schedule: &Schedule,
    hooks: &mut dyn Hooks,
) -> Result<Timed, Stop> {
    // The engine counts in Instants; one pair of readings ties them to the calendar.
    let epoch = (Instant::now(), unix_ns());
    let mut number = 0;

    engine.enter(Stage::WarmingUp);
    let warm_start = Instant::now();
    let mut first_ttft = None;
    while number < u64::from(schedule.warmup_iterations) || warm_start.elapsed() < schedule.warmup {
        let served = iterate(engine, schedule, hooks, number)?;
        first_ttft.get_or_insert(millis(served.first().unwrap_or_default()));
        number += 1;
    }
    let warmup = first_ttft.map(|first_iteration_ttft_ms| Warmup {
        iterations: u32::try_from(number).unwrap_or(u32::MAX),
        duration_s: warm_start.elapsed().as_secs_f64(),
        first_iteration_ttft_ms,
    });

    let first_timed = number;
    let (mut iterations, mut timed) = (Vec::new(), Duration::ZERO);
    let mut batches = Batches::default();
    let window_start = unix_at(epoch, Instant::now());
    hooks.before();
    engine.enter(Stage::InWindow);
    while iterations.len() < schedule.iterations as usize || timed < schedule.min_duration {
        let served = iterate(engine, schedule, hooks, number)?;
        timed += served.last().unwrap_or_default();
        batches.add(&served, &schedule.wanted(), engine.counting());
        iterations.push(recorded(served, epoch));
        number += 1;
    }
    hooks.after();
    engine.enter(Stage::Closed);
    let window = (window_start, unix_at(epoch, Instant::now()));
    Ok(Timed {
        warmup,
        iterations,
        window,
        timed,
        first_timed,
        asked: batches.finish(),
        capacity: None,
    })
}

fn iterate(
    engine: &mut dyn Backend,
    schedule: &Schedule,
    hooks: &mut dyn Hooks,
    number: u64,
) -> Result<Served, Stop> {
    if let Some(stop) = hooks.stop() {
        return Err(stop);
    }
    let prompts = hooks.prompts(number)?;
    check_rows(
        "prompt",
        &prompts,
        schedule.batch,
        schedule.input,
        schedule.vocab,
    )
    .map_err(Stop::Wrong)?;
    let served = engine.serve(&Batch {
        prompts: &prompts,
        output: schedule.output,
    })?;
    check_served(&served, schedule).map_err(Stop::Wrong)?;
    Ok(served)
}

/// Whether the engine did what it was asked: times of `b` sequences, `n` of each, positive and in order; and where it
/// gives ids, `b` rows of `n` known ones.
fn check_served(served: &Served, schedule: &Schedule) -> Result<(), String> {
    if let Some(ids) = &served.ids {
        check_rows(
            "output",
            ids,
            schedule.batch,
            schedule.output,
            schedule.vocab,
        )?;
    }
    let timed: usize = served.sequences.iter().map(|times| times.count).sum();
    if timed != schedule.batch {
        return Err(format!(
            "the engine gave times of {timed} sequences instead of {}",
            schedule.batch
        ));
    }
    for times in &served.sequences {
        let ends = &times.token_ends;
        if ends.len() != schedule.output {
            return Err(format!(
                "the engine gave {} times for {} tokens",
                ends.len(),
                schedule.output
            ));
        }
        if !ends.is_sorted() || ends.first().is_none_or(Duration::is_zero) {
            return Err("the engine's times are not positive and in order".into());
        }
    }
    Ok(())
}

/// An iteration as records have it.
fn recorded(served: Served, epoch: (Instant, i64)) -> Iteration {
    let sequences = served.sequences.into_iter().map(|times| SequenceTimes {
        count: u32::try_from(times.count).unwrap_or(u32::MAX),
        token_ms: times.token_ends.into_iter().map(millis).collect(),
    });
    Iteration {
        start_unix_ns: unix_at(epoch, served.started),
        sequences: sequences.collect(),
    }
}

fn check_rows(
    what: &str,
    rows: &[Vec<u32>],
    batch: usize,
    length: usize,
    vocab: usize,
) -> Result<(), String> {
    if rows.len() != batch {
        return Err(format!("{} {what} rows instead of {batch}", rows.len()));
    }
    if let Some((row, ids)) = rows.iter().enumerate().find(|(_, ids)| ids.len() != length) {
        return Err(format!(
            "{what} row {row} has {} ids instead of {length}",
            ids.len()
        ));
    }
    match rows.iter().flatten().find(|&&id| id as usize >= vocab) {
        Some(id) => Err(format!(
            "{what} id {id} is not below the vocabulary's {vocab}"
        )),
        None => Ok(()),
    }
}

pub(super) fn unix_at((instant, unix): (Instant, i64), at: Instant) -> i64 {
    let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    match at.checked_duration_since(instant) {
        Some(later) => unix.saturating_add(nanos(later)),
        None => unix.saturating_sub(nanos(instant.duration_since(at))),
    }
}

pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        backend::{self, Description, Room},
        machine::processes::Processes,
    };

    /// Answers at once, and says that each step took `step`.
    struct Fake {
        step: Duration,
        spoil: fn(&mut Served),
        calls: u32,
        description: Description,
    }

    impl Backend for Fake {
        fn description(&self) -> &Description {
            &self.description
        }
        fn processes(&self) -> Processes {
            Processes::of_this_one()
        }
        fn room(&self) -> Room {
            Room::default()
        }
        fn serve(&mut self, batch: &Batch<'_>) -> Result<Served, BackendError> {
            let Batch { prompts, output } = *batch;
            self.calls += 1;
            let times = backend::SequenceTimes {
                count: prompts.len(),
                token_ends: (1..=output as u32).map(|step| self.step * step).collect(),
            };
            let mut served = Served {
                ids: Some(vec![vec![7; output]; prompts.len()]),
                sequences: vec![times],
                started: Instant::now(),
                exchanges: Vec::new(),
                lag: None,
            };
            (self.spoil)(&mut served);
            Ok(served)
        }
    }

    #[derive(Default)]
    struct Recorder {
        numbers: Vec<u64>,
        window: Vec<(&'static str, usize)>,
        stop_after: Option<usize>,
        short_prompt: Cell<bool>,
    }

    impl Hooks for Recorder {
        fn prompts(&mut self, number: u64) -> Result<Vec<Vec<u32>>, BackendError> {
            self.numbers.push(number);
            Ok(vec![
                vec![1; if self.short_prompt.get() { 2 } else { 3 }];
                2
            ])
        }
        fn before(&mut self) {
            self.window.push(("before", self.numbers.len()));
        }
        fn after(&mut self) {
            self.window.push(("after", self.numbers.len()));
        }
        fn stop(&self) -> Option<Stop> {
            (self.stop_after == Some(self.numbers.len())).then_some(Stop::TimedOut)
        }
    }

    const SCHEDULE: Schedule = Schedule {
        batch: 2,
        input: 3,
        output: 4,
        vocab: 10,
        prefix_cache: false,
        texts: false,
        warmup_iterations: 2,
        warmup: Duration::ZERO,
        iterations: 3,
        min_duration: Duration::ZERO,
    };

    fn fake(step_ms: u64) -> Fake {
        Fake {
            step: Duration::from_millis(step_ms),
            spoil: |_| (),
            calls: 0,
            description: Description::default(),
        }
    }

    #[test]
    fn warm_up_comes_first_and_every_iteration_has_prompts_of_its_own() {
        let mut recorder = Recorder::default();
        let measured = measure(&mut fake(5), &SCHEDULE, &mut recorder).unwrap();
        assert_eq!(recorder.numbers, [0, 1, 2, 3, 4]);
        assert_eq!(recorder.window, [("before", 2), ("after", 5)]);
        assert_eq!(measured.iterations.len(), 3);
        assert_eq!(
            measured.iterations[0].sequences[0].token_ms,
            [5.0, 10.0, 15.0, 20.0]
        );
        assert_eq!(measured.timed, Duration::from_millis(60));
        assert_eq!(measured.first_timed, 2);
        let warmup = measured.warmup.unwrap();
        assert_eq!(
            (warmup.iterations, warmup.first_iteration_ttft_ms),
            (2, 5.0)
        );
        let (start, end) = measured.window;
        assert!(
            measured
                .iterations
                .iter()
                .all(|i| (start..=end).contains(&i.start_unix_ns))
        );
    }

    #[test]
    fn no_warm_up_is_told_from_one() {
        let schedule = Schedule {
            warmup_iterations: 0,
            ..SCHEDULE
        };
        assert_eq!(
            measure(&mut fake(5), &schedule, &mut Recorder::default())
                .unwrap()
                .warmup,
            None
        );
    }

    #[test]
    fn wrong_answers_do_not_count() {
        type Spoil = fn(&mut Served);
        let spoils: [(Spoil, &str); 9] = [
            (
                |s| drop(s.ids.as_mut().unwrap().pop()),
                "1 output rows instead of 2",
            ),
            (
                |s| s.ids.as_mut().unwrap()[1].truncate(3),
                "output row 1 has 3 ids instead of 4",
            ),
            (
                |s| s.ids.as_mut().unwrap()[0][0] = 10,
                "output id 10 is not below the vocabulary's 10",
            ),
            (
                |s| s.sequences[0].token_ends.truncate(3),
                "the engine gave 3 times for 4 tokens",
            ),
            (
                |s| s.sequences[0].token_ends.swap(0, 1),
                "not positive and in order",
            ),
            (
                |s| s.sequences[0].token_ends[0] = Duration::ZERO,
                "not positive and in order",
            ),
            (
                |s| s.sequences[0].count = 1,
                "the engine gave times of 1 sequences instead of 2",
            ),
            (
                |s| s.sequences.clear(),
                "the engine gave times of 0 sequences instead of 2",
            ),
            (
                |s| {
                    s.sequences[0].count = 1;
                    s.sequences.push(s.sequences[0].clone());
                    s.sequences[1].token_ends.truncate(2);
                },
                "the engine gave 2 times for 4 tokens",
            ),
        ];
        for (spoil, wanted) in spoils {
            let mut engine = Fake { spoil, ..fake(5) };
            match measure(&mut engine, &SCHEDULE, &mut Recorder::default()) {
                Err(Stop::Wrong(message)) => assert!(message.contains(wanted), "{message}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn wrong_prompts_never_reach_the_engine() {
        let mut engine = fake(5);
        let mut hooks = Recorder {
            short_prompt: Cell::new(true),
            ..Recorder::default()
        };
        let stop = measure(&mut engine, &SCHEDULE, &mut hooks).unwrap_err();
        assert!(matches!(stop, Stop::Wrong(m) if m == "prompt row 0 has 2 ids instead of 3"));
        assert_eq!(engine.calls, 0);
    }

    #[test]
    fn it_stops_between_iterations() {
        let mut hooks = Recorder {
            stop_after: Some(3),
            ..Recorder::default()
        };
        let stop = measure(&mut fake(5), &SCHEDULE, &mut hooks).unwrap_err();
        assert!(matches!(stop, Stop::TimedOut));
        assert_eq!(hooks.numbers.len(), 3);
    }

    proptest! {
        #[test]
        fn both_limits_are_reached_and_neither_by_more_than_one_iteration(
            step in 1_u64..50, iterations in 1_u32..20, min_ms in 0_u64..3000
        ) {
            let schedule = Schedule { iterations, min_duration: Duration::from_millis(min_ms), ..SCHEDULE };
            let measured = measure(&mut fake(step), &schedule, &mut Recorder::default()).unwrap();
            let (count, one) = (measured.iterations.len() as u64, Duration::from_millis(4 * step));
            prop_assert!(count >= u64::from(iterations) && measured.timed >= schedule.min_duration);
            prop_assert!(count == u64::from(iterations) || measured.timed - one < schedule.min_duration);
        }
    }
}

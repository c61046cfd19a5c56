//! The search against a server whose capacity is known: it works on a fixed number of requests at once, in no real
//! time.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc, sync::Mutex};

use inferbench_crds::{Duration as Limit, factor::Number};

use super::*;
use crate::{
    backend::{Batch, Description, Drive, Room, Served, Stage},
    load::{self, Arrival, Exchange, Lag, Reply, RequestError, Run, Saturation, window::Borders},
    machine::processes::Processes,
};

/// The time to first token of a request that need not wait.
const TTFT: Duration = Duration::from_millis(10);
/// The time that each one is worked on.
const WORK: Duration = Duration::from_millis(400);
/// Requests in a window.
const REQUESTS: u64 = 20;

/// A server that works on `slots` requests at once.
struct Slots {
    slots: f64,
    description: Description,
    /// The loads that it was driven at.
    loads: Vec<f64>,
    /// Requests that fail at this load.
    fails: fn(f64) -> u64,
    /// Whether the next one is slow whatever the load: called with the number of the drive.
    accident: fn(usize) -> bool,
    /// Is called when a window is over.
    took: Box<dyn Fn()>,
}

fn slots(slots: f64) -> Slots {
    Slots {
        slots,
        description: Description::default(),
        loads: Vec::new(),
        fails: |_| 0,
        accident: |_| false,
        took: Box::new(|| ()),
    }
}

impl Backend for Slots {
    fn description(&self) -> &Description {
        &self.description
    }

    fn processes(&self) -> Processes {
        Processes::of_this_one()
    }

    fn room(&self) -> Room {
        Room::default()
    }

    fn serve(&mut self, _: &Batch<'_>) -> Result<Served, BackendError> {
        unreachable!("it takes requests")
    }

    fn drive(&mut self, drive: Drive<'_>) -> Result<Run, BackendError> {
        let load = match drive.load.arrivals {
            Arrivals::Closed { streams } => streams as f64,
            // By Little's law.
            Arrivals::Open { per_second, .. } => per_second * WORK.as_secs_f64(),
        };
        let is_accident = (self.accident)(self.loads.len());
        self.loads.push(load);
        (self.took)();
        let mut stopped = (drive.stage)(Stage::WarmingUp) || (drive.stage)(Stage::InWindow);
        let wait = if is_accident {
            WORK
        } else {
            WORK.mul_f64((load / self.slots - 1.0).max(0.0))
        };
        let started = Instant::now();
        let fails = (self.fails)(load);
        let exchange = |index: u64| {
            (drive.prompts)(index).expect("a prompt");
            let intended = started + Duration::from_millis(10 * index);
            let first = intended + TTFT + wait;
            let error = (index < fails).then_some(RequestError::Closed { events: 0 });
            Exchange {
                index,
                stream: 0,
                intended,
                sent: Some(intended),
                ended: first + WORK,
                reply: Reply {
                    arrivals: vec![
                        Arrival {
                            at: first,
                            tokens: 1,
                        },
                        Arrival {
                            at: first + WORK,
                            tokens: 1,
                        },
                    ],
                    output_tokens: 2,
                    proven: true,
                    prompt_tokens: Some(3),
                    cached_tokens: None,
                    finish_reason: None,
                    events: 2,
                },
                error,
            }
        };
        let exchanges: Vec<Exchange> = (0..REQUESTS).map(exchange).collect();
        stopped |= (drive.stage)(Stage::Closed);
        Ok(Run {
            started,
            window: (!stopped).then_some(Borders {
                opened: started,
                closed: started + Duration::from_secs(1),
            }),
            ending: if stopped {
                load::LoadEnding::Stopped
            } else {
                load::LoadEnding::Complete
            },
            exchanges,
            lag: Lag::default(),
            saturation: match drive.load.arrivals {
                Arrivals::Open { .. } if load > self.slots => Saturation::Growing {
                    from: 1.0,
                    to: 99.0,
                },
                Arrivals::Open { .. } => Saturation::Steady,
                Arrivals::Closed { .. } => Saturation::DoesNotApply,
            },
            waited: 0,
            connects: 0,
        })
    }

    fn counting(&self) -> Option<inferbench_crds::engine::Counting> {
        Some(inferbench_crds::engine::Counting::TokenIds)
    }
}

/// Takes note of the window's borders.
#[derive(Default)]
struct Recorder {
    told: RefCell<Vec<&'static str>>,
}

impl Hooks for Recorder {
    fn prompts(&mut self, _: u64) -> Result<Vec<Vec<u32>>, BackendError> {
        unreachable!("it takes requests")
    }

    fn before(&mut self) {
        self.told.borrow_mut().push("before");
    }

    fn after(&mut self) {
        self.told.borrow_mut().push("after");
    }

    fn stop(&self) -> Option<Stop> {
        None
    }
}

const SCHEDULE: Schedule = Schedule {
    batch: 1,
    input: 3,
    output: 2,
    vocab: 10,
    prefix_cache: false,
    texts: false,
    warmup_iterations: 1,
    warmup: Duration::ZERO,
    iterations: 3,
    min_duration: Duration::ZERO,
};

fn search(factor: Searched, from: f64, to: f64) -> Search {
    Search {
        factor,
        from: Number::new(from).unwrap(),
        to: Number::new(to).unwrap(),
        within: "10%".into(),
        share: "95%".into(),
    }
}

const FOREVER: fn() -> Duration = || Duration::from_secs(3_600);

/// Searches with at most 50 ms to the first token.
fn measured(
    engine: &mut Slots,
    search: &Search,
    left: &dyn Fn() -> Duration,
) -> Result<(Timed, Vec<&'static str>), Stop> {
    let objectives = Objectives {
        max_ttft: Some(Limit::from_millis(50)),
        ..Objectives::default()
    };
    let task = Task {
        search,
        objectives: &objectives,
        seed: 7,
        left,
    };
    let numbers = Mutex::new(BTreeSet::new());
    let prompts = |number| {
        assert!(
            numbers.lock().unwrap().insert(number),
            "prompt {number} twice"
        );
        Ok(vec![1, 2, 3])
    };
    let mut hooks = Recorder::default();
    let (timed, _) = measure(engine, &SCHEDULE, &task, &prompts, &mut hooks)?;
    Ok((timed, hooks.told.into_inner()))
}

fn ends(capacity: &Capacity) -> (Option<f64>, Option<f64>, Ended) {
    let load = |end: Option<End>| end.map(|end| end.load);
    (load(capacity.low), load(capacity.high), capacity.ended)
}

#[test]
fn it_finds_how_many_the_server_works_on_at_once() {
    let mut engine = slots(5.0);
    let search = search(Searched::Concurrency, 1.0, 64.0);
    let (timed, told) = measured(&mut engine, &search, &FOREVER).unwrap();
    assert_eq!(engine.loads, [1.0, 2.0, 4.0, 8.0, 6.0, 5.0, 6.0, 5.0]);
    // One window of the trial, around all of them.
    assert_eq!(told, ["before", "after"]);
    let capacity = timed.capacity.unwrap();
    assert_eq!(ends(&capacity), (Some(5.0), Some(6.0), Ended::Within));
    assert_eq!(
        (capacity.low.unwrap().held, capacity.high.unwrap().failed),
        (2, 2)
    );
    assert!(capacity.contradictions.is_empty() && capacity.note().is_none());
    let purposes: Vec<&str> = capacity.steps.iter().map(|step| &*step.purpose).collect();
    assert_eq!(purposes[..6], ["search"; 6]);
    assert_eq!(purposes[6..], ["confirm"; 2]);
    let failed = &capacity.steps[3];
    assert_eq!((failed.requests, failed.kept, failed.held), (20, 0, false));
    assert_eq!(
        failed.why.as_deref(),
        Some("0 of 20 requests kept to every objective, 19 have to")
    );
    assert_eq!(failed.ttft_ms, Some(250.0));
    // The figures are those of the lower end, the window is that of all.
    let asked = timed.asked.unwrap();
    assert!(asked.objections.is_empty(), "{:?}", asked.objections);
    let ttft = asked.requests.unwrap().requests[0].ttft_ms();
    assert_eq!(ttft, Some(10.0));
    assert_eq!(timed.window.0, capacity.steps[0].window_start_unix_ns);
    assert!(timed.window.1 >= capacity.steps[7].window_start_unix_ns + 1_000_000_000);
}

#[test]
fn rates_beyond_the_capacity_saturate() {
    let mut engine = slots(4.0);
    // 4 at once for 0.4 s each: 10 a second.
    let search = search(Searched::RequestRate, 1.0, 100.0);
    let (timed, _) = measured(&mut engine, &search, &FOREVER).unwrap();
    let capacity = timed.capacity.unwrap();
    let (Some(low), Some(high), Ended::Within) = ends(&capacity) else {
        panic!("{capacity:?}")
    };
    assert!(
        low <= 10.0 && high > 10.0 && high <= low * 1.1,
        "{low} {high}"
    );
    let why = capacity.steps.iter().find_map(|step| step.why.as_deref());
    assert!(
        why.unwrap()
            .ends_with("requests came faster than they were served"),
        "{why:?}"
    );
}

#[test]
fn both_borders_are_told_for_what_they_are() {
    let search = search(Searched::Concurrency, 4.0, 16.0);
    let (timed, _) = measured(&mut slots(2.0), &search, &FOREVER).unwrap();
    let capacity = timed.capacity.unwrap();
    assert_eq!(ends(&capacity), (None, Some(4.0), Ended::Below));
    assert_eq!(
        capacity.note().as_deref(),
        Some("the lowest load does not hold")
    );
    // The figures are those of the lowest load.
    let ttft = timed.asked.unwrap().requests.unwrap().requests[0].ttft_ms();
    assert_eq!(ttft, Some(410.0));
    let (timed, _) = measured(&mut slots(99.0), &search, &FOREVER).unwrap();
    let capacity = timed.capacity.unwrap();
    assert_eq!(ends(&capacity), (Some(16.0), None, Ended::AtLeast));
    assert_eq!(capacity.middle(), None);
}

#[test]
fn an_accident_is_decided_and_told() {
    let mut engine = Slots {
        // The first test of 5, which is the sixth of all.
        accident: |drive| drive == 5,
        ..slots(5.0)
    };
    let search = search(Searched::Concurrency, 1.0, 64.0);
    let (timed, _) = measured(&mut engine, &search, &FOREVER).unwrap();
    let capacity = timed.capacity.unwrap();
    assert_eq!(ends(&capacity), (Some(5.0), Some(6.0), Ended::Within));
    assert_eq!(capacity.note().as_deref(), Some("5 held in 2 of 3 tests"));
    assert!(capacity.steps.iter().any(|step| step.purpose == "decide"));
}

#[test]
fn where_time_is_over_it_ends_with_what_it_knows() {
    let search = search(Searched::Concurrency, 1.0, 64.0);
    // 100 s, of which every test takes 24, and 2 are kept.
    let spent = Rc::new(Cell::new(0));
    let told = Rc::clone(&spent);
    let mut engine = Slots {
        took: Box::new(move || told.set(told.get() + 24)),
        ..slots(5.0)
    };
    let left = || Duration::from_secs(100_u64.saturating_sub(spent.get()));
    let (timed, told) = measured(&mut engine, &search, &left).unwrap();
    let capacity = timed.capacity.unwrap();
    // 1, 2, 4 and 8 are known; the test of 6 was cut.
    assert_eq!(ends(&capacity), (Some(4.0), Some(8.0), Ended::Time));
    assert_eq!((capacity.steps.len(), engine.loads.len()), (4, 5));
    assert_eq!(capacity.middle(), None);
    assert_eq!(told, ["before", "after"]);
    // Not even one.
    spent.set(90);
    let stop = measured(&mut engine, &search, &left).unwrap_err();
    assert!(matches!(stop, Stop::TimedOut), "{stop:?}");
}

#[test]
fn requests_that_fail_beyond_the_capacity_are_no_failure_of_the_trial() {
    let mut engine = Slots {
        fails: |load| if load > 3.0 { REQUESTS } else { 0 },
        ..slots(99.0)
    };
    let search = search(Searched::Concurrency, 1.0, 8.0);
    let (timed, _) = measured(&mut engine, &search, &FOREVER).unwrap();
    let capacity = timed.capacity.unwrap();
    assert_eq!(ends(&capacity), (Some(3.0), Some(4.0), Ended::Within));
    let failed = capacity.steps.iter().find(|step| step.load == 4.0).unwrap();
    assert_eq!((failed.errors, failed.ttft_ms), (20, None));
    assert!(timed.asked.unwrap().objections.is_empty());
    // A server that never answers has no capacity.
    let mut engine = Slots {
        fails: |_| REQUESTS,
        ..slots(99.0)
    };
    let stop = measured(&mut engine, &search, &FOREVER).unwrap_err();
    assert!(
        matches!(&stop, Stop::Engine(BackendError::Failed { message, .. })
            if message.starts_with("all 20 requests of the window failed")),
        "{stop:?}"
    );
}

//! How a trial is settled, in a sweep on one machine and in a Job's pod alike: its record is found, or made and read
//! back. Whether it is then to be measured again, `steps` says.

use inferbench_engine::ceilings::Ceilings;
use inferbench_results::{
    key::trial_key,
    record::{Outcome, TrialRecord},
};

use super::executor::{Ended, Executor};
use crate::{
    machine::{self, Machine},
    process::{print_error, signals},
    store::{
        Store, StoreError,
        records::{find_record, store_record},
    },
    trial::{
        protocol::{Measure, TrialRequest},
        recording::{now, unmeasured},
    },
};

/// An attempt at a trial that has its record.
#[derive(Debug)]
pub struct Settled {
    /// The record, as it can be read back.
    pub record: TrialRecord,
    /// Whether it was there before.
    pub reused: bool,
    /// Ceilings that took the place of those that the trial was to be judged by: it had exceeded them.
    pub ceilings: Option<Ceilings>,
}

/// Whether a trial can be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// It can.
    Yes,
    /// Memory did not suffice for what has to come before it, and so not for the trial either: a measurement. Why.
    OutOfMemory(String),
}

/// Why an attempt at a trial has no record.
#[derive(Debug)]
pub enum Unsettled {
    /// It broke.
    Failed {
        /// Why.
        message: String,
        /// Whether trying again cannot help.
        permanent: bool,
    },
    /// The sweep is to end.
    Interrupted,
    /// The store failed.
    Store(StoreError),
}

impl From<StoreError> for Unsettled {
    fn from(error: StoreError) -> Self {
        Unsettled::Store(error)
    }
}

/// Finds the record of an attempt at a trial, or measures it. `prepare` completes the request, where it is to be
/// measured, and says whether it can be.
///
/// # Errors
/// Where there is no record afterwards, and whatever `prepare` returns.
pub fn settle<E: From<Unsettled>>(
    mut ask: Measure,
    store: &Store,
    machine: &Machine,
    executor: &mut dyn Executor,
    prepare: impl FnOnce(&mut Measure, &mut dyn Executor) -> Result<Ready, E>,
) -> Result<Settled, E> {
    let key = trial_key(&ask.trial.request, ask.trial.attempt);
    match find_record(store, &key).map_err(Unsettled::Store)? {
        Some(Ok(record)) => {
            return Ok(Settled {
                record,
                reused: true,
                ceilings: None,
            });
        }
        Some(Err(corrupt)) => print_error(&corrupt),
        None => {}
    }
    if signals::interrupted() {
        return Err(Unsettled::Interrupted.into());
    }
    let ceilings = match prepare(&mut ask, executor)? {
        Ready::Yes => measure(ask, store, machine, executor)?,
        Ready::OutOfMemory(why) => {
            let trial = &ask.trial;
            let record = without_process(trial, machine, &now(), Outcome::OutOfMemory, why);
            store_record(store, &record).map_err(failed)?;
            None
        }
    };
    // The record counts as it can be read back, not as it was meant.
    match find_record(store, &key).map_err(Unsettled::Store)? {
        Some(Ok(record)) => Ok(Settled {
            record,
            reused: false,
            ceilings,
        }),
        Some(Err(corrupt)) => Err(failed(format!("its record cannot be read back: {corrupt}"))),
        None => Err(failed(format!(
            "its record {key} cannot be read back: it is gone"
        ))),
    }
    .map_err(E::from)
}

/// Measures a trial; where its process could not store a record that is a measurement all the same, this does.
fn measure(
    ask: Measure,
    store: &Store,
    machine: &Machine,
    executor: &mut dyn Executor,
) -> Result<Option<Ceilings>, Unsettled> {
    let (trial, started_at) = (ask.trial.clone(), now());
    let (outcome, message) = match executor.run(ask) {
        Ended::Stored { ceilings } => return Ok(ceilings),
        Ended::Failed { message, permanent } => {
            return Err(Unsettled::Failed { message, permanent });
        }
        Ended::Interrupted => return Err(Unsettled::Interrupted),
        Ended::OutOfMemory(message) => (Outcome::OutOfMemory, message),
        Ended::Overdue => (
            Outcome::TimedOut,
            format!(
                "no answer when trialTimeout of {:.1} s was over; the process was ended",
                trial.timeout_ms as f64 / 1e3
            ),
        ),
    };
    let record = without_process(&trial, machine, &started_at, outcome, message);
    store_record(store, &record).map(|()| None).map_err(failed)
}

fn failed(message: String) -> Unsettled {
    Unsettled::Failed {
        message,
        permanent: false,
    }
}

/// The record of a trial whose process is gone.
fn without_process(
    trial: &TrialRequest,
    machine: &Machine,
    started_at: &str,
    outcome: Outcome,
    message: String,
) -> TrialRecord {
    // Its process is shared with no other trial's record but those of this attempt.
    let process_id = machine::process_id(&format!("{}/{started_at}", machine.node));
    unmeasured(trial, machine, &process_id, started_at, outcome, message)
}

#[cfg(test)]
mod tests {
    use inferbench_crds::spec::Dtype;
    use inferbench_engine::ceilings::roofline::ModelShape;
    use inferbench_results::fixtures;

    use super::*;
    use crate::{store::StoreOptions, sweep::executor::NoCeilings, trial::protocol::StoreAt};

    /// Ends each trial as it was told to, and stores a record first where that is a record's end.
    struct Ends<'a> {
        store: &'a Store,
        ends: Vec<Ended>,
    }

    impl Executor for Ends<'_> {
        fn run(&mut self, ask: Measure) -> Ended {
            let ended = self.ends.pop().expect("it is not measured once more");
            if matches!(ended, Ended::Stored { .. }) {
                store_record(self.store, &fixtures::measured(ask.trial.request, 0)).unwrap();
            }
            ended
        }

        fn ceilings(&mut self, _: Dtype, _: ModelShape, _: u32) -> Result<Ceilings, NoCeilings> {
            unreachable!("nobody asks for ceilings")
        }
    }

    fn ask() -> Measure {
        Measure {
            trial: TrialRequest {
                sweep: "fixture".into(),
                trial_index: 0,
                run_order: 0,
                attempt: 0,
                remeasure_invalid: 0,
                request: fixtures::request(),
                store: StoreAt {
                    target: String::new(),
                    endpoint: None,
                    region: None,
                },
                timeout_ms: 1500,
                neighbours_allowed: false,
                room: None,
            },
            weights: None,
            ceilings: None,
        }
    }

    fn settled(store: &Store, ends: Vec<Ended>) -> Result<Settled, Unsettled> {
        let machine = Machine::look();
        settle(ask(), store, &machine, &mut Ends { store, ends }, |_, _| {
            Ok(Ready::Yes)
        })
    }

    const STORED: Ended = Ended::Stored { ceilings: None };

    #[test]
    fn a_record_is_measured_once_and_found_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(
            &folder.path().display().to_string(),
            &StoreOptions::default(),
        );
        let store = store.unwrap();
        let first = settled(&store, vec![STORED]).unwrap();
        let second = settled(&store, Vec::new()).unwrap();
        assert!(!first.reused && second.reused);
        assert_eq!(first.record, second.record);

        // A document that is no record is kept aside, and its trial measured again.
        let path = folder.path().join(inferbench_crds::layout::record_path(
            &first.record.trial_key,
        ));
        std::fs::write(&path, "half a rec").unwrap();
        assert!(!settled(&store, vec![STORED]).unwrap().reused);
        let aside = path.with_extension("json.corrupt-0");
        assert_eq!(std::fs::read_to_string(aside).unwrap(), "half a rec");
    }

    #[test]
    fn a_process_without_a_record_leaves_one_where_its_end_is_a_measurement() {
        for (ended, outcome, message) in [
            (
                Ended::OutOfMemory("killed".into()),
                Outcome::OutOfMemory,
                "killed",
            ),
            (
                Ended::Overdue,
                Outcome::TimedOut,
                "no answer when trialTimeout of 1.5 s was over; the process was ended",
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(
                &folder.path().display().to_string(),
                &StoreOptions::default(),
            );
            let record = settled(&store.unwrap(), vec![ended]).unwrap().record;
            assert_eq!(
                (record.outcome, record.message.as_deref()),
                (outcome, Some(message))
            );
        }
    }

    #[test]
    fn no_record_is_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(
            &folder.path().display().to_string(),
            &StoreOptions::default(),
        );
        let store = store.unwrap();
        let broke = Ended::Failed {
            message: "it broke".into(),
            permanent: true,
        };
        match settled(&store, vec![broke]).unwrap_err() {
            Unsettled::Failed { message, permanent } => {
                assert_eq!((message.as_str(), permanent), ("it broke", true));
            }
            other => panic!("{other:?}"),
        }
        let interrupted = settled(&store, vec![Ended::Interrupted]).unwrap_err();
        assert!(matches!(interrupted, Unsettled::Interrupted));
        assert!(store.list("trials").unwrap().is_empty());
    }
}

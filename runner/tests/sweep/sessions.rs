//! Sweeps in this process whose records are made in place of measurements, whatever else this machine is busy with, and
//! that are begun anew again and again.

use inferbench_crds::{file, spec::Dtype, validate::Scope};
use inferbench_engine::ceilings::{
    Ceilings, bandwidth::Bandwidth, matrix::Matrix, roofline::ModelShape,
};
use inferbench_results::{
    key::trial_key,
    record::{Request, TrialRecord},
};
use inferbench_runner::{
    machine::Machine,
    models::Need,
    store::{Store, records::store_record},
    sweep::{
        executor::{Ended, Executor, NoCeilings},
        prepared::Prepared,
        run::{Run, SweepEnding},
        stored::{LocalLedger, SweepFile},
    },
    trial::protocol::{Measure, StoreAt},
};

/// Makes the record of a trial by its request and index; none where it fails.
pub type Make<'a> = &'a dyn Fn(&Request, u32) -> Option<TrialRecord>;

/// Makes records in place of measurements.
struct Made<'a> {
    store: &'a Store,
    /// Trials before it is interrupted.
    left: usize,
    make: Make<'a>,
    begun: Vec<u32>,
}

impl Executor for Made<'_> {
    fn run(&mut self, ask: Measure) -> Ended {
        if self.left == 0 {
            return Ended::Interrupted;
        }
        self.left -= 1;
        let trial = ask.trial;
        self.begun.push(trial.trial_index);
        let Some(mut record) = (self.make)(&trial.request, trial.trial_index) else {
            return Ended::Failed {
                message: "it broke".into(),
                permanent: true,
            };
        };
        record.trial_key = trial_key(&trial.request, trial.attempt);
        record.request = trial.request;
        store_record(self.store, &record).unwrap();
        Ended::Stored { ceilings: None }
    }

    /// The ceilings of no machine.
    fn ceilings(&mut self, _: Dtype, _: ModelShape, _: u32) -> Result<Ceilings, NoCeilings> {
        Ok(Ceilings {
            bandwidth: Bandwidth {
                bytes_per_second: 1e10,
                kernel: "1 thread".into(),
                repeats: 3,
                buffer_bytes: 1 << 20,
                cache_bytes: None,
            },
            matrix: Matrix {
                flops_per_second: 1e11,
                product: "2x2x2".into(),
                repeats: 3,
                dtype: "f32".into(),
            },
            disturbed: Vec::new(),
        })
    }
}

/// The sweep of a spec that is valid.
pub fn prepared(spec: &str) -> Prepared {
    let resource = file::load(spec, "spec.yaml", Scope::Local)
        .unwrap()
        .remove(0);
    Prepared::new(&resource, Need::Config, &|_| None).unwrap()
}

/// A sweep into a folder, begun anew for every number of trials that it is let go on for: which trials each session has
/// begun. `make` has the number of the session first; `check` looks at the end of each, with the trials that it has begun.
pub fn sessions(
    sweep: &Prepared,
    cuts: &[usize],
    make: &dyn Fn(usize, &Request, u32) -> Option<TrialRecord>,
    mut check: impl FnMut(&Run<'_>, SweepEnding, &[u32], &Store),
) -> Vec<Vec<u32>> {
    let folder = tempfile::tempdir().unwrap();
    let at = StoreAt {
        target: folder.path().display().to_string(),
        ..StoreAt::default()
    };
    let (store, machine) = (Store::at(&at).unwrap(), Machine::look());
    let session = |(number, left): (usize, &usize)| {
        let (ledger, _) = LocalLedger::read(&store, sweep).unwrap();
        let mut run = Run::new(sweep, &store, &at, &machine, SweepFile::default(), ledger).unwrap();
        let mut executor = Made {
            store: &store,
            left: *left,
            make: &|request, index| make(number, request, index),
            begun: Vec::new(),
        };
        let ending = run.measure(&mut executor).unwrap();
        check(&run, ending, &executor.begun, &store);
        executor.begun
    };
    cuts.iter().enumerate().map(session).collect()
}

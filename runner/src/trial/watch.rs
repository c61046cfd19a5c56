//! The watch over a trial while it is measured: its processes, the machine's counters at the borders of the timed
//! window, telemetry, and other trials beside it.

use inferbench_engine::host::Cgroup;
use inferbench_results::record::{CpuTelemetry, Phase, Telemetry};

use crate::{
    machine::{
        Machine,
        activity::{Counters, Interval},
        processes::Processes,
    },
    process::lock::Presence,
    telemetry::Sampler,
};

/// The watch over one trial.
pub struct Watch<'a> {
    machine: &'a Machine,
    cgroup: &'a Cgroup,
    processes: Processes,
    presence: Option<Presence>,
    sampler: Sampler,
    opened: Option<Counters>,
    window: Interval,
    neighbours: u32,
}

/// The observations of a watch.
#[derive(Debug)]
pub struct Observed {
    /// For the record.
    pub telemetry: Telemetry,
    /// The activity in the timed window.
    pub window: Interval,
    /// Other trials on this machine at the same time.
    pub neighbours: u32,
    /// Samples of the processes in the timed window.
    pub samples: usize,
}

impl<'a> Watch<'a> {
    /// Begins before the engine is ready; until [`Watch::follow`] says otherwise, it is over these processes.
    #[must_use]
    pub fn start(
        machine: &'a Machine,
        cgroup: &'a Cgroup,
        processes: Processes,
        gpu_uuids: &[String],
    ) -> Self {
        let presence = Presence::enter().ok();
        processes.reset_peak_memory();
        Self {
            machine,
            cgroup,
            sampler: Sampler::start(processes.clone(), gpu_uuids),
            processes,
            presence,
            opened: None,
            window: Interval::default(),
            neighbours: 0,
        }
    }

    /// From now on it is over these processes.
    pub fn follow(&mut self, processes: Processes) {
        self.sampler.follow(processes.clone());
        self.processes = processes;
    }

    /// The timed window opens.
    pub fn open(&mut self) {
        self.count_neighbours();
        self.sampler.sample_now();
        self.opened = Some(self.counters());
    }

    /// The timed window has closed.
    pub fn close(&mut self) {
        let closed = self.counters();
        let opened = self.opened.as_ref();
        self.window = opened.map_or(self.window, |opened| opened.until(&closed));
        self.sampler.sample_now();
        self.count_neighbours();
    }

    /// Ends; the timed window had these borders, in ns since the Unix epoch.
    #[must_use]
    pub fn finish(self, (start, end): (i64, i64)) -> Observed {
        let mut telemetry = self.sampler.finish(start, end);
        telemetry.cpu = CpuTelemetry {
            cpu_time_s: Some(self.window.cpu_time_s),
            rss_peak_mib: self.processes.peak_memory_mib(),
            cpu_throttled_ms: self.window.throttled_ms,
            cpu_steal_pct: self.window.steal_pct,
            cpu_foreign_pct: self.window.foreign_pct,
            cpu_freq_mean_mhz: self.window.freq_mhz,
            numa_nodes: self.machine.numa_nodes,
            smt: self.machine.smt,
            concurrent_trials: Some(self.neighbours),
        };
        let samples = telemetry.samples.iter();
        let during = samples.filter(|s| s.phase == Phase::During && s.gpu_uuid.is_none());
        Observed {
            samples: during.count(),
            telemetry,
            window: self.window,
            neighbours: self.neighbours,
        }
    }

    fn counters(&self) -> Counters {
        Counters::read(&self.processes, self.cgroup, &self.machine.cpus)
    }

    fn count_neighbours(&mut self) {
        let others = self.presence.as_ref().map_or(0, Presence::others);
        self.neighbours = self.neighbours.max(others);
    }
}

//! The thread that samples.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

use inferbench_results::record::{CpuTelemetry, GpuTelemetry, Phase, Sample, Telemetry};

use super::{
    nvml::{GpuSample, Gpus},
    process::ProcessSample,
    series::Series,
};
use crate::machine::unix_ns;

/// The time between two samples. One costs some tens of microseconds of one CPU, so this is far below a thousandth.
pub const PERIOD: Duration = Duration::from_millis(100);

/// At most so many times are kept: nearly seven minutes at full rate, evenly thinned beyond.
const CAPACITY: usize = 4096;

/// What was read at one time.
#[derive(Clone, Debug)]
struct Tick {
    unix_ns: i64,
    process: ProcessSample,
    gpus: Vec<GpuSample>,
}

/// Samples until it is finished or dropped.
#[derive(Debug)]
pub struct Sampler {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    ticks: Arc<Mutex<Series<Tick>>>,
    gpus: Result<Arc<Gpus>, String>,
}

impl Sampler {
    /// Starts to sample this process and the GPUs with these UUIDs.
    #[must_use]
    pub fn start(gpu_uuids: &[String]) -> Self {
        let gpus = if gpu_uuids.is_empty() {
            Ok(Gpus::none())
        } else {
            Gpus::open(gpu_uuids)
        };
        let gpus = gpus.map(Arc::new);
        let ticks = Arc::new(Mutex::new(Series::new(CAPACITY)));
        let (stop, stopped) = mpsc::channel();
        let (thread_ticks, thread_gpus) = (Arc::clone(&ticks), gpus.clone().ok());
        let thread = std::thread::Builder::new()
            .name("telemetry".into())
            .spawn(move || {
                while matches!(stopped.recv_timeout(PERIOD), Err(RecvTimeoutError::Timeout)) {
                    take(&thread_ticks, thread_gpus.as_deref());
                }
            });
        let sampler = Self {
            stop: Some(stop),
            thread: thread.ok(),
            ticks,
            gpus,
        };
        sampler.sample_now();
        sampler
    }

    /// Takes a sample on the calling thread, so that the borders of the window have theirs.
    pub fn sample_now(&self) {
        take(&self.ticks, self.gpus.as_deref().ok());
    }

    /// Stops, and sums up the window from `start` to `end` (ns since the Unix epoch). The CPU fields are left to the
    /// caller, who has read exact counters at the window's borders.
    #[must_use]
    pub fn finish(mut self, start: i64, end: i64) -> Telemetry {
        self.sample_now();
        self.halt();
        let mut ticks = self.ticks.lock().unwrap_or_else(PoisonError::into_inner);
        let ticks = std::mem::replace(&mut *ticks, Series::new(2)).into_kept();
        let (gpus, missing) = match &self.gpus {
            Ok(gpus) => (summarise(gpus, &ticks, start, end), None),
            Err(why) => (Vec::new(), Some(why.clone())),
        };
        Telemetry {
            cpu: CpuTelemetry::default(),
            gpus,
            samples: ticks
                .iter()
                .flat_map(|tick| tick.samples(start, end))
                .collect(),
            gpu_telemetry_missing: missing,
        }
    }

    fn halt(&mut self) {
        // The thread takes the end of the channel as its stop.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.halt();
    }
}

/// How many samples a window needs for its figures to be believed: half of what the period promises, two at least
/// (its borders), and no more than thinning leaves for certain.
#[must_use]
pub fn min_samples(window: Duration) -> usize {
    let promised = (window.as_secs_f64() / PERIOD.as_secs_f64()) as usize;
    (promised / 2).clamp(2, CAPACITY / 8)
}

fn take(ticks: &Mutex<Series<Tick>>, gpus: Option<&Gpus>) {
    let tick = Tick {
        unix_ns: unix_ns(),
        process: ProcessSample::read(),
        gpus: gpus.map(Gpus::sample).unwrap_or_default(),
    };
    ticks
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(tick);
}

fn phase(unix_ns: i64, start: i64, end: i64) -> Phase {
    if unix_ns < start {
        Phase::Before
    } else if unix_ns <= end {
        Phase::During
    } else {
        Phase::After
    }
}

impl Tick {
    fn samples(&self, start: i64, end: i64) -> impl Iterator<Item = Sample> {
        let (unix_ns, phase) = (self.unix_ns, phase(self.unix_ns, start, end));
        let process = Sample {
            unix_ns,
            phase,
            gpu_uuid: None,
            mem_mib: self.process.rss_mib,
            cpu_time_s: Some(self.process.cpu_time_s),
            util_pct: None,
            power_w: None,
            sm_clock_mhz: None,
            temp_c: None,
        };
        let gpus = self.gpus.iter().map(move |gpu| Sample {
            unix_ns,
            phase,
            gpu_uuid: Some(gpu.uuid.clone()),
            mem_mib: gpu.mem_mib,
            cpu_time_s: None,
            util_pct: gpu.util_pct,
            power_w: gpu.power_w,
            sm_clock_mhz: gpu.sm_clock_mhz,
            temp_c: gpu.temp_c,
        });
        std::iter::once(process).chain(gpus)
    }
}

/// Each GPU over the window.
fn summarise(gpus: &Gpus, ticks: &[Tick], start: i64, end: i64) -> Vec<GpuTelemetry> {
    gpus.uuids()
        .iter()
        .enumerate()
        .map(|(index, uuid)| {
            let of = |wanted: Phase| {
                ticks
                    .iter()
                    .filter(move |tick| phase(tick.unix_ns, start, end) == wanted)
                    .filter_map(move |tick| tick.gpus.get(index))
            };
            let during: Vec<&GpuSample> = of(Phase::During).collect();
            let values = |field: fn(&GpuSample) -> Option<f64>| {
                during
                    .iter()
                    .filter_map(|sample| field(sample))
                    .collect::<Vec<f64>>()
            };
            let energy = values(|sample| sample.energy_j);
            let mut throttle: Vec<&str> = during
                .iter()
                .flat_map(|sample| sample.throttle.iter().map(String::as_str))
                .collect();
            throttle.sort_unstable();
            throttle.dedup();
            GpuTelemetry {
                uuid: uuid.clone(),
                util_mean_pct: mean(&values(|sample| sample.util_pct)),
                util_max_pct: max(&values(|sample| sample.util_pct)),
                mem_total_mib: during.iter().find_map(|sample| sample.mem_total_mib),
                mem_before_mib: of(Phase::Before).find_map(|sample| sample.mem_mib),
                mem_peak_mib: max(&values(|sample| sample.mem_mib)),
                mem_after_mib: of(Phase::After)
                    .filter_map(|sample| sample.mem_mib)
                    .next_back(),
                power_mean_w: mean(&values(|sample| sample.power_w)),
                energy_j: energy
                    .first()
                    .zip(energy.last())
                    .map(|(first, last)| last - first),
                sm_clock_mean_mhz: mean(&values(|sample| sample.sm_clock_mhz)),
                throttle_reasons: (!throttle.is_empty()).then(|| throttle.join("|")),
                foreign_processes: during
                    .iter()
                    .filter_map(|sample| sample.foreign_processes)
                    .max(),
            }
        })
        .collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn max(values: &[f64]) -> Option<f64> {
    values.iter().copied().reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_clips_the_samples() {
        let sampler = Sampler::start(&[]);
        let start = unix_ns();
        sampler.sample_now();
        sampler.sample_now();
        let end = unix_ns();
        std::thread::sleep(Duration::from_millis(2));
        let telemetry = sampler.finish(start, end);
        let count = |phase| {
            telemetry
                .samples
                .iter()
                .filter(|s| s.phase == phase)
                .count()
        };
        assert!(count(Phase::Before) >= 1);
        assert!(count(Phase::During) >= 2);
        assert!(count(Phase::After) >= 1);
        assert!(
            telemetry
                .samples
                .iter()
                .all(|s| s.cpu_time_s.is_some() && s.gpu_uuid.is_none())
        );
        assert_eq!(telemetry.gpu_telemetry_missing, None);
    }

    #[test]
    fn gpus_that_cannot_be_watched_leave_a_reason() {
        let telemetry = Sampler::start(&["GPU-no-such".into()]).finish(0, 1);
        assert!(telemetry.gpus.is_empty());
        assert!(telemetry.gpu_telemetry_missing.is_some());
    }

    #[test]
    fn a_window_needs_its_borders_at_least() {
        assert_eq!(min_samples(Duration::from_millis(10)), 2);
        assert_eq!(min_samples(Duration::from_secs(2)), 10);
        assert_eq!(min_samples(Duration::from_secs(36_000)), CAPACITY / 8);
    }
}

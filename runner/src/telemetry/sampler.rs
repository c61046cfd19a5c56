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
    nvml::{Reading, WatchedGpus},
    series::Series,
    window::{Span, TimedValue, TimedWindow},
};
use crate::machine::{
    processes::{Processes, Usage},
    unix_ns,
};

/// The time between two samples. One of the process costs some tens of microseconds of one CPU, so this is far below a
/// thousandth; what one of a GPU costs depends on its driver.
pub const PERIOD: Duration = Duration::from_millis(100);

/// The most times that are kept: nearly seven minutes at full rate, evenly thinned beyond.
const CAPACITY: usize = 4096;

/// The readings of one time.
#[derive(Clone, Debug)]
struct Tick {
    unix_ns: i64,
    process: Usage,
    gpus: Vec<Reading>,
}

/// The samples so far.
#[derive(Debug)]
struct Taken {
    /// The processes that are sampled.
    processes: Processes,
    ticks: Series<Tick>,
    /// For each GPU the periods of the driver's buffer, which come at times of their own.
    utilization: Vec<Series<Span>>,
}

/// Samples until it is finished or dropped.
#[derive(Debug)]
pub struct Sampler {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    taken: Arc<Mutex<Taken>>,
    gpus: Result<Arc<WatchedGpus>, String>,
}

impl Sampler {
    /// Starts to sample these processes and the GPUs with these UUIDs.
    #[must_use]
    pub fn start(processes: Processes, gpu_uuids: &[String]) -> Self {
        let gpus = if gpu_uuids.is_empty() {
            Ok(WatchedGpus::default())
        } else {
            WatchedGpus::open(gpu_uuids)
        };
        Self::of(processes, gpus)
    }

    /// Starts to sample these processes and GPUs, or says at the end why there are none.
    fn of(processes: Processes, gpus: Result<WatchedGpus, String>) -> Self {
        let gpus = gpus.map(Arc::new);
        let count = gpus.as_ref().map_or(0, |gpus| gpus.uuids().len());
        let taken = Arc::new(Mutex::new(Taken {
            processes,
            ticks: Series::new(CAPACITY),
            utilization: vec![Series::new(CAPACITY); count],
        }));
        let (stop, stopped) = mpsc::channel();
        let (thread_taken, thread_gpus) = (Arc::clone(&taken), gpus.clone().ok());
        let thread = std::thread::Builder::new()
            .name("telemetry".into())
            .spawn(move || {
                while matches!(stopped.recv_timeout(PERIOD), Err(RecvTimeoutError::Timeout)) {
                    take(&thread_taken, thread_gpus.as_deref(), Series::push);
                }
            });
        let sampler = Self {
            stop: Some(stop),
            thread: thread.ok(),
            taken,
            gpus,
        };
        sampler.sample_now();
        sampler
    }

    /// Takes a sample on the calling thread, so that the borders of the window have theirs.
    pub fn sample_now(&self) {
        take(&self.taken, self.gpus.as_deref().ok(), Series::insist);
    }

    /// From now on samples these processes.
    pub fn follow(&self, processes: Processes) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.processes = processes;
    }

    /// Stops, and sums up the window from `start` to `end` (ns since the Unix epoch). The CPU fields are left to the
    /// caller, who has read exact counters at the window's borders.
    #[must_use]
    pub fn finish(mut self, start: i64, end: i64) -> Telemetry {
        self.sample_now();
        self.halt();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ticks = std::mem::replace(&mut taken.ticks, Series::new(2)).into_kept();
        // Two threads take samples.
        ticks.sort_by_key(|tick| tick.unix_ns);
        let utilization: Vec<Vec<Span>> = std::mem::take(&mut taken.utilization)
            .into_iter()
            .map(Series::into_kept)
            .collect();
        let window = TimedWindow { start, end };
        let mut samples: Vec<Sample> = ticks.iter().flat_map(|tick| tick.samples(window)).collect();
        let mut gpus = Vec::new();
        let mut missing: Vec<String> = Vec::new();
        match &self.gpus {
            Err(why) => missing.push(why.clone()),
            Ok(watched) => {
                for (at, (uuid, periods)) in watched.uuids().iter().zip(&utilization).enumerate() {
                    samples.extend(periods.iter().map(|period| Sample {
                        util_pct: Some(period.value),
                        ..sample(period.to_ns, window, Some(uuid))
                    }));
                    let mut readings: Vec<(i64, &Reading)> = ticks
                        .iter()
                        .filter_map(|tick| tick.gpus.get(at))
                        .map(|reading| (reading.unix_ns, reading))
                        .collect();
                    readings.sort_by_key(|(at, _)| *at);
                    let (gpu, why) = summarise(uuid, &readings, periods, window);
                    gpus.push(gpu);
                    missing.extend(why);
                }
            }
        }
        samples.sort_by_key(|sample| sample.unix_ns);
        Telemetry {
            cpu: CpuTelemetry::default(),
            gpus,
            samples,
            gpu_telemetry_missing: (!missing.is_empty()).then(|| missing.join("; ")),
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

fn take(taken: &Mutex<Taken>, gpus: Option<&WatchedGpus>, keep: fn(&mut Series<Tick>, Tick)) {
    let lock = || taken.lock().unwrap_or_else(PoisonError::into_inner);
    let processes = lock().processes.clone();
    let mut tick = Tick {
        unix_ns: unix_ns(),
        process: processes.usage(),
        gpus: gpus.map(|gpus| gpus.read(&processes)).unwrap_or_default(),
    };
    let mut taken = lock();
    for (reading, periods) in tick.gpus.iter_mut().zip(&mut taken.utilization) {
        for period in reading.utilization.drain(..) {
            periods.push(period);
        }
    }
    keep(&mut taken.ticks, tick);
}

/// A sample in which nothing is known yet.
fn sample(unix_ns: i64, window: TimedWindow, gpu_uuid: Option<&str>) -> Sample {
    Sample {
        unix_ns,
        phase: if unix_ns < window.start {
            Phase::Before
        } else if unix_ns <= window.end {
            Phase::During
        } else {
            Phase::After
        },
        gpu_uuid: gpu_uuid.map(str::to_owned),
        mem_mib: None,
        cpu_time_s: None,
        util_pct: None,
        dram_active_pct: None,
        tensor_active_pct: None,
        power_w: None,
        sm_clock_mhz: None,
        mem_clock_mhz: None,
        temp_c: None,
    }
}

impl Tick {
    fn samples(&self, window: TimedWindow) -> impl Iterator<Item = Sample> {
        let process = Sample {
            mem_mib: self.process.rss_mib,
            cpu_time_s: Some(self.process.cpu_time.as_secs_f64()),
            ..sample(self.unix_ns, window, None)
        };
        let gpus = self.gpus.iter().map(move |gpu| Sample {
            mem_mib: gpu.mem_mib,
            util_pct: gpu.util_pct,
            dram_active_pct: gpu.dram_active.map(|span| span.value),
            tensor_active_pct: gpu.tensor_active.map(|span| span.value),
            power_w: gpu.power_w,
            sm_clock_mhz: gpu.sm_clock_mhz,
            mem_clock_mhz: gpu.mem_clock_mhz,
            temp_c: gpu.temp_c,
            ..sample(gpu.unix_ns, window, Some(&gpu.uuid))
        });
        std::iter::once(process).chain(gpus)
    }
}

/// A GPU over the window, from its readings in the order of their times and the periods of the driver's buffer; and why
/// nothing is known of the window, where that is so.
fn summarise(
    uuid: &str,
    readings: &[(i64, &Reading)],
    periods: &[Span],
    window: TimedWindow,
) -> (GpuTelemetry, Option<String>) {
    let points = |field: fn(&Reading) -> Option<f64>| -> Vec<TimedValue> {
        readings
            .iter()
            .filter_map(|(at, reading)| Some((*at, field(reading)?)))
            .collect()
    };
    let spans = |field: fn(&Reading) -> Option<Span>| -> Vec<Span> {
        readings
            .iter()
            .filter_map(|(_, reading)| field(reading))
            .collect()
    };
    let memory = points(|reading| reading.mem_mib);
    let known = GpuTelemetry {
        uuid: uuid.to_owned(),
        mem_total_mib: readings
            .iter()
            .find_map(|(_, reading)| reading.mem_total_mib),
        mem_before_mib: memory
            .first()
            .filter(|(at, _)| *at < window.start)
            .map(|(_, used)| *used),
        mem_after_mib: memory
            .last()
            .filter(|(at, _)| *at > window.end)
            .map(|(_, used)| *used),
        ..GpuTelemetry::default()
    };
    let around = window.around(readings);
    // Readings of a part of the window say nothing of the whole.
    if let Some(why) = around
        .iter()
        .find_map(|(_, reading)| reading.lost.as_deref())
    {
        return (known, Some(why.to_owned()));
    }
    if around.iter().all(|(_, reading)| reading.mem_mib.is_none()) {
        let why = format!("NVML: {uuid}: not even its memory could be read in the timed window");
        return (known, Some(why));
    }
    let mean = |field: fn(&Reading) -> Option<f64>| window.mean(&points(field));
    let (util_mean_pct, util_max_pct) = if periods.is_empty() {
        let polled = points(|reading| reading.util_pct);
        (window.mean(&polled), window.max(&polled))
    } else {
        (window.mean_of_spans(periods), window.max_of_spans(periods))
    };
    let energy_j = window.rise(&points(|reading| reading.energy_j));
    let window_s = (window.end - window.start) as f64 / 1e9;
    let mut reasons: Vec<&str> = around
        .iter()
        .filter_map(|(_, reading)| reading.throttle.as_deref())
        .flatten()
        .map(String::as_str)
        .collect();
    reasons.sort_unstable();
    reasons.dedup();
    let told = around.iter().any(|(_, reading)| reading.throttle.is_some());
    let gpu = GpuTelemetry {
        util_mean_pct,
        util_max_pct,
        dram_active_mean_pct: window.mean_of_spans(&spans(|reading| reading.dram_active)),
        tensor_active_mean_pct: window.mean_of_spans(&spans(|reading| reading.tensor_active)),
        mem_peak_mib: window.max(&memory),
        // The counter knows every moment; readings are some, and may be averages over a second.
        power_mean_w: energy_j
            .map(|energy| energy / window_s)
            .or_else(|| mean(|reading| reading.power_w)),
        energy_j,
        sm_clock_mean_mhz: mean(|reading| reading.sm_clock_mhz),
        mem_clock_mean_mhz: mean(|reading| reading.mem_clock_mhz),
        temp_max_c: window.max(&points(|reading| reading.temp_c)),
        throttle_reasons: told.then(|| reasons.join("|")),
        foreign_processes: around
            .iter()
            .filter_map(|(_, reading)| reading.foreign_processes)
            .max(),
        ..known
    };
    (gpu, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_clips_the_samples() {
        let sampler = Sampler::start(Processes::of_this_one(), &[]);
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

    /// The telemetry of a window of 300 ms on these GPUs of the stand-in.
    fn window_on(uuids: &[&str]) -> Option<(Telemetry, TimedWindow)> {
        let sampler = Sampler::of(Processes::of_this_one(), super::super::fake::open(uuids)?);
        std::thread::sleep(Duration::from_millis(50));
        sampler.sample_now();
        let start = unix_ns();
        std::thread::sleep(Duration::from_millis(300));
        let end = unix_ns();
        std::thread::sleep(Duration::from_millis(50));
        Some((sampler.finish(start, end), TimedWindow { start, end }))
    }

    #[test]
    fn figures_are_those_of_the_window() {
        let Some((telemetry, window)) = window_on(&["GPU-buffer-gpm-hot", "MIG-window"]) else {
            return;
        };
        assert_eq!(telemetry.gpu_telemetry_missing, None);
        let [gpu, slice] = &telemetry.gpus[..] else {
            panic!("{:?}", telemetry.gpus)
        };
        assert_eq!(
            (gpu.uuid.as_str(), slice.uuid.as_str()),
            ("GPU-buffer-gpm-hot", "MIG-window")
        );
        let close = |found: Option<f64>, expected: f64, relative: f64| {
            let found = found.unwrap();
            assert!(
                (found / expected - 1.0).abs() < relative,
                "{found}, not {expected}"
            );
        };
        // A reading is away from the time that it carries as far as a busy machine makes it; unclipped it were a third.
        let window_s = (window.end - window.start) as f64 * 1e-9;
        close(gpu.energy_j, 250.0 * window_s, 0.2);
        close(gpu.power_mean_w, 250.0, 0.2);
        close(slice.power_mean_w, 250.0, 0.2);
        // Periods of 100 % and 40 % in turns, the first and the last one clipped.
        close(gpu.util_mean_pct, 70.0, 0.1);
        assert_eq!((gpu.util_max_pct, slice.util_mean_pct), (Some(100.0), None));
        close(gpu.dram_active_mean_pct, 80.0, 1e-9);
        close(gpu.tensor_active_mean_pct, 25.0, 1e-9);
        close(slice.dram_active_mean_pct, 60.0, 1e-9);
        close(gpu.sm_clock_mean_mhz, 1755.0, 1e-9);
        close(gpu.mem_clock_mean_mhz, 2619.0, 1e-9);
        assert_eq!(gpu.temp_max_c, Some(61.0));
        assert_eq!(
            (gpu.mem_before_mib, gpu.mem_peak_mib, gpu.mem_after_mib),
            (Some(1024.0), Some(1024.0), Some(1024.0))
        );
        assert_eq!(
            gpu.throttle_reasons.as_deref(),
            Some("hw_thermal_slowdown|sw_thermal_slowdown")
        );
        assert_eq!(slice.throttle_reasons.as_deref(), Some(""));
        assert_eq!(
            (gpu.foreign_processes, slice.foreign_processes),
            (Some(2), Some(0))
        );

        // In the order of their times, each in its phase, drained periods as samples of their own.
        assert!(telemetry.samples.is_sorted_by_key(|sample| sample.unix_ns));
        for phase in [Phase::Before, Phase::During, Phase::After] {
            let of = |uuid: Option<&str>| {
                let found = |s: &&Sample| s.phase == phase && s.gpu_uuid.as_deref() == uuid;
                telemetry.samples.iter().filter(found).count()
            };
            assert!(
                of(None) > 0 && of(Some(&gpu.uuid)) > of(Some(&slice.uuid)),
                "{phase:?}"
            );
        }
    }

    #[test]
    fn a_gpu_that_was_lost_has_no_figures_and_a_reason() {
        // Read before the window, then lost in it; the other one stays.
        let Some((telemetry, _)) = window_on(&["GPU-lost2-window", "GPU-plain-window"]) else {
            return;
        };
        let why = telemetry.gpu_telemetry_missing.unwrap();
        assert!(
            why.contains("GPU-lost2-window: device fell off the bus") && !why.contains("plain"),
            "{why}"
        );
        let [lost, other] = &telemetry.gpus[..] else {
            panic!("{:?}", telemetry.gpus)
        };
        assert_eq!(
            (lost.mem_before_mib, lost.mem_total_mib),
            (Some(1024.0), Some(81_920.0))
        );
        let unknown = [
            lost.energy_j,
            lost.power_mean_w,
            lost.util_mean_pct,
            lost.mem_peak_mib,
            lost.mem_after_mib,
        ];
        assert_eq!(unknown, [None; 5]);
        assert_eq!(lost.throttle_reasons, None);
        assert!(other.energy_j.is_some() && other.util_mean_pct == Some(42.0));
    }

    #[test]
    fn a_gpu_lost_after_the_window_keeps_its_figures() {
        let reading = |unix_ns: i64, mem_mib: Option<f64>| Reading {
            unix_ns,
            mem_mib,
            energy_j: mem_mib.map(|_| unix_ns as f64),
            lost: mem_mib.is_none().then(|| "lost".into()),
            ..Reading::default()
        };
        let window = TimedWindow { start: 10, end: 20 };
        let figures = |readings: &[Reading]| {
            let readings: Vec<(i64, &Reading)> = readings.iter().map(|r| (r.unix_ns, r)).collect();
            summarise("GPU-x", &readings, &[], window)
        };
        let mut readings = vec![
            reading(0, Some(1.0)),
            reading(15, Some(9.0)),
            reading(25, Some(2.0)),
        ];
        readings.push(reading(30, None));
        let (gpu, why) = figures(&readings);
        assert_eq!(
            (why, gpu.energy_j, gpu.mem_peak_mib),
            (None, Some(10.0), Some(9.0))
        );
        let (gpu, why) = figures(&readings[3..]);
        assert_eq!((why.as_deref(), gpu.energy_j), (Some("lost"), None));
        let (_, why) = figures(&[]);
        assert!(why.unwrap().contains("GPU-x: not even its memory"));
    }

    #[test]
    fn energy_that_does_not_rise_is_unknown_and_power_is_read() {
        let readings: Vec<Reading> = (0..5)
            .map(|at| Reading {
                unix_ns: 10 * at,
                mem_mib: Some(1.0),
                energy_j: Some(7.0),
                power_w: Some(100.0 + 10.0 * at as f64),
                ..Reading::default()
            })
            .collect();
        let readings: Vec<(i64, &Reading)> = readings.iter().map(|r| (r.unix_ns, r)).collect();
        let (gpu, _) = summarise("GPU-x", &readings, &[], TimedWindow { start: 10, end: 30 });
        assert_eq!((gpu.energy_j, gpu.power_mean_w), (None, Some(120.0)));
        assert_eq!(gpu.throttle_reasons, None);
    }

    #[test]
    fn gpus_that_cannot_be_watched_leave_a_reason() {
        let telemetry =
            Sampler::start(Processes::of_this_one(), &["GPU-no-such".into()]).finish(0, 1);
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

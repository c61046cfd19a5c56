//! The activity on this machine between two times: counters of the CPUs and of the processes that are measured, and
//! which of it disturbs a measurement. Every disturbance carries its figure, so that a reader can judge anew.

use std::{
    fs,
    time::{Duration, Instant},
};

use inferbench_engine::host::Cgroup;

use super::processes::{Processes, own_cpu_time};

/// The quota may stop the process for this share of the window, in percent.
pub const MAX_THROTTLED_PCT: f64 = 1.0;
/// The hypervisor may give this share of the CPUs' time to others, in percent.
pub const MAX_STEAL_PCT: f64 = 5.0;
/// Other processes may take this share of the CPU time that the compute threads need, in percent.
pub const MAX_FOREIGN_PCT: f64 = 10.0;
/// The kernel counts CPU time in ticks of 10 ms; sums over a window can be off by two.
const TICK_ERROR: Duration = Duration::from_millis(20);

/// Counters of the machine at one time.
#[derive(Clone, Debug)]
pub struct Counters {
    at: Instant,
    /// CPU time of the processes that are measured, and of this one where it is none of them.
    measured_cpu: Duration,
    beside_cpu: Duration,
    throttled: Option<Duration>,
    ticks: Option<Ticks>,
    freq_mhz: Option<f64>,
}

/// Time of the CPUs that the process may use since boot, in clock ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ticks {
    total: u64,
    busy: u64,
    steal: u64,
}

/// The activity between two readings of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Interval {
    /// How long, in s.
    pub wall_s: f64,
    /// CPU time of the processes that are measured, in s.
    pub cpu_time_s: f64,
    /// Time that the quota stopped its threads, in ms.
    pub throttled_ms: Option<f64>,
    /// Share of the CPUs' time that the hypervisor gave to others, in percent.
    pub steal_pct: Option<f64>,
    /// Share of the CPUs' time that neither they nor this process took, in percent.
    pub foreign_pct: Option<f64>,
    /// Mean clock of the CPUs, in MHz.
    pub freq_mhz: Option<f64>,
}

impl Counters {
    /// Reads the counters of the CPUs that this process may use; `measured` are the processes that a measurement is
    /// about.
    #[must_use]
    pub fn read(measured: &Processes, cgroup: &Cgroup, cpus: &[usize]) -> Self {
        let stat = fs::read_to_string("/proc/stat").ok();
        Self {
            at: Instant::now(),
            measured_cpu: measured.usage_now().cpu_time,
            beside_cpu: if measured.hold_this_one() {
                Duration::ZERO
            } else {
                own_cpu_time()
            },
            throttled: cgroup.throttled(),
            ticks: stat.and_then(|text| parse_ticks(&text, cpus)),
            freq_mhz: frequency(cpus),
        }
    }

    /// The activity from these counters to later ones.
    #[must_use]
    pub fn until(&self, later: &Self) -> Interval {
        let wall_s = later.at.duration_since(self.at).as_secs_f64();
        let rise = |a: Duration, b: Duration| b.saturating_sub(a).as_secs_f64();
        let cpu_time_s = rise(self.measured_cpu, later.measured_cpu);
        let own_s = cpu_time_s + rise(self.beside_cpu, later.beside_cpu);
        let throttled = later
            .throttled
            .zip(self.throttled)
            .map(|(b, a)| b.saturating_sub(a));
        let ticks = later
            .ticks
            .zip(self.ticks)
            .map(|(b, a)| b.since(a))
            .filter(|t| t.total > 0);
        let mean = |values: &[Option<f64>]| {
            let known: Vec<f64> = values.iter().flatten().copied().collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        };
        Interval {
            wall_s,
            cpu_time_s,
            throttled_ms: throttled.map(|time| time.as_secs_f64() * 1e3),
            steal_pct: ticks.map(|t| 100.0 * t.steal as f64 / t.total as f64),
            foreign_pct: ticks.map(|t| t.foreign_pct(own_s)),
            freq_mhz: mean(&[self.freq_mhz, later.freq_mhz]),
        }
    }
}

impl Ticks {
    fn since(self, earlier: Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            busy: self.busy.saturating_sub(earlier.busy),
            steal: self.steal.saturating_sub(earlier.steal),
        }
    }

    fn foreign_pct(self, own_cpu_s: f64) -> f64 {
        // SAFETY: sysconf takes a number and returns one.
        let per_s = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        let own = own_cpu_s * per_s;
        (100.0 * (self.busy as f64 - own) / self.total as f64).max(0.0)
    }
}

/// The sums over some CPUs in the text of /proc/stat; none where a CPU is missing.
fn parse_ticks(stat: &str, cpus: &[usize]) -> Option<Ticks> {
    let mut sum = Ticks::default();
    for cpu in cpus {
        let prefix = format!("cpu{cpu} ");
        let line = stat.lines().find_map(|line| line.strip_prefix(&prefix))?;
        let fields: Vec<u64> = line
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; guest time is inside user.
        let [user, nice, system, _, _, irq, softirq, steal, ..] = fields[..] else {
            return None;
        };
        sum.total += fields[..8].iter().sum::<u64>();
        sum.busy += user + nice + system + irq + softirq;
        sum.steal += steal;
    }
    Some(sum)
}

/// The mean clock now, in MHz: from the frequency driver, else from /proc/cpuinfo.
fn frequency(cpus: &[usize]) -> Option<f64> {
    let mean = |values: Vec<f64>| {
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let scaling = cpus.iter().filter_map(|cpu| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq");
        Some(fs::read_to_string(path).ok()?.trim().parse::<f64>().ok()? / 1e3)
    });
    mean(scaling.collect()).or_else(|| {
        let text = fs::read_to_string("/proc/cpuinfo").ok()?;
        let clocks = text.lines().filter(|line| line.starts_with("cpu MHz"));
        mean(
            clocks
                .filter_map(|line| line.split_once(':')?.1.trim().parse().ok())
                .collect(),
        )
    })
}

/// The disturbances that took CPU time from `threads` computing threads on `cpus` CPUs in a window; empty where it was
/// quiet.
#[must_use]
pub fn disturbances(window: &Interval, threads: u32, cpus: u32) -> Vec<String> {
    let mut reasons = Vec::new();
    let wall_s = window.wall_s.max(f64::MIN_POSITIVE);
    let tick_pct = 100.0 * TICK_ERROR.as_secs_f64() / wall_s;
    if let Some(ms) = window.throttled_ms {
        let pct = 100.0 * ms / 1e3 / wall_s;
        if pct > MAX_THROTTLED_PCT {
            reasons.push(format!(
                "the CPU quota stopped the process for {ms:.0} ms, {pct:.1} % of the window (at most {MAX_THROTTLED_PCT} %)"
            ));
        }
    }
    if let Some(pct) = window
        .steal_pct
        .filter(|pct| *pct > MAX_STEAL_PCT + tick_pct)
    {
        reasons.push(format!(
            "the hypervisor gave {pct:.1} % of the CPU time to others (at most {MAX_STEAL_PCT} %)"
        ));
    }
    if let Some(pct) = window
        .foreign_pct
        .and_then(|pct| displaced_pct(pct, threads, cpus))
        && pct > MAX_FOREIGN_PCT + tick_pct
    {
        reasons.push(format!(
            "other processes took {pct:.1} % of the CPU time that was needed (at most {MAX_FOREIGN_PCT} %)"
        ));
    }
    reasons
}

/// The part of foreign CPU time, in percent of what the compute threads need, that did not find room on CPUs that
/// those threads leave free.
fn displaced_pct(foreign_pct: f64, threads: u32, cpus: u32) -> Option<f64> {
    let needed = f64::from(threads.min(cpus)) / f64::from(cpus);
    (needed > 0.0).then(|| (foreign_pct - 100.0 * (1.0 - needed)).max(0.0) / needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_work_on_cpus_that_are_left_free_does_not_count() {
        assert_eq!(displaced_pct(25.0, 6, 8), Some(0.0));
        assert_eq!(displaced_pct(50.0, 8, 8), Some(50.0));
        assert_eq!(displaced_pct(75.0, 4, 8), Some(50.0));
    }

    #[test]
    fn ticks_of_the_allowed_cpus_only() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 1 2 100 5 1 1 4 0 0\ncpu1 20 0 0 0 0 0 0 0 0 0\n\
                    cpu10 7 7 7 7 7 7 7 7 0 0\nintr 5\n";
        assert_eq!(
            parse_ticks(stat, &[0]),
            Some(Ticks {
                total: 124,
                busy: 15,
                steal: 4
            })
        );
        assert_eq!(
            parse_ticks(stat, &[0, 1]),
            Some(Ticks {
                total: 144,
                busy: 35,
                steal: 4
            })
        );
        assert_eq!(parse_ticks(stat, &[2]), None);
    }

    #[test]
    fn the_counters_of_this_machine_can_be_read() {
        let cgroup = Cgroup::of_this_process();
        let own = Processes::of_this_one();
        let before = Counters::read(&own, &cgroup, &[]);
        let mut x = 1_u64;
        while before.measured_cpu == own.usage().cpu_time {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let interval = before.until(&Counters::read(&own, &cgroup, &[]));
        assert!(interval.wall_s > 0.0 && interval.cpu_time_s > 0.0);
        // No CPUs, nothing to take from them.
        assert_eq!(interval.steal_pct, None);
    }
}

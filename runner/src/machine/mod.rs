//! This machine: processor, memory, name, operating system, and the CPUs that this process may use.

pub mod activity;
pub mod ceilings;
pub mod processes;
pub mod quiet;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use inferbench_crds::contract::NODE_VARIABLE;
use inferbench_engine::{gpu::Gpu, host::Cgroup};
use sha2::{Digest, Sha256};

/// The machine, as far as a record tells of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// The node's name (`INFERBENCH_NODE`), else the host's.
    pub node: String,
    /// The distribution and the kernel.
    pub os: Option<String>,
    /// The CPUs that this process may use.
    pub cpus: Vec<usize>,
    /// The NUMA nodes that they belong to.
    pub numa_nodes: Option<u32>,
    /// Whether two of them share a core.
    pub smt: Option<bool>,
    /// The memory that this process may use, in bytes: the machine's, or its control group's limit.
    pub memory: Option<u64>,
    /// Its GPUs, as far as this process has had to look at them.
    pub gpus: Gpus,
}

/// The GPUs, from the first on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gpus {
    /// Each of them.
    pub all: Vec<Gpu>,
    /// The driver's version.
    pub driver: Option<String>,
    /// The version of CUDA that the driver brings.
    pub cuda: Option<String>,
}

impl Machine {
    /// Looks at the machine.
    #[must_use]
    pub fn look() -> Self {
        let cpus = allowed_cpus();
        let total = fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|text| mem_total(&text));
        let limit = Cgroup::of_this_process().memory_limit();
        Self {
            cpu: cpu_name(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            node: node_name(),
            os: os_name(),
            numa_nodes: numa_nodes(&cpus),
            smt: smt(&cpus),
            cpus,
            memory: [total, limit].into_iter().flatten().min(),
            gpus: Gpus::default(),
        }
    }
}

/// A name for this process that no other one shares: the node, its boot, the process' number and its start, hashed.
#[must_use]
pub fn process_id(node: &str) -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let pid = std::process::id();
    let start = start_ticks().unwrap_or_default();
    let text = format!("{node}/{}/{pid}/{start}", boot.trim());
    Sha256::digest(text)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// How long ago this process started; the clock behind it ticks every 10 ms.
#[must_use]
pub fn since_process_start() -> Option<Duration> {
    // SAFETY: sysconf takes a number and returns one; timespec is plain data that clock_gettime fills.
    let (ticks_per_s, now) = unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now);
        (libc::sysconf(libc::_SC_CLK_TCK), now)
    };
    let start = Duration::from_secs_f64(start_ticks()? as f64 / ticks_per_s as f64);
    let now = Duration::new(now.tv_sec.try_into().ok()?, now.tv_nsec.try_into().ok()?);
    now.checked_sub(start)
}

/// Bytes in GiB.
#[must_use]
pub fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// An amount of memory for people: `31 MiB`, `1.50 GiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    match gib(bytes) {
        gib if gib < 1.0 => format!("{:.0} MiB", gib * 1_024.0),
        gib => format!("{gib:.2} GiB"),
    }
}

/// Nanoseconds since the Unix epoch.
#[must_use]
pub fn unix_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The CPUs that this process may use; all of them where the kernel does not say.
fn allowed_cpus() -> Vec<usize> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let listed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .map(|list| parse_list(list.trim()))
        .unwrap_or_default();
    // The list can name CPUs that the machine could have but has not.
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let online: BTreeSet<usize> = parse_list(online.trim()).into_iter().collect();
    let allowed: Vec<usize> = listed
        .into_iter()
        .filter(|cpu| online.is_empty() || online.contains(cpu))
        .collect();
    if allowed.is_empty() {
        (0..std::thread::available_parallelism().map_or(1, Into::into)).collect()
    } else {
        allowed
    }
}

/// `0-3,8` as numbers; what is not one is left out.
fn parse_list(list: &str) -> Vec<usize> {
    list.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
        })
        .flatten()
        .collect()
}

fn cpu_name(cpuinfo: &str) -> String {
    ["model name", "Hardware", "CPU part"]
        .iter()
        .find_map(|key| {
            let line = cpuinfo.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn node_name() -> String {
    std::env::var(NODE_VARIABLE)
        .ok()
        .or_else(|| fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".into())
}

fn os_name() -> Option<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let name = name.map_or("Linux", |name| name.trim_matches('"'));
    Some(format!("{name}, kernel {}", kernel.trim()))
}

/// The bytes that a line of /proc gives in kB, such as `MemTotal:       24605628 kB`.
pub(crate) fn kib_line(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

fn mem_total(meminfo: &str) -> Option<u64> {
    kib_line(meminfo, "MemTotal:")
}

fn numa_nodes(cpus: &[usize]) -> Option<u32> {
    let mut nodes = 0;
    for entry in fs::read_dir("/sys/devices/system/node").ok()?.flatten() {
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.strip_prefix("node")) else {
            continue;
        };
        if number.parse::<u32>().is_err() {
            continue;
        }
        let list = fs::read_to_string(entry.path().join("cpulist")).unwrap_or_default();
        nodes += u32::from(parse_list(list.trim()).iter().any(|cpu| cpus.contains(cpu)));
    }
    (nodes > 0).then_some(nodes)
}

fn smt(cpus: &[usize]) -> Option<bool> {
    let mut known = false;
    for cpu in cpus {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let Ok(list) = fs::read_to_string(Path::new(&path)) else {
            continue;
        };
        known = true;
        if parse_list(list.trim())
            .iter()
            .any(|sibling| sibling != cpu && cpus.contains(sibling))
        {
            return Some(true);
        }
    }
    known.then_some(false)
}

/// The start of this process in clock ticks since boot: field 22 of its stat, counted behind the name, which may
/// itself hold spaces and brackets.
fn start_ticks() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_list("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(parse_list("5"), [5]);
        assert_eq!(parse_list(""), [0; 0]);
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(
            mem_total("MemTotal:       24605628 kB\nMemFree: 1 kB\n"),
            Some(24_605_628 * 1024)
        );
    }

    #[test]
    fn the_processor_is_named_on_x86_and_arm() {
        assert_eq!(
            cpu_name("processor : 0\nmodel name\t: AMD EPYC 9B14\n"),
            "AMD EPYC 9B14"
        );
        assert_eq!(cpu_name("processor : 0\nCPU part\t: 0xd40\n"), "0xd40");
    }

    #[test]
    fn this_machine_has_cpus_memory_and_a_start() {
        let machine = Machine::look();
        assert!(!machine.cpus.is_empty());
        assert!(machine.memory.is_none_or(|bytes| bytes > 1 << 20));
        assert!(since_process_start().is_some());
        assert_eq!(process_id("a"), process_id("a"));
        assert_ne!(process_id("a"), process_id("b"));
    }
}

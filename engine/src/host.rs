//! The memory that the machine has to give, and the control group that bounds it.

mod cgroup;

use std::fs::read_to_string;

pub use self::cgroup::Cgroup;

/// Bytes of memory that this process can still take: what the system has available, or what its
/// control group allows where that is less. None where the system does not say.
pub fn available_memory() -> Option<u64> {
    let system = read_to_string("/proc/meminfo").ok();
    let system = system.as_deref().and_then(mem_available);
    let group = Cgroup::of_this_process().memory_available();
    match (system, group) {
        (Some(system), Some(group)) => Some(system.min(group)),
        (system, group) => system.or(group),
    }
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_kibibytes() {
        let text = "MemTotal:       24000000 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(mem_available(text), Some(20_000_000 * 1024));
        assert_eq!(mem_available("MemTotal: 1 kB\n"), None);
    }
}

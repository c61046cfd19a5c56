//! The memory that the machine has to give.

use std::fs::read_to_string;

/// Bytes of memory that this process can still take: what the system has available, or what its
/// control group allows where that is less. None where the system does not say.
pub fn available_memory() -> Option<u64> {
    let system = read_to_string("/proc/meminfo").ok();
    let system = system.as_deref().and_then(mem_available);
    let group = || {
        let path = read_to_string("/proc/self/cgroup").ok()?;
        let path = path.lines().find_map(|line| line.strip_prefix("0::"))?;
        let read = |file: &str| {
            // Inside a container the group's own files lie at the root.
            read_to_string(format!("/sys/fs/cgroup{path}/{file}"))
                .or_else(|_| read_to_string(format!("/sys/fs/cgroup/{file}")))
                .ok()
        };
        group_available(
            &read("memory.max")?,
            &read("memory.current")?,
            &read("memory.stat")?,
        )
    };
    match (system, group()) {
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

/// The limit less what is used, of which file pages that nobody touched lately can be had back.
fn group_available(max: &str, current: &str, stat: &str) -> Option<u64> {
    let max: u64 = max.trim().parse().ok()?;
    let current: u64 = current.trim().parse().ok()?;
    let reclaimable: u64 = stat
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file "))
        .and_then(|v| v.trim().parse().ok())
        .unwrap_or(0);
    Some(max.saturating_sub(current.saturating_sub(reclaimable)))
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

    #[test]
    fn a_group_without_a_limit_says_nothing() {
        assert_eq!(group_available("max\n", "5\n", ""), None);
        let stat = "anon 700\ninactive_file 200\n";
        assert_eq!(group_available("1000\n", "900\n", stat), Some(300));
        assert_eq!(group_available("1000\n", "5000\n", ""), Some(0));
    }
}

//! The size of this machine's last cache, as Linux tells it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Bytes of the last level of cache, all of its instances together; `None` where the system does
/// not say.
pub fn last_level_bytes() -> Option<usize> {
    cache_bytes_under(Path::new("/sys/devices/system/cpu"))
}

fn cache_bytes_under(cpus: &Path) -> Option<usize> {
    // The CPUs that share an instance name it; each of them lists it.
    let mut instances: BTreeMap<(u32, String), usize> = BTreeMap::new();
    for cpu in fs::read_dir(cpus).ok()?.flatten() {
        let Ok(entries) = fs::read_dir(cpu.path().join("cache")) else {
            continue;
        };
        for index in entries.flatten() {
            let read = |name: &str| {
                let text = fs::read_to_string(index.path().join(name)).ok()?;
                Some(text.trim().to_owned())
            };
            let (Some(kind), Some(level), Some(shared), Some(size)) = (
                read("type"),
                read("level").and_then(|level| level.parse().ok()),
                read("shared_cpu_list"),
                read("size").and_then(|size| parse_size(&size)),
            ) else {
                continue;
            };
            if kind != "Instruction" {
                instances.insert((level, shared), size);
            }
        }
    }
    let last = instances.keys().map(|(level, _)| *level).max()?;
    Some(
        instances
            .iter()
            .filter(|((level, _), _)| *level == last)
            .map(|(_, size)| size)
            .sum(),
    )
}

/// `32768K` → bytes.
fn parse_size(text: &str) -> Option<usize> {
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(end) => text.split_at(end),
        None => (text, ""),
    };
    let unit = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_carry_units() {
        assert_eq!(parse_size("32768K"), Some(32 << 20));
        assert_eq!(parse_size("512"), Some(512));
        assert_eq!(parse_size("2M"), Some(2 << 20));
        assert_eq!(parse_size("2Q"), None);
        assert_eq!(parse_size("K"), None);
    }

    #[test]
    fn instances_of_the_last_level_add_up() {
        let root = tempfile::tempdir().unwrap();
        // Four CPUs, two of each sharing a third-level cache.
        for cpu in 0..4 {
            let pair = if cpu < 2 { "0-1" } else { "2-3" };
            let own = cpu.to_string();
            for (index, kind, level, shared, size) in [
                (0, "Data", "1", own.as_str(), "32K"),
                (1, "Instruction", "1", own.as_str(), "32K"),
                (2, "Unified", "2", own.as_str(), "1024K"),
                (3, "Unified", "3", pair, "16M"),
            ] {
                let dir = root.path().join(format!("cpu{cpu}/cache/index{index}"));
                fs::create_dir_all(&dir).unwrap();
                for (name, text) in [
                    ("type", kind),
                    ("level", level),
                    ("shared_cpu_list", shared),
                    ("size", size),
                ] {
                    fs::write(dir.join(name), format!("{text}\n")).unwrap();
                }
            }
        }
        assert_eq!(cache_bytes_under(root.path()), Some(32 << 20));
        assert_eq!(cache_bytes_under(&root.path().join("cpu0")), None);
    }
}

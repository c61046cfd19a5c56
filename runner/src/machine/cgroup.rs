//! The control group that this process is in: its memory limit, kills for memory, and time stopped by its CPU quota.
//! Versions 1 and 2, with or without a namespace of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const ROOT: &str = "/sys/fs/cgroup";

/// Where the files of this process' control group lie.
#[derive(Clone, Debug, Default)]
pub struct Cgroup {
    /// From the process' own folder up to the mount.
    cpu: Vec<PathBuf>,
    memory: Vec<PathBuf>,
}

impl Cgroup {
    /// The control group of this process; without folders where there is none to be seen.
    #[must_use]
    pub fn of_this_process() -> Self {
        let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let folders = |controller| {
            locate(&text, controller)
                .map(|(mount, path)| ancestry(&Path::new(ROOT).join(mount), path))
                .unwrap_or_default()
        };
        Self {
            cpu: folders("cpu"),
            memory: folders("memory"),
        }
    }

    /// How long the quota has stopped this group's threads so far, summed over CPUs.
    #[must_use]
    pub fn throttled(&self) -> Option<Duration> {
        let text = first_file(&self.cpu, &["cpu.stat"])?;
        parse_throttled(&text)
    }

    /// The smallest memory limit on the way up, in bytes; none where there is none.
    #[must_use]
    pub fn memory_limit(&self) -> Option<u64> {
        self.memory
            .iter()
            .filter_map(|folder| {
                first_file(
                    std::slice::from_ref(folder),
                    &["memory.max", "memory.limit_in_bytes"],
                )
            })
            .filter_map(|text| parse_limit(&text))
            .min()
    }

    /// How many of the group's processes the kernel has killed for memory so far.
    #[must_use]
    pub fn oom_kills(&self) -> Option<u64> {
        let text = first_file(&self.memory, &["memory.events", "memory.oom_control"])?;
        number_after(&text, "oom_kill")
    }
}

/// The mount below [`ROOT`] and the path of a controller in the text of /proc/self/cgroup.
fn locate<'a>(text: &'a str, controller: &str) -> Option<(&'a str, &'a str)> {
    let mut unified = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if controllers.is_empty() {
            unified = Some(("", path));
        } else if controllers.split(',').any(|name| name == controller) {
            return Some((controllers, path));
        }
    }
    unified
}

/// A group's folder and all above it up to the mount. In a container without a namespace of its own the path is the
/// host's and does not exist here; then the mount itself is the group.
fn ancestry(mount: &Path, path: &str) -> Vec<PathBuf> {
    let own = mount.join(path.trim_start_matches('/'));
    own.ancestors()
        .take_while(|folder| folder.starts_with(mount))
        .filter(|folder| folder.is_dir())
        .map(Path::to_path_buf)
        .collect()
}

fn first_file(folders: &[PathBuf], names: &[&str]) -> Option<String> {
    folders
        .iter()
        .flat_map(|folder| names.iter().map(|name| folder.join(name)))
        .find_map(|path| fs::read_to_string(path).ok())
}

/// `throttled_usec` (version 2) or `throttled_time` in ns (version 1).
fn parse_throttled(text: &str) -> Option<Duration> {
    number_after(text, "throttled_usec")
        .map(Duration::from_micros)
        .or_else(|| number_after(text, "throttled_time").map(Duration::from_nanos))
}

/// Version 1 writes no limit as the largest multiple of the page size.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim()
        .parse()
        .ok()
        .filter(|&bytes: &u64| bytes < 1 << 60)
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_has_a_mount_per_controller() {
        let text = "9:name=systemd:/\n4:memory:/pods/a\n2:cpu,cpuacct:/pods/b\n0::/\n";
        assert_eq!(locate(text, "memory"), Some(("memory", "/pods/a")));
        assert_eq!(locate(text, "cpu"), Some(("cpu,cpuacct", "/pods/b")));
    }

    #[test]
    fn version_2_has_one() {
        assert_eq!(
            locate("0::/user.slice/a\n", "cpu"),
            Some(("", "/user.slice/a"))
        );
        assert_eq!(locate("", "cpu"), None);
    }

    #[test]
    fn both_units_of_throttled_time() {
        let v2 = "usage_usec 5\nnr_throttled 2\nthrottled_usec 1500\n";
        let v1 = "nr_periods 9\nnr_throttled 2\nthrottled_time 2000000\n";
        assert_eq!(parse_throttled(v2), Some(Duration::from_micros(1500)));
        assert_eq!(parse_throttled(v1), Some(Duration::from_millis(2)));
        assert_eq!(parse_throttled("usage_usec 5\n"), None);
    }

    #[test]
    fn no_limit_in_both_spellings() {
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("9223372036854771712\n"), None);
        assert_eq!(parse_limit("536870912\n"), Some(536_870_912));
    }

    #[test]
    fn kills_are_told_from_their_namesakes() {
        let v2 = "low 0\noom 7\noom_kill 3\noom_group_kill 0\n";
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        assert_eq!(number_after(v2, "oom_kill"), Some(3));
        assert_eq!(number_after(v1, "oom_kill"), Some(2));
    }
}

//! The control group that this process is in: what memory it may use and has left, kills for memory, and time stopped by
//! its CPU quota. Versions 1 and 2, with or without a namespace of its own.

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
        let limits = self.memory.iter().filter_map(|folder| limit(folder));
        limits.min()
    }

    /// The memory that the limits on the way up leave, in bytes; none where there is no limit.
    #[must_use]
    pub fn memory_available(&self) -> Option<u64> {
        let left = |folder: &PathBuf| Some(limit(folder)?.saturating_sub(used(folder)?));
        self.memory.iter().filter_map(left).min()
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
    folders.iter().find_map(|folder| file_of(folder, names))
}

fn file_of(folder: &Path, names: &[&str]) -> Option<String> {
    let mut paths = names.iter().map(|name| folder.join(name));
    paths.find_map(|path| fs::read_to_string(path).ok())
}

/// The memory limit of a group.
fn limit(folder: &Path) -> Option<u64> {
    parse_limit(&file_of(folder, &["memory.max", "memory.limit_in_bytes"])?)
}

/// The memory that a group and those below it use, less the file pages that nobody has touched lately: these can be had
/// back.
fn used(folder: &Path) -> Option<u64> {
    let used = file_of(folder, &["memory.current", "memory.usage_in_bytes"])?;
    let used: u64 = used.trim().parse().ok()?;
    let stat = file_of(folder, &["memory.stat"]).unwrap_or_default();
    // Version 1 has the groups below in a sum of its own.
    let idle = number_after(&stat, "total_inactive_file");
    let idle = idle.or_else(|| number_after(&stat, "inactive_file"));
    Some(used.saturating_sub(idle.unwrap_or(0)))
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

    /// The control group whose memory is told by these files, in its own folder and in the one above.
    fn group(own: &[(&str, &str)], above: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let mount = tempfile::tempdir().unwrap();
        let folder = mount.path().join("pod");
        fs::create_dir(&folder).unwrap();
        for (folder, files) in [(&folder, own), (&mount.path().to_path_buf(), above)] {
            for (name, text) in files {
                fs::write(folder.join(name), text).unwrap();
            }
        }
        let cgroup = Cgroup {
            cpu: Vec::new(),
            memory: ancestry(mount.path(), "/pod"),
        };
        (mount, cgroup)
    }

    /// The files of a group that has this limit and uses so much.
    type Files = dyn Fn(&'static str, &'static str) -> [(&'static str, &'static str); 3];

    #[test]
    fn what_is_left_of_memory_is_told_by_both_versions() {
        let known = |(_mount, cgroup): (tempfile::TempDir, Cgroup)| {
            (cgroup.memory_limit(), cgroup.memory_available())
        };
        let v1 = |limit: &'static str, used: &'static str| {
            [
                ("memory.limit_in_bytes", limit),
                ("memory.usage_in_bytes", used),
                (
                    "memory.stat",
                    "cache 9\ninactive_file 100\ntotal_inactive_file 200\n",
                ),
            ]
        };
        let v2 = |limit: &'static str, used: &'static str| {
            [
                ("memory.max", limit),
                ("memory.current", used),
                ("memory.stat", "anon 700\ninactive_file 200\n"),
            ]
        };
        let (none_1, none_2) = ("9223372036854771712\n", "max\n");
        for (none, of) in [(none_1, &v1 as &Files), (none_2, &v2 as &Files)] {
            let one = |limit, used| known(group(&of(limit, used), &[]));
            assert_eq!(one("1000\n", "900\n"), (Some(1000), Some(300)));
            assert_eq!(one("1000\n", "5000\n"), (Some(1000), Some(0)));
            assert_eq!(one(none, "5\n"), (None, None));
            // The group above has less to give.
            let both = known(group(&of("1000\n", "900\n"), &of("2000\n", "2100\n")));
            assert_eq!(both, (Some(1000), Some(100)));
        }
        // A limit alone does not say what is left.
        let files = [("memory.limit_in_bytes", "1000\n")];
        assert_eq!(known(group(&files, &[])), (Some(1000), None));
    }

    #[test]
    fn kills_are_told_from_their_namesakes() {
        let v2 = "low 0\noom 7\noom_kill 3\noom_group_kill 0\n";
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        assert_eq!(number_after(v2, "oom_kill"), Some(3));
        assert_eq!(number_after(v1, "oom_kill"), Some(2));
    }
}

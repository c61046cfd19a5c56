//! Processes that outlive who started them. A server leaves workers behind when it is killed; the kernel gives them to
//! the nearest ancestor that has said it takes them, and that one ends them.

use std::{
    fs,
    time::{Duration, Instant},
};

/// How long killed processes are waited for.
const GRACE: Duration = Duration::from_secs(5);

/// From now on, orphans among this process' descendants become its children.
pub fn adopt() {
    // SAFETY: sets a flag of this process and touches no memory.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    }
}

/// The environment variable that tells which of this process' children a process descends from.
pub const TREE_VARIABLE: &str = "INFERBENCH_TREE";

/// Kills the children of this process that descend from the tree of this name, with their descendants, and waits for
/// them; gives how many there were.
pub fn end(tree: &str) -> usize {
    let mark = format!("{TREE_VARIABLE}={tree}");
    let is_marked = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes())
    };
    let orphans: Vec<u32> = children().into_iter().filter(is_marked).collect();
    let mut all = orphans.clone();
    all.extend(orphans.into_iter().flat_map(descendants));
    end_among(&all);
    all.len()
}

/// Kills those of these processes that live, with their descendants, and waits for them where they have become children
/// of this one. A number that meanwhile is another process' is left alone: only descendants of this process are killed.
pub fn end_among(pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let patience = Instant::now() + GRACE;
    loop {
        let own = descendants(std::process::id());
        let living: Vec<u32> = pids
            .iter()
            .copied()
            .filter(|pid| own.contains(pid))
            .collect();
        if living.is_empty() || Instant::now() >= patience {
            return;
        }
        for pid in living {
            for pid in descendants(pid).into_iter().chain([pid]) {
                kill(pid, libc::SIGKILL);
                reap(pid);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// All descendants of a process that live, children first.
#[must_use]
pub fn descendants(root: u32) -> Vec<u32> {
    let parents = parents();
    let mut found = vec![root];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        let of_parent = parents.iter().filter(|(_, of)| *of == parent);
        found.extend(of_parent.map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}

/// Sends a signal to a process; one that has ended meanwhile is no error.
pub fn kill(pid: u32, signal: libc::c_int) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: kill takes two numbers.
        unsafe { libc::kill(pid, signal) };
    }
}

fn reap(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: a null status pointer is allowed.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
    }
}

fn children() -> Vec<u32> {
    let this = std::process::id();
    let parents = parents().into_iter();
    parents
        .filter(|(_, parent)| *parent == this)
        .map(|(pid, _)| pid)
        .collect()
}

/// Every process that can be seen, with its parent.
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let parent = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // Behind the name, which may hold spaces and brackets: state, parent.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        Some((pid, parent.parse().ok()?))
    };
    entries.flatten().filter_map(parent).collect()
}

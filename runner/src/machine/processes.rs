//! The processes that a measurement is about: trees of processes, each with all its descendants. Their CPU time counts
//! those that have ended, too; their memory is that of those that live.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::kib_line;

/// Children are looked for this often; between, they count once they have ended and their parents have waited for them.
const LISTING_PERIOD: Duration = Duration::from_secs(1);
/// The rounding of CPU time taken over by waiting: ticks of 10 ms, of the user and of the system each.
const ROUNDING: Duration = Duration::from_millis(20);
/// The inode of the first process namespace, the same on every Linux.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Trees of processes, by their roots. Clones look at the same trees.
#[derive(Clone, Debug)]
pub struct Processes {
    trees: Arc<Mutex<Trees>>,
    per_gpu: u32,
}

/// The CPU time and memory that processes have used up to one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// CPU time of all threads so far, of ended processes, too.
    pub cpu_time: Duration,
    /// Resident memory, in MiB, summed over the processes: what they share counts once for each. None where none lives.
    pub rss_mib: Option<f64>,
}

#[derive(Debug)]
struct Trees {
    roots: BTreeSet<u32>,
    /// All that have been seen and live.
    known: BTreeMap<u32, Process>,
    /// CPU time of ended processes that no living one among these has taken over by waiting for them.
    ended: Duration,
    listed: Option<Instant>,
    /// The most summed memory since [`Processes::reset_peak_memory`].
    peak_mib: f64,
}

/// A process at the time of the last look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Process {
    parent: u32,
    /// When it started, in ticks since boot: a number may come to be another process'.
    pub(super) start: u64,
    pub(super) cpu_time: Duration,
    /// CPU time of ended children that it has waited for, theirs among it.
    waited_for: Duration,
}

impl Processes {
    /// This process and its descendants.
    #[must_use]
    pub fn of_this_one() -> Self {
        Self::below([std::process::id()])
    }

    /// These processes and their descendants.
    #[must_use]
    pub fn below(roots: impl IntoIterator<Item = u32>) -> Self {
        let trees = Trees {
            roots: roots.into_iter().collect(),
            known: BTreeMap::new(),
            ended: Duration::ZERO,
            listed: None,
            peak_mib: 0.0,
        };
        let processes = Self {
            trees: Arc::new(Mutex::new(trees)),
            per_gpu: 1,
        };
        processes.usage_now();
        processes
    }

    /// The same, of which `per_gpu` compute on each GPU that is used, rather than one.
    #[must_use]
    pub fn with_several_per_gpu(self, per_gpu: u32) -> Self {
        Self { per_gpu, ..self }
    }

    /// Their use so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.trees(|trees| {
            if trees.listed.is_none_or(|at| at.elapsed() >= LISTING_PERIOD) {
                trees.list();
            }
            trees.read()
        })
    }

    /// The same, with all children that there are now.
    pub fn usage_now(&self) -> Usage {
        self.trees(|trees| {
            trees.list();
            trees.read()
        })
    }

    /// Whether this process is one of them.
    #[must_use]
    pub fn hold_this_one(&self) -> bool {
        self.trees(|trees| trees.known.contains_key(&std::process::id()))
    }

    /// How many of the processes on a GPU, by the driver's account, are none of these.
    #[must_use]
    pub fn foreign_among(&self, on_gpu: &[u32]) -> u32 {
        let namespace = fs::read_link("/proc/self/ns/pid").ok();
        let comparable = namespace.is_some_and(|name| name.to_str() == Some(FIRST_PID_NAMESPACE));
        let own: Option<BTreeSet<u32>> =
            comparable.then(|| self.trees(|trees| trees.known.keys().copied().collect()));
        foreign(on_gpu, own.as_ref(), self.per_gpu)
    }

    /// Forgets the peak of the resident memory, where the kernel lets it be forgotten, so that a trial which shares its
    /// processes with earlier ones does not report theirs.
    pub fn reset_peak_memory(&self) {
        self.trees(|trees| {
            trees.peak_mib = 0.0;
            for pid in trees.known.keys() {
                let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
            }
        });
    }

    /// The peak of the resident memory since the start or [`Processes::reset_peak_memory`], in MiB: the kernel's own
    /// peak of any one, or the greatest sum that was seen.
    #[must_use]
    pub fn peak_memory_mib(&self) -> Option<f64> {
        self.trees(|trees| {
            let own = trees.known.keys().filter_map(|pid| peak_mib(*pid));
            own.chain([trees.peak_mib])
                .reduce(f64::max)
                .filter(|peak| *peak > 0.0)
        })
    }

    fn trees<T>(&self, ask: impl FnOnce(&mut Trees) -> T) -> T {
        ask(&mut self.trees.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The driver's numbers are the host's, which a container with a namespace of its own cannot compare with its own:
/// without
/// `own` numbers to compare with, as many are taken for own as are to be expected.
fn foreign(on_gpu: &[u32], own: Option<&BTreeSet<u32>>, expected: u32) -> u32 {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    match own {
        Some(own) => count(on_gpu.iter().filter(|pid| !own.contains(pid)).count()),
        None => count(on_gpu.len()).saturating_sub(expected),
    }
}

impl Trees {
    /// Takes up processes that have come to be.
    fn list(&mut self) {
        self.listed = Some(Instant::now());
        let mut open: Vec<u32> = self.known.keys().chain(&self.roots).copied().collect();
        let mut seen: BTreeSet<u32> = open.iter().copied().collect();
        while let Some(pid) = open.pop() {
            if !self.known.contains_key(&pid)
                && let Some(process) = Process::read(pid)
            {
                self.known.insert(pid, process);
            }
            open.extend(
                children(pid)
                    .into_iter()
                    .filter(|child| seen.insert(*child)),
            );
        }
    }

    fn read(&mut self) -> Usage {
        let before = std::mem::take(&mut self.known);
        for (pid, old) in &before {
            let Some(mut now) = Process::read(*pid).filter(|now| now.start == old.start) else {
                continue;
            };
            // Of one that has ended and is not waited for yet, stat may tell less than its clock did.
            now.cpu_time = now.cpu_time.max(old.cpu_time);
            self.known.insert(*pid, now);
        }
        self.ended += lost(&before, &self.known);
        let living = self.known.values();
        let cpu_time = living.map(|process| process.cpu_time + process.waited_for);
        let resident: Vec<f64> = self.known.keys().filter_map(|pid| rss_mib(*pid)).collect();
        let rss_mib = (!resident.is_empty()).then(|| resident.iter().sum());
        self.peak_mib = self.peak_mib.max(rss_mib.unwrap_or_default());
        Usage {
            cpu_time: self.ended + cpu_time.sum::<Duration>(),
            rss_mib,
        }
    }
}

/// The CPU time of processes that have ended between two looks, as far as no living ancestor took it over.
fn lost(before: &BTreeMap<u32, Process>, now: &BTreeMap<u32, Process>) -> Duration {
    let mut lost = Duration::ZERO;
    // By the nearest ancestor that lives.
    let mut heirs: BTreeMap<u32, Duration> = BTreeMap::new();
    for (_, ended) in before.iter().filter(|(pid, _)| !now.contains_key(pid)) {
        let total = ended.cpu_time + ended.waited_for;
        let mut ancestor = ended.parent;
        while let (false, Some(gone)) = (now.contains_key(&ancestor), before.get(&ancestor)) {
            ancestor = gone.parent;
        }
        if now.contains_key(&ancestor) {
            *heirs.entry(ancestor).or_default() += total;
        } else {
            lost += total;
        }
    }
    for (heir, total) in heirs {
        let taken_over = |processes: &BTreeMap<u32, Process>| {
            processes
                .get(&heir)
                .map_or(Duration::ZERO, |heir| heir.waited_for)
        };
        let inherited = taken_over(now).saturating_sub(taken_over(before));
        let missing = total.saturating_sub(inherited);
        if missing > ROUNDING {
            lost += missing;
        }
    }
    lost
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut process = Self::parse(&stat)?;
        // The clock is exact, where stat counts in ticks of 10 ms.
        process.cpu_time = cpu_clock(pid).unwrap_or(process.cpu_time);
        Some(process)
    }

    /// From the text of stat: fields are counted behind the name, which may itself hold spaces and brackets.
    pub(super) fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // state, ppid, …; utime is field 14 of all, cutime 16, starttime 22.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let ticks = |ticks: u64| Duration::from_secs_f64(ticks as f64 / ticks_per_second());
        Some(Self {
            parent: u32::try_from(number(4)?).ok()?,
            start: number(22)?,
            cpu_time: ticks(number(14)? + number(15)?),
            waited_for: ticks(number(16)? + number(17)?),
        })
    }
}

/// CPU time of all threads of this process so far.
#[must_use]
pub fn own_cpu_time() -> Duration {
    read_clock(libc::CLOCK_PROCESS_CPUTIME_ID).unwrap_or_default()
}

/// CPU time of all threads of a process so far.
pub(super) fn cpu_clock(pid: u32) -> Option<Duration> {
    let mut clock = 0;
    // SAFETY: the function writes one number.
    let failed = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    (failed == 0).then(|| read_clock(clock)).flatten()
}

fn read_clock(clock: libc::clockid_t) -> Option<Duration> {
    // SAFETY: timespec is plain data that clock_gettime fills.
    let (failed, time) = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        (libc::clock_gettime(clock, &raw mut time), time)
    };
    let (seconds, nanos) = (time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?);
    (failed == 0).then(|| Duration::new(seconds, nanos))
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf takes a number and returns one.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

/// The children of a process that have not been waited for.
fn children(pid: u32) -> Vec<u32> {
    if pid == std::process::id() && !has_children() {
        return Vec::new();
    }
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut children = Vec::new();
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(list) => children.extend(
                list.split_whitespace()
                    .filter_map(|id| id.parse::<u32>().ok()),
            ),
            // A thread that has ended meanwhile, or a kernel without such lists.
            Err(_) if thread.path().exists() => return children_by_parent(pid),
            Err(_) => {}
        }
    }
    children
}

/// Whether this process has any: one call instead of a file for every thread.
fn has_children() -> bool {
    // SAFETY: siginfo is plain data, and nothing is waited for: the child, if there is one, stays as it is.
    let failed = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        libc::waitid(libc::P_ALL, 0, &raw mut info, options)
    };
    failed == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ECHILD)
}

fn children_by_parent(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| Process::read(*pid).is_some_and(|process| process.parent == parent))
        .collect()
}

fn rss_mib(pid: u32) -> Option<f64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    resident_mib(&statm)
}

fn peak_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(kib_line(&status, "VmHWM:")? as f64 / f64::from(1 << 20))
}

fn resident_mib(statm: &str) -> Option<f64> {
    let pages: f64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: sysconf takes a number and returns one.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * page as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::CommandExt,
        process::{Child, Command},
    };

    use super::*;

    /// A shell that ends with the test.
    struct Shell(Child);

    impl Shell {
        fn run(script: &str) -> Self {
            let mut command = Command::new("sh");
            Self(
                command
                    .args(["-c", script])
                    .process_group(0)
                    .spawn()
                    .unwrap(),
            )
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            // SAFETY: sends a signal to the shell's own group, which is there until the shell has been waited for.
            unsafe { libc::kill(-self.0.id().cast_signed(), libc::SIGKILL) };
            let _ = self.0.wait();
        }
    }

    fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_second_field_counts_resident_pages() {
        assert_eq!(resident_mib("1000 256 3 4 5 6 7\n"), resident_mib("9 256"));
        assert!(resident_mib("1000 256 3").unwrap() >= 1.0);
        assert_eq!(resident_mib("1000"), None);
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let rest = "S 7 1 1 0 -1 4194560 1 0 0 0 150 50 30 20 20 0 1 0 4242 1 2 3";
        let process = Process::parse(&format!("12 (a (b) c) {rest}")).unwrap();
        assert_eq!((process.parent, process.start), (7, 4242));
        let ticks = ticks_per_second();
        assert_eq!(process.cpu_time, Duration::from_secs_f64(200.0 / ticks));
        assert_eq!(process.waited_for, Duration::from_secs_f64(50.0 / ticks));
        assert_eq!(Process::parse("12 (sh) S 7"), None);
    }

    #[test]
    fn the_peak_covers_what_was_touched() {
        let own = Processes::of_this_one();
        let Some(before) = own.peak_memory_mib() else {
            return;
        };
        let touched = std::hint::black_box(vec![1_u8; 32 << 20]);
        assert!(own.usage().rss_mib.unwrap() > 32.0);
        drop(touched);
        assert!(own.peak_memory_mib().unwrap() >= before.max(32.0));
        assert!(own.hold_this_one());
    }

    #[test]
    fn descendants_count_while_they_live_and_after() {
        // A child that works for a moment and ends, and one that works on; the shell itself waits.
        let shell = Shell::run(
            "(i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done); while :; do :; done & wait",
        );
        let tree = Processes::below([shell.0.id()]);
        let more_than = |seconds: f64| tree.usage_now().cpu_time.as_secs_f64() > seconds;
        wait_for("the children's CPU time counts", || more_than(0.3));
        assert!(tree.trees(|trees| trees.known.len()) >= 2);
        assert!(!tree.hold_this_one());
        let while_it_lived = tree.usage_now().cpu_time;
        drop(shell);
        assert!(tree.usage_now().cpu_time >= while_it_lived);
    }

    #[test]
    fn foreign_processes_on_a_gpu_are_told_by_number_or_else_counted() {
        let own = BTreeSet::from([7, 8]);
        assert_eq!(foreign(&[7, 8], Some(&own), 1), 0);
        assert_eq!(foreign(&[7, 9, 10], Some(&own), 1), 2);
        assert_eq!(foreign(&[9], Some(&own), 1), 1);
        assert_eq!(foreign(&[1007, 1008], None, 2), 0);
        assert_eq!(foreign(&[1007, 1008, 1009], None, 2), 1);
        assert_eq!(foreign(&[], None, 1), 0);
    }

    #[test]
    fn cpu_time_of_the_ended_is_counted_once() {
        let process = |parent, cpu_ms, waited_ms| Process {
            parent,
            start: 1,
            cpu_time: Duration::from_millis(cpu_ms),
            waited_for: Duration::from_millis(waited_ms),
        };
        let before = BTreeMap::from([
            (1, process(0, 100, 0)),
            (2, process(1, 50, 0)),
            (3, process(2, 20, 10)),
        ]);
        let ms = Duration::from_millis;
        // All live.
        assert_eq!(lost(&before, &before), ms(0));
        // The grandchild and its parent ended and were waited for, one by the other.
        let waited = BTreeMap::from([(1, process(0, 110, 80))]);
        assert_eq!(lost(&before, &waited), ms(0));
        // Nobody waited for them.
        let orphaned = BTreeMap::from([(1, process(0, 110, 0))]);
        assert_eq!(lost(&before, &orphaned), ms(80));
        // The root ended; what its child does goes on.
        let rootless = BTreeMap::from([(2, process(0, 55, 0)), (3, process(2, 20, 10))]);
        assert_eq!(lost(&before, &rootless), ms(100));
        assert_eq!(lost(&before, &BTreeMap::new()), ms(180));
    }
}

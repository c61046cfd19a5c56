//! Whether this machine is quiet enough to measure on: looked at before the first trial, while this process only waits,
//! by the same counters and limits as every trial, and with the processes that are busy.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    time::{Duration, Instant},
};

use inferbench_engine::host::Cgroup;

use super::{
    activity::{Counters, Interval, disturbances},
    processes::{Process, Processes, cpu_clock},
};

/// How long the machine is looked at.
const SPAN: Duration = Duration::from_secs(1);
/// Busy processes that are named.
const NAMED: usize = 5;
/// The share of a CPU, in percent, from which on a process is busy.
const BUSY_PCT: f64 = 5.0;

/// The activity beside this process for a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// The activity of the CPUs that this process may use.
    pub activity: Interval,
    /// The processes that took most of any CPU, the busiest first; only those that this process can see.
    pub busiest: Vec<Busy>,
}

/// A process that is busy with something else.
#[derive(Clone, Debug, PartialEq)]
pub struct Busy {
    /// Its number.
    pub pid: u32,
    /// Its name, as the kernel keeps it.
    pub name: String,
    /// The CPU time that it took, in percent of one CPU.
    pub cpu_pct: f64,
}

/// Looks at these CPUs for about a second. All that runs counts as foreign, but for this process itself.
#[must_use]
pub fn look(cpus: &[usize]) -> Look {
    let cgroup = Cgroup::of_this_process();
    let none = Processes::below([]);
    let processes = list();
    let before = Counters::read(&none, &cgroup, cpus);
    let begun = Instant::now();
    std::thread::sleep(SPAN);
    let activity = before.until(&Counters::read(&none, &cgroup, cpus));
    let wall = begun.elapsed();
    Look {
        activity,
        busiest: busiest(&processes, &list(), wall),
    }
}

/// The warning to a user before the trials of a sweep begin, of which each computes with `threads` threads on `cpus`
/// CPUs; none where the machine is quiet.
#[must_use]
pub fn warning(look: &Look, threads: u32, cpus: u32) -> Option<String> {
    let disturbances = disturbances(&look.activity, threads, cpus);
    if disturbances.is_empty() {
        return None;
    }
    let mut text = String::from("this machine is not quiet:\n");
    for disturbance in &disturbances {
        let _ = writeln!(text, "  {disturbance}");
    }
    let foreign_pct = look.activity.foreign_pct.unwrap_or_default() * f64::from(cpus);
    let seen_pct: f64 = look.busiest.iter().map(|busy| busy.cpu_pct).sum();
    let named: Vec<String> = look
        .busiest
        .iter()
        .take(NAMED)
        .map(|busy| format!("{} (pid {}) {:.0} %", busy.name, busy.pid, busy.cpu_pct))
        .collect();
    if !named.is_empty() {
        let _ = writeln!(text, "  busy, in percent of a CPU: {}", named.join(", "));
    }
    if seen_pct < foreign_pct / 2.0 {
        text +=
            "  the rest is done by processes that are short-lived, or cannot be seen from here\n";
    }
    let _ = write!(
        text,
        "Trials that are disturbed beyond these limits are invalid: their numbers are marked, and no part of any mean. {}",
        remedy(&look.activity, &disturbances)
    );
    Some(text)
}

/// The advice for what disturbs: a quota and a hypervisor are none of the user's processes.
fn remedy(activity: &Interval, disturbances: &[String]) -> String {
    let has = |words: &str| disturbances.iter().any(|text| text.contains(words));
    let mut advice = Vec::new();
    if has("other processes") {
        advice.push("End what is busy, or wait for it.");
    }
    if has("quota") && activity.throttled_ms.is_some() {
        advice.push("Raise the CPU limit of this container or service.");
    }
    if has("hypervisor") {
        advice.push("Measure on a machine with CPUs of its own.");
    }
    advice.join(" ")
}

/// The processes other than this one that took CPU time between two lists, the busiest first.
fn busiest(
    before: &BTreeMap<u32, Listed>,
    after: &BTreeMap<u32, Listed>,
    wall: Duration,
) -> Vec<Busy> {
    let mut busy: Vec<Busy> = after
        .iter()
        .filter(|(pid, _)| **pid != std::process::id())
        .filter_map(|(pid, now)| {
            let then = before.get(pid).filter(|then| then.start == now.start);
            // One that has begun meanwhile took all of its time in between.
            let taken = now
                .cpu_time
                .saturating_sub(then.map_or(Duration::ZERO, |then| then.cpu_time));
            let cpu_pct = 100.0 * taken.as_secs_f64() / wall.as_secs_f64().max(f64::MIN_POSITIVE);
            (cpu_pct >= BUSY_PCT).then(|| Busy {
                pid: *pid,
                name: now.name.clone(),
                cpu_pct,
            })
        })
        .collect();
    busy.sort_by(|a, b| b.cpu_pct.total_cmp(&a.cpu_pct));
    busy
}

/// A process in the list of all that run.
#[derive(Clone, Debug, PartialEq)]
struct Listed {
    name: String,
    start: u64,
    cpu_time: Duration,
}

/// All processes that can be seen from here.
fn list() -> BTreeMap<u32, Listed> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, listed(pid, &stat)?))
        })
        .collect()
}

fn listed(pid: u32, stat: &str) -> Option<Listed> {
    let process = Process::parse(stat)?;
    let name = stat.split_once('(')?.1.rsplit_once(')')?.0;
    Some(Listed {
        name: name.to_owned(),
        start: process.start,
        cpu_time: cpu_clock(pid).unwrap_or(process.cpu_time),
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn look_of(activity: Interval, busiest: &[(&str, f64)]) -> Look {
        let busiest = busiest.iter().zip(100..);
        Look {
            activity: Interval {
                wall_s: 1.0,
                ..activity
            },
            busiest: busiest
                .map(|((name, cpu_pct), pid)| Busy {
                    pid,
                    name: (*name).to_owned(),
                    cpu_pct: *cpu_pct,
                })
                .collect(),
        }
    }

    #[test]
    fn a_quiet_machine_is_passed_over() {
        let quiet = Interval {
            throttled_ms: Some(0.0),
            steal_pct: Some(0.4),
            foreign_pct: Some(3.0),
            ..Interval::default()
        };
        assert_eq!(warning(&look_of(quiet, &[("sshd", 6.0)]), 2, 2), None);
        // Nor does it matter what happens on CPUs that are left free.
        let beside = Interval {
            foreign_pct: Some(50.0),
            ..quiet
        };
        assert_eq!(warning(&look_of(beside, &[("cc1", 100.0)]), 1, 2), None);
        assert_eq!(warning(&Look::default(), 2, 2), None);
    }

    #[test]
    fn a_busy_machine_is_told_with_who_is_busy_and_what_to_do() {
        let busy = Interval {
            steal_pct: Some(12.0),
            foreign_pct: Some(80.0),
            ..Interval::default()
        };
        let names = [
            ("rustc", 97.0),
            ("cc1", 41.0),
            ("a", 9.0),
            ("b", 8.0),
            ("c", 7.0),
            ("d", 6.0),
        ];
        insta::assert_snapshot!(warning(&look_of(busy, &names), 2, 2).unwrap(), @r"
        this machine is not quiet:
          the hypervisor gave 12.0 % of the CPU time to others (at most 5 %)
          other processes took 80.0 % of the CPU time that was needed (at most 10 %)
          busy, in percent of a CPU: rustc (pid 100) 97 %, cc1 (pid 101) 41 %, a (pid 102) 9 %, b (pid 103) 8 %, c (pid 104) 7 %
        Trials that are disturbed beyond these limits are invalid: their numbers are marked, and no part of any mean. End what is busy, or wait for it. Measure on a machine with CPUs of its own.
        ");
        let hidden = Interval {
            throttled_ms: Some(200.0),
            foreign_pct: Some(80.0),
            ..Interval::default()
        };
        let text = warning(&look_of(hidden, &[]), 2, 2).unwrap();
        assert!(
            text.contains("cannot be seen from here") && text.contains("Raise the CPU limit"),
            "{text}"
        );
    }

    #[test]
    fn the_name_and_the_time_of_a_process_are_read() {
        let rest = "S 7 1 1 0 -1 4194560 1 0 0 0 150 50 30 20 20 0 1 0 4242 1 2 3";
        // No process has number 0, whose clock could be asked.
        let one = listed(u32::MAX, &format!("12 (a (b) c) {rest}")).unwrap();
        assert_eq!((one.name.as_str(), one.start), ("a (b) c", 4242));
        assert_eq!(listed(1, "1 (init"), None);
    }

    #[test]
    fn what_a_process_took_is_told_by_its_start() {
        let one = |start, ms| Listed {
            name: "one".into(),
            start,
            cpu_time: Duration::from_millis(ms),
        };
        let before = BTreeMap::from([(10, one(1, 500)), (11, one(1, 900)), (12, one(1, 0))]);
        // 11 is another process by now, and 13 has just begun.
        let after = BTreeMap::from([
            (10, one(1, 800)),
            (11, one(2, 400)),
            (12, one(1, 10)),
            (13, one(3, 700)),
        ]);
        let busy = busiest(&before, &after, Duration::from_secs(1));
        let found: Vec<_> = busy
            .iter()
            .map(|busy| (busy.pid, busy.cpu_pct.round()))
            .collect();
        assert_eq!(found, [(13, 70.0), (11, 40.0), (10, 30.0)]);
    }

    /// A process that does nothing but compute, and ends with the test.
    struct Spinner(Child);

    impl Drop for Spinner {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_busy_child_is_seen() {
        let mut command = Command::new("sh");
        let spinner = Spinner(command.args(["-c", "while :; do :; done"]).spawn().unwrap());
        let machine = super::super::Machine::look();
        // Among other tests it may have to wait for a CPU.
        let seen = (0..20).any(|_| {
            let look = look(&machine.cpus);
            look.busiest
                .iter()
                .any(|busy| busy.pid == spinner.0.id() && busy.name == "sh")
                && look.activity.foreign_pct.is_none_or(|pct| pct > 0.0)
        });
        assert!(seen);
    }
}

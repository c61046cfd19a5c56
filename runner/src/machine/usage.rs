//! Memory and CPU time of this process.

use std::{fs, time::Duration};

use super::kib_line;

/// One reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessSample {
    /// Resident memory, in MiB.
    pub rss_mib: Option<f64>,
    /// CPU time of all threads so far, in s.
    pub cpu_time_s: f64,
}

impl ProcessSample {
    /// Reads them now.
    #[must_use]
    pub fn read() -> Self {
        let statm = fs::read_to_string("/proc/self/statm").ok();
        Self {
            rss_mib: statm.and_then(|text| resident_mib(&text)),
            cpu_time_s: process_cpu_time().as_secs_f64(),
        }
    }
}

/// CPU time of all threads of this process so far.
#[must_use]
pub fn process_cpu_time() -> Duration {
    // SAFETY: timespec is plain data that clock_gettime fills.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time);
        time
    };
    Duration::new(
        time.tv_sec.try_into().unwrap_or(0),
        time.tv_nsec.try_into().unwrap_or(0),
    )
}

/// Forgets the peak of the resident memory, where the kernel lets a process do that, so that a trial which shares its
/// process with earlier ones does not report theirs.
pub fn reset_peak_memory() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The peak of the resident memory since the start or [`reset_peak_memory`], in MiB.
#[must_use]
pub fn peak_memory_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
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
    use super::*;

    #[test]
    fn the_second_field_counts_resident_pages() {
        assert_eq!(resident_mib("1000 256 3 4 5 6 7\n"), resident_mib("9 256"));
        assert!(resident_mib("1000 256 3").unwrap() >= 1.0);
        assert_eq!(resident_mib("1000"), None);
    }

    #[test]
    fn the_peak_covers_what_was_touched() {
        let Some(before) = peak_memory_mib() else {
            return;
        };
        let touched = std::hint::black_box(vec![1_u8; 32 << 20]);
        assert!(ProcessSample::read().rss_mib.unwrap() > 32.0);
        drop(touched);
        assert!(peak_memory_mib().unwrap() >= before.max(32.0));
    }
}

//! The machine's ceilings, measured under the same watch as a trial: a ceiling that is too low flatters every result.

use inferbench_engine::{
    Format,
    ceilings::{Ceilings, roofline::ModelShape},
    host::Cgroup,
};

use super::{
    Machine,
    activity::{Counters, disturbances},
    processes::Processes,
};

/// How often the ceilings are measured where something else goes on every time.
const ATTEMPTS: u32 = 4;

/// Measures the ceilings, again while something else goes on, and keeps the higher ones of all attempts; `threads` is
/// how many compute. Where it was never quiet, [`Ceilings::disturbed`] says what went on in the end, and where memory was
/// short, what it had no room for.
///
/// # Errors
/// When memory for the measurement cannot be had or its products cannot be made on the CPU.
pub fn measure(
    machine: &Machine,
    threads: usize,
    format: Format,
    shape: &ModelShape,
) -> candle_core::Result<Ceilings> {
    let (own, cgroup) = (Processes::of_this_one(), Cgroup::of_this_process());
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let (threads, cpus) = (count(threads), count(machine.cpus.len()));
    let mut short = Vec::new();
    let mut ceilings = until_quiet(|| {
        let before = Counters::read(&own, &cgroup, &machine.cpus);
        let mut ceilings = Ceilings::measure(format, Some(shape))?;
        let window = before.until(&Counters::read(&own, &cgroup, &machine.cpus));
        short = std::mem::replace(
            &mut ceilings.disturbed,
            disturbances(&window, threads, cpus),
        );
        Ok(ceilings)
    })?;
    ceilings.disturbed.append(&mut short);
    Ok(ceilings)
}

fn until_quiet(
    mut attempt: impl FnMut() -> candle_core::Result<Ceilings>,
) -> candle_core::Result<Ceilings> {
    let mut best = attempt()?;
    for _ in 1..ATTEMPTS {
        if best.disturbed.is_empty() {
            break;
        }
        best = best.higher(attempt()?);
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use inferbench_engine::ceilings::{bandwidth::Bandwidth, matrix::Matrix};

    use super::*;

    fn ceilings(rate: f64, disturbed: bool) -> Ceilings {
        Ceilings {
            bandwidth: Bandwidth {
                bytes_per_second: rate,
                kernel: "1 thread".into(),
                repeats: 3,
                buffer_bytes: 1 << 20,
                cache_bytes: None,
            },
            matrix: Matrix {
                flops_per_second: 2.0 * rate,
                product: "2x2x2".into(),
                repeats: 3,
                dtype: "f32".into(),
            },
            disturbed: if disturbed {
                vec![format!("at {rate}")]
            } else {
                Vec::new()
            },
        }
    }

    fn run(attempts: &[(f64, bool)]) -> (Ceilings, usize) {
        let mut made = 0;
        let measured = until_quiet(|| {
            made += 1;
            let (rate, disturbed) = attempts[made - 1];
            Ok(ceilings(rate, disturbed))
        });
        (measured.unwrap(), made)
    }

    #[test]
    fn a_quiet_measurement_is_the_last() {
        assert_eq!(run(&[(1.0, false)]), (ceilings(1.0, false), 1));
        assert_eq!(run(&[(1.0, true), (3.0, false)]), (ceilings(3.0, false), 2));
        // A ceiling that came out higher in spite of a disturbance was possible.
        assert_eq!(run(&[(4.0, true), (3.0, false)]), (ceilings(4.0, false), 2));
    }

    #[test]
    fn a_machine_that_is_never_quiet_is_said_to_be_so() {
        let (ceilings, attempts) = run(&[(1.0, true), (3.0, true), (2.0, true), (1.0, true)]);
        assert_eq!(attempts as u32, ATTEMPTS);
        assert_eq!(ceilings.bandwidth.bytes_per_second, 3.0);
        assert_eq!(ceilings.disturbed, ["at 1"]);
    }

    #[test]
    fn a_failure_is_passed_on() {
        assert!(until_quiet(|| Err(candle_core::Error::Msg("no memory".into()))).is_err());
    }
}

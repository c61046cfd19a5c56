//! Against the stand-in of `tests/telemetry/fake_nvml.c`.

use std::time::Duration;

use super::{super::fake, *};

/// One GPU, and what a second reading of it says after some time.
fn second(uuid: &str) -> Option<Reading> {
    let gpus = fake::open(&[uuid])?.unwrap();
    let _ = gpus.read(&Processes::of_this_one());
    std::thread::sleep(Duration::from_millis(50));
    Some(gpus.read(&Processes::of_this_one()).remove(0))
}

#[test]
fn a_plain_gpu_tells_what_it_can() {
    let Some(reading) = second("GPU-plain") else {
        return;
    };
    assert_eq!(reading.uuid, "GPU-plain");
    assert_eq!(
        (reading.mem_mib, reading.mem_total_mib),
        (Some(1024.0), Some(81_920.0))
    );
    assert_eq!(
        (reading.power_w, reading.sm_clock_mhz),
        (Some(200.0), Some(1755.0))
    );
    assert_eq!(
        (reading.mem_clock_mhz, reading.temp_c),
        (Some(2619.0), Some(61.0))
    );
    // The energy's clock is the wall clock, at 250 W.
    let energy = reading.unix_ns as f64 * 1e-9 * 250.0;
    assert!((reading.energy_j.unwrap() - energy).abs() < 250.0);
    // Idling and a user's setting hold nothing back.
    assert_eq!(reading.throttle, Some(Vec::new()));
    assert_eq!(reading.foreign_processes, Some(2));
    // Without a buffer the last value is asked for.
    assert_eq!(
        (reading.util_pct, reading.utilization),
        (Some(42.0), Vec::new())
    );
    assert_eq!((reading.dram_active, reading.tensor_active), (None, None));
    assert_eq!(reading.lost, None);
}

#[test]
fn the_buffer_is_drained_without_gaps_or_repetition() {
    for uuid in ["GPU-buffer", "GPU-buffer-empty"] {
        let Some(gpus) = fake::open(&[uuid]) else {
            return;
        };
        let gpus = gpus.unwrap();
        let mut periods = Vec::new();
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(60));
            let reading = gpus.read(&Processes::of_this_one()).remove(0);
            assert_eq!(reading.util_pct, None, "what is drained is not polled, too");
            periods.extend(reading.utilization);
        }
        assert!(periods.len() >= 10, "{periods:?}");
        assert!(
            periods
                .windows(2)
                .all(|pair| pair[0].to_ns == pair[1].from_ns)
        );
        for period in &periods[1..] {
            assert_eq!(period.to_ns - period.from_ns, 20_000_000);
            let odd = period.to_ns / 20_000_000 % 2 == 1;
            assert_eq!(period.value, if odd { 100.0 } else { 40.0 });
        }
    }
}

#[test]
fn a_buffer_with_another_clock_is_left_alone() {
    let Some(reading) = second("GPU-buffer-odd-clock") else {
        return;
    };
    assert_eq!(
        (reading.util_pct, reading.utilization),
        (Some(42.0), Vec::new())
    );
}

#[test]
fn counters_of_activity_span_the_time_between_readings() {
    let Some(gpus) = fake::open(&["GPU-gpm"]) else {
        return;
    };
    let gpus = gpus.unwrap();
    let first = gpus.read(&Processes::of_this_one()).remove(0);
    std::thread::sleep(Duration::from_millis(20));
    let second = gpus.read(&Processes::of_this_one()).remove(0);
    let (before, after) = (first.dram_active.unwrap(), second.dram_active.unwrap());
    assert_eq!((after.value, before.to_ns), (80.0, after.from_ns));
    assert!(after.to_ns - after.from_ns >= 20_000_000);
    assert_eq!(second.tensor_active.unwrap().value, 25.0);
    // The power of the moment, not the driver's mean.
    assert_eq!(second.power_w, Some(260.0));
}

#[test]
fn a_slice_takes_from_its_gpu_what_only_that_knows() {
    let Some(reading) = second("MIG-one") else {
        return;
    };
    assert_eq!(reading.uuid, "MIG-one");
    assert_eq!(reading.mem_total_mib, Some(10_240.0));
    assert_eq!((reading.power_w, reading.temp_c), (Some(260.0), Some(61.0)));
    assert!(reading.energy_j.is_some() && reading.throttle.is_some());
    assert_eq!(reading.dram_active.unwrap().value, 60.0, "the slice's own");
    // Nobody tells how busy a slice is.
    assert_eq!((reading.util_pct, reading.utilization), (None, Vec::new()));
    assert_eq!(reading.foreign_processes, Some(0));
}

#[test]
fn gpus_are_found_by_uuid() {
    let found = |uuid: &str| {
        let gpus = fake::open(&[uuid])?;
        Some(gpus.map(|gpus| gpus.uuids().to_vec()))
    };
    for (asked, uuid) in [
        ("GPU-one", "GPU-one"),
        ("one", "GPU-one"),
        // CUDA has one form for both.
        ("slice-one", "MIG-slice-one"),
        ("GPU-slice-one", "MIG-slice-one"),
        ("GPU-divided", "MIG-slice-of-divided"),
    ] {
        let Some(found) = found(asked) else { return };
        assert_eq!(found.unwrap(), [uuid]);
    }
    for (asked, why) in [
        (
            "MIG-no-such",
            "MIG-no-such: a query to find an object was unsuccessful",
        ),
        (
            "GPU-divided2",
            "divided (MIG) into 2 slices, and does not say which",
        ),
        ("GPU-divided0", "none of its slices can be seen"),
    ] {
        let error = found(asked).unwrap().unwrap_err();
        assert!(
            error.starts_with("NVML: ") && error.contains(why),
            "{error}"
        );
    }
    let gpus = fake::open(&["GPU-one"]).unwrap().unwrap();
    assert_eq!(
        gpus.versions(),
        (Some("580.95.05".into()), Some("13.1".into()))
    );
}

#[test]
fn what_a_gpu_does_not_tell_is_unknown() {
    let Some(reading) = second("GPU-mute-buffer-gpm") else {
        return;
    };
    assert_eq!(
        reading,
        Reading {
            uuid: reading.uuid.clone(),
            unix_ns: reading.unix_ns,
            mem_mib: Some(1024.0),
            mem_total_mib: Some(81_920.0),
            ..Reading::default()
        }
    );
}

#[test]
fn heat_is_a_reason() {
    let Some(reading) = second("GPU-hot") else {
        return;
    };
    let mut reasons = reading.throttle.unwrap();
    reasons.sort();
    assert_eq!(reasons, ["hw_thermal_slowdown", "sw_thermal_slowdown"]);
}

#[test]
fn a_lost_gpu_says_so_and_is_not_asked_again() {
    let Some(gpus) = fake::open(&["GPU-lost2-buffer-gpm", "GPU-beside"]) else {
        return;
    };
    let gpus = gpus.unwrap();
    let readings: Vec<Vec<Reading>> = (0..4)
        .map(|_| gpus.read(&Processes::of_this_one()))
        .collect();
    let lost = |at: usize| readings[at][0].lost.clone();
    assert_eq!((lost(0), lost(1)), (None, None));
    for at in [2, 3] {
        let why = lost(at).unwrap();
        assert!(
            why.contains("GPU-lost2-buffer-gpm: device fell off the bus"),
            "{why}"
        );
        assert_eq!(readings[at][0].mem_mib, None);
        assert_eq!(readings[at][1].lost, None, "the others stay");
        assert!(readings[at][1].mem_mib.is_some());
    }
    assert_eq!(readings[3][0].energy_j, None);
}

#[test]
fn no_library_is_a_reason() {
    let error =
        WatchedGpus::open_with(Some(OsStr::new("/no/such/libnvidia-ml.so.1")), &[]).unwrap_err();
    assert!(error.starts_with("NVML: "), "{error}");
    // One that is there, and is none of NVIDIA's.
    let error = WatchedGpus::open_with(Some(OsStr::new("libc.so.6")), &[]).unwrap_err();
    assert!(error.contains("nvmlInit"), "{error}");
}

//! NVIDIA GPUs through their management library: which are watched, and one reading of each. The library is looked for
//! when it is needed, so that the same binary runs where there is no driver.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    sync::{Mutex, PoisonError},
};

use nvml_wrapper::{
    Device, GpmSample, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{Clock, Sampling, TemperatureSensor},
    enums::{device::SampleValue, gpm::GpmMetricId},
    error::{NvmlError, nvml_sym, nvml_try},
    gpm::gpm_metrics_get,
    structs::device::FieldId,
    sys_exports::field_id::NVML_FI_DEV_POWER_INSTANT,
};

use inferbench_engine::gpu::Gpu;

use super::window::Span;
use crate::machine::{processes::Processes, unix_ns};

const MIB: f64 = 1_048_576.0;
const NS_PER_US: i64 = 1_000;

/// A buffer whose newest sample is so far from our clock has another clock, in ns.
const OTHER_CLOCK: u64 = 60_000_000_000;

/// The metrics that GPM is asked for: the shares of the memory's bandwidth and of the matrix units' time in use.
const ACTIVITY: [GpmMetricId; 2] = [GpmMetricId::DramBwUtil, GpmMetricId::AnyTensorUtil];

/// The GPUs to watch.
#[derive(Debug, Default)]
pub struct WatchedGpus {
    nvml: Option<&'static Nvml>,
    uuids: Vec<String>,
    watched: Vec<Mutex<Watched>>,
}

/// One reading of one GPU; what the GPU does not tell is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// The UUID by the library's account.
    pub uuid: String,
    /// When, ns since the Unix epoch.
    pub unix_ns: i64,
    /// Share of the driver's last period (1/6 s to 1 s) in which any kernel ran, in percent; only where the driver
    /// keeps no buffer of them.
    pub util_pct: Option<f64>,
    /// The same of every period since the last reading, from the driver's buffer.
    pub utilization: Vec<Span>,
    /// Share of the memory's bandwidth that was in use since the last reading, in percent (Hopper and newer).
    pub dram_active: Option<Span>,
    /// Share of that time in which the matrix units were at work, in percent.
    pub tensor_active: Option<Span>,
    /// Memory in use, by anyone.
    pub mem_mib: Option<f64>,
    /// Memory of the device.
    pub mem_total_mib: Option<f64>,
    /// Power: now where the driver tells that, else averaged by it over up to 1 s.
    pub power_w: Option<f64>,
    /// Energy since the driver was loaded.
    pub energy_j: Option<f64>,
    /// Clock of the multiprocessors.
    pub sm_clock_mhz: Option<f64>,
    /// Clock of the memory.
    pub mem_clock_mhz: Option<f64>,
    /// Temperature of the die.
    pub temp_c: Option<f64>,
    /// Why the clock is held back, which may be for no reason; idling and settings of the user are none.
    pub throttle: Option<Vec<String>>,
    /// Compute processes that are not the trial's own.
    pub foreign_processes: Option<u32>,
    /// Why the GPU can no longer be read, from the moment on at which it was lost.
    pub lost: Option<String>,
}

/// A GPU, or a slice of one, with what the last reading left.
#[derive(Debug)]
struct Watched {
    uuid: String,
    device: Device<'static>,
    /// The GPU that a slice belongs to, and the slice's number there.
    whole: Option<(Device<'static>, Option<u32>)>,
    /// The end of the last period taken from the driver's buffer, in µs since the Unix epoch; absent without a buffer.
    drained_us: Option<u64>,
    /// The last sample of the activity counters with its time; absent where there are none.
    counters: Option<(i64, GpmSample<'static>)>,
    lost: Option<String>,
}

/// The first `count` GPUs by the library's account: those that a container was given, or this machine's in the order
/// of their slots.
///
/// # Errors
/// Where there is no library, no driver, or fewer GPUs.
pub fn first(count: usize) -> Result<Vec<Gpu>, String> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let nvml = library(None)?;
    let there = nvml
        .device_count()
        .map_err(|error| format!("NVML: {error}"))?;
    if (there as usize) < count {
        return Err(format!(
            "{count} GPUs are asked for, and this machine has {there}"
        ));
    }
    let gpu = |index| -> Result<Gpu, NvmlError> {
        let device = nvml.device_by_index(index)?;
        let capability = device.cuda_compute_capability()?;
        Ok(Gpu {
            name: device.name()?,
            uuid: device.uuid()?,
            compute_capability: (capability.major, capability.minor),
            memory: device.memory_info()?.total,
            cache: 0,
        })
    };
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let all =
        (0..count).map(|index| gpu(index).map_err(|error| format!("NVML: GPU {index}: {error}")));
    all.collect()
}

impl WatchedGpus {
    /// Opens the management library and finds these GPUs (`GPU-…`) and slices (`MIG-…`). A UUID may come without its
    /// kind or with the wrong one, as CUDA's do; one of a GPU that is divided stands for the only slice to be seen.
    ///
    /// # Errors
    /// Where there is no library, no driver, no such GPU, or a divided one with several slices.
    pub fn open(uuids: &[String]) -> Result<Self, String> {
        Self::open_with(None, uuids)
    }

    /// [`WatchedGpus::open`] with the library at a path.
    pub(super) fn open_with(path: Option<&OsStr>, uuids: &[String]) -> Result<Self, String> {
        let nvml = library(path)?;
        let watched = uuids
            .iter()
            .map(|uuid| Watched::find(nvml, uuid).map_err(|error| format!("NVML: {uuid}: {error}")))
            .collect::<Result<Vec<_>, String>>()?;
        Ok(Self {
            nvml: Some(nvml),
            uuids: watched.iter().map(|watched| watched.uuid.clone()).collect(),
            watched: watched.into_iter().map(Mutex::new).collect(),
        })
    }

    /// The UUIDs by the library's account, in the order of the readings.
    #[must_use]
    pub fn uuids(&self) -> &[String] {
        &self.uuids
    }

    /// Reads each of them now; `own` are the processes that are no foreign ones there.
    #[must_use]
    pub fn read(&self, own: &Processes) -> Vec<Reading> {
        let read = |watched: &Mutex<Watched>| {
            watched
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .read(own)
        };
        self.watched.iter().map(read).collect()
    }

    /// The versions of the driver and of the CUDA that it brings.
    #[must_use]
    pub fn versions(&self) -> (Option<String>, Option<String>) {
        let Some(nvml) = self.nvml else {
            return (None, None);
        };
        let cuda = nvml.sys_cuda_driver_version().ok();
        (
            nvml.sys_driver_version().ok(),
            cuda.map(|version| format!("{}.{}", version / 1000, version % 1000 / 10)),
        )
    }
}

/// The library, which is opened once per process and stays open: handles and samples may then be kept as long as
/// wanted.
fn library(path: Option<&OsStr>) -> Result<&'static Nvml, String> {
    static OPENED: Mutex<BTreeMap<Option<OsString>, &'static Nvml>> = Mutex::new(BTreeMap::new());
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let key = path.map(OsStr::to_os_string);
    if let Some(nvml) = opened.get(&key) {
        return Ok(nvml);
    }
    let mut builder = Nvml::builder();
    if let Some(path) = path {
        builder.lib_path(path);
    }
    let nvml = builder.init().map_err(|error| format!("NVML: {error}"))?;
    let nvml: &'static Nvml = Box::leak(Box::new(nvml));
    opened.insert(key, nvml);
    Ok(nvml)
}

/// A UUID as it may be known to the library.
fn spellings(uuid: &str) -> Vec<String> {
    if uuid.starts_with("MIG-") {
        return vec![uuid.to_owned()];
    }
    let bare = uuid.strip_prefix("GPU-").unwrap_or(uuid);
    vec![format!("GPU-{bare}"), format!("MIG-{bare}")]
}

impl Watched {
    fn find(nvml: &'static Nvml, uuid: &str) -> Result<Self, String> {
        let mut found = Err(NvmlError::NotFound);
        for spelling in spellings(uuid) {
            found = nvml.device_by_uuid(spelling);
            if found.is_ok() {
                break;
            }
        }
        let mut device = found.map_err(|error| error.to_string())?;
        if !device.mig_is_mig_device_handle().unwrap_or(false)
            && device.mig_mode().is_ok_and(|mode| mode.current != 0)
        {
            device = only_slice(&device)?;
        }
        // Where only a slice is used, much is known of the whole GPU alone.
        let whole = device.mig_parent_device().ok().map(|whole| {
            let instance = gpu_instance(nvml, &device).ok();
            (whole, instance)
        });
        let mut watched = Self {
            uuid: device.uuid().unwrap_or_else(|_| uuid.to_owned()),
            drained_us: buffer(&device),
            device,
            whole,
            counters: None,
            lost: None,
        };
        if watched.whole().gpm_support().unwrap_or(false) {
            watched.counters = watched.counters_now().ok();
        }
        Ok(watched)
    }

    /// The GPU that power, energy, clocks and temperature belong to.
    fn whole(&self) -> &Device<'static> {
        self.whole.as_ref().map_or(&self.device, |(whole, _)| whole)
    }

    fn read(&mut self, own: &Processes) -> Reading {
        let mut reading = Reading {
            uuid: self.uuid.clone(),
            unix_ns: unix_ns(),
            ..Reading::default()
        };
        if self.lost.is_none() {
            self.take(&mut reading, own);
        }
        reading.lost.clone_from(&self.lost);
        reading
    }

    fn take(&mut self, reading: &mut Reading, own: &Processes) {
        // Counters first, as near to the reading's time as can be.
        let energy = self.whole().total_energy_consumption();
        reading.energy_j = self
            .known(energy)
            .map(|millijoules| millijoules as f64 / 1e3);
        self.activity(reading);
        let memory = self.device.memory_info();
        if let Some(memory) = self.known(memory) {
            reading.mem_mib = Some(memory.used as f64 / MIB);
            reading.mem_total_mib = Some(memory.total as f64 / MIB);
        }
        self.utilization(reading);
        let power = power_w(self.whole());
        reading.power_w = self.known(power);
        let clock = self.whole().clock_info(Clock::SM);
        reading.sm_clock_mhz = self.known(clock).map(f64::from);
        let clock = self.whole().clock_info(Clock::Memory);
        reading.mem_clock_mhz = self.known(clock).map(f64::from);
        let temperature = self.whole().temperature(TemperatureSensor::Gpu);
        reading.temp_c = self.known(temperature).map(f64::from);
        let reasons = self.whole().current_throttle_reasons();
        reading.throttle = self.known(reasons).map(held_back);
        let processes = self.device.running_compute_processes();
        reading.foreign_processes = self.known(processes).map(|processes| {
            let numbers: Vec<u32> = processes.iter().map(|process| process.pid).collect();
            own.foreign_among(&numbers)
        });
    }

    /// The GPU's answer; that it is lost is kept in mind, since each further question may take seconds.
    fn known<T>(&mut self, answer: Result<T, NvmlError>) -> Option<T> {
        match answer {
            Ok(value) => Some(value),
            Err(error @ (NvmlError::GpuLost | NvmlError::ResetRequired)) => {
                let why = || format!("NVML: {}: {error}", self.uuid);
                self.lost.get_or_insert_with(why);
                None
            }
            Err(_) => None,
        }
    }

    /// Every period that the driver has written down since the last reading, or the last one where it keeps no buffer.
    fn utilization(&mut self, reading: &mut Reading) {
        let Some(seen) = self.drained_us else {
            let rates = self.device.utilization_rates();
            reading.util_pct = self.known(rates).map(|rates| f64::from(rates.gpu));
            return;
        };
        let samples = self.device.samples(Sampling::GpuUtilization, seen);
        let mut samples: Vec<(u64, f64)> = self
            .known(samples)
            .unwrap_or_default()
            .into_iter()
            // Places of the buffer that were never written hold a time of 0.
            .filter(|sample| sample.timestamp > seen)
            .map(|sample| (sample.timestamp, number(&sample.value)))
            .filter(|(_, percent)| (0.0..=100.0).contains(percent))
            .collect();
        samples.sort_by_key(|(time, _)| *time);
        let mut from = seen;
        for (to, percent) in samples {
            reading.utilization.push(Span {
                from_ns: from as i64 * NS_PER_US,
                to_ns: to as i64 * NS_PER_US,
                value: percent,
            });
            from = to;
        }
        self.drained_us = Some(from);
    }

    /// Reads the activity counters over the time since the last reading.
    fn activity(&mut self, reading: &mut Reading) {
        let Some((from_ns, before)) = self.counters.take() else {
            return;
        };
        let now = self.counters_now();
        let Some((to_ns, now)) = self.known(now) else {
            // One that cannot be taken now may be later.
            self.counters = Some((from_ns, before));
            return;
        };
        let found = gpm_metrics_get(before.nvml(), &before, &now, &ACTIVITY).unwrap_or_default();
        let span = |at: usize| {
            let value = found.get(at)?.as_ref().ok()?.value;
            let possible = value.is_finite() && (0.0..=100.0).contains(&value);
            possible.then_some(Span {
                from_ns,
                to_ns,
                value,
            })
        };
        (reading.dram_active, reading.tensor_active) = (span(0), span(1));
        self.counters = Some((to_ns, now));
    }

    fn counters_now(&self) -> Result<(i64, GpmSample<'static>), NvmlError> {
        let sample = match &self.whole {
            None => self.device.gpm_sample(),
            Some((whole, Some(instance))) => whole.gpm_mig_sample(*instance),
            Some((_, None)) => Err(NvmlError::NotSupported),
        }?;
        Ok((unix_ns(), sample))
    }
}

/// CUDA may name a slice by the GPU that it belongs to.
fn only_slice(whole: &Device<'static>) -> Result<Device<'static>, String> {
    let count = whole.mig_device_count().unwrap_or(0);
    let mut slices: Vec<Device<'static>> = (0..count)
        .filter_map(|index| whole.mig_device_by_index(index).ok())
        .collect();
    match (slices.pop(), slices.len()) {
        (Some(slice), 0) => Ok(slice),
        (None, _) => Err("is divided (MIG), and none of its slices can be seen".into()),
        (Some(_), others) => Err(format!(
            "is divided (MIG) into {} slices, and does not say which one is meant",
            others + 1
        )),
    }
}

/// The number of the GPU instance that a slice is.
fn gpu_instance(nvml: &'static Nvml, slice: &Device<'static>) -> Result<u32, NvmlError> {
    let ask = nvml_sym(nvml.lib().nvmlDeviceGetGpuInstanceId.as_ref())?;
    let mut number = 0;
    // SAFETY: the handle is this library's own, which stays open, and the function writes one number.
    nvml_try(unsafe { ask(slice.handle(), &raw mut number) })?;
    Ok(number)
}

/// Where the driver's buffer of utilization stands: the time of its newest sample, in µs; `None` without a buffer, or
/// where its times are not ours.
fn buffer(device: &Device<'_>) -> Option<u64> {
    let now = (unix_ns() / NS_PER_US) as u64;
    match device.samples(Sampling::GpuUtilization, None) {
        Ok(samples) => {
            let newest = samples.iter().map(|sample| sample.timestamp).max();
            let newest = newest.filter(|newest| *newest > 0).unwrap_or(now);
            (newest.abs_diff(now) < OTHER_CLOCK / NS_PER_US as u64).then_some(newest)
        }
        // Nothing is written down yet.
        Err(NvmlError::NotFound) => Some(now),
        Err(_) => None,
    }
}

fn power_w(device: &Device<'_>) -> Result<f64, NvmlError> {
    let now = device
        .field_values_for(&[FieldId(NVML_FI_DEV_POWER_INSTANT)])
        .ok()
        .and_then(|values| values.into_iter().next())
        .and_then(|value| value.ok()?.value.ok());
    let milliwatts = match now {
        Some(now) => number(&now),
        None => f64::from(device.power_usage()?),
    };
    Ok(milliwatts / 1e3)
}

fn held_back(reasons: ThrottleReasons) -> Vec<String> {
    let held_back = reasons
        - (ThrottleReasons::GPU_IDLE
            | ThrottleReasons::APPLICATIONS_CLOCKS_SETTING
            | ThrottleReasons::DISPLAY_CLOCK_SETTING);
    held_back
        .iter_names()
        .map(|(name, _)| name.to_lowercase())
        .collect()
}

fn number(value: &SampleValue) -> f64 {
    match *value {
        SampleValue::F64(value) => value,
        SampleValue::U32(value) => f64::from(value),
        SampleValue::U64(value) => value as f64,
        SampleValue::I64(value) => value as f64,
    }
}

#[cfg(test)]
mod tests;

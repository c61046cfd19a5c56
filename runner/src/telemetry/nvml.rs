//! NVIDIA GPUs through their management library, which is looked for when it is needed, so that the same binary runs
//! where there is no driver.

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{Clock, TemperatureSensor},
};

const MIB: f64 = 1_048_576.0;

/// The GPUs to watch.
#[derive(Debug)]
pub struct Gpus {
    nvml: Option<Nvml>,
    uuids: Vec<String>,
}

/// One reading of one GPU; what the GPU does not tell is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GpuSample {
    /// The UUID.
    pub uuid: String,
    /// Percent of the driver's last period (1/6 s to 1 s) in which any kernel ran.
    pub util_pct: Option<f64>,
    /// Memory in use, by anyone.
    pub mem_mib: Option<f64>,
    /// Memory of the device.
    pub mem_total_mib: Option<f64>,
    /// Power, averaged by the driver over up to 1 s.
    pub power_w: Option<f64>,
    /// Energy since the driver was loaded.
    pub energy_j: Option<f64>,
    /// Clock of the multiprocessors.
    pub sm_clock_mhz: Option<f64>,
    /// Temperature of the die.
    pub temp_c: Option<f64>,
    /// Why the clock is held back; idling and settings of the user are no such reason.
    pub throttle: Vec<String>,
    /// Compute processes beside this one.
    pub foreign_processes: Option<u32>,
}

impl Gpus {
    /// No GPU.
    #[must_use]
    pub fn none() -> Self {
        Self {
            nvml: None,
            uuids: Vec::new(),
        }
    }

    /// Opens the management library and finds the GPUs with these UUIDs (`GPU-…` or `MIG-…`).
    ///
    /// # Errors
    /// Where there is no library, no driver, or no such GPU.
    pub fn open(uuids: &[String]) -> Result<Self, String> {
        let nvml = Nvml::init().map_err(|error| format!("NVML: {error}"))?;
        for uuid in uuids {
            nvml.device_by_uuid(uuid.as_str())
                .map_err(|error| format!("NVML: {uuid}: {error}"))?;
        }
        Ok(Self {
            nvml: Some(nvml),
            uuids: uuids.to_vec(),
        })
    }

    /// The UUIDs, in the order of the samples.
    #[must_use]
    pub fn uuids(&self) -> &[String] {
        &self.uuids
    }

    /// Reads each of them now.
    #[must_use]
    pub fn sample(&self) -> Vec<GpuSample> {
        let Some(nvml) = &self.nvml else {
            return Vec::new();
        };
        let read = |uuid: &String| match nvml.device_by_uuid(uuid.as_str()) {
            Ok(device) => sample(&device, uuid),
            Err(_) => GpuSample {
                uuid: uuid.clone(),
                ..GpuSample::default()
            },
        };
        self.uuids.iter().map(read).collect()
    }

    /// The versions of the driver and of the CUDA that it brings.
    #[must_use]
    pub fn versions(&self) -> (Option<String>, Option<String>) {
        let Some(nvml) = &self.nvml else {
            return (None, None);
        };
        let cuda = nvml.sys_cuda_driver_version().ok();
        (
            nvml.sys_driver_version().ok(),
            cuda.map(|version| format!("{}.{}", version / 1000, version % 1000 / 10)),
        )
    }
}

fn sample(device: &Device<'_>, uuid: &str) -> GpuSample {
    // Power and energy are the whole GPU's also where only a slice of it is used.
    let parent = device.mig_parent_device().ok();
    let whole = parent.as_ref().unwrap_or(device);
    let memory = device.memory_info().ok();
    let held_back = whole
        .current_throttle_reasons()
        .unwrap_or(ThrottleReasons::NONE)
        - (ThrottleReasons::GPU_IDLE
            | ThrottleReasons::APPLICATIONS_CLOCKS_SETTING
            | ThrottleReasons::DISPLAY_CLOCK_SETTING);
    GpuSample {
        uuid: uuid.to_owned(),
        util_pct: device
            .utilization_rates()
            .ok()
            .map(|rates| f64::from(rates.gpu)),
        mem_mib: memory.as_ref().map(|memory| memory.used as f64 / MIB),
        mem_total_mib: memory.as_ref().map(|memory| memory.total as f64 / MIB),
        power_w: whole
            .power_usage()
            .ok()
            .map(|milliwatts| f64::from(milliwatts) / 1e3),
        energy_j: whole
            .total_energy_consumption()
            .ok()
            .map(|millijoules| millijoules as f64 / 1e3),
        sm_clock_mhz: whole.clock_info(Clock::SM).ok().map(f64::from),
        temp_c: whole
            .temperature(TemperatureSensor::Gpu)
            .ok()
            .map(f64::from),
        throttle: held_back
            .iter_names()
            .map(|(name, _)| name.to_lowercase())
            .collect(),
        // Process numbers are the host's, which a container cannot compare with its own: count them instead.
        foreign_processes: device
            .running_compute_processes_count()
            .ok()
            .map(|processes| processes.saturating_sub(1)),
    }
}

//! Everything of one GPU. What a GPU does not tell is unknown; only that it is gone ends the reading.

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml};

use super::super::capability::Capabilities;
use super::super::snapshot::{
    ComputeCapability, DeviceKind, Ecc, EccErrors, Gpu, MAX_PROCESSES, Mig, MigInstance, Pcie, Process,
    ProcessKind, Throttle, Utilization,
};
use super::memory;
use super::trouble::Gone;

/// Longest name of a process that is asked for.
const NAME: usize = 256;
/// Parts of a GPU that are looked at; today's have at most seven.
const MAX_PARTS: u32 = 16;

/// The value, or unknown; the GPU being gone is passed on.
fn known<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if Gone::of(&error).is_some() => Err(error),
        Err(_) => Ok(None),
    }
}

/// Reads the GPU.
///
/// # Errors
/// The GPU is gone, or it does not even tell its UUID.
pub(super) fn read(nvml: &Nvml, device: &Device<'_>, index: u32) -> Result<Gpu, NvmlError> {
    let uuid = device.uuid()?;
    let compute_capability = known(device.cuda_compute_capability())?.and_then(|cc| {
        let (major, minor) = (u32::try_from(cc.major).ok()?, u32::try_from(cc.minor).ok()?);
        Some(ComputeCapability { major, minor })
    });
    let share = |percent: u32| f64::from(percent.min(100)) / 100.0;
    let utilization = known(device.utilization_rates())?;
    let watts = |milliwatts: u32| f64::from(milliwatts) / 1000.0;
    let (processes, processes_omitted) = match processes(nvml, device)? {
        Some((processes, omitted)) => (Some(processes), omitted),
        None => (None, 0),
    };
    Ok(Gpu {
        uuid: Some(uuid),
        name: known(device.name())?,
        compute_capability,
        capabilities: Capabilities::of(compute_capability),
        memory: memory::memory(nvml, device)?,
        utilization: Utilization {
            gpu: utilization.as_ref().map(|rates| share(rates.gpu)),
            memory: utilization.as_ref().map(|rates| share(rates.memory)),
        },
        temperature_c: known(device.temperature(TemperatureSensor::Gpu))?,
        power_w: known(device.power_usage())?.map(watts),
        power_limit_w: known(device.enforced_power_limit())?.map(watts),
        throttle_reasons: known(device.current_throttle_reasons())?.map(throttles),
        ecc: ecc(device)?,
        remapped_rows: known(memory::remapped_rows(nvml, device))?,
        pcie: pcie(device)?,
        mig: mig(nvml, device)?,
        processes,
        processes_omitted,
        ..Gpu::unknown(index, DeviceKind::Cuda)
    })
}

fn throttles(bits: ThrottleReasons) -> Vec<Throttle> {
    let bit = |reason: Throttle| match reason {
        Throttle::Idle => ThrottleReasons::GPU_IDLE,
        Throttle::ApplicationClocks => ThrottleReasons::APPLICATIONS_CLOCKS_SETTING,
        Throttle::SwPowerCap => ThrottleReasons::SW_POWER_CAP,
        Throttle::HwSlowdown => ThrottleReasons::HW_SLOWDOWN,
        Throttle::SyncBoost => ThrottleReasons::SYNC_BOOST,
        Throttle::SwThermalSlowdown => ThrottleReasons::SW_THERMAL_SLOWDOWN,
        Throttle::HwThermalSlowdown => ThrottleReasons::HW_THERMAL_SLOWDOWN,
        Throttle::HwPowerBrakeSlowdown => ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN,
        Throttle::DisplayClock => ThrottleReasons::DISPLAY_CLOCK_SETTING,
    };
    Throttle::ALL.iter().copied().filter(|reason| bits.contains(bit(*reason))).collect()
}

fn ecc(device: &Device<'_>) -> Result<Option<Ecc>, NvmlError> {
    let Some(mode) = known(device.is_ecc_enabled())? else { return Ok(None) };
    let errors = |counter: EccCounter| -> Result<EccErrors, NvmlError> {
        Ok(EccErrors {
            corrected: known(device.total_ecc_errors(MemoryError::Corrected, counter))?,
            uncorrected: known(device.total_ecc_errors(MemoryError::Uncorrected, counter))?,
        })
    };
    Ok(Some(Ecc {
        enabled: Some(mode.currently_enabled),
        volatile: errors(EccCounter::Volatile)?,
        aggregate: errors(EccCounter::Aggregate)?,
    }))
}

fn pcie(device: &Device<'_>) -> Result<Pcie, NvmlError> {
    Ok(Pcie {
        generation: known(device.current_pcie_link_gen())?,
        width: known(device.current_pcie_link_width())?,
        max_generation: known(device.max_pcie_link_gen())?,
        max_width: known(device.max_pcie_link_width())?,
    })
}

/// The parts of a GPU. The library tells how many there can be, not which are there, so each index is tried.
fn mig(nvml: &Nvml, device: &Device<'_>) -> Result<Option<Mig>, NvmlError> {
    let Some(mode) = known(device.mig_mode())? else { return Ok(None) };
    let enabled = mode.current != 0;
    let most = if enabled { known(device.mig_device_count())?.unwrap_or(0) } else { 0 };
    let mut instances = Vec::new();
    for index in 0..most.min(MAX_PARTS) {
        let Some(part) = known(device.mig_device_by_index(index))? else { continue };
        instances.push(MigInstance {
            index,
            uuid: known(part.uuid())?,
            name: known(part.name())?,
            memory: memory::memory(nvml, &part)?,
        });
    }
    Ok(Some(Mig { enabled, pending: mode.pending != 0, instances }))
}

/// Who uses the GPU, largest first, and how many more there are.
fn processes(nvml: &Nvml, device: &Device<'_>) -> Result<Option<(Vec<Process>, usize)>, NvmlError> {
    let compute = match device.running_compute_processes() {
        Err(NvmlError::FailedToLoadSymbol(_)) => device.running_compute_processes_v2(),
        other => other,
    };
    let graphics = match device.running_graphics_processes() {
        Err(NvmlError::FailedToLoadSymbol(_)) => device.running_graphics_processes_v2(),
        other => other,
    };
    let (compute, graphics) = (known(compute)?, known(graphics)?);
    if compute.is_none() && graphics.is_none() {
        return Ok(None);
    }
    let of = |kind, list: Option<Vec<ProcessInfo>>| {
        list.unwrap_or_default().into_iter().map(move |info| (kind, info))
    };
    let mut all: Vec<Process> = of(ProcessKind::Compute, compute)
        .chain(of(ProcessKind::Graphics, graphics))
        .map(|(kind, info)| Process {
            pid: info.pid,
            kind,
            used_memory: match info.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            },
            name: None,
        })
        .collect();
    // One that computes and draws is in both lists.
    all.sort_by_key(|process| (process.pid, process.kind == ProcessKind::Graphics));
    all.dedup_by_key(|process| process.pid);
    all.sort_by_key(|process| std::cmp::Reverse(process.used_memory));
    let omitted = all.len().saturating_sub(MAX_PROCESSES);
    all.truncate(MAX_PROCESSES);
    for process in &mut all {
        process.name = nvml.sys_process_name(process.pid, NAME).ok().filter(|name| !name.is_empty());
    }
    Ok(Some((all, omitted)))
}

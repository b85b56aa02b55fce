//! GPUs that are not NVIDIA's, as far as the kernel shows them to the sysinfo crate. Tested on Linux without such a
//! GPU only: what is read from an AMD or Apple GPU is unverified.

use jiff::Timestamp;

use super::snapshot::{DeviceKind, Gpu, Gpus, Memory, MemoryKind, MemorySource, Source, Utilization};

/// GPUs of one host that are looked at.
const MAX_DEVICES: usize = 64;
/// PCI's number for AMD, as sysfs writes it.
#[cfg(target_os = "linux")]
const AMD: &str = "0x1002";

/// The GPUs that a framework could use; `None` if there are none. Reads files of the kernel, and where another
/// maker's GPU stands beside an AMD one also asks Vulkan, so it belongs on a thread that nobody waits for.
pub(super) fn read(now: Timestamp) -> Option<Gpus> {
    if !worth_asking() {
        return None;
    }
    let begun = std::time::Instant::now();
    let found = sysinfo::Gpus::new_with_refreshed_list().ok()?;
    let devices: Vec<Gpu> = found.iter().filter_map(device).take(MAX_DEVICES).collect();
    let devices: Vec<Gpu> = devices.into_iter().zip(0..).map(|(gpu, index)| Gpu { index, ..gpu }).collect();
    (!devices.is_empty()).then(|| Gpus {
        source: Source::Sysinfo,
        driver_version: None,
        cuda_version: None,
        nvml_version: None,
        why_none: None,
        devices,
        taken_at: now,
        took_seconds: begun.elapsed().as_secs_f64(),
        stale: false,
    })
}

fn device(found: &sysinfo::Gpu) -> Option<Gpu> {
    let kind = kind(found.vendor()?)?;
    let (total, used) = (found.total_memory(), found.used_memory());
    let free = total.zip(used).map(|(total, used)| total.saturating_sub(used));
    let whose = if kind == DeviceKind::Mps { MemoryKind::Unified } else { MemoryKind::Dedicated };
    Some(Gpu {
        uuid: Some(format!("PCI-{}", found.pci())),
        name: found.model().map(str::to_owned),
        memory: Memory {
            total,
            used,
            free,
            reserved: None,
            kind: Some(whose),
            source: total.map(|_| MemorySource::Sysinfo),
        },
        utilization: Utilization {
            gpu: found.usage().map(|percent| f64::from(percent) / 100.0),
            memory: None,
        },
        ..Gpu::unknown(0, kind)
    })
}

/// NVIDIA's are NVML's business: whatever keeps it from being read is said, not worked around.
fn kind(vendor: &str) -> Option<DeviceKind> {
    if vendor.contains("AMD") || vendor.contains("Advanced Micro Devices") {
        return Some(DeviceKind::Rocm);
    }
    vendor.contains("Apple").then_some(DeviceKind::Mps)
}

/// Whether there is an AMD GPU that programs may compute on. Every server has some graphics chip; nobody need ask
/// Vulkan about those.
#[cfg(target_os = "linux")]
fn worth_asking() -> bool {
    let compute = std::path::Path::new("/dev/kfd").exists();
    let cards = std::fs::read_dir("/sys/class/drm").into_iter().flatten().flatten();
    let amd = |card: std::fs::DirEntry| {
        std::fs::read_to_string(card.path().join("device/vendor")).is_ok_and(|vendor| vendor.trim() == AMD)
    };
    compute && cards.take(1024).any(amd)
}

#[cfg(not(target_os = "linux"))]
fn worth_asking() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makers_have_their_framework_and_others_are_left_out() {
        assert_eq!(kind("Advanced Micro Devices, Inc. [AMD/ATI]"), Some(DeviceKind::Rocm));
        assert_eq!(kind("Apple"), Some(DeviceKind::Mps));
        assert_eq!([kind("NVIDIA Corporation"), kind("ASPEED Technology, Inc."), kind("Intel")], [None; 3]);
    }
}

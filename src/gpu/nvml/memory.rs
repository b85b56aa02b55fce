//! What NVML tells of memory where the wrapper does not ask the right function.

use std::mem::MaybeUninit;

use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::{Device, Nvml};

use super::super::snapshot::{Memory, MemoryKind, MemorySource, RemappedRows};
use super::trouble::Gone;

/// Total, used, free and reserved bytes: version 2, else version 1 (drivers before R510, WSL), else the host's
/// memory, which a GPU without memory of its own uses (GB10).
///
/// # Errors
/// Only that the GPU is gone.
pub(super) fn memory(nvml: &Nvml, device: &Device<'_>) -> Result<Memory, NvmlError> {
    let kind = Some(MemoryKind::Dedicated);
    match device.memory_info() {
        Ok(info) => {
            return Ok(Memory {
                total: Some(info.total),
                used: Some(info.used),
                free: Some(info.free),
                reserved: Some(info.reserved),
                kind,
                source: Some(MemorySource::V2),
            });
        }
        Err(error) if Gone::of(&error).is_some() => return Err(error),
        Err(_) => {}
    }
    match version_1(nvml, device) {
        Ok([total, used, free]) => Ok(Memory {
            total: Some(total),
            used: Some(used),
            free: Some(free),
            reserved: None,
            kind,
            source: Some(MemorySource::V1),
        }),
        Err(error) if Gone::of(&error).is_some() => Err(error),
        // This GPU has no such thing; any other failure says nothing about whose memory it uses.
        Err(NvmlError::NotSupported) => Ok(host()),
        Err(error) => {
            tracing::debug!(%error, "NVML does not tell the memory of a GPU");
            Ok(Memory::default())
        }
    }
}

/// Total, used (with what is reserved) and free bytes, by `nvmlDeviceGetMemoryInfo`.
#[allow(unsafe_code)]
fn version_1(nvml: &Nvml, device: &Device<'_>) -> Result<[u64; 3], NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlDeviceGetMemoryInfo.as_ref())?;
    let mut info = MaybeUninit::zeroed();
    // SAFETY: the handle is that of a device which borrows the same library, and `info` has room for the struct that
    // the function's own type demands.
    nvml_try(unsafe { call(device.handle(), info.as_mut_ptr()) })?;
    // SAFETY: the struct is three integers, for which all zeroes and all that the library writes are valid.
    let info = unsafe { info.assume_init() };
    Ok([info.total, info.used, info.free])
}

/// The host's memory; what the kernel calls available is what a process, or its GPU, could still get.
fn host() -> Memory {
    let known = |bytes: u64| Some(bytes).filter(|bytes| *bytes > 0);
    let (total, free) = match sysinfo::System::new() {
        Ok(mut system) => {
            system.refresh_memory();
            (known(system.total_memory()), known(system.available_memory()))
        }
        Err(_) => (None, None),
    };
    Memory {
        total,
        used: total.zip(free).map(|(total, free)| total.saturating_sub(free)),
        free,
        reserved: None,
        kind: Some(MemoryKind::Unified),
        source: Some(MemorySource::Meminfo),
    }
}

/// Rows of the memory that were, or are to be, replaced; the wrapper has no call for it.
#[allow(unsafe_code)]
pub(super) fn remapped_rows(nvml: &Nvml, device: &Device<'_>) -> Result<RemappedRows, NvmlError> {
    let call = nvml_sym(nvml.lib().nvmlDeviceGetRemappedRows.as_ref())?;
    let (mut correctable, mut uncorrectable, mut pending, mut failure) = (0, 0, 0, 0);
    // SAFETY: the handle is that of a device which borrows the same library; the four integers outlive the call.
    let code =
        unsafe { call(device.handle(), &mut correctable, &mut uncorrectable, &mut pending, &mut failure) };
    nvml_try(code)?;
    Ok(RemappedRows { correctable, uncorrectable, pending: pending != 0, failure: failure != 0 })
}

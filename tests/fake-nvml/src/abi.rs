//! The C functions. What they answer is decided in safe code; here pointers of the caller are read and written.
#![allow(
    unsafe_code,
    non_snake_case,
    non_upper_case_globals,
    reason = "this is the C ABI, with NVML's names"
)]
#![allow(clippy::missing_safety_doc, reason = "nvml.h is the contract")]

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_ulonglong};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use nvml_wrapper_sys::bindings::*;

use crate::config::{Config, Process};
use crate::device::{Device, INVALID, Id, NOT_FOUND, NOT_SUPPORTED, process_bytes, process_name};
use crate::state::{Answer, State};

const TOO_SMALL: u32 = nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;
const WRONG_VERSION: u32 = nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
/// No part of a GPU.
const NO_INSTANCE: c_uint = c_uint::MAX;

static STATE: LazyLock<State> = LazyLock::new(|| State::new(file()));

/// `FAKE_NVML`, else the file beside this library.
fn file() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FAKE_NVML") {
        return Some(path.into());
    }
    let address = (file as fn() -> Option<PathBuf>) as *const libc::c_void;
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: `info` has room for what dladdr writes, and the address is one of this library's code.
    let found = unsafe { libc::dladdr(address, info.as_mut_ptr()) };
    // SAFETY: all zeroes is a valid Dl_info, and dladdr wrote nothing else but valid ones.
    let info = unsafe { info.assume_init() };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's name of this library is a C string that lives as long as the library is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())).with_extension("json"))
}

/// Writes through a pointer of the caller.
fn put<T>(to: *mut T, value: T) -> Answer<()> {
    if to.is_null() {
        return Err(INVALID);
    }
    // SAFETY: nvml.h demands that a pointer that is not null points to room for one value of its type.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes a C string into the caller's room of `length` bytes.
fn put_text(to: *mut c_char, length: c_uint, text: &str) -> Answer<()> {
    if to.is_null() {
        return Err(INVALID);
    }
    if text.len() >= length as usize {
        return Err(TOO_SMALL);
    }
    // SAFETY: nvml.h demands `length` bytes of room; the text and its terminator are not longer, and nobody else has
    // that room while we write.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

/// Reads what the caller's pointer points to.
fn take<T: Copy>(from: *const T) -> Answer<T> {
    if from.is_null() {
        return Err(INVALID);
    }
    // SAFETY: nvml.h demands that a pointer that is not null points to an initialised value of its type.
    Ok(unsafe { from.read() })
}

/// The list protocol: how many there are if the room is too small, else all of them.
fn put_list<T>(count: *mut c_uint, to: *mut T, list: Vec<T>) -> Answer<()> {
    let room = take(count)? as usize;
    put(count, c_uint::try_from(list.len()).unwrap_or(c_uint::MAX))?;
    if list.len() > room {
        return Err(TOO_SMALL);
    }
    if list.is_empty() {
        return Ok(());
    }
    if to.is_null() {
        return Err(INVALID);
    }
    for (n, value) in list.into_iter().enumerate() {
        // SAFETY: the caller has room for `room` values, and `n` is less than that.
        unsafe { to.add(n).write(value) };
    }
    Ok(())
}

fn handle(id: Id) -> nvmlDevice_t {
    std::ptr::without_provenance_mut(id.number())
}

fn id(device: nvmlDevice_t) -> Option<Id> {
    Id::of(device.addr())
}

fn number(index: usize) -> Answer<c_uint> {
    c_uint::try_from(index).map_err(|_| INVALID)
}

fn code(answer: Answer<()>) -> nvmlReturn_t {
    answer.err().unwrap_or(nvmlReturn_enum_NVML_SUCCESS)
}

/// Exports functions about the system: the body sees the file and may answer with an error.
macro_rules! system {
    ($($name:ident($($arg:ident: $type:ty),*) |$config:ident| $body:expr;)*) => {$(
        #[doc = concat!("`", stringify!($name), "` of nvml.h.")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> nvmlReturn_t {
            code(STATE.enter(stringify!($name)).and_then(|$config: Arc<Config>| $body))
        }
    )*};
}

/// Exports functions about a device.
macro_rules! device {
    ($($name:ident($($arg:ident: $type:ty),*) |$device:ident| $body:expr;)*) => {$(
        #[doc = concat!("`", stringify!($name), "` of nvml.h.")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvmlDevice_t, $($arg: $type),*) -> nvmlReturn_t {
            let name = stringify!($name);
            code(STATE.enter(name).and_then(|config: Arc<Config>| {
                let $device = Device::of(&config, id(device), name)?;
                $body
            }))
        }
    )*};
}

fn begin() -> Answer<()> {
    STATE.count_user(1);
    Ok(())
}

fn by_index(config: &Config, index: c_uint, to: *mut nvmlDevice_t, call: &str) -> Answer<()> {
    let id = Id { gpu: index as usize, part: None };
    Device::of(config, Some(id), call)?;
    put(to, handle(id))
}

fn by_uuid(config: &Config, uuid: *const c_char, to: *mut nvmlDevice_t) -> Answer<()> {
    if uuid.is_null() {
        return Err(INVALID);
    }
    // SAFETY: nvml.h demands a C string.
    let uuid = unsafe { CStr::from_ptr(uuid) }.to_bytes();
    let gpu = config.gpus.iter().position(|gpu| gpu.uuid.as_bytes() == uuid).ok_or(NOT_FOUND)?;
    let id = Id { gpu, part: None };
    Device::of(config, Some(id), "nvmlDeviceGetHandleByUUID")?;
    put(to, handle(id))
}

system! {
    nvmlInit() |_config| begin();
    nvmlInit_v2() |_config| begin();
    nvmlInitWithFlags(_flags: c_uint) |_config| begin();
    nvmlSystemGetDriverVersion(to: *mut c_char, length: c_uint) |config| {
        put_text(to, length, &config.driver_version)
    };
    nvmlSystemGetNVMLVersion(to: *mut c_char, length: c_uint) |config| put_text(to, length, &config.nvml_version);
    nvmlSystemGetCudaDriverVersion(to: *mut c_int) |config| put(to, config.cuda_version);
    nvmlSystemGetCudaDriverVersion_v2(to: *mut c_int) |config| put(to, config.cuda_version);
    nvmlSystemGetProcessName(pid: c_uint, to: *mut c_char, length: c_uint) |config| {
        put_text(to, length, process_name(&config, pid)?)
    };
    nvmlDeviceGetCount(to: *mut c_uint) |config| put(to, count(&config));
    nvmlDeviceGetCount_v2(to: *mut c_uint) |config| put(to, count(&config));
    nvmlDeviceGetHandleByIndex(index: c_uint, to: *mut nvmlDevice_t) |config| {
        by_index(&config, index, to, "nvmlDeviceGetHandleByIndex")
    };
    nvmlDeviceGetHandleByIndex_v2(index: c_uint, to: *mut nvmlDevice_t) |config| {
        by_index(&config, index, to, "nvmlDeviceGetHandleByIndex_v2")
    };
    nvmlDeviceGetHandleByUUID(uuid: *const c_char, to: *mut nvmlDevice_t) |config| by_uuid(&config, uuid, to);
    nvmlEventSetCreate(to: *mut nvmlEventSet_t) |_config| {
        put(to, std::ptr::without_provenance_mut(STATE.create_set()))
    };
    nvmlEventSetFree(set: nvmlEventSet_t) |_config| STATE.free_set(set.addr()).then_some(()).ok_or(INVALID);
    nvmlEventSetWait(set: nvmlEventSet_t, to: *mut nvmlEventData_t, timeout: c_uint) |_config| wait(set, to, timeout);
    nvmlEventSetWait_v2(set: nvmlEventSet_t, to: *mut nvmlEventData_t, timeout: c_uint) |_config| {
        wait(set, to, timeout)
    };
}

/// `nvmlShutdown` of nvml.h; it works however the rest fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    STATE.count_user(-1);
    nvmlReturn_enum_NVML_SUCCESS
}

/// `nvmlErrorString` of nvml.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    let text = match result {
        nvmlReturn_enum_NVML_SUCCESS => c"Success",
        nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED => c"Not Supported",
        nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST => c"GPU is lost",
        nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED => c"Driver Not Loaded",
        _ => c"Error of the fake library",
    };
    text.as_ptr()
}

fn count(config: &Config) -> c_uint {
    c_uint::try_from(config.gpus.len()).unwrap_or(c_uint::MAX)
}

fn wait(set: nvmlEventSet_t, to: *mut nvmlEventData_t, milliseconds: c_uint) -> Answer<()> {
    let xid = STATE.wait(set.addr(), Duration::from_millis(milliseconds.into()))?;
    let data = nvmlEventData_t {
        device: handle(Id { gpu: xid.gpu, part: None }),
        eventType: nvmlEventTypeXidCriticalError.into(),
        eventData: xid.code,
        gpuInstanceId: NO_INSTANCE,
        computeInstanceId: NO_INSTANCE,
    };
    put(to, data)
}

device! {
    nvmlDeviceGetIndex(to: *mut c_uint) |found| put(to, number(found.id.gpu)?);
    nvmlDeviceGetMinorNumber(to: *mut c_uint) |found| put(to, number(found.id.gpu)?);
    nvmlDeviceGetName(to: *mut c_char, length: c_uint) |found| put_text(to, length, found.name());
    nvmlDeviceGetUUID(to: *mut c_char, length: c_uint) |found| put_text(to, length, found.uuid());
    nvmlDeviceGetCudaComputeCapability(major: *mut c_int, minor: *mut c_int) |found| {
        put(major, found.gpu.compute_capability.0)?;
        put(minor, found.gpu.compute_capability.1)
    };
    nvmlDeviceGetPciInfo_v3(to: *mut nvmlPciInfo_t) |found| put(to, pci(found.id.gpu)?);
    nvmlDeviceGetMemoryInfo(to: *mut nvmlMemory_t) |found| {
        let (nth, after) = STATE.memory_call();
        let bytes = found.memory(nth, after)?;
        // Version 1 has no word for what the driver keeps for itself and counts it as used.
        put(to, nvmlMemory_t { total: bytes.total, free: bytes.free, used: bytes.used + bytes.reserved })
    };
    nvmlDeviceGetMemoryInfo_v2(to: *mut nvmlMemory_v2_t) |found| {
        let version = take(to.cast_const())?.version;
        if version as usize != size_of::<nvmlMemory_v2_t>() | 2 << 24 {
            return Err(WRONG_VERSION);
        }
        let (nth, after) = STATE.memory_call();
        let bytes = found.memory(nth, after)?;
        let (total, reserved) = (bytes.total, bytes.reserved);
        put(to, nvmlMemory_v2_t { version, total, reserved, free: bytes.free, used: bytes.used })
    };
    nvmlDeviceGetUtilizationRates(to: *mut nvmlUtilization_t) |found| {
        let (gpu, memory) = found.whole(|gpu| gpu.utilization)?;
        put(to, nvmlUtilization_t { gpu, memory })
    };
    nvmlDeviceGetTemperature(sensor: c_uint, to: *mut c_uint) |found| {
        let value = found.whole(|gpu| gpu.temperature_c)?;
        if sensor == 0 { put(to, value) } else { Err(INVALID) }
    };
    nvmlDeviceGetPowerUsage(to: *mut c_uint) |found| put(to, found.whole(|gpu| gpu.power_mw)?);
    nvmlDeviceGetEnforcedPowerLimit(to: *mut c_uint) |found| put(to, found.whole(|gpu| gpu.power_limit_mw)?);
    nvmlDeviceGetPowerManagementLimit(to: *mut c_uint) |found| put(to, found.whole(|gpu| gpu.power_limit_mw)?);
    nvmlDeviceGetCurrentClocksThrottleReasons(to: *mut c_ulonglong) |found| {
        put(to, found.whole(|gpu| gpu.throttle_reasons)?)
    };
    nvmlDeviceGetCurrentClocksEventReasons(to: *mut c_ulonglong) |found| {
        put(to, found.whole(|gpu| gpu.throttle_reasons)?)
    };
    nvmlDeviceGetEccMode(now: *mut nvmlEnableState_t, pending: *mut nvmlEnableState_t) |found| {
        let enabled = c_uint::from(!found.whole(|gpu| gpu.ecc)?.disabled);
        put(now, enabled)?;
        put(pending, enabled)
    };
    nvmlDeviceGetTotalEccErrors(
        kind: nvmlMemoryErrorType_t, counter: nvmlEccCounterType_t, to: *mut c_ulonglong
    ) |found| {
        let ecc = found.whole(|gpu| gpu.ecc.filter(|ecc| !ecc.disabled))?;
        put(to, match (kind, counter) {
            (0, 0) => ecc.corrected_volatile,
            (1, 0) => ecc.uncorrected_volatile,
            (0, 1) => ecc.corrected_aggregate,
            (1, 1) => ecc.uncorrected_aggregate,
            _ => return Err(INVALID),
        })
    };
    nvmlDeviceGetRemappedRows(
        correctable: *mut c_uint, uncorrectable: *mut c_uint, pending: *mut c_uint, failure: *mut c_uint
    ) |found| {
        let rows = found.whole(|gpu| gpu.remapped_rows)?;
        put(correctable, rows.correctable)?;
        put(uncorrectable, rows.uncorrectable)?;
        put(pending, rows.pending.into())?;
        put(failure, rows.failure.into())
    };
    nvmlDeviceGetCurrPcieLinkGeneration(to: *mut c_uint) |found| put(to, found.whole(|gpu| gpu.pcie)?.0);
    nvmlDeviceGetCurrPcieLinkWidth(to: *mut c_uint) |found| put(to, found.whole(|gpu| gpu.pcie)?.1);
    nvmlDeviceGetMaxPcieLinkGeneration(to: *mut c_uint) |found| put(to, found.whole(|gpu| gpu.pcie_max)?.0);
    nvmlDeviceGetMaxPcieLinkWidth(to: *mut c_uint) |found| put(to, found.whole(|gpu| gpu.pcie_max)?.1);
    nvmlDeviceGetMigMode(now: *mut c_uint, pending: *mut c_uint) |found| {
        let enabled = c_uint::from(found.whole(|gpu| gpu.mig.as_ref())?.enabled);
        put(now, enabled)?;
        put(pending, enabled)
    };
    nvmlDeviceGetMaxMigDeviceCount(to: *mut c_uint) |found| put(to, found.whole(|gpu| gpu.mig.as_ref())?.max);
    nvmlDeviceGetMigDeviceHandleByIndex(index: c_uint, to: *mut nvmlDevice_t) |found| {
        found.gpu.has_part(index as usize)?;
        put(to, handle(Id { part: Some(index as usize), ..found.id }))
    };
    nvmlDeviceIsMigDeviceHandle(to: *mut c_uint) |found| put(to, found.part.is_some().into());
    nvmlDeviceGetDeviceHandleFromMigDeviceHandle(to: *mut nvmlDevice_t) |found| {
        found.part.ok_or(INVALID)?;
        put(to, handle(Id { part: None, ..found.id }))
    };
    nvmlDeviceGetComputeRunningProcesses(n: *mut c_uint, to: *mut nvmlProcessInfo_v1_t) |found| {
        put_list(n, to, found.gpu.compute_processes.iter().map(process_v1).collect())
    };
    nvmlDeviceGetComputeRunningProcesses_v2(n: *mut c_uint, to: *mut nvmlProcessInfo_v2_t) |found| {
        put_list(n, to, found.gpu.compute_processes.iter().map(process).collect())
    };
    nvmlDeviceGetComputeRunningProcesses_v3(n: *mut c_uint, to: *mut nvmlProcessInfo_t) |found| {
        put_list(n, to, found.gpu.compute_processes.iter().map(process).collect())
    };
    nvmlDeviceGetGraphicsRunningProcesses(n: *mut c_uint, to: *mut nvmlProcessInfo_v1_t) |found| {
        put_list(n, to, found.gpu.graphics_processes.iter().map(process_v1).collect())
    };
    nvmlDeviceGetGraphicsRunningProcesses_v2(n: *mut c_uint, to: *mut nvmlProcessInfo_v2_t) |found| {
        put_list(n, to, found.gpu.graphics_processes.iter().map(process).collect())
    };
    nvmlDeviceGetGraphicsRunningProcesses_v3(n: *mut c_uint, to: *mut nvmlProcessInfo_t) |found| {
        put_list(n, to, found.gpu.graphics_processes.iter().map(process).collect())
    };
    nvmlDeviceGetMPSComputeRunningProcesses_v3(n: *mut c_uint, to: *mut nvmlProcessInfo_t) |_found| {
        put_list(n, to, Vec::new())
    };
    nvmlDeviceGetSupportedEventTypes(to: *mut c_ulonglong) |found| {
        put(to, if found.gpu.events { nvmlEventTypeXidCriticalError.into() } else { 0 })
    };
    nvmlDeviceRegisterEvents(events: c_ulonglong, set: nvmlEventSet_t) |found| {
        if !found.gpu.events || events & !c_ulonglong::from(nvmlEventTypeXidCriticalError) != 0 {
            return Err(NOT_SUPPORTED);
        }
        STATE.register(set.addr(), found.id.gpu).then_some(()).ok_or(INVALID)
    };
    nvmlDeviceGetPerformanceState(to: *mut nvmlPstates_t) |found| {
        found.whole(|_| Some(()))?;
        put(to, 0)
    };
    nvmlDeviceGetPersistenceMode(to: *mut nvmlEnableState_t) |found| {
        found.whole(|_| Some(()))?;
        put(to, 1)
    };
}

fn process(process: &Process) -> nvmlProcessInfo_v2_t {
    nvmlProcessInfo_v2_t {
        pid: process.pid,
        usedGpuMemory: process_bytes(process),
        gpuInstanceId: NO_INSTANCE,
        computeInstanceId: NO_INSTANCE,
    }
}

fn process_v1(process: &Process) -> nvmlProcessInfo_v1_t {
    nvmlProcessInfo_v1_t { pid: process.pid, usedGpuMemory: process_bytes(process) }
}

/// Bus 1 for the first GPU, and so on.
fn pci(gpu: usize) -> Answer<nvmlPciInfo_t> {
    let bus = number(gpu)? + 1;
    let mut info = nvmlPciInfo_t {
        busIdLegacy: [0; 16],
        domain: 0,
        bus,
        device: 0,
        pciDeviceId: 0x2330_10de,
        pciSubSystemId: 0,
        busId: [0; 32],
    };
    put_text(info.busIdLegacy.as_mut_ptr(), 16, &format!("0000:{bus:02X}:00.0"))?;
    put_text(info.busId.as_mut_ptr(), 32, &format!("00000000:{bus:02X}:00.0"))?;
    Ok(info)
}

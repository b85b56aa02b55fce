//! What NVML answers about a GPU, or a part of one, that the file describes.

use std::time::Duration;

use nvml_wrapper_sys::bindings as nvml;

use crate::config::{Config, Gpu, Instance, Memory, Process};
use crate::state::Answer;

/// `NVML_ERROR_NOT_SUPPORTED`.
pub const NOT_SUPPORTED: u32 = nvml::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
/// `NVML_ERROR_NOT_FOUND`.
pub const NOT_FOUND: u32 = nvml::nvmlReturn_enum_NVML_ERROR_NOT_FOUND;
/// `NVML_ERROR_INVALID_ARGUMENT`.
pub const INVALID: u32 = nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
const LOST: u32 = nvml::nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST;

/// Who a handle stands for: a GPU, or one part of it. As a number it is never zero, so as a pointer it is never null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id {
    /// Index of the GPU.
    pub gpu: usize,
    /// Index of the part.
    pub part: Option<usize>,
}

impl Id {
    /// The number that stands in the pointer.
    pub fn number(self) -> usize {
        (self.gpu + 1) << 8 | self.part.map_or(0, |part| part + 1)
    }

    /// Who the number stands for.
    pub fn of(number: usize) -> Option<Self> {
        let gpu = (number >> 8).checked_sub(1)?;
        Some(Self { gpu, part: (number & 0xff).checked_sub(1) })
    }
}

/// A GPU or a part of it, in the file as it is now.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    /// Who it is.
    pub id: Id,
    /// The GPU.
    pub gpu: &'a Gpu,
    /// The part, if the handle is one's.
    pub part: Option<&'a Instance>,
}

impl<'a> Device<'a> {
    /// The device that the C function `call` is about.
    ///
    /// # Errors
    /// What the file says of this GPU and this function, `GPU_IS_LOST`, or `INVALID_ARGUMENT`.
    pub fn of(config: &'a Config, id: Option<Id>, call: &str) -> Answer<Self> {
        let id = id.ok_or(INVALID)?;
        let gpu = config.gpus.get(id.gpu).ok_or(INVALID)?;
        if gpu.lost {
            return Err(LOST);
        }
        if let Some(code) = gpu.errors.get(call) {
            return Err(code.number());
        }
        let part = id.part.map(|part| gpu.part(part).ok_or(INVALID)).transpose()?;
        Ok(Self { id, gpu, part })
    }

    /// Only a whole GPU has that.
    ///
    /// # Errors
    /// `NOT_SUPPORTED` for a part, and where the file has `null`.
    pub fn whole<T>(self, field: impl FnOnce(&'a Gpu) -> Option<T>) -> Answer<T> {
        if self.part.is_some() {
            return Err(NOT_SUPPORTED);
        }
        field(self.gpu).ok_or(NOT_SUPPORTED)
    }

    /// The name.
    pub fn name(self) -> &'a str {
        self.part.map_or(&self.gpu.name, |part| &part.name)
    }

    /// The UUID.
    pub fn uuid(self) -> &'a str {
        self.part.map_or(&self.gpu.uuid, |part| &part.uuid)
    }

    /// Total, reserved, used and free bytes at the `nth` question, `after` the library was loaded.
    ///
    /// # Errors
    /// `NOT_SUPPORTED` where the file has `null`, as on a GPU that shares the host's memory.
    pub fn memory(self, nth: u64, after: Duration) -> Answer<Bytes> {
        let memory = self.part.map_or(self.gpu.memory, |part| Some(part.memory)).ok_or(NOT_SUPPORTED)?;
        Ok(Bytes::of(&memory, nth, after))
    }
}

impl Gpu {
    fn part(&self, index: usize) -> Option<&Instance> {
        self.mig.as_ref().filter(|mig| mig.enabled)?.instances.get(index)?.as_ref()
    }

    /// Whether the GPU has a part at that index.
    ///
    /// # Errors
    /// `NOT_SUPPORTED`, `INVALID_ARGUMENT` beyond the last possible index, `NOT_FOUND` at an empty one.
    pub fn has_part(&self, index: usize) -> Answer<()> {
        let mig = self.mig.as_ref().filter(|mig| mig.enabled).ok_or(NOT_SUPPORTED)?;
        if index >= mig.max as usize {
            return Err(INVALID);
        }
        self.part(index).map(|_| ()).ok_or(NOT_FOUND)
    }
}

/// Bytes of a memory at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are NVML's")]
pub struct Bytes {
    pub total: u64,
    pub reserved: u64,
    pub used: u64,
    pub free: u64,
}

impl Bytes {
    fn of(memory: &Memory, nth: u64, after: Duration) -> Self {
        let grown = memory.used_per_call * nth + memory.used_per_second * after.as_secs();
        let room = memory.total.saturating_sub(memory.reserved);
        let used = (memory.used + grown).min(room);
        Self { total: memory.total, reserved: memory.reserved, used, free: room - used }
    }
}

/// What a process is called.
///
/// # Errors
/// `NOT_FOUND` if no GPU has it, or if it has no name.
pub fn process_name(config: &Config, pid: u32) -> Answer<&str> {
    let all = config.gpus.iter().flat_map(|gpu| gpu.compute_processes.iter().chain(&gpu.graphics_processes));
    all.filter(|process| process.pid == pid).find_map(|process| process.name.as_deref()).ok_or(NOT_FOUND)
}

/// The driver's number for "not counted", or the bytes.
pub fn process_bytes(process: &Process) -> u64 {
    process.used.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mig;

    #[test]
    fn handles_stand_for_their_device_and_are_never_null() {
        for id in [Id { gpu: 0, part: None }, Id { gpu: 7, part: Some(6) }] {
            assert_eq!(Id::of(id.number()), Some(id));
            assert_ne!(id.number(), 0);
        }
        assert_eq!(Id::of(0), None);
    }

    #[test]
    fn memory_fills_and_never_overflows() {
        let memory = Memory { total: 100, reserved: 10, used: 5, used_per_call: 30, used_per_second: 0 };
        let at = |nth| Bytes::of(&memory, nth, Duration::ZERO);
        assert_eq!(at(1), Bytes { total: 100, reserved: 10, used: 35, free: 55 });
        assert_eq!(at(9), Bytes { total: 100, reserved: 10, used: 90, free: 0 });
    }

    #[test]
    fn a_lost_gpu_answers_nothing_and_a_part_only_what_parts_have() {
        let part = Instance { uuid: "MIG-1".into(), name: "1g".into(), memory: Memory::default() };
        let mig = Mig { instances: vec![None, Some(part)], ..Mig::default() };
        let mut config = Config { gpus: vec![Gpu { mig: Some(mig), ..Gpu::default() }], ..Config::default() };
        let of = |config: &Config, part| {
            let device = Device::of(config, Some(Id { gpu: 0, part }), "nvmlDeviceGetTemperature")?;
            device.whole(|gpu| gpu.temperature_c)
        };
        assert_eq!((of(&config, None), of(&config, Some(1))), (Ok(31), Err(NOT_SUPPORTED)));
        assert_eq!(of(&config, Some(0)), Err(INVALID));
        assert_eq!(
            [0, 1, 7].map(|index| config.gpus[0].has_part(index)),
            [Err(NOT_FOUND), Ok(()), Err(INVALID)]
        );
        config.gpus[0].lost = true;
        assert_eq!(of(&config, None), Err(LOST));
    }
}

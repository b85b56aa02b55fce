//! NVIDIA's GPUs through NVML. Every call may block for as long as the driver likes, so only threads that nobody
//! waits for come here.

mod device;
pub(super) mod events;
mod memory;
mod trouble;

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::Timestamp;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::snapshot::{DeviceKind, Gpu, Gpus, Missing, Source, WhyNone};

/// GPUs of one host that are looked at.
const MAX_DEVICES: u32 = 64;

/// An initialised library.
#[derive(Debug)]
pub(super) struct Session {
    nvml: Nvml,
    /// The GPUs as they were when they answered last, for what stays true of a lost one.
    known: BTreeMap<u32, Gpu>,
}

fn load(library: Option<&str>) -> Result<Nvml, NvmlError> {
    let mut builder = Nvml::builder();
    if let Some(path) = library {
        builder.lib_path(path.as_ref());
    }
    builder.init()
}

impl Session {
    /// Loads the library, by default `libnvidia-ml.so.1`, and initialises it. Takes seconds where the driver is not
    /// kept loaded (persistence mode).
    ///
    /// # Errors
    /// Why there is nothing to read.
    pub(super) fn open(library: Option<&str>) -> Result<Self, WhyNone> {
        let nvml = load(library).map_err(|error| trouble::why(&error, library))?;
        Ok(Self { nvml, known: BTreeMap::new() })
    }

    /// Reads everything of every GPU.
    ///
    /// # Errors
    /// Why there is nothing to read: the library itself fails, or every GPU does in a way that is not its own.
    pub(super) fn read(&mut self, now: Timestamp) -> Result<Gpus, WhyNone> {
        let begun = Instant::now();
        let count = self.nvml.device_count().map_err(|error| trouble::why(&error, None))?;
        let (mut failed, mut answered) = (None, false);
        let mut devices = Vec::new();
        for index in 0..count.min(MAX_DEVICES) {
            match self.device(index) {
                Ok(gpu) => {
                    answered = true;
                    devices.push(gpu);
                }
                // Somebody else's, for example in a container that was given others.
                Err(NvmlError::NoPermission) => failed = failed.or(Some(NvmlError::NoPermission)),
                Err(error) => {
                    devices.push(Gpu { lost: true, ..self.remembered(index) });
                    failed = Some(error);
                }
            }
        }
        if !answered {
            return Err(failed.map_or_else(trouble::no_device, |error| trouble::why(&error, None)));
        }
        Ok(Gpus {
            source: Source::Nvml,
            driver_version: self.nvml.sys_driver_version().ok(),
            cuda_version: self.nvml.sys_cuda_driver_version().ok().map(|version| {
                let major = nvml_wrapper::cuda_driver_version_major(version);
                let minor = nvml_wrapper::cuda_driver_version_minor(version);
                format!("{major}.{minor}")
            }),
            nvml_version: self.nvml.sys_nvml_version().ok(),
            why_none: None,
            devices,
            taken_at: now,
            took_seconds: begun.elapsed().as_secs_f64(),
            stale: false,
        })
    }

    fn device(&mut self, index: u32) -> Result<Gpu, NvmlError> {
        let read =
            self.nvml.device_by_index(index).and_then(|device| device::read(&self.nvml, &device, index));
        match read {
            Ok(gpu) => {
                self.known.insert(index, gpu.clone());
                Ok(gpu)
            }
            Err(error) => {
                let gone = trouble::Gone::of(&error).ok_or(error)?;
                let (lost, reset_required) = (gone == trouble::Gone::Lost, gone == trouble::Gone::Reset);
                Ok(Gpu { lost, reset_required, ..self.remembered(index) })
            }
        }
    }

    /// What stays true of a GPU that does not answer.
    fn remembered(&self, index: u32) -> Gpu {
        self.known.get(&index).map_or_else(|| Gpu::unknown(index, DeviceKind::Cuda), Gpu::remembered)
    }

    /// Starts with what an earlier session knew.
    #[must_use]
    pub(super) fn remembering(mut self, known: &[Gpu]) -> Self {
        self.known = known.iter().map(|gpu| (gpu.index, gpu.clone())).collect();
        self
    }
}

/// The thread has only just begun.
pub(super) fn not_read_yet() -> WhyNone {
    WhyNone {
        word: Missing::NotReadYet,
        what: "the GPUs have not been read yet".into(),
        hint: "ask again in some seconds".into(),
    }
}

/// The library did not return.
pub(super) fn not_answering(after: std::time::Duration) -> WhyNone {
    WhyNone {
        word: Missing::NotAnswering,
        what: format!("NVML did not answer within {} s", after.as_secs()),
        hint: "see whether nvidia-smi answers and what the kernel log says (dmesg | grep NVRM)".into(),
    }
}

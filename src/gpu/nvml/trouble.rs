//! What NVML's error codes mean here.

use nvml_wrapper::error::NvmlError;

use super::super::snapshot::{Missing, WhyNone};

/// `nvml.h`: `NVML_ERROR_GPU_NOT_FOUND`. The wrapper has no names for the codes from 23 to 30.
const GPU_NOT_FOUND: u32 = 28;
const NEWER_CODES: &[(u32, &str)] = &[
    (23, "insufficient resources"),
    (24, "frequency not supported"),
    (25, "argument version mismatch"),
    (26, "deprecated"),
    (27, "not ready"),
    (GPU_NOT_FOUND, "GPU not found"),
    (29, "invalid state"),
    (30, "reset type not supported"),
];

/// A GPU that its driver knows and cannot use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// It is out of reach.
    Lost,
    /// It wants a reset.
    Reset,
}

impl Gone {
    /// Whether the error says so.
    pub(super) fn of(error: &NvmlError) -> Option<Self> {
        match error {
            NvmlError::GpuLost | NvmlError::UnexpectedVariant(GPU_NOT_FOUND) => Some(Self::Lost),
            NvmlError::ResetRequired => Some(Self::Reset),
            _ => None,
        }
    }
}

/// The error in words, with NVML's own for the codes that the wrapper does not know.
pub(super) fn words(error: &NvmlError) -> String {
    match error {
        NvmlError::UnexpectedVariant(code) => {
            let name =
                NEWER_CODES.iter().find(|(known, _)| known == code).map_or("unknown", |(_, name)| name);
            format!("NVML error {code} ({name})")
        }
        // The loader's own message names the file.
        NvmlError::LibloadingError(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// NVML works and shows no GPU.
pub(super) fn no_device() -> WhyNone {
    WhyNone {
        word: Missing::NoDevice,
        what: "the NVIDIA driver works and shows no GPU".into(),
        hint: "in a container, give it the GPUs (--gpus all, or a device reservation); see nvidia-smi -L"
            .into(),
    }
}

/// Why NVML as a whole cannot be read.
pub(super) fn why(error: &NvmlError, library: Option<&str>) -> WhyNone {
    let name = library.unwrap_or("libnvidia-ml.so.1");
    let (word, hint) = match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => (
            Missing::NoLibrary,
            match library {
                Some(_) => "set gpu.nvml_library to the library of the NVIDIA driver, or leave it empty".into(),
                None => "nothing, if there is no NVIDIA GPU; else install its driver, in a container run it with \
                         NVIDIA_DRIVER_CAPABILITIES=utility, or set gpu.nvml_library"
                    .to_owned(),
            },
        ),
        NvmlError::DriverNotLoaded => (
            Missing::NoDriver,
            "load the kernel driver (modprobe nvidia), or see in dmesg why it does not load".into(),
        ),
        NvmlError::LibRmVersionMismatch => (
            Missing::VersionMismatch,
            "restart the host, or reload the kernel driver: it was updated while it was in use".into(),
        ),
        NvmlError::NoPermission => {
            (Missing::NoPermission, "let larder's user open /dev/nvidiactl and /dev/nvidia0, nvidia1, ...".into())
        }
        _ => (
            Missing::Failed,
            "see whether nvidia-smi works; in a container restart it: a systemctl daemon-reload on the host takes the \
             devices from running containers"
                .into(),
        ),
    };
    WhyNone { word, what: format!("NVML ({name}) cannot be used: {}", words(error)), hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_the_wrapper_does_not_know_have_names() {
        assert_eq!(words(&NvmlError::UnexpectedVariant(27)), "NVML error 27 (not ready)");
        assert_eq!(words(&NvmlError::UnexpectedVariant(77)), "NVML error 77 (unknown)");
        assert_eq!(Gone::of(&NvmlError::UnexpectedVariant(28)), Some(Gone::Lost));
        assert_eq!(Gone::of(&NvmlError::UnexpectedVariant(27)), None);
    }

    #[test]
    fn each_failure_has_a_word_and_a_way_out() {
        for (error, word) in [
            (NvmlError::DriverNotLoaded, Missing::NoDriver),
            (NvmlError::LibRmVersionMismatch, Missing::VersionMismatch),
            (NvmlError::NoPermission, Missing::NoPermission),
            (NvmlError::Unknown, Missing::Failed),
        ] {
            let why = why(&error, None);
            assert_eq!(why.word, word);
            assert!(why.what.contains("libnvidia-ml.so.1") && !why.hint.is_empty(), "{why:?}");
        }
    }
}

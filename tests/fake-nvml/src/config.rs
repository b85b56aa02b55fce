//! What the file may say: the driver, the GPUs, and what goes wrong.

use std::collections::BTreeMap;

use nvml_wrapper_sys::bindings as nvml;
use serde::{Deserialize, Serialize};

/// The file. Every key has a default, so a test writes only what it is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The driver's version.
    pub driver_version: String,
    /// The library's version.
    pub nvml_version: String,
    /// The highest CUDA version of the driver, as 1000 x major + 10 x minor.
    pub cuda_version: i32,
    /// The GPUs, by index.
    pub gpus: Vec<Gpu>,
    /// C functions that fail, on every GPU, and how: `{"nvmlInit_v2": "DRIVER_NOT_LOADED"}`; also a number.
    pub errors: BTreeMap<String, Code>,
    /// Milliseconds that a C function takes; `*` stands for all.
    pub slow_ms: BTreeMap<String, u64>,
    /// C functions that do not return until the file no longer names them; `*` stands for all.
    pub hang: Vec<String>,
    /// Xids that happen, in this order. Each is delivered once in the life of a process; append to the list for more.
    pub xids: Vec<Xid>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            driver_version: "580.95.05".into(),
            nvml_version: "13.580.95.05".into(),
            cuda_version: 13_000,
            gpus: Vec::new(),
            errors: BTreeMap::new(),
            slow_ms: BTreeMap::new(),
            hang: Vec::new(),
            xids: Vec::new(),
        }
    }
}

/// One GPU. `None` means that NVML answers `NOT_SUPPORTED`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are NVML's")]
pub struct Gpu {
    pub name: String,
    pub uuid: String,
    pub compute_capability: (i32, i32),
    pub memory: Option<Memory>,
    /// Per cent.
    pub utilization: Option<(u32, u32)>,
    pub temperature_c: Option<u32>,
    pub power_mw: Option<u32>,
    pub power_limit_mw: Option<u32>,
    /// NVML's bits.
    pub throttle_reasons: Option<u64>,
    pub ecc: Option<Ecc>,
    pub remapped_rows: Option<Remapped>,
    /// Now.
    pub pcie: Option<(u32, u32)>,
    pub pcie_max: Option<(u32, u32)>,
    pub mig: Option<Mig>,
    pub compute_processes: Vec<Process>,
    pub graphics_processes: Vec<Process>,
    /// Whether Xids of this GPU can be waited for.
    pub events: bool,
    /// It fell off the bus: every call says `GPU_IS_LOST`, the number of GPUs stays.
    pub lost: bool,
    /// As [`Config::errors`], for this GPU alone.
    pub errors: BTreeMap<String, Code>,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            name: "NVIDIA H100 80GB HBM3".into(),
            uuid: "GPU-00000000-0000-0000-0000-000000000000".into(),
            compute_capability: (9, 0),
            memory: Some(Memory::default()),
            utilization: Some((0, 0)),
            temperature_c: Some(31),
            power_mw: Some(70_123),
            power_limit_mw: Some(700_000),
            throttle_reasons: Some(1),
            ecc: Some(Ecc::default()),
            remapped_rows: Some(Remapped::default()),
            pcie: Some((5, 16)),
            pcie_max: Some((5, 16)),
            mig: None,
            compute_processes: Vec::new(),
            graphics_processes: Vec::new(),
            events: true,
            lost: false,
            errors: BTreeMap::new(),
        }
    }
}

/// Bytes. What is free is what neither the driver nor anybody else has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are NVML's")]
pub struct Memory {
    pub total: u64,
    pub reserved: u64,
    pub used: u64,
    /// What `used` grows by with every question.
    pub used_per_call: u64,
    /// What `used` grows by with every second that the library is loaded.
    pub used_per_second: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { total: 80 << 30, reserved: 600 << 20, used: 0, used_per_call: 0, used_per_second: 0 }
    }
}

/// Errors that the memory corrected or not, since the driver was loaded and ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are NVML's")]
pub struct Ecc {
    pub disabled: bool,
    pub corrected_volatile: u64,
    pub uncorrected_volatile: u64,
    pub corrected_aggregate: u64,
    pub uncorrected_aggregate: u64,
}

/// Rows of the memory that others stand in for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are NVML's")]
pub struct Remapped {
    pub correctable: u32,
    pub uncorrectable: u32,
    pub pending: bool,
    pub failure: bool,
}

/// A GPU that can be, or is, divided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are NVML's")]
pub struct Mig {
    pub enabled: bool,
    /// The most parts that it can have.
    pub max: u32,
    /// The parts; `null` is an index without one.
    pub instances: Vec<Option<Instance>>,
}

impl Default for Mig {
    fn default() -> Self {
        Self { enabled: true, max: 7, instances: Vec::new() }
    }
}

/// One part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are NVML's")]
pub struct Instance {
    pub uuid: String,
    pub name: String,
    pub memory: Memory,
}

/// A process on a GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Bytes; `None` is what NVML says where the driver does not count them.
    #[serde(default)]
    pub used: Option<u64>,
    /// Its name; without one NVML says `NOT_FOUND`.
    #[serde(default)]
    pub name: Option<String>,
}

/// An Xid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Xid {
    /// Index of the GPU.
    pub gpu: usize,
    /// The Xid.
    pub code: u64,
}

/// An error code, written as in `nvml.h` without `NVML_ERROR_`, or as its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Code {
    /// `GPU_IS_LOST`.
    Name(String),
    /// 15.
    Number(u32),
}

impl Code {
    /// The number; a name that NVML does not have becomes `UNKNOWN`.
    pub fn number(&self) -> u32 {
        match self {
            Self::Number(number) => *number,
            Self::Name(name) => {
                NAMES.iter().find(|(known, _)| known == name).map_or(UNKNOWN, |(_, code)| *code)
            }
        }
    }
}

const UNKNOWN: u32 = nvml::nvmlReturn_enum_NVML_ERROR_UNKNOWN;

/// `nvmlReturn_t` of nvml.h.
const NAMES: &[(&str, u32)] = &[
    ("SUCCESS", nvml::nvmlReturn_enum_NVML_SUCCESS),
    ("UNINITIALIZED", nvml::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED),
    ("INVALID_ARGUMENT", nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT),
    ("NOT_SUPPORTED", nvml::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED),
    ("NO_PERMISSION", nvml::nvmlReturn_enum_NVML_ERROR_NO_PERMISSION),
    ("NOT_FOUND", nvml::nvmlReturn_enum_NVML_ERROR_NOT_FOUND),
    ("INSUFFICIENT_SIZE", nvml::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE),
    ("DRIVER_NOT_LOADED", nvml::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED),
    ("TIMEOUT", nvml::nvmlReturn_enum_NVML_ERROR_TIMEOUT),
    ("FUNCTION_NOT_FOUND", nvml::nvmlReturn_enum_NVML_ERROR_FUNCTION_NOT_FOUND),
    ("GPU_IS_LOST", nvml::nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST),
    ("RESET_REQUIRED", nvml::nvmlReturn_enum_NVML_ERROR_RESET_REQUIRED),
    ("OPERATING_SYSTEM", nvml::nvmlReturn_enum_NVML_ERROR_OPERATING_SYSTEM),
    ("LIB_RM_VERSION_MISMATCH", nvml::nvmlReturn_enum_NVML_ERROR_LIB_RM_VERSION_MISMATCH),
    ("IN_USE", nvml::nvmlReturn_enum_NVML_ERROR_IN_USE),
    ("NO_DATA", nvml::nvmlReturn_enum_NVML_ERROR_NO_DATA),
    ("INSUFFICIENT_RESOURCES", nvml::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_RESOURCES),
    ("ARGUMENT_VERSION_MISMATCH", nvml::nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH),
    ("DEPRECATED", nvml::nvmlReturn_enum_NVML_ERROR_DEPRECATED),
    ("NOT_READY", nvml::nvmlReturn_enum_NVML_ERROR_NOT_READY),
    ("GPU_NOT_FOUND", nvml::nvmlReturn_enum_NVML_ERROR_GPU_NOT_FOUND),
    ("INVALID_STATE", nvml::nvmlReturn_enum_NVML_ERROR_INVALID_STATE),
    ("UNKNOWN", UNKNOWN),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_a_driver_without_gpus_and_a_typo_is_refused() {
        assert_eq!(serde_json::from_str::<Config>("{}").expect("reads"), Config::default());
        assert!(serde_json::from_str::<Config>(r#"{"gpu": []}"#).is_err());
        assert!(serde_json::from_str::<Config>(r#"{"gpus": [{"temprature_c": 3}]}"#).is_err());
    }

    #[test]
    fn codes_are_names_or_numbers() {
        let codes: Vec<Code> = serde_json::from_str(r#"["GPU_IS_LOST", 24, "nonsense"]"#).expect("reads");
        assert_eq!(codes.iter().map(Code::number).collect::<Vec<_>>(), [15, 24, 999]);
    }
}

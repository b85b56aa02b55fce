//! The parts of a GPU's snapshot: memory, errors, link, processes.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// CUDA's compute capability; printed as `9.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct ComputeCapability {
    /// The generation.
    pub major: u32,
    /// Within it.
    pub minor: u32,
}

impl std::fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A GPU's memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "GpuMemory")]
pub struct Memory {
    /// All of it.
    pub total: Option<u64>,
    /// Taken by somebody. By version 1 this includes what is reserved, by version 2 it does not.
    pub used: Option<u64>,
    /// Free for anybody now.
    pub free: Option<u64>,
    /// Kept by the driver and the firmware for themselves.
    pub reserved: Option<u64>,
    /// Whose it is.
    pub kind: Option<MemoryKind>,
    /// Who said so.
    pub source: Option<MemorySource>,
}

/// Whose memory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemoryKind {
    /// The GPU's own.
    Dedicated,
    /// The host's, which the GPU uses too.
    Unified,
}

/// Who told the memory's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemorySource {
    /// `nvmlDeviceGetMemoryInfo_v2`.
    V2,
    /// `nvmlDeviceGetMemoryInfo`, of drivers before R510 and of WSL.
    V1,
    /// The host's memory, since the GPU has none of its own.
    Meminfo,
    /// The sysinfo crate.
    Sysinfo,
}

/// Shares of time, 0 to 1, over the driver's last sample (1/6 s to 1 s).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "GpuUtilization")]
pub struct Utilization {
    /// A kernel ran.
    pub gpu: Option<f64>,
    /// The memory was read or written.
    pub memory: Option<f64>,
}

/// Why clocks are low.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Throttle {
    /// Nothing to do.
    Idle,
    /// Somebody set them.
    ApplicationClocks,
    /// The power limit.
    SwPowerCap,
    /// Slowed down by half or more: heat, or the power supply.
    HwSlowdown,
    /// Another GPU of its group.
    SyncBoost,
    /// The driver keeps it below its highest temperature.
    SwThermalSlowdown,
    /// Too hot: slowed down by half or more.
    HwThermalSlowdown,
    /// The power supply asked for it: slowed down by half or more.
    HwPowerBrakeSlowdown,
    /// The display.
    DisplayClock,
}

impl Throttle {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Idle,
        Self::ApplicationClocks,
        Self::SwPowerCap,
        Self::HwSlowdown,
        Self::SyncBoost,
        Self::SwThermalSlowdown,
        Self::HwThermalSlowdown,
        Self::HwPowerBrakeSlowdown,
        Self::DisplayClock,
    ];

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::ApplicationClocks => "application_clocks",
            Self::SwPowerCap => "sw_power_cap",
            Self::HwSlowdown => "hw_slowdown",
            Self::SyncBoost => "sync_boost",
            Self::SwThermalSlowdown => "sw_thermal_slowdown",
            Self::HwThermalSlowdown => "hw_thermal_slowdown",
            Self::HwPowerBrakeSlowdown => "hw_power_brake_slowdown",
            Self::DisplayClock => "display_clock",
        }
    }
}

/// Memory errors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ecc {
    /// Whether errors are corrected and counted now.
    pub enabled: Option<bool>,
    /// Since the driver was loaded or the GPU was reset.
    pub volatile: EccErrors,
    /// In the GPU's life.
    pub aggregate: EccErrors,
}

/// Counts of memory errors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EccErrors {
    /// Corrected ones, of one bit.
    pub corrected: Option<u64>,
    /// The others; whoever read that got an error.
    pub uncorrected: Option<u64>,
}

/// Rows of the memory that spare ones stand in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemappedRows {
    /// Because of errors that could be corrected.
    pub correctable: u32,
    /// Because of errors that could not.
    pub uncorrectable: u32,
    /// A row waits for the next reset.
    pub pending: bool,
    /// A row could not be replaced.
    pub failure: bool,
}

/// Errors that the driver reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Xids {
    /// Since when somebody listens.
    pub since: Timestamp,
    /// The last one of each code, newest first, at most 16.
    pub last: Vec<XidEvent>,
}

/// Most different Xids of one GPU in a snapshot.
pub const MAX_XIDS: usize = 16;

impl Xids {
    /// Nothing was heard yet.
    pub fn since(since: Timestamp) -> Self {
        Self { since, last: Vec::new() }
    }

    /// One more.
    pub fn push(&mut self, code: u64, at: Timestamp) {
        self.last.retain(|event| event.code != code);
        self.last.insert(0, XidEvent { code, class: super::super::xid::class(code), at });
        self.last.truncate(MAX_XIDS);
    }
}

/// One error of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct XidEvent {
    /// The number.
    pub code: u64,
    /// What NVIDIA says is to be done.
    pub class: super::super::xid::Class,
    /// When it was heard.
    pub at: Timestamp,
}

/// The link to the host; an idle GPU lowers the generation to save power.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pcie {
    /// PCI Express generation now.
    pub generation: Option<u32>,
    /// Lanes now.
    pub width: Option<u32>,
    /// The best that GPU and host can do together.
    pub max_generation: Option<u32>,
    /// The most lanes that GPU and slot have.
    pub max_width: Option<u32>,
}

/// A GPU that can be divided (Multi-Instance GPU).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Mig {
    /// Whether it is divided now.
    pub enabled: bool,
    /// Whether it will be after the next reset.
    pub pending: bool,
    /// The parts.
    pub instances: Vec<MigInstance>,
}

/// A part of a GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MigInstance {
    /// Its index among the possible ones.
    pub index: u32,
    /// `MIG-…`.
    pub uuid: Option<String>,
    /// The product and the profile.
    pub name: Option<String>,
    /// Its memory.
    pub memory: Memory,
}

/// A process on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "GpuProcess")]
pub struct Process {
    /// Its number, in the driver's view; in a container that may be another process.
    pub pid: u32,
    /// What it does there.
    pub kind: ProcessKind,
    /// Bytes of the GPU's memory.
    pub used_memory: Option<u64>,
    /// What the driver calls it.
    pub name: Option<String>,
}

/// What a process does on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "GpuProcessKind")]
pub enum ProcessKind {
    /// It computes.
    Compute,
    /// It draws.
    Graphics,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_xid_of_each_code_is_kept_newest_first_and_not_without_end() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let mut xids = Xids::since(at(0));
        for (second, code) in [(1, 31), (2, 79), (3, 31)] {
            xids.push(code, at(second));
        }
        assert_eq!(xids.last.iter().map(|event| event.code).collect::<Vec<_>>(), [31, 79]);
        assert_eq!(xids.last[0].at, at(3));
        for code in 0..100 {
            xids.push(code, at(4));
        }
        assert_eq!(xids.last.len(), MAX_XIDS);
    }
}

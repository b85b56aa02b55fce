//! What is known of the GPUs at one moment. These types are the JSON of `larder info`, of `/v1/host` and of the ledger:
//! `null` is unknown, bytes are integers, shares are 0 to 1.

mod parts;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::capability::Capabilities;
use super::health::Health;

pub use parts::{
    ComputeCapability, Ecc, EccErrors, MAX_XIDS, Memory, MemoryKind, MemorySource, Mig, MigInstance, Pcie,
    Process, ProcessKind, RemappedRows, Throttle, Utilization, XidEvent, Xids,
};

/// Where the facts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "GpuSource")]
pub enum Source {
    /// NVIDIA's management library.
    Nvml,
    /// The sysinfo crate, which reads what the kernel shows of other GPUs.
    Sysinfo,
    /// There is no GPU, or none that anybody can read.
    None,
}

/// What a framework calls the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// NVIDIA.
    Cuda,
    /// AMD.
    Rocm,
    /// Apple.
    Mps,
    /// No GPU.
    Cpu,
}

impl DeviceKind {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Mps => "mps",
            Self::Cpu => "cpu",
        }
    }
}

/// All GPUs at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gpus {
    /// Where this comes from.
    pub source: Source,
    /// NVIDIA's kernel driver.
    pub driver_version: Option<String>,
    /// The highest CUDA version that the driver supports, for example `13.0`.
    pub cuda_version: Option<String>,
    /// The NVML library.
    pub nvml_version: Option<String>,
    /// Why there are no devices here, if there are none.
    pub why_none: Option<WhyNone>,
    /// The devices in NVML's order; a lost one keeps its place.
    pub devices: Vec<Gpu>,
    /// When the reading began.
    pub taken_at: Timestamp,
    /// How long the reading took, in seconds.
    pub took_seconds: f64,
    /// No newer reading came in time: the library does not return, or the devices are slow.
    pub stale: bool,
}

impl Gpus {
    /// No devices, and why.
    pub fn none(why: WhyNone, taken_at: Timestamp) -> Self {
        Self {
            source: Source::None,
            driver_version: None,
            cuda_version: None,
            nvml_version: None,
            why_none: Some(why),
            devices: Vec::new(),
            taken_at,
            took_seconds: 0.0,
            stale: false,
        }
    }

    /// What a framework would run on here.
    pub fn device(&self) -> DeviceKind {
        self.devices.iter().filter(|gpu| !gpu.lost).map(|gpu| gpu.device).min().unwrap_or(DeviceKind::Cpu)
    }
}

/// Why there are no devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "NoGpus")]
pub struct WhyNone {
    /// In one word.
    pub word: Missing,
    /// What happened.
    pub what: String,
    /// What to do.
    pub hint: String,
}

/// Why there are no devices, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "NoGpusWord")]
pub enum Missing {
    /// Nothing was read yet.
    NotReadYet,
    /// There is no NVML library, so no NVIDIA driver was ever installed here, and no other GPU was found.
    NoLibrary,
    /// The library is there, its kernel driver is not.
    NoDriver,
    /// The library and the kernel driver are of different versions.
    VersionMismatch,
    /// This user may not use the devices.
    NoPermission,
    /// The driver works and has no device.
    NoDevice,
    /// The library did not return in time.
    NotAnswering,
    /// Something else.
    Failed,
}

impl Missing {
    /// Whether this is simply a host without a GPU, rather than one whose GPU cannot be seen.
    pub const fn is_no_gpu(self) -> bool {
        matches!(self, Self::NoLibrary | Self::NoDevice)
    }
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gpu {
    /// NVML's index; frameworks may count differently.
    pub index: u32,
    /// The identifier as the driver prints it (`GPU-…`), or the PCI address where there is none (`PCI-0000:03:00.0`).
    pub uuid: Option<String>,
    /// The product.
    pub name: Option<String>,
    /// What a framework calls it.
    pub device: DeviceKind,
    /// CUDA's compute capability.
    pub compute_capability: Option<ComputeCapability>,
    /// What the hardware can do.
    pub capabilities: Capabilities,
    /// Its memory.
    pub memory: Memory,
    /// How busy it is.
    pub utilization: Utilization,
    /// Degrees Celsius.
    pub temperature_c: Option<u32>,
    /// Watts.
    pub power_w: Option<f64>,
    /// The power limit in force, in watts.
    pub power_limit_w: Option<f64>,
    /// Why the clocks are lower than they could be; empty if they are not.
    pub throttle_reasons: Option<Vec<Throttle>>,
    /// Memory errors, where the memory counts them.
    pub ecc: Option<Ecc>,
    /// Rows of the memory that spare ones stand in for (since Ampere, on data centre products).
    pub remapped_rows: Option<RemappedRows>,
    /// Errors that the driver reported since somebody listens; `null` if nobody does, or if they cannot be heard.
    pub xid: Option<Xids>,
    /// The link to the host.
    pub pcie: Pcie,
    /// Its parts, where it can be divided.
    pub mig: Option<Mig>,
    /// Who uses it, largest first, at most 128; `null` if the driver does not say.
    pub processes: Option<Vec<Process>>,
    /// Processes beyond that.
    pub processes_omitted: usize,
    /// It fell off the bus, or is otherwise out of reach; what does not change is from before.
    pub lost: bool,
    /// It works again only after a reset.
    pub reset_required: bool,
    /// Whether it is fit for use.
    pub health: Health,
}

/// Most processes of one GPU in a snapshot.
pub const MAX_PROCESSES: usize = 128;

impl Gpu {
    /// A GPU of which nothing else is known.
    pub fn unknown(index: u32, device: DeviceKind) -> Self {
        Self {
            index,
            uuid: None,
            name: None,
            device,
            compute_capability: None,
            capabilities: Capabilities::default(),
            memory: Memory::default(),
            utilization: Utilization::default(),
            temperature_c: None,
            power_w: None,
            power_limit_w: None,
            throttle_reasons: None,
            ecc: None,
            remapped_rows: None,
            xid: None,
            pcie: Pcie::default(),
            mig: None,
            processes: None,
            processes_omitted: 0,
            lost: false,
            reset_required: false,
            health: Health::default(),
        }
    }

    /// What stays true of it while it cannot be asked.
    #[must_use]
    pub fn remembered(&self) -> Self {
        Self {
            uuid: self.uuid.clone(),
            name: self.name.clone(),
            compute_capability: self.compute_capability,
            capabilities: self.capabilities,
            memory: Memory { total: self.memory.total, kind: self.memory.kind, ..Memory::default() },
            ..Self::unknown(self.index, self.device)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_null_and_what_is_printed_reads_back() {
        let gpu = Gpu::unknown(1, DeviceKind::Cuda);
        let json = serde_json::to_value(&gpu).expect("json");
        for key in ["uuid", "compute_capability", "temperature_c", "power_w", "ecc", "xid", "processes"] {
            assert!(json[key].is_null(), "{key}: {json}");
        }
        assert!(json["memory"]["free"].is_null() && json["capabilities"]["bf16"].is_null(), "{json}");
        assert_eq!(json["device"], "cuda");
        assert_eq!(serde_json::from_value::<Gpu>(json).expect("reads"), gpu);
    }

    #[test]
    fn words_are_what_serde_writes() {
        for reason in Throttle::ALL {
            assert_eq!(serde_json::to_value(reason).expect("json"), reason.word());
        }
        for kind in [DeviceKind::Cuda, DeviceKind::Rocm, DeviceKind::Mps, DeviceKind::Cpu] {
            assert_eq!(serde_json::to_value(kind).expect("json"), kind.word());
        }
    }

    #[test]
    fn the_best_gpu_that_is_there_names_the_host() {
        let why = WhyNone { word: Missing::NoLibrary, what: String::new(), hint: String::new() };
        let mut gpus = Gpus::none(why, Timestamp::UNIX_EPOCH);
        assert_eq!(gpus.device(), DeviceKind::Cpu);
        gpus.devices = vec![Gpu::unknown(0, DeviceKind::Rocm), Gpu::unknown(1, DeviceKind::Cuda)];
        assert_eq!(gpus.device(), DeviceKind::Cuda);
        gpus.devices[1].lost = true;
        assert_eq!(gpus.device(), DeviceKind::Rocm);
    }
}

//! What the GPUs are, without what changes from second to second: of every change a record is kept.

use schemars::JsonSchema;
use serde::Serialize;

use super::health::{Health, State, Word};
use super::snapshot::{Gpus, RemappedRows};

/// What does not change from second to second: driver, health and devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HardwareState {
    /// NVIDIA's kernel driver.
    pub driver: Option<String>,
    /// The highest CUDA version that the driver supports.
    pub cuda: Option<String>,
    /// Whether the host is fit for work.
    pub health: State,
    /// Why not: each reason in a word, and the GPU, path or drive.
    pub reasons: Vec<(Word, String)>,
    /// The devices.
    pub gpus: Vec<HardwareGpu>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HardwareGpu {
    /// As the driver prints it.
    pub uuid: Option<String>,
    /// The product.
    pub name: Option<String>,
    /// Bytes of its memory.
    pub memory_total: Option<u64>,
    /// It is out of reach.
    pub lost: bool,
    /// Memory errors of its life that could not be corrected.
    pub ecc_uncorrected: Option<u64>,
    /// Rows of its memory that spare ones stand in for.
    pub remapped_rows: Option<RemappedRows>,
}

impl HardwareState {
    /// That of these GPUs on a host that is judged so.
    pub fn of(gpus: &Gpus, health: &Health) -> Self {
        let devices = gpus.devices.iter().map(|gpu| HardwareGpu {
            uuid: gpu.uuid.clone(),
            name: gpu.name.clone(),
            memory_total: gpu.memory.total,
            lost: gpu.lost,
            ecc_uncorrected: gpu.ecc.as_ref().and_then(|ecc| ecc.aggregate.uncorrected),
            remapped_rows: gpu.remapped_rows,
        });
        Self {
            driver: gpus.driver_version.clone(),
            cuda: gpus.cuda_version.clone(),
            health: health.state,
            reasons: health.reasons.iter().map(|reason| (reason.word, reason.subject.clone())).collect(),
            gpus: devices.collect(),
        }
    }
}

//! Where the inputs of an estimate come from, so that a reader can judge it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where one input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "FitSource")]
pub enum Source {
    /// The repo's `config.json`.
    #[serde(rename = "config.json")]
    ConfigJson,
    /// The headers of the repo's safetensors files.
    #[serde(rename = "safetensors headers")]
    SafetensorsHeaders,
    /// The header of a GGUF file.
    #[serde(rename = "gguf header")]
    GgufHeader,
    /// larder's own registry.
    #[serde(rename = "registry")]
    Registry,
    /// The user said so.
    #[serde(rename = "given")]
    Given,
    /// A formula or a usual value.
    #[serde(rename = "assumed")]
    Assumed,
    /// Measured on this host.
    #[serde(rename = "calibrated")]
    Calibrated,
}

/// Where the inputs of one estimate come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub struct Provenance {
    /// The shape of the model.
    pub architecture: Source,
    /// The bytes of the weights.
    pub weights: Source,
    /// Cache, activations, context and workspace: assumed until the host is calibrated.
    pub overhead: Source,
    /// The engine's formulas were not checked against enough measurements.
    pub unverified: bool,
}

//! What the hardware can do, by its compute capability. What the installed software can do is another question.
//!
//! Sources: the CUDA programming guide's table of arithmetic by compute capability (bf16 from 8.0, FP8 from 8.9, FP4
//! from 10.0); the README files and build scripts of flash-attention 2, 3 and 4; vLLM's table of quantisation by
//! hardware.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::snapshot::ComputeCapability;

/// What the hardware can do; `null` is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "GpuCapabilities")]
pub struct Capabilities {
    /// 16-bit floating point on tensor cores.
    pub fp16: Option<Support>,
    /// bfloat16.
    pub bf16: Option<Support>,
    /// 8-bit floating point.
    pub fp8: Option<Support>,
    /// 4-bit floating point (NVFP4, MXFP4).
    pub fp4: Option<Support>,
    /// Kernels for AWQ weights.
    pub awq: Option<Support>,
    /// Flash Attention 2.
    pub flash_attention_2: Option<Support>,
    /// Flash Attention 3.
    pub flash_attention_3: Option<Support>,
    /// Flash Attention 4.
    pub flash_attention_4: Option<Support>,
}

/// Whether the hardware can do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Support {
    /// It can.
    Yes,
    /// It can, on a path that was not made for it.
    Accepted,
    /// It cannot.
    No,
}

impl Capabilities {
    /// By compute capability; without one nothing is known.
    pub fn of(capability: Option<ComputeCapability>) -> Self {
        let Some(ComputeCapability { major, minor }) = capability else { return Self::default() };
        let from = |least: (u32, u32)| Some(if (major, minor) >= least { Support::Yes } else { Support::No });
        let fp4 = match major {
            // Thor: nobody has published that it works.
            11 => None,
            _ => from((10, 0)),
        };
        let flash_attention_4 = match major {
            9 | 10 => Support::Yes,
            8 | 11 | 12 => Support::Accepted,
            _ => Support::No,
        };
        Self {
            fp16: from((7, 0)),
            bf16: from((8, 0)),
            fp8: from((8, 9)),
            fp4,
            awq: from((7, 5)),
            flash_attention_2: from((8, 0)),
            flash_attention_3: Some(if major == 9 { Support::Yes } else { Support::No }),
            flash_attention_4: Some(flash_attention_4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// bf16, fp8, fp4, awq, then Flash Attention 2, 3, 4.
    fn row(major: u32, minor: u32) -> String {
        let can = Capabilities::of(Some(ComputeCapability { major, minor }));
        let columns = [
            can.bf16,
            can.fp8,
            can.fp4,
            can.awq,
            can.flash_attention_2,
            can.flash_attention_3,
            can.flash_attention_4,
        ];
        let letter = |column: Option<Support>| match column {
            Some(Support::Yes) => 'y',
            Some(Support::Accepted) => 'a',
            Some(Support::No) => '-',
            None => '?',
        };
        columns.into_iter().map(letter).collect()
    }

    #[test]
    fn each_generation_has_what_it_has() {
        for (major, minor, expected) in [
            (6, 1, "-------"),
            (7, 0, "-------"),
            (7, 5, "---y---"),
            (8, 0, "y--yy-a"),
            (8, 6, "y--yy-a"),
            (8, 9, "yy-yy-a"),
            (9, 0, "yy-yyyy"),
            (10, 0, "yyyyy-y"),
            (10, 3, "yyyyy-y"),
            (11, 0, "yy?yy-a"),
            (12, 1, "yyyyy-a"),
        ] {
            assert_eq!(row(major, minor), expected, "{major}.{minor}");
        }
    }

    #[test]
    fn without_a_compute_capability_nothing_is_known() {
        assert_eq!(Capabilities::of(None), Capabilities::default());
        assert_eq!(Capabilities::default().bf16, None);
    }
}

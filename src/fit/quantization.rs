//! How weights are stored in memory: the closed list of quantisations, with their size, quality and needs.
//!
//! Bytes per parameter follow from the formats: `n` bits per weight, plus a 16-bit scale and an `n`-bit zero point
//! per group (AWQ, GPTQ), one fp32 scale per block of 128 × 128 (fp8), one fp32 scale per 64 weights (nf4; with
//! double quantisation 8-bit scales plus an fp32 one per 256 of them, arXiv:2305.14314), one 8-bit scale per 32
//! (mxfp4, OCP MX 1.0). GGUF bits per weight are those that llama.cpp publishes for a whole 8B model
//! (<https://github.com/ggml-org/llama.cpp/blob/master/tools/quantize/README.md>).

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::architecture::Unknown;
use super::engine::Engine;

/// A major and minor compute capability, such as 8.9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Capability(pub u32, pub u32);

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

macro_rules! gguf {
    ($($name:ident $word:literal $bits:literal,)*) => {
        /// Quantisations of GGUF files.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types)]
        pub enum Gguf {
            $(#[doc = concat!("`", $word, "`")] $name,)*
        }

        impl Gguf {
            /// Every quantisation, the largest first.
            pub const ALL: &'static [Gguf] = &[$(Gguf::$name,)*];

            /// The name in file names.
            pub const fn word(self) -> &'static str {
                match self { $(Gguf::$name => $word,)* }
            }

            /// Mean bits per weight over the whole file.
            pub const fn bits(self) -> f64 {
                match self { $(Gguf::$name => $bits,)* }
            }
        }
    };
}

gguf! {
    F32 "F32" 32.0,
    F16 "F16" 16.0,
    BF16 "BF16" 16.0,
    Q8_0 "Q8_0" 8.50,
    Q6_K "Q6_K" 6.56,
    Q5_K_M "Q5_K_M" 5.70,
    Q5_K_S "Q5_K_S" 5.57,
    Q5_1 "Q5_1" 6.0,
    Q5_0 "Q5_0" 5.5,
    Q4_K_M "Q4_K_M" 4.89,
    Q4_1 "Q4_1" 5.0,
    IQ4_NL "IQ4_NL" 4.68,
    Q4_K_S "Q4_K_S" 4.67,
    Q4_0 "Q4_0" 4.66,
    IQ4_XS "IQ4_XS" 4.46,
    MXFP4 "MXFP4" 4.25,
    Q3_K_L "Q3_K_L" 4.30,
    Q3_K_M "Q3_K_M" 4.00,
    IQ3_M "IQ3_M" 3.76,
    IQ3_S "IQ3_S" 3.66,
    Q3_K_S "Q3_K_S" 3.64,
    IQ3_XS "IQ3_XS" 3.50,
    IQ3_XXS "IQ3_XXS" 3.25,
    Q2_K "Q2_K" 3.16,
    Q2_K_S "Q2_K_S" 2.97,
    IQ2_M "IQ2_M" 2.93,
    IQ2_S "IQ2_S" 2.74,
    IQ2_XS "IQ2_XS" 2.59,
    IQ2_XXS "IQ2_XXS" 2.38,
    IQ1_M "IQ1_M" 2.15,
    IQ1_S "IQ1_S" 2.00,
}

/// How much a quantisation costs in quality, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// As trained.
    Full,
    /// Eight bits: hardly measurable.
    NearLossless,
    /// Five to six bits.
    High,
    /// Four bits with care.
    Good,
    /// Four bits quantised at load, or barely four.
    Fair,
    /// Below four bits: only on request.
    Low,
}

/// How weights are stored in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(with = "String")]
pub enum Quantization {
    /// 32-bit floats.
    Fp32,
    /// bf16 or fp16.
    Bits16,
    /// 8-bit floats with block scales.
    Fp8,
    /// bitsandbytes LLM.int8(), quantised at load.
    Int8,
    /// bitsandbytes 4-bit, quantised at load.
    Nf4,
    /// The same with double quantisation.
    Nf4Dq,
    /// AWQ, 4 bits.
    AwqInt4 {
        /// Weights that share a scale; 0 for a whole column.
        group: u32,
    },
    /// GPTQ, 4 bits.
    GptqInt4 {
        /// Weights that share a scale; 0 for a whole column.
        group: u32,
    },
    /// GPTQ, 8 bits.
    GptqInt8 {
        /// Weights that share a scale; 0 for a whole column.
        group: u32,
    },
    /// 4-bit floats with one scale per 32.
    Mxfp4,
    /// A GGUF file.
    Gguf(Gguf),
}

/// `n` bits per weight, with a 16-bit scale and an `n`-bit zero point per group.
fn grouped(bits: f64, group: u32) -> f64 {
    let overhead = if group == 0 { 0.0 } else { (16.0 + bits) / f64::from(group) };
    (bits + overhead) / 8.0
}

impl Quantization {
    /// Bytes per parameter of the layers' matrices (of the whole model for a GGUF).
    pub fn bytes_per_linear(self) -> f64 {
        match self {
            Self::Fp32 => 4.0,
            Self::Bits16 => 2.0,
            Self::Fp8 => 1.0 + 4.0 / (128.0 * 128.0),
            // One fp32 scale per row; a row has some thousand weights.
            Self::Int8 => 1.0 + 4.0 / 4096.0,
            Self::Nf4 => 0.5 + 4.0 / 64.0,
            Self::Nf4Dq => 0.5 + 1.0 / 64.0 + 4.0 / (64.0 * 256.0),
            Self::AwqInt4 { group } | Self::GptqInt4 { group } => grouped(4.0, group),
            Self::GptqInt8 { group } => grouped(8.0, group),
            Self::Mxfp4 => 0.5 + 1.0 / 32.0,
            Self::Gguf(quant) => quant.bits() / 8.0,
        }
    }

    /// Bytes per parameter of everything that is not quantised.
    pub fn bytes_per_other(self) -> f64 {
        match self {
            Self::Fp32 => 4.0,
            Self::Gguf(quant) => quant.bits() / 8.0,
            _ => 2.0,
        }
    }

    /// The loader makes it from the 16-bit files, so that those are downloaded.
    pub fn at_load(self) -> bool {
        matches!(self, Self::Int8 | Self::Nf4 | Self::Nf4Dq)
    }

    /// What it costs in quality.
    pub fn tier(self) -> Tier {
        match self {
            Self::Fp32 | Self::Bits16 => Tier::Full,
            Self::Fp8 | Self::Int8 | Self::GptqInt8 { .. } => Tier::NearLossless,
            Self::AwqInt4 { .. } | Self::GptqInt4 { .. } | Self::Mxfp4 => Tier::Good,
            Self::Nf4 | Self::Nf4Dq => Tier::Fair,
            Self::Gguf(quant) => match quant.bits() {
                b if b >= 16.0 => Tier::Full,
                b if b >= 8.0 => Tier::NearLossless,
                b if b >= 5.5 => Tier::High,
                b if b >= 4.6 => Tier::Good,
                b if b > 4.3 => Tier::Fair,
                _ if quant == Gguf::MXFP4 => Tier::Good,
                _ => Tier::Low,
            },
        }
    }

    /// Place in the order in which variants are tried, the first is 0: 16-bit, fp8, int8 and int4 of GPTQ and
    /// AWQ, GGUF from the largest down, bitsandbytes last.
    pub fn rank(self) -> u32 {
        match self {
            Self::Bits16 => 0,
            Self::Fp32 => 1,
            Self::Fp8 => 2,
            Self::GptqInt8 { .. } => 3,
            // Published natively in this form, so nothing better exists.
            Self::Mxfp4 => 4,
            Self::AwqInt4 { .. } => 5,
            Self::GptqInt4 { .. } => 6,
            Self::Gguf(quant) => 100 + ((32.0 - quant.bits()) * 10.0) as u32,
            Self::Int8 => 1000,
            Self::Nf4 => 1001,
            Self::Nf4Dq => 1002,
        }
    }

    /// The engines that run it.
    pub fn engines(self) -> &'static [Engine] {
        match self {
            Self::Gguf(_) => &[Engine::LlamaCpp],
            Self::Fp32 | Self::Bits16 => &[Engine::Transformers, Engine::Vllm],
            Self::Int8 => &[Engine::Transformers],
            _ => &[Engine::Transformers, Engine::Vllm],
        }
    }

    /// The least compute capability with which `engine` runs it as it is stored. Transformers computes in FP8 and unpacks the
    /// weights to 16 bits on older cards, where they no longer fit as FP8 would; vLLM unpacks tile by tile (Marlin). From
    /// vLLM's and Transformers' tables of supported hardware (<https://docs.vllm.ai/en/latest/features/quantization/>,
    /// <https://huggingface.co/docs/transformers/quantization/overview>).
    pub fn least_capability(self, engine: Engine) -> Option<Capability> {
        let marlin = |without: Capability| if engine == Engine::Vllm { Capability(8, 0) } else { without };
        match self {
            Self::Fp8 => Some(marlin(Capability(8, 9))),
            Self::Mxfp4 => Some(marlin(Capability(7, 5))),
            Self::AwqInt4 { .. } | Self::Int8 => Some(Capability(7, 5)),
            Self::GptqInt4 { .. } | Self::GptqInt8 { .. } | Self::Nf4 | Self::Nf4Dq => Some(Capability(7, 0)),
            Self::Fp32 | Self::Bits16 | Self::Gguf(_) => None,
        }
    }

    /// What a `quantization_config` says, if it names one of these.
    pub fn from_config(config: &Value) -> Option<Self> {
        let method = config.get("quant_method").and_then(Value::as_str).unwrap_or_default().to_lowercase();
        let bits = config.get("bits").or_else(|| config.get("w_bit")).and_then(Value::as_u64);
        let group = config.get("group_size").or_else(|| config.get("q_group_size")).and_then(Value::as_i64);
        let group = group.map_or(128, |n| u32::try_from(n).unwrap_or(0));
        let flag = |name: &str| config.get(name).and_then(Value::as_bool).unwrap_or(false);
        match method.as_str() {
            "awq" | "auto-round" if bits.unwrap_or(4) == 4 => Some(Self::AwqInt4 { group }),
            "gptq" | "auto-round" => match bits {
                Some(4) | None => Some(Self::GptqInt4 { group }),
                Some(8) => Some(Self::GptqInt8 { group }),
                _ => None,
            },
            "fp8" | "fbgemm_fp8" => Some(Self::Fp8),
            "mxfp4" => Some(Self::Mxfp4),
            "compressed-tensors" => compressed_tensors(config),
            "bitsandbytes" | "bnb" | "" if flag("load_in_4bit") || flag("_load_in_4bit") => {
                Some(if flag("bnb_4bit_use_double_quant") { Self::Nf4Dq } else { Self::Nf4 })
            }
            "bitsandbytes" | "bnb" | "" if flag("load_in_8bit") || flag("_load_in_8bit") => Some(Self::Int8),
            _ => None,
        }
    }
}

/// The weights' scheme of the first group of a compressed-tensors config.
fn compressed_tensors(config: &Value) -> Option<Quantization> {
    let weights = config.get("config_groups")?.as_object()?.values().next()?.get("weights")?;
    let bits = weights.get("num_bits")?.as_u64()?;
    let float = weights.get("type").and_then(Value::as_str) == Some("float");
    let group =
        weights.get("group_size").and_then(Value::as_u64).map_or(0, |n| u32::try_from(n).unwrap_or(0));
    match (bits, float) {
        (8, true) => Some(Quantization::Fp8),
        (4, true) => Some(Quantization::Mxfp4),
        (8, false) => Some(Quantization::GptqInt8 { group }),
        (4, false) => Some(Quantization::GptqInt4 { group }),
        _ => None,
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grouped = |f: &mut fmt::Formatter<'_>, word: &str, group: u32| match group {
            128 => f.write_str(word),
            0 => write!(f, "{word}-nogroup"),
            n => write!(f, "{word}-g{n}"),
        };
        match *self {
            Self::Fp32 => f.write_str("fp32"),
            Self::Bits16 => f.write_str("16bit"),
            Self::Fp8 => f.write_str("fp8"),
            Self::Int8 => f.write_str("int8"),
            Self::Nf4 => f.write_str("nf4"),
            Self::Nf4Dq => f.write_str("nf4-dq"),
            Self::AwqInt4 { group } => grouped(f, "awq-int4", group),
            Self::GptqInt4 { group } => grouped(f, "gptq-int4", group),
            Self::GptqInt8 { group } => grouped(f, "gptq-int8", group),
            Self::Mxfp4 => f.write_str("mxfp4"),
            Self::Gguf(quant) => write!(f, "gguf:{}", quant.word()),
        }
    }
}

impl FromStr for Quantization {
    type Err = Unknown;

    /// Reads the word on the wire and the spellings that people use (`bf16`, `bnb-nf4`, `fp8-block128`, `Q4_K_M`).
    fn from_str(text: &str) -> Result<Self, Unknown> {
        let word = text.trim().to_lowercase().replace('_', "-");
        let name = word.strip_prefix("gguf:").or_else(|| word.strip_prefix("gguf-")).unwrap_or(&word);
        let mut files = Gguf::ALL.iter().copied();
        let gguf = files.find(|q| q.word().to_lowercase().replace('_', "-") == name);
        if let Some(quant) = gguf
            && (name != word || !matches!(quant, Gguf::F32 | Gguf::F16 | Gguf::BF16 | Gguf::MXFP4))
        {
            return Ok(Self::Gguf(quant));
        }
        let group = || -> u32 {
            if word.contains("nogroup") || word.contains("no-group") {
                return 0;
            }
            let digits = word.rsplit_once("-g").map_or("", |(_, digits)| digits);
            digits.parse().unwrap_or(128)
        };
        let has = |part: &str| word.contains(part);
        Ok(match word.as_str() {
            "fp32" | "f32" | "float32" | "32bit" => Self::Fp32,
            "16bit" | "bf16" | "fp16" | "f16" | "bfloat16" | "float16" | "half" => Self::Bits16,
            "int8" | "8bit" | "bnb-int8" | "bnb-8bit" | "llm.int8" | "load-in-8bit" => Self::Int8,
            "4bit" | "bnb-4bit" | "load-in-4bit" => Self::Nf4,
            _ if has("mxfp4") => Self::Mxfp4,
            _ if has("nf4") || has("bnb-fp4") => {
                if has("dq") || has("double") {
                    Self::Nf4Dq
                } else {
                    Self::Nf4
                }
            }
            _ if has("fp8") => Self::Fp8,
            _ if has("awq") && !has("int8") && !has("8bit") => Self::AwqInt4 { group: group() },
            _ if has("gptq") && (has("int8") || has("8bit")) => Self::GptqInt8 { group: group() },
            "int4" | "w4a16" => Self::GptqInt4 { group: 128 },
            "w8a16" | "w8a8" => Self::GptqInt8 { group: 0 },
            _ if has("gptq") && !has("int3") && !has("int2") => Self::GptqInt4 { group: group() },
            _ => {
                return Err(Unknown::new(
                    format!("`{text}` is not a quantisation"),
                    "write 16bit, fp8, int8, nf4, awq-int4, gptq-int4, gptq-int8, mxfp4 or gguf:Q4_K_M",
                ));
            }
        })
    }
}

impl Serialize for Quantization {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantization {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

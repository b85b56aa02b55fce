//! How quantised weights are stored, told by the names and shapes of a layer's tensors.
//!
//! | packing | stored as | beside it |
//! |---|---|---|
//! | AWQ | `qweight` I32 \[in, out·bits/32\] | `scales` \[in/group, out\], `qzeros` |
//! | GPTQ | `qweight` I32 \[in·bits/32, out\] | `scales` \[in/group, out\], `qzeros`, `g_idx` \[in\] |
//! | compressed-tensors | `weight_packed` I32 (int) or U8 (fp4) | `weight_scale`, `weight_shape`, … |
//! | bitsandbytes 4-bit | `weight` U8, two weights a byte | `weight.quant_state.bitsandbytes__nf4`, `weight.absmax`, … |
//! | bitsandbytes int8 | `weight` I8 | `SCB` |
//! | FP8 | `weight` F8 | `weight_scale_inv` or `weight_scale` |
//! | MXFP4 | `…_blocks` U8, two weights a byte | `…_scales` U8 |
//! | NVFP4 | `weight` U8, two weights a byte | `weight_scale`, `weight_scale_2` |
//! | MLX | `weight` U32 \[out, in·bits/32\] | `scales`, `biases` |

use std::collections::HashMap;

use serde::Serialize;

use crate::weights::Tensor;

/// A way to store quantised weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// AWQ, integers packed along the outputs.
    Awq,
    /// GPTQ, integers packed along the inputs.
    Gptq,
    /// Integers in the layout of compressed-tensors (llm-compressor).
    CompressedInt,
    /// bitsandbytes NF4.
    BnbNf4,
    /// bitsandbytes FP4.
    BnbFp4,
    /// bitsandbytes LLM.int8().
    BnbInt8,
    /// 8-bit integers with scales.
    Int8,
    /// 8-bit floats with or without scales.
    Fp8,
    /// Blocks of 32 4-bit floats with a shared exponent.
    Mxfp4,
    /// Blocks of 16 4-bit floats with an FP8 scale.
    Nvfp4,
    /// Integers in the layout of MLX.
    Mlx,
}

/// What a stored tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// A weight as it is.
    Plain,
    /// That many weights in that packing.
    Packed(Packing, u64),
    /// Belongs to a packed weight.
    Scale,
}

/// The tensors of a model by name.
type Names<'a> = HashMap<&'a str, &'a Tensor>;

const NF4: &str = ".quant_state.bitsandbytes__nf4";
const FP4: &str = ".quant_state.bitsandbytes__fp4";

/// Tells what a tensor is. `bits` is what the config says about packed integers.
pub(super) fn stored(tensor: &Tensor, names: &Names<'_>, bits: Option<u64>) -> Stored {
    if is_scale(tensor, names) {
        return Stored::Scale;
    }
    let beside = |ending: &str| names.contains_key(format!("{}{ending}", tensor.name).as_str());
    let times = |n: u64| tensor.elements.saturating_mul(n);
    let per_word = |word: u64| tensor.elements.saturating_mul(word) / bits.unwrap_or(4).clamp(1, word);
    let name = tensor.name.as_str();
    match tensor.dtype.as_ref() {
        "I32" | "U32" if name.ends_with(".qweight") => qweight(tensor, names, bits),
        "I32" if name.ends_with(".weight_packed") => Stored::Packed(Packing::CompressedInt, per_word(32)),
        "U8" if name.ends_with(".weight_packed") => Stored::Packed(Packing::Nvfp4, times(2)),
        "U32" if sibling(name, ".weight", ".scales", names).is_some() => {
            Stored::Packed(Packing::Mlx, per_word(32))
        }
        "U8" if sibling(name, "_blocks", "_scales", names).is_some() => {
            Stored::Packed(Packing::Mxfp4, times(2))
        }
        "U8" if beside(NF4) => Stored::Packed(Packing::BnbNf4, times(2)),
        "U8" if beside(FP4) => Stored::Packed(Packing::BnbFp4, times(2)),
        "U8" if beside("_scale_2") => Stored::Packed(Packing::Nvfp4, times(2)),
        "I8" if sibling(name, ".weight", ".SCB", names).is_some() => {
            Stored::Packed(Packing::BnbInt8, times(1))
        }
        "I8" if beside("_scale") => Stored::Packed(Packing::Int8, times(1)),
        "F8_E4M3" | "F8_E5M2" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => Stored::Packed(Packing::Fp8, times(1)),
        _ => Stored::Plain,
    }
}

/// The tensor named like `name` with another ending.
fn sibling<'a>(name: &str, ending: &str, other: &str, names: &Names<'a>) -> Option<&'a Tensor> {
    let stem = name.strip_suffix(ending)?;
    names.get(format!("{stem}{other}").as_str()).copied()
}

/// AWQ or GPTQ: the shapes tell which, and how many weights there are.
fn qweight(tensor: &Tensor, names: &Names<'_>, bits: Option<u64>) -> Stored {
    let beside = |ending: &str| sibling(&tensor.name, ".qweight", ending, names);
    let last = |tensor: &Tensor| tensor.shape.last().copied();
    let first = |tensor: &Tensor| tensor.shape.first().copied();
    let packed = |bits: u64| tensor.elements.saturating_mul(32) / bits.clamp(1, 32);
    let outputs = beside(".scales").and_then(last);
    if let (Some(inputs), Some(outputs), true) = (first(tensor), outputs, last(tensor) != outputs) {
        return Stored::Packed(Packing::Awq, inputs.saturating_mul(outputs));
    }
    // The zero points are packed along the outputs, so their width tells the bits.
    let told = beside(".qzeros").and_then(last).zip(outputs).filter(|(_, outputs)| *outputs > 0);
    let told = told.map(|(zeros, outputs)| zeros.saturating_mul(32) / outputs);
    let parameters = match beside(".g_idx").zip(last(tensor)) {
        Some((inputs, outputs)) if inputs.elements > 0 => inputs.elements.saturating_mul(outputs),
        _ => packed(bits.or(told).unwrap_or(4)),
    };
    Stored::Packed(Packing::Gptq, parameters)
}

/// Scales, zero points and descriptions that stand beside a packed weight.
fn is_scale(tensor: &Tensor, names: &Names<'_>) -> bool {
    /// An ending, and the endings of which one must stand beside it.
    const BESIDE: &[(&str, &[&str])] = &[
        (".scales", &[".qweight", ".weight"]),
        (".biases", &[".weight"]),
        (".qzeros", &[".qweight"]),
        (".g_idx", &[".qweight"]),
        ("_scales", &["_blocks"]),
        (".SCB", &[".weight"]),
        (".weight_format", &[".weight"]),
        ("_scale_inv", &[""]),
        ("_scale_2", &[""]),
        ("_scale", &["", "_packed"]),
        ("_global_scale", &["", "_packed"]),
        ("_zero_point", &["", "_packed"]),
        (".weight_shape", &[".weight_packed"]),
        (".weight_g_idx", &[".weight_packed"]),
        (".input_scale", &[".weight", ".weight_packed"]),
        (".input_global_scale", &[".weight", ".weight_packed"]),
        (".input_zero_point", &[".weight", ".weight_packed"]),
        (".output_scale", &[".weight", ".weight_packed"]),
    ];
    const ATTENTION: &[&str] = &[".k_scale", ".v_scale", ".q_scale", ".prob_output_scale"];
    const BNB: &[&str] = &[".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", NF4, FP4];
    let name = tensor.name.as_str();
    let stands_beside = BESIDE.iter().any(|(ending, others)| {
        name.ends_with(ending)
            && others.iter().any(|other| {
                let weight = sibling(name, ending, other, names);
                // A learnt scale beside a plain weight stays a parameter.
                weight.is_some_and(|weight| !matches!(weight.dtype.as_ref(), "BF16" | "F16" | "F32" | "F64"))
            })
    });
    let of_bnb = |ending: &&str| name.strip_suffix(*ending).is_some_and(|weight| names.contains_key(weight));
    stands_beside
        || (tensor.elements == 1 && ATTENTION.iter().any(|ending| name.ends_with(ending)))
        || BNB.iter().any(of_bnb)
}

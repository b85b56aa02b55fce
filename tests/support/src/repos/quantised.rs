//! The quantised variants that people publish beside a 16-bit model, tensor by tensor.

use super::Tensor;

/// How a variant's linear layers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// AWQ, 4 bits in groups of 128.
    Awq,
    /// GPTQ of that many bits in groups of 128.
    Gptq(u64),
    /// bitsandbytes NF4 with double quantisation.
    Nf4,
    /// FP8 with a scale per tensor.
    Fp8,
}

/// The same model with its layers' matrices quantised; embeddings, head and norms stay as they are.
pub fn quantised(tensors: &[Tensor], how: Quant) -> Vec<Tensor> {
    tensors.iter().flat_map(|tensor| packed(tensor, how).unwrap_or_else(|| vec![tensor.clone()])).collect()
}

fn packed(tensor: &Tensor, how: Quant) -> Option<Vec<Tensor>> {
    const GROUP: u64 = 128;
    let [outputs, inputs] = tensor.shape[..] else { return None };
    if !tensor.name.contains(".self_attn.") && !tensor.name.contains(".mlp.") {
        return None;
    }
    let stem = tensor.name.strip_suffix(".weight")?;
    let new = |name: &str, dtype, shape: &[u64]| Tensor {
        name: format!("{stem}.{name}"),
        dtype,
        shape: shape.to_vec(),
    };
    let groups = inputs / GROUP;
    Some(match how {
        Quant::Awq => vec![
            new("qweight", "I32", &[inputs, outputs / 8]),
            new("qzeros", "I32", &[groups, outputs / 8]),
            new("scales", "F16", &[groups, outputs]),
        ],
        Quant::Gptq(bits) => vec![
            new("g_idx", "I32", &[inputs]),
            new("qweight", "I32", &[inputs * bits / 32, outputs]),
            new("qzeros", "I32", &[groups, outputs * bits / 32]),
            new("scales", "F16", &[groups, outputs]),
        ],
        Quant::Nf4 => {
            let blocks = (inputs * outputs).div_ceil(64);
            vec![
                new("weight", "U8", &[(inputs * outputs).div_ceil(2), 1]),
                new("weight.absmax", "U8", &[blocks]),
                new("weight.nested_absmax", "F32", &[blocks.div_ceil(256)]),
                new("weight.nested_quant_map", "F32", &[256]),
                new("weight.quant_map", "F32", &[16]),
                new("weight.quant_state.bitsandbytes__nf4", "U8", &[100]),
            ]
        }
        Quant::Fp8 => vec![new("weight", "F8_E4M3", &[outputs, inputs]), new("weight_scale", "F32", &[1])],
    })
}

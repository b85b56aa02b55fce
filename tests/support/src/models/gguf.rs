//! The GGUF format, version 3: true header, keys and tensor table; random data.

/// Numbers of `general.file_type` and of the tensor type, with block length and bytes a block.
fn quantization(name: &str) -> (u32, u32, u64, u64) {
    match name {
        "F32" => (0, 0, 1, 4),
        "F16" => (1, 1, 1, 2),
        "Q4_0" => (2, 2, 32, 18),
        "Q8_0" => (7, 8, 32, 34),
        "Q2_K" => (10, 10, 256, 84),
        "Q4_K_M" => (15, 12, 256, 144),
        "Q5_K_M" => (17, 13, 256, 176),
        other => panic!("the generator knows no quantization {other}"),
    }
}

/// A llama of one tensor under this quantization (`F32 F16 Q4_0 Q8_0 Q2_K Q4_K_M Q5_K_M`).
pub fn gguf(name: &str, quant: &str, seed: u64) -> Vec<u8> {
    const ALIGNMENT: usize = 32;
    let (file_type, tensor_type, block, block_bytes) = quantization(quant);
    let shape = [256_u64, 32];
    let keys: [(&str, Key); 10] = [
        ("general.architecture", Key::Text("llama")),
        ("general.name", Key::Text(name)),
        ("general.file_type", Key::Number(file_type)),
        ("general.quantization_version", Key::Number(2)),
        ("llama.block_count", Key::Number(2)),
        ("llama.context_length", Key::Number(128)),
        ("llama.embedding_length", Key::Number(256)),
        ("llama.feed_forward_length", Key::Number(512)),
        ("llama.attention.head_count", Key::Number(4)),
        ("llama.attention.head_count_kv", Key::Number(2)),
    ];
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend(1_u64.to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        text(&mut out, key);
        match value {
            Key::Text(value) => {
                out.extend(8_u32.to_le_bytes());
                text(&mut out, value);
            }
            Key::Number(value) => {
                out.extend(4_u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
        }
    }
    text(&mut out, "token_embd.weight");
    out.extend((shape.len() as u32).to_le_bytes());
    shape.iter().for_each(|dimension| out.extend(dimension.to_le_bytes()));
    out.extend(tensor_type.to_le_bytes());
    out.extend(0_u64.to_le_bytes());
    let start = out.len().next_multiple_of(ALIGNMENT);
    let data = usize::try_from(shape.iter().product::<u64>() / block * block_bytes).expect("a small tensor");
    out.resize(start + data, 0);
    crate::hub::fill_pattern(seed, 0, &mut out[start..]);
    out
}

enum Key<'a> {
    Text(&'a str),
    Number(u32),
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend(value.as_bytes());
}

//! Small models that are true where it matters: headers that a reader accepts, shards that an index names, the mix of
//! formats that real repositories carry. Weights are random.

mod gguf;
mod json;
pub mod minilm;
mod safetensors;

use std::path::Path;

pub use gguf::gguf;
pub use json::{gitattributes, gpt2_config, readme, shard_index, tokenizer};
pub use safetensors::{Tensor, parse_header, safetensors};

use crate::hub::{Content, Model};

/// Shape of a GPT-2 with random weights.
#[derive(Clone, Copy, Debug)]
pub struct Gpt2 {
    /// Width.
    pub n_embd: u64,
    /// Blocks.
    pub n_layer: u64,
    /// Words.
    pub vocab: u64,
    /// Positions.
    pub n_ctx: u64,
}

impl Gpt2 {
    /// The shape whose parameter count comes closest from below, but at least the smallest one.
    pub fn of(params_approx: u64) -> Self {
        let shape = |n_embd| Self { n_embd, n_layer: 2, vocab: 128, n_ctx: 64 };
        let fitting = (1..).map(|step| shape(step * 8)).take_while(|shape| shape.params() <= params_approx);
        fitting.last().unwrap_or_else(|| shape(8))
    }

    /// Number of parameters.
    pub fn params(self) -> u64 {
        self.tensors().iter().map(Tensor::elements).sum()
    }

    /// The tensors under the names that transformers expects.
    pub fn tensors(self) -> Vec<Tensor> {
        let n = self.n_embd;
        let mut out =
            vec![Tensor::f32("wte.weight", &[self.vocab, n]), Tensor::f32("wpe.weight", &[self.n_ctx, n])];
        for layer in 0..self.n_layer {
            let mut add =
                |name: &str, shape: &[u64]| out.push(Tensor::f32(&format!("h.{layer}.{name}"), shape));
            for norm in ["ln_1", "ln_2"] {
                add(&format!("{norm}.weight"), &[n]);
                add(&format!("{norm}.bias"), &[n]);
            }
            add("attn.c_attn.weight", &[n, 3 * n]);
            add("attn.c_attn.bias", &[3 * n]);
            add("attn.c_proj.weight", &[n, n]);
            add("attn.c_proj.bias", &[n]);
            add("mlp.c_fc.weight", &[n, 4 * n]);
            add("mlp.c_fc.bias", &[4 * n]);
            add("mlp.c_proj.weight", &[4 * n, n]);
            add("mlp.c_proj.bias", &[n]);
        }
        out.extend([Tensor::f32("ln_f.weight", &[n]), Tensor::f32("ln_f.bias", &[n])]);
        out
    }
}

/// `test/tiny-gpt2-SEED`: a GPT-2 of about that many parameters in one `model.safetensors`.
pub fn tiny_gpt2(seed: u64, params_approx: u64) -> Model {
    let shape = Gpt2::of(params_approx);
    common(seed, shape).lfs("model.safetensors", safetensors(&shape.tensors(), seed))
}

/// The same model in `shards` files `model-00001-of-0000N.safetensors` with their index.
pub fn sharded_gpt2(seed: u64, params_approx: u64, shards: usize) -> Model {
    let shape = Gpt2::of(params_approx);
    let tensors = shape.tensors();
    let per_shard = tensors.len().div_ceil(shards.clamp(1, tensors.len()));
    let parts: Vec<&[Tensor]> = tensors.chunks(per_shard).collect();
    let name = |index: usize| format!("model-{:05}-of-{:05}.safetensors", index + 1, parts.len());
    let mut model = common(seed, shape).file("model.safetensors.index.json", shard_index(&parts, name));
    for (index, part) in parts.iter().enumerate() {
        model = model.lfs(name(index), safetensors(part, seed.wrapping_add(index as u64)));
    }
    model
}

fn common(seed: u64, shape: Gpt2) -> Model {
    let id = format!("test/tiny-gpt2-{seed}");
    Model::new(&id)
        .file(".gitattributes", gitattributes())
        .file("README.md", readme(&id))
        .file("config.json", gpt2_config(shape))
        .file("generation_config.json", "{\n  \"bos_token_id\": 0,\n  \"eos_token_id\": 0\n}\n")
        .file("tokenizer.json", tokenizer(shape.vocab))
        .file("tokenizer_config.json", "{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n")
}

/// A repository that carries every format beside safetensors: PyTorch pickle, TensorFlow, Flax, ONNX, GGUF, and a
/// subfolder. Those have the magic numbers of their kind and nothing loadable behind (GGUF headers are true).
pub fn every_format(seed: u64, params_approx: u64) -> Model {
    let noise = |magic: &[u8]| {
        let mut bytes = Content::pattern(4096, seed).slice(0, 4096).expect("a pattern reads");
        bytes[..magic.len()].copy_from_slice(magic);
        bytes
    };
    tiny_gpt2(seed, params_approx)
        .lfs("pytorch_model.bin", noise(b"PK\x03\x04"))
        .lfs("tf_model.h5", noise(b"\x89HDF\r\n\x1a\n"))
        .lfs("flax_model.msgpack", noise(b"\x82\xa6params"))
        .lfs("onnx/model.onnx", noise(b"\x08\x07\x12\x07pytorch"))
        .lfs("onnx/model_quantized.onnx", noise(b"\x08\x07\x12\x04onnx"))
        .lfs("model-Q8_0.gguf", gguf("model", "Q8_0", seed))
        .file(
            "1_Pooling/config.json",
            "{\n  \"word_embedding_dimension\": 8,\n  \"pooling_mode_mean_tokens\": true\n}\n",
        )
        .named(format!("test/every-format-{seed}"))
}

/// A repository of GGUF files only: several quantizations, one of them (`Q8_0`) in two parts in a folder.
pub fn gguf_only(seed: u64) -> Model {
    let id = format!("test/gguf-{seed}");
    let mut model = Model::new(&id)
        .file(".gitattributes", gitattributes())
        .file("README.md", readme(&id))
        .tags(&["gguf"]);
    for quant in ["Q2_K", "Q4_0", "Q4_K_M", "Q5_K_M", "F16"] {
        model = model.lfs(format!("tiny-{quant}.gguf"), gguf("tiny", quant, seed));
    }
    for part in 1..=2_u64 {
        let path = format!("Q8_0/tiny-Q8_0-{part:05}-of-00002.gguf");
        model = model.lfs(path, gguf("tiny", "Q8_0", seed.wrapping_add(part)));
    }
    model
}

/// A repository of one large generated file, `weights.bin`-like but named `model.safetensors` with a true header that
/// describes one tensor of bytes; takes no memory whatever its size. Hashing it takes its time once.
pub fn huge(seed: u64, bytes: u64) -> Model {
    let id = format!("test/huge-{seed}");
    Model::new(&id)
        .file(".gitattributes", gitattributes())
        .file("README.md", readme(&id))
        .file("config.json", gpt2_config(Gpt2::of(0)))
        .lfs("model.safetensors", Content::WithHead(safetensors::byte_header(bytes).into(), bytes, seed))
}

/// `sentence-transformers/all-MiniLM-L6-v2` from the folder where its files are; see [`minilm::locate`].
pub fn minilm(dir: &Path) -> Model {
    minilm::model(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_wish() {
        for wish in [10_000_u64, 100_000, 5_000_000] {
            let got = Gpt2::of(wish).params();
            assert!(got <= wish && got * 2 > wish, "asked for {wish}, got {got}");
        }
    }

    #[test]
    fn headers_describe_the_whole_file() {
        let model = sharded_gpt2(1, 50_000, 3);
        let index: serde_json::Value = {
            let bytes = model.at("model.safetensors.index.json").content.slice(0, u64::MAX).expect("reads");
            serde_json::from_slice(&bytes).expect("JSON")
        };
        let mut seen = 0;
        for (path, file) in model.files().iter().filter(|(path, _)| path.ends_with(".safetensors")) {
            let bytes = file.content.slice(0, u64::MAX).expect("reads");
            let (header, start) = parse_header(&bytes).expect("a true header");
            let mut end = 0;
            for (name, tensor) in
                header.as_object().expect("an object").iter().filter(|(name, _)| *name != "__metadata__")
            {
                end = end.max(tensor["data_offsets"][1].as_u64().expect("an offset"));
                assert_eq!(index["weight_map"][name], path.as_str());
                seen += 1;
            }
            assert_eq!(start + end, file.size, "{path}");
        }
        assert_eq!(seen, Gpt2::of(50_000).tensors().len());
    }

    #[test]
    fn huge_files_have_a_true_header_too() {
        let model = huge(3, 1_000_000);
        let file = model.at("model.safetensors");
        let (header, start) =
            parse_header(&file.content.slice(0, 4096).expect("reads")).expect("a true header");
        assert_eq!(header["data"]["data_offsets"][1].as_u64().map(|end| end + start), Some(file.size));
    }
}

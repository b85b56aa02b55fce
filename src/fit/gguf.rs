//! Reads the shape of a model from the metadata of a GGUF file.
//!
//! Keys as in <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use super::architecture::{Architecture, Mla, Moe, Sliding, Structure, Unknown};
use super::provenance::Source;

/// One metadata value of a GGUF header, as far as the shape needs it. For an array give its length, or for
/// per-layer numbers (`head_count_kv`) the largest of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta<'a> {
    /// A whole number.
    Number(u64),
    /// A string.
    Text(&'a str),
}

const MAX_WIDTH: u64 = 1 << 20;
const MAX_CONTEXT: u64 = 1 << 32;
const HINT: &str = "check the file with `gguf-dump`, or choose another file";

/// The metadata of one file, looked up with bounds.
struct Header<'g, G> {
    name: String,
    get: &'g G,
}

impl<'a, G: Fn(&str) -> Option<Meta<'a>>> Header<'_, G> {
    fn look(&self, key: &str, most: u64) -> Result<Option<u64>, Unknown> {
        match (self.get)(key) {
            Some(Meta::Number(n)) if (1..=most).contains(&n) => Ok(Some(n)),
            Some(Meta::Number(n)) => Err(Unknown::new(format!("`{key}` is {n}, which no model has"), HINT)),
            Some(Meta::Text(_)) => Err(Unknown::new(format!("`{key}` is a text"), HINT)),
            None => Ok(None),
        }
    }

    /// A key below the architecture's own name.
    fn find(&self, key: &str, most: u64) -> Result<Option<u64>, Unknown> {
        self.look(&format!("{}.{key}", self.name), most)
    }

    fn need(&self, key: &str, most: u64) -> Result<u64, Unknown> {
        self.find(key, most)?.ok_or_else(|| Unknown::new(format!("`{}.{key}` is missing", self.name), HINT))
    }

    /// The first key, else the second, which must be there.
    fn either(&self, key: &str, other: &str, most: u64) -> Result<u64, Unknown> {
        self.find(key, most)?.map_or_else(|| self.need(other, most), Ok)
    }

    fn moe(&self, layers: u64, intermediate: u64) -> Result<Option<Moe>, Unknown> {
        let Some(experts) = self.find("expert_count", MAX_WIDTH)?.filter(|n| *n > 1) else { return Ok(None) };
        let width = self.find("expert_feed_forward_length", MAX_WIDTH)?.unwrap_or(intermediate);
        let shared = match self.find("expert_shared_feed_forward_length", MAX_WIDTH)? {
            Some(n) => n,
            None => self.find("expert_shared_count", 1024)?.unwrap_or(0) * width,
        };
        Ok(Some(Moe {
            experts,
            experts_per_token: self.need("expert_used_count", experts)?,
            intermediate: width,
            shared_intermediate: shared,
            dense_layers: self.find("leading_dense_block_count", layers)?.unwrap_or(0),
        }))
    }

    fn mla(&self, head_dim: u64) -> Result<Option<Mla>, Unknown> {
        let Some(kv_lora_rank) = self.find("attention.kv_lora_rank", MAX_WIDTH)? else { return Ok(None) };
        let rope = self.need("rope.dimension_count", MAX_WIDTH)?;
        let key = self.find("attention.key_length_mla", MAX_WIDTH)?.unwrap_or(head_dim);
        Ok(Some(Mla {
            kv_lora_rank,
            qk_rope_head_dim: rope,
            qk_nope_head_dim: key.saturating_sub(rope),
            v_head_dim: self.either("attention.value_length_mla", "attention.value_length", MAX_WIDTH)?,
            q_lora_rank: self.find("attention.q_lora_rank", MAX_WIDTH)?,
        }))
    }

    /// Which layers have a window is not in the header; families with a pattern are known.
    fn sliding(&self, layers: u64) -> Result<Option<Sliding>, Unknown> {
        let Some(window) = self.find("attention.sliding_window", MAX_CONTEXT)? else { return Ok(None) };
        let full = match self.name.as_str() {
            "gemma2" | "gpt-oss" => layers / 2,
            "gemma3" => layers / 6,
            _ => return Ok(None),
        };
        Ok(Some(Sliding { window, layers: layers - full }))
    }
}

impl Architecture {
    /// The shape in a GGUF header; `get` looks a key up (`general.architecture`, `llama.block_count`, …). The
    /// vocabulary is the length of `tokenizer.ggml.tokens`. Whether the head is tied is seen from the file's
    /// tensors: without an `output.weight` it is.
    pub fn from_gguf<'a>(get: impl Fn(&str) -> Option<Meta<'a>>) -> Result<Self, Unknown> {
        let Some(Meta::Text(name)) = get("general.architecture") else {
            return Err(Unknown::new("`general.architecture` is missing", HINT));
        };
        let file = Header { name: name.chars().take(64).collect(), get: &get };
        if file.find("ssm.state_size", MAX_WIDTH)?.is_some()
            || file.find("wkv.head_size", MAX_WIDTH)?.is_some()
        {
            return Err(Unknown::new(
                format!(
                    "`{}` has recurrent layers, whose state the header does not describe fully",
                    file.name
                ),
                "read the config.json of the model that the file was made from",
            ));
        }
        let hidden = file.need("embedding_length", MAX_WIDTH)?;
        let layers = file.need("block_count", 4096)?;
        let heads = file.need("attention.head_count", MAX_WIDTH)?;
        let head_dim = match file.find("attention.key_length", MAX_WIDTH)? {
            Some(dim) => dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => file.need("attention.key_length", MAX_WIDTH)?,
        };
        let vocab = match file.look("tokenizer.ggml.tokens", 1 << 25)? {
            Some(n) => n,
            None => file.need("vocab_size", 1 << 25)?,
        };
        let intermediate = file.either("feed_forward_length", "expert_feed_forward_length", MAX_WIDTH)?;
        Ok(Self {
            class: None,
            embedding_width: hidden,
            kv_heads: file.find("attention.head_count_kv", MAX_WIDTH)?.unwrap_or(heads),
            moe: file.moe(layers, intermediate)?,
            mla: file.mla(head_dim)?,
            sliding: file.sliding(layers)?,
            linear: None,
            tied_embeddings: matches!(
                file.name.as_str(),
                "gemma" | "gemma2" | "gemma3" | "starcoder2" | "gpt2"
            ),
            max_position: file.find("context_length", MAX_CONTEXT)?,
            dtype: None,
            quantized: None,
            multimodal: false,
            source: Source::GgufHeader,
            structure: Structure::default(),
            model_type: file.name,
            hidden,
            layers,
            heads,
            head_dim,
            vocab,
            intermediate,
        })
    }
}

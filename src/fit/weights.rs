//! Sums the tensors of a repo into what becomes of them in memory, or derives the same from the shape alone.

use std::collections::BTreeMap;

use serde::Serialize;

use super::architecture::Architecture;
use super::provenance::Source;
use super::quantization::Quantization;

/// One tensor of a safetensors or GGUF header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its dtype, as the header spells it (`BF16`, `F8_E4M3`, `I32`, `Q4_K`).
    pub dtype: &'a str,
    /// Elements, from the shape.
    pub elements: u64,
    /// Bytes in the file.
    pub bytes: u64,
}

/// Elements and bytes of several tensors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Amount {
    /// Elements of float tensors, which may run in another width.
    pub elements: u64,
    /// Bytes of packed tensors (integers, 8-bit floats and their scales), which stay as they are.
    pub packed_bytes: u64,
    /// Bytes in the file, packed or not.
    pub file_bytes: u64,
}

impl Amount {
    fn add(&mut self, tensor: &Tensor<'_>, packed: bool) {
        self.file_bytes = self.file_bytes.saturating_add(tensor.bytes);
        if packed {
            self.packed_bytes = self.packed_bytes.saturating_add(tensor.bytes);
        } else {
            self.elements = self.elements.saturating_add(tensor.elements);
        }
    }

    fn of(elements: u64) -> Self {
        Self { elements, packed_bytes: 0, file_bytes: elements.saturating_mul(2) }
    }

    /// Bytes in memory where floats run in `width` bytes each; `None` keeps what the file has.
    fn resident(&self, width: Option<f64>) -> f64 {
        match width {
            Some(width) => self.elements as f64 * width + self.packed_bytes as f64,
            None => self.file_bytes as f64,
        }
    }
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Linear,
    Embedding,
    Head,
    Other,
    Buffer,
    Vision,
    Extra,
}

/// The weights of a repo by what becomes of them in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct WeightFacts {
    /// Matrices inside the layers: what quantisation shrinks.
    pub linear: Amount,
    /// The token embedding.
    pub embedding: Amount,
    /// The head, where it is a matrix of its own.
    pub head: Amount,
    /// Norms, biases, routers, position tables.
    pub other: Amount,
    /// Masks and tables that the file holds and the model builds itself.
    pub buffers: Amount,
    /// Vision and audio towers with their projectors.
    pub vision: Amount,
    /// Multi-token-prediction layers, which only speculative decoding loads.
    pub extra: Amount,
    /// A copy of a head that is tied to the embedding: in the file, not in memory.
    pub tied_copy: Amount,
    /// Bytes by dtype.
    pub dtypes: BTreeMap<String, u64>,
    /// How the layers' matrices are stored, if they are packed and the config says how.
    pub quantized: Option<Quantization>,
    /// Where this comes from.
    pub source: Source,
}

impl WeightFacts {
    /// From the shape alone: exact where the family is known, see [`Architecture::parameters`].
    pub fn from_architecture(architecture: &Architecture) -> Self {
        let p = architecture.parameters();
        Self {
            linear: Amount::of(p.linear),
            embedding: Amount::of(p.embedding),
            head: Amount::of(p.head),
            other: Amount::of(p.other),
            source: if p.exact { architecture.source } else { Source::Assumed },
            ..Self::empty(Source::Assumed)
        }
    }

    /// From the headers of the weight files.
    pub fn from_tensors<'a>(
        architecture: &Architecture,
        tensors: impl IntoIterator<Item = Tensor<'a>>,
        source: Source,
    ) -> Self {
        let mut facts = Self { quantized: architecture.quantized, ..Self::empty(source) };
        for tensor in tensors {
            let packed = !is_float(tensor.dtype);
            let dtype: String = tensor.dtype.chars().take(16).collect();
            // A header may name any number of dtypes; a real one has a handful.
            if facts.dtypes.len() < 64 || facts.dtypes.contains_key(&dtype) {
                let bytes = facts.dtypes.entry(dtype).or_default();
                *bytes = bytes.saturating_add(tensor.bytes);
            }
            match part(tensor.name, tensor.dtype, architecture) {
                Part::Linear => facts.linear.add(&tensor, packed),
                Part::Embedding => facts.embedding.add(&tensor, packed),
                Part::Head if architecture.tied_embeddings => facts.tied_copy.add(&tensor, packed),
                Part::Head => facts.head.add(&tensor, packed),
                Part::Other => facts.other.add(&tensor, packed),
                Part::Buffer => facts.buffers.add(&tensor, packed),
                Part::Vision => facts.vision.add(&tensor, packed),
                Part::Extra => facts.extra.add(&tensor, packed),
            }
        }
        facts
    }

    /// The same model in files of another size: bytes are scaled, elements stay. For quantizations of one model of which
    /// only one header was read.
    #[must_use]
    pub fn scaled(&self, from_bytes: u64, to_bytes: u64) -> Self {
        let scale = |amount: Amount| {
            let of = |bytes: u64| {
                let scaled = u128::from(bytes) * u128::from(to_bytes) / u128::from(from_bytes.max(1));
                u64::try_from(scaled).unwrap_or(u64::MAX)
            };
            Amount { packed_bytes: of(amount.packed_bytes), file_bytes: of(amount.file_bytes), ..amount }
        };
        Self {
            linear: scale(self.linear),
            embedding: scale(self.embedding),
            head: scale(self.head),
            other: scale(self.other),
            buffers: scale(self.buffers),
            vision: scale(self.vision),
            extra: scale(self.extra),
            tied_copy: scale(self.tied_copy),
            ..self.clone()
        }
    }

    fn empty(source: Source) -> Self {
        let none = Amount::default();
        Self {
            linear: none,
            embedding: none,
            head: none,
            other: none,
            buffers: none,
            vision: none,
            extra: none,
            tied_copy: none,
            dtypes: BTreeMap::new(),
            quantized: None,
            source,
        }
    }

    /// Parameters that are not packed, without buffers, towers and copies.
    pub fn elements(&self) -> u64 {
        [self.linear, self.embedding, self.head, self.other]
            .iter()
            .fold(0, |all, part| all.saturating_add(part.elements))
    }

    /// Bytes of all tensors in the files.
    pub fn file_bytes(&self) -> u64 {
        let parts = [
            self.linear,
            self.embedding,
            self.head,
            self.other,
            self.buffers,
            self.vision,
            self.extra,
            self.tied_copy,
        ];
        parts.iter().fold(0, |all, part| all.saturating_add(part.file_bytes))
    }

    /// Derived from the shape, not read from headers.
    pub(super) fn is_derived(&self) -> bool {
        self.dtypes.is_empty()
    }

    /// The width that floats run in; a GGUF is mapped as it is.
    fn width(&self, quantization: Quantization) -> Option<f64> {
        (self.source != Source::GgufHeader).then(|| quantization.bytes_per_other())
    }

    /// Bytes of the layers' matrices in memory.
    pub(super) fn linear_bytes(&self, quantization: Quantization) -> f64 {
        let file = self.linear.file_bytes as f64;
        if self.source == Source::GgufHeader {
            return file;
        }
        if self.linear.packed_bytes == 0 {
            return self.linear.elements as f64 * quantization.bytes_per_linear();
        }
        match self.quantized {
            // Another variant of a model that is published packed.
            Some(stored) if stored != quantization => {
                file / stored.bytes_per_linear() * quantization.bytes_per_linear()
            }
            _ => file,
        }
    }

    /// Bytes of norms, biases and towers in memory.
    pub(super) fn other_bytes(&self, quantization: Quantization) -> f64 {
        // The tower of a GGUF is a file of its own, in 16 bits.
        let tower = quantization.bytes_per_other().max(2.0);
        self.other.resident(self.width(quantization)) + self.vision.resident(Some(tower))
    }

    /// Bytes of the embedding in memory.
    pub(super) fn embedding_bytes(&self, quantization: Quantization) -> f64 {
        self.embedding.resident(self.width(quantization))
    }

    /// Bytes of the head in memory.
    pub(super) fn head_bytes(&self, quantization: Quantization) -> f64 {
        self.head.resident(self.width(quantization))
    }
}

fn is_float(dtype: &str) -> bool {
    matches!(dtype, "F64" | "F32" | "F16" | "BF16" | "float64" | "float32" | "float16" | "bfloat16")
}

/// The layer number in a name such as `model.layers.61.mlp…`.
fn layer(name: &str) -> Option<u64> {
    let rest = name.split_once("layers.").or_else(|| name.split_once("blk."))?.1;
    rest.split('.').next()?.parse().ok()
}

fn part(name: &str, dtype: &str, architecture: &Architecture) -> Part {
    let has = |part: &str| name.contains(part);
    let ends = |part: &str| name.ends_with(part);
    if dtype == "BOOL"
        || ends("masked_bias")
        || ends("inv_freq")
        || ends(".attn.bias")
        || ends(".attention.bias")
        || ends("embed_positions._float_tensor")
    {
        return Part::Buffer;
    }
    let tower = ["vision", "visual", "audio_tower", "multi_modal_projector", "mm_projector", "image_newline"];
    if tower.iter().any(|word| has(word)) {
        return Part::Vision;
    }
    if name.starts_with("mtp.") || has(".mtp.") || layer(name).is_some_and(|n| n >= architecture.layers) {
        return Part::Extra;
    }
    if has("lm_head.") || has("embed_out.") || name == "output.weight" {
        return Part::Head;
    }
    let embedding =
        ["embed_tokens.", "wte.", "embed_in.", "word_embeddings.", "token_embd.", "tok_embeddings."];
    if embedding.iter().any(|word| has(word)) {
        return Part::Embedding;
    }
    let positions = has("wpe.") || has("embed_positions.");
    let router =
        ends("mlp.gate.weight") || has("router.") || has("shared_expert_gate.") || has("ffn_gate_inp.");
    let bias = ends(".bias") || ends("_bias") || has("norm") || has("ln_") || has("sinks") || has("A_log");
    if positions || router || bias { Part::Other } else { Part::Linear }
}

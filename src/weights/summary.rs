//! How many parameters a set of weight files really holds, in which dtypes, and for what.
//!
//! Neither the hub's number nor the sum of all elements is the parameter count. A packed format holds 2 to 8 weights
//! in one stored element and brings scales along; some files carry mask buffers (GPT-2, Pythia), a second copy of a
//! tied head (Qwen3-0.6B), a draft layer that engines ignore (DeepSeek), or a vision tower. Each of these is counted
//! apart, so that whoever predicts memory can take what its engine loads.

mod packing;

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::{Tensor, gguf, safetensors};
pub use packing::Packing;
use packing::Stored;

/// What the repo's `config.json` tells; each fact makes the count sharper, none is needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// Bits of a packed weight (`quantization_config.bits`); without it they follow from shapes, else 4.
    pub bits: Option<u64>,
    /// `tie_word_embeddings`: a stored head is a second copy of the embedding.
    pub tied_head: Option<bool>,
    /// `num_hidden_layers`: layers beyond are for drafts (multi-token prediction).
    pub layers: Option<u64>,
}

/// What tensors are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Word and position embeddings, which stay unquantised in memory.
    Embedding,
    /// The layer from the last hidden state to the vocabulary.
    Head,
    /// All other layers of the model.
    Body,
    /// Vision and audio encoders with their projectors.
    Tower,
    /// Layers for drafting tokens, which most engines ignore.
    Draft,
    /// Masks, inverse frequencies, router corrections: stored and not learnt.
    Buffer,
    /// A head that is stored again although it is tied to the embedding.
    Copy,
    /// Scales, zero points and the like of packed weights. Their parameters are zero.
    Scales,
}

/// Sum over tensors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// Number of tensors.
    pub tensors: u64,
    /// Weights, unpacked.
    pub parameters: u64,
    /// Stored bytes.
    pub bytes: u64,
}

/// Sum over the tensors of one dtype.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DtypeSum {
    /// The dtype, spelled as in the files.
    pub dtype: String,
    /// Number of tensors.
    pub tensors: u64,
    /// Stored elements (packed ones count once).
    pub elements: u64,
    /// Stored bytes.
    pub bytes: u64,
}

/// What a set of weight files holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Number of tensors.
    pub tensors: u64,
    /// The model's parameters: embedding, head, body and towers; without copies, buffers, drafts and scales.
    pub parameters: u64,
    /// Stored bytes of all tensors.
    pub bytes: u64,
    /// The same tensors by dtype, most bytes first.
    pub by_dtype: Vec<DtypeSum>,
    /// The same tensors by what they are for.
    pub by_part: BTreeMap<Part, Sum>,
    /// How the weights are quantised, as the tensors' names tell: the packing of most weights, if any.
    pub packing: Option<Packing>,
}

impl Summary {
    /// Sums up the shards of one safetensors model.
    ///
    /// ```
    /// use larder::weights::{Known, Read, Summary, safetensors};
    ///
    /// let json = br#"{"a.qweight":{"dtype":"I32","shape":[64,8],"data_offsets":[0,2048]},
    ///     "a.scales":{"dtype":"F16","shape":[1,64],"data_offsets":[2048,2176]}}"#;
    /// let file = [&(json.len() as u64).to_le_bytes()[..], json].concat();
    /// let Read::Done(header) = safetensors::parse(&file, None)? else { panic!("whole header") };
    /// let summary = Summary::of([&header], Known::default());
    /// assert_eq!(summary.parameters, 64 * 64);
    /// # Ok::<(), safetensors::HeaderError>(())
    /// ```
    pub fn of<'a>(headers: impl IntoIterator<Item = &'a safetensors::Header>, known: Known) -> Self {
        let tensors: Vec<&Tensor> = headers.into_iter().flat_map(|header| &header.tensors).collect();
        let names: HashMap<&str, &Tensor> =
            tensors.iter().map(|tensor| (tensor.name.as_str(), *tensor)).collect();
        let mut builder = Builder::default();
        let mut packed: BTreeMap<Packing, u64> = BTreeMap::new();
        for tensor in tensors {
            let (part, parameters) = match packing::stored(tensor, &names, known.bits) {
                Stored::Scale => (Part::Scales, 0),
                Stored::Packed(packing, parameters) => {
                    let sum = packed.entry(packing).or_default();
                    *sum = sum.saturating_add(parameters);
                    (part(tensor, known), parameters)
                }
                Stored::Plain => (part(tensor, known), tensor.elements),
            };
            builder.add(tensor, part, parameters);
        }
        let packing =
            packed.into_iter().max_by_key(|(_, parameters)| *parameters).map(|(packing, _)| packing);
        builder.finish(packing)
    }

    /// Sums up the parts of one GGUF model.
    pub fn of_gguf<'a>(headers: impl IntoIterator<Item = &'a gguf::Header>) -> Self {
        let mut builder = Builder::default();
        for tensor in headers.into_iter().flat_map(|header| &header.tensors) {
            let part = match tensor.name.as_str() {
                "token_embd.weight" | "position_embd.weight" | "per_layer_token_embd.weight" => {
                    Part::Embedding
                }
                "output.weight" => Part::Head,
                "rope_freqs.weight" => Part::Buffer,
                name if name.contains(".nextn.") => Part::Draft,
                name if name.starts_with("v.") || name.starts_with("mm.") || name.starts_with("a.") => {
                    Part::Tower
                }
                _ => Part::Body,
            };
            builder.add(tensor, part, tensor.elements);
        }
        builder.finish(None)
    }

    /// The parameters without vision and audio towers: what a text model's name counts.
    pub fn text_parameters(&self) -> u64 {
        self.parameters - self.part(Part::Tower).parameters
    }

    /// Sum over the tensors of one part.
    pub fn part(&self, part: Part) -> Sum {
        self.by_part.get(&part).copied().unwrap_or_default()
    }
}

#[derive(Default)]
struct Builder {
    dtypes: BTreeMap<String, DtypeSum>,
    parts: BTreeMap<Part, Sum>,
}

impl Builder {
    fn add(&mut self, tensor: &Tensor, part: Part, parameters: u64) {
        if !self.dtypes.contains_key(tensor.dtype.as_ref()) {
            let dtype = tensor.dtype.to_string();
            self.dtypes.insert(dtype.clone(), DtypeSum { dtype, tensors: 0, elements: 0, bytes: 0 });
        }
        if let Some(sum) = self.dtypes.get_mut(tensor.dtype.as_ref()) {
            sum.tensors += 1;
            sum.elements = sum.elements.saturating_add(tensor.elements);
            sum.bytes = sum.bytes.saturating_add(tensor.bytes);
        }
        let sum = self.parts.entry(part).or_default();
        sum.tensors += 1;
        sum.parameters = sum.parameters.saturating_add(parameters);
        sum.bytes = sum.bytes.saturating_add(tensor.bytes);
    }

    fn finish(self, packing: Option<Packing>) -> Summary {
        let loaded = [Part::Embedding, Part::Head, Part::Body, Part::Tower];
        let loaded = loaded.iter().filter_map(|part| self.parts.get(part));
        let mut by_dtype: Vec<DtypeSum> = self.dtypes.into_values().collect();
        by_dtype.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.dtype.cmp(&b.dtype)));
        Summary {
            tensors: self.parts.values().map(|sum| sum.tensors).sum(),
            parameters: loaded.fold(0, |total, sum| total.saturating_add(sum.parameters)),
            bytes: self.parts.values().fold(0, |total, sum| total.saturating_add(sum.bytes)),
            by_dtype,
            by_part: self.parts,
            packing,
        }
    }
}

/// What a tensor of a safetensors file is for, by its name.
fn part(tensor: &Tensor, known: Known) -> Part {
    const TOWERS: &[&str] = &[
        "vision_tower",
        "vision_model",
        "vision_encoder",
        "visual",
        "vision_embed_tokens",
        "embed_vision",
        "audio_tower",
        "embed_audio",
        "multi_modal_projector",
        "mm_projector",
        "image_newline",
    ];
    const EMBEDDINGS: &[&str] = &[
        "embed_tokens",
        "embed_tokens_per_layer",
        "embed_positions",
        "embed_in",
        "wte",
        "wpe",
        "word_embeddings",
        "word_embeddings_layernorm",
        "tok_embeddings",
    ];
    let name = tensor.name.as_str();
    let mut words = name.split('.');
    if is_buffer(tensor) {
        Part::Buffer
    } else if words.clone().any(|word| TOWERS.contains(&word)) {
        Part::Tower
    } else if words.clone().any(|word| word == "mtp") || is_beyond(name, known.layers) {
        Part::Draft
    } else if words.any(|word| EMBEDDINGS.contains(&word)) {
        Part::Embedding
    } else if name.contains("lm_head.") || name.starts_with("embed_out.") || name.starts_with("output.") {
        if known.tied_head == Some(true) { Part::Copy } else { Part::Head }
    } else {
        Part::Body
    }
}

fn is_buffer(tensor: &Tensor) -> bool {
    // `attn.bias` of four dimensions is a causal mask, of one dimension a learnt bias.
    const MASKS: &[&str] = &[".attn.bias", ".attention.bias"];
    const BUFFERS: &[&str] = &[
        ".inv_freq",
        ".masked_bias",
        ".position_ids",
        ".e_score_correction_bias",
        ".num_batches_tracked",
        ".running_mean",
        ".running_var",
    ];
    let ends = |endings: &[&str]| endings.iter().any(|ending| tensor.name.ends_with(ending));
    ends(BUFFERS) || (tensor.shape.len() == 4 && ends(MASKS))
}

/// `model.layers.61.…` in a model of 61 layers.
fn is_beyond(name: &str, layers: Option<u64>) -> bool {
    let number = |name: &str| name.split_once("layers.")?.1.split('.').next()?.parse::<u64>().ok();
    layers.is_some_and(|layers| number(name).is_some_and(|layer| layer >= layers))
}

#[cfg(test)]
mod tests;

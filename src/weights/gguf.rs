//! The header of a GGUF file: key-value metadata and the list of tensors.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian.
//!
//! An own parser, because the crates want something else: `ggus` and `gguf-rs-lib` read complete files, allocate for
//! counts that the file claims and have no word for "the prefix ends here"; candle's brings a tensor library along.
//! A tokenizer makes megabytes of a header, so it is walked and counted, never stored. Reading starts over with each
//! longer prefix; that costs milliseconds altogether and saves all state between reads.

mod cursor;
mod error;
mod types;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use super::{Read, Tensor, shown};
use cursor::{Cursor, Stop};
pub use error::GgufError;

/// The longest header in bytes. 151,936 tokens with types and 150,000 merges take 6.6 MB.
pub const HEADER_LIMIT: u64 = 64 << 20;
/// The most tensors in one file; llama.cpp stores all experts of a layer as one.
pub const TENSOR_LIMIT: u64 = 65_536;
/// The most metadata entries; published files have some 50.
pub const ENTRY_LIMIT: u64 = 4096;
/// Bytes of metadata that are kept, roughly.
const KEPT_LIMIT: u64 = 1 << 20;
/// The longest key, by the format's definition.
const KEY_LIMIT: u64 = 65_535;
/// Longer keys than this are not kept.
const KEY_KEPT: usize = 256;
/// The most dimensions of a tensor, by the format's definition.
const RANK_LIMIT: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

/// What a GGUF file says about itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// `general.architecture`: `llama`, `qwen2`, … Absent in later parts of a split model.
    pub architecture: Option<String>,
    /// The quantization's word (`Q4_K_M`), from `general.file_type`, else the type that holds the most bytes.
    pub quant: Option<String>,
    /// Length of the tokenizer's list of tokens.
    pub tokens: Option<u64>,
    /// Which part of a split model this is.
    pub split: Option<Split>,
    /// All other metadata, bounded: long arrays only as their length.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors in the order of their bytes.
    pub tensors: Vec<Tensor>,
    /// Sum of the tensors' elements.
    pub parameters: u64,
    /// Sum of the tensors' bytes.
    pub bytes: u64,
    /// Bytes in front of the tensor data, padding included.
    pub header_bytes: u64,
}

/// A part's place in a model that was split with `gguf-split`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Split {
    /// The part's number, from 0.
    pub part: u64,
    /// How many parts there are.
    pub parts: u64,
    /// Tensors of all parts together, if it says so.
    pub tensors: Option<u64>,
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A flag.
    Bool(bool),
    /// An unsigned integer.
    Unsigned(u64),
    /// A signed integer.
    Signed(i64),
    /// A number; `null` in JSON when it is none.
    Float(f64),
    /// A text, cut behind its first KiB.
    Text(String),
    /// A short array of numbers or flags, for example the KV heads of each layer.
    List(Vec<Value>),
    /// An array that was counted and not kept.
    Skipped {
        /// Its length.
        elements: u64,
    },
}

impl Value {
    /// The value as a whole number of zero or more.
    pub fn unsigned(&self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(*n),
            Self::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The value as text.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    fn elements(&self) -> u64 {
        match self {
            Self::List(list) => list.len() as u64,
            Self::Skipped { elements } => *elements,
            _ => 1,
        }
    }
}

/// Reads the header from a prefix of the file. With the file's size it also checks that all tensors lie within.
///
/// # Errors
/// The header contradicts itself, the file or the bounds.
pub fn parse(prefix: &[u8], file_size: Option<u64>) -> Result<Read<Header>, GgufError> {
    let mut cursor = Cursor::new(prefix, KEPT_LIMIT);
    match header(&mut cursor, file_size) {
        Ok(header) => Ok(Read::Done(header)),
        Err(Stop::Wrong(error)) => Err(error),
        Err(Stop::More(needed)) => match file_size.filter(|size| needed > *size) {
            Some(size) => Err(GgufError::HeaderBeyondFile { needed, size }),
            None if needed > HEADER_LIMIT => {
                Err(GgufError::TooLong { at: cursor.at, bytes: needed - cursor.at })
            }
            None => {
                // What lies behind the prefix is unknown, so doubling keeps the number of reads small.
                let twice = (prefix.len() as u64).saturating_mul(2).min(HEADER_LIMIT);
                let bytes = needed.max(twice).min(file_size.unwrap_or(u64::MAX));
                Ok(Read::More { bytes })
            }
        },
    }
}

fn header(cursor: &mut Cursor<'_>, file_size: Option<u64>) -> Result<Header, Stop> {
    if cursor.take(4)? != b"GGUF" {
        return Err(GgufError::NotGguf.into());
    }
    let version = cursor.u32()?;
    if version != 0 && version.trailing_zeros() >= 16 {
        return Err(GgufError::BigEndian.into());
    }
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version { version }.into());
    }
    let tensor_count = bounded(cursor.u64()?, "tensors", TENSOR_LIMIT)?;
    let entry_count = bounded(cursor.u64()?, "metadata entries", ENTRY_LIMIT)?;
    let mut metadata = entries(cursor, entry_count)?;
    let alignment = alignment(metadata.get("general.alignment"))?;
    let infos = (0..tensor_count).map(|_| info(cursor)).collect::<Result<Vec<_>, _>>()?;
    let header_bytes = cursor.at.next_multiple_of(if infos.is_empty() { 1 } else { alignment });
    let tensors = placed(infos, alignment, header_bytes, file_size)?;

    let text = |value: &Value| value.text().map(str::to_owned);
    let file_type = metadata.get("general.file_type").and_then(Value::unsigned).and_then(types::file_type);
    let split = |key: &str| metadata.get(&format!("split.{key}")).and_then(Value::unsigned);
    let split = split("no").zip(split("count")).filter(|(_, parts)| *parts > 1).map(|(part, parts)| Split {
        part,
        parts,
        tensors: split("tensors.count"),
    });
    Ok(Header {
        version,
        architecture: metadata.get("general.architecture").and_then(text),
        quant: file_type.map(str::to_owned).or_else(|| dominant(&tensors)),
        tokens: metadata.remove("tokenizer.ggml.tokens").map(|tokens| tokens.elements()),
        split,
        metadata,
        parameters: tensors.iter().map(|tensor| tensor.elements).fold(0, u64::saturating_add),
        bytes: tensors.iter().map(|tensor| tensor.bytes).fold(0, u64::saturating_add),
        tensors,
        header_bytes,
    })
}

fn bounded(count: u64, what: &'static str, limit: u64) -> Result<u64, GgufError> {
    if count <= limit { Ok(count) } else { Err(GgufError::TooMany { what, count, limit }) }
}

fn entries(cursor: &mut Cursor<'_>, count: u64) -> Result<BTreeMap<String, Value>, Stop> {
    let mut metadata = BTreeMap::new();
    for _ in 0..count {
        let key = cursor.name("bytes of a key", KEY_LIMIT)?;
        let kind = cursor.u32()?;
        let value = cursor.value(kind)?;
        if key.len() <= KEY_KEPT && metadata.insert(key.to_owned(), value).is_some() {
            return Err(GgufError::Duplicate { name: shown(key) }.into());
        }
    }
    Ok(metadata)
}

fn alignment(value: Option<&Value>) -> Result<u64, GgufError> {
    let Some(value) = value else { return Ok(DEFAULT_ALIGNMENT) };
    match value.unsigned() {
        Some(n) if n.is_power_of_two() && n <= 1 << 20 => Ok(n),
        other => Err(GgufError::Alignment {
            alignment: other.map_or_else(|| "not a number".to_owned(), |n| n.to_string()),
        }),
    }
}

/// A tensor's entry: the tensor (without bytes if its type is unknown) and the number of its type.
type Info = (Tensor, Option<u32>);

fn info(cursor: &mut Cursor<'_>) -> Result<Info, Stop> {
    let name = cursor.name("bytes of a tensor's name", KEY_LIMIT)?;
    let rank = cursor.u32()?;
    bounded(rank.into(), "dimensions of a tensor", RANK_LIMIT.into())?;
    let shape = (0..rank).map(|_| cursor.u64()).collect::<Result<Vec<_>, _>>()?;
    let kind = cursor.u32()?;
    let offset = cursor.u64()?;
    let block = types::block(kind);
    let dtype: Cow<'static, str> =
        block.map_or_else(|| format!("ggml_type_{kind}").into(), |block| block.word.into());
    let impossible =
        || GgufError::Shape { name: shown(name), dtype: dtype.to_string(), shape: shape.clone() };
    let elements =
        shape.iter().try_fold(1_u64, |product, n| product.checked_mul(*n)).ok_or_else(impossible)?;
    let bytes = match block {
        // Rows are stored in whole blocks.
        Some(block) if shape.first().unwrap_or(&1).is_multiple_of(block.weights) => {
            (elements / block.weights).checked_mul(block.bytes).ok_or_else(impossible)?
        }
        Some(_) => return Err(impossible().into()),
        None => 0,
    };
    let unknown = block.is_none().then_some(kind);
    Ok((Tensor { name: name.to_owned(), dtype, shape, elements, bytes, offset }, unknown))
}

/// The tensors in the order of their bytes, each within the file and off the others.
fn placed(
    mut infos: Vec<Info>,
    alignment: u64,
    header_bytes: u64,
    file_size: Option<u64>,
) -> Result<Vec<Tensor>, GgufError> {
    let mut names: Vec<&str> = infos.iter().map(|(tensor, _)| tensor.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(GgufError::Duplicate { name: shown(pair[0]) });
    }
    infos.sort_by_key(|(tensor, _)| (tensor.offset, tensor.bytes));
    let mut behind = file_size.map(|size| size.saturating_sub(header_bytes));
    // From the last to the first: a tensor of unknown type reaches to the next one.
    for (tensor, unknown) in infos.iter_mut().rev() {
        let name = || shown(&tensor.name);
        if let Some(kind) = *unknown {
            let end = behind.ok_or_else(|| GgufError::UnknownTensor { name: name(), kind })?;
            tensor.bytes = end.saturating_sub(tensor.offset);
        }
        let end = tensor.offset.checked_add(tensor.bytes);
        let in_file = end.and_then(|end| end.checked_add(header_bytes)).unwrap_or(u64::MAX);
        if let Some(size) = file_size.filter(|size| in_file > *size) {
            return Err(GgufError::BeyondFile { name: name(), end: in_file, size });
        }
        let overlaps = end.is_none_or(|end| behind.is_some_and(|behind| end > behind));
        if overlaps || !tensor.offset.is_multiple_of(alignment) {
            return Err(GgufError::Misplaced { name: name(), offset: tensor.offset });
        }
        behind = Some(tensor.offset);
    }
    Ok(infos.into_iter().map(|(tensor, _)| tensor).collect())
}

/// The type that holds the most bytes.
fn dominant(tensors: &[Tensor]) -> Option<String> {
    let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
    for tensor in tensors {
        let sum = bytes.entry(&tensor.dtype).or_default();
        *sum = sum.saturating_add(tensor.bytes);
    }
    bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(dtype, _)| dtype.to_owned())
}

#[cfg(test)]
mod tests;

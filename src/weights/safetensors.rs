//! The header of a safetensors file: eight bytes of length, then JSON.
//!
//! Format: <https://huggingface.co/docs/safetensors/metadata_parsing>. The crate `safetensors` 0.8 is the witness in
//! the tests and not the reader here: its `read_metadata` wants the whole file in memory; it takes the last of two
//! tensors with one name; one dtype that it does not know makes the file unreadable as a whole; and it accepts 100 MB
//! of header, which serde's `flatten` then holds several times over. What it checks is checked here too: tensors lie
//! back to back from byte 0, shape times dtype is their size, and they end where the file ends.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Read, Tensor, cut, shown};

/// The longest header in bytes. A shard of 5 GB has some 100 kB of it, 200,000 tensors in one file some 25 MB.
pub const HEADER_LIMIT: u64 = 32 << 20;
/// The most tensors in one file.
pub const TENSOR_LIMIT: usize = 262_144;
/// The most dimensions of a tensor.
const RANK_LIMIT: usize = 32;
/// Of `__metadata__` this many entries are kept, and of each key and value this many bytes.
const METADATA_ENTRIES: usize = 64;
const METADATA_BYTES: usize = 1024;
const LENGTH_BYTES: u64 = 8;

/// What a safetensors file says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Header {
    /// The tensors in the order of their bytes.
    pub tensors: Vec<Tensor>,
    /// The writer's own notes (`format`, …), bounded.
    pub metadata: BTreeMap<String, String>,
    /// Some of the notes were left out or cut.
    pub metadata_cut: bool,
    /// Bytes in front of the tensor data: the length field and the JSON.
    pub header_bytes: u64,
    /// Bytes of tensor data.
    pub data_bytes: u64,
}

/// Why a header cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum HeaderError {
    /// No room for the length field.
    #[error("the file has {size} bytes, a safetensors file has at least {LENGTH_BYTES}")]
    TooShort {
        /// Size of the file in bytes.
        size: u64,
    },
    /// The length field is beyond the bound.
    #[error("the header claims {length} bytes, the limit is {HEADER_LIMIT}")]
    TooLong {
        /// What the length field says.
        length: u64,
    },
    /// The header does not end within the file.
    #[error("the header claims {length} bytes in a file of {size}")]
    HeaderBeyondFile {
        /// What the length field says.
        length: u64,
        /// Size of the file in bytes.
        size: u64,
    },
    /// Not JSON, or not the JSON of a safetensors header.
    #[error("the header is not readable: {what}")]
    Unreadable {
        /// The parser's words, bounded.
        what: String,
    },
    /// A name that appears twice.
    #[error("the header lists \"{name}\" twice")]
    Duplicate {
        /// The name, bounded.
        name: String,
    },
    /// A tensor begins where another one has not ended, or behind a hole.
    #[error("tensor \"{name}\" begins at byte {begin} of the data, expected {expected}")]
    Misplaced {
        /// The tensor, bounded.
        name: String,
        /// Where it begins.
        begin: u64,
        /// Where the tensor in front of it ends.
        expected: u64,
    },
    /// The size does not follow from shape and dtype.
    #[error("tensor \"{name}\" takes {found} bytes, its shape and dtype make {expected}")]
    WrongSize {
        /// The tensor, bounded.
        name: String,
        /// Bytes between its offsets; `none` when they are in the wrong order.
        found: String,
        /// Bytes from shape and dtype; `too many` beyond 2^64, `a broken byte` for half a byte.
        expected: String,
    },
    /// The tensors do not end where the file ends.
    #[error("the tensors end at byte {end}, the file at byte {size}")]
    WrongEnd {
        /// Header and data in bytes.
        end: u64,
        /// Size of the file in bytes.
        size: u64,
    },
}

impl HeaderError {
    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::TooShort { .. } | Self::HeaderBeyondFile { .. } | Self::WrongEnd { .. } => {
                "the upload or the copy is incomplete; compare its size with the hub's, then fetch it again or choose \
                 another revision"
            }
            Self::TooLong { .. } => {
                "this is no safetensors file (perhaps a git-lfs pointer or an error page under its name); look at its \
                 first bytes"
            }
            _ => "do not load this file; choose another revision or publisher, and tell the repo's owner",
        }
    }

    /// The file and its header disagree about where the file ends.
    pub fn is_about_the_end(&self) -> bool {
        matches!(self, Self::TooShort { .. } | Self::HeaderBeyondFile { .. } | Self::WrongEnd { .. })
    }
}

/// How many bytes from the start of the file [`parse`] needs, as far as `prefix` tells.
///
/// # Errors
/// The length field is beyond [`HEADER_LIMIT`] or beyond the file.
pub fn needed(prefix: &[u8], file_size: Option<u64>) -> Result<u64, HeaderError> {
    if let Some(size) = file_size.filter(|size| *size < LENGTH_BYTES) {
        return Err(HeaderError::TooShort { size });
    }
    let Some(field) = prefix.first_chunk::<8>() else { return Ok(LENGTH_BYTES) };
    let length = u64::from_le_bytes(*field);
    if length > HEADER_LIMIT {
        return Err(HeaderError::TooLong { length });
    }
    match file_size {
        Some(size) if size < LENGTH_BYTES + length => Err(HeaderError::HeaderBeyondFile { length, size }),
        _ => Ok(LENGTH_BYTES + length),
    }
}

/// Reads the header from a prefix of the file. With the file's size it also checks that the tensors fill the file.
///
/// # Errors
/// The header contradicts itself, the file or the bounds.
pub fn parse(prefix: &[u8], file_size: Option<u64>) -> Result<Read<Header>, HeaderError> {
    let header_bytes = needed(prefix, file_size)?;
    let Some(json) =
        usize::try_from(header_bytes).ok().and_then(|end| prefix.get(LENGTH_BYTES as usize..end))
    else {
        return Ok(Read::More { bytes: header_bytes });
    };
    let unreadable = |what: String| HeaderError::Unreadable { what: shown(&what) };
    let json = std::str::from_utf8(json).map_err(|error| unreadable(error.to_string()))?;
    let Entries { mut tensors, notes } =
        serde_json::from_str(json).map_err(|error| unreadable(error.to_string()))?;
    let (metadata, metadata_cut) = notes.map_or_else(Default::default, |notes| (notes.kept, notes.cut));

    refuse_duplicates(&tensors)?;
    tensors.sort_by(|(a, a_raw), (b, b_raw)| (a_raw.data_offsets, a).cmp(&(b_raw.data_offsets, b)));
    let mut data_bytes = 0;
    let tensors = tensors
        .into_iter()
        .map(|(name, raw)| {
            let tensor = raw.checked(name, data_bytes)?;
            data_bytes += tensor.bytes;
            Ok(tensor)
        })
        .collect::<Result<Vec<_>, HeaderError>>()?;
    let end = header_bytes.saturating_add(data_bytes);
    match file_size {
        Some(size) if size != end => Err(HeaderError::WrongEnd { end, size }),
        _ => Ok(Read::Done(Header { tensors, metadata, metadata_cut, header_bytes, data_bytes })),
    }
}

/// Bits of one element; `None` for a dtype that is not known here.
pub fn bits(dtype: &str) -> Option<u64> {
    known(dtype).map(|(_, bits)| bits)
}

/// The dtypes of the format with their bits.
fn known(dtype: &str) -> Option<(&'static str, u64)> {
    const DTYPES: [(u64, &[&str]); 6] = [
        (16, &["BF16", "F16", "I16", "U16"]),
        (8, &["U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "BOOL", "F8_E4M3FNUZ", "F8_E5M2FNUZ"]),
        (32, &["F32", "I32", "U32"]),
        (64, &["I64", "F64", "U64", "C64"]),
        (4, &["F4"]),
        (6, &["F6_E2M3", "F6_E3M2"]),
    ];
    DTYPES.iter().find_map(|(bits, names)| Some((*names.iter().find(|name| **name == dtype)?, *bits)))
}

fn refuse_duplicates(tensors: &[(String, Raw)]) -> Result<(), HeaderError> {
    let mut names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(HeaderError::Duplicate { name: shown(pair[0]) }),
        None => Ok(()),
    }
}

/// A tensor's entry as it stands in the JSON.
#[derive(Deserialize)]
struct Raw {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

impl Raw {
    /// The tensor, if it begins at `expected` and has the size that its shape and dtype make.
    fn checked(self, name: String, expected: u64) -> Result<Tensor, HeaderError> {
        let (begin, end) = self.data_offsets;
        let known = known(&self.dtype);
        let elements = self.shape.0.iter().try_fold(1_u64, |product, n| product.checked_mul(*n));
        let bits = elements.and_then(|n| n.checked_mul(known.map_or(0, |(_, bits)| bits)));
        let wrong = |expected: &str| {
            let found = end.checked_sub(begin).map_or_else(|| "none".to_owned(), |bytes| bytes.to_string());
            HeaderError::WrongSize { name: shown(&name), found, expected: expected.to_owned() }
        };
        let (Some(elements), Some(bits)) = (elements, bits) else { return Err(wrong("too many")) };
        if !bits.is_multiple_of(8) {
            return Err(wrong("a broken byte"));
        }
        let size = bits / 8;
        let bytes = end.checked_sub(begin).ok_or_else(|| wrong(&size.to_string()))?;
        if known.is_some() && bytes != size {
            return Err(wrong(&size.to_string()));
        }
        if begin != expected {
            return Err(HeaderError::Misplaced { name: shown(&name), begin, expected });
        }
        let dtype =
            known.map_or_else(|| Cow::Owned(cut(&self.dtype, 64).0.to_owned()), |(name, _)| name.into());
        Ok(Tensor { name, dtype, shape: self.shape.0, elements, bytes, offset: begin })
    }
}

/// A shape of at most [`RANK_LIMIT`] dimensions, refused while it is read.
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dimensions;
        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(n) = list.next_element::<u64>()? {
                    if shape.len() == RANK_LIMIT {
                        return Err(A::Error::custom(format_args!("more than {RANK_LIMIT} dimensions")));
                    }
                    shape.push(n);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(Dimensions)
    }
}

/// The whole JSON: `__metadata__` and the tensors, in the order of the text.
struct Entries {
    tensors: Vec<(String, Raw)>,
    notes: Option<Notes>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut tensors = Vec::new();
                let mut notes = None;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if notes.replace(map.next_value::<Option<Notes>>()?).is_some() {
                            return Err(A::Error::duplicate_field("__metadata__"));
                        }
                        continue;
                    }
                    if tensors.len() == TENSOR_LIMIT {
                        return Err(A::Error::custom(format_args!("more than {TENSOR_LIMIT} tensors")));
                    }
                    match map.next_value::<Raw>() {
                        Ok(raw) => tensors.push((name, raw)),
                        Err(error) => {
                            let (name, _) = cut(&name, 60);
                            return Err(A::Error::custom(format_args!("tensor \"{name}\": {error}")));
                        }
                    }
                }
                Ok(Entries { tensors, notes: notes.flatten() })
            }
        }
        deserializer.deserialize_map(Map)
    }
}

/// The part of `__metadata__` that is kept.
#[derive(Default)]
struct Notes {
    kept: BTreeMap<String, String>,
    cut: bool,
}

impl<'de> Deserialize<'de> for Notes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Notes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Notes, A::Error> {
                let mut notes = Notes::default();
                while let Some(key) = map.next_key::<String>()? {
                    if notes.kept.len() == METADATA_ENTRIES {
                        notes.cut = true;
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let value = map.next_value::<String>()?;
                    let ((key, key_cut), (value, value_cut)) =
                        (cut(&key, METADATA_BYTES), cut(&value, METADATA_BYTES));
                    notes.cut |= key_cut | value_cut;
                    notes.kept.insert(key.to_owned(), value.to_owned());
                }
                Ok(notes)
            }
        }
        deserializer.deserialize_map(Map)
    }
}

#[cfg(test)]
mod tests;

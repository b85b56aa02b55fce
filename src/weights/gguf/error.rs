//! Why a GGUF header cannot be believed, and what to do then.

use serde::Serialize;

use super::HEADER_LIMIT;

/// Why a header cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum GgufError {
    /// The first four bytes are not `GGUF`.
    #[error("the file does not begin with GGUF")]
    NotGguf,
    /// A version that nobody publishes any more, or a newer one.
    #[error("GGUF version {version} is not supported, versions 2 and 3 are")]
    Version {
        /// The version.
        version: u32,
    },
    /// A file for big-endian machines.
    #[error("the file is written for big-endian machines")]
    BigEndian,
    /// The header does not end within the file.
    #[error("the header needs {needed} bytes, the file has {size}")]
    HeaderBeyondFile {
        /// Bytes that are needed at least.
        needed: u64,
        /// Size of the file in bytes.
        size: u64,
    },
    /// Something reaches beyond [`HEADER_LIMIT`].
    #[error("at byte {at} the header claims {bytes} more bytes, the limit is {HEADER_LIMIT} altogether")]
    TooLong {
        /// Where in the file.
        at: u64,
        /// What it claims.
        bytes: u64,
    },
    /// A count beyond its bound.
    #[error("the header claims {count} {what}, the limit is {limit}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// What it claims.
        count: u64,
        /// The bound.
        limit: u64,
    },
    /// Arrays of arrays of arrays.
    #[error("at byte {at} arrays are nested more than {limit} deep")]
    TooDeep {
        /// Where in the file.
        at: u64,
        /// The bound.
        limit: u32,
    },
    /// A number that stands for no type.
    #[error("at byte {at} stands a value of the unknown type {kind}")]
    UnknownValue {
        /// The type's number.
        kind: u32,
        /// Where in the file.
        at: u64,
    },
    /// A name that is not UTF-8.
    #[error("the name at byte {at} is not UTF-8")]
    NotText {
        /// Where in the file.
        at: u64,
    },
    /// A key or a tensor that appears twice.
    #[error("the header lists \"{name}\" twice")]
    Duplicate {
        /// The name, bounded.
        name: String,
    },
    /// `general.alignment` is no power of two.
    #[error("general.alignment is {alignment}, which is no power of two up to 1 MiB")]
    Alignment {
        /// The alignment.
        alignment: String,
    },
    /// A shape that its type cannot store.
    #[error("tensor \"{name}\" of type {dtype} has the impossible shape {shape:?}")]
    Shape {
        /// The tensor, bounded.
        name: String,
        /// Its type.
        dtype: String,
        /// Its dimensions.
        shape: Vec<u64>,
    },
    /// A tensor off its alignment or within another one.
    #[error(
        "tensor \"{name}\" begins at byte {offset} of the data, within another tensor or off its alignment"
    )]
    Misplaced {
        /// The tensor, bounded.
        name: String,
        /// Where it begins.
        offset: u64,
    },
    /// A tensor that does not end within the file.
    #[error("tensor \"{name}\" ends at byte {end}, the file at byte {size}")]
    BeyondFile {
        /// The tensor, bounded.
        name: String,
        /// Where it ends in the file; `u64::MAX` when beyond.
        end: u64,
        /// Size of the file in bytes.
        size: u64,
    },
    /// The last tensor has a type that is not known here, so that its size is not known either.
    #[error("tensor \"{name}\" has the unknown type {kind}")]
    UnknownTensor {
        /// The tensor, bounded.
        name: String,
        /// The type's number.
        kind: u32,
    },
}

impl GgufError {
    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotGguf => {
                "this is no GGUF file (perhaps a git-lfs pointer or an error page); look at its first bytes"
            }
            Self::Version { .. } | Self::BigEndian => {
                "choose a file that a current llama.cpp wrote for little-endian machines"
            }
            Self::HeaderBeyondFile { .. } | Self::BeyondFile { .. } => {
                "the upload or the copy is incomplete; compare its size with the hub's, then fetch it again or choose \
                 another revision"
            }
            Self::UnknownTensor { .. } => "choose another quantization, or update larder",
            _ => "do not load this file; choose another revision or publisher, and tell the repo's owner",
        }
    }

    /// The file and its header disagree about where the file ends.
    pub fn is_about_the_end(&self) -> bool {
        matches!(self, Self::HeaderBeyondFile { .. } | Self::BeyondFile { .. })
    }
}

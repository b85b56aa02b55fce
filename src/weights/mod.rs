//! What weight files say about themselves, read from their first bytes: tensors, dtypes, sizes.
//!
//! A model's header is some kilobytes in front of gigabytes. Whoever knows it before the download knows what will be
//! in memory afterwards, whether the shards belong together, and whether the registry still describes the repo.
//! Nothing here does I/O. The caller hands in a prefix of the file and is told how much of the file is needed:
//!
//! ```
//! use larder::weights::{Read, safetensors};
//!
//! let header = br#"{"w":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}"#;
//! let mut file = (header.len() as u64).to_le_bytes().to_vec();
//! file.extend_from_slice(header);
//! let size = file.len() as u64 + 12;
//!
//! assert_eq!(safetensors::parse(&file[..8], Some(size))?, Read::More { bytes: size - 12 });
//! let Read::Done(header) = safetensors::parse(&file, Some(size))? else { panic!("all of the header is there") };
//! assert_eq!(header.tensors[0].elements, 6);
//! # Ok::<(), safetensors::HeaderError>(())
//! ```
//!
//! All of it comes from strangers: every count, length and nesting has a bound, every sum is checked, and a file that
//! contradicts itself is an error rather than a number.

use std::borrow::Cow;

use serde::Serialize;

pub mod gguf;
pub mod index;
pub mod safetensors;
pub mod structure;
pub mod summary;

pub use index::Index;
pub use structure::{Contents, FileFacts, Finding, Severity};
pub use summary::{Known, Summary};

/// Bytes of a weight file that a first request asks for. Headers of shards of 5 GB fit,
/// save for those with thousands of experts.
pub const FIRST_READ: u64 = 128 * 1024;

/// How far a reader came with the prefix that it was given.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Read<T> {
    /// The header is complete.
    Done(T),
    /// Try again with a longer prefix.
    More {
        /// Length of the next prefix, counted from the start of the file.
        bytes: u64,
    },
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tensor {
    /// Name within the model.
    pub name: String,
    /// Type of an element, spelled as in the file: `BF16`, `F8_E4M3`, `Q4_K`.
    pub dtype: Cow<'static, str>,
    /// Dimensions in the file's order (safetensors: outermost first; GGUF: innermost first).
    pub shape: Vec<u64>,
    /// Product of the shape. Packed formats hold several weights in one element, see [`Summary`].
    pub elements: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// First byte, counted from the start of the tensor data.
    pub offset: u64,
}

/// The longest piece of a stranger's text in a message, in characters.
const SHOWN: usize = 120;

/// A stranger's text, fit for a terminal and a log: escaped and cut.
fn shown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(SHOWN) {
        match c {
            '"' | '\'' | '\\' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(SHOWN).is_some() {
        out.push('…');
    }
    out
}

/// `text` without what lies behind its first `limit` bytes, and whether anything was cut.
fn cut(text: &str, limit: usize) -> (&str, bool) {
    let end = text.floor_char_boundary(limit);
    (&text[..end], end < text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_text_cannot_steer_the_terminal_or_fill_the_log() {
        assert_eq!(shown("\"a\"\u{1b}[2Jb\n"), "\"a\"\\u{1b}[2Jb\\n");
        assert_eq!(shown(&"x".repeat(500)).chars().count(), SHOWN + 1);
        assert_eq!(cut("aé", 2), ("a", true));
        assert_eq!(cut("aé", 3), ("aé", false));
    }
}

//! What a file holds, kept so that a test can serve a hundred gigabytes without owning a hundred megabytes.
//!
//! A pattern is a pure function of seed and offset, so any range of it can be served, hashed or compared on the spot.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use bytes::Bytes;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Bytes read or generated at a time.
const CHUNK: usize = 256 * 1024;

/// The bytes of one file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// Held in memory.
    Bytes(Bytes),
    /// Generated: `len` bytes that depend on `seed` and the offset only.
    Pattern {
        /// Length in bytes.
        len: u64,
        /// Which pattern.
        seed: u64,
    },
    /// Some bytes, then a pattern of that length and seed from its offset 0: a true header before endless weights.
    WithHead(Bytes, u64, u64),
    /// Read from disk when asked for; must not change while it is served.
    Path(PathBuf),
}

impl Content {
    /// A generated file of `len` bytes.
    pub fn pattern(len: u64, seed: u64) -> Self {
        Self::Pattern { len, seed }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Pattern { len, .. } => *len,
            Self::WithHead(head, len, _) => head.len() as u64 + len,
            Self::Path(path) => std::fs::metadata(path).expect("content on disk exists").len(),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes from `offset`, at most `len`; less at the end.
    pub fn slice(&self, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let len = len.min(self.len().saturating_sub(offset));
        let mut out = vec![0; usize::try_from(len).expect("fits the address space")];
        self.reader()?.fill(offset, &mut out)?;
        Ok(out)
    }

    /// SHA-256 in hex, the name of an LFS object. Generated and on-disk contents are hashed once per process.
    pub fn sha256(&self) -> String {
        static KNOWN: OnceLock<Mutex<HashMap<Content, String>>> = OnceLock::new();
        if let Self::Bytes(bytes) = self {
            return hex::encode(Sha256::digest(bytes));
        }
        let known = KNOWN.get_or_init(Mutex::default);
        if let Some(hash) = known.lock().expect("no panic while hashing").get(self) {
            return hash.clone();
        }
        let mut hash = Sha256::new();
        self.each_chunk(|chunk| hash.update(chunk));
        let hash = hex::encode(hash.finalize());
        known.lock().expect("no panic while hashing").insert(self.clone(), hash.clone());
        hash
    }

    /// SHA-1 of the git blob in hex, the name of a file that is not in LFS.
    pub fn git_oid(&self) -> String {
        let mut hash = Sha1::new();
        hash.update(format!("blob {}\0", self.len()));
        self.each_chunk(|chunk| hash.update(chunk));
        hex::encode(hash.finalize())
    }

    fn each_chunk(&self, mut visit: impl FnMut(&[u8])) {
        let (total, mut offset) = (self.len(), 0);
        let mut reader = self.reader().expect("content can be opened");
        let mut buffer = vec![0; CHUNK];
        while offset < total {
            let n = usize::try_from(total - offset).unwrap_or(CHUNK).min(CHUNK);
            reader.fill(offset, &mut buffer[..n]).expect("content can be read");
            visit(&buffer[..n]);
            offset += n as u64;
        }
    }

    pub(crate) fn reader(&self) -> io::Result<Reader> {
        let file = match self {
            Self::Path(path) => Some(File::open(path)?),
            _ => None,
        };
        Ok(Reader { content: self.clone(), file })
    }
}

/// An opened [`Content`].
pub(crate) struct Reader {
    content: Content,
    file: Option<File>,
}

impl Reader {
    /// Fills `out` with the bytes from `offset`.
    pub(crate) fn fill(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match (&self.content, &self.file) {
            (Content::Bytes(bytes), _) => {
                let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                let from = bytes.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
                out.copy_from_slice(from);
                Ok(())
            }
            (Content::Pattern { seed, .. }, _) => {
                fill_pattern(*seed, offset, out);
                Ok(())
            }
            (Content::WithHead(head, _, seed), _) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(head.len());
                let n = out.len().min(head.len() - from);
                let (first, rest) = out.split_at_mut(n);
                first.copy_from_slice(&head[from..from + n]);
                if !rest.is_empty() {
                    fill_pattern(*seed, offset + n as u64 - head.len() as u64, rest);
                }
                Ok(())
            }
            (Content::Path(_), Some(file)) => file.read_exact_at(out, offset),
            (Content::Path(_), None) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Writes the bytes of pattern `seed` from `offset` into `out`.
pub fn fill_pattern(seed: u64, offset: u64, out: &mut [u8]) {
    let skip = (offset % 8) as usize;
    let mut index = offset / 8;
    let head = (8 - skip).min(out.len()) * usize::from(skip != 0);
    let (first, rest) = out.split_at_mut(head);
    if !first.is_empty() {
        first.copy_from_slice(&word(seed, index).to_le_bytes()[skip..skip + head]);
        index += 1;
    }
    let mut words = rest.chunks_exact_mut(8);
    for chunk in &mut words {
        chunk.copy_from_slice(&word(seed, index).to_le_bytes());
        index += 1;
    }
    let tail = words.into_remainder();
    tail.copy_from_slice(&word(seed, index).to_le_bytes()[..tail.len()]);
}

/// The `index`th eight bytes of pattern `seed`: splitmix64, good enough to look like weights and to differ everywhere.
fn word(seed: u64, index: u64) -> u64 {
    let start = seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(index);
    let mut z = start.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(bytes))
    }
}

impl<const N: usize> From<&[u8; N]> for Content {
    fn from(bytes: &[u8; N]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(bytes))
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Bytes(text.into())
    }
}

impl From<PathBuf> for Content {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_slice_of_a_pattern_equals_the_same_slice_of_the_whole() {
        let content = Content::pattern(10_000, 7);
        let whole = content.slice(0, 10_000).expect("reads");
        for (offset, len) in
            [(0, 1), (1, 3), (3, 5), (5, 8), (7, 1), (8, 8), (13, 1000), (9_999, 1), (9_990, 99)]
        {
            let end = (offset + len).min(10_000) as usize;
            assert_eq!(
                content.slice(offset, len).expect("reads"),
                whole[offset as usize..end],
                "{offset}+{len}"
            );
        }
        assert_ne!(whole, Content::pattern(10_000, 8).slice(0, 10_000).expect("reads"));
    }

    #[test]
    fn streamed_hashes_equal_those_of_the_bytes() {
        let content = Content::pattern(CHUNK as u64 * 2 + 11, 3);
        let bytes = Content::from(content.slice(0, u64::MAX).expect("reads"));
        assert_eq!(content.sha256(), bytes.sha256());
        assert_eq!(content.git_oid(), bytes.git_oid());
        let file = tempfile::NamedTempFile::new().expect("temp file");
        std::fs::write(file.path(), content.slice(0, u64::MAX).expect("reads")).expect("writes");
        assert_eq!(Content::Path(file.path().into()).sha256(), content.sha256());
    }

    #[test]
    fn git_object_ids_are_those_of_git() {
        assert_eq!(Content::from("").git_oid(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(Content::from("hello\n").git_oid(), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}

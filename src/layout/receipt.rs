//! The receipt beside a staged revision: what larder put there, and how to recognise it again.
//!
//! One JSON file per commit, `.larder/receipts/<commit>.json`, written atomically and fsynced. It is the truth
//! about pins and about which bytes were verified when; the ledger can be rebuilt from it. Fields are only
//! ever added, so a reader ignores what it does not know; `tests` holds the golden shape.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::RepoDir;
use super::atomic::stream_atomic;
use crate::error::{Error, Result};
use larder_jobs::{CommitId, Digest, FilePath, Reason, RepoId, Revision};

/// The version that is written; a larger one was written by a newer larder.
const VERSION: u32 = 1;
/// A receipt of 100,000 files with long names has about 40 MB; more is not a receipt.
const MAX_BYTES: u64 = 64 << 20;

/// What was staged, from where, when, and how to recognise it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    v: u32,
    /// The repo, as it was asked for.
    pub repo: RepoId,
    /// The revisions that were asked for and led to this commit.
    pub revisions: Vec<Revision>,
    /// The commit.
    pub commit: CommitId,
    /// The endpoint that the bytes came from, most of them if there were several, without credentials.
    pub source: String,
    /// Bytes of the last staging by the endpoint that they came from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bytes_by_source: BTreeMap<String, u64>,
    /// When the staging ended.
    pub staged_at: Timestamp,
    /// Kept whatever happens, until somebody unpins it.
    pub pinned: bool,
    /// Another client fetched it; larder has only read it and found the bytes right.
    #[serde(default, skip_serializing_if = "is_false")]
    pub adopted: bool,
    /// Which of the repo's files were wanted.
    pub selection: Selection,
    /// The files that were wanted and are there.
    pub files: Vec<ReceiptFile>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it by reference
fn is_false(value: &bool) -> bool {
    !*value
}

/// Which files of a repo were wanted, in the words of the request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selection {
    /// Patterns of files that were wanted; empty means all.
    #[serde(default)]
    pub include: Vec<String>,
    /// Patterns of files that were not.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// The format that was asked for.
    #[serde(default)]
    pub format: Option<String>,
    /// Whether pickled weights and code were accepted.
    #[serde(default)]
    pub allow_unsafe: bool,
}

/// One staged file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptFile {
    /// Path within the repo.
    pub path: FilePath,
    /// Size in bytes.
    pub size: u64,
    /// The digest that its bytes were verified against.
    pub digest: Digest,
    /// Modification time of the blob when it was verified, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Inode of the blob when it was verified.
    pub inode: u64,
}

/// Modification time in nanoseconds since 1970, as receipts hold it.
pub fn mtime_ns(found: &Metadata) -> i64 {
    found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec())
}

/// Why a receipt cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The disk said no.
    #[error("{0}")]
    Io(Error),
    /// It is not a receipt, or not the one of this place.
    #[error("the receipt {} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A newer larder wrote it.
    #[error("the receipt {} has version {found}, this larder knows {VERSION}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

impl From<Unreadable> for Error {
    fn from(unreadable: Unreadable) -> Self {
        let what = unreadable.to_string();
        match unreadable {
            Unreadable::Io(error) => error,
            Unreadable::Damaged { .. } => Error::new(
                Reason::IoError,
                what,
                "stage the model again; its files are then hashed and a new receipt is written",
            ),
            Unreadable::Newer { .. } => {
                Error::new(Reason::UnsupportedVersion, what, "upgrade larder on this host")
            }
        }
    }
}

impl Receipt {
    /// A receipt of `commit`, staged now at `staged_at`.
    pub fn new(repo: RepoId, commit: CommitId, source: impl Into<String>, staged_at: Timestamp) -> Self {
        Self {
            v: VERSION,
            repo,
            revisions: Vec::new(),
            commit,
            source: source.into(),
            bytes_by_source: BTreeMap::new(),
            staged_at,
            pinned: false,
            adopted: false,
            selection: Selection::default(),
            files: Vec::new(),
        }
    }
}

impl ReceiptFile {
    /// Whether the blob of this file, seen as `found`, is still the one that was verified: its size, modification
    /// time and inode are the receipt's. A copied or restored cache is not trusted but hashed.
    pub fn is(&self, found: &Metadata) -> bool {
        found.is_file()
            && found.len() == self.size
            && mtime_ns(found) == self.mtime_ns
            && found.ino() == self.inode
    }
}

impl RepoDir {
    /// Writes a receipt in the place of an older one, in one step, and makes it survive a power loss.
    ///
    /// # Errors
    /// `io_error` or `insufficient_disk`; the older receipt is then still there.
    pub fn write_receipt(&self, receipt: &Receipt) -> Result<()> {
        self.prepare()?;
        let path = self.receipt(&receipt.commit);
        stream_atomic(&self.scratch(), &path, |out| {
            serde_json::to_writer_pretty(&mut *out, receipt)?;
            out.write_all(b"\n")
        })
    }

    /// Reads the receipt of a commit; `None` if there is none.
    ///
    /// # Errors
    /// [`Unreadable`], which says whether it is damaged, newer, or cannot be read.
    pub fn read_receipt(&self, commit: &CommitId) -> Result<Option<Receipt>, Unreadable> {
        let Some(receipt) = read(&self.receipt(commit))? else { return Ok(None) };
        if receipt.repo == self.repo && receipt.commit == *commit {
            return Ok(Some(receipt));
        }
        let why = format!("it is the receipt of {}@{}", receipt.repo, receipt.commit);
        Err(Unreadable::Damaged { path: self.receipt(commit), why })
    }
}

pub(super) fn read(path: &Path) -> Result<Option<Receipt>, Unreadable> {
    let damaged = |why: String| Unreadable::Damaged { path: path.to_owned(), why };
    let failed = |error: &io::Error| Unreadable::Io(Error::io("read the receipt", path, error));
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return Err(damaged("it is not a file".into())),
        Ok(found) if found.len() > MAX_BYTES => return Err(damaged("it is larger than 64 MiB".into())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    }
    // Read twice as a stream rather than once into memory: a receipt of many files is large.
    let open = || File::open(path).map(BufReader::new).map_err(|error| failed(&error));
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let version: Version = serde_json::from_reader(open()?).map_err(|error| damaged(error.to_string()))?;
    if version.v > VERSION {
        return Err(Unreadable::Newer { path: path.to_owned(), found: version.v });
    }
    serde_json::from_reader(open()?).map(Some).map_err(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Cache;

    fn receipt() -> Receipt {
        let staged_at = "2026-01-02T03:04:05Z".parse().expect("time");
        let commit: CommitId = "c".repeat(40).parse().expect("commit");
        let mut receipt = Receipt::new("a/b".parse().expect("name"), commit, "https://hub.test", staged_at);
        receipt.revisions = vec![Revision::main()];
        receipt.pinned = true;
        receipt.selection.include = vec!["*.safetensors".into()];
        receipt.selection.format = Some("safetensors".into());
        receipt.files = vec![ReceiptFile {
            path: "x/model.safetensors".parse().expect("path"),
            size: 3,
            digest: Digest::sha256(&"d".repeat(64)).expect("hex"),
            mtime_ns: 1_700_000_000_123_456_789,
            inode: 42,
        }];
        receipt
    }

    #[test]
    fn golden() {
        let golden = serde_json::json!({
            "v": 1, "repo": "a/b", "revisions": ["main"], "commit": "c".repeat(40),
            "source": "https://hub.test", "staged_at": "2026-01-02T03:04:05Z", "pinned": true,
            "selection": {"include": ["*.safetensors"], "exclude": [], "format": "safetensors", "allow_unsafe": false},
            "files": [{
                "path": "x/model.safetensors", "size": 3, "digest": format!("sha256:{}", "d".repeat(64)),
                "mtime_ns": 1_700_000_000_123_456_789_i64, "inode": 42,
            }],
        });
        assert_eq!(serde_json::to_value(receipt()).expect("writes"), golden);
        assert_eq!(serde_json::from_value::<Receipt>(golden).expect("reads"), receipt());
    }

    #[test]
    fn written_and_read_back_and_damage_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let repo = Cache::new(dir.path()).repo(&"a/b".parse().expect("name"));
        let receipt = receipt();
        assert_eq!(repo.read_receipt(&receipt.commit), Ok(None));
        repo.write_receipt(&receipt).expect("written");
        assert_eq!(repo.read_receipt(&receipt.commit), Ok(Some(receipt.clone())));

        let path = repo.receipt(&receipt.commit);
        let text = fs::read_to_string(&path).expect("there");
        fs::write(&path, &text[..text.len() / 2]).expect("cut");
        assert!(matches!(repo.read_receipt(&receipt.commit), Err(Unreadable::Damaged { .. })));
        fs::write(&path, text.replace("\"v\": 1", "\"v\": 9")).expect("newer");
        assert!(matches!(repo.read_receipt(&receipt.commit), Err(Unreadable::Newer { found: 9, .. })));
        fs::write(&path, text.replace("\"a/b\"", "\"a/c\"")).expect("foreign");
        assert!(matches!(repo.read_receipt(&receipt.commit), Err(Unreadable::Damaged { .. })));
    }

    #[test]
    fn a_touched_or_copied_blob_is_not_trusted() {
        let dir = tempfile::tempdir().expect("temp dir");
        let blob = dir.path().join("blob");
        fs::write(&blob, "abc").expect("written");
        let found = fs::metadata(&blob).expect("there");
        let mut receipt = receipt();
        assert!(!receipt.files[0].is(&found));
        receipt.files[0].mtime_ns = mtime_ns(&found);
        receipt.files[0].inode = found.ino();
        assert!(receipt.files[0].is(&found));

        let copy = dir.path().join("copy");
        fs::copy(&blob, &copy).expect("copied");
        assert!(!receipt.files[0].is(&fs::metadata(&copy).expect("there")));
        fs::write(&blob, "abcd").expect("changed");
        assert!(!receipt.files[0].is(&fs::metadata(&blob).expect("there")));
    }
}

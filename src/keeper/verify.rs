//! Are the bytes still those that the hub promised? A blob is named after its hash, so that staged and adopted models
//! alike can be read and compared without asking anybody.
//!
//! Reading is quiet and slow, so that serving does not notice it. What is wrong is moved aside, and the revisions that
//! need it are withdrawn: half a model is none. What is right and has no receipt gets one, so that it is hashed once.

use std::fs;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use larder_jobs::{Bandwidth, CommitId, Digest, Download, Format, ModelRef, RepoId};
use std::os::unix::fs::MetadataExt as _;

use super::Keeper;
use crate::disk::Quiet;
use crate::error::{Error, Result};
use crate::layout::{self, Hasher, Receipt, ReceiptFile, RepoDir, RevisionEntry, SnapshotFile, mtime_ns};
use crate::metrics;

/// Read at a time; the speed is kept from one such piece to the next.
const PIECE: usize = 1 << 20;

/// What came of reading a revision.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// Files that were read.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Files whose names promise no hash, or that cannot be read.
    pub unknown: u64,
    /// Files that were wrong.
    pub wrong: Vec<Wrong>,
    /// What should be staged again.
    pub again: Vec<Download>,
}

/// A file with wrong bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Its path within the repo.
    pub path: String,
    /// Where the bytes lie now.
    pub aside: PathBuf,
}

impl Keeper {
    /// Reads one revision and compares it with its hashes, at most as fast as `speed` (or the host's own limit), until
    /// `stop` says so. `read` is told of every piece. Blocks; the caller holds the repo.
    ///
    /// # Errors
    /// `not_found` if it is gone, `interrupted` if it was stopped, `io_error` if the disk fails.
    pub fn verify(
        &self,
        repo: &RepoId,
        commit: &CommitId,
        speed: Option<Bandwidth>,
        read: &dyn Fn(u64),
        stop: &dyn Fn() -> bool,
    ) -> Result<Checked> {
        let found = layout::scan_repo(&self.inner.cache, repo);
        let revisions = found.repos.into_iter().flat_map(|found| found.revisions);
        let Some(revision) = revisions.into_iter().find(|one| one.commit == *commit) else {
            return Err(self.absent(&ModelRef::new(repo.clone(), commit.as_str().parse().ok())));
        };
        let dir = self.inner.cache.repo(repo);
        let mut reader = Reader::new(speed.unwrap_or(self.inner.habits.verify_bandwidth), read, stop);
        let (mut checked, mut right) = (Checked::default(), Vec::new());
        let mut seen = std::collections::BTreeSet::new();
        for file in &revision.files {
            let Some((name, promise)) = promise(file) else {
                checked.unknown += 1;
                continue;
            };
            let first = seen.insert(name.to_owned());
            let path = dir.path().join("blobs").join(name);
            let size = file.bytes.unwrap_or(0);
            let is_right = !first || reader.digest(&path, &promise, size)? == promise;
            if first {
                checked.files += 1;
                checked.bytes += size;
                metrics::verified(size);
            }
            if is_right {
                right.extend(receipt_file(file, promise, &path));
            } else {
                self.set_aside(&dir, &revision, file, name, &mut checked)?;
            }
        }
        let now = Timestamp::now();
        if checked.wrong.is_empty() {
            if revision.receipt.is_none() && checked.unknown == 0 && right.len() == revision.files.len() {
                dir.write_receipt(&adoption(repo, commit, &revision, right, now))?;
            }
            self.inner.ledger.verified(repo, commit, now)?;
        } else {
            self.inner.ledger.refresh(repo, now)?;
        }
        Ok(checked)
    }

    fn set_aside(
        &self,
        dir: &RepoDir,
        revision: &RevisionEntry,
        file: &SnapshotFile,
        name: &str,
        checked: &mut Checked,
    ) -> Result<()> {
        let (aside, withdrawn) = dir.set_aside(name)?;
        metrics::corrupt();
        tracing::error!(
            repo = %dir.repo(), file = file.path, aside = %aside.display(), revisions = withdrawn.len(),
            "the bytes are not those that the hub promised; the file is moved aside, and what needs it is withdrawn"
        );
        if checked.again.is_empty() {
            checked.again.extend(again(dir.repo(), revision));
        }
        checked.wrong.push(Wrong { path: file.path.clone(), aside });
        Ok(())
    }
}

/// The hash that a file's blob is named after.
fn promise(file: &SnapshotFile) -> Option<(&str, Digest)> {
    let name = file.blob.as_deref()?;
    file.bytes?;
    let digest = match name.len() {
        64 => Digest::sha256(name),
        40 => Digest::git_sha1(name),
        _ => None,
    };
    digest.map(|digest| (name, digest))
}

fn receipt_file(file: &SnapshotFile, digest: Digest, blob: &std::path::Path) -> Option<ReceiptFile> {
    let found = fs::metadata(blob).ok()?;
    Some(ReceiptFile {
        path: file.path.parse().ok()?,
        size: found.len(),
        digest,
        mtime_ns: mtime_ns(&found),
        inode: found.ino(),
    })
}

/// The receipt of what another client fetched.
fn adoption(
    repo: &RepoId,
    commit: &CommitId,
    revision: &RevisionEntry,
    files: Vec<ReceiptFile>,
    now: Timestamp,
) -> Receipt {
    let mut receipt = Receipt::new(repo.clone(), commit.clone(), "unknown", now);
    receipt.adopted = true;
    receipt.pinned = revision.pinned;
    receipt.files = files;
    receipt
}

/// The wants that led to a revision which larder staged, or which somebody pinned.
fn again(repo: &RepoId, revision: &RevisionEntry) -> Vec<Download> {
    let receipt = revision.receipt.as_ref().filter(|receipt| !receipt.adopted);
    if receipt.is_none() && !revision.pinned {
        return Vec::new();
    }
    let asked = receipt.map(|receipt| receipt.revisions.clone()).filter(|asked| !asked.is_empty());
    let asked = asked.unwrap_or_else(|| revision.commit.as_str().parse().into_iter().collect());
    let download = |asked| {
        let mut want = Download::new(ModelRef::new(repo.clone(), Some(asked)));
        want.pin = revision.pinned;
        if let Some(receipt) = receipt {
            let globs = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect();
            want.include = globs(&receipt.selection.include);
            want.exclude = globs(&receipt.selection.exclude);
            want.allow_unsafe = receipt.selection.allow_unsafe;
            want.format = format_of(receipt.selection.format.as_deref());
        }
        want
    };
    asked.into_iter().map(download).collect()
}

fn format_of(word: Option<&str>) -> Format {
    let known = [Format::Auto, Format::Safetensors, Format::Gguf, Format::Pickle];
    known.into_iter().find(|format| Some(format.word()) == word).unwrap_or_default()
}

/// Reads at a speed.
struct Reader<'a> {
    speed: Bandwidth,
    begun: Instant,
    bytes: u64,
    read: &'a dyn Fn(u64),
    stop: &'a dyn Fn() -> bool,
    quiet: Quiet,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(speed: Bandwidth, read: &'a dyn Fn(u64), stop: &'a dyn Fn() -> bool) -> Self {
        let buffer = vec![0; PIECE];
        Self { speed, begun: Instant::now(), bytes: 0, read, stop, quiet: Quiet::begin(), buffer }
    }

    fn digest(&mut self, path: &std::path::Path, promise: &Digest, size: u64) -> Result<Digest> {
        let failed = |error: &io::Error| Error::io("read", path, error);
        let mut file = self.quiet.open(path).map_err(|error| failed(&error))?;
        let mut hasher = Hasher::new(promise, size);
        loop {
            self.wait()?;
            match file.read(&mut self.buffer) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(read) => {
                    hasher.update(&self.buffer[..read]);
                    let read = u64::try_from(read).unwrap_or(u64::MAX);
                    self.bytes += read;
                    (self.read)(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&error)),
            }
        }
    }

    /// Until the speed allows the next piece, in steps short enough to be stopped.
    fn wait(&self) -> Result<()> {
        #[allow(clippy::cast_precision_loss)] // a pause need not be exact
        let due = Duration::from_secs_f64(self.bytes as f64 / self.speed.bytes() as f64);
        loop {
            if (self.stop)() {
                let hint = "it goes on when larder runs again";
                return Err(Error::new(larder_jobs::Reason::Interrupted, "the reading was stopped", hint));
            }
            let left = due.saturating_sub(self.begun.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(100)));
        }
    }
}

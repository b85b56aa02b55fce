//! The trash of a repo: what somebody evicted by name can be brought back for a while.
//!
//! Before such an eviction its blobs get a second name in `.larder/trash/<commit>/` (a hard link), and `kept.json` there
//! says what else there was. The eviction then goes its ordinary way, so that nothing about it is different, and frees the
//! bytes only when the trash is emptied.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::atomic::write_atomic;
use super::unused::frees;
use super::{Cache, Receipt, RepoDir, real_folder, scan_repo, sync_folder};
use crate::error::{Error, Result};
use larder_jobs::{CommitId, Digest, FilePath, Reason, RepoId, Revision};

const KEPT: &str = "kept.json";

/// A revision in the trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trashed {
    v: u32,
    /// The repo.
    pub repo: RepoId,
    /// The commit.
    pub commit: CommitId,
    /// Since when.
    pub at: Timestamp,
    refs: Vec<Revision>,
    files: Vec<(FilePath, Digest)>,
    pinned: bool,
    receipt: Option<Receipt>,
}

impl Trashed {
    /// Whether a branch, a tag or a commit means it.
    pub fn is(&self, revision: &Revision) -> bool {
        self.commit.as_str() == revision.as_str() || self.refs.contains(revision)
    }
}

impl RepoDir {
    /// Keeps a revision, which is still there, for [`Self::restore`]. `false` if it cannot be kept, since it is not made
    /// of links to blobs of its own or the filesystem has no hard links.
    ///
    /// # Errors
    /// `io_error`, or `insufficient_disk`; the revision is then as before.
    pub fn keep_in_trash(&self, commit: &CommitId, now: Timestamp) -> Result<bool> {
        let Some(kept) = self.keepable(commit, now) else { return Ok(false) };
        let folder = self.trash(commit);
        remove(&folder)?;
        for folder in [self.ours(), self.scratch(), self.ours().join("trash"), folder.clone()] {
            real_folder(&folder)?;
        }
        for (_, digest) in &kept.files {
            match fs::hard_link(self.blob(digest), folder.join(digest.hex())) {
                Ok(()) => {}
                // Two files with the same bytes.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    tracing::warn!(path = %folder.display(), %error, "the trash cannot keep it");
                    remove(&folder)?;
                    return Ok(false);
                }
            }
        }
        let text = serde_json::to_vec(&kept).map_err(|error| Error::internal(error.to_string()))?;
        write_atomic(&self.scratch(), &folder.join(KEPT), &text).map(|()| true)
    }

    /// What would have to be known to bring a revision back, if it can be.
    fn keepable(&self, commit: &CommitId, at: Timestamp) -> Option<Trashed> {
        let cache = Cache::new(self.dir.parent()?);
        let found = scan_repo(&cache, &self.repo).repos.into_iter().next()?;
        let revision = found.revisions.iter().find(|one| one.commit == *commit && one.complete)?;
        let file = |file: &super::SnapshotFile| {
            let name = file.blob.as_deref()?;
            let is_own = found.blobs.get(name).is_some_and(|blob| !blob.shared);
            let digest = Digest::sha256(name).or_else(|| Digest::git_sha1(name));
            Some((file.path.parse().ok()?, digest.filter(|_| is_own)?))
        };
        Some(Trashed {
            v: 1,
            repo: self.repo.clone(),
            commit: commit.clone(),
            at,
            refs: revision.refs.iter().filter_map(|name| name.parse().ok()).collect(),
            files: revision.files.iter().map(file).collect::<Option<_>>()?,
            pinned: revision.pinned,
            receipt: revision.receipt.clone(),
        })
    }

    /// Brings a revision back from the trash, with its refs where nothing else has taken them.
    ///
    /// # Errors
    /// `not_found` if it is not in the trash, `io_error`; the same call ends what was begun.
    pub fn restore(&self, commit: &CommitId) -> Result<()> {
        let folder = self.trash(commit);
        let kept = read(&folder)?.ok_or_else(|| {
            Error::new(
                Reason::NotFound,
                format!("{}@{commit} is not in the trash", self.repo),
                "stage it again: larder stage",
            )
        })?;
        self.prepare()?;
        for (_, digest) in &kept.files {
            match fs::hard_link(folder.join(digest.hex()), self.blob(digest)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("bring back", &self.blob(digest), &error)),
            }
        }
        self.sync_blobs()?;
        if let Some(receipt) = &kept.receipt {
            self.write_receipt(receipt)?;
        }
        self.publish_snapshot(commit, kept.files.iter().map(|(path, digest)| (path, digest)))?;
        for name in kept.refs.iter().filter(|name| fs::symlink_metadata(self.reference(name)).is_err()) {
            self.publish_ref(name, commit)?;
        }
        if kept.pinned {
            self.set_pin(commit, true)?;
        }
        remove(&folder)
    }

    /// The revisions in the trash, the one that is there longest first. One that was being put there when a process was
    /// killed is none, and goes.
    pub fn trashed(&self) -> Vec<Trashed> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.ours().join("trash")).into_iter().flatten().flatten() {
            match read(&entry.path()) {
                Ok(Some(kept)) => found.push(kept),
                Ok(None) => drop(remove(&entry.path())),
                Err(error) => tracing::warn!(%error, "something in the trash cannot be read"),
            }
        }
        found.sort_by_key(|kept| kept.at);
        found
    }

    /// Removes a revision from the trash for good; returns the bytes that became free.
    ///
    /// # Errors
    /// `io_error`.
    pub fn empty_trash(&self, commit: &CommitId) -> Result<u64> {
        let folder = self.trash(commit);
        let files = fs::read_dir(&folder).into_iter().flatten().flatten();
        let bytes = files
            .filter_map(|entry| entry.metadata().ok())
            .map(|found| frees(found.nlink(), found.blocks()))
            .sum();
        remove(&folder)?;
        let trash = self.ours().join("trash");
        // Gone if it is empty, and as it was if not.
        if fs::remove_dir(&trash).is_ok() {
            sync_folder(&self.ours())?;
            self.remove_if_empty()?;
        }
        Ok(bytes)
    }

    fn trash(&self, commit: &CommitId) -> PathBuf {
        self.ours().join("trash").join(commit.as_str())
    }
}

fn read(folder: &Path) -> Result<Option<Trashed>> {
    let path = folder.join(KEPT);
    match fs::read(&path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", &path, &error)),
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove the folder", folder, &error))
        }
        _ => Ok(()),
    }
}

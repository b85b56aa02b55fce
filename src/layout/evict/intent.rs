//! What an eviction is about to do, written down before, and what becomes of it when the process was killed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::atomic::write_atomic;
use super::super::scan::{repo_of, unlisted};
use super::super::{Cache, RepoDir, RepoEntry};
use super::{Freed, Own, is_empty, remove_file};
use crate::error::{Error, Result};
use larder_jobs::{CommitId, Reason, RepoId};

/// An intent names the blobs of one revision; a longer one is none.
const MAX_INTENT: u64 = 64 << 20;

/// What is about to happen.
#[derive(Debug, Serialize, Deserialize)]
struct Intent {
    v: u32,
    commit: CommitId,
    /// Branches and tags that named it.
    refs: Vec<String>,
    /// Blobs that only it needed.
    blobs: Vec<String>,
    begun_at: Timestamp,
}

impl Cache {
    /// The repos that have something in their trash.
    ///
    /// # Errors
    /// `io_error` if the cache cannot be listed.
    pub fn with_trash(&self) -> Result<Vec<RepoId>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unlisted(&self.root, &error)),
        };
        let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let repos = folders.filter(|entry| !is_empty(&entry.path().join(".larder/trash")));
        Ok(repos.filter_map(|entry| repo_of(entry.file_name().to_str()?)).collect())
    }
}

impl RepoDir {
    /// Ends the evictions that a killed process left in `found`: back if the snapshot is still there, on if it is not.
    /// Returns the bytes that became free.
    ///
    /// # Errors
    /// `io_error`; the same call ends what is left.
    pub fn recover(&self, found: &RepoEntry) -> Result<u64> {
        let mut bytes = 0;
        for commit in &found.unfinished {
            let intent = self.intent(commit)?;
            if fs::symlink_metadata(self.snapshot(commit)).is_ok() {
                for name in intent.iter().flat_map(|intent| &intent.refs) {
                    self.put_ref_back(name, commit)?;
                }
                remove_file(&self.intent_path(commit))?;
                continue;
            }
            let needed: BTreeSet<&str> = found
                .revisions
                .iter()
                .flat_map(|one| &one.files)
                .filter_map(|file| file.blob.as_deref())
                .collect();
            let mut freed = Freed::default();
            let blobs = intent.iter().flat_map(|intent| &intent.blobs);
            for name in blobs.filter(|name| is_name(name) && !needed.contains(name.as_str())) {
                let path = self.dir.join("blobs").join(name);
                // Somebody may have begun to fetch it again.
                if self.lock_of(name)?.is_some() {
                    self.drop_blob(&path, None, false, &mut freed)?;
                }
            }
            bytes += freed.bytes;
            self.finish(commit)?;
        }
        Ok(bytes)
    }

    /// Writes down what is about to happen. A disk that is too full for that must be able to become emptier: then a
    /// crash leaves blobs behind that are found as orphans later.
    pub(super) fn announce(&self, commit: &CommitId, own: &Own) -> Result<()> {
        self.prepare_own()?;
        let intent = Intent {
            v: 1,
            commit: commit.clone(),
            refs: own.refs.clone(),
            blobs: own.blobs.clone(),
            begun_at: Timestamp::now(),
        };
        let text = serde_json::to_vec(&intent).map_err(|error| Error::internal(error.to_string()))?;
        match write_atomic(&self.scratch(), &self.intent_path(commit), &text) {
            Err(error) if error.reason() == Reason::InsufficientDisk => {
                tracing::warn!(%error, "the disk is too full to write down what is evicted; going on");
                Ok(())
            }
            result => result,
        }
    }

    pub(super) fn intent_path(&self, commit: &CommitId) -> PathBuf {
        self.ours().join("evicting").join(format!("{commit}.json"))
    }

    /// A damaged intent, which a rename cannot leave, is as good as none: its blobs are found as orphans.
    fn intent(&self, commit: &CommitId) -> Result<Option<Intent>> {
        let path = self.intent_path(commit);
        let read = fs::symlink_metadata(&path).and_then(|found| match found.len() {
            ..=MAX_INTENT => fs::read(&path),
            _ => Err(io::ErrorKind::FileTooLarge.into()),
        });
        match read {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)
                .inspect_err(
                    |error| tracing::warn!(path = %path.display(), %error, "a damaged intent is dropped"),
                )
                .ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, &error)),
        }
    }

    fn put_ref_back(&self, name: &str, commit: &CommitId) -> Result<()> {
        let Ok(revision) = name.parse::<larder_jobs::Revision>() else { return Ok(()) };
        if fs::symlink_metadata(self.reference(&revision)).is_ok() {
            return Ok(());
        }
        self.publish_ref(&revision, commit)
    }
}

/// Whether an intent's word is the name of one entry of a folder.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

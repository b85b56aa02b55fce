//! Pins, on the disk beside the model, so that they outlive the store: in the receipt of what larder staged, and as a file
//! of its own (`.larder/pins/<commit>`) for what other clients fetched.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::atomic::write_atomic;
use super::{RepoDir, real_folder, sync_folder};
use crate::error::{Error, Result};
use larder_jobs::CommitId;

impl RepoDir {
    /// Pins a revision, or takes its pin away. Survives a power loss once it has returned.
    ///
    /// # Errors
    /// `io_error`, or `insufficient_disk` for a new pin.
    pub fn set_pin(&self, commit: &CommitId, pinned: bool) -> Result<()> {
        if let Some(mut receipt) = self.read_receipt(commit)? {
            if receipt.pinned != pinned {
                receipt.pinned = pinned;
                self.write_receipt(&receipt)?;
            }
            if pinned {
                return Ok(());
            }
        }
        let path = self.pin_path(commit);
        let pins = self.ours().join("pins");
        if pinned {
            [self.ours(), self.scratch(), pins].iter().try_for_each(|folder| real_folder(folder))?;
            return write_atomic(&self.scratch(), &path, b"");
        }
        match fs::remove_file(&path) {
            Ok(()) => sync_folder(&pins),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("remove the pin", &path, &error)),
        }
    }

    fn pin_path(&self, commit: &CommitId) -> PathBuf {
        self.ours().join("pins").join(commit.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Cache, Receipt, scan_repo};

    #[test]
    fn a_pin_is_kept_with_and_without_a_receipt_and_taken_away_from_both() {
        let dir = tempfile::tempdir().expect("temp dir");
        let cache = Cache::new(dir.path());
        let repo = cache.repo(&"a/b".parse().expect("name"));
        let commit: CommitId = "c".repeat(40).parse().expect("commit");
        fs::create_dir_all(repo.snapshot(&commit)).expect("another client's");
        let pinned = || scan_repo(&cache, repo.repo()).repos[0].revisions[0].pinned;
        assert!(!pinned());
        repo.set_pin(&commit, true).expect("pinned");
        assert!(pinned(), "without a receipt");
        let receipt = Receipt::new(repo.repo().clone(), commit.clone(), "http://hub", jiff::Timestamp::now());
        repo.write_receipt(&receipt).expect("staged since");
        assert!(pinned(), "a receipt that knows of no pin takes none away");
        repo.set_pin(&commit, true).expect("again");
        repo.set_pin(&commit, false).expect("unpinned");
        assert!(!pinned(), "{receipt:?}");
    }
}

//! A blob whose bytes are wrong: it is moved aside, and no reader finds a revision that needs it any more.

use std::fs;
use std::path::PathBuf;

use super::{Cache, RepoDir, real_folder, scan_repo};
use crate::error::{Error, Result};
use larder_jobs::CommitId;

impl RepoDir {
    /// Withdraws every revision that needs `blob`, then moves the blob to `.larder/tmp`, from where it is swept like what
    /// a killed process left. Returns where it lies, and the revisions. Whoever has it open keeps what he has.
    ///
    /// # Errors
    /// `io_error`; a blob that still lies in its place is replaced when the model is staged again.
    pub fn set_aside(&self, blob: &str) -> Result<(PathBuf, Vec<CommitId>)> {
        let cache = Cache::new(self.dir.parent().unwrap_or(&self.dir));
        let found = scan_repo(&cache, &self.repo);
        [self.ours(), self.scratch()].iter().try_for_each(|folder| real_folder(folder))?;
        let mut withdrawn = Vec::new();
        for revision in found.repos.iter().flat_map(|repo| &repo.revisions) {
            if revision.files.iter().any(|file| file.blob.as_deref() == Some(blob)) {
                self.withdraw(&revision.commit, &revision.refs)?;
                withdrawn.push(revision.commit.clone());
            }
        }
        let (path, aside) =
            (self.dir.join("blobs").join(blob), self.scratch().join(format!("quarantine-{blob}")));
        fs::rename(&path, &aside).map_err(|error| Error::io("move aside", &path, &error))?;
        withdrawn.iter().try_for_each(|commit| self.finish(commit))?;
        Ok((aside, withdrawn))
    }
}

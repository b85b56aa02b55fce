//! The hub cache on the disk: its paths, its locks, what is published in it, and what lies in it.
//!
//! The layout is that of the hub's own clients, so that transformers, vLLM and the others read it unchanged
//! (source: `file_download.py` and `utils/_cache_manager.py` of Python huggingface_hub 2.4.0):
//!
//! ```text
//! <root>/models--<owner>--<name>/blobs/<etag>                  the bytes, once each
//!                               /snapshots/<commit>/<path>     relative links into blobs/
//!                               /refs/<revision>               the commit, no newline
//!                               /.larder/                      ours, see below
//! <root>/.locks/models--<owner>--<name>/<etag>.lock            flock(2), left in place
//! <root>/blobs/                                                a store that Python shares between repos
//! ```
//!
//! Ours is one folder inside the repo's folder, where `scan_cache_dir` does not look: `receipts/`, `pins/`, `partial/`,
//! `evicting/`, `trash/` and `tmp/`. A folder of ours in the root would make it warn, and so would a repo folder without
//! `snapshots/`, hence [`RepoDir::prepare`]. No async here, no network.

mod atomic;
mod damaged;
mod evict;
mod holders;
mod litter;
mod lock;
mod pin;
mod publish;
mod receipt;
mod scan;
mod shared;
mod trash;
mod unused;
mod verify;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use larder_jobs::{CommitId, Digest, FilePath, Reason, RepoId, Revision};

pub use evict::{Evicted, Freed, Obstacle};
pub use holders::{Mounts, sees_everything};
pub use litter::{Leftover, Litter, litter};
pub use lock::BlobLock;
pub use receipt::{Receipt, ReceiptFile, Selection, Unreadable, mtime_ns};
pub use scan::{
    BlobEntry, Foreign, Inventory, PartialEntry, RepoEntry, RevisionEntry, SnapshotFile, Stake, revision_of,
    scan, scan_repo,
};
pub use trash::Trashed;
pub use unused::{Hidden, Probe, Unused, probe};
pub use verify::{Hasher, digest_of};

/// A hub cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache below `root`; nothing is created yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder that holds everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The place of one repo.
    pub fn repo(&self, repo: &RepoId) -> RepoDir {
        let folder = format!("models--{}--{}", repo.owner(), repo.name());
        RepoDir {
            repo: repo.clone(),
            dir: self.root.join(&folder),
            locks: self.root.join(".locks").join(&folder),
        }
    }
}

/// The place of one repo in a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoDir {
    repo: RepoId,
    dir: PathBuf,
    locks: PathBuf,
}

impl RepoDir {
    /// The repo.
    pub fn repo(&self) -> &RepoId {
        &self.repo
    }

    /// `models--<owner>--<name>`.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Where the bytes with that digest lie.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.hex())
    }

    /// The folder that readers open.
    pub fn snapshot(&self, commit: &CommitId) -> PathBuf {
        self.dir.join("snapshots").join(commit.as_str())
    }

    /// One file as readers see it.
    pub fn snapshot_file(&self, commit: &CommitId, path: &FilePath) -> PathBuf {
        self.snapshot(commit).join(path.as_str())
    }

    /// The file that says which commit a branch or tag was at.
    pub fn reference(&self, revision: &Revision) -> PathBuf {
        self.dir.join("refs").join(revision.as_str())
    }

    /// The lock of one blob, shared with the hub's other clients.
    pub fn lock_file(&self, digest: &Digest) -> PathBuf {
        self.locks.join(format!("{}.lock", digest.hex()))
    }

    /// What larder knows about a commit.
    pub fn receipt(&self, commit: &CommitId) -> PathBuf {
        self.ours().join("receipts").join(format!("{commit}.json"))
    }

    /// The bytes of a blob that is being fetched.
    pub fn partial(&self, digest: &Digest) -> PathBuf {
        self.ours().join("partial").join(format!("{}.part", digest.hex()))
    }

    /// Which of the partial's bytes are there.
    pub fn partial_map(&self, digest: &Digest) -> PathBuf {
        self.ours().join("partial").join(format!("{}.map", digest.hex()))
    }

    /// larder's own folder.
    fn ours(&self) -> PathBuf {
        self.dir.join(".larder")
    }

    /// Things on their way to their place, on the same filesystem as it.
    fn scratch(&self) -> PathBuf {
        self.ours().join("tmp")
    }

    /// Creates the folders that a transfer needs.
    ///
    /// # Errors
    /// `io_error` if one cannot be created or is a link: larder does not write through links.
    pub fn prepare(&self) -> Result<()> {
        if let Some(root) = self.dir.parent() {
            fs::create_dir_all(root).map_err(|error| {
                Error::io("create the cache folder", root, &error).or("set cache.root to another folder")
            })?;
        }
        let ours = self.ours();
        let folders = [
            self.dir.clone(),
            self.dir.join("blobs"),
            self.dir.join("snapshots"),
            ours.clone(),
            ours.join("partial"),
            ours.join("receipts"),
            ours.join("tmp"),
        ];
        for folder in &folders {
            real_folder(folder)?;
        }
        fs::create_dir_all(&self.locks)
            .map_err(|error| Error::io("create the folder for locks", &self.locks, &error))
    }
}

/// Makes sure that `folder` is a folder and no link; its parent must exist.
fn real_folder(folder: &Path) -> Result<()> {
    if folder_or_other(folder)? {
        return Ok(());
    }
    Err(Error::new(
        Reason::IoError,
        format!("{} is not a folder but a link or a file", folder.display()),
        "larder does not write through links inside the cache; move it away, or link the whole cache instead",
    ))
}

/// Creates `folder` unless something is there; `false` if that is a link or a file.
fn folder_or_other(folder: &Path) -> Result<bool> {
    match fs::create_dir(folder) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::io("create the folder", folder, &error)),
    }
    let found = fs::symlink_metadata(folder).map_err(|error| Error::io("look at", folder, &error))?;
    Ok(found.is_dir())
}

/// Makes the entries of `folder` survive a power loss.
fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|handle| handle.sync_all())
        .map_err(|error| Error::io("flush the folder", folder, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_hub() {
        let repo = Cache::new("/c").repo(&"openai-community/gpt2".parse().expect("name"));
        let digest = Digest::git_sha1(&"a".repeat(40)).expect("hex");
        let commit: CommitId = "b".repeat(40).parse().expect("hex");
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let base = "/c/models--openai-community--gpt2";
        assert_eq!(repo.blob(&digest), Path::new(&format!("{base}/blobs/{a}")));
        assert_eq!(
            repo.snapshot_file(&commit, &"x/y.json".parse().expect("path")),
            Path::new(&format!("{base}/snapshots/{b}/x/y.json"))
        );
        assert_eq!(
            repo.reference(&"refs/pr/1".parse().expect("ref")),
            Path::new(&format!("{base}/refs/refs/pr/1"))
        );
        assert_eq!(
            repo.lock_file(&digest),
            Path::new(&format!("/c/.locks/models--openai-community--gpt2/{a}.lock"))
        );
        assert_eq!(repo.receipt(&commit), Path::new(&format!("{base}/.larder/receipts/{b}.json")));
    }

    #[test]
    fn a_linked_repo_folder_is_not_written_through() {
        let dir = tempfile::tempdir().expect("temp dir");
        let elsewhere = dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).expect("folder");
        let cache = Cache::new(dir.path().join("hub"));
        let repo = cache.repo(&"a/b".parse().expect("name"));
        fs::create_dir(cache.root()).expect("folder");
        std::os::unix::fs::symlink(&elsewhere, repo.path()).expect("link");
        assert_eq!(repo.prepare().expect_err("refused").reason(), Reason::IoError);
        assert_eq!(fs::read_dir(&elsewhere).expect("readable").count(), 0);
    }
}

//! The one place that deletes models: a revision goes whole, and may be killed at any point of it.
//!
//! In this order: what is about to happen is written down; refs and snapshot go, so that no reader finds half a model;
//! then the blobs that no other snapshot needs, each under a lease that proves that nobody has it open; then what is
//! left of the repo if nothing is left in it. A process that was killed meanwhile left its intent in
//! `.larder/evicting/<commit>.json`, and [`RepoDir::recover`] goes back if the snapshot is still there, and on if not.

mod intent;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::atomic::unique;
use super::shared;
use super::unused::{Hidden, Probe, Unused, probe};
use super::{Cache, Mounts, RepoDir, holders, real_folder, scan_repo, sync_folder};
use crate::error::{Error, Result};
use larder_jobs::{CommitId, Reason};

/// Files of one revision that are held at once, from the question who uses them to their removal; of further ones the
/// question is asked twice.
const MAX_HELD: usize = 512;

/// How the eviction of a revision went.
#[derive(Debug)]
pub enum Evicted {
    /// It is gone.
    Gone(Freed),
    /// It is there as before.
    Kept(Obstacle),
}

/// What became free.
#[derive(Debug, Default)]
pub struct Freed {
    /// Bytes, as the filesystem counted them.
    pub bytes: u64,
    /// Blobs that stay behind without a snapshot, since somebody took or replaced them in the last moment.
    pub behind: Vec<PathBuf>,
}

/// What protects a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// A process has this file open or mapped, or a folder of it is mounted.
    InUse(PathBuf),
    /// Another client fetches this file right now.
    Fetching(PathBuf),
    /// Whether this file is in use cannot be told.
    Unknown(PathBuf, Hidden),
}

/// What a revision has for itself.
struct Own {
    refs: Vec<String>,
    blobs: Vec<String>,
    /// Where the bytes are.
    files: Vec<OwnFile>,
}

/// A blob, or a plain file of the snapshot.
struct OwnFile {
    path: PathBuf,
    /// It is a link into the store that repos share.
    shared: bool,
}

impl RepoDir {
    /// What protects a revision right now, if anything does. Changes nothing.
    ///
    /// # Errors
    /// `not_found` if it is not there, `io_error`.
    pub fn obstacle(&self, commit: &CommitId, mounts: &Mounts) -> Result<Option<Obstacle>> {
        let own = self.own(commit)?;
        Ok(match self.hold(&own, mounts)? {
            Held::Free { .. } => None,
            Held::Not(obstacle) => Some(obstacle),
        })
    }

    /// Removes a revision, unless something protects it. With `is_named`, because somebody asked for just this one, it
    /// goes also if it cannot be told whether it is in use. The caller sees to pins, leases and jobs.
    ///
    /// # Errors
    /// `not_found` if it is not there; `io_error`, after which [`Self::recover`] ends what was begun.
    pub fn evict(&self, commit: &CommitId, is_named: bool, mounts: &Mounts) -> Result<Evicted> {
        let own = self.own(commit)?;
        let (leases, _locks) = match self.hold(&own, mounts)? {
            Held::Free { leases, locks } => (leases, locks),
            Held::Not(Obstacle::Unknown(..)) if is_named => (Vec::new(), Vec::new()),
            Held::Not(obstacle) => return Ok(Evicted::Kept(obstacle)),
        };
        let plain = own.files.iter().filter(|file| file.path.starts_with(self.snapshot(commit)));
        let mut freed = Freed { bytes: plain.map(|file| bytes_of(&file.path)).sum(), behind: Vec::new() };
        self.announce(commit, &own)?;
        self.withdraw(commit, &own.refs)?;
        for name in &own.blobs {
            let path = self.dir.join("blobs").join(name);
            let lease = leases.iter().position(|lease| lease.path() == path);
            // The rest of the leases is held until the end of the loop.
            self.drop_blob(&path, lease.map(|n| &leases[n]), is_named, &mut freed)?;
        }
        drop(leases);
        self.finish(commit)?;
        Ok(Evicted::Gone(freed))
    }

    /// What the revision has for itself, as the disk says now.
    fn own(&self, commit: &CommitId) -> Result<Own> {
        let cache = Cache::new(self.dir.parent().unwrap_or(&self.dir));
        let found = scan_repo(&cache, &self.repo);
        let repo = found.repos.first();
        let position = repo.and_then(|repo| repo.revisions.iter().position(|one| one.commit == *commit));
        let (Some(repo), Some(position)) = (repo, position) else {
            return Err(Error::new(
                Reason::NotFound,
                format!("{}@{commit} is not in the cache", self.repo),
                "see what is: larder ls",
            ));
        };
        let revision = &repo.revisions[position];
        let others: BTreeSet<&str> = repo
            .revisions
            .iter()
            .filter(|one| one.commit != *commit)
            .flat_map(|one| &one.files)
            .filter_map(|file| file.blob.as_deref())
            .collect();
        let mut blobs = BTreeSet::new();
        let mut files = Vec::new();
        for file in &revision.files {
            match file.blob.as_deref() {
                Some(name) if others.contains(name) || !repo.blobs.contains_key(name) => {}
                Some(name) if blobs.insert(name.to_owned()) => {
                    let shared = repo.blobs.get(name).is_some_and(|blob| blob.shared);
                    files.push(OwnFile { path: self.dir.join("blobs").join(name), shared });
                }
                // Two files with the same bytes.
                Some(_) => {}
                None if file.bytes.is_some() => {
                    files.push(OwnFile { path: self.snapshot(commit).join(&file.path), shared: false });
                }
                None => {}
            }
        }
        Ok(Own { refs: revision.refs.clone(), blobs: blobs.into_iter().collect(), files })
    }

    /// Asks who uses any of it, and holds it where the answer is nobody.
    fn hold(&self, own: &Own, mounts: &Mounts) -> Result<Held> {
        let mut locks = Vec::new();
        // Where nobody ever took a lock there is none to look for.
        let locked = if self.locks.is_dir() { own.blobs.as_slice() } else { &[] };
        for name in locked {
            match self.lock_of(name)? {
                Some(lock) => locks.extend(lock),
                None => return Ok(Held::Not(Obstacle::Fetching(self.dir.join("blobs").join(name)))),
            }
        }
        if mounts.hold(&self.dir) {
            return Ok(Held::Not(Obstacle::InUse(self.dir.clone())));
        }
        let (mut leases, mut hidden) = (Vec::new(), Vec::new());
        for OwnFile { path, shared } in &own.files {
            let payload = if *shared { shared::payload(path) } else { None };
            match probe(payload.as_deref().unwrap_or(path))? {
                // A payload that repos share is removed by its own rule.
                Probe::Unused(lease) if payload.is_none() && leases.len() < MAX_HELD => leases.push(lease),
                Probe::Unused(_) | Probe::Gone => {}
                Probe::Busy => return Ok(Held::Not(Obstacle::InUse(path.clone()))),
                Probe::Unknown(why) => hidden.push((path.clone(), why)),
            }
        }
        let Some((path, why)) = hidden.first().cloned() else { return Ok(Held::Free { leases, locks }) };
        let paths: Vec<&Path> = hidden.iter().map(|(path, _)| path.as_path()).collect();
        Ok(match holders::look(&paths) {
            holders::Seen::Held(path) => Held::Not(Obstacle::InUse(path)),
            holders::Seen::NotHeld => Held::Free { leases, locks },
            holders::Seen::NotAll => Held::Not(Obstacle::Unknown(path, why)),
        })
    }

    /// The hub's lock of a blob: `None` if another client has it, `Some(None)` if there is no lock file, so that nobody
    /// can have it. None is created: the blob is about to go.
    #[allow(clippy::option_option)]
    pub(super) fn lock_of(&self, blob: &str) -> Result<Option<Option<File>>> {
        let path = self.locks.join(format!("{blob}.lock"));
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(None)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(Error::io("open the lock file", &path, &error)),
        };
        Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(Some(file)))
    }

    /// The folders of ours that an eviction needs; the repo may be another client's.
    fn prepare_own(&self) -> Result<()> {
        let ours = self.ours();
        [ours.clone(), ours.join("tmp"), ours.join("evicting")].iter().try_for_each(
            |folder| match real_folder(folder) {
                Err(error) if error.reason() == Reason::InsufficientDisk => Ok(()),
                result => result,
            },
        )
    }

    /// Takes the revision out of every reader's sight: refs first, so that none leads nowhere, then the snapshot, in one
    /// step.
    pub(super) fn withdraw(&self, commit: &CommitId, refs: &[String]) -> Result<()> {
        for name in refs {
            remove_file(&self.dir.join("refs").join(name))?;
        }
        let snapshot = self.snapshot(commit);
        let aside = unique(&self.scratch(), &format!("evicted-{commit}"));
        let moved = fs::rename(&snapshot, &aside).or_else(|error| match error.kind() {
            // The folder could not be made on the full disk: then link by link.
            io::ErrorKind::NotFound => fs::remove_dir_all(&snapshot),
            _ => Err(error),
        });
        moved.map_err(|error| Error::io("withdraw the snapshot", &snapshot, &error))?;
        sync_folder(&self.dir.join("snapshots"))?;
        remove_file(&self.receipt(commit))
    }

    /// Removes one blob unless somebody has it, and counts what became free.
    fn drop_blob(&self, path: &Path, held: Option<&Unused>, is_named: bool, freed: &mut Freed) -> Result<()> {
        if shared::payload(path).is_some() {
            let root = self.dir.parent().unwrap_or(&self.dir);
            freed.bytes += shared::unlink(root, path)?;
            return Ok(());
        }
        let asked;
        let lease = match held {
            Some(lease) => lease,
            None => match probe(path)? {
                Probe::Unused(lease) => {
                    asked = lease;
                    &asked
                }
                Probe::Gone => return Ok(()),
                Probe::Unknown(_) if is_named || holders::look(&[path]) == holders::Seen::NotHeld => {
                    freed.bytes += bytes_of(path);
                    return remove_file(path);
                }
                Probe::Busy | Probe::Unknown(_) => {
                    freed.behind.push(path.to_owned());
                    return Ok(());
                }
            },
        };
        let bytes = lease.frees();
        match lease.remove() {
            Ok(()) => freed.bytes += bytes,
            Err(error) => {
                tracing::warn!(%error, "a blob of an evicted revision stays behind");
                freed.behind.push(path.to_owned());
            }
        }
        Ok(())
    }

    /// Removes what else there is of a revision, its intent last, and the repo if nothing is left in it.
    pub(super) fn finish(&self, commit: &CommitId) -> Result<()> {
        remove_file(&self.receipt(commit))?;
        for entry in fs::read_dir(self.scratch()).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&format!("evicted-{commit}")) {
                remove_folder(&entry.path())?;
            }
        }
        remove_folder(&self.dir.join(".no_exist").join(commit.as_str()))?;
        remove_file(&self.dir.join("trees").join(format!("{commit}.json")))?;
        remove_file(&self.intent_path(commit))?;
        self.remove_if_empty()
    }

    /// Removes the folders of a repo that has no snapshot, no blob and no transfer any more; what is not ours or the
    /// hub's keeps it.
    ///
    /// # Errors
    /// `io_error`.
    pub fn remove_if_empty(&self) -> Result<()> {
        let ours = self.ours();
        let in_use = ["snapshots", "blobs"].map(|name| self.dir.join(name));
        let work = ["partial", "evicting", "tmp", "pins", "trash"].map(|name| ours.join(name));
        if in_use.iter().chain(&work).any(|folder| !is_empty(folder)) || self.has_foreign()? {
            return Ok(());
        }
        // The folder without `snapshots` would be damaged in the eyes of the hub's clients: it goes last.
        for name in [".no_exist", "trees", "refs", "blobs", ".larder", "snapshots"] {
            remove_folder(&self.dir.join(name))?;
        }
        for folder in [&self.dir, &self.locks] {
            match fs::remove_dir(folder) {
                Ok(()) => {}
                // Lock files stay: somebody may wait for one.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                }
                Err(error) => return Err(Error::io("remove the folder", folder, &error)),
            }
        }
        Ok(())
    }

    fn has_foreign(&self) -> Result<bool> {
        let known = [".no_exist", "trees", "refs", "blobs", ".larder", "snapshots"];
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("list", &self.dir, &error)),
        };
        Ok(entries.flatten().any(|entry| {
            !known.contains(&&*entry.file_name().to_string_lossy())
                || !entry.file_type().is_ok_and(|kind| kind.is_dir())
        }))
    }
}

/// Who has it, and what holds it if nobody does.
enum Held {
    Free { leases: Vec<Unused>, locks: Vec<File> },
    Not(Obstacle),
}

fn bytes_of(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |found| super::unused::frees(found.nlink(), found.blocks()))
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(())
        }
        Err(error) => Err(Error::io("remove", path, &error)),
    }
}

/// Removes a folder with all that is in it; a link in its place is removed, not followed.
fn remove_folder(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            fs::remove_dir_all(path).map_err(|error| Error::io("remove the folder", path, &error))
        }
        Ok(_) => remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("look at", path, &error)),
    }
}

#[cfg(test)]
mod tests;

//! What others and crashes left behind in a repo: transfers that nobody goes on with, blobs that no snapshot needs, and
//! notes about files of snapshots that are gone. Old ones go, with the same care as models.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::holders;
use super::shared;
use super::unused::{Probe, probe};
use super::{Cache, RepoDir, RepoEntry};
use crate::error::{Error, Result};

/// What can be left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    /// A transfer that was given up, larder's or another client's.
    Partial,
    /// A blob that no snapshot needs.
    Orphan,
}

impl Leftover {
    /// The word, as in metric labels.
    pub const fn word(self) -> &'static str {
        match self {
            Leftover::Partial => "partial",
            Leftover::Orphan => "orphan",
        }
    }
}

/// One leftover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Litter {
    /// What it is.
    pub kind: Leftover,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
}

/// What of a repo has been left behind for at least `age`. Pure.
pub fn litter(found: &RepoEntry, age: Duration, now: SystemTime) -> Vec<Litter> {
    let is_old = |modified: Option<SystemTime>| {
        modified.and_then(|time| now.duration_since(time).ok()).is_some_and(|passed| passed >= age)
    };
    let partials = found.partials.iter().filter(|partial| is_old(partial.modified)).map(|partial| Litter {
        kind: Leftover::Partial,
        path: partial.path.clone(),
        bytes: partial.bytes,
    });
    let orphans = found.orphans().filter(|(_, blob)| is_old(blob.modified)).map(|(name, blob)| Litter {
        kind: Leftover::Orphan,
        path: found.path.join("blobs").join(name),
        bytes: blob.frees,
    });
    partials.chain(orphans).collect()
}

impl RepoDir {
    /// Removes a leftover, unless somebody works with it; `None` if so. Returns the bytes that became free.
    ///
    /// # Errors
    /// `io_error`.
    pub fn remove_litter(&self, litter: &Litter) -> Result<Option<u64>> {
        let name = litter.path.file_name().unwrap_or_default().to_string_lossy();
        // `<etag>`, `<etag>.part` or `<etag>.<random>.incomplete`.
        let etag = name.split('.').next().unwrap_or(&name);
        let Some(_lock) = self.lock_of(etag)? else { return Ok(None) };
        if shared::payload(&litter.path).is_some() {
            return shared::unlink(self.dir.parent().unwrap_or(&self.dir), &litter.path).map(Some);
        }
        let bytes = match probe(&litter.path)? {
            Probe::Unused(lease) => {
                let bytes = lease.frees();
                lease.remove()?;
                bytes
            }
            Probe::Gone => 0,
            Probe::Unknown(_) if holders::look(&[&litter.path]) == holders::Seen::NotHeld => {
                remove(&litter.path)?;
                litter.bytes
            }
            Probe::Busy | Probe::Unknown(_) => return Ok(None),
        };
        if litter.path.extension().is_some_and(|ending| ending == "part") {
            remove(&litter.path.with_extension("map"))?;
        }
        Ok(Some(bytes))
    }

    /// Removes the notes of the hub's clients about files that snapshots lack, of snapshots that are gone since `age`.
    ///
    /// # Errors
    /// `io_error`.
    pub fn sweep_notes(&self, age: Duration) -> Result<()> {
        for entry in fs::read_dir(self.dir.join(".no_exist")).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_old = modified(&path).and_then(|time| time.elapsed().ok()).is_some_and(|time| time >= age);
            let snapshot = self.dir.join("snapshots").join(entry.file_name());
            if is_old && fs::symlink_metadata(snapshot).is_err() && path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(&path).map_err(|error| Error::io("remove the folder", &path, &error))?;
            }
        }
        Ok(())
    }
}

impl Cache {
    /// Removes lock files of repos that are gone, if nobody has touched or taken them since `age`.
    ///
    /// # Errors
    /// `io_error`.
    pub fn sweep_locks(&self, age: Duration) -> Result<()> {
        for folder in fs::read_dir(self.root.join(".locks")).into_iter().flatten().flatten() {
            let is_folder = folder.file_type().is_ok_and(|kind| kind.is_dir());
            if !is_folder || fs::symlink_metadata(self.root.join(folder.file_name())).is_ok() {
                continue;
            }
            for path in fs::read_dir(folder.path()).into_iter().flatten().flatten().map(|entry| entry.path())
            {
                let is_old =
                    modified(&path).and_then(|time| time.elapsed().ok()).is_some_and(|time| time >= age);
                if is_old && let Probe::Unused(lease) = probe(&path)? {
                    lease.remove()?;
                }
            }
            // Gone if it is empty, and as it was if not.
            let _ = fs::remove_dir(folder.path());
        }
        Ok(())
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(path).and_then(|found| found.modified()).ok()
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::layout::scan_repo;

    #[test]
    fn what_nobody_goes_on_with_goes_and_what_is_young_or_open_stays() {
        let dir = tempfile::tempdir().expect("temp dir");
        let cache = Cache::new(dir.path());
        let repo = cache.repo(&"a/b".parse().expect("name"));
        repo.prepare().expect("prepared");
        let (etag, other) = ("a".repeat(64), "b".repeat(64));
        let blobs = repo.path().join("blobs");
        let ours = repo.ours().join("partial").join(format!("{etag}.part"));
        let theirs = blobs.join(format!("{etag}.1234abcd.incomplete"));
        let orphan = blobs.join(&other);
        for path in [&ours, &ours.with_extension("map"), &theirs, &orphan] {
            fs::write(path, [7; 4_096]).expect("written");
        }
        let found = scan_repo(&cache, repo.repo());
        let week = Duration::from_secs(7 * 86_400);
        assert_eq!(litter(&found.repos[0], week, SystemTime::now()), []);
        let left = litter(&found.repos[0], week, SystemTime::now() + week);
        let kinds: Vec<Leftover> = left.iter().map(|litter| litter.kind).collect();
        assert_eq!(kinds, [Leftover::Partial, Leftover::Partial, Leftover::Orphan], "{left:?}");

        let open = File::open(&theirs).expect("opens");
        for one in &left {
            let freed = repo.remove_litter(one).expect("works");
            assert_eq!(freed, (one.path != theirs).then_some(4_096), "{one:?}");
        }
        assert!(
            theirs.exists() && !ours.exists() && !ours.with_extension("map").exists() && !orphan.exists()
        );
        drop(open);
    }

    #[test]
    fn notes_and_locks_go_with_what_they_are_about() {
        let dir = tempfile::tempdir().expect("temp dir");
        let cache = Cache::new(dir.path());
        let repo = cache.repo(&"a/b".parse().expect("name"));
        repo.prepare().expect("prepared");
        let (here, gone) = ("1".repeat(40), "2".repeat(40));
        fs::create_dir(repo.path().join("snapshots").join(&here)).expect("folder");
        let note = |commit: &str| repo.path().join(".no_exist").join(commit);
        for commit in [&here, &gone] {
            fs::create_dir_all(note(commit).join("sub")).expect("folder");
        }
        let lock = |repo: &str, name: &str| dir.path().join(".locks").join(repo).join(name);
        fs::create_dir_all(dir.path().join(".locks/models--c--d")).expect("folder");
        for (repo, name) in
            [("models--a--b", "x.lock"), ("models--c--d", "y.lock"), ("models--c--d", "z.lock")]
        {
            fs::write(lock(repo, name), "").expect("written");
        }
        let held = File::open(lock("models--c--d", "z.lock")).expect("opens");

        let day = Duration::from_secs(86_400);
        repo.sweep_notes(day).expect("swept");
        cache.sweep_locks(day).expect("swept");
        assert!(note(&gone).exists() && lock("models--c--d", "y.lock").exists(), "they are young");
        repo.sweep_notes(Duration::ZERO).expect("swept");
        cache.sweep_locks(Duration::ZERO).expect("swept");
        assert!(note(&here).exists() && !note(&gone).exists());
        assert!(lock("models--a--b", "x.lock").exists(), "its repo is there");
        assert!(!lock("models--c--d", "y.lock").exists());
        assert!(lock("models--c--d", "z.lock").exists(), "somebody has it open");
        drop(held);
        cache.sweep_locks(Duration::ZERO).expect("swept");
        assert!(!dir.path().join(".locks/models--c--d").exists());
    }
}

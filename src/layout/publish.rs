//! Makes bytes visible: blob, then all links of a snapshot, then the ref. Each step is atomic and flushed.
//!
//! A reader never sees a gap: links and refs are replaced by rename, and a snapshot that is not there yet
//! appears whole. Whatever is on its way lies in `.larder/tmp`, because readers take every name below
//! `snapshots/` for a file and every name below `refs/` for a ref.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::atomic::{unique, write_atomic};
use super::{RepoDir, folder_or_other, real_folder, sync_folder};
use crate::error::{Error, Result};
use larder_jobs::{CommitId, Digest, FilePath, Reason, Revision};

/// What to do with a blob that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Replace,
}

impl RepoDir {
    /// Moves the verified partial of `digest` into `blobs/` and returns what lies there then.
    ///
    /// A blob that somebody else put there meanwhile is kept, and the partial removed. The bytes survive a loss of
    /// power from here on, the name only after [`Self::sync_blobs`].
    ///
    /// # Errors
    /// `io_error` or `insufficient_disk`; the partial is then still there.
    pub fn publish_blob(&self, digest: &Digest) -> Result<Metadata> {
        self.move_blob(digest, Existing::Keep)
    }

    /// As [`Self::publish_blob`], for a blob whose bytes were found to be wrong: it is replaced. Readers that
    /// have it open keep what they have.
    ///
    /// # Errors
    /// As [`Self::publish_blob`].
    pub fn replace_blob(&self, digest: &Digest) -> Result<Metadata> {
        self.move_blob(digest, Existing::Replace)
    }

    fn move_blob(&self, digest: &Digest, existing: Existing) -> Result<Metadata> {
        let (partial, blob) = (self.partial(digest), self.blob(digest));
        File::open(&partial)
            .and_then(|file| file.sync_all())
            .map_err(|error| Error::io("flush", &partial, &error))?;
        let moved = match existing {
            Existing::Replace => fs::rename(&partial, &blob),
            Existing::Keep => rename_new(&partial, &blob),
        };
        match moved {
            Ok(()) => {}
            Err(error) if existing == Existing::Keep && error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&partial).map_err(|error| Error::io("remove", &partial, &error))?;
            }
            Err(error) => return Err(Error::io("move the bytes to", &blob, &error)),
        }
        fs::metadata(&blob).map_err(|error| Error::io("look at", &blob, &error))
    }

    /// Makes the names of all blobs that were published so far survive a loss of power.
    ///
    /// # Errors
    /// `io_error`.
    pub fn sync_blobs(&self) -> Result<()> {
        sync_folder(&self.dir.join("blobs"))
    }

    /// Makes the entries for partials survive a loss of power.
    ///
    /// # Errors
    /// `io_error`.
    pub fn sync_partials(&self) -> Result<()> {
        sync_folder(&self.ours().join("partial"))
    }

    /// Moves a partial whose bytes are not the promised ones out of the way, where nobody reads, resumes or
    /// publishes it; one for each digest, until [`Self::sweep_scratch`] finds it old. Returns where it lies.
    ///
    /// # Errors
    /// `io_error`.
    pub fn quarantine(&self, digest: &Digest) -> Result<PathBuf> {
        let partial = self.partial(digest);
        let aside = self.scratch().join(format!("quarantine-{}", digest.hex()));
        fs::rename(&partial, &aside).map_err(|error| Error::io("move aside", &partial, &error))?;
        Ok(aside)
    }

    /// Makes a folder for somebody who brings bytes on their own terms; it is removed with [`Self::drop_workshop`],
    /// or swept with what else a killed process left.
    ///
    /// # Errors
    /// `io_error`.
    pub fn workshop(&self) -> Result<PathBuf> {
        let folder = unique(&self.scratch(), "workshop");
        real_folder(&folder).map(|()| folder)
    }

    /// Removes a folder that [`Self::workshop`] made, with all that is in it.
    pub fn drop_workshop(folder: &Path) {
        if let Err(error) = fs::remove_dir_all(folder) {
            tracing::warn!(path = %folder.display(), %error, "a temporary folder stays behind until the first start after an hour");
        }
    }

    /// Makes the files of a commit visible, all of them after every blob is there.
    ///
    /// A snapshot that is not there yet appears in one step. Where another client made it, missing links are
    /// added and wrong ones replaced one by one; a link that leads to the right blob is left as it is.
    ///
    /// # Errors
    /// `structure_invalid` if a blob is missing, or a folder inside the snapshot is a link; `io_error`.
    pub fn publish_snapshot<'a>(
        &self,
        commit: &CommitId,
        files: impl Iterator<Item = (&'a FilePath, &'a Digest)> + Clone,
    ) -> Result<()> {
        self.prepare()?;
        for (path, digest) in files.clone() {
            if !fs::metadata(self.blob(digest)).is_ok_and(|found| found.is_file()) {
                return Err(Error::new(
                    Reason::StructureInvalid,
                    format!("the blob of {path} of {} is not in the cache", self.repo),
                    "stage the model again",
                ));
            }
        }
        let snapshot = self.snapshot(commit);
        if fs::symlink_metadata(&snapshot).is_err() && self.publish_whole(&snapshot, files.clone())? {
            return Ok(());
        }
        self.publish_links(&snapshot, files)
    }

    /// Builds the snapshot aside and renames it; `false` if somebody else was faster.
    fn publish_whole<'a>(
        &self,
        snapshot: &Path,
        files: impl Iterator<Item = (&'a FilePath, &'a Digest)>,
    ) -> Result<bool> {
        let aside = unique(&self.scratch(), "snapshot");
        let built = real_folder(&aside).and_then(|()| {
            for (path, digest) in files {
                let link = aside.join(path.as_str());
                create_parents(&aside, path.as_str())?;
                symlink(link_target(path, digest), &link)
                    .map_err(|error| Error::io("create the link", &link, &error))?;
            }
            Ok(())
        });
        let moved = built.and_then(|()| match rename_new(&aside, snapshot) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(Error::io("create the snapshot", snapshot, &error)),
        });
        if !matches!(moved, Ok(true)) {
            // Links of our own making, none of which was ever visible.
            let _ = fs::remove_dir_all(&aside);
            return moved;
        }
        sync_folder(&self.dir.join("snapshots"))?;
        Ok(true)
    }

    /// Adds links to a snapshot that is there.
    fn publish_links<'a>(
        &self,
        snapshot: &Path,
        files: impl Iterator<Item = (&'a FilePath, &'a Digest)>,
    ) -> Result<()> {
        real_folder(snapshot)?;
        let mut touched = std::collections::BTreeSet::new();
        for (path, digest) in files {
            create_parents(snapshot, path.as_str())?;
            let link = snapshot.join(path.as_str());
            if fs::read_link(&link).is_ok_and(|target| self.leads_to_blob(&link, &target, digest)) {
                continue;
            }
            let temporary = unique(&self.scratch(), "link");
            let placed =
                symlink(link_target(path, digest), &temporary).and_then(|()| fs::rename(&temporary, &link));
            if let Err(error) = placed {
                let _ = fs::remove_file(&temporary);
                return Err(Error::io("create the link", &link, &error));
            }
            touched.extend(link.parent().map(Path::to_owned));
        }
        touched.iter().try_for_each(|folder| sync_folder(folder))
    }

    /// Whether a link at `link` with the text `target` names the blob of `digest`.
    fn leads_to_blob(&self, link: &Path, target: &Path, digest: &Digest) -> bool {
        let start = link.parent().unwrap_or(link);
        normalise(&start.join(target)) == normalise(&self.blob(digest))
    }

    /// Removes what a killed process left on its way in `.larder/tmp`, if it is older than `age`. Links and small
    /// files of larder's own, none of which was ever visible; returns how many entries went.
    ///
    /// # Errors
    /// `io_error` if the folder cannot be listed or an entry not removed.
    pub fn sweep_scratch(&self, age: Duration) -> Result<usize> {
        let scratch = self.scratch();
        let entries = match fs::read_dir(&scratch) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(Error::io("list", &scratch, &error)),
        };
        let mut removed = 0;
        for path in entries.flatten().map(|entry| entry.path()) {
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            let old =
                found.modified().ok().and_then(|time| time.elapsed().ok()).is_some_and(|time| time >= age);
            if !old {
                continue;
            }
            let gone = if found.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.map_err(|error| Error::io("remove", &path, &error))?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Lets a branch or tag name `commit`, whose snapshot must be there. A commit needs no ref.
    ///
    /// # Errors
    /// `structure_invalid` if the snapshot is missing or a folder on the way is a link; `io_error`.
    pub fn publish_ref(&self, revision: &Revision, commit: &CommitId) -> Result<()> {
        if revision.as_str() == commit.as_str() {
            return Ok(());
        }
        if !self.snapshot(commit).is_dir() {
            return Err(Error::new(
                Reason::StructureInvalid,
                format!("{} has no snapshot {} for {revision}", self.repo, commit.short()),
                "stage the model again",
            ));
        }
        let refs = self.dir.join("refs");
        real_folder(&refs)?;
        create_parents(&refs, revision.as_str())?;
        let path = self.reference(revision);
        if fs::read(&path).is_ok_and(|bytes| bytes == commit.as_str().as_bytes()) {
            return Ok(());
        }
        write_atomic(&self.scratch(), &path, commit.as_str().as_bytes())
    }
}

/// Renames, but never over something: `AlreadyExists` if there is something. An empty folder does not count.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            // This filesystem cannot; the blob's lock makes the gap harmless for the hub's clients.
            if fs::symlink_metadata(to).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// `../../blobs/<etag>`, with one more `../` for every folder inside the snapshot.
fn link_target(path: &FilePath, digest: &Digest) -> PathBuf {
    let mut target = PathBuf::from("../..");
    for _ in 0..path.depth() {
        target.push("..");
    }
    target.push("blobs");
    target.push(digest.hex());
    target
}

/// Creates the folders above `path` inside `base`, one by one, so that no link on the way is followed.
fn create_parents(base: &Path, path: &str) -> Result<()> {
    let mut folder = base.to_owned();
    let Some((parents, _)) = path.rsplit_once('/') else { return Ok(()) };
    for part in parents.split('/') {
        folder.push(part);
        if !folder_or_other(&folder)? {
            return Err(Error::new(
                Reason::StructureInvalid,
                format!("cannot place {path}: {} is not a folder but a link or a file", folder.display()),
                "move that entry away, then stage the model again",
            ));
        }
    }
    Ok(())
}

/// Takes `.` and `..` out of a path by its letters, without asking the disk.
pub(super) fn normalise(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Cache;

    struct Fixture {
        dir: tempfile::TempDir,
        repo: RepoDir,
        commit: CommitId,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().expect("temp dir");
        let repo = Cache::new(dir.path()).repo(&"a/b".parse().expect("name"));
        repo.prepare().expect("prepared");
        Fixture { dir, repo, commit: "c".repeat(40).parse().expect("commit") }
    }

    fn digest(letter: &str) -> Digest {
        Digest::git_sha1(&letter.repeat(40)).expect("hex")
    }

    fn pairs(files: &[(FilePath, Digest)]) -> impl Iterator<Item = (&FilePath, &Digest)> + Clone {
        files.iter().map(|(path, digest)| (path, digest))
    }

    fn path(text: &str) -> FilePath {
        text.parse().expect("path")
    }

    #[test]
    fn blob_snapshot_ref() {
        let Fixture { dir: _dir, repo, commit } = fixture();
        for letter in ["a", "b"] {
            fs::write(repo.partial(&digest(letter)), letter).expect("partial");
            repo.publish_blob(&digest(letter)).expect("published");
        }
        assert!(!repo.partial(&digest("a")).exists());
        let main = Revision::main();
        assert!(repo.publish_ref(&main, &commit).is_err(), "a ref never comes before its snapshot");
        let files = [(path("config.json"), digest("a")), (path("x/y/z.bin"), digest("b"))];
        repo.publish_snapshot(&commit, pairs(&files)).expect("published");
        repo.publish_snapshot(&commit, pairs(&files)).expect("and again");
        repo.publish_ref(&main, &commit).expect("published");
        let link = fs::read_link(repo.snapshot_file(&commit, &files[1].0)).expect("a link");
        assert_eq!(link, Path::new(&format!("../../../../blobs/{}", "b".repeat(40))));
        assert_eq!(fs::read_to_string(repo.snapshot_file(&commit, &files[1].0)).expect("reads"), "b");
        assert_eq!(fs::read_to_string(repo.reference(&main)).expect("reads"), commit.as_str());
        assert_eq!(fs::read_dir(repo.scratch()).expect("there").count(), 0);
    }

    #[test]
    fn nothing_is_visible_while_a_blob_is_missing() {
        let Fixture { dir: _dir, repo, commit } = fixture();
        fs::write(repo.blob(&digest("a")), "a").expect("blob");
        let files = [(path("a"), digest("a")), (path("b"), digest("b"))];
        assert!(repo.publish_snapshot(&commit, pairs(&files)).is_err());
        assert!(!repo.snapshot(&commit).exists());
    }

    #[test]
    fn another_clients_snapshot_is_completed_and_its_sound_links_stay() {
        let Fixture { dir: _dir, repo, commit } = fixture();
        for letter in ["a", "b", "c"] {
            fs::write(repo.blob(&digest(letter)), letter).expect("blob");
        }
        let snapshot = repo.snapshot(&commit);
        fs::create_dir(&snapshot).expect("folder");
        symlink(repo.blob(&digest("a")), snapshot.join("sound")).expect("an absolute link");
        symlink("../../blobs/gone", snapshot.join("broken")).expect("link");
        let files =
            [(path("sound"), digest("a")), (path("broken"), digest("b")), (path("d/new"), digest("c"))];
        repo.publish_snapshot(&commit, pairs(&files)).expect("published");
        assert!(fs::read_link(snapshot.join("sound")).expect("link").is_absolute(), "left as it was");
        assert_eq!(fs::read_to_string(snapshot.join("broken")).expect("reads"), "b");
        assert_eq!(fs::read_to_string(snapshot.join("d/new")).expect("reads"), "c");
    }

    #[test]
    fn a_linked_folder_is_not_followed() {
        let Fixture { dir, repo, commit } = fixture();
        fs::write(repo.blob(&digest("a")), "a").expect("blob");
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("folder");
        fs::create_dir(repo.snapshot(&commit)).expect("folder");
        symlink(&outside, repo.snapshot(&commit).join("x")).expect("link");
        let error =
            repo.publish_snapshot(&commit, pairs(&[(path("x/evil"), digest("a"))])).expect_err("refused");
        assert_eq!(error.reason(), Reason::StructureInvalid);
        assert_eq!(fs::read_dir(&outside).expect("there").count(), 0);

        fs::create_dir(repo.path().join("refs")).expect("folder");
        symlink(&outside, repo.path().join("refs/feature")).expect("link");
        assert!(repo.publish_ref(&"feature/x".parse().expect("ref"), &commit).is_err());
        assert_eq!(fs::read_dir(&outside).expect("there").count(), 0);
    }

    #[test]
    fn a_blob_that_is_there_is_kept_and_a_wrong_one_replaced_on_request() {
        let Fixture { dir: _dir, repo, .. } = fixture();
        fs::write(repo.blob(&digest("a")), "theirs").expect("blob");
        fs::write(repo.partial(&digest("a")), "ours").expect("partial");
        repo.publish_blob(&digest("a")).expect("kept");
        assert_eq!(fs::read_to_string(repo.blob(&digest("a"))).expect("reads"), "theirs");
        assert!(!repo.partial(&digest("a")).exists());
        fs::write(repo.partial(&digest("a")), "ours").expect("partial");
        repo.replace_blob(&digest("a")).expect("replaced");
        assert_eq!(fs::read_to_string(repo.blob(&digest("a"))).expect("reads"), "ours");
    }

    #[test]
    fn what_a_killed_process_left_is_swept() {
        let Fixture { dir: _dir, repo, .. } = fixture();
        fs::create_dir(repo.scratch().join("snapshot-1")).expect("folder");
        symlink("/etc", repo.scratch().join("snapshot-1/x")).expect("link");
        symlink("/etc", repo.scratch().join("link-1")).expect("link");
        assert_eq!(repo.sweep_scratch(Duration::from_secs(3600)).expect("swept"), 0);
        assert_eq!(repo.sweep_scratch(Duration::ZERO).expect("swept"), 2);
        assert!(Path::new("/etc").exists());
    }
}

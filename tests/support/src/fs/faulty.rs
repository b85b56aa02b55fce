//! A disk with bad sectors: a folder seen through a filesystem in user space that fails with EIO where it is told to.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption};
use tempfile::TempDir;

use super::mirror::Mirror;
use super::{is_root, text, works};

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// read(2) and its kin.
    Read,
    /// write(2) and its kin.
    Write,
    /// fsync(2), fdatasync(2); the offset does not matter.
    Sync,
}

/// A part of some files that cannot be used.
#[derive(Debug)]
struct Bad {
    operation: Operation,
    /// What the file's path contains.
    part: String,
    /// The first byte that cannot be used.
    from: u64,
}

/// What is broken, and how often somebody met it.
#[derive(Debug, Default)]
pub(super) struct Health {
    bad: Vec<Bad>,
    hits: usize,
    /// Nothing is answered any more.
    hangs: bool,
}

/// The second is told of every hit, and when what hung goes on.
pub(super) type Shared = Arc<(Mutex<Health>, Condvar)>;

fn health(shared: &Shared) -> MutexGuard<'_, Health> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the bytes before `end` of this file can be used; counts when not.
pub(super) fn works_on(shared: &Shared, operation: Operation, path: &Path, end: u64) -> bool {
    let mut health = health(shared);
    let path = path.to_string_lossy();
    let is_bad = |bad: &Bad| {
        bad.operation == operation
            && path.contains(&bad.part)
            && (operation == Operation::Sync || end > bad.from)
    };
    let is_bad = health.bad.iter().any(is_bad);
    health.hits += usize::from(is_bad);
    shared.1.notify_all();
    !is_bad
}

/// Returns when nothing hangs.
pub(super) fn wait_while_hung(shared: &Shared) {
    let hangs = |health: &mut Health| health.hangs;
    drop(shared.1.wait_while(health(shared), hangs));
}

/// The mounted filesystem.
#[derive(Debug)]
pub struct Faulty {
    dir: TempDir,
    health: Shared,
    /// Answers the kernel until it is unmounted.
    session: Option<BackgroundSession>,
}

impl Faulty {
    /// Mounts one in which everything works so far; `None` without root or `/dev/fuse`.
    pub fn mount() -> Option<Self> {
        if !is_root() {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("larder-faulty-").tempdir().ok()?;
        for folder in ["behind", "mnt"] {
            std::fs::create_dir(dir.path().join(folder)).ok()?;
        }
        let health = Shared::default();
        let mirror = Mirror::of(&dir.path().join("behind"), health.clone()).ok()?;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("larder-faulty".into())];
        let session = fuser::spawn_mount(mirror, dir.path().join("mnt"), &config).ok()?;
        Some(Self { dir, health, session: Some(session) })
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// From now on the operation fails with EIO at byte `from` and beyond of all files whose path contains `part`.
    pub fn break_at(&self, operation: Operation, part: &str, from: u64) {
        health(&self.health).bad.push(Bad { operation, part: part.into(), from });
    }

    /// Nothing of it is answered, as by a network filesystem whose server is away, and whoever asks stands still; until
    /// the answer is dropped. A process that stands still cannot be killed, so let it outlive no process.
    pub fn hang(&self) -> Hung<'_> {
        health(&self.health).hangs = true;
        Hung(&self.health)
    }

    /// Everything works again.
    pub fn heal(&self) {
        health(&self.health).bad.clear();
    }

    /// How often something failed so far.
    pub fn hits(&self) -> usize {
        health(&self.health).hits
    }

    /// Blocks until something failed; false when the time is over.
    pub fn wait_for_hit(&self, timeout: Duration) -> bool {
        let none = |health: &mut Health| health.hits == 0;
        let waited = self.health.1.wait_timeout_while(health(&self.health), timeout, none);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// What stands still goes on when this is dropped.
#[must_use]
#[derive(Debug)]
pub struct Hung<'a>(&'a Shared);

impl Drop for Hung<'_> {
    fn drop(&mut self) {
        health(self.0).hangs = false;
        self.0.1.notify_all();
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        let unmounted = works("umount", &["-l", text(&self.path())]);
        if let Some(session) = self.session.take()
            && unmounted
        {
            // Ends with the last descriptor that somebody holds; a process that hangs must not hang the test.
            drop(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};

    use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
    use rustix::io::Errno;

    use super::*;

    fn mounted() -> Option<Faulty> {
        let disk = Faulty::mount();
        if disk.is_none() {
            eprintln!("skipped: needs root and /dev/fuse");
        }
        disk
    }

    #[test]
    fn what_hangs_goes_on() {
        let Some(disk) = Faulty::mount() else { return eprintln!("skipped: needs root and /dev/fuse") };
        fs::write(disk.path().join("x"), "here").expect("writes");
        let hung = disk.hang();
        let (path, (done, is_done)) = (disk.path(), std::sync::mpsc::channel());
        let asking = std::thread::spawn(move || {
            let found = (fs::read(path.join("x")), rustix::fs::statvfs(&path));
            done.send(()).ok();
            found
        });
        assert!(is_done.recv_timeout(Duration::from_millis(300)).is_err(), "it stands still");
        drop(hung);
        let (text, room) = asking.join().expect("no panic");
        assert_eq!(text.expect("reads"), b"here");
        assert!(room.expect("answers").f_blocks > 0);
    }

    #[test]
    fn it_is_a_filesystem_like_any_other_while_it_works() {
        let Some(disk) = mounted() else { return };
        let at = |name: &str| disk.path().join(name);
        fs::create_dir_all(at("a/b")).expect("folders");
        fs::write(at("a/one"), "hello").expect("writes");
        let open = fs::File::options().read(true).write(true).open(at("a/one")).expect("opens");
        fallocate(&open, FallocateFlags::empty(), 0, 100_000).expect("allocates");
        open.write_all_at(b"world", 99_995).expect("writes at an offset");
        fs::rename(at("a/one"), at("a/b/two")).expect("renames");
        assert_eq!(open.metadata().expect("there").len(), 100_000, "an open file outlives its name");
        open.sync_all().expect("syncs");
        let two = fs::read(at("a/b/two")).expect("reads");
        assert!(two.starts_with(b"hello") && two.ends_with(b"world") && two.len() == 100_000);
        flock(&open, FlockOperation::NonBlockingLockExclusive).expect("locks");
        let other = fs::File::open(at("a/b/two")).expect("opens");
        assert_eq!(flock(&other, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
        symlink("b/two", at("a/link")).expect("links");
        assert_eq!(fs::read_link(at("a/link")).expect("a link").to_str(), Some("b/two"));
        fs::hard_link(at("a/b/two"), at("three")).expect("links");
        assert_eq!(fs::metadata(at("a/link")).expect("there").nlink(), 2);
        open.set_len(3).expect("cuts");
        fs::set_permissions(at("three"), fs::Permissions::from_mode(0o640)).expect("permits");
        assert_eq!(fs::read(at("three")).expect("reads"), b"hel");
        assert_eq!(open.metadata().expect("there").mode() & 0o777, 0o640);
        let mut names: Vec<_> =
            fs::read_dir(at("a")).expect("lists").map(|entry| entry.expect("one").file_name()).collect();
        names.sort();
        assert_eq!(names, ["b", "link"]);
        fs::File::open(at("a")).and_then(|folder| folder.sync_all()).expect("syncs the folder");
        fs::remove_file(at("a/b/two")).expect("removes");
        fs::remove_file(at("three")).expect("removes");
        assert_eq!(open.metadata().expect("still open").len(), 3);
        assert_eq!(fs::read(at("three")).expect_err("gone").kind(), ErrorKind::NotFound);
        fs::remove_dir_all(at("a")).expect("removes folders");
        assert_eq!(disk.hits(), 0);
    }

    #[test]
    fn it_fails_where_it_is_told_to_and_nowhere_else() {
        let Some(disk) = mounted() else { return };
        let (bad, good) = (disk.path().join("weights.part"), disk.path().join("good"));
        let failure = |result: std::io::Result<()>| result.expect_err("it fails").raw_os_error();
        let eio = Some(Errno::IO.raw_os_error());
        fs::write(&bad, [7; 10_000]).expect("works so far");
        let file = fs::File::options().read(true).write(true).open(&bad).expect("opens");
        disk.break_at(Operation::Write, ".part", 5_000);
        file.write_all_at(&[1; 5_000], 0).expect("before the bad part");
        assert_eq!(failure(file.write_all_at(&[1], 5_000)), eio);
        file.read_exact_at(&mut [0; 10_000], 0).expect("reading works");
        fs::write(&good, [7; 10_000]).expect("other files work");
        disk.break_at(Operation::Read, ".part", 9_999);
        file.read_exact_at(&mut [0; 9_999], 0).expect("before the bad part");
        assert_eq!(failure(file.read_exact_at(&mut [0; 2], 9_998)), eio);
        disk.break_at(Operation::Sync, ".part", 0);
        assert_eq!(failure(file.sync_all()), eio);
        assert_eq!(disk.hits(), 3);
        assert!(disk.wait_for_hit(Duration::ZERO));
        disk.heal();
        file.write_all_at(&[1], 5_000).and_then(|()| file.sync_all()).expect("healed");
    }
}

//! The lock of one blob, by the protocol of the hub's other clients.
//!
//! Python's `WeakFileLock` (filelock 4.2) takes `flock(LOCK_EX)` on `.locks/<repo>/<etag>.lock`, created 0664
//! so that several users can wait for each other, and leaves the file in place on release. Somebody may still
//! unlink it (`rm -rf .locks`): whoever then holds the old inode guards no name, so the inode is compared with
//! the name after the lock, and the attempt starts over when they differ.
//!
//! The lock saves work, it does not carry correctness: some network filesystems grant it to everybody. Bytes
//! are verified before they are published, whoever fetched them, and a receipt notices a blob that changed later.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::RepoDir;
use crate::error::{Error, Result};
use larder_jobs::Digest;

/// How often an unlinked lock file is tried again before it counts as held.
const MAX_RACES: usize = 16;

/// The right to fetch or replace one blob; given up when dropped or when the process dies.
#[derive(Debug)]
pub struct BlobLock {
    _file: File,
}

impl RepoDir {
    /// Takes the lock of a blob if nobody has it; `None` means that another process has. Never waits.
    ///
    /// # Errors
    /// `io_error` if the lock file cannot be created or opened.
    pub fn try_lock(&self, digest: &Digest) -> Result<Option<BlobLock>> {
        let path = self.lock_file(digest);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .map_err(|error| Error::io("create the folder for locks", folder, &error))?;
        }
        BlobLock::try_acquire(&path)
    }
}

impl BlobLock {
    fn try_acquire(path: &Path) -> Result<Option<Self>> {
        for _ in 0..MAX_RACES {
            let Some(file) = open(path).map_err(|error| Error::io("open the lock file", path, &error))?
            else {
                continue;
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                // Some filesystems say EACCES for "held by another".
                Err(Errno::WOULDBLOCK | Errno::ACCESS) => return Ok(None),
                Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => {
                    tracing::warn!(path = %path.display(), "the filesystem has no locks; going on without");
                    return Ok(Some(Self { _file: file }));
                }
                Err(errno) => return Err(Error::io("lock", path, &errno.into())),
            }
            let held = file.metadata().map_err(|error| Error::io("look at", path, &error))?;
            match fs::symlink_metadata(path) {
                Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => {
                    return Ok(Some(Self { _file: file }));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("look at", path, &error)),
            }
        }
        Ok(None)
    }
}

/// Opens or creates the lock file; `None` if it vanished in between.
fn open(path: &Path) -> io::Result<Option<File>> {
    // A link is never followed, and a lease on the file (F_SETLEASE) never makes the open wait.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(flags).mode(0o664);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            // The umask took bits away that other users need. Only who created the file may set them.
            if let Err(error) = file.set_permissions(Permissions::from_mode(0o664)) {
                tracing::debug!(path = %path.display(), %error, "the lock file keeps its mode");
            }
            Ok(Some(file))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match options.open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock) => {
                Ok(None)
            }
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::layout::Cache;

    fn fixture() -> (tempfile::TempDir, RepoDir, Digest) {
        let dir = tempfile::tempdir().expect("temp dir");
        let repo = Cache::new(dir.path()).repo(&"a/b".parse().expect("name"));
        (dir, repo, Digest::sha256(&"0".repeat(64)).expect("hex"))
    }

    #[test]
    fn one_holder_at_a_time_and_the_file_stays() {
        let (_dir, repo, digest) = fixture();
        let first = repo.try_lock(&digest).expect("usable").expect("free");
        assert!(repo.try_lock(&digest).expect("usable").is_none());
        drop(first);
        assert!(repo.try_lock(&digest).expect("usable").is_some());
        let mode = fs::metadata(repo.lock_file(&digest)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o664);
    }

    #[test]
    fn an_unlinked_lock_file_guards_nothing() {
        let (_dir, repo, digest) = fixture();
        let old = repo.try_lock(&digest).expect("usable").expect("free");
        fs::remove_file(repo.lock_file(&digest)).expect("removed");
        let new = repo.try_lock(&digest).expect("usable").expect("a new file, a new lock");
        assert!(repo.try_lock(&digest).expect("usable").is_none());
        drop((old, new));
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let (dir, repo, digest) = fixture();
        let path = repo.lock_file(&digest);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::os::unix::fs::symlink(dir.path().join("target"), &path).expect("link");
        assert!(repo.try_lock(&digest).is_err());
        assert!(!dir.path().join("target").exists());
    }

    /// The other side is `fcntl.flock`, which is what filelock calls.
    #[test]
    fn python_and_larder_see_each_other() {
        let (_dir, repo, digest) = fixture();
        drop(repo.try_lock(&digest).expect("usable").expect("free"));
        let script = "import fcntl,os,sys\n\
            f=os.open(sys.argv[1],os.O_RDWR)\n\
            fcntl.flock(f,fcntl.LOCK_EX|fcntl.LOCK_NB)\n\
            print('held',flush=True)\nsys.stdin.read()\n";
        let python = Command::new("python3")
            .args(["-c", script])
            .arg(repo.lock_file(&digest))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut python) = python else {
            println!("no python3 here; the other side of the lock is not tested");
            return;
        };
        let mut line = String::new();
        BufReader::new(python.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert_eq!(line, "held\n");
        assert!(repo.try_lock(&digest).expect("usable").is_none());
        drop(python.stdin.take());
        assert!(python.wait().expect("ends").success());

        let ours = repo.try_lock(&digest).expect("usable").expect("free again");
        let refused = Command::new("python3")
            .args(["-c", script])
            .arg(repo.lock_file(&digest))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("runs");
        assert!(!refused.success(), "Python must see our lock");
        drop(ours);
    }
}

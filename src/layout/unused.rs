//! Whether anybody uses a file, asked of the kernel, and its removal while the answer holds.
//!
//! A write lease (`fcntl(2)`, `F_SETLEASE` with `F_WRLCK`) is granted only while no other descriptor and no memory map
//! of the file exists, in any process and any namespace, and it needs neither root nor a look at `/proc`: only to own
//! the file, or `CAP_LEASE`. Whoever opens the file while the lease is held waits until it is given back, so a file that
//! is unlinked under it was in nobody's hands.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::{Error, Result};

/// What the kernel says about a file.
#[derive(Debug)]
pub enum Probe {
    /// Nobody has it open or mapped, and nobody gets it while this lives.
    Unused(Unused),
    /// Somebody has it open or mapped.
    Busy,
    /// The kernel does not tell.
    Unknown(Hidden),
    /// There is no such file.
    Gone,
}

/// Why the kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hidden {
    /// The file is another user's, and this process has no `CAP_LEASE`.
    Owner,
    /// The filesystem has no leases.
    Filesystem,
    /// It is a link, a folder or a device.
    NoFile,
}

/// Bytes that the removal of a file's name frees: what it takes on the disk (in blocks of 512 bytes), or nothing if it has
/// other names.
pub(super) fn frees(names: u64, blocks: u64) -> u64 {
    if names == 1 { blocks.saturating_mul(512) } else { 0 }
}

/// A file that nobody else uses; whoever opens it now waits until this is dropped.
#[derive(Debug)]
pub struct Unused {
    file: File,
    path: PathBuf,
}

impl Unused {
    /// Bytes that its removal frees: what it takes on the disk, or nothing if it has other names.
    pub fn frees(&self) -> u64 {
        self.file.metadata().map_or(0, |found| frees(found.nlink(), found.blocks()))
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes its name, if that is still its name. The lease is held on.
    ///
    /// # Errors
    /// `io_error`; also if another file has the name by now.
    pub fn remove(&self) -> Result<()> {
        let failed = |error: &io::Error| Error::io("remove", &self.path, error);
        let here = self.file.metadata().map_err(|error| failed(&error))?;
        let named = fs::symlink_metadata(&self.path).map_err(|error| failed(&error))?;
        if (here.dev(), here.ino()) != (named.dev(), named.ino()) {
            return Err(failed(&io::Error::other("another file was put in its place")));
        }
        fs::remove_file(&self.path).map_err(|error| failed(&error))
    }
}

/// Asks for a write lease on the file at `path`.
///
/// # Errors
/// `io_error` if it cannot be opened for another reason than those of [`Probe`].
pub fn probe(path: &Path) -> Result<Probe> {
    // A link is not followed, and another's lease is not waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) => {
            return match (error.kind(), error.raw_os_error()) {
                (io::ErrorKind::NotFound, _) => Ok(Probe::Gone),
                (io::ErrorKind::WouldBlock, _) => Ok(Probe::Busy),
                (io::ErrorKind::PermissionDenied, _) => Ok(Probe::Unknown(Hidden::Owner)),
                (_, Some(libc::ELOOP | libc::ENXIO)) => Ok(Probe::Unknown(Hidden::NoFile)),
                _ => Err(Error::io("open", path, &error)),
            };
        }
    };
    match lease(&file) {
        Ok(()) => Ok(Probe::Unused(Unused { file, path: path.to_owned() })),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(Probe::Busy),
            Some(libc::EACCES | libc::EPERM) => Ok(Probe::Unknown(Hidden::Owner)),
            Some(libc::EINVAL) if !file.metadata().is_ok_and(|found| found.is_file()) => {
                Ok(Probe::Unknown(Hidden::NoFile))
            }
            Some(libc::EINVAL | libc::ENOLCK | libc::EOPNOTSUPP) => Ok(Probe::Unknown(Hidden::Filesystem)),
            _ => Err(Error::io("ask who uses", path, &error)),
        },
    }
}

/// `fcntl(2)`: which signal says that somebody wants what a lease protects (`asm-generic/fcntl.h`; not in the crate libc).
const F_SETSIG: libc::c_int = 10;

/// Takes a write lease. Who opens the file meanwhile makes the kernel send a signal, by default one that ends this
/// process; SIGURG is ignored by default, and what it would say is not needed: the lease is held for moments only.
#[allow(unsafe_code)]
fn lease(file: &File) -> io::Result<()> {
    let ask = |command, value: libc::c_int| {
        // SAFETY: the descriptor is open, and both commands take a number and touch no memory of this process.
        match unsafe { libc::fcntl(file.as_raw_fd(), command, value) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    ask(F_SETSIG, libc::SIGURG)?;
    ask(libc::F_SETLEASE, libc::F_WRLCK)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("blob");
        fs::write(&path, [7; 10_000]).expect("written");
        (dir, path)
    }

    /// A process that does `what` with the file `f` named by its argument, and lives until its input ends.
    fn holder(path: &Path, what: &str) -> Child {
        let script = format!("import mmap, os, sys\n{what}\nprint('held', flush=True)\nsys.stdin.read()\n");
        let mut child = Command::new("python3")
            .args(["-c", &script])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is there");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert_eq!(line, "held\n");
        child
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        assert!(child.wait().expect("ends").success());
    }

    #[test]
    fn whoever_has_it_open_or_mapped_protects_it() {
        let (_dir, path) = file();
        for what in [
            "f = open(sys.argv[1], 'rb')",
            // The descriptor is closed again; only the map is left.
            "f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()",
        ] {
            let child = holder(&path, what);
            assert!(matches!(probe(&path).expect("answers"), Probe::Busy), "{what}");
            end(child);
            assert!(matches!(probe(&path).expect("answers"), Probe::Unused(_)), "{what}");
        }
    }

    #[test]
    fn nobody_gets_it_between_the_answer_and_the_removal() {
        let (_dir, path) = file();
        let Probe::Unused(unused) = probe(&path).expect("answers") else { panic!("nobody has it") };
        // Without O_NONBLOCK it would wait.
        let mut open = OpenOptions::new();
        open.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        assert_eq!(open.open(&path).expect_err("held").kind(), io::ErrorKind::WouldBlock);
        assert!(matches!(probe(&path).expect("answers"), Probe::Busy), "two of us do not both get it");
        assert_eq!(unused.frees(), 12_288);
        unused.remove().expect("removed");
        assert!(matches!(probe(&path).expect("answers"), Probe::Gone));
    }

    #[test]
    fn what_is_no_plain_file_or_has_another_in_its_place_stays() {
        let (dir, path) = file();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        assert!(matches!(probe(&link).expect("answers"), Probe::Unknown(Hidden::NoFile)));
        assert!(matches!(probe(dir.path()).expect("answers"), Probe::Unknown(Hidden::NoFile)));
        let Probe::Unused(unused) = probe(&path).expect("answers") else { panic!("nobody has it") };
        fs::hard_link(&path, dir.path().join("other")).expect("linked");
        assert_eq!(unused.frees(), 0, "another name keeps the bytes");
        fs::rename(&path, dir.path().join("old")).expect("moved");
        fs::write(&path, "new").expect("written");
        assert!(unused.remove().is_err());
        assert_eq!(fs::read_to_string(&path).expect("there"), "new");
    }
}

//! Filesystems that fill up, lose power or fail, for real. All need root; without it they are `None` and the test says
//! so.

mod faulty;
mod mirror;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

pub use faulty::{Faulty, Hung, Operation};

/// Runs a command quietly; says whether it worked.
fn works(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// Whether this process may mount.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A filesystem in memory of a given size: when it is full, writing fails with ENOSPC.
#[derive(Debug)]
pub struct Tmpfs {
    dir: TempDir,
}

impl Tmpfs {
    /// Mounts one of `size` bytes; `None` where that is not permitted.
    pub fn mount(size: u64) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("larder-tmpfs-").tempdir().ok()?;
        let options = format!("size={size},mode=0755");
        let mounted =
            is_root() && works("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", text(dir.path())]);
        mounted.then_some(Self { dir })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Lets nobody write any more; says whether that worked.
    pub fn read_only(&self) -> bool {
        works("mount", &["-o", "remount,ro", text(self.dir.path())])
    }

    /// Changes its size, as somebody who makes room.
    pub fn resize(&self, size: u64) -> bool {
        works("mount", &["-o", &format!("remount,size={size}"), text(self.dir.path())])
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        works("umount", &["-l", text(self.dir.path())]);
    }
}

/// A folder that is mounted at another place too, until this is dropped.
#[derive(Debug)]
pub struct Bind {
    at: PathBuf,
}

/// Mounts the folder `from` also at the folder `at`; `None` where that is not permitted.
pub fn bind(from: &Path, at: &Path) -> Option<Bind> {
    let mounted = is_root() && works("mount", &["--bind", text(from), text(at)]);
    mounted.then(|| Bind { at: at.to_owned() })
}

impl Drop for Bind {
    fn drop(&mut self) {
        works("umount", &["-l", text(&self.at)]);
    }
}

/// An ext4 filesystem in a file, whose power can be cut.
#[derive(Debug)]
pub struct Ext4Loop {
    dir: TempDir,
    mounted: bool,
}

/// `EXT4_IOC_SHUTDOWN` with flag 2: stop at once, do not flush the journal. What was not fsynced is gone.
const SHUTDOWN: &str = "import fcntl, os, struct, sys\n\
    fd = os.open(sys.argv[1], os.O_RDONLY)\n\
    fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))\n";

impl Ext4Loop {
    /// Makes and mounts one of `size` bytes; `None` without root, loop devices or `mkfs.ext4`.
    pub fn create(size: u64) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("larder-ext4-").tempdir().ok()?;
        let image = dir.path().join("image");
        File::create(&image).ok()?.set_len(size).ok()?;
        std::fs::create_dir(dir.path().join("mnt")).ok()?;
        if !works("mkfs.ext4", &["-q", "-F", text(&image)]) {
            return None;
        }
        let mut made = Self { dir, mounted: false };
        made.mount().then_some(made)
    }

    fn mount(&mut self) -> bool {
        let (image, point) = (self.dir.path().join("image"), self.path());
        self.mounted = works("mount", &["-t", "ext4", "-o", "loop", text(&image), text(&point)]);
        self.mounted
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// Cuts the power: from now on every access fails with EIO. Panics when the kernel refuses.
    #[track_caller]
    pub fn cut_power(&self) {
        assert!(
            works("python3", &["-c", SHUTDOWN, text(&self.path())]),
            "EXT4_IOC_SHUTDOWN on {:?}",
            self.path()
        );
    }

    /// Turns it on again: unmounts, mounts, and the journal is replayed. All processes must have left it.
    #[track_caller]
    pub fn power_on(&mut self) {
        assert!(works("umount", &[text(&self.path())]), "{:?} is in use", self.path());
        assert!(self.mount(), "{:?} does not mount after the power cut", self.path());
    }
}

impl Drop for Ext4Loop {
    fn drop(&mut self) {
        if self.mounted {
            works("umount", &["-l", text(&self.path())]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_full_tmpfs_says_so() {
        let Some(disk) = Tmpfs::mount(1 << 20) else { return eprintln!("skipped: needs root") };
        let error = std::fs::write(disk.path().join("x"), vec![0; 2 << 20]).expect_err("it is full");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert!(disk.resize(4 << 20));
        std::fs::write(disk.path().join("x"), vec![0; 2 << 20]).expect("now there is room");
    }

    #[test]
    fn a_power_cut_loses_what_was_not_synced() {
        let Some(mut disk) = Ext4Loop::create(32 << 20) else { return eprintln!("skipped: needs root") };
        let mut safe = File::create(disk.path().join("safe")).expect("creates");
        safe.write_all(b"kept").expect("writes");
        safe.sync_all().expect("syncs");
        File::open(disk.path()).and_then(|folder| folder.sync_all()).expect("syncs the folder");
        std::fs::write(disk.path().join("unsafe"), "lost").expect("writes");
        drop(safe);
        disk.cut_power();
        assert!(std::fs::write(disk.path().join("after"), "x").is_err());
        disk.power_on();
        assert_eq!(std::fs::read(disk.path().join("safe")).expect("reads"), b"kept");
        assert_ne!(std::fs::read(disk.path().join("unsafe")).unwrap_or_default(), b"lost");
    }
}

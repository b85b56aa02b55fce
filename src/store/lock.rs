//! One process owns a state folder; a second one is told who it is.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};
use larder_jobs::Reason;

/// Ownership of a state folder, given up when dropped or when the process dies.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

/// Somebody else owns the state folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The folder.
    pub dir: PathBuf,
    /// The owner's process id, if it could be read.
    pub pid: Option<u32>,
}

impl From<Held> for Error {
    fn from(held: Held) -> Self {
        let who = held.pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"));
        Error::new(
            Reason::QueueUnavailable,
            format!("the state folder {} is held by {who}", held.dir.display()),
            "another larder is running; use it through its socket, stop it, or set another state.path",
        )
    }
}

impl StateLock {
    /// Takes the folder, creating it if needed. The inner error says who has it.
    ///
    /// # Errors
    /// `io_error` if the folder cannot be created or written.
    pub fn acquire(dir: &Path) -> Result<std::result::Result<Self, Held>> {
        let elsewhere = "set state.path to another folder";
        super::create(dir)
            .map_err(|error| Error::io("create the state folder", dir, &error).or(elsewhere))?;
        let path = dir.join("larder.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| Error::io("open the lock file", &path, &error).or(elsewhere))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Without a readable pid the message is vaguer, not wrong.
                let _ = file.read_to_string(&mut text);
                return Ok(Err(Held { dir: dir.to_owned(), pid: text.trim().parse().ok() }));
            }
            Err(errno) => return Err(Error::io("lock", &path, &errno.into())),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|error| Error::io("write", &path, &error))?;
        Ok(Ok(Self { _file: file }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_has_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let first = StateLock::acquire(dir.path()).expect("usable").expect("free");
        let held = StateLock::acquire(dir.path()).expect("usable").expect_err("held");
        assert_eq!(held.pid, Some(std::process::id()));
        drop(first);
        assert!(StateLock::acquire(dir.path()).expect("usable").is_ok());
    }
}

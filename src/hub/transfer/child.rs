//! The child process that fetches over Xet, from outside: how it is started, what can be seen of it, its end.
//!
//! Bounds: [`MAX_MEMORY`], by what the kernel says it held at most; one file; written bytes are flushed behind it every
//! 64 MiB. It ends with its order's pipe, hence with this process, and at the latest when this is dropped.

use std::fs::{self, File, Metadata};
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;
use std::time::SystemTime;

use super::partial::SAFE_EVERY;
use crate::error::{Error, Result};
use crate::hub::xet::{CHILD_VERB, Order, is_of_xet};
use crate::layout::Cache;
use larder_jobs::{Digest, Reason, RepoId};

/// Bytes of memory that a child may hold.
pub(super) const MAX_MEMORY: u64 = 512 << 20;
/// This binary, even if another one has taken its place on the disk.
const OURSELVES: &str = "/proc/self/exe";
/// What a child says at its end is shorter than this, if it is of any use.
const MAX_WORDS: u64 = 4 << 10;

/// A child that runs. Everything here blocks, if only for moments.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    /// The child ends when this is closed.
    _order: ChildStdin,
    target: PathBuf,
    /// The folder that it works in, whose time of change says that somebody does.
    folder: File,
    bytes: u64,
    memory: u64,
    flushed: u64,
    flushing: Option<JoinHandle<()>>,
}

/// How far a child is.
#[derive(Debug)]
pub(super) struct Look {
    /// Length of its file.
    pub(super) bytes: u64,
    /// Bytes of memory that it held at most.
    pub(super) memory: u64,
    /// How it ended, if it did.
    pub(super) ended: Option<Result<()>>,
}

/// Where hf-hub puts the bytes of `digest` in a cache of its own in `folder`.
pub(super) fn target(folder: &Path, repo: &RepoId, digest: &Digest) -> PathBuf {
    Cache::new(folder).repo(repo).blob(digest)
}

/// The file with the bytes so far, under the name that it has until it is complete, or the one thereafter.
pub(super) fn found(target: &Path) -> Option<(PathBuf, Metadata)> {
    let names = [target.with_extension("incomplete"), target.to_owned()];
    let mut found =
        names.into_iter().filter_map(|path| fs::symlink_metadata(&path).ok().map(|found| (path, found)));
    found.find(|(_, found)| found.is_file())
}

impl Running {
    /// Starts a child under `limits` with `order`.
    ///
    /// # Errors
    /// `io_error` if there can be no process.
    pub(super) fn start(order: &Order, limits: Vec<(&'static str, String)>, target: PathBuf) -> Result<Self> {
        let failed = |error| Error::io("start", Path::new(OURSELVES), &error);
        let folder = File::open(&order.folder).map_err(|error| Error::io("open", &order.folder, &error))?;
        let mut command = Command::new(OURSELVES);
        command.arg0("larder").arg(CHILD_VERB);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_xet(name)) {
            command.env_remove(name);
        }
        command.envs(limits).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let Some(mut stdin) = child.stdin.take() else {
            return Err(Error::internal("a child has no stdin"));
        };
        let line = serde_json::to_string(order).map_err(|error| Error::internal(error.to_string()))? + "\n";
        let written = stdin.write_all(line.as_bytes());
        let _order = stdin;
        // From here on it is ended whatever happens.
        let running = Self { child, _order, target, folder, bytes: 0, memory: 0, flushed: 0, flushing: None };
        written.map(|()| running).map_err(failed)
    }

    /// Looks at the child.
    pub(super) fn look(mut self) -> Result<(Self, Look)> {
        let status =
            self.child.try_wait().map_err(|error| Error::io("wait for", Path::new(OURSELVES), &error))?;
        let bytes = found(&self.target).map_or(0, |(_, found)| found.len());
        if bytes > self.bytes {
            self.bytes = bytes;
            // If it fails, the folder only looks older than it is.
            let _ = self.folder.set_modified(SystemTime::now());
            self.flush_behind();
        }
        self.memory = self.memory.max(most_memory(self.child.id()).unwrap_or(0));
        let ended = status.map(|status| match status.success() {
            true => Ok(()),
            false => Err(self.last_words(&status.to_string())),
        });
        let look = Look { bytes: self.bytes, memory: self.memory, ended };
        Ok((self, look))
    }

    /// Has what was written flushed now and then, on a thread of its own, so that it does not pile up in memory.
    fn flush_behind(&mut self) {
        let idle = self.flushing.as_ref().is_none_or(JoinHandle::is_finished);
        if !idle || self.bytes < self.flushed + SAFE_EVERY {
            return;
        }
        self.flushed = self.bytes;
        let target = self.target.clone();
        self.flushing = Some(std::thread::spawn(move || {
            // A failure shows again when the file is taken over.
            let _ = found(&target).map(|(path, _)| File::open(path).and_then(|file| file.sync_data()));
        }));
    }

    /// Why a child failed, in its own words if it had any.
    fn last_words(&mut self, status: &str) -> Error {
        let mut words = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // Without words, the status has to do.
            let _ = stderr.take(MAX_WORDS).read_to_end(&mut words);
        }
        let words = String::from_utf8_lossy(&words);
        let first =
            words.lines().map(|line| line.trim_start_matches("error: ").trim()).find(|line| !line.is_empty());
        let why = first.map_or_else(|| format!("its process ended: {status}"), str::to_owned);
        Error::new(Reason::SourceUnavailable, why, "set hub.xet = false if it happens often")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(flushing) = self.flushing.take() {
            let _ = flushing.join();
        }
    }
}

/// What a process held at most, in bytes, as long as it lives (proc_pid_status(5)).
fn most_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_the_kernel_says() {
        let ours = most_memory(std::process::id()).expect("this process lives");
        assert!((1 << 20..1 << 40).contains(&ours), "{ours}");
        assert_eq!(most_memory(u32::MAX), None);
    }

    #[test]
    fn a_file_is_found_under_both_names() {
        let dir = tempfile::tempdir().expect("temp dir");
        let repo = "a/b".parse().expect("name");
        let target = target(dir.path(), &repo, &Digest::sha256(&"0".repeat(64)).expect("hex"));
        assert!(found(&target).is_none());
        fs::create_dir_all(target.parent().expect("a folder")).expect("made");
        fs::write(&target, "whole").expect("written");
        assert_eq!(found(&target).expect("there").1.len(), 5);
        fs::write(target.with_extension("incomplete"), "par").expect("written");
        assert_eq!(found(&target).expect("there").1.len(), 3);
    }
}

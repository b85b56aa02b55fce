//! How fast the cache's disk is, with a file of larder's own that has no name and is gone with the process.
//!
//! Written: incompressible data in the pieces that downloads use, synchronised as they go. Read cold: after the pages of
//! that file alone were dropped from the page cache, which is checked, not believed (tmpfs keeps them). Read warm: from
//! the page cache, which is checked as well. Cold means cold for this kernel: the disk of a virtual machine may still
//! answer from its host's memory, and a drive from its own. The reads are `read(2)` in large pieces, so they are what a
//! loader can reach at most; one that maps the file and faults page by page is slower.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use larder_jobs::Reason;
use rustix::fs::{Advice, Mode, OFlags, fadvise};
use serde::Serialize;

use super::load::ReadSpeeds;
use super::residency::resident;
use super::{Quiet, stopped, usage};
use crate::error::{Error, Result};

/// Bytes that are written and read unless somebody wants others: 1 GiB.
pub const BYTES: u64 = 1 << 30;
/// With fewer bytes the figures are noise.
pub const LEAST: u64 = 16 << 20;
/// More at once make no disk faster.
const READERS: usize = 16;
/// Bytes of one write, as in downloads, and of one read.
const WRITE: usize = 128 << 10;
const READ: usize = 1 << 20;
/// Written bytes that may wait in memory, so that a stop and others' writes do not wait for long.
const UNSYNCED: u64 = 128 << 20;
/// Random bytes, made once; every page of them gets the place in the file as a stamp, so no two pages are equal.
const RANDOM: usize = 4 << 20;
const STAMP: usize = 4096;
/// That share of the file in memory is all of it, and that share is none: some pages are just in other hands.
const ALL: f64 = 0.99;
const NONE: f64 = 0.01;

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// A folder on the disk; the file appears in it for no one.
    pub folder: &'a Path,
    /// Bytes to write and to read, at least [`LEAST`].
    pub bytes: u64,
    /// Bytes that stay free on the disk; the file is made smaller for that.
    pub keep_free: u64,
    /// Threads of the parallel read: 1 to 16.
    pub readers: usize,
    /// Whether reads and writes wait for everybody else's.
    pub quiet: bool,
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// One thread writes.
    Write,
    /// One thread reads from the disk.
    Cold,
    /// Several threads read from the disk.
    ColdParallel,
    /// One thread reads from the page cache.
    Warm,
}

/// Bytes in a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// Bytes.
    pub bytes: u64,
    /// Seconds.
    pub seconds: f64,
    /// Bytes per second.
    pub bytes_per_second: f64,
}

/// Why a speed is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The kernel kept the file's pages: the filesystem lives in memory (tmpfs), or does not drop pages on request.
    NotDropped,
    /// The file's pages did not stay in memory: it is larger than what is free.
    NotKept,
    /// The kernel does not tell what is in the page cache.
    ResidencyUnknown,
}

impl Missing {
    /// The reason in words.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NotDropped => "the filesystem keeps the file in memory, so nothing was read from a disk",
            Self::NotKept => "the memory is too full to hold the file, so nothing was read from memory alone",
            Self::ResidencyUnknown => "the kernel does not tell whether the file was in memory",
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Speeds {
    /// One thread's writes with everything synchronised.
    pub write: Rate,
    /// One thread's reads from the disk.
    pub cold: Measured,
    /// Several threads' reads from the disk.
    pub cold_parallel: Measured,
    /// Threads of that.
    pub readers: usize,
    /// One thread's reads from the page cache.
    pub warm: Measured,
}

/// A speed, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// The speed.
    pub rate: Option<Rate>,
    /// Why it is missing.
    pub missing: Option<Missing>,
}

impl Speeds {
    /// What predictions go by: the faster cold read, as loaders read several files or ranges at once, and the warm one.
    pub fn read_speeds(&self) -> ReadSpeeds {
        let speed = |measured: &Measured| measured.rate.map(|rate| rate.bytes_per_second);
        let cold = [speed(&self.cold), speed(&self.cold_parallel)].into_iter().flatten().reduce(f64::max);
        ReadSpeeds { cold, warm: speed(&self.warm) }
    }
}

/// Measures. Blocks for as long as the disk needs to write the bytes once and read them twice. `progress` is told the
/// step, its bytes done and its bytes in all.
///
/// # Errors
/// `insufficient_disk` without room for [`LEAST`] bytes, `interrupted` if `stop` said so, `io_error` from the disk.
pub fn measure(ask: &Ask<'_>, stop: &dyn Fn() -> bool, progress: &dyn Fn(Step, u64, u64)) -> Result<Speeds> {
    let bytes = room(ask)?;
    let _quiet = ask.quiet.then(Quiet::begin);
    let file = nameless(ask.folder)
        .map_err(|error| Error::io("create a file for measuring in", ask.folder, &error))?;
    let readers = ask.readers.clamp(1, READERS);
    let run = Run { file: &file, bytes, folder: ask.folder, quiet: ask.quiet, stop, progress };
    let write = run.write()?;
    let cold = run.cold(Step::Cold, 1)?;
    let cold_parallel = run.cold(Step::ColdParallel, readers)?;
    let warm = run.warm()?;
    Ok(Speeds { write, cold, cold_parallel, readers, warm })
}

/// The bytes that there is room for.
fn room(ask: &Ask<'_>) -> Result<u64> {
    let spare = usage(ask.folder)?.free.saturating_sub(ask.keep_free);
    if spare < LEAST {
        let what = format!(
            "measuring the disk of {} needs {LEAST} bytes beside the {} that stay free, and {spare} are there",
            ask.folder.display(),
            ask.keep_free
        );
        return Err(Error::new(
            Reason::InsufficientDisk,
            what,
            "free some space on that disk, then try again",
        ));
    }
    let page = u64::try_from(STAMP).unwrap_or(1);
    Ok(ask.bytes.max(LEAST).min(spare) / page * page)
}

/// A file without a name: nothing is left by a process that dies.
fn nameless(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // NFS and some others have no such files.
        Err(_) => unnamed(folder),
    }
}

/// A file whose name is gone before anything is in it. One of that name is the empty one of a process that died between.
fn unnamed(folder: &Path) -> io::Result<File> {
    let path = folder.join(format!(".larder-speed-{}", std::process::id()));
    let create = || File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
    let file = create().or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => std::fs::remove_file(&path).and_then(|()| create()),
        _ => Err(error),
    })?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

struct Run<'a> {
    file: &'a File,
    bytes: u64,
    folder: &'a Path,
    quiet: bool,
    stop: &'a dyn Fn() -> bool,
    progress: &'a dyn Fn(Step, u64, u64),
}

impl Run<'_> {
    fn failed(&self, doing: &str) -> impl Fn(io::Error) -> Error {
        let doing = format!("{doing} the file for measuring in");
        move |error| Error::io(&doing, self.folder, &error)
    }

    /// Tells how far it is.
    fn at(&self, step: Step, done: u64) -> Result<()> {
        if (self.stop)() {
            return Err(stopped("the measurement of the disk"));
        }
        (self.progress)(step, done, self.bytes);
        Ok(())
    }

    fn write(&self) -> Result<Rate> {
        let (mut data, mut at, mut synced) = (random(), 0_u64, 0);
        let begun = Instant::now();
        while at < self.bytes {
            self.at(Step::Write, at)?;
            let start = usize::try_from(at).unwrap_or(0) % RANDOM;
            let left = usize::try_from(self.bytes - at).unwrap_or(WRITE);
            let piece = &mut data[start..][..WRITE.min(left)];
            for page in piece.chunks_mut(STAMP) {
                page[..8].copy_from_slice(&at.to_le_bytes());
                at += u64::try_from(page.len()).unwrap_or(0);
            }
            let offset = at - u64::try_from(piece.len()).unwrap_or(0);
            self.file.write_all_at(piece, offset).map_err(self.failed("write"))?;
            if at - synced >= UNSYNCED || at == self.bytes {
                self.file.sync_data().map_err(self.failed("write"))?;
                synced = at;
            }
        }
        Ok(rate(at, begun.elapsed()))
    }

    /// Reads from the disk with that many threads, after the file was dropped from the page cache.
    fn cold(&self, step: Step, readers: usize) -> Result<Measured> {
        if let Some(missing) = self.drop_pages()? {
            return Ok(Measured { rate: None, missing: Some(missing) });
        }
        Ok(Measured { rate: Some(self.read(step, readers)?), missing: None })
    }

    /// Reads from the page cache, after a read that brought everything there.
    fn warm(&self) -> Result<Measured> {
        let missing = match self.share()? {
            Some(share) if share >= ALL => None,
            Some(_) => Some(Missing::NotKept),
            None => Some(Missing::ResidencyUnknown),
        };
        let rate = missing.is_none().then(|| self.read(Step::Warm, 1)).transpose()?;
        Ok(Measured { rate, missing })
    }

    /// Pages that are just being looked at stay, so it is tried for a moment.
    fn drop_pages(&self) -> Result<Option<Missing>> {
        for _ in 0..10 {
            fadvise(self.file, 0, None, Advice::DontNeed)
                .map_err(|errno| self.failed("drop")(errno.into()))?;
            match self.share()? {
                Some(share) if share <= NONE => return Ok(None),
                Some(_) => thread::sleep(Duration::from_millis(20)),
                None => return Ok(Some(Missing::ResidencyUnknown)),
            }
        }
        Ok(Some(Missing::NotDropped))
    }

    /// The share of the file that is in the page cache.
    #[allow(clippy::cast_precision_loss)] // a share need not be exact
    fn share(&self) -> Result<Option<f64>> {
        let resident = resident(self.file, 0, self.bytes).map_err(self.failed("look at"))?;
        Ok(resident.map(|resident| resident as f64 / self.bytes as f64))
    }

    /// Reads everything with that many threads, each its own range. This thread watches over them.
    fn read(&self, step: Step, readers: usize) -> Result<Rate> {
        let _ = fadvise(self.file, 0, None, Advice::Sequential);
        let begun = Instant::now();
        let done = thread::scope(|scope| -> Result<u64> {
            // Readers wait for their reports to be taken, and end when nobody takes them any more.
            let (report, reports) = sync_channel(2 * READERS);
            let part = self.bytes.div_ceil(u64::try_from(readers).unwrap_or(1));
            for reader in 0..readers {
                let from = part * u64::try_from(reader).unwrap_or(0);
                let to = self.bytes.min(from + part);
                let (report, file, quiet) = (report.clone(), self.file, self.quiet);
                scope.spawn(move || {
                    let _quiet = quiet.then(Quiet::begin);
                    read_range(file, from, to, &report);
                });
            }
            drop(report);
            let mut done = 0;
            loop {
                match reports.recv_timeout(Duration::from_millis(50)) {
                    Ok(read) => done += read.map_err(self.failed("read"))?,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(done),
                }
                self.at(step, done)?;
            }
        })?;
        Ok(rate(done, begun.elapsed()))
    }
}

/// Ends at the first failure.
fn read_range(file: &File, from: u64, to: u64, report: &SyncSender<io::Result<u64>>) {
    let (mut buffer, mut at) = (vec![0; READ], from);
    while at < to {
        let length = usize::try_from(to - at).unwrap_or(READ).min(READ);
        let bytes = u64::try_from(length).unwrap_or(0);
        let read = file.read_exact_at(&mut buffer[..length], at).map(|()| bytes);
        at = if read.is_ok() { at + bytes } else { to };
        if report.send(read).is_err() {
            return;
        }
    }
}

fn rate(bytes: u64, time: Duration) -> Rate {
    // A clock that did not move would make the speed infinite.
    let seconds = time.as_secs_f64().max(1e-9);
    #[allow(clippy::cast_precision_loss)] // a speed need not be exact
    Rate { bytes, seconds, bytes_per_second: bytes as f64 / seconds }
}

/// Bytes that do not compress (Marsaglia's xorshift64, 2003).
fn random() -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = vec![0; RANDOM];
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests;

//! Brings a model's files into the page cache before an engine loads them.
//!
//! Whether that is worth it is decided by [`worth_it`]. Here it is done: in pieces, without those that are there already,
//! and giving way while it runs. It reads rather than advises (`POSIX_FADV_WILLNEED`, `readahead`): those return while
//! the disk still works, so there is no rate, no end and no error to see. One thread with sequential advice was also the
//! fastest way on the disk that this was tried on; two and four threads, and advice some pieces ahead, were slower.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use serde::Serialize;

use super::residency::{open, resident};
pub use super::worth::{Facts, No, Policy, Preload, worth_it};
use super::{Quiet, stopped};
use crate::error::{Error, Result};

/// Bytes of one piece: between two of them it can be stopped.
const PIECE: u64 = STEP as u64;
const STEP: usize = 8 << 20;
/// Bytes whose pieces are looked at together.
const SPAN: u64 = 64 << 30;
/// Bytes of one read, into a buffer that stays in the processor's cache.
const READ: usize = 256 << 10;
/// After that many bytes it asks again whether to go on.
const LOOK: u64 = 256 << 20;
/// A pause for the rate is slept in steps of that, so that a stop does not wait.
const NAP: Duration = Duration::from_millis(100);

/// How a preload reads.
pub struct Manner<'a> {
    /// Bytes per second that are read at most.
    pub rate: Option<u64>,
    /// Whether reads wait for everybody else's.
    pub quiet: bool,
    /// Asked after every 256 MiB; `false` ends the preload, for example under memory pressure.
    pub go_on: &'a dyn Fn() -> bool,
    /// Asked several times a second; `true` stops it.
    pub stop: &'a dyn Fn() -> bool,
    /// Told the bytes of every piece that is in memory by now.
    pub progress: &'a dyn Fn(u64),
}

/// What a preload did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Preloaded {
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes in pieces that were there already, and that were not read.
    pub found: u64,
    /// Bytes that were read.
    pub read: u64,
    /// Whether it came to the end; if not, `go_on` said no.
    pub whole: bool,
}

/// Reads the files into the page cache, one after another. Blocks. Their pages stay like those that anybody read: the
/// advice "no reuse" that other quiet reads give would throw them out first.
///
/// # Errors
/// `io_error` if a file cannot be read, `interrupted` if it was stopped.
pub fn preload<P: AsRef<Path>>(files: &[P], manner: &Manner<'_>) -> Result<Preloaded> {
    let _quiet = manner.quiet.then(Quiet::begin);
    let mut opened = Vec::new();
    let mut done = Preloaded { whole: true, ..Preloaded::default() };
    for path in files {
        let path = path.as_ref();
        let size = std::fs::metadata(path).map_err(|error| Error::io("read", path, &error))?.len();
        opened.push((path, size));
        done.bytes += size;
    }
    let mut reader = Reader { manner, begun: Instant::now(), looked: 0, buffer: vec![0; READ] };
    for (path, size) in opened {
        let file = open(path).map_err(|error| Error::io("read", path, &error))?;
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        if !reader.file(&file, size, &mut done).map_err(|error| error.named(path))? {
            done.whole = false;
            break;
        }
    }
    Ok(done)
}

/// Why reading ended early.
enum Ended {
    Stopped,
    Io(io::Error),
}

impl Ended {
    fn named(&self, path: &Path) -> Error {
        match self {
            Self::Stopped => stopped("the preload"),
            Self::Io(error) => Error::io("read", path, error),
        }
    }
}

struct Reader<'a> {
    manner: &'a Manner<'a>,
    begun: Instant,
    /// Bytes read when it last asked whether to go on.
    looked: u64,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    /// `false` if it should not go on.
    fn file(&mut self, file: &File, size: u64, done: &mut Preloaded) -> Result<bool, Ended> {
        let (mut at, mut found) = (0, Vec::new().into_iter());
        while at < size {
            if found.as_slice().is_empty() {
                found = found_pieces(file, at, size.min(at.saturating_add(SPAN))).into_iter();
            }
            self.wait(done.read)?;
            if done.read - self.looked >= LOOK {
                self.looked = done.read;
                if !(self.manner.go_on)() {
                    return Ok(false);
                }
            }
            let length = PIECE.min(size - at);
            match found.next() {
                Some(true) => done.found += length,
                _ => done.read += self.piece(file, at, length)?,
            }
            at += length;
            (self.manner.progress)(length);
        }
        Ok(true)
    }

    /// Reads a piece, or less where the file has become shorter.
    fn piece(&mut self, file: &File, from: u64, length: u64) -> Result<u64, Ended> {
        let mut read = 0;
        while read < length {
            let want = usize::try_from(length - read).unwrap_or(READ).min(READ);
            match file.read_at(&mut self.buffer[..want], from + read) {
                Ok(0) => break,
                Ok(bytes) => read += u64::try_from(bytes).unwrap_or(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Ended::Io(error)),
            }
        }
        Ok(read)
    }

    /// Until the rate allows the next piece.
    fn wait(&self, read: u64) -> Result<(), Ended> {
        #[allow(clippy::cast_precision_loss)] // a pause need not be exact
        let due = self.manner.rate.map_or(0.0, |rate| read as f64 / rate.max(1) as f64);
        let due = Duration::try_from_secs_f64(due).unwrap_or(Duration::MAX);
        loop {
            if (self.manner.stop)() {
                return Err(Ended::Stopped);
            }
            let left = due.saturating_sub(self.begun.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(NAP));
        }
    }
}

/// Which pieces of a part are there. Asked for many at once before they are read: the kernel reads ahead, and what it
/// fetched for this reader was not found there.
fn found_pieces(file: &File, from: u64, to: u64) -> Vec<bool> {
    let pieces = (from..to).step_by(STEP).map(|at| (at, PIECE.min(to - at)));
    pieces.map(|(at, length)| resident(file, at, length).is_ok_and(|found| found == Some(length))).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write as _;

    use super::*;
    use crate::disk::residency::residency;

    fn file(bytes: u64) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("temp file");
        file.write_all(&vec![7; usize::try_from(bytes).expect("small")]).expect("writes");
        file.as_file().sync_all().expect("syncs");
        fadvise(file.as_file(), 0, None, Advice::DontNeed).expect("drops");
        file
    }

    fn manner() -> Manner<'static> {
        Manner { rate: None, quiet: true, go_on: &|| true, stop: &|| false, progress: &|_| {} }
    }

    #[test]
    fn what_was_missing_is_there_afterwards_and_is_not_read_twice() {
        let files = [file(PIECE + 5), file(3), file(0)];
        let paths: Vec<&Path> = files.iter().map(tempfile::NamedTempFile::path).collect();
        let told = Cell::new(0);
        let progress = |bytes| told.set(told.get() + bytes);
        let first = preload(&paths, &Manner { progress: &progress, ..manner() }).expect("reads");
        assert_eq!((first.bytes, first.read + first.found, told.get()), (PIECE + 8, PIECE + 8, PIECE + 8));
        assert!(first.whole);
        let now = residency(&paths, &|| false).expect("answers");
        assert_eq!(now.resident, Some(now.bytes));
        let again = preload(&paths, &manner()).expect("reads");
        assert_eq!((again.read, again.found), (0, PIECE + 8));
    }

    #[test]
    fn pressure_ends_it_and_a_stop_interrupts_it() {
        let sparse = tempfile::NamedTempFile::new().expect("temp file");
        sparse.as_file().set_len(LOOK + 3 * PIECE).expect("grows");
        let done = preload(&[sparse.path()], &Manner { go_on: &|| false, ..manner() }).expect("reads");
        assert_eq!((done.read, done.whole), (LOOK, false));
        fadvise(sparse.as_file(), 0, None, Advice::DontNeed).expect("drops");
        let error = preload(&[sparse.path()], &Manner { stop: &|| true, ..manner() }).expect_err("stopped");
        assert_eq!(error.reason(), larder_jobs::Reason::Interrupted);
        assert!(preload(&[Path::new("/nowhere/at/all")], &manner()).is_err());
    }

    #[test]
    fn a_rate_is_kept() {
        let sparse = tempfile::NamedTempFile::new().expect("temp file");
        sparse.as_file().set_len(3 * PIECE).expect("grows");
        let begun = Instant::now();
        preload(&[sparse.path()], &Manner { rate: Some(8 * PIECE), ..manner() }).expect("reads");
        // Two pauses of a piece each; the last piece is read and nobody waits for it.
        assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    }
}

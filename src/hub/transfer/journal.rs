//! What is known of a partial's bytes, on the disk beside them: which came, how far they are hashed, and what of
//! that would survive a loss of power.
//!
//! `<etag>.map` is text, one line each, every line closed by its CRC-32:
//!
//! ```text
//! larder-partial 2 <size> <etag> <boot> <crc>
//! <start> <end> <crc>          these bytes were written
//! hash <at> <state> <crc>      everything before byte `at` is hashed, and this is the hash's state
//! safe <offset> <crc>          the lines before `offset` of this file stand for bytes that were flushed
//! ```
//!
//! A line is appended after what it stands for was done, so after a kill the journal never says too much. After
//! the machine itself has stopped (`<boot>` is another) written bytes may be lost, and only what lies before the
//! last `safe` counts. A torn line ends the reading. Version 1 had neither `<boot>` nor `hash` nor `safe`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::ranges::Ranges;
use crate::error::{Error, Result};
use larder_jobs::Digest;

/// A journal is compacted when it is opened; 16 MiB are 400,000 lines, those of a file of 1.6 TB.
const MAX_BYTES: u64 = 16 << 20;

/// What a journal says about a partial.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Bytes that are there.
    pub(super) ranges: Ranges,
    /// Everything before this byte is hashed, with the state of the hash.
    pub(super) hashed: Option<(u64, String)>,
}

/// The open journal of one partial. Everything here blocks.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    Bytes(Range<u64>),
    Hash(u64, String),
    Safe(u64),
}

impl Journal {
    /// Begins the journal anew with `known`, all of which must have been flushed.
    pub(super) fn begin(path: &Path, digest: &Digest, size: u64, known: &Known) -> Result<Self> {
        let mut text = closed(&format!("{} {}", header(2, digest, size), boot()));
        for Range { start, end } in known.ranges.iter() {
            text.push_str(&closed(&format!("{start} {end}")));
        }
        if let Some((at, state)) = &known.hashed {
            text.push_str(&closed(&format!("hash {at} {state}")));
        }
        text.push_str(&closed(&format!("safe {}", text.len())));
        let aside = path.with_extension("map.new");
        let opened = File::create(&aside).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_data()?;
            fs::rename(&aside, path)?;
            OpenOptions::new().append(true).open(path)
        });
        let file = opened.map_err(|error| Error::io("write", path, &error))?;
        let open = Mutex::new(Open { file, length: text.len() as u64 });
        Ok(Self { path: path.to_owned(), open })
    }

    /// Remembers that the bytes of `range` were written.
    pub(super) fn note(&self, range: &Range<u64>) -> Result<()> {
        self.append(&format!("{} {}", range.start, range.end))
    }

    /// Remembers how far the bytes are hashed.
    pub(super) fn hashed(&self, at: u64, state: &str) -> Result<()> {
        self.append(&format!("hash {at} {state}"))
    }

    /// Everything that was remembered so far ends here; for [`Self::safe`].
    pub(super) fn mark(&self) -> u64 {
        self.open().length
    }

    /// What was remembered before `mark` is flushed to the disk, and from here on the journal too.
    pub(super) fn safe(&self, mark: u64) -> Result<()> {
        self.append(&format!("safe {mark}"))?;
        let handle = self.open().file.try_clone();
        handle.and_then(|file| file.sync_data()).map_err(|error| Error::io("flush", &self.path, &error))
    }

    fn append(&self, line: &str) -> Result<()> {
        let line = closed(line);
        let mut open = self.open();
        open.file.write_all(line.as_bytes()).map_err(|error| Error::io("write", &self.path, &error))?;
        open.length += line.len() as u64;
        Ok(())
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the journal at `path` says; nothing if it is not the one of this blob.
///
/// # Errors
/// `io_error` if it is there and cannot be read.
pub(super) fn read(path: &Path, digest: &Digest, size: u64) -> Result<Known> {
    read_after(path, digest, size, boot())
}

fn read_after(path: &Path, digest: &Digest, size: u64, boot: &str) -> Result<Known> {
    let failed = |error: io::Error| Error::io("read", path, &error);
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() || found.len() > MAX_BYTES => return Ok(Known::default()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Known::default()),
        Err(error) => return Err(Error::io("look at", path, &error)),
    }
    let Some(mut lines) = Lines::open(path).map_err(failed)? else { return Ok(Known::default()) };
    let head = lines.next_text().map_err(failed)?.unwrap_or_default();
    let same = match head.strip_prefix(&header(2, digest, size)) {
        Some(rest) => rest.trim_start() == boot,
        // Version 1 said nothing about flushing; the digest is what finds out.
        None if head == header(1, digest, size) => true,
        None => return Ok(Known::default()),
    };
    let mut counts = u64::MAX;
    if !same {
        counts = 0;
        while let Some((_, line)) = lines.next(size).map_err(failed)? {
            if let Line::Safe(offset) = line {
                counts = counts.max(offset);
            }
        }
        lines = match Lines::open(path).map_err(failed)? {
            Some(lines) => lines,
            None => return Ok(Known::default()),
        };
        lines.next_text().map_err(failed)?;
    }
    let (mut known, mut earlier) = (Known::default(), None);
    while let Some((end, line)) = lines.next(size).map_err(failed)? {
        match line {
            _ if end > counts => break,
            Line::Bytes(range) => drop(known.ranges.add(range)),
            Line::Hash(at, state) => earlier = known.hashed.replace((at, state)),
            Line::Safe(_) => {}
        }
    }
    // The last hash may be ahead of what was noted of the bytes, by less than lies between two hashes.
    let frontier = known.ranges.frontier();
    let is_sound = |hash: &(u64, String)| hash.0 <= frontier;
    known.hashed = known.hashed.filter(is_sound).or_else(|| earlier.filter(is_sound));
    Ok(known)
}

/// The sound lines of a journal, one after the other; the file is never in memory as a whole.
struct Lines {
    file: io::Take<BufReader<File>>,
    at: u64,
}

impl Lines {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => Ok(Some(Self { file: BufReader::new(file).take(MAX_BYTES), at: 0 })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn next_text(&mut self) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        self.at += self.file.read_until(b'\n', &mut bytes)? as u64;
        Ok(String::from_utf8(bytes).ok().as_deref().and_then(opened).map(str::to_owned))
    }

    /// The next line and the offset of its end.
    fn next(&mut self, size: u64) -> io::Result<Option<(u64, Line)>> {
        let text = self.next_text()?;
        Ok(text.and_then(|text| Some((self.at, parse(&text, size)?))))
    }
}

fn parse(text: &str, size: u64) -> Option<Line> {
    let (first, rest) = text.split_once(' ')?;
    match first {
        "safe" => Some(Line::Safe(rest.parse().ok()?)),
        "hash" => {
            let (at, state) = rest.split_once(' ')?;
            let at = at.parse().ok().filter(|at| *at <= size)?;
            Some(Line::Hash(at, state.to_owned()))
        }
        start => {
            let (start, end) = (start.parse().ok()?, rest.parse().ok()?);
            (start < end && end <= size).then_some(Line::Bytes(start..end))
        }
    }
}

fn header(version: u32, digest: &Digest, size: u64) -> String {
    format!("larder-partial {version} {size} {}", digest.hex())
}

fn closed(line: &str) -> String {
    format!("{line} {:08x}\n", crc32fast::hash(line.as_bytes()))
}

fn opened(line: &str) -> Option<&str> {
    let (text, crc) = line.strip_suffix('\n')?.rsplit_once(' ')?;
    (u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(text.as_bytes())).then_some(text)
}

/// What the kernel calls the time since it started; where it says nothing, every process counts as a new start.
fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        match id.trim() {
            "" => format!("process-{}-{}", std::process::id(), jiff::Timestamp::now().as_nanosecond()),
            id => id.to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    struct Fixture {
        _dir: tempfile::TempDir,
        path: PathBuf,
        digest: Digest,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("x.map");
        Fixture { _dir: dir, path, digest: Digest::sha256(&"0".repeat(64)).expect("hex") }
    }

    impl Fixture {
        fn begin(&self) -> Journal {
            Journal::begin(&self.path, &self.digest, SIZE, &Known::default()).expect("begun")
        }

        fn ranges(&self, boot: &str) -> Vec<(u64, u64)> {
            let known = read_after(&self.path, &self.digest, SIZE, boot).expect("read");
            known.ranges.iter().map(|range| (range.start, range.end)).collect()
        }
    }

    #[test]
    fn after_a_kill_everything_counts_and_after_a_loss_of_power_what_was_flushed() {
        let fixture = fixture();
        let journal = fixture.begin();
        journal.note(&(0..10)).expect("noted");
        journal.hashed(10, "abcd").expect("noted");
        let mark = journal.mark();
        journal.note(&(20..30)).expect("noted");
        assert_eq!(fixture.ranges("another"), [], "nothing was flushed");
        journal.safe(mark).expect("flushed");
        journal.note(&(40..50)).expect("noted");
        assert_eq!(fixture.ranges(boot()), [(0, 10), (20, 30), (40, 50)]);
        assert_eq!(fixture.ranges("another"), [(0, 10)]);
        let known = read(&fixture.path, &fixture.digest, SIZE).expect("read");
        assert_eq!(known.hashed, Some((10, "abcd".to_owned())));

        drop(journal);
        Journal::begin(&fixture.path, &fixture.digest, SIZE, &known).expect("compacted");
        assert_eq!(read(&fixture.path, &fixture.digest, SIZE).expect("read"), known);
        assert_eq!(
            fixture.ranges("another"),
            [(0, 10), (20, 30), (40, 50)],
            "what it begins with is flushed"
        );
    }

    #[test]
    fn a_torn_line_and_a_hash_ahead_of_the_bytes_do_not_count() {
        let fixture = fixture();
        let journal = fixture.begin();
        journal.note(&(0..10)).expect("noted");
        journal.hashed(11, "abcd").expect("noted");
        assert_eq!(read(&fixture.path, &fixture.digest, SIZE).expect("read").hashed, None);
        journal.hashed(9, "ef").expect("noted");
        journal.hashed(12, "0123").expect("noted");
        let hashed = read(&fixture.path, &fixture.digest, SIZE).expect("read").hashed;
        assert_eq!(hashed, Some((9, "ef".into())), "the one before counts");
        journal.note(&(100..200)).expect("noted");
        let mut torn = fs::read(&fixture.path).expect("there");
        torn.truncate(torn.len() - 3);
        fs::write(&fixture.path, torn).expect("torn");
        assert_eq!(fixture.ranges(boot()), [(0, 10)]);
    }

    #[test]
    fn the_journal_of_the_first_version_is_read() {
        let fixture = fixture();
        let old = [header(1, &fixture.digest, SIZE), "5 9".to_owned()].map(|line| closed(&line)).concat();
        fs::write(&fixture.path, old).expect("written");
        assert_eq!(fixture.ranges(boot()), [(5, 9)]);
    }

    #[test]
    fn another_blobs_journal_and_garbage_say_nothing() {
        let fixture = fixture();
        fixture.begin().note(&(0..SIZE)).expect("noted");
        let other = Digest::sha256(&"1".repeat(64)).expect("hex");
        assert_eq!(read(&fixture.path, &other, SIZE).expect("read"), Known::default());
        assert_eq!(read(&fixture.path, &fixture.digest, SIZE + 1).expect("read"), Known::default());
        fs::write(&fixture.path, b"\xff\xfe garbage").expect("damaged");
        assert_eq!(fixture.ranges(boot()), []);
        let nowhere = fixture.path.with_extension("gone");
        assert_eq!(read(&nowhere, &fixture.digest, SIZE).expect("read"), Known::default());
    }
}

//! Memory that costs every client the same.
//!
//! A virtual machine may give memory that was free for a second or two back to its host (free page reporting), and
//! whoever fills it again pays for that, many times the price of the bytes; what a client pays would depend on how soon
//! after the last one it asks for its room. Only large free blocks are given back. So the runner fills all free
//! memory once and lets go of it but for one page in every [`TOOTH`] bytes: what is free from then on has been
//! touched, and lies in blocks too small to be given back. The kernel would move these pages together within
//! minutes (proactive compaction), so each also lies in a pipe, which holds it where it is.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::FallocateFlags;
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};

/// What is left out, for whoever needs memory while it is filled.
const SPARE: u64 = 1 << 30;
const CHUNK: u64 = 1 << 20;
/// The smallest block that Linux reports as free is 2 MiB on x86-64 with its defaults.
const TOOTH: u64 = 512 << 10;
const PAGE: u64 = 4 << 10;
/// Pages in a pipe: what anybody may have, by the kernel's defaults.
const IN_PIPE: usize = 256;

/// The pages that keep free memory in small blocks, until it is dropped.
#[derive(Debug)]
pub(crate) struct Comb {
    _file: File,
    _pipes: Vec<(PipeReader, PipeWriter)>,
}

impl Comb {
    /// On the tmpfs that `folder` lies on. Takes a minute where memory has to be fetched from the host.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join("comb");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        fs::remove_file(&path)?;
        let (zeros, mut length) = (vec![0; CHUNK as usize], 0);
        while free()? > SPARE {
            match file.write_all(&zeros) {
                Ok(()) => length += CHUNK,
                // A tmpfs may be smaller than the memory; what it cannot touch stays as it was.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let teeth: Vec<u64> = (0..length / TOOTH).map(|n| n * TOOTH).collect();
        let mut pipes = Vec::new();
        for some in teeth.chunks(IN_PIPE) {
            pipes.push(
                hold(&file, some).context("holding memory in pipes (as root there is no limit to it)")?,
            );
        }
        for tooth in teeth {
            rustix::fs::fallocate(&file, hole, tooth + PAGE, TOOTH - PAGE)?;
        }
        Ok(Self { _file: file, _pipes: pipes })
    }
}

/// A pipe with the pages of `file` at `places`.
fn hold(file: &File, places: &[u64]) -> Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    fcntl_setpipe_size(&writer, IN_PIPE * PAGE as usize)?;
    for place in places {
        let mut place = *place;
        splice(file, Some(&mut place), &writer, None, PAGE as usize, SpliceFlags::empty())?;
    }
    Ok((reader, writer))
}

/// Bytes of memory that nobody uses, not even as a cache.
fn free() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemFree:"));
    let line = line.context("MemFree in /proc/meminfo")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? << 10)
}

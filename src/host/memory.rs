//! How fast this host's memory is, roughly: several threads copy between buffers that no cache holds.
//!
//! Each copied byte counts twice, once read and once written. Writes that first fetch the line they overwrite are not
//! counted, so the bus moves up to half as much again unless the copy bypasses the caches. Other tasks, one socket out
//! of several and virtual machines make the figure smaller than the board's; it is for comparing hosts and for a lower
//! bound of load times, no benchmark.

use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Cpu, Memory, Roots, line, list};

/// All buffers together, in bytes: four times the caches, within these bounds.
const LEAST: u64 = 64 << 20;
const MOST: u64 = 256 << 20;
/// How long the threads copy.
const WINDOW: Duration = Duration::from_millis(100);
/// More threads do not make a socket's memory faster.
const THREADS: usize = 16;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Bytes read and bytes written, together, per second.
    pub bytes_per_second: f64,
    /// Bytes read and written in all.
    pub bytes: u64,
    /// How long that took.
    pub seconds: f64,
    /// Threads that copied.
    pub threads: usize,
    /// Size of all buffers in bytes.
    pub buffer_bytes: u64,
    /// Size of all last-level caches in bytes; with caches as large as the buffers the figure is too high.
    pub cache_bytes: Option<u64>,
}

/// Copies for 100 ms, with at most 256 MiB of memory; to get that memory takes about as long again, and longer on some
/// virtual machines. `None` if less than four times the memory is free, or if that is unknown. Blocks, and keeps up to 16
/// processors busy.
pub fn bandwidth(roots: &Roots) -> Option<Bandwidth> {
    let cache_bytes = cache(roots);
    let buffer_bytes = cache_bytes.map_or(MOST, |cache| cache.saturating_mul(4)).clamp(LEAST, MOST);
    if Memory::read(roots).effective_available? < 4 * buffer_bytes {
        return None;
    }
    // A fraction of a processor is not worth a thread.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let threads = (Cpu::available(roots)? as usize).clamp(1, THREADS);
    let (bytes, seconds) = copy(threads, usize::try_from(buffer_bytes).ok()?, WINDOW)?;
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let bytes_per_second = bytes as f64 / seconds;
    Some(Bandwidth { bytes_per_second, bytes, seconds, threads, buffer_bytes, cache_bytes })
}

/// Copies with `threads` between buffers of `buffers` bytes in all; bytes read and written, and seconds.
fn copy(threads: usize, buffers: usize, window: Duration) -> Option<(u64, f64)> {
    let barrier = Barrier::new(threads);
    let results: Vec<(u64, f64)> = thread::scope(|scope| {
        let all: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| passes(buffers / threads / 2, window, &barrier))).collect();
        all.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let bytes = results.iter().map(|(bytes, _)| bytes).sum();
    let seconds = results.iter().map(|(_, seconds)| *seconds).fold(0.0, f64::max);
    (results.len() == threads && seconds > 0.0).then_some((bytes, seconds))
}

/// One thread's part. The buffers are first touched here, so they lie on the memory that is nearest to the thread.
fn passes(length: usize, window: Duration, barrier: &Barrier) -> (u64, f64) {
    let (from, mut to) = (vec![1_u8; length], vec![2_u8; length]);
    let pass = u64::try_from(length).unwrap_or(u64::MAX) * 2;
    barrier.wait();
    let (begun, mut bytes) = (Instant::now(), 0);
    loop {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
        bytes += pass;
        let elapsed = begun.elapsed();
        if elapsed >= window {
            return (bytes, elapsed.as_secs_f64());
        }
    }
}

/// All last-level caches of the processors that are online.
fn cache(roots: &Roots) -> Option<u64> {
    let cpus = roots.sys.join("devices/system/cpu");
    let online = list(&line(cpus.join("online"))?)?;
    let mut seen: Vec<(String, u64)> = Vec::new();
    for cpu in online {
        let (shared, size) = last_level(&cpus.join(format!("cpu{cpu}/cache")))?;
        if !seen.iter().any(|(known, _)| *known == shared) {
            seen.push((shared, size));
        }
    }
    (!seen.is_empty()).then(|| seen.iter().map(|(_, size)| size).sum())
}

/// The processors that share it, and its bytes; sizes are written like `32768K`.
fn last_level(caches: &Path) -> Option<(String, u64)> {
    let level = |index: &usize| {
        let folder = caches.join(format!("index{index}"));
        let size = line(folder.join("size"))?.strip_suffix('K')?.parse::<u64>().ok()?.checked_mul(1024)?;
        let level: u8 = line(folder.join("level"))?.parse().ok()?;
        Some((level, line(folder.join("shared_cpu_list"))?, size))
    };
    let levels = (0..8).filter_map(|index| level(&index));
    levels.max_by_key(|(level, ..)| *level).map(|(_, shared, size)| (shared, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::facts::fixture::Machine;

    #[test]
    fn every_thread_copies_and_each_byte_counts_twice() {
        let (bytes, seconds) = copy(3, 6 << 20, Duration::from_millis(1)).expect("measures");
        assert!(bytes >= 6 << 20 && bytes.is_multiple_of(2 << 20), "three threads, whole passes: {bytes}");
        assert!((0.001..5.0).contains(&seconds));
    }

    #[test]
    fn shared_caches_count_once() {
        let machine = Machine::new();
        assert_eq!(cache(&machine.roots()), None);
        machine.write("sys/devices/system/cpu/online", "0-2");
        for (cpu, shared) in ["0-1", "0-1", "2"].iter().enumerate() {
            for (index, level, size) in [(0, 1, "32K"), (3, 3, "1024K")] {
                let folder = format!("sys/devices/system/cpu/cpu{cpu}/cache/index{index}");
                machine.write(&format!("{folder}/level"), &level.to_string());
                machine.write(&format!("{folder}/size"), size);
                machine.write(&format!("{folder}/shared_cpu_list"), shared);
            }
        }
        assert_eq!(cache(&machine.roots()), Some(2 << 20));
    }

    #[test]
    fn a_host_without_free_memory_is_left_alone() {
        assert_eq!(bandwidth(&Machine::new().roots()), None);
    }
}

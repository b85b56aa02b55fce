//! This host: its name, what it has (processors, memory, disks), and what can be measured of it in a moment.
//!
//! Everything is read from `/proc` and `/sys` below [`Roots`], so that a test can lay out another machine. What cannot
//! be read is `None`: a container shows less than a host does, and an unknown limit is not a limit of zero.

mod cgroup;
mod disks;
mod facts;
mod memory;
mod nvme;
mod pressure;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use larder_jobs::Labels;
use serde::Deserialize;

pub use disks::{Disk, Nvme};
pub use facts::{Cpu, Facts, Memory, NumaNode};
pub use memory::{Bandwidth, bandwidth};
pub use nvme::Wear;
pub use pressure::{Pressure, Pressures};

/// This host, as the user names it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name that jobs and reports show; empty means the system's host name.
    pub name: String,
    /// What jobs may select this host by.
    pub labels: Labels,
}

/// The system's host name.
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Where the kernel shows itself. The cgroup filesystem is found through `proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// The proc filesystem.
    pub proc: PathBuf,
    /// The sys filesystem.
    pub sys: PathBuf,
    /// The device nodes.
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into(), dev: "/dev".into() }
    }
}

/// No file of `/proc` or `/sys` that is read here is larger; a mountinfo of thousands of mounts is below.
const LARGEST: u64 = 4 << 20;

/// The text of one small file of the kernel's; `None` if it cannot be read.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(LARGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The one value that a file holds.
fn value<T: FromStr>(path: impl AsRef<Path>) -> Option<T> {
    read(path)?.trim().parse().ok()
}

/// The one word or line that a file holds; `None` if it is empty.
fn line(path: impl AsRef<Path>) -> Option<String> {
    read(path).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The numbers of a list as `/sys` and `/proc` write them, for example `0-3,8`; `None` if it is none or names more than
/// 65,536.
fn list(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if last < first || last - first > u32::from(u16::MAX) || numbers.len() > usize::from(u16::MAX) {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(list("5"), Some(vec![5]));
        assert_eq!(list(""), Some(Vec::new()));
        for wrong in ["x", "3-1", "0-4294967295", "1,,x"] {
            assert_eq!(list(wrong), None, "{wrong}");
        }
    }
}

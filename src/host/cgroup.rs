//! What a container may use: the limits of this process's control group and of every group above it that is visible.
//!
//! The kernel's documents `admin-guide/cgroup-v2` and `admin-guide/cgroup-v1/memory` define the files. A limit counts
//! wherever in the tree it stands, so each level is read up to the mount, and the tightest wins. With a cgroup namespace
//! or a bind mount the path in `/proc/self/cgroup` is not below the mount; then the mount itself is the nearest level.

use std::path::{Component, Path, PathBuf};

use procfs::process::MountInfo;
use procfs::{FromBufRead as _, ProcessCGroups};

use super::{Roots, read, value};

/// More levels than any container runtime nests.
const LEVELS: usize = 32;
/// Above that, version 1 means "no limit" (it says the largest multiple of the page size that fits 63 bits).
const UNLIMITED: u64 = 1 << 62;

/// The two interfaces of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The folders of this process's group for one controller, the own one first.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    version: Version,
    folders: Vec<PathBuf>,
}

/// What one level says about memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level {
    limit: Option<u64>,
    used: Option<u64>,
}

/// Memory as the control groups limit it, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// The tightest limit; `None` if there is none below the host's memory.
    pub(super) limit: Option<u64>,
    /// In use at that level (in the own group if there is no limit), without page cache that goes for the asking.
    pub(super) used: Option<u64>,
    /// What the limits leave; `None` if there are none, or if the use at one of them is unknown.
    pub(super) room: Option<u64>,
}

/// The limits of memory on a host that has `total` bytes.
pub(super) fn memory(roots: &Roots, total: Option<u64>) -> Limits {
    let Some(group) = group(roots, "memory") else { return Limits::default() };
    let unlimited = total.unwrap_or(UNLIMITED).min(UNLIMITED);
    let levels: Vec<Level> =
        group.folders.iter().map(|folder| level(folder, group.version, unlimited)).collect();
    let limited = || levels.iter().filter_map(|level| level.limit.map(|limit| (limit, level.used)));
    let tightest = limited().min_by_key(|(limit, _)| *limit);
    let own = levels.first().and_then(|level| level.used);
    let rooms: Option<Vec<u64>> = limited().map(|(limit, used)| Some(limit.saturating_sub(used?))).collect();
    Limits {
        limit: tightest.map(|(limit, _)| limit),
        used: tightest.map_or(own, |(_, used)| used),
        room: rooms.and_then(|rooms| rooms.into_iter().min()),
    }
}

fn level(folder: &Path, version: Version, unlimited: u64) -> Level {
    // Above `memory.high` a group is throttled and its page cache taken away, so it is a limit to plan with.
    let (limits, used, inactive): (&[&str], _, &[&str]) = match version {
        Version::One => {
            (&["memory.limit_in_bytes"], "memory.usage_in_bytes", &["total_inactive_file", "inactive_file"])
        }
        Version::Two => (&["memory.max", "memory.high"], "memory.current", &["inactive_file"]),
    };
    let limit = limits.iter().filter_map(|name| value::<u64>(folder.join(name))).min();
    let stat = read(folder.join("memory.stat"));
    let reclaimable = inactive.iter().find_map(|name| field(stat.as_deref()?, name));
    let used = value::<u64>(folder.join(used)).map(|used| used.saturating_sub(reclaimable.unwrap_or(0)));
    Level { limit: limit.filter(|limit| *limit < unlimited), used }
}

/// The number behind `name` in a file of `name number` lines.
fn field(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// How many processors' time the groups allow; `None` without a quota.
pub(super) fn processors(roots: &Roots) -> Option<f64> {
    let group = group(roots, "cpu")?;
    let quotas = group.folders.iter().filter_map(|folder| match group.version {
        Version::One => {
            let quota: i64 = value(folder.join("cpu.cfs_quota_us"))?;
            share(u32::try_from(quota).ok()?, value(folder.join("cpu.cfs_period_us"))?)
        }
        Version::Two => {
            let text = read(folder.join("cpu.max"))?;
            let (quota, period) = text.trim().split_once(' ')?;
            share(quota.parse().ok()?, period.parse().ok()?)
        }
    });
    quotas.min_by(f64::total_cmp)
}

fn share(quota: u32, period: u32) -> Option<f64> {
    (quota > 0 && period > 0).then(|| f64::from(quota) / f64::from(period))
}

/// The pressure file of the own group; only version 2 has one.
pub(super) fn pressure_file(roots: &Roots) -> Option<PathBuf> {
    let mounts = mounts(roots)?;
    let groups = groups(roots)?;
    let group = unified(&groups, &mounts)?;
    Some(group.folders.first()?.join("memory.pressure"))
}

fn groups(roots: &Roots) -> Option<ProcessCGroups> {
    ProcessCGroups::from_buf_read(read(roots.proc.join("self/cgroup"))?.as_bytes()).ok()
}

/// The group that a controller manages: version 1 if it is mounted there, else the unified tree.
fn group(roots: &Roots, controller: &str) -> Option<Group> {
    let mounts = mounts(roots)?;
    let groups = groups(roots)?;
    let own = groups.0.iter().find(|group| group.controllers.iter().any(|name| name == controller));
    let mount = mounts
        .iter()
        .rfind(|mount| mount.fs_type == "cgroup" && mount.super_options.contains_key(controller));
    match (own, mount) {
        (Some(own), Some(mount)) => {
            Some(Group { version: Version::One, folders: folders(&own.pathname, mount) })
        }
        _ => unified(&groups, &mounts),
    }
}

fn unified(groups: &ProcessCGroups, mounts: &[MountInfo]) -> Option<Group> {
    let own = groups.0.iter().find(|group| group.hierarchy == 0 && group.controllers.is_empty())?;
    let mount = mounts.iter().rfind(|mount| mount.fs_type == "cgroup2")?;
    Some(Group { version: Version::Two, folders: folders(&own.pathname, mount) })
}

/// From the own group up to the mount.
fn folders(pathname: &str, mount: &MountInfo) -> Vec<PathBuf> {
    let below = Path::new(pathname).strip_prefix(&mount.root).ok();
    let plain = |path: &&Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    let own = below.filter(plain).map(|path| mount.mount_point.join(path)).filter(|path| path.is_dir());
    let own = own.unwrap_or_else(|| mount.mount_point.clone());
    own.ancestors()
        .take_while(|path| path.starts_with(&mount.mount_point))
        .take(LEVELS)
        .map(Path::to_owned)
        .collect()
}

/// The mounts that this process sees, the topmost of a place last; a line that makes no sense is left out.
pub(super) fn mounts(roots: &Roots) -> Option<Vec<MountInfo>> {
    let text = read(roots.proc.join("self/mountinfo"))?;
    let mounts = text.lines().filter_map(|line| MountInfo::from_line(line).ok());
    Some(mounts.map(|mount| MountInfo { mount_point: plain(&mount.mount_point), ..mount }).collect())
}

/// Mountinfo writes a blank, a tab, a line's end and a backslash as `\` and three octal digits.
fn plain(escaped: &Path) -> PathBuf {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let bytes = escaped.as_os_str().as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let code = bytes.get(at + 1..at + 4).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(meant) if *byte == b'\\' => {
                plain.push(meant);
                at += 4;
            }
            _ => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::facts::fixture::Machine;

    const GIB: u64 = 1 << 30;

    /// A version 2 tree, mounted as a host sees it; the process is in `/pod/app`.
    fn two() -> Machine {
        let machine = Machine::new();
        machine.write("proc/self/cgroup", "0::/pod/app\n");
        machine.mount("/", "cg", "cgroup2", "rw");
        machine.write("cg/pod/app/memory.max", "max\n");
        machine
    }

    #[test]
    fn the_tightest_level_of_a_version_2_tree_counts() {
        let machine = two();
        let roots = machine.roots();
        assert_eq!(memory(&roots, Some(64 * GIB)), Limits::default(), "max is no limit");
        machine.write("cg/pod/memory.max", &format!("{}\n", 8 * GIB));
        assert_eq!(
            memory(&roots, Some(64 * GIB)).room,
            None,
            "a limit whose use is unknown leaves the unknown"
        );
        machine.write("cg/pod/memory.current", &(3 * GIB).to_string());
        machine.write("cg/pod/memory.stat", &format!("anon 5\nfile 7\nactive_file 9\ninactive_file {GIB}\n"));
        let limits = memory(&roots, Some(64 * GIB));
        assert_eq!(limits, Limits { limit: Some(8 * GIB), used: Some(2 * GIB), room: Some(6 * GIB) });
        machine.write("cg/pod/app/memory.max", &(16 * GIB).to_string());
        machine.write("cg/pod/app/memory.current", &GIB.to_string());
        assert_eq!(memory(&roots, Some(64 * GIB)), limits, "the level above is tighter");
        assert_eq!(
            memory(&roots, Some(4 * GIB)).limit,
            None,
            "a limit above the host's memory limits nothing"
        );
        machine.write("cg/pod/app/memory.high", &(5 * GIB).to_string());
        machine.write("cg/pod/app/memory.current", &(6 * GIB).to_string());
        let limits = memory(&roots, Some(64 * GIB));
        assert_eq!(
            (limits.limit, limits.room),
            (Some(5 * GIB), Some(0)),
            "throttled is full, and not below zero"
        );
    }

    #[test]
    fn a_version_1_tree_has_its_own_files_and_its_own_word_for_no_limit() {
        let machine = Machine::new();
        machine.write("proc/self/cgroup", "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n");
        // The runtime mounts the container's own group there.
        machine.mount("/docker/abc", "cg/memory", "cgroup", "rw,memory");
        machine.mount("/docker/abc", "cg/cpu", "cgroup", "rw,cpu,cpuacct");
        machine.write("cg/memory/memory.limit_in_bytes", "9223372036854771712\n");
        machine.write("cg/memory/memory.usage_in_bytes", &(2 * GIB).to_string());
        machine.write("cg/memory/memory.stat", &format!("inactive_file 1\ntotal_inactive_file {GIB}\n"));
        machine.write("cg/cpu/cpu.cfs_quota_us", "-1\n");
        machine.write("cg/cpu/cpu.cfs_period_us", "100000\n");
        let roots = machine.roots();
        assert_eq!(memory(&roots, None), Limits { used: Some(GIB), ..Limits::default() });
        assert_eq!(processors(&roots), None);
        machine.write("cg/memory/memory.limit_in_bytes", &(4 * GIB).to_string());
        machine.write("cg/cpu/cpu.cfs_quota_us", "250000\n");
        assert_eq!(memory(&roots, None).room, Some(3 * GIB));
        assert_eq!(processors(&roots), Some(2.5));
    }

    #[test]
    fn quotas_of_version_2_and_of_the_level_above() {
        let machine = two();
        machine.write("cg/pod/app/cpu.max", "max 100000\n");
        assert_eq!(processors(&machine.roots()), None);
        machine.write("cg/pod/cpu.max", "150000 100000\n");
        assert_eq!(processors(&machine.roots()), Some(1.5));
        machine.write("cg/pod/cpu.max", "150000 0\n");
        assert_eq!(processors(&machine.roots()), None, "a period of nothing is no quota");
    }

    #[test]
    fn a_path_from_outside_the_namespace_means_the_mount() {
        let machine = two();
        machine.write("cg/memory.max", &GIB.to_string());
        machine.write("cg/memory.current", "0");
        for path in ["/", "/../../elsewhere", "/gone/since"] {
            machine.write("proc/self/cgroup", &format!("0::{path}\n"));
            assert_eq!(memory(&machine.roots(), None).limit, Some(GIB), "{path}");
        }
    }

    #[test]
    fn nothing_to_read_is_nothing_known() {
        let machine = Machine::new();
        assert_eq!(memory(&machine.roots(), None), Limits::default());
        assert_eq!((processors(&machine.roots()), pressure_file(&machine.roots())), (None, None));
        machine.write("proc/self/cgroup", "nonsense");
        machine.write("proc/self/mountinfo", "more\nnonsense - \n");
        assert_eq!(memory(&machine.roots(), None), Limits::default());
    }

    #[test]
    fn escapes_of_mount_points_are_undone() {
        assert_eq!(plain(Path::new("/a\\040b\\134c")), Path::new("/a b\\c"));
        assert_eq!(plain(Path::new("/a\\9x\\04")), Path::new("/a\\9x\\04"));
    }
}

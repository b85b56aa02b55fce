//! Who has a file open, by what `/proc` shows: the answer where the kernel grants no lease, as on network filesystems or
//! for files of another user. It is whole only for root in the first PID namespace, and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use procfs::ProcError;
use procfs::process::{FDTarget, MMapPath, MountInfo, Process, all_processes};

/// The inode of the first PID namespace, the same on every Linux (`PROC_PID_INIT_INO` in `linux/proc_ns.h`).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// What `/proc` says about some files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// A process has this one.
    Held(PathBuf),
    /// No process has any of them.
    NotHeld,
    /// No process that can be seen has any of them, but not all can be seen.
    NotAll,
}

/// Whether `/proc` shows what every process of the machine has open: only to root, and only outside of containers.
pub fn sees_everything() -> bool {
    let first = fs::metadata("/proc/self/ns/pid").is_ok_and(|found| found.st_ino() == FIRST_PID_NAMESPACE);
    // The number of its files is everybody's to know; their names are not.
    first
        && Process::new(1)
            .and_then(|init| init.fd())
            .is_ok_and(|mut files| files.next().is_some_and(|file| file.is_ok()))
}

/// Looks who has any of `paths` open or mapped.
pub(super) fn look(paths: &[&Path]) -> Seen {
    let wanted: BTreeMap<(u64, u64), &Path> =
        paths.iter().filter_map(|path| Some((identity(&fs::metadata(path).ok()?), *path))).collect();
    let mut is_whole = sees_everything();
    let Ok(processes) = all_processes() else { return Seen::NotAll };
    for process in processes {
        let Ok(process) = process else { continue };
        match holds(&process, &wanted) {
            Ok(Some(path)) => return Seen::Held(path),
            Ok(None) => {}
            // A process that has ended, be it a zombie, holds nothing.
            Err(_) if !process.is_alive() || process.stat().is_ok_and(|stat| stat.state == 'Z') => {}
            Err(error) => {
                tracing::debug!(pid = process.pid, %error, "a process does not show what it has open");
                is_whole = false;
            }
        }
    }
    if is_whole { Seen::NotHeld } else { Seen::NotAll }
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.st_dev(), found.st_ino())
}

fn holds(process: &Process, wanted: &BTreeMap<(u64, u64), &Path>) -> Result<Option<PathBuf>, ProcError> {
    for open in process.fd()? {
        let Ok(open) = open else { continue };
        if let FDTarget::Path(_) = &open.target
            && let Ok(found) = fs::metadata(format!("/proc/{}/fd/{}", process.pid, open.fd))
            && let Some(path) = wanted.get(&identity(&found))
        {
            return Ok(Some((*path).to_owned()));
        }
    }
    for map in process.maps()? {
        // The device in `maps` is that of the filesystem beneath, which some filesystems number otherwise than `stat`.
        if let MMapPath::Path(_) = map.pathname
            && let Some(((_, _), path)) = wanted.iter().find(|((_, inode), _)| *inode == map.inode)
        {
            return Ok(Some((*path).to_owned()));
        }
    }
    Ok(None)
}

/// What is mounted where, in every mount namespace whose processes show it.
#[derive(Debug, Default)]
pub struct Mounts {
    own: Vec<MountInfo>,
    others: Vec<MountInfo>,
}

impl Mounts {
    /// As it is now; empty where there is no `/proc`.
    pub fn now() -> Self {
        let own = Process::myself().and_then(|process| process.mountinfo());
        let mut seen = BTreeSet::from_iter(namespace("self"));
        let processes = all_processes().into_iter().flatten().flatten();
        let others = processes
            .filter(|process| {
                namespace(&process.pid.to_string()).is_some_and(|namespace| seen.insert(namespace))
            })
            .filter_map(|process| process.mountinfo().ok())
            .flatten();
        Self { own: own.into_iter().flatten().collect(), others: others.collect() }
    }

    /// Whether `folder`, or something inside it, is mounted somewhere else, as a bind mount gives it to a container.
    pub(super) fn hold(&self, folder: &Path) -> bool {
        let Some((device, inside)) = place(folder, &self.own) else { return false };
        let all = self.own.iter().chain(&self.others);
        all.into_iter().any(|mount| mount.majmin == device && Path::new(&mount.root).starts_with(&inside))
    }
}

fn namespace(process: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{process}/ns/mnt")).map(|found| found.st_ino()).ok()
}

/// Device and path within its filesystem of a folder, by the mount that holds it.
fn place(folder: &Path, mounts: &[MountInfo]) -> Option<(String, PathBuf)> {
    let folder = folder.canonicalize().ok()?;
    // Of mounts on each other the last one counts.
    let mount = mounts
        .iter()
        .filter(|mount| folder.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.components().count())?;
    let inside = folder.strip_prefix(&mount.mount_point).ok()?;
    Some((mount.majmin.clone(), Path::new(&mount.root).join(inside)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn an_open_file_is_found_and_another_is_not() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (open, shut) = (dir.path().join("open"), dir.path().join("shut"));
        let _held = File::create_new(&open).expect("created");
        fs::write(&shut, "x").expect("written");
        assert_eq!(look(&[&shut, &open]), Seen::Held(open.clone()));
        let alone = look(&[&shut]);
        assert!(alone == Seen::NotAll || (alone == Seen::NotHeld && sees_everything()), "{alone:?}");
        assert!(!Mounts::now().hold(dir.path()));
    }
}

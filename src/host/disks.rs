//! The disk under a path: its filesystem, the block device below it, and the NVMe drives below that.
//!
//! Volumes of LVM, encryption and RAID are followed through `/sys` to the drives that they stand on. Filesystems that
//! bring their own device number (btrfs, overlay, NFS) are followed by the name of their source where that is a device.

use std::path::{Path, PathBuf};

use procfs::process::MountInfo;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Roots, Wear, cgroup, line, nvme, value};

/// Volumes on volumes on volumes; deeper stacks are not followed.
const DEPTH: usize = 6;
/// More drives than one array of a host has.
const DRIVES: usize = 64;
/// Filesystems that hold files in memory alone.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// The filesystem that holds one path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Disk {
    /// The path that was asked for.
    pub path: PathBuf,
    /// Where its filesystem is mounted.
    pub mountpoint: Option<PathBuf>,
    /// The kind of filesystem, for example `ext4`.
    pub filesystem: Option<String>,
    /// What is mounted there, for example `/dev/nvme0n1p2` or `server:/export`.
    pub source: Option<String>,
    /// The block device as a whole, for example `nvme0n1`.
    pub device: Option<String>,
    /// Whether the device says that it turns; virtual disks may say anything.
    pub rotational: Option<bool>,
    /// Whether nothing can be written: mounted so, or made so by the kernel after an error.
    pub read_only: Option<bool>,
    /// Whether files live in memory alone (tmpfs).
    pub in_memory: Option<bool>,
    /// The NVMe drives that it stands on.
    pub nvme: Vec<Nvme>,
}

/// One NVMe drive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Nvme {
    /// The block device, for example `nvme0n1`.
    pub device: String,
    /// The drive's model.
    pub model: Option<String>,
    /// Its firmware.
    pub firmware: Option<String>,
    /// The state of its controller; `live` is good.
    pub state: Option<String>,
    /// Its health; only root is told, and a container needs the device node.
    pub wear: Option<Wear>,
}

impl Disk {
    /// The disk under `path`, or under its nearest existing parent.
    pub fn under(roots: &Roots, path: &Path) -> Self {
        let mut disk = Self {
            path: path.to_owned(),
            mountpoint: None,
            filesystem: None,
            source: None,
            device: None,
            rotational: None,
            read_only: None,
            in_memory: None,
            nvme: Vec::new(),
        };
        let Some(mount) = mount(roots, path) else { return disk };
        let folder = device(roots, &mount);
        disk.rotational = folder.as_ref().and_then(|folder| flag(&folder.join("queue/rotational")));
        disk.nvme = folder.as_ref().map(|folder| drives(roots, folder)).unwrap_or_default();
        disk.device = folder.as_deref().and_then(name);
        disk.read_only = Some(read_only(&mount));
        disk.in_memory = Some(IN_MEMORY.contains(&mount.fs_type.as_str()));
        disk.mountpoint = Some(mount.mount_point);
        disk.filesystem = Some(mount.fs_type);
        disk.source = mount.mount_source;
        disk
    }
}

/// The mount that holds a path: the deepest one, and of those at one place the one that was mounted last.
fn mount(roots: &Roots, path: &Path) -> Option<MountInfo> {
    let path = std::path::absolute(path).ok()?;
    let real = path.ancestors().find_map(|path| path.canonicalize().ok())?;
    let mounts = cgroup::mounts(roots)?.into_iter().filter(|mount| real.starts_with(&mount.mount_point));
    mounts.max_by_key(|mount| mount.mount_point.components().count())
}

/// ext4 keeps its mount writable after an error on newer kernels and says `emergency_ro` instead; a filesystem that was
/// shut down after an error says `shutdown`.
fn read_only(mount: &MountInfo) -> bool {
    let says = |word: &str| mount.mount_options.contains_key(word) || mount.super_options.contains_key(word);
    ["ro", "emergency_ro", "shutdown"].into_iter().any(says)
}

/// The folder of the whole block device in `/sys`.
fn device(roots: &Roots, mount: &MountInfo) -> Option<PathBuf> {
    let by_number = roots.sys.join("dev/block").join(&mount.majmin).canonicalize().ok();
    let by_name = || {
        let source = Path::new(mount.mount_source.as_deref()?).strip_prefix("/dev").ok()?;
        let node = roots.dev.join(source).canonicalize().ok()?;
        roots.sys.join("class/block").join(node.file_name()?).canonicalize().ok()
    };
    let folder = by_number.or_else(by_name)?;
    // A partition lies in the folder of its disk.
    match folder.join("partition").exists() {
        true => folder.parent().map(Path::to_owned),
        false => Some(folder),
    }
}

/// The NVMe drives below a block device, each once.
fn drives(roots: &Roots, device: &Path) -> Vec<Nvme> {
    let (mut level, mut found) = (vec![device.to_owned()], Vec::<PathBuf>::new());
    for _ in 0..DEPTH {
        let below = level.iter().flat_map(|folder| slaves(folder)).take(DRIVES).collect();
        for folder in std::mem::replace(&mut level, below) {
            if name(&folder).is_some_and(|name| name.starts_with("nvme")) && !found.contains(&folder) {
                found.push(folder);
            }
        }
    }
    found.truncate(DRIVES);
    found.iter().filter_map(|folder| drive(roots, folder)).collect()
}

fn slaves(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.join("slaves").read_dir() else { return Vec::new() };
    let real = entries.flatten().take(DRIVES).filter_map(|entry| entry.path().canonicalize().ok());
    real.filter_map(|folder| match folder.join("partition").exists() {
        true => folder.parent().map(Path::to_owned),
        false => Some(folder),
    })
    .collect()
}

fn drive(roots: &Roots, folder: &Path) -> Option<Nvme> {
    let device = name(folder)?;
    let controller = folder.join("device");
    Some(Nvme {
        model: line(controller.join("model")),
        firmware: line(controller.join("firmware_rev")),
        state: line(controller.join("state")),
        wear: nvme::wear(&roots.dev.join(&device)),
        device,
    })
}

fn name(folder: &Path) -> Option<String> {
    Some(folder.file_name()?.to_string_lossy().into_owned())
}

fn flag(path: &Path) -> Option<bool> {
    value::<u8>(path).map(|value| value != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::host::facts::fixture::Machine;

    /// An NVMe drive with a partition `259:2`, and an LVM volume `253:0` on that.
    fn machine() -> Machine {
        let machine = Machine::new();
        let nvme = "sys/devices/pci/nvme/nvme0/nvme0n1";
        machine.write(&format!("{nvme}/queue/rotational"), "0\n");
        machine.write(&format!("{nvme}/nvme0n1p2/partition"), "2\n");
        machine.write(&format!("{nvme}/device/model"), "A Drive   \n");
        machine.write(&format!("{nvme}/device/firmware_rev"), "1.0\n");
        machine.write(&format!("{nvme}/device/state"), "live\n");
        machine.write("sys/devices/virtual/block/dm-0/queue/rotational", "1\n");
        machine.write("sys/devices/virtual/block/dm-0/slaves/.keep", "");
        machine.write("sys/dev/block/.keep", "");
        machine.write("sys/class/block/.keep", "");
        machine.write("dev/nvme0n1p2", "");
        let link = |to: &str, at: &str| symlink(machine.path(to), machine.path(at)).expect("link");
        link(&format!("{nvme}/nvme0n1p2"), "sys/dev/block/259:2");
        link("sys/devices/virtual/block/dm-0", "sys/dev/block/253:0");
        link(&format!("{nvme}/nvme0n1p2"), "sys/devices/virtual/block/dm-0/slaves/nvme0n1p2");
        link(&format!("{nvme}/nvme0n1p2"), "sys/class/block/nvme0n1p2");
        machine
    }

    #[test]
    fn a_partition_belongs_to_its_disk() {
        let machine = machine();
        machine.mount_of("/", "a b", "ext4", "259:2", "/dev/nvme0n1p2", "rw,errors=remount-ro");
        let disk = Disk::under(&machine.roots(), &machine.path("a b/not/yet"));
        assert_eq!(disk.mountpoint, Some(machine.path("a b")));
        assert_eq!((disk.device.as_deref(), disk.filesystem.as_deref()), (Some("nvme0n1"), Some("ext4")));
        assert_eq!(
            (disk.rotational, disk.read_only, disk.in_memory),
            (Some(false), Some(false), Some(false))
        );
        let [drive] = &disk.nvme[..] else { panic!("{disk:?}") };
        assert_eq!((drive.model.as_deref(), drive.state.as_deref()), (Some("A Drive"), Some("live")));
        assert_eq!(drive.wear, None, "nobody answers there");
    }

    #[test]
    fn volumes_are_followed_to_the_drives_and_subvolumes_by_name() {
        let machine = machine();
        machine.mount_of("/", "lvm", "xfs", "253:0", "/dev/mapper/vg-cache", "rw");
        machine.mount_of("/sub", "tree", "btrfs", "0:44", "/dev/nvme0n1p2", "rw");
        let volume = Disk::under(&machine.roots(), &machine.path("lvm"));
        assert_eq!((volume.device.as_deref(), volume.rotational), (Some("dm-0"), Some(true)));
        assert_eq!(volume.nvme.len(), 1);
        assert_eq!(Disk::under(&machine.roots(), &machine.path("tree")).device.as_deref(), Some("nvme0n1"));
    }

    #[test]
    fn read_only_is_noticed_in_every_way_that_a_kernel_says_it() {
        for (options, expected) in
            [("rw", false), ("ro", true), ("rw,emergency_ro", true), ("rw,shutdown", true)]
        {
            let machine = machine();
            machine.mount_of("/", "cache", "ext4", "259:2", "/dev/nvme0n1p2", options);
            let disk = Disk::under(&machine.roots(), &machine.path("cache"));
            assert_eq!(disk.read_only, Some(expected), "{options}");
        }
    }

    #[test]
    fn the_last_mount_at_a_place_is_on_top_and_the_deepest_place_counts() {
        let machine = machine();
        machine.mount_of("/", "cache", "ext4", "259:2", "/dev/nvme0n1p2", "rw");
        machine.mount_of("/", "", "ext4", "253:0", "/dev/mapper/x", "rw");
        machine.mount_of("/", "cache", "tmpfs", "0:50", "tmpfs", "rw");
        let disk = Disk::under(&machine.roots(), &machine.path("cache"));
        assert_eq!((disk.in_memory, disk.device, disk.nvme.len()), (Some(true), None, 0));
    }

    #[test]
    fn a_path_without_a_mount_is_unknown() {
        let disk = Disk::under(&Machine::new().roots(), Path::new("/"));
        assert_eq!((disk.filesystem, disk.read_only, disk.rotational), (None, None, None));
    }
}

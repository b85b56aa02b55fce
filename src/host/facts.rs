//! What this host has: system, processors, memory, NUMA nodes and the disks below given paths.
//!
//! A container is told the host's memory and processors by most files; what it may use is in its control groups. Both
//! are here, and `effective_available` and `cpu.available` are what to plan with.

use std::path::Path;

use procfs::{CpuInfo, FromBufRead as _, Meminfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Disk, Roots, cgroup, line, list, read};

/// This host. `None` is unknown, never zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Facts {
    /// The operating system and its version; in a container that of the image.
    pub os: Option<String>,
    /// The kernel's release.
    pub kernel: String,
    /// The machine's architecture, for example `x86_64` or `aarch64`.
    pub architecture: String,
    /// The processors.
    pub cpu: Cpu,
    /// The memory.
    pub memory: Memory,
    /// The NUMA nodes; some hold a GPU's memory and no processor.
    pub numa_nodes: Option<Vec<NumaNode>>,
    /// The filesystems of the paths that were asked for, in that order.
    pub disks: Vec<Disk>,
}

/// The processors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cpu {
    /// The name that the processor gives itself, or its design where it has none (ARM).
    pub brand: Option<String>,
    /// Cores that are online.
    pub physical_cores: Option<usize>,
    /// Hardware threads that are online.
    pub logical_cores: Option<usize>,
    /// Processors' time that this process may use: its affinity, or the control groups' quota if that is less.
    pub available: Option<f64>,
}

/// Memory in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "HostMemory")]
pub struct Memory {
    /// The host's.
    pub total: Option<u64>,
    /// What the kernel thinks it can give without swapping.
    pub available: Option<u64>,
    /// Swap space.
    pub swap_total: Option<u64>,
    /// Swap space that is free.
    pub swap_free: Option<u64>,
    /// The tightest limit of a control group, if there is one below `total`.
    pub cgroup_limit: Option<u64>,
    /// In use where that limit is (in the own group without one), without inactive page cache.
    pub cgroup_used: Option<u64>,
    /// What this process may count on: the host's `available`, or what the control groups leave if that is less. Unknown
    /// if there is a limit whose use is unknown.
    pub effective_available: Option<u64>,
}

/// One NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NumaNode {
    /// Its number.
    pub node: u32,
    /// Its memory in bytes.
    pub memory: Option<u64>,
    /// Its hardware threads.
    pub logical_cores: Option<usize>,
}

impl Facts {
    /// Reads everything; `paths` name the filesystems that matter. Blocks for some milliseconds; as root also until each
    /// NVMe drive has told its wear, which a drive that hangs may take a minute for.
    pub fn read(roots: &Roots, paths: &[&Path]) -> Self {
        let uname = rustix::system::uname();
        Self {
            os: sysinfo::System::long_os_version().ok(),
            kernel: uname.release().to_string_lossy().into_owned(),
            architecture: uname.machine().to_string_lossy().into_owned(),
            cpu: Cpu::read(roots),
            memory: Memory::read(roots),
            numa_nodes: nodes(roots),
            disks: paths.iter().map(|path| Disk::under(roots, path)).collect(),
        }
    }
}

impl Cpu {
    fn read(roots: &Roots) -> Self {
        let cpus = roots.sys.join("devices/system/cpu");
        let online = line(cpus.join("online")).and_then(|text| list(&text));
        Self {
            brand: brand(roots),
            physical_cores: online.as_ref().and_then(|online| cores(&cpus, online)),
            logical_cores: online.map(|online| online.len()),
            available: Self::available(roots),
        }
    }

    /// The processors' time alone; see the field.
    pub(super) fn available(roots: &Roots) -> Option<f64> {
        let affinity = f64::from(u32::try_from(affinity(roots)?).ok()?);
        Some(cgroup::processors(roots).map_or(affinity, |quota| quota.min(affinity)))
    }
}

/// Threads of one core name each other, so as many different lists as there are cores.
fn cores(cpus: &Path, online: &[u32]) -> Option<usize> {
    let siblings = |cpu: &u32| line(cpus.join(format!("cpu{cpu}/topology/thread_siblings_list")));
    let cores: Option<std::collections::HashSet<String>> = online.iter().map(siblings).collect();
    cores.map(|cores| cores.len())
}

fn affinity(roots: &Roots) -> Option<usize> {
    let status = read(roots.proc.join("self/status"))?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    list(allowed).map(|cpus| cpus.len()).filter(|count| *count > 0)
}

/// ARM processors do not say their name; sysinfo knows the designs by their numbers, on the real machine only.
fn brand(roots: &Roots) -> Option<String> {
    let info = CpuInfo::from_buf_read(read(roots.proc.join("cpuinfo"))?.as_bytes()).ok()?;
    let first = info.cpus.first().and_then(|cpu| cpu.get("model name"));
    let named = info.fields.get("model name").or(first).cloned();
    let by_design = || -> Option<String> {
        let mut system = sysinfo::System::new().ok()?;
        system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
        system.cpus().first().map(|cpu| cpu.brand().trim().to_owned())
    };
    let real = *roots == Roots::default();
    named.or_else(|| real.then(by_design).flatten()).filter(|brand| !brand.is_empty())
}

impl Memory {
    /// Reads the memory alone; cheap enough for every decision.
    pub fn read(roots: &Roots) -> Self {
        let info = read(roots.proc.join("meminfo"));
        let info = info.and_then(|text| Meminfo::from_buf_read(text.as_bytes()).ok());
        let total = info.as_ref().map(|info| info.mem_total);
        let available = info.as_ref().and_then(|info| info.mem_available);
        let cgroup::Limits { limit, used, room } = cgroup::memory(roots, total);
        let effective_available = match limit {
            None => available,
            Some(_) => room.map(|room| available.map_or(room, |available| available.min(room))),
        };
        Self {
            total,
            available,
            swap_total: info.as_ref().map(|info| info.swap_total),
            swap_free: info.as_ref().map(|info| info.swap_free),
            cgroup_limit: limit,
            cgroup_used: used,
            effective_available,
        }
    }
}

fn nodes(roots: &Roots) -> Option<Vec<NumaNode>> {
    let folder = roots.sys.join("devices/system/node");
    let online = list(&line(folder.join("online"))?)?;
    let node = |node: u32| {
        let folder = folder.join(format!("node{node}"));
        let info = read(folder.join("meminfo"));
        let logical_cores = read(folder.join("cpulist")).and_then(|text| list(&text)).map(|cpus| cpus.len());
        NumaNode { node, memory: info.as_deref().and_then(node_total), logical_cores }
    };
    Some(online.into_iter().map(node).collect())
}

/// `Node 0 MemTotal:       24684092 kB`.
fn node_total(info: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.split_once("MemTotal:"))?.1;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Another machine, laid out in files.
#[cfg(test)]
pub(super) mod fixture {
    use std::fs;
    use std::io::Write as _;
    use std::path::PathBuf;

    use super::*;

    /// A folder that stands for `/`.
    pub(in crate::host) struct Machine(tempfile::TempDir);

    impl Machine {
        pub(in crate::host) fn new() -> Self {
            Self(tempfile::tempdir().expect("temp dir"))
        }

        pub(in crate::host) fn path(&self, name: &str) -> PathBuf {
            self.0.path().canonicalize().expect("is there").join(name)
        }

        pub(in crate::host) fn roots(&self) -> Roots {
            Roots { proc: self.path("proc"), sys: self.path("sys"), dev: self.path("dev") }
        }

        pub(in crate::host) fn write(&self, name: &str, text: &str) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
            fs::write(path, text).expect("file");
        }

        /// Adds a line of mountinfo; `at` is a folder of the machine, which is made.
        pub(in crate::host) fn mount(&self, root: &str, at: &str, kind: &str, options: &str) {
            self.mount_of(root, at, kind, "0:7", "none", options);
        }

        /// The same for one device.
        pub(in crate::host) fn mount_of(
            &self,
            root: &str,
            at: &str,
            kind: &str,
            number: &str,
            source: &str,
            options: &str,
        ) {
            let at = self.path(at);
            fs::create_dir_all(&at).expect("folder");
            let list = self.path("proc/self/mountinfo");
            fs::create_dir_all(list.parent().expect("a folder")).expect("folder");
            let mut list = fs::File::options().create(true).append(true).open(list).expect("mountinfo");
            let at = at.display().to_string().replace(' ', "\\040");
            writeln!(list, "31 23 {number} {root} {at} rw,relatime shared:9 - {kind} {source} {options}")
                .expect("line");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::Machine;
    use super::*;

    const MEMINFO: &str = "MemTotal: 67108864 kB\nMemFree: 1024 kB\nMemAvailable: 33554432 kB\nBuffers: 0 kB\n\
        Cached: 0 kB\nSwapCached: 0 kB\nActive: 0 kB\nInactive: 0 kB\nSwapTotal: 2048 kB\nSwapFree: 1024 kB\n\
        Dirty: 0 kB\nWriteback: 0 kB\nMapped: 0 kB\nSlab: 0 kB\nCommitted_AS: 0 kB\nVmallocTotal: 0 kB\n\
        VmallocUsed: 0 kB\nVmallocChunk: 0 kB\n";
    const GIB: u64 = 1 << 30;

    /// Two cores with two threads each; this process may use three of them.
    fn machine() -> Machine {
        let machine = Machine::new();
        machine.write("proc/meminfo", MEMINFO);
        machine.write("proc/cpuinfo", "processor\t: 0\nmodel name\t: A Processor\n\nprocessor\t: 1\n\n");
        machine.write("proc/self/status", "Name:\tx\nCpus_allowed:\t7\nCpus_allowed_list:\t0-2\n");
        machine.write("sys/devices/system/cpu/online", "0-3\n");
        for (cpu, siblings) in ["0,2", "1,3", "0,2", "1,3"].iter().enumerate() {
            machine
                .write(&format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"), siblings);
        }
        machine
    }

    #[test]
    fn a_container_has_its_own_limits_and_not_the_hosts() {
        let machine = machine();
        let free = Memory::read(&machine.roots());
        assert_eq!(
            (free.total, free.swap_total, free.swap_free),
            (Some(64 * GIB), Some(2 << 20), Some(1 << 20))
        );
        assert_eq!((free.cgroup_limit, free.effective_available), (None, Some(32 * GIB)));
        machine.write("proc/self/cgroup", "0::/\n");
        machine.mount("/", "cg", "cgroup2", "rw");
        machine.write("cg/memory.max", &(16 * GIB).to_string());
        let unknown = Memory::read(&machine.roots());
        assert_eq!((unknown.cgroup_limit, unknown.effective_available), (Some(16 * GIB), None));
        machine.write("cg/memory.current", &(12 * GIB).to_string());
        machine.write("cg/memory.stat", &format!("inactive_file {}\n", 8 * GIB));
        machine.write("cg/cpu.max", "150000 100000");
        let facts = Facts::read(&machine.roots(), &[]);
        assert_eq!(facts.memory.effective_available, Some(12 * GIB), "page cache is not in the way");
        assert_eq!(facts.cpu.available, Some(1.5));
    }

    #[test]
    fn cores_threads_and_affinity_are_three_numbers() {
        let machine = machine();
        let cpu = Cpu::read(&machine.roots());
        assert_eq!(cpu.brand.as_deref(), Some("A Processor"));
        assert_eq!((cpu.physical_cores, cpu.logical_cores, cpu.available), (Some(2), Some(4), Some(3.0)));
    }

    #[test]
    fn nodes_have_their_memory() {
        let machine = machine();
        assert_eq!(nodes(&machine.roots()), None);
        machine.write("sys/devices/system/node/online", "0-1");
        machine.write(
            "sys/devices/system/node/node0/meminfo",
            "Node 0 MemTotal:  1024 kB\nNode 0 MemFree: 1 kB\n",
        );
        machine.write("sys/devices/system/node/node0/cpulist", "0-3\n");
        machine.write("sys/devices/system/node/node1/cpulist", "\n");
        let expected = [
            NumaNode { node: 0, memory: Some(1 << 20), logical_cores: Some(4) },
            NumaNode { node: 1, memory: None, logical_cores: Some(0) },
        ];
        assert_eq!(nodes(&machine.roots()).as_deref(), Some(&expected[..]));
    }

    #[test]
    fn a_machine_that_shows_nothing_is_unknown_and_not_zero() {
        let facts = serde_json::to_value(Facts::read(&Machine::new().roots(), &[])).expect("serialises");
        for field in ["physical_cores", "logical_cores", "available", "brand"] {
            assert!(facts["cpu"][field].is_null(), "{field}");
        }
        for (field, value) in facts["memory"].as_object().expect("an object") {
            assert!(value.is_null(), "{field}");
        }
        assert!(facts["numa_nodes"].is_null());
    }

    #[test]
    fn this_machine_answers() {
        let facts = Facts::read(&Roots::default(), &[Path::new("/")]);
        let memory = &facts.memory;
        assert!(
            memory.total > memory.effective_available && memory.effective_available > Some(0),
            "{memory:?}"
        );
        assert!(facts.cpu.available.is_some_and(|cpus| cpus > 0.0));
        assert_eq!(facts.disks.len(), 1);
    }
}

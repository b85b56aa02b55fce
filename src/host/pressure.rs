//! Memory pressure: how much of the last ten seconds tasks waited for memory (the kernel's PSI, `accounting/psi`).
//!
//! Kernels without PSI, and containers that hide it, have no file: that is `None`, and whoever decides says what it does
//! without.

use std::path::Path;

use procfs::{FromBufRead as _, MemoryPressure};
use serde::{Deserialize, Serialize};

use super::{Roots, cgroup, read};

/// Shares of the last ten seconds, in per cent (0 to 100).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// At least one task waited for memory.
    pub some_avg10: f64,
    /// All tasks that had something to do waited for memory.
    pub full_avg10: f64,
}

/// The pressure on the host and on this process's own control group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressures {
    /// The host as this process sees it.
    pub host: Option<Pressure>,
    /// The own control group (version 2 only).
    pub cgroup: Option<Pressure>,
}

impl Pressures {
    /// Reads both; cheap enough for every piece of a long read.
    pub fn read(roots: &Roots) -> Self {
        Self {
            host: pressure(&roots.proc.join("pressure/memory")),
            cgroup: cgroup::pressure_file(roots).and_then(|path| pressure(&path)),
        }
    }

    /// The higher one of each share; `None` if neither is known.
    pub fn worst(&self) -> Option<Pressure> {
        [self.host, self.cgroup].into_iter().flatten().reduce(|one, other| Pressure {
            some_avg10: one.some_avg10.max(other.some_avg10),
            full_avg10: one.full_avg10.max(other.full_avg10),
        })
    }
}

fn pressure(path: &Path) -> Option<Pressure> {
    let parsed = MemoryPressure::from_buf_read(read(path)?.as_bytes()).ok()?;
    let share = |avg10: f32| (0.0..=100.0).contains(&avg10).then_some(f64::from(avg10));
    Some(Pressure { some_avg10: share(parsed.some.avg10)?, full_avg10: share(parsed.full.avg10)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::facts::fixture::Machine;

    fn lines(some: &str, full: &str) -> String {
        format!(
            "some avg10={some} avg60=0.10 avg300=0.00 total=5548989\n\
             full avg10={full} avg60=0.00 avg300=0.00 total=4656495\n"
        )
    }

    #[test]
    fn the_worse_of_host_and_own_group_counts() {
        let machine = Machine::new();
        let roots = machine.roots();
        assert_eq!(Pressures::read(&roots).worst(), None, "no file, nothing known");
        machine.write("proc/pressure/memory", &lines("1.50", "0.50"));
        machine.write("proc/self/cgroup", "0::/app\n");
        machine.mount("/", "cg", "cgroup2", "rw");
        machine.write("cg/app/memory.pressure", &lines("0.25", "0.75"));
        let pressures = Pressures::read(&roots);
        assert_eq!(pressures.host, Some(Pressure { some_avg10: 1.5, full_avg10: 0.5 }));
        assert_eq!(pressures.worst(), Some(Pressure { some_avg10: 1.5, full_avg10: 0.75 }));
    }

    #[test]
    fn nonsense_is_unknown() {
        let machine = Machine::new();
        let some = "some avg10=1.00 avg60=0.00 avg300=0.00 total=1\n";
        for text in ["", "x\n", some, &lines("NaN", "0.00"), &lines("0.00", "-3"), &lines("1e9", "0.00")] {
            machine.write("proc/pressure/memory", text);
            assert_eq!(Pressures::read(&machine.roots()), Pressures::default(), "{text}");
        }
    }
}

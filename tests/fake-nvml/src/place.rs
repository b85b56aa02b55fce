//! For tests: a copy of the library in a folder of its own, with its file beside it.
//!
//! Each copy is a library of its own to the loader, so tests of one process do not share GPUs. And a copy can be made
//! to lack functions, as an old driver does: their names are spoiled in the copy's table of symbols, so that looking
//! them up fails as it fails with an old driver.

use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::config::Config;

/// Functions that the driver 470 does not have and that the wrapper asks for.
pub const OLD_DRIVER: &[&str] = &[
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
    "nvmlDeviceGetCurrentClocksEventReasons",
];

/// A library with its GPUs; gone on drop.
#[derive(Debug)]
pub struct Fake {
    dir: TempDir,
}

impl Fake {
    /// A driver that has all functions.
    ///
    /// # Errors
    /// What the copying said; the library is there once cargo has built the test or example that asks.
    pub fn new(config: &Config) -> io::Result<Self> {
        Self::without(config, &[])
    }

    /// A driver that lacks these functions.
    ///
    /// # Errors
    /// As [`Fake::new`]; `InvalidInput` if the library never had one of them.
    pub fn without(config: &Config, functions: &[&str]) -> io::Result<Self> {
        let mut library = std::fs::read(built()?)?;
        for function in functions {
            spoil(&mut library, function)?;
        }
        let fake = Self { dir: TempDir::new()? };
        std::fs::write(fake.library(), library)?;
        fake.set(config)?;
        Ok(fake)
    }

    /// What to load.
    pub fn library(&self) -> PathBuf {
        self.dir.path().join("libnvidia-ml.so.1")
    }

    /// From now on the GPUs are these.
    ///
    /// # Errors
    /// What the writing said.
    pub fn set(&self, config: &Config) -> io::Result<()> {
        let (new, path) = (self.dir.path().join("new"), self.dir.path().join("libnvidia-ml.so.json"));
        std::fs::write(&new, serde_json::to_vec_pretty(config)?)?;
        std::fs::rename(new, path)
    }
}

/// Where cargo put the library: beside the binary of a test, and in the folder of the dependencies for an example.
fn built() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().unwrap_or(Path::new("."));
    let beside = folder.join("libfake_nvml.so");
    if beside.exists() { Ok(beside) } else { Ok(folder.join("../deps/libfake_nvml.so")) }
}

fn spoil(library: &mut [u8], function: &str) -> io::Result<()> {
    let name = [b"\0", function.as_bytes(), b"\0"].concat();
    let mut found = false;
    let mut from = 0;
    while let Some(at) = library[from..].windows(name.len()).position(|window| window == name) {
        library[from + at + 1] = b'-';
        from += at + name.len() - 1;
        found = true;
    }
    if found {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the library has no {function}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_name_is_spoiled() {
        let mut library = b"\0nvmlInit\0nvmlInit_v2\0nvmlInit\0".to_vec();
        spoil(&mut library, "nvmlInit").expect("there");
        assert_eq!(library, b"\0-vmlInit\0nvmlInit_v2\0-vmlInit\0");
        assert!(spoil(&mut library, "nvmlInit").is_err());
    }
}

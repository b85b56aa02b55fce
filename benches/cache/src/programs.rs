//! The programs that are measured, with an environment that has nothing of the caller's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The folder of this package.
pub(crate) fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// larder for one cache and with one state folder.
#[derive(Debug)]
pub(crate) struct Larder {
    pub(crate) program: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
}

impl Larder {
    /// Its program with those words. Logs at `info`, of which only `--verbose` shows what is below an error.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = clean(&self.program, &self.state);
        command.args(words);
        command.env("LARDER__CACHE__ROOT", &self.root).env("LARDER__STATE__PATH", &self.state);
        let log = if words == ["serve"] { "warn" } else { "info" };
        command.env("LARDER__LOG__LEVEL", log).env("LARDER__API__LISTEN", "");
        command.env("LARDER__CACHE__EVICT", "all").env("LARDER__CACHE__MIN_AGE", "0s");
        // With those two anything may go, so the disk's own room must never be a reason for it.
        command.env("LARDER__CACHE__KEEP_FREE", "0");
        command.env("LARDER__CACHE__HIGH_WATERMARK", "100%").env("LARDER__CACHE__LOW_WATERMARK", "100%");
        // No round of the keeper falls into a measurement.
        command.env("LARDER__CACHE__CHECK_EVERY", "1h");
        command
    }
}

/// The hub's own client.
#[derive(Debug)]
pub(crate) struct Hub {
    /// A virtual environment with huggingface_hub.
    pub(crate) venv: PathBuf,
    /// Where it may keep what it wants to keep.
    pub(crate) scratch: PathBuf,
}

impl Hub {
    /// `hf cache ls` of the cache in `root`, as a person sees it.
    pub(crate) fn ls(&self, root: &Path) -> Command {
        let mut command = self.clean("hf");
        command.args(["cache", "ls", "--format", "human", "--cache-dir"]).arg(root);
        command
    }

    /// `scan.py` for the cache in `root`.
    pub(crate) fn scan(&self, root: &Path) -> Command {
        let mut command = self.clean("python");
        command.arg(home().join("scan.py")).arg(root);
        command
    }

    fn clean(&self, program: &str) -> Command {
        let mut command = clean(&self.venv.join("bin").join(program), &self.scratch);
        let off = ["PROGRESS_BARS", "TELEMETRY", "UPDATE_CHECK"];
        command.envs(off.map(|what| (format!("HF_HUB_DISABLE_{what}"), "1"))).env("HF_HUB_OFFLINE", "1");
        command
    }

    /// The version that `requirements.txt` pins.
    pub(crate) fn version() -> Result<String> {
        let file = home().join("requirements.txt");
        let pins = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let pin = pins.lines().find_map(|line| line.strip_prefix("huggingface_hub=="));
        Ok(pin.context("huggingface_hub is not pinned")?.to_owned())
    }
}

/// A program in `folder` with no more of an environment than it needs to start.
fn clean(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", folder).env("LANG", "C.UTF-8").current_dir(folder);
    command
}

//! The binary under test in a house of its own: nothing of the developer's environment reaches it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::daemon::{Daemon, DaemonOptions};
use crate::hub::Hub;
use crate::process::{self, Output};

/// The binary of the package whose test says this, in fresh folders, fetching from that hub.
#[macro_export]
macro_rules! larder {
    ($hub:expr) => {
        $crate::Larder::new(::std::path::Path::new(env!("CARGO_BIN_EXE_larder"))).hub($hub)
    };
}

/// A `larder` binary with its own home, cache and state; the folders go when this is dropped.
#[derive(Debug)]
pub struct Larder {
    binary: PathBuf,
    root: TempDir,
    cache: PathBuf,
    state: PathBuf,
    variables: Vec<(OsString, OsString)>,
    timeout: Duration,
}

impl Larder {
    /// The binary at this path, in fresh folders.
    pub fn new(binary: &Path) -> Self {
        let root = tempfile::Builder::new().prefix("larder-").tempdir().expect("a temporary folder");
        for folder in ["home", "hub", "state"] {
            std::fs::create_dir(root.path().join(folder)).expect("a fresh folder");
        }
        let cache = root.path().join("hub");
        let state = root.path().join("state");
        Self {
            binary: binary.into(),
            root,
            cache,
            state,
            variables: Vec::new(),
            timeout: Duration::from_secs(120),
        }
    }

    /// Fetches from this hub.
    pub fn hub(self, hub: &Hub) -> Self {
        self.env("HF_ENDPOINT", hub.endpoint())
    }

    /// Sets a variable, also one of those set by default.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.set_env(name, value);
        self
    }

    /// Same, from now on.
    pub fn set_env(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.variables.push((name.into(), value.into()));
    }

    /// Uses a cache elsewhere (a small filesystem, a shared one).
    pub fn with_cache(mut self, cache: &Path) -> Self {
        self.cache = cache.into();
        self
    }

    /// Keeps its records elsewhere (on a disk whose power can be cut).
    pub fn with_state(mut self, state: &Path) -> Self {
        self.state = state.into();
        self
    }

    /// After how long [`Larder::run`] kills; two minutes unless said otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The folder that holds home, cache and state; the working directory of every run.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The hub cache.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The state folder.
    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    /// The home folder.
    pub fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    /// A command with the environment set, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).current_dir(self.root()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
            .env("HOME", self.home())
            .env("HF_HUB_CACHE", &self.cache)
            .env("LARDER__STATE__PATH", self.state());
        command.env("LARDER__API__LISTEN", "127.0.0.1:0").env("NO_COLOR", "1").env("NO_PROXY", "*");
        // A disk that is nearly full is no reason for a test to fail.
        command.env("LARDER__CACHE__KEEP_FREE", "0");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs to the end; kills when the time is over.
    pub fn run(&self, args: &[&str]) -> Output {
        process::run(&mut self.command(args), self.timeout)
    }

    /// Starts `serve` and waits until it is ready.
    #[track_caller]
    pub fn serve(&self) -> Daemon {
        let mut daemon = self.spawn(&["serve"]);
        let socket = daemon.socket();
        daemon.wait_ready(&socket, Duration::from_secs(30));
        daemon
    }

    /// Starts any verb under the daemon's guard, without waiting.
    pub fn spawn(&self, args: &[&str]) -> Daemon {
        Daemon::spawn(
            self.command(args),
            DaemonOptions { state_dir: self.state(), cache_dir: self.cache.clone() },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_developers_environment_gets_in() {
        let larder = Larder::new(Path::new("/usr/bin/env")).env("NO_COLOR", "0").env("HF_TOKEN", "hf_x");
        let output = larder.run(&[]).expect_code(0);
        let mut names: Vec<&str> = output.stdout.lines().filter_map(|line| line.split('=').next()).collect();
        names.sort_unstable();
        let want = [
            "HF_HUB_CACHE",
            "HF_TOKEN",
            "HOME",
            "LARDER__API__LISTEN",
            "LARDER__CACHE__KEEP_FREE",
            "LARDER__STATE__PATH",
            "NO_COLOR",
            "NO_PROXY",
            "PATH",
        ];
        assert_eq!(names, want);
        assert!(output.stdout.contains("NO_COLOR=0"));
    }

    #[test]
    fn what_hangs_is_killed() {
        let output = Larder::new(Path::new("/bin/sleep")).timeout(Duration::from_millis(50)).run(&["100"]);
        assert!(output.timed_out);
        assert_eq!(output.code, 128 + 9);
    }
}

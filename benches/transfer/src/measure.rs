//! One run of one client: started, timed until its bytes are with the kernel's disk, checked, removed.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use wait4::{ResourceUsage, Wait4 as _};

use crate::client::{Client, Order};
use crate::house::House;
use crate::model::{Model, check};

/// The most that one run may take.
const LIMIT: Duration = Duration::from_secs(1_200);

/// What one run cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    /// Seconds from the start of the process until `syncfs` of the destination came back.
    pub(crate) wall: f64,
    /// CPU seconds of the client, user and system.
    pub(crate) cpu: f64,
    /// Its peak resident memory, bytes.
    pub(crate) rss: u64,
    /// CPU seconds of the hub in that time.
    pub(crate) hub_cpu: f64,
    /// Requests for files, to both origins.
    pub(crate) requests: u64,
    /// Requests for information and listings.
    pub(crate) listings: u64,
}

/// What stays the same for all runs.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) larder: PathBuf,
    /// Runs of `larder stage` with everything present.
    pub(crate) warm_runs: usize,
}

impl Bench {
    /// Runs `client` into a new folder below `place` and removes it afterwards. With `bytes`, every byte is compared
    /// with what was served; sizes always are.
    pub(crate) fn run(
        &self,
        client: Client,
        model: &Model,
        house: &mut House,
        place: &Path,
        bytes: bool,
    ) -> Result<Outcome> {
        let folder = fresh(place)?;
        let addresses = house.addresses.clone();
        let order = Order { model, hub: &addresses, folder: &folder };
        let outcome = self.run_in(client, &order, house, bytes);
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        outcome
    }

    fn run_in(&self, client: Client, order: &Order, house: &mut House, bytes: bool) -> Result<Outcome> {
        let command = client.command(order, &self.larder)?;
        let place = File::open(order.folder)?;
        rustix::fs::syncfs(&place)?;
        let (before, cpu_before) = (house.counts()?, house.cpu()?);
        let begun = Instant::now();
        let usage = finish(command)?;
        rustix::fs::syncfs(&place)?;
        let wall = begun.elapsed().as_secs_f64();
        let (after, cpu_after) = (house.counts()?, house.cpu()?);
        if let Some(root) = client.root(order) {
            check(order.model, &root, bytes)?;
        }
        Ok(Outcome {
            wall,
            cpu: (usage.utime + usage.stime).as_secs_f64(),
            rss: usage.maxrss,
            hub_cpu: cpu_after - cpu_before,
            requests: after.resolve + after.cdn - before.resolve - before.cdn,
            listings: after.api - before.api,
        })
    }

    /// Stages a model, then again and again with everything present: wall seconds of each.
    pub(crate) fn warm(&self, model: &Model, house: &mut House, place: &Path) -> Result<Vec<f64>> {
        let folder = fresh(place)?;
        let addresses = house.addresses.clone();
        let order = Order { model, hub: &addresses, folder: &folder };
        finish(Client::Larder.command(&order, &self.larder)?)?;
        let before = house.counts()?;
        let mut walls = Vec::new();
        for _ in 0..self.warm_runs {
            let command = Client::Larder.command(&order, &self.larder)?;
            let begun = Instant::now();
            finish(command)?;
            walls.push(begun.elapsed().as_secs_f64());
        }
        let after = house.counts()?;
        fs::remove_dir_all(&folder)?;
        if after.resolve + after.cdn != before.resolve + before.cdn {
            bail!("files were fetched though all were there");
        }
        Ok(walls)
    }
}

fn fresh(place: &Path) -> Result<PathBuf> {
    let folder = place.join("run");
    fs::create_dir_all(place)?;
    fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// Waits for a program to end well, and says what it has used; one that takes too long is killed.
fn finish(mut command: Command) -> Result<ResourceUsage> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
    let mut errors = child.stderr.take().context("its errors are read")?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        // Whatever was read until then is shown.
        let _ = errors.read_to_end(&mut text);
        String::from_utf8_lossy(&text).trim().to_owned()
    });
    let pid = Pid::from_child(&child);
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    let timeout = Timespec { tv_sec: i64::try_from(LIMIT.as_secs())?, tv_nsec: 0 };
    let late = poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&timeout))? == 0;
    if late {
        child.kill()?;
    }
    let used = child.wait4()?;
    let said = reader.join().unwrap_or_default();
    if late {
        bail!("{name} had not ended after {} s", LIMIT.as_secs());
    }
    if !used.status.success() {
        let tail: Vec<&str> = said.lines().rev().take(3).collect();
        bail!("{name}: {}: {}", used.status, tail.into_iter().rev().collect::<Vec<_>>().join(" / "));
    }
    Ok(used.rusage)
}

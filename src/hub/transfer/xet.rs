//! A file over Xet: whether it is asked for and to be had, a child process that brings it ([`super::child`]), and
//! what that brought, taken over as a partial.
//!
//! hf-xet writes a file from its first byte on, so whatever the child brought before it ended is a beginning that the
//! ranged transfer goes on from, and the digest is checked there as ever. One child runs at a time, and it holds as
//! many of the connections for bytes as it may open. After one failure the job's other files come by ranges.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use reqwest::Method;
use tokio::time::Instant;

use super::child::{Look, MAX_MEMORY, Running, found, target};
use super::journal::{Journal, Known};
use super::partial::kept;
use super::ranges::Ranges;
use super::tracker::InFlight;
use super::{Job, blocking};
use crate::error::{Error, Result};
use crate::hub::source::Source;
use crate::hub::xet::{Order, limits};
use crate::hub::{interrupted, unless_stopped};
use crate::layout::RepoDir;
use crate::metrics;
use larder_jobs::{Reason, RepoFile, Size, Span};

/// A smaller file is there by ranges before a process has started.
const XET_FROM: u64 = 8 << 20;
/// Streams that a child has at most.
const STREAMS: usize = 8;
/// How often a child is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// A child whose file does not grow is ended after so many times `hub.stall_timeout`: its own connections are given
/// up after one, and it needs a block whole before it can write a byte of it.
const PATIENCE: u32 = 6;

impl Job {
    /// Brings a file over Xet if that is asked for, the source has it there, and nothing of it is here; returns how
    /// many bytes of the partial came so. What did not come is left to the ranges.
    pub(super) async fn by_xet(&self, file: &RepoFile, source: &Source, progress: &InFlight) -> Result<u64> {
        // Nobody can hold a child to a bandwidth, so whoever has a limit gets ranges.
        let is_limited = self.limit.is_set() || source.is_limited();
        if !self.hub.config.xet || file.size < XET_FROM || is_limited {
            return Ok(0);
        }
        let (into, wanted) = (self.into.clone(), file.clone());
        if blocking(move || Ok(kept(&into, &wanted))).await?.bytes > 0 {
            return Ok(0);
        }
        let _fetching = self.tracker.fetching();
        let turn = async { self.hub.xet.acquire().await.map_err(|_| interrupted()) };
        let _turn = unless_stopped(&self.stop, turn).await?;
        let is_in_xet = async { Ok(!self.no_xet.load(Relaxed) && self.is_in_xet(file, source).await) };
        if !unless_stopped(&self.stop, is_in_xet).await? {
            return Ok(0);
        }
        let free = source.connections.available_permits().min(self.hub.connections.available_permits());
        let streams = free.clamp(1, STREAMS);
        let connections = async {
            let of_source = source.connections.acquire_many(streams as u32).await;
            let of_host = self.hub.connections.acquire_many(streams as u32).await;
            of_source.and_then(|of_source| Ok((of_source, of_host?))).map_err(|_| interrupted())
        };
        let _connections = unless_stopped(&self.stop, connections).await?;
        let into = self.into.clone();
        let workshop = blocking(move || into.workshop()).await?;
        let ended = self.watch(file, source, progress, &workshop, streams).await;
        let (into, wanted) = (self.into.clone(), file.clone());
        let taken = blocking(move || {
            let taken = take_over(&into, &wanted, &workshop);
            RepoDir::drop_workshop(&workshop);
            taken
        });
        let taken = taken.await?;
        progress.reached(taken);
        if self.stop.is_cancelled() {
            return Err(interrupted());
        }
        let (path, source) = (&file.path, &source.name);
        match ended {
            Ok(memory) => tracing::info!(%path, %source, bytes = taken, memory, "a file came over Xet"),
            Err(error) => {
                self.no_xet.store(true, Relaxed);
                tracing::warn!(%path, %source, bytes = taken, %error, "Xet did not bring a file; ranges bring what is left of the job");
            }
        }
        Ok(taken)
    }

    /// Whether the source says that it has the file in Xet, at the address where hf-hub will look for that.
    async fn is_in_xet(&self, file: &RepoFile, source: &Source) -> bool {
        let url = self.resolve_url(source, &file.path);
        let Ok(headers) = source.headers(&url) else { return false };
        let asked = source.ask(Method::HEAD, &url, headers);
        match tokio::time::timeout(self.hub.config.stall_timeout.get(), asked).await {
            Ok(Ok(Ok(response))) => {
                source.answered(response.status().as_u16());
                response.headers().contains_key("x-xet-hash")
            }
            // The ranges will find out what is wrong, and say it.
            _ => false,
        }
    }

    /// Runs a child to its end, or ends it; returns the memory that it held at most, or why it did not bring all.
    async fn watch(
        &self,
        file: &RepoFile,
        source: &Source,
        progress: &InFlight,
        workshop: &Path,
        streams: usize,
    ) -> Result<u64> {
        let config = &self.hub.config;
        let order = Order {
            endpoint: source.address().to_owned(),
            token: source.token.as_ref().map(|token| token.secret().to_owned()),
            repo: self.repo.clone(),
            commit: self.commit.clone(),
            path: file.path.clone(),
            folder: workshop.to_owned(),
        };
        let limits = limits(workshop, streams, config.connect_timeout.get(), config.stall_timeout.get());
        let target = target(workshop, &self.repo, &file.digest);
        let mut child = blocking(move || Running::start(&order, limits, target)).await?;
        let (mut came, mut grown) = (0, Instant::now());
        let ended = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break Err(interrupted()),
                () = tokio::time::sleep(LOOK) => {}
            }
            let (same, Look { bytes, memory, ended }) = blocking(move || child.look()).await?;
            child = same;
            let more = bytes.saturating_sub(came);
            if more > 0 {
                (came, grown) = (bytes, Instant::now());
                self.care.room.take(|| (more, ()));
                self.tracker.came(&source.name, more);
                source.received(more);
                progress.more(more);
            }
            match ended {
                Some(result) => break result.map(|()| memory),
                None if memory > MAX_MEMORY => break Err(too_big(memory)),
                None if grown.elapsed() > config.stall_timeout.get() * PATIENCE => {
                    break Err(stalled(grown.elapsed()));
                }
                None => {}
            }
        };
        // Ends it if it still runs, and waits for that: nobody writes to the file any more.
        blocking(move || {
            drop(child);
            Ok(())
        })
        .await?;
        ended
    }
}

fn too_big(memory: u64) -> Error {
    Error::new(
        Reason::SourceUnavailable,
        format!("it held {}, more than {}", Size(memory), Size(MAX_MEMORY)),
        "set hub.xet = false if it happens often",
    )
}

fn stalled(time: Duration) -> Error {
    metrics::download_stalled();
    Error::new(
        Reason::Stalled,
        format!("it wrote nothing for {}", Span(Duration::from_secs(time.as_secs()))),
        "check the network; if it is only slow, raise hub.stall_timeout",
    )
}

/// Makes what a child brought the beginning of the partial; returns how many bytes that are.
fn take_over(into: &RepoDir, wanted: &RepoFile, workshop: &Path) -> Result<u64> {
    let Some((path, found)) = found(&target(workshop, into.repo(), &wanted.digest)) else { return Ok(0) };
    let bytes = found.len().min(wanted.size);
    if bytes == 0 {
        return Ok(0);
    }
    let failed = |error| Error::io("take over", &path, &error);
    let file = File::options().write(true).open(&path).map_err(failed)?;
    file.sync_data().map_err(failed)?;
    let mut ranges = Ranges::default();
    ranges.add(0..bytes);
    // The journal first: without the file beside it, it says nothing.
    Journal::begin(
        &into.partial_map(&wanted.digest),
        &wanted.digest,
        wanted.size,
        &Known { ranges, hashed: None },
    )?;
    file.set_len(wanted.size)
        .and_then(|()| fs::rename(&path, into.partial(&wanted.digest)))
        .map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_jobs::Digest;

    #[test]
    fn a_beginning_becomes_the_partial_and_the_rest_is_missing() {
        let dir = tempfile::tempdir().expect("temp dir");
        let repo = crate::layout::Cache::new(dir.path()).repo(&"a/b".parse().expect("name"));
        repo.prepare().expect("prepared");
        let digest = Digest::sha256(&"0".repeat(64)).expect("hex");
        let file = RepoFile { path: "w.bin".parse().expect("path"), size: 1 << 20, digest };
        let workshop = repo.workshop().expect("made");
        assert_eq!(take_over(&repo, &file, &workshop).expect("fine"), 0, "nothing came");
        let target = target(&workshop, repo.repo(), &file.digest).with_extension("incomplete");
        fs::create_dir_all(target.parent().expect("a folder")).expect("made");
        fs::write(&target, vec![7; 300_000]).expect("written");
        assert_eq!(take_over(&repo, &file, &workshop).expect("taken"), 300_000);
        assert_eq!(kept(&repo, &file).bytes, 300_000);
        let partial = fs::read(repo.partial(&file.digest)).expect("there");
        assert_eq!((partial.len(), partial[299_999], partial[300_000]), (1 << 20, 7, 0));
        RepoDir::drop_workshop(&workshop);
        assert!(!workshop.exists());
    }
}

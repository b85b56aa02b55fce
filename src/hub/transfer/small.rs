//! Small files: one request, hashed in memory, written once. A repo may have tens of thousands of them.

use std::fs::Metadata;
use std::sync::Arc;

use bytes::Bytes;

use super::blob::Blob;
use super::open::{Failure, Wanted, host};
use super::partial::Partial;
use super::pull::{Stream, patience};
use super::route::Route;
use super::{Job, blocking};
use crate::error::Result;
use crate::hub::{interrupted, source};
use crate::layout::Hasher;
use crate::metrics;

impl Job {
    /// Fetches a small blob, verifies it and publishes it; `None` if its bytes are wrong twice.
    pub(super) async fn stage_small(&self, blob: &Blob, replace: bool) -> Result<Option<Metadata>> {
        let file = &blob.file;
        let progress = self.tracker.begin(file.path.as_str(), file.size);
        let _fetching = self.tracker.fetching();
        let mut route = Route::new(source::in_order(&self.hub.sources));
        for _ in 0..2 {
            let pieces = self.fetch_small(blob, &route).await?;
            let mut hasher = Hasher::new(&file.digest, file.size);
            pieces.iter().for_each(|piece| hasher.update(piece));
            if hasher.finish() == file.digest {
                let (into, digest, room) = (self.into.clone(), file.digest, Arc::clone(&self.care.room));
                let publish = move || {
                    Partial::write_small(&into, &digest, &pieces, &room)?;
                    if replace { into.replace_blob(&digest) } else { into.publish_blob(&digest) }
                };
                let found = blocking(publish).await?;
                progress.published(blob.paths);
                return Ok(Some(found));
            }
            tracing::warn!(path = %file.path, repo = %self.repo, "the bytes that came are not the promised ones");
            metrics::bytes_wasted("integrity_mismatch", file.size);
            route = route.by_others();
        }
        Ok(None)
    }

    async fn fetch_small(&self, blob: &Blob, route: &Route) -> Result<Vec<Bytes>> {
        let mut waits = patience(route);
        loop {
            if blob.file.size == 0 {
                return Ok(Vec::new());
            }
            let source = route.source();
            let failure = match self.try_small(blob, route).await {
                Ok(pieces) => return Ok(pieces),
                Err(failure) => failure,
            };
            if self.recover(&blob.file.path, route, source, failure, &mut waits, &self.stop).await? {
                waits = patience(route);
            }
        }
    }

    async fn try_small(&self, blob: &Blob, route: &Route) -> Result<Vec<Bytes>, Failure> {
        let (path, size) = (&blob.file.path, blob.file.size);
        let open = async {
            let source = route.source();
            let _connection = self.connection(&source).await?;
            let opened = self.open(Wanted { path, size, route }, &(0..size)).await?;
            let place = host(opened.response.url());
            let mut stream = Stream { place, source: opened.source, response: opened.response, path };
            let (mut pieces, mut came) = (Vec::new(), 0);
            while let Some(piece) = self.next(&mut stream, &self.stop).await? {
                came += piece.len() as u64;
                if came > size {
                    return Err(stream.odd("sent more bytes than were asked for"));
                }
                self.paced(piece.len() as u64, &stream.source, &self.stop).await;
                pieces.push(piece);
            }
            match came == size {
                true => Ok(pieces),
                false => Err(stream.odd("stopped before the end")),
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Failure::Local(interrupted())),
            pieces = open => pieces,
        }
    }
}

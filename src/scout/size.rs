//! How large a job's model is, for those who choose a host for it.

use std::time::Duration;

use larder_jobs::client::Want;
use larder_jobs::{Hosts, Job, Variant, Work};
use tokio_util::sync::CancellationToken;

use super::Scout;
use super::ask::FitAsk;

/// How long the size of a model may be asked for before a host is chosen without it.
const PATIENCE: Duration = Duration::from_secs(10);
/// A card that has room for everything, since only the need is asked for.
const ANY_CARD: &str = "64TiB";

impl Scout {
    /// What is known of a job's size, where it decides who the best host is. Nothing if the hub does not say soon.
    pub async fn size(&self, job: &Job) -> Want {
        let (Hosts::Best(_), Work::Download(download)) = (&job.common.hosts, &job.work) else {
            return Want::default();
        };
        let stop = CancellationToken::new();
        let _stops = stop.clone().drop_guard();
        let mut ask = serde_json::json!({
            "repo": download.repo, "revision": download.revision, "vram": ANY_CARD, "local": true,
        });
        if let Some(token) = &download.token_ref {
            ask["token_ref"] = token.as_str().into();
        }
        let asked = async {
            let ask = FitAsk::from_json(ask, &self.registry)?;
            self.fit(&ask, &stop).await
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            // Another variant is chosen by the host, by what it has.
            Ok(Ok(fit)) if download.variant == Variant::Exact => {
                Want { bytes: fit.download_bytes, vram: fit.total_bytes }
            }
            Ok(Err(error)) => {
                tracing::debug!(repo = %download.repo, %error, "a host is chosen without the size of the model");
                Want::default()
            }
            Ok(Ok(_)) | Err(_) => Want::default(),
        }
    }
}

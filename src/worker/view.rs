//! A download's plan as it is printed and sent.

use larder_jobs::{ChosenVariant, CommitId, Download, FilePath, RepoId};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::planned::{Planned, plan};
use crate::error::Result;
use crate::plan::{DownloadPlan, Skip, Weights};

/// What a download would do.
#[derive(Debug, Serialize)]
pub struct PlanView {
    /// The repo.
    pub repo: RepoId,
    /// The commit that the revision resolved to.
    pub commit: CommitId,
    /// The weight format.
    pub weights: Option<Weights>,
    /// Bytes and room.
    #[serde(flatten)]
    pub plan: DownloadPlan,
    /// Files that are left out, and why.
    pub skipped: Vec<SkippedFile>,
    /// The variant that is staged and why, if others than the model itself were allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<ChosenVariant>,
}

/// A file that is left out.
#[derive(Debug, Serialize)]
pub struct SkippedFile {
    /// Its path within the repo.
    pub path: FilePath,
    /// Why.
    pub reason: Skip,
}

/// Finds out what a download would do, and does nothing.
///
/// # Errors
/// As [`plan`], and what choosing a variant says.
pub async fn plan_view(context: &Context, want: &Download, stop: &CancellationToken) -> Result<PlanView> {
    let (want, chosen) = context.scout.choose(want, stop).await?;
    let Planned { repo, commit, chosen: files, plan, .. } = plan(context, &want, stop).await?;
    let (weights, skipped) = files.map_or((None, Vec::new()), |files| (Some(files.weights), files.skipped));
    let skipped = skipped.into_iter().map(|(path, reason)| SkippedFile { path, reason }).collect();
    Ok(PlanView { repo, commit, weights, plan, skipped, chosen })
}

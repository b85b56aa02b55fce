//! A download's plan as it is printed and sent.

use larder_jobs::{ChosenVariant, CommitId, Download, FilePath, Problem, RepoId};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::planned::{Planned, plan};
use crate::error::Result;
use crate::plan::{DownloadPlan, Skip, Weights};
use crate::scout::{FitAsk, FitView, Purpose};

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
    /// Whether what would be staged fits into this host's GPU, where the registry is wrong about it, and what is wrong
    /// with its weights: by its config and the headers of its weight files.
    pub fit: Option<FitView>,
    /// Why nobody can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fit_problem: Option<Problem>,
}

/// A file that is left out.
#[derive(Debug, Serialize)]
pub struct SkippedFile {
    /// Its path within the repo.
    pub path: FilePath,
    /// Why.
    pub reason: Skip,
}

/// Finds out what a download would do, and does nothing. That nobody can tell whether it fits is no error: files can be
/// staged without being understood.
///
/// # Errors
/// As [`plan`], and what choosing a variant says.
pub async fn plan_view(context: &Context, want: &Download, stop: &CancellationToken) -> Result<PlanView> {
    let context = &context.with_token_of(want)?;
    let (want, chosen) = context.scout.choose(want, stop).await?;
    let Planned { repo, commit, chosen: files, plan, .. } = plan(context, &want, stop).await?;
    let (weights, skipped) = files.map_or((None, Vec::new()), |files| (Some(files.weights), files.skipped));
    let skipped = skipped.into_iter().map(|(path, reason)| SkippedFile { path, reason }).collect();
    let want = Download { repo: repo.clone(), revision: commit.as_str().parse()?, ..want };
    // The table of what else is published is the answer of `larder fit`, and costs more questions.
    let ask = FitAsk { want, purpose: Purpose { local: true, ..Purpose::default() } };
    let (fit, fit_problem) = match context.scout.fit(&ask, stop).await {
        Ok(fit) => (Some(fit), None),
        Err(error) if stop.is_cancelled() => return Err(error),
        Err(error) => (None, Some(error.into())),
    };
    Ok(PlanView { repo, commit, weights, plan, skipped, chosen, fit, fit_problem })
}

//! A download's plan as it is printed and sent. The worker makes it; it stands here, where the API sees it, too.

use larder_jobs::{ChosenVariant, CommitId, FilePath, Problem, RepoId};
use schemars::JsonSchema;
use serde::Serialize;

use super::FitView;
use crate::plan::{DownloadPlan, Skip, Weights};

/// What a download would do.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DownloadView")]
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
#[derive(Debug, Serialize, JsonSchema)]
pub struct SkippedFile {
    /// Its path within the repo.
    pub path: FilePath,
    /// Why.
    pub reason: Skip,
}

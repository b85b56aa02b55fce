//! The plan of a manifest as it is printed and sent. The worker makes it; it stands here, where the API sees it, too.

use larder_jobs::Job;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Impossible;
use crate::plan::NightPlan;

/// The plan of a manifest, and what to ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NightView {
    /// The plan.
    #[serde(flatten)]
    pub plan: NightPlan,
    /// What happens when not everything can be there by the deadline.
    pub impossible: Impossible,
    /// What the reader should know besides.
    pub notes: Vec<String>,
    /// The jobs to ask for, in their order; none if the manifest refuses what cannot be.
    pub jobs: Vec<Job>,
}

//! What a download would do, as it is printed and sent.

use larder_jobs::Download;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::planned::{Planned, plan};
use crate::error::Result;
use crate::scout::{FitAsk, PlanView, Purpose, SkippedFile};

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

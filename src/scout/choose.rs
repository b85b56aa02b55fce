//! The variant that is staged for a download that allows variants. Never silently another one than was named: what is
//! staged and why goes into the job's record.

use larder_jobs::{ChosenVariant, Download, Reason, Variant};
use tokio_util::sync::CancellationToken;

use super::Scout;
use super::ask::{FitAsk, Purpose, exact};
use super::candidates::Candidate;
use super::target::Target;
use super::view::{Judged, means, word};
use crate::error::{Error, Result};
use crate::fit::{Verdict, gib};

/// Most variants that an error tells of.
const MAX_TOLD: usize = 4;

impl Scout {
    /// How to stage what a download asks for: itself if it wants exactly that repo, else the variant that this host's GPU
    /// can run.
    ///
    /// # Errors
    /// `insufficient_vram` if no variant that may be staged fits, `incompatible_gpu` if one would but for the GPU's
    /// generation, `not_found` if nothing of a list is published; else what the hub answers.
    pub async fn choose(
        &self,
        want: &Download,
        stop: &CancellationToken,
    ) -> Result<(Download, Option<ChosenVariant>)> {
        if want.variant == Variant::Exact {
            return Ok((want.clone(), None));
        }
        let looked = self.look(&exact(want), stop).await?;
        let ask = FitAsk { want: want.clone(), purpose: Purpose::default() };
        let judged = self.judge(looked, &ask, stop).await?;
        let (candidate, why) = pick(&judged, want)?;
        let (is_fallback, variant) = (!candidate.is_native(&judged.looked), word(candidate.quantization));
        let chosen = ChosenVariant { repo: candidate.want.repo.clone(), variant, is_fallback, why };
        Ok((wanted(want, candidate), Some(chosen)))
    }

    /// What [`Scout::choose`] would take on each of these cards, those of other hosts too; the hub is asked once.
    ///
    /// # Errors
    /// What the hub answers; inside, as [`Scout::choose`].
    pub async fn choose_for(
        &self,
        want: &Download,
        targets: &[Target],
        stop: &CancellationToken,
    ) -> Result<Vec<Result<Download>>> {
        let looked = self.look(&exact(want), stop).await?;
        let ask = FitAsk { want: want.clone(), purpose: Purpose::default() };
        let found = self.candidates(&looked, want, true, stop).await?;
        let on = |target: &Target| {
            let judged = self.judged_on(looked.clone(), found.clone(), &ask, target.clone());
            pick(&judged, want).map(|(candidate, _)| wanted(want, candidate))
        };
        Ok(targets.iter().map(on).collect())
    }
}

/// The candidate's files, with everything else as it was asked for.
pub(super) fn wanted(want: &Download, candidate: &Candidate) -> Download {
    Download {
        pin: want.pin,
        allow_unsafe: want.allow_unsafe,
        bandwidth: want.bandwidth,
        lease_ttl: want.lease_ttl,
        token_ref: want.token_ref.clone(),
        exclude: want.exclude.clone(),
        ..candidate.want.clone()
    }
}

/// The variant to stage and why that.
fn pick<'a>(judged: &'a Judged, want: &Download) -> Result<(&'a Candidate, String)> {
    if let Some((candidate, row)) = judged.recommended() {
        return Ok((candidate, format!("{} on {}: {}", row.label, judged.target.called(), row.fit.reason)));
    }
    let is_unknown = judged.target.budget_bytes.is_none() || judged.looked.architecture.is_err();
    let usable = || judged.candidates.iter().filter(|candidate| candidate.refused.is_none());
    let listed = match &want.variant {
        Variant::Prefer(words) => {
            words.iter().find_map(|word| usable().find(|one| means(word, one.quantization)))
        }
        Variant::Auto | Variant::Exact => usable().next(),
    };
    let Some(first) = listed else {
        return Err(Error::new(
            Reason::NotFound,
            format!("none of the variants that are asked for is published of {}", want.repo),
            format!("`larder fit {}` lists what is; or send \"variant\": \"auto\"", want.repo),
        ));
    };
    if is_unknown {
        let why = judged.target.why_unknown.clone();
        let why = why.or_else(|| judged.looked.architecture.as_ref().err().map(ToString::to_string));
        let why = why.unwrap_or_else(|| "the GPU does not say how much is free".into());
        return Ok((first, format!("the first that may be staged, since nobody can tell what fits: {why}")));
    }
    Err(nothing_fits(judged, want))
}

fn nothing_fits(judged: &Judged, want: &Download) -> Error {
    let told = judged.choice.rows.iter().take(MAX_TOLD).map(|row| {
        let needs = row.vram_bytes.map_or_else(|| "an unknown amount".into(), gib);
        match &row.rejected {
            Some(why) if row.fit.verdict != Verdict::No => format!("{} {why}", row.label),
            _ => format!("{} needs {needs}", row.label),
        }
    });
    let told = told.collect::<Vec<_>>().join("; ");
    let has = judged.target.budget_bytes.map_or_else(|| "an unknown amount".into(), gib);
    let card = judged.target.called();
    // It would have the memory, and cannot compute in that format.
    let is_too_old = judged
        .choice
        .rows
        .iter()
        .any(|row| matches!(row.fit.verdict, Verdict::Fits | Verdict::Tight) && row.lacks.is_some());
    let reason = if is_too_old { Reason::IncompatibleGpu } else { Reason::InsufficientVram };
    Error::new(
        reason,
        format!("no variant of {} fits {card} with {has} free: {told}", want.repo),
        format!(
            "free some of its memory, allow smaller variants, or stage it as it is with \"variant\": \"exact\"; \
             `larder fit {}` shows the table",
            want.repo
        ),
    )
}

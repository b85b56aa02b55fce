//! What it takes to evaluate several models on one card: which variant of each, in which order, how many bytes to fetch,
//! and how long that and loading take. Measured rates give seconds; where there are none, a range says how far the truth
//! may lie apart.

use larder_jobs::{Download, Job, Problem, RepoFile, RepoId, Work};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::Scout;
use super::ask::{EvaluationAsk, FitAsk, exact};
use super::choose::wanted;
use super::target::Target;
use super::view::word;
use crate::catalogue::Drift;
use crate::error::{Result, blocking};
use crate::fit::Verdict;
use crate::layout::Cache;
use crate::ledger::Measured;
use crate::plan::Weights;

/// What lines and disks bring whose speed nobody has measured, in bytes per second.
const GUESSED_LINE: (f64, f64) = (12.5e6, 1.25e9);
const GUESSED_DISK: (f64, f64) = (150e6, 7e9);
/// The same of memory that holds the files already: one core that copies, and what a PCIe 5.0 slot takes.
const GUESSED_MEMORY: (f64, f64) = (3e9, 50e9);

/// Seconds that something takes, at least and at most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Seconds {
    /// At least.
    pub low: f64,
    /// At most.
    pub high: f64,
    /// It follows from a rate that was measured on this host.
    pub measured: bool,
}

impl Seconds {
    #[allow(clippy::cast_precision_loss)] // seconds need no sixteen digits
    fn of(bytes: u64, rate: Option<f64>, guess: (f64, f64)) -> Self {
        let at = |rate: f64| bytes as f64 / rate;
        match rate.filter(|rate| *rate > 0.0) {
            Some(rate) => Self { low: at(rate), high: at(rate), measured: true },
            None => Self { low: at(guess.1), high: at(guess.0), measured: bytes == 0 },
        }
    }

    fn add(self, more: Self) -> Self {
        Self {
            low: self.low + more.low,
            high: self.high + more.high,
            measured: self.measured && more.measured,
        }
    }
}

/// How long loading takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Loading {
    /// From the disk.
    pub cold: Seconds,
    /// From memory, where the page cache holds the files.
    pub warm: Seconds,
}

impl Loading {
    fn of(bytes: u64, rates: &Measured) -> Self {
        Self {
            cold: Seconds::of(bytes, rates.disk_read_cold, GUESSED_DISK),
            warm: Seconds::of(bytes, rates.disk_read_warm, GUESSED_MEMORY),
        }
    }

    fn add(self, more: Self) -> Self {
        Self { cold: self.cold.add(more.cold), warm: self.warm.add(more.warm) }
    }
}

/// One model of the plan.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EvaluationRow {
    /// Its place in the order, from 1.
    pub order: usize,
    /// The model that was named.
    pub model: RepoId,
    /// What would be staged: another repo if a published variant stands in.
    pub repo: RepoId,
    /// The variant.
    pub variant: Option<String>,
    /// Whether it fits.
    pub verdict: Verdict,
    /// Why this variant, or why none.
    pub why: String,
    /// Bytes of its files.
    pub bytes_total: Option<u64>,
    /// Bytes that are there.
    pub bytes_present: Option<u64>,
    /// Bytes to fetch.
    pub bytes_to_fetch: Option<u64>,
    /// How long fetching takes.
    pub seconds_to_fetch: Option<Seconds>,
    /// How long loading takes.
    pub seconds_to_load: Option<Loading>,
    /// The largest batch for the context.
    pub batch: Option<u64>,
    /// The job that stages it; `null` if nothing should be.
    pub job: Option<Job>,
    /// Where the registry is wrong about the repo.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<Drift>,
    /// Why nothing is known of it.
    pub problem: Option<Problem>,
}

/// The whole plan.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EvaluationView {
    /// The card.
    pub target: Target,
    /// The models, in the order in which to stage them.
    pub models: Vec<EvaluationRow>,
    /// Bytes of all files.
    pub bytes_total: u64,
    /// Bytes to fetch.
    pub bytes_to_fetch: u64,
    /// How long fetching takes, one after the other.
    pub seconds_to_fetch: Seconds,
    /// How long loading takes, one after the other.
    pub seconds_to_load: Loading,
}

impl Scout {
    /// Plans an evaluation. Nothing is staged.
    ///
    /// # Errors
    /// `invalid_request` for a card that nobody knows, `interrupted`. What goes wrong with one model is told in its row.
    pub async fn evaluate(&self, ask: &EvaluationAsk, stop: &CancellationToken) -> Result<EvaluationView> {
        let target = self.target(&ask.purpose).await?;
        let mut models = Vec::with_capacity(ask.wants.len());
        for want in &ask.wants {
            let one = FitAsk { want: want.clone(), purpose: ask.purpose.clone() };
            models.push(match self.row(&one, stop).await {
                Ok(row) => row,
                Err(error) if stop.is_cancelled() => return Err(error),
                Err(error) => failed(want, &error),
            });
        }
        // What is there can be evaluated at once; then the small ones, so that nobody waits for the first.
        models.sort_by_key(|row| (row.job.is_none(), row.bytes_to_fetch, row.model.to_string()));
        models.iter_mut().zip(1..).for_each(|(row, n)| row.order = n);
        let nothing = Seconds { low: 0.0, high: 0.0, measured: true };
        let staged = || models.iter().filter(|row| row.job.is_some());
        Ok(EvaluationView {
            target,
            bytes_total: staged().filter_map(|row| row.bytes_total).sum(),
            bytes_to_fetch: staged().filter_map(|row| row.bytes_to_fetch).sum(),
            seconds_to_fetch: staged().filter_map(|row| row.seconds_to_fetch).fold(nothing, Seconds::add),
            seconds_to_load: staged()
                .filter_map(|row| row.seconds_to_load)
                .fold(Loading { cold: nothing, warm: nothing }, Loading::add),
            models,
        })
    }

    async fn row(&self, ask: &FitAsk, stop: &CancellationToken) -> Result<EvaluationRow> {
        let looked = self.look(&exact(&ask.want), stop).await?;
        let drift = self.drift(&looked);
        let judged = self.judge(looked, ask, stop).await?;
        let is_exact = ask.want.variant == larder_jobs::Variant::Exact;
        let best = if is_exact { None } else { judged.recommended() };
        let native = judged.native();
        let is_known = judged.target.budget_bytes.is_some() && native.is_some();
        let (candidate, verdict, batch, why) = match (best, native) {
            (Some((candidate, row)), _) => {
                (Some(candidate), row.fit.verdict, row.largest_batch, row.fit.reason.clone())
            }
            (None, Some(row)) if is_known && !is_exact => {
                (None, row.fit.verdict, None, format!("{}; {}", judged.choice.reason, row.fit.reason))
            }
            (None, Some(row)) => {
                (judged.candidates.first(), row.fit.verdict, row.largest_batch, row.fit.reason.clone())
            }
            (None, None) => {
                let why = judged.looked.architecture.as_ref().err().map(ToString::to_string);
                (judged.candidates.first(), Verdict::Unknown, None, why.unwrap_or_default())
            }
        };
        let is_refused = judged.looked.format == Weights::Pickle && !ask.want.allow_unsafe;
        let (candidate, why) = match candidate {
            Some(one) if is_refused && one.is_native(&judged.looked) => (
                None,
                "only pickled weights are there, whose loading runs code; allow_unsafe takes them".into(),
            ),
            candidate => (candidate, why),
        };
        let shown = candidate.unwrap_or(&judged.candidates[0]);
        let files = match (shown.is_native(&judged.looked), &shown.commit) {
            (false, Some(_)) => self.look(&wanted(&ask.want, shown), stop).await?.files,
            _ => judged.looked.files.clone(),
        };
        let bytes_total = files.iter().map(|file| file.size).sum();
        let bytes_present = present(&self.cache, &shown.want.repo, files).await?;
        let bytes_to_fetch = u64::saturating_sub(bytes_total, bytes_present);
        Ok(EvaluationRow {
            order: 0,
            model: ask.want.repo.clone(),
            repo: shown.want.repo.clone(),
            variant: Some(word(shown.quantization)),
            verdict,
            why,
            bytes_total: Some(bytes_total),
            bytes_present: Some(bytes_present),
            bytes_to_fetch: Some(bytes_to_fetch),
            seconds_to_fetch: Some(Seconds::of(bytes_to_fetch, self.fetch_rate(), GUESSED_LINE)),
            seconds_to_load: Some(Loading::of(bytes_total, &self.rates())),
            batch,
            job: candidate.map(|one| Job::new(Work::Download(wanted(&ask.want, one)))),
            drift,
            problem: None,
        })
    }
}

fn failed(want: &Download, error: &crate::error::Error) -> EvaluationRow {
    EvaluationRow {
        order: 0,
        model: want.repo.clone(),
        repo: want.repo.clone(),
        variant: None,
        verdict: Verdict::Unknown,
        why: error.to_string(),
        bytes_total: None,
        bytes_present: None,
        bytes_to_fetch: None,
        seconds_to_fetch: None,
        seconds_to_load: None,
        batch: None,
        job: None,
        drift: Vec::new(),
        problem: Some(error.clone().into()),
    }
}

/// Bytes of files that the cache has.
async fn present(cache: &Cache, repo: &RepoId, files: Vec<RepoFile>) -> Result<u64> {
    let dir = cache.repo(repo);
    blocking(move || {
        let is_there = |file: &&RepoFile| {
            std::fs::metadata(dir.blob(&file.digest)).is_ok_and(|found| found.len() == file.size)
        };
        Ok(files.iter().filter(is_there).map(|file| file.size).sum())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measured_rate_gives_seconds_and_none_a_range() {
        let measured = Seconds::of(1_000, Some(100.0), GUESSED_LINE);
        assert_eq!((measured.low, measured.high, measured.measured), (10.0, 10.0, true));
        let guessed = Seconds::of(25_000_000, None, GUESSED_LINE);
        assert!(guessed.low < guessed.high && !guessed.measured, "{guessed:?}");
        let nothing = Seconds::of(0, None, GUESSED_LINE);
        assert_eq!((nothing.high, nothing.measured), (0.0, true));
        assert!(!measured.add(guessed).measured);
    }
}

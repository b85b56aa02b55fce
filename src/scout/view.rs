//! The answer to "does it fit?", with everything that it rests on: the model as it was named, and the table of what else
//! could be staged.

use larder_jobs::{CommitId, RepoId, Variant, VariantWord};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::Scout;
use super::ask::{FitAsk, exact};
use super::candidates::Candidate;
use super::look::Looked;
use super::target::Target;
use crate::catalogue::Drift;
use crate::error::Result;
use crate::fit::{
    self, Choice, Correction, Engine, Margin, Policy, Provenance, Quantization, Request, Row, Setting, Terms,
    Tier, Verdict,
};
use crate::ledger::CalibrationKey;
use crate::weights::{Finding, Severity};

/// The context that is meant when nobody says one: enough for a chat, and less than what most models are made for.
const USUAL_CONTEXT: u64 = 4096;

/// Whether a model fits, and what else does.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FitView {
    /// The repo.
    pub repo: RepoId,
    /// The commit that was looked at; `null` if the registry speaks for the repo.
    pub commit: Option<CommitId>,
    /// The card.
    pub target: Target,
    /// The engine.
    pub engine: Engine,
    /// Tokens of prompt and answer.
    pub context: u64,
    /// Sequences at the same time.
    pub batch: u64,
    /// How the model is stored as published.
    pub quantization: Quantization,
    /// Parameters, if the headers count them.
    pub parameters: Option<u64>,
    /// Bytes that staging it would fetch, those that are there included.
    pub download_bytes: Option<u64>,
    /// The answer for the model as it was named.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// What it takes per card.
    pub total_bytes: Option<u64>,
    /// The lower end of where the truth is expected.
    pub low_bytes: Option<u64>,
    /// The upper end.
    pub high_bytes: Option<u64>,
    /// What a card has for it.
    pub budget_bytes: Option<u64>,
    /// What is kept free beyond the estimate.
    pub margin_bytes: Option<u64>,
    /// The parts of the total.
    pub terms: Option<Terms>,
    /// The largest batch for the context.
    pub largest_batch: Option<u64>,
    /// The longest context for the batch.
    pub largest_context: Option<u64>,
    /// The context is longer than the model is made for.
    pub exceeds_model_context: bool,
    /// What could be staged, the best first.
    pub variants: Vec<VariantView>,
    /// Which of them to take and why, or why none.
    pub recommendation: String,
    /// Where the numbers come from.
    pub provenance: Option<Provenance>,
    /// Where registry and repo differ.
    pub drift: Vec<Drift>,
    /// What is wrong with the weight files.
    pub findings: Vec<FindingView>,
    /// What else should be known.
    pub notes: Vec<String>,
}

/// Something that is wrong with the weight files.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FindingView {
    /// `error` if engines will not load the model, else `warning`.
    pub severity: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl From<Finding> for FindingView {
    fn from(found: Finding) -> Self {
        let severity = match found.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        Self { severity: severity.into(), what: found.what, hint: found.hint.into() }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct VariantView {
    /// The word for it in requests.
    pub variant: String,
    /// Where it is published.
    pub repo: RepoId,
    /// How its weights are stored.
    pub quantization: Quantization,
    /// What it costs in quality.
    pub tier: Tier,
    /// The engine that runs it.
    pub engine: Engine,
    /// Bytes to fetch.
    pub download_bytes: Option<u64>,
    /// What it takes of a card.
    pub vram_bytes: Option<u64>,
    /// Whether it fits.
    pub verdict: Verdict,
    /// The largest batch for the context.
    pub largest_batch: Option<u64>,
    /// The longest context for the batch.
    pub largest_context: Option<u64>,
    /// This one is recommended.
    pub recommended: bool,
    /// Why it is not.
    pub why_not: Option<String>,
    /// Downloads of the last month, of what others published.
    pub downloads: Option<u64>,
}

/// A model with its candidates, judged.
pub(super) struct Judged {
    pub(super) looked: Looked,
    pub(super) candidates: Vec<Candidate>,
    pub(super) target: Target,
    pub(super) request: Request,
    pub(super) choice: Choice,
    /// The number of the candidate behind each row.
    pub(super) order: Vec<usize>,
    pub(super) notes: Vec<String>,
}

impl Judged {
    /// The candidate that is recommended, with its row.
    pub(super) fn recommended(&self) -> Option<(&Candidate, &Row)> {
        let row = self.choice.rows.iter().position(|row| row.recommended)?;
        Some((&self.candidates[self.order[row]], &self.choice.rows[row]))
    }

    /// The row of the model as it is published.
    pub(super) fn native(&self) -> Option<&Row> {
        let row = self.order.iter().position(|candidate| *candidate == 0)?;
        self.choice.rows.get(row)
    }
}

impl Scout {
    /// Whether a model fits, and which published variant does. Nothing is staged.
    ///
    /// # Errors
    /// What the hub answers, and `invalid_request` for a card that nobody knows. A model that cannot be understood is no
    /// error: its verdict is `unknown`.
    pub async fn fit(&self, ask: &FitAsk, stop: &CancellationToken) -> Result<FitView> {
        let (looked, note) = self.look_or_recall(&exact(&ask.want), stop).await?;
        let mut view = self.view_of(looked, ask, stop).await?;
        view.notes.extend(note);
        Ok(view)
    }

    /// The same of a model that was looked at.
    pub(super) async fn view_of(
        &self,
        looked: Looked,
        ask: &FitAsk,
        stop: &CancellationToken,
    ) -> Result<FitView> {
        let drift = self.drift(&looked);
        let judged = self.judge(looked, ask, stop).await?;
        Ok(self.view(judged, drift))
    }

    /// Puts a model and what else could be staged of it before the estimate.
    pub(super) async fn judge(
        &self,
        looked: Looked,
        ask: &FitAsk,
        stop: &CancellationToken,
    ) -> Result<Judged> {
        let target = self.target(&ask.purpose).await?;
        let found = self.candidates(&looked, &ask.want, !ask.purpose.local, stop).await?;
        Ok(self.judged_on(looked, found, ask, target))
    }

    /// The same of what was found, on one card.
    pub(super) fn judged_on(
        &self,
        looked: Looked,
        (candidates, mut notes): (Vec<Candidate>, Vec<String>),
        ask: &FitAsk,
        target: Target,
    ) -> Judged {
        let purpose = &ask.purpose;
        let native = looked.quantization();
        let engine = purpose.engine.or(native.engines().first().copied()).unwrap_or(Engine::Transformers);
        let most = looked.architecture.as_ref().ok().and_then(|shape| shape.max_position);
        let context = purpose.context.unwrap_or_else(|| most.unwrap_or(USUAL_CONTEXT).min(USUAL_CONTEXT));
        if purpose.context.is_none() {
            notes.push(format!("for a context of {context} tokens, since none is asked for"));
        }
        notes.extend(target.why_unknown.clone());
        notes.extend(looked.unknown_quantization());
        let request = Request::new(engine, native, context)
            .with_batch(purpose.batch.unwrap_or(1))
            .with_gpus(target.gpus);
        // Headers that lie leave the whole model unknown, also to plans and to the choice of what is staged.
        let lie = looked.weights.as_ref().err().cloned();
        let architecture = lie.map_or(looked.architecture, Err);
        let looked = Looked { architecture, ..looked };
        let (choice, order) = match (&looked.architecture, &looked.weights) {
            (Ok(shape), Ok(weights)) => {
                let setting = Setting {
                    architecture: shape,
                    weights,
                    budget: target.budget(),
                    margin: Margin::DEFAULT,
                    correction: None,
                };
                self.choose_among(&setting, &request, &candidates, &target, &ask.want.variant, purpose.engine)
            }
            _ => (Choice { rows: Vec::new(), recommended: None, reason: String::new() }, Vec::new()),
        };
        Judged { looked, candidates, target, request, choice, order, notes }
    }

    fn choose_among(
        &self,
        setting: &Setting<'_>,
        request: &Request,
        candidates: &[Candidate],
        target: &Target,
        wanted: &Variant,
        engine: Option<Engine>,
    ) -> (Choice, Vec<usize>) {
        let usable: Vec<usize> = (0..candidates.len()).filter(|n| candidates[*n].refused.is_none()).collect();
        let variants: Vec<fit::Variant> = usable
            .iter()
            .map(|n| {
                let one = &candidates[*n];
                fit::Variant {
                    quantization: one.quantization,
                    // By its number, since two may be called the same.
                    label: n.to_string(),
                    download_bytes: one.download_bytes,
                    weights: one.weights.clone(),
                    engine,
                    correction: {
                        let engines = one.quantization.engines();
                        let wanted = engine.unwrap_or(request.engine);
                        let runs = if engines.contains(&wanted) { wanted } else { engines[0] };
                        self.correction(setting, one.quantization, runs, target)
                    },
                }
            })
            .collect();
        let policy = match wanted {
            Variant::Exact | Variant::Auto => Policy::BestFit,
            Variant::Prefer(words) => Policy::Allow(
                words
                    .iter()
                    .flat_map(|word| usable.iter().map(move |n| (word, candidates[*n].quantization)))
                    .filter(|(word, quantization)| means(word, *quantization))
                    .map(|(_, quantization)| quantization)
                    .collect(),
            ),
        };
        let mut choice = fit::choose(setting, request, &variants, target.capability(), &policy);
        let number = |label: &str| label.parse().unwrap_or(0);
        let order: Vec<usize> = choice.rows.iter().map(|row| number(&row.label)).collect();
        for (row, n) in choice.rows.iter_mut().zip(&order) {
            let label = candidates[*n].label();
            if row.recommended {
                choice.reason = choice.reason.replacen(&row.label, &label, 1);
            }
            row.label = label;
        }
        (choice, order)
    }

    /// What this host has learnt about predictions like this one.
    fn correction(
        &self,
        setting: &Setting<'_>,
        quantization: Quantization,
        engine: Engine,
        target: &Target,
    ) -> Option<Correction> {
        let key = CalibrationKey {
            architecture: setting.architecture.model_type.clone(),
            engine: engine.word().into(),
            quantization: quantization.to_string(),
            gpu: target.name.clone()?,
        };
        let known = self.ledger.as_ref()?.calibration(&key)?;
        // What was compared is a process that had loaded and not answered yet. PyTorch takes more of its context and its
        // workspaces with the first answer, so that less than predicted proves nothing and more than predicted does.
        let ratio = if engine == Engine::Transformers { known.ratio.max(1.0) } else { known.ratio };
        let error = known.error.max((ratio - known.ratio) / ratio).max(0.01);
        Some(Correction { ratio, error })
    }

    fn view(&self, judged: Judged, drift: Vec<Drift>) -> FitView {
        let native = judged.native();
        let unknown = judged.looked.architecture.as_ref().err();
        let estimate = native.filter(|_| unknown.is_none()).and_then(|row| row.fit.estimate);
        let (verdict, reason) = match (unknown, native) {
            (Some(unknown), _) => (Verdict::Unknown, unknown.to_string()),
            (None, Some(row)) => (row.fit.verdict, row.fit.reason.clone()),
            (None, None) => (Verdict::Unknown, "it could not be judged".into()),
        };
        let is_known = verdict != Verdict::Unknown;
        let mut variants: Vec<VariantView> = if unknown.is_some() {
            Vec::new()
        } else {
            judged
                .choice
                .rows
                .iter()
                .zip(&judged.order)
                .map(|(row, n)| variant(row, &judged.candidates[*n]))
                .collect()
        };
        let refused = judged.candidates.iter().filter(|one| one.refused.is_some());
        variants.extend(refused.map(|one| refused_variant(one, judged.request.engine)));
        let recommendation = match (judged.recommended(), unknown) {
            (_, Some(_)) => "nothing can be recommended for what is not known".into(),
            _ if judged.target.budget_bytes.is_none() => {
                "which of them fits is not known: name a card (--gpu \"RTX 4090\") or its memory (--vram 24GiB)".into()
            }
            _ => judged.choice.reason.clone(),
        };
        FitView {
            engine: native.map_or(judged.request.engine, |row| row.engine),
            context: judged.request.total,
            batch: judged.request.batch,
            quantization: judged.request.quantization,
            parameters: judged.looked.parameters,
            download_bytes: judged.looked.commit.is_some().then(|| judged.looked.bytes()),
            verdict,
            reason,
            total_bytes: estimate.map(|estimate| estimate.total),
            low_bytes: estimate.map(|estimate| estimate.low),
            high_bytes: estimate.map(|estimate| estimate.high),
            budget_bytes: judged.target.budget_bytes,
            margin_bytes: native.and_then(|row| row.fit.margin_bytes),
            terms: estimate.map(|estimate| estimate.terms),
            largest_batch: native.filter(|_| is_known).and_then(|row| row.largest_batch),
            largest_context: native.filter(|_| is_known).and_then(|row| row.largest_context),
            exceeds_model_context: estimate.is_some_and(|estimate| estimate.exceeds_model_context),
            variants,
            recommendation,
            provenance: estimate.map(|estimate| estimate.provenance),
            drift,
            findings: judged.looked.findings.into_iter().map(FindingView::from).collect(),
            notes: judged.notes,
            target: judged.target,
            repo: judged.looked.repo,
            commit: judged.looked.commit,
        }
    }
}

fn variant(row: &Row, candidate: &Candidate) -> VariantView {
    VariantView {
        variant: word(row.quantization),
        repo: candidate.want.repo.clone(),
        quantization: row.quantization,
        tier: row.tier,
        engine: row.engine,
        download_bytes: row.download_bytes,
        vram_bytes: row.vram_bytes,
        verdict: row.fit.verdict,
        largest_batch: row.largest_batch,
        largest_context: row.largest_context,
        recommended: row.recommended,
        why_not: row.rejected.clone(),
        downloads: candidate.downloads,
    }
}

fn refused_variant(candidate: &Candidate, engine: Engine) -> VariantView {
    let quantization = candidate.quantization;
    VariantView {
        variant: word(quantization),
        repo: candidate.want.repo.clone(),
        quantization,
        tier: quantization.tier(),
        engine: quantization.engines().first().copied().unwrap_or(engine),
        download_bytes: candidate.download_bytes,
        vram_bytes: None,
        verdict: Verdict::Unknown,
        largest_batch: None,
        largest_context: None,
        recommended: false,
        why_not: candidate.refused.clone(),
        downloads: candidate.downloads,
    }
}

/// The word for a quantization in requests.
pub(super) fn word(quantization: Quantization) -> String {
    match quantization {
        Quantization::Fp32 => "fp32".into(),
        Quantization::Bits16 => "16bit".into(),
        Quantization::Fp8 => "fp8".into(),
        Quantization::Int8 => "int8".into(),
        Quantization::Nf4 | Quantization::Nf4Dq => "nf4".into(),
        Quantization::AwqInt4 { .. } => "awq".into(),
        Quantization::GptqInt4 { .. } => "gptq".into(),
        Quantization::GptqInt8 { .. } => "gptq-int8".into(),
        Quantization::Mxfp4 => "mxfp4".into(),
        Quantization::Gguf(quant) => format!("gguf:{}", quant.word()),
    }
}

/// Whether somebody who says `word` means that quantization.
pub(super) fn means(wanted: &VariantWord, quantization: Quantization) -> bool {
    let is_int4 = matches!(quantization, Quantization::AwqInt4 { .. } | Quantization::GptqInt4 { .. });
    wanted.as_str() == "int4" && is_int4 || word(quantization).eq_ignore_ascii_case(wanted.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int4_means_both_and_every_word_means_itself() {
        let word_of = |text: &str| text.parse::<VariantWord>().expect("a word");
        for quantization in [Quantization::AwqInt4 { group: 128 }, Quantization::GptqInt4 { group: 64 }] {
            assert!(means(&word_of("int4"), quantization));
        }
        let gguf: Quantization = "gguf:Q4_K_M".parse().expect("known");
        assert!(means(&word_of("gguf:Q4_K_M"), gguf) && means(&word_of("gguf:q4_k_m"), gguf));
        assert!(!means(&word_of("gguf:Q6_K"), gguf) && !means(&word_of("awq"), gguf));
        for quantization in [Quantization::Bits16, Quantization::Fp8, Quantization::Mxfp4, gguf] {
            assert!(word(quantization).parse::<VariantWord>().is_ok(), "{quantization}");
        }
    }
}

//! What could be staged of a model: the repo itself, what others published of it in fewer bits, and what an engine makes of
//! it while it loads.
//!
//! That a repo is a quantization of another is what its own card says. So a candidate must come from its model's owner or
//! from a publisher that the operator trusts, have the same shape, the same number of parameters (within 2 %) and the same
//! licence; what fails is shown with the reason, and never staged.

use larder_jobs::{CommitId, Download, Format, ModelRef, RepoFile, RepoId};
use tokio_util::sync::CancellationToken;

use super::Scout;
use super::look::Looked;
use crate::error::Result;
use crate::fit::{Architecture, Quantization, WeightFacts};
use crate::hub::Published;
use crate::plan;

/// Most published repos that are looked at, and most of one kind.
const MAX_LOOKED_AT: usize = 12;
const MAX_OF_A_KIND: usize = 2;
/// How far the parameters of a quantization may be from those of its model.
const MAX_DIFFERENCE: f64 = 0.02;

/// Something that could be staged.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    /// How its weights are stored, or will be by the engine that loads it.
    pub(super) quantization: Quantization,
    /// How to stage it.
    pub(super) want: Download,
    /// The commit that was looked at.
    pub(super) commit: Option<CommitId>,
    /// Bytes of its files.
    pub(super) download_bytes: Option<u64>,
    /// Its weights, if something better is known of them than the model's shape says.
    pub(super) weights: Option<WeightFacts>,
    /// Downloads of the last month, of what others published.
    pub(super) downloads: Option<u64>,
    /// Why it is not to be trusted.
    pub(super) refused: Option<String>,
}

impl Candidate {
    /// Whether it is the model that was named, as it is published.
    pub(super) fn is_native(&self, looked: &Looked) -> bool {
        self.want.repo == looked.repo && !self.quantization.at_load()
    }

    /// Repo and, of a GGUF, the quantization.
    pub(super) fn label(&self) -> String {
        match self.quantization {
            Quantization::Gguf(quant) => format!("{} {}", self.want.repo, quant.word()),
            _ => self.want.repo.to_string(),
        }
    }
}

impl Scout {
    /// Everything that could be staged for a model, itself first. With `discover` the hub is asked what others published;
    /// what it did not answer is told in the second part.
    ///
    /// # Errors
    /// `interrupted` if `stop` fired, `unauthorized` for a token that this host does not have.
    pub(super) async fn candidates(
        &self,
        looked: &Looked,
        want: &Download,
        discover: bool,
        stop: &CancellationToken,
    ) -> Result<(Vec<Candidate>, Vec<String>)> {
        let (mut found, mut notes) = (vec![native(looked, want)], Vec::new());
        if discover && !self.hub.is_offline() && looked.commit.is_some() {
            // All of it is asked with the token that the model is.
            let hub = self.hub.with_token(want.token_ref.as_ref())?;
            let asking = Self { hub, ..self.clone() };
            match asking.hub.quantizations(&looked.repo, stop).await {
                Ok(published) => asking.judged(looked, published, &mut found, &mut notes, stop).await?,
                Err(error) => notes.push(format!("what others published is not known: {error}")),
            }
        }
        let is_plain = looked.quantization() == Quantization::Bits16;
        if is_plain && looked.architecture.is_ok() {
            for quantization in [Quantization::Int8, Quantization::Nf4] {
                found.push(Candidate { quantization, weights: None, ..native(looked, want) });
            }
        }
        Ok((found, notes))
    }

    /// Looks at what was published, the most downloaded first.
    async fn judged(
        &self,
        looked: &Looked,
        published: Vec<Published>,
        found: &mut Vec<Candidate>,
        notes: &mut Vec<String>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let (mut strangers, mut looked_at) = (0_usize, 0);
        let mut of_a_kind: std::collections::BTreeMap<&'static str, usize> =
            std::collections::BTreeMap::new();
        for one in published {
            if !self.is_trusted(&one.repo, &looked.repo) {
                strangers += 1;
                continue;
            }
            let kind = kind_of(&one);
            let seen = of_a_kind.entry(kind).or_default();
            if looked_at == MAX_LOOKED_AT || *seen == MAX_OF_A_KIND {
                continue;
            }
            (*seen, looked_at) = (*seen + 1, looked_at + 1);
            let made = match kind {
                "gguf" => self.gguf(looked, &one, stop).await,
                _ => self.safetensors(looked, &one, stop).await,
            };
            match made {
                Ok(more) => add(found, more),
                Err(error) if stop.is_cancelled() => return Err(error),
                Err(error) => notes.push(format!("{} is left out: {error}", one.repo)),
            }
        }
        if strangers > 0 {
            notes.push(format!(
                "{strangers} published quantizations are left out, since models.publishers does not name who published them"
            ));
        }
        Ok(())
    }

    /// Whether the operator takes what this repo's owner publishes of a model.
    fn is_trusted(&self, repo: &RepoId, base: &RepoId) -> bool {
        let owner = repo.owner();
        owner == base.owner() || self.publishers.iter().any(|name| name.eq_ignore_ascii_case(owner))
    }

    async fn safetensors(
        &self,
        base: &Looked,
        one: &Published,
        stop: &CancellationToken,
    ) -> Result<Vec<Candidate>> {
        let looked = self.look(&at(one), stop).await?;
        let Some(quantization) = looked.architecture.as_ref().ok().and_then(|shape| shape.quantized) else {
            return Ok(Vec::new());
        };
        let refused = refusal(base, one, looked.architecture.as_ref().ok(), looked.parameters);
        Ok(vec![Candidate {
            quantization,
            want: Download { repo: looked.repo.clone(), ..at(one) },
            commit: looked.commit.clone(),
            download_bytes: Some(looked.bytes()),
            weights: looked.weights.ok(),
            downloads: Some(one.downloads),
            refused,
        }])
    }

    /// One candidate for each quantization of a GGUF repo. The header of its smallest file says what all are made of.
    async fn gguf(&self, base: &Looked, one: &Published, stop: &CancellationToken) -> Result<Vec<Candidate>> {
        let commit = match &one.commit {
            Some(commit) => commit.clone(),
            None => self.hub.resolve(&one.repo, &larder_jobs::Revision::main(), stop).await?.commit,
        };
        let files = self.hub.tree(&one.repo, &commit, stop).await?;
        let sets = plan::gguf_sets(&files);
        let bytes = |set: &[RepoFile]| set.iter().map(|file| file.size).sum::<u64>();
        let Some(smallest) = sets.values().min_by_key(|set| bytes(set)) else { return Ok(Vec::new()) };
        let want = |set: &[RepoFile]| Download {
            format: Format::Gguf,
            include: set.iter().filter_map(|file| exactly(file.path.as_str())).collect(),
            revision: commit.as_str().parse().unwrap_or_default(),
            ..at(one)
        };
        let looked = self.look(&want(smallest), stop).await?;
        let refused = refusal(base, one, looked.architecture.as_ref().ok(), looked.parameters);
        let known = sets.iter().filter_map(|(word, set)| Some((format!("gguf:{word}").parse().ok()?, set)));
        Ok(known
            .map(|(quantization, set)| Candidate {
                quantization,
                want: want(set),
                commit: Some(commit.clone()),
                download_bytes: Some(bytes(set)),
                weights: looked.weights.as_ref().ok().map(|facts| facts.scaled(bytes(smallest), bytes(set))),
                downloads: Some(one.downloads),
                refused: refused.clone(),
            })
            .collect())
    }
}

/// The model itself.
fn native(looked: &Looked, want: &Download) -> Candidate {
    let variant = larder_jobs::Variant::Exact;
    Candidate {
        quantization: looked.quantization(),
        want: Download { variant, ..want.clone() },
        commit: looked.commit.clone(),
        download_bytes: looked.commit.is_some().then(|| looked.bytes()),
        weights: looked.weights.clone().ok(),
        downloads: None,
        refused: None,
    }
}

/// Adds those of which there is not a more popular one already.
fn add(found: &mut Vec<Candidate>, more: Vec<Candidate>) {
    for one in more {
        let same = found.iter_mut().find(|known| known.quantization == one.quantization);
        match same {
            // One that may be staged is worth more than one that may not.
            Some(known) if known.refused.is_some() && one.refused.is_none() => *known = one,
            Some(_) => {}
            None => found.push(one),
        }
    }
}

fn at(one: &Published) -> Download {
    let revision = one.commit.as_ref().and_then(|commit| commit.as_str().parse().ok());
    Download::new(ModelRef::new(one.repo.clone(), revision))
}

/// A pattern that means one path and no other.
fn exactly(path: &str) -> Option<larder_jobs::Glob> {
    let escaped: String = path.chars().map(|c| if "*?[]{}!\\".contains(c) { '?' } else { c }).collect();
    escaped.parse().ok()
}

/// What a repo's files and tags say that it is.
fn kind_of(one: &Published) -> &'static str {
    if one.files.iter().any(|file| file.ends_with(".gguf")) {
        return "gguf";
    }
    let name = one.repo.name().to_ascii_lowercase();
    let says = |word: &str| name.contains(word) || one.tags.iter().any(|tag| tag.eq_ignore_ascii_case(word));
    ["awq", "gptq", "fp8", "mxfp4", "nvfp4", "bnb-4bit", "w4a16", "w8a8", "8bit", "4bit"]
        .into_iter()
        .find(|word| says(word))
        .unwrap_or("other")
}

/// Why a published quantization is not to be trusted, if it is not.
fn refusal(
    base: &Looked,
    one: &Published,
    shape: Option<&Architecture>,
    parameters: Option<u64>,
) -> Option<String> {
    if one.gated && !base.gated {
        return Some("its terms must be accepted first".into());
    }
    let Some(shape) = shape else { return Some("its shape is not known".into()) };
    if let Ok(model) = &base.architecture {
        let of = |shape: &Architecture| (shape.hidden, shape.layers, shape.heads, shape.kv_heads);
        if of(shape) != of(model) {
            return Some("it has another shape than the model".into());
        }
    }
    let known = base.parameters.or_else(|| base.weights.as_ref().ok().map(WeightFacts::elements));
    match (parameters, known) {
        (Some(own), Some(model)) if differs(own, model) => {
            return Some(format!("it has {own} parameters, the model has {model}"));
        }
        (None, _) => return Some("its parameters cannot be counted".into()),
        _ => {}
    }
    match (&one.licence, &base.licence) {
        (Some(own), Some(model)) if own != model => {
            Some(format!("its licence is {own}, that of the model is {model}"))
        }
        _ => None,
    }
}

#[allow(clippy::cast_precision_loss)] // two per cent need no sixteen digits
fn differs(own: u64, model: u64) -> bool {
    model == 0 || (own as f64 / model as f64 - 1.0).abs() > MAX_DIFFERENCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_a_pattern_that_means_it() {
        for path in ["Q4_K_M/model-00001-of-00002.gguf", "a[b]{c}*.gguf"] {
            let glob = exactly(path).expect("a pattern");
            let matcher =
                globset::GlobBuilder::new(glob.as_str()).literal_separator(true).build().expect("glob");
            assert!(matcher.compile_matcher().is_match(path), "{path}");
        }
    }

    #[test]
    fn two_per_cent_are_the_same_model() {
        assert!(!differs(1_010, 1_000) && differs(1_030, 1_000) && differs(1, 0));
    }
}

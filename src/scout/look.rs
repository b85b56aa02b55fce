//! What a repo says about itself at one commit: its shape from `config.json` or a GGUF header, its weights from the headers
//! of their files. The registry is a hint and nothing more; where the two differ, the repo is right and the difference
//! is told.

use std::sync::Arc;

use futures_util::StreamExt as _;
use larder_jobs::{CommitId, Download, ModelRef, Reason, RepoFile, RepoId};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Scout;
use super::ask::{FitAsk, Purpose};
use super::source::Source;
use super::view::FitView;
use crate::error::{Error, Result};
use crate::fit::{Architecture, Quantization, Source as Origin, Tensor, Unknown, WeightFacts};
use crate::plan::{self, Weights};
use crate::weights::{Contents, FileFacts, Finding, Index, Known, Severity, Summary, gguf, structure};

/// Most shards whose headers are read; of larger models the shape must do.
const MAX_HEADERS: usize = 256;
/// Headers that are asked for at the same time.
const AT_ONCE: usize = 8;

/// What is known of a model before anybody fetches it.
#[derive(Debug, Clone)]
pub struct Looked {
    /// The repo under the name that the hub knows it by.
    pub repo: RepoId,
    /// The commit; `None` if nobody could be asked and the registry speaks for the repo.
    pub commit: Option<CommitId>,
    /// Its terms must be accepted before its files can be read.
    pub gated: bool,
    /// The licence that its card names.
    pub licence: Option<String>,
    /// `config.json`, if it has one.
    pub config: Option<Value>,
    /// The shape, or why it is unknown.
    pub architecture: std::result::Result<Architecture, Unknown>,
    /// The weights, or why they are unknown.
    pub weights: std::result::Result<WeightFacts, Unknown>,
    /// Parameters that the headers count.
    pub parameters: Option<u64>,
    /// Tensors by dtype, if headers were read.
    pub summary: Option<Summary>,
    /// The files that staging it would fetch.
    pub files: Vec<RepoFile>,
    /// Their format.
    pub format: Weights,
    /// What is wrong with the weight files.
    pub findings: Vec<Finding>,
}

/// A staged model and how it fits on this host.
#[derive(Debug, Clone)]
pub struct Staged {
    /// What it is.
    pub looked: Looked,
    /// How it fits.
    pub fit: FitView,
}

impl Looked {
    /// Bytes of the files that staging would fetch, those that are there included.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// That the config names a quantization which larder does not know, if it does.
    pub(super) fn unknown_quantization(&self) -> Option<String> {
        let method = self.config.as_ref()?.pointer("/quantization_config/quant_method")?.as_str()?;
        let is_unknown = self.architecture.as_ref().is_ok_and(|shape| shape.quantized.is_none());
        let shown: String = method.chars().take(32).flat_map(char::escape_debug).collect();
        is_unknown.then(|| {
            format!("its quantization ({shown}) is not one that larder knows; its files' bytes count")
        })
    }

    /// How the weights are stored as published.
    pub fn quantization(&self) -> Quantization {
        if let Weights::Gguf(Some(word)) = &self.format
            && let Ok(quantization) = format!("gguf:{word}").parse()
        {
            return quantization;
        }
        // Published in 32 bits or not: engines run it in 16.
        self.architecture.as_ref().ok().and_then(|shape| shape.quantized).unwrap_or(Quantization::Bits16)
    }
}

impl Scout {
    /// Looks at a model as `want` would stage it. Reads some kilobytes of each weight file, from the cache if they are
    /// there.
    ///
    /// # Errors
    /// What the hub answers; `structure_invalid` if its list of files contradicts itself. A config or a header that
    /// cannot be understood is no error: what follows from it is unknown.
    pub async fn look(&self, want: &Download, stop: &CancellationToken) -> Result<Looked> {
        let (source, gated, licence) = self.source(want, stop).await?;
        looked(source, want, gated, licence).await
    }

    /// The same, or what the registry knows of the model if its repo cannot be asked; the second part says so.
    ///
    /// # Errors
    /// As [`Scout::look`], for a model that the registry does not know.
    pub(super) async fn look_or_recall(
        &self,
        want: &Download,
        stop: &CancellationToken,
    ) -> Result<(Looked, Option<String>)> {
        let mut looked = match self.look(want, stop).await {
            Ok(looked) => looked,
            Err(error)
                if matches!(
                    error.reason(),
                    Reason::SourceUnavailable | Reason::Offline | Reason::RateLimited
                ) =>
            {
                let recalled = self.recall(&want.repo).ok_or_else(|| error.clone())?;
                return Ok((recalled, Some(format!("{error}; the registry speaks for the repo"))));
            }
            Err(error) => return Err(error),
        };
        // Whoever may not read its files can still be told what the registry knows.
        if looked.architecture.is_err()
            && looked.config.is_none()
            && let Some(known) = self.recall(&looked.repo)
        {
            looked.architecture = known.architecture;
            looked.weights = known.weights;
            let note = "its config.json cannot be read, and the registry speaks for it";
            return Ok((looked, Some(note.into())));
        }
        Ok((looked, None))
    }

    /// What the registry knows of a model's shape.
    fn recall(&self, repo: &RepoId) -> Option<Looked> {
        let entry = self.registry.get(repo.as_str())?;
        let mut shape = Architecture::from_config(entry.config.as_ref()?).ok()?;
        shape.source = Origin::Registry;
        let weights = WeightFacts { source: Origin::Registry, ..WeightFacts::from_architecture(&shape) };
        Some(Looked {
            repo: repo.clone(),
            commit: None,
            gated: false,
            licence: entry.access.licence.clone(),
            config: None,
            weights: Ok(weights),
            parameters: None,
            summary: None,
            files: Vec::new(),
            format: Weights::AsListed,
            findings: Vec::new(),
            architecture: Ok(shape),
        })
    }

    /// What a staged model is and whether it fits on this host. Nobody is asked but the disk and the GPUs.
    ///
    /// # Errors
    /// `not_found` if it is not there; `io_error`.
    pub async fn staged(&self, repo: &RepoId, commit: &CommitId, stop: &CancellationToken) -> Result<Staged> {
        let files = Source::staged(&self.cache, repo, commit).await?;
        let (hub, cache, stop) = (self.hub.clone(), self.cache.clone(), stop.clone());
        let source =
            Source { hub, cache, repo: repo.clone(), commit: commit.clone(), files, stop: stop.clone() };
        let want = Download::new(ModelRef::new(repo.clone(), commit.as_str().parse().ok()));
        let looked = looked(source, &want, false, None).await?;
        let purpose = Purpose { local: true, ..Purpose::default() };
        let fit = self.view_of(looked.clone(), &FitAsk { want, purpose }, &stop).await?;
        Ok(Staged { looked, fit })
    }

    /// The commit that is meant, with its files.
    async fn source(
        &self,
        want: &Download,
        stop: &CancellationToken,
    ) -> Result<(Source, bool, Option<String>)> {
        let staged = self.staged_commit(want);
        let hub = self.hub.with_token(want.token_ref.as_ref())?;
        let (repo, commit, gated, licence) = if self.hub.is_offline() {
            let commit = staged.ok_or_else(|| not_there(&want.model()))?;
            (want.repo.clone(), commit, false, None)
        } else {
            let resolved = hub.resolve(&want.repo, &want.revision, stop).await?;
            (resolved.repo, resolved.commit, resolved.gated, resolved.licence)
        };
        let files = if self.hub.is_offline() {
            Source::staged(&self.cache, &repo, &commit).await?
        } else {
            hub.tree(&repo, &commit, stop).await?
        };
        let (cache, stop) = (self.cache.clone(), stop.clone());
        Ok((Source { hub, cache, repo, commit, files, stop }, gated, licence))
    }

    /// The commit that the cache has for a revision.
    fn staged_commit(&self, want: &Download) -> Option<CommitId> {
        let local = || {
            let text = std::fs::read_to_string(self.cache.repo(&want.repo).reference(&want.revision)).ok()?;
            text.trim().parse().ok()
        };
        want.revision.as_commit().or_else(local)
    }
}

/// Looks at one commit.
async fn looked(source: Source, want: &Download, gated: bool, licence: Option<String>) -> Result<Looked> {
    // Only looked at: what the weights are may be told of a pickle, too.
    let chosen = plan::select(&source.files, &Download { allow_unsafe: true, ..want.clone() })?;
    let config: Option<Value> = match source.text("config.json").await {
        Ok(text) => text.and_then(|text| serde_json::from_str(&text).ok()),
        // Whoever may not read its files can still be told what the registry knows.
        Err(error) if matches!(error.reason(), Reason::Gated | Reason::Unauthorized) => None,
        Err(error) => return Err(error),
    };
    let source = Arc::new(source);
    let weight_files = chosen.files.iter().filter(has_header).cloned().collect();
    let headers = headers(&source, weight_files).await?;
    // The index speaks of safetensors files, and of no other format that lies beside them.
    let is_indexed = headers.iter().any(|file| matches!(file.contents, Contents::Safetensors(_)));
    let index = if is_indexed { index(&source).await } else { None };
    let findings = if headers.is_empty() { Vec::new() } else { structure::check(&headers, index.as_ref()) };
    let gguf_header = headers.iter().find_map(|file| match &file.contents {
        Contents::Gguf(Ok(header)) if header.architecture.is_some() => Some(header),
        _ => None,
    });
    let architecture = match (&config, gguf_header) {
        (_, Some(header)) => shape_of_gguf(header),
        (Some(config), None) => Architecture::from_config(config),
        // A GGUF needs no config.json, so that its header is what is wrong.
        (None, None) => Err(headers.iter().find_map(refused).unwrap_or_else(|| {
            Unknown::new(
                format!("{} has no config.json that can be read", source.repo),
                "name a repo with a config.json or a GGUF file; larder can stage this one all the same",
            )
        })),
    };
    let (weights, summary) = weigh(&architecture, &headers, config.as_ref());
    // Of files that no engine would load together, the sum of those that are there is not the model's.
    let broken = findings.iter().find(|found| found.severity == Severity::Error);
    let weights = match broken {
        Some(found) => weights.and(Err(Unknown::new(found.what.clone(), found.hint))),
        None => weights,
    };
    Ok(Looked {
        gated,
        licence,
        config,
        parameters: summary.as_ref().filter(|_| broken.is_none()).map(Summary::text_parameters),
        architecture,
        weights,
        summary,
        files: chosen.files,
        format: chosen.weights,
        findings,
        repo: source.repo.clone(),
        commit: Some(source.commit.clone()),
    })
}

fn not_there(model: &ModelRef) -> Error {
    Error::new(
        Reason::Offline,
        format!("{model} is not in the cache, and offline mode is on"),
        "unset HF_HUB_OFFLINE (or hub.offline), or name a model that is staged",
    )
}

fn has_header(file: &&RepoFile) -> bool {
    [".safetensors", ".gguf"].iter().any(|ending| file.path.as_str().ends_with(ending))
}

/// The headers of the weight files, in their order. One that cannot be had leaves its file unread.
async fn headers(source: &Arc<Source>, files: Vec<RepoFile>) -> Result<Vec<FileFacts>> {
    if files.len() > MAX_HEADERS {
        return Ok(Vec::new());
    }
    let asked = files.into_iter().map(|file| header(Arc::clone(source), file));
    let read: Vec<Result<FileFacts>> = futures_util::stream::iter(asked).buffered(AT_ONCE).collect().await;
    let read = read.into_iter().collect::<Result<Vec<_>>>()?;
    let is_unread = read.iter().all(|file| file.contents == Contents::NotRead);
    Ok(if is_unread { Vec::new() } else { read })
}

async fn header(source: Arc<Source>, file: RepoFile) -> Result<FileFacts> {
    let contents = match source.header(&file).await {
        Ok(contents) => contents,
        Err(error) if matches!(error.reason(), Reason::Gated | Reason::Unauthorized | Reason::NotFound) => {
            Contents::NotRead
        }
        Err(error) => return Err(error),
    };
    Ok(FileFacts { path: file.path.as_str().to_owned(), size: Some(file.size), contents })
}

async fn index(source: &Source) -> Option<Index> {
    let path = "model.safetensors.index.json";
    let text = source.text(path).await.ok()??;
    Index::parse(path, &text).ok()
}

/// The shape that a GGUF header tells.
pub(super) fn shape_of_gguf(header: &gguf::Header) -> std::result::Result<Architecture, Unknown> {
    use crate::fit::Meta;
    Architecture::from_gguf(|key| match key {
        "general.architecture" => header.architecture.as_deref().map(Meta::Text),
        "tokenizer.ggml.tokens" => header.tokens.map(Meta::Number),
        _ => match header.metadata.get(key)? {
            gguf::Value::Text(text) => Some(Meta::Text(text)),
            gguf::Value::List(each) => each.iter().filter_map(gguf::Value::unsigned).max().map(Meta::Number),
            value => value.unsigned().map(Meta::Number),
        },
    })
}

/// What the weights are: by their headers, or by the shape if there are none.
fn weigh(
    architecture: &std::result::Result<Architecture, Unknown>,
    headers: &[FileFacts],
    config: Option<&Value>,
) -> (std::result::Result<WeightFacts, Unknown>, Option<Summary>) {
    let Ok(shape) = architecture else {
        return (architecture.clone().map(|shape| WeightFacts::from_architecture(&shape)), None);
    };
    if let Some(broken) = headers.iter().find_map(refused) {
        return (Err(broken), None);
    }
    let safetensors = headers.iter().filter_map(|file| match &file.contents {
        Contents::Safetensors(Ok(header)) => Some(header),
        _ => None,
    });
    let ggufs = headers.iter().filter_map(|file| match &file.contents {
        Contents::Gguf(Ok(header)) => Some(header),
        _ => None,
    });
    let is_gguf = ggufs.clone().next().is_some();
    if headers.is_empty() || headers.iter().any(|file| file.contents == Contents::NotRead) {
        return (Ok(WeightFacts::from_architecture(shape)), None);
    }
    let (summary, origin) = if is_gguf {
        (Summary::of_gguf(ggufs.clone()), Origin::GgufHeader)
    } else {
        let bits = config.and_then(|config| config.pointer("/quantization_config/bits")?.as_u64());
        let known = Known { bits, tied_head: Some(shape.tied_embeddings), layers: Some(shape.layers) };
        (Summary::of(safetensors.clone(), known), Origin::SafetensorsHeaders)
    };
    let tensors =
        safetensors.flat_map(|header| &header.tensors).chain(ggufs.flat_map(|header| &header.tensors));
    let tensors = tensors.map(|tensor| Tensor {
        name: &tensor.name,
        dtype: &tensor.dtype,
        elements: tensor.elements,
        bytes: tensor.bytes,
    });
    (Ok(WeightFacts::from_tensors(shape, tensors, origin)), Some(summary))
}

/// Why the header of a file cannot be believed.
fn refused(file: &FileFacts) -> Option<Unknown> {
    let (what, hint) = match &file.contents {
        Contents::Safetensors(Err(error)) => (error.to_string(), error.hint().to_owned()),
        Contents::Gguf(Err(error)) => (error.to_string(), error.hint().to_owned()),
        _ => return None,
    };
    Some(Unknown::new(format!("{}: {what}", file.path), hint))
}

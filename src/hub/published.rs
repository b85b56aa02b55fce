//! Which quantizations of a model others have published.
//!
//! `GET /api/models?filter=base_model:quantized:<id>&sort=downloads&direction=-1&full=true` answers a JSON array, the most
//! downloaded first. That a repo is a quantization of another is what its own card says and nothing more, so that
//! whoever stages one checks it.

use backon::Retryable as _;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::client::{Failed, quick};
use super::source::{Round, Source};
use super::trouble::{Answer, Asked, explain, not_a_hub};
use super::{Hub, unless_stopped};
use crate::error::{Error, Result};
use larder_jobs::{CommitId, Reason, RepoId};

/// Most repos that are looked at.
const MAX_REPOS: usize = 50;
const MAX_ANSWER: usize = 8 << 20;

/// A repo that says of itself that it is a quantization of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The repo.
    pub repo: RepoId,
    /// Its newest commit.
    pub commit: Option<CommitId>,
    /// Downloads of the last month.
    pub downloads: u64,
    /// The licence that its card names.
    pub licence: Option<String>,
    /// Whether its terms must be accepted first.
    pub gated: bool,
    /// The words that its card is tagged with.
    pub tags: Vec<String>,
    /// The names of its files.
    pub files: Vec<String>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    sha: Option<String>,
    #[serde(default)]
    downloads: u64,
    #[serde(default)]
    gated: serde_json::Value,
    #[serde(default)]
    private: bool,
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// What is published as a quantization of `repo`, the most downloaded first, at most 50.
    ///
    /// # Errors
    /// As [`Hub::resolve`]. A mirror that knows no such question has published nothing.
    pub async fn quantizations(&self, repo: &RepoId, stop: &CancellationToken) -> Result<Vec<Published>> {
        let inner = &*self.inner;
        inner.online(&format_args!("the list of quantizations of {repo}"))?;
        let asked = async {
            let mut round = Round::new(&inner.sources);
            while let Some(source) = round.next() {
                let ask = || source.quantizations(repo);
                match ask.retry(quick()).when(|failed: &Failed| failed.again).await {
                    Ok(found) => return Ok(found),
                    Err(failed) if failed.error.reason() == Reason::NotFound => return Ok(Vec::new()),
                    Err(failed) => round.failed(&source, failed.error),
                }
            }
            Err(round.end())
        };
        unless_stopped(stop, asked).await
    }
}

impl Source {
    async fn quantizations(&self, repo: &RepoId) -> Result<Vec<Published>, Failed> {
        let mut url = self.url(["api", "models"]);
        url.query_pairs_mut()
            .append_pair("filter", &format!("base_model:quantized:{repo}"))
            .append_pair("sort", "downloads")
            .append_pair("direction", "-1")
            .append_pair("limit", &MAX_REPOS.to_string())
            .append_pair("full", "true");
        let mut request = self.clients.api.get(url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.secret());
        }
        self.turn().await;
        let mut response = request.send().await.map_err(|error| self.no_answer(&error))?;
        let status = response.status();
        self.answered(status.as_u16());
        if !status.is_success() {
            let (endpoint, token) = (self.address(), self.token.is_some());
            let asked = Asked { endpoint, repo, revision: "main", path: None, token };
            let error = explain(asked, &Answer::of(status.as_u16(), response.headers()));
            return Err(Failed { error, again: false });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.no_answer(&error))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                let error = not_a_hub(self.address(), "its list of models has more than 8 MiB");
                return Err(Failed { error, again: false });
            }
            body.extend_from_slice(&chunk);
        }
        let entries: Vec<Entry> = serde_json::from_slice(&body).map_err(|_| {
            let error: Error = not_a_hub(self.address(), "it sent no list of models");
            Failed { error, again: false }
        })?;
        let usable = entries.into_iter().filter(|entry| !entry.private && !entry.disabled);
        Ok(usable.take(MAX_REPOS).filter_map(published).collect())
    }
}

/// `None` if its name is none that larder could stage.
fn published(entry: Entry) -> Option<Published> {
    let licence = entry.tags.iter().find_map(|tag| tag.strip_prefix("license:")).map(str::to_owned);
    Some(Published {
        repo: entry.id.parse().ok()?,
        commit: entry.sha.and_then(|sha| sha.parse().ok()),
        downloads: entry.downloads,
        licence,
        gated: !matches!(entry.gated, serde_json::Value::Bool(false) | serde_json::Value::Null),
        tags: entry.tags,
        files: entry.siblings.into_iter().map(|sibling| sibling.rfilename).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::testing::{TestHub, repo};

    const PATH: &str = "/api/models?filter=base_model%3Aquantized%3Aown%2Fname&sort=downloads&direction=-1&limit=50&full=true";

    #[tokio::test]
    async fn what_others_published_is_read_and_what_cannot_be_used_left_out() {
        let server = TestHub::start(&[]).await;
        let list = r#"[
            {"id": "other/name-AWQ", "sha": "cccccccccccccccccccccccccccccccccccccccc", "downloads": 7, "gated": false,
             "tags": ["awq", "license:mit"], "siblings": [{"rfilename": "model.safetensors"}]},
            {"id": "secret/name", "private": true}, {"id": "no-owner"}, {"id": "gated/name", "gated": "auto"}]"#;
        server.answer(PATH, 200, &[], list);
        let (hub, stop) = (server.hub(false, |_| {}), CancellationToken::new());
        let found = hub.quantizations(&repo(), &stop).await.expect("listed");
        let names: Vec<_> = found.iter().map(|one| one.repo.as_str()).collect();
        assert_eq!(names, ["other/name-AWQ", "gated/name"]);
        assert_eq!(
            (found[0].licence.as_deref(), found[0].downloads, found[0].gated),
            (Some("mit"), 7, false)
        );
        assert_eq!(found[0].files, ["model.safetensors"]);
        assert!(found[1].gated);

        server.answer(PATH, 404, &[], "");
        assert!(hub.quantizations(&repo(), &stop).await.expect("a mirror").is_empty());
        server.answer(PATH, 200, &[], "{}");
        let error = hub.quantizations(&repo(), &stop).await.expect_err("no list");
        assert_eq!(error.reason(), Reason::SourceUnavailable);
    }
}

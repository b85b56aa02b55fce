//! Which files a commit has: the tree API, read page by page, and refused where it contradicts itself.
//!
//! `GET /api/models/<repo>/tree/<commit>?recursive=true` answers a JSON array of entries and, if there is more,
//! `Link: <url>; rel="next"` (source: `list_repo_tree` of Python huggingface_hub 2.4.0). A file in LFS or Xet has
//! `lfs.oid` (SHA-256) and `lfs.size`; any other has `oid` (SHA-1 of the git object) and `size`.
//! Bounds: 100,000 files, 1,000 pages, 64 MiB of JSON a page.

use std::collections::{BTreeMap, BTreeSet};

use backon::Retryable as _;
use reqwest::Response;
use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::client::{Failed, quick};
use super::source::{Round, Source};
use super::trouble::{Answer, Asked, explain, not_a_hub};
use super::{Hub, unless_stopped};
use crate::error::{Error, Result};
use larder_jobs::{CommitId, Digest, FilePath, Reason, RepoFile, RepoId};

const MAX_FILES: usize = 100_000;
const MAX_PAGES: usize = 1_000;
const MAX_PAGE_BYTES: usize = 64 << 20;

impl Hub {
    /// The files of a commit, by path.
    ///
    /// # Errors
    /// `structure_invalid` if a path would leave its folder, two entries collide (also by case only), a digest is
    /// missing, or a bound is passed; else as [`Hub::resolve`].
    pub async fn tree(
        &self,
        repo: &RepoId,
        commit: &CommitId,
        stop: &CancellationToken,
    ) -> Result<Vec<RepoFile>> {
        let inner = &*self.inner;
        inner.online(&format_args!("the list of files of {repo}@{commit}"))?;
        let asked = async {
            let mut round = Round::new(&inner.sources);
            while let Some(source) = round.next() {
                match source.listing(repo, commit).await {
                    Ok(files) => return Ok(files),
                    Err(error) => round.failed(&source, error),
                }
            }
            Err(round.end())
        };
        unless_stopped(stop, asked).await
    }
}

impl Source {
    async fn listing(&self, repo: &RepoId, commit: &CommitId) -> Result<Vec<RepoFile>> {
        let path = ["api", "models", repo.owner(), repo.name(), "tree", commit.as_str()];
        let mut url = self.url(path);
        url.query_pairs_mut().append_pair("recursive", "true").append_pair("expand", "false");
        let mut listing = Listing::default();
        let mut next = Some(url);
        for _ in 0..MAX_PAGES {
            let Some(url) = next else { return listing.finish(repo) };
            let ask = || self.page(repo, commit, &url);
            let page = ask.retry(quick()).when(|failed: &Failed| failed.again).await;
            let (headers, body) = page.map_err(|failed| failed.error)?;
            listing.add(repo, self.endpoint.as_str(), &body)?;
            next = self.following(repo, &url, &headers)?;
        }
        Err(invalid(repo, &format!("it has more than {MAX_PAGES} pages")))
    }

    async fn page(
        &self,
        repo: &RepoId,
        commit: &CommitId,
        url: &Url,
    ) -> Result<(HeaderMap, Vec<u8>), Failed> {
        let mut request = self.clients.api.get(url.clone());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.secret());
        }
        self.turn().await;
        let response = request.send().await.map_err(|error| self.no_answer(&error))?;
        let status = response.status();
        self.answered(status.as_u16());
        let headers = response.headers().clone();
        if !status.is_success() {
            let endpoint = self.address();
            let token = self.token.is_some();
            let asked = Asked { endpoint, repo, revision: commit.as_str(), path: None, token };
            let error = explain(asked, &Answer::of(status.as_u16(), &headers));
            return Err(Failed { error, again: false });
        }
        let body = self.bounded(repo, response).await?;
        Ok((headers, body))
    }

    async fn bounded(&self, repo: &RepoId, mut response: Response) -> Result<Vec<u8>, Failed> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.no_answer(&error))? {
            if body.len() + chunk.len() > MAX_PAGE_BYTES {
                let error = invalid(repo, "a page has more than 64 MiB");
                return Err(Failed { error, again: false });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// The page after `url`, which must be at the same place, because the token goes there.
    fn following(&self, repo: &RepoId, url: &Url, headers: &HeaderMap) -> Result<Option<Url>> {
        let Some(target) = next_link(headers) else { return Ok(None) };
        let next = url.join(&target).map_err(|_| invalid(repo, "its next page has no valid address"))?;
        if next == *url || !self.is_home(&next) {
            return Err(invalid(repo, "its next page is itself or at another host"));
        }
        Ok(Some(next))
    }
}

/// The target of `rel="next"` among the links of a head (RFC 8288).
fn next_link(headers: &HeaderMap) -> Option<String> {
    for value in headers.get_all(LINK) {
        let mut rest = value.to_str().ok()?;
        while let Some((_, after)) = rest.split_once('<') {
            let (target, after) = after.split_once('>')?;
            let (parameters, following) = match after.find('<') {
                Some(end) => after.split_at(end),
                None => (after, ""),
            };
            let is_next = parameters.split([';', ',']).any(|parameter| {
                let parameter = parameter.trim().to_ascii_lowercase();
                parameter.strip_prefix("rel=").is_some_and(|rel| {
                    rel.trim_matches('"').split_ascii_whitespace().any(|word| word == "next")
                })
            });
            if is_next {
                return Some(target.to_owned());
            }
            rest = following;
        }
    }
    None
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    oid: Option<String>,
    /// Any JSON, so that a size that is none is told as such.
    size: Option<Value>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: Option<String>,
    size: Option<Value>,
}

/// A listing on its way.
#[derive(Default)]
struct Listing {
    /// By path.
    files: BTreeMap<String, RepoFile>,
}

impl Listing {
    fn add(&mut self, repo: &RepoId, endpoint: &str, page: &[u8]) -> Result<()> {
        let entries: Vec<Entry> =
            serde_json::from_slice(page).map_err(|_| not_a_hub(endpoint, "it sent no list of files"))?;
        for entry in entries {
            match entry.kind.as_str() {
                "directory" => continue,
                "file" => {}
                _ => return Err(invalid(repo, "it has an entry that is neither a file nor a folder")),
            }
            let path: FilePath = entry.path.parse().map_err(|error| invalid(repo, &format!("{error}")))?;
            let Some((digest, size)) = promise(&entry) else {
                return Err(invalid(repo, &format!("{path} has no valid digest or size")));
            };
            if self.files.insert(entry.path, RepoFile { path: path.clone(), size, digest }).is_some() {
                return Err(invalid(repo, &format!("{path} is listed twice")));
            }
            if self.files.len() > MAX_FILES {
                return Err(invalid(repo, &format!("it has more than {MAX_FILES} files")));
            }
        }
        Ok(())
    }

    fn finish(self, repo: &RepoId) -> Result<Vec<RepoFile>> {
        let sum = self.files.values().try_fold(0_u64, |sum, file| sum.checked_add(file.size));
        if sum.is_none() {
            return Err(invalid(repo, "its sizes add up to more than any disk holds"));
        }
        let mut names: BTreeSet<String> = BTreeSet::new();
        for path in self.files.keys() {
            if !names.insert(path.to_lowercase()) {
                return Err(invalid(repo, &format!("{path} is there twice, told apart by case only")));
            }
        }
        for path in self.files.keys() {
            let lower = path.to_lowercase();
            let is_file = |(end, _): (usize, &str)| names.contains(&lower[..end]);
            if lower.match_indices('/').any(is_file) {
                return Err(invalid(repo, &format!("a folder above {path} is also a file")));
            }
        }
        Ok(self.files.into_values().collect())
    }
}

/// What the hub promises about an entry's bytes.
fn promise(entry: &Entry) -> Option<(Digest, u64)> {
    match &entry.lfs {
        Some(lfs) => {
            let oid = lfs.oid.as_deref()?;
            Some((Digest::sha256(oid.strip_prefix("sha256:").unwrap_or(oid))?, size(lfs.size.as_ref())?))
        }
        None => Some((Digest::git_sha1(entry.oid.as_deref()?)?, size(entry.size.as_ref())?)),
    }
}

/// A size that a file can have: `off_t` ends where `i64` does.
fn size(value: Option<&Value>) -> Option<u64> {
    value?.as_u64().filter(|size| i64::try_from(*size).is_ok())
}

fn invalid(repo: &RepoId, why: &str) -> Error {
    Error::new(
        Reason::StructureInvalid,
        format!("the list of files of {repo} cannot be used: {why}"),
        "report it to the model's owner; larder stages nothing of such a repo",
    )
}

#[cfg(test)]
mod tests;

//! Which commit a revision is, asked through hf-hub's `info()`.
//!
//! hf-hub builds the request, reads `ModelInfo` and hands back the hub's error code and message. Three of its
//! habits are kept out: it looks for a token of its own in the environment, it retries on its own, and it logs
//! URLs as errors. It reads the answer whole, bounded by time only, and understands `Retry-After` in seconds
//! only; the listing and the bytes go through requests of ours.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use hf_hub::{HFClient, HFError};
use tokio_util::sync::CancellationToken;
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;
use url::Url;

use super::source::{Round, Source};
use super::trouble::{Answer, Asked, explain, not_a_hub, unreachable};
use super::{Hub, Token, unless_stopped};
use crate::error::{Error, Result};
use larder_jobs::{CommitId, RepoId, Revision};

/// hf-hub sends no token that cannot stand in a header, and with any token it looks for no other.
pub(super) const NO_TOKEN: &str = "\n";

/// What a revision is right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The repo under the name that it has today; another one than asked for if it was renamed.
    pub repo: RepoId,
    /// The commit.
    pub commit: CommitId,
    /// Whether its terms must be accepted before its files can be fetched.
    pub gated: bool,
    /// The licence that its card names.
    pub licence: Option<String>,
}

/// An error, and whether asking again at once may help.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) again: bool,
}

/// Two quick tries for a connection that did not come about; whoever sent us has more patience.
pub(super) fn quick() -> ExponentialBuilder {
    ExponentialBuilder::new().with_min_delay(Duration::from_millis(200)).with_max_times(2).with_jitter()
}

/// hf-hub's client, over ours.
pub(super) fn build(endpoint: &Url, token: Option<&Token>, client: reqwest::Client) -> Result<HFClient> {
    HFClient::builder()
        .endpoint(endpoint.as_str())
        .token(token.map_or(NO_TOKEN, Token::secret))
        .client(client)
        .cache_enabled(false)
        .retry_max_attempts(0)
        .build()
        .map_err(|error| Error::internal(format!("cannot set up the hub client: {error}")))
}

impl Hub {
    /// Which commit `revision` of `repo` is.
    ///
    /// # Errors
    /// `not_found`, `gated`, `unauthorized`, `rate_limited`, `source_unavailable`, `offline`, as the hub's answer
    /// or silence says; `interrupted` if `stop` said so.
    pub async fn resolve(
        &self,
        repo: &RepoId,
        revision: &Revision,
        stop: &CancellationToken,
    ) -> Result<Resolved> {
        let inner = &*self.inner;
        inner.online(&format_args!("the commit of {repo}@{revision}"))?;
        let asked = async {
            let mut round = Round::new(&inner.sources);
            while let Some(source) = round.next() {
                let ask = || source.info(repo, revision);
                match ask.retry(quick()).when(|failed: &Failed| failed.again).await {
                    Ok(resolved) => return Ok(resolved),
                    Err(failed) => round.failed(&source, failed.error),
                }
            }
            Err(round.end())
        };
        unless_stopped(stop, asked).await
    }
}

impl Source {
    async fn info(&self, repo: &RepoId, revision: &Revision) -> Result<Resolved, Failed> {
        self.turn().await;
        let model = self.hf.model(repo.owner(), repo.name());
        let answer = model.info().revision(revision.as_str()).send();
        let info = match answer.with_subscriber(NoSubscriber::default()).await {
            Ok(info) => info,
            Err(error) => return Err(self.failed(repo, revision, error)),
        };
        let Some(commit) = info.sha.as_deref().and_then(|sha| sha.parse().ok()) else {
            self.counted(200);
            let error = not_a_hub(self.endpoint.as_str(), "it names no commit");
            return Err(Failed { error, again: false });
        };
        self.answered(200);
        // Very old repos have no owner today; they go on under the name that was asked for.
        let canonical = info.id.parse().unwrap_or_else(|_| repo.clone());
        let gated =
            info.gated.is_some_and(|gated| !matches!(gated.as_bool(), Some(false)) && !gated.is_null());
        let licence =
            info.tags.iter().flatten().find_map(|tag| tag.strip_prefix("license:").map(str::to_owned));
        Ok(Resolved { repo: canonical, commit, gated, licence })
    }

    fn failed(&self, repo: &RepoId, revision: &Revision, error: HFError) -> Failed {
        let endpoint = self.address();
        let token = self.token.is_some();
        let asked = Asked { endpoint, repo, revision: revision.as_str(), path: None, token };
        let (context, retry_after) = match error {
            HFError::RateLimited { retry_after, context } => (context, retry_after),
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context }
            | HFError::RepoNotFound { context: Some(context), .. }
            | HFError::RevisionNotFound { context: Some(context), .. }
            | HFError::EntryNotFound { context: Some(context), .. } => (context, None),
            HFError::Request { source, .. } if source.is_decode() && !source.is_timeout() => {
                self.counted(200);
                return Failed { error: not_a_hub(endpoint, "it sent no repo info"), again: false };
            }
            HFError::Request { source, .. } => return self.no_answer(&source),
            _ => {
                let error = not_a_hub(endpoint, "its answer makes no sense");
                return Failed { error, again: false };
            }
        };
        let status = context.status.as_u16();
        let page = context.body.trim_start().starts_with('<');
        if page {
            self.counted(status);
        } else {
            self.answered(status);
        }
        let answer = Answer {
            status,
            page,
            code: context.error_code.clone(),
            message: context.server_message.clone(),
            retry_after,
        };
        Failed { error: explain(asked, &answer), again: false }
    }

    /// Nothing came from the endpoint, or not all of it.
    pub(super) fn no_answer(&self, error: &reqwest::Error) -> Failed {
        let again = !error.is_timeout() && (error.is_connect() || error.is_request());
        Failed { error: unreachable(&self.name, error), again }
    }
}

#[cfg(test)]
mod tests {
    use larder_jobs::Reason;

    use super::*;
    use crate::hub::Tokens;
    use crate::hub::testing::{TestHub, commit, config, repo};

    type Case = (u16, &'static [(&'static str, &'static str)], &'static str, Reason);

    const INFO: &str = "/api/models/own/name/revision/main";

    async fn resolved(server: &TestHub, token: bool) -> Result<Resolved> {
        let hub = server.hub(token, |_| {});
        hub.resolve(&repo(), &Revision::main(), &CancellationToken::new()).await
    }

    #[tokio::test]
    async fn a_revision_is_resolved_and_a_rename_seen() {
        let server = TestHub::start(&[]).await;
        let info = format!(
            r#"{{"_id":"1","id":"new/name","sha":"{}","gated":"auto","tags":["x","license:mit"]}}"#,
            commit()
        );
        server.answer(INFO, 200, &[("content-type", "application/json")], &info);
        let found = resolved(&server, false).await.expect("resolved");
        assert_eq!(found.repo.as_str(), "new/name");
        assert!(found.gated);
        assert_eq!(found.licence.as_deref(), Some("mit"));
        assert_eq!(found.commit, commit());
        assert!(server.seen().iter().all(|seen| !seen.token), "no token of the environment is sent");
        assert!(resolved(&server, true).await.is_ok());
        assert!(server.seen().last().is_some_and(|seen| seen.token));
    }

    #[tokio::test]
    async fn answers_become_reasons() {
        let server = TestHub::start(&[]).await;
        let cases: &[Case] = &[
            (401, &[("x-error-code", "RepoNotFound")], "", Reason::NotFound),
            (404, &[("x-error-code", "RevisionNotFound")], "", Reason::NotFound),
            (403, &[("x-error-code", "GatedRepo")], "", Reason::Gated),
            (401, &[], r#"{"error":"Invalid credentials"}"#, Reason::Unauthorized),
            (429, &[("retry-after", "17")], "", Reason::RateLimited),
            (503, &[], "", Reason::SourceUnavailable),
            (404, &[], "<html>nothing here</html>", Reason::SourceUnavailable),
            (200, &[], "<html>welcome to this hotel</html>", Reason::SourceUnavailable),
            (200, &[], r#"{"id":"own/name"}"#, Reason::SourceUnavailable),
        ];
        for (status, headers, body, reason) in cases {
            server.answer(INFO, *status, headers, body);
            let error = resolved(&server, true).await.expect_err("refused");
            assert_eq!(error.reason(), *reason, "{status} {body}: {error}");
            assert!(!error.message().contains("geheim"));
            if *status == 429 {
                assert_eq!(error.retry_after(), Some(Duration::from_secs(17)));
            }
        }
        assert_eq!(server.seen().len(), cases.len(), "an answer is never asked for again here");
    }

    #[tokio::test]
    async fn nobody_there_is_told_apart_from_an_answer() {
        let hub = Hub::new(&config("http://127.0.0.1:1"), Tokens::default()).expect("client");
        let stop = CancellationToken::new();
        let error = hub.resolve(&repo(), &Revision::main(), &stop).await.expect_err("nobody");
        assert_eq!(error.reason(), Reason::SourceUnavailable);
        assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
        assert!(!hub.reached());
        stop.cancel();
        let stopped = hub.resolve(&repo(), &Revision::main(), &stop).await.expect_err("stopped");
        assert_eq!(stopped.reason(), Reason::Interrupted);
    }
}

//! `GET /v1/jobs/{id}/events`: how a job stands, as server-sent events, until it has ended.
//!
//! An event is the whole job as it is at that moment, and its id a hash of that, so that a stream goes on anywhere and
//! after any restart: whoever says which event came last gets the job as it is now unless that is the same one. A slow
//! reader misses what was in between, and never the end. One task looks at a job for all its streams.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Extension, Path, State as Shared};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use larder_jobs::{JobId, JobView, Reason, State};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::Api;
use super::jobs::{find, unknown};
use super::problem::Failure;

/// Most streams at a time; each holds a connection, of which there are twice as many over TCP.
const MAX_STREAMS: usize = 128;
/// How often a job is looked at; its worker reports as often.
const LOOK: Duration = Duration::from_millis(500);
/// The pause after a change of the queue, which often comes with others.
const CALM: Duration = Duration::from_millis(50);
/// How often a stream with nothing to say shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The event after which a stream begins again.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Fires when larder stops; streams end then, since nothing else would end them.
#[derive(Debug, Clone)]
pub(super) struct Closing(pub(super) CancellationToken);

/// The jobs that are followed.
#[derive(Clone)]
pub struct Followed {
    jobs: Arc<Mutex<HashMap<JobId, watch::Sender<Arc<Seen>>>>>,
    streams: Arc<Semaphore>,
}

impl Default for Followed {
    fn default() -> Self {
        Self { jobs: Arc::default(), streams: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }
}

/// A job at one moment.
struct Seen {
    id: String,
    state: State,
    reason: Option<Reason>,
    attempts: u32,
    json: String,
}

impl Seen {
    fn of(view: &JobView) -> Self {
        let json = serde_json::to_string(view).unwrap_or_default();
        let id = hex::encode(&Sha256::digest(&json)[..8]);
        Self { id, state: view.state, reason: view.reason, attempts: view.attempts, json }
    }

    /// `end` of the last one, `state` if it stands otherwise than before, else `progress`.
    fn name(&self, before: Option<&Self>) -> &'static str {
        let stands = |seen: &Self| (seen.state, seen.reason, seen.attempts);
        match before {
            _ if self.state.is_terminal() => "end",
            Some(before) if stands(before) == stands(self) => "progress",
            _ => "state",
        }
    }
}

impl Followed {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, watch::Sender<Arc<Seen>>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of the job that was `seen` a moment ago.
    fn follow(&self, id: JobId, seen: Seen, api: &Api) -> watch::Receiver<Arc<Seen>> {
        let mut jobs = self.jobs();
        if let Some(sender) = jobs.get(&id) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(Arc::new(seen));
        jobs.insert(id, sender.clone());
        tokio::spawn(self.clone().look(id, sender, api.clone()));
        receiver
    }

    /// Looks until the job has ended, is forgotten, or nobody follows it.
    async fn look(self, id: JobId, sender: watch::Sender<Arc<Seen>>, api: Api) {
        let mut changed = api.queue.changed();
        loop {
            let ended = match find(&api, id).await {
                Ok(Some(view)) => {
                    let seen = Arc::new(Seen::of(&view));
                    let ended = seen.state.is_terminal();
                    sender.send_if_modified(|before| {
                        let differs = before.id != seen.id;
                        if differs {
                            *before = seen;
                        }
                        differs
                    });
                    ended
                }
                Ok(None) => true,
                // The queue comes back, and a worker may be at it all the while.
                Err(_) => false,
            };
            {
                let mut jobs = self.jobs();
                if ended || sender.receiver_count() == 0 {
                    jobs.remove(&id);
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                Ok(()) = changed.changed() => tokio::time::sleep(CALM).await,
            }
        }
    }
}

/// One stream.
struct Stream {
    receiver: watch::Receiver<Arc<Seen>>,
    last: Option<Arc<Seen>>,
    /// The event that the client says it had last.
    had: Option<String>,
    closing: CancellationToken,
    _slot: OwnedSemaphorePermit,
}

impl Stream {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            let seen = Arc::clone(&self.receiver.borrow_and_update());
            let is_known = match (&self.last, &self.had) {
                (Some(last), _) => last.id == seen.id,
                (None, Some(had)) => *had == seen.id,
                (None, None) => false,
            };
            if !is_known {
                let event =
                    Event::default().id(&seen.id).event(seen.name(self.last.as_deref())).data(&seen.json);
                self.last = Some(seen);
                return Some((Ok(event), self));
            }
            self.last.get_or_insert(seen);
            tokio::select! {
                changed = self.receiver.changed() => changed.ok()?,
                () = self.closing.cancelled() => return None,
            }
        }
    }
}

pub(super) async fn follow(
    Shared(api): Shared<Api>,
    closing: Option<Extension<Closing>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let id: JobId = id.parse()?;
    let seen = Seen::of(&find(&api, id).await?.ok_or_else(|| unknown(id))?);
    let had = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
    if seen.state.is_terminal() && had.as_ref() == Some(&seen.id) {
        // Nothing will ever come: clients that begin again by themselves stop at this.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let slot = Arc::clone(&api.followed.streams).try_acquire_owned().map_err(|_| {
        Failure::new(
            Reason::RateLimited,
            format!("{MAX_STREAMS} streams of events are open, which is as many as there may be"),
            "close some, or look at GET /v1/jobs/{id} now and then",
        )
    })?;
    let stream = Stream {
        receiver: api.followed.follow(id, seen, &api),
        last: None,
        had,
        closing: closing.map_or_else(CancellationToken::new, |Extension(Closing(token))| token),
        _slot: slot,
    };
    let events = Sse::new(stream::unfold(stream, Stream::next));
    let heartbeat = KeepAlive::new().interval(HEARTBEAT).text("still there");
    // Proxies that keep answers until they are whole would keep this one for ever.
    Ok(([("x-accel-buffering", "no")], events.keep_alive(heartbeat)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(state: State, attempts: u32, json: &str) -> Seen {
        Seen { id: json.into(), state, reason: None, attempts, json: json.into() }
    }

    #[test]
    fn events_are_named_by_what_changed() {
        let fetching = seen(State::Fetching, 1, "a");
        assert_eq!(fetching.name(None), "state");
        assert_eq!(seen(State::Fetching, 1, "b").name(Some(&fetching)), "progress");
        assert_eq!(seen(State::Fetching, 2, "c").name(Some(&fetching)), "state");
        assert_eq!(seen(State::Ready, 1, "d").name(Some(&fetching)), "end");
        assert_eq!(seen(State::Ready, 1, "d").name(None), "end");
    }
}

//! The inbox: what programs asked for with `FCALL larder_enqueue` is checked here, as every request is, and queued under
//! the id that they were given.
//!
//! One larder is told of each request and takes all that wait; each looks once more at every heartbeat, should the one
//! that was told be gone. A request is taken out by the step that queues it, so two who look at the same do no harm.

use std::convert::Infallible;
use std::time::Duration;

use larder_jobs::client::{Entry, Library, Want};
use larder_jobs::{Hosts, Job, Kind, MAX_PAYLOAD, Reason};
use serde_json::Value;

use super::Redis;
use crate::error::{Error, Result};
use crate::queue::bounds;

/// Requests that are looked at together.
const CHUNK: usize = 64;
/// A round ends when so many requests cannot be queued now.
const MOST_STAY: usize = 512;
/// How often each larder looks without being told.
const LOOK: Duration = Duration::from_secs(20);

impl Redis {
    /// Empties the inbox whenever there is something in it, as far as anybody knows.
    pub(super) async fn tend_inbox(&self) -> Infallible {
        loop {
            // While the queue is away there is nothing to take; who attends says so.
            if let Err(error) = self.empty_inbox().await {
                tracing::debug!(%error, "the inbox cannot be emptied");
            }
            // Either way it is time to look.
            let _ = tokio::time::timeout(LOOK, self.inbox.notified()).await;
        }
    }

    /// Takes out what is there. What this larder may not take, or nobody just now, stays and holds up nothing behind it.
    async fn empty_inbox(&self) -> Result<()> {
        let mut stays = 0;
        loop {
            let entries = self.queue.inbox(stays, CHUNK).await?;
            if entries.is_empty() {
                return Ok(());
            }
            // All at once: a hub that is slow holds up a chunk once, and not once for each of its requests.
            let sizes = entries.iter().map(|entry| self.size(entry));
            let sizes = futures_util::future::join_all(sizes).await;
            for (entry, want) in entries.iter().zip(sizes) {
                stays += usize::from(!self.take_in(entry, want).await?);
            }
            if stays >= MOST_STAY {
                return Ok(());
            }
        }
    }

    /// What is known of the size of a request's model, where that decides who takes it.
    async fn size(&self, entry: &Entry) -> Want {
        match (self.sizer.get(), read(&entry.request)) {
            (Some(sizer), Ok(job)) if matches!(job.common.hosts, Hosts::Best(_)) => sizer(job).await,
            _ => Want::default(),
        }
    }

    /// Whether a request stays that cannot be queued now: there is no room for its kind, or no host for it.
    ///
    /// # Errors
    /// `queue_unavailable` if the queue is away, for all of them.
    async fn stays(&self, entry: &Entry, error: &larder_jobs::client::Error) -> Result<bool> {
        self.queue.inbox(0, 1).await?;
        tracing::debug!(request = %entry.id, %error, "a request waits in the inbox");
        Ok(false)
    }

    /// Queues one request or turns it away; whether it is out of the inbox.
    async fn take_in(&self, entry: &Entry, want: Want) -> Result<bool> {
        let invalid = match read(&entry.request) {
            Ok(job) => {
                if job.common.hosts.are_chosen() {
                    return self.take_in_for_chosen(entry, &job, want).await;
                }
                let target = self.target(&job.common.hosts);
                match self.queue.deliver(entry.id, &job, &target, None).await {
                    Ok(answer) => {
                        if let Some((created, record)) = answer {
                            tracing::info!(job = %record.id, request = %entry.id, created, "a request was taken in");
                        }
                        return Ok(true);
                    }
                    Err(error) if error.reason() == Reason::QueueUnavailable => {
                        return self.stays(entry, &error).await;
                    }
                    Err(error) => Error::from(error),
                }
            }
            // A newer larder of the fleet may take it.
            Err(invalid) if invalid.reason() == Reason::UnsupportedVersion => return Ok(false),
            Err(invalid) => invalid,
        };
        self.turn_away(entry, &invalid).await
    }

    /// The same for hosts that are chosen by who is there.
    async fn take_in_for_chosen(&self, entry: &Entry, job: &Job, want: Want) -> Result<bool> {
        match self.queue.deliver_to_chosen(entry.id, job, want).await {
            Ok(()) => {
                tracing::info!(request = %entry.id, hosts = %job.common.hosts, "a request was taken in");
                Ok(true)
            }
            Err(error) if error.reason() == Reason::QueueUnavailable => self.stays(entry, &error).await,
            Err(error) => self.turn_away(entry, &error.into()).await,
        }
    }

    async fn turn_away(&self, entry: &Entry, invalid: &Error) -> Result<bool> {
        let raw: Value =
            serde_json::from_str(&entry.request).unwrap_or_else(|_| entry.request.clone().into());
        let kind = raw["kind"].as_str().and_then(|word| word.parse().ok()).unwrap_or(Kind::Download);
        let (why, payload) = (bounds::message(&invalid.message()), bounds::clipped_payload(&raw).to_string());
        if self.queue.turn_away(entry.id, kind, invalid.reason(), &why, &payload).await? {
            self.ended_unread(entry.id).await;
            tracing::warn!(request = %entry.id, reason = %invalid.reason(), "a request was turned away: {invalid}");
        }
        Ok(true)
    }

    /// Gives the server the functions that fill the inbox, if it has none and lets us.
    pub(super) async fn offer_functions(&self, told: &mut bool) {
        if !self.config.functions {
            return;
        }
        match self.queue.connection().load_library().await {
            Ok(Library::Loaded) => tracing::info!("the functions larder_enqueue and larder_job are in Redis"),
            Ok(Library::Known | Library::Unsupported) => {}
            Err(error) if !std::mem::replace(told, true) => tracing::info!(
                "the Redis functions for other languages cannot be loaded: {error}; load them by hand (larder config \
                 functions), and set queue.functions = false"
            ),
            Err(_) => {}
        }
    }
}

/// Checks a request that came from a program elsewhere.
fn read(request: &str) -> Result<Job> {
    let invalid = |what: &str, hint: &str| Error::new(Reason::InvalidRequest, what, hint);
    if request.len() > MAX_PAYLOAD {
        return Err(invalid("the job is larger than 8 KiB", "use fewer, wider patterns"));
    }
    let value = serde_json::from_str(request)
        .map_err(|error| invalid(&format!("the request is no JSON: {error}"), "send one JSON object"))?;
    let job = Job::from_json(value)?;
    match job.common.hosts {
        Hosts::This => Err(invalid(
            "the job is for \"this\" host, and it came through Redis",
            "set `hosts` to a host's name, or to \"pool\" for any one",
        )),
        _ => Ok(job),
    }
}

#[cfg(test)]
mod tests {
    use larder_jobs::client::LIBRARY;
    use larder_jobs::{JobId, State, Target};
    use serde_json::json;

    use super::super::tests::{address, claim, store};
    use super::*;
    use crate::queue::testing::config;
    use crate::queue::{Config, Done, JobStore as _, Settlement};
    use larder_jobs::client::Connection;
    use support::Reply;

    fn house() -> (support::Redis, Redis) {
        let server = support::Redis::start();
        server.command(&["FUNCTION", "LOAD", LIBRARY]);
        let store = store(Connection::new(address(&server)), config(), "gpu-1");
        (server, store)
    }

    fn call(server: &support::Redis, function: &str, words: &[&str]) -> Reply {
        server.command(&[&["FCALL", function, "1", "{test}:"], words].concat())
    }

    fn ask(server: &support::Redis, job: &Value) -> JobId {
        let answer = call(server, "larder_enqueue", &[&job.to_string()]).text();
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["state"], "queued", "{answer}");
        answer["id"].as_str().expect("an id").parse().expect("an id")
    }

    fn show(server: &support::Redis, id: JobId) -> Value {
        serde_json::from_str(&call(server, "larder_job", &[&id.to_string()]).text()).expect("JSON")
    }

    fn download(repo: &str) -> Value {
        json!({"v": 1, "kind": "download", "repo": repo, "hosts": "pool"})
    }

    async fn run(store: &Redis) -> JobId {
        let held = claim(store).await.expect("a job");
        let done = Settlement::Done(Done { path: Some("/there".into()), ..Done::default() });
        store.settle(held.record.id, held.token, done).await.expect("settles");
        held.record.id
    }

    #[tokio::test]
    async fn a_request_becomes_the_job_of_its_id() {
        let (server, store) = house();
        let id = ask(&server, &download("a/b"));
        let before = store.get(id).await.expect("reads").expect("is known before anybody took it");
        assert_eq!(
            (before.state, before.kind, &before.job["repo"]),
            (State::Queued, Kind::Download, &json!("a/b"))
        );
        assert_eq!(show(&server, id)["state"], "queued");
        store.empty_inbox().await.expect("takes it");
        let record = store.get(id).await.expect("reads").expect("is known");
        assert_eq!((record.id, record.target.clone()), (id, Target::Pool));
        assert_eq!(record.want, record.decode().expect("a job").work.want_hash());
        assert_eq!(run(&store).await, id);
        let job = show(&server, id);
        assert_eq!(
            (&job["state"], &job["path"], &job["attempts"]),
            (&json!("ready"), &json!("/there"), &json!(1))
        );
        assert!(server.keys("{test}:inbox").is_empty());
    }

    #[tokio::test]
    async fn a_request_that_joins_leads_to_the_job_and_never_runs_again() {
        let (server, store) = house();
        let [first, second] = [(); 2].map(|()| ask(&server, &download("a/b")));
        assert_ne!(first, second);
        // Two larders look at the same entries, the slower one after the job has ended.
        let seen = store.queue.inbox(0, 10).await.expect("reads");
        store.empty_inbox().await.expect("takes them");
        let leader = store.get(first).await.expect("reads").expect("is known").id;
        assert_eq!(store.get(second).await.expect("reads").expect("leads there").id, leader);
        assert_eq!(show(&server, second)["id"], json!(leader));
        assert_eq!(run(&store).await, leader);
        for entry in &seen {
            assert!(store.take_in(entry, Want::default()).await.expect("it is gone"));
        }
        assert!(claim(&store).await.is_none(), "nothing runs twice");
        assert_eq!(show(&server, second)["state"], "ready", "also after its end");
        let left = server
            .command(&["PTTL", &format!("{{test}}:key:{}", if leader == first { second } else { first })]);
        assert!(left.int() > 0, "and as long as the job");
        let again = ask(&server, &download("a/b"));
        store.empty_inbox().await.expect("takes it");
        assert_eq!(run(&store).await, again, "a want that was satisfied is a new one");
    }

    #[tokio::test]
    async fn one_that_joined_can_be_called_off_by_its_own_id() {
        let (server, store) = house();
        let [first, second] = [(); 2].map(|()| ask(&server, &download("a/b")));
        store.empty_inbox().await.expect("takes them");
        let joined =
            if store.get(first).await.expect("reads").expect("known").id == first { second } else { first };
        store.cancel(joined, None).await.expect("it is known");
        assert_eq!(show(&server, first)["state"], "cancelled");
    }

    #[tokio::test]
    async fn a_repeated_request_is_the_same_by_id_and_by_key() {
        let (server, store) = house();
        let id = "01JDFP00000000000000000000";
        let text = download("a/b").to_string();
        for _ in 0..3 {
            let answer = call(&server, "larder_enqueue", &[&text, id]).text();
            assert!(answer.contains(id) && answer.contains("\"created\":null"), "{answer}");
        }
        store.empty_inbox().await.expect("takes it");
        assert_eq!(run(&store).await.to_string(), id);
        let answer = call(&server, "larder_enqueue", &[&text, id]).text();
        assert!(answer.contains("\"created\":true") && answer.contains("\"ready\""), "{answer}");
        let mut keyed = download("a/keyed");
        keyed["idempotency_key"] = "night/1".into();
        let first = ask(&server, &keyed);
        let second = ask(&server, &keyed);
        store.empty_inbox().await.expect("takes both");
        run(&store).await;
        assert_eq!(show(&server, first)["id"], show(&server, second)["id"]);
        let answer = call(&server, "larder_enqueue", &[&keyed.to_string()]).text();
        assert!(answer.contains("\"created\":false") && answer.contains("\"ready\""), "{answer}");
        let mut other = download("a/other");
        other["idempotency_key"] = "night/1".into();
        let other = ask(&server, &other);
        store.empty_inbox().await.expect("turns it away");
        let refused = show(&server, other);
        assert_eq!((&refused["state"], &refused["reason"]), (&json!("failed"), &json!("invalid_request")));
        assert!(refused["message"].to_string().contains("asked for something else"), "{refused}");
        assert!(claim(&store).await.is_none());
    }

    #[tokio::test]
    async fn what_cannot_be_a_job_is_told_at_once_or_by_a_failed_record() {
        let (server, store) = house();
        for (request, reason) in [
            ("x", "invalid_request"),
            ("[]", "invalid_request"),
            (r#"{"v":2,"kind":"download","repo":"a/b","hosts":"pool"}"#, "unsupported_version"),
            (r#"{"v":0.5,"kind":"download","repo":"a/b","hosts":"pool"}"#, "invalid_request"),
            (r#"{"repo":"a/b","hosts":"pool"}"#, "invalid_request"),
            (r#"{"kind":"download","repo":"a/b"}"#, "invalid_request"),
            (r#"{"kind":"download","repo":"a/b","hosts":"this"}"#, "invalid_request"),
        ] {
            let error = call(&server, "larder_enqueue", &[request]).error();
            assert!(
                error.starts_with(&format!("{reason} ")) && error.contains("; hint: "),
                "{request}: {error}"
            );
        }
        let long = "x".repeat(9_000);
        assert!(call(&server, "larder_enqueue", &[&long]).error().contains("8 KiB"));
        let wrong =
            server.command(&["FCALL", "larder_enqueue", "1", "test:", &download("a/b").to_string()]).error();
        assert!(wrong.contains("not the prefix"), "{wrong}");
        assert!(call(&server, "larder_job", &["x"]).error().starts_with("invalid_request "));
        let unknown = call(&server, "larder_job", &["01JDFP00000000000000000000"]).error();
        assert!(unknown.starts_with("not_found "), "{unknown}");

        let mut bad = download("a/b");
        bad["reop"] = "a/b".into();
        let id = ask(&server, &bad);
        store.empty_inbox().await.expect("turns it away");
        let job = show(&server, id);
        assert_eq!((&job["state"], &job["reason"]), (&json!("failed"), &json!("invalid_request")), "{job}");
        assert!(job["message"].as_str().is_some_and(|text| text.contains("reop")), "{job}");
        let record = store.get(id).await.expect("reads").expect("is kept");
        assert_eq!(record.job, bad, "as it came");
        // Of a newer version, put there by a newer library: left for a newer larder.
        let newer = format!("01JDFP00000000000000000000{}", json!({"v": 2, "kind": "download"}));
        server.command(&["ZADD", "{test}:inbox", "0", &newer]);
        server.command(&["ZADD", "{test}:inbox", "0", "rubbish"]);
        store.empty_inbox().await.expect("leaves it");
        assert_eq!(server.command(&["ZRANGE", "{test}:inbox", "0", "-1"]).list(), [newer]);
    }

    #[tokio::test]
    async fn the_inbox_and_the_queue_are_bounded() {
        let (server, store) = house();
        let fill = "for i = 1, 10000 do redis.call('ZADD', '{test}:inbox', 0, string.format('01JDFP%020.0f', i) .. '{}') end";
        server.command(&["EVAL", fill, "0"]);
        let full = call(&server, "larder_enqueue", &[&download("a/b").to_string()]).error();
        assert!(full.starts_with("queue_unavailable 10000 requests wait"), "{full}");
        server.command(&["DEL", "{test}:inbox"]);

        let small = Config { max_queued: 1, ..config() };
        let store = Redis {
            config: small.clone(),
            queue: store.queue.clone().with_bounds(1, small.retention.get()),
            ..store
        };
        let [one, two] = ["a/one", "a/two"].map(|repo| ask(&server, &download(repo)));
        let behind = ask(&server, &json!({"v": 1, "kind": "evict", "repo": "a/b", "hosts": "pool"}));
        store.empty_inbox().await.expect("what has no room stays");
        let stays = store.queue.inbox(0, 10).await.expect("reads");
        assert!(stays.len() == 1 && [one, two].contains(&stays[0].id), "{stays:?}");
        let evict = store.get(behind).await.expect("reads").expect("holds up nothing behind it");
        assert_eq!(evict.kind, Kind::Evict);
        let first = run(&store).await;
        store.empty_inbox().await.expect("there is room");
        let second = run(&store).await;
        assert_eq!([first.min(second), first.max(second)], [one.min(two), one.max(two)], "none is lost");
    }

    #[tokio::test]
    async fn an_attending_larder_loads_the_library_and_is_woken_by_it() {
        let server = support::Redis::start();
        let config = Config { functions: true, ..config() };
        let store = std::sync::Arc::new(store(Connection::new(address(&server)), config, "gpu-1"));
        let (stop, mut changed) = (tokio_util::sync::CancellationToken::new(), store.changed());
        let attending = {
            let (store, stop) = (std::sync::Arc::clone(&store), stop.clone());
            tokio::spawn(async move { store.attend_until(&stop).await })
        };
        changed.changed().await.expect("it attends");
        let loaded = async {
            while !format!("{:?}", server.command(&["FUNCTION", "LIST"])).contains("larder_job") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LOOK, loaded).await.expect("it loads it");
        // Well before it looks by itself, in a minute's third.
        let begun = tokio::time::Instant::now();
        let id = ask(&server, &download("a/b"));
        while !store.queue.inbox(0, 1).await.expect("reads").is_empty() {
            assert!(begun.elapsed() < LOOK / 2, "nobody was woken");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(run(&store).await, id);
        stop.cancel();
        attending.await.expect("no panic");
    }
}

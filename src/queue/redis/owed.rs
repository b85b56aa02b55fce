//! Notices that jobs asked for: whatever ended a job, a larder or a program that speaks to Redis itself, Redis remembers
//! that somebody is to be told, and one larder of the fleet writes the notice down, from where it is delivered.
//!
//! A larder takes what is owed for a while, so that no two write the same; one that dies meanwhile leaves it to the next.

use std::convert::Infallible;
use std::time::Duration;

use larder_jobs::Ended;

use super::Redis;
use crate::error::Result;

/// Notices that are taken together.
const CHUNK: usize = 32;
/// For how long: a larder that has not written them by then is gone.
const HELD: Duration = Duration::from_secs(30);

impl Redis {
    /// Writes down what is owed whenever this larder hears of it. The one that found something also looks when the next is
    /// due, so that a batch is not looked at by all.
    pub(super) async fn tend_owed(&self) -> Infallible {
        let Some(tell) = self.teller.get() else { return std::future::pending().await };
        let mut next: Option<Duration> = None;
        loop {
            let is_told = match next {
                Some(wait) => tokio::time::timeout(wait, self.owed.notified()).await.is_ok(),
                None => {
                    self.owed.notified().await;
                    true
                }
            };
            next = match self.pay(tell).await {
                Ok((found, wait)) => wait.filter(|_| found > 0 || is_told),
                Err(error) => {
                    // They stay owed, and whoever tidies hears of them.
                    tracing::debug!(%error, "what is owed cannot be looked at");
                    None
                }
            };
        }
    }

    /// How many notices were written down, and how long until there may be another.
    async fn pay(&self, tell: &super::Tell) -> Result<(usize, Option<Duration>)> {
        let mut written = 0;
        loop {
            let owed = self.queue.notices(CHUNK, HELD).await?;
            let jobs = owed.jobs.iter().map(Ended::Job);
            let batches = owed.batches.iter().map(|(batch, records)| Ended::Batch(batch, records));
            let ends: Vec<_> = jobs.chain(batches).collect();
            for end in &ends {
                if tell(end) {
                    self.queue.noticed(end).await?;
                    written += 1;
                }
            }
            if ends.is_empty() {
                return Ok((written, owed.next));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use larder_jobs::client::{Connection, Outcome, Queue, Title};
    use larder_jobs::{Job, JobId, State};
    use tokio_util::sync::CancellationToken;

    use super::super::tests::{address, claim, store};
    use super::*;
    use crate::queue::testing::{config, job};
    use crate::queue::{Done, JobStore as _, Settlement};

    type Told = Arc<Mutex<Vec<(String, State)>>>;

    /// A larder that is there, and what it was told to write down.
    struct Teller {
        store: Arc<Redis>,
        told: Told,
        stop: CancellationToken,
    }

    impl Teller {
        fn at(server: &support::Redis, host: &str) -> Self {
            let store = Arc::new(store(Connection::new(address(server)), config(), host));
            let told = Told::default();
            let seen = Arc::clone(&told);
            store.on_notice(Arc::new(move |end| {
                let (id, state) = match end {
                    Ended::Job(record) => (record.id.to_string(), record.state),
                    Ended::Batch(batch, records) => {
                        (format!("batch:{}", batch.id), batch.view(records, None).state)
                    }
                };
                seen.lock().expect("no panic").push((id, state));
                true
            }));
            Self { store, told, stop: CancellationToken::new() }
        }

        fn attend(self) -> Self {
            let (store, stop) = (Arc::clone(&self.store), self.stop.clone());
            tokio::spawn(async move { store.attend_until(&stop).await });
            self
        }

        async fn until_told(&self, count: usize) -> Vec<(String, State)> {
            for _ in 0..400 {
                let told = self.told.lock().expect("no panic").clone();
                if told.len() >= count {
                    return told;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            panic!("told only {:?}", self.told);
        }
    }

    impl Drop for Teller {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    fn telling(repo: &str) -> Job {
        let mut job = job(repo);
        job.common.notify = Some("https://hooks.example/".into());
        job
    }

    fn owed(server: &support::Redis) -> i64 {
        server.command(&["ZCARD", "{test}:notices"]).int()
    }

    #[tokio::test]
    async fn an_end_that_no_larder_saw_is_told_of() {
        let server = support::Redis::start();
        let teller = Teller::at(&server, "gpu-1").attend();
        teller.store.changed().changed().await.expect("it is there");
        // A program that speaks to Redis itself.
        let program = Queue::new(Connection::new(address(&server)));
        let target = larder_jobs::Target::Host("gpu-9".parse().expect("a name"));
        let id = JobId::random(jiff::Timestamp::now());
        program.enqueue(id, &telling("a/b"), &target).await.expect("accepted");
        let (outcome, _) = program.cancel(id, None).await.expect("cancels");
        assert_eq!(outcome, Outcome::Ended);
        assert_eq!(teller.until_told(1).await, [(id.to_string(), State::Cancelled)]);
        while owed(&server) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn who_comes_later_tells_what_was_owed_and_no_two_do() {
        let server = support::Redis::start();
        let quiet = store(Connection::new(address(&server)), config(), "gpu-1");
        for repo in ["a/b", "c/d"] {
            quiet.enqueue(telling(repo)).await.expect("accepted");
            let held = claim(&quiet).await.expect("a job");
            quiet
                .settle(held.record.id, held.token, Settlement::Done(Done::default()))
                .await
                .expect("settles");
        }
        quiet.enqueue(job("e/untold")).await.expect("accepted");
        let held = claim(&quiet).await.expect("a job");
        quiet.settle(held.record.id, held.token, Settlement::Done(Done::default())).await.expect("settles");
        assert_eq!(owed(&server), 2);
        // One takes them and dies; for a while nobody else gets them.
        assert_eq!(quiet.queue.notices(1, HELD).await.expect("takes").jobs.len(), 1);
        let teller = Teller::at(&server, "gpu-2").attend();
        assert_eq!(teller.until_told(1).await.len(), 1);
        assert_eq!(owed(&server), 1, "the other one is still held");
        let left = quiet.queue.notices(9, HELD).await.expect("looks");
        assert!(left.jobs.is_empty() && left.next.is_some_and(|next| next <= HELD), "{left:?}");
    }

    #[tokio::test]
    async fn a_batch_is_told_of_once_when_all_of_it_has_ended() {
        let server = support::Redis::start();
        let teller = Teller::at(&server, "gpu-1").attend();
        teller.store.changed().changed().await.expect("it is there");
        let id = JobId::random(jiff::Timestamp::now());
        let title = Title {
            id,
            requested_by: None,
            idempotency_key: None,
            name: None,
            job: None,
            asks: String::new(),
            notify: Some("https://hooks.example/".into()),
        };
        teller.store.enqueue_all(title, vec![job("a/b"), job("c/d")]).await.expect("accepted");
        for last in [false, true] {
            let held = claim(&teller.store).await.expect("a job");
            let end = if last {
                Settlement::Fail { reason: larder_jobs::Reason::Gated, message: "no".into() }
            } else {
                Settlement::Done(Done::default())
            };
            teller.store.settle(held.record.id, held.token, end).await.expect("settles");
            let told = teller.told.lock().expect("no panic").len();
            assert_eq!(told, 0, "not before the last one, which is looked at a moment later");
        }
        assert_eq!(teller.until_told(1).await, [(format!("batch:{id}"), State::Failed)]);
        while owed(&server) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

//! Webhooks: tells whoever asked for it that a job has ended, signed, and again until somebody listens.
//!
//! A notice is written to the store when its job ends and deleted when it was delivered or given up, so a restart
//! forgets none. It is delivered at least once; its number is the same each time.

mod address;
mod deliver;
mod sign;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use larder_jobs::{Ended, Invalid, Reason, Span};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::metrics;
use crate::secret::{self, Secret};
use crate::store::{Batch, Store, Table};
use deliver::{Courier, Outcome};

/// Notices that were not delivered yet, by their numbers.
const NOTICES: Table<Notice> = Table::new("notices");
/// Most of them; the ones beyond are dropped and counted.
const MAX_NOTICES: usize = 1_000;
/// Deliveries at a time.
const MAX_COURIERS: usize = 8;
/// How long larder may sleep although it knows of nothing to do.
const REST: Duration = Duration::from_secs(60);

/// The section `[notify]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who is told of every job that ends here; empty means only those that jobs name.
    pub url: String,
    /// The file with the secret that notices are signed with; empty means that there are none.
    pub secret_file: String,
    /// Whether notices may go to private, loopback and link-local addresses.
    pub allow_private: bool,
    /// Deliveries of a notice that are tried.
    pub attempts: u32,
    /// The shortest pause between two of them; doubled each time.
    pub backoff_min: Span,
    /// The longest one.
    pub backoff_max: Span,
}

impl Config {
    /// Refuses nonsense, naming the key.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: String, hint: &str| Err(Error::new(Reason::InvalidRequest, what, hint));
        if !self.url.is_empty() {
            if self.secret_file.is_empty() {
                return refuse(
                    "notify.url is set and notify.secret_file is not".into(),
                    "name a file with a secret, since nothing is sent unsigned: openssl rand -hex 32",
                );
            }
            if let Err(invalid) = address::check(&self.url, self.allow_private) {
                return refuse(format!("notify.url: {invalid}"), invalid.hint());
            }
        }
        if self.attempts == 0 || self.attempts > 100 {
            return refuse(
                "notify.attempts is not between 1 and 100".into(),
                "ten with back-off last an hour and more",
            );
        }
        if self.backoff_min.get().is_zero() || self.backoff_min.get() > self.backoff_max.get() {
            return refuse(
                "notify.backoff_min is zero or longer than notify.backoff_max".into(),
                "for example 10s and 1h",
            );
        }
        Ok(())
    }

    /// The pause after so many attempts.
    fn pause(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        self.backoff_min.get().saturating_mul(1 << doublings).min(self.backoff_max.get())
    }
}

/// The secrets that notices are signed with; none if there is no file.
fn secrets_of(config: &Config) -> Result<Arc<[Secret]>> {
    Ok(match config.secret_file.as_str() {
        "" => Arc::default(),
        file => secret::read(Path::new(file), "notify.secret_file")?.into(),
    })
}

/// One notice to one address.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Notice {
    v: u64,
    url: String,
    body: String,
    attempts: u32,
    due: Timestamp,
}

/// Tells of jobs that have ended. A clone is the same one.
#[derive(Clone)]
pub struct Notifier {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    config: Config,
    secrets: RwLock<Arc<[Secret]>>,
    host: String,
    /// How many notices there are.
    waiting: Mutex<usize>,
    news: Notify,
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifier").field("secrets", &self.secrets().len()).finish_non_exhaustive()
    }
}

impl Notifier {
    /// With the notices that were not delivered before. Blocks.
    ///
    /// # Errors
    /// As [`secret::read`].
    pub fn open(store: Store, config: &Config, host: &str) -> Result<Self> {
        let secrets = RwLock::new(secrets_of(config)?);
        let waiting = Mutex::new(store.count(NOTICES, b""));
        let (config, host) = (config.clone(), host.to_owned());
        Ok(Self { inner: Arc::new(Inner { store, config, secrets, host, waiting, news: Notify::new() }) })
    }

    /// Reads the secrets again; nothing else of the configuration. What cannot be read leaves them as they were.
    ///
    /// # Errors
    /// As [`secret::read`].
    pub fn reload(&self, config: &Config) -> Result<()> {
        let secrets = secrets_of(config)?;
        *self.inner.secrets.write().unwrap_or_else(PoisonError::into_inner) = secrets;
        Ok(())
    }

    fn secrets(&self) -> Arc<[Secret]> {
        Arc::clone(&self.inner.secrets.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a notice could be sent there.
    ///
    /// # Errors
    /// For an address that notices do not go to, and if this larder has no secret to sign with.
    pub fn check(&self, url: &str) -> Result<(), Invalid> {
        if !self.is_able() {
            return Err(Invalid::new(
                "`notify` is set, and this larder has no secret to sign notices with",
                "set notify.secret_file, or leave `notify` out and follow the job",
            ));
        }
        address::check(url, self.inner.config.allow_private).map(|_| ())
    }

    /// Whether notices can be sent from here.
    pub fn is_able(&self) -> bool {
        !self.secrets().is_empty()
    }

    /// Writes the notice of a job's end for whoever hears of every one that this host sees, unless they asked for it with
    /// the job.
    pub fn tell_house(&self, end: &Ended<'_>) -> bool {
        let Ended::Job(record) = end else { return true };
        let url = &self.inner.config.url;
        self.write(end, Some(url).filter(|url| !url.is_empty() && !record.notify.contains(url)))
    }

    /// Writes the notices of an end for those who asked for them with the job; whether they are written, which also those
    /// are that are left out because too many wait.
    pub fn tell_asked(&self, end: &Ended<'_>) -> bool {
        match end {
            Ended::Job(record) => self.write(end, &record.notify),
            Ended::Batch(batch, _) => self.write(end, &batch.notify),
        }
    }

    /// Never fails, since the job must not.
    fn write<'a>(&self, end: &Ended<'_>, urls: impl IntoIterator<Item = &'a String>) -> bool {
        let inner = &self.inner;
        let mut batch = Batch::default();
        let mut count = inner.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for url in urls {
            let (number, notice) = self.notice(end, url);
            if *count >= MAX_NOTICES {
                metrics::webhook("dropped");
                tracing::warn!(notice = number, "too many notices wait already; one is not sent");
                continue;
            }
            // A store may tell twice of one end.
            if matches!(inner.store.get(NOTICES, number.as_bytes()), Ok(Some(_))) {
                continue;
            }
            batch.put(NOTICES, number.as_bytes(), &notice);
            *count += 1;
        }
        drop(count);
        match inner.store.commit(batch) {
            Ok(()) => {
                inner.news.notify_one();
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the notices of a job that ended cannot be written");
                false
            }
        }
    }

    fn notice(&self, end: &Ended<'_>, url: &str) -> (String, Notice) {
        let host = Some(self.inner.host.as_str());
        let (event, view) = match end {
            Ended::Job(record) => ("job.ended", record.view(host)),
            Ended::Batch(batch, records) => ("batch.ended", batch.view(records, host)),
        };
        let ended = view.finished_at.unwrap_or(view.created_at);
        let number =
            format!("{}-{}-{:08x}", view.id, ended.as_microsecond(), crc32fast::hash(url.as_bytes()));
        let job: Value = serde_json::to_value(view).unwrap_or_default();
        let body = json!({"event": event, "delivery": number, "host": self.inner.host, "job": job});
        (number, Notice { v: 1, url: url.to_owned(), body: body.to_string(), attempts: 0, due: ended })
    }

    /// Delivers until `stop`; what is under way then is tried again after the next start.
    pub async fn deliver_until(&self, stop: &CancellationToken) {
        let courier = Courier::new(self.inner.config.allow_private);
        let mut under_way: JoinSet<()> = JoinSet::new();
        let mut carried: std::collections::HashSet<String> = std::collections::HashSet::new();
        let (done, mut finished) = tokio::sync::mpsc::channel(MAX_COURIERS);
        loop {
            let (due, next) = self.due(&carried, MAX_COURIERS - carried.len());
            for (number, notice) in due {
                carried.insert(number.clone());
                let (notifier, courier, done) = (self.clone(), courier.clone(), done.clone());
                under_way.spawn(async move {
                    notifier.attempt(&courier, &number, notice).await;
                    // Nobody is there any more when larder stops.
                    let _ = done.send(number).await;
                });
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Some(number) = finished.recv() => { carried.remove(&number); }
                () = self.inner.news.notified() => {}
                () = tokio::time::sleep(next) => {}
            }
            while under_way.try_join_next().is_some() {}
        }
    }

    /// At most `most` notices whose time has come and that nobody carries, and how long until the next one.
    fn due(
        &self,
        carried: &std::collections::HashSet<String>,
        most: usize,
    ) -> (Vec<(String, Notice)>, Duration) {
        let (now, mut due, mut next) = (Timestamp::now(), Vec::new(), REST);
        for item in self.inner.store.scan(NOTICES, b"") {
            let Ok((key, found)) = item else { break };
            let number = String::from_utf8_lossy(&key).into_owned();
            let Ok(notice) = found else {
                self.forget(&number);
                continue;
            };
            if carried.contains(&number) {
                continue;
            }
            let wait = Duration::try_from(notice.due.duration_since(now)).unwrap_or_default();
            if !wait.is_zero() {
                next = next.min(wait);
            } else if due.len() < most {
                due.push((number, notice));
            }
        }
        (due, next)
    }

    async fn attempt(&self, courier: &Courier, number: &str, mut notice: Notice) {
        let inner = &self.inner;
        let place = address::place(&notice.url);
        let why = match courier.deliver(&notice.url, number, &notice.body, &self.secrets()).await {
            Outcome::Delivered => {
                metrics::webhook("delivered");
                return self.forget(number);
            }
            Outcome::Refused(why) => {
                metrics::webhook("refused");
                tracing::warn!(place, notice = number, "a notice is not sent: {why}");
                return self.forget(number);
            }
            Outcome::Failed(why) => why,
        };
        notice.attempts += 1;
        if notice.attempts >= inner.config.attempts {
            metrics::webhook("failed");
            tracing::warn!(place, notice = number, attempts = notice.attempts, "a notice is given up: {why}");
            return self.forget(number);
        }
        metrics::webhook("retried");
        tracing::debug!(place, notice = number, attempts = notice.attempts, "a notice was not taken: {why}");
        let pause =
            SignedDuration::try_from(inner.config.pause(notice.attempts)).unwrap_or(SignedDuration::MAX);
        notice.due = Timestamp::now().checked_add(pause).unwrap_or(Timestamp::MAX);
        let mut batch = Batch::default();
        batch.put(NOTICES, number.as_bytes(), &notice);
        if let Err(error) = inner.store.commit(batch) {
            tracing::debug!(%error, notice = number, "an attempt was not written down");
        }
    }

    fn forget(&self, number: &str) {
        let mut batch = Batch::default();
        batch.delete(NOTICES, number.as_bytes());
        if let Err(error) = self.inner.store.commit(batch) {
            tracing::debug!(%error, notice = number, "a notice that is done was not deleted");
        }
        let mut count = self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_their_bounds() {
        let span = |text: &str| text.parse::<Span>().expect("a duration");
        let config = Config {
            url: String::new(),
            secret_file: String::new(),
            allow_private: false,
            attempts: 10,
            backoff_min: span("10s"),
            backoff_max: span("1h"),
        };
        let pauses: Vec<u64> = (1..=10).map(|attempts| config.pause(attempts).as_secs()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600]);
        assert_eq!(config.pause(u32::MAX), Duration::from_secs(3_600));
        assert!(config.validate().is_ok());
        for bad in [
            Config { url: "https://x.example".into(), ..config.clone() },
            Config { attempts: 0, ..config.clone() },
            Config { backoff_min: span("2h"), ..config.clone() },
        ] {
            assert!(bad.validate().expect_err("refused").message().contains("notify."), "{bad:?}");
        }
    }
}

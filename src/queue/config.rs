//! The settings of the queue and what they may not be.

use std::time::Duration;

use larder_jobs::client::{Address, Mode};
use larder_jobs::{Kind, Reason, Span};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Most jobs of one kind that may run at once on one host.
const MAX_CONCURRENCY: usize = 64;
/// Shortest lease: a claim must outlive a slow renewal.
const MIN_LEASE: Duration = Duration::from_secs(1);
/// Longest lease: after a crash a job waits that long for another host.
const MAX_LEASE: Duration = Duration::from_secs(3_600);

/// Shortest time until a host counts as gone for good; one that ends without a word is believed for a minute anyway.
const MIN_GONE: Duration = Duration::from_secs(10);

/// The section `[queue]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How the Redis of a fleet is run.
    pub mode: Mode,
    /// The Redis that the hosts of a fleet share; with `urls` empty as well it is this machine's own queue.
    pub url: Url,
    /// Its sentinels, or nodes of its cluster.
    pub urls: Vec<Url>,
    /// What the sentinels call the master.
    pub master_name: String,
    /// What the names of all keys in that Redis begin with.
    pub namespace: String,
    /// The user in that Redis; empty means the default one, or the one in the URL.
    pub username: String,
    /// A file that holds the user's password.
    pub password_file: String,
    /// The user at the sentinels.
    pub sentinel_username: String,
    /// A file that holds that user's password.
    pub sentinel_password_file: String,
    /// A file with the certificates to trust instead of the system's, in PEM form.
    pub ca_file: String,
    /// Whether to load the Redis functions through which programs in other languages ask for jobs.
    pub functions: bool,
    /// Attempts that a job gets when it fails for a reason that may pass.
    pub max_attempts: u32,
    /// Jobs that may wait for a worker; further ones are refused.
    pub max_queued: usize,
    /// How long a claim lives without a renewal.
    pub lease: Span,
    /// How long a host may be away before its jobs are dealt with.
    pub gone_after: Span,
    /// What becomes of them then.
    pub gone: Gone,
    /// How long an ended job can be looked up.
    pub retention: Span,
    /// Ended jobs that are kept; the oldest go first.
    pub max_finished: usize,
    /// Longest wait before the second attempt; it doubles with every further attempt.
    pub backoff_min: Span,
    /// Bound of that doubling.
    pub backoff_max: Span,
    /// Jobs that run at once on this host.
    pub concurrency: Concurrency,
}

/// What becomes of the jobs that wait for a host that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gone {
    /// They wait on.
    Keep,
    /// They go to the pool.
    Pool,
    /// They fail with `host_gone`.
    Fail,
}

impl Gone {
    /// The word, as in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Pool => "pool",
            Self::Fail => "fail",
        }
    }
}

/// An address that may carry a password, so it is never printed as it is.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Url(String);

impl Url {
    /// Whether there is one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The address with whatever it carries. Not to be printed.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether it carries a password.
    pub fn has_password(&self) -> bool {
        self.hidden() != self.0
    }

    /// The address with `***` for a password.
    pub fn hidden(&self) -> String {
        let Ok(mut url) = url::Url::parse(&self.0) else {
            return if self.0.contains('@') { "***".into() } else { self.0.clone() };
        };
        if url.password().is_some() && url.set_password(Some("***")).is_err() {
            return "***".into();
        }
        // A unix socket's URL has it in the query.
        if url.query_pairs().any(|(key, _)| key == "pass") {
            url.set_query(Some("pass=***"));
            return url.into();
        }
        if url.password().is_some() { url.into() } else { self.0.clone() }
    }
}

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.hidden())
    }
}

/// Jobs of each kind that run at once on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// Downloads.
    pub download: usize,
    /// Evictions.
    pub evict: usize,
    /// Verifications.
    pub verify: usize,
    /// Profiles.
    pub profile: usize,
    /// Preloads.
    pub preload: usize,
}

impl Concurrency {
    /// The number for `kind`.
    pub fn of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Download => self.download,
            Kind::Evict => self.evict,
            Kind::Verify => self.verify,
            Kind::Profile => self.profile,
            Kind::Preload => self.preload,
            // `Kind` may grow before this larder serves the new kind.
            _ => 1,
        }
    }
}

impl Config {
    /// Where the fleet's queue is, without the passwords and the CA that files hold; `None` for a queue of this
    /// machine's own.
    ///
    /// # Errors
    /// `invalid_request`, naming the key.
    pub fn address(&self) -> Result<Option<Address>> {
        let refuse = |what: &str, hint: &str| Err(Error::new(Reason::InvalidRequest, what, hint));
        let urls: Vec<_> = self.urls.iter().map(Url::reveal).collect();
        let sentinels = [
            ("master_name", &self.master_name),
            ("sentinel_username", &self.sentinel_username),
            ("sentinel_password_file", &self.sentinel_password_file),
        ];
        if self.mode != Mode::Sentinel
            && let Some((key, _)) = sentinels.iter().find(|(_, value)| !value.is_empty())
        {
            let what = format!("queue.{key} is set, and queue.mode is not \"sentinel\"");
            return refuse(&what, "set queue.mode = \"sentinel\", or take the key out");
        }
        match self.mode {
            Mode::Single if !urls.is_empty() => refuse(
                "queue.urls is set, and queue.mode is \"single\"",
                "set queue.mode = \"sentinel\" or \"cluster\", or write the one address into queue.url",
            ),
            Mode::Single if self.url.is_empty() => Ok(None),
            Mode::Single => Ok(Some(Address::new(self.url.reveal(), &self.namespace)?)),
            Mode::Sentinel | Mode::Cluster if !self.url.is_empty() => refuse(
                "queue.url is set, and queue.mode names several servers",
                "write the sentinels, or nodes of the cluster, into queue.urls",
            ),
            Mode::Sentinel => Ok(Some(Address::sentinel(&urls, &self.master_name, &self.namespace)?)),
            Mode::Cluster => Ok(Some(Address::cluster(&urls, &self.namespace)?)),
        }
    }

    /// The key with an address that carries a password, if there is one.
    pub fn key_with_password(&self) -> Option<&'static str> {
        let urls = self.urls.iter().any(Url::has_password).then_some("queue.urls");
        self.url.has_password().then_some("queue.url").or(urls)
    }

    /// Refuses settings with which the queue cannot do its work.
    ///
    /// # Errors
    /// `invalid_request`, naming the key.
    pub fn validate(&self) -> Result<()> {
        let refuse = |key: &str, what: &str, hint: &str| {
            Err(Error::new(Reason::InvalidRequest, format!("queue.{key} {what}"), hint))
        };
        self.address()?;
        if self.max_attempts == 0 {
            return refuse("max_attempts", "is 0, so no job could run", "set 1 or more; 8 is the default");
        }
        if self.max_queued == 0 {
            return refuse("max_queued", "is 0, so no job could be accepted", "set 1 or more");
        }
        if self.max_finished == 0 {
            return refuse("max_finished", "is 0, so nobody could see what came of a job", "set 1 or more");
        }
        if !(MIN_LEASE..=MAX_LEASE).contains(&self.lease.get()) {
            return refuse("lease", "is not between 1s and 1h", "set for example 60s");
        }
        if self.retention.get() < self.lease.get() {
            return refuse("retention", "is shorter than queue.lease", "set for example 7d");
        }
        if self.gone_after.get() < MIN_GONE {
            return refuse(
                "gone_after",
                "is shorter than 10s, so a restart would look like the end",
                "set 15m",
            );
        }
        if self.backoff_min.get().is_zero() {
            return refuse("backoff_min", "is 0, so retries would not pause", "set for example 1s");
        }
        if self.backoff_max < self.backoff_min {
            return refuse("backoff_max", "is shorter than queue.backoff_min", "set for example 10m");
        }
        for kind in Kind::ALL {
            if !(1..=MAX_CONCURRENCY).contains(&self.concurrency.of(*kind)) {
                let key = format!("concurrency.{kind}");
                return refuse(&key, "is not between 1 and 64", "set for example 2");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::testing;

    #[test]
    fn nonsense_is_refused_by_name() {
        let good = Config {
            lease: Span(Duration::from_secs(60)),
            retention: Span(7 * 24 * MAX_LEASE),
            ..testing::config()
        };
        assert_eq!(good.validate(), Ok(()));
        let zero = Span(Duration::ZERO);
        for (key, bad) in [
            ("max_attempts", Config { max_attempts: 0, ..good.clone() }),
            ("max_queued", Config { max_queued: 0, ..good.clone() }),
            ("max_finished", Config { max_finished: 0, ..good.clone() }),
            ("url", Config { url: Url("http://h".into()), ..good.clone() }),
            ("gone_after", Config { gone_after: zero, ..good.clone() }),
            ("urls", Config { urls: vec![Url("redis://h".into())], ..good.clone() }),
            ("urls", Config { mode: Mode::Cluster, ..good.clone() }),
            ("url", Config { mode: Mode::Cluster, url: Url("redis://h".into()), ..good.clone() }),
            ("master_name", Config { master_name: "m".into(), ..good.clone() }),
            (
                "master_name",
                Config { mode: Mode::Sentinel, urls: vec![Url("redis://h".into())], ..good.clone() },
            ),
            ("lease", Config { lease: zero, ..good.clone() }),
            ("retention", Config { retention: zero, ..good.clone() }),
            ("backoff_min", Config { backoff_min: zero, ..good.clone() }),
            ("backoff_max", Config { backoff_max: zero, ..good.clone() }),
            (
                "concurrency.download",
                Config {
                    concurrency: Concurrency { download: 0, ..good.concurrency.clone() },
                    ..good.clone()
                },
            ),
        ] {
            let error = bad.validate().expect_err(key);
            assert!(error.to_string().starts_with(&format!("queue.{key} ")), "{error}");
        }
    }

    #[test]
    fn passwords_are_hidden() {
        for (url, hidden) in [
            ("redis://h:1/2", "redis://h:1/2"),
            ("redis://u:secret@h", "redis://u:***@h"),
            ("redis://:secret@h", "redis://:***@h"),
            ("unix:///run/r.sock?db=1&pass=secret", "unix:///run/r.sock?pass=***"),
            ("://:secret@h", "***"),
        ] {
            let url = Url(url.into());
            assert_eq!(url.hidden(), hidden);
            assert_eq!(format!("{url:?}"), format!("{hidden:?}"));
            assert_eq!(url.has_password(), hidden.contains("***"));
        }
    }

    #[test]
    fn every_key_must_be_there_and_no_other() {
        let mut json = serde_json::to_value(testing::config()).expect("json");
        assert!(serde_json::from_value::<Config>(json.clone()).is_ok());
        json["leese"] = "60s".into();
        assert!(serde_json::from_value::<Config>(json).is_err());
    }
}

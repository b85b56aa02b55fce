//! The section `[cache]`: where the models are, what stays free, and what may go.

use std::time::Duration;

use larder_jobs::{Bandwidth, Reason, Size, Span};
use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer};

use crate::error::{Error, Result};
use crate::plan::{Allowed, KeepFree, Order, Policy, Watermarks};

/// What stays free beyond the threshold at which the kubelet would begin to delete, in percent of the disk.
const KUBELET_MARGIN: u8 = 2;

/// The section `[cache]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The hub cache; empty means where the hub's own clients have it.
    pub root: String,
    /// What may go without being named.
    pub evict: Allowed,
    /// What goes first when room is needed.
    pub order: Order,
    /// Bytes that the cache may take; `None` for the whole disk.
    #[serde(deserialize_with = "optional")]
    pub capacity: Option<Size>,
    /// What stays free on the cache's disk.
    pub keep_free: KeepFree,
    /// Where the kubelet evicts by itself (`imagefs.available`), if the cache shares its filesystem.
    #[serde(deserialize_with = "optional")]
    pub kubelet_threshold: Option<KeepFree>,
    /// Above this share of capacity or disk, room is made.
    pub high_watermark: Percent,
    /// So much is made that this is reached.
    pub low_watermark: Percent,
    /// What was used or staged later than that stays.
    pub min_age: Span,
    /// What was not used for so long goes on its own.
    #[serde(deserialize_with = "optional")]
    pub expire_after: Option<Span>,
    /// How long an eviction by name can be taken back.
    #[serde(deserialize_with = "optional")]
    pub trash: Option<Span>,
    /// Leftovers of transfers that nobody goes on with are removed at this age.
    pub partial_max_age: Span,
    /// How long automatic deletion stays off after the store was lost.
    pub recovery_grace: Span,
    /// How often watermarks, leases and use are looked at.
    pub check_every: Span,
    /// How often the whole cache is walked and compared with the records.
    pub reconcile_every: Span,
    /// Every model is read and compared with its hashes once in so long.
    #[serde(deserialize_with = "optional")]
    pub scrub_every: Option<Span>,
    /// Bytes per second that reading for that may take.
    pub verify_bandwidth: Bandwidth,
}

/// A share, written `90%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u8);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
        number.filter(|percent| (1..=100).contains(percent)).map(Self).ok_or_else(|| {
            de::Error::custom(format!("`{text}` is not a share of the disk; write 1% to 100%"))
        })
    }
}

/// A value, or nothing: an empty text.
fn optional<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> std::result::Result<Option<T>, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) if text.is_empty() => Ok(None),
        value => serde_json::from_value(value).map(Some).map_err(de::Error::custom),
    }
}

impl Config {
    /// Refuses settings that contradict each other.
    ///
    /// # Errors
    /// `invalid_request`, naming the key.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: String, hint: &str| Err(Error::new(Reason::InvalidRequest, what, hint));
        if self.low_watermark > self.high_watermark {
            return refuse(
                format!(
                    "cache.low_watermark = \"{}%\" is above cache.high_watermark = \"{}%\"",
                    self.low_watermark.0, self.high_watermark.0
                ),
                "set the low one below the high one: room is made from the high one down to the low one",
            );
        }
        if self.capacity == Some(Size(0)) {
            return refuse(
                "cache.capacity = 0 leaves no room for any model".into(),
                "set a size like 500GB, or leave it empty for the whole disk",
            );
        }
        if let Some(age) = self.expire_after
            && age < self.min_age
        {
            return refuse(
                format!(
                    "cache.expire_after = \"{age}\" is shorter than cache.min_age = \"{}\", which forbids it",
                    self.min_age
                ),
                "set it longer, or leave it empty so that nothing expires",
            );
        }
        for (key, span, least) in [
            ("partial_max_age", Some(self.partial_max_age), Duration::from_secs(60)),
            ("check_every", Some(self.check_every), Duration::from_secs(1)),
            ("reconcile_every", Some(self.reconcile_every), Duration::from_secs(1)),
            ("scrub_every", self.scrub_every, Duration::from_secs(60)),
        ] {
            if let Some(span) = span.filter(|span| span.get() < least) {
                return refuse(
                    format!("cache.{key} = \"{span}\" is too short"),
                    &format!("set {} or more", Span(least)),
                );
            }
        }
        Ok(())
    }

    /// What stays free on a disk: what the configuration says, and more than the kubelet wants.
    pub fn kept_free(&self) -> KeepFree {
        match self.kubelet_threshold {
            Some(threshold) => self.keep_free.and_beyond(threshold, KUBELET_MARGIN),
            None => self.keep_free,
        }
    }

    /// The rules for what goes.
    pub fn policy(&self) -> Policy {
        Policy {
            allowed: self.evict,
            order: self.order,
            min_age: self.min_age.get(),
            expire_after: self.expire_after.map(Span::get),
            keep_free: self.kept_free(),
            capacity: self.capacity.map(Size::bytes),
            watermarks: Watermarks { high: self.high_watermark.0, low: self.low_watermark.0 },
        }
    }
}

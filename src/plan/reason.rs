//! Why a revision stays or goes: the words of eviction plans, the same in JSON, metrics and sentences.

use larder_jobs::EvictedModel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Chosen;

/// Why a revision stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Somebody pinned it.
    Pinned,
    /// Somebody holds a lease on it.
    Leased,
    /// A process has a file of it open or mapped.
    InUse,
    /// Whether a process has it open cannot be told.
    UseUnknown,
    /// A job fetches it, or files for it.
    Fetching,
    /// It was staged or used less than `cache.min_age` ago.
    TooYoung,
    /// Another client fetched it, and `cache.evict` is not `all`.
    NotStaged,
    /// `cache.evict` is `never`.
    Never,
    /// It could go, but need not.
    NotNeeded,
}

/// Why a revision goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "EvictReason")]
pub enum Evict {
    /// Somebody named it, or asked for everything unused for so long.
    Requested,
    /// It was not used for longer than `cache.expire_after`.
    Expired,
    /// Room is needed, and everything that stays was used later.
    LeastRecentlyUsed,
    /// Room is needed, and everything that stays is worth more by `cache.order`.
    LowValue,
    /// The cache is above its high watermark.
    OverCapacity,
    /// Less than `cache.keep_free` is free.
    BelowKeepFree,
}

impl Keep {
    /// Every reason, the strongest first.
    pub const ALL: &'static [Keep] = &[
        Keep::Pinned,
        Keep::Leased,
        Keep::InUse,
        Keep::Fetching,
        Keep::Never,
        Keep::NotStaged,
        Keep::TooYoung,
        Keep::UseUnknown,
        Keep::NotNeeded,
    ];

    /// The word, as in JSON and metric labels.
    pub const fn word(self) -> &'static str {
        match self {
            Keep::Pinned => "pinned",
            Keep::Leased => "leased",
            Keep::InUse => "in_use",
            Keep::UseUnknown => "use_unknown",
            Keep::Fetching => "fetching",
            Keep::TooYoung => "too_young",
            Keep::NotStaged => "not_staged",
            Keep::Never => "never",
            Keep::NotNeeded => "not_needed",
        }
    }

    /// The reason for people.
    pub const fn in_words(self) -> &'static str {
        match self {
            Keep::Pinned => "pinned",
            Keep::Leased => "leased",
            Keep::InUse => "in use",
            Keep::UseUnknown => "in use or not, which cannot be told",
            Keep::Fetching => "being fetched",
            Keep::TooYoung => "younger than cache.min_age",
            Keep::NotStaged => "fetched by another client",
            Keep::Never => "kept by cache.evict",
            Keep::NotNeeded => "not needed",
        }
    }

    /// Whether it protects also from whoever names the revision.
    pub const fn is_absolute(self) -> bool {
        matches!(self, Keep::Pinned | Keep::Leased | Keep::InUse | Keep::Fetching)
    }
}

impl Evict {
    /// Every reason.
    pub const ALL: &'static [Evict] = &[
        Evict::Requested,
        Evict::Expired,
        Evict::LeastRecentlyUsed,
        Evict::LowValue,
        Evict::OverCapacity,
        Evict::BelowKeepFree,
    ];

    /// The word, as in JSON and metric labels.
    pub const fn word(self) -> &'static str {
        match self {
            Evict::Requested => "requested",
            Evict::Expired => "expired",
            Evict::LeastRecentlyUsed => "least_recently_used",
            Evict::LowValue => "low_value",
            Evict::OverCapacity => "over_capacity",
            Evict::BelowKeepFree => "below_keep_free",
        }
    }

    /// The reason for people.
    pub const fn in_words(self) -> &'static str {
        match self {
            Evict::Requested => "asked for",
            Evict::Expired => "unused for cache.expire_after",
            Evict::LeastRecentlyUsed => "the least recently used",
            Evict::LowValue => "the least value",
            Evict::OverCapacity => "the cache is above its high watermark",
            Evict::BelowKeepFree => "less than cache.keep_free is free",
        }
    }
}

impl From<Chosen> for EvictedModel {
    fn from(chosen: Chosen) -> Self {
        let Chosen { name: (repo, commit), bytes, reason } = chosen;
        Self { repo, commit, bytes, reason: reason.word().to_owned() }
    }
}

impl From<EvictedModel> for Chosen {
    /// A reason that only a newer larder knows is the usual one.
    fn from(model: EvictedModel) -> Self {
        let known = Evict::ALL.iter().find(|reason| reason.word() == model.reason);
        let reason = known.copied().unwrap_or(Evict::LeastRecentlyUsed);
        Self { name: (model.repo, model.commit), bytes: model.bytes, reason }
    }
}

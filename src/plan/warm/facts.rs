//! What the plan of a night starts from.

use std::collections::BTreeMap;

use jiff::Timestamp;
use larder_jobs::{Bandwidth, HostName, Windows};
use serde::{Deserialize, Serialize};

use super::super::Chosen;

/// Bytes per second, at least and at most; both are the same where somebody has measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// At least.
    pub low: f64,
    /// At most.
    pub high: f64,
}

impl Rate {
    /// A rate that was measured.
    pub const fn measured(rate: f64) -> Self {
        Self { low: rate, high: rate }
    }

    /// Whether it was measured.
    pub fn is_measured(self) -> bool {
        self.low >= self.high
    }
}

/// One host, as far as the plan needs it.
#[derive(Debug, Clone)]
pub struct NightHost {
    /// Its name.
    pub name: HostName,
    /// What its line brings.
    pub rate: Rate,
    /// Bytes that models may still take: free, less what stays free by policy and what was promised to others.
    pub free_bytes: u64,
    /// What may go, in the order in which it goes: the answer of [`plan_eviction`](crate::plan::plan_eviction) to
    /// `Goal::Free(u64::MAX)`, without what the manifest wants there.
    pub evictable: Vec<Chosen>,
    /// Why it takes no new work, if it does not: drained, or not healthy.
    pub refuses: Option<String>,
    /// What each entry that may go there would mean for it, by the entry's place in the list.
    pub needs: BTreeMap<usize, Need>,
}

/// What an entry means for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Every file is there.
    There {
        /// Bytes of them.
        bytes: u64,
    },
    /// Something is to be fetched.
    Fetch {
        /// Bytes of it.
        bytes: u64,
        /// Bytes of the disk that it takes.
        disk: u64,
    },
    /// Nobody knows how much, and why.
    Unknown(String),
    /// It cannot be staged or run there, and why.
    Unfit(String),
}

/// Which hosts an entry is for, as places in the list of hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Each of them.
    Each(Vec<usize>),
    /// Whichever of them is best: it has the model, or is done first.
    OneOf(Vec<usize>),
}

/// One entry of the manifest.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The model, as people read it.
    pub model: String,
    /// What is the same for entries that are one job where they meet on a host.
    pub want: String,
    /// Higher is dropped later.
    pub priority: i16,
    /// Where it goes.
    pub route: Route,
    /// Why the route names no host, if it does not.
    pub nobody: Option<String>,
}

/// What a host fetches first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NightOrder {
    /// The highest priority, and of those the smallest.
    #[default]
    Priority,
    /// As the manifest has them.
    Listed,
    /// The smallest.
    Smallest,
}

/// What is wanted, and when bytes may come.
#[derive(Debug, Clone)]
pub struct NightAsk {
    /// What is wanted.
    pub entries: Vec<Entry>,
    /// The beginning of the plan.
    pub now: Timestamp,
    /// When it should all be there.
    pub deadline: Option<Timestamp>,
    /// The hours; always without.
    pub windows: Option<Windows>,
    /// What a host may take within the hours; its line without.
    pub inside: Option<Bandwidth>,
    /// What a host may take outside of them; nothing without.
    pub outside: Option<Bandwidth>,
    /// What the source gives to all hosts together; as much as they take without.
    pub source: Option<Rate>,
    /// What a host fetches first.
    pub order: NightOrder,
}

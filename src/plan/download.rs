//! The plan of a download: what is there, what comes, whether there is room.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::str::FromStr;

use larder_jobs::{Invalid, Reason, RepoFile, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Keep;
use crate::error::Error;

/// How much of the cache's disk stays free: a share (`10%`) or a size (`50GB`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum KeepFree {
    /// Percent of the disk.
    Percent(u8),
    /// Bytes.
    Bytes(u64),
    /// Percent of the disk, but at most so many bytes.
    PercentUpTo(u8, u64),
    /// The larger of two sums, each of percent of the disk and bytes.
    Larger([(u8, u64); 2]),
}

impl KeepFree {
    /// The bytes to keep free on a disk of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        let share = |percent: u8| (total / 100).saturating_mul(u64::from(percent));
        match self {
            KeepFree::Percent(percent) => share(percent),
            KeepFree::PercentUpTo(percent, cap) => share(percent).min(cap),
            KeepFree::Bytes(bytes) => bytes,
            KeepFree::Larger(sums) => sums
                .map(|(percent, bytes)| share(percent).saturating_add(bytes))
                .into_iter()
                .max()
                .unwrap_or(0),
        }
    }

    /// The same, but at least `threshold` and `margin` percent of the disk more: where somebody else begins to delete.
    #[must_use]
    pub fn and_beyond(self, threshold: Self, margin: u8) -> Self {
        let sum = |one| match one {
            KeepFree::Percent(percent) | KeepFree::PercentUpTo(percent, _) => (percent, 0),
            KeepFree::Bytes(bytes) => (0, bytes),
            KeepFree::Larger([sum, _]) => sum,
        };
        let (percent, bytes) = sum(threshold);
        KeepFree::Larger([sum(self), (percent.saturating_add(margin).min(100), bytes)])
    }

    /// The same, but at most `cap` bytes.
    #[must_use]
    pub fn up_to(self, cap: u64) -> Self {
        match self {
            KeepFree::Percent(percent) => KeepFree::PercentUpTo(percent, cap),
            KeepFree::PercentUpTo(percent, old) => KeepFree::PercentUpTo(percent, old.min(cap)),
            KeepFree::Bytes(bytes) => KeepFree::Bytes(bytes.min(cap)),
            // Whoever watches the disk does not stop the other from deleting.
            KeepFree::Larger(_) => self,
        }
    }
}

impl TryFrom<String> for KeepFree {
    type Error = Invalid;

    fn try_from(text: String) -> std::result::Result<Self, Invalid> {
        text.parse()
    }
}

impl FromStr for KeepFree {
    type Err = Invalid;

    fn from_str(text: &str) -> std::result::Result<Self, Invalid> {
        let Some(number) = text.strip_suffix('%') else {
            return text.parse::<Size>().map(|size| KeepFree::Bytes(size.bytes()));
        };
        match number.trim().parse::<u8>() {
            Ok(percent) if percent < 100 => Ok(KeepFree::Percent(percent)),
            _ => Err(Invalid::new(
                format!("`{text}` is not a share of a disk"),
                "write 0% to 99%, or a size like 50GB",
            )),
        }
    }
}

impl fmt::Display for KeepFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeepFree::Percent(percent) => write!(f, "{percent}%"),
            KeepFree::PercentUpTo(percent, cap) => write!(f, "{percent}%, at most {}", Size(*cap)),
            KeepFree::Bytes(bytes) => write!(f, "{}", Size(*bytes)),
            KeepFree::Larger([_, (percent, bytes)]) => {
                write!(f, "at least {percent}% and {} because of cache.kubelet_threshold", Size(*bytes))
            }
        }
    }
}

/// What is known of one chosen file before the download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFact {
    /// The file as the hub lists it.
    pub file: RepoFile,
    /// Bytes of it that are on the disk: its size if the blob is there, the kept part of an earlier attempt,
    /// or 0.
    pub on_disk: u64,
    /// Bytes that the disk has set aside for it, whether they came or not; 0 if the blob is there.
    pub allocated: u64,
}

/// What is known before the download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The chosen files.
    pub files: Vec<FileFact>,
    /// Size of the cache's disk in bytes.
    pub disk_total: u64,
    /// Free bytes of the cache's disk, for this user.
    pub disk_free: u64,
    /// Bytes of those that were promised to other downloads, if that is known.
    pub disk_promised: Option<u64>,
    /// Bytes by which the cache may still grow, if it has a bound of its own.
    pub cache_room: Option<u64>,
}

/// What will happen to one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PlannedFile {
    /// Path within the repo.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Bytes that have to come over the network.
    pub to_fetch: u64,
}

/// What will happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DownloadPlan {
    /// The chosen files, in the order of their paths.
    pub files: Vec<PlannedFile>,
    /// Bytes of all chosen files.
    pub bytes_total: u64,
    /// Bytes that are on the disk already.
    pub bytes_present: u64,
    /// Bytes that have to come over the network.
    pub bytes_to_fetch: u64,
    /// Bytes of the cache's disk that it will take.
    pub disk_needed: u64,
    /// Free bytes that are promised to other downloads; `null` if that is not known.
    pub disk_promised: Option<u64>,
    /// Free bytes of the cache's disk before; `null` if nothing is to be fetched and nobody asked.
    pub disk_free: Option<u64>,
    /// Bytes of it that stay free by policy.
    pub keep_free: Option<u64>,
    /// Bytes by which the cache may still grow; `null` if only the disk bounds it.
    pub cache_room: Option<u64>,
    /// Bytes that are missing; 0 if it fits.
    pub disk_short: u64,
}

/// What eviction could do for a download that does not fit, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evictable {
    /// What may go.
    pub bytes: u64,
    /// What may not, by reason.
    pub blocked: BTreeMap<Keep, u64>,
}

/// Plans a download: equal blobs count once. Whether it fits, `disk_short` tells.
pub fn plan_download(facts: &Facts, keep_free: KeepFree) -> DownloadPlan {
    let mut seen = std::collections::BTreeSet::new();
    let kept = keep_free.of(facts.disk_total);
    let mut plan = DownloadPlan {
        files: Vec::with_capacity(facts.files.len()),
        bytes_total: 0,
        bytes_present: 0,
        bytes_to_fetch: 0,
        disk_needed: 0,
        disk_promised: facts.disk_promised,
        disk_free: Some(facts.disk_free),
        keep_free: Some(kept),
        cache_room: facts.cache_room,
        disk_short: 0,
    };
    for fact in &facts.files {
        let missing = fact.file.size.saturating_sub(fact.on_disk);
        let to_fetch = if seen.insert(fact.file.digest) { missing } else { 0 };
        plan.bytes_total = plan.bytes_total.saturating_add(fact.file.size);
        plan.bytes_to_fetch = plan.bytes_to_fetch.saturating_add(to_fetch);
        let needed = to_fetch.min(fact.file.size.saturating_sub(fact.allocated));
        plan.disk_needed = plan.disk_needed.saturating_add(needed);
        plan.files.push(PlannedFile { path: fact.file.path.to_string(), bytes: fact.file.size, to_fetch });
    }
    plan.bytes_present = plan.bytes_total - plan.bytes_to_fetch;
    let available = facts.disk_free.saturating_sub(kept).saturating_sub(facts.disk_promised.unwrap_or(0));
    let available = available.min(facts.cache_room.unwrap_or(u64::MAX));
    plan.disk_short = plan.disk_needed.saturating_sub(available);
    plan
}

impl DownloadPlan {
    /// The arithmetic of a download that does not fit: needed, free, kept free, promised, and what eviction could do.
    pub fn no_room(&self, keep_free: KeepFree, evictable: Option<&Evictable>) -> Error {
        let mut what = format!(
            "not enough room for {}: {} free, of which {} stay free ({keep_free} by policy)",
            Size(self.disk_needed),
            Size(self.disk_free.unwrap_or(0)),
            Size(self.keep_free.unwrap_or(0)),
        );
        let mut hint =
            "free some space, point cache.root at a larger disk, or lower cache.keep_free".to_owned();
        if let Some(promised) = self.disk_promised.filter(|promised| *promised > 0) {
            let _ = write!(what, " and {} are promised to downloads that run", Size(promised));
            hint = format!("cancel one of them (`larder jobs`), {hint}");
        }
        if let Some(room) = self.cache_room {
            let _ = write!(what, "; the cache may grow by {} (cache.capacity)", Size(room));
        }
        let Some(evictable) = evictable else { return Error::new(Reason::InsufficientDisk, what, hint) };
        let _ = write!(
            what,
            "; {} are missing, and {} can be evicted",
            Size(self.disk_short),
            Size(evictable.bytes)
        );
        let blocked = evictable.blocked.iter().filter(|(_, bytes)| **bytes > 0);
        let blocked: Vec<_> =
            blocked.map(|(reason, bytes)| format!("{} {}", Size(*bytes), reason.in_words())).collect();
        if !blocked.is_empty() {
            let _ = write!(what, " (not: {})", blocked.join(", "));
            hint = format!("see what is kept and why with `larder evict --dry-run`; {hint}");
        }
        Error::new(Reason::InsufficientDisk, what, hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_jobs::Digest;
    use proptest::prelude::*;

    fn fact(n: u8, size: u64, on_disk: u64) -> FileFact {
        let digest = Digest::sha256(&format!("{n:02x}").repeat(32)).expect("digest");
        FileFact {
            file: RepoFile { path: format!("f{n}").parse().expect("path"), size, digest },
            on_disk,
            allocated: 0,
        }
    }

    fn facts(files: Vec<FileFact>, disk_free: u64) -> Facts {
        Facts { files, disk_total: 1_000, disk_free, disk_promised: None, cache_room: None }
    }

    #[test]
    fn what_is_there_is_not_fetched_and_equal_files_count_once() {
        let plan = plan_download(
            &facts(vec![fact(1, 100, 100), fact(2, 50, 20), fact(3, 7, 0), fact(3, 7, 0)], 500),
            KeepFree::Percent(10),
        );
        assert_eq!(plan.disk_short, 0, "fits");
        assert_eq!((plan.bytes_total, plan.bytes_present, plan.bytes_to_fetch), (164, 127, 37));
        assert_eq!(plan.keep_free, Some(100));
    }

    #[test]
    fn no_room_comes_with_the_arithmetic() {
        let keep = KeepFree::Percent(10);
        let plan = plan_download(&facts(vec![fact(1, 500, 0)], 550), keep);
        assert_eq!(plan.disk_short, 50);
        let blocked = BTreeMap::from([(Keep::Pinned, 7), (Keep::InUse, 9), (Keep::Leased, 0)]);
        let error = plan.no_room(keep, Some(&Evictable { bytes: 30, blocked }));
        assert_eq!(error.reason(), Reason::InsufficientDisk);
        for part in [
            "for 500 B: 550 B free, of which 100 B stay free (10% by policy)",
            "50 B are missing, and 30 B can be evicted (not: 7 B pinned, 9 B in use)",
        ] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert!(!plan.no_room(keep, None).to_string().contains("evicted"));
    }

    #[test]
    fn what_others_were_promised_is_not_free() {
        let both = |promised| Facts { disk_promised: Some(promised), ..facts(vec![fact(1, 300, 0)], 550) };
        let plan = plan_download(&both(150), KeepFree::Percent(10));
        assert_eq!((plan.disk_needed, plan.disk_promised, plan.disk_short), (300, Some(150), 0));
        let plan = plan_download(&both(151), KeepFree::Percent(10));
        assert_eq!(plan.disk_short, 1);
        let error = plan.no_room(KeepFree::Percent(10), None);
        assert!(error.to_string().contains("151 B are promised to downloads that run"), "{error}");
    }

    #[test]
    fn the_cache_may_be_bounded_more_tightly_than_the_disk() {
        let bounded = Facts { cache_room: Some(40), ..facts(vec![fact(1, 100, 0)], 900) };
        let plan = plan_download(&bounded, KeepFree::Bytes(0));
        assert_eq!(plan.disk_short, 60);
        assert!(
            plan.no_room(KeepFree::Bytes(0), None).to_string().contains("may grow by 40 B (cache.capacity)")
        );
    }

    #[test]
    fn room_that_is_set_aside_is_not_asked_for_again() {
        let begun = FileFact { allocated: 500, ..fact(1, 500, 20) };
        let plan = plan_download(&facts(vec![begun], 10), KeepFree::Bytes(0));
        assert_eq!(
            (plan.bytes_to_fetch, plan.disk_needed, plan.disk_short),
            (480, 0, 0),
            "its room is taken"
        );
    }

    #[test]
    fn shares_and_sizes_are_read() {
        assert_eq!("10%".parse(), Ok(KeepFree::Percent(10)));
        assert_eq!("5GB".parse(), Ok(KeepFree::Bytes(5_000_000_000)));
        assert_eq!(KeepFree::Percent(10).up_to(50).of(1_000), 50);
        assert_eq!(KeepFree::Bytes(10).up_to(50).of(1_000), 10);
        let kubelet = |own: KeepFree, threshold: KeepFree| own.and_beyond(threshold, 2).of(1_000);
        assert_eq!(kubelet(KeepFree::Percent(10), KeepFree::Percent(15)), 170);
        assert_eq!(kubelet(KeepFree::Percent(30), KeepFree::Percent(15)), 300);
        assert_eq!(kubelet(KeepFree::Percent(10), KeepFree::Bytes(200)), 220);
        for bad in ["100%", "-1%", "x%", "", "10 percent"] {
            assert!(bad.parse::<KeepFree>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// A plan never promises more than the disk has beyond the reserve, and its sums agree.
        #[test]
        fn sums_agree(sizes in prop::collection::vec((0..100u64, 0..150u64), 0..8), free in 0..1_000u64, percent in 0..99u8) {
            let files = sizes.iter().enumerate().map(|(n, (size, have))| fact(n as u8, *size, (*have).min(*size))).collect();
            let plan = plan_download(&facts(files, free), KeepFree::Percent(percent));
            prop_assert_eq!(plan.bytes_present + plan.bytes_to_fetch, plan.bytes_total);
            let fits = plan.bytes_to_fetch == 0 || plan.bytes_to_fetch + plan.keep_free.unwrap_or(0) <= free;
            prop_assert_eq!(fits, plan.disk_short == 0);
        }
    }
}

//! Disk and records made to agree: a pure function from both to the records as they should be.

use std::collections::BTreeMap;

use jiff::Timestamp;
use larder_jobs::Revision;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Entry, Key, Origin};
use crate::layout::{Inventory, RepoEntry, RevisionEntry};
use crate::metrics;
use crate::plan;

/// What was different.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drift {
    /// Revisions that others put there.
    pub adopted: Vec<Key>,
    /// Records whose bytes are gone.
    pub vanished: Vec<Key>,
    /// Pins that came back from receipts.
    pub pins_restored: usize,
    /// Receipts that could not be read.
    pub damaged_receipts: usize,
}

/// How many differences between records and disk were repaired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Repaired {
    /// Revisions that others put there.
    pub adopted: usize,
    /// Records whose bytes were gone.
    pub vanished: usize,
    /// Pins that came back from the disk.
    pub pins_restored: usize,
    /// Receipts that cannot be read.
    pub damaged_receipts: usize,
}

impl Repaired {
    pub(super) fn add(&mut self, drift: &Drift) {
        self.adopted += drift.adopted.len();
        self.vanished += drift.vanished.len();
        self.pins_restored += drift.pins_restored;
        self.damaged_receipts += drift.damaged_receipts;
    }
}

impl Drift {
    pub(super) fn count(&self) {
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        metrics::drift("adopted", number(self.adopted.len()));
        metrics::drift("vanished", number(self.vanished.len()));
        metrics::drift("damaged", number(self.damaged_receipts));
        for key in &self.vanished {
            tracing::warn!(model = %key, "recorded, but no longer in the cache");
        }
        for key in &self.adopted {
            tracing::info!(model = %key, "adopted from the cache");
        }
    }
}

/// The records for what lies in `inventory`, given what was `known`.
///
/// Bytes and files come from the disk, pins and origin from the receipt, history from the record.
pub fn reconcile(
    inventory: &Inventory,
    mut known: BTreeMap<Key, Entry>,
    now: Timestamp,
) -> (BTreeMap<Key, Entry>, Drift) {
    let mut entries = BTreeMap::new();
    let mut drift = Drift::default();
    for repo in &inventory.repos {
        drift.damaged_receipts += repo.damaged_receipts.len();
        for revision in repo.revisions.iter().filter(|revision| revision.complete) {
            let key = Key::new(&repo.repo, &revision.commit);
            let old = known.remove(&key);
            let entry = entry(repo, revision, old.as_ref(), now);
            match &old {
                None if entry.origin == Origin::Adopted => drift.adopted.push(key.clone()),
                Some(old) if entry.pinned && !old.pinned => drift.pins_restored += 1,
                None if entry.pinned => drift.pins_restored += 1,
                _ => {}
            }
            entries.insert(key, entry);
        }
    }
    drift.vanished = known.into_keys().collect();
    (entries, drift)
}

fn entry(repo: &RepoEntry, revision: &RevisionEntry, old: Option<&Entry>, now: Timestamp) -> Entry {
    // One that only says that another client's bytes were right tells nothing of how they came.
    let receipt = revision.receipt.as_ref().filter(|receipt| !receipt.adopted);
    let mut revisions: Vec<Revision> = revision.refs.iter().filter_map(|name| name.parse().ok()).collect();
    if let Some(receipt) = receipt {
        // A ref that has moved on no longer leads here; a commit asked for by name always does.
        revisions.extend(receipt.revisions.iter().filter(|asked| asked.as_commit().is_some()).cloned());
    }
    revisions.sort();
    revisions.dedup();
    let (format, quantization) = plan::describe(revision.files.iter().map(|file| file.path.as_str()));
    Entry {
        repo: repo.repo.clone(),
        commit: revision.commit.clone(),
        revisions,
        origin: if receipt.is_some() { Origin::Staged } else { Origin::Adopted },
        bytes: revision.bytes(),
        files: u64::try_from(revision.files.len()).unwrap_or(u64::MAX),
        format: format.map(str::to_owned),
        quantization,
        // Without a readable receipt the record may be the only witness of a pin.
        pinned: revision.pinned || (revision.receipt.is_none() && old.is_some_and(|old| old.pinned)),
        added_at: receipt.map(|receipt| receipt.staged_at).or(old.map(|old| old.added_at)).unwrap_or(now),
        last_used_at: old.and_then(|old| old.last_used_at).or(receipt.map(|receipt| receipt.staged_at)),
        heat: old.map_or(0.0, |old| old.heat),
        verified_at: old.and_then(|old| old.verified_at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Receipt, SnapshotFile};
    use larder_jobs::CommitId;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("time")
    }

    fn commit(digit: &str) -> CommitId {
        digit.repeat(40).parse().expect("commit")
    }

    fn found(digit: &str, receipt: Option<Receipt>, complete: bool) -> RevisionEntry {
        RevisionEntry {
            commit: commit(digit),
            refs: vec!["main".into()],
            files: vec![SnapshotFile {
                path: "model.safetensors".into(),
                blob: Some("x".into()),
                bytes: Some(7),
            }],
            complete,
            last_modified: None,
            pinned: receipt.as_ref().is_some_and(|receipt| receipt.pinned),
            receipt,
        }
    }

    fn inventory(revisions: Vec<RevisionEntry>) -> Inventory {
        let repo = RepoEntry {
            repo: "a/b".parse().expect("repo"),
            path: "/c/models--a--b".into(),
            has_ours: false,
            revisions,
            blobs: BTreeMap::new(),
            orphan_receipts: Vec::new(),
            damaged_receipts: Vec::new(),
            dangling_refs: Vec::new(),
            partials: Vec::new(),
            unfinished: Vec::new(),
            bytes: 7,
            shared_bytes: 0,
        };
        Inventory { repos: vec![repo], ..Inventory::default() }
    }

    fn receipt(digit: &str, pinned: bool) -> Receipt {
        let staged = at("2026-01-01T00:00:00Z");
        let mut receipt = Receipt::new("a/b".parse().expect("repo"), commit(digit), "http://hub", staged);
        receipt.pinned = pinned;
        receipt
    }

    #[test]
    fn bytes_without_a_record_are_adopted_or_recognised_by_their_receipt() {
        let now = at("2026-02-01T00:00:00Z");
        let inventory = inventory(vec![found("1", None, true), found("2", Some(receipt("2", true)), true)]);
        let (entries, drift) = reconcile(&inventory, BTreeMap::new(), now);
        let origins: Vec<_> =
            entries.values().map(|e| (e.origin, e.pinned, e.last_used_at.is_some())).collect();
        assert_eq!(origins, [(Origin::Adopted, false, false), (Origin::Staged, true, true)]);
        assert_eq!((drift.adopted.len(), drift.pins_restored), (1, 1));
        let again = reconcile(&inventory, entries.clone(), now);
        assert!(again == (entries, Drift::default()));
    }

    #[test]
    fn records_without_bytes_go_and_half_a_model_is_no_model() {
        let now = at("2026-02-01T00:00:00Z");
        let (entries, _) =
            reconcile(&inventory(vec![found("1", None, true), found("2", None, true)]), BTreeMap::new(), now);
        let (left, drift) = reconcile(&inventory(vec![found("1", None, false)]), entries, now);
        assert!(left.is_empty());
        assert_eq!(drift.vanished.len(), 2);
    }

    #[test]
    fn history_comes_from_the_record_and_a_pin_outlives_its_receipt() {
        let now = at("2026-02-01T00:00:00Z");
        let (mut entries, _) =
            reconcile(&inventory(vec![found("1", Some(receipt("1", true)), true)]), BTreeMap::new(), now);
        let key = Key::new(&"a/b".parse().expect("repo"), &commit("1"));
        entries.get_mut(&key).expect("there").last_used_at = Some(now);
        let (after, _) = reconcile(&inventory(vec![found("1", None, true)]), entries, now);
        assert_eq!((after[&key].pinned, after[&key].last_used_at), (true, Some(now)));
    }
}

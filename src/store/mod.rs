//! The embedded store: what larder knows, kept across kills and power loss. The only room that names sled.
//!
//! One sled tree holds every table, told apart by a key prefix, because a batch on one tree is atomic
//! across a crash. On top of sled 0.34 stands what it lacks (measured, see docs/architecture.md): an fsync
//! behind every flush, a guard around `open` (which panics on some damaged files), quarantine of a damaged
//! folder, a marker that tells an emptied store from a new one, and an envelope with a checksum around
//! every record.

mod flush;
mod lock;
mod record;
mod recover;

use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use larder_jobs::Reason;

pub use lock::{Held, StateLock};
pub use record::Damage;
pub use recover::{Opened, Recovery};

/// The schema of the whole store; a larger number in a folder means a newer larder wrote it.
pub const SCHEMA: u64 = 1;

/// A handle on the open store; clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    tree: sled::Db,
    flusher: flush::Flusher,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// A typed view on the records whose key starts with the table's name.
#[derive(Debug)]
pub struct Table<T> {
    name: &'static str,
    record: PhantomData<fn() -> T>,
}

// By hand, because a derive would ask for `T: Copy`.
impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Table<T> {}

impl<T> Table<T> {
    /// A table called `name`; two tables of one name are the same table.
    pub const fn new(name: &'static str) -> Self {
        Self { name, record: PhantomData }
    }

    fn key(self, key: &[u8]) -> Vec<u8> {
        [self.name.as_bytes(), b"/", key].concat()
    }
}

/// Several changes that happen together or not at all, also across a crash.
#[derive(Debug, Default)]
pub struct Batch {
    writes: sled::Batch,
    changes: usize,
}

impl Batch {
    /// Puts `value` under `key`.
    pub fn put<T: Serialize>(&mut self, table: Table<T>, key: &[u8], value: &T) {
        self.writes.insert(table.key(key), record::encode(value));
        self.changes += 1;
    }

    /// Deletes `key`.
    pub fn delete<T>(&mut self, table: Table<T>, key: &[u8]) {
        self.writes.remove(table.key(key));
        self.changes += 1;
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.changes == 0
    }
}

impl Store {
    /// Opens the store in `dir`, which must be locked by a [`StateLock`] of this process.
    ///
    /// A damaged store is moved aside and a fresh one is opened; [`Opened`] tells.
    ///
    /// # Errors
    /// `unsupported_version` for a folder of a newer larder, `io_error` for a folder that cannot be used.
    pub fn open(dir: &Path) -> Result<(Self, Opened)> {
        let (tree, opened) = recover::open(dir)?;
        let flusher = flush::Flusher::start(tree.clone(), dir)?;
        Ok((Self { inner: Arc::new(Inner { tree, flusher }) }, opened))
    }

    /// The record under `key`.
    ///
    /// # Errors
    /// `io_error` if the store fails, `internal` with [`Damage`] in words if the record does.
    pub fn get<T: DeserializeOwned>(&self, table: Table<T>, key: &[u8]) -> Result<Option<T>> {
        match self.inner.tree.get(table.key(key)).map_err(|e| failed("read", &e))? {
            Some(bytes) => {
                record::decode(&bytes).map(Some).map_err(|damage| damage.into_error(table.name, key))
            }
            None => Ok(None),
        }
    }

    /// Every record of the table whose key starts with `prefix`, in the order of keys.
    ///
    /// A damaged record is an item of its own, so that one never hides the others.
    ///
    /// # Errors
    /// The outer item is an error when the store itself fails.
    pub fn scan<T: DeserializeOwned>(
        &self,
        table: Table<T>,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, std::result::Result<T, Damage>)>> + use<T> {
        let skip = table.name.len() + 1;
        self.inner.tree.scan_prefix(table.key(prefix)).map(move |item| {
            let (key, value) = item.map_err(|e| failed("read", &e))?;
            Ok((key[skip..].to_vec(), record::decode(&value)))
        })
    }

    /// The number of records of the table whose key starts with `prefix`.
    pub fn count<T>(&self, table: Table<T>, prefix: &[u8]) -> usize {
        self.inner.tree.scan_prefix(table.key(prefix)).keys().count()
    }

    /// Applies the batch: visible at once, on the disk after [`Store::durable`] or half a second.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn commit(&self, batch: Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.inner.tree.apply_batch(batch.writes).map_err(|e| failed("write", &e))?;
        self.inner.flusher.wrote();
        Ok(())
    }

    /// Waits until everything committed so far survives a power loss. Callers share one fsync.
    ///
    /// # Errors
    /// `io_error` if the disk refuses; what was not yet durable may then be lost.
    pub async fn durable(&self) -> Result<()> {
        self.inner.flusher.durable().await
    }

    /// The same for code outside the async runtime.
    ///
    /// # Errors
    /// As [`Store::durable`].
    pub fn durable_blocking(&self) -> Result<()> {
        self.inner.flusher.flush_now()
    }

    /// Whether the store has failed for good; a restart of the process opens it afresh.
    pub fn has_failed(&self) -> bool {
        self.inner.flusher.has_failed()
    }
}

/// Creates the state folder if it is not there, for its owner alone: what jobs name may hold secrets, as the address of a
/// webhook does.
fn create(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn failed(doing: &str, error: &sled::Error) -> Error {
    Error::new(
        Reason::IoError,
        format!("cannot {doing} larder's store: {error}"),
        "check the disk of state.path, then restart larder; staged models are not affected",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: Table<u32> = Table::new("numbers");
    const OTHERS: Table<u32> = Table::new("numbers2");

    fn open(dir: &Path) -> (Store, Opened) {
        Store::open(dir).expect("opens")
    }

    fn put(store: &Store, key: &str, value: u32) {
        let mut batch = Batch::default();
        batch.put(NUMBERS, key.as_bytes(), &value);
        store.commit(batch).expect("commits");
    }

    #[test]
    fn records_survive_and_tables_do_not_mix() {
        let dir = tempfile::tempdir().expect("temp dir");
        {
            let (store, opened) = open(dir.path());
            assert_eq!(opened, Opened::Fresh);
            put(&store, "a", 1);
            put(&store, "b", 2);
            store.durable_blocking().expect("durable");
        }
        let (store, opened) = open(dir.path());
        assert_eq!(opened, Opened::Existing);
        let all: Vec<_> =
            store.scan(NUMBERS, b"").map(|item| item.expect("reads").1.expect("sound")).collect();
        assert_eq!(all, [1, 2]);
        assert_eq!(store.count(OTHERS, b""), 0);
        assert_eq!(store.get(NUMBERS, b"zz").expect("reads"), None);
    }

    #[test]
    fn a_damaged_store_is_moved_aside_and_told() {
        let dir = tempfile::tempdir().expect("temp dir");
        {
            let (store, _) = open(dir.path());
            (0..2_000).for_each(|n| put(&store, &format!("key-{n}"), n));
            store.durable_blocking().expect("durable");
        }
        let file = dir.path().join("db/db");
        let mut bytes = std::fs::read(&file).expect("reads");
        bytes.iter_mut().skip(64).for_each(|b| *b ^= 0x5a);
        std::fs::write(&file, bytes).expect("writes");
        let (store, opened) = open(dir.path());
        assert!(matches!(opened, Opened::Recovered(_)), "{opened:?}");
        put(&store, "works", 1);
        store.durable_blocking().expect("durable");
    }

    #[test]
    fn an_emptied_store_is_not_taken_for_a_new_one() {
        let dir = tempfile::tempdir().expect("temp dir");
        {
            let (store, _) = open(dir.path());
            put(&store, "a", 1);
            store.durable_blocking().expect("durable");
        }
        std::fs::remove_dir_all(dir.path().join("db")).expect("removes");
        let (_, opened) = open(dir.path());
        assert!(matches!(opened, Opened::Recovered(Recovery { reason: "emptied", .. })), "{opened:?}");
    }

    #[test]
    fn a_newer_schema_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("temp dir");
        drop(open(dir.path()));
        recover::write_schema_for_test(dir.path(), SCHEMA + 1);
        let error = Store::open(dir.path()).expect_err("refused");
        assert_eq!(error.reason(), Reason::UnsupportedVersion);
        assert!(error.hint().contains("upgrade"), "{error:?}");
    }
}

//! Opening a store that may be damaged, emptied or of another age, without losing sight of any of it.

use std::fs::{self, File};
use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{SCHEMA, flush, record};
use crate::error::{Error, Result};
use larder_jobs::Reason;

/// Quarantined folders that are kept; older ones are removed.
const KEEP_CORRUPT: usize = 2;
/// sled's page cache; its default of 1 GiB is no size for a worker that should idle small.
const CACHE_BYTES: u64 = 16 << 20;
/// How long an earlier handle in this process may take to let go of the folder.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
const META_KEY: &[u8] = b"meta/store";
const MARKER: &str = "store.json";

/// How the store was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// The folder was new.
    Fresh,
    /// The records of before are there.
    Existing,
    /// The records of before are lost; a fresh store was opened.
    Recovered(Recovery),
}

/// What was wrong with a store that had to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// `damaged` (its files do not hold what the marker promises) or `emptied` (they are not there).
    pub reason: &'static str,
    /// Where the old files are, if there were any.
    pub kept: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Meta {
    schema: u64,
}

/// The fsynced file that says that a store was here.
#[derive(Serialize, Deserialize)]
struct Marker {
    schema: u64,
}

pub(super) fn open(dir: &Path) -> Result<(sled::Db, Opened)> {
    super::create(dir).map_err(|error| Error::io("create the state folder", dir, &error))?;
    let marker = read_marker(dir)?;
    refuse_newer(dir, marker.as_ref().map_or(0, |marker| marker.schema))?;
    let db = dir.join("db");
    let existed = db.join("db").exists();
    remove_half_snapshots(&db);
    let (tree, opened) = match try_open(&db) {
        Ok(tree) => match schema_of(&tree) {
            Some(schema) => {
                refuse_newer(dir, schema)?;
                (tree, Opened::Existing)
            }
            None if marker.is_none() && tree.is_empty() => (tree, Opened::Fresh),
            None => {
                drop(tree);
                let kept = if existed { Some(quarantine(dir, &db)?) } else { None };
                // A file without its records is a damaged one: sled opens some truncated files empty.
                let reason = if kept.is_some() { "damaged" } else { "emptied" };
                (reopen(&db)?, Opened::Recovered(Recovery { reason, kept }))
            }
        },
        Err(error) if is_environment(&error) => return Err(super::failed("open", &error)),
        Err(error) => {
            tracing::error!(error = %error, path = %db.display(), "the store is damaged; it is moved aside and rebuilt from the disk");
            let kept = Some(quarantine(dir, &db)?);
            (reopen(&db)?, Opened::Recovered(Recovery { reason: "damaged", kept }))
        }
    };
    if opened != Opened::Existing {
        let meta = record::encode(&Meta { schema: SCHEMA });
        tree.insert(META_KEY, meta).map_err(|error| super::failed("write", &error))?;
        tree.flush().map_err(|error| super::failed("flush", &error))?;
        flush::sync_folder(dir)?;
        write_marker(dir, SCHEMA)?;
    }
    Ok((tree, opened))
}

/// Opens sled, waiting for an earlier handle of this folder that is still being dropped: the caller owns the
/// folder, so nobody else can hold sled's own lock for long.
fn try_open(db: &Path) -> std::result::Result<sled::Db, sled::Error> {
    let begun = Instant::now();
    loop {
        match guarded_open(db) {
            Err(sled::Error::Io(error)) if is_lock(&error) && begun.elapsed() < LOCK_WAIT => {
                std::thread::sleep(LOCK_PAUSE);
            }
            result => return result,
        }
    }
}

/// sled says `could not acquire lock … WouldBlock` as an error of kind `Other`.
fn is_lock(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

/// The panic hook is the process's: two opens at once must not leave the silent one behind.
static HOOK: Mutex<()> = Mutex::new(());

/// With a guard, since `open` panics on some damaged files.
fn guarded_open(db: &Path) -> std::result::Result<sled::Db, sled::Error> {
    let _alone = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let config = sled::Config::new()
        .path(db)
        .mode(sled::Mode::LowSpace)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let tree = config.open()?;
        // A damaged page may show itself only when it is read.
        tree.iter().try_for_each(|item| item.map(|_| ()))?;
        Ok(tree)
    }));
    panic::set_hook(hook);
    result.unwrap_or_else(|_| Err(sled::Error::Corruption { at: None, bt: () }))
}

fn reopen(db: &Path) -> Result<sled::Db> {
    try_open(db).map_err(|error| super::failed("open", &error))
}

/// Errors of the surroundings, for which moving the store aside would be wrong.
fn is_environment(error: &sled::Error) -> bool {
    use std::io::ErrorKind as Kind;
    match error {
        sled::Error::Io(error) => matches!(
            error.kind(),
            Kind::PermissionDenied
                | Kind::ReadOnlyFilesystem
                | Kind::StorageFull
                | Kind::QuotaExceeded
                | Kind::WouldBlock
                | Kind::Other
        ),
        _ => false,
    }
}

fn schema_of(tree: &sled::Db) -> Option<u64> {
    let bytes = tree.get(META_KEY).ok().flatten()?;
    record::decode::<Meta>(&bytes).ok().map(|meta| meta.schema)
}

fn refuse_newer(dir: &Path, schema: u64) -> Result<()> {
    if schema <= SCHEMA {
        return Ok(());
    }
    Err(Error::new(
        Reason::UnsupportedVersion,
        format!("the state folder {} has schema {schema}, this larder knows {SCHEMA}", dir.display()),
        "upgrade larder, or point state.path at another folder; models in the cache are not affected",
    ))
}

/// sled leaves `snap.*.generating` behind when it dies while writing a snapshot, and trips over it later.
fn remove_half_snapshots(db: &Path) {
    let Ok(entries) = fs::read_dir(db) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            // If it cannot be removed, sled's own open will say why.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn quarantine(dir: &Path, db: &Path) -> Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut target = dir.join(format!("db.corrupt-{seconds}"));
    let mut n = 1;
    while target.exists() {
        target = dir.join(format!("db.corrupt-{seconds}-{n}"));
        n += 1;
    }
    fs::rename(db, &target).map_err(|error| Error::io("move aside", db, &error))?;
    let mut old: Vec<_> = fs::read_dir(dir)
        .map_err(|error| Error::io("list", dir, &error))?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("db.corrupt-"))
        .map(|entry| (entry.metadata().and_then(|meta| meta.modified()).ok(), entry.path()))
        .collect();
    old.sort();
    for (_, path) in old.iter().rev().skip(KEEP_CORRUPT) {
        fs::remove_dir_all(path).map_err(|error| Error::io("remove", path, &error))?;
    }
    Ok(target)
}

fn read_marker(dir: &Path) -> Result<Option<Marker>> {
    let path = dir.join(MARKER);
    match fs::read(&path) {
        // A marker that cannot be parsed still says that a store was here.
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or(Marker { schema: SCHEMA }))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", &path, &error)),
    }
}

fn write_marker(dir: &Path, schema: u64) -> Result<()> {
    let path = dir.join(MARKER);
    let text = serde_json::json!(Marker { schema }).to_string();
    File::create(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| File::open(dir)?.sync_all())
        .map_err(|error| Error::io("write", &path, &error))
}

#[cfg(test)]
pub(super) fn write_schema_for_test(dir: &Path, schema: u64) {
    write_marker(dir, schema).expect("writes the marker");
}

//! What lies in a cache: an inventory that reads no content, follows no link out, and fails on no entry.
//!
//! Blobs are looked at once each (one `lstat`); links of snapshots are only read as text. What cannot be
//! parsed as an entry of a hub cache is listed as foreign, and nobody touches it. The rules for what belongs
//! are those of `scan_cache_dir` (Python huggingface_hub 2.4.0), which also knows a store that several repos
//! share: `<root>/blobs/`, to which a repo's `blobs/<etag>` may be a link.

mod folder;
mod repo;

use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::io;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use super::{Cache, Receipt, RepoDir, Unreadable};
use crate::error::{Error, Result};
use larder_jobs::{CommitId, Reason, RepoId};

/// Files that Finder and Explorer leave in every folder.
const DESKTOP: &[&str] = &[".DS_Store", "Thumbs.db", "desktop.ini"];
/// Folders of the hub's clients for other kinds of repos.
const OTHER_TYPES: &[&str] = &["datasets--", "spaces--", "kernels--"];
/// What else the hub's clients put into the root.
const ROOT_FILES: &[&str] = &["CACHEDIR.TAG", "blobs", "version.txt", "version_diffusers_cache.txt"];

/// Most threads that take stock, and the number of models for which one is enough.
const MAX_THREADS: usize = 8;
const FEW: usize = 16;

/// What lies in a cache.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// The models, by name.
    pub repos: Vec<RepoEntry>,
    /// Entries that are not part of a hub cache. Never touched.
    pub foreign: Vec<Foreign>,
    /// Number of datasets, spaces and kernels, which are not touched either.
    pub other_types: usize,
    /// What could not be read, in words; the entries concerned are missing or incomplete here.
    pub problems: Vec<Error>,
}

/// Something that is not an entry of a hub cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Where.
    pub path: PathBuf,
    /// Size in bytes of a plain file; unknown for folders, which are not walked.
    pub bytes: Option<u64>,
    /// Why it is not.
    pub why: &'static str,
}

/// One model.
#[derive(Debug, Clone)]
pub struct RepoEntry {
    /// The model.
    pub repo: RepoId,
    /// Its folder.
    pub path: PathBuf,
    /// It has a folder of larder's own.
    pub has_ours: bool,
    /// Its snapshots, by commit.
    pub revisions: Vec<RevisionEntry>,
    /// Its blobs, by name.
    pub blobs: BTreeMap<Arc<str>, BlobEntry>,
    /// Receipts whose snapshot is gone.
    pub orphan_receipts: Vec<Receipt>,
    /// Receipts that cannot be used.
    pub damaged_receipts: Vec<Unreadable>,
    /// Refs whose snapshot is gone, with the commit that they name if they name one.
    pub dangling_refs: Vec<(String, Option<CommitId>)>,
    /// Transfers that are under way or were given up.
    pub partials: Vec<PartialEntry>,
    /// Evictions that were begun and not ended, since a process was killed.
    pub unfinished: Vec<CommitId>,
    /// Bytes of its own blobs, once each, and of plain files in snapshots; without partials.
    pub bytes: u64,
    /// Bytes of blobs that it has in the store shared between repos; removing the repo does not free them.
    pub shared_bytes: u64,
}

/// One snapshot.
#[derive(Debug, Clone)]
pub struct RevisionEntry {
    /// The commit.
    pub commit: CommitId,
    /// Branches and tags that name it.
    pub refs: Vec<String>,
    /// Its files, by path.
    pub files: Vec<SnapshotFile>,
    /// Every link resolves, there is at least one file, and whatever the receipt promises is there.
    pub complete: bool,
    /// When its youngest blob was written; that of its folder if it has none.
    pub last_modified: Option<SystemTime>,
    /// What larder knows about it, if it staged it.
    pub receipt: Option<Receipt>,
    /// Somebody pinned it.
    pub pinned: bool,
}

impl RevisionEntry {
    /// Bytes of its files, each blob once, shared or not.
    pub fn bytes(&self) -> u64 {
        let mut blobs = BTreeMap::new();
        for file in &self.files {
            blobs.insert(file.blob.as_deref().unwrap_or(file.path.as_str()), file.bytes.unwrap_or(0));
        }
        blobs.values().sum()
    }
}

/// Bytes that exactly these revisions of a repo need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stake {
    /// Numbers into [`RepoEntry::revisions`].
    pub revisions: Vec<usize>,
    /// What they are long.
    pub bytes: u64,
    /// What becomes free when the last of these revisions goes.
    pub frees: u64,
}

impl RepoEntry {
    /// Who needs which bytes. Each revision has a stake of its own, be it nothing; what no revision needs is in none.
    pub fn stakes(&self) -> Vec<Stake> {
        let mut users: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut stakes: BTreeMap<Vec<usize>, (u64, u64)> = BTreeMap::new();
        for (n, revision) in self.revisions.iter().enumerate() {
            let own = stakes.entry(vec![n]).or_default();
            for file in &revision.files {
                match &file.blob {
                    Some(name) => {
                        let users = users.entry(name).or_default();
                        if users.last() != Some(&n) {
                            users.push(n);
                        }
                    }
                    // A link that leads nowhere, or out of the cache, has no bytes.
                    None => {
                        let plain = file.bytes.unwrap_or(0);
                        *own = (own.0 + plain, own.1 + plain);
                    }
                }
            }
        }
        for (name, users) in users {
            let Some(blob) = self.blobs.get(name) else { continue };
            let stake = stakes.entry(users).or_default();
            *stake = (stake.0 + blob.bytes, stake.1 + blob.frees);
        }
        let stakes = stakes.into_iter();
        stakes.map(|(revisions, (bytes, frees))| Stake { revisions, bytes, frees }).collect()
    }

    /// Blobs that no snapshot needs.
    pub fn orphans(&self) -> impl Iterator<Item = (&str, &BlobEntry)> {
        let needed: std::collections::BTreeSet<&str> = self
            .revisions
            .iter()
            .flat_map(|one| &one.files)
            .filter_map(|file| file.blob.as_deref())
            .collect();
        self.blobs
            .iter()
            .map(|(name, blob)| (name.as_ref(), blob))
            .filter(move |(name, _)| !needed.contains(name))
    }
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Path within the repo, with `/`; not validated.
    pub path: String,
    /// Name of its blob; `None` for a plain file and for a link to somewhere else.
    pub blob: Option<Arc<str>>,
    /// Size in bytes; `None` if the link does not resolve.
    pub bytes: Option<u64>,
}

/// One blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobEntry {
    /// Size in bytes.
    pub bytes: u64,
    /// When it was written.
    pub modified: Option<SystemTime>,
    /// It is a link into the store that repos share.
    pub shared: bool,
    /// Bytes that its removal frees: what it takes on the disk; nothing if it has other names or is shared.
    pub frees: u64,
}

/// A transfer that is under way or was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialEntry {
    /// The file with the bytes.
    pub path: PathBuf,
    /// Bytes that it takes on the disk (blocks, not length: ours are allocated ahead).
    pub bytes: u64,
    /// When something was last written to it.
    pub modified: Option<SystemTime>,
    /// larder's own; else another client's `*.incomplete`.
    pub ours: bool,
}

/// Takes stock of the cache below `root`. A folder that is not there is an empty cache.
///
/// # Errors
/// `invalid_request` if the root is no folder, `io_error` if it cannot be listed; everything else becomes a problem in the inventory.
pub fn scan(root: &Path) -> Result<Inventory> {
    let mut inventory = Inventory::default();
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(inventory),
        Err(error) => return Err(unlisted(root, &error)),
    };
    let cache = Cache::new(root);
    let mut repos = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => repos.extend(root_entry(&entry, &mut inventory)),
            Err(error) => inventory.problems.push(unlisted(root, &error)),
        }
    }
    for part in scan_all(&cache, &repos) {
        inventory.repos.extend(part.repos);
        inventory.foreign.extend(part.foreign);
        inventory.problems.extend(part.problems);
    }
    inventory.repos.sort_by(|a, b| a.repo.cmp(&b.repo));
    inventory.foreign.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(inventory)
}

/// A root that cannot be listed.
pub(super) fn unlisted(root: &Path, error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotADirectory {
        return Error::new(
            Reason::InvalidRequest,
            format!("the cache {} is not a folder", root.display()),
            "set cache.root to a folder",
        );
    }
    Error::io("list the cache", root, error).or("set cache.root to another folder")
}

/// Takes stock of one model; the inventory is empty if its folder is not there.
pub fn scan_repo(cache: &Cache, repo: &RepoId) -> Inventory {
    let mut inventory = Inventory::default();
    let dir = cache.repo(repo);
    if fs::symlink_metadata(dir.path()).is_ok_and(|found| found.is_dir()) {
        repo::scan(cache, &dir, &mut inventory);
    }
    inventory
}

/// The revision of a model that a file below `root` belongs to, a blob or a link of a snapshot; of several revisions that
/// share a blob the one that was written last.
pub fn revision_of(root: &Path, file: &Path) -> Option<(RepoId, CommitId)> {
    let mut parts = file.strip_prefix(root).ok()?.iter().map(|part| part.to_str());
    let repo = repo_of(parts.next()??)?;
    let (folder, name) = (parts.next()??, parts.next()??);
    if folder == "snapshots" {
        return Some((repo, name.parse().ok()?));
    }
    let found = scan_repo(&Cache::new(root), &repo).repos.into_iter().next()?;
    let has = |one: &&RevisionEntry| one.files.iter().any(|file| file.blob.as_deref() == Some(name));
    let mut revisions: Vec<_> = found.revisions.iter().filter(has).collect();
    revisions.sort_by_key(|one| one.last_modified);
    Some((repo, revisions.pop()?.commit.clone()))
}

/// Takes stock of many models at once: the kernel's part of it, which is most, goes on several processors.
fn scan_all(cache: &Cache, repos: &[RepoId]) -> Vec<Inventory> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    let part = |repos: &[RepoId]| {
        let mut inventory = Inventory::default();
        repos.iter().for_each(|repo| repo::scan(cache, &cache.repo(repo), &mut inventory));
        inventory
    };
    if repos.len() < FEW || threads == 1 {
        return vec![part(repos)];
    }
    thread::scope(|scope| {
        let parts = repos.chunks(repos.len().div_ceil(threads));
        let running: Vec<_> = parts.map(|repos| scope.spawn(move || part(repos))).collect();
        // Nothing in there panics; if it did, this would be where it goes on.
        running.into_iter().map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

/// Files an entry of the root; the model if it is one's folder.
fn root_entry(entry: &DirEntry, inventory: &mut Inventory) -> Option<RepoId> {
    let name = entry.file_name();
    let Some(name) = name.to_str() else {
        inventory.foreign.push(foreign(entry.path(), "its name is not UTF-8"));
        return None;
    };
    let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
    if name.starts_with('.') || ROOT_FILES.contains(&name) || DESKTOP.contains(&name) {
        return None;
    }
    if folder && OTHER_TYPES.iter().any(|prefix| name.starts_with(prefix)) {
        inventory.other_types += 1;
        return None;
    }
    let repo = repo_of(name);
    match repo {
        Some(_) if folder => return repo,
        Some(_) => inventory.foreign.push(foreign(entry.path(), "a model's folder that is a link or a file")),
        None => inventory.foreign.push(foreign(entry.path(), "its name is not that of a model's folder")),
    }
    None
}

/// `models--owner--name` to `owner/name`. A part of a name never holds `--`, so that this is the only reading.
pub(super) fn repo_of(folder: &str) -> Option<RepoId> {
    let (owner, name) = folder.strip_prefix("models--")?.split_once("--")?;
    format!("{owner}/{name}").parse().ok()
}

fn foreign(path: PathBuf, why: &'static str) -> Foreign {
    let found = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file);
    Foreign { path, bytes: found.map(|found| found.len()), why }
}

#[cfg(test)]
mod tests;

//! One model of the inventory: blobs, then refs, then snapshots, then what is larder's own.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use super::folder::{self, Entry, Found, Listed};
use super::{
    BlobEntry, Cache, DESKTOP, Foreign, Inventory, PartialEntry, Receipt, RepoDir, RepoEntry, RevisionEntry,
    SnapshotFile, Unreadable, foreign,
};
use crate::error::Error;
use crate::layout::publish::normalise;
use crate::layout::receipt;
use larder_jobs::CommitId;

/// Deepest folder that is walked; a path within a repo has at most 1024 bytes.
const MAX_DEPTH: usize = 512;
/// What the hub's clients keep beside `blobs`, `snapshots` and `refs`.
const REPO_FOLDERS: &[&str] = &["blobs", "snapshots", "refs", "trees"];

/// Everything about one repo that later steps need.
struct Scan<'a> {
    cache: &'a Cache,
    dir: &'a RepoDir,
    out: &'a mut Inventory,
    blobs: BTreeMap<Arc<str>, BlobEntry>,
    partials: Vec<PartialEntry>,
    plain_bytes: u64,
}

pub(super) fn scan(cache: &Cache, dir: &RepoDir, out: &mut Inventory) {
    let blobs = BTreeMap::new();
    let mut scan = Scan { cache, dir, out, blobs, partials: Vec::new(), plain_bytes: 0 };
    let mut has_ours = false;
    scan.each(dir.path(), |scan, entry| {
        let name = entry.name();
        has_ours |= name == ".larder";
        if !name.starts_with('.') && !REPO_FOLDERS.contains(&&*name) && !DESKTOP.contains(&&*name) {
            scan.out.foreign.push(foreign(entry.path(), "not part of a model's folder"));
        }
    });
    scan.blobs();
    let mut refs = scan.refs();
    // Another client's repo has nothing of ours, which need not be looked for five times.
    let ours = if has_ours { scan.ours() } else { Ours::default() };
    let Ours { mut receipts, damaged_receipts, pins, unfinished } = ours;
    let mut revisions = scan.snapshots();
    for revision in &mut revisions {
        revision.refs = refs.remove(revision.commit.as_str()).unwrap_or_default();
        revision.receipt = receipts.remove(&revision.commit);
        revision.pinned = pins.contains(&revision.commit)
            || revision.receipt.as_ref().is_some_and(|receipt| receipt.pinned);
        revision.complete &=
            revision.receipt.as_ref().is_none_or(|receipt| receipt.adopted || keeps(revision, receipt));
    }
    revisions.sort_by(|a, b| a.commit.cmp(&b.commit));
    let dangling_refs = refs
        .into_iter()
        .flat_map(|(commit, names)| names.into_iter().map(move |name| (name, commit.parse().ok())))
        .collect();
    let own = scan.blobs.values().filter(|blob| !blob.shared).map(|blob| blob.bytes).sum::<u64>();
    let shared_bytes = scan.blobs.values().filter(|blob| blob.shared).map(|blob| blob.bytes).sum();
    let entry = RepoEntry {
        repo: dir.repo().clone(),
        path: dir.path().to_owned(),
        has_ours,
        revisions,
        bytes: own + scan.plain_bytes,
        shared_bytes,
        blobs: scan.blobs,
        orphan_receipts: receipts.into_values().collect(),
        damaged_receipts,
        dangling_refs,
        partials: scan.partials,
        unfinished,
    };
    out.repos.push(entry);
}

/// Whether the snapshot, whose files are in order, still has every file of its receipt, at its size.
fn keeps(revision: &RevisionEntry, receipt: &Receipt) -> bool {
    receipt.files.iter().all(|file| {
        let found = revision.files.binary_search_by(|found| found.path.as_str().cmp(file.path.as_str()));
        found.is_ok_and(|found| {
            let found = &revision.files[found];
            found.bytes == Some(file.size)
                && found.blob.as_deref().is_none_or(|name| name == file.digest.hex())
        })
    })
}

/// What is larder's own in a repo.
#[derive(Default)]
struct Ours {
    receipts: BTreeMap<CommitId, Receipt>,
    damaged_receipts: Vec<Unreadable>,
    pins: BTreeSet<CommitId>,
    unfinished: Vec<CommitId>,
}

/// The name of the blob to which a link in a snapshot's `folder`, so many folders deep, leads, if it leads to one of
/// `blobs`.
fn blob_of<'a>(target: &'a [u8], folder: &Path, depth: usize, blobs: &Path) -> Option<Cow<'a, str>> {
    // As every client writes it, which need not be taken apart.
    let mut rest = Some(target);
    for _ in 0..depth + 2 {
        rest = rest.and_then(|rest| rest.strip_prefix(b"../"));
    }
    let usual = rest.and_then(|rest| rest.strip_prefix(b"blobs/")).and_then(|name| str::from_utf8(name).ok());
    if let Some(name) = usual.filter(|name| !name.contains('/') && *name != "." && *name != "..") {
        return Some(Cow::Borrowed(name));
    }
    let target = normalise(&folder.join(OsStr::from_bytes(target)));
    target.strip_prefix(blobs).ok()?.to_str().map(|name| Cow::Owned(name.to_owned()))
}

impl Scan<'_> {
    fn ours(&mut self) -> Ours {
        self.partials();
        let (receipts, damaged_receipts) = self.receipts();
        Ours { receipts, damaged_receipts, pins: self.commits("pins"), unfinished: self.commits("evicting") }
    }

    /// Visits the entries of a folder; what cannot be listed becomes a problem.
    fn each(&mut self, folder: &Path, mut visit: impl FnMut(&mut Self, &Entry<'_>)) {
        match folder::each(folder, |entry| visit(self, entry)) {
            Ok(Listed::All | Listed::Absent) => {}
            Ok(Listed::NoFolder) => {
                let why = "a link or a file where the cache has a folder";
                self.out.foreign.push(Foreign { path: folder.to_owned(), bytes: None, why });
            }
            Err(error) => self.problem(folder, &error),
        }
    }

    fn problem(&mut self, path: &Path, error: &io::Error) {
        self.out.problems.push(Error::io("read", path, error));
    }

    fn blobs(&mut self) {
        let folder = self.dir.path().join("blobs");
        self.each(&folder, |scan, entry| {
            let (name, kind) = (entry.name(), entry.kind());
            if DESKTOP.contains(&&*name) {
                return;
            }
            if name.ends_with(".incomplete") && kind.is_file() {
                scan.partial(entry, false);
            } else if name.starts_with('.') || name.starts_with("tmp_") || kind.is_dir() {
                scan.out.foreign.push(foreign(entry.path(), "not a blob"));
            } else {
                scan.blob(entry, &name);
            }
        });
    }

    fn blob(&mut self, entry: &Entry<'_>, name: &str) {
        if entry.kind().is_symlink() {
            return self.shared_blob(&entry.path(), name);
        }
        match entry.found() {
            Ok(found) if found.is_file => {
                let Found { bytes, modified, frees, .. } = found;
                self.blobs.insert(name.into(), BlobEntry { bytes, modified, shared: false, frees });
            }
            Ok(_) => {}
            Err(error) => self.problem(&entry.path(), &error),
        }
    }

    fn shared_blob(&mut self, link: &Path, name: &str) {
        if !self.in_shared_store(link) {
            let why = "a blob that is a link out of the cache";
            self.out.foreign.push(Foreign { path: link.to_owned(), bytes: None, why });
            return;
        }
        match fs::metadata(link) {
            Ok(found) if found.is_file() => {
                let (bytes, modified) = (found.len(), found.modified().ok());
                self.blobs.insert(name.into(), BlobEntry { bytes, modified, shared: true, frees: 0 });
            }
            Ok(_) => {}
            // A link whose payload is gone: every file that needs it shows as unresolved.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.problem(link, &error),
        }
    }

    /// Whether the link leads, by its letters, to `<root>/blobs/<xx>/<hash>`.
    fn in_shared_store(&self, link: &Path) -> bool {
        let Ok(target) = fs::read_link(link) else { return false };
        let store = normalise(&self.cache.root().join("blobs"));
        let target = normalise(&link.parent().unwrap_or(link).join(target));
        target.strip_prefix(&store).is_ok_and(|inside| inside.components().count() == 2)
    }

    fn partials(&mut self) {
        let folder = self.dir.ours().join("partial");
        self.each(&folder, |scan, entry| {
            if entry.name().ends_with(".part") {
                scan.partial(entry, true);
            }
        });
    }

    fn partial(&mut self, entry: &Entry<'_>, ours: bool) {
        match entry.found() {
            Ok(Found { occupied: bytes, modified, .. }) => {
                self.partials.push(PartialEntry { path: entry.path(), bytes, modified, ours });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.problem(&entry.path(), &error),
        }
    }

    /// Refs by the text that they hold, which is a commit unless somebody wrote something else.
    fn refs(&mut self) -> BTreeMap<String, Vec<String>> {
        let base = self.dir.path().join("refs");
        let mut refs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        self.walk(&base, |scan, name, _, entry| {
            if !entry.kind().is_file() {
                return;
            }
            match entry.line() {
                Ok(line) => refs.entry(line).or_default().push(name),
                Err(error) => scan.problem(&entry.path(), &error),
            }
        });
        refs.values_mut().for_each(|names| names.sort());
        refs
    }

    fn receipts(&mut self) -> (BTreeMap<CommitId, Receipt>, Vec<Unreadable>) {
        let (mut receipts, mut damaged) = (BTreeMap::new(), Vec::new());
        let folder = self.dir.ours().join("receipts");
        self.each(&folder, |scan, entry| {
            let path = entry.path();
            let commit = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let read = match commit {
                Some(commit) => scan.dir.read_receipt(&commit),
                None => receipt::read(&path),
            };
            match read {
                Ok(Some(receipt)) => {
                    receipts.insert(receipt.commit.clone(), receipt);
                }
                Ok(None) => {}
                Err(error) => damaged.push(error),
            }
        });
        (receipts, damaged)
    }

    /// The commits that files in a folder of ours are named after.
    fn commits<T: Default + Extend<CommitId>>(&mut self, folder: &str) -> T {
        let mut commits = T::default();
        let folder = self.dir.ours().join(folder);
        self.each(&folder, |_, entry| {
            let path = entry.path();
            commits.extend(path.file_stem().and_then(|stem| stem.to_str()?.parse::<CommitId>().ok()));
        });
        commits
    }

    fn snapshots(&mut self) -> Vec<RevisionEntry> {
        let mut revisions = Vec::new();
        let folder = self.dir.path().join("snapshots");
        self.each(&folder, |scan, entry| {
            let name = entry.name();
            match name.parse::<CommitId>() {
                Ok(commit) if entry.kind().is_dir() => revisions.push(scan.snapshot(commit)),
                _ if DESKTOP.contains(&&*name) => {}
                _ => scan.out.foreign.push(foreign(entry.path(), "not a snapshot")),
            }
        });
        revisions
    }

    fn snapshot(&mut self, commit: CommitId) -> RevisionEntry {
        let base = self.dir.snapshot(&commit);
        let (blobs, mut buffer) = (normalise(&self.dir.path().join("blobs")), Vec::new());
        let (mut files, mut complete, mut last_modified) = (Vec::new(), true, None);
        self.walk(&base, |scan, path, depth, entry| {
            let (mut blob, mut bytes) = (None, None);
            if entry.kind().is_symlink() {
                let target = entry.link(&mut buffer);
                let name = target.and_then(|target| blob_of(target, entry.folder(), depth, &blobs));
                let found = name.as_deref().and_then(|name| scan.blobs.get_key_value(name));
                // The name that is known is shared.
                blob = found.map(|(name, _)| Arc::clone(name)).or_else(|| name.as_deref().map(Arc::from));
                bytes = found.map(|(_, found)| found.bytes);
                last_modified = last_modified.max(found.and_then(|(_, found)| found.modified));
            } else if let Ok(found) = entry.found()
                && found.is_file
            {
                bytes = Some(found.bytes);
                last_modified = last_modified.max(found.modified);
                scan.plain_bytes += found.bytes;
            }
            complete &= bytes.is_some();
            files.push(SnapshotFile { path, blob, bytes });
        });
        files.sort_by(|a, b| a.path.cmp(&b.path));
        if files.is_empty() {
            complete = false;
            last_modified = fs::symlink_metadata(&base).and_then(|found| found.modified()).ok();
        }
        RevisionEntry {
            commit,
            refs: Vec::new(),
            files,
            complete,
            last_modified,
            receipt: None,
            pinned: false,
        }
    }

    /// Visits everything below `base` that is not a folder, with its path within it and how many folders deep it lies.
    /// Links are not followed.
    fn walk(&mut self, base: &Path, mut visit: impl FnMut(&mut Self, String, usize, &Entry<'_>)) {
        let mut todo = vec![(String::new(), base.to_owned(), 0)];
        while let Some((prefix, folder, depth)) = todo.pop() {
            self.each(&folder, |scan, entry| {
                let name = entry.name();
                if entry.kind().is_dir() && depth < MAX_DEPTH {
                    todo.push((format!("{prefix}{name}/"), entry.path(), depth + 1));
                } else if !DESKTOP.contains(&&*name) {
                    visit(scan, format!("{prefix}{name}"), depth, entry);
                }
            });
        }
    }
}

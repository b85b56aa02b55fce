//! One model of the inventory: blobs, then refs, then snapshots, then what is larder's own.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, DirEntry, FileType};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, open, readlinkat};

use super::{
    BlobEntry, Cache, DESKTOP, Foreign, Inventory, PartialEntry, Receipt, RepoDir, RepoEntry, RevisionEntry,
    SnapshotFile, Unreadable, foreign,
};
use crate::error::Error;
use crate::layout::publish::normalise;
use crate::layout::receipt;
use crate::layout::unused::frees;
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
        let name = entry.file_name();
        let name = name.to_string_lossy();
        has_ours |= name == ".larder";
        if !name.starts_with('.') && !REPO_FOLDERS.contains(&&*name) && !DESKTOP.contains(&&*name) {
            scan.out.foreign.push(foreign(&entry, "not part of a model's folder"));
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

/// What a walk has found.
struct Found<'a> {
    entry: &'a DirEntry,
    kind: FileType,
    /// Where, and so many folders below the beginning.
    folder: &'a Path,
    depth: usize,
}

/// Reads the links of one folder after the other: by their names in it, which the kernel finds faster than whole paths.
#[derive(Default)]
struct Links {
    folder: Option<(PathBuf, OwnedFd)>,
    buffer: Vec<u8>,
}

impl Links {
    /// The text of the link `name` in `folder`.
    fn read(&mut self, folder: &Path, name: &OsStr) -> Option<&[u8]> {
        let known = match self.folder.take().filter(|(path, _)| path == folder) {
            Some(known) => known,
            None => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                (folder.to_owned(), open(folder, flags, Mode::empty()).ok()?)
            }
        };
        self.buffer = readlinkat(&known.1, name, std::mem::take(&mut self.buffer)).ok()?.into_bytes();
        self.folder = Some(known);
        Some(&self.buffer)
    }
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

    /// Visits the entries of a folder that is not a link, one by one, since there may be very many; what cannot be
    /// listed becomes a problem.
    fn each(&mut self, folder: &Path, mut visit: impl FnMut(&mut Self, DirEntry)) {
        let listed = match fs::symlink_metadata(folder) {
            Ok(found) if found.is_dir() => fs::read_dir(folder),
            Ok(_) => {
                let why = "a link or a file where the cache has a folder";
                self.out.foreign.push(Foreign { path: folder.to_owned(), bytes: None, why });
                return;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => Err(error),
        };
        match listed {
            Ok(found) => {
                for entry in found {
                    match entry {
                        Ok(entry) => visit(self, entry),
                        Err(error) => self.problem(folder, &error),
                    }
                }
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
            let name = entry.file_name();
            let Ok(kind) = entry.file_type() else { return };
            let name = name.to_string_lossy();
            if DESKTOP.contains(&&*name) {
                return;
            }
            if name.ends_with(".incomplete") && kind.is_file() {
                scan.partial(entry.path(), false);
            } else if name.starts_with('.') || name.starts_with("tmp_") || kind.is_dir() {
                scan.out.foreign.push(foreign(&entry, "not a blob"));
            } else {
                scan.blob(&entry, &name, kind);
            }
        });
    }

    fn blob(&mut self, entry: &DirEntry, name: &str, kind: FileType) {
        let shared = kind.is_symlink();
        if shared && !self.in_shared_store(&entry.path()) {
            let why = "a blob that is a link out of the cache";
            self.out.foreign.push(Foreign { path: entry.path(), bytes: None, why });
            return;
        }
        let found = if shared { fs::metadata(entry.path()) } else { entry.metadata() };
        match found {
            Ok(found) if found.is_file() => {
                let frees = if shared { 0 } else { frees(&found) };
                let entry = BlobEntry { bytes: found.len(), modified: found.modified().ok(), shared, frees };
                self.blobs.insert(name.into(), entry);
            }
            Ok(_) => {}
            // A link whose payload is gone: every file that needs it shows as unresolved.
            Err(error) if shared && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.problem(&entry.path(), &error),
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
            if entry.path().extension().is_some_and(|extension| extension == "part") {
                scan.partial(entry.path(), true);
            }
        });
    }

    fn partial(&mut self, path: PathBuf, ours: bool) {
        match fs::symlink_metadata(&path) {
            Ok(found) => {
                let bytes = found.blocks().saturating_mul(512);
                self.partials.push(PartialEntry { path, bytes, modified: found.modified().ok(), ours });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.problem(&path, &error),
        }
    }

    /// Refs by the text that they hold, which is a commit unless somebody wrote something else.
    fn refs(&mut self) -> BTreeMap<String, Vec<String>> {
        let base = self.dir.path().join("refs");
        let mut refs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        self.walk(&base, |scan, name, found| {
            if !found.kind.is_file() {
                return;
            }
            let (path, mut text) = (found.entry.path(), String::new());
            match fs::File::open(&path).and_then(|file| file.take(64).read_to_string(&mut text)) {
                Ok(_) => refs.entry(text.trim().to_owned()).or_default().push(name),
                Err(error) => scan.problem(&path, &error),
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
            let name = entry.file_name();
            let commit = name.to_str().and_then(|name| name.parse::<CommitId>().ok());
            match commit {
                Some(commit) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => {
                    revisions.push(scan.snapshot(commit));
                }
                _ if DESKTOP.iter().any(|known| name == *known) => {}
                _ => scan.out.foreign.push(foreign(&entry, "not a snapshot")),
            }
        });
        revisions
    }

    fn snapshot(&mut self, commit: CommitId) -> RevisionEntry {
        let base = self.dir.snapshot(&commit);
        let (blobs, mut links) = (normalise(&self.dir.path().join("blobs")), Links::default());
        let (mut files, mut complete, mut last_modified) = (Vec::new(), true, None);
        self.walk(&base, |scan, path, Found { entry, kind, folder, depth }| {
            let (mut blob, mut bytes) = (None, None);
            if kind.is_symlink() {
                let name = entry.file_name();
                let target = links.read(folder, &name);
                let name = target.and_then(|target| blob_of(target, folder, depth, &blobs));
                let found = name.as_deref().and_then(|name| scan.blobs.get_key_value(name));
                // The name that is known is shared.
                blob = found.map(|(name, _)| Arc::clone(name)).or_else(|| name.as_deref().map(Arc::from));
                bytes = found.map(|(_, found)| found.bytes);
                last_modified = last_modified.max(found.and_then(|(_, found)| found.modified));
            } else if let Ok(found) = entry.metadata()
                && found.is_file()
            {
                bytes = Some(found.len());
                last_modified = last_modified.max(found.modified().ok());
                scan.plain_bytes += found.len();
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

    /// Visits everything below `base` that is not a folder, with its path within it. Links are not followed.
    fn walk(&mut self, base: &Path, mut visit: impl FnMut(&mut Self, String, Found<'_>)) {
        let mut todo = vec![(String::new(), base.to_owned(), 0)];
        while let Some((prefix, folder, depth)) = todo.pop() {
            self.each(&folder, |scan, entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                let Ok(kind) = entry.file_type() else { return };
                if kind.is_dir() && depth < MAX_DEPTH {
                    todo.push((format!("{prefix}{name}/"), entry.path(), depth + 1));
                } else if !DESKTOP.contains(&&*name) {
                    let found = Found { entry: &entry, kind, folder: &folder, depth };
                    visit(scan, format!("{prefix}{name}"), found);
                }
            });
        }
    }
}

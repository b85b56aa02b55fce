//! An independent reader of the hub cache: what transformers would find there, and whether it is what the names say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A file as a snapshot shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path in the snapshot.
    pub path: PathBuf,
    /// Where the bytes lie, all links followed.
    pub target: PathBuf,
    /// The name of the repository's blob that the link names; empty when the snapshot holds the file itself.
    pub blob: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the bytes.
    pub sha256: String,
    /// Git object id of the bytes.
    pub git_oid: String,
}

impl Entry {
    /// Whether the bytes hash to the blob's name, under either rule.
    pub fn is_true(&self) -> bool {
        self.blob == self.sha256 || self.blob == self.git_oid
    }
}

/// One revision in a cache.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its commit.
    pub commit: String,
    /// Its folder.
    pub path: PathBuf,
    /// Its files by their name in the repository.
    pub files: BTreeMap<String, Entry>,
}

impl Snapshot {
    /// Reads a revision (a name under `refs/` or a commit); `None` when it is not there. Panics on a link that leads
    /// nowhere.
    pub fn read(cache_root: &Path, id: &str, revision: &str) -> Option<Self> {
        let repo = repo_folder(cache_root, id);
        let named = fs::read_to_string(repo.join("refs").join(revision));
        let commit = named.unwrap_or_else(|_| revision.to_owned()).trim().to_owned();
        let path = repo.join("snapshots").join(&commit);
        if !path.is_dir() {
            return None;
        }
        let mut files = BTreeMap::new();
        for file in walk(&path) {
            let name = file.strip_prefix(&path).expect("below the snapshot").to_string_lossy().into_owned();
            let entry = read_entry(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            files.insert(name, entry);
        }
        Some(Self { commit, path, files })
    }

    /// The names of the files.
    pub fn names(&self) -> Vec<&str> {
        self.files.keys().map(String::as_str).collect()
    }

    /// Panics unless the snapshot holds exactly the files of the model with exactly their bytes.
    #[track_caller]
    pub fn assert_is(&self, model: &crate::hub::Model) {
        self.assert_is_without(model, &[]);
    }

    /// Same, less the files whose path begins with one of `left_out`.
    #[track_caller]
    pub fn assert_is_without(&self, model: &crate::hub::Model, left_out: &[&str]) {
        let wanted = |path: &str| !left_out.iter().any(|start| path.starts_with(start));
        let files = model.files().iter().filter(|(path, _)| wanted(path));
        let want: BTreeMap<&str, (&str, u64)> =
            files.map(|(path, file)| (path.as_str(), (file.etag(), file.size))).collect();
        let have: BTreeMap<&str, (&str, u64)> = self
            .files
            .iter()
            .map(|(path, entry)| {
                (path.as_str(), (if entry.is_true() { entry.blob.as_str() } else { "?" }, entry.size))
            })
            .collect();
        assert_eq!(have, want, "files of {} in {}", model.id(), self.path.display());
        assert_eq!(self.commit, model.commit(), "commit of {}", model.id());
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|entry| entry.size).sum()
    }
}

/// The repository's folder: `models--owner--name`.
pub fn repo_folder(cache_root: &Path, id: &str) -> PathBuf {
    cache_root.join(format!("models--{}", id.replace('/', "--")))
}

/// Every file and link below `root` (links are not followed), sorted; nothing when there is no such folder. What goes
/// while it looks is left out.
pub fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    found
}

/// A picture of a folder for comparisons: each path with `link → target`, or its length and the start of its SHA-256.
pub fn tree_of(root: &Path) -> String {
    let line = |path: PathBuf| {
        let name = path.strip_prefix(root).expect("below the root").display().to_string();
        match fs::read_link(&path) {
            Ok(target) => format!("{name} -> {}\n", target.display()),
            Err(_) => match hashes(&path) {
                Ok((size, sha256, _)) => format!("{name} {size} {}\n", &sha256[..12]),
                Err(error) => format!("{name} {error}\n"),
            },
        }
    };
    walk(root).into_iter().map(line).collect()
}

/// Partial files anywhere below `root`: `*.part`, `*.incomplete`, `*.tmp`.
pub fn partials(root: &Path) -> Vec<PathBuf> {
    let is_partial = |path: &PathBuf| {
        let suffix = path.extension().unwrap_or_default();
        ["part", "incomplete", "tmp"].iter().any(|known| suffix == *known)
    };
    walk(root).into_iter().filter(is_partial).collect()
}

/// Snapshot files whose bytes do not hash to their blob's name, or whose link leads nowhere: visible too early, or
/// spoilt. May be called while somebody writes; what vanishes meanwhile is not reported.
pub fn published_early(cache_root: &Path) -> Vec<PathBuf> {
    let is_false = |path: &PathBuf| match read_entry(path) {
        Ok(entry) => !entry.blob.is_empty() && !entry.is_true(),
        Err(_) => path.symlink_metadata().is_ok(),
    };
    repos(cache_root).iter().flat_map(|repo| walk(&repo.join("snapshots"))).filter(is_false).collect()
}

/// Panics unless the cache is sound and tidy: no partial files, no link that leads nowhere, every blob named by its own
/// SHA-256 or git object id, every blob used by a snapshot, every ref naming a snapshot.
#[track_caller]
pub fn assert_clean(cache_root: &Path) {
    let problems = problems(cache_root);
    assert!(problems.is_empty(), "the cache {} is not clean:\n{}", cache_root.display(), problems.join("\n"));
}

/// What [`assert_clean`] would complain about.
pub fn problems(cache_root: &Path) -> Vec<String> {
    let mut problems: Vec<String> =
        partials(cache_root).iter().map(|path| format!("partial file {}", path.display())).collect();
    for repo in repos(cache_root) {
        let mut used = BTreeSet::new();
        for path in walk(&repo.join("snapshots")) {
            match read_entry(&path) {
                Ok(entry) => drop(used.insert(entry.blob)),
                Err(error) => problems.push(format!("dangling link {}: {error}", path.display())),
            }
        }
        for path in walk(&repo.join("blobs")) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match hashes(&path) {
                Ok((_, sha256, git_oid)) if name != sha256 && name != git_oid => {
                    problems.push(format!("blob {} holds {sha256} (git {git_oid})", path.display()));
                }
                Ok(_) if !used.contains(&name) => problems.push(format!("unused blob {}", path.display())),
                Ok(_) => {}
                Err(error) => problems.push(format!("unreadable blob {}: {error}", path.display())),
            }
        }
        for path in walk(&repo.join("refs")) {
            let commit = fs::read_to_string(&path).unwrap_or_default();
            if commit.is_empty() || !repo.join("snapshots").join(&commit).is_dir() {
                problems.push(format!("ref {} names no snapshot: {commit:?}", path.display()));
            }
        }
    }
    problems
}

fn repos(cache_root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache_root).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("models--"))
        .map(|entry| entry.path())
        .collect()
}

fn read_entry(path: &Path) -> io::Result<Entry> {
    let blob = match fs::read_link(path) {
        Ok(link) => link.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        Err(_) => String::new(),
    };
    let target = fs::canonicalize(path)?;
    let (size, sha256, git_oid) = hashes(&target)?;
    Ok(Entry { path: path.into(), target, blob, size, sha256, git_oid })
}

/// Length, SHA-256 and git object id of a file.
pub fn hashes(path: &Path) -> io::Result<(u64, String, String)> {
    let mut file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    let (mut sha256, mut git) = (Sha256::new(), Sha1::new());
    git.update(format!("blob {size}\0"));
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((size, hex::encode(sha256.finalize()), hex::encode(git.finalize())));
        }
        sha256.update(&buffer[..n]);
        git.update(&buffer[..n]);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::hub::{Content, Model};

    /// A cache as `hf download` would leave it.
    fn written(model: &Model) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temp folder");
        let repo = repo_folder(dir.path(), model.id());
        let snapshot = repo.join("snapshots").join(model.commit());
        for folder in [&repo.join("refs"), &repo.join("blobs"), &snapshot] {
            fs::create_dir_all(folder).expect("a folder");
        }
        fs::write(repo.join("refs/main"), model.commit()).expect("writes");
        for (path, file) in model.files() {
            let bytes = file.content.slice(0, u64::MAX).expect("reads");
            fs::write(repo.join("blobs").join(file.etag()), bytes).expect("writes");
            symlink(format!("../../blobs/{}", file.etag()), snapshot.join(path)).expect("links");
        }
        dir
    }

    #[test]
    fn a_true_cache_is_clean_and_each_lie_is_named() {
        let model =
            Model::new("a/b").file("config.json", "{}").lfs("model.safetensors", Content::pattern(5000, 1));
        let dir = written(&model);
        assert_clean(dir.path());
        Snapshot::read(dir.path(), "a/b", "main").expect("there").assert_is(&model);
        assert!(published_early(dir.path()).is_empty());

        let blobs = repo_folder(dir.path(), "a/b").join("blobs");
        fs::write(blobs.join(model.at("model.safetensors").etag()), "short").expect("writes");
        assert_eq!(published_early(dir.path()).len(), 1);
        fs::remove_file(blobs.join(model.at("config.json").etag())).expect("removes");
        fs::write(blobs.join(Content::from("x").sha256()), "x").expect("writes");
        fs::write(blobs.join("y.incomplete"), "").expect("writes");
        let found = problems(dir.path()).join("\n");
        for word in ["partial file", "dangling link", "unused blob", "holds"] {
            assert!(found.contains(word), "{word}: {found}");
        }
    }
}

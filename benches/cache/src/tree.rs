//! A hub cache as the hub's own client leaves it, full of small files. It is made once and kept for the next run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

/// What the name of every model begins with.
pub(crate) const MODEL: &str = "bench/model-";
/// What a file of the tree takes on the disk: one block of the usual filesystems.
const BLOCK: u64 = 4_096;
/// Another number whenever the making changes, so that no tree of an older one is taken for a new one.
const VERSION: u32 = 1;

/// How large a tree is: one revision for each repo.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) repos: u64,
    /// Files of each repo.
    pub(crate) files: u64,
}

impl Shape {
    /// Bytes that all files together take on the disk.
    pub(crate) fn on_disk(self) -> u64 {
        self.repos * self.files * BLOCK
    }

    /// The tree of this shape in `folder`, which is made unless it is there. Returns the root of the cache.
    pub(crate) fn make(self, folder: &Path) -> Result<PathBuf> {
        let (root, marker) = (folder.join("hub"), folder.join("made"));
        let parameters = format!("version {VERSION}, {} repos, {} files each\n", self.repos, self.files);
        if fs::read_to_string(&marker).is_ok_and(|made| made == parameters) {
            return Ok(root);
        }
        eprintln!("making {} repos with {} files each in {}", self.repos, self.files, root.display());
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        for repo in 0..self.repos {
            self.make_repo(&root, repo).with_context(|| format!("repo {repo} in {}", root.display()))?;
        }
        fs::write(&marker, parameters).with_context(|| marker.display().to_string())?;
        Ok(root)
    }

    fn make_repo(self, root: &Path, number: u64) -> Result<()> {
        let name = format!("models--{}{number:05}", MODEL.replace('/', "--"));
        let (repo, locks) = (root.join(&name), root.join(".locks").join(&name));
        let commit = &hex::encode(Sha256::digest(&name))[..40];
        let snapshot = repo.join("snapshots").join(commit);
        for folder in [&repo.join("blobs"), &repo.join("refs"), &snapshot, &locks] {
            fs::create_dir_all(folder)?;
        }
        let mut rng = fastrand::Rng::with_seed(number);
        for file in 0..self.files {
            let mut bytes = vec![0; rng.usize(512..=1_536)];
            rng.fill(&mut bytes);
            let digest = hex::encode(Sha256::digest(&bytes));
            fs::write(repo.join("blobs").join(&digest), bytes)?;
            symlink(Path::new("../../blobs").join(&digest), snapshot.join(self.path(file)))?;
            // The hub's client leaves the lock of every file that it has fetched.
            fs::write(locks.join(format!("{digest}.lock")), "")?;
        }
        fs::write(repo.join("refs/main"), commit)?;
        Ok(())
    }

    fn path(self, file: u64) -> String {
        match file {
            0 => "config.json".into(),
            shard => format!("model-{shard:05}-of-{:05}.safetensors", self.files - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_that_of_the_hub_and_is_made_once() {
        let folder = std::env::temp_dir().join(format!("cache-bench-tree-{}", std::process::id()));
        let root = Shape { repos: 2, files: 3 }.make(&folder).unwrap();
        let repo = root.join("models--bench--model-00001");
        let commit = fs::read_to_string(repo.join("refs/main")).unwrap();
        let file = repo.join("snapshots").join(&commit).join("model-00002-of-00002.safetensors");
        let target = fs::read_link(&file).unwrap();
        let digest = hex::encode(Sha256::digest(fs::read(&file).unwrap()));
        let blobs = fs::read_dir(repo.join("blobs")).unwrap().count();

        fs::remove_file(&file).unwrap();
        Shape { repos: 2, files: 3 }.make(&folder).unwrap();
        let is_kept = !file.exists();
        Shape { repos: 2, files: 4 }.make(&folder).unwrap();
        let is_made_anew = file.with_file_name("model-00003-of-00003.safetensors").exists();
        fs::remove_dir_all(&folder).unwrap();

        assert_eq!((commit.len(), blobs), (40, 3));
        assert_eq!(target, Path::new("../../blobs").join(digest));
        assert!(is_kept && is_made_anew);
    }
}

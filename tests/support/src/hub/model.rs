//! One commit of one model repository, as a test describes it.

use std::collections::BTreeMap;

use sha1::{Digest, Sha1};

use super::content::Content;

/// A file as the hub stores it: small ones in git, large ones in LFS.
#[derive(Clone, Debug)]
pub struct File {
    /// The bytes.
    pub content: Content,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 in hex of the bytes, when the file is in LFS.
    pub sha256: Option<String>,
    /// Git object id: of the bytes, or of the pointer file when the file is in LFS.
    pub oid: String,
    /// Length of the LFS pointer file, zero when the file is not in LFS.
    pub pointer_size: u64,
}

impl File {
    fn new(content: Content, lfs: bool) -> Self {
        let size = content.len();
        if !lfs {
            return Self { oid: content.git_oid(), content, size, sha256: None, pointer_size: 0 };
        }
        let sha256 = content.sha256();
        let pointer =
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n");
        let pointer_size = pointer.len() as u64;
        Self { content, size, sha256: Some(sha256), oid: Content::from(pointer).git_oid(), pointer_size }
    }

    /// The name of the blob in a hub cache: SHA-256 in LFS, git object id else.
    pub fn etag(&self) -> &str {
        self.sha256.as_deref().unwrap_or(&self.oid)
    }
}

/// One commit of a model repository; built by chaining, handed to `Hub::add`.
#[derive(Clone, Debug)]
pub struct Model {
    pub(crate) id: String,
    pub(crate) branches: Vec<String>,
    pub(crate) references: Vec<String>,
    pub(crate) gated: bool,
    pub(crate) private: bool,
    pub(crate) tags: Vec<String>,
    pub(crate) pipeline_tag: String,
    pub(crate) downloads: u64,
    pub(crate) files: BTreeMap<String, File>,
    /// Its commit, once a hub has it and nothing changes any more; empty before.
    pub(crate) stored: String,
}

impl Model {
    /// An empty repository `owner/name`, open to everybody, on branch `main`.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            branches: Vec::new(),
            references: Vec::new(),
            gated: false,
            private: false,
            tags: vec!["transformers".into(), "safetensors".into()],
            pipeline_tag: "text-generation".into(),
            downloads: 1234,
            files: BTreeMap::new(),
            stored: String::new(),
        }
    }

    /// The same files under another name.
    pub fn named(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Adds or replaces a file kept in git.
    pub fn file(mut self, path: impl Into<String>, content: impl Into<Content>) -> Self {
        self.files.insert(path.into(), File::new(content.into(), false));
        self
    }

    /// Adds or replaces a file kept in LFS.
    pub fn lfs(mut self, path: impl Into<String>, content: impl Into<Content>) -> Self {
        self.files.insert(path.into(), File::new(content.into(), true));
        self
    }

    /// Adds a file kept in LFS whose bytes nobody will ever fetch whole: its hash is one of its length and first bytes, so
    /// that sixty gigabytes need not be read for it.
    pub fn unread(mut self, path: impl Into<String>, content: impl Into<Content>) -> Self {
        let content = content.into();
        let size = content.len();
        let mut hash = sha2::Sha256::new();
        hash.update(size.to_le_bytes());
        hash.update(content.slice(0, 4096).expect("the content reads"));
        let sha256 = hex::encode(hash.finalize());
        let oid = Content::from(sha256.as_str()).git_oid();
        self.files.insert(path.into(), File { content, size, sha256: Some(sha256), oid, pointer_size: 134 });
        self
    }

    /// Adds a file where the hub's usual `.gitattributes` would put it.
    pub fn put(self, path: impl Into<String>, content: impl Into<Content>) -> Self {
        let path = path.into();
        if is_lfs(&path) { self.lfs(path, content) } else { self.file(path, content) }
    }

    /// Removes a file.
    pub fn without(mut self, path: &str) -> Self {
        self.files.remove(path);
        self
    }

    /// Puts the commit on this branch; without a call, on `main`. May be repeated.
    pub fn branch(mut self, name: impl Into<String>) -> Self {
        self.branches.push(name.into());
        self
    }

    /// Another name for the commit: a tag (`v1`) or a pull request (`refs/pr/1`).
    pub fn reference(mut self, name: impl Into<String>) -> Self {
        self.references.push(name.into());
        self
    }

    /// Only those with access may fetch files; the listing stays public, as on the hub.
    pub fn gated(mut self) -> Self {
        self.gated = true;
        self
    }

    /// Without access the repository does not exist.
    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// Replaces the hub's tags.
    pub fn tags(mut self, tags: &[&str]) -> Self {
        self.tags = tags.iter().map(ToString::to_string).collect();
        self
    }

    /// The task, `text-generation` unless said otherwise.
    pub fn pipeline_tag(mut self, tag: impl Into<String>) -> Self {
        self.pipeline_tag = tag.into();
        self
    }

    /// Downloads of the last month, by which lists are sorted; 1234 unless said otherwise.
    pub fn downloads(mut self, downloads: u64) -> Self {
        self.downloads = downloads;
        self
    }

    /// `owner/name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The files by path.
    pub fn files(&self) -> &BTreeMap<String, File> {
        &self.files
    }

    /// The file at `path`; panics when there is none.
    pub fn at(&self, path: &str) -> &File {
        self.files.get(path).unwrap_or_else(|| panic!("{} has no file {path}", self.id))
    }

    /// Sum of the sizes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.size).sum()
    }

    /// The commit: 40 hex digits that depend on the name and the files only.
    pub fn commit(&self) -> String {
        let mut hash = Sha1::new();
        hash.update(format!("commit {}\n", self.id));
        for (path, file) in &self.files {
            hash.update(format!("{} {} {path}\n", file.etag(), file.size));
        }
        hex::encode(hash.finalize())
    }
}

/// Whether the hub's default `.gitattributes` sends `path` to LFS.
fn is_lfs(path: &str) -> bool {
    const SUFFIXES: [&str; 10] =
        ["safetensors", "bin", "h5", "onnx", "gguf", "msgpack", "pt", "pth", "model", "onnx_data"];
    path.rsplit_once('.').is_some_and(|(_, suffix)| SUFFIXES.contains(&suffix))
}

//! Where the small files and headers of a model are read from: its snapshot in the cache if they are there, else the hub,
//! some kilobytes of each.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use larder_jobs::{CommitId, Digest, FilePath, RepoFile, RepoId};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, blocking};
use crate::hub::Hub;
use crate::layout::{self, Cache};
use crate::weights::{Contents, FIRST_READ, Read, gguf, safetensors};

/// Largest configuration, index or card that is read.
const MAX_TEXT: u64 = 16 << 20;

/// One commit of a repo, with its files.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) hub: Hub,
    pub(super) cache: Cache,
    pub(super) repo: RepoId,
    pub(super) commit: CommitId,
    pub(super) files: Vec<RepoFile>,
    pub(super) stop: CancellationToken,
}

impl Source {
    /// The files that a snapshot in the cache has, for when nobody can be asked.
    pub(super) async fn staged(cache: &Cache, repo: &RepoId, commit: &CommitId) -> Result<Vec<RepoFile>> {
        let (cache, repo, commit) = (cache.clone(), repo.clone(), commit.clone());
        blocking(move || {
            let found = layout::scan_repo(&cache, &repo).repos.into_iter().next();
            let revisions = found.map(|found| found.revisions).unwrap_or_default();
            let files = revisions.into_iter().find(|one| one.commit == commit).map(|one| one.files);
            let file = |file: layout::SnapshotFile| {
                let hex = file.blob?;
                let digest = Digest::sha256(&hex).or_else(|| Digest::git_sha1(&hex))?;
                Some(RepoFile { path: file.path.parse().ok()?, size: file.bytes?, digest })
            };
            Ok(files.into_iter().flatten().filter_map(file).collect())
        })
        .await
    }

    /// The file of that name.
    pub(super) fn file(&self, path: &str) -> Option<&RepoFile> {
        self.files.iter().find(|file| file.path.as_str() == path)
    }

    /// Where the cache has a file of it, if it has.
    fn on_disk(&self, path: &FilePath) -> PathBuf {
        self.cache.repo(&self.repo).snapshot_file(&self.commit, path)
    }

    /// The first `bytes` bytes of a file.
    async fn beginning(&self, path: &FilePath, bytes: u64) -> Result<Vec<u8>> {
        let on_disk = self.on_disk(path);
        let read = blocking(move || {
            let Ok(file) = File::open(&on_disk) else { return Ok(None) };
            let mut text = Vec::new();
            let read = file.take(bytes).read_to_end(&mut text);
            read.map_err(|error| Error::io("read", &on_disk, &error))?;
            Ok(Some(text))
        });
        match read.await? {
            Some(read) => Ok(read),
            None => self.hub.peek(&self.repo, &self.commit, path, bytes, &self.stop).await,
        }
    }

    /// A small text file; `None` if the repo has none of that name.
    pub(super) async fn text(&self, path: &str) -> Result<Option<String>> {
        let Some(file) = self.file(path).filter(|file| file.size <= MAX_TEXT) else { return Ok(None) };
        let read = self.beginning(&file.path, file.size.max(1)).await?;
        Ok(String::from_utf8(read).ok())
    }

    /// What the header of a weight file says, or why it says nothing.
    pub(super) async fn header(&self, file: &RepoFile) -> Result<Contents> {
        let size = Some(file.size);
        let mut bytes = FIRST_READ.min(file.size.max(1));
        let is_gguf = file.path.as_str().ends_with(".gguf");
        loop {
            let read = self.beginning(&file.path, bytes).await?;
            let got = u64::try_from(read.len()).unwrap_or(u64::MAX);
            let more = if is_gguf {
                match gguf::parse(&read, size) {
                    Ok(Read::Done(header)) => return Ok(Contents::Gguf(Ok(header))),
                    Err(error) => return Ok(Contents::Gguf(Err(error))),
                    Ok(Read::More { bytes }) => bytes,
                }
            } else {
                match safetensors::parse(&read, size) {
                    Ok(Read::Done(header)) => return Ok(Contents::Safetensors(Ok(header))),
                    Err(error) => return Ok(Contents::Safetensors(Err(error))),
                    Ok(Read::More { bytes }) => bytes,
                }
            };
            // A source that sends less than was asked for will not send more next time.
            if got < bytes || more <= bytes {
                return Ok(Contents::NotRead);
            }
            bytes = more;
        }
    }
}

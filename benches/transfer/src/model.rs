//! The models that are downloaded: random bytes in a folder on tmpfs, and an index beside it with what the hub
//! promises about each file.
//!
//! The index is read line by line wherever it is needed: a child's peak memory is at least that of the runner that
//! started it, so the runner stays small.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Bytes made and hashed at a time.
const CHUNK: usize = 256 * 1024;

/// What a model is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Its name; the owner is always [`OWNER`].
    pub(crate) name: &'static str,
    /// How many files.
    pub(crate) files: u64,
    /// Bytes of each file.
    pub(crate) bytes: Bytes,
}

/// How large the files of a model are; it decides as well where they are kept, as the hub's own rules do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bytes {
    /// Each has so many, in LFS: behind a redirect to the second origin.
    Lfs(u64),
    /// Each has so many, in git: served by the hub itself.
    Git(u64),
    /// From 200 to 600, in git.
    Tiny,
}

/// The owner of all models.
pub(crate) const OWNER: &str = "bench";

/// A model that lies ready to be served.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    /// `OWNER/NAME`.
    pub(crate) id: String,
    /// The commit, 40 hex digits.
    pub(crate) commit: String,
    /// The folder with the files.
    pub(crate) folder: PathBuf,
    /// How many files.
    pub(crate) files: u64,
    /// Bytes of all files.
    pub(crate) bytes: u64,
}

/// One line of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its path in the repository; letters, digits, `-`, `.` and `/` only, so that it needs no escapes.
    pub(crate) path: String,
    pub(crate) size: u64,
    /// SHA-1 of the git object.
    pub(crate) oid: String,
    /// SHA-256 of the bytes, if they are in LFS.
    pub(crate) sha256: Option<String>,
}

impl Shape {
    fn path(&self, number: u64) -> String {
        match self.bytes {
            Bytes::Lfs(_) => format!("model-{:05}-of-{:05}.safetensors", number + 1, self.files),
            Bytes::Git(_) => format!("parts/part-{number:04}.json"),
            Bytes::Tiny => format!("tiny/{:03}/file-{number:06}.json", number / 500),
        }
    }

    fn size(&self, number: u64) -> u64 {
        match self.bytes {
            Bytes::Lfs(bytes) | Bytes::Git(bytes) => bytes,
            Bytes::Tiny => 200 + number * 37 % 401,
        }
    }

    /// Makes the files and the index below `root`.
    pub(crate) fn make(&self, root: &Path) -> Result<Model> {
        let folder = root.join(self.name);
        fs::create_dir_all(&folder)?;
        let mut random = File::open("/dev/urandom")?;
        let mut index = BufWriter::new(File::create(index_of(&folder))?);
        let (mut commit, mut bytes) = (Sha1::new(), 0);
        for number in 0..self.files {
            let (path, size) = (self.path(number), self.size(number));
            let file = folder.join(&path);
            fs::create_dir_all(file.parent().context("a file is in a folder")?)?;
            let (oid, sha256) = fill(&file, size, &mut random).with_context(|| file.display().to_string())?;
            let sha256 = if matches!(self.bytes, Bytes::Lfs(_)) { sha256 } else { "-".to_owned() };
            let line = format!("{path} {size} {oid} {sha256}\n");
            commit.update(&line);
            index.write_all(line.as_bytes())?;
            bytes += size;
        }
        index.flush()?;
        let commit = hex::encode(commit.finalize());
        Ok(Model { id: format!("{OWNER}/{}", self.name), commit, folder, files: self.files, bytes })
    }
}

/// Writes `size` random bytes; returns the names that git and LFS give them.
fn fill(path: &Path, size: u64, random: &mut File) -> Result<(String, String)> {
    let mut file = File::create(path)?;
    let (mut git, mut lfs) = (Sha1::new(), Sha256::new());
    git.update(format!("blob {size}\0"));
    let mut buffer = vec![0; CHUNK.min(usize::try_from(size)?)];
    let mut left = size;
    while left > 0 {
        let n = buffer.len().min(usize::try_from(left)?);
        random.read_exact(&mut buffer[..n])?;
        git.update(&buffer[..n]);
        lfs.update(&buffer[..n]);
        file.write_all(&buffer[..n])?;
        left -= n as u64;
    }
    Ok((hex::encode(git.finalize()), hex::encode(lfs.finalize())))
}

fn index_of(folder: &Path) -> PathBuf {
    folder.with_extension("index")
}

/// The files of the model in `folder`, one after the other.
pub(crate) fn entries(folder: &Path) -> Result<impl Iterator<Item = Result<Entry>> + use<>> {
    let path = index_of(folder);
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    Ok(BufReader::new(file).lines().map(|line| {
        let line = line?;
        let mut fields = line.split(' ');
        let mut field = || fields.next().context("a line of the index is cut");
        Ok(Entry {
            path: field()?.to_owned(),
            size: field()?.parse()?,
            oid: field()?.to_owned(),
            sha256: Some(field()?).filter(|sha256| *sha256 != "-").map(str::to_owned),
        })
    }))
}

/// Says that every file of `model` is below `root` with its size; with `bytes`, also that each byte is right.
pub(crate) fn check(model: &Model, root: &Path, bytes: bool) -> Result<()> {
    for entry in entries(&model.folder)? {
        let entry = entry?;
        let (made, got) = (model.folder.join(&entry.path), root.join(&entry.path));
        let size = fs::metadata(&got).with_context(|| format!("{} is missing", got.display()))?.len();
        anyhow::ensure!(size == entry.size, "{} has {size} bytes in place of {}", got.display(), entry.size);
        if bytes {
            same(&made, &got)?;
        }
    }
    Ok(())
}

fn same(made: &Path, got: &Path) -> Result<()> {
    let (mut made, mut theirs) = (File::open(made)?, File::open(got)?);
    let (mut a, mut b) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let n = made.read(&mut a)?;
        if n == 0 {
            return Ok(());
        }
        theirs.read_exact(&mut b[..n])?;
        anyhow::ensure!(a[..n] == b[..n], "{} differs from what was served", got.display());
    }
}

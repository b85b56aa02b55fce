//! The store that Python shares between repos: `<root>/blobs/<xx>/<hash>`, to which a repo's `blobs/<etag>` is a link.
//!
//! Source: `utils/_shared_blobs.py` of Python huggingface_hub 2.4.0. Beside each payload lies `<hash>.refs`, one path of
//! a link a line, relative to the root. It is a hint: a line counts only if its link leads to the payload. A manifest
//! that is missing or cannot be read is never a reason to delete. All of it happens under `flock` on `<hash>.lock`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::atomic::write_atomic;
use super::publish::normalise;
use super::unused::{Probe, probe};
use crate::error::{Error, Result};

/// A manifest of 10,000 repos has about 1 MB; a longer one is not read.
const MAX_MANIFEST: u64 = 64 << 20;

/// Where a blob's bytes are, if it is a link.
pub(super) fn payload(blob: &Path) -> Option<PathBuf> {
    let target = fs::read_link(blob).ok()?;
    Some(normalise(&blob.parent()?.join(target)))
}

/// Removes the link `blob`, and the payload behind it if no other link leads there and nobody has it open. Returns the
/// bytes that became free.
///
/// # Errors
/// `io_error` if the link cannot be removed; a payload that cannot go stays.
pub(super) fn unlink(root: &Path, blob: &Path) -> Result<u64> {
    let payload = payload(blob);
    fs::remove_file(blob).map_err(|error| Error::io("remove", blob, &error))?;
    let Some(payload) = payload.filter(|payload| is_inside(root, payload)) else { return Ok(0) };
    Ok(sweep(root, &payload).unwrap_or_else(|error| {
        tracing::warn!(%error, path = %payload.display(), "bytes that repos shared stay behind");
        0
    }))
}

fn is_inside(root: &Path, payload: &Path) -> bool {
    payload.strip_prefix(normalise(&root.join("blobs"))).is_ok_and(|inside| inside.components().count() == 2)
}

/// Removes a payload that nobody links to and nobody uses.
fn sweep(root: &Path, payload: &Path) -> io::Result<u64> {
    let _lock = lock(&beside(payload, "lock"))?;
    let manifest = beside(payload, "refs");
    let Some(left) = links(root, payload, &manifest)? else { return Ok(0) };
    if !left.is_empty() {
        let folder = payload.parent().unwrap_or(root);
        let text: String = left.iter().map(|line| format!("{line}\n")).collect();
        return write_atomic(folder, &manifest, text.as_bytes()).map(|()| 0).map_err(io::Error::other);
    }
    match probe(payload).map_err(io::Error::other)? {
        Probe::Unused(unused) => {
            let bytes = unused.frees();
            unused.remove().map_err(io::Error::other)?;
            fs::remove_file(&manifest)?;
            Ok(bytes)
        }
        Probe::Busy | Probe::Unknown(_) | Probe::Gone => Ok(0),
    }
}

fn beside(payload: &Path, ending: &str) -> PathBuf {
    let mut name = payload.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{ending}"));
    payload.with_file_name(name)
}

fn lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o666)
        .custom_flags(flags)
        .open(path)?;
    // Held for moments only, by Python too.
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// The lines of the manifest whose links lead to the payload; `None` if it cannot be read.
fn links(root: &Path, payload: &Path, manifest: &Path) -> io::Result<Option<Vec<String>>> {
    let found = match fs::symlink_metadata(manifest) {
        Ok(found) if found.is_file() && found.len() <= MAX_MANIFEST => fs::read_to_string(manifest),
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    };
    let Ok(text) = found else { return Ok(None) };
    let is_plain = |line: &str| Path::new(line).components().all(|part| matches!(part, Component::Normal(_)));
    let mut left = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && is_plain(line)) {
        let link = root.join(line);
        match fs::read_link(&link) {
            Ok(target) if normalise(&link.parent().unwrap_or(root).join(&target)) == *payload => {
                left.push(line.to_owned());
            }
            Ok(_) => {}
            // Not there, or no link any more.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidInput | io::ErrorKind::NotADirectory
                ) => {}
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(left))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Store {
        _dir: tempfile::TempDir,
        root: PathBuf,
        payload: PathBuf,
    }

    fn store(manifest: Option<&str>) -> Store {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().to_owned();
        let hash = "ab".repeat(32);
        let payload = root.join("blobs/ab").join(&hash);
        fs::create_dir_all(payload.parent().expect("parent")).expect("folder");
        fs::write(&payload, [7; 8_192]).expect("payload");
        for repo in ["models--a--b", "models--c--d"] {
            fs::create_dir_all(root.join(repo).join("blobs")).expect("folder");
            symlink(format!("../../blobs/ab/{hash}"), root.join(repo).join("blobs/x")).expect("link");
        }
        if let Some(text) = manifest {
            fs::write(beside(&payload, "refs"), text).expect("manifest");
        }
        Store { _dir: dir, root, payload }
    }

    #[test]
    fn the_payload_goes_with_the_last_link() {
        let store =
            store(Some("models--a--b/blobs/x\nmodels--c--d/blobs/x\n../evil\n/abs\nmodels--e--f/blobs/x\n"));
        let manifest = beside(&store.payload, "refs");
        assert_eq!(unlink(&store.root, &store.root.join("models--a--b/blobs/x")).expect("removed"), 0);
        assert!(store.payload.exists());
        assert_eq!(fs::read_to_string(&manifest).expect("there"), "models--c--d/blobs/x\n");
        assert_eq!(unlink(&store.root, &store.root.join("models--c--d/blobs/x")).expect("removed"), 8_192);
        assert!(!store.payload.exists() && !manifest.exists());
    }

    #[test]
    fn what_nobody_vouches_for_or_somebody_reads_stays() {
        let lost = store(None);
        assert_eq!(unlink(&lost.root, &lost.root.join("models--a--b/blobs/x")).expect("removed"), 0);
        assert!(lost.payload.exists(), "no manifest is no reason to delete");
        let read = store(Some("models--a--b/blobs/x\n"));
        let _open = File::open(&read.payload).expect("opens");
        assert_eq!(unlink(&read.root, &read.root.join("models--a--b/blobs/x")).expect("removed"), 0);
        assert!(read.payload.exists());
    }
}

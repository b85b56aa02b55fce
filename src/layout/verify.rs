//! Does a file have the bytes that the hub promised? Streaming, cancellable, nothing else is read.
//!
//! LFS and Xet files are promised by SHA-256; files that live in git by the SHA-1 of their git object, which
//! hashes `blob <length>\0` before the bytes (`git hash-object`).

use std::io::{self, Read};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use larder_jobs::Digest;

/// Large enough for full speed, small enough for the processor's cache.
const BUFFER: usize = 256 << 10;

/// A hash on its way, of the kind that one promise asks for.
#[derive(Debug, Clone)]
pub struct Hasher(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Sha256(Box<Sha256>),
    GitSha1(Box<Sha1>),
}

impl Hasher {
    /// A hash of the same kind as `promise`, for `size` bytes.
    pub fn new(promise: &Digest, size: u64) -> Self {
        match promise {
            Digest::Sha256(_) => Self(Kind::Sha256(Box::default())),
            Digest::GitSha1(_) => {
                let mut hash = Sha1::new();
                hash.update(format!("blob {size}\0"));
                Self(Kind::GitSha1(Box::new(hash)))
            }
        }
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Kind::Sha256(hash) => hash.update(bytes),
            Kind::GitSha1(hash) => hash.update(bytes),
        }
    }

    /// The digest of everything that came.
    pub fn finish(self) -> Digest {
        match self.0 {
            Kind::Sha256(hash) => Digest::Sha256(hex::encode(hash.finalize())),
            Kind::GitSha1(hash) => Digest::GitSha1(hex::encode(hash.finalize())),
        }
    }
}

/// The digest of everything that `input` holds, of the kind of `promise`. `stop` is asked every 256 KiB.
///
/// # Errors
/// What reading said; [`io::ErrorKind::Interrupted`] if `stop` said so.
pub fn digest_of(
    input: &mut impl Read,
    promise: &Digest,
    size: u64,
    stop: &dyn Fn() -> bool,
) -> io::Result<Digest> {
    let mut hasher = Hasher::new(promise, size);
    let mut buffer = vec![0; BUFFER];
    loop {
        if stop() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match input.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vectors() {
        let git = Digest::git_sha1("ce013625030ba8dba906f756967f9e9ca394464a").expect("hex");
        let found = digest_of(&mut &b"hello\n"[..], &git, 6, &|| false).expect("read");
        assert_eq!(found, git, "as git hash-object says");
        let empty = Digest::git_sha1("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391").expect("hex");
        assert_eq!(digest_of(&mut io::empty(), &empty, 0, &|| false).expect("read"), empty);
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let sha = Digest::sha256(sha).expect("hex");
        assert_eq!(digest_of(&mut &b"abc"[..], &sha, 3, &|| false).expect("read"), sha);
    }

    #[test]
    fn it_stops_when_told() {
        let promise = Digest::sha256(&"0".repeat(64)).expect("hex");
        let error = digest_of(&mut io::repeat(0), &promise, 1, &|| true).expect_err("stopped");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }
}

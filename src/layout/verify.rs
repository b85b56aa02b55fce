//! Does a file have the bytes that the hub promised? Streaming, cancellable, nothing else is read.
//!
//! LFS and Xet files are promised by SHA-256; files that live in git by the SHA-1 of their git object, which
//! hashes `blob <length>\0` before the bytes (`git hash-object`).

use std::io::{self, Read};

use sha1::Sha1;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
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

    /// Everything that came so far as text, so that another process can go on from here.
    pub fn save(&self) -> String {
        match &self.0 {
            Kind::Sha256(hash) => hex::encode(hash.serialize()),
            Kind::GitSha1(hash) => hex::encode(hash.serialize()),
        }
    }

    /// The hash that [`Self::save`] wrote; `None` if the text is none of a hash of the kind of `promise`.
    pub fn restore(promise: &Digest, saved: &str) -> Option<Self> {
        let bytes = hex::decode(saved).ok()?;
        Some(Self(match promise {
            Digest::Sha256(_) => Kind::Sha256(Box::new(state(&bytes)?)),
            Digest::GitSha1(_) => Kind::GitSha1(Box::new(state(&bytes)?)),
        }))
    }

    /// The digest of everything that came.
    pub fn finish(self) -> Digest {
        match self.0 {
            Kind::Sha256(hash) => Digest::Sha256(hash.finalize().into()),
            Kind::GitSha1(hash) => Digest::GitSha1(hash.finalize().into()),
        }
    }
}

fn state<T: SerializableState>(bytes: &[u8]) -> Option<T> {
    T::deserialize(&SerializedState::<T>::try_from(bytes).ok()?).ok()
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
    fn a_saved_hash_goes_on_where_it_was() {
        for promise in [Digest::sha256(&"0".repeat(64)), Digest::git_sha1(&"0".repeat(40))] {
            let promise = promise.expect("hex");
            let mut whole = Hasher::new(&promise, 200);
            whole.update(&[7; 77]);
            let mut second = Hasher::restore(&promise, &whole.save()).expect("its own words");
            whole.update(&[8; 123]);
            second.update(&[8; 123]);
            assert_eq!(second.finish(), whole.finish());
            for bad in ["", "zz", "00", &"0".repeat(4000)] {
                assert!(Hasher::restore(&promise, bad).is_none(), "{bad}");
            }
        }
    }

    #[test]
    fn it_stops_when_told() {
        let promise = Digest::sha256(&"0".repeat(64)).expect("hex");
        let error = digest_of(&mut io::repeat(0), &promise, 1, &|| true).expect_err("stopped");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }
}

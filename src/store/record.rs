//! The envelope around every record: a format byte, a CRC-32 and JSON.
//!
//! JSON, because a struct with a new `#[serde(default)]` field still reads old bytes, and because a person
//! with a hex editor can too.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use larder_jobs::Reason;

const FORMAT: u8 = 1;
const HEADER: usize = 5;

/// Why a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The checksum or the length is wrong.
    #[error("its checksum is wrong")]
    Checksum,
    /// The envelope is of a newer larder.
    #[error("it was written by a newer larder")]
    Newer,
    /// The bytes are sound, but not what this table holds.
    #[error("it does not have the expected shape: {0}")]
    Shape(String),
}

impl Damage {
    pub(super) fn into_error(self, table: &str, key: &[u8]) -> Error {
        let reason = if self == Damage::Newer { Reason::UnsupportedVersion } else { Reason::Internal };
        Error::new(
            reason,
            format!("the record {table}/{} cannot be read: {self}", String::from_utf8_lossy(key)),
            "restart larder; it rebuilds its records from the models on the disk",
        )
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Records are plain structs with string keys, for which serde_json has no error.
    let json =
        serde_json::to_vec(value).unwrap_or_else(|error| unreachable!("a record became no JSON: {error}"));
    let mut bytes = Vec::with_capacity(HEADER + json.len());
    bytes.push(FORMAT);
    bytes.extend_from_slice(&crc32fast::hash(&json).to_le_bytes());
    bytes.extend_from_slice(&json);
    bytes
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Damage> {
    let Some((header, json)) = bytes.split_at_checked(HEADER) else { return Err(Damage::Checksum) };
    if header[0] > FORMAT {
        return Err(Damage::Newer);
    }
    if header[0] == 0 || crc32fast::hash(json).to_le_bytes() != header[1..] {
        return Err(Damage::Checksum);
    }
    serde_json::from_slice(json).map_err(|error| Damage::Shape(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_back_and_notices_every_flipped_bit(value in any::<Vec<u32>>(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut bytes = encode(&value);
            prop_assert_eq!(decode::<Vec<u32>>(&bytes), Ok(value));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode::<Vec<u32>>(&bytes).is_err());
        }
    }

    #[test]
    fn truncated_and_newer_records_are_told_apart() {
        assert_eq!(decode::<u32>(&[]), Err(Damage::Checksum));
        let mut bytes = encode(&7u32);
        bytes[0] = FORMAT + 1;
        assert_eq!(decode::<u32>(&bytes), Err(Damage::Newer));
        assert!(matches!(decode::<String>(&encode(&7u32)), Err(Damage::Shape(_))));
    }
}

//! Sizes and durations: integers and words on the wire, `18GiB` and `15m` where people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Invalid, invalid::shown};

/// A number of bytes. An integer on the wire; `20GB`, `18GiB` or `4096` where people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "u64"))]
pub struct Size(pub u64);

impl Size {
    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    /// Binary units with one decimal, as `du -h` users read them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&bytesize::ByteSize(self.0).display().iec().to_string())
    }
}

impl FromStr for Size {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.starts_with(|c: char| c.is_ascii_digit());
        let size = text.parse::<bytesize::ByteSize>().ok().filter(|size| digits && size.0 < u64::MAX);
        size.map(|size| Self(size.0)).ok_or_else(|| {
            Invalid::new(
                format!("`{}` is not a size", shown(text)),
                "write bytes or a unit: 500MB, 20GB (decimal), 18GiB (binary)",
            )
        })
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size: bytes as an integer, or a text like 20GB or 18GiB")]
        enum Raw {
            Bytes(u64),
            Text(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Bytes(bytes) => Ok(Self(bytes)),
            Raw::Text(text) => {
                text.parse().map_err(|e: Invalid| de::Error::custom(format!("{e}: {}", e.hint())))
            }
        }
    }
}

/// A duration, written `90s`, `15m`, `24h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub struct Span(pub Duration);

impl Span {
    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&humantime::format_duration(self.0).to_string())
    }
}

impl FromStr for Span {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        humantime::parse_duration(text).map(Self).map_err(|_| {
            Invalid::new(
                format!("`{}` is not a duration", shown(text)),
                "write a number and a unit: 90s, 15m, 24h, 7d",
            )
        })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|e: Invalid| de::Error::custom(format!("{e}: {}", e.hint())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("20GB", 20_000_000_000), ("18GiB", 18 << 30), ("1.5 MiB", 1_572_864)]
        {
            assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
        }
        for bad in ["", "-1", "-5GB", "NaN", "inf", "GB", "20 parsecs", "99999999999999999999GB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_integers_on_the_wire() {
        assert_eq!(serde_json::to_string(&Size(5)).unwrap(), "5");
        assert_eq!(serde_json::from_str::<Size>("\"1KiB\"").unwrap(), Size(1024));
        assert!(serde_json::from_str::<Size>("-1").is_err());
    }

    #[test]
    fn durations_read_and_print() {
        for text in ["90s", "15m", "24h", "7d"] {
            assert!(text.parse::<Span>().is_ok(), "{text}");
        }
        assert_eq!(Span(Duration::from_secs(90)).to_string(), "1m 30s");
        assert!("-1s".parse::<Span>().is_err());
        assert!("5".parse::<Span>().is_err());
    }
}

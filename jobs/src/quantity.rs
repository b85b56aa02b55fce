//! Sizes, bandwidths and durations: integers and words on the wire, `18GiB` and `15m` where people write them.

use std::fmt;
use std::num::NonZeroU64;
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

/// Bytes per second, at least one: an integer on the wire, `20MB` or `18MiB` where people write it. That there is no
/// limit is `None` in an `Option` of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(transparent))]
pub struct Bandwidth(NonZeroU64);

impl Bandwidth {
    /// This many bytes per second.
    ///
    /// # Errors
    /// `invalid_request` for none at all, with which nothing would ever end.
    pub fn new(bytes: u64) -> Result<Self, Invalid> {
        NonZeroU64::new(bytes).map(Self).ok_or_else(|| {
            Invalid::new(
                "a bandwidth of 0 would let nothing through",
                "set bytes per second (20MB), or leave it out for no limit",
            )
        })
    }

    /// Bytes per second.
    pub const fn bytes(self) -> u64 {
        self.0.get()
    }

    /// The more generous of two limits; none at all beats any.
    #[must_use]
    pub fn wider(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        one.zip(other).map(|(one, other)| one.max(other))
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/s", Size(self.bytes())))
    }
}

impl FromStr for Bandwidth {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::new(text.parse::<Size>()?.bytes())
    }
}

impl Serialize for Bandwidth {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.bytes())
    }
}

impl<'de> Deserialize<'de> for Bandwidth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let size = Size::deserialize(deserializer)?;
        Self::new(size.bytes()).map_err(|e| de::Error::custom(format!("{e}: {}", e.hint())))
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
    fn a_bandwidth_is_never_zero_and_none_is_the_widest() {
        let of = |bytes| Bandwidth::new(bytes).ok();
        assert_eq!("20MB".parse(), Bandwidth::new(20_000_000));
        assert_eq!(serde_json::from_str::<Option<Bandwidth>>("7").unwrap(), of(7));
        assert_eq!(serde_json::from_str::<Option<Bandwidth>>("null").unwrap(), None);
        assert_eq!(Bandwidth::new(2 << 20).unwrap().to_string(), "2.0 MiB/s");
        for bad in ["0", "0MB", "fast", "-1"] {
            assert!(bad.parse::<Bandwidth>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Bandwidth>("0").is_err());
        assert_eq!(Bandwidth::wider(of(1), of(2)), of(2));
        assert_eq!((Bandwidth::wider(of(1), None), Bandwidth::wider(None, of(2))), (None, None));
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

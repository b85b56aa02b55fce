//! Whether a preload is worth it. Pure: measured speeds, free memory and pressure in, a verdict with its reason out.
//!
//! Unknown facts decide for leaving the memory alone, with one exception: kernels and containers without pressure figures
//! are common, and there the free memory decides alone.

use serde::Serialize;

use super::load::{self, ReadSpeeds};

/// What is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Facts {
    /// Bytes of the model's files.
    pub bytes: u64,
    /// Bytes of these that are in the page cache.
    pub resident: Option<u64>,
    /// Memory that can be taken without swapping or breaking a container's limit.
    pub free_memory: Option<u64>,
    /// This disk's measured speeds.
    pub speeds: ReadSpeeds,
    /// Share of the last ten seconds in which some task waited for memory, in per cent.
    pub pressure: Option<f64>,
}

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Policy {
    /// Memory that stays free, in bytes.
    pub keep_free: u64,
    /// Seconds that a load must become shorter by.
    pub least_gain: f64,
    /// Pressure in per cent above which the memory is left alone.
    pub most_pressure: f64,
}

impl Default for Policy {
    /// 2 GiB stay free, two seconds are worth it, and above one per cent of waiting others come first.
    fn default() -> Self {
        Self { keep_free: 2 << 30, least_gain: 2.0, most_pressure: 1.0 }
    }
}

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "preload", rename_all = "snake_case")]
pub enum Preload {
    /// It is worth it.
    Go {
        /// Bytes that are missing.
        bytes: u64,
        /// Seconds that the next load is shorter by.
        gain: f64,
    },
    /// It is not.
    No {
        /// Why not.
        #[serde(flatten)]
        reason: No,
    },
}

/// Why a preload is not worth it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum No {
    /// Everything is there.
    AlreadyResident,
    /// The kernel does not tell what is there.
    ResidencyUnknown,
    /// Tasks wait for memory.
    UnderPressure {
        /// Share of the last ten seconds in per cent.
        pressure: f64,
    },
    /// Nobody knows how much memory is free.
    MemoryUnknown,
    /// The files would push out others.
    TooLittleMemory {
        /// Bytes that are missing, with what stays free.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The disk was not measured.
    SpeedUnknown,
    /// The disk is fast enough, or little is missing.
    GainTooSmall {
        /// Seconds that the next load would be shorter by.
        gain: f64,
    },
}

impl No {
    /// The reason in words.
    pub fn sentence(&self) -> String {
        match self {
            Self::AlreadyResident => "all of it is in memory already".to_owned(),
            Self::ResidencyUnknown => {
                "the kernel does not tell what is in memory of files that belong to somebody else".to_owned()
            }
            Self::UnderPressure { pressure } => format!("tasks wait for memory {pressure:.1} % of the time"),
            Self::MemoryUnknown => "it is unknown how much memory is free".to_owned(),
            Self::TooLittleMemory { needed, free } => {
                format!("{needed} bytes are needed and {free} are free")
            }
            Self::SpeedUnknown => {
                "the disk's speeds were not measured yet; profile this host first".to_owned()
            }
            Self::GainTooSmall { gain } => format!("a load would be only {gain:.1} s shorter"),
        }
    }
}

/// Whether bringing the missing bytes into the page cache is worth the memory.
///
/// ```
/// use larder::disk::load::ReadSpeeds;
/// use larder::disk::preload::{Facts, Policy, Preload, worth_it};
/// let speeds = ReadSpeeds { cold: Some(1e9), warm: Some(10e9) };
/// let bytes = 10_000_000_000;
/// let facts = Facts { bytes, resident: Some(0), free_memory: Some(64 << 30), speeds, pressure: Some(0.0) };
/// assert_eq!(worth_it(&facts, &Policy::default()), Preload::Go { bytes, gain: 9.0 });
/// ```
pub fn worth_it(facts: &Facts, policy: &Policy) -> Preload {
    match gain(facts, policy) {
        Ok((bytes, gain)) => Preload::Go { bytes, gain },
        Err(reason) => Preload::No { reason },
    }
}

fn gain(facts: &Facts, policy: &Policy) -> Result<(u64, f64), No> {
    let resident = facts.resident.ok_or(No::ResidencyUnknown)?;
    let bytes = facts.bytes.saturating_sub(resident);
    if bytes == 0 {
        return Err(No::AlreadyResident);
    }
    // A pressure that is no number is above any limit.
    if let Some(pressure) =
        facts.pressure.filter(|pressure| pressure.is_nan() || *pressure > policy.most_pressure)
    {
        return Err(No::UnderPressure { pressure });
    }
    let free = facts.free_memory.ok_or(No::MemoryUnknown)?;
    let needed = bytes.saturating_add(policy.keep_free);
    if needed > free {
        return Err(No::TooLittleMemory { needed, free });
    }
    let missing = load::seconds(bytes, Some(0), facts.speeds);
    let (cold, warm) = missing.cold.zip(missing.warm).ok_or(No::SpeedUnknown)?;
    let gain = cold - warm;
    if gain >= policy.least_gain { Ok((bytes, gain)) } else { Err(No::GainTooSmall { gain }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn good() -> Facts {
        let speeds = ReadSpeeds { cold: Some(1e9), warm: Some(1e10) };
        let (free_memory, pressure) = (Some(64 * GIB), Some(0.0));
        Facts { bytes: 20 * GIB, resident: Some(4 * GIB), free_memory, speeds, pressure }
    }

    #[test]
    fn every_no_has_its_reason_and_unknown_pressure_is_none_of_them() {
        let policy = Policy::default();
        let why = |facts: Facts| match worth_it(&facts, &policy) {
            Preload::Go { bytes, .. } => panic!("{bytes}"),
            Preload::No { reason } => reason,
        };
        assert!(matches!(worth_it(&good(), &policy), Preload::Go { bytes, .. } if bytes == 16 * GIB));
        let blind = Facts { pressure: None, ..good() };
        assert_eq!(worth_it(&blind, &policy), worth_it(&good(), &policy));
        assert_eq!(why(Facts { resident: Some(30 * GIB), ..good() }), No::AlreadyResident);
        assert_eq!(why(Facts { resident: None, ..good() }), No::ResidencyUnknown);
        assert_eq!(why(Facts { pressure: Some(1.5), ..good() }), No::UnderPressure { pressure: 1.5 });
        assert!(matches!(why(Facts { pressure: Some(f64::NAN), ..good() }), No::UnderPressure { .. }));
        assert_eq!(why(Facts { free_memory: None, ..good() }), No::MemoryUnknown);
        let little = No::TooLittleMemory { needed: 18 * GIB, free: 18 * GIB - 1 };
        assert_eq!(why(Facts { free_memory: Some(18 * GIB - 1), ..good() }), little);
        assert_eq!(why(Facts { speeds: ReadSpeeds::default(), ..good() }), No::SpeedUnknown);
        let same = ReadSpeeds { cold: Some(1e10), warm: Some(1e10) };
        assert_eq!(why(Facts { speeds: same, ..good() }), No::GainTooSmall { gain: 0.0 });
    }

    #[test]
    fn a_decision_reads_well_in_json() {
        let no = worth_it(&Facts { pressure: Some(3.0), ..good() }, &Policy::default());
        let json = serde_json::to_value(no).expect("serialises");
        assert_eq!(json, serde_json::json!({"preload": "no", "reason": "under_pressure", "pressure": 3.0}));
    }

    proptest! {
        /// Whatever the facts, a yes keeps the free memory and the gain that were asked for.
        #[test]
        fn a_yes_keeps_every_promise(
            bytes: u64, resident: Option<u64>, free_memory: Option<u64>,
            cold: Option<f64>, warm: Option<f64>, pressure: Option<f64>, keep_free in 0..1_u64 << 40,
        ) {
            let facts = Facts { bytes, resident, free_memory, speeds: ReadSpeeds { cold, warm }, pressure };
            let policy = Policy { keep_free, ..Policy::default() };
            if let Preload::Go { bytes: missing, gain } = worth_it(&facts, &policy) {
                prop_assert_eq!(Some(missing), resident.and_then(|resident| bytes.checked_sub(resident)));
                prop_assert!(free_memory.and_then(|free| free.checked_sub(missing)) >= Some(keep_free));
                prop_assert!(gain >= policy.least_gain && gain.is_finite());
                prop_assert!(pressure.is_none_or(|pressure| pressure <= policy.most_pressure));
            }
        }
    }
}

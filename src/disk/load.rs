//! How long a model takes to get off the disk: bytes over measured speed. Pure.
//!
//! What an engine does besides reading (allocating, copying to the GPU, compiling) is not in it, so the figures are lower
//! bounds of its start.

use serde::{Deserialize, Serialize};

/// Measured read speeds of one disk in bytes per second; `None` was never measured, or cannot be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ReadSpeeds {
    /// From the disk.
    pub cold: Option<f64>,
    /// From the page cache.
    pub warm: Option<f64>,
}

/// Predicted seconds to read some bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LoadSeconds {
    /// If nothing is in the page cache.
    pub cold: Option<f64>,
    /// If everything is.
    pub warm: Option<f64>,
    /// As it is now: what is resident warm, the rest cold.
    pub now: Option<f64>,
}

/// Predicts how long `bytes` take, of which `resident` are in the page cache (`None` if that is unknown).
///
/// ```
/// use larder::disk::load::{ReadSpeeds, seconds};
/// let speeds = ReadSpeeds { cold: Some(1e9), warm: Some(10e9) };
/// let load = seconds(20_000_000_000, Some(10_000_000_000), speeds);
/// assert_eq!((load.cold, load.warm, load.now), (Some(20.0), Some(2.0), Some(11.0)));
/// ```
pub fn seconds(bytes: u64, resident: Option<u64>, speeds: ReadSpeeds) -> LoadSeconds {
    let now = resident.and_then(|resident| {
        let resident = resident.min(bytes);
        Some(time(resident, speeds.warm)? + time(bytes - resident, speeds.cold)?)
    });
    LoadSeconds { cold: time(bytes, speeds.cold), warm: time(bytes, speeds.warm), now }
}

/// Nothing takes no time at any speed, known or not.
fn time(bytes: u64, speed: Option<f64>) -> Option<f64> {
    if bytes == 0 {
        return Some(0.0);
    }
    let speed = speed.filter(|speed| speed.is_finite() && *speed > 0.0)?;
    #[allow(clippy::cast_precision_loss)] // a prediction need not be exact
    let seconds = bytes as f64 / speed;
    seconds.is_finite().then_some(seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_known_is_not_predicted() {
        let cold_only = ReadSpeeds { cold: Some(100.0), warm: None };
        let load = seconds(1000, Some(500), cold_only);
        assert_eq!((load.cold, load.warm, load.now), (Some(10.0), None, None));
        assert_eq!(
            seconds(1000, Some(0), cold_only).now,
            Some(10.0),
            "the speed that is unknown is not needed"
        );
        assert_eq!(seconds(1000, None, cold_only).now, None);
        for nonsense in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE / 2.0] {
            let speeds = ReadSpeeds { cold: Some(nonsense), warm: Some(nonsense) };
            assert_eq!(seconds(u64::MAX, Some(7), speeds), LoadSeconds::default(), "{nonsense}");
        }
    }

    proptest! {
        /// A disk slower than its page cache: the more is resident, the sooner, between warm and cold.
        #[test]
        fn now_lies_between_warm_and_cold(bytes in 1..1_u64 << 50, resident in 0..1_u64 << 51) {
            let speeds = ReadSpeeds { cold: Some(5e8), warm: Some(5e9) };
            let load = seconds(bytes, Some(resident), speeds);
            let (cold, warm, now) = (load.cold.expect("known"), load.warm.expect("known"), load.now.expect("known"));
            let slack = cold * 1e-9;
            prop_assert!(warm - slack <= now && now <= cold + slack);
            let more = seconds(bytes, Some(resident + 1024), speeds).now.expect("known");
            prop_assert!(more <= now + slack);
        }
    }
}

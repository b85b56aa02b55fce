//! The settings of the room and what they may not be.

use std::time::Duration;

use larder_jobs::{Reason, Span};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Reading more often than this would be work of its own; NVML's own samples are 1/6 s to 1 s old.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Reading less often than this would show the past.
const MAX_INTERVAL: Duration = Duration::from_secs(600);

/// The section `[gpu]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The NVML library; empty means that the loader searches for `libnvidia-ml.so.1`.
    pub nvml_library: String,
    /// How often the GPUs are read.
    pub interval: Span,
    /// How long NVML, having worked, may fail altogether before `serve` gives up, so that whoever restarts it also
    /// gives it the devices anew; zero means for ever.
    pub give_up_after: Span,
    /// What a host that is not healthy does with new downloads.
    pub unhealthy: Unhealthy,
}

/// What a host that is not healthy does with new downloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unhealthy {
    /// It says so and downloads.
    #[default]
    Warn,
    /// It lets them wait.
    Refuse,
}

impl Config {
    /// Refuses settings with which the room cannot do its work.
    ///
    /// # Errors
    /// `invalid_request`, naming the key.
    pub fn validate(&self) -> Result<()> {
        let refuse = |key: &str, what: &str, hint: &str| {
            Err(Error::new(Reason::InvalidRequest, format!("gpu.{key} {what}"), hint))
        };
        if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&self.interval.get()) {
            return refuse("interval", "is not between 100ms and 10m", "set for example 5s");
        }
        let give_up = self.give_up_after.get();
        if !give_up.is_zero() && give_up < 3 * self.interval.get() {
            let hint = "set for example 5m, or 0s for never";
            return refuse("give_up_after", "is shorter than three times gpu.interval", hint);
        }
        if self.nvml_library.contains('\0') {
            return refuse(
                "nvml_library",
                "has a zero byte",
                "write the path of the library, or leave it empty",
            );
        }
        Ok(())
    }

    /// The library, if one was named.
    pub(super) fn library(&self) -> Option<&str> {
        Some(self.nvml_library.as_str()).filter(|path| !path.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Config {
        let (interval, give_up_after) = (Span(Duration::from_secs(5)), Span(Duration::from_secs(300)));
        Config { nvml_library: String::new(), interval, give_up_after, unhealthy: Unhealthy::Warn }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let span = |milliseconds| Span(Duration::from_millis(milliseconds));
        assert_eq!(good().validate(), Ok(()));
        assert_eq!(Config { give_up_after: span(0), ..good() }.validate(), Ok(()));
        for (key, bad) in [
            ("interval", Config { interval: span(0), ..good() }),
            ("interval", Config { interval: span(601_000), ..good() }),
            ("give_up_after", Config { give_up_after: span(14_999), ..good() }),
            ("nvml_library", Config { nvml_library: "/a\0b".into(), ..good() }),
        ] {
            let error = bad.validate().expect_err(key);
            assert!(error.to_string().starts_with(&format!("gpu.{key} ")), "{error}");
        }
    }

    #[test]
    fn every_key_must_be_there_and_no_other() {
        let mut json = serde_json::to_value(good()).expect("json");
        assert_eq!(serde_json::from_value::<Config>(json.clone()).expect("reads"), good());
        json["intervall"] = "5s".into();
        assert!(serde_json::from_value::<Config>(json).is_err());
    }
}

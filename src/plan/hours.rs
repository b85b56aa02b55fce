//! The hours in which a download may run, and how fast: inside its windows at one rate, outside of them at another or not at
//! all.

use jiff::Timestamp;
use larder_jobs::{Bandwidth, Windows};

/// When bytes may come, and how fast.
#[derive(Debug, Clone, PartialEq)]
pub struct Hours {
    /// When the windows are open.
    pub windows: Windows,
    /// How fast in them; `None` is as fast as they come.
    pub inside: Option<Bandwidth>,
    /// How fast outside of them; `None` is not at all.
    pub outside: Option<Bandwidth>,
}

/// What may come at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Bytes at this rate; `None` is as fast as they come.
    At(Option<Bandwidth>),
    /// Nothing until then; `None` is for good.
    Nothing {
        /// The next opening.
        until: Option<Timestamp>,
    },
}

impl Hours {
    /// What may come now.
    pub fn allow(&self, now: Timestamp) -> Flow {
        let phase = self.windows.phase(now);
        match (phase.is_open, self.outside) {
            (true, _) => Flow::At(self.inside),
            (false, Some(rate)) => Flow::At(Some(rate)),
            (false, None) => Flow::Nothing { until: phase.until },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_hour() {
        let rate = |bytes| Bandwidth::new(bytes).ok();
        let windows: Windows = "22:00-06:00 Europe/Berlin".parse().expect("a window");
        let hours = |inside, outside| Hours { windows: windows.clone(), inside, outside };
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let (evening, night) = (at("2026-06-01T18:00:00Z"), at("2026-06-01T20:00:00Z"));
        assert_eq!(hours(None, None).allow(evening), Flow::Nothing { until: Some(night) });
        assert_eq!(hours(None, rate(5)).allow(evening), Flow::At(rate(5)));
        assert_eq!(hours(None, rate(5)).allow(night), Flow::At(None));
        assert_eq!(hours(rate(9), rate(5)).allow(night), Flow::At(rate(9)));
        assert_eq!(
            hours(rate(9), None).allow(at("2026-06-02T04:00:00Z")),
            Flow::Nothing { until: Some(at("2026-06-02T20:00:00Z")) }
        );
    }
}

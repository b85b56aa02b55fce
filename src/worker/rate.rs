//! How fast a job goes, over the last seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time over which a rate is measured.
const WINDOW: Duration = Duration::from_secs(5);
/// Before that much has been measured, a rate would be a guess.
const LEAST: Duration = Duration::from_millis(700);

/// Bytes per second over the last seconds; nothing while too little is known.
#[derive(Debug, Default)]
pub(super) struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// At `now` so many bytes had come in all.
    pub(super) fn add(&mut self, now: Instant, bytes: u64) {
        self.samples.push_back((now, bytes));
        while self.samples.len() > 2
            && self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// Bytes per second, if that is known and not zero.
    pub(super) fn per_second(&self) -> Option<u64> {
        let ((first, from), (last, to)) = (self.samples.front()?, self.samples.back()?);
        let time = last.duration_since(*first);
        let bytes = to.checked_sub(*from).filter(|bytes| *bytes > 0)?;
        let millis = u64::try_from(time.as_millis()).ok()?;
        (time >= LEAST).then(|| bytes.saturating_mul(1_000).checked_div(millis)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_omitted_rather_than_guessed() {
        let begin = Instant::now();
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(), None);
        rate.add(begin, 0);
        rate.add(begin + Duration::from_millis(100), 1_000);
        assert_eq!(rate.per_second(), None);
        rate.add(begin + Duration::from_secs(2), 10_000);
        assert_eq!(rate.per_second(), Some(5_000));
        for second in 3..20 {
            rate.add(begin + Duration::from_secs(second), 10_000);
        }
        assert_eq!(rate.per_second(), None);
    }
}

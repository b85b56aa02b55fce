//! When a manifest is due: a cron expression in a time zone.
//!
//! A time that the clock skips is due when the clock has jumped; one that comes twice is due once, the first time. (An
//! expression that is due every hour or more often follows the time that passes instead.) A run that was missed, since no
//! larder was there, is made up for once if it is not older than the grace; of several only the last. One that fails for a
//! reason that may pass is tried on for as long.

use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::{SignedDuration, Timestamp};
use larder_jobs::{Class, Invalid, Reason, Span, Zone};
use serde::Deserialize;

/// The shortest grace: the clock is looked at when a run is due, a moment later at best, and once a minute at worst.
const SHORTEST_GRACE: Duration = Duration::from_secs(60);
/// A run is tried, and known to have been asked for, at least so long: a short grace is about runs that were missed.
const KNOWN: Duration = Duration::from_secs(3_600);

/// One `[[warm]]` of the configuration: a manifest and when it is looked at.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The manifest's file.
    pub manifest: std::path::PathBuf,
    /// A cron expression of five fields.
    pub schedule: String,
    /// The zone of its times.
    pub zone: Zone,
    /// A run that was missed by less is made up for.
    #[serde(default = "grace")]
    pub grace: Span,
}

fn grace() -> Span {
    Span(Duration::from_secs(6 * 3_600))
}

impl Config {
    /// Refuses what would never run, naming the key.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.due().map_err(|error| Invalid::new(format!("schedule: {error}"), error.hint()))?;
        match self.grace.get() < SHORTEST_GRACE {
            false => Ok(()),
            true => Err(Invalid::new(
                format!(
                    "grace: {} is too short, no run would be made up for, nor one begin that is due",
                    self.grace
                ),
                "write 1m or more, such as the default of 6h: after that time nobody begins a run that was missed",
            )),
        }
    }

    /// How long a run is known to have been asked for, and tried if need be.
    pub fn known(&self) -> Duration {
        self.grace.get().max(KNOWN)
    }

    /// When it is due.
    ///
    /// # Errors
    /// As [`Schedule::read`].
    pub fn due(&self) -> Result<Schedule, Invalid> {
        Schedule::read(&self.schedule, self.zone.clone())
    }
}

/// When something is due.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    zone: Zone,
}

/// The next run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// It was missed at this time, and is to be made up for now.
    Missed(Timestamp),
    /// It is due then.
    At(Timestamp),
}

impl Schedule {
    /// Reads five fields, `minute hour day month weekday`.
    ///
    /// # Errors
    /// `invalid_request` for what is none, or never comes.
    pub fn read(expression: &str, zone: Zone) -> Result<Self, Invalid> {
        let wrong = |why: String| {
            let shown: String = expression.chars().take(64).flat_map(char::escape_debug).collect();
            Invalid::new(
                format!("`{shown}` is not a schedule: {why}"),
                "write minute, hour, day, month and weekday: \"0 1 * * *\" is one o'clock every night",
            )
        };
        let cron = CronParser::builder().seconds(Seconds::Disallowed).build().parse(expression);
        let schedule = Self { cron: cron.map_err(|error| wrong(error.to_string()))?, zone };
        match schedule.next(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(wrong("it is never due".into())),
        }
    }

    /// The first time after `now`.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let now = now.to_zoned(self.zone.rules().clone());
        self.cron.find_next_occurrence(&now, false).ok().map(|next| next.timestamp())
    }

    /// The last time until `now`, `now` included.
    pub fn last(&self, now: Timestamp) -> Option<Timestamp> {
        let now = now.to_zoned(self.zone.rules().clone());
        self.cron.find_previous_occurrence(&now, true).ok().map(|last| last.timestamp())
    }

    /// What is due for somebody who ran last at `ran`, if ever, and looks at `now`: the last time that was missed if it is
    /// not older than `grace`, else the next one.
    pub fn due(&self, ran: Option<Timestamp>, grace: SignedDuration, now: Timestamp) -> Option<Due> {
        let missed = self
            .last(now)
            .filter(|last| ran.is_none_or(|ran| ran < *last) && now.duration_since(*last) <= grace);
        missed.map(Due::Missed).or_else(|| self.next(now).map(Due::At))
    }

    /// Until when a run that was due at `due` is tried: for so long, but not beyond the next one, which takes its place.
    pub fn tried_until(&self, due: Timestamp, known: Duration) -> Timestamp {
        let latest = due.checked_add(known).unwrap_or(Timestamp::MAX);
        self.next(due).map_or(latest, |next| next.min(latest))
    }
}

/// Whether a run that could not be asked for at `now` is tried again: if the cause may pass, and until then.
pub fn is_tried_again(reason: Reason, now: Timestamp, until: Timestamp) -> bool {
    let may_pass = match reason.class() {
        Class::Transient | Class::TransientOnce | Class::Waiting => true,
        Class::Permanent => false,
        // Somebody stopped in the middle of it.
        Class::Terminal => reason == Reason::Interrupted,
    };
    may_pass && now < until
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect(text)
    }

    fn schedule(expression: &str) -> Schedule {
        Schedule::read(expression, "Europe/Berlin".parse().expect("a zone")).expect(expression)
    }

    fn times(schedule: &Schedule, from: &str, count: usize) -> Vec<String> {
        let mut now = at(from);
        let mut next = || {
            now = schedule.next(now).expect("a time");
            now.to_string()
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn a_night_has_one_run_whatever_the_clock_does() {
        let nightly = schedule("30 2 * * *");
        let spring = times(&nightly, "2026-03-27T12:00:00Z", 3);
        assert_eq!(spring, ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        let autumn = times(&nightly, "2026-10-23T12:00:00Z", 3);
        assert_eq!(autumn, ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn a_missed_run_is_made_up_for_once() {
        let nightly = schedule("0 1 * * *");
        let grace = SignedDuration::from_hours(6);
        let midnight = at("2026-06-02T23:00:00Z");
        let due = |ran: Option<&str>, now: &str| nightly.due(ran.map(at), grace, at(now));
        assert_eq!(due(None, "2026-06-02T23:00:00Z"), Some(Due::Missed(midnight)), "due right now");
        assert_eq!(due(None, "2026-06-03T04:59:00Z"), Some(Due::Missed(midnight)));
        let tomorrow = Some(Due::At(at("2026-06-03T23:00:00Z")));
        assert_eq!(due(None, "2026-06-03T05:01:00Z"), tomorrow, "too long ago");
        assert_eq!(due(Some("2026-06-02T23:00:00Z"), "2026-06-03T01:00:00Z"), tomorrow, "it has run");
        assert_eq!(due(Some("2026-05-01T00:00:00Z"), "2026-06-03T01:00:00Z"), Some(Due::Missed(midnight)));
    }

    #[test]
    fn what_may_pass_is_tried_until_the_grace_or_the_next_run() {
        let (nightly, due) = (schedule("0 1 * * *"), at("2026-06-02T23:00:00Z"));
        let until = nightly.tried_until(due, Duration::from_secs(6 * 3_600));
        assert_eq!(until, at("2026-06-03T05:00:00Z"));
        // A queue that is away for longer than thirty tries, a minute apart.
        let tries = (0..).map(|minute| due + SignedDuration::from_mins(minute));
        let tried = tries.take_while(|now| is_tried_again(Reason::QueueUnavailable, *now, until)).count();
        assert_eq!(tried, 6 * 60);
        for reason in [Reason::SourceUnavailable, Reason::IoError, Reason::Interrupted, Reason::HostDrained] {
            assert!(is_tried_again(reason, due, until), "{reason} may pass");
        }
        for reason in [Reason::InvalidRequest, Reason::Unauthorized, Reason::Cancelled] {
            assert!(!is_tried_again(reason, due, until), "{reason} does not pass");
        }
        let hourly = schedule("0 * * * *").tried_until(due, Duration::from_secs(6 * 3_600));
        assert_eq!(hourly, at("2026-06-03T00:00:00Z"), "the next one takes its place");
    }

    #[test]
    fn a_grace_in_which_nothing_would_run_is_refused() {
        let config = |grace: &str| Config {
            manifest: "night.toml".into(),
            schedule: "0 1 * * *".into(),
            zone: "UTC".parse().expect("a zone"),
            grace: grace.parse().expect("a span"),
        };
        for bad in ["0s", "59s"] {
            let error = config(bad).validate().expect_err(bad);
            assert!(error.to_string().starts_with(&format!("grace: {bad} is too short")), "{error}");
            assert!(error.hint().contains("1m"), "{}", error.hint());
        }
        config("1m").validate().expect("a minute will do");
        assert_eq!(config("1m").known(), Duration::from_secs(3_600));
        assert_eq!(config("24h").known(), Duration::from_secs(24 * 3_600));
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for bad in ["", "0 1 * *", "0 25 * * *", "nightly", "0 0 1 * * *", "0 0 31 2 *"] {
            let error = Schedule::read(bad, "UTC".parse().expect("a zone")).expect_err(bad);
            assert!(error.to_string().contains("is not a schedule"), "{error}");
            assert!(error.hint().contains("0 1 * * *"));
        }
    }
}

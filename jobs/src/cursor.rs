//! A place in the list of jobs, at which the next page begins.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::{Invalid, Record};

/// The place behind a job in the list of all jobs, the newest first. Whoever pages treats its text as opaque.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The job's place in the order of asking.
    pub seq: u64,
    /// When it was accepted.
    pub created_at: Timestamp,
}

impl Cursor {
    /// Behind this job.
    pub fn behind(record: &Record) -> Self {
        Self { seq: record.seq, created_at: record.created_at }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.seq, self.created_at.as_microsecond())
    }
}

impl FromStr for Cursor {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parts = text.split_once('-').and_then(|(seq, micros)| {
            let created_at = Timestamp::from_microsecond(micros.parse().ok()?).ok()?;
            // Beyond this neither JSON nor Lua keeps a number exact.
            let seq = seq.parse().ok().filter(|seq: &u64| *seq < 1 << 53)?;
            Some(Self { seq, created_at })
        });
        parts.ok_or_else(|| {
            Invalid::new("`cursor` is not one that larder gave", "send `next` of the page before as it came")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nonsense_does_not() {
        let created_at = "2026-01-02T03:04:05.678901Z".parse().expect("a time");
        let cursor = Cursor { seq: 7, created_at };
        assert_eq!(cursor.to_string(), "7-1767323045678901");
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for bad in ["", "-", "7", "7-", "-7", "x-1", "1-x", "9007199254740992-1", "1-99999999999999999999"] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
    }
}

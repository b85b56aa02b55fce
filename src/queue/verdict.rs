//! How an attempt ended, and what that means for the job. The only file that maps one to the other.

use std::time::Duration;

use larder_jobs::{Class, Progress, Reason};

use crate::error::{Error, Result};

/// How long a job waits for a condition when nobody says how long.
const SNOOZE: Duration = Duration::from_secs(60);

/// What a finished job leaves behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// The snapshot folder of a staged model.
    pub path: Option<String>,
    /// The last word on how far it came, with the commit.
    pub progress: Progress,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The work is done.
    Done(Done),
    /// It cannot be done, or was called off.
    Cancel(Error),
    /// It failed for a reason that may pass; the attempt is spent.
    RetryAfter(Error),
    /// It waits for a condition; the attempt is not spent.
    Snooze {
        /// What it waits for.
        error: Error,
        /// How long.
        wait: Duration,
    },
    /// The worker stops, the job does not; the attempt is not spent.
    Interrupted,
}

impl Verdict {
    /// The verdict that the class of the reason asks for.
    ///
    /// `insufficient_disk` is permanent by its class; a worker that meets a full disk in mid-transfer says
    /// [`Verdict::Snooze`] itself.
    pub fn of(result: Result<Done>) -> Self {
        let error = match result {
            Ok(done) => return Self::Done(done),
            Err(error) => error,
        };
        match (error.reason(), error.reason().class()) {
            (Reason::Interrupted | Reason::HostGone, _) => Self::Interrupted,
            (_, Class::Transient) => Self::RetryAfter(error),
            (_, Class::Waiting) => {
                let wait = error.retry_after().unwrap_or(SNOOZE);
                Self::Snooze { error, wait }
            }
            // The transfer has already tried a file with wrong bytes a second time.
            (_, Class::Permanent | Class::TransientOnce | Class::Terminal) => Self::Cancel(error),
        }
    }

    /// The verdict on a handler that panicked.
    pub fn panicked(what: &str) -> Self {
        Self::RetryAfter(Error::internal(format!("the job panicked: {what}")))
    }
}

/// What a store is told about an attempt that is over.
#[derive(Debug, Clone, PartialEq)]
pub enum Settlement {
    /// The job is done.
    Done(Done),
    /// The job failed for good.
    Fail {
        /// The word.
        reason: Reason,
        /// What happened and what to do.
        message: String,
    },
    /// The job stopped because somebody cancelled it.
    Cancelled,
    /// Another attempt, if one is left.
    Retry {
        /// The word.
        reason: Reason,
        /// What happened and what to do.
        message: String,
        /// Not before so much time has passed.
        after: Option<Duration>,
    },
    /// The job waits; the attempt is given back.
    Wait {
        /// The word.
        reason: Reason,
        /// What it waits for and what to do.
        message: String,
        /// How long.
        wait: Duration,
    },
    /// The job goes back as if it had not been taken.
    Release,
}

impl From<Verdict> for Settlement {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Done(done) => Self::Done(done),
            Verdict::Cancel(error) if error.reason() == Reason::Cancelled => Self::Cancelled,
            Verdict::Cancel(error) => Self::Fail { reason: error.reason(), message: error.message() },
            Verdict::RetryAfter(error) => {
                Self::Retry { reason: error.reason(), message: error.message(), after: error.retry_after() }
            }
            Verdict::Snooze { error, wait } => {
                Self::Wait { reason: error.reason(), message: error.message(), wait }
            }
            Verdict::Interrupted => Self::Release,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_the_verdict_of_its_class() {
        for reason in Reason::ALL {
            let verdict = Verdict::of(Err(Error::new(*reason, "it broke", "mend it")));
            let settlement = Settlement::from(verdict);
            let fits = match (reason, reason.class()) {
                (Reason::Interrupted | Reason::HostGone, _) => settlement == Settlement::Release,
                (Reason::Cancelled, _) => settlement == Settlement::Cancelled,
                (_, Class::Transient) => matches!(settlement, Settlement::Retry { .. }),
                (_, Class::Waiting) => matches!(settlement, Settlement::Wait { .. }),
                _ => matches!(settlement, Settlement::Fail { .. }),
            };
            assert!(fits, "{reason}: {settlement:?}");
        }
    }

    #[test]
    fn retry_after_and_hint_travel_along() {
        let wait = Some(Duration::from_secs(7));
        let error = Error::new(Reason::RateLimited, "too many requests", "wait").with_retry_after(wait);
        let expected = Settlement::Retry {
            reason: Reason::RateLimited,
            message: "too many requests; hint: wait".into(),
            after: wait,
        };
        assert_eq!(Settlement::from(Verdict::of(Err(error))), expected);
    }
}

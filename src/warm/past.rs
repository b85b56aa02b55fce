//! What became of the runs of schedules, for the report of the morning: also of those that asked for nothing.

use jiff::Timestamp;
use larder_jobs::Reason;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::{DropReason, Dropped};

/// Most runs that are remembered; the oldest go.
const MAX_RUNS: usize = 256;
/// Most dropped models of a run that are named.
const MAX_DROPPED: usize = 32;
/// Most characters of a text that somebody else may have written.
const MAX_TEXT: usize = 500;

/// How a run of a schedule ended, or how it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its jobs were asked for.
    Asked,
    /// All of them were another host's to ask for, and it has.
    Elsewhere,
    /// It could not be asked for so far, and is tried on.
    Trying,
    /// Not all of the manifest can be there, and it says that then nothing is asked for.
    Refused,
    /// The manifest cannot be read, or it was tried until it was too late.
    Failed,
}

impl Outcome {
    /// The word, as in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Elsewhere => "elsewhere",
            Self::Trying => "trying",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// Whether the night is not under way.
    pub const fn is_wrong(self) -> bool {
        matches!(self, Self::Trying | Self::Refused | Self::Failed)
    }
}

/// A model that a run did not ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeftOut {
    /// The model, as the manifest names it.
    pub model: String,
    /// Where it should have been; `null` if any host would have done.
    pub host: Option<String>,
    /// Why.
    pub reason: DropReason,
    /// The same in words.
    pub why: String,
}

/// One run of a schedule, as this host knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PastRun {
    /// The manifest's file, as the configuration names it.
    pub manifest: String,
    /// When it was due.
    #[schemars(with = "String")]
    pub due: Timestamp,
    /// When this was found.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// What its jobs were asked for as; `null` if the manifest could not be read.
    pub run: Option<String>,
    /// How it ended, or stands.
    pub outcome: Outcome,
    /// Why it was not asked for, a word of the table.
    pub reason: Option<String>,
    /// The same in words, with what to do.
    pub message: Option<String>,
    /// How many jobs this host asked for.
    pub jobs: u64,
    /// What was not asked for, since it could not be there; a run that is refused is so for the sake of these.
    pub dropped: Vec<LeftOut>,
    /// How many more of them there are.
    pub dropped_more: u64,
}

impl PastRun {
    /// A run of which nothing is known yet.
    pub fn new(manifest: String, due: Timestamp) -> Self {
        Self {
            manifest,
            due,
            at: due,
            run: None,
            outcome: Outcome::Trying,
            reason: None,
            message: None,
            jobs: 0,
            dropped: Vec::new(),
            dropped_more: 0,
        }
    }

    /// It came to this at `now`; `why` is a reason in words.
    #[must_use]
    pub fn ended(&self, outcome: Outcome, why: Option<(Reason, &str)>, now: Timestamp) -> Self {
        let (reason, message) = why.map(|(reason, text)| (reason.word().to_owned(), cut(text))).unzip();
        Self { at: now, outcome, reason, message, ..self.clone() }
    }

    /// Some more of its models are not asked for.
    pub fn leave_out<'a>(&mut self, dropped: impl IntoIterator<Item = &'a Dropped>) {
        for one in dropped {
            if self.dropped.len() == MAX_DROPPED {
                self.dropped_more += 1;
                continue;
            }
            self.dropped.push(LeftOut {
                model: cut(&one.model),
                host: one.host.as_ref().map(ToString::to_string),
                reason: one.reason,
                why: cut(&one.why),
            });
        }
    }

    /// How many models were not asked for.
    pub fn dropped(&self) -> u64 {
        self.dropped_more.saturating_add(self.dropped.len() as u64)
    }

    /// Whether somebody should look at it.
    pub fn is_wrong(&self) -> bool {
        self.outcome.is_wrong() || self.dropped() > 0
    }

    /// Adds it to those that are remembered, the oldest first, and says which are not any more. The same run again, after
    /// a restart, finds some of it there and other models late: what was told at first counts.
    pub fn remember(self, all: &mut Vec<Self>) -> Option<(Self, Vec<Self>)> {
        let place = all.iter().position(|one| (one.due, &one.manifest) == (self.due, &self.manifest));
        match place.map(|place| &mut all[place]) {
            Some(known) if known.run == self.run && !known.outcome.is_wrong() => return None,
            Some(known) => *known = self.clone(),
            None => {
                let place = all.partition_point(|one| one.due <= self.due);
                all.insert(place, self.clone());
            }
        }
        let too_many = all.len().saturating_sub(MAX_RUNS);
        Some((self, all.drain(..too_many).collect()))
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(day: i64, manifest: &str) -> PastRun {
        let due = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(24 * day);
        PastRun { run: Some(format!("warm/1/{due}")), ..PastRun::new(manifest.into(), due) }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut all = Vec::new();
        for day in (0..300).rev() {
            run(day, "a").remember(&mut all);
            run(day, "b").remember(&mut all);
        }
        assert_eq!(all.len(), MAX_RUNS);
        assert_eq!((all[0].due, all[255].due), (run(172, "a").due, run(299, "a").due), "the newest stay");
        let mut long = run(1, "a");
        let dropped = Dropped {
            entry: 0,
            also: Vec::new(),
            model: "a/b@main".into(),
            priority: 0,
            host: None,
            bytes: None,
            reason: DropReason::Unfit,
            why: "ä".repeat(9_999),
        };
        long.leave_out(std::iter::repeat_n(&dropped, 1_000));
        assert_eq!((long.dropped.len(), long.dropped()), (MAX_DROPPED, 1_000));
        assert_eq!(long.dropped[0].why.chars().count(), MAX_TEXT + 1);
        let told = long.ended(Outcome::Failed, Some((Reason::IoError, &"x".repeat(9_999))), long.due);
        assert!(serde_json::to_string(&told).expect("JSON").len() < 64 << 10);
    }

    #[test]
    fn the_first_success_of_a_run_counts_and_a_failure_is_made_good() {
        let (mut all, now) = (Vec::new(), Timestamp::UNIX_EPOCH);
        let again = |outcome| run(1, "a").ended(outcome, None, now);
        again(Outcome::Trying).remember(&mut all);
        PastRun { jobs: 2, ..again(Outcome::Asked) }.remember(&mut all);
        assert!(again(Outcome::Refused).remember(&mut all).is_none(), "it was asked for before");
        assert_eq!((all.len(), all[0].outcome, all[0].jobs), (1, Outcome::Asked, 2));
        let edited = PastRun { run: Some("warm/2".into()), ..again(Outcome::Refused) };
        edited.remember(&mut all);
        assert_eq!((all.len(), all[0].outcome), (1, Outcome::Refused), "another manifest since");
        assert!(all[0].is_wrong());
    }
}

//! Pre-warming: the manifest that says what should be there by morning, and the schedule that says when it is looked at.
//! Text in, wishes and times out: no I/O, no clock. The plan of the night itself is `plan`'s.

mod manifest;
mod past;
mod report;
mod run;
mod schedule;
mod view;

pub use manifest::{Deadline, Impossible, MAX_BYTES, MAX_MODELS, Manifest, Syntax, Wish};
pub use past::{LeftOut, Outcome, PastRun};
pub use report::{Evicted, Regret, Report, ReportRow};
pub use run::{Asked, Models, Night, Seen, Tally};
pub use schedule::{Config, Due, Schedule, is_tried_again};
pub use view::NightView;

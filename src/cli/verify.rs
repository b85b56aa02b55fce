//! `larder verify`: are the bytes in the cache still the right ones?

use indicatif::MultiProgress;
use larder_jobs::{Bandwidth, Job, JobView, ModelRef, State, Verify, Work};

use super::OK;
use super::output::{Output, files, note};
use super::stage::{How, finish};
use super::watch::unfinished;
use crate::config::Settings;
use crate::error::Result;

pub(super) async fn run(
    settings: Settings,
    model: Option<ModelRef>,
    speed: Option<Bandwidth>,
    detach: bool,
    output: &Output,
    bars: MultiProgress,
) -> Result<u8> {
    let want = Verify {
        repo: model.as_ref().map(|model| model.repo().clone()),
        revision: model.and_then(|model| model.revision().cloned()),
        max_bytes_per_second: speed,
    };
    let job = Job::new(Work::Verify(want));
    finish(settings, &job, How { detach, may_evict: false }, output, &bars, report).await
}

/// Prints what the reading found.
pub(super) fn report(view: &JobView, output: &Output) -> Result<u8> {
    if view.state != State::Done {
        return unfinished(view, output);
    }
    output.print(view, String::new)?;
    if !output.is_json() {
        note(&format!("{} in {} are right", output.size(view.bytes_done), files(view.files_done)));
    }
    Ok(OK)
}

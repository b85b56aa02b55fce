//! Following a job: bars or lines while it runs, then how it ended, in words and as an exit code.

use std::time::{Duration, Instant};

use indicatif::MultiProgress;
use larder_jobs::{ChosenVariant, Class, EvictedModel, JobId, JobView, Kind, Reason, State};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::client::Client;
use super::output::{Output, at, files, model, note};
use super::progress::Progress;
use super::{OK, TRY_LATER};
use crate::error::{Error, Result};

/// How often the job is looked at: at first often, since many a model is there already.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a queue that is away is asked again.
const LOOK_AWAY: Duration = Duration::from_secs(1);
/// How long a waiting command believes in a hub that a daemon cannot reach.
const PATIENCE: Duration = Duration::from_secs(10);

/// How watching a job ended.
pub(super) enum Watched {
    /// The job ended.
    Ended(JobView),
    /// The person or the system asked this command to stop.
    Asked(JobView, Ask),
    /// The owner does not answer any more.
    OwnerLeft,
    /// The job waits for something that a waiting person should know.
    Blocked(JobView),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Interrupt,
    Terminate,
}

/// Looks at the job until it ends or somebody wants to stop.
pub(super) async fn watch(
    client: &Client,
    id: JobId,
    output: Output,
    bars: &MultiProgress,
    signals: &mut Signals,
) -> Result<Watched> {
    let begun = Instant::now();
    let mut progress = Progress::new(bars, output);
    let mut pause = LOOK_FIRST;
    let mut away = false;
    let watched = loop {
        let view = match client.job(id).await {
            Ok(view) => view,
            Err(error) if error.reason() == Reason::QueueUnavailable && client.is_owner() => {
                break Watched::OwnerLeft;
            }
            // The job is in a queue that comes back, and a worker may be at it all the while.
            Err(error) if error.reason() == Reason::QueueUnavailable && client.fleet().is_some() => {
                if !std::mem::replace(&mut away, true) {
                    bars.suspend(|| note(&format!("{error}; waiting for it")));
                }
                tokio::select! {
                    _ = signals.next() => {
                        return Err(error.or(&format!("see what became of the job: larder jobs show {id}")));
                    }
                    () = tokio::time::sleep(LOOK_AWAY) => continue,
                }
            }
            Err(error) => {
                progress.clear();
                return Err(error);
            }
        };
        away = false;
        progress.show(&view);
        if view.state.is_terminal() {
            break Watched::Ended(view);
        }
        if is_blocked(&view, client.is_remote(), begun.elapsed()) {
            break Watched::Blocked(view);
        }
        tokio::select! {
            ask = signals.next() => break Watched::Asked(view, ask),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LOOK_EVERY),
        }
    };
    progress.clear();
    Ok(watched)
}

/// Whether the job waits for something that a person in front of it cannot wait for.
fn is_blocked(view: &JobView, remote: bool, waited: Duration) -> bool {
    let (State::Waiting, Some(reason)) = (view.state, view.reason) else { return false };
    match reason.class() {
        Class::Transient => {
            remote && reason == Reason::SourceUnavailable && view.commit.is_none() && waited >= PATIENCE
        }
        _ => true,
    }
}

/// Prints how the jobs of a batch ended.
fn batch(view: &JobView, output: &Output) -> Result<u8> {
    output.print(view, || super::jobs::children(view, *output))?;
    match view.reason.filter(|_| !matches!(view.state, State::Ready | State::Done)) {
        None => Ok(OK),
        Some(reason) => {
            if let Some(message) = view.message.as_ref().filter(|_| !output.is_json()) {
                note(message);
            }
            Ok(reason.exit_code())
        }
    }
}

/// Prints how the job ended.
pub(super) fn report(view: &JobView, output: &Output) -> Result<u8> {
    if !view.children.is_empty() {
        return batch(view, output);
    }
    if view.kind == Kind::Evict {
        return super::evict::report(view, output);
    }
    if view.kind == Kind::Verify {
        return super::verify::report(view, output);
    }
    if matches!(view.kind, Kind::Profile | Kind::Preload) {
        return super::profile::report(view, output);
    }
    if view.state == State::Ready {
        output.print(view, || view.path.clone().unwrap_or_default())?;
        if !output.is_json() {
            note(&success(view, *output));
            if let Some(chosen) = view.chosen.as_deref() {
                note(&variant(view, chosen));
            }
            if let Some(gone) = evicted(view, *output) {
                note(&format!("evicted to make room: {gone}"));
            }
            if let Some(back) = &view.came_back {
                note(&format!(
                    "it had been evicted at {}: the disk is small for what is asked for",
                    at(back.evicted_at)
                ));
            }
        }
        return Ok(OK);
    }
    unfinished(view, output)
}

/// Never silently: which variant is staged of a model that was named, and why.
fn variant(view: &JobView, chosen: &ChosenVariant) -> String {
    let ChosenVariant { repo, variant, is_fallback, why } = chosen;
    if *is_fallback {
        format!("instead of {} as it is published: {variant} of {repo} ({why})", model(view))
    } else {
        format!("as it is published ({why})")
    }
}

/// What went, or would go, by name and size.
pub(super) fn evicted(view: &JobView, output: Output) -> Option<String> {
    let name =
        |gone: &EvictedModel| format!("{}@{} ({})", gone.repo, gone.commit.short(), output.size(gone.bytes));
    let names: Vec<_> = view.evicted.iter().map(name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn success(view: &JobView, output: Output) -> String {
    let model = model(view);
    let commit = view.commit.as_ref().map_or("", |commit| commit.short());
    let total = output.size(view.bytes_total.unwrap_or(view.bytes_done));
    let files = files(view.files_done);
    if view.bytes_fetched == 0 {
        return format!("{model} ({commit}) was there: {total} in {files}");
    }
    let took =
        view.finished_at.zip(view.started_at).map(|(end, start)| end.duration_since(start).as_millis());
    let took = took.and_then(|millis| u64::try_from(millis).ok()).filter(|millis| *millis > 0);
    let speed = took.map(|millis| {
        let rate = view.bytes_fetched.saturating_mul(1_000) / millis;
        format!(" in {:.1?}, {}/s", Duration::from_millis(millis), output.size(rate))
    });
    format!(
        "{model} ({commit}) is staged and verified: {total} in {files}, {} fetched{}",
        output.size(view.bytes_fetched),
        speed.unwrap_or_default()
    )
}

/// Prints a job that waits. Whatever it waits for may come, also what would be refused in a plan.
pub(super) fn blocked(view: &JobView, output: &Output) -> Result<u8> {
    unfinished(view, output).map(|_| TRY_LATER)
}

/// Prints a job that did not reach its end, and returns the exit code of its reason.
pub(super) fn unfinished(view: &JobView, output: &Output) -> Result<u8> {
    if output.is_json() {
        output.print(view, String::new)?;
    }
    let reason = view.reason.unwrap_or(if view.state == State::Cancelled {
        Reason::Cancelled
    } else {
        Reason::Interrupted
    });
    let message = view.message.clone().unwrap_or_else(|| match reason {
        Reason::Cancelled => "stopped; hint: run the same command to go on, fetched bytes are kept".into(),
        _ => "not finished yet; hint: run the same command to go on, fetched bytes are kept".into(),
    });
    let (what, hint) = message.split_once("; hint: ").unwrap_or((&message, ""));
    let model = model(view);
    let names_it = view.repo.as_ref().is_some_and(|repo| what.contains(repo.as_str()));
    let place = if names_it || view.repo.is_none() { String::new() } else { format!("{model}: ") };
    note(&format!("error: {place}{what} [{reason}]"));
    if !hint.is_empty() {
        note(&format!(" hint: {hint}"));
    }
    if reason == Reason::SourceUnavailable && view.commit.is_none() {
        note(" hint: to see larder work without a network: cargo run --release --example demo");
    }
    Ok(reason.exit_code())
}

/// The signals that ask this command to stop.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        let catch =
            |kind| signal(kind).map_err(|error| Error::internal(format!("cannot catch signals: {error}")));
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.interrupt.recv() => Ask::Interrupt,
            _ = self.terminate.recv() => Ask::Terminate,
        }
    }
}

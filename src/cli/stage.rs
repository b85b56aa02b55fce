//! `larder stage`: ask for a model and wait until it is there.
//!
//! The job goes to the owner of the state folder, or to `api.url`; with nobody there this process becomes the
//! owner and does it itself. If the owner leaves in mid-job, this process takes its place: the job is durable
//! and its bytes are kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::MultiProgress;
use larder_jobs::{Class, Job, JobId, JobView, Reason, State};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::args::Stage;
use super::client::Client;
use super::output::{Output, files, note};
use super::progress::Progress;
use super::{OK, TRY_LATER, jobs};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::queue::Scope;
use crate::serve::House;

/// How often the job is looked at: at first often, since many a model is there already.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a waiting command believes in a hub that a daemon cannot reach.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an owner that went away may take to come back before its place is taken.
const OWNER_BACK: Duration = Duration::from_secs(3);
/// How often the place of an owner is tried to be taken, when somebody else is faster.
const TAKEOVERS: usize = 5;

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

pub(super) async fn run(
    settings: Settings,
    stage: Stage,
    output: &Output,
    bars: MultiProgress,
) -> Result<u8> {
    let detach = stage.detach;
    let job = stage.job()?;
    let mut signals = Signals::new()?;
    let (mut last, mut joined) = (None, None);
    for _ in 0..TAKEOVERS {
        let watched = match Client::reach(&settings).await? {
            Some(client) if detach => return detached(&client, &job, output).await,
            Some(client) => there(&client, &job, &mut joined, *output, &bars, &mut signals).await?,
            None if detach => return Err(nobody(&settings)),
            None => match here(settings.clone(), &job, joined, *output, &bars, &mut signals).await {
                Err(error) if error.reason() == Reason::QueueUnavailable => {
                    last = Some(error);
                    Watched::OwnerLeft
                }
                result => result?,
            },
        };
        match watched {
            Watched::Ended(view) => return report(&view, output),
            Watched::Asked(view, _) => return unfinished(&view, output),
            Watched::Blocked(view) => return blocked(&view, output),
            Watched::OwnerLeft => wait_for_owner(&settings).await?,
        }
    }
    Err(last.unwrap_or_else(|| nobody(&settings)))
}

fn nobody(settings: &Settings) -> Error {
    Error::new(
        Reason::QueueUnavailable,
        format!("no larder runs for {}, so nobody would do a detached job", settings.state_dir.display()),
        "start one with larder serve, or leave out --detach",
    )
}

async fn wait_for_owner(settings: &Settings) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < OWNER_BACK && Client::reach(settings).await?.is_none() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn detached(client: &Client, job: &Job, output: &Output) -> Result<u8> {
    let accepted = client.enqueue(job).await?;
    let (id, state) = (accepted.job.id, accepted.job.state);
    output.print(&json!({"id": id, "state": state, "created": accepted.created}), || id.to_string())?;
    if !output.is_json() {
        let what = if accepted.created { "accepted" } else { "joined the job that does the same" };
        note(&format!("{what}; follow it with: larder jobs watch {id}"));
    }
    Ok(OK)
}

/// The job that an owner did and that left before this command saw the end of it; a cancelled one is still
/// wanted here.
async fn ended(client: &Client, joined: Option<JobId>) -> Option<JobView> {
    let view = client.job(joined?).await.ok()?;
    matches!(view.state, State::Ready | State::Failed).then_some(view)
}

/// Asks another larder and waits; `joined` is the job that an earlier owner had.
async fn there(
    client: &Client,
    job: &Job,
    joined: &mut Option<JobId>,
    output: Output,
    bars: &MultiProgress,
    signals: &mut Signals,
) -> Result<Watched> {
    if let Some(view) = ended(client, *joined).await {
        return Ok(Watched::Ended(view));
    }
    let id = client.enqueue(job).await?.job.id;
    *joined = Some(id);
    let watched = watch(client, id, output, bars, signals).await?;
    if let Watched::Asked(..) | Watched::Blocked(_) = watched {
        note(&format!("the job goes on in the running larder; follow it with: larder jobs watch {id}"));
    }
    Ok(watched)
}

/// Does the job in this process, unless an owner that left has done it.
async fn here(
    settings: Settings,
    job: &Job,
    joined: Option<JobId>,
    output: Output,
    bars: &MultiProgress,
    signals: &mut Signals,
) -> Result<Watched> {
    let house = Arc::new(House::open(settings, Scope::Own).await?);
    let client = Client::here(Arc::clone(&house));
    if let Some(view) = ended(&client, joined).await {
        return Ok(Watched::Ended(view));
    }
    let listeners = house.listen().await?;
    let id = client.enqueue(job).await?.job.id;
    let drain = CancellationToken::new();
    let running = {
        let (house, drain) = (Arc::clone(&house), drain.clone());
        tokio::spawn(async move { house.run(listeners, drain).await })
    };
    let mut watched = watch(&client, id, output, bars, signals).await;
    // A person who presses Ctrl-C does not want the job any more; a system that says SIGTERM does, later.
    if let Ok(Watched::Asked(_, Ask::Interrupt) | Watched::Blocked(_)) = watched {
        client.cancel(id, None).await?;
    }
    drain.cancel();
    running.await.map_err(|died| Error::internal(format!("the worker died: {died}")))?;
    if let Ok(Watched::Asked(view, _) | Watched::Blocked(view)) = &mut watched {
        let why = (view.reason, view.message.clone());
        *view = client.job(id).await?;
        if view.reason.is_none() || view.state == State::Cancelled && why.0.is_some() {
            (view.reason, view.message) = why;
        }
    }
    watched
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
    let watched = loop {
        let view = match client.job(id).await {
            Ok(view) => view,
            Err(error) if error.reason() == Reason::QueueUnavailable && client.is_owner() => {
                break Watched::OwnerLeft;
            }
            Err(error) => {
                progress.clear();
                return Err(error);
            }
        };
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

/// Prints how the job ended.
pub(super) fn report(view: &JobView, output: &Output) -> Result<u8> {
    if view.state == State::Ready {
        output.print(view, || view.path.clone().unwrap_or_default())?;
        if !output.is_json() {
            note(&success(view, *output));
        }
        return Ok(OK);
    }
    unfinished(view, output)
}

fn success(view: &JobView, output: Output) -> String {
    let model = jobs::model(view);
    let commit = view.commit.as_ref().map_or("", |commit| commit.short());
    let total = output.size(view.bytes_total.unwrap_or(view.bytes_done));
    let files = files(view.files_done);
    if view.bytes_fetched == 0 {
        return format!("{model} ({commit}) was there: {total} in {files}");
    }
    let took =
        view.finished_at.zip(view.started_at).map(|(end, start)| end.duration_since(start).as_secs_f64());
    let speed = took.filter(|seconds| *seconds > 0.0).map(|seconds| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let rate = (view.bytes_fetched as f64 / seconds) as u64;
        format!(" in {seconds:.1} s, {}/s", output.size(rate))
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
fn unfinished(view: &JobView, output: &Output) -> Result<u8> {
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
    let model = jobs::model(view);
    let names_it = view.repo.as_ref().is_some_and(|repo| what.contains(repo.as_str()));
    let place = if names_it { String::new() } else { format!("{model}: ") };
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

//! `larder stage`: ask for a model and wait until it is there.
//!
//! The job goes to the owner of the state folder, or to `api.url`, or into the fleet's queue; with none of them
//! this process becomes the owner and does it itself. If the owner leaves in mid-job, this process takes its place: the job is durable
//! and its bytes are kept.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::MultiProgress;
use larder_jobs::client::{Want, near_hosts};
use larder_jobs::{Hosts, Job, JobId, JobView, Reason, State, Target};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::OK;
use super::args::Stage;
use super::client::Client;
use super::evaluate;
use super::output::{Output, note};
use super::watch::{Ask, Signals, Watched, blocked, report, unfinished, watch};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::queue::Scope;
use crate::serve::{self, House};

/// How long an owner that went away may take to come back before its place is taken.
const OWNER_BACK: Duration = Duration::from_secs(3);
const OWNER_LOOK: Duration = Duration::from_millis(100);
/// How often the place of an owner is tried to be taken, when somebody else is faster.
const TAKEOVERS: usize = 5;

pub(super) async fn run(
    settings: Settings,
    stage: Stage,
    output: &Output,
    bars: MultiProgress,
) -> Result<u8> {
    let (detach, may_evict) = (stage.detach, stage.evict);
    let job = stage.job()?;
    finish(settings, &job, How { detach, may_evict }, output, &bars, report).await
}

/// `stage --plan`: the jobs of an evaluation plan, one after the other in its order; all are tried, and the first that
/// failed says with which exit code.
pub(super) async fn run_plan(
    settings: Settings,
    stage: &Stage,
    output: &Output,
    bars: MultiProgress,
) -> Result<u8> {
    let text = match stage.plan.as_deref() {
        Some(path) if path.as_os_str() != "-" => {
            std::fs::read_to_string(path).map_err(|error| Error::io("read the plan", path, &error))?
        }
        _ => std::io::read_to_string(std::io::stdin())
            .map_err(|error| Error::io("read the plan from", Path::new("stdin"), &error))?,
    };
    let how = How { detach: stage.detach, may_evict: stage.evict };
    let mut code = OK;
    for mut job in evaluate::jobs(&text)? {
        stage.also(&mut job)?;
        let done = finish(settings.clone(), &job, how, output, &bars, report).await;
        let own = done.unwrap_or_else(|error| {
            output.failure(&error);
            error.reason().exit_code()
        });
        code = if code == OK { own } else { code };
    }
    Ok(code)
}

/// How a command does its job.
#[derive(Clone, Copy, Default)]
pub(super) struct How {
    /// Return once the job is accepted.
    pub(super) detach: bool,
    /// Room may be made for it also if no daemon does it.
    pub(super) may_evict: bool,
}

/// Has a job done by whoever can, waits for it, and lets `report` print how it ended.
pub(super) async fn finish(
    settings: Settings,
    job: &Job,
    how: How,
    output: &Output,
    bars: &MultiProgress,
    report: impl Fn(&JobView, &Output) -> Result<u8>,
) -> Result<u8> {
    let mut signals = Signals::new()?;
    let (mut last, mut joined) = (None, None);
    for _ in 0..TAKEOVERS {
        let watched = match Client::reach(&settings).await? {
            Some(client) if how.detach => return detached(&settings, &client, job, output).await,
            Some(client) => there(&settings, &client, job, &mut joined, *output, bars, &mut signals).await?,
            None if how.detach => return Err(nobody(&settings)),
            None => match here(settings.clone(), job, how, joined, *output, bars, &mut signals).await {
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

pub(super) fn nobody(settings: &Settings) -> Error {
    Error::new(
        Reason::QueueUnavailable,
        format!("no larder runs for {}, so nobody would do a detached job", settings.state_dir.display()),
        "start one with larder serve, or leave out --detach",
    )
}

/// What is known of the job's size, where this process chooses a host by it. Without an answer of the hub it is chosen
/// by the rest.
async fn size(settings: &Settings, client: &Client, job: &Job) -> Want {
    if client.fleet().is_none() || !matches!(job.common.hosts, Hosts::Best(_)) {
        return Want::default();
    }
    let hub = Hub::new(&settings.config.hub, settings.tokens.clone());
    match hub.and_then(|hub| serve::planner(settings, hub, true)) {
        Ok(context) => context.scout.size(job).await,
        Err(error) => {
            tracing::debug!(%error, "a host is chosen without the size of the model");
            Want::default()
        }
    }
}

/// In a fleet a job is for a host that need not be this one; one that nobody would take is not asked for.
async fn somebody_takes(client: &Client, job: &Job) -> Result<()> {
    let Some(fleet) = client.fleet() else { return Ok(()) };
    // Who the best, all or those with a label are is found out when the job is asked for.
    let Some(target) = fleet.target(job)? else { return Ok(()) };
    if fleet.is_served(&target).await? {
        return Ok(());
    }
    const ALONE: &str = "or stage into this machine's cache without the fleet: --set queue.url=";
    let (what, hint) = match &target {
        Target::Host(name) => {
            let hosts = fleet.hosts().await?;
            // A name that the fleet does not know is refused with those that it does.
            let is_named = matches!(job.common.hosts, Hosts::Named(_)) && !hosts.is_empty();
            if is_named && !hosts.iter().any(|host| host.name == *name && host.seen_at.is_some()) {
                let what = format!("no host of the fleet is called {name}");
                let hint = format!("{}, {ALONE}", near_hosts(name, &hosts));
                return Err(Error::new(Reason::InvalidRequest, what, hint));
            }
            (
                format!(
                    "no larder has been there as host {name} within the last minute, so nobody would stage it"
                ),
                format!(
                    "start larder serve on that host, name another with --hosts (see larder hosts), {ALONE}"
                ),
            )
        }
        Target::Pool | Target::Only => (
            "no larder of the fleet has been there within the last minute, so nobody would stage it"
                .to_owned(),
            format!("start larder serve on a host, {ALONE}"),
        ),
    };
    Err(Error::new(Reason::QueueUnavailable, what, hint))
}

async fn wait_for_owner(settings: &Settings) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < OWNER_BACK && Client::reach(settings).await?.is_none() {
        tokio::time::sleep(OWNER_LOOK).await;
    }
    Ok(())
}

async fn detached(settings: &Settings, client: &Client, job: &Job, output: &Output) -> Result<u8> {
    somebody_takes(client, job).await?;
    let accepted = client.enqueue(job, size(settings, client, job).await).await?;
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
    matches!(view.state, State::Ready | State::Done | State::Failed).then_some(view)
}

/// Asks another larder and waits; `joined` is the job that an earlier owner had.
async fn there(
    settings: &Settings,
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
    somebody_takes(client, job).await?;
    let id = client.enqueue(job, size(settings, client, job).await).await?.job.id;
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
    how: How,
    joined: Option<JobId>,
    output: Output,
    bars: &MultiProgress,
    signals: &mut Signals,
) -> Result<Watched> {
    let house = House::open(settings, Scope::Own).await?;
    let house = Arc::new(if how.may_evict { house.evicting() } else { house });
    let client = Client::here(Arc::clone(&house));
    if let Some(view) = ended(&client, joined).await {
        return Ok(Watched::Ended(view));
    }
    let listeners = house.listen().await?;
    let id = client.enqueue(job, Want::default()).await?.job.id;
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

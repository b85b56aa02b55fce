//! Nights: the plan of a manifest for whoever asks, and manifests on their schedules.
//!
//! In a fleet every host keeps the same schedule. Each run has a name, made of the manifest's text and the time at which
//! it was due. One host plans what is for the fleet and asks for it; the others stand by until it has, so that somebody
//! takes over if it does not come to that. What the manifest wants of whichever host reads it, each asks for itself. Each
//! job has a key made of the run; the queue answers a key that it knows with the job that it has. So a run asks for each
//! job once, and a run that was missed needs no record to be made up for.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use larder_jobs::client::{Queue, Run, Title};
use larder_jobs::{HostName, Hosts, JobId, Reason};
use sha2::Digest as _;
use tokio_util::sync::CancellationToken;

use super::runs::{Runs, asked};
use crate::api::{Api, Warmer};
use crate::error::{Error, Result, blocking};
use crate::plan::Finish;
use crate::queue::JobStore;
use crate::warm::{Config, Due, MAX_BYTES, Manifest, Syntax};
use crate::worker::{self, Context, Occasion};

/// Longest sleep, so that a clock that is set is noticed.
const LOOK: Duration = Duration::from_secs(60);
/// The pause after a run that failed for a reason that may pass.
const AGAIN: Duration = Duration::from_secs(60);
/// Runs are tried so often.
const TRIES: usize = 30;
/// A run is tried, and known to have been asked for, at least so long: a short grace is about runs that were missed.
const KNOWN: Duration = Duration::from_secs(3_600);
/// How long one host has to plan and to ask before another one may.
const TURN: Duration = Duration::from_secs(600);
/// How often those who stand by look.
const STAND_BY: Duration = Duration::from_secs(15);
/// Over so long the hosts of a fleet ask the hub what they need for themselves.
const SPREAD: Duration = Duration::from_secs(60);
/// What a host of a small fleet may wait for that.
const SPREAD_BY_HOST: Duration = Duration::from_millis(250);

/// What a manifest would do, for the API.
pub(super) fn warmer(context: Context, host: HostName, fleet: Option<Queue>) -> Warmer {
    Arc::new(move |manifest, stop| {
        let (context, host, fleet) = (context.clone(), host.clone(), fleet.clone());
        Box::pin(async move {
            let occasion = Occasion { host, run: None, now: Timestamp::now(), fleet };
            worker::night(&context, &manifest, &occasion, &stop).await
        })
    })
}

/// One manifest on its schedule.
pub(super) struct Nightly {
    config: Config,
    context: Context,
    queue: Arc<dyn JobStore>,
    host: HostName,
    fleet: Option<Queue>,
    runs: Runs,
}

impl Nightly {
    pub(super) fn new(
        config: Config,
        context: Context,
        queue: Arc<dyn JobStore>,
        api: &Api,
        runs: Runs,
    ) -> Self {
        Self { config, context, queue, host: api.portrait.name.clone(), fleet: api.fleet.clone(), runs }
    }

    /// Asks for the night's jobs whenever they are due.
    pub(super) async fn run_until(self, stop: CancellationToken) {
        let Ok(schedule) = self.config.due() else { return };
        let grace = SignedDuration::try_from(self.config.grace.get()).unwrap_or(SignedDuration::MAX);
        let mut ran = None;
        loop {
            let now = Timestamp::now();
            match schedule.due(ran, grace, now) {
                Some(Due::Missed(due)) => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.try_run(due) => ran = Some(due),
                    }
                }
                Some(Due::At(due)) => {
                    let wait = Duration::try_from(due.duration_since(now)).unwrap_or_default().min(LOOK);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                None => return,
            }
        }
    }

    fn known(&self) -> Duration {
        self.config.grace.get().max(KNOWN)
    }

    async fn try_run(&self, due: Timestamp) {
        tokio::join!(self.try_part(due, Part::Own), self.try_part(due, Part::Fleet));
    }

    /// Until the part has been asked for, by whichever host, or it is too late.
    async fn try_part(&self, due: Timestamp, part: Part) {
        let path = self.config.manifest.display().to_string();
        let (latest, mut failed) = (due.checked_add(self.known()).unwrap_or(Timestamp::MAX), 0);
        while failed < TRIES && Timestamp::now() < latest {
            match self.run(due, part).await {
                Ok(true) => return,
                Ok(false) => tokio::time::sleep(STAND_BY).await,
                Err(error) if error.reason().is_transient() => {
                    tracing::warn!(manifest = path, %due, %error, "a scheduled manifest cannot be asked for yet; trying on");
                    failed += 1;
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => {
                    return tracing::error!(manifest = path, %due, %error, hint = error.hint(), "a scheduled manifest is not asked for");
                }
            }
        }
        tracing::error!(manifest = path, %due, failed, "a scheduled manifest is given up");
    }

    /// Asks for the part, if that is this host's to do; whether it has been asked for.
    async fn run(&self, due: Timestamp, part: Part) -> Result<bool> {
        let path = self.config.manifest.clone();
        let registry = self.context.scout.clone();
        let (mut manifest, name) = blocking(move || {
            let text = read(&path)?;
            let digest = hex::encode(&sha2::Sha256::digest(&text)[..8]);
            let manifest = Manifest::read(&text, Syntax::of(&path), |name| registry.registry().model(name))?;
            Ok((manifest, format!("warm/{digest}/{due}")))
        })
        .await?;
        let whose = |hosts: &Hosts| if *hosts == Hosts::This { Part::Own } else { Part::Fleet };
        // Without a fleet all of it is for this host.
        manifest.wishes.retain(|wish| part == self.fleet.as_ref().map_or(Part::Own, |_| whose(&wish.hosts)));
        if manifest.wishes.is_empty() {
            return Ok(true);
        }
        match (&self.fleet, part) {
            (Some(fleet), Part::Fleet) => match fleet.take_run(&name, &self.host, TURN).await? {
                Run::Mine => {
                    if let Err(error) = self.ask(&manifest, part, name.clone(), due).await {
                        // Another host may be able to, with another token or another GPU.
                        fleet.leave_run(&name, &self.host).await?;
                        return Err(error);
                    }
                    fleet.end_run(&name, self.known()).await?;
                    Ok(true)
                }
                Run::Taken(_) => Ok(false),
                Run::Ended => Ok(true),
            },
            (fleet, _) => {
                if let Some(fleet) = fleet {
                    tokio::time::sleep(moment(&self.host, fleet.present().await?)).await;
                }
                self.ask(&manifest, part, name, due).await.map(|()| true)
            }
        }
    }

    /// Plans the night and asks for its jobs.
    async fn ask(&self, manifest: &Manifest, part: Part, run: String, due: Timestamp) -> Result<()> {
        let path = self.config.manifest.display();
        let note = |run, plan: &_, batch| {
            self.runs.note(path.to_string(), part.word(), asked(run, due, plan, batch));
        };
        let (host, fleet) = (self.host.clone(), self.fleet.clone());
        let occasion = Occasion { host, run: Some(run.clone()), now: Timestamp::now(), fleet };
        let view = worker::night(&self.context, manifest, &occasion, &CancellationToken::new()).await?;
        for note in &view.notes {
            tracing::warn!(manifest = %path, "{note}");
        }
        for dropped in &view.plan.dropped {
            tracing::warn!(model = %dropped.model, "not there by the deadline: {}", dropped.why);
        }
        if view.jobs.is_empty() {
            note(run.clone(), &view.plan, None);
        }
        if view.plan.finishes == Finish::WillNot && view.jobs.is_empty() {
            return Err(Error::new(
                Reason::InvalidRequest,
                "not all of the manifest can be there by its deadline, and impossible = \"refuse\"",
                "see larder warm MANIFEST --dry-run for what to drop, or set impossible = \"warn\"",
            ));
        }
        let jobs = view.jobs.len();
        if jobs == 0 {
            return Ok(());
        }
        // No key for the whole: every host of the fleet may ask for itself; the jobs have keys of their own.
        let title = Title {
            id: JobId::random(Timestamp::now()),
            requested_by: Some("warm".into()),
            idempotency_key: None,
            name: Some(run.clone()),
            job: None,
            asks: String::new(),
            notify: None,
        };
        let (created, batch) = self.queue.enqueue_all(title, view.jobs).await?;
        note(run, &view.plan, Some(batch));
        tracing::info!(manifest = %path, %due, jobs, %batch, created, "a scheduled manifest is asked for");
        Ok(())
    }
}

/// What of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// What it wants of whichever host reads it: each asks for itself.
    Own,
    /// What it wants of the fleet: one host asks.
    Fleet,
}

impl Part {
    const fn word(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Fleet => "fleet",
        }
    }
}

/// When a host of so many asks the hub, always the same for one name, so that not all of them ask at once.
fn moment(host: &HostName, hosts: u32) -> Duration {
    let digest = sha2::Sha256::digest(host.as_str());
    let part = f64::from(u16::from_be_bytes([digest[0], digest[1]])) / f64::from(u16::MAX);
    SPREAD_BY_HOST.saturating_mul(hosts).min(SPREAD).mul_f64(part)
}

/// The text of a manifest. Blocks.
///
/// # Errors
/// `io_error`; `invalid_request` for a file that is too large or no text.
fn read(path: &std::path::Path) -> Result<String> {
    use std::io::Read as _;
    let io = |error: std::io::Error| Error::io("read the manifest", path, &error);
    let file = std::fs::File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    // One byte more, so that whoever reads it sees that it is too long.
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    String::from_utf8(bytes).map_err(|_| {
        Error::new(
            Reason::InvalidRequest,
            format!("the manifest {} is no UTF-8 text", path.display()),
            "write it in TOML or YAML",
        )
    })
}

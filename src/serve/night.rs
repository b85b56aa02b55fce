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
            let view = worker::night(&context, &manifest, &occasion, &stop).await?;
            serde_json::to_value(&view).map_err(|error| Error::internal(error.to_string()))
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
}

impl Nightly {
    pub(super) fn new(config: Config, context: Context, queue: Arc<dyn JobStore>, api: &Api) -> Self {
        Self { config, context, queue, host: api.portrait.name.clone(), fleet: api.fleet.clone() }
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

    async fn try_run(&self, due: Timestamp) {
        let path = self.config.manifest.display().to_string();
        let (mut failed, mut own_asked) = (0, false);
        while failed < TRIES {
            match self.run(due, &mut own_asked).await {
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
        tracing::error!(manifest = path, %due, "a scheduled manifest is given up after {TRIES} tries");
    }

    /// Asks for what is this host's to ask for, of what only itself needs unless that was asked for; whether all of the run
    /// has been.
    async fn run(&self, due: Timestamp, own_asked: &mut bool) -> Result<bool> {
        let path = self.config.manifest.clone();
        let registry = self.context.scout.clone();
        let (manifest, name) = blocking(move || {
            let text = read(&path)?;
            let digest = hex::encode(&sha2::Sha256::digest(&text)[..8]);
            let manifest = Manifest::read(&text, Syntax::of(&path), |name| registry.registry().model(name))?;
            Ok((manifest, format!("warm/{digest}/{due}")))
        })
        .await?;
        let is_own = |hosts: &Hosts| *hosts == Hosts::This;
        let for_fleet = manifest.wishes.iter().any(|wish| !is_own(&wish.hosts));
        let for_own = manifest.wishes.iter().any(|wish| is_own(&wish.hosts)) && !*own_asked;
        let Some(fleet) = self.fleet.as_ref() else { return self.ask(&manifest, name, due, |_| true).await };
        let turn = if for_fleet { fleet.take_run(&name, &self.host, TURN).await? } else { Run::Ended };
        if for_own {
            tokio::time::sleep(moment(&self.host, fleet.hosts().await?.len())).await;
        }
        match turn {
            Run::Mine => {
                let asked = self.ask(&manifest, name.clone(), due, |hosts| for_own || !is_own(hosts)).await;
                *own_asked = asked.is_ok();
                // Also one that nobody can ask for is over: others would find the same.
                if asked.as_ref().map_or_else(|error| !error.reason().is_transient(), |_| true) {
                    fleet.end_run(&name, self.config.grace.get()).await?;
                }
                asked
            }
            Run::Taken(_) | Run::Ended => {
                if for_own {
                    self.ask(&manifest, name, due, is_own).await?;
                    *own_asked = true;
                }
                Ok(turn == Run::Ended)
            }
        }
    }

    /// Plans the night and asks for those of its jobs that are for such hosts.
    async fn ask(
        &self,
        manifest: &Manifest,
        run: String,
        due: Timestamp,
        whose: impl Fn(&Hosts) -> bool,
    ) -> Result<bool> {
        let path = self.config.manifest.display();
        let (host, fleet) = (self.host.clone(), self.fleet.clone());
        let occasion = Occasion { host, run: Some(run.clone()), now: Timestamp::now(), fleet };
        let mut view = worker::night(&self.context, manifest, &occasion, &CancellationToken::new()).await?;
        for note in &view.notes {
            tracing::warn!(manifest = %path, "{note}");
        }
        for dropped in &view.plan.dropped {
            tracing::warn!(model = %dropped.model, "not there by the deadline: {}", dropped.why);
        }
        if view.plan.finishes == Finish::WillNot && view.jobs.is_empty() {
            return Err(Error::new(
                Reason::InvalidRequest,
                "not all of the manifest can be there by its deadline, and impossible = \"refuse\"",
                "see larder warm MANIFEST --dry-run for what to drop, or set impossible = \"warn\"",
            ));
        }
        view.jobs.retain(|job| whose(&job.common.hosts));
        let jobs = view.jobs.len();
        if jobs == 0 {
            return Ok(true);
        }
        // No key for the whole: every host of the fleet may ask for itself; the jobs have keys of their own.
        let title = Title {
            id: JobId::random(Timestamp::now()),
            requested_by: Some("warm".into()),
            idempotency_key: None,
            name: Some(run),
            job: None,
        };
        let (created, batch) = self.queue.enqueue_all(title, view.jobs).await?;
        tracing::info!(manifest = %path, %due, jobs, %batch, created, "a scheduled manifest is asked for");
        Ok(true)
    }
}

/// When a host of so many asks the hub, always the same for one name, so that not all of them ask at once.
fn moment(host: &HostName, hosts: usize) -> Duration {
    let digest = sha2::Sha256::digest(host.as_str());
    let part = f64::from(u16::from_be_bytes([digest[0], digest[1]])) / f64::from(u16::MAX);
    let hosts = u32::try_from(hosts).unwrap_or(u32::MAX);
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

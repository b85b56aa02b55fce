//! Nights: the plan of a manifest for whoever asks, and manifests on their schedules.
//!
//! In a fleet every host keeps the same schedule. Each run has a name, made of the manifest's text and the time at which
//! it was due, and each job of it a key made of that; the queue answers a key that it knows with the job that it has. So
//! a run asks for each job once, whichever hosts are there, and a run that was missed needs no record to be made up for.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use larder_jobs::client::{Queue, Title};
use larder_jobs::{HostName, JobId, Reason};
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
        let manifest = self.config.manifest.display().to_string();
        for _ in 0..TRIES {
            match self.run(due).await {
                Ok(()) => return,
                Err(error) if error.reason().is_transient() => {
                    tracing::warn!(%manifest, %due, %error, "a scheduled manifest cannot be asked for yet; trying on");
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => {
                    return tracing::error!(%manifest, %due, %error, hint = error.hint(), "a scheduled manifest is not asked for");
                }
            }
        }
        tracing::error!(%manifest, %due, "a scheduled manifest is given up after {TRIES} tries");
    }

    async fn run(&self, due: Timestamp) -> Result<()> {
        let path = self.config.manifest.clone();
        let registry = self.context.scout.clone();
        let (manifest, name) = blocking(move || {
            let text = read(&path)?;
            let digest = hex::encode(&sha2::Sha256::digest(&text)[..8]);
            let manifest = Manifest::read(&text, Syntax::of(&path), |name| registry.registry().model(name))?;
            Ok((manifest, format!("warm/{digest}/{due}")))
        })
        .await?;
        let (host, fleet) = (self.host.clone(), self.fleet.clone());
        let occasion = Occasion { host, run: Some(name.clone()), now: Timestamp::now(), fleet };
        let view = worker::night(&self.context, &manifest, &occasion, &CancellationToken::new()).await?;
        for note in &view.notes {
            tracing::warn!(manifest = %self.config.manifest.display(), "{note}");
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
        let jobs = view.jobs.len();
        if jobs == 0 {
            return Ok(());
        }
        // No key for the whole: every host of the fleet asks, each also for itself; the jobs have keys of their own.
        let title = Title {
            id: JobId::random(Timestamp::now()),
            requested_by: Some("warm".into()),
            idempotency_key: None,
            name: Some(name),
            job: None,
        };
        let (created, batch) = self.queue.enqueue_all(title, view.jobs).await?;
        tracing::info!(manifest = %self.config.manifest.display(), %due, jobs, %batch, created, "a scheduled manifest is asked for");
        Ok(())
    }
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

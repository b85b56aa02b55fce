//! Nights: the plan of a manifest for whoever asks, and manifests on their schedules.
//!
//! In a fleet every host keeps the same schedule. Each run has a name, made of what the manifest means and the time at which
//! it was due. One host plans what is for the fleet, together with what is for itself, and asks for both or for neither; the
//! others stand by until it has, so that somebody takes over if it does not come to that. What the manifest wants of
//! whichever host reads it, each asks for itself, once it is known that the fleet's part was not refused. Each job has a key
//! made of the run; the queue answers a key that it knows with the job that it has. So a run asks for each job once, and a
//! run that was missed needs no record to be made up for.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use larder_jobs::client::{Queue, Run, Title};
use larder_jobs::{HostName, Hosts, Job, JobId, Reason};
use sha2::Digest as _;
use tokio_util::sync::CancellationToken;

use super::runs::{Runs, asked};
use crate::api::{Api, Warmer};
use crate::error::{Error, Result, blocking};
use crate::plan::Finish;
use crate::queue::JobStore;
use crate::warm::{Config, Due, MAX_BYTES, Manifest, NightView, Outcome, PastRun, Syntax, is_tried_again};
use crate::worker::{self, Context, Occasion};

/// Longest sleep, so that a clock that is set is noticed.
const LOOK: Duration = Duration::from_secs(60);
/// The pause after a run that failed for a reason that may pass.
const AGAIN: Duration = Duration::from_secs(60);
/// So often a host of a fleet plans a run that it cannot ask for: once more after others had their turn, who may be able to.
const TURNS: u8 = 2;
/// How long one host has to plan and to ask before another one may.
const TURN: Duration = Duration::from_secs(600);
/// How often those who stand by look.
const STAND_BY: Duration = Duration::from_secs(15);
/// Who could not ask for a run leaves it to others for so long, so that each of them has looked.
const LEAVE: Duration = Duration::from_secs(30);
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
                    let until = schedule.tried_until(due, self.config.known());
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.try_run(due, until) => ran = Some(due),
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

    /// Until all of it has been asked for, by whichever host, or it cannot be, or it is too late. What goes wrong is said
    /// once, however often it does.
    async fn try_run(&self, due: Timestamp, until: Timestamp) {
        let path = self.config.manifest.display().to_string();
        let (mut run, mut said, mut tries) = (OneRun::new(path.clone(), due), None, 0_u32);
        loop {
            let (error, pause) = match self.run(&mut run).await {
                Ok(true) => return self.runs.past.note(run.told(None)),
                Ok(false) => (nobody_ended(), STAND_BY),
                Err(error) if run.is_left => (error, LEAVE),
                Err(error) => (error, AGAIN),
            };
            let now = Timestamp::now();
            let is_over = !is_tried_again(error.reason(), now, until);
            if is_over && !(run.is_left && now < until) {
                let hint = error.hint();
                tracing::error!(manifest = path, %due, %error, hint, tries, "a scheduled manifest is not asked for");
                return self.runs.past.note(run.told(Some((Outcome::Failed, &error))));
            }
            tries += 1;
            if pause != STAND_BY && said.as_ref() != Some(&error) {
                let hint = error.hint();
                tracing::warn!(manifest = path, %due, %error, hint, "a scheduled manifest cannot be asked for yet; trying on");
                self.runs.past.note(run.told(Some((Outcome::Trying, &error))));
                said = Some(error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn read(&self) -> Result<Manifest> {
        let path = self.config.manifest.clone();
        let registry = self.context.scout.clone();
        blocking(move || {
            let text = read(&path)?;
            Ok(Manifest::read(&text, Syntax::of(&path), |name| registry.registry().model(name))?)
        })
        .await
    }

    /// Which part a wish, or a job, for these hosts belongs to. Without a fleet all of it is for this host.
    fn part(&self, hosts: &Hosts) -> Part {
        if self.fleet.is_none() || *hosts == Hosts::This { Part::Own } else { Part::Fleet }
    }

    /// Asks for what has not been asked for and is this host's to ask for; whether all of it has been.
    async fn run(&self, run: &mut OneRun) -> Result<bool> {
        run.begin();
        let mut manifest = self.read().await?;
        let name = format!("warm/{}/{}", manifest.digest(), run.past.due);
        run.past.run = Some(name.clone());
        let is_open = |part, run: &OneRun| {
            !run.asked.contains(&part) && manifest.wishes.iter().any(|wish| self.part(&wish.hosts) == part)
        };
        let (own, shared) = (is_open(Part::Own, run), is_open(Part::Fleet, run));
        if let Some(fleet) = self.fleet.as_ref().filter(|_| shared) {
            match fleet.take_run(&name, &self.host, TURN).await? {
                Run::Mine => {
                    if let Err(error) = self.ask(&manifest, &name, run).await {
                        // Another host may be able to, with another token or another GPU.
                        fleet.leave_run(&name, &self.host).await?;
                        run.leave(&error);
                        return Err(error);
                    }
                    if let Err(error) = fleet.end_run(&name, self.config.known()).await {
                        tracing::debug!(%error, "another host will ask again, and find that the jobs are known");
                    }
                    return Ok(true);
                }
                Run::Taken(_) => return Ok(false),
                // Whoever ended it found that the manifest does not refuse the night.
                Run::Ended => run.asked.push(Part::Fleet),
            }
        }
        if own {
            manifest.wishes.retain(|wish| self.part(&wish.hosts) == Part::Own);
            if let Some(fleet) = &self.fleet {
                tokio::time::sleep(moment(&self.host, fleet.present().await?)).await;
            }
            self.ask(&manifest, &name, run).await?;
        }
        Ok(true)
    }

    /// Plans the night and asks for its jobs, but for those that this host has asked for.
    async fn ask(&self, manifest: &Manifest, name: &str, run: &mut OneRun) -> Result<()> {
        let path = self.config.manifest.display();
        let (host, fleet) = (self.host.clone(), self.fleet.clone());
        let occasion = Occasion { host, run: Some(name.to_owned()), now: Timestamp::now(), fleet };
        let view = worker::night(&self.context, manifest, &occasion, &CancellationToken::new()).await?;
        if view.plan.finishes == Finish::WillNot && view.jobs.is_empty() {
            for part in Part::ALL {
                self.note(manifest, name, &view, *part, None, run);
            }
            return Err(run.refused(&view));
        }
        for note in &view.notes {
            tracing::warn!(manifest = %path, "{note}");
        }
        let (own, shared): (Vec<_>, Vec<_>) =
            view.jobs.iter().cloned().partition(|job| self.part(&job.common.hosts) == Part::Own);
        for (part, jobs) in [(Part::Own, own), (Part::Fleet, shared)] {
            if run.asked.contains(&part) {
                continue;
            }
            let count = jobs.len() as u64;
            let batch = if jobs.is_empty() { None } else { Some(self.enqueue(name, run, jobs).await?) };
            self.note(manifest, name, &view, part, batch, run);
            let of_it = |entry: usize| self.part(&manifest.wishes[entry].hosts) == part;
            let dropped = view.plan.dropped.iter().filter(|one| of_it(one.entry));
            for one in dropped.clone() {
                tracing::warn!(manifest = %path, model = %one.model, "not there by the deadline: {}", one.why);
            }
            run.past.leave_out(dropped);
            run.past.jobs += count;
            run.asked.push(part);
        }
        Ok(())
    }

    /// Asks for jobs of the run together.
    async fn enqueue(&self, name: &str, run: &OneRun, jobs: Vec<Job>) -> Result<JobId> {
        let count = jobs.len();
        // No key for the whole: every host of the fleet may ask for itself; the jobs have keys of their own.
        let title = Title {
            id: JobId::random(Timestamp::now()),
            requested_by: Some("warm".into()),
            idempotency_key: None,
            name: Some(name.to_owned()),
            job: None,
            asks: String::new(),
            notify: None,
        };
        let (created, batch) = self.queue.enqueue_all(title, jobs).await?;
        let (manifest, due) = (&run.past.manifest, run.past.due);
        tracing::info!(manifest, %due, jobs = count, %batch, created, "a scheduled manifest is asked for");
        Ok(batch)
    }

    /// Remembers for the metrics what of the manifest is asked for as this batch.
    fn note(
        &self,
        manifest: &Manifest,
        name: &str,
        view: &NightView,
        part: Part,
        batch: Option<JobId>,
        run: &OneRun,
    ) {
        let of_it = |entry: usize| self.part(&manifest.wishes[entry].hosts) == part;
        if (0..manifest.wishes.len()).any(of_it) {
            let asked = asked((name.to_owned(), run.past.due), &view.plan, batch, of_it);
            self.runs.note(run.past.manifest.clone(), part.word(), asked);
        }
    }
}

/// How far one run has come.
struct OneRun {
    past: PastRun,
    /// What need not be asked for any more.
    asked: Vec<Part>,
    /// The plan refused it.
    is_refused: bool,
    /// So often it was this host's turn to ask for the fleet, in vain.
    turns: u8,
    /// It is left to the others for now.
    is_left: bool,
}

impl OneRun {
    fn new(manifest: String, due: Timestamp) -> Self {
        let past = PastRun::new(manifest, due);
        Self { past, asked: Vec::new(), is_refused: false, turns: 0, is_left: false }
    }

    /// Another try: what was found by the last one is not true any more.
    fn begin(&mut self) {
        if std::mem::take(&mut self.is_refused) {
            (self.past.dropped, self.past.dropped_more) = (Vec::new(), 0);
        }
        self.is_left = false;
    }

    /// This host cannot ask for the fleet: others may be able to, who have their turn before it looks again.
    fn leave(&mut self, error: &Error) {
        if !error.reason().is_transient() {
            self.turns += 1;
            self.is_left = self.turns < TURNS;
        }
    }

    /// The plan refuses it, and this is why.
    fn refused(&mut self, view: &NightView) -> Error {
        self.is_refused = true;
        (self.past.dropped, self.past.dropped_more) = (Vec::new(), 0);
        self.past.leave_out(&view.plan.dropped);
        let first = view.plan.dropped.first();
        let first = first.map_or_else(String::new, |one| format!("; {}: {}", one.model, one.why));
        Error::new(
            Reason::InvalidRequest,
            format!(
                "not all of the manifest can be there by its deadline, and impossible = \"refuse\"{first}"
            ),
            "see larder warm MANIFEST --dry-run for what to drop, or set impossible = \"warn\"",
        )
    }

    /// What to remember of it now: without an error all of it has been asked for.
    fn told(&self, error: Option<(Outcome, &Error)>) -> PastRun {
        let now = Timestamp::now();
        match error {
            None if self.past.jobs == 0 && self.past.dropped() == 0 => {
                self.past.ended(Outcome::Elsewhere, None, now)
            }
            None => self.past.ended(Outcome::Asked, None, now),
            Some((outcome, error)) => {
                let is_over = outcome == Outcome::Failed && self.is_refused;
                let outcome = if is_over { Outcome::Refused } else { outcome };
                self.past.ended(outcome, Some((error.reason(), &error.message())), now)
            }
        }
    }
}

/// What is wrong with a run that others took until it was too late.
fn nobody_ended() -> Error {
    Error::new(
        Reason::Interrupted,
        "another host of the fleet took the run over, and had not asked for its jobs when it was too late",
        "see the log of the other hosts; larder warm MANIFEST asks for the jobs now",
    )
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
    const ALL: &'static [Self] = &[Self::Own, Self::Fleet];

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

//! The only wiring: rooms are built, started and drained here, in order.

mod afar;
mod library;
mod night;
mod past;
mod records;
mod reload;
mod runs;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use larder_jobs::{HostName, Kind, Reason};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api, Door, Followed, Listeners, Sampler};
use crate::config::{Settings, Sources};
use crate::error::{Error, Result};
use crate::fleet::{self, Portrait};
use crate::gpu;
use crate::hub::Hub;
use crate::keeper::{self, Keeper};
use crate::layout::Cache;
use crate::metrics;
use crate::plan::KeepFree;
use crate::queue::{self, JobStore, Redis, Scope};
use crate::scout::{Scout, Watch};
use crate::store::StateLock;
use crate::web;
use crate::worker::{self, Context, Patience};

use records::Records;
use runs::Runs;

pub use library::StagedModel;

/// A foreground command gives up after so long without any answer from a hub.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the start waits for the first look at the queue.
const FIRST_SAMPLE: Duration = Duration::from_secs(1);
/// How long the services may take to end when the jobs have gone back; a Redis that is silent takes longer.
const SERVICES_END: Duration = Duration::from_secs(3);
/// How often it is looked whether the store has failed.
const FAILED_LOOK: Duration = Duration::from_secs(1);
/// The pause before a store that has failed is opened again.
const REOPEN: Duration = Duration::from_secs(2);
/// What a foreground command leaves free at most, since somebody watches the disk.
const FOREGROUND_KEEP_FREE: u64 = 1 << 30;

/// An opened state folder with everything that works on it.
pub struct House {
    settings: Settings,
    scope: Scope,
    queue: Arc<dyn JobStore>,
    /// The same queue, if it is that of a fleet.
    fleet: Option<Arc<Redis>>,
    keeper: Keeper,
    /// The GPUs, if this process watches them.
    watched: Option<gpu::Handle>,
    /// Whether room may be made for a download.
    may_evict: bool,
    hub: Hub,
    api: Api,
    /// The runs of the manifests that are on a schedule.
    runs: Runs,
    _lock: StateLock,
}

impl std::fmt::Debug for House {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("House").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl House {
    /// Takes the state folder, opens the store, reconciles with the disk, recovers the queue.
    ///
    /// # Errors
    /// `queue_unavailable` if another process has the folder, `unsupported_version` if a newer larder wrote
    /// it, `io_error` if folder or cache cannot be used.
    pub async fn open(settings: Settings, scope: Scope) -> Result<Self> {
        // Before the store: opening it may already have something to count.
        let handle = metrics::install()?;
        // Reading the system's certificates takes as long as opening the store.
        let (hub_config, tokens) = (settings.config.hub.clone(), settings.tokens.clone());
        let hub = tokio::task::spawn_blocking(move || Hub::new(&hub_config, tokens));
        // A foreground command does its own job and needs no fleet for it.
        let fleet = settings.fleet.clone().filter(|_| scope == Scope::All);
        let fleet =
            fleet.map(|(address, host)| Arc::new(Redis::new(address, settings.config.queue.clone(), host)));
        let records = Records::open(&settings, scope).await?;
        let hub = hub.await.map_err(|died| Error::internal(format!("setting up HTTPS died: {died}")))??;
        if scope == Scope::All {
            records.tell_of_ends(fleet.as_deref());
        }
        let queue: Arc<dyn JobStore> = match &fleet {
            Some(fleet) => {
                records.left_behind().await;
                Arc::clone(fleet) as _
            }
            None => Arc::clone(&records.queue) as _,
        };
        // Whoever does one job looks at the GPUs when it needs them.
        let watched = (scope == Scope::All).then(|| gpu::start(&settings.config.gpu));
        let Records { lock, store, keeper, notifier, .. } = records;
        let planning = planner(&settings, hub.clone(), scope == Scope::Own)?;
        let planning =
            Context { scout: at_home(planning.scout.clone(), &keeper, watched.clone()), ..planning };
        let scout = planning.scout.clone();
        if let Some(fleet) = &fleet {
            fleet.size_with(sizer(&scout));
        }
        let portrait = Portrait {
            name: own_name(&settings),
            labels: settings.config.host.labels.clone(),
            scout: scout.clone(),
            keeper: keeper.clone(),
        };
        // Nobody who stages one model by hand expects that another goes.
        let may_evict = scope == Scope::All;
        let warming = Context { keeper: Some(keeper.clone()), may_evict, ..planning.clone() };
        let warmer = match (&settings.fleet, scope) {
            (Some((address, host)), Scope::Own) => afar::warmer(warming, host.clone(), address.clone()),
            _ => {
                night::warmer(warming, own_name(&settings), fleet.as_ref().map(|fleet| fleet.fleet().clone()))
            }
        };
        let api = Api {
            queue: Arc::clone(&queue),
            fleet: fleet.as_ref().map(|fleet| fleet.fleet().clone()),
            portrait,
            keeper: keeper.clone(),
            limits: hub.limits().clone(),
            notifier,
            scout,
            planner: planned(planning),
            warmer,
            sampler: Sampler::default(),
            metrics: handle,
            followed: Followed::default(),
            host: settings.config.host.name.as_str().into(),
            max_models: settings.config.metrics.max_models,
        };
        let runs = Runs::open(store, api.sampler.clone(), &manifests(&settings), scope)?;
        // So that the first scrape and the first probe already know, unless the queue is away.
        let sampled = api.sampler.refresh(&*queue, &settings.cache_root, &api.scout);
        let _ = tokio::time::timeout(FIRST_SAMPLE, sampled).await;
        Ok(Self { settings, scope, queue, fleet, keeper, watched, may_evict, hub, api, runs, _lock: lock })
    }

    /// The same, but a command that only does its own job may evict for it as a daemon would.
    #[must_use]
    pub fn evicting(self) -> Self {
        Self { may_evict: true, ..self }
    }

    /// The API and the page, for a listener or for calls within this process.
    pub fn router(&self) -> axum::Router {
        api::router(self.api.clone()).merge(web::router())
    }

    /// What the worker works with. A foreground command waits less long and may fill the disk further.
    pub fn context(&self, drain: CancellationToken) -> Context {
        let foreground = self.scope == Scope::Own;
        Context {
            hub: self.hub.clone(),
            cache: Cache::new(self.settings.cache_root.clone()),
            scout: self.api.scout.clone(),
            refuses_unhealthy: self.settings.config.gpu.unhealthy == gpu::Unhealthy::Refuse,
            keeper: Some(self.keeper.clone()),
            may_evict: self.may_evict,
            keep_free: kept_free(&self.settings, foreground),
            patience: foreground.then(|| Patience::new(PATIENCE)),
            drain,
        }
    }

    /// Binds the unix socket, and for a daemon the TCP address.
    ///
    /// # Errors
    /// `io_error` if an address is taken, or what [`Door::open`] says.
    pub async fn listen(&self) -> Result<Listeners> {
        let config = &self.settings.config.api;
        let tcp = match (self.scope, config.address()?) {
            (Scope::All, Some(address)) => Some((address, Door::open(config)?.with_pages(web::paths()))),
            _ => None,
        };
        Listeners::bind(&self.settings.socket(), tcp).await
    }

    /// Runs everything until `drain` fires and the running jobs have gone back.
    pub async fn run(&self, listeners: Listeners, drain: CancellationToken) {
        let stop = CancellationToken::new();
        let mut services = JoinSet::new();
        let queue = Arc::clone(&self.queue);
        services.spawn(api::serve(listeners, self.router(), stop.clone()));
        services.spawn(self.api.sampler.clone().run(
            Arc::clone(&queue),
            self.settings.cache_root.clone(),
            self.api.scout.clone(),
            stop.clone(),
        ));
        services.spawn(upkeep(self.api.metrics.clone(), stop.clone()));
        let lease = self.settings.config.queue.lease.get();
        {
            let (queue, stop) = (Arc::clone(&queue), stop.clone());
            services.spawn(async move { queue::reap_until(&*queue, lease, &stop).await });
        }
        if self.scope == Scope::All {
            services.spawn(keeper::keep_until(self.keeper.clone(), Arc::clone(&queue), stop.clone()));
            let interval = self.settings.config.gpu.interval.get();
            services.spawn(watch_hardware(self.api.scout.clone(), interval, stop.clone()));
            for config in self.settings.config.warm.clone() {
                let (context, queue) = (self.context(drain.clone()), Arc::clone(&queue));
                let night = night::Nightly::new(config, context, queue, &self.api, self.runs.clone());
                services.spawn(night.run_until(stop.clone()));
            }
            services.spawn(self.runs.clone().watch_until(Arc::clone(&queue), stop.clone()));
        }
        if self.scope == Scope::All {
            let (notifier, stop) = (self.api.notifier.clone(), stop.clone());
            services.spawn(async move { notifier.deliver_until(&stop).await });
        }
        if let Some(fleet) = self.fleet.clone() {
            services.spawn(self.api.portrait.clone().show_until(Arc::clone(&fleet), stop.clone()));
            services.spawn(fleet::share_until(Arc::clone(&fleet), self.hub.clone(), stop.clone()));
            let stop = stop.clone();
            services.spawn(async move { fleet.attend_until(&stop).await });
        }
        let mut workers = JoinSet::new();
        for kind in Kind::ALL {
            let slots = self.settings.config.queue.concurrency.of(*kind);
            workers.spawn(worker::run(*kind, slots, lease, Arc::clone(&queue), self.context(drain.clone())));
        }
        // Workers first, so that whoever watches a job over the API sees it go back.
        while workers.join_next().await.is_some() {}
        stop.cancel();
        let ended = async { while services.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(SERVICES_END, ended).await;
        if let Err(error) = self.keeper.ledger().durable().await {
            tracing::error!(%error, "the last records may be lost");
        }
    }
}

/// A scout that knows what this host has measured, and how its GPUs fared before.
fn at_home(scout: Scout, keeper: &Keeper, watched: Option<gpu::Handle>) -> Scout {
    let scout = scout.on_host(Arc::clone(keeper.ledger()), watched);
    if let Err(error) = scout.recall_minutes() {
        tracing::debug!(%error, "how the GPUs fared before is not known");
    }
    scout
}

/// The plan of a download, for the API.
fn planned(context: Context) -> api::Planner {
    Arc::new(move |want, stop| {
        let context = context.clone();
        Box::pin(async move { worker::plan_view(&context, &want, &stop).await })
    })
}

/// Whoever knows how large a model is, for the queue that chooses the best host for it.
fn sizer(scout: &Scout) -> queue::Sizer {
    let scout = scout.clone();
    Arc::new(move |job| {
        let scout = scout.clone();
        Box::pin(async move { scout.size(&job).await })
    })
}

/// What planning needs; no state folder, no ledger, and GPUs that are looked at when somebody asks.
///
/// # Errors
/// `invalid_request` if the operator's own registry cannot be read.
pub fn planner(settings: &Settings, hub: Hub, foreground: bool) -> Result<Context> {
    let (cache, config) = (Cache::new(settings.cache_root.clone()), &settings.config);
    let scout = Scout::new(hub.clone(), cache.clone(), &config.models, config.gpu.clone())?;
    Ok(Context {
        hub,
        cache,
        scout,
        refuses_unhealthy: false,
        keeper: None,
        may_evict: false,
        keep_free: kept_free(settings, foreground),
        patience: None,
        drain: CancellationToken::new(),
    })
}

/// The name of this host as jobs name it; a machine without a fleet may have a name that no host of one could have.
fn own_name(settings: &Settings) -> HostName {
    let named = settings.fleet.as_ref().map(|(_, name)| name.clone());
    named.or_else(|| settings.config.host.name.parse().ok()).unwrap_or_else(HostName::localhost)
}

/// The manifests that are on a schedule, as metrics and logs name them.
fn manifests(settings: &Settings) -> BTreeSet<String> {
    settings.config.warm.iter().map(|warm| warm.manifest.display().to_string()).collect()
}

fn kept_free(settings: &Settings, foreground: bool) -> KeepFree {
    let configured = settings.config.cache.kept_free();
    if foreground { configured.up_to(FOREGROUND_KEEP_FREE) } else { configured }
}

/// The rest of the hardware is looked at after so many readings of the GPUs.
const HARDWARE_EVERY: u64 = 4;

/// Remembers what hardware there is, and learns from what engines hold of it.
async fn watch_hardware(scout: Scout, interval: Duration, stop: CancellationToken) {
    let (mut watch, mut stood, mut minute) = (Watch::default(), Vec::new(), None);
    let mut tick = tokio::time::interval(interval);
    for turn in 0_u64.. {
        let ends = tokio::select! {
            () = stop.cancelled() => true,
            _ = tick.tick() => false,
        };
        if let Err(error) = scout.remember_minute(&mut minute, !ends).await {
            tracing::debug!(%error, "how the GPUs fare cannot be remembered");
        }
        if ends {
            return;
        }
        let stands = scout.standing();
        let is_due = turn % HARDWARE_EVERY == 0 || stands != stood;
        stood = stands;
        if is_due && let Err(error) = scout.remember_hardware().await {
            tracing::debug!(%error, "the hardware cannot be remembered");
        }
        if let Err(error) = scout.learn(&mut watch, &stop).await {
            tracing::debug!(%error, "nothing is learnt from what engines hold");
        }
    }
}

/// Keeps the histograms' memory bounded.
async fn upkeep(handle: metrics_exporter_prometheus::PrometheusHandle, stop: CancellationToken) {
    let mut tick = tokio::time::interval(metrics::UPKEEP);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => handle.run_upkeep(),
        }
    }
}

/// `larder serve`: until SIGTERM or Ctrl-C, or for good if the state folder is another's. `sources` are those of
/// `settings`, to be read again on SIGHUP.
///
/// A store whose disk was full fails for good and loses nothing: then everything is opened again.
///
/// # Errors
/// As [`House::open`] and [`House::listen`] at the first start; `internal` if signals cannot be caught.
pub async fn serve(settings: Settings, sources: Sources) -> Result<()> {
    // First of all, since the signal ends a process that does not catch it.
    let mut hangup = signal(SignalKind::hangup())
        .map_err(|error| Error::internal(format!("cannot catch signals: {error}")))?;
    let mut house = House::open(settings.clone(), Scope::All).await?;
    let mut listeners = house.listen().await?;
    let stop = CancellationToken::new();
    tokio::spawn(on_signal(stop.clone()));
    loop {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            host = %house.api.host,
            cache = %house.settings.cache_root.display(),
            socket = %house.settings.socket().display(),
            address = listeners.address().map(tracing::field::display),
            hub = %house.settings.config.hub.endpoint,
            queue = house.settings.fleet.as_ref().map_or("this machine's own", |(address, _)| address.place()),
            "larder serves"
        );
        let drain = stop.child_token();
        let (mut lost, door) = (None, listeners.door());
        tokio::select! {
            () = house.run(listeners, drain.clone()) => {}
            () = reload::on_hangup(&mut hangup, &sources, &house, door) => {}
            () = drain_when_failed(&house, &drain) => {}
            () = drain_when_lost(&house, &drain, &mut lost) => {}
        }
        if let Some(lost) = lost {
            return Err(lost);
        }
        if stop.is_cancelled() {
            break;
        }
        drop(house);
        let Some(again) = open_again(&settings, &stop).await? else { break };
        (house, listeners) = again;
    }
    tracing::info!("larder has stopped; interrupted jobs go on at the next start");
    Ok(())
}

/// Never returns: what runs beside it does when everything has gone back.
async fn drain_when_failed(house: &House, drain: &CancellationToken) {
    while !house.keeper.ledger().has_failed() {
        tokio::time::sleep(FAILED_LOOK).await;
    }
    tracing::warn!(
        "the store has failed, as it does when its disk is full; jobs go back, and it is opened again"
    );
    drain.cancel();
    std::future::pending::<()>().await;
}

/// The same when NVML, having worked, has failed for good: whoever starts this process again also gives it the devices
/// anew.
async fn drain_when_lost(house: &House, drain: &CancellationToken, lost: &mut Option<Error>) {
    if let Some(watched) = &house.watched {
        let error = watched.until_lost_for_good().await;
        tracing::error!(%error, hint = error.hint(), "jobs go back, and larder ends");
        *lost = Some(error);
        drain.cancel();
    }
    std::future::pending::<()>().await;
}

/// Tries until the disk lets it; `None` if `stop` fired first.
///
/// # Errors
/// What opening says for another reason than the disk's.
async fn open_again(settings: &Settings, stop: &CancellationToken) -> Result<Option<(House, Listeners)>> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(REOPEN) => {}
        }
        let opened = async {
            let house = House::open(settings.clone(), Scope::All).await?;
            let listeners = house.listen().await?;
            Ok::<_, Error>((house, listeners))
        };
        match opened.await {
            Ok(opened) => return Ok(Some(opened)),
            Err(error) if is_of_the_disk(error.reason()) => {
                tracing::warn!(%error, hint = error.hint(), "the store cannot be opened again yet");
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_of_the_disk(reason: Reason) -> bool {
    // A step of the old house that still writes holds its folder for a moment.
    matches!(reason, Reason::IoError | Reason::InsufficientDisk | Reason::QueueUnavailable)
}

/// Drains on the first SIGTERM or SIGINT; the second ends the process at once, which loses nothing either.
async fn on_signal(drain: CancellationToken) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return tracing::error!("signals cannot be caught; stop larder with SIGKILL, no job is lost");
    };
    let mut next = async || tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" };
    let signal = next().await;
    tracing::info!(signal, "stopping; running jobs go back");
    drain.cancel();
    next().await;
    tracing::warn!("stopping at once");
    std::process::exit(75);
}

//! What a manifest would do, and the jobs that do it: the hub is asked for the size of each model, the disk for what is
//! there, the ledger for what the line brings. Of other hosts of the fleet the queue knows what they said of themselves;
//! which models go there to make room is theirs to decide, and they say which would go first.

mod fleet;
mod look;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use larder_jobs::client::Queue;
use larder_jobs::{HostName, Hosts, Job, MAX_BATCH, Reason, Work};
use tokio_util::sync::CancellationToken;

use super::{Context, blocking};
use crate::disk;
use crate::error::{Error, Result};
use crate::plan::{Entry, Finish, HostNight, Name, NightAsk, NightHost, NightPlan, Rate, Route, plan_night};
use crate::warm::{Impossible, Manifest, NightView};
use fleet::{Fleet, Routed, stranger};
use look::{Cards, Looked, look};

/// Models that are looked at together.
const LOOKS: usize = 8;
/// What lines bring whose speed nobody has measured, in bytes per second.
const GUESSED_LINE: Rate = Rate { low: 12.5e6, high: 1.25e9 };

/// Who asks for a night, and for which.
#[derive(Debug, Clone)]
pub struct Occasion {
    /// This host.
    pub host: HostName,
    /// The run of a schedule; the same run asks only once for each job.
    pub run: Option<String>,
    /// The beginning.
    pub now: Timestamp,
    /// The queue of the fleet, which knows the other hosts.
    pub fleet: Option<Queue>,
}

/// Plans a night. Nothing is asked for.
///
/// # Errors
/// `interrupted`, `io_error` of the disk; `invalid_request` for a manifest of more jobs than one batch may have. What goes
/// wrong with one model is told in the plan.
pub async fn night(
    context: &Context,
    manifest: &Manifest,
    occasion: &Occasion,
    stop: &CancellationToken,
) -> Result<NightView> {
    planned(context, manifest, occasion, Fleet::ask(occasion).await?, stop).await
}

/// The same on a machine that serves nothing: it counts only if a larder of its name is in the fleet.
///
/// # Errors
/// As [`night`].
pub async fn night_from_afar(
    context: &Context,
    manifest: &Manifest,
    occasion: &Occasion,
    stop: &CancellationToken,
) -> Result<NightView> {
    planned(context, manifest, occasion, Fleet::ask(occasion).await?.seen_from_afar(), stop).await
}

async fn planned(
    context: &Context,
    manifest: &Manifest,
    occasion: &Occasion,
    mut fleet: Fleet,
    stop: &CancellationToken,
) -> Result<NightView> {
    // Before the hub is asked for a thousand models.
    let routed = Routed::of(manifest, occasion, &fleet);
    bounded(manifest, &routed)?;
    let cards = Cards::of(context, &fleet.others).await?;
    // Collected first: a stream of borrowed futures is not general enough for a task.
    let looks: Vec<_> = manifest.wishes.iter().map(|wish| look(context, wish, &cards, stop)).collect();
    let looked: Vec<Looked> = stream::iter(looks).buffered(LOOKS).collect().await;
    if stop.is_cancelled() {
        return Err(Error::new(Reason::Interrupted, "nobody waits for the plan", "ask again"));
    }
    let wanted: BTreeSet<Name> = looked.iter().flat_map(Looked::names).cloned().collect();
    fleet.ask_who_has(occasion, &wanted).await?;
    let mut own = this_host(context, occasion.host.clone(), &wanted).await?;
    own.refuses = fleet.absent.clone();
    let mut notes: Vec<String> = routed.unknown.iter().cloned().collect();
    let plan = plan(manifest, occasion, own, &fleet, routed, &looked, &wanted);
    if !fleet.others.is_empty() {
        notes.push(
            "what other hosts evict to make room is decided there; shown is what would go first as they said last"
                .to_owned(),
        );
    }
    let windows = manifest.windows.as_ref();
    if let Some((one, two)) = windows.and_then(|windows| windows.overlap(occasion.now)) {
        notes.push(format!("the windows {one} and {two} overlap; they count as one"));
    }
    let is_refused = plan.finishes == Finish::WillNot && manifest.impossible == Impossible::Refuse;
    let jobs = if is_refused { Vec::new() } else { jobs(manifest, occasion, &plan) };
    Ok(NightView { plan, impossible: manifest.impossible, notes, jobs })
}

/// One batch has no more jobs than the queue takes at once, all of them or none.
fn bounded(manifest: &Manifest, routed: &Routed) -> Result<()> {
    let mut jobs: BTreeSet<(String, Option<usize>)> = BTreeSet::new();
    for (wish, (route, _)) in manifest.wishes.iter().zip(&routed.routes) {
        let want = wish.download.want();
        match route {
            Route::Each(places) => jobs.extend(places.iter().map(|place| (want.clone(), Some(*place)))),
            Route::OneOf(_) => drop(jobs.insert((want, None))),
        }
    }
    if jobs.len() <= MAX_BATCH {
        return Ok(());
    }
    Err(Error::new(
        Reason::InvalidRequest,
        format!(
            "the manifest comes to {} jobs, one for each model and host; at most {MAX_BATCH} are asked for together",
            jobs.len()
        ),
        "split it into several manifests, or name fewer hosts",
    ))
}

/// What this host has, without what each entry means for it.
async fn this_host(context: &Context, name: HostName, wanted: &BTreeSet<Name>) -> Result<NightHost> {
    let (keeper, root, keep_free) =
        (context.keeper()?.clone(), context.cache.root().to_owned(), context.keep_free);
    let (may_evict, wanted) = (context.may_evict, wanted.clone());
    let limit = context.hub.limits().bandwidth();
    blocking(move || {
        let usage = disk::usage(&root)?;
        let reservations = keeper.reservations();
        let free =
            usage.free.saturating_sub(keep_free.of(usage.total)).saturating_sub(reservations.promised());
        let taken = keeper.ledger().shelf().bytes().saturating_add(reservations.granted());
        let room = keeper.capacity().map_or(u64::MAX, |capacity| capacity.saturating_sub(taken));
        let mut evictable = if may_evict { keeper.victims(Timestamp::now())? } else { Vec::new() };
        evictable.retain(|victim| !wanted.contains(&victim.name));
        let rate = keeper.ledger().fetch_rate().map_or(GUESSED_LINE, Rate::measured);
        let most = limit.map_or(f64::INFINITY, |limit| limit.bytes() as f64);
        let rate = Rate { low: rate.low.min(most), high: rate.high.min(most) };
        let free_bytes = free.min(room);
        Ok(NightHost { name, rate, free_bytes, evictable, refuses: None, needs: BTreeMap::new() })
    })
    .await
}

fn plan(
    manifest: &Manifest,
    occasion: &Occasion,
    own: NightHost,
    fleet: &Fleet,
    routed: Routed,
    looked: &[Looked],
    wanted: &BTreeSet<Name>,
) -> NightPlan {
    let others = fleet.others.iter().map(|host| fleet::other_host(host, wanted));
    let mut hosts: Vec<_> = std::iter::once(own).chain(others).collect();
    hosts.extend(routed.strangers.into_iter().map(stranger));
    let mut entries = Vec::with_capacity(looked.len());
    let all = manifest.wishes.iter().zip(looked).zip(routed.routes);
    for (n, ((wish, looked), (route, nobody))) in all.enumerate() {
        let (Route::Each(places) | Route::OneOf(places)) = &route;
        for place in places {
            let need = match place.checked_sub(1) {
                None => looked.need.clone(),
                Some(other) => looked.elsewhere(other, &hosts[*place].name, &fleet.held),
            };
            hosts[*place].needs.insert(n, need);
        }
        let (model, want) = (wish.download.model().to_string(), wish.download.want());
        entries.push(Entry { model, want, priority: wish.priority, route, nobody });
    }
    let ask = NightAsk {
        entries,
        now: occasion.now,
        deadline: manifest.deadline.as_ref().map(|deadline| deadline.after(occasion.now)),
        windows: manifest.windows.clone(),
        inside: manifest.bandwidth,
        outside: manifest.bandwidth_outside,
        source: fleet.limit,
        order: manifest.order,
    };
    plan_night(&ask, &hosts)
}

/// What is there is asked for too: it gets its pin and its lease, so that nobody evicts it for the rest. What several
/// entries want of a host is one job, as the queue would join theirs.
fn jobs(manifest: &Manifest, occasion: &Occasion, plan: &NightPlan) -> Vec<Job> {
    let of_host = |night: &HostNight| {
        let host = night.host.clone();
        let present = night.present.iter().map(|one| (one.entry, one.also.clone()));
        let fetched = night.fetch.iter().map(|one| (one.entry, one.also.clone()));
        let all: Vec<_> = present.chain(fetched).collect();
        all.into_iter().map(move |(n, also)| (n, also, host.clone()))
    };
    let job = |(n, also, host): (usize, Vec<usize>, HostName)| {
        let wish = &manifest.wishes[n];
        let run = occasion.run.as_deref().map(|run| (run, host.as_str()));
        let mut job = manifest.job(wish, occasion.now, run);
        for other in also {
            widen(&mut job, &manifest.job(&manifest.wishes[other], occasion.now, None));
        }
        if wish.hosts != Hosts::This {
            job.common.hosts = Hosts::named(host);
        }
        job
    };
    plan.hosts.iter().flat_map(of_host).map(job).collect()
}

/// Makes a job give what another one that wants the same would: the rest is the manifest's, and the same for both.
fn widen(job: &mut Job, other: &Job) {
    job.common.priority = job.common.priority.max(other.common.priority);
    if let (Work::Download(mine), Work::Download(theirs)) = (&mut job.work, &other.work) {
        mine.pin |= theirs.pin;
        mine.lease_ttl = mine.lease_ttl.max(theirs.lease_ttl);
    }
}

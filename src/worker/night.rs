//! What a manifest would do on this host, and the jobs that do it: the hub is asked for the size of each model, the disk
//! for what is there, the ledger for what the line brings. What other hosts have is not known here.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use larder_jobs::{Class, Download, HostName, Hosts, Job};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::planned::{Planned, size};
use super::{Context, blocking};
use crate::disk;
use crate::error::{Error, Result};
use crate::plan::{Entry, Finish, Name, Need, NightAsk, NightHost, NightPlan, Rate, Route, plan_night};
use crate::warm::{Impossible, Manifest};

/// Models that are looked at together.
const LOOKS: usize = 8;
/// What lines bring whose speed nobody has measured, in bytes per second.
const GUESSED_LINE: Rate = Rate { low: 12.5e6, high: 1.25e9 };

/// The plan of a manifest, and what to ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NightView {
    /// The plan.
    #[serde(flatten)]
    pub plan: NightPlan,
    /// What happens when not everything can be there by the deadline.
    pub impossible: Impossible,
    /// What the reader should know besides.
    pub notes: Vec<String>,
    /// The jobs to ask for, in their order; none if the manifest refuses what cannot be.
    pub jobs: Vec<Job>,
}

/// Who asks for a night, and for which.
#[derive(Debug, Clone)]
pub struct Occasion {
    /// This host.
    pub host: HostName,
    /// The run of a schedule; the same run asks only once for each job.
    pub run: Option<String>,
    /// The beginning.
    pub now: Timestamp,
}

/// Plans a night. Nothing is asked for.
///
/// # Errors
/// `interrupted`, `io_error` of the disk. What goes wrong with one model is told in the plan.
pub async fn night(
    context: &Context,
    manifest: &Manifest,
    occasion: &Occasion,
    stop: &CancellationToken,
) -> Result<NightView> {
    let looks = manifest.wishes.iter().map(|wish| look(context, &wish.download, stop));
    // Collected first: a stream of borrowed futures is not general enough for a task.
    let looks: Vec<_> = looks.collect();
    let looked: Vec<Looked> = stream::iter(looks).buffered(LOOKS).collect().await;
    if stop.is_cancelled() {
        return Err(Error::new(larder_jobs::Reason::Interrupted, "nobody waits for the plan", "ask again"));
    }
    let wanted: BTreeSet<Name> = looked.iter().filter_map(|one| one.name.clone()).collect();
    let own = this_host(context, occasion.host.clone(), wanted).await?;
    let plan = plan(manifest, occasion, own, looked);
    let mut notes = Vec::new();
    if let Some((one, two)) = manifest.windows.as_ref().and_then(|windows| windows.overlap()) {
        notes.push(format!("the windows {one} and {two} overlap; they count as one"));
    }
    let is_refused = plan.finishes == Finish::WillNot && manifest.impossible == Impossible::Refuse;
    let jobs = if is_refused { Vec::new() } else { jobs(manifest, occasion, &plan) };
    Ok(NightView { plan, impossible: manifest.impossible, notes, jobs })
}

/// What is known of one model.
struct Looked {
    need: Need,
    name: Option<Name>,
}

async fn look(context: &Context, want: &Download, stop: &CancellationToken) -> Looked {
    let planned = async {
        let (want, _) = context.scout.choose(want, stop).await?;
        size(context, &want, stop).await
    };
    match planned.await {
        Ok(planned) => {
            let name = Some((planned.repo.clone(), planned.commit.clone()));
            Looked { need: need(&planned), name }
        }
        Err(error) if error.reason().class() == Class::Permanent => {
            Looked { need: Need::Unfit(error.message()), name: None }
        }
        Err(error) => Looked { need: Need::Unknown(error.message()), name: None },
    }
}

fn need(planned: &Planned) -> Need {
    match planned.is_satisfied() {
        true => Need::There { bytes: planned.plan.bytes_total },
        false => Need::Fetch { bytes: planned.plan.bytes_to_fetch, disk: planned.plan.disk_needed },
    }
}

/// What this host has, without what each entry means for it.
async fn this_host(context: &Context, name: HostName, wanted: BTreeSet<Name>) -> Result<NightHost> {
    let (keeper, root, keep_free) =
        (context.keeper()?.clone(), context.cache.root().to_owned(), context.keep_free);
    let may_evict = context.may_evict;
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
        #[allow(clippy::cast_precision_loss)] // a rate needs no sixteen digits
        let most = limit.map_or(f64::INFINITY, |limit| limit.bytes() as f64);
        let rate = Rate { low: rate.low.min(most), high: rate.high.min(most) };
        let free_bytes = free.min(room);
        Ok(NightHost { name, rate, free_bytes, evictable, refuses: None, needs: BTreeMap::new() })
    })
    .await
}

fn plan(manifest: &Manifest, occasion: &Occasion, own: NightHost, looked: Vec<Looked>) -> NightPlan {
    let mut hosts = vec![own];
    let mut entries = Vec::with_capacity(looked.len());
    for (n, (wish, looked)) in manifest.wishes.iter().zip(looked).enumerate() {
        let is_own = match &wish.hosts {
            Hosts::This => true,
            Hosts::Named(name) => *name == occasion.host,
            _ => false,
        };
        let (host, need) = match is_own {
            true => (0, looked.need),
            false => (place(&mut hosts, &wish.hosts), elsewhere(looked.need)),
        };
        hosts[host].needs.insert(n, need);
        let model = wish.download.model().to_string();
        entries.push(Entry { model, priority: wish.priority, route: Route::Each(vec![host]) });
    }
    let ask = NightAsk {
        entries,
        now: occasion.now,
        deadline: manifest.deadline.as_ref().map(|deadline| deadline.after(occasion.now)),
        windows: manifest.windows.clone(),
        inside: manifest.bandwidth,
        outside: manifest.bandwidth_outside,
        source: None,
        order: manifest.order,
    };
    plan_night(&ask, &hosts)
}

/// The place of a host of which nothing is known.
fn place(hosts: &mut Vec<NightHost>, selector: &Hosts) -> usize {
    let word = match selector {
        Hosts::Named(name) => Some(name.clone()),
        _ => "pool".parse().ok(),
    };
    let Some(name) = word else { return 0 };
    if let Some(known) = hosts.iter().skip(1).position(|host| host.name == name) {
        return known + 1;
    }
    hosts.push(NightHost {
        name,
        rate: GUESSED_LINE,
        free_bytes: 0,
        evictable: Vec::new(),
        refuses: None,
        needs: BTreeMap::new(),
    });
    hosts.len() - 1
}

/// What a model means for a host that cannot be looked at: what the hub refuses it refuses there too.
fn elsewhere(need: Need) -> Need {
    match need {
        Need::There { .. } | Need::Fetch { .. } => {
            Need::Unknown("what that host has is not known here; it decides when the job comes".into())
        }
        other => other,
    }
}

/// What is there is asked for too: it gets its pin and its lease, so that nobody evicts it for the rest.
fn jobs(manifest: &Manifest, occasion: &Occasion, plan: &NightPlan) -> Vec<Job> {
    let present = plan.hosts.iter().flat_map(|night| night.present.iter().map(|one| one.entry));
    let fetch = plan.hosts.iter().flat_map(|night| night.fetch.iter().map(|one| one.entry));
    let run = occasion.run.as_deref().map(|run| (run, occasion.host.as_str()));
    present.chain(fetch).map(|n| manifest.job(&manifest.wishes[n], occasion.now, run)).collect()
}

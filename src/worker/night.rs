//! What a manifest would do, and the jobs that do it: the hub is asked for the size of each model, the disk for what is
//! there, the ledger for what the line brings. Of other hosts of the fleet the queue knows what they said of themselves;
//! which models go there to make room is theirs to decide, and they say which would go first.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use larder_jobs::client::Queue;
use larder_jobs::{Class, Download, HostName, HostState, Hosts, Job, Labels, Reason, Variant};
use tokio_util::sync::CancellationToken;

use super::planned::{Planned, size};
use super::{Context, blocking};
use crate::disk;
use crate::error::{Error, Result};
use crate::plan::{
    Chosen, Entry, Finish, HostNight, Name, Need, NightAsk, NightHost, NightPlan, Rate, Route, plan_night,
};
use crate::warm::{Impossible, Manifest, NightView};

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
        return Err(Error::new(Reason::Interrupted, "nobody waits for the plan", "ask again"));
    }
    let wanted: BTreeSet<Name> = looked.iter().filter_map(|one| one.name.clone()).collect();
    let own = this_host(context, occasion.host.clone(), wanted).await?;
    let fleet = Fleet::ask(occasion, &looked).await?;
    let plan = plan(manifest, occasion, own, &fleet, looked);
    let mut notes = Vec::new();
    if !fleet.others.is_empty() {
        notes.push(
            "what other hosts evict to make room is decided there; shown is what would go first as they said last"
                .to_owned(),
        );
    }
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
    /// Bytes of all of it.
    total: u64,
    /// It is chosen by the GPU of the host that stages it.
    by_gpu: bool,
    /// What is wrong with it may be so on this host only: its token, its GPU, its disk.
    is_local: bool,
}

/// What the queue knows of the other hosts.
#[derive(Default)]
struct Fleet {
    own: Labels,
    others: Vec<HostState>,
    /// Who has which revision.
    held: BTreeSet<(HostName, Name)>,
    /// What all hosts together may take.
    limit: Option<Rate>,
}

impl Fleet {
    async fn ask(occasion: &Occasion, looked: &[Looked]) -> Result<Self> {
        let Some(queue) = &occasion.fleet else { return Ok(Self::default()) };
        let (own, others): (Vec<_>, Vec<_>) =
            queue.hosts().await?.into_iter().partition(|host| host.name == occasion.host);
        let mut held = BTreeSet::new();
        let repos: BTreeSet<_> = looked.iter().filter_map(|one| Some(&one.name.as_ref()?.0)).collect();
        for repo in repos {
            let all = queue.holders(repo).await?.into_iter();
            held.extend(all.map(|model| (model.host, (model.repo, model.commit))));
        }
        let own = own.first().map(HostState::labels).unwrap_or_default();
        let limit = queue.limits().await?.bandwidth.map(|all| Rate::measured(all.bytes() as f64));
        Ok(Self {
            own,
            others: others.into_iter().filter(|host| host.about.is_some()).collect(),
            held,
            limit,
        })
    }

    /// The places of the hosts that have these labels; this host is the first.
    fn with(&self, labels: &Labels) -> Vec<usize> {
        let own = labels.select(&self.own).then_some(0);
        let others = self.others.iter().enumerate().filter(|(_, host)| labels.select(&host.labels()));
        own.into_iter().chain(others.map(|(n, _)| n + 1)).collect()
    }

    /// Those of them that take jobs.
    fn up(&self, labels: &Labels) -> Vec<usize> {
        let up = |place: &usize| *place == 0 || self.others[place - 1].is_up();
        self.with(labels).into_iter().filter(up).collect()
    }
}

async fn look(context: &Context, want: &Download, stop: &CancellationToken) -> Looked {
    let planned = async {
        let context = &context.with_token_of(want)?;
        let (want, _) = context.scout.choose(want, stop).await?;
        size(context, &want, stop).await
    };
    let by_gpu = want.variant != Variant::Exact;
    match planned.await {
        Ok(planned) => {
            let name = Some((planned.repo.clone(), planned.commit.clone()));
            Looked { need: need(&planned), name, total: planned.plan.bytes_total, by_gpu, is_local: false }
        }
        Err(error) if error.reason().class() == Class::Permanent => {
            let is_local = matches!(
                error.reason(),
                Reason::Unauthorized
                    | Reason::Gated
                    | Reason::InsufficientVram
                    | Reason::IncompatibleGpu
                    | Reason::InsufficientDisk
            );
            Looked { need: Need::Unfit(error.message()), name: None, total: 0, by_gpu, is_local }
        }
        Err(error) => {
            Looked { need: Need::Unknown(error.message()), name: None, total: 0, by_gpu, is_local: true }
        }
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
    looked: Vec<Looked>,
) -> NightPlan {
    let wanted: BTreeSet<&Name> = looked.iter().filter_map(|one| one.name.as_ref()).collect();
    let others = fleet.others.iter().map(|host| other_host(host, &wanted));
    let mut hosts: Vec<_> = std::iter::once(own).chain(others).collect();
    let mut entries = Vec::with_capacity(looked.len());
    for (n, (wish, looked)) in manifest.wishes.iter().zip(looked).enumerate() {
        let route = route(&wish.hosts, occasion, fleet, &mut hosts);
        let (Route::Each(places) | Route::OneOf(places)) = &route;
        for place in places {
            let need =
                if *place == 0 { looked.need.clone() } else { elsewhere(&hosts[*place], &looked, fleet) };
            hosts[*place].needs.insert(n, need);
        }
        entries.push(Entry { model: wish.download.model().to_string(), priority: wish.priority, route });
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

/// Another host, as it said of itself last. What would go there beyond what it named counts as free.
fn other_host(host: &HostState, wanted: &BTreeSet<&Name>) -> NightHost {
    let disk = host.about.as_ref().map(|about| about.disk.clone()).unwrap_or_default();
    let evictable = disk.evictable.unwrap_or(0);
    let named: u64 = disk.goes_first.iter().map(|model| model.bytes).sum();
    let goes_first = disk.goes_first.into_iter().map(Chosen::from);
    let rate = host.about.as_ref().and_then(|about| about.fetched_bytes_per_second);
    NightHost {
        name: host.name.clone(),
        rate: rate.map_or(GUESSED_LINE, Rate::measured),
        free_bytes: disk.room.unwrap_or(0).saturating_add(evictable.saturating_sub(named)),
        evictable: goes_first.filter(|chosen| !wanted.contains(&chosen.name)).collect(),
        refuses: (!host.is_up()).then(|| format!("{} is {}", host.name, host.state.word())),
        needs: BTreeMap::new(),
    }
}

/// Which hosts an entry is for. One that nobody knows stands there as a host that takes nothing, so that it is told.
fn route(selector: &Hosts, occasion: &Occasion, fleet: &Fleet, hosts: &mut Vec<NightHost>) -> Route {
    match selector {
        Hosts::This => Route::Each(vec![0]),
        Hosts::All => Route::Each(fleet.up(&Labels::default())),
        Hosts::Labelled(labels) => Route::Each(fleet.up(labels)),
        Hosts::Pool => Route::OneOf(fleet.up(&Labels::default())),
        Hosts::Best(labels) => Route::OneOf(fleet.up(labels)),
        Hosts::Named(names) => {
            Route::Each(names.iter().map(|name| named(name, occasion, fleet, hosts)).collect())
        }
    }
}

fn named(name: &HostName, occasion: &Occasion, fleet: &Fleet, hosts: &mut Vec<NightHost>) -> usize {
    if *name == occasion.host {
        return 0;
    }
    if let Some(known) = hosts.iter().position(|host| host.name == *name) {
        return known;
    }
    let hint = larder_jobs::client::near_hosts(name, &fleet.others);
    hosts.push(NightHost {
        name: name.clone(),
        rate: GUESSED_LINE,
        free_bytes: 0,
        evictable: Vec::new(),
        refuses: Some(format!("no host of the fleet is called {name}; {hint}")),
        needs: BTreeMap::new(),
    });
    hosts.len() - 1
}

/// What a model means for another host.
fn elsewhere(host: &NightHost, looked: &Looked, fleet: &Fleet) -> Need {
    match (&looked.need, &looked.name) {
        (Need::There { .. } | Need::Fetch { .. }, _) if looked.by_gpu => {
            Need::Unknown("that host chooses the variant by its own GPU".into())
        }
        (Need::There { .. } | Need::Fetch { .. }, Some(name)) => {
            match fleet.held.contains(&(host.name.clone(), name.clone())) {
                true => Need::There { bytes: looked.total },
                false => Need::Fetch { bytes: looked.total, disk: looked.total },
            }
        }
        (Need::Unfit(why), _) if looked.is_local => {
            Need::Unknown(format!("it may be otherwise on that host; on this one: {why}"))
        }
        (other, _) => other.clone(),
    }
}

/// What is there is asked for too: it gets its pin and its lease, so that nobody evicts it for the rest.
fn jobs(manifest: &Manifest, occasion: &Occasion, plan: &NightPlan) -> Vec<Job> {
    let of_host = |night: &HostNight| {
        let host = night.host.clone();
        let present = night.present.iter().map(|one| one.entry);
        let all: Vec<_> = present.chain(night.fetch.iter().map(|one| one.entry)).collect();
        all.into_iter().map(move |n| (n, host.clone()))
    };
    let job = |(n, host): (usize, HostName)| {
        let wish = &manifest.wishes[n];
        let run = occasion.run.as_deref().map(|run| (run, host.as_str()));
        let mut job = manifest.job(wish, occasion.now, run);
        if wish.hosts != Hosts::This {
            job.common.hosts = Hosts::named(host);
        }
        job
    };
    plan.hosts.iter().flat_map(of_host).map(job).collect()
}

//! What the queue knows of a fleet's hosts, and which of them each wish of a manifest is for.

use std::collections::{BTreeMap, BTreeSet};

use larder_jobs::client::{near_hosts, why_nobody};
use larder_jobs::{HostName, HostState, Hosts, Labels};

use super::{GUESSED_LINE, Occasion};
use crate::error::Result;
use crate::plan::{Chosen, Name, NightHost, Rate, Route};
use crate::warm::Manifest;

/// What the queue knows of the hosts.
#[derive(Default)]
pub(super) struct Fleet {
    /// This host, if it is one of them.
    own: Option<HostState>,
    /// Why this host takes nothing, if nobody serves here.
    pub(super) absent: Option<String>,
    /// The others that have ever said what they are.
    pub(super) others: Vec<HostState>,
    /// Who has which revision.
    pub(super) held: BTreeSet<(HostName, Name)>,
    /// What all hosts together may take.
    pub(super) limit: Option<Rate>,
}

impl Fleet {
    pub(super) async fn ask(occasion: &Occasion) -> Result<Self> {
        let Some(queue) = &occasion.fleet else { return Ok(Self::default()) };
        let (own, others): (Vec<_>, Vec<_>) =
            queue.hosts().await?.into_iter().partition(|host| host.name == occasion.host);
        let limit = queue.limits().await?.bandwidth.map(|all| Rate::measured(all.bytes() as f64));
        Ok(Self {
            own: own.into_iter().next(),
            others: others.into_iter().filter(|host| host.about.is_some()).collect(),
            limit,
            ..Self::default()
        })
    }

    /// As seen from a machine whose larder, if it has one, is known by the queue alone.
    pub(super) fn seen_from_afar(mut self) -> Self {
        if !self.own.as_ref().is_some_and(HostState::is_up) {
            let why =
                "no larder of the fleet runs on this machine; start larder serve here, or name the hosts";
            self.absent = Some(why.to_owned());
        }
        self
    }

    pub(super) async fn ask_who_has(&mut self, occasion: &Occasion, wanted: &BTreeSet<Name>) -> Result<()> {
        let Some(queue) = &occasion.fleet else { return Ok(()) };
        for repo in wanted.iter().map(|(repo, _)| repo).collect::<BTreeSet<_>>() {
            let all = queue.holders(repo).await?.into_iter();
            self.held.extend(all.map(|model| (model.host, (model.repo, model.commit))));
        }
        Ok(())
    }

    /// The places of the hosts that have these labels and take jobs; this host is the first.
    fn up(&self, labels: &Labels) -> Vec<usize> {
        let labels_here = self.own.as_ref().map(HostState::labels).unwrap_or_default();
        let own = (self.absent.is_none() && labels.select(&labels_here)).then_some(0);
        let others = self.others.iter().enumerate();
        let others = others.filter(|(_, host)| host.is_up() && labels.select(&host.labels()));
        own.into_iter().chain(others.map(|(n, _)| n + 1)).collect()
    }

    fn all(&self) -> Vec<HostState> {
        self.own.iter().chain(&self.others).cloned().collect()
    }
}

/// Where each wish of a manifest may go.
pub(super) struct Routed {
    /// For each wish its hosts, and why there are none if so.
    pub(super) routes: Vec<(Route, Option<String>)>,
    /// Hosts that nobody knows, which come after those of the fleet, and why they take nothing.
    pub(super) strangers: Vec<(HostName, String)>,
    /// What is wrong with names and labels, once each.
    pub(super) unknown: BTreeSet<String>,
}

impl Routed {
    pub(super) fn of(manifest: &Manifest, occasion: &Occasion, fleet: &Fleet) -> Self {
        let mut routed = Self { routes: Vec::new(), strangers: Vec::new(), unknown: BTreeSet::new() };
        let mut known = BTreeMap::from([(occasion.host.clone(), 0)]);
        known.extend(fleet.others.iter().enumerate().map(|(n, host)| (host.name.clone(), n + 1)));
        let any = Labels::default();
        for wish in &manifest.wishes {
            let route = match &wish.hosts {
                Hosts::This => (Route::Each(vec![0]), None),
                Hosts::All => routed.among(fleet, &any, Route::Each),
                Hosts::Labelled(labels) => routed.among(fleet, labels, Route::Each),
                Hosts::Pool => routed.among(fleet, &any, Route::OneOf),
                Hosts::Best(labels) => routed.among(fleet, labels, Route::OneOf),
                Hosts::Named(names) => {
                    let place = |name| routed.place(name, &mut known, fleet);
                    (Route::Each(names.iter().map(place).collect()), None)
                }
            };
            routed.routes.push(route);
        }
        routed
    }

    fn among(
        &mut self,
        fleet: &Fleet,
        labels: &Labels,
        route: fn(Vec<usize>) -> Route,
    ) -> (Route, Option<String>) {
        let places = fleet.up(labels);
        let nobody = places.is_empty().then(|| why_nobody(labels, &fleet.all())).flatten();
        let why = nobody.map(|error| format!("{}; {}", error.what(), error.hint()));
        self.unknown.extend(why.clone());
        (route(places), why)
    }

    /// A host that nobody knows has a place, too, so that it is told.
    fn place(&mut self, name: &HostName, known: &mut BTreeMap<HostName, usize>, fleet: &Fleet) -> usize {
        *known.entry(name.clone()).or_insert_with(|| {
            let why = format!("no host of the fleet is called {name}; {}", near_hosts(name, &fleet.all()));
            self.unknown.insert(why.clone());
            self.strangers.push((name.clone(), why));
            fleet.others.len() + self.strangers.len()
        })
    }
}

/// Another host, as it said of itself last. What would go there beyond what it named counts as free.
pub(super) fn other_host(host: &HostState, wanted: &BTreeSet<Name>) -> NightHost {
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

/// A host that nobody knows.
pub(super) fn stranger((name, why): (HostName, String)) -> NightHost {
    NightHost {
        name,
        rate: GUESSED_LINE,
        free_bytes: 0,
        evictable: Vec::new(),
        refuses: Some(why),
        needs: BTreeMap::new(),
    }
}

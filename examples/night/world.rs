//! The world of the simulated night: what the plan knows of it, what it does not, and what happens.
//!
//! It does what larder does: one plan at the beginning, a job on the host that the plan chose for each model, on each host
//! two downloads at a time, the highest priority and of that the oldest first; what a fleet may take is shared equally by
//! the hosts that download; what a dead host had not fetched goes to whoever is free after a while, from its first byte.

use std::collections::BTreeMap;

use jiff::Timestamp;
use larder::plan::{
    Entry, Finish, Flow, Hours, Need, NightAsk, NightHost, NightOrder, NightPlan, Rate, Route, plan_night,
};
use larder_jobs::{Bandwidth, Windows};

use super::dice::Dice;

pub(crate) const HOSTS: usize = 50;
const MODELS: usize = 300;
/// 1 Gbit/s, in bytes per second.
pub(crate) const LINE: f64 = 125e6;
/// What all hosts together may take (`larder limit --fleet`): a little less than the line brings at its worst.
const LIMIT: f64 = 100e6;
/// What each host may take outside the window, in bytes per second.
const OUTSIDE: u64 = 200_000;
/// Downloads of a host at a time, as `queue.concurrency.download`.
pub(crate) const SLOTS: usize = 2;
/// Seconds until what waits for a dead host goes to the others, as `queue.gone_after` with `queue.gone = "pool"`.
const GONE_AFTER: f64 = 900.0;
/// Seconds of a step.
const STEP: f64 = 10.0;
pub(crate) const WINDOW: &str = "22:00-06:00 Europe/Berlin";
/// The night in which the clock goes back: the window is open for nine hours.
const BEGIN: &str = "2026-10-24T18:30:00Z";
const DEADLINE: &str = "2026-10-25T05:30:00Z";
/// Seconds after the beginning.
pub(crate) const DEATH: (usize, f64) = (17, 3.7 * 3_600.0);
pub(crate) const OUTAGE: (f64, f64) = (6.0 * 3_600.0, 6.5 * 3_600.0);

/// A job: one model that is asked for.
struct Job {
    entry: usize,
    priority: i16,
    /// The host whose queue it is in; that of all without.
    target: Option<usize>,
    /// The host that fetches it or has it, and in which of its slots.
    at: Option<(usize, usize)>,
    left: f64,
    is_done: bool,
}

/// A stretch in which a host fetched a model.
pub(crate) struct Bar {
    pub(crate) host: usize,
    /// The first or the second of the downloads that a host does at a time.
    pub(crate) slot: usize,
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) priority: i16,
    /// Whether the window was open.
    pub(crate) is_open: bool,
    /// Whether the model was there at the end of it.
    pub(crate) ends: bool,
}

/// What became of one priority.
pub(crate) struct Class {
    pub(crate) priority: i16,
    pub(crate) wanted: usize,
    pub(crate) hits: usize,
}

/// What the night was.
pub(crate) struct Night {
    pub(crate) begin: Timestamp,
    pub(crate) seconds: f64,
    pub(crate) open: Vec<(f64, f64)>,
    pub(crate) hosts: Vec<String>,
    pub(crate) bars: Vec<Bar>,
    /// Bytes per second of all hosts, for each minute.
    pub(crate) flow: Vec<f64>,
    pub(crate) classes: Vec<Class>,
    pub(crate) models: usize,
    pub(crate) present: usize,
    pub(crate) wanted_bytes: f64,
    pub(crate) bytes: f64,
    /// What the source gave, whether somebody took it or not.
    pub(crate) could: f64,
    pub(crate) outside_bytes: f64,
    pub(crate) outside_excess: f64,
    pub(crate) line_excess: f64,
    pub(crate) hits: usize,
    /// How many could have been there by the deadline if bytes were water and the future known.
    pub(crate) bound: usize,
    /// Models that the plan said will be there, but for those of the host that dies, and how many of them were late.
    pub(crate) promised: usize,
    pub(crate) late: usize,
}

pub(crate) struct World {
    dice: Dice,
    ask: NightAsk,
    sizes: Vec<f64>,
    /// What is nowhere when the night begins.
    missing: Vec<usize>,
    jobs: Vec<Job>,
    alive: Vec<bool>,
    /// Whether a host dies and the source is away for a while.
    is_unlucky: bool,
    /// What the line of each host really brings; the plan knows what it brought at the beginning.
    lines: Vec<f64>,
    source: f64,
}

impl World {
    pub(crate) fn new(seed: u64, is_unlucky: bool) -> Self {
        let mut dice = Dice(seed);
        let (mut entries, mut sizes, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..MODELS {
            let priority = [0, 0, 0, 5, 5, 10][dice.below(6)];
            // From a few hundred megabytes to about a hundred gigabytes, most of them small.
            let size = 0.4e9 * (dice.roll() * 5.4).exp();
            let first = dice.below(HOSTS);
            let route = match dice.below(10) {
                0..4 => Route::Each(vec![first]),
                _ => Route::OneOf((0..6).map(|k| (first + k * 7) % HOSTS).collect()),
            };
            if dice.below(12) != 0 {
                missing.push(n);
            }
            let model = format!("model-{n:03}");
            entries.push(Entry { want: model.clone(), model, priority, route, nobody: None });
            sizes.push(size);
        }
        let lines: Vec<f64> = (0..HOSTS).map(|_| 10e6 + dice.roll() * 50e6).collect();
        let ask = NightAsk {
            entries,
            now: BEGIN.parse().expect("a time"),
            deadline: DEADLINE.parse().ok(),
            windows: WINDOW.parse::<Windows>().ok(),
            inside: None,
            outside: Bandwidth::new(OUTSIDE).ok(),
            source: Some(Rate::measured(LIMIT)),
            order: NightOrder::Priority,
        };
        let (jobs, alive, source) = (Vec::new(), vec![true; HOSTS], LINE * 0.95);
        Self { dice, ask, sizes, missing, jobs, alive, is_unlucky, lines, source }
    }

    /// Lives through the night.
    pub(crate) fn live(mut self) -> Night {
        let (begin, deadline) = (self.ask.now, self.ask.deadline.expect("a deadline"));
        let seconds = deadline.duration_since(begin).as_secs_f64();
        let windows = self.ask.windows.clone().expect("a window");
        let since = |at: Timestamp| at.duration_since(begin).as_secs_f64();
        let open = windows.spans(begin, deadline).into_iter().map(|(from, to)| (since(from), since(to)));
        let mut night = self.empty(begin, seconds, open.collect());
        let plan = self.plan();
        self.enqueue(&plan);
        let mut now = 0.0;
        while now < seconds {
            if self.is_unlucky && now >= DEATH.1 {
                self.alive[DEATH.0] = false;
            }
            if self.is_unlucky && now >= DEATH.1 + GONE_AFTER {
                self.give_away(DEATH.0);
            }
            self.wobble(now);
            self.claim();
            let is_open = night.open.iter().any(|(from, to)| (*from..*to).contains(&now));
            self.step(now, is_open, &mut night);
            now += STEP;
        }
        self.count(&plan, &mut night);
        night
    }

    fn empty(&self, begin: Timestamp, seconds: f64, open: Vec<(f64, f64)>) -> Night {
        Night {
            begin,
            seconds,
            open,
            hosts: (1..=HOSTS).map(|n| format!("gpu-{n:02}")).collect(),
            bars: Vec::new(),
            flow: vec![0.0; (seconds / 60.0).ceil() as usize],
            classes: Vec::new(),
            models: MODELS,
            present: MODELS - self.missing.len(),
            wanted_bytes: self.missing.iter().map(|entry| self.sizes[*entry]).sum(),
            bytes: 0.0,
            could: 0.0,
            outside_bytes: 0.0,
            outside_excess: 0.0,
            line_excess: 0.0,
            hits: 0,
            bound: 0,
            promised: 0,
            late: 0,
        }
    }

    /// The plan of `larder warm` with what is known at the beginning.
    fn plan(&self) -> NightPlan {
        let host = |n: usize| NightHost {
            name: format!("gpu-{:02}", n + 1).parse().expect("a name"),
            rate: Rate::measured(self.lines[n]),
            free_bytes: u64::MAX,
            evictable: Vec::new(),
            refuses: None,
            needs: BTreeMap::new(),
        };
        let mut hosts: Vec<NightHost> = (0..HOSTS).map(host).collect();
        for (n, entry) in self.ask.entries.iter().enumerate() {
            let (Route::Each(among) | Route::OneOf(among)) = &entry.route;
            let bytes = self.sizes[n].ceil() as u64;
            let is_missing = self.missing.contains(&n);
            for (at, host) in among.iter().enumerate() {
                let need = if is_missing || at > 0 {
                    Need::Fetch { bytes, disk: bytes }
                } else {
                    Need::There { bytes }
                };
                hosts[*host].needs.insert(n, need);
            }
        }
        plan_night(&self.ask, &hosts)
    }

    /// The jobs that `larder warm` asks for, in its order: host by host, as each is to fetch them.
    fn enqueue(&mut self, plan: &NightPlan) {
        for (host, night) in plan.hosts.iter().enumerate() {
            let job = |one: &larder::plan::Fetching| Job {
                entry: one.entry,
                priority: one.priority,
                target: Some(host),
                at: None,
                left: self.sizes[one.entry],
                is_done: false,
            };
            let jobs: Vec<Job> = night.fetch.iter().map(job).collect();
            self.jobs.extend(jobs);
        }
    }

    /// What a host that is gone has not done goes to whoever is free; its bytes are of no use elsewhere.
    fn give_away(&mut self, host: usize) {
        for job in self.jobs.iter_mut().filter(|job| job.target == Some(host) && !job.is_done) {
            (job.target, job.at, job.left) = (None, None, self.sizes[job.entry]);
        }
    }

    /// Lines and source are now a little faster, now slower.
    fn wobble(&mut self, now: f64) {
        let drift = |dice: &mut Dice, rate: f64, low: f64, high: f64| {
            (rate * (0.985 + 0.03 * dice.roll())).clamp(low, high)
        };
        for line in &mut self.lines {
            *line = drift(&mut self.dice, *line, 4e6, 60e6);
        }
        self.source = drift(&mut self.dice, self.source.max(LINE * 0.8), LINE * 0.8, LINE);
        if self.is_unlucky && (OUTAGE.0..OUTAGE.1).contains(&now) {
            self.source = 0.0;
        }
    }

    /// Every free slot takes the job of the highest priority, and of that the oldest, of its host's queue or of the pool.
    fn claim(&mut self) {
        for slot in 0..SLOTS {
            for host in (0..HOSTS).filter(|host| self.alive[*host]) {
                if self.jobs.iter().any(|job| job.at == Some((host, slot)) && !job.is_done) {
                    continue;
                }
                let free = self.jobs.iter_mut().filter(|job| {
                    job.at.is_none() && !job.is_done && job.target.is_none_or(|target| target == host)
                });
                // The first of equals is the oldest.
                if let Some(job) = free.min_by_key(|job| std::cmp::Reverse(job.priority)) {
                    job.at = Some((host, slot));
                }
            }
        }
    }

    /// What each host takes: its line, its hours and an equal share of the limit bound it, and the source gives to all alike.
    fn rates(&self, now: f64) -> Vec<f64> {
        let moment = self.ask.now.checked_add(jiff::SignedDuration::from_secs_f64(now)).expect("a time");
        let hours = Hours {
            windows: self.ask.windows.clone().expect("a window"),
            inside: self.ask.inside,
            outside: self.ask.outside,
        };
        // The worker's own decision; whether it is right is counted by the spans of the windows.
        let allowed = match hours.allow(moment) {
            Flow::At(rate) => rate.map_or(f64::INFINITY, |rate| rate.bytes() as f64),
            Flow::Nothing { .. } => 0.0,
        };
        let is_active = |host: usize| {
            self.alive[host]
                && self.jobs.iter().any(|job| !job.is_done && job.at.is_some_and(|at| at.0 == host))
        };
        let mut active: Vec<usize> = (0..HOSTS).filter(|host| is_active(*host)).collect();
        let share = LIMIT / active.len().max(1) as f64;
        let most = |host: usize| self.lines[host].min(allowed).min(share);
        active.sort_by(|a, b| most(*a).total_cmp(&most(*b)));
        let (mut rates, mut spare) = (vec![0.0; HOSTS], self.source);
        for (n, host) in active.iter().enumerate() {
            rates[*host] = most(*host).min(spare / (active.len() - n) as f64);
            spare -= rates[*host];
        }
        rates
    }

    /// Ten seconds of it.
    fn step(&mut self, now: f64, is_open: bool, night: &mut Night) {
        let rates = self.rates(now);
        let mut all = 0.0;
        for (host, rate) in rates.into_iter().enumerate().filter(|(_, rate)| *rate > 0.0) {
            let running = |job: &&mut Job| !job.is_done && job.at.is_some_and(|at| at.0 == host);
            let count = self.jobs.iter_mut().filter(running).count();
            let mut came = 0.0;
            for job in self.jobs.iter_mut().filter(running) {
                let bytes = (rate * STEP / count as f64).min(job.left);
                job.left -= bytes;
                job.is_done = job.left <= 0.5;
                came += bytes;
                let slot = job.at.map_or(0, |at| at.1);
                let (priority, ends) = (job.priority, job.is_done);
                draw(night, Bar { host, slot, from: now, to: now + STEP, priority, is_open, ends });
            }
            all += came;
            if !is_open {
                night.outside_bytes += came;
                night.outside_excess += (came - OUTSIDE as f64 * STEP).max(0.0);
            }
        }
        night.line_excess += (all - LINE * STEP).max(0.0);
        night.bytes += all;
        night.could +=
            STEP * if is_open { self.source } else { self.source.min(HOSTS as f64 * OUTSIDE as f64) };
        night.flow[(now / 60.0) as usize] += all / 60.0;
    }

    fn count(&self, plan: &NightPlan, night: &mut Night) {
        // What only the dead host should have cannot be there in the morning, and what it had is lost.
        let possible =
            |entry: &usize| !self.is_unlucky || self.ask.entries[*entry].route != Route::Each(vec![DEATH.0]);
        let priority = |entry: usize| self.ask.entries[entry].priority;
        let is_there = |entry: usize| {
            let there =
                |job: &Job| job.entry == entry && job.is_done && job.at.is_some_and(|at| self.alive[at.0]);
            possible(&entry) && self.jobs.iter().any(there)
        };
        for class in [10, 5, 0] {
            let of = || self.missing.iter().copied().filter(|entry| priority(*entry) == class);
            let hits = of().filter(|entry| is_there(*entry)).count();
            night.classes.push(Class { priority: class, wanted: of().count(), hits });
            night.hits += hits;
        }
        let others = plan.hosts.iter().enumerate().filter(|(host, _)| self.alive[*host]);
        let promised = others.flat_map(|(_, night)| &night.fetch).filter(|one| one.finishes == Finish::Will);
        for one in promised {
            night.promised += 1;
            night.late += usize::from(!is_there(one.entry));
        }
        // All that could have come, as water: the highest priority first, the smallest of it first.
        let mut sizes: Vec<(i16, f64)> = self
            .missing
            .iter()
            .filter(|entry| possible(entry))
            .map(|entry| (-priority(*entry), self.sizes[*entry]))
            .collect();
        sizes.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut room = night.could;
        let fits = sizes.iter().take_while(|(_, size)| {
            room -= size;
            room >= 0.0
        });
        night.bound = fits.count().max(1);
    }
}

/// Adds a stretch to the picture, or makes the last one of the slot longer.
fn draw(night: &mut Night, bar: Bar) {
    let last = night.bars.iter_mut().rev().find(|last| (last.host, last.slot) == (bar.host, bar.slot));
    match last {
        Some(last)
            if last.priority == bar.priority
                && last.is_open == bar.is_open
                && !last.ends
                && (last.to - bar.from).abs() < STEP / 2.0 =>
        {
            (last.to, last.ends) = (bar.to, bar.ends);
        }
        _ => night.bars.push(bar),
    }
}

//! The world of the simulated night: what the planner knows of it, what it does not, and what happens.

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use larder::plan::{
    Entry, Flow, Hours, Need, NightAsk, NightHost, NightOrder, NightPlan, Rate, Route, plan_night,
};
use larder_jobs::{Bandwidth, Windows};

pub(crate) const HOSTS: usize = 50;
const MODELS: usize = 300;
/// 1 Gbit/s, in bytes per second.
pub(crate) const LINE: f64 = 125e6;
/// What each host may take outside the window, in bytes per second.
const OUTSIDE: u64 = 200_000;
/// Seconds of a step, and from one plan to the next.
const STEP: f64 = 10.0;
const REPLAN: f64 = 300.0;
pub(crate) const WINDOW: &str = "22:00-06:00 Europe/Berlin";
/// The night in which the clock goes back: the window is open for nine hours.
const BEGIN: &str = "2026-10-24T18:30:00Z";
const DEADLINE: &str = "2026-10-25T05:30:00Z";
/// Seconds after the beginning.
pub(crate) const DEATH: (usize, f64) = (17, 3.7 * 3_600.0);
pub(crate) const OUTAGE: (f64, f64) = (6.0 * 3_600.0, 6.5 * 3_600.0);
/// How the measured rate follows what is measured.
const FOLLOWS: f64 = 0.1;

/// One model on its host: what is left, and how it went.
struct Model {
    entry: usize,
    left: f64,
    host: Option<usize>,
    done_at: Option<f64>,
}

/// A stretch in which a host fetched a model.
pub(crate) struct Bar {
    pub(crate) host: usize,
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
    pub(crate) plans: usize,
    pub(crate) slowest_plan: f64,
}

/// Numbers that look random and are the same every night.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, most: usize) -> usize {
        ((self.roll() * most as f64) as usize).min(most - 1)
    }
}

pub(crate) struct World {
    dice: Dice,
    ask: NightAsk,
    sizes: Vec<f64>,
    models: Vec<Model>,
    present: usize,
    alive: Vec<bool>,
    /// What the line of each host really brings, and what of it was measured.
    lines: Vec<f64>,
    measured: Vec<f64>,
    source: f64,
    source_measured: f64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let (mut entries, mut sizes, mut models, mut present) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for n in 0..MODELS {
            let priority = [0, 0, 0, 5, 5, 10][dice.below(6)];
            // From a few hundred megabytes to about a hundred gigabytes, most of them small.
            let size = 0.4e9 * (dice.roll() * 5.4).exp();
            let first = dice.below(HOSTS);
            let route = match dice.below(10) {
                0..4 => Route::Each(vec![first]),
                _ => Route::OneOf((0..6).map(|k| (first + k * 7) % HOSTS).collect()),
            };
            let is_present = dice.below(12) == 0;
            if is_present {
                present += 1;
            } else {
                let host = if let Route::Each(only) = &route { Some(only[0]) } else { None };
                models.push(Model { entry: n, left: size, host, done_at: None });
            }
            entries.push(Entry { model: format!("model-{n:03}"), priority, route });
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
            source: None,
            order: NightOrder::Priority,
        };
        let (measured, alive) = (lines.clone(), vec![true; HOSTS]);
        Self {
            dice,
            ask,
            sizes,
            models,
            present,
            alive,
            lines,
            measured,
            source: LINE * 0.95,
            source_measured: LINE * 0.95,
        }
    }

    /// Lives through the night.
    pub(crate) fn live(mut self) -> Night {
        let begin = self.ask.now;
        let seconds = self.ask.deadline.expect("a deadline").duration_since(begin).as_secs_f64();
        let windows = self.ask.windows.clone().expect("a window");
        let open: Vec<(f64, f64)> = windows
            .spans(begin, self.ask.deadline.expect("a deadline"))
            .into_iter()
            .map(|(from, to)| {
                (from.duration_since(begin).as_secs_f64(), to.duration_since(begin).as_secs_f64())
            })
            .collect();
        let mut night = self.empty(begin, seconds, open);
        let (mut now, mut next_plan, mut plan) = (0.0, 0.0, None);
        while now < seconds {
            if now >= DEATH.1 && self.alive[DEATH.0] {
                self.die(DEATH.0);
                next_plan = now;
            }
            if now >= next_plan || plan.is_none() {
                let clock = Instant::now();
                plan = Some(self.plan(begin, now));
                night.slowest_plan = night.slowest_plan.max(clock.elapsed().as_secs_f64());
                night.plans += 1;
                next_plan = now + REPLAN;
            }
            self.wobble(now);
            if let Some(plan) = &plan {
                let is_open = night.open.iter().any(|(from, to)| (*from..*to).contains(&now));
                self.step(plan, now, is_open, &mut night);
            }
            now += STEP;
        }
        self.count(&mut night);
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
            present: self.present,
            wanted_bytes: self.models.iter().map(|model| model.left).sum(),
            bytes: 0.0,
            could: 0.0,
            outside_bytes: 0.0,
            outside_excess: 0.0,
            line_excess: 0.0,
            hits: 0,
            bound: 0,
            plans: 0,
            slowest_plan: 0.0,
        }
    }

    /// What a host had of models for the pool is lost with it; models that only it should have are not wanted any more.
    fn die(&mut self, host: usize) {
        self.alive[host] = false;
        for model in self.models.iter_mut().filter(|model| model.host == Some(host)) {
            if matches!(self.ask.entries[model.entry].route, Route::OneOf(_)) {
                *model =
                    Model { entry: model.entry, left: self.sizes[model.entry], host: None, done_at: None };
            }
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
        if (OUTAGE.0..OUTAGE.1).contains(&now) {
            self.source = 0.0;
        }
        for (measured, line) in self.measured.iter_mut().zip(&self.lines) {
            *measured += FOLLOWS * (line - *measured);
        }
        // A source that is away has no rate; what was measured before is what is planned with.
        if self.source > 0.0 {
            self.source_measured += FOLLOWS * (self.source - self.source_measured);
        }
    }

    fn plan(&self, begin: Timestamp, now: f64) -> NightPlan {
        let mut hosts: Vec<NightHost> = (0..HOSTS)
            .map(|n| NightHost {
                name: format!("gpu-{:02}", n + 1).parse().expect("a name"),
                rate: Rate::measured(self.measured[n]),
                free_bytes: u64::MAX,
                evictable: Vec::new(),
                refuses: (!self.alive[n]).then(|| "it does not answer".to_owned()),
                needs: BTreeMap::new(),
            })
            .collect();
        let mut ask = NightAsk { source: Some(Rate::measured(self.source_measured)), ..self.ask.clone() };
        ask.now = begin.checked_add(SignedDuration::from_secs_f64(now)).expect("a time");
        for entry in &mut ask.entries {
            entry.route = Route::Each(vec![0]);
        }
        for (n, host) in hosts.iter_mut().enumerate() {
            let there = (0..MODELS).filter(|entry| !self.models.iter().any(|model| model.entry == *entry));
            if n == 0 {
                host.needs
                    .extend(there.map(|entry| (entry, Need::There { bytes: self.sizes[entry] as u64 })));
            }
        }
        for model in &self.models {
            ask.entries[model.entry].route = self.ask.entries[model.entry].route.clone();
            let (Route::Each(among) | Route::OneOf(among)) = &self.ask.entries[model.entry].route;
            for host in among {
                let mine = model.host == Some(*host);
                let need = match model.done_at {
                    Some(_) if mine => Need::There { bytes: self.sizes[model.entry] as u64 },
                    _ => {
                        let left = if mine { model.left } else { self.sizes[model.entry] };
                        Need::Fetch { bytes: left.ceil() as u64, disk: left.ceil() as u64 }
                    }
                };
                hosts[*host].needs.insert(model.entry, need);
            }
        }
        plan_night(&ask, &hosts)
    }

    /// Ten seconds: each host fetches what the plan has for it now, as fast as its line and the source let it.
    fn step(&mut self, plan: &NightPlan, now: f64, is_open: bool, night: &mut Night) {
        let mut turns: Vec<(f64, usize, usize)> = Vec::new();
        for host in (0..HOSTS).filter(|host| self.alive[*host]) {
            let pieces = plan.pieces.iter().filter(|piece| piece.host == host);
            // Whoever is done before the plan thought goes on with the next one, and who is not goes on.
            let piece = pieces
                .filter(|piece| {
                    self.models.iter().any(|model| model.entry == piece.entry && model.done_at.is_none())
                })
                .min_by(|a, b| a.from.total_cmp(&b.from));
            turns.extend(piece.map(|piece| (piece.from, host, piece.entry)));
        }
        // In the order of the plan, as long as the source gives.
        turns.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let (mut all, mut spare) = (0.0, self.source);
        let moment = self.ask.now.checked_add(SignedDuration::from_secs_f64(now)).expect("a time");
        let hours = Hours {
            windows: self.ask.windows.clone().expect("a window"),
            inside: self.ask.inside,
            outside: self.ask.outside,
        };
        for (_, host, entry) in turns {
            // The worker's own decision; whether it is right is counted by the spans of the windows below.
            let allowed = match hours.allow(moment) {
                Flow::At(rate) => rate.map_or(f64::INFINITY, |rate| rate.bytes() as f64),
                Flow::Nothing { .. } => 0.0,
            };
            let rate = self.lines[host].min(allowed).min(spare);
            spare -= rate;
            if rate <= 0.0 {
                continue;
            }
            let Some(model) = self.models.iter_mut().find(|model| model.entry == entry) else { continue };
            if model.host != Some(host) {
                // Bytes on another host are of no use here.
                (model.host, model.left) = (Some(host), self.sizes[entry]);
            }
            let bytes = (rate * STEP).min(model.left);
            model.left -= bytes;
            all += bytes;
            if !is_open {
                night.outside_bytes += bytes;
                night.outside_excess += (bytes - OUTSIDE as f64 * STEP).max(0.0);
            }
            let ends = model.left <= 0.5;
            if ends {
                model.done_at = Some(now + STEP);
            }
            let priority = self.ask.entries[entry].priority;
            if bytes > 0.0 {
                draw(night, Bar { host, from: now, to: now + STEP, priority, is_open, ends });
            }
        }
        night.line_excess += (all - LINE * STEP).max(0.0);
        night.bytes += all;
        night.could +=
            STEP * if is_open { self.source } else { self.source.min(HOSTS as f64 * OUTSIDE as f64) };
        night.flow[(now / 60.0) as usize] += all / 60.0;
    }

    fn count(&self, night: &mut Night) {
        // A model that only the dead host should have can be there only if it came before.
        let possible = |model: &&Model| match &self.ask.entries[model.entry].route {
            Route::Each(among) => among != &[DEATH.0] || model.done_at.is_some(),
            Route::OneOf(_) => true,
        };
        let priority = |model: &Model| self.ask.entries[model.entry].priority;
        for class in [10, 5, 0] {
            let of = || self.models.iter().filter(|model| priority(model) == class);
            let hits = of().filter(|model| model.done_at.is_some()).count();
            night.classes.push(Class { priority: class, wanted: of().count(), hits });
            night.hits += hits;
        }
        // All that could have come, as water: the highest priority first, the smallest of it first.
        let mut sizes: Vec<(i16, f64)> = self
            .models
            .iter()
            .filter(possible)
            .map(|model| (-priority(model), self.sizes[model.entry]))
            .collect();
        sizes.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut room = night.could;
        night.bound = sizes
            .iter()
            .take_while(|(_, size)| {
                room -= size;
                room >= 0.0
            })
            .count()
            .max(1);
    }
}

/// Adds a stretch to the picture, or makes the last one of the host longer.
fn draw(night: &mut Night, bar: Bar) {
    let last = night.bars.iter_mut().rev().find(|last| last.host == bar.host);
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

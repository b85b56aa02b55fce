//! How bytes flow through a night.
//!
//! Where the source is enough for all lines, each runs. Where it is not, a host that would otherwise be late has its whole
//! line, and the rest goes to the highest priorities. So whatever can be there in time is, nobody waits while a line is
//! free, and little is half done when something goes wrong.

use jiff::Timestamp;
use larder_jobs::{Bandwidth, Windows};

use super::choose::{Place, Want};
use super::{NightAsk, NightHost, NightOrder, Rate};

/// Less is no bytes.
const NOTHING: f64 = 1e-3;

/// Bytes that one host takes of one entry, at one rate; seconds are from the beginning of the plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Piece {
    /// The host, by its place in the list.
    pub host: usize,
    /// The entry, by its place in the manifest.
    pub entry: usize,
    /// The beginning.
    pub from: f64,
    /// The end.
    pub to: f64,
    /// Bytes per second.
    pub rate: f64,
}

/// The time of a plan, cut where the window opens and closes.
#[derive(Debug, Clone)]
pub(super) struct Hours {
    /// Ends in seconds, and whether the window is open until then.
    phases: Vec<(f64, bool)>,
}

impl Hours {
    pub(super) fn between(from: Timestamp, to: Timestamp, windows: Option<&Windows>) -> Self {
        let seconds = |at: Timestamp| at.duration_since(from).as_secs_f64();
        let Some(windows) = windows else { return Self { phases: vec![(seconds(to), true)] } };
        let mut phases = Vec::new();
        for (opens, closes) in windows.spans(from, to) {
            phases.push((seconds(opens), false));
            phases.push((seconds(closes), true));
        }
        phases.push((seconds(to), false));
        let mut last = 0.0;
        phases.retain(|(end, _)| std::mem::replace(&mut last, *end) < *end);
        Self { phases }
    }

    /// Seconds within the hours, and outside of them.
    pub(super) fn seconds(&self) -> [f64; 2] {
        self.left(0.0)
    }

    pub(super) fn open_seconds(&self) -> f64 {
        self.seconds()[0]
    }

    fn left(&self, now: f64) -> [f64; 2] {
        let (mut sums, mut begin) = ([0.0; 2], 0.0_f64);
        for (end, is_open) in &self.phases {
            sums[usize::from(!is_open)] += (end - begin.max(now)).max(0.0);
            begin = *end;
        }
        sums
    }
}

/// What each host may take within the hours and outside of them, and what the source gives, in bytes per second.
#[derive(Debug, Clone)]
pub(super) struct Speeds {
    pub(super) hosts: Vec<[f64; 2]>,
    pub(super) source: f64,
}

impl Speeds {
    pub(super) fn new(ask: &NightAsk, hosts: &[NightHost], pick: fn(Rate) -> f64) -> Self {
        #[allow(clippy::cast_precision_loss)] // a rate needs no sixteen digits
        let limit = |bandwidth: Bandwidth| bandwidth.bytes() as f64;
        let inside = ask.inside.map_or(f64::INFINITY, limit);
        let outside = ask.outside.map_or(0.0, limit);
        let of = |host: &NightHost| {
            let line = pick(host.rate).max(0.0);
            [line.min(inside), line.min(outside)]
        };
        let source = ask.source.map_or(f64::INFINITY, |source| pick(source).max(0.0));
        Self { hosts: hosts.iter().map(of).collect(), source }
    }
}

/// When each want is fetched.
#[derive(Debug, Clone)]
pub(super) struct Timeline {
    times: Vec<(f64, f64)>,
    pub(super) pieces: Vec<Piece>,
}

impl Timeline {
    pub(super) fn starts(&self, n: usize) -> f64 {
        self.times[n].0
    }

    pub(super) fn ends(&self, n: usize) -> f64 {
        self.times[n].1
    }
}

/// Lets the chosen wants flow.
pub(super) fn run(
    wants: &[Want],
    chosen: &[Option<usize>],
    hours: &Hours,
    speeds: &Speeds,
    order: NightOrder,
) -> Timeline {
    let mut river = River::new(wants, chosen, speeds, order);
    let (mut now, mut open) = (0.0, 0);
    while let Some((end, is_open)) = hours.phases.get(open).copied() {
        if river.is_dry() {
            break;
        }
        let kind = usize::from(!is_open);
        let (rates, until) = river.rates(kind, hours.left(now));
        let step = river.next_event(&rates).min(until).min(end - now);
        river.flow(&rates, now, step);
        now += step;
        if now >= end - 1e-9 {
            now = end;
            open += 1;
        }
    }
    Timeline { times: river.times, pieces: river.pieces }
}

/// What is left of one want.
struct Rest {
    want: usize,
    bytes: f64,
}

struct River<'a> {
    wants: &'a [Want],
    speeds: &'a Speeds,
    /// What each host still has to fetch, the last first.
    queues: Vec<Vec<Rest>>,
    left: Vec<f64>,
    times: Vec<(f64, f64)>,
    pieces: Vec<Piece>,
    /// The piece that each host is at.
    current: Vec<Option<usize>>,
}

impl<'a> River<'a> {
    fn new(wants: &'a [Want], chosen: &[Option<usize>], speeds: &'a Speeds, order: NightOrder) -> Self {
        let hosts = speeds.hosts.len();
        let mut queues: Vec<Vec<(Place, usize)>> = (0..hosts).map(|_| Vec::new()).collect();
        for (n, at) in chosen.iter().enumerate() {
            if let Some(place) = at.map(|at| wants[n].places[at]) {
                queues[place.host].push((place, n));
            }
        }
        let key = |(place, n): &(Place, usize)| {
            let want = &wants[*n];
            let priority = if order == NightOrder::Priority { -i32::from(want.priority) } else { 0 };
            let bytes = if order == NightOrder::Listed { 0 } else { place.bytes };
            std::cmp::Reverse((priority, bytes, want.entry))
        };
        queues.iter_mut().for_each(|queue| queue.sort_by_key(key));
        #[allow(clippy::cast_precision_loss)] // models have less than 2^53 bytes
        let rest = |(place, want): (Place, usize)| Rest { want, bytes: place.bytes as f64 };
        let queues: Vec<Vec<Rest>> =
            queues.into_iter().map(|queue| queue.into_iter().map(rest).collect()).collect();
        let left = queues.iter().map(|queue| queue.iter().map(|rest| rest.bytes).sum()).collect();
        let times = vec![(f64::INFINITY, f64::INFINITY); wants.len()];
        Self { wants, speeds, queues, left, times, pieces: Vec::new(), current: vec![None; hosts] }
    }

    fn is_dry(&self) -> bool {
        self.queues.iter().all(Vec::is_empty)
    }

    /// Whether the source gives less than the hosts could take in hours of that kind.
    fn binds(&self, kind: usize) -> bool {
        self.speeds.hosts.iter().map(|rates| rates[kind]).sum::<f64>() > self.speeds.source
    }

    /// The rate of each host now, and for how many seconds at most that is right.
    fn rates(&self, kind: usize, left: [f64; 2]) -> (Vec<f64>, f64) {
        let other = 1 - kind;
        if !self.binds(kind) {
            return (self.speeds.hosts.iter().map(|rates| rates[kind]).collect(), f64::INFINITY);
        }
        match left[other] > 0.0 && self.binds(other) {
            true => (self.in_proportion(kind, left), f64::INFINITY),
            false => self.by_urgency(kind, left),
        }
    }

    fn cap(&self, host: usize, kind: usize) -> f64 {
        self.speeds.hosts[host][kind]
    }

    /// Bytes of each host that have to come in hours of this kind, since the others do not let them through.
    fn needed(&self, kind: usize, left: [f64; 2]) -> Vec<f64> {
        let other = 1 - kind;
        let of = |host: usize| (self.left[host] - self.cap(host, other) * left[other]).max(0.0);
        (0..self.left.len()).map(of).collect()
    }

    /// Whoever would be late with anything less has its whole line; the rest goes to the highest priorities, and of one
    /// priority to what is there first. So little is half done at any time.
    fn by_urgency(&self, kind: usize, left: [f64; 2]) -> (Vec<f64>, f64) {
        let (needed, time) = (self.needed(kind, left), left[kind].max(1e-9));
        let is_critical =
            |host: usize| needed[host] > 0.0 && needed[host] >= self.cap(host, kind) * time * (1.0 - 1e-9);
        let slack = self.speeds.source * time - needed.iter().sum::<f64>();
        let is_tight = slack <= self.speeds.source * time * 1e-9;
        let mut order: Vec<usize> = (0..needed.len()).filter(|host| !self.queues[*host].is_empty()).collect();
        let rank = |host: usize| {
            let rest = self.queues[host].last();
            let priority = rest.map_or(i32::MAX, |rest| -i32::from(self.wants[rest.want].priority));
            (!is_critical(host), is_tight && needed[host] <= 0.0, priority)
        };
        let bytes = |host: usize| self.queues[host].last().map_or(0.0, |rest| rest.bytes);
        order.sort_by(|a, b| rank(*a).cmp(&rank(*b)).then(bytes(*a).total_cmp(&bytes(*b))).then(a.cmp(b)));
        let (mut rates, mut spare) = (vec![0.0; needed.len()], self.speeds.source);
        for host in &order {
            rates[*host] = self.cap(*host, kind).min(spare);
            spare -= rates[*host];
        }
        let mut until = f64::INFINITY;
        for host in order.iter().copied().filter(|host| needed[*host] > 0.0 && !is_critical(*host)) {
            let idle = self.cap(host, kind) - rates[host];
            if idle > 0.0 {
                until = until.min((self.cap(host, kind) * time - needed[host]) / idle);
            }
        }
        let idle: f64 = order.iter().filter(|host| needed[**host] <= 0.0).map(|host| rates[*host]).sum();
        if !is_tight && idle > 0.0 {
            until = until.min(slack / idle);
        }
        (rates, until.max(1e-6))
    }

    /// Where the source binds within the hours and outside of them, each host gets what it needs spread over all of its
    /// time, and the rest is shared evenly.
    fn in_proportion(&self, kind: usize, left: [f64; 2]) -> Vec<f64> {
        let other = 1 - kind;
        let mut needed = self.needed(kind, left);
        let more =
            self.left.iter().sum::<f64>() - self.speeds.source * left[other] - needed.iter().sum::<f64>();
        if more > 0.0 {
            let most = |host: usize| self.left[host].min(self.cap(host, kind) * left[kind]);
            let slack: Vec<f64> =
                (0..needed.len()).map(|host| (most(host) - needed[host]).max(0.0)).collect();
            let all = slack.iter().sum::<f64>();
            if all > 0.0 {
                let share = (more / all).min(1.0);
                needed.iter_mut().zip(&slack).for_each(|(needed, slack)| *needed += share * slack);
            }
        }
        let time = left[kind].max(1e-9);
        let least = needed.iter().enumerate().map(|(host, bytes)| (bytes / time).min(self.cap(host, kind)));
        self.share_the_rest(least.collect(), kind)
    }

    /// Raises all rates evenly until each host is at its limit or the source is.
    fn share_the_rest(&self, mut rates: Vec<f64>, kind: usize) -> Vec<f64> {
        let sum = rates.iter().sum::<f64>();
        if sum > self.speeds.source {
            rates.iter_mut().for_each(|rate| *rate *= self.speeds.source / sum);
            return rates;
        }
        let mut spare = self.speeds.source - sum;
        let room = |host: usize, rates: &[f64]| self.cap(host, kind) - rates[host];
        let mut thirsty: Vec<usize> =
            (0..rates.len()).filter(|host| !self.queues[*host].is_empty()).collect();
        thirsty.sort_by(|a, b| room(*a, &rates).total_cmp(&room(*b, &rates)));
        for (n, host) in thirsty.iter().enumerate() {
            #[allow(clippy::cast_precision_loss)] // hosts are few
            let share = spare / (thirsty.len() - n) as f64;
            let more = room(*host, &rates).min(share).max(0.0);
            rates[*host] += more;
            spare -= more;
        }
        rates
    }

    /// Seconds until the first of them has the model that it is at.
    fn next_event(&self, rates: &[f64]) -> f64 {
        let first = self.queues.iter().zip(rates).filter(|(_, rate)| **rate > 0.0);
        let ends = first.filter_map(|(queue, rate)| queue.last().map(|rest| rest.bytes / rate));
        ends.fold(f64::INFINITY, f64::min)
    }

    fn flow(&mut self, rates: &[f64], now: f64, step: f64) {
        for (host, rate) in rates.iter().copied().enumerate() {
            let Some(rest) = self.queues[host].last_mut() else { continue };
            if rate <= 0.0 && rest.bytes > NOTHING {
                self.current[host] = None;
                continue;
            }
            let (want, entry) = (rest.want, self.wants[rest.want].entry);
            let last = self.current[host].map(|n| self.pieces[n]);
            let is_new = last.is_none_or(|last| last.entry != entry);
            // Who was stopped by a closed window has begun before.
            self.times[want].0 = self.times[want].0.min(now);
            match self.current[host] {
                Some(n) if !is_new && (self.pieces[n].rate - rate).abs() <= 1e-9 * rate => {
                    self.pieces[n].to = now + step;
                }
                _ => {
                    self.current[host] = Some(self.pieces.len());
                    self.pieces.push(Piece { host, entry, from: now, to: now + step, rate });
                }
            }
            let bytes = rate * step;
            rest.bytes -= bytes;
            self.left[host] = (self.left[host] - bytes).max(0.0);
            if rest.bytes <= NOTHING {
                self.times[want].1 = now + step;
                self.queues[host].pop();
                self.current[host] = None;
            }
        }
    }
}

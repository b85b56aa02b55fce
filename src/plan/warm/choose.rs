//! What is fetched where, and what is dropped.
//!
//! As many as possible of the highest priority, then of the next. Of one priority the smallest come first, which is the
//! best that can be done where every model has one host; where a model may go to several, a bounded search looks for
//! more. A load can be fetched in time exactly if no part of it is more than its line, or the source, lets through
//! within the hours and outside of them.

use super::timeline::{Hours, Speeds};

/// Beyond so many models with a choice only single moves are tried.
const MAX_SEARCHED: usize = 48;
/// Steps of the search, so that a plan takes milliseconds.
const MAX_STEPS: usize = 50_000;
/// Rounds of single moves.
const MAX_ROUNDS: usize = 3;

/// One model that is to be fetched once.
#[derive(Debug, Clone)]
pub(super) struct Want {
    pub(super) entry: usize,
    /// Other entries that are the same job.
    pub(super) also: Vec<usize>,
    pub(super) priority: i16,
    /// Where it may go; at least one place.
    pub(super) places: Vec<Place>,
}

/// A host that a model may go to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) host: usize,
    pub(super) bytes: u64,
    pub(super) disk: u64,
}

/// Bytes that can come until the deadline: of each host and of all, within the hours and outside of them.
#[derive(Debug, Clone)]
pub(super) struct Capacity {
    hosts: Vec<[f64; 2]>,
    shared: [f64; 2],
}

impl Capacity {
    pub(super) fn of(hours: &Hours, speeds: &Speeds) -> Self {
        let [open, closed] = hours.seconds();
        let of = |[inside, outside]: [f64; 2]| [inside * open, outside * closed];
        let source = speeds.source;
        let shared =
            [if open > 0.0 { source * open } else { 0.0 }, if closed > 0.0 { source * closed } else { 0.0 }];
        Self { hosts: speeds.hosts.iter().map(|rates| of(*rates)).collect(), shared }
    }

    /// Bytes that one host can fetch if nobody else does.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // not negative, and saturates
    pub(super) fn of_host(&self, host: usize) -> u64 {
        let alone = |n: usize| self.hosts[host][n].min(self.shared[n]);
        (alone(0) + alone(1)) as u64
    }

    /// Whether this many bytes of each host can come in time.
    pub(super) fn holds(&self, load: &[f64]) -> bool {
        let slack = |limit: f64| limit * (1.0 + 1e-9) + 1e-6;
        let (mut all, mut only) = (0.0, [0.0; 2]);
        for (bytes, limits) in load.iter().zip(&self.hosts) {
            if *bytes > slack(limits[0] + limits[1]) {
                return false;
            }
            all += bytes;
            only[0] += (bytes - limits[1]).max(0.0);
            only[1] += (bytes - limits[0]).max(0.0);
        }
        only[0] <= slack(self.shared[0])
            && only[1] <= slack(self.shared[1])
            && all <= slack(self.shared[0] + self.shared[1])
    }

    fn all(&self) -> f64 {
        let hosts = self.hosts.iter().map(|limits| limits[0] + limits[1]).sum::<f64>();
        hosts.min(self.shared[0] + self.shared[1])
    }
}

/// For each want its place, by its number there; `None` for what is dropped. `wants` come with the highest priority
/// first, and of one priority with the smallest. What `fixed` has placed stays where it is.
pub(super) fn choose(
    wants: &[Want],
    capacity: &Capacity,
    rooms: &[u64],
    fixed: &[Option<usize>],
) -> Vec<Option<usize>> {
    let mut state = State::new(wants, capacity, rooms);
    for (n, at) in fixed.iter().enumerate() {
        if let Some(at) = at {
            state.put(n, *at);
        }
    }
    for n in 0..wants.len() {
        if state.chosen[n].is_none()
            && let Some(at) = state.best(n)
        {
            state.put(n, at);
        }
    }
    let open: Vec<usize> = (0..wants.len()).filter(|n| fixed[*n].is_none()).collect();
    if open.len() <= MAX_SEARCHED {
        Search::of(state, open).run()
    } else {
        for _ in 0..MAX_ROUNDS {
            if !state.make_way(fixed) {
                break;
            }
        }
        state.chosen
    }
}

struct State<'a> {
    wants: &'a [Want],
    capacity: &'a Capacity,
    rooms: &'a [u64],
    load: Vec<f64>,
    disk: Vec<u64>,
    chosen: Vec<Option<usize>>,
}

#[allow(clippy::cast_precision_loss)] // models have less than 2^53 bytes
fn float(bytes: u64) -> f64 {
    bytes as f64
}

impl<'a> State<'a> {
    fn new(wants: &'a [Want], capacity: &'a Capacity, rooms: &'a [u64]) -> Self {
        let hosts = rooms.len();
        Self {
            wants,
            capacity,
            rooms,
            load: vec![0.0; hosts],
            disk: vec![0; hosts],
            chosen: vec![None; wants.len()],
        }
    }

    fn put(&mut self, n: usize, at: usize) {
        let place = self.wants[n].places[at];
        self.load[place.host] += float(place.bytes);
        self.disk[place.host] = self.disk[place.host].saturating_add(place.disk);
        self.chosen[n] = Some(at);
    }

    fn take(&mut self, n: usize) {
        let Some(at) = self.chosen[n].take() else { return };
        let place = self.wants[n].places[at];
        self.load[place.host] -= float(place.bytes);
        self.disk[place.host] = self.disk[place.host].saturating_sub(place.disk);
    }

    fn fits(&mut self, place: Place) -> bool {
        if self.disk[place.host].saturating_add(place.disk) > self.rooms[place.host] {
            return false;
        }
        let bytes = float(place.bytes);
        self.load[place.host] += bytes;
        let holds = self.capacity.holds(&self.load);
        self.load[place.host] -= bytes;
        holds
    }

    /// The places of a want that are free, the one that has most of it in front, then the one that is done first.
    fn places(&mut self, n: usize) -> Vec<usize> {
        let wants = self.wants;
        let mut free: Vec<(u64, f64, usize)> = Vec::new();
        for (at, place) in wants[n].places.iter().enumerate() {
            if self.fits(*place) {
                let limits = self.capacity.hosts[place.host];
                let share = (self.load[place.host] + float(place.bytes)) / (limits[0] + limits[1]).max(1.0);
                free.push((place.bytes, share, at));
            }
        }
        free.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
        free.into_iter().map(|(_, _, at)| at).collect()
    }

    fn best(&mut self, n: usize) -> Option<usize> {
        self.places(n).first().copied()
    }

    /// Moves a model that is placed to another host if that lets one in that was dropped; says whether one came in.
    fn make_way(&mut self, fixed: &[Option<usize>]) -> bool {
        let mut better = false;
        let movable: Vec<usize> = (0..self.wants.len())
            .filter(|n| fixed[*n].is_none() && self.wants[*n].places.len() > 1)
            .collect();
        let out: Vec<usize> = (0..self.wants.len()).filter(|n| self.chosen[*n].is_none()).collect();
        // Whoever comes later is larger, so a few of them tell.
        for n in out.into_iter().take(MAX_SEARCHED) {
            for other in &movable {
                let Some(was) = self.chosen[*other] else { continue };
                self.take(*other);
                let place = self.best(n);
                if let Some(at) = place {
                    self.put(n, at);
                    if let Some(next) = self.best(*other) {
                        self.put(*other, next);
                        better = true;
                        break;
                    }
                    self.take(n);
                }
                self.put(*other, was);
            }
        }
        better
    }
}

/// A search through the places of a few wants, depth first, the most promising first.
struct Search<'a> {
    state: State<'a>,
    /// The wants that are searched, in their order.
    open: Vec<usize>,
    /// For each of them the number of its priority, from 0.
    class: Vec<usize>,
    best: Vec<Option<usize>>,
    best_hits: Vec<usize>,
    hits: Vec<usize>,
    left: Vec<usize>,
    steps: usize,
}

impl<'a> Search<'a> {
    fn of(state: State<'a>, open: Vec<usize>) -> Self {
        let mut class = Vec::with_capacity(open.len());
        for n in 0..open.len() {
            let same = n > 0 && state.wants[open[n]].priority == state.wants[open[n - 1]].priority;
            let before = class.last().copied();
            class.push(before.map_or(0, |before: usize| before + usize::from(!same)));
        }
        let classes = class.last().map_or(0, |last| last + 1);
        let (mut best_hits, mut left) = (vec![0; classes], vec![0; classes]);
        for (n, class) in open.iter().zip(&class) {
            left[*class] += 1;
            best_hits[*class] += usize::from(state.chosen[*n].is_some());
        }
        let (best, hits) = (state.chosen.clone(), vec![0; classes]);
        Self { state, open, class, best, best_hits, hits, left, steps: 0 }
    }

    fn run(mut self) -> Vec<Option<usize>> {
        if self.best_hits != self.left {
            for n in self.open.clone() {
                self.state.take(n);
            }
            self.step(0);
        }
        self.best
    }

    /// Whether what is still open could be more than the best that was found.
    fn may_be_better(&mut self, at: usize) -> bool {
        let mut room = self.state.capacity.all() - self.state.load.iter().sum::<f64>();
        let mut hits = self.hits.clone();
        let here = self.class[at];
        for next in at..self.open.len() {
            if self.class[next] == here {
                let want = &self.state.wants[self.open[next]];
                let least = want.places.iter().map(|place| place.bytes).min().unwrap_or(0);
                room -= float(least);
                if room < -1.0 {
                    continue;
                }
            }
            hits[self.class[next]] += 1;
        }
        hits > self.best_hits
    }

    fn step(&mut self, at: usize) {
        self.steps += 1;
        if at == self.open.len() {
            if self.hits > self.best_hits {
                self.best_hits.clone_from(&self.hits);
                self.best.clone_from(&self.state.chosen);
            }
            return;
        }
        if self.steps > MAX_STEPS || !self.may_be_better(at) {
            return;
        }
        let (n, class) = (self.open[at], self.class[at]);
        for place in self.state.places(n) {
            self.state.put(n, place);
            self.hits[class] += 1;
            self.step(at + 1);
            self.hits[class] -= 1;
            self.state.take(n);
        }
        self.step(at + 1);
    }
}

//! Eight workers, one Redis, one hub, two hundred jobs of every kind, and everything that happens to a fleet meanwhile:
//! every job ends, once, and on no host that it was not for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use larder_jobs::{Evict, Job, JobId, Kind, Preload, Profile, Reason, Size, State, Test, Verify, Work};
use support::redis::RedisOptions;
use support::{Daemon, Dice, Hub, Larder, Model, Redis, models};

use super::{Program, history, machine};

const HOSTS: usize = 8;
const JOBS: usize = 200;
/// Who is removed for good, and after which job.
const REMOVED: (usize, usize) = (7, 140);
const PATIENCE: Duration = Duration::from_secs(150);

struct Storm {
    redis: Redis,
    hub: Hub,
    program: Program,
    machines: Vec<Larder>,
    daemons: Vec<Option<Daemon>>,
    models: Vec<Model>,
    dice: Dice,
}

impl Storm {
    fn new() -> Self {
        let redis = Redis::with(RedisOptions::default().directive("appendfsync", "always"));
        let hub = Hub::start();
        let models: Vec<_> = (0..12).map(|n| models::tiny_gpt2(600 + n, 40_000)).collect();
        models.iter().for_each(|model| drop(hub.add(model.clone())));
        let machines: Vec<_> = (0..HOSTS)
            .map(|n| {
                machine(&name(n), &redis.url(), &hub)
                    .env("LARDER__HOST__LABELS", format!("zone={}", if n % 2 == 0 { "a" } else { "b" }))
                    .env("LARDER__QUEUE__GONE", "fail")
                    .env("LARDER__QUEUE__GONE_AFTER", "10s")
            })
            .collect();
        let daemons = machines.iter().map(|machine| Some(machine.serve())).collect();
        let program = Program::new(&redis.url());
        Self { redis, hub, program, machines, daemons, models, dice: Dice::new(7) }
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.dice.below(from.len() as u64)).expect("small")].clone()
    }

    /// Some job for some hosts.
    fn job(&mut self) -> Job {
        let models = self.models.clone();
        let repo: larder_jobs::RepoId = self.pick(&models).id().parse().expect("a repo");
        let work = match self.dice.below(10) {
            0 => Work::Evict(Evict { repo: Some(repo), ..Evict::default() }),
            1 => Work::Evict(Evict { free_bytes: Some(Size(1)), dry_run: true, ..Evict::default() }),
            2 => Work::Verify(Verify { repo: Some(repo), ..Verify::default() }),
            3 => Work::Preload(Preload { repo, revision: "main".parse().expect("a revision"), force: false }),
            4 => Work::Profile(Profile { tests: vec![Test::Hub], ..Profile::default() }),
            _ => Job::download(larder_jobs::ModelRef::new(repo, None)).work,
        };
        let hosts = match self.dice.below(10) {
            0 => "pool".to_owned(),
            1 => "best".to_owned(),
            2 => "zone=a".to_owned(),
            3 => "best:zone=b".to_owned(),
            _ => name(usize::try_from(self.dice.below(HOSTS as u64)).expect("small")),
        };
        let mut job = Job::new(work);
        job.common.hosts = hosts.parse().expect("hosts");
        job.common.priority = i16::try_from(self.dice.below(5)).expect("small");
        job
    }

    /// Asks until the queue is there; nobody takes jobs while a whole zone is drained, which is an answer, too.
    fn ask(&self, job: &Job) -> Vec<JobId> {
        let begun = Instant::now();
        loop {
            match self.program.block(self.program.client.enqueue(job)) {
                Ok(accepted) if accepted.job.children.is_empty() => return vec![accepted.job.id],
                Ok(accepted) => return accepted.job.children.iter().map(|child| child.id).collect(),
                Err(error) => {
                    assert_eq!(error.reason(), Reason::QueueUnavailable, "{error:?}");
                    assert!(begun.elapsed() < PATIENCE, "{error:?}");
                }
            }
        }
    }

    fn kill(&mut self, n: usize) {
        let mut daemon = self.daemons[n].take().expect("it runs");
        daemon.kill9();
        drop(daemon);
        self.daemons[n] = Some(self.machines[n].serve());
    }

    fn drain(&self, n: usize, drained: bool) {
        let host = name(n).parse().expect("a name");
        self.program
            .block(self.program.client.drain(&host, drained, Some("storm")))
            .expect("the queue is there");
    }

    /// What happens after the job number `n`.
    fn happen(&mut self, n: usize) {
        match n {
            40 => self.kill(2),
            70 => self.drain(3, true),
            90 => self.redis.restart(Duration::from_millis(300)),
            110 => self.kill(5),
            120 => {
                self.drain(3, false);
                self.drain(4, true);
            }
            n if n == REMOVED.1 => {
                let mut daemon = self.daemons[REMOVED.0].take().expect("it runs");
                daemon.kill9();
            }
            160 => self.kill(6),
            180 => self.drain(4, false),
            _ => {}
        }
    }

    fn field(&self, id: JobId) -> BTreeMap<String, String> {
        self.redis.command(&["HGETALL", &format!("{{larder}}:job:{id}")]).pairs()
    }
}

fn name(n: usize) -> String {
    format!("gpu-{n}")
}

/// No job ended twice, and nobody ever ran what was another's, whatever it looks like at the end.
fn assert_once_and_at_home(storm: &Storm, ids: &BTreeSet<JobId>) {
    let history = history::read(storm.redis.dir());
    let (mut runs, mut again) = (0, 0);
    for id in ids {
        let moments = &history[&id.to_string()];
        let states: Vec<State> = moments.iter().map(|one| one.state.parse().expect("a state")).collect();
        let ends = states.windows(2).filter(|pair| pair[1].is_terminal() && pair[0] != pair[1]).count();
        assert_eq!(ends, 1, "{moments:?}");
        let starts = states.windows(2).filter(|pair| pair[1].is_running() && !pair[0].is_running()).count();
        (runs, again) = (runs + starts, again + usize::from(starts > 1));
        for one in moments {
            if let Some(host) = one.target.strip_prefix("host:").filter(|_| !one.owner.is_empty()) {
                assert_eq!(host, one.owner, "a host ran what was not its own: {moments:?}");
            }
        }
    }
    println!("{runs} runs, {again} jobs more than once");
    assert!(
        runs > ids.len() / 2 && again > 0,
        "the storm has taken jobs from their workers: {runs}, {again}"
    );
}

#[test]
fn every_job_of_a_fleet_in_trouble_ends_once_and_where_it_belongs() {
    let mut storm = Storm::new();
    let mut ids = BTreeSet::new();
    for n in 0..JOBS {
        let job = storm.job();
        ids.extend(storm.ask(&job));
        storm.happen(n);
    }
    let begun = Instant::now();
    for id in &ids {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        let waiting = async { tokio::time::timeout(left, storm.program.client.wait(*id)).await };
        match storm.program.block(waiting) {
            Ok(ended) => drop(ended.expect("the job is known")),
            Err(_) => panic!("not ended: {:?}", storm.field(*id)),
        }
    }
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for id in &ids {
        let job = storm.field(*id);
        let state: State = job["state"].parse().expect("a state");
        assert!(state.is_terminal() && job.contains_key("finished_at"), "{job:?}");
        let reason = job.get("reason").map_or("", String::as_str);
        *ends.entry(format!("{} {state} {reason}", job["kind"])).or_default() += 1;
    }
    println!("{} jobs in {:?} after the last: {ends:?}", ids.len(), begun.elapsed());
    let gone =
        ends.iter().filter(|(end, _)| end.ends_with("host_gone")).map(|(_, count)| count).sum::<usize>();
    assert!(gone > 0, "jobs of the host that was removed say so: {ends:?}");
    assert!(ends["download ready "] > 20, "{ends:?}");

    // In each kind every job stands in one state, and nothing is left where jobs wait or run.
    let mut places = BTreeMap::<String, usize>::new();
    for kind in Kind::ALL {
        for state in State::ALL {
            let there =
                storm.redis.command(&["ZRANGE", &format!("{{larder}}:jobs:{kind}:{state}"), "0", "-1"]);
            for id in there.list() {
                *places.entry(id).or_default() += 1;
            }
        }
    }
    assert_eq!(places.len(), ids.len());
    assert!(places.values().all(|count| *count == 1), "{places:?}");
    assert_once_and_at_home(&storm, &ids);
    let left = ["leases", "claims", "wants"].map(|key| storm.redis.keys(&format!("*:{key}")));
    assert!(left.iter().all(|keys| keys.iter().all(|key| key.ends_with("wants"))), "{left:?}");
    for places in ["*:ready:*", "*:due:*"] {
        assert_eq!(storm.redis.keys(places), [""; 0]);
    }
    drop(storm.hub);
}

//! SIGKILL in the middle of everything: of foreground commands and of daemons, at random points from the first
//! instant to the moment of publishing. Killed anywhere, a staging equals not having run or having finished.

use std::fmt;
use std::time::{Duration, Instant};

use support::cache::{Snapshot, assert_clean, published_early, repo_folder, walk};
use support::{Daemon, Dice, Hub, Larder, Model, Tripwire, larder, models};

const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether a point is reached.
const TICK: Duration = Duration::from_millis(1);
/// Kills of each kind of process in the short form and in the long one (`LARDER_TEST_LONG`).
const KILLS: [u32; 2] = [25, 100];
const CONNECTIONS: u64 = 2;
/// What a kill may cost: what each connection had not noted yet (4 MiB), had in hand (two writes of 256 KiB), and what
/// the hub had handed to the kernel and nobody read; and small files, which are fetched anew.
const COST: u64 = CONNECTIONS * ((4 << 20) + (2 << 18) + (1 << 20)) + (64 << 10);

/// When the power goes.
enum Point {
    /// When the process has opened its state folder.
    Opening,
    /// When so many more bytes have been sent.
    Bytes(u64),
    /// When so many more blobs are published.
    Blobs(usize),
    /// When the receipt, a link of the snapshot, or the ref is there.
    Publishing(&'static str),
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Point::Opening => write!(f, "when the state folder was taken"),
            Point::Bytes(n) => write!(f, "after {n} more bytes"),
            Point::Blobs(n) => write!(f, "after {n} more blobs"),
            Point::Publishing(what) => write!(f, "when {what} appeared"),
        }
    }
}

impl Point {
    fn random(dice: &mut Dice) -> Self {
        match dice.below(16) {
            0 => Self::Opening,
            1 | 2 => Self::Blobs(dice.below(3) as usize + 1),
            3 => Self::Publishing(
                [".larder/receipts", ".larder/tmp", "snapshots", "refs"][dice.below(4) as usize],
            ),
            _ => Self::Bytes(dice.below(16 << 20)),
        }
    }

    /// Waits for it; false when the process ended or `over` says that there is nothing more to come.
    fn reached(&self, house: &House, process: &mut Daemon, over: impl Fn(&Daemon) -> bool) -> bool {
        let House { hub, larder, model } = house;
        let repo = repo_folder(larder.cache(), model.id());
        let count = |folder: &str| walk(&repo.join(folder)).len();
        let (sent, blobs) = (hub.bytes_of(model.id()), count("blobs"));
        let lock = larder.state().join("larder.lock");
        let holds = |pid: String| std::fs::read_to_string(&lock).is_ok_and(|text| text.contains(&pid));
        let begun = Instant::now();
        loop {
            let is_there = match self {
                Self::Opening => holds(process.pid().to_string()),
                Self::Bytes(n) => hub.wait_for_bytes(model.id(), sent + n, TICK),
                Self::Blobs(n) => count("blobs") >= blobs + n,
                Self::Publishing(folder) => count(folder) > 0,
            };
            if is_there {
                return process.is_running();
            }
            if !process.is_running() || over(process) {
                return false;
            }
            assert!(begun.elapsed() < PATIENCE, "{self} never came\n{}", process.logs().join("\n"));
            std::thread::sleep(TICK);
        }
    }
}

/// What the kills of one test did.
#[derive(Default)]
struct Tally {
    kills: u32,
    stagings: u32,
    sent: u64,
    wanted: u64,
}

impl Tally {
    fn wanted_kills() -> u32 {
        KILLS[usize::from(std::env::var_os("LARDER_TEST_LONG").is_some())]
    }

    /// One staging is over: the model is there, whole, and did not cost more than it may.
    fn staged(&mut self, house: &House, kills: u32) {
        let House { hub, larder, model } = house;
        Snapshot::read(larder.cache(), model.id(), "main").expect("staged").assert_is(model);
        assert_clean(larder.cache());
        let (sent, most) = (hub.bytes_of(model.id()), model.bytes() + u64::from(kills) * COST);
        assert!(sent <= most, "{sent} bytes sent for {} and {kills} kills, at most {most}", model.bytes());
        self.stagings += 1;
        self.sent += sent;
        self.wanted += model.bytes();
    }

    fn print(&self, what: &str) {
        let mib = |bytes: u64| bytes >> 20;
        println!(
            "{what}: {} kills over {} stagings, {} MiB sent for {} MiB; {} KiB fetched again for each kill, {} allowed",
            self.kills,
            self.stagings,
            mib(self.sent),
            mib(self.wanted),
            (self.sent - self.wanted) / 1024 / u64::from(self.kills.max(1)),
            COST / 1024,
        );
    }
}

/// One staging: a hub, a host, a model.
struct House {
    hub: Hub,
    larder: Larder,
    model: Model,
}

fn house(seed: u64) -> House {
    let (hub, model) = (Hub::start(), models::sharded_gpt2(seed, 6_000_000, 4));
    assert!(model.bytes() > 20_000_000, "{}", model.bytes());
    hub.add(model.clone());
    hub.throttle(Some(24 << 20));
    let larder = larder!(&hub)
        .env("LARDER__HUB__CONNECTIONS", CONNECTIONS.to_string())
        // A kill counts as an attempt, so that a job that kills its worker ends some day; here it is not the job.
        .env("LARDER__QUEUE__MAX_ATTEMPTS", "1000");
    House { hub, larder, model }
}

#[track_caller]
fn assert_nothing_early(larder: &Larder, point: &Point) {
    let early = published_early(larder.cache());
    assert!(early.is_empty(), "visible before it was verified, killed {point}: {early:?}");
}

#[test]
fn foreground_commands_that_are_killed_at_random_points_lose_nothing() {
    let (mut dice, mut tally) = (Dice::new(1), Tally::default());
    while tally.kills < Tally::wanted_kills() {
        let house = house(100 + u64::from(tally.stagings));
        let mut kills = 0;
        loop {
            let mut command = house.larder.spawn(&["stage", house.model.id()]);
            command.allow(Tripwire::Partials);
            let point = Point::random(&mut dice);
            let enough = tally.kills + kills >= Tally::wanted_kills();
            if enough || !point.reached(&house, &mut command, |_| false) {
                let status = command.wait_exit(PATIENCE).expect("it ends");
                assert!(status.success(), "{status}\n{}", command.logs().join("\n"));
                break;
            }
            command.kill9();
            kills += 1;
            assert_nothing_early(&house.larder, &point);
        }
        tally.kills += kills;
        tally.staged(&house, kills);
    }
    tally.print("foreground");
}

#[test]
fn daemons_that_are_killed_at_random_points_lose_no_job() {
    let (mut dice, mut tally) = (Dice::new(2), Tally::default());
    while tally.kills < Tally::wanted_kills() {
        let house = house(200 + u64::from(tally.stagings));
        let mut daemon = house.larder.serve();
        // Accepted once; from here on it must not be lost.
        let wish = ["stage", house.model.id(), "--detach", "--json"];
        let job = house.larder.run(&wish).expect_code(0).json();
        let id = job["id"].as_str().expect("an id");
        let path = format!("/v1/jobs/{id}");
        let is_over = |daemon: &Daemon| daemon.get(&path).json["state"] == "ready";
        let mut kills = 0;
        while tally.kills + kills < Tally::wanted_kills() {
            let point = Point::random(&mut dice);
            let early = matches!(point, Point::Opening);
            if !early {
                wait_ready(&mut daemon);
            }
            if !point.reached(&house, &mut daemon, |daemon| !early && is_over(daemon)) {
                break;
            }
            daemon.kill9();
            kills += 1;
            assert_nothing_early(&house.larder, &point);
            daemon = house.larder.spawn(&["serve"]);
        }
        wait_ready(&mut daemon);
        let done = daemon.wait_job(id, PATIENCE);
        assert_eq!(
            (&done["state"], &done["commit"]),
            (&"ready".into(), &house.model.commit().into()),
            "{done}"
        );
        let jobs = daemon.get("/v1/jobs").expect(200);
        assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(1), "one wish, one job: {jobs}");
        drop(daemon);
        tally.kills += kills;
        tally.staged(&house, kills);
    }
    tally.print("daemon");
}

fn wait_ready(daemon: &mut Daemon) {
    let socket = daemon.socket();
    daemon.wait_ready(&socket, PATIENCE);
}

//! A random life of a cache against a small model of it: stage, use, lease, pin, hold open, evict, crash and restart, on a
//! real folder with the real binary.

use std::collections::BTreeMap;
use std::fs::File;

use serde_json::Value;
use support::cache::assert_clean;
use support::{Daemon, Dice, Hub, Larder, Tripwire, larder};

use super::{PATIENCE, model, text};

const MODELS: usize = 5;
const STEPS: usize = 120;
const BYTES: u64 = 300_000;

/// What should be true of one model.
#[derive(Debug, Default)]
struct Known {
    /// In the order of last use; 0 is not there.
    used: u64,
    pinned: bool,
    leased: bool,
    open: Option<File>,
}

impl Known {
    fn is_protected(&self) -> bool {
        self.pinned || self.leased || self.open.is_some()
    }
}

struct Life {
    larder: Larder,
    daemon: Option<Daemon>,
    known: BTreeMap<String, Known>,
    clock: u64,
    dice: Dice,
}

impl Life {
    fn name(&mut self) -> String {
        format!("a/m{}", self.dice.below(MODELS as u64))
    }

    fn step(&mut self) {
        let name = self.name();
        match self.dice.below(12) {
            0..=2 => self.stage(&name),
            3 => self.set(&name, "pin", true),
            4 => self.set(&name, "unpin", false),
            5 => self.lease(&name),
            6 => self.release(&name),
            7 => self.open(&name),
            8 => self.known.get_mut(&name).expect("known").open = None,
            9 => self.evict(&name),
            10 => self.free(),
            _ => self.crash(),
        }
    }

    fn there(&self, name: &str) -> bool {
        self.known[name].used > 0
    }

    fn stage(&mut self, name: &str) {
        self.larder.run(&["stage", name]).expect_code(0);
        self.used(name);
    }

    fn used(&mut self, name: &str) {
        self.clock += 1;
        self.known.get_mut(name).expect("known").used = self.clock;
    }

    fn set(&mut self, name: &str, verb: &str, pinned: bool) {
        let there = self.there(name);
        self.larder.run(&[verb, name]).expect_code(if there { 0 } else { 3 });
        if there {
            self.known.get_mut(name).expect("known").pinned = pinned;
        }
    }

    fn lease(&mut self, name: &str) {
        let there = self.there(name);
        let args = ["lease", name, "--holder", "pod", "--ttl", "1h"];
        self.larder.run(&args).expect_code(if there { 0 } else { 3 });
        if there {
            self.used(name);
            self.known.get_mut(name).expect("known").leased = true;
        }
    }

    fn release(&mut self, name: &str) {
        let there = self.there(name);
        self.larder.run(&["release", name, "--holder", "pod"]).expect_code(if there { 0 } else { 3 });
        // It was in use for as long as it was leased.
        if self.known[name].leased {
            self.used(name);
        }
        self.known.get_mut(name).expect("known").leased = false;
    }

    fn open(&mut self, name: &str) {
        if !self.there(name) {
            return;
        }
        let folder = self.larder.cache().join(format!("models--{}/blobs", name.replace('/', "--")));
        let mut blobs = std::fs::read_dir(folder).expect("there").flatten();
        let blob = blobs.next().expect("a blob").path();
        self.known.get_mut(name).expect("known").open = Some(File::open(blob).expect("opens"));
    }

    fn evict(&mut self, name: &str) {
        let known = &self.known[name];
        let code = match (known.used > 0, known.is_protected()) {
            (false, _) => 3,
            (true, true) => 4,
            (true, false) => 0,
        };
        self.larder.run(&["evict", name]).expect_code(code);
        if code == 0 {
            self.known.insert(name.to_owned(), Known::default());
        }
    }

    /// Room for one and a half models: two go, the least recently used of those that may.
    fn free(&mut self) {
        let mut may: Vec<(u64, String)> = self
            .known
            .iter()
            .filter(|(_, known)| known.used > 0 && !known.is_protected())
            .map(|(name, known)| (known.used, name.clone()))
            .collect();
        may.sort();
        let bytes = (BYTES * 3 / 2).to_string();
        self.larder.run(&["evict", "--free", &bytes]).expect_code(if may.len() >= 2 { 0 } else { 4 });
        for (_, name) in may.into_iter().take(2) {
            self.known.insert(name, Known::default());
        }
    }

    fn crash(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill9();
        }
        let mut daemon = self.larder.serve();
        daemon.allow(Tripwire::Errors);
        self.daemon = Some(daemon);
    }

    fn check(&self, step: usize) {
        let listed = self.larder.run(&["ls", "--json"]).expect_code(0).json();
        let seen: BTreeMap<String, (bool, bool)> = listed
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| (text(&one["repo"]), (one["pinned"] == true, one["leased"] == Value::Bool(true))))
            .collect();
        let expected: BTreeMap<String, (bool, bool)> = self
            .known
            .iter()
            .filter(|(_, known)| known.used > 0)
            .map(|(name, known)| (name.clone(), (known.pinned, known.leased)))
            .collect();
        assert_eq!(seen, expected, "after step {step}");
        assert_clean(self.larder.cache());
    }
}

#[test]
fn a_random_life_is_the_one_that_a_small_model_predicts() {
    let hub = Hub::start();
    for n in 0..MODELS {
        hub.add(model(&format!("a/m{n}"), 580 + n as u64, BYTES));
    }
    // The keeper's own look at open files counts as use, at its own times.
    let larder = larder!(&hub).env("LARDER__CACHE__MIN_AGE", "0s").env("LARDER__CACHE__CHECK_EVERY", "1h");
    let known = (0..MODELS).map(|n| (format!("a/m{n}"), Known::default())).collect();
    let mut life = Life { larder, daemon: None, known, clock: 0, dice: Dice::new(590) };
    life.crash();
    for step in 0..STEPS {
        life.step();
        life.check(step);
    }
    life.daemon.take().expect("runs").terminate(PATIENCE);
}

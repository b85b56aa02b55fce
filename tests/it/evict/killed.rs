//! Killed at any point of a deletion: what is left is whole, nothing is forgotten, and no byte is leaked.

use std::fs::{File, FileTimes};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use support::cache::{assert_clean, walk};
use support::{Dice, Hub, Larder, larder};

use super::{PATIENCE, put, text};

const RUNS: usize = 200;
/// Longest wait from the first sign of a deletion to the kill.
const WINDOW_MICROS: u64 = 4_000;

/// Three revisions that share some of their twelve files each.
fn stock(larder: &Larder, dice: &mut Dice) {
    for (n, name) in ["a/one", "a/two"].iter().enumerate() {
        for revision in 0..=n {
            let files: Vec<(String, Vec<u8>)> = (0..12)
                .map(|file| {
                    let shared = file % 3 == 0;
                    let byte = if shared { 100 + file as u8 } else { dice.below(90) as u8 };
                    (format!("f{file}"), vec![byte; 512 * (file + 1)])
                })
                .collect();
            let files: Vec<(&str, &[u8])> =
                files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
            put(larder.cache(), name, &format!("{revision}").repeat(40), &files);
        }
    }
}

/// What was on its way goes when it is an hour old; here it is made so.
fn sweep(larder: &Larder) {
    for path in
        walk(larder.cache()).into_iter().filter(|path| path.to_string_lossy().contains("/.larder/tmp/"))
    {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(name.starts_with("file-"), "only an intent that was being written may be left: {name}");
        let file = File::options().append(true).open(&path).expect("opens");
        let then = SystemTime::now() - Duration::from_secs(7_200);
        file.set_times(FileTimes::new().set_modified(then)).expect("set");
        larder.run(&["doctor", "--reconcile"]).expect_code(0);
    }
}

/// The intents of deletions that are under way.
fn under_way(cache: &Path) -> Vec<PathBuf> {
    walk(cache).into_iter().filter(|path| path.to_string_lossy().contains("/.larder/evicting/")).collect()
}

#[test]
fn a_kill_at_any_point_leaves_whole_models_and_no_lost_byte() {
    let mut dice = Dice::new(570);
    let (mut caught, mut unfinished) = (0, 0);
    for run in 0..RUNS {
        let larder = larder!(&Hub::start()).env("LARDER__CACHE__MIN_AGE", "0s");
        stock(&larder, &mut dice);
        let mut command = larder.spawn(&["evict", "a/one", "a/two"]);
        // Not before the deletion begins: everything before it is another test's.
        let begun = Instant::now();
        while under_way(larder.cache()).is_empty() && command.is_running() && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_micros(50));
        }
        thread::sleep(Duration::from_micros(dice.below(WINDOW_MICROS)));
        caught += usize::from(command.is_running());
        command.kill9();
        drop(command);
        unfinished += usize::from(!under_way(larder.cache()).is_empty());

        let listed = larder.run(&["ls", "--json"]).expect_code(0).json();
        assert_clean(larder.cache());
        assert!(under_way(larder.cache()).is_empty(), "run {run}: it is ended one way or the other");
        let known: Vec<String> =
            listed.as_array().expect("a list").iter().map(|one| text(&one["path"])).collect();
        let mut there: Vec<String> = Vec::new();
        for repo in ["one", "two"] {
            let snapshots = larder.cache().join(format!("models--a--{repo}/snapshots"));
            let found = std::fs::read_dir(snapshots).into_iter().flatten().flatten();
            there.extend(found.map(|entry| entry.path().display().to_string()));
        }
        there.sort();
        assert_eq!(known, there, "run {run}: the records tell what is there");
        sweep(&larder);
        let scratch =
            walk(larder.cache()).into_iter().filter(|path| path.to_string_lossy().contains("/.larder/tmp/"));
        assert_eq!(scratch.count(), 0, "run {run}: nothing is left on its way");
        // What is left can be evicted in the ordinary way.
        if !known.is_empty() {
            larder.run(&["evict", "--older-than", "0s", "--set", "cache.evict=all"]).expect_code(0);
        }
        let left = walk(larder.cache());
        assert!(left.is_empty(), "run {run}: {left:?}");
    }
    println!("{caught} of {RUNS} were killed while they ran, {unfinished} in the middle of a deletion");
    assert!(unfinished > RUNS / 10, "only {unfinished} kills hit a deletion; the test would prove little");
}

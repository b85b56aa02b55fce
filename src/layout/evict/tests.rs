//! Evictions on a real folder: what goes, what stays, and what a crash at any step leaves.

use std::os::unix::fs::symlink;

use super::*;
use crate::layout::scan;

struct House {
    dir: tempfile::TempDir,
    repo: RepoDir,
}

fn commit(digit: char) -> CommitId {
    digit.to_string().repeat(40).parse().expect("commit")
}

fn blob(letter: char) -> String {
    letter.to_string().repeat(64)
}

/// A cache with `a/b`: each revision with its blobs of 4 KiB, and a ref named after it.
fn house(revisions: &[(char, &str)]) -> House {
    let dir = tempfile::tempdir().expect("temp dir");
    let repo = Cache::new(dir.path()).repo(&"a/b".parse().expect("name"));
    repo.prepare().expect("prepared");
    let house = House { dir, repo };
    for (digit, blobs) in revisions {
        house.stage(*digit, blobs);
    }
    house
}

impl House {
    fn stage(&self, digit: char, blobs: &str) {
        let snapshot = self.repo.snapshot(&commit(digit));
        fs::create_dir_all(snapshot.join("sub")).expect("folder");
        for letter in blobs.chars() {
            fs::write(self.blob(letter), [7; 4_096]).expect("blob");
            let link = snapshot.join("sub").join(letter.to_string());
            symlink(format!("../../../blobs/{}", blob(letter)), link).expect("link");
        }
        fs::create_dir_all(self.repo.path().join("refs/pr")).expect("folder");
        fs::write(self.reference(digit), commit(digit).as_str()).expect("ref");
    }

    fn reference(&self, digit: char) -> PathBuf {
        self.repo.path().join(format!("refs/pr/{digit}"))
    }

    fn blob(&self, letter: char) -> PathBuf {
        self.repo.path().join("blobs").join(blob(letter))
    }

    /// Complete revisions and blobs as they are now.
    fn now(&self) -> (String, String) {
        let found = scan(self.dir.path()).expect("scanned");
        let Some(repo) = found.repos.first() else { return Default::default() };
        let revisions = repo.revisions.iter().filter(|one| one.complete);
        (
            revisions.map(|one| one.commit.as_str().chars().next().expect("a digit")).collect(),
            repo.blobs.keys().map(|name| name.chars().next().expect("a letter")).collect(),
        )
    }

    fn recover(&self) -> u64 {
        let found = scan_repo(&Cache::new(self.dir.path()), self.repo.repo());
        found.repos.first().map_or(0, |repo| self.repo.recover(repo).expect("recovered"))
    }
}

fn now(revisions: &str, blobs: &str) -> (String, String) {
    (revisions.to_owned(), blobs.to_owned())
}

#[test]
fn a_revision_goes_with_what_only_it_needs_and_the_repo_with_its_last() {
    let house = house(&[('1', "abc"), ('2', "bcd")]);
    let Evicted::Gone(freed) = house.repo.evict(&commit('1'), false, &Mounts::now()).expect("works") else {
        panic!("free")
    };
    assert_eq!((freed.bytes, freed.behind), (4_096, vec![]));
    assert_eq!(house.now(), now("2", "bcd"));
    assert!(!house.reference('1').exists() && house.reference('2').exists());
    let Evicted::Gone(freed) = house.repo.evict(&commit('2'), false, &Mounts::now()).expect("works") else {
        panic!("free")
    };
    assert_eq!(freed.bytes, 3 * 4_096);
    assert!(!house.repo.path().exists(), "nothing is left");
    let again = house.repo.evict(&commit('2'), false, &Mounts::now()).expect_err("gone");
    assert_eq!(again.reason(), Reason::NotFound);
}

#[test]
fn an_open_file_a_lock_and_something_foreign_protect() {
    let house = house(&[('1', "ab")]);
    let open = File::open(house.repo.snapshot(&commit('1')).join("sub/b")).expect("opens");
    let kept = house.repo.evict(&commit('1'), true, &Mounts::now()).expect("works");
    assert!(
        matches!(&kept, Evicted::Kept(Obstacle::InUse(path)) if *path == house.blob('b')),
        "even if it is named: {kept:?}"
    );
    assert_eq!(
        house.repo.obstacle(&commit('1'), &Mounts::now()).expect("works"),
        Some(Obstacle::InUse(house.blob('b')))
    );
    drop(open);
    assert_eq!(house.repo.obstacle(&commit('1'), &Mounts::now()).expect("works"), None);

    fs::create_dir_all(&house.repo.locks).expect("folder");
    let lock = File::create(house.repo.locks.join(format!("{}.lock", blob('a')))).expect("created");
    flock(&lock, FlockOperation::LockExclusive).expect("locked");
    let kept = house.repo.evict(&commit('1'), true, &Mounts::now()).expect("works");
    assert!(matches!(kept, Evicted::Kept(Obstacle::Fetching(_))), "{kept:?}");
    assert_eq!(house.now(), now("1", "ab"));
    drop(lock);

    fs::write(house.repo.path().join("mine.txt"), "x").expect("written");
    assert!(matches!(house.repo.evict(&commit('1'), false, &Mounts::now()), Ok(Evicted::Gone(_))));
    assert!(house.repo.path().join("mine.txt").exists() && house.repo.path().join("snapshots").is_dir());
}

#[test]
fn links_out_of_the_cache_are_removed_and_not_followed() {
    let house = house(&[('1', "a")]);
    let outside = tempfile::tempdir().expect("temp dir");
    let file = outside.path().join("mine");
    fs::write(&file, "x").expect("written");
    symlink(&file, house.repo.snapshot(&commit('1')).join("out")).expect("link");
    symlink(outside.path(), house.repo.snapshot(&commit('1')).join("folder")).expect("link");
    symlink(&file, house.blob('z')).expect("a blob that is a link out of the cache");
    symlink(format!("../../blobs/{}", blob('z')), house.repo.snapshot(&commit('1')).join("z")).expect("link");
    assert!(matches!(house.repo.evict(&commit('1'), true, &Mounts::now()), Ok(Evicted::Gone(_))));
    assert_eq!(fs::read_to_string(&file).expect("there"), "x");
    assert_eq!(house.now(), now("", ""), "of foreign things nothing is touched");
    assert!(fs::symlink_metadata(house.blob('z')).is_ok());
}

#[test]
fn a_crash_at_any_step_is_gone_back_from_or_ended() {
    // Before the snapshot went: back.
    let house = house(&[('1', "ab"), ('2', "bc")]);
    let own = house.repo.own(&commit('1')).expect("there");
    assert_eq!((&own.refs, &own.blobs), (&vec!["pr/1".to_owned()], &vec![blob('a')]));
    house.repo.announce(&commit('1'), &own).expect("written");
    fs::remove_file(house.reference('1')).expect("removed");
    assert_eq!(house.recover(), 0);
    assert_eq!(house.now(), now("12", "abc"));
    assert_eq!(fs::read_to_string(house.reference('1')).expect("back"), commit('1').as_str());

    // After that: on.
    house.repo.announce(&commit('1'), &own).expect("written");
    house.repo.withdraw(&commit('1'), &own.refs).expect("withdrawn");
    assert_eq!(house.now(), now("2", "abc"));
    assert_eq!(house.recover(), 4_096);
    assert_eq!(house.now(), now("2", "bc"));
    assert_eq!(fs::read_dir(house.repo.scratch()).expect("there").count(), 0);
    assert_eq!(house.recover(), 0, "it is ended once");

    // Another client stages the same again meanwhile: nothing of it goes.
    let own = house.repo.own(&commit('2')).expect("there");
    house.repo.announce(&commit('2'), &own).expect("written");
    house.repo.withdraw(&commit('2'), &own.refs).expect("withdrawn");
    house.stage('3', "c");
    assert_eq!(house.recover(), 4_096, "b alone");
    assert_eq!(house.now(), now("3", "c"));

    // A damaged intent loses nothing and blocks nothing.
    fs::write(house.repo.intent_path(&commit('2')), "{").expect("written");
    assert_eq!(house.recover(), 0);
    assert_eq!(house.now(), now("3", "c"));
    assert!(!house.repo.intent_path(&commit('2')).exists());
}

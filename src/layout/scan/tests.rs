//! A generated cache with sound, foreign and broken things in it.

use std::os::unix::fs::symlink;

use super::*;
use larder_jobs::{Digest, Revision};

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("parent")).expect("folder");
    fs::write(path, text).expect("written");
}

fn link(root: &Path, path: &str, target: impl AsRef<Path>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("parent")).expect("folder");
    symlink(target, path).expect("linked");
}

fn repo<'a>(inventory: &'a Inventory, name: &str) -> &'a RepoEntry {
    inventory.repos.iter().find(|entry| entry.repo.as_str() == name).expect(name)
}

#[test]
fn a_folder_that_is_not_there_is_an_empty_cache() {
    let inventory = scan(Path::new("/nonexistent/hub")).expect("empty");
    assert!(inventory.repos.is_empty() && inventory.problems.is_empty());
}

#[test]
fn sound_foreign_and_broken_side_by_side() {
    let dir = tempfile::tempdir().expect("temp dir");
    let root = dir.path();
    let (a, b, commit) = ("a".repeat(40), "b".repeat(64), "c".repeat(40));
    let base = "models--own--good";
    put(root, &format!("{base}/blobs/{a}"), "four");
    put(root, &format!("{base}/blobs/{b}"), "sevenxx");
    put(root, &format!("{base}/blobs/{b}.12345678.incomplete"), "half");
    link(root, &format!("{base}/snapshots/{commit}/config.json"), format!("../../blobs/{a}"));
    link(root, &format!("{base}/snapshots/{commit}/copy.json"), format!("../../blobs/{a}"));
    link(root, &format!("{base}/snapshots/{commit}/x/w.bin"), format!("../../../blobs/{b}"));
    put(root, &format!("{base}/refs/main"), &commit);
    put(root, &format!("{base}/refs/refs/pr/1"), &commit);
    put(root, &format!("{base}/refs/old"), &"d".repeat(40));
    put(root, &format!("{base}/.larder/partial/{b}.part"), &"x".repeat(8192));
    put(root, &format!("{base}/.no_exist/{commit}/nothing"), "");
    put(root, &format!("{base}/trees/{commit}.json"), "{}");
    put(root, &format!("{base}/stray"), "12345");

    link(root, &format!("models--own--broken/snapshots/{commit}/config.json"), "../../blobs/gone");
    let secret = dir.path().join("models--own--out-secret");
    fs::write(&secret, "secret").expect("written");
    link(root, &format!("models--own--out/snapshots/{commit}/passwd"), "/etc/passwd");
    link(root, &format!("models--own--out/blobs/{a}"), "/etc/passwd");
    link(root, &format!("models--own--out/snapshots/{commit}/x"), format!("../../blobs/{a}"));

    for name in ["datasets--own--data", "spaces--own--space", ".locks", "blobs/aa"] {
        fs::create_dir_all(root.join(name)).expect("folder");
    }
    for name in ["CACHEDIR.TAG", "version.txt", ".DS_Store", "notes.txt"] {
        put(root, name, "x");
    }
    link(root, "models--own--linked", "/etc");
    fs::create_dir(root.join("models--..--x")).expect("folder");

    let inventory = scan(root).expect("scanned");
    assert_eq!(inventory.other_types, 2);
    assert_eq!(inventory.problems, []);
    let good = repo(&inventory, "own/good");
    assert_eq!((good.bytes, good.shared_bytes), (11, 0), "each blob once");
    let revision = &good.revisions[0];
    assert!(revision.complete);
    assert_eq!(revision.refs, ["main", "refs/pr/1"]);
    assert_eq!(revision.bytes(), 11);
    let files: Vec<_> = revision.files.iter().map(|file| (file.path.as_str(), file.bytes)).collect();
    assert_eq!(files, [("config.json", Some(4)), ("copy.json", Some(4)), ("x/w.bin", Some(7))]);
    assert_eq!(good.dangling_refs, [("old".to_owned(), "d".repeat(40).parse().ok())]);
    let partials: Vec<_> = good.partials.iter().map(|partial| partial.ours).collect();
    assert_eq!(partials, [false, true]);

    assert!(!repo(&inventory, "own/broken").revisions[0].complete);
    let out = repo(&inventory, "own/out");
    assert!(!out.revisions[0].complete && out.bytes == 0, "a link out of the cache is not followed");
    let foreign: Vec<_> = inventory
        .foreign
        .iter()
        .map(|entry| entry.path.strip_prefix(root).expect("inside").display().to_string())
        .collect();
    let expected = [
        "models--..--x".to_owned(),
        format!("{base}/stray"),
        "models--own--linked".to_owned(),
        format!("models--own--out/blobs/{a}"),
        "models--own--out-secret".to_owned(),
        "notes.txt".to_owned(),
    ];
    for path in &expected {
        assert!(foreign.contains(path), "{path} in {foreign:?}");
    }
    assert_eq!(foreign.len(), expected.len(), "{foreign:?}");
}

#[test]
fn blobs_in_the_shared_store_are_followed_and_counted_apart() {
    let dir = tempfile::tempdir().expect("temp dir");
    let root = dir.path();
    let (etag, xet, commit) = ("a".repeat(64), "f".repeat(64), "c".repeat(40));
    put(root, "blobs/.huggingface-shared-blobs", "1\n");
    put(root, &format!("blobs/ff/{xet}"), "payload");
    link(root, &format!("models--o--n/blobs/{etag}"), format!("../../blobs/ff/{xet}"));
    link(root, &format!("models--o--n/snapshots/{commit}/w"), format!("../../blobs/{etag}"));
    let inventory = scan(root).expect("scanned");
    let entry = repo(&inventory, "o/n");
    assert_eq!((entry.bytes, entry.shared_bytes), (0, 7));
    assert!(entry.revisions[0].complete && entry.blobs[etag.as_str()].shared);
    assert_eq!(inventory.foreign, []);
}

#[test]
fn a_receipt_makes_missing_files_visible() {
    let dir = tempfile::tempdir().expect("temp dir");
    let cache = Cache::new(dir.path());
    let repo_dir = cache.repo(&"o/n".parse().expect("name"));
    repo_dir.prepare().expect("prepared");
    let commit: CommitId = "c".repeat(40).parse().expect("commit");
    let digest = Digest::git_sha1(&"a".repeat(40)).expect("hex");
    fs::write(repo_dir.blob(&digest), "four").expect("blob");
    let path = "x".parse().expect("path");
    repo_dir.publish_snapshot(&commit, [(&path, &digest)].into_iter()).expect("published");
    let mut receipt =
        Receipt::new(repo_dir.repo().clone(), commit.clone(), "http://h", jiff::Timestamp::now());
    receipt.revisions.push(Revision::main());
    let file = super::super::ReceiptFile {
        path: "x".parse().expect("path"),
        size: 4,
        digest,
        mtime_ns: 0,
        inode: 0,
    };
    receipt.files.push(file.clone());
    repo_dir.write_receipt(&receipt).expect("written");
    let complete = |cache: &Cache| repo(&scan(cache.root()).expect("scanned"), "o/n").revisions[0].complete;
    assert!(complete(&cache));
    receipt.files.push(super::super::ReceiptFile { path: "y".parse().expect("path"), ..file });
    repo_dir.write_receipt(&receipt).expect("written");
    assert!(!complete(&cache));

    fs::remove_dir_all(repo_dir.snapshot(&commit)).expect("removed");
    fs::write(repo_dir.receipt(&"d".repeat(40).parse().expect("commit")), "{").expect("damaged");
    let inventory = scan(cache.root()).expect("scanned");
    let entry = repo(&inventory, "o/n");
    assert_eq!((entry.orphan_receipts.len(), entry.damaged_receipts.len()), (1, 1));
}

//! Transfers against a server that misbehaves on demand.

use std::fs;
use std::time::Duration;

use super::*;
use crate::disk::Reservation;
use crate::hub::testing::{Fault, TestHub, commit, noise, repo, sha256};
use crate::hub::{Config, Limits};
use crate::layout::Cache;

/// Twelve pieces of 64 KiB and a bit.
const LARGE: usize = (12 << 16) + 123;
/// So many pieces that others do not compare all of them while the one that is wrong is on its way.
const LONG: usize = 64 << 16;

struct Fixture {
    server: TestHub,
    dir: tempfile::TempDir,
    files: Vec<RepoFile>,
}

impl Fixture {
    async fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let server = TestHub::start(files).await;
        let files = files.iter().map(|(path, bytes)| sha256(path, bytes)).collect();
        Self { server, dir: tempfile::tempdir().expect("temp dir"), files }
    }

    async fn large() -> Self {
        Self::new(&[("w.bin", noise(LARGE, 1))]).await
    }

    fn place(&self) -> RepoDir {
        Cache::new(self.dir.path()).repo(&repo())
    }

    fn request(&self) -> Fetch {
        Fetch {
            repo: repo(),
            commit: commit(),
            files: self.files.clone(),
            into: self.place(),
            trusted: Arc::new(|_, _| false),
            limit: Limits::new(None).job(larder_jobs::JobId::new(jiff::Timestamp::UNIX_EPOCH, 0), None),
            room: Arc::new(Reservation::none()),
        }
    }

    async fn fetch(&self, change: impl FnOnce(&mut Config)) -> Result<Fetched> {
        let hub = self.server.hub(true, change);
        hub.fetch(self.request(), Arc::default(), &CancellationToken::new()).await
    }

    /// All blobs are there, nothing half-done is.
    fn assert_clean(&self) {
        for file in &self.files {
            let bytes = fs::read(self.place().blob(&file.digest)).expect("published");
            assert_eq!(sha256("x", &bytes).digest, file.digest);
        }
        let left = fs::read_dir(self.place().path().join(".larder/partial")).expect("there").count();
        assert_eq!(left, 0);
    }

    fn data_requests(&self) -> usize {
        self.server.seen().iter().filter(|seen| seen.second_origin).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_come_in_parallel_and_the_token_stays_at_home() {
    let files = [
        ("w.bin", noise(LARGE, 1)),
        ("x/y.bin", noise(5_000, 2)),
        ("config.json", b"{}".to_vec()),
        ("copy.json", b"{}".to_vec()),
        ("empty", Vec::new()),
    ];
    let fixture = Fixture::new(&files).await;
    let tracker = Arc::new(Tracker::default());
    let hub = fixture.server.hub(true, |_| {});
    let fetched = hub.fetch(fixture.request(), Arc::clone(&tracker), &CancellationToken::new()).await;
    let fetched = fetched.expect("fetched");
    fixture.assert_clean();
    assert!(hub.reached());
    assert_eq!(fetched.bytes_fetched, (LARGE + 5_000 + 2) as u64, "copies and empty files are not fetched");
    assert_eq!(fetched.files.len(), files.len());
    let total: u64 = fixture.files.iter().map(|file| file.size).sum();
    let seen = tracker.snapshot(&Totals { commit: commit(), bytes: total, files: 5 });
    assert_eq!((seen.bytes_done, seen.files_done, seen.active.len()), (total, 5, 0));
    let requests = fixture.server.seen();
    assert!(requests.iter().all(|seen| seen.token != seen.second_origin), "{requests:?}");
    assert!(requests.iter().all(|seen| seen.range.is_some()), "a range is always asked for");
    let resolved = requests.iter().filter(|seen| !seen.second_origin && seen.path.ends_with("w.bin"));
    assert_eq!(resolved.count(), 1, "the address is asked for once per file");

    let again = hub.fetch(fixture.request(), Arc::default(), &CancellationToken::new()).await.expect("there");
    assert_eq!(again.bytes_fetched, 0);
    assert_eq!(again.files, fetched.files);
    assert_eq!(fixture.server.seen().len(), requests.len(), "nothing was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_part_goes_on_from_the_byte_reached() {
    let fixture = Fixture::large().await;
    fixture.server.faults([Fault::Fine, Fault::Cut(1000), Fault::Cut(0), Fault::OtherRange]);
    let fetched = fixture.fetch(|_| {}).await.expect("fetched");
    fixture.assert_clean();
    assert_eq!(fetched.bytes_fetched, LARGE as u64, "no byte came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_ignores_ranges_is_streamed() {
    let fixture = Fixture::large().await;
    fixture.server.faults([Fault::Fine]);
    fixture.server.faults(std::iter::repeat_n(Fault::Whole(LARGE / 3), 2));
    fixture.server.faults(std::iter::repeat_n(Fault::Whole(LARGE), 20));
    fixture.fetch(|_| {}).await.expect("fetched");
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_ignores_ranges_only_at_first_is_taken_at_its_word() {
    let fixture = Fixture::large().await;
    fixture.server.faults([Fault::Whole(LARGE / 3)]);
    let fetched = fixture.fetch(|config| config.connections = 1).await.expect("fetched");
    fixture.assert_clean();
    assert_eq!(fetched.bytes_fetched, LARGE as u64, "every byte came once and to its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_found_by_comparing_and_never_published() {
    let fixture = Fixture::new(&[("w.bin", noise(LONG, 1))]).await;
    fixture.server.faults([Fault::Flip]);
    let fetched = fixture.fetch(|_| {}).await.expect("right the second time");
    fixture.assert_clean();
    assert!(
        fetched.bytes_fetched < 2 * LONG as u64,
        "{} bytes: the search ends where it is right",
        fetched.bytes_fetched
    );

    let fixture = Fixture::large().await;
    fixture.server.faults(std::iter::repeat_n(Fault::Flip, 100));
    let error = fixture.fetch(|_| {}).await.expect_err("wrong twice");
    assert_eq!(error.reason(), Reason::IntegrityMismatch);
    let digest = &fixture.files[0].digest;
    assert!(!fixture.place().blob(digest).exists());
    assert!(!fixture.place().partial(digest).exists(), "nothing is resumed");
    let aside = fixture.place().path().join(".larder/tmp").join(format!("quarantine-{}", digest.hex()));
    assert_eq!(fs::metadata(aside).expect("moved aside").len(), LARGE as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_that_is_wrong_once_is_fetched_again() {
    let fixture = Fixture::new(&[("x.bin", noise(5_000, 2))]).await;
    fixture.server.faults([Fault::Cut(1000), Fault::Flip]);
    fixture.fetch(|_| {}).await.expect("right at last");
    fixture.assert_clean();
    let fixture = Fixture::new(&[("x.bin", noise(5_000, 2))]).await;
    fixture.server.faults([Fault::Flip, Fault::Flip]);
    let error = fixture.fetch(|_| {}).await.expect_err("wrong twice");
    assert_eq!(error.reason(), Reason::IntegrityMismatch);
}

/// A hub with these mirrors in front of it.
fn mirrored(hub: &TestHub, mirrors: &[&str]) -> crate::hub::Hub {
    hub.hub(true, |config| {
        config.endpoints = mirrors.iter().map(|url| crate::hub::Mirror::at(url)).collect();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_lacks_a_file_or_is_away_is_passed_over() {
    let fixture = Fixture::large().await;
    let empty = TestHub::start(&[]).await;
    let hub = mirrored(&fixture.server, &["http://127.0.0.1:1", &empty.url]);
    let fetched =
        hub.fetch(fixture.request(), Arc::default(), &CancellationToken::new()).await.expect("fetched");
    fixture.assert_clean();
    assert_eq!(fetched.by_source, BTreeMap::from([(fixture.server.url.clone(), LARGE as u64)]));
    assert!(empty.seen().iter().all(|seen| !seen.token), "the hub's token is not for mirrors");

    let gone = Fetch { files: vec![sha256("gone.bin", b"gone")], ..fixture.request() };
    let told = hub.fetch(gone, Arc::default(), &CancellationToken::new()).await.expect_err("nobody has it");
    assert_eq!(told.reason(), Reason::SourceUnavailable, "the mirror that is away may have it: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_with_wrong_bytes_is_corrected_by_the_hub_and_only_where_it_is_wrong() {
    let right = noise(LONG, 1);
    let mut wrong = right.clone();
    wrong[1000] ^= 1;
    let fixture = Fixture::new(&[("w.bin", right)]).await;
    let mirror = TestHub::start(&[("w.bin", wrong)]).await;
    let hub = mirrored(&fixture.server, &[&mirror.url]);
    let fetched =
        hub.fetch(fixture.request(), Arc::default(), &CancellationToken::new()).await.expect("corrected");
    fixture.assert_clean();
    assert_eq!(fetched.by_source[&mirror.url], LONG as u64);
    assert!(fetched.by_source[&fixture.server.url] < LONG as u64, "{:?}", fetched.by_source);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_connection_is_given_up_sooner_while_others_run() {
    let fixture = Fixture::large().await;
    fixture.server.faults([Fault::Hang(1000)]);
    let begun = std::time::Instant::now();
    let patience = larder_jobs::Span(Duration::from_secs(60));
    fixture.fetch(|config| config.stall_timeout = patience).await.expect("fetched");
    fixture.assert_clean();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_hashes_from_where_the_hash_was() {
    let size = (partial::SAFE_EVERY + (1 << 20)) as usize;
    let fixture = Fixture::new(&[("w.bin", noise(size, 1))]).await;
    let (tracker, stop) = (Arc::new(Tracker::default()), CancellationToken::new());
    // Everything comes but the end, which waits for ever.
    let pieces = size.div_ceil(1 << 20) - 1;
    fixture.server.faults(std::iter::repeat_n(Fault::Fine, pieces).chain([Fault::Hang(0), Fault::Hang(0)]));
    let change = |config: &mut Config| {
        config.range = larder_jobs::Size(1 << 20);
        config.stall_timeout = larder_jobs::Span(Duration::from_secs(600));
    };
    let hub = fixture.server.hub(false, |config| {
        config.connections = 1;
        change(config);
    });
    let (request, tracking, stopping) = (fixture.request(), Arc::clone(&tracker), stop.clone());
    let running = tokio::spawn(async move { hub.fetch(request, tracking, &stopping).await });
    let map = fixture.place().partial_map(&fixture.files[0].digest);
    let hashed = async {
        while !fs::read_to_string(&map).is_ok_and(|text| text.contains("\nhash ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(300), hashed).await.expect("the hash is remembered");
    stop.cancel();
    assert_eq!(running.await.expect("ends").expect_err("stopped").reason(), Reason::Interrupted);

    // A byte before the remembered place changes: whoever hashes from the start would notice.
    let part = fs::OpenOptions::new().write(true).open(fixture.place().partial(&fixture.files[0].digest));
    std::os::unix::fs::FileExt::write_all_at(&part.expect("opens"), &[0xff; 9], 1000).expect("changed");
    fixture.fetch(change).await.expect("the rest is fetched and hashed");
    let blob = fs::read(fixture.place().blob(&fixture.files[0].digest)).expect("published");
    assert_eq!(blob[1000..1009], [0xff; 9], "nobody read them again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_blob_of_the_cache_is_replaced_and_a_trusted_one_not_read() {
    let fixture = Fixture::large().await;
    fixture.place().prepare().expect("prepared");
    let blob = fixture.place().blob(&fixture.files[0].digest);
    fs::write(&blob, vec![0; LARGE]).expect("wrong bytes");
    let request = Fetch { trusted: Arc::new(|_, found| found.len() == LARGE as u64), ..fixture.request() };
    let hub = fixture.server.hub(false, |_| {});
    let fetched = hub.fetch(request, Arc::default(), &CancellationToken::new()).await.expect("trusted");
    assert_eq!(fetched.bytes_fetched, 0);
    fixture.fetch(|_| {}).await.expect("fetched");
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_is_obeyed_when_short_and_handed_up_when_long() {
    let fixture = Fixture::large().await;
    fixture.server.faults([Fault::Status(429, Some("0")), Fault::Status(503, Some("1"))]);
    fixture.fetch(|_| {}).await.expect("fetched");
    fixture.assert_clean();

    let fixture = Fixture::large().await;
    fixture.server.faults([Fault::Fine, Fault::Fine, Fault::Status(429, Some("600"))]);
    let error = fixture.fetch(|_| {}).await.expect_err("later");
    assert_eq!(error.reason(), Reason::RateLimited);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(600)));
    assert!(!error.message().contains("geheim"), "{}", error.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_address_is_asked_for_anew() {
    let fixture = Fixture::large().await;
    fixture.server.faults([Fault::Fine, Fault::Fine, Fault::Status(403, None), Fault::Status(410, None)]);
    fixture.fetch(|config| config.connections = 1).await.expect("fetched");
    fixture.assert_clean();
    let resolved = fixture.server.seen().iter().filter(|seen| !seen.second_origin).count();
    assert!(resolved >= 2, "{resolved}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_hangs_is_given_up() {
    let fixture = Fixture::large().await;
    fixture.server.faults([Fault::Hang(1000), Fault::Hang(0)]);
    let patience = larder_jobs::Span(Duration::from_millis(300));
    let fetched = fixture.fetch(|config| config.stall_timeout = patience).await.expect("fetched");
    fixture.assert_clean();
    assert_eq!(fetched.bytes_fetched, LARGE as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_keeps_the_bytes_and_the_rest_is_fetched() {
    let fixture = Fixture::large().await;
    let before = 5 << 16;
    fixture.server.faults(std::iter::repeat_n(Fault::Fine, 5).chain([Fault::Hang(1000)]));
    let (tracker, stop) = (Arc::new(Tracker::default()), CancellationToken::new());
    let hub = fixture.server.hub(false, |config| config.connections = 1);
    let running = {
        let (request, tracker, stop) = (fixture.request(), Arc::clone(&tracker), stop.clone());
        tokio::spawn(async move { hub.fetch(request, tracker, &stop).await })
    };
    let came = async {
        while tracker.bytes_fetched() < before + 1000 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), came).await.expect("bytes come");
    stop.cancel();
    let error = running.await.expect("ends").expect_err("stopped");
    assert_eq!(error.reason(), Reason::Interrupted);
    assert!(!fixture.place().blob(&fixture.files[0].digest).exists());

    let fetched = fixture.fetch(|_| {}).await.expect("the rest");
    fixture.assert_clean();
    assert_eq!(fetched.bytes_resumed, before + 1000);
    assert_eq!(fetched.bytes_fetched, LARGE as u64 - before - 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_the_lock_uses_what_the_other_brought() {
    let fixture = Fixture::large().await;
    fixture.place().prepare().expect("prepared");
    let digest = fixture.files[0].digest;
    let lock = fixture.place().try_lock(&digest).expect("usable").expect("free");
    let hub = fixture.server.hub(false, |_| {});
    let request = fixture.request();
    let waiting =
        tokio::spawn(async move { hub.fetch(request, Arc::default(), &CancellationToken::new()).await });
    // As every client publishes: whole, by rename.
    let theirs = fixture.dir.path().join("theirs");
    fs::write(&theirs, noise(LARGE, 1)).expect("written");
    fs::rename(theirs, fixture.place().blob(&digest)).expect("published");
    drop(lock);
    assert_eq!(waiting.await.expect("ends").expect("there").bytes_fetched, 0);
    assert_eq!(fixture.data_requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_asks_nobody() {
    let fixture = Fixture::large().await;
    let error = fixture.fetch(|config| config.offline = true).await.expect_err("not there");
    assert_eq!(error.reason(), Reason::Offline);
    fixture.fetch(|_| {}).await.expect("fetched");
    fixture.fetch(|config| config.offline = true).await.expect("it is there now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_ends_the_job() {
    let mut fixture = Fixture::large().await;
    fixture.files.push(sha256("gone.bin", b"gone"));
    let error = fixture.fetch(|_| {}).await.expect_err("gone");
    assert_eq!(error.reason(), Reason::NotFound);
    assert!(error.to_string().contains("gone.bin"));
}

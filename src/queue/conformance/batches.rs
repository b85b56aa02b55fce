//! Jobs that are asked for together: all of them or none, and what they come to.

use std::time::Duration;

use jiff::Timestamp;
use larder_jobs::client::Title;
use larder_jobs::{Job, JobId, JobView, Reason, State, Work};

use super::{Make, Rig, done, permanent};
use crate::queue::testing::{config, job};
use crate::queue::{Config, Filter};

fn title(n: u8) -> Title {
    Title {
        id: JobId::new(Timestamp::UNIX_EPOCH, 1_000 + u128::from(n)),
        requested_by: Some("night".into()),
        idempotency_key: None,
        name: Some("night.toml".into()),
        job: None,
        asks: "night".into(),
        notify: None,
    }
}

fn jobs(repos: &[&str]) -> Vec<Job> {
    repos.iter().map(|repo| job(repo)).collect()
}

async fn view(rig: &Rig, id: JobId) -> JobView {
    let (batch, records) = rig.store.batch(id).await.expect("reads").expect("is known");
    batch.view(&records, Some("gpu-1"))
}

pub(in crate::queue) async fn a_batch_is_summed_up(make: Make) {
    let rig = make(config()).await;
    let (created, id) = rig.store.enqueue_all(title(1), jobs(&["a/b", "c/d"])).await.expect("accepted");
    assert!(created);
    let queued = view(&rig, id).await;
    assert_eq!((queued.state, queued.children.len()), (State::Queued, 2));
    assert_eq!(
        (queued.requested_by.as_slice(), queued.placed.as_deref()),
        (&["night".to_owned()][..], Some("night.toml"))
    );
    let first = rig.claim().await;
    assert_eq!(first.record.parent, Some(id));
    assert_eq!(view(&rig, id).await.state, State::Planning);
    rig.settle(&first, done()).await;
    rig.settle(&rig.claim().await, permanent()).await;
    let over = view(&rig, id).await;
    assert_eq!((over.state, over.reason), (State::Failed, Some(Reason::NotFound)));
    assert!(over.message.is_some_and(|message| message.starts_with("1 of 2 failed: ")));
    assert_eq!(rig.store.batch(first.record.id).await.expect("reads"), None, "a job is no batch");
}

pub(in crate::queue) async fn a_batch_is_accepted_whole_or_not_at_all(make: Make) {
    let rig = make(Config { max_queued: 3, ..config() }).await;
    rig.enqueue("x/y").await;
    let error = rig.store.enqueue_all(title(1), jobs(&["a/b", "c/d", "e/f"])).await.expect_err("no room");
    assert_eq!(error.reason(), Reason::QueueUnavailable);
    let counts = rig.store.stats().await.expect("counts").jobs;
    assert_eq!(counts.get(&(super::KIND, State::Queued)), Some(&1), "nothing of it is there");
    assert_eq!(rig.store.batch(title(1).id).await.expect("reads"), None);
    rig.store.enqueue_all(title(2), jobs(&["a/b", "c/d"])).await.expect("has room");
    for wrong in [Vec::new(), vec![job("a/b"); larder_jobs::MAX_BATCH + 1]] {
        let error = rig.store.enqueue_all(title(3), wrong).await.expect_err("too few or too many");
        assert_eq!(error.reason(), Reason::InvalidRequest);
    }
}

pub(in crate::queue) async fn a_batch_that_is_asked_for_again_is_the_same(make: Make) {
    let rig = make(config()).await;
    let single = rig.enqueue("c/d").await;
    let asked = jobs(&["a/b", "c/d"]);
    let (created, id) = rig.store.enqueue_all(title(1), asked.clone()).await.expect("accepted");
    assert!(created);
    let (batch, records) = rig.store.batch(id).await.expect("reads").expect("is known");
    assert_eq!(batch.jobs[1], single, "what was in flight belongs to it");
    assert_eq!(records[1].requesters, [""; 0], "and keeps who asked first");
    for again in [title(1), title(2)] {
        assert_eq!(rig.store.enqueue_all(again, asked.clone()).await.expect("accepted"), (false, id));
    }
    let other = rig.store.enqueue_all(title(3), jobs(&["a/b", "e/f"])).await.expect("accepted");
    assert_eq!(other, (true, title(3).id), "another set of jobs is another batch");
}

pub(in crate::queue) async fn the_key_of_a_batch_answers_it(make: Make) {
    let rig = make(config()).await;
    let keyed = |n| Title { idempotency_key: Some("night-1".into()), ..title(n) };
    let (_, id) = rig.store.enqueue_all(keyed(1), jobs(&["a/b"])).await.expect("accepted");
    rig.settle(&rig.claim().await, done()).await;
    let again = rig.store.enqueue_all(keyed(2), jobs(&["c/d"])).await.expect("accepted");
    assert_eq!(again, (false, id));
    rig.nothing().await;
}

pub(in crate::queue) async fn a_key_answers_nothing_else_than_what_it_was_used_for(make: Make) {
    let rig = make(config()).await;
    let keyed = |repo: &str, key: &str| {
        let mut job = job(repo);
        job.common.idempotency_key = Some(key.into());
        job
    };
    let titled = |n, key: &str| Title { idempotency_key: Some(key.into()), ..title(n) };
    let one = rig.store.enqueue(keyed("a/b", "one")).await.expect("accepted").record.id;
    let (_, many) = rig.store.enqueue_all(titled(1, "many"), jobs(&["c/d", "e/f"])).await.expect("accepted");
    // Who asks for the same jobs with another key is answered by the same batch, then and after its end.
    let joined = rig.store.enqueue_all(titled(2, "more"), jobs(&["c/d", "e/f"])).await.expect("accepted");
    assert_eq!(joined, (false, many));
    for _ in 0..3 {
        rig.settle(&rig.claim().await, done()).await;
    }
    for key in ["many", "more"] {
        let again = rig.store.enqueue_all(titled(3, key), jobs(&["c/d", "e/f"])).await.expect("accepted");
        assert_eq!(again, (false, many), "{key}");
    }
    for_each_wrong(&rig, one, many, keyed, titled).await;
    rig.nothing().await;
    assert_eq!(
        rig.store.list(Filter::default()).await.expect("lists").len(),
        3,
        "nothing was asked for by halves"
    );
}

fn kept(mut job: Job, pin: bool, lease: Option<&str>) -> Job {
    if let Work::Download(download) = &mut job.work {
        download.pin = pin;
        download.lease_ttl = lease.map(|text| text.parse().expect("a duration"));
    }
    job
}

async fn for_each_wrong(
    rig: &Rig,
    one: JobId,
    many: JobId,
    keyed: impl Fn(&str, &str) -> Job,
    titled: impl Fn(u8, &str) -> Title,
) {
    let other = |n, key: &str| Title { asks: "another".into(), ..titled(n, key) };
    let store = &rig.store;
    let refused = [
        (one, store.enqueue(keyed("c/d", "one")).await.expect_err("another model")),
        (one, store.enqueue(kept(keyed("a/b", "one"), true, None)).await.expect_err("pinned")),
        (one, store.enqueue(kept(keyed("a/b", "one"), false, Some("1h"))).await.expect_err("leased")),
        (many, store.enqueue(keyed("c/d", "many")).await.expect_err("a batch's")),
        (one, store.enqueue_all(titled(4, "one"), jobs(&["a/b"])).await.expect_err("a job's")),
        (many, store.enqueue_all(other(5, "many"), jobs(&["c/d"])).await.expect_err("another request")),
        (
            one,
            store
                .enqueue_all(title(6), vec![job("g/h"), keyed("c/d", "one")])
                .await
                .expect_err("in the midst of others"),
        ),
    ];
    for (id, error) in refused {
        assert_eq!(error.reason(), Reason::InvalidRequest);
        assert!(error.message().contains(&id.to_string()), "{error}");
    }
}

pub(in crate::queue) async fn the_least_urgent_has_its_turn_too(make: Make) {
    let rig = make(config()).await;
    let patient = rig.enqueue("a/patient").await;
    let urgent = |repo: &str| {
        let mut job = job(repo);
        job.common.priority = 2;
        job
    };
    rig.pass_ms(19 * 60_000).await;
    let first = rig.store.enqueue(urgent("b/urgent")).await.expect("accepted").record.id;
    (rig.pass)(Duration::from_secs(2 * 60)).await;
    rig.store.enqueue(urgent("c/urgent")).await.expect("accepted");
    assert_eq!(rig.claim().await.record.id, first, "two points are worth twenty minutes");
    assert_eq!(rig.claim().await.record.id, patient, "and no more");
}

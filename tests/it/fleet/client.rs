//! `larder_jobs::client` against a real Redis, alone and with a larder.

use std::time::{Duration, Instant};

use larder_jobs::client::Outcome;
use larder_jobs::{Reason, State, Target};
use support::{Hub, Redis, Tripwire, models};

use super::{PATIENCE, Program, download, machine};

/// Longest time that a caller is kept when Redis is away.
const BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_want_is_one_job_however_often_it_is_asked_for() {
    let redis = Redis::start();
    let program = Program::new(&redis.url());
    let client = &program.client;
    program.block(async {
        let mut want = download("a/b", "gpu-1");
        let first = client.enqueue(&want).await.expect("accepted");
        assert!(first.created);
        assert_eq!((first.job.state, first.job.hosts.as_slice()), (State::Queued, &["gpu-1".to_owned()][..]));
        want.common.priority = 7;
        let again = client.enqueue(&want).await.expect("accepted");
        assert_eq!((again.job.id, again.created, again.job.priority), (first.job.id, false, 7));
        want.common.priority = 3;
        assert_eq!(client.enqueue(&want).await.expect("accepted").job.priority, 7, "the higher one stays");
        let elsewhere = client.enqueue(&download("a/b", "gpu-2")).await.expect("accepted");
        assert!(elsewhere.created && elsewhere.job.id != first.job.id, "another host, another job");

        let mut keyed = download("c/d", "pool");
        keyed.common.idempotency_key = Some("order 66".into());
        let id = client.enqueue(&keyed).await.expect("accepted").job.id;
        assert_eq!(client.cancel(id, None).await.expect("known").0, Outcome::Ended);
        let answer = client.enqueue(&keyed).await.expect("accepted");
        assert_eq!((answer.job.id, answer.created, answer.job.state), (id, false, State::Cancelled));

        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.enqueue(&download("many/ask", "pool")).await })
            })
            .collect();
        let mut answers = Vec::new();
        for task in tasks {
            answers.push(task.await.expect("no panic").expect("accepted"));
        }
        assert_eq!(answers.iter().filter(|answer| answer.created).count(), 1);
        assert!(answers.iter().all(|answer| answer.job.id == answers[0].job.id));
    });
}

#[test]
fn jobs_are_looked_at_called_off_and_tried_again() {
    let redis = Redis::start();
    let program = Program::new(&redis.url());
    let client = &program.client;
    program.block(async {
        let unknown = "01KAQ00000000000000000000A".parse().expect("an id");
        assert_eq!(client.get(unknown).await.expect("answers"), None);
        for error in [
            client.cancel(unknown, None).await.expect_err("unknown"),
            client.retry(unknown).await.expect_err("unknown"),
            client.wait(unknown).await.expect_err("unknown"),
        ] {
            assert_eq!(error.reason(), Reason::NotFound, "{error}");
        }

        let mut ids = Vec::new();
        for n in 0..4 {
            ids.push(client.enqueue(&download(&format!("a/m{n}"), "pool")).await.expect("accepted").job.id);
        }
        client.cancel(ids[1], None).await.expect("known");
        client.cancel(ids[0], None).await.expect("known");
        let listed = async |state| {
            let jobs = client.list(state, None, 3).await.expect("answers");
            jobs.iter().map(|job| job.id).collect::<Vec<_>>()
        };
        assert_eq!(listed(None).await, [ids[3], ids[2], ids[1]], "the newest first, not more than asked for");
        assert_eq!(listed(Some(State::Queued)).await, [ids[3], ids[2]]);
        assert_eq!(listed(Some(State::Cancelled)).await, [ids[1], ids[0]]);
        assert_eq!(listed(Some(State::Ready)).await, []);

        assert_eq!(client.cancel(ids[0], None).await.expect("known").0, Outcome::Over);
        let back = client.retry(ids[0]).await.expect("it was cancelled");
        assert_eq!((back.state, back.reason, back.finished_at), (State::Queued, None, None));
        let error = client.retry(ids[0]).await.expect_err("it is queued");
        assert_eq!(error.reason(), Reason::InvalidRequest);
        assert!(error.to_string().contains("queued") && !error.hint().is_empty(), "{error}");
        assert_eq!(client.redrive().await.expect("answers"), 0, "cancelled is not failed");

        let mut want = download("two/want", "pool");
        want.common.requested_by = Some("ann".into());
        let id = client.enqueue(&want).await.expect("accepted").job.id;
        want.common.requested_by = Some("ben".into());
        client.enqueue(&want).await.expect("joined");
        let (outcome, job) = client.cancel(id, Some("ann")).await.expect("known");
        assert_eq!((outcome, job.requested_by.as_slice()), (Outcome::Wanted, &["ben".to_owned()][..]));
        assert_eq!(client.cancel(id, Some("ben")).await.expect("known").0, Outcome::Ended);

        let nowhere = client.enqueue(&download("a/b", "this")).await.expect_err("this program is on no host");
        assert_eq!(nowhere.reason(), Reason::InvalidRequest);
        assert!(nowhere.hint().contains("pool"), "{nowhere}");
        let here = client.clone().on_host("gpu-9".parse().expect("a name"));
        assert_eq!(
            here.target(&download("a/b", "this")),
            Ok(Some(Target::Host("gpu-9".parse().expect("a name"))))
        );
        assert!(!client.is_served(&Target::Pool).await.expect("answers"), "nobody is there");
    });
}

#[test]
fn a_larder_works_for_the_client() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let model = models::tiny_gpt2(1, 2_000_000);
    hub.add(model.clone());
    let worker = machine("gpu-1", &redis.url(), &hub);
    let mut daemon = worker.serve();
    // A cancelled job keeps its bytes.
    daemon.allow(Tripwire::Partials);
    let program = Program::new(&redis.url());
    let client = &program.client;
    program.block(async {
        for (hosts, served) in [("gpu-1", true), ("pool", true), ("gpu-2", false)] {
            let target = client.target(&download("a/b", hosts)).expect("hosts").expect("a target");
            assert_eq!(client.is_served(&target).await, Ok(served), "{hosts}");
        }

        let id = client.enqueue(&download("test/none", "gpu-1")).await.expect("accepted").job.id;
        let failed = client.wait(id).await.expect("it ends");
        assert_eq!((failed.state, failed.reason), (State::Failed, Some(Reason::NotFound)), "{failed:?}");
        let message = failed.message.unwrap_or_default();
        assert!(message.contains("test/none") && message.contains("; hint: "), "{message}");
        hub.add(models::tiny_gpt2(2, 20_000).named("test/none"));
        assert_eq!(client.redrive().await, Ok(1), "it is there now");
        let done = client.wait(id).await.expect("it ends");
        assert_eq!((done.state, done.attempts, done.message), (State::Ready, 1, None));

        hub.throttle(Some(256 << 10));
        let id = client.enqueue(&download(model.id(), "pool")).await.expect("accepted").job.id;
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.wait(id).await }
        });
        assert!(tokio::task::block_in_place(|| hub.wait_for_bytes(model.id(), 100_000, PATIENCE)));
        let begun = Instant::now();
        let (outcome, job) = client.cancel(id, None).await.expect("known");
        let taken_by = ["gpu-1".to_owned()];
        assert_eq!((outcome, job.hosts.as_slice()), (Outcome::Stopping, &taken_by[..]));
        let over = waiting.await.expect("no panic").expect("it ends");
        assert_eq!((over.state, over.reason), (State::Cancelled, Some(Reason::Cancelled)));
        assert!(begun.elapsed() < Duration::from_secs(5), "within a moment: {:?}", begun.elapsed());
    });
    drop(daemon);
    let gone = program.block(client.is_served(&Target::Pool));
    assert_eq!(gone, Ok(false), "a larder that stops says good-bye");
}

#[test]
fn waiting_goes_on_while_redis_restarts() {
    let redis = Redis::start();
    let program = Program::new(&redis.url());
    let client = program.client.clone();
    let id = program.block(client.enqueue(&download("a/b", "pool"))).expect("accepted").job.id;
    let waiting = program.spawn({
        let client = client.clone();
        async move { client.wait(id).await }
    });
    std::thread::sleep(Duration::from_millis(300));
    for away in [100, 4_000] {
        redis.restart(Duration::from_millis(away));
    }
    assert!(!waiting.is_finished(), "the job has not ended");
    program.block(client.cancel(id, None)).expect("Redis is back, with the job");
    let ended = program.block(async { tokio::time::timeout(BOUND, waiting).await });
    let job = ended.expect("in time").expect("no panic").expect("Redis is back");
    assert_eq!(job.state, State::Cancelled);
}

#[test]
fn a_redis_that_is_away_is_told_soon() {
    let redis = Redis::start();
    let program = Program::new(&redis.url());
    let job = download("a/b", "pool");
    let told = |program: &Program| {
        let begun = Instant::now();
        let error = program.block(program.client.enqueue(&job)).expect_err("Redis is away");
        assert_eq!(error.reason(), Reason::QueueUnavailable);
        assert!(error.what().contains("redis.sock") && !error.hint().is_empty(), "{error}");
        assert!(begun.elapsed() < BOUND, "{:?}: {error}", begun.elapsed());
    };
    program.block(program.client.enqueue(&job)).expect("accepted");
    let frozen = redis.freeze();
    told(&program);
    told(&Program::new(&redis.url()));
    drop(frozen);
    assert!(!program.block(program.client.enqueue(&job)).expect("it goes on").created);
    redis.stop();
    told(&program);
    told(&Program::new(&redis.url()));
    redis.start_again();
    assert!(!program.block(program.client.enqueue(&job)).expect("it is back").created);
}

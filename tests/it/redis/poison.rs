//! Records that other programs broke or newer ones wrote: each ends as a dead letter, and the worker goes on.

use std::collections::BTreeMap;

use support::{Redis, Reply, Tripwire};

use super::*;

const HOST: &str = "gpu-1";

/// The job as Redis has it, field by field.
fn record(redis: &Redis, id: &str) -> BTreeMap<String, String> {
    let flat = redis.command(&["HGETALL", &format!("{{larder}}:job:{id}")]).list();
    flat.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

/// Puts a record into the host's queue as another program might, and says so.
fn plant(redis: &Redis, id: &str, fields: &BTreeMap<String, String>) {
    let key = format!("{{larder}}:job:{id}");
    let words = fields.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    redis.command(&["HSET", &key].into_iter().chain(words).collect::<Vec<_>>());
    let place = format!("{{larder}}:ready:download:host:{HOST}");
    let added = redis.command(&["ZADD", &place, "0", &format!("{:016}{id}", 0)]);
    assert_eq!(added, Reply::Int(1));
    redis.command(&["PUBLISH", &format!("{{larder}}:to:host:{HOST}"), "ready download"]);
}

#[test]
fn what_cannot_be_read_is_buried_with_its_reason_and_the_worker_goes_on() {
    let fleet = Fleet::start();
    let model = fleet.model(570, 100_000);
    let larder = fleet.host(HOST, "2s");
    let mut daemon = larder.serve();
    daemon.allow(Tripwire::Errors);
    // A whole record to break, of a job for a host that is not there.
    let whole = id_of(&daemon.post("/v1/jobs", &body(&model, ["gpu-9"])).expect(202));
    let template = record(&fleet.redis, &whole);
    daemon.request("DELETE", &format!("/v1/jobs/{whole}"), None).expect(202);

    let newer = format!(r#"{{"v": 99, "kind": "download", "repo": "{}"}}"#, model.id());
    let cases = [
        ("job", Some("no JSON {"), "invalid_request"),
        ("job", Some(&*newer), "unsupported_version"),
        ("state", None, "invalid_request"),
        ("created_at", None, "invalid_request"),
        ("kind", Some("teleport"), "invalid_request"),
        ("v", Some("99"), "unsupported_version"),
    ];
    let mut expected = BTreeMap::new();
    for (n, (field, value, reason)) in cases.into_iter().enumerate() {
        let id = format!("01JDFP000000000000000000{n:02}");
        let mut fields = template.clone();
        fields.extend(
            [("id", id.clone()), ("target", format!("host:{HOST}")), ("want", format!("planted {n}"))]
                .map(|(name, value)| (name.to_owned(), value)),
        );
        fields.remove(field);
        fields.extend(value.map(|value| (field.to_owned(), value.to_owned())));
        plant(&fleet.redis, &id, &fields);
        expected.insert(id, reason.to_owned());
    }
    let all = daemon.wait_until("/v1/jobs?state=failed", PATIENCE, |all| {
        all["jobs"].as_array().is_some_and(|jobs| jobs.len() >= expected.len())
    });
    let jobs = all["jobs"].as_array().expect("a list");
    let text = |job: &Value, field: &str| job[field].as_str().unwrap_or_default().to_owned();
    let found: BTreeMap<_, _> = jobs.iter().map(|job| (text(job, "id"), text(job, "reason"))).collect();
    assert_eq!(found, expected);
    assert!(jobs.iter().all(|job| text(job, "message").contains("hint: ")), "{all}");
    fleet.assert_ran_once(&daemon.wait_job(&ask(&daemon, &model, "this"), PATIENCE), &model);
    assert_staged(&larder, &model);
}

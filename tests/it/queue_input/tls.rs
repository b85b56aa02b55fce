//! TLS: the right side on the wrong port, certificates that are not trusted, and the way that works.

use support::redis::RedisOptions;
use support::{Hub, Redis, models};

use super::{assert_heals, assert_told, desk};
use crate::fleet::machine;

fn redis() -> Redis {
    Redis::with(RedisOptions::default().tls(true))
}

#[test]
fn plain_words_for_a_port_that_wants_tls_and_the_reverse() {
    let redis = redis();
    let plain = format!("redis://localhost:{}", redis.tls_port());
    drop(assert_told(&desk(&plain), 75, &format!("localhost:{}", redis.tls_port()), "rediss://"));
    let tls = format!("rediss://localhost:{}", redis.port());
    drop(assert_told(&desk(&tls), 75, &format!("localhost:{}", redis.port()), "redis://"));
}

#[test]
fn a_certificate_of_an_unknown_authority() {
    let redis = redis();
    let thing = format!("localhost:{} has a certificate that is not trusted", redis.tls_port());
    drop(assert_told(&desk(&redis.tls_url()), 75, &thing, "queue.ca_file"));
    let other = Redis::with(RedisOptions::default().tls(true));
    let larder = desk(&redis.tls_url()).env("LARDER__QUEUE__CA_FILE", other.ca_file());
    drop(assert_told(&larder, 75, &thing, "queue.ca_file"));
}

#[test]
fn a_fleet_over_tls() {
    let (redis, hub, model) = (redis(), Hub::start(), models::tiny_gpt2(1, 20_000));
    hub.add(model.clone());
    let [worker, desk] = ["gpu-1", "desk"]
        .map(|name| machine(name, &redis.tls_url(), &hub).env("LARDER__QUEUE__CA_FILE", redis.ca_file()));
    let daemon = worker.serve();
    let staged = desk.run(&["stage", model.id(), "--hosts", "gpu-1"]).expect_code(0);
    assert!(staged.stdout.starts_with(&worker.cache().display().to_string()), "{staged:?}");
    drop(daemon);
    redis.stop();
    let daemon =
        super::assert_waits(&worker, &format!("localhost:{}", redis.tls_port()), "see whether it runs");
    redis.start_again();
    assert_heals(daemon);
}

//! What the ground's Redis promises.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;

/// Too short for a frozen server, long enough for a busy machine that merely has to say PONG.
const SHORT: Duration = Duration::from_millis(300);

fn set(redis: &Redis, key: &str, value: &str) {
    assert_eq!(redis.command(&["SET", key, value]).text(), "OK");
}

#[test]
fn commands_are_answered_and_counted() {
    let redis = Redis::start();
    assert_eq!(redis.command(&["HSET", "h", "a", "1", "b", "2"]).int(), 2);
    assert_eq!(redis.command(&["HGETALL", "h"]).pairs()["b"], "2");
    assert_eq!(redis.command(&["RPUSH", "l", "x", "y"]), Reply::Int(2));
    assert_eq!(redis.command(&["LRANGE", "l", "0", "-1"]).list(), ["x", "y"]);
    assert!(redis.command(&["GET", "none"]).is_nil());
    assert!(redis.command(&["GET", "h"]).error().starts_with("WRONGTYPE"));
    assert_eq!(redis.keys("*"), ["h", "l"]);
    assert_eq!(redis.info("redis_mode"), "standalone");
    assert_eq!(redis.info("tcp_port"), redis.port().to_string());
    let before = redis.commands_processed();
    redis.command(&["PING"]);
    assert_eq!(redis.commands_processed(), before + 2);
    let before = redis.used_memory();
    set(&redis, "big", &"x".repeat(1 << 20));
    assert!(redis.used_memory() > before + (1 << 19));
}

#[test]
fn a_restart_keeps_data_and_addresses() {
    let redis = Redis::start();
    let (port, url, pid) = (redis.port(), redis.url(), redis.pid());
    set(&redis, "k", "v");
    redis.stop();
    assert!(!redis.is_running() && redis.try_command(&["PING"], SHORT).is_err());
    assert!(TcpStream::connect(redis.address()).is_err());
    redis.start_again();
    assert_eq!(redis.command(&["GET", "k"]).text(), "v");
    redis.restart(Duration::from_millis(50));
    assert_eq!(redis.command(&["GET", "k"]).text(), "v");
    assert_eq!((redis.port(), redis.url()), (port, url));
    assert_ne!(redis.pid(), pid);
    TcpStream::connect(redis.address()).expect("the port is open again");
}

#[test]
fn what_was_synced_survives_a_kill() {
    let redis = Redis::with(RedisOptions::default().directive("appendfsync", "always"));
    set(&redis, "k", "v");
    redis.kill9();
    assert!(!redis.is_running());
    redis.start_again();
    assert_eq!(redis.command(&["GET", "k"]).text(), "v");
    assert_eq!(redis.command(&["CONFIG", "GET", "appendfsync"]).list()[1], "always");
}

#[test]
fn what_is_not_persistent_does_not() {
    let redis = Redis::with(RedisOptions::default().persistent(false));
    set(&redis, "k", "v");
    redis.kill9();
    redis.start_again();
    assert!(redis.command(&["GET", "k"]).is_nil());
    set(&redis, "k", "v");
    redis.restart(Duration::ZERO);
    assert!(redis.keys("*").is_empty());
}

#[test]
fn a_frozen_server_says_nothing_until_it_is_thawed() {
    let redis = Redis::start();
    let mut open = TcpStream::connect(redis.address()).expect("connects");
    open.set_read_timeout(Some(SHORT)).expect("a timeout");
    let mut answer = [0; 7];
    let frozen = redis.freeze();
    open.write_all(b"PING\r\n").expect("the kernel takes it");
    assert_eq!(open.read(&mut answer).expect_err("no answer").kind(), ErrorKind::WouldBlock);
    assert_eq!(redis.try_command(&["PING"], SHORT).expect_err("no answer").kind(), ErrorKind::WouldBlock);
    assert!(redis.is_running());
    drop(frozen);
    open.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    open.read_exact(&mut answer).expect("the answer comes late");
    assert_eq!(&answer, b"+PONG\r\n");
    let start = Instant::now();
    redis.freeze_for(SHORT);
    assert!(start.elapsed() >= SHORT);
    assert_eq!(redis.command(&["PING"]).text(), "PONG");
}

#[test]
fn a_frozen_server_can_be_killed() {
    let redis = Redis::start();
    let frozen = redis.freeze();
    redis.kill9();
    assert!(!redis.is_running());
    redis.start_again();
    drop(frozen);
    assert_eq!(redis.command(&["PING"]).text(), "PONG");
}

#[test]
fn two_servers_share_nothing() {
    let (one, other) = (Redis::start(), Redis::start());
    assert_ne!(one.port(), other.port());
    assert_ne!(one.dir(), other.dir());
    set(&one, "k", "one");
    assert!(other.keys("*").is_empty());
    let (dir, pid) = (one.dir().to_owned(), one.pid());
    drop(one);
    assert!(!dir.exists() && !Path::new("/proc").join(pid.to_string()).exists());
    assert_eq!(other.command(&["PING"]).text(), "PONG");
}

#[test]
fn a_password_is_asked_for() {
    let redis = Redis::with(RedisOptions::default().password("so \"secret\\"));
    set(&redis, "k", "v");
    assert!(ask(&redis.socket(), &[&["GET", "k"]], PATIENCE).expect("answers").error().starts_with("NOAUTH"));
    assert!(redis.command_as("default", "wrong", &["GET", "k"]).error().starts_with("WRONGPASS"));
    redis.restart(Duration::ZERO);
    assert_eq!(redis.command(&["GET", "k"]).text(), "v");
}

#[test]
fn an_acl_user_is_denied_what_it_may_not_do() {
    let redis = Redis::with(RedisOptions::default().user("worker", "w", &["~queue:*", "+get", "+set"]));
    let worker = |words: &[&str]| redis.command_as("worker", "w", words);
    assert_eq!(worker(&["SET", "queue:a", "1"]).text(), "OK");
    assert!(worker(&["DEL", "queue:a"]).error().starts_with("NOPERM"));
    assert!(worker(&["GET", "other"]).error().starts_with("NOPERM"));
    assert_eq!(redis.command(&["DEL", "queue:a"]).int(), 1);
}

#[test]
fn further_directives_hold() {
    let redis = Redis::with(RedisOptions::default().directive("maxmemory", "2mb"));
    set(&redis, "k", "small");
    let full = redis.command(&["SET", "k", &"x".repeat(4 << 20)]);
    assert!(full.error().starts_with("OOM"), "{full:?}");
}

#[test]
fn one_that_does_not_start_shows_its_log() {
    let start = || Redis::with(RedisOptions::default().directive("no-such-directive", "1"));
    let panic = std::panic::catch_unwind(start).expect_err("it does not start");
    let message = panic.downcast::<String>().expect("a message");
    assert!(message.contains("no-such-directive"), "{message}");
}

/// Asks the TLS port for a web page; the error says how far it came.
fn over_tls(redis: &Redis, host: &str, trusted: &[reqwest::Certificate]) -> reqwest::Error {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = reqwest::Client::builder().no_proxy().tls_certs_only(trusted.iter().cloned());
    let client = client.timeout(PATIENCE).build().expect("a client");
    let url = format!("https://{host}:{}/", redis.tls_port());
    runtime.block_on(async { client.get(url).send().await }).expect_err("Redis speaks no HTTP")
}

#[test]
fn the_tls_port_speaks_tls_and_nothing_else() {
    let redis = Redis::with(RedisOptions::default().tls(true));
    assert_eq!(redis.tls_url(), format!("rediss://localhost:{}", redis.tls_port()));
    let pem = std::fs::read(redis.ca_file()).expect("reads");
    let authority = reqwest::Certificate::from_pem(&pem).expect("a certificate");
    for host in ["localhost", "127.0.0.1"] {
        let error = over_tls(&redis, host, std::slice::from_ref(&authority));
        assert!(!error.is_connect() && !error.is_timeout(), "the handshake fails: {error:?}");
        let error = format!("{:?}", over_tls(&redis, host, &[]));
        assert!(error.contains("UnknownIssuer"), "anybody is trusted: {error}");
    }
    let mut plain = TcpStream::connect(("127.0.0.1", redis.tls_port())).expect("connects");
    plain.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    plain.write_all(b"PING\r\n").expect("the kernel takes it");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"+PONG"), "plain text is answered");
    redis.restart(Duration::ZERO);
    assert!(!over_tls(&redis, "localhost", &[authority]).is_connect());
}

//! Passwords and rules: wrong, missing, and the line that docs/queue.md recommends.

use std::fmt::Write as _;

use larder_jobs::Target;
use larder_jobs::client::{Address, Client, Result};
use serde_json::json;
use support::redis::{Cluster, MASTER, RedisOptions, Watched};
use support::{Hub, Redis, models};

use super::{SECRET, SOON, assert_heals, assert_told, desk};
use crate::fleet::{PATIENCE, Program, download, machine};

fn locked() -> Redis {
    Redis::with(RedisOptions::default().password(SECRET))
}

#[test]
fn wrong_and_missing_passwords() {
    let redis = locked();
    let (said, help) = ("refuses the user `default`: wrong or missing password", "queue.password_file");
    drop(assert_told(&desk(&redis.tcp_url()), 75, said, help));
    let url = format!("redis://:{SECRET}-wrong@{}", redis.address());
    drop(assert_told(&desk(&url), 75, said, help));
    let named = desk(&redis.url()).env("LARDER__QUEUE__USERNAME", "nobody");
    let file = named.root().join("password");
    std::fs::write(&file, format!("{SECRET}\n")).expect("writes");
    let named = named.env("LARDER__QUEUE__PASSWORD_FILE", &file);
    let daemon = assert_told(&named, 75, "refuses the user `nobody`", help);
    redis.command(&["ACL", "SETUSER", "nobody", "on", &format!(">{SECRET}"), "~*", "&*", "+@all"]);
    assert_heals(daemon);
}

#[test]
fn the_password_of_a_file_opens_the_queue() {
    let redis = locked();
    let larder = desk(&redis.url());
    let file = larder.root().join("password");
    std::fs::write(&file, format!("  {SECRET}\nnotes\n")).expect("writes");
    let larder = larder.env("LARDER__QUEUE__PASSWORD_FILE", &file);
    let daemon = larder.serve();
    let shown = larder.run(&["config", "show"]).expect_code(0);
    assert!(!shown.stdout.contains(SECRET) && !daemon.logs().join("\n").contains(SECRET));
    let in_url = desk("").env("LARDER__QUEUE__URL", format!("redis://:{SECRET}@{}", redis.address()));
    let shown = in_url.run(&["config", "show", "--json"]).expect_code(0);
    assert!(!shown.stdout.contains(SECRET) && shown.stdout.contains(":***@"), "{shown:?}");
}

/// The rules that docs/queue.md recommends, behind the user's name and password.
fn recommended() -> Vec<String> {
    let text = include_str!("../../../docs/queue.md");
    let line = text.lines().find_map(|line| line.strip_prefix("ACL SETUSER larder on >PASSWORD "));
    line.expect("docs/queue.md has the line").split(' ').map(ToOwned::to_owned).collect()
}

/// Gives the user `larder` these rules and no others.
fn set_rules(redis: &Redis, rules: &[String]) {
    let password = format!(">{SECRET}");
    let words = ["ACL", "SETUSER", "larder", "reset", "on", &password];
    let words: Vec<_> = words.into_iter().chain(rules.iter().map(String::as_str)).collect();
    assert_eq!(redis.command(&words).text(), "OK", "{rules:?}");
}

fn login(redis: &Redis) -> String {
    format!("redis://larder:{SECRET}@{}", redis.address())
}

#[test]
fn the_recommended_rules_are_enough() {
    let (redis, hub, model) = (Redis::start(), Hub::start(), models::tiny_gpt2(1, 500_000));
    hub.add(model.clone());
    set_rules(&redis, &recommended());
    let [worker, desk] = ["gpu-1", "desk"]
        .map(|name| machine(name, &login(&redis), &hub).env("LARDER__QUEUE__FUNCTIONS", "false"));
    let daemon = worker.serve();
    desk.run(&["stage", model.id(), "--hosts", "gpu-1"]).expect_code(0);
    desk.run(&["stage", "test/none", "--hosts", "pool"]).expect_code(3);
    for args in [&["jobs", "list"][..], &["jobs", "redrive"]] {
        desk.run(args).expect_code(0);
    }
    let program = Program::new(&login(&redis));
    program.block(everything(&program.client)).expect("a client needs no more");
    std::thread::sleep(std::time::Duration::from_secs(2));
    let denied: Vec<_> = daemon.logs().into_iter().filter(|line| line.contains("denies")).collect();
    assert_eq!(denied, Vec::<String>::new());
    drop(daemon);
    let log = redis.command(&["ACL", "LOG"]);
    assert_eq!(log, support::Reply::List(vec![]), "Redis refused nothing");
}

/// Every call of the client; the first error.
async fn everything(client: &Client) -> Result<()> {
    client.server().await?;
    let mut job = download("rights/test", "gpu-9");
    job.common.requested_by = Some("ann".into());
    job.common.idempotency_key = Some(format!("key {}", unique()));
    let id = client.enqueue(&job).await?.job.id;
    job.common.not_before = Some("2100-01-01T00:00:00Z".parse().expect("a time"));
    client.enqueue(&job).await?;
    client.get(id).await?;
    client.list(None, None, 10).await?;
    client.cancel(id, Some("ann")).await?;
    client.retry(id).await?;
    client.cancel(id, None).await?;
    client.redrive().await?;
    for target in [Target::Pool, Target::Host("gpu-9".parse().expect("a name"))] {
        client.is_served(&target).await?;
    }
    client.wait(id).await?;
    Ok(())
}

/// Differs from call to call.
fn unique() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    now.as_nanos().to_string()
}

/// Whether the error, or one that a larder logs, names the rule in its hint.
fn names(error: &str, rule: &str) -> bool {
    let words = || error.split([' ', ';', '"', ',']);
    error.contains("ACL SETUSER larder ") && words().any(|word| word == rule)
}

#[test]
fn each_missing_rule_is_named() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let rules = recommended();
    let mut report = String::new();
    // Everything else that larder runs is in a script; this is asked on a connection that was quiet for 15 s.
    for rule in rules.iter().filter(|rule| !["-@all", "+ping"].contains(&rule.as_str())) {
        redis.command(&["FLUSHALL"]);
        let rest: Vec<_> = rules.iter().filter(|other| *other != rule).cloned().collect();
        set_rules(&redis, &rest);
        redis.command(&["SCRIPT", "FLUSH"]);
        let program = Program::new(&login(&redis));
        let by_client = program.block(everything(&program.client)).err();
        if by_client.as_ref().is_some_and(|error| names(&error.to_string(), rule)) {
            continue;
        }
        redis.command(&["FLUSHALL"]);
        let root = Program::new(&redis.url());
        root.block(root.client.enqueue(&download("test/none", "gpu-1"))).expect("accepted");
        // A record that another program broke, which a larder buries.
        redis.command(&["HSET", "{larder}:job:x", "id", "x"]);
        redis.command(&["ZADD", "{larder}:ready:download:pool", "0", "0000000000000000x"]);
        let worker = machine("gpu-1", &login(&redis), &hub);
        let mut daemon = worker.spawn(&["serve"]);
        for tripwire in [support::Tripwire::Jobs, support::Tripwire::Errors] {
            daemon.allow(tripwire);
        }
        if daemon.wait_line(|line| names(line, rule), SOON / 4).is_none() {
            writeln!(report, "{rule}: {by_client:?}\n{}\n", daemon.logs().join("\n")).expect("a string");
        }
    }
    assert!(report.is_empty(), "rules that nobody misses:\n{report}");
}

#[test]
fn a_rule_that_was_missing_is_granted_under_way() {
    let redis = Redis::start();
    let rules = recommended();
    for rule in ["+evalsha", "+info", "+subscribe", "~{larder}:*", "&{larder}:*"] {
        let rest: Vec<_> = rules.iter().filter(|other| *other != rule).cloned().collect();
        set_rules(&redis, &rest);
        let larder = desk(&login(&redis));
        let denied = "denies the user `larder`";
        // A command that asks for a job meets these two before it looks for somebody who would take it.
        if ["+info", "~{larder}:*"].contains(&rule) {
            super::assert_refused(&larder, 75, denied, rule);
        }
        let daemon = super::assert_waits(&larder, denied, rule);
        set_rules(&redis, &rules);
        assert_heals(daemon);
    }
    let larder = desk(&login(&redis));
    let mut daemon = larder.serve();
    let rest: Vec<_> = rules.iter().filter(|other| *other != "+publish").cloned().collect();
    set_rules(&redis, &rest);
    let job = json!({"kind": "download", "repo": "a/b", "hosts": ["gpu-2"]});
    let refused = daemon.post("/v1/jobs", &job).expect(503);
    assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("+publish")), "{refused}");
    assert!(refused["detail"].as_str().is_some_and(|said| said.contains("publish")), "{refused}");
    set_rules(&redis, &rules);
    daemon.post("/v1/jobs", &job).expect(202);
    daemon.allow(support::Tripwire::Jobs);
}

/// A line of docs/queue.md that begins like this, without it.
fn line_of(begin: &str) -> Vec<String> {
    let text = include_str!("../../../docs/queue.md");
    let line = text.lines().find_map(|line| line.strip_prefix(begin));
    line.unwrap_or_else(|| panic!("docs/queue.md has `{begin}`")).split(' ').map(ToOwned::to_owned).collect()
}

#[test]
fn functions_are_loaded_by_those_who_may_and_no_harm_is_done_elsewhere() {
    let (redis, hub) = (Redis::start(), Hub::start());
    set_rules(&redis, &recommended());
    let larder = machine("gpu-1", &login(&redis), &hub);
    let daemon = larder.serve();
    let told = daemon.wait_line(|line| line.contains("cannot be loaded"), PATIENCE).expect("it says so");
    assert!(told.contains("+function|list") && told.contains("larder config functions"), "{told}");
    let loads = line_of("ACL SETUSER larder +function");
    redis.command(&["ACL", "SETUSER", "larder", &format!("+function{}", loads[0]), &loads[1]]);
    drop(daemon);
    let daemon = larder.serve();
    assert!(daemon.wait_line(|line| line.contains("are in Redis"), PATIENCE).is_some());
    // From here on nobody takes out what is put in.
    drop(daemon);

    // Who only asks needs these rules, and each of them.
    let rules = line_of("ACL SETUSER asker on >PASSWORD ");
    let ask = |without: Option<&str>, words: &[&str]| {
        let rest = rules.iter().map(String::as_str).filter(|rule| Some(*rule) != without);
        let secret = format!(">{SECRET}");
        let set: Vec<_> =
            ["ACL", "SETUSER", "asker", "reset", "on", &secret].into_iter().chain(rest).collect();
        assert_eq!(redis.command(&set).text(), "OK");
        redis.command_as("asker", SECRET, words)
    };
    let job = json!({"kind": "download", "repo": "a/b", "hosts": "pool", "idempotency_key": "k"}).to_string();
    let enqueue = ["FCALL", "larder_enqueue", "1", "{larder}:", &job];
    let show = ["FCALL", "larder_job", "1", "{larder}:", "01JDFP00000000000000000000"];
    assert!(ask(None, &enqueue).text().contains("queued"));
    assert!(ask(None, &show).error().starts_with("not_found"));
    for rule in rules.iter().filter(|rule| *rule != "-@all") {
        let refused = [ask(Some(rule), &enqueue), ask(Some(rule), &show)];
        let denied = |reply: &support::Reply| matches!(reply, support::Reply::Error(text) if !text.starts_with("not_found"));
        assert!(refused.iter().any(denied), "nobody misses {rule}: {refused:?}");
    }
}

/// The address of a program that logs in as `larder`.
fn as_larder(address: Result<Address>) -> Program {
    Program::of(Client::new(address.expect("an address").with_login("larder", Some(SECRET))))
}

#[test]
fn sentinels_ask_for_one_rule_more() {
    let rules = recommended();
    let rules: Vec<_> = rules.iter().map(String::as_str).collect();
    let own = line_of("ACL SETUSER watcher on >PASSWORD ");
    let own: Vec<_> = own.iter().map(String::as_str).collect();
    let servers = RedisOptions::default().user("larder", SECRET, &rules);
    let fleet = Watched::with(&servers, &RedisOptions::default().user("watcher", SECRET, &own), &[]);
    let urls = fleet.urls();
    let address = || Address::sentinel(&urls.split(',').collect::<Vec<_>>(), MASTER, "larder");
    let program = as_larder(address().map(|address| address.with_sentinel_login("watcher", Some(SECRET))));
    program.block(everything(&program.client)).expect("a client needs no more");
    for sentinel in &fleet.sentinels {
        assert_eq!(sentinel.command(&["ACL", "LOG"]), support::Reply::List(vec![]), "nothing was refused");
        sentinel.command(&["ACL", "SETUSER", "watcher", "-@all"]);
    }
    let program = as_larder(address().map(|address| address.with_sentinel_login("watcher", Some(SECRET))));
    let error = program.block(program.client.server()).expect_err("it may not ask");
    assert!(error.hint().contains("ACL SETUSER watcher +sentinel|get-master-addr-by-name;"), "{error}");
}

#[test]
fn a_cluster_asks_for_one_rule_more() {
    let rules = recommended();
    let more = line_of("ACL SETUSER larder +cluster");
    let cluster = format!("+cluster{}", more[0]);
    let all: Vec<_> = rules.iter().map(String::as_str).chain([cluster.as_str()]).collect();
    let nodes = Cluster::with(&RedisOptions::default().user("larder", SECRET, &all), "{larder}:");
    let urls = nodes.urls();
    let address = || Address::cluster(&urls.split(',').collect::<Vec<_>>(), "larder");
    let program = as_larder(address());
    program.block(everything(&program.client)).expect("a client needs no more");
    for node in &nodes.nodes {
        assert_eq!(node.command(&["ACL", "LOG"]), support::Reply::List(vec![]), "nothing was refused");
        node.command(&["ACL", "SETUSER", "larder", "-cluster"]);
    }
    let program = as_larder(address());
    let error = program.block(program.client.server()).expect_err("it may not ask");
    assert!(error.hint().contains("ACL SETUSER larder +cluster|slots;"), "{error}");
}

//! What the plan of a night says of several hosts, of what is wrong with a manifest, and of what nobody knows.

use std::process::Stdio;

use serde_json::{Value, json};
use support::{Daemon, Hub, Larder, Model, Redis, larder, models};

use super::{SOON, manifest};
use crate::fleet::machine;

/// Waits until the fleet knows so many hosts and what they are.
fn wait_for_hosts(daemon: &Daemon, count: usize) {
    daemon.wait_until("/v1/hosts", SOON, |list| {
        let hosts = list["hosts"].as_array().map_or(&[][..], Vec::as_slice);
        hosts.len() == count && hosts.iter().all(|host| host["about"].is_object())
    });
}

fn tiny(hub: &Hub, seed: u64) -> Model {
    let model = models::huge(seed, 200_000);
    hub.add(model.clone());
    model
}

fn of<'a>(plan: &'a Value, host: &str) -> &'a Value {
    let hosts = plan["hosts"].as_array().expect("hosts");
    hosts.iter().find(|night| night["host"] == host).unwrap_or_else(|| panic!("{host}: {plan:#}"))
}

#[test]
fn the_same_model_for_all_and_for_one_is_one_job_there() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let model = tiny(&hub, 31);
    // Room for one copy and not for two.
    let machines =
        ["f1", "f2"].map(|name| machine(name, &redis.url(), &hub).env("LARDER__CACHE__CAPACITY", "300kB"));
    let daemons = machines.each_ref().map(Larder::serve);
    wait_for_hosts(&daemons[0], 2);
    let text = format!(
        "defaults = {{hosts = \"all\"}}\n[[models]]\nmodel = \"{0}\"\n[[models]]\nmodel = \"{0}\"\nhosts = [\"f1\"]\n\
         priority = 7\npin = true\nlease_ttl = \"2h\"\n[[models]]\nmodel = \"{0}\"\nhosts = \"pool\"\n",
        model.id()
    );
    let path = manifest(&machines[0], "night.toml", &text);
    let plan = machines[0].run(&["warm", &path, "--dry-run", "--json"]).expect_code(0).json();
    assert_eq!(plan["bytes_to_fetch"], json!(2 * model.bytes()), "{plan:#}");
    assert_eq!(of(&plan, "f1")["bytes_to_fetch"], json!(model.bytes()), "{plan:#}");
    let jobs = plan["jobs"].as_array().expect("jobs");
    let on = |host: &str| jobs.iter().filter(|job| job["hosts"] == json!([host])).collect::<Vec<_>>();
    assert_eq!((jobs.len(), on("f1").len(), on("f2").len()), (2, 1, 1), "{plan:#}");
    let job = on("f1")[0];
    assert_eq!((&job["priority"], &job["pin"]), (&json!(7), &json!(true)), "the wider wish counts: {job}");
    let asked = machines[0].run(&["warm", &path, "--json"]).expect_code(0).json();
    for job in asked["jobs"].as_array().expect("jobs") {
        assert_eq!(daemons[0].wait_job(job["id"].as_str().expect("an id"), SOON)["state"], "ready");
    }
}

#[test]
fn hosts_and_labels_that_nobody_has_get_the_nearest() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let model = tiny(&hub, 32);
    let larder = machine("gpu-1", &redis.url(), &hub).env("LARDER__HOST__LABELS", "gpu=h100");
    let daemon = larder.serve();
    wait_for_hosts(&daemon, 1);
    let text = |hosts: &str| format!("[[models]]\nmodel = \"{}\"\nhosts = {hosts}\n", model.id());
    for (hosts, part) in [
        ("{labels = {gpu = \"h10\"}}", "no host has the label gpu=h10; near it: gpu=h100"),
        ("{labels = {gpu = \"h10\"}, pick = \"best\"}", "no host has the label gpu=h10; near it: gpu=h100"),
        ("[\"gpu-2\"]", "no host of the fleet is called gpu-2; near it: gpu-1"),
    ] {
        let path = manifest(&larder, "night.toml", &text(hosts));
        let shown = larder.run(&["warm", &path, "--dry-run"]).expect_code(4).stdout;
        assert!(shown.contains(part), "{hosts}: {shown}");
        // What can be there is asked for, and the rest is named among the warnings.
        let path = manifest(
            &larder,
            "warn.toml",
            &format!("impossible = \"warn\"\n{}{}", text(hosts), text("\"all\"")),
        );
        let plan = larder.run(&["warm", &path, "--dry-run", "--json"]).expect_code(0).json();
        let notes = plan["notes"].to_string();
        assert!(notes.contains(part), "{hosts}: {notes}");
        assert_eq!(plan["jobs"].as_array().map(Vec::len), Some(1), "{plan:#}");
        let asked = larder.run(&["warm", &path]).expect_code(0);
        assert!(asked.stdout.contains(part), "{hosts}: {}", asked.stdout);
        assert!(asked.stderr.contains("1 job is "), "{}", asked.stderr);
        daemon.wait_until("/v1/jobs", SOON, |list| {
            list["jobs"].as_array().expect("jobs").iter().all(|job| job["state"] == "ready")
        });
    }
}

#[test]
fn more_jobs_than_a_batch_takes_are_refused_before_anything_is_asked() {
    let hub = Hub::start();
    let larder = larder!(&hub);
    let _daemon = larder.serve();
    let names: String = (0..1_000).map(|n| format!("  - a/b{n}\n")).collect();
    let path =
        manifest(&larder, "night.yaml", &format!("defaults: {{hosts: [a, b, c, d, e]}}\nmodels:\n{names}"));
    for args in [&["warm", &path, "--dry-run"][..], &["warm", &path]] {
        let error = larder.run(args).expect_code(2).stderr;
        assert!(
            error.contains("5000 jobs") && error.contains("4096") && error.contains("split it"),
            "{error}"
        );
    }
}

#[test]
fn the_variant_of_another_host_is_known_and_what_is_not_is_no_zero() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let model = tiny(&hub, 33);
    let machines = ["f1", "f2"].map(|name| machine(name, &redis.url(), &hub));
    let daemons = machines.each_ref().map(Larder::serve);
    wait_for_hosts(&daemons[0], 2);
    let text = format!("[[models]]\nmodel = \"{}\"\nvariant = \"auto\"\nhosts = \"all\"\n", model.id());
    let path = manifest(&machines[0], "night.toml", &text);
    let plan = machines[0].run(&["warm", &path, "--dry-run", "--json"]).expect_code(0).json();
    for host in ["f1", "f2"] {
        assert_eq!(of(&plan, host)["bytes_to_fetch"], json!(model.bytes()), "{plan:#}");
    }
    hub.down(true);
    let plan = machines[0].run(&["warm", &path, "--dry-run", "--json"]).expect_code(0).json();
    for host in ["f1", "f2"] {
        let night = of(&plan, host);
        assert_eq!(
            (&night["bytes_to_fetch"], &night["disk_needed"]),
            (&Value::Null, &Value::Null),
            "{plan:#}"
        );
    }
    assert_eq!(plan["bytes_to_fetch"], Value::Null);
    let shown = machines[0].run(&["warm", &path, "--dry-run"]).expect_code(0).stdout;
    assert!(shown.contains("1 model of unknown size to fetch"), "{shown}");
    assert!(shown.contains("the size of 2 models is unknown") && !shown.contains("0 B"), "{shown}");
    // The reason is below the table and not in it.
    assert!(shown.lines().any(|line| line.starts_with("size unknown: ")), "{shown}");
    assert!(shown.lines().all(|line| !line.contains("fetch, size unknown") || line.len() < 120), "{shown}");
}

#[test]
fn a_machine_that_serves_nothing_plans_with_the_fleet_and_asks_it() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let model = tiny(&hub, 34);
    let (client, server) = (machine("desk", &redis.url(), &hub), machine("srv-1", &redis.url(), &hub));
    let daemon = server.serve();
    wait_for_hosts(&daemon, 1);
    for hosts in ["pool", "best", "all"] {
        let text = format!("[[models]]\nmodel = \"{}\"\nhosts = \"{hosts}\"\n", model.id());
        let path = manifest(&client, "night.toml", &text);
        let plan = client.run(&["warm", &path, "--dry-run", "--json"]).expect_code(0).json();
        assert_eq!(of(&plan, "srv-1")["bytes_to_fetch"], json!(model.bytes()), "{hosts}: {plan:#}");
        assert_eq!(of(&plan, "desk")["fetch"], json!([]), "{hosts}: {plan:#}");
    }
    let text = |hosts: &str| format!("[[models]]\nmodel = \"{}\"\nhosts = {hosts}\n", model.id());
    let path = manifest(&client, "this.toml", &text("\"this\""));
    let refused = client.run(&["warm", &path, "--dry-run"]).expect_code(4).stdout;
    assert!(refused.contains("start larder serve here"), "{refused}");
    let path = manifest(&client, "typo.toml", &text("[\"srv-2\"]"));
    let refused = client.run(&["warm", &path]).expect_code(4).stdout;
    assert!(refused.contains("is called srv-2; near it: srv-1"), "{refused}");

    let path = manifest(&client, "named.toml", &text("[\"srv-1\"]"));
    let asked = client.run(&["warm", &path, "--json"]).expect_code(0).json();
    let job = &asked["jobs"][0];
    assert_eq!(job["host"], "srv-1", "{asked}");
    let job = daemon.wait_job(job["id"].as_str().expect("an id"), SOON);
    assert_eq!((&job["state"], &job["requested_by"]), (&json!("ready"), &json!(["warm"])), "{job}");
}

#[test]
fn what_cannot_be_is_told_as_it_is() {
    let hub = Hub::start();
    let model = tiny(&hub, 35);
    let larder = larder!(&hub);
    let nobody =
        larder.run(&["warm", &manifest(&larder, "n.toml", "models = [\"a/b\"]\n")]).expect_code(75).stderr;
    assert!(nobody.contains("--api-url") && !nobody.contains("--detach"), "{nobody}");
    let daemon = larder.serve();
    let dry = |text: &str, code: i32| {
        let path = manifest(&larder, "night.toml", text);
        larder.run(&["warm", &path, "--dry-run"]).expect_code(code).stdout
    };
    let missing = dry("models = [\"no/body\"]\n", 4);
    assert!(missing.contains("1 model of the manifest will not be there"), "{missing}");
    assert!(!missing.contains("within a week") && !missing.contains("deadline"), "{missing}");
    let past = format!("deadline = 2020-01-01T00:00:00Z\nmodels = [\"{}\"]\n", model.id());
    let shown = dry(&past, 4);
    assert!(
        shown.contains("its deadline, 2020-01-01T00:00:00Z, is past") && !shown.contains("0 B"),
        "{shown}"
    );

    // Whoever has said "warn" is not told to say it, and sees what is dropped.
    let warned = manifest(&larder, "warn.toml", &format!("impossible = \"warn\"\n{past}"));
    let asked = larder.run(&["warm", &warned]).expect_code(4);
    assert!(
        asked.stdout.contains("is past") && asked.stderr.contains("none of it can be there"),
        "{}",
        asked.stderr
    );
    let text = std::fs::read_to_string(&warned).expect("reads");
    let problem = daemon.post("/v1/warm/jobs", &json!({"manifest": text})).expect(409);
    assert!(problem["detail"].as_str().is_some_and(|what| what.contains("is past")), "{problem}");
    assert!(!problem.to_string().contains("set impossible"), "{problem}");

    let shut = larder.run(&["warm", "/nowhere/night.toml"]).expect_code(2).stderr;
    assert!(shut.contains("/nowhere/night.toml"), "{shut}");
    assert_eq!(daemon.get("/v1/jobs").expect(200)["jobs"], json!([]), "nothing was asked for");
}

#[test]
fn a_manifest_on_stdin_may_be_yaml() {
    let hub = Hub::start();
    let model = tiny(&hub, 36);
    let larder = larder!(&hub);
    for text in [
        format!("# a night\nmodels:\n  - {}\n", model.id()),
        format!("# a night\n[[models]]\nmodel = \"{}\"\n", model.id()),
    ] {
        use std::io::Write as _;
        let mut command = larder.command(&["warm", "-", "--dry-run", "--json"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("ends");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(plan["bytes_to_fetch"], json!(model.bytes()));
    }
}

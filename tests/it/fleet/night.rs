//! A night of several hosts, seen from one of them: what would go where, where the bytes came from, and who is the best for a
//! request that came through Redis.

use std::time::Duration;

use fake_nvml::Fake;
use fake_nvml::config::{Config, Gpu, Memory};
use serde_json::{Value, json};
use support::repos::Repo;
use support::{Hub, Larder, Model, Redis, models};

use super::{PATIENCE, id_of, machine};
use crate::fit::row;

const GIB: u64 = 1 << 30;

/// Two models, and two machines of which the second has room for one.
fn pair(redis: &Redis, hub: &Hub) -> ([Model; 2], [Larder; 2]) {
    let both = [models::tiny_gpt2(1, 60_000), models::tiny_gpt2(2, 60_000)];
    both.iter().for_each(|model| drop(hub.add(model.clone())));
    let [here, there] = ["gpu-1", "gpu-2"].map(|name| machine(name, &redis.url(), hub));
    let there = there.env("LARDER__CACHE__MIN_AGE", "0s").env("LARDER__CACHE__CAPACITY", "300kB");
    (both, [here, there])
}

#[test]
fn what_would_go_on_another_host_and_where_its_bytes_came_from_is_known_here() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let ([old, new], [here, there]) = pair(&redis, &hub);
    let (daemon, _other) = (here.serve(), there.serve());
    let is_there = |hosts: &Value| {
        hosts["hosts"].as_array().is_some_and(|all| all.iter().all(|one| one["about"].is_object()))
    };
    daemon.wait_until("/v1/hosts", PATIENCE, |hosts| {
        hosts["hosts"].as_array().is_some_and(|all| all.len() == 2) && is_there(hosts)
    });
    let job = json!({"kind": "download", "repo": old.id(), "hosts": ["gpu-2"], "requested_by": "warm"});
    let staged = daemon.post("/v1/jobs", &job).expect(202);
    let staged = daemon.wait_job(&id_of(&staged), PATIENCE);
    let source = staged["bytes_by_source"]
        .as_object()
        .and_then(|all| all.iter().next())
        .unwrap_or_else(|| panic!("{staged}"));
    assert_eq!(source.1, &staged["bytes_fetched"], "{staged}");
    let report = daemon.get("/v1/report?requested_by=warm").expect(200);
    assert_eq!(report["bytes_by_source"], staged["bytes_by_source"], "{report}");

    let first = |hosts: &Value| {
        let host = hosts["hosts"].as_array()?.iter().find(|host| host["name"] == "gpu-2")?;
        host["about"]["disk"]["goes_first"][0]["repo"].as_str().map(str::to_owned)
    };
    daemon.wait_until("/v1/hosts", PATIENCE, |hosts| first(hosts).as_deref() == Some(old.id()));
    let manifest = here.root().join("night.toml");
    let text = format!("[[models]]\nmodel = \"{}\"\nhosts = [\"gpu-2\"]\n", new.id());
    std::fs::write(&manifest, text).expect("written");
    let path = manifest.to_str().expect("UTF-8");
    let plan = here.run(&["warm", path, "--dry-run", "--json"]).expect_code(0).json();
    let night = plan["hosts"].as_array().expect("hosts").iter().find(|night| night["host"] == "gpu-2");
    let evicted = &night.expect("a plan")["evict"];
    assert_eq!(
        (evicted.as_array().map(Vec::len), &evicted[0]["repo"]),
        (Some(1), &json!(old.id())),
        "{plan}"
    );
    assert!(evicted[0]["reason"].is_string() && evicted[0]["bytes"].as_u64() > Some(60_000), "{evicted}");
    let human = here.run(&["warm", path, "--dry-run"]).expect_code(0).stdout;
    assert!(human.contains("on gpu-2") && human.contains(&format!("evict {}", old.id())), "{human}");
}

#[test]
fn what_went_on_another_host_and_should_have_stayed_is_in_the_report() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let ([old, new], [here, there]) = pair(&redis, &hub);
    let (daemon, _other) = (here.serve(), there.serve());
    let stage = |model: &Model| {
        let job = json!({"kind": "download", "repo": model.id(), "hosts": ["gpu-2"]});
        let job = daemon.wait_job(&id_of(&daemon.post("/v1/jobs", &job).expect(202)), PATIENCE);
        assert_eq!(job["state"], "ready", "{job}");
        job
    };
    let first = stage(&old);
    assert_eq!(first["bytes_verified"], first["bytes_total"], "{first}");
    assert!(first.get("evicted").is_none() && first.get("came_back").is_none(), "{first}");
    let second = stage(&new);
    assert_eq!(second["evicted"][0]["repo"], old.id(), "{second}");
    let third = stage(&old);
    assert_eq!(third["evicted"][0]["repo"], new.id(), "{third}");
    assert_eq!(third["came_back"]["bytes"], second["evicted"][0]["bytes"], "{third}");

    let report = daemon.get("/v1/report").expect(200);
    let bytes = |job: &Value| job["evicted"][0]["bytes"].as_u64().expect("bytes");
    assert_eq!(report["evicted"], json!({"models": 2, "bytes": bytes(&second) + bytes(&third)}), "{report}");
    let [regret] = report["regretted"].as_array().expect("a list").as_slice() else { panic!("{report}") };
    assert_eq!((&regret["host"], &regret["repo"]), (&json!("gpu-2"), &json!(old.id())), "{report}");
    assert_eq!(regret["evicted_at"], third["came_back"]["evicted_at"], "{report}");
    let told = there.run(&["report", "--json"]).expect_code(0).json();
    assert_eq!(told["regretted"], report["regretted"], "the host itself says the same");
    assert_eq!(told["evicted"], report["evicted"]);
    let page = here.root().join("night.html");
    let shown = here.run(&["report", "--html", page.to_str().expect("UTF-8")]).expect_code(0).stdout;
    let row = shown.lines().find(|line| line.starts_with(old.id())).unwrap_or_else(|| panic!("{shown}"));
    assert!(shown.contains("EVICTED TOO EARLY") && row.contains("gpu-2"), "{shown}");
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page.contains("<h2>Evicted too early</h2>") && page.contains("<td>gpu-2"), "{page}");
    let job = here.run(&["jobs", "show", third["id"].as_str().expect("an id")]).expect_code(0).stdout;
    assert!(job.contains("came back") && job.contains(&format!("evicted      {}@", new.id())), "{job}");
}

/// A host with one card of so much free memory.
fn with_card(larder: Larder, free: u64) -> (Larder, Fake) {
    let memory = Memory { total: 80 * GIB, used: 80 * GIB - free, ..Memory::default() };
    let card = Gpu { name: "NVIDIA H100 80GB HBM3".into(), memory: Some(memory), ..Gpu::default() };
    let fake = Fake::new(&Config { gpus: vec![card], ..Config::default() }).expect("the library");
    (larder.env("LARDER__GPU__NVML_LIBRARY", fake.library()), fake)
}

#[test]
fn the_best_host_for_a_request_of_redis_has_the_memory_for_it() {
    let (redis, hub) = (Redis::start(), Hub::start());
    hub.add(Repo::from_row(&row("Qwen/Qwen2.5-7B-Instruct")).model());
    let (first, _small) = with_card(machine("gpu-1", &redis.tcp_url(), &hub), 2 * GIB);
    let (second, _large) = with_card(machine("gpu-2", &redis.tcp_url(), &hub), 70 * GIB);
    let (daemon, _other) = (first.serve(), second.serve());
    daemon.wait_until("/v1/hosts", PATIENCE, |hosts| {
        let known = |host: &Value| host["about"]["gpus"][0]["memory_free"].is_u64();
        hosts["hosts"].as_array().is_some_and(|all| all.len() == 2 && all.iter().all(known))
    });
    let request = json!({
        "kind": "download", "repo": "Qwen/Qwen2.5-7B-Instruct", "hosts": "best", "not_before": "2999-01-01T00:00:00Z",
    });
    let answer = redis.command(&["FCALL", "larder_enqueue", "1", "{larder}:", &request.to_string()]).text();
    let id = serde_json::from_str::<Value>(&answer).expect("JSON")["id"].as_str().expect("an id").to_owned();
    let job = daemon
        .wait_until(&format!("/v1/jobs/{id}"), Duration::from_secs(30), |job| job["state"] == "waiting");
    assert_eq!(job["hosts"], json!(["gpu-2"]), "{job}");
    daemon.request("DELETE", &format!("/v1/jobs/{id}"), None).expect(202);
}

#[test]
fn a_night_chooses_the_variants_of_all_hosts_by_their_own_cards() {
    let (redis, hub) = (Redis::start(), Hub::start());
    let model = Repo::from_row(&row("Qwen/Qwen2.5-7B-Instruct")).model();
    hub.add(model);
    let (first, _small) = with_card(machine("gpu-1", &redis.url(), &hub), 2 * GIB);
    let (second, _large) = with_card(machine("gpu-2", &redis.url(), &hub), 70 * GIB);
    let (daemon, _other) = (first.serve(), second.serve());
    daemon.wait_until("/v1/hosts", PATIENCE, |hosts| {
        let known = |host: &Value| host["about"]["gpus"][0]["memory_free"].is_u64();
        hosts["hosts"].as_array().is_some_and(|all| all.len() == 2 && all.iter().all(known))
    });
    let text = "impossible = \"warn\"\n[[models]]\nmodel = \"Qwen/Qwen2.5-7B-Instruct\"\nvariant = \"auto\"\nhosts = \"all\"\n";
    // The same wherever it is asked, by the host of the small card or by the other.
    for asked in [&first, &second] {
        let manifest = asked.root().join("night.toml");
        std::fs::write(&manifest, text).expect("written");
        let args = ["warm", manifest.to_str().expect("UTF-8"), "--dry-run", "--json"];
        let plan = asked.run(&args).expect_code(0).json();
        let [dropped] = &plan["dropped"].as_array().expect("a list")[..] else { panic!("{plan:#}") };
        assert_eq!((&dropped["host"], &dropped["reason"]), (&json!("gpu-1"), &json!("unfit")), "{plan:#}");
        assert!(dropped["why"].as_str().is_some_and(|why| why.contains("no variant of")), "{dropped}");
        let night = plan["hosts"].as_array().expect("hosts").iter().find(|night| night["host"] == "gpu-2");
        let night = night.expect("a plan");
        assert!(night["bytes_to_fetch"].as_u64() > Some(GIB), "{plan:#}");
        assert_eq!(night["fetch"][0]["bytes"], night["bytes_to_fetch"], "{plan:#}");
    }
}

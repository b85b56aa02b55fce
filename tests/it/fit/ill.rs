//! GPUs that fall ill while larder runs: lost and back, an Xid, memory errors, a library that stops answering. Every
//! place that speaks of them says so, and neither staging nor a scrape nor the end waits for them.

use std::time::{Duration, Instant};

use fake_nvml::Fake;
use fake_nvml::config::{Config, Ecc, Gpu, Memory, Remapped, Xid};
use serde_json::{Value, json};

use super::places::{GIB, MODEL, SOON, alone, ask, hub, on, said, still};
use super::scraped;

fn gpu(n: u32, free: u64) -> Gpu {
    let total = 24 * GIB;
    Gpu {
        name: "NVIDIA L4".into(),
        uuid: format!("GPU-0000000{n}-aaaa-bbbb-cccc-dddddddddddd"),
        compute_capability: (8, 9),
        memory: Some(Memory { total, reserved: 0, used: total - free, ..Memory::default() }),
        ..Gpu::default()
    }
}

fn with(gpus: Vec<Gpu>) -> Config {
    Config { gpus, ..Config::default() }
}

fn is_well(host: &Value) -> bool {
    host["health"]["state"] == "healthy" && host["gpus"]["source"] == "nvml"
}

fn is_degraded(host: &Value) -> bool {
    host["health"]["state"] == "degraded"
}

fn reasons(host: &Value) -> Vec<&str> {
    let reasons = host["health"]["reasons"].as_array().expect("a list");
    reasons.iter().map(|reason| reason["word"].as_str().expect("a word")).collect()
}

#[test]
fn a_gpu_that_is_lost_is_no_budget_until_it_is_back() {
    let both = |first: bool, second: bool| {
        let lost = |n, free, lost| Gpu { lost, ..gpu(n, free) };
        with(vec![lost(1, 20 * GIB, first), lost(2, 10 * GIB, second)])
    };
    let (hub, fake) = (hub(), Fake::new(&both(false, false)).expect("the library"));
    let larder = on(&hub, &fake);
    let daemon = larder.serve();
    let well = said(&larder, &daemon, is_well);
    assert_eq!(well.answer(), (Some("fits"), Some(20 * GIB)));
    fake.set(&both(true, false)).expect("set");
    let one = said(&larder, &daemon, is_degraded);
    assert_eq!((one.answer(), reasons(&one.host)), ((Some("fits"), Some(10 * GIB)), vec!["gpu_lost"]));
    assert_eq!(one.host["device"], "cuda", "the other one is there");
    assert!(one.info.contains("GPU 0     NVIDIA L4: lost") && one.info.contains("drain the host"));
    one.line(r#"larder_gpu_healthy{uuid="GPU-00000001-aaaa-bbbb-cccc-dddddddddddd"} 0"#);
    one.line(r#"larder_host_health_reasons{reason="gpu_lost"} 1"#);
    fake.set(&both(true, true)).expect("set");
    let none = said(&larder, &daemon, |host| reasons(host).len() == 2);
    assert_eq!((none.answer(), none.host["device"].as_str()), ((Some("unknown"), None), Some("cpu")));
    for told in [&none.fit, &none.fit_json] {
        assert!(told["notes"].to_string().contains("every GPU of this host is lost"), "{told}");
    }
    fake.set(&both(false, false)).expect("set");
    let back = said(&larder, &daemon, is_well);
    assert_eq!((back.answer(), back.code), (well.answer(), 0));
    assert_eq!(still(&back.host), still(&well.host));
}

#[test]
fn an_xid_is_told_everywhere_with_what_to_do() {
    let config = with(vec![gpu(1, 20 * GIB)]);
    let (hub, fake) = (hub(), Fake::new(&config).expect("the library"));
    let larder = on(&hub, &fake);
    let daemon = larder.serve();
    let quiet = said(&larder, &daemon, |host| host["gpus"]["devices"][0]["xid"].is_object());
    assert!(!quiet.has("larder_gpu_xid_last_timestamp_seconds"), "none was heard");
    // The application's own fault: it is told, and the host is well.
    let heard = |xids: &[u64]| {
        let xids = xids.iter().map(|code| Xid { gpu: 0, code: *code }).collect();
        fake.set(&Config { xids, ..config.clone() }).expect("set");
    };
    heard(&[31]);
    let last = |host: &Value| host["gpus"]["devices"][0]["xid"]["last"][0]["code"].as_u64();
    let own = said(&larder, &daemon, |host| last(host) == Some(31));
    assert_eq!((own.host["health"]["state"].as_str(), own.code), (Some("healthy"), 0));
    let uuid = "GPU-00000001-aaaa-bbbb-cccc-dddddddddddd";
    assert!(own.has(&format!("larder_gpu_xid_last_timestamp_seconds{{uuid=\"{uuid}\",xid=\"31\"}}")));
    heard(&[31, 79]);
    let ill = said(&larder, &daemon, |host| last(host) == Some(79));
    assert_eq!((reasons(&ill.host), ill.code), (vec!["xid"], 1));
    assert!(ill.has(&format!("larder_gpu_xid_last_timestamp_seconds{{uuid=\"{uuid}\",xid=\"79\"}}")));
    ill.line(r#"larder_host_health_reasons{reason="xid"} 1"#);
    assert!(ill.info.contains("Xid 79") && ill.info.contains("restart the host"), "{}", ill.info);
    assert_eq!(ill.answer(), (Some("fits"), Some(20 * GIB)), "its memory is as it was");
}

#[test]
fn memory_that_went_bad_is_told_with_its_counts() {
    let bad = Gpu {
        ecc: Some(Ecc { uncorrected_volatile: 2, corrected_volatile: 9, ..Ecc::default() }),
        remapped_rows: Some(Remapped { uncorrectable: 1, pending: true, ..Remapped::default() }),
        ..gpu(1, 20 * GIB)
    };
    let (hub, fake) = (hub(), Fake::new(&with(vec![bad])).expect("the library"));
    let larder = on(&hub, &fake);
    let daemon = larder.serve();
    let said = said(&larder, &daemon, is_degraded);
    assert_eq!((reasons(&said.host), said.code), (vec!["ecc_uncorrected", "row_remap_pending"], 1));
    let uuid = "uuid=\"GPU-00000001-aaaa-bbbb-cccc-dddddddddddd\"";
    said.line(&format!("larder_gpu_ecc_errors{{{uuid},kind=\"uncorrected\",counter=\"volatile\"}} 2"));
    said.line(&format!("larder_gpu_ecc_errors{{{uuid},kind=\"corrected\",counter=\"volatile\"}} 9"));
    said.line(&format!("larder_gpu_remapped_rows{{{uuid},kind=\"uncorrectable\"}} 1"));
    said.line(&format!("larder_gpu_row_remap_pending{{{uuid}}} 1"));
    assert!(said.info.contains("2 memory errors") && said.info.contains("waits to be replaced"));
    drop(daemon);
    let (info, _) = alone(&larder);
    assert_eq!(still(&info), still(&said.host), "a command that looks by itself sees it too");
}

#[test]
fn a_library_that_stops_answering_leaves_what_is_free_unknown_and_holds_up_nobody() {
    let well = with(vec![gpu(1, 20 * GIB)]);
    let (hub, fake) = (hub(), Fake::new(&well).expect("the library"));
    let larder = on(&hub, &fake);
    let mut daemon = larder.serve();
    said(&larder, &daemon, is_well);
    fake.set(&Config { hang: vec!["*".into()], ..well.clone() }).expect("set");
    let stale = said(&larder, &daemon, |host| host["gpus"]["stale"] == true);
    assert_eq!((reasons(&stale.host), stale.code), (vec!["gpus_stale"], 0), "nobody can tell");
    assert!(!stale.has("larder_host_healthy") && stale.has("larder_gpus_snapshot_age_seconds "));
    assert!(stale.info.contains("the GPUs have not been read since"), "{}", stale.info);
    assert_eq!(stale.answer(), (Some("unknown"), None), "what was free is not what is free: {}", stale.fit);
    for told in [&stale.fit, &stale.fit_json] {
        assert!(told["notes"].to_string().contains("have not been read since"), "{told}");
        assert_eq!(told["target"]["source"], "unknown", "{told}");
    }
    // What does not need a GPU does not wait for one.
    let begun = Instant::now();
    let id = daemon.post("/v1/jobs", &json!({"kind": "download", "repo": MODEL, "variant": "auto"}));
    let id = id.expect(202)["id"].as_str().expect("an id").to_owned();
    let job = daemon.wait_job(&id, SOON);
    assert_eq!((job["state"].as_str(), job["chosen"]["is_fallback"].as_bool()), (Some("ready"), Some(false)));
    assert!(job["chosen"]["why"].as_str().is_some_and(|why| why.contains("have not been read")), "{job}");
    let staged = begun.elapsed();
    let begun = Instant::now();
    assert!(!scraped(&daemon).is_empty());
    let scrape = begun.elapsed();
    let begun = Instant::now();
    assert!(daemon.terminate(Duration::from_secs(10)).success());
    let times = [staged, scrape, begun.elapsed()];
    assert!(scrape < Duration::from_secs(5), "{times:?}");
    // A command that finds no daemon waits a little, and then says so.
    let (info, fit) = alone(&larder);
    assert_eq!(info["gpus"]["why_none"]["word"], "not_answering", "{info}");
    assert_eq!((fit["verdict"].as_str(), fit["budget_bytes"].is_null()), (Some("unknown"), true), "{fit}");
    let begun = Instant::now();
    larder.run(&["stage", MODEL, "--variant", "auto"]).expect_code(0);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // It answers again.
    let daemon = larder.serve();
    fake.set(&well).expect("set");
    let back = said(&larder, &daemon, is_well);
    assert_eq!(back.answer(), (Some("fits"), Some(20 * GIB)));
    assert_eq!(ask(&larder, &daemon).code, 0);
}

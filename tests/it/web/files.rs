//! The files of the page over HTTP: who may keep them, what they may load, and the two answers of the API that were made
//! for it.

use fake_nvml::Fake;
use serde_json::json;
use support::http::{Place, ask};
use support::{Hub, larder};

use super::{GIB, SOON, gpus, house, number, on_gpus};

const LOCAL: (&str, &str) = ("Host", "localhost");

#[test]
fn the_files_are_small_fresh_and_locked_down() {
    let larder = larder!(&Hub::start());
    let daemon = larder.serve();
    let place = Place::Tcp(daemon.address());
    let page = ask(&place, "GET /", &[LOCAL], b"");
    let text = page.text();
    let files = text.split('"').filter(|part| part.starts_with("/assets/"));
    let mut sum = 0;
    for path in files.chain(["/", "/assets/net.js"]) {
        let file = ask(&place, &format!("GET {path}"), &[LOCAL], b"");
        assert_eq!(file.status, 200, "{path}");
        sum += file.body.len();
        let policy = file.header("content-security-policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "form-action 'none'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{path}: {policy}");
        assert_eq!(
            (file.header("x-content-type-options"), file.header("cache-control")),
            ("nosniff", "no-cache"),
            "{path}"
        );
        assert_eq!(
            (file.header("x-frame-options"), file.header("referrer-policy")),
            ("DENY", "no-referrer"),
            "{path}"
        );
        let tag = file.header("etag").to_owned();
        let again = ask(&place, &format!("GET {path}"), &[LOCAL, ("If-None-Match", &tag)], b"");
        assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, tag.as_str()), "{path}");
        assert_eq!(
            ask(&place, &format!("GET {path}"), &[LOCAL, ("If-None-Match", "\"other\"")], b"").status,
            200
        );
        let packed = ask(&place, &format!("GET {path}"), &[LOCAL, ("Accept-Encoding", "gzip")], b"");
        assert_eq!(
            (packed.header("content-encoding"), packed.header("etag")),
            ("gzip", tag.as_str()),
            "{path}"
        );
        assert!(packed.body.len() < file.body.len(), "{path}");
        let head = ask(&place, &format!("HEAD {path}"), &[LOCAL], b"");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
    assert!(sum < 150_000, "{sum} bytes in all");
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    ask(&place, "POST /", &[LOCAL], b"{}").problem(405, "invalid_request");
    ask(&place, "GET /assets/none.js", &[LOCAL], b"").problem(404, "not_found");
    ask(&place, "GET /assets/../mod.rs", &[LOCAL], b"").problem(404, "not_found");
    ask(&place, "GET /", &[("Host", "evil.example")], b"").problem(403, "unauthorized");
}

#[test]
fn the_cache_is_told_by_class_with_its_watermarks() {
    let fake = Fake::new(&gpus()).expect("set up");
    let (_hub, larder) = house(&fake);
    let daemon = larder.serve();
    let cache = daemon.wait_until("/v1/cache", SOON, |cache| !cache["watermarks"].is_null());
    let used = &cache["used_bytes"];
    let models = daemon.get("/v1/models").expect(200);
    let bytes: Vec<f64> =
        models["models"].as_array().expect("a list").iter().map(|one| number(&one["bytes"])).collect();
    assert_eq!(
        (number(&used["pinned"]), number(&used["evictable"])),
        (bytes[1], bytes[0] + bytes[2]),
        "{cache}"
    );
    for class in ["in_use", "leased", "partial", "foreign"] {
        assert_eq!(used[class], 0, "{class}: {cache}");
    }
    let marks = &cache["watermarks"];
    assert_eq!((&marks["of"], &marks["capacity_bytes"]), (&json!("capacity"), &json!(200_000_000)));
    assert_eq!((&marks["high_bytes"], &marks["low_bytes"]), (&json!(60_000_000), &json!(40_000_000)));
    assert_eq!((&marks["high_percent"], &marks["low_percent"]), (&json!(30), &json!(20)));
    assert_eq!(number(&marks["used_bytes"]), bytes.iter().sum::<f64>());
    assert_eq!(
        (&cache["evict"], &cache["order"], &cache["keep_free_bytes"]),
        (&json!("staged"), &json!("lru"), &json!(0))
    );
    let disk = &cache["disk"];
    assert!(number(&disk["total_bytes"]) > number(&disk["free_bytes"]), "{cache}");
    assert!(cache["eviction_off_until"].is_null() && disk["mountpoint"].is_string(), "{cache}");
    assert!(cache["root"].as_str().is_some_and(|root| larder.cache().ends_with(root)), "{cache}");
}

#[test]
fn the_memory_of_the_gpus_is_remembered_by_the_minute() {
    let fake = Fake::new(&gpus()).expect("set up");
    let larder = on_gpus(larder!(&Hub::start()), &fake);
    let daemon = larder.serve();
    let last = |history: &serde_json::Value, place: usize| {
        history["gpus"][place]["used_bytes"].as_array()?.last()?.as_u64()
    };
    let history = daemon.wait_until("/v1/host/vram", SOON, |history| last(history, 0) == Some(62 * GIB));
    assert_eq!(last(&history, 1), Some(3 * GIB));
    let first = &history["gpus"][0];
    assert_eq!((&first["index"], &first["total_bytes"]), (&json!(0), &json!(80 * GIB)), "{first}");
    assert_eq!(first["uuid"], "GPU-00000000-1111-2222-3333-444444444444");
    assert_eq!(first["used_bytes"].as_array().map(Vec::len), history["minutes"].as_array().map(Vec::len));
    // What is gone again within the minute was there: the most of it is kept.
    let mut emptied = gpus();
    emptied.gpus[1].memory = Some(fake_nvml::config::Memory { used: 40 * GIB, ..Default::default() });
    fake.set(&emptied).expect("set");
    daemon.wait_until("/v1/host/vram", SOON, |history| last(history, 1) == Some(40 * GIB));
    fake.set(&gpus()).expect("set");
    daemon.wait_until("/v1/host", SOON, |host| host["gpus"]["devices"][1]["memory"]["used"] == 3 * GIB);
    let history = daemon.get("/v1/host/vram").expect(200);
    let most = history["gpus"][1]["used_bytes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(serde_json::Value::as_u64)
        .max();
    assert_eq!(most, Some(40 * GIB), "{history}");
    assert!(daemon.get("/metrics").text.len() > 100, "and a scrape goes on");
    // An orderly end records the minute that is open; the next larder goes on from there.
    let mut daemon = daemon;
    assert!(daemon.terminate(SOON).success());
    let daemon = larder.serve();
    let again = daemon.wait_until("/v1/host/vram", SOON, |history| last(history, 1).is_some());
    let most = |history: &serde_json::Value, what: &str| {
        let values = history["gpus"][1][what].as_array().expect("a list").iter();
        values.filter_map(serde_json::Value::as_u64).max()
    };
    for what in ["used_bytes", "temperature_c", "ecc_uncorrected"] {
        assert_eq!(most(&again, what), most(&history, what), "{what}: {again}");
    }
    assert!(most(&again, "temperature_c").is_some(), "{again}");
    let first = |history: &serde_json::Value| history["minutes"][0].as_str().map(str::to_owned);
    assert_eq!(first(&again), first(&history));
}

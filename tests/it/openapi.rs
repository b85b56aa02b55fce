//! The API's own document: current, and true of the running binary as a property-based client sees it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{Hub, Larder, larder, models};

#[test]
fn the_document_is_current() {
    let hub = Hub::start();
    let larder = larder!(&hub);
    let daemon = larder.serve();
    let text = daemon.get("/openapi.json").text;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    if std::env::var_os("LARDER_UPDATE").is_some() {
        std::fs::write(&path, &text).expect("written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/openapi.json is old: LARDER_UPDATE=1 cargo test --all-features --test it -- openapi"
    );
    let document: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
}

/// What must hold of every answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
    response_headers_conformance,unsupported_method,negative_data_rejection";

/// A larder that a stranger may ask everything: nothing fits on its disk, so no job of his takes any of it.
fn patient(hub: &Hub) -> Larder {
    larder!(hub)
        .env("LARDER__CACHE__KEEP_FREE", "99%")
        .env("LARDER__HUB__CONNECT_TIMEOUT", "1s")
        .env("LARDER__QUEUE__MAX_ATTEMPTS", "1")
}

#[test]
fn a_property_based_client_finds_no_fault() {
    let hub = Hub::start();
    hub.add(models::tiny_gpt2(1, 20_000));
    let larder = patient(&hub);
    let mut daemon = larder.serve();
    daemon.allow(support::Tripwire::Jobs);
    let url = format!("http://{}", daemon.address());
    // So many cases of each kind, or as many as fit into so many seconds.
    let long = std::env::var("LARDER_TEST_FUZZ_SECONDS").ok();
    let (bound, much) = long.as_deref().map_or(("--max-examples", "8"), |seconds| ("--max-time", seconds));
    let mut client = Command::new(support::python::interpreter());
    client
        .args(["-m", "schemathesis.cli", "run", &format!("{url}/openapi.json"), "--url", &url])
        // A stream has no end that such a client would wait for; `events` follows them.
        .args(["--checks", CHECKS, "--exclude-operation-id", "follow_job"])
        .args([bound, much, "--seed", "1", "--request-timeout", "30", "--workers", "1"])
        .args(["--suppress-health-check", "all", "--warnings", "off", "--no-color"])
        .current_dir(larder.root())
        .env("NO_PROXY", "*");
    let output = client.output().expect("Python runs; tests/run.sh installs what is needed");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(said.contains("No issues found"), "it ran: {said}");
    assert_eq!(daemon.get("/healthz").status, 200);
    let log = daemon.logs();
    assert!(!log.iter().any(|line| line.contains("panicked")), "nothing panicked");
    println!(
        "{}",
        said.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    );
}

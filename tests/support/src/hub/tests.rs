//! The hub's own promises, asked over a bare socket so that nothing hides an early end or a reset.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// What came back: head, body as far as it came, and how the connection ended.
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
    end: io::Result<()>,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    fn is_whole(&self) -> bool {
        let length = self.header("Content-Length").and_then(|value| value.parse().ok());
        self.end.is_ok() && length == Some(self.body.len())
    }
}

fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> io::Result<TcpStream> {
    let rest = url.strip_prefix("http://").expect("an absolute address");
    let (origin, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(origin)?;
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    write!(
        stream,
        "{method} /{path} HTTP/1.1\r\nHost: {origin}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )?;
    Ok(stream)
}

fn receive(mut stream: TcpStream) -> Got {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).map(drop);
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Got { status, head, body: bytes.get(split + 4..).unwrap_or_default().to_vec(), end }
}

fn get(url: &str, headers: &[(&str, &str)]) -> Got {
    receive(send("GET", url, headers, "").expect("connects"))
}

fn head(url: &str) -> Got {
    receive(send("HEAD", url, &[], "").expect("connects"))
}

fn sample() -> Model {
    Model::new("acme/tiny")
        .file("config.json", "{\"a\": 1}")
        .file("sub/dir/note with space.txt", "note")
        .lfs("model.safetensors", Content::pattern(3_000_000, 1))
}

/// The hub with the sample, the address of a resolve without the file's name, and the CDN address of its LFS file.
fn served() -> (Hub, String, String) {
    let hub = Hub::start();
    hub.add(sample());
    let base = format!("{}/acme/tiny/resolve/main", hub.endpoint());
    let location =
        head(&format!("{base}/model.safetensors")).header("Location").expect("a redirect").to_owned();
    hub.clear_requests();
    (hub, base, location)
}

#[test]
fn resolve_answers_with_the_headers_of_the_hub() {
    let (hub, base, location) = served();
    let model = sample();
    let small = get(&format!("{base}/config.json"), &[]);
    assert_eq!((small.status, small.body.as_slice()), (200, b"{\"a\": 1}".as_slice()));
    assert_eq!(small.header("X-Repo-Commit"), Some(model.commit().as_str()));
    assert_eq!(small.header("ETag"), Some(format!("\"{}\"", model.at("config.json").oid).as_str()));
    assert_eq!(get(&format!("{base}/sub/dir/note%20with%20space.txt"), &[]).body, b"note");

    let large = head(&format!("{base}/model.safetensors"));
    let sha256 = model.at("model.safetensors").etag();
    assert_eq!((large.status, large.header("X-Linked-Size")), (302, Some("3000000")));
    assert_eq!(large.header("X-Linked-Etag"), Some(format!("\"{sha256}\"").as_str()));
    assert!(location.starts_with(&format!("{}/blob/{sha256}?", hub.cdn())));
    let body = get(&location, &[("Authorization", "Bearer x")]).body;
    assert_eq!(Content::from(body).sha256(), sha256);
    assert!(hub.token_reached_cdn());
    assert_eq!(hub.bytes_of("model.safetensors"), 3_000_000);
    assert_eq!(hub.bytes_of(sha256), 3_000_000);
}

#[test]
fn ranges_are_exact() {
    let (_hub, _, location) = served();
    let whole = sample().at("model.safetensors").content.slice(0, u64::MAX).expect("reads");
    let part = get(&location, &[("Range", "bytes=1000-1999")]);
    assert_eq!((part.status, part.header("Content-Range")), (206, Some("bytes 1000-1999/3000000")));
    assert!(part.is_whole() && part.body == whole[1000..2000]);
    let tail = get(&location, &[("Range", "bytes=2999990-")]);
    assert_eq!((tail.status, tail.body.as_slice()), (206, &whole[2_999_990..]));
    let beyond = get(&location, &[("Range", "bytes=3000000-")]);
    assert_eq!((beyond.status, beyond.header("Content-Range")), (416, Some("bytes */3000000")));
}

#[test]
fn listings_come_in_pages() {
    let (hub, _, _) = served();
    hub.page_size(2);
    hub.tree_entry("acme/tiny", json!({ "type": "file", "oid": "0", "size": 1, "path": "../../evil" }));
    let mut url = format!("{}/api/models/acme/tiny/tree/main?recursive=true", hub.endpoint());
    let (mut paths, mut pages) = (Vec::new(), 0);
    loop {
        let page = get(&url, &[]);
        paths.extend(page.json().as_array().expect("a list").iter().map(|entry| entry["path"].clone()));
        pages += 1;
        let Some(link) = page.header("Link") else { break };
        url = link.split(['<', '>']).nth(1).expect("an address").to_owned();
        assert!(url.contains("recursive=true"), "{url}");
    }
    let want =
        ["config.json", "model.safetensors", "sub", "sub/dir", "sub/dir/note with space.txt", "../../evil"];
    assert_eq!((paths, pages), (want.map(Value::from).to_vec(), 3));
    hub.relative_links(true);
    let link = get(&format!("{}/api/models/acme/tiny/tree/main", hub.endpoint()), &[]);
    assert!(link.header("Link").is_some_and(|link| link.starts_with("</api/models/")));
}

#[test]
fn revisions_resolve_and_old_commits_stay() {
    let hub = Hub::start();
    let first = hub.add(sample().reference("refs/pr/1").reference("v1"));
    let second = hub.update(sample().file("config.json", "{}"));
    let sha = |revision: &str| {
        let url = format!("{}/api/models/acme/tiny/revision/{revision}?blobs=true", hub.endpoint());
        get(&url, &[]).json()["sha"].as_str().map(ToString::to_string)
    };
    assert_eq!(sha("main"), Some(second.clone()));
    for revision in ["refs%2Fpr%2F1", "v1", &first, &first[..8]] {
        assert_eq!(sha(revision).as_ref(), Some(&first), "{revision}");
    }
    assert_eq!(
        get(&format!("{}/acme/tiny/resolve/refs/pr/1/config.json", hub.endpoint()), &[]).body,
        b"{\"a\": 1}"
    );
    let missing = get(&format!("{}/api/models/acme/tiny/revision/nope", hub.endpoint()), &[]);
    assert_eq!((missing.status, missing.header("X-Error-Code")), (404, Some("RevisionNotFound")));
    let missing = get(&format!("{}/acme/tiny/resolve/main/nope", hub.endpoint()), &[]);
    assert_eq!((missing.status, missing.header("X-Error-Code")), (404, Some("EntryNotFound")));
    assert_eq!(missing.header("X-Repo-Commit"), Some(second.as_str()));
}

#[test]
fn gates_and_tokens_answer_as_the_hub_does() {
    let hub = Hub::start();
    hub.add(sample().named("acme/gated").gated());
    hub.add(sample().named("acme/secret").private());
    hub.allow_token("hf_any");
    hub.grant("hf_good", "acme/gated");
    hub.grant("hf_good", "acme/secret");
    let ask = |path: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let headers: &[(&str, &str)] = if token.is_empty() { &[] } else { &[("Authorization", &bearer)] };
        let got = get(&format!("{}{path}", hub.endpoint()), headers);
        (got.status, got.header("X-Error-Code").unwrap_or_default().to_owned())
    };
    let code = |status: u16, code: &str| (status, code.to_owned());
    let file = "/acme/gated/resolve/main/config.json";
    assert_eq!(ask("/api/models/acme/gated", ""), code(200, ""));
    assert_eq!(ask(file, ""), code(401, "GatedRepo"));
    assert_eq!(ask(file, "hf_any"), code(403, "GatedRepo"));
    assert_eq!(ask(file, "hf_good"), code(200, ""));
    assert_eq!(ask(file, "hf_bad"), code(401, ""));
    assert_eq!(ask("/api/models/acme/secret", ""), code(401, "RepoNotFound"));
    assert_eq!(ask("/api/models/acme/secret", "hf_any"), code(404, "RepoNotFound"));
    assert_eq!(ask("/api/models/acme/secret", "hf_good"), code(200, ""));
    assert_eq!(ask("/api/models/acme/nowhere", ""), code(401, "RepoNotFound"));
    assert_eq!(ask("/api/whoami-v2", "hf_any"), code(200, ""));
    assert_eq!(ask("/api/whoami-v2", ""), code(401, ""));
}

#[test]
fn a_cut_and_a_reset_are_told_apart() {
    let (hub, _, location) = served();
    let whole = sample().at("model.safetensors").content.slice(0, u64::MAX).expect("reads");
    hub.fault(Fault::on("acme/tiny/model.safetensors").cut(1_000_000));
    let cut = get(&location, &[]);
    assert!(cut.end.is_ok() && !cut.is_whole() && cut.body == whole[..1_000_000]);
    hub.fault(Fault::on("/blob/").reset(1_000_000));
    let reset = get(&location, &[]);
    assert_eq!(reset.end.expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(reset.body, whole[..1_000_000]);
    assert!(get(&location, &[]).is_whole(), "each fault fires once");
}

#[test]
fn a_stall_lasts_until_released() {
    let (hub, _, location) = served();
    hub.fault(Fault::on("model.safetensors").stall(500_000));
    let stream = send("GET", &location, &[], "").expect("connects");
    assert!(hub.wait_for_stalled(1, SOON));
    assert_eq!(hub.bytes_of("model.safetensors"), 500_000);
    assert!(!hub.wait_for_bytes("model.safetensors", 500_001, Duration::from_millis(50)));
    hub.release();
    assert!(receive(stream).is_whole());
    assert!(hub.wait_for_bytes("model.safetensors", 3_000_000, SOON));

    hub.fault(Fault::on("model.safetensors").stall(0));
    let stream = send("GET", &location, &[], "").expect("connects");
    assert!(hub.wait_for_stalled(1, SOON));
    drop(hub);
    assert!(!receive(stream).is_whole(), "dropping the hub ends what stands still");
}

#[test]
fn lies_about_bytes_and_lengths() {
    let (hub, base, location) = served();
    let whole = sample().at("model.safetensors").content.slice(0, u64::MAX).expect("reads");
    hub.fault(Fault::on("model.safetensors").wrong_bytes(2_000_000));
    assert_eq!(
        get(&location, &[("Range", "bytes=0-99")]).body,
        whole[..100],
        "the byte is not in this range"
    );
    let wrong = get(&location, &[("Range", "bytes=1999999-2000001")]).body;
    assert_eq!((wrong[0], wrong[1] ^ 1, wrong[2]), (whole[1_999_999], whole[2_000_000], whole[2_000_001]));

    hub.fault(Fault::on("model.safetensors").kind(FaultKind::ShortBody { missing: 10 }));
    let short = get(&location, &[]);
    assert!(short.is_whole() && short.body == whole[..2_999_990]);

    let ranged: &[(&str, &str)] = &[("Range", "bytes=10-19")];
    hub.fault(Fault::on("model.safetensors").kind(FaultKind::IgnoreRange));
    let ignored = get(&location, ranged);
    assert_eq!((ignored.status, ignored.body.len(), ignored.header("Content-Range")), (200, 3_000_000, None));
    hub.fault(Fault::on("model.safetensors").kind(FaultKind::WrongContentRange));
    assert_eq!(get(&location, ranged).header("Content-Range"), Some("bytes 11-20/3000000"));
    hub.fault(Fault::on("model.safetensors").kind(FaultKind::RangelessRefused));
    assert_eq!((get(&location, ranged).status, get(&location, &[]).status), (206, 400));

    hub.fault(Fault::on("acme/tiny").kind(FaultKind::LyingLength { extra: 7 }));
    assert_eq!(head(&format!("{base}/model.safetensors")).header("X-Linked-Size"), Some("3000007"));
    assert_eq!(head(&format!("{base}/config.json")).header("Content-Length"), Some("15"));
    assert!(get(&format!("{base}/config.json"), &[]).is_whole());
}

#[test]
fn errors_pages_redirects_and_moving_commits() {
    let (hub, base, _) = served();
    let url = format!("{base}/config.json");
    hub.fault(Fault::on("config.json").retry_after(429, "3").times(2));
    assert_eq!((get(&url, &[]).status, get(&url, &[]).header("Retry-After")), (429, Some("3")));
    assert_eq!(get(&url, &[]).status, 200);
    hub.fault(Fault::on("config.json").kind(FaultKind::Html).method("GET"));
    assert_eq!(head(&url).header("Content-Type"), Some("application/octet-stream"));
    assert!(get(&url, &[]).body.starts_with(b"<html>"));
    hub.fault(Fault::on("config.json").kind(FaultKind::Redirect { to: "http://elsewhere/".into() }));
    assert_eq!(get(&url, &[]).header("Location"), Some("http://elsewhere/"));
    hub.fault(Fault::on("config.json").kind(FaultKind::ChangedCommit).always());
    assert_ne!(get(&url, &[]).header("X-Repo-Commit"), Some(sample().commit().as_str()));
    hub.clear_faults();
    hub.update_after("/api/models/acme/tiny", sample().file("config.json", "new"));
    let info = get(&format!("{}/api/models/acme/tiny", hub.endpoint()), &[]);
    assert_eq!(info.json()["sha"], sample().commit());
    assert_eq!(get(&url, &[]).body, b"new");
    assert!(hub.requests().iter().any(|request| request.fault.contains("429")));
}

#[test]
fn down_refuses_and_up_serves_on_the_same_port() {
    let (hub, base, location) = served();
    hub.fault(Fault::on("model.safetensors").stall(10));
    let stalled = send("GET", &location, &[], "").expect("connects");
    assert!(hub.wait_for_stalled(1, SOON));
    hub.down(true);
    assert_eq!(receive(stalled).end.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
    let refused = send("GET", &format!("{base}/config.json"), &[], "").expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    hub.down(false);
    assert_eq!(get(&format!("{base}/config.json"), &[]).status, 200);
    assert!(hub.wait_for_connections(0, SOON));
}

#[test]
fn signed_addresses_expire_and_small_files_may_be_redirected() {
    let (hub, base, location) = served();
    assert_eq!(get(&location.replace("sig=", "sig=0"), &[]).status, 403);
    hub.url_lifetime(Duration::ZERO);
    let expired =
        head(&format!("{base}/model.safetensors")).header("Location").expect("a redirect").to_owned();
    assert_eq!(get(&expired, &[]).status, 403);
    hub.redirect_small_files(true);
    let moved = get(&format!("{base}/sub/dir/note%20with%20space.txt"), &[]);
    let to = moved.header("Location").expect("a redirect");
    assert!(moved.status == 307 && to.starts_with('/'), "{to}");
    assert_eq!(get(&format!("{}{to}", hub.endpoint()), &[]).body, b"note");
    hub.renamed("old/name", "acme/tiny");
    let renamed = get(&format!("{}/api/models/old/name/revision/main?blobs=true", hub.endpoint()), &[]);
    assert_eq!(renamed.header("Location"), Some("/api/models/acme/tiny/revision/main?blobs=true"));
    let portal = Hub::not_a_hub();
    assert!(get(&format!("{}/any", portal.endpoint()), &[]).body.starts_with(b"<html>"));
}

#[test]
fn throttle_limits_each_connection() {
    let (hub, _, location) = served();
    hub.throttle(Some(10_000_000));
    let start = std::time::Instant::now();
    assert!(get(&location, &[]).is_whole());
    assert!(start.elapsed() > Duration::from_millis(200), "{:?}", start.elapsed());
}

#[test]
fn paths_info_takes_json_and_forms() {
    let (hub, _, _) = served();
    let url = format!("{}/api/models/acme/tiny/paths-info/main", hub.endpoint());
    for body in ["{\"paths\": [\"config.json\", \"nope\"]}", "paths=config.json&expand=False"] {
        let got = receive(send("POST", &url, &[], body).expect("connects")).json();
        assert_eq!(
            (got.as_array().map(Vec::len), &got[0]["path"]),
            (Some(1), &json!("config.json")),
            "{body}"
        );
    }
}

#[test]
fn a_share_of_the_answers_is_cut_anywhere_and_the_same_ones_in_every_run() {
    let cuts = |seed: u64| {
        let (hub, _, location) = served();
        hub.fault(Fault::on("model.safetensors").cut_anywhere().share(20, seed).always());
        let got: Vec<usize> = (0..200)
            .map(|_| get(&location, &[("Range", "bytes=0-9999")]))
            .map(|got| {
                assert_eq!((got.status, got.end.is_ok()), (206, true), "cut orderly");
                got.body.len()
            })
            .collect();
        assert!(hub.requests().iter().all(|request| request.content == (request.status == 206)));
        got
    };
    let first = cuts(1);
    let cut: Vec<_> = first.iter().filter(|len| **len < 10_000).collect();
    assert!((20..60).contains(&cut.len()), "{} of 200 were cut", cut.len());
    assert!(cut.iter().any(|len| **len < 3_000) && cut.iter().any(|len| **len > 7_000), "{cut:?}");
    assert_eq!(first, cuts(1));
    assert_ne!(first, cuts(2));
}

#[test]
fn wrong_ranges_come_once_or_always_and_only_where_they_are() {
    let (hub, _, location) = served();
    let whole = sample().at("model.safetensors").content.slice(0, u64::MAX).expect("reads");
    let part = |range: &str| get(&location, &[("Range", range)]).body;
    hub.fault(Fault::on("model.safetensors").wrong_range(600_000..700_000));
    assert_eq!(part("bytes=0-599999"), whole[..600_000], "the fault waits");
    let wrong = get(&location, &[]).body;
    assert!(wrong[..600_000] == whole[..600_000] && wrong[700_000..] == whole[700_000..]);
    assert!(
        wrong[600_000..700_000]
            .iter()
            .zip(&whole[600_000..700_000])
            .all(|(wrong, right)| wrong ^ 1 == *right)
    );
    assert_eq!(part("bytes=600000-699999"), whole[600_000..700_000], "it comes once");
    hub.fault(Fault::on("model.safetensors").wrong_range(5..6).always());
    for _ in 0..3 {
        assert_eq!(part("bytes=4-6"), [whole[4], whole[5] ^ 1, whole[6]]);
    }
}

#[test]
fn one_answer_trickles_while_the_others_run() {
    let (hub, _, location) = served();
    hub.fault(Fault::on("model.safetensors").trickle(1_000_000, 20_000));
    let slow = send("GET", &location, &[], "").expect("connects");
    assert!(hub.wait_for_bytes("model.safetensors", 1_000_000, SOON));
    let begun = std::time::Instant::now();
    assert!(get(&location, &[]).is_whole());
    let trickled = hub.requests()[0].bytes_sent - 1_000_000;
    let most = 20_000 * (begun.elapsed().as_secs() + 1);
    assert!(trickled <= most, "{trickled} bytes of the slow one in {:?}", begun.elapsed());
    drop(slow);
    assert!(hub.wait_for(|requests| requests[0].done, SOON), "nobody reads it any more");
}

#[test]
fn a_range_that_exists_may_be_refused() {
    let (hub, _, location) = served();
    hub.fault(Fault::on("model.safetensors").kind(FaultKind::Unsatisfiable));
    assert_eq!(get(&location, &[]).status, 200, "only ranges are");
    let refused = get(&location, &[("Range", "bytes=0-9")]);
    assert_eq!((refused.status, refused.header("Content-Range")), (416, Some("bytes */0")));
    assert_eq!(get(&location, &[("Range", "bytes=0-9")]).status, 206);
}

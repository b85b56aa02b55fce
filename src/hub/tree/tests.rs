//! Listings as hubs send them, and as they must not.

use serde_json::{Value, json};

use super::*;

fn listed(entries: &Value) -> Result<Vec<RepoFile>> {
    let repo = "own/name".parse().expect("name");
    let mut listing = Listing::default();
    listing.add(&repo, "http://h", entries.to_string().as_bytes())?;
    listing.finish(&repo)
}

fn plain(path: &str) -> Value {
    json!({"type": "file", "path": path, "oid": "a".repeat(40), "size": 3})
}

#[test]
fn git_and_lfs_files_are_told_apart() {
    let lfs = json!({"type": "file", "path": "x/w.bin", "oid": "b".repeat(40), "size": 130,
        "lfs": {"oid": "c".repeat(64), "size": 5_000_000_000_u64, "pointerSize": 130}});
    let folder = json!({"type": "directory", "path": "x", "oid": "d".repeat(40), "size": 0});
    let files = listed(&json!([plain("config.json"), folder, lfs])).expect("sound");
    assert_eq!(files.len(), 2);
    assert_eq!((files[0].size, &files[0].digest), (3, &Digest::GitSha1([0xaa; 20])));
    assert_eq!((files[1].size, &files[1].digest), (5_000_000_000, &Digest::Sha256([0xcc; 32])));
}

#[test]
fn what_contradicts_itself_is_refused() {
    let no_oid = json!({"type": "file", "path": "a", "size": 3});
    let bad_oid = json!({"type": "file", "path": "a", "oid": "../../x", "size": 3});
    let no_size = json!({"type": "file", "path": "a", "oid": "a".repeat(40)});
    let bad_lfs = json!({"type": "file", "path": "a", "oid": "a".repeat(40), "size": 3, "lfs": {"size": 3}});
    for entries in [
        json!([plain("../evil")]),
        json!([plain("/etc/passwd")]),
        json!([plain("a\\b")]),
        json!([plain("a"), plain("a")]),
        json!([plain("Readme.md"), plain("README.md")]),
        json!([plain("a"), plain("a/b")]),
        json!([plain("x/A"), plain("x/a/b")]),
        json!([no_oid]),
        json!([bad_oid]),
        json!([no_size]),
        json!([bad_lfs]),
        json!([{"type": "link", "path": "a"}]),
    ] {
        let error = listed(&entries).expect_err(&entries.to_string());
        assert_eq!(error.reason(), Reason::StructureInvalid, "{entries}");
        assert!(error.to_string().contains("own/name"));
    }
    for page in [json!({"error": "x"}), json!("<html>")] {
        assert_eq!(listed(&page).expect_err("refused").reason(), Reason::SourceUnavailable);
    }
}

#[test]
fn the_number_of_files_is_bounded() {
    let repo = "own/name".parse().expect("name");
    let mut listing = Listing::default();
    let page = |from: usize| {
        let entries: Vec<Value> = (from..from + 1_000).map(|n| plain(&format!("f{n}"))).collect();
        Value::from(entries).to_string()
    };
    for start in (0..MAX_FILES).step_by(1_000) {
        listing.add(&repo, "http://h", page(start).as_bytes()).expect("within the bound");
    }
    assert!(listing.add(&repo, "http://h", page(MAX_FILES).as_bytes()).is_err());
}

#[test]
fn links_are_read_as_the_rfc_says() {
    let next = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(LINK, text.parse().expect("header"));
        next_link(&headers)
    };
    assert_eq!(next(r#"<https://h/x?cursor=a,b>; rel="next""#).as_deref(), Some("https://h/x?cursor=a,b"));
    assert_eq!(next(r#"</p>; rel=prev, </n>; title="x"; rel="last next""#).as_deref(), Some("/n"));
    assert_eq!(next(r#"</p>; rel="prev""#), None);
    assert_eq!(next("garbage"), None);
}

#[tokio::test]
async fn pages_are_followed_also_when_their_address_is_relative() {
    use crate::hub::testing::{TestHub, commit, repo};

    let server = TestHub::start(&[]).await;
    let place = format!("/api/models/own/name/tree/{}", commit());
    let first = format!("{place}?recursive=true&expand=false");
    let next = format!(r#"<{place}?cursor=2>; rel="next""#);
    server.answer(&first, 200, &[("link", &next)], &json!([plain("a")]).to_string());
    server.answer(&format!("{place}?cursor=2"), 200, &[], &json!([plain("b")]).to_string());
    let hub = server.hub(true, |_| {});
    let stop = CancellationToken::new();
    let files = hub.tree(&repo(), &commit(), &stop).await.expect("listed");
    assert_eq!(files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["a", "b"]);

    for elsewhere in ["<http://127.0.0.1:1/x>; rel=\"next\"", &format!(r#"<{first}>; rel="next""#)] {
        server.answer(&first, 200, &[("link", elsewhere)], "[]");
        let error = hub.tree(&repo(), &commit(), &stop).await.expect_err("refused");
        assert_eq!(error.reason(), Reason::StructureInvalid);
    }
    let error = hub.tree(&"own/other".parse().expect("name"), &commit(), &stop).await.expect_err("gone");
    assert_eq!(error.reason(), Reason::NotFound);
}

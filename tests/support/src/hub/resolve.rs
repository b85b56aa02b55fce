//! The bytes: resolve addresses on the hub, signed blob addresses on the CDN, redirects between them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::api::{self, check_gate, find_repo, find_revision};
use super::content::Content;
use super::model::File;
use super::record::Host;
use super::reply::{Call, Refusal, Reply};
use super::state::{Shared, State};

const ESCAPED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'&').add(b'+').add(b'<').add(b'>');

/// Answers any request.
pub(crate) fn answer(shared: &Shared, state: &State, call: &Call) -> Reply {
    if state.switches.html_everywhere {
        return Reply::html();
    }
    if call.host == Host::Cdn {
        return blob(state, call);
    }
    if let Some(reply) = renamed(state, call) {
        return reply;
    }
    let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    match segments[..] {
        ["api", "resolve-cache", "models", owner, name, commit, ref path @ ..] => {
            file(shared, state, call, &format!("{owner}/{name}"), commit, &path.join("/"))
        }
        ["api", ..] => api::answer(shared, state, call),
        [owner, name, "resolve", "refs", kind, number, ref path @ ..] if !path.is_empty() => file(
            shared,
            state,
            call,
            &format!("{owner}/{name}"),
            &format!("refs/{kind}/{number}"),
            &path.join("/"),
        ),
        [owner, name, "resolve", revision, ref path @ ..] if !path.is_empty() => {
            file(shared, state, call, &format!("{owner}/{name}"), revision, &path.join("/"))
        }
        _ => Reply::refusal(404, None, "Sorry, we can't find the page you are looking for."),
    }
}

/// A repository that moved answers with a redirect on the same host, relative as the hub's is.
fn renamed(state: &State, call: &Call) -> Option<Reply> {
    let (old, new) = state.moved.iter().find(|(old, _)| {
        let rest = call.path.strip_prefix("/api/models/").or_else(|| call.path.strip_prefix('/'));
        rest.and_then(|rest| rest.strip_prefix(old.as_str()))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })?;
    let query = if call.query.is_empty() { String::new() } else { format!("?{}", call.query) };
    Some(Reply::redirect(307, &format!("{}{query}", call.raw_path.replacen(old.as_str(), new, 1))))
}

fn file(shared: &Shared, state: &State, call: &Call, id: &str, revision: &str, path: &str) -> Reply {
    let mut reply = match try_file(shared, state, call, id, revision, path) {
        Ok(reply) => reply,
        Err(refusal) => *refusal,
    };
    reply.file = format!("{id}/{path}");
    reply
}

fn try_file(
    shared: &Shared,
    state: &State,
    call: &Call,
    id: &str,
    revision: &str,
    path: &str,
) -> Result<Reply, Refusal> {
    let repo = find_repo(state, call, id)?;
    check_gate(state, call, repo, id)?;
    let model = find_revision(repo, revision)?;
    let commit = model.stored.as_str();
    let Some(file) = model.files.get(path) else {
        let mut refusal = Reply::refusal(404, Some("EntryNotFound"), "Entry not found");
        refusal.set("X-Repo-Commit", commit);
        return Err(refusal.into());
    };
    let stated = state.stated_size(id, path, file.size);
    let mut reply = match &file.sha256 {
        Some(sha256) => {
            let mut reply = Reply::redirect(302, &signed(shared, state, sha256, &format!("{id}/{path}")));
            reply.set("X-Linked-Etag", format!("\"{sha256}\""));
            reply.set("X-Linked-Size", stated.to_string());
            if let Some(hash) = state.xet.hashes.get(sha256) {
                reply.set("X-Xet-Hash", hash.clone());
            }
            reply
        }
        None if state.switches.redirect_small_files && call.segments[0] != "api" => {
            let path = utf8_percent_encode(path, ESCAPED);
            let mut reply = Reply::redirect(307, &format!("/api/resolve-cache/models/{id}/{commit}/{path}"));
            reply.set("X-Linked-Size", stated.to_string());
            reply
        }
        None => {
            let mut reply = bytes_of(file, call);
            if call.method == "HEAD" && stated != file.size {
                reply.stated_len = Some(stated);
            }
            reply
        }
    };
    reply.set("ETag", format!("\"{}\"", file.oid));
    reply.set("X-Repo-Commit", commit);
    reply.set("Accept-Ranges", "bytes");
    Ok(reply)
}

fn bytes_of(file: &File, call: &Call) -> Reply {
    let mut reply = Reply::new(200, "application/octet-stream", file.content.clone());
    reply.is_content = true;
    reply.ranged(call.range.as_deref())
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis()
}

fn signature(sha256: &str, expires: u128) -> String {
    Content::from(format!("{sha256} {expires} secret of the test hub")).git_oid()
}

/// The address of an LFS object on the CDN, valid for a while.
fn signed(shared: &Shared, state: &State, sha256: &str, file: &str) -> String {
    let expires = now_ms() + state.switches.url_lifetime.as_millis();
    let (cdn, file) = (&shared.cdn, utf8_percent_encode(file, ESCAPED));
    format!("{cdn}/blob/{sha256}?sig={}&expires={expires}&file={file}", signature(sha256, expires))
}

/// Answers on the CDN: by signature only, never by token.
fn blob(state: &State, call: &Call) -> Reply {
    let denied = |why: &str| {
        let body = format!(
            "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>{why}</Message></Error>"
        );
        Reply::new(403, "application/xml", body)
    };
    let sha256 = call.segments.get(1).map(String::as_str).unwrap_or_default();
    let expires = call.param("expires").and_then(|value| value.parse::<u128>().ok()).unwrap_or(0);
    let mut reply = match state.blobs.get(sha256) {
        _ if call.param("sig") != Some(signature(sha256, expires)) => denied("Access denied"),
        _ if expires <= now_ms() => denied("Request has expired"),
        None => Reply::new(404, "application/xml", "<Error><Code>NoSuchKey</Code></Error>"),
        Some(content) => {
            let mut reply = Reply::new(200, "application/octet-stream", content.clone());
            reply.is_content = true;
            reply.set("ETag", format!("\"{sha256}\""));
            reply.ranged(call.range.as_deref())
        }
    };
    reply.file = call.param("file").unwrap_or_default();
    reply
}

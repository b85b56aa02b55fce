//! The JSON side of the hub: repository info, listings with pages, references, who am I; and who may see what.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::content::Content;
use super::model::{File, Model};
use super::reply::{Call, Refusal, Reply, form_pairs};
use super::state::{Repo, Shared, State};

const DATE: &str = "2024-02-19T10:57:45.000Z";

/// Answers `/api/…`.
pub(crate) fn answer(shared: &Shared, state: &State, call: &Call) -> Reply {
    let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    match segments[..] {
        ["api", "whoami-v2"] => whoami(state, call),
        ["api", "models"] => listing(state, call),
        ["api", "models", owner, name, ref rest @ ..] => {
            let id = format!("{owner}/{name}");
            let repo = match find_repo(state, call, &id) {
                Ok(repo) => repo,
                Err(refusal) => return *refusal,
            };
            repo_answer(shared, state, call, repo, &id, rest).unwrap_or_else(|refusal| *refusal)
        }
        _ => Reply::refusal(404, None, "Sorry, we can't find the page you are looking for."),
    }
}

fn repo_answer(
    shared: &Shared,
    state: &State,
    call: &Call,
    repo: &Repo,
    id: &str,
    rest: &[&str],
) -> Result<Reply, Refusal> {
    let at = |revision: &str| find_revision(repo, revision);
    let (model, value) = match *rest {
        [] => at("main").map(|model| (model, info(state, call, repo, model)))?,
        ["revision", revision] => at(revision).map(|model| (model, info(state, call, repo, model)))?,
        ["tree", revision, ref folder @ ..] => {
            return tree(shared, state, call, repo, at(revision)?, &folder.join("/"));
        }
        ["paths-info", revision] => {
            at(revision).map(|model| (model, paths_info(state, call, repo, model)))?
        }
        ["refs"] => at("main").map(|model| (model, refs(repo)))?,
        ["xet-read-token", revision] => {
            check_gate(state, call, repo, id)?;
            at(revision).map(|model| (model, xet_token(state)))?
        }
        ["resolve-cache", ..] => return Err(Reply::refusal(404, None, "Use the resolve address.").into()),
        _ => return Err(Reply::refusal(404, None, &format!("No such API on {id}.")).into()),
    };
    let mut reply = Reply::json(&value);
    reply.set("X-Repo-Commit", model.stored.as_str());
    Ok(reply)
}

/// The bearer token, if it came with one and the hub knows it.
pub(crate) fn token(state: &State, call: &Call) -> Result<Option<String>, Refusal> {
    let Some(header) = &call.authorization else { return Ok(None) };
    let token = header.strip_prefix("Bearer ").unwrap_or(header);
    if state.tokens.contains(token) {
        return Ok(Some(token.to_owned()));
    }
    Err(Reply::refusal(401, None, "Invalid credentials in Authorization header").into())
}

/// The repository, or the hub's refusal: 401 to strangers, whether it exists or not, 404 to those with a token.
pub(crate) fn find_repo<'a>(state: &'a State, call: &Call, id: &str) -> Result<&'a Repo, Refusal> {
    let token = token(state, call)?;
    let granted = |token: &String| state.grants.contains(&(token.clone(), id.to_owned()));
    match state.repos.get(id) {
        Some(repo) if !repo.private || token.as_ref().is_some_and(granted) => Ok(repo),
        _ if token.is_some() => Err(Reply::refusal(404, Some("RepoNotFound"), "Repository not found").into()),
        _ => Err(Reply::refusal(401, Some("RepoNotFound"), "Invalid username or password.").into()),
    }
}

/// Refuses the files of a gated repository to those who were not granted access.
pub(crate) fn check_gate(state: &State, call: &Call, repo: &Repo, id: &str) -> Result<(), Refusal> {
    if !repo.gated {
        return Ok(());
    }
    match token(state, call)? {
        Some(token) if state.grants.contains(&(token.clone(), id.to_owned())) => Ok(()),
        Some(_) => {
            let message = format!(
                "Access to model {id} is restricted and you are not in the authorized list. \
                 Visit https://huggingface.co/{id} to ask for access."
            );
            Err(Reply::refusal(403, Some("GatedRepo"), &message).into())
        }
        None => {
            let message = format!(
                "Access to model {id} is restricted. You must have access to it and be authenticated to access it. \
                 Please log in."
            );
            Err(Reply::refusal(401, Some("GatedRepo"), &message).into())
        }
    }
}

pub(crate) fn find_revision<'a>(repo: &'a Repo, revision: &str) -> Result<&'a Model, Refusal> {
    let missing = || Reply::refusal(404, Some("RevisionNotFound"), &format!("Invalid rev id: {revision}"));
    repo.resolve(revision).ok_or_else(|| missing().into())
}

fn whoami(state: &State, call: &Call) -> Reply {
    match token(state, call) {
        Ok(Some(_)) => Reply::json(&json!({
            "type": "user", "id": "5e0000000000000000000001", "name": "tester", "fullname": "Tester",
            "email": "tester@example.org", "emailVerified": true, "isPro": false, "canPay": false,
            "avatarUrl": "/avatars/tester.svg", "orgs": [],
            "auth": { "type": "access_token", "accessToken": { "displayName": "test", "role": "read" } },
        })),
        Ok(None) => Reply::refusal(401, None, "Invalid username or password."),
        Err(refusal) => *refusal,
    }
}

fn info(state: &State, call: &Call, repo: &Repo, model: &Model) -> Value {
    let blobs = call.flag("blobs");
    let sibling = |(path, file): (&String, &File)| {
        let mut value = json!({ "rfilename": path });
        if blobs {
            let size = state.stated_size(&model.id, path, file.size);
            value["size"] = json!(size);
            value["blobId"] = json!(file.oid);
            if let Some(sha256) = &file.sha256 {
                value["lfs"] = json!({ "sha256": sha256, "size": size, "pointerSize": file.pointer_size });
            }
        }
        value
    };
    let siblings: Vec<Value> = model.files.iter().map(sibling).collect();
    json!({
        "_id": "621ffdc036468d709f17434d",
        "id": model.id, "modelId": model.id, "author": model.id.split('/').next(),
        "sha": model.stored.as_str(), "private": repo.private, "disabled": false,
        "gated": if repo.gated { json!("manual") } else { json!(false) },
        "pipeline_tag": model.pipeline_tag, "tags": model.tags, "library_name": "transformers",
        "downloads": model.downloads, "likes": 5, "spaces": [], "usedStorage": model.bytes(),
        "createdAt": "2022-03-02T23:29:04.000Z", "lastModified": DATE,
        "siblings": siblings,
    })
}

/// The public models that carry every tag of the `filter`, the most downloaded first.
fn listing(state: &State, call: &Call) -> Reply {
    let filter = call.param("filter").unwrap_or_default();
    let wanted: Vec<&str> = filter.split(',').filter(|tag| !tag.is_empty()).collect();
    let newest = |repo: &Repo| repo.resolve("main").cloned();
    let mut found: Vec<(&Repo, Model)> = state
        .repos
        .values()
        .filter(|repo| !repo.private)
        .filter_map(|repo| Some((repo, newest(repo)?)))
        .filter(|(_, model)| wanted.iter().all(|tag| model.tags.iter().any(|own| own == tag)))
        .collect();
    found.sort_by_key(|(_, model)| std::cmp::Reverse(model.downloads));
    let limit = call.param("limit").and_then(|limit| limit.parse().ok()).unwrap_or(1000);
    let full = call.flag("full");
    let entries = found.iter().take(limit).map(|(repo, model)| {
        let mut value = info(state, call, repo, model);
        if let (false, Some(fields)) = (full, value.as_object_mut()) {
            fields.remove("siblings");
            fields.remove("sha");
        }
        value
    });
    Reply::json(&Value::Array(entries.collect()))
}

/// What opens the content-addressed store for an hour.
fn xet_token(state: &State) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    json!({ "accessToken": "xet-of-the-test-hub", "exp": now + 3600, "casUrl": state.xet.cas })
}

fn refs(repo: &Repo) -> Value {
    let (mut branches, mut tags, mut pulls) = (Vec::new(), Vec::new(), Vec::new());
    for (name, commit) in &repo.refs {
        if let Some(branch) = name.strip_prefix("refs/heads/") {
            branches.push(json!({ "name": branch, "ref": name, "targetCommit": commit }));
        } else if name.starts_with("refs/") {
            pulls.push(json!({ "name": name, "ref": name, "targetCommit": commit }));
        } else {
            tags.push(json!({ "name": name, "ref": format!("refs/tags/{name}"), "targetCommit": commit }));
        }
    }
    json!({ "branches": branches, "tags": tags, "pullRequests": pulls, "converts": [] })
}

fn paths_info(state: &State, call: &Call, repo: &Repo, model: &Model) -> Value {
    let text = String::from_utf8_lossy(&call.body);
    let asked: Vec<String> = match serde_json::from_slice::<Value>(&call.body) {
        Ok(body) => {
            body["paths"].as_array().into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
        }
        Err(_) => {
            form_pairs(&text).into_iter().filter(|(key, _)| key == "paths").map(|(_, path)| path).collect()
        }
    };
    let mut entries = entries(state, repo, model, "", true, false);
    entries.retain(|entry| asked.iter().any(|path| entry["path"] == path.as_str()));
    Value::Array(entries)
}

/// One page of the listing, with a `Link` to the next.
fn tree(
    shared: &Shared,
    state: &State,
    call: &Call,
    repo: &Repo,
    model: &Model,
    folder: &str,
) -> Result<Reply, Refusal> {
    let entries = entries(state, repo, model, folder, call.flag("recursive"), call.flag("expand"));
    if entries.is_empty() && !folder.is_empty() {
        let message = format!("{folder} does not exist on \"{}\"", model.stored.as_str());
        return Err(Reply::refusal(404, Some("EntryNotFound"), &message).into());
    }
    let number = |name| call.param(name).and_then(|value| value.parse::<usize>().ok());
    let start = number("cursor").unwrap_or(0).min(entries.len());
    let limit = number("limit").unwrap_or(usize::MAX).clamp(1, state.switches.page_size);
    let end = entries.len().min(start + limit);
    let mut reply = Reply::json(&Value::Array(entries[start..end].to_vec()));
    reply.set("X-Repo-Commit", model.stored.as_str());
    if end < entries.len() {
        let kept = call.query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
        let query =
            kept.map(ToString::to_string).chain([format!("cursor={end}")]).collect::<Vec<_>>().join("&");
        let origin = if state.switches.relative_links { "" } else { &shared.endpoint };
        reply.set("Link", format!("<{origin}{}?{query}>; rel=\"next\"", call.raw_path));
    }
    Ok(reply)
}

fn entries(
    state: &State,
    repo: &Repo,
    model: &Model,
    folder: &str,
    recursive: bool,
    expand: bool,
) -> Vec<Value> {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut folders = BTreeSet::new();
    let mut entries = Vec::new();
    for (path, file) in &model.files {
        let Some(below) = path.strip_prefix(&prefix) else { continue };
        let parents = below.match_indices('/').map(|(end, _)| format!("{prefix}{}", &below[..end]));
        folders.extend(if recursive { parents.collect::<Vec<_>>() } else { parents.take(1).collect() });
        if recursive || !below.contains('/') {
            entries.push(entry(state, model, path, file));
        }
    }
    entries.extend(folders.into_iter().map(|path| {
        let oid = Content::from(format!("tree {path}")).git_oid();
        json!({ "type": "directory", "oid": oid, "size": 0, "path": path })
    }));
    entries.sort_by_cached_key(|entry| entry["path"].as_str().unwrap_or_default().to_owned());
    if expand {
        for entry in &mut entries {
            entry["lastCommit"] =
                json!({ "id": model.stored.as_str(), "title": "Upload model", "date": DATE });
        }
    }
    if folder.is_empty() {
        entries.extend(repo.lies.iter().cloned());
    }
    entries
}

fn entry(state: &State, model: &Model, path: &str, file: &File) -> Value {
    let size = state.stated_size(&model.id, path, file.size);
    let mut value = json!({ "type": "file", "oid": file.oid, "size": size, "path": path });
    if let Some(sha256) = &file.sha256 {
        value["lfs"] = json!({ "oid": sha256, "size": size, "pointerSize": file.pointer_size });
        if let Some(hash) = state.xet.hashes.get(sha256) {
            value["xetHash"] = json!(hash);
        }
    }
    value
}

//! What the hub answers: information, listings in pages, files, and the second origin's objects.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::http::{Body, Reply, Request};
use super::{Addresses, Counters};
use crate::model::{Entry, entries};

/// Entries of a page of the listing, as the public hub has.
const PAGE: usize = 1_000;
/// Files up to this size are kept in memory, and go out in one write with their head.
const SMALL: u64 = 256 * 1024;

/// All answers for one model.
pub(super) struct Site {
    id: String,
    commit: String,
    info: Arc<[u8]>,
    /// Pages of the listing, by their number.
    pages: Vec<Arc<[u8]>>,
    hub: String,
    /// By path in the repository.
    files: HashMap<String, Served>,
    /// By SHA-256.
    objects: HashMap<String, Body>,
}

struct Served {
    headers: String,
    body: Body,
    redirect: bool,
}

impl Site {
    /// Reads the index of the model in `folder`, and its small files.
    pub(super) fn load(folder: &Path, id: &str, commit: &str, addresses: &Addresses) -> Result<Self> {
        let entries = entries(folder)?.collect::<Result<Vec<_>>>()?;
        let mut site = Self {
            id: id.to_owned(),
            commit: commit.to_owned(),
            info: info(id, commit, &entries),
            pages: entries.chunks(PAGE).map(page).collect(),
            hub: addresses.hub.clone(),
            files: HashMap::new(),
            objects: HashMap::new(),
        };
        for entry in entries {
            site.add(folder, entry, addresses)?;
        }
        Ok(site)
    }

    fn add(&mut self, folder: &Path, entry: Entry, addresses: &Addresses) -> Result<()> {
        let path = folder.join(&entry.path);
        let shown = || path.display().to_string();
        let commit = &self.commit;
        let mut headers =
            format!("ETag: \"{}\"\r\nX-Repo-Commit: {commit}\r\nAccept-Ranges: bytes\r\n", entry.oid);
        let body = if entry.sha256.is_none() && entry.size <= SMALL {
            Body::Memory(fs::read(&path).with_context(shown)?.into())
        } else {
            Body::File(Arc::new(File::open(&path).with_context(shown)?), entry.size)
        };
        let served = match entry.sha256 {
            Some(sha256) => {
                headers.push_str(&format!(
                    "X-Linked-Etag: \"{sha256}\"\r\nX-Linked-Size: {}\r\nLocation: {}/objects/{sha256}\r\n",
                    entry.size, addresses.cdn
                ));
                self.objects.insert(sha256, body);
                Served { headers, body: Body::Memory(Arc::from(*b"Found")), redirect: true }
            }
            None => {
                headers.push_str("Content-Type: application/octet-stream\r\n");
                Served { headers, body, redirect: false }
            }
        };
        self.files.insert(entry.path, served);
        Ok(())
    }

    /// Answers a request to the hub or, with `is_cdn`, to the second origin.
    pub(super) fn answer(&self, request: &Request, is_cdn: bool, counters: &Counters) -> Reply {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let (counter, reply) = if is_cdn {
            (&counters.cdn, self.object(path))
        } else if let Some(rest) = path.strip_prefix("/api/models/") {
            (&counters.api, self.api(rest, path, query))
        } else {
            (&counters.resolve, self.file(path))
        };
        counter.fetch_add(1, Ordering::Relaxed);
        reply.unwrap_or_else(|| {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            let body = Arc::from(*b"{\"error\":\"Not here\"}");
            Reply {
                status: 404,
                headers: "X-Error-Code: EntryNotFound\r\n".into(),
                body: Body::Memory(body),
                ranged: false,
            }
        })
    }

    fn is_revision(&self, text: &str) -> bool {
        text == "main" || text == self.commit
    }

    fn api(&self, rest: &str, path: &str, query: &str) -> Option<Reply> {
        let rest = rest.strip_prefix(self.id.as_str())?;
        if rest.is_empty() || rest.strip_prefix("/revision/").is_some_and(|name| self.is_revision(name)) {
            return Some(self.json(self.info.clone(), ""));
        }
        rest.strip_prefix("/tree/").filter(|name| self.is_revision(name))?;
        let cursor = query.split('&').find_map(|pair| pair.strip_prefix("cursor="));
        let number: usize = cursor.map_or(Some(0), |cursor| cursor.parse().ok())?;
        let page = self.pages.get(number)?.clone();
        let mut link = String::new();
        if number + 1 < self.pages.len() {
            let kept: String = query
                .split('&')
                .filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="))
                .flat_map(|pair| [pair, "&"])
                .collect();
            link = format!("Link: <{}{path}?{kept}cursor={}>; rel=\"next\"\r\n", self.hub, number + 1);
        }
        Some(self.json(page, &link))
    }

    fn json(&self, body: Arc<[u8]>, more: &str) -> Reply {
        let commit = &self.commit;
        let headers = format!("Content-Type: application/json\r\nX-Repo-Commit: {commit}\r\n{more}");
        Reply { status: 200, headers, body: Body::Memory(body), ranged: false }
    }

    fn file(&self, path: &str) -> Option<Reply> {
        let rest = path.strip_prefix('/')?.strip_prefix(self.id.as_str())?.strip_prefix("/resolve/")?;
        let (revision, path) = rest.split_once('/')?;
        let file = self.files.get(path).filter(|_| self.is_revision(revision))?;
        Some(Reply {
            status: if file.redirect { 302 } else { 200 },
            headers: file.headers.clone(),
            body: file.body.clone(),
            ranged: !file.redirect,
        })
    }

    fn object(&self, path: &str) -> Option<Reply> {
        let sha256 = path.strip_prefix("/objects/")?;
        let body = self.objects.get(sha256)?.clone();
        let headers = format!(
            "Content-Type: application/octet-stream\r\nETag: \"{sha256}\"\r\nAccept-Ranges: bytes\r\n"
        );
        Some(Reply { status: 200, headers, body, ranged: true })
    }
}

fn info(id: &str, commit: &str, entries: &[Entry]) -> Arc<[u8]> {
    let siblings: Vec<Value> = entries.iter().map(|entry| json!({ "rfilename": entry.path })).collect();
    let value = json!({
        "_id": "650000000000000000000001", "id": id, "modelId": id, "sha": commit, "private": false,
        "gated": false, "disabled": false, "tags": [], "downloads": 0, "likes": 0,
        "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
        "siblings": siblings,
    });
    value.to_string().into_bytes().into()
}

fn page(entries: &[Entry]) -> Arc<[u8]> {
    let entry = |entry: &Entry| {
        let mut value = json!({ "type": "file", "path": entry.path, "oid": entry.oid, "size": entry.size });
        if let Some(sha256) = &entry.sha256 {
            value["lfs"] = json!({ "oid": sha256, "size": entry.size, "pointerSize": 134 });
        }
        value
    };
    Value::Array(entries.iter().map(entry).collect()).to_string().into_bytes().into()
}

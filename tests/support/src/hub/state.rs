//! Everything the two servers know, behind one lock, with one condition variable for whoever waits on events.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::content::Content;
use super::fault::{Fault, FaultKind};
use super::model::Model;
use super::record::{Host, Request};
use super::reply::{Call, Reply};

/// One repository with all commits that it ever had.
#[derive(Debug, Default)]
pub(crate) struct Repo {
    pub(crate) commits: BTreeMap<String, Model>,
    pub(crate) refs: BTreeMap<String, String>,
    pub(crate) gated: bool,
    pub(crate) private: bool,
    /// Raw entries added to the listing of every revision.
    pub(crate) lies: Vec<Value>,
}

impl Repo {
    /// The commit that a branch, a tag, a reference, a commit or the start of one stands for.
    pub(crate) fn resolve(&self, revision: &str) -> Option<&Model> {
        let heads = self.refs.get(&format!("refs/heads/{revision}")).or_else(|| self.refs.get(revision));
        if let Some(model) = heads.and_then(|commit| self.commits.get(commit)) {
            return Some(model);
        }
        let short = revision.len() >= 7 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut found = self.commits.iter().filter(|(commit, _)| short && commit.starts_with(revision));
        found.next().map(|(_, model)| model)
    }
}

/// Settings that hold for every request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Switches {
    pub(crate) throttle: Option<u64>,
    pub(crate) latency: Duration,
    pub(crate) page_size: usize,
    pub(crate) relative_links: bool,
    pub(crate) html_everywhere: bool,
    pub(crate) redirect_small_files: bool,
    pub(crate) url_lifetime: Duration,
}

/// Which LFS objects are in Xet, and where.
#[derive(Debug, Default)]
pub(crate) struct Xet {
    /// Address of the content-addressed store.
    pub(crate) cas: String,
    /// Xet hashes by SHA-256.
    pub(crate) hashes: HashMap<String, String>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) repos: BTreeMap<String, Repo>,
    /// LFS objects by SHA-256.
    pub(crate) blobs: HashMap<String, Content>,
    pub(crate) tokens: BTreeSet<String>,
    pub(crate) grants: BTreeSet<(String, String)>,
    pub(crate) moved: BTreeMap<String, String>,
    /// Models that appear once a request whose path contains the text was answered.
    pub(crate) updates: Vec<(String, Model)>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) requests: Vec<Request>,
    pub(crate) switches: Switches,
    /// What is in Xet.
    pub(crate) xet: Xet,
    pub(crate) open: usize,
    pub(crate) stalled: usize,
    /// Counts up when the records are cleared, so that answers under way do not write into new ones.
    pub(crate) epoch: u64,
}

impl State {
    pub(crate) fn add(&mut self, mut model: Model) -> String {
        let commit = model.commit();
        model.stored.clone_from(&commit);
        for file in model.files.values() {
            if let Some(sha256) = &file.sha256 {
                self.blobs.insert(sha256.clone(), file.content.clone());
            }
        }
        let repo = self.repos.entry(model.id.clone()).or_default();
        (repo.gated, repo.private) = (model.gated, model.private);
        let main = vec!["main".to_owned()];
        let branches = if model.branches.is_empty() { &main } else { &model.branches };
        for branch in branches {
            repo.refs.insert(format!("refs/heads/{branch}"), commit.clone());
        }
        for reference in &model.references {
            repo.refs.insert(reference.clone(), commit.clone());
        }
        repo.commits.insert(commit.clone(), model);
        commit
    }

    /// Size of a file as listing and HEAD state it: true, unless a [`FaultKind::LyingLength`] says more.
    pub(crate) fn stated_size(&self, id: &str, path: &str, size: u64) -> u64 {
        let file = format!("{id}/{path}");
        let extra = self.faults.iter().find_map(|fault| match fault.kind {
            FaultKind::LyingLength { extra } if file.contains(&fault.on) => Some(extra),
            _ => None,
        });
        size + extra.unwrap_or(0)
    }

    /// Takes the first waiting fault that fits the request and its answer, unless its dice let the answer go.
    pub(crate) fn take_fault(&mut self, call: &Call, reply: &Reply) -> Option<FaultKind> {
        let fits = |fault: &Fault| {
            fault.left != Some(0)
                && fault.host.is_none_or(|host| host == call.host)
                && fault.method.as_ref().is_none_or(|method| *method == call.method)
                && (call.path.contains(&fault.on) || reply.file.contains(&fault.on))
                && reply.suffers(&fault.kind, call)
        };
        let fault = self
            .faults
            .iter_mut()
            .filter(|fault| fits(fault))
            .find_map(|fault| fault.rolls().then_some(fault))?;
        Some(fault.strike(reply.len))
    }

    /// Adds the models that were waiting for this request.
    pub(crate) fn apply_updates(&mut self, path: &str) {
        let (due, later) = self.updates.drain(..).partition(|(text, _)| path.contains(text.as_str()));
        self.updates = later;
        let due: Vec<(String, Model)> = due;
        for (_, model) in due {
            self.add(model);
        }
    }
}

/// Where a running answer writes its progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    epoch: u64,
    index: usize,
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    pub(crate) endpoint: String,
    pub(crate) cdn: String,
    /// Counts up when stalled answers may go on.
    pub(crate) release: watch::Sender<u64>,
    /// Counts up when all connections are to be reset.
    pub(crate) kill: watch::Sender<u64>,
}

impl Ticket {
    /// The request's number, for `X-Request-Id`.
    pub(crate) fn id(self) -> String {
        format!("test-{}-{}", self.epoch, self.index)
    }
}

impl Shared {
    pub(crate) fn new(endpoint: String, cdn: String) -> Self {
        let switches = Switches {
            throttle: None,
            latency: Duration::ZERO,
            page_size: 1000,
            relative_links: false,
            html_everywhere: false,
            redirect_small_files: false,
            url_lifetime: Duration::from_secs(3600),
        };
        let state = State {
            repos: BTreeMap::new(),
            blobs: HashMap::new(),
            tokens: BTreeSet::new(),
            grants: BTreeSet::new(),
            moved: BTreeMap::new(),
            updates: Vec::new(),
            faults: Vec::new(),
            requests: Vec::new(),
            switches,
            xet: Xet::default(),
            open: 0,
            stalled: 0,
            epoch: 0,
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Self { state, changed, endpoint, cdn, release: watch::Sender::new(0), kill: watch::Sender::new(0) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no handler panics while it holds the lock")
    }

    /// Changes the state and wakes whoever waits for that.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Blocks until `ready` says yes or the time is over; says whether it did.
    pub(crate) fn wait(&self, timeout: Duration, mut ready: impl FnMut(&State) -> bool) -> bool {
        let waiting = self.changed.wait_timeout_while(self.lock(), timeout, |state| !ready(state));
        !waiting.expect("no handler panics while it holds the lock").1.timed_out()
    }

    /// Records the request.
    pub(crate) fn open_record(&self, call: &Call, reply: &Reply, fault: Option<&FaultKind>) -> Ticket {
        let record = Request {
            method: call.method.clone(),
            path: call.path.clone(),
            query: call.query.clone(),
            range: call.range.clone(),
            status: reply.status,
            host: call.host,
            bytes_sent: 0,
            had_authorization: call.authorization.is_some(),
            user_agent: call.user_agent.clone(),
            file: reply.file.clone(),
            content: reply.is_content && matches!(reply.status, 200 | 206),
            fault: fault.map(|kind| format!("{kind:?}")).unwrap_or_default(),
            done: false,
        };
        self.change(|state| {
            state.requests.push(record);
            Ticket { epoch: state.epoch, index: state.requests.len() - 1 }
        })
    }

    /// Changes the record of a running answer, if it still exists.
    pub(crate) fn record(&self, ticket: Ticket, change: impl FnOnce(&mut Request)) {
        self.change(|state| {
            if state.epoch == ticket.epoch {
                change(&mut state.requests[ticket.index]);
            }
        });
    }

    /// `Authorization` ever seen on the CDN.
    pub(crate) fn token_on_cdn(&self) -> bool {
        self.lock().requests.iter().any(|request| request.host == Host::Cdn && request.had_authorization)
    }
}

//! A Hugging Face hub on this machine: the API, the resolve addresses, a CDN of another origin, tokens, and a switch
//! for every way in which the real one has failed somebody.
//!
//! It runs on threads of its own, so a synchronous test can block on it and an asynchronous one is not disturbed.

mod api;
mod content;
mod fault;
mod model;
mod record;
mod reply;
mod resolve;
mod server;
mod state;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

pub use content::{Content, fill_pattern};
pub use fault::{Fault, FaultKind};
pub use model::{File, Model};
pub use record::{Host, Request};
use server::Server;
use state::{Shared, State};

/// The hub; stops when dropped.
#[derive(Debug)]
pub struct Hub {
    shared: Arc<Shared>,
    server: Server,
}

impl Hub {
    /// Starts an empty hub on free ports of 127.0.0.1.
    pub fn start() -> Self {
        let (server, shared) = Server::start();
        Self { shared, server }
    }

    /// A server that answers every path with a web page: a captive portal, or a wrong address.
    pub fn not_a_hub() -> Self {
        let hub = Self::start();
        hub.switch(|state| state.switches.html_everywhere = true);
        hub
    }

    /// Changes the state; what the change returns does not matter.
    fn switch<T>(&self, change: impl FnOnce(&mut State) -> T) {
        self.shared.change(change);
    }

    /// `http://127.0.0.1:PORT` of the hub, for `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        self.shared.endpoint.clone()
    }

    /// `http://127.0.0.1:PORT` of the CDN, another origin.
    pub fn cdn(&self) -> String {
        self.shared.cdn.clone()
    }

    /// Adds a model, or a new commit under a known name: its branches move, older commits stay. Returns the commit.
    pub fn add(&self, model: Model) -> String {
        self.shared.change(|state| state.add(model))
    }

    /// Same as [`Hub::add`]; reads better for a model that exists.
    pub fn update(&self, model: Model) -> String {
        self.add(model)
    }

    /// Adds the model right after the next request whose path contains `what` was answered, so that the repository
    /// changes in the middle of somebody's work.
    pub fn update_after(&self, what: &str, model: Model) {
        self.switch(|state| state.updates.push((what.into(), model)));
    }

    /// Removes a repository with all commits.
    pub fn remove(&self, id: &str) {
        self.switch(|state| state.repos.remove(id));
    }

    /// Requests for `old` are redirected to `new`, as after a rename on the hub.
    pub fn renamed(&self, old: &str, new: &str) {
        self.switch(|state| state.moved.insert(old.into(), new.into()));
    }

    /// Adds a raw entry to every listing of the repository, true or not.
    pub fn tree_entry(&self, id: &str, entry: Value) {
        self.switch(|state| state.repos.entry(id.into()).or_default().lies.push(entry));
    }

    /// Makes a token valid; without grants it opens nothing.
    pub fn allow_token(&self, token: &str) {
        self.switch(|state| state.tokens.insert(token.into()));
    }

    /// Gives a token access to a gated or private repository (and makes it valid).
    pub fn grant(&self, token: &str, id: &str) {
        self.allow_token(token);
        self.switch(|state| state.grants.insert((token.into(), id.into())));
    }

    /// Takes a token back.
    pub fn revoke_token(&self, token: &str) {
        self.switch(|state| state.tokens.remove(token));
    }

    /// Arms a fault. Of several that fit a request, the one armed first is used.
    pub fn fault(&self, fault: Fault) {
        self.switch(|state| state.faults.push(fault));
    }

    /// Disarms all faults.
    pub fn clear_faults(&self) {
        self.switch(|state| state.faults.clear());
    }

    /// Limits the body bytes a second of each answer that starts from now on.
    pub fn throttle(&self, bytes_per_second_per_connection: Option<u64>) {
        self.switch(|state| state.switches.throttle = bytes_per_second_per_connection);
    }

    /// Delays the head of each answer.
    pub fn latency(&self, latency: Duration) {
        self.switch(|state| state.switches.latency = latency);
    }

    /// Entries on one page of a listing; 1000 unless said otherwise.
    pub fn page_size(&self, entries: usize) {
        self.switch(|state| state.switches.page_size = entries.max(1));
    }

    /// Whether `Link` headers are relative, as some mirrors send them.
    pub fn relative_links(&self, relative: bool) {
        self.switch(|state| state.switches.relative_links = relative);
    }

    /// Whether small files are answered by a relative redirect to `/api/resolve-cache/…`, as huggingface.co does.
    pub fn redirect_small_files(&self, redirect: bool) {
        self.switch(|state| state.switches.redirect_small_files = redirect);
    }

    /// Says of an LFS object that it is in Xet: under that hash, in the store at `cas`, which is one for all.
    pub fn in_xet(&self, sha256: &str, hash: &str, cas: &str) {
        self.switch(|state| {
            state.xet.cas = cas.into();
            state.xet.hashes.insert(sha256.into(), hash.into());
        });
    }

    /// How long signed CDN addresses stay valid; an hour unless said otherwise. Expired ones answer 403.
    pub fn url_lifetime(&self, lifetime: Duration) {
        self.switch(|state| state.switches.url_lifetime = lifetime);
    }

    /// Takes both servers down (connections under way are reset, new ones refused) or up again on the same ports.
    /// Returns when it is so.
    pub fn down(&self, down: bool) {
        self.server.down(down);
        if down {
            self.reset_connections();
        }
    }

    /// Resets every open connection, as a router that lost its table does.
    pub fn reset_connections(&self) {
        self.shared.kill.send_modify(|count| *count += 1);
    }

    /// Lets stalled answers go on.
    pub fn release(&self) {
        self.shared.release.send_modify(|count| *count += 1);
    }

    /// All requests since the start or the last [`Hub::clear_requests`], oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// Requests whose path or file name contains `what`.
    pub fn requests_for(&self, what: &str) -> Vec<Request> {
        self.shared.lock().requests.iter().filter(|request| request.is_about(what)).cloned().collect()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.switch(|state| {
            state.requests.clear();
            state.epoch += 1;
        });
    }

    /// Body bytes sent, of whatever kind, for requests whose path or file name contains `what`.
    pub fn bytes_sent(&self, what: &str) -> u64 {
        sum(&self.shared.lock().requests, what, false)
    }

    /// Bytes of file contents sent (no redirects, no errors) for a SHA-256 or a part of `owner/name/path`.
    pub fn bytes_of(&self, sha_or_path: &str) -> u64 {
        sum(&self.shared.lock().requests, sha_or_path, true)
    }

    /// Whether a token was ever sent to the CDN since the records were last cleared.
    pub fn token_reached_cdn(&self) -> bool {
        self.shared.token_on_cdn()
    }

    /// Connections open now, on both servers.
    pub fn open_connections(&self) -> usize {
        self.shared.lock().open
    }

    /// Answers that stand still now because of a stall.
    pub fn stalled(&self) -> usize {
        self.shared.lock().stalled
    }

    /// Blocks until the requests so far satisfy `ready`; false when the time is over.
    pub fn wait_for(&self, mut ready: impl FnMut(&[Request]) -> bool, timeout: Duration) -> bool {
        self.shared.wait(timeout, |state| ready(&state.requests))
    }

    /// Blocks until `n` bytes of files whose name, path or SHA-256 contains `what` were handed to the kernel. The
    /// reader may be behind by what the socket buffers hold (megabytes on loopback).
    pub fn wait_for_bytes(&self, what: &str, n: u64, timeout: Duration) -> bool {
        self.wait_for(|requests| sum(requests, what, true) >= n, timeout)
    }

    /// Blocks until `n` answers stand still because of a stall.
    pub fn wait_for_stalled(&self, n: usize, timeout: Duration) -> bool {
        self.shared.wait(timeout, |state| state.stalled >= n)
    }

    /// Blocks until no more than `n` connections are open.
    pub fn wait_for_connections(&self, n: usize, timeout: Duration) -> bool {
        self.shared.wait(timeout, |state| state.open <= n)
    }
}

fn sum(requests: &[Request], what: &str, content_only: bool) -> u64 {
    let counted =
        requests.iter().filter(|request| request.is_about(what) && (request.content || !content_only));
    counted.map(|request| request.bytes_sent).sum()
}

//! What another request for the same want does to the hours in which a job may run. The scripts of Redis say the same
//! (`jobs/src/client/lua/rules.lua`).

use larder_jobs::{Bandwidth, Download, Reason, Record, State, Windows};
use serde_json::{Map, Value};

const WINDOW: &str = "window";
const OUTSIDE: &str = "bandwidth_outside";

/// Widens the window in a payload by that of `download`: none at all is the widest, two are a union, and outside of it
/// the more generous rate holds. Says whether the window is another one now.
pub(super) fn widen(fields: &mut Map<String, Value>, download: &Download) -> bool {
    let Some(own) = fields.get(WINDOW).and_then(Value::as_str) else { return false };
    let Some(other) = &download.window else {
        fields.remove(WINDOW);
        fields.remove(OUTSIDE);
        return true;
    };
    let windows = own.parse::<Windows>();
    let rate = fields.get(OUTSIDE).and_then(Value::as_u64);
    let faster = download.bandwidth_outside.map(Bandwidth::bytes).filter(|bytes| Some(*bytes) > rate);
    if let Some(bytes) = faster {
        fields.insert(OUTSIDE.into(), bytes.into());
    }
    let longer = windows.ok().map(|own| (own.union(other), own)).filter(|(union, own)| union != own);
    if let Some((union, _)) = &longer {
        fields.insert(WINDOW.into(), union.to_string().into());
    }
    faster.is_some() || longer.is_some()
}

/// Whether a job waits for its window.
pub(super) fn is_shut_out(record: &Record) -> bool {
    record.state == State::Waiting && record.reason == Some(Reason::OutsideWindow)
}

/// Whether a job has a window; it may have lost it while it ran.
pub(super) fn has_window(record: &Record) -> bool {
    record.job.get(WINDOW).is_some_and(Value::is_string)
}

//! The bounds of a job's record: whatever is asked, reported or goes wrong, it stays below 32 KiB.

use jiff::Timestamp;
use larder_jobs::{Invalid, JobId, Kind, Progress, Record, State};
use serde::Serialize;
use serde_json::Value;

/// Most requesters and idempotency keys that are remembered, and their bytes as JSON.
const MAX_NAMES: usize = 64;
const MAX_NAMES_BYTES: usize = 6 << 10;
/// Most addresses that are told of a job's end, and their bytes as JSON.
const MAX_NOTIFY: usize = 8;
const MAX_NOTIFY_BYTES: usize = 2 << 10;
/// Most bytes of a message, as JSON.
const MAX_MESSAGE: usize = 2 << 10;
/// Most files in flight that are kept, and their bytes as JSON.
const MAX_ACTIVE: usize = 16;
const MAX_ACTIVE_BYTES: usize = 3 << 10;
/// Most evicted revisions that are kept, and their bytes as JSON.
const MAX_EVICTED: usize = 32;
const MAX_EVICTED_BYTES: usize = 7 << 10;
/// Most bytes, as JSON, of where the bytes of a model came from.
const MAX_SOURCES_BYTES: usize = 1 << 10;
/// Most bytes that are kept of a payload that cannot be read.
const MAX_RAW: usize = 4 << 10;

/// Remembers who asks for the job.
pub(super) fn remember_requester(record: &mut Record, name: Option<&str>) {
    let known = name.is_some_and(|name| remember(&mut record.requesters, name, MAX_NAMES, MAX_NAMES_BYTES));
    record.anonymous |= !known;
}

/// Remembers a key that answers the job. One beyond the bound is forgotten, so that repeating it after the
/// job's end makes a new job.
pub(super) fn remember_key(record: &mut Record, key: Option<&str>) {
    if let Some(key) = key {
        remember(&mut record.keys, key, MAX_NAMES, MAX_NAMES_BYTES);
    }
}

/// Remembers whom to tell of the job's end. One beyond the bound is not told.
pub(super) fn remember_notify(record: &mut Record, url: Option<&str>) {
    if let Some(url) = url {
        remember(&mut record.notify, url, MAX_NOTIFY, MAX_NOTIFY_BYTES);
    }
}

/// How far a job has come, within the record's bounds.
pub(super) fn progress(mut progress: Progress) -> Progress {
    progress.active.truncate(MAX_ACTIVE);
    while json_size(&progress.active) > MAX_ACTIVE_BYTES {
        progress.active.pop();
    }
    progress.evicted.truncate(MAX_EVICTED);
    while json_size(&progress.evicted) > MAX_EVICTED_BYTES {
        progress.evicted.pop();
    }
    while json_size(&progress.bytes_by_source) > MAX_SOURCES_BYTES {
        progress.bytes_by_source.pop_last();
    }
    progress
}

/// Why a job failed or waits, within the record's bounds.
pub(super) fn message(message: &str) -> String {
    clipped(message, MAX_MESSAGE)
}

/// The dead letter of a job whose record cannot be read.
pub(super) fn unreadable(id: JobId, seq: u64, raw: &Value, invalid: &Invalid, now: Timestamp) -> Record {
    let kind = raw.get("kind").cloned().and_then(|kind| serde_json::from_value(kind).ok());
    Record {
        job: clipped_payload(raw),
        state: State::Failed,
        reason: Some(invalid.reason()),
        message: Some(message(&format!("{invalid}; hint: {}", invalid.hint()))),
        anonymous: true,
        finished_at: Some(now),
        // A kind that this larder does not know has no queue of its own to lie in.
        ..Record::new(id, kind.unwrap_or(Kind::Download), seq, now)
    }
}

/// The payload itself if it is small, else the beginning of its text.
pub(super) fn clipped_payload(raw: &Value) -> Value {
    if json_size(raw) <= MAX_RAW { raw.clone() } else { Value::String(clipped(&raw.to_string(), MAX_RAW)) }
}

/// Bytes of `value` as JSON.
fn json_size<T: Serialize>(value: &T) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |bytes| bytes.len())
}

/// Adds `name` unless it is there; false if there is no room.
fn remember(names: &mut Vec<String>, name: &str, most: usize, bytes: usize) -> bool {
    if names.iter().any(|known| known == name) {
        return true;
    }
    names.push(name.to_owned());
    let fits = names.len() <= most && json_size(names) <= bytes;
    if !fits {
        names.pop();
    }
    fits
}

/// The longest beginning of `text` that is at most `max` bytes of JSON.
fn clipped(text: &str, max: usize) -> String {
    if json_size(&text) <= max {
        return text.to_owned();
    }
    let mut size = "\"…\"".len();
    let fitting = text.chars().take_while(|c| {
        // The quotes around a single character make up for the longest escape.
        size += json_size(c) - 2;
        size <= max
    });
    fitting.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_jobs::{FileProgress, Reason};
    use serde_json::json;

    #[test]
    fn the_largest_record_is_below_32_kib() {
        let mut record =
            Record::new(JobId::new(Timestamp::MAX, u128::MAX), Kind::Download, 7, Timestamp::MAX);
        record.job = json!("x".repeat(larder_jobs::MAX_PAYLOAD - 2));
        record.want = "ab".repeat(32);
        record.reason = Some(Reason::InsufficientDisk);
        record.message = Some(message(&"\u{1}\"é".repeat(9_999)));
        for n in 0..99 {
            remember_requester(&mut record, Some(&format!("{n}{}", "\"é".repeat(62))));
            remember_key(&mut record, Some(&format!("{n}{}", "k".repeat(125))));
            remember_notify(&mut record, Some(&format!("https://{n}.example/{}", "n".repeat(480))));
        }
        let file = FileProgress { path: "\u{1}".repeat(1_024), bytes_total: u64::MAX, bytes_done: u64::MAX };
        record.progress = progress(Progress { active: vec![file; 99], ..Progress::default() });
        record.path = Some("p".repeat(4_096));
        record.owner = Some("h".repeat(253).parse().expect("a name"));
        assert!(
            record.anonymous
                && record.requesters.len() > 10
                && record.keys.len() > 40
                && record.notify.len() == 4
        );
        assert!(json_size(&record) < 32 << 10, "{}", json_size(&record));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(clipped("short", 100), "short");
        let cut = clipped(&"é\n".repeat(100), 50);
        assert!(json_size(&cut) <= 50 && cut.ends_with('…') && cut.len() > 30, "{cut:?}");
    }
}

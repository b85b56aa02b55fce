//! The start of the embedded queue: what a crash left behind goes back, what cannot be read is kept as a
//! dead letter, and the index is built.

use jiff::Timestamp;
use larder_jobs::{Invalid, JobId};
use serde_json::Value;

use super::index::Index;
use super::{JOBS, RAW, key};
use crate::error::Result;
use crate::queue::{Config, Record, VERSION, bounds, observe, rules};
use crate::store::{Batch, Damage, Store};

/// A record that cannot be read: what there is of it, and why.
type Unread = Box<(Value, Invalid)>;

/// Reads every record, repairs what needs it, and says where each lies.
pub(super) fn recover(store: &Store, config: &Config, now: Timestamp) -> Result<Index> {
    let mut index = Index::default();
    let mut batch = Batch::default();
    let mut letters = Vec::new();
    let mut repairs = 0_usize;
    for item in store.scan(RAW, b"") {
        let (found_key, found) = item?;
        let Some(id) = std::str::from_utf8(&found_key).ok().and_then(|text| text.parse::<JobId>().ok())
        else {
            // No job was ever accepted under such a key.
            tracing::error!(key = %found_key.escape_ascii(), "a record without a job id is removed");
            batch.delete(RAW, &found_key);
            continue;
        };
        match read(id, found) {
            Ok(record) => {
                let repaired = repair(record.clone(), config, now);
                if repaired != record {
                    repairs += 1;
                    observe::step(Some(&record), &repaired);
                    batch.put(JOBS, &key(id), &repaired);
                }
                index.insert(&repaired);
            }
            Err(unread) => letters.push((id, unread)),
        }
    }
    for (id, unread) in letters {
        let (raw, invalid) = *unread;
        tracing::error!(job = %id, error = %invalid, "a job cannot be read; it is kept as failed");
        let record = bounds::unreadable(id, index.next_seq(), &raw, &invalid, now);
        observe::step(None, &record);
        batch.put(JOBS, &key(id), &record);
        index.insert(&record);
    }
    if repairs > 0 {
        tracing::info!(jobs = repairs, "jobs of a worker that vanished were put back or ended");
    }
    if !batch.is_empty() {
        store.commit(batch)?;
        store.durable_blocking()?;
    }
    Ok(index)
}

/// Nobody runs yet, so a running job's worker is gone; and a payload that cannot be read will never run.
fn repair(record: Record, config: &Config, now: Timestamp) -> Record {
    let record = if record.state.is_running() { rules::expire(record, config, now) } else { record };
    if record.state.is_terminal() { record } else { rules::bury(record, now) }
}

fn read(id: JobId, found: Result<Value, Damage>) -> Result<Record, Unread> {
    let hint = "ask for the job again if it is still wanted";
    let raw = found.map_err(|damage| {
        let invalid = match damage {
            Damage::Newer => Invalid::newer(VERSION + 1, VERSION),
            damage => Invalid::new(format!("the record of the job is damaged: {damage}"), hint),
        };
        Box::new((Value::Null, invalid))
    })?;
    match raw.get("v").and_then(Value::as_u64) {
        Some(v) if v > VERSION => return Err(Box::new((payload(&raw), Invalid::newer(v, VERSION)))),
        _ => {}
    }
    match serde_json::from_value::<Record>(raw.clone()) {
        Ok(record) if record.id == id => Ok(record),
        Ok(_) => Err(Box::new((payload(&raw), Invalid::new("the record is that of another job", hint)))),
        Err(error) => {
            let what = format!("the record of the job is damaged: {error}");
            Err(Box::new((payload(&raw), Invalid::new(what, hint))))
        }
    }
}

/// The payload of a record, or the whole of it.
fn payload(raw: &Value) -> Value {
    raw.get("job").unwrap_or(raw).clone()
}

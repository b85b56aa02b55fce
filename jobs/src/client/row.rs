//! A job's record as a Redis hash and back. Fields that a newer larder added are left alone on both ways.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use redis::Value as Reply;
use serde_json::{Map, Value};

use crate::{Invalid, JobId, Progress, RECORD_VERSION, Record, Span};

const NUMBERS: [&str; 5] = ["v", "seq", "priority", "attempts", "token"];
const TIMES: [&str; 7] =
    ["due", "ages_from", "lease_until", "created_at", "started_at", "finished_at", "deadline"];
const JSON: [&str; 5] = ["job", "requesters", "keys", "notify", "progress"];
const WORDS: [&str; 12] = [
    "id", "kind", "target", "owner", "want", "state", "reason", "message", "path", "nonce", "placed",
    "parent",
];
const FLAGS: [&str; 2] = ["anonymous", "cancel"];

/// A hash that is no record: what there is of it, and why not.
#[derive(Debug, Clone, PartialEq)]
pub struct Unreadable {
    /// The job's id, if that can be read.
    pub id: Option<JobId>,
    /// The payload, or the whole hash if there is none.
    pub raw: Value,
    /// Why it is no record.
    pub invalid: Invalid,
}

/// The record that a script answered with, as a flat list of fields and values.
///
/// # Errors
/// [`Unreadable`] for one that lacks a field, has one of the wrong form, or is of a newer version.
pub fn read(reply: &Reply) -> Result<Record, Box<Unreadable>> {
    let fields = whole(fields(reply));
    let id = fields.get("id").and_then(|id| id.parse().ok());
    let raw = || match fields.get("job") {
        Some(job) => serde_json::from_str(job).unwrap_or_else(|_| Value::String(job.clone())),
        None => serde_json::json!(fields),
    };
    let unreadable = |invalid| Box::new(Unreadable { id, raw: raw(), invalid });
    match fields.get("v").and_then(|v| v.parse::<u64>().ok()) {
        Some(v) if v > RECORD_VERSION => return Err(unreadable(Invalid::newer(v, RECORD_VERSION))),
        _ => {}
    }
    let record = document(&fields).and_then(|document| {
        serde_json::from_value(Value::Object(document)).map_err(|error| error.to_string())
    });
    record.map_err(|why| {
        let hint = "ask for the job again if it is still wanted";
        unreadable(Invalid::new(format!("the record of the job is damaged: {why}"), hint))
    })
}

/// A flat list of fields and values; a later one replaces an earlier one, and one that is not text takes it away.
pub(super) fn fields(reply: &Reply) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let Reply::Array(list) = reply else { return fields };
    for pair in list.chunks_exact(2) {
        match (text(&pair[0]), text(&pair[1])) {
            (Some(name), Some(value)) => drop(fields.insert(name, value)),
            (Some(name), None) => drop(fields.remove(&name)),
            (None, _) => {}
        }
    }
    fields
}

/// The fields of a job; the long values of an ended one lie in pieces (`cut` in `lua/records.lua`).
fn whole(fields: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let piece = |name: &str| {
        let (name, number) = name.rsplit_once(':')?;
        Some((name.to_owned(), number.parse::<usize>().ok()?))
    };
    let (mut whole, mut pieces) = (BTreeMap::<String, String>::new(), BTreeMap::new());
    for (name, value) in fields {
        match piece(&name) {
            Some(place) => drop(pieces.insert(place, value)),
            None => drop(whole.insert(name, value)),
        }
    }
    for ((name, _), piece) in pieces {
        whole.entry(name).or_default().push_str(&piece);
    }
    whole
}

/// A reply that is text.
pub fn text(reply: &Reply) -> Option<String> {
    match reply {
        Reply::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Reply::SimpleString(text) => Some(text.clone()),
        Reply::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

fn document(fields: &BTreeMap<String, String>) -> Result<Map<String, Value>, String> {
    let mut document = Map::new();
    // What a job begins with is not written down.
    for number in ["priority", "attempts", "token"] {
        document.insert(number.into(), 0.into());
    }
    for names in ["requesters", "keys"] {
        document.insert(names.into(), Value::Array(Vec::new()));
    }
    let none = serde_json::to_value(Progress::default()).map_err(|error| error.to_string())?;
    document.insert("progress".into(), none);
    for flag in FLAGS {
        document.insert(flag.into(), Value::Bool(fields.get(flag).is_some_and(|value| value == "1")));
    }
    for (name, value) in fields {
        let wrong = |what: &str| format!("`{name}` is not {what}");
        let value = match name.as_str() {
            name if NUMBERS.contains(&name) => {
                value.parse::<i64>().map(Value::from).map_err(|_| wrong("a number"))?
            }
            name if TIMES.contains(&name) => {
                let micros = value.parse().map_err(|_| wrong("a time"))?;
                let time = Timestamp::from_microsecond(micros).map_err(|_| wrong("a time"))?;
                Value::String(time.to_string())
            }
            // Kept as it is; who decodes the job says what is wrong with it.
            "job" => serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.clone())),
            name if JSON.contains(&name) => serde_json::from_str(value).map_err(|_| wrong("JSON"))?,
            name if WORDS.contains(&name) => Value::String(value.clone()),
            _ => continue,
        };
        document.insert(name.clone(), value);
    }
    // Asked for by somebody who joined: the payload itself is never rewritten.
    if let Some(Value::Object(job)) = document.get_mut("job") {
        if fields.get("pin").is_some_and(|pin| pin == "1") {
            job.insert("pin".into(), Value::Bool(true));
        }
        match fields.get("bandwidth").map(String::as_str) {
            Some("none") => drop(job.remove("bandwidth")),
            Some(bytes) => {
                let bytes: u64 = bytes.parse().map_err(|_| "`bandwidth` is not a number".to_owned())?;
                job.insert("bandwidth".into(), bytes.into());
            }
            None => {}
        }
        if let Some(bytes) = fields.get("bandwidth_outside") {
            let bytes: u64 = bytes.parse().map_err(|_| "`bandwidth_outside` is not a number".to_owned())?;
            job.insert("bandwidth_outside".into(), bytes.into());
        }
        match fields.get("window").map(String::as_str) {
            Some("none") => {
                ["window", "bandwidth_outside"].into_iter().for_each(|name| drop(job.remove(name)));
            }
            Some(windows) => drop(job.insert("window".into(), windows.into())),
            None => {}
        }
        if let Some(seconds) = fields.get("lease_ttl") {
            let seconds = seconds.parse().map_err(|_| "`lease_ttl` is not a number".to_owned())?;
            let longest = Span(Duration::from_secs(seconds));
            let own = job.get("lease_ttl").and_then(Value::as_str).and_then(|text| text.parse::<Span>().ok());
            if own.is_none_or(|own| own < longest) {
                job.insert("lease_ttl".into(), longest.to_string().into());
            }
        }
    }
    Ok(document)
}

/// The fields of a record, as a script takes them.
pub fn write(record: &Record) -> Vec<(&'static str, String)> {
    let Ok(Value::Object(document)) = serde_json::to_value(record) else { return Vec::new() };
    let mut fields = Vec::new();
    for (name, value) in &document {
        let known = NUMBERS.iter().chain(&TIMES).chain(&JSON).chain(&WORDS).chain(&FLAGS);
        let Some(name) = known.copied().find(|known| known == name) else { continue };
        let text = match value {
            Value::Null | Value::Bool(false) => continue,
            Value::Bool(true) => "1".to_owned(),
            Value::String(text) if TIMES.contains(&name) => {
                let Ok(time) = text.parse::<Timestamp>() else { continue };
                time.as_microsecond().to_string()
            }
            Value::String(text) if name != "job" => text.clone(),
            value => value.to_string(),
        };
        fields.push((name, text));
    }
    if record.target.is_only() {
        fields.push(("target", record.target.to_string()));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, State, Target};

    fn reply(fields: &[(&str, String)]) -> Reply {
        let bulk = |text: &str| Reply::BulkString(text.as_bytes().to_vec());
        Reply::Array(fields.iter().flat_map(|(name, value)| [bulk(name), bulk(value)]).collect())
    }

    fn record() -> Record {
        let now = "2026-01-02T03:04:05.678901Z".parse().expect("a time");
        let mut record = Record::new(JobId::new(now, 7), Kind::Download, 3, now);
        record.target = Target::Host("gpu-1".parse().expect("a name"));
        record.owner = Some("gpu-2".parse().expect("a name"));
        record.job = serde_json::json!({"v": 1, "kind": "download", "repo": "a/b"});
        record.keys = vec!["a".into(), "/\"".into()];
        record.state = State::Waiting;
        record.due = Some(now);
        record.cancel = true;
        record.priority = -7;
        record.token = 1_767_323_045_678_901;
        record
    }

    #[test]
    fn pieces_are_put_together_in_their_order() {
        let text = |text: &str| Reply::BulkString(text.as_bytes().to_vec());
        let mut list = vec![text("id"), text("x")];
        for n in (1..12).rev() {
            list.extend([text(&format!("path:{n}")), text(&format!("{n},"))]);
        }
        list.extend([text("path"), text("0,")]);
        let fields = whole(fields(&Reply::Array(list)));
        assert_eq!(fields["path"], "0,1,2,3,4,5,6,7,8,9,10,11,");
        assert_eq!(fields.len(), 2);
    }

    #[test]
    fn a_record_survives_the_way_there_and_back() {
        assert_eq!(read(&reply(&write(&record()))), Ok(record()));
        let only = Record { target: Target::Only, cancel: false, ..record() };
        assert_eq!(read(&reply(&write(&only))), Ok(only));
    }

    #[test]
    fn version_1_reads_the_same_for_ever() {
        let golden = include_str!("../../golden/record-redis.v1.json");
        let golden: BTreeMap<String, String> = serde_json::from_str(golden).expect("JSON");
        let fields: Vec<_> = golden.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let record = read(&reply(&fields)).expect("reads");
        assert_eq!(
            (record.target.clone(), record.state, record.priority),
            (Target::Pool, State::Fetching, -5)
        );
        assert_eq!(
            (record.anonymous, record.cancel, record.keys.as_slice()),
            (true, true, &["night/1".to_owned()][..])
        );
        assert_eq!(record.decode().expect("a job").work.want_hash(), record.want);
        // What is written is what was read, but for what only the steps know.
        let mut again: BTreeMap<_, _> =
            write(&record).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        again.extend(["nonce", "pin"].map(|name| (name.to_owned(), golden[name].clone())));
        assert_eq!(
            read(&reply(&again.iter().map(|(n, v)| (n.as_str(), v.clone())).collect::<Vec<_>>())),
            Ok(record)
        );
        assert_eq!(again.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>(), "no field is lost");
    }

    #[test]
    fn what_is_damaged_or_newer_is_told_and_kept() {
        let change = |name: &str, value: Option<&str>| {
            let mut fields = write(&record());
            fields.retain(|(known, _)| *known != name);
            let mut fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.clone())).collect();
            fields.extend(value.map(|value| (name, value.to_owned())));
            read(&reply(&fields)).expect_err(name)
        };
        for (name, value) in [
            ("state", None),
            ("created_at", Some("soon")),
            ("attempts", Some("many")),
            ("progress", Some("{")),
            ("kind", Some("teleport")),
        ] {
            let unreadable = change(name, value);
            assert!(unreadable.invalid.to_string().contains("damaged"), "{unreadable:?}");
            assert_eq!(unreadable.id, Some(record().id));
            assert_eq!(unreadable.raw, record().job);
        }
        let newer = change("v", Some("2"));
        assert_eq!(newer.invalid.reason(), crate::Reason::UnsupportedVersion);
        assert!(read(&Reply::Nil).expect_err("nothing").id.is_none());
    }

    #[test]
    fn a_pin_of_somebody_who_joined_reaches_the_payload() {
        let mut fields = write(&record());
        fields.push(("pin", "1".into()));
        fields.push(("added_later", "x".into()));
        assert_eq!(read(&reply(&fields)).expect("reads").job["pin"], true);
    }

    #[test]
    fn a_longer_lease_of_somebody_who_joined_reaches_the_payload() {
        let mut record = record();
        record.job["lease_ttl"] = "15m".into();
        let with = |value: &str| {
            let mut fields = write(&record);
            fields.push(("lease_ttl", value.into()));
            read(&reply(&fields))
        };
        assert_eq!(with("900").expect("reads").job["lease_ttl"], "15m");
        assert_eq!(with("7200").expect("reads").job["lease_ttl"], "2h");
        assert!(with("long").expect_err("damaged").invalid.to_string().contains("`lease_ttl`"));
    }

    #[test]
    fn a_wider_window_of_somebody_who_joined_reaches_the_payload() {
        let mut record = record();
        record.job["window"] = "22:00-06:00 UTC".into();
        record.job["bandwidth_outside"] = 5.into();
        let with = |window: &str, rate: &str| {
            let mut fields = write(&record);
            fields.push(("window", window.into()));
            fields.push(("bandwidth_outside", rate.into()));
            read(&reply(&fields))
        };
        let wider = with("22:00-06:00 UTC; 12:00-13:00 UTC", "7").expect("reads");
        assert_eq!(wider.job["window"], "22:00-06:00 UTC; 12:00-13:00 UTC");
        assert_eq!(wider.job["bandwidth_outside"], 7);
        let lifted = with("none", "7").expect("reads");
        assert_eq!((lifted.job.get("window"), lifted.job.get("bandwidth_outside")), (None, None));
        assert!(with("none", "x").expect_err("damaged").invalid.to_string().contains("`bandwidth_outside`"));
    }

    #[test]
    fn a_wider_limit_of_somebody_who_joined_reaches_the_payload() {
        let mut record = record();
        record.job["bandwidth"] = 5.into();
        let with = |value: &str| {
            let mut fields = write(&record);
            fields.push(("bandwidth", value.into()));
            read(&reply(&fields))
        };
        assert_eq!(with("7").expect("reads").job["bandwidth"], 7);
        assert_eq!(with("none").expect("reads").job.get("bandwidth"), None);
        assert!(with("much").expect_err("damaged").invalid.to_string().contains("`bandwidth`"));
    }
}

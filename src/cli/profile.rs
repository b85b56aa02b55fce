//! `larder profile` and `larder preload`: measure this host or look closely at a model, and bring one into memory.

use indicatif::MultiProgress;
use larder_jobs::{Job, JobView, ModelRef, Preload, Profile, Size, State, Test, Work};
use serde_json::Value;

use super::OK;
use super::output::{Output, note};
use super::stage::{How, finish};
use super::watch::unfinished;
use crate::config::Settings;
use crate::error::Result;

/// What to profile.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) model: Option<ModelRef>,
    pub(super) tests: Vec<Test>,
    pub(super) disk_bytes: Option<Size>,
    pub(super) detach: bool,
}

pub(super) async fn run(settings: Settings, ask: Ask, output: &Output, bars: MultiProgress) -> Result<u8> {
    let want = Profile {
        repo: ask.model.as_ref().map(|model| model.repo().clone()),
        revision: ask.model.and_then(|model| model.revision().cloned()),
        tests: ask.tests,
        disk_bytes: ask.disk_bytes,
        ..Profile::default()
    };
    let job = Job::new(Work::Profile(want));
    job.validate()?;
    finish(settings, &job, How { detach: ask.detach, may_evict: false }, output, &bars, report).await
}

pub(super) async fn preload(
    settings: Settings,
    model: ModelRef,
    force: bool,
    detach: bool,
    output: &Output,
    bars: MultiProgress,
) -> Result<u8> {
    let revision = model.revision().cloned().unwrap_or_default();
    let job = Job::new(Work::Preload(Preload { repo: model.repo().clone(), revision, force }));
    finish(settings, &job, How { detach, may_evict: false }, output, &bars, report).await
}

/// Prints what was found.
pub(super) fn report(view: &JobView, output: &Output) -> Result<u8> {
    if view.state != State::Done {
        return unfinished(view, output);
    }
    output.print(view, || view.report.as_deref().map(|report| human(report, *output)).unwrap_or_default())?;
    if !output.is_json() {
        for one in view.report.iter().flat_map(|report| report["notes"].as_array().into_iter().flatten()) {
            note(&format!("note: {}", one.as_str().unwrap_or_default()));
        }
    }
    Ok(OK)
}

/// Name and unit of what a profile of the host measures, in the order in which it is shown.
const RATES: &[(&str, &str)] = &[
    ("disk_write", "writing to the cache's disk"),
    ("disk_read_cold", "reading what is not in memory"),
    ("disk_read_cold_parallel", "reading what is not in memory, several readers"),
    ("disk_read_warm", "reading what is in memory"),
    ("memory_copy", "copying memory, read and written"),
];

fn human(report: &Value, output: Output) -> String {
    if report.get("resident_before").is_some() {
        return preloaded(report, output);
    }
    if report.get("residency").is_some() {
        return model(report, output);
    }
    let mut lines: Vec<String> = RATES
        .iter()
        .filter_map(|(key, words)| Some((report.get(key)?.as_f64()?, words)))
        .map(|(rate, words)| format!("{:>12}/s  {words}", size(rate, output)))
        .collect();
    if let Some(seconds) = report.get("hub_round_trip").and_then(Value::as_f64) {
        lines.push(format!("{:>11.1} ms  until the hub answers", seconds * 1e3));
    }
    lines.join("\n")
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // sizes are positive and below 2^63
fn size(bytes: f64, output: Output) -> String {
    output.size(bytes.max(0.0) as u64)
}

fn model(report: &Value, output: Output) -> String {
    let text = |key: &str| report[key].as_str().unwrap_or("unknown").to_owned();
    let bytes = |value: &Value| value.as_u64().map_or_else(|| "unknown".into(), |bytes| output.size(bytes));
    let seconds = |key: &str| {
        let value = report["seconds_to_load"][key].as_f64();
        value.map_or_else(|| "unknown".into(), |seconds| format!("{seconds:.1} s"))
    };
    let mut lines = vec![
        format!("{}@{}", text("repo"), text("commit").chars().take(12).collect::<String>()),
        format!("parameters  {}", report["parameters"].as_u64().map_or("unknown".into(), |n| n.to_string())),
        format!("stored as   {}, {}", text("quantization"), bytes(&report["bytes"])),
        format!(
            "in memory   {} of {}",
            bytes(&report["residency"]["resident"]),
            bytes(&report["residency"]["bytes"])
        ),
        format!(
            "to load     {} from the disk, {} from memory, {} now",
            seconds("cold"),
            seconds("warm"),
            seconds("now")
        ),
        format!(
            "on the GPU  {}: {}",
            report["fit"]["verdict"].as_str().unwrap_or("unknown"),
            report["fit"]["reason"].as_str().unwrap_or("")
        ),
    ];
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    if findings.is_empty() {
        lines.push("files       whole, and they belong together".into());
    }
    for found in findings {
        let part = |key: &str| found[key].as_str().unwrap_or_default();
        lines.push(format!("{}: {}; {}", part("severity"), part("what"), part("hint")));
    }
    lines.join("\n")
}

fn preloaded(report: &Value, output: Output) -> String {
    let bytes = |key: &str| report[key].as_u64().map_or_else(|| "unknown".into(), |bytes| output.size(bytes));
    match report["skipped"].as_str() {
        Some(why) => format!("nothing was read: {why}"),
        None => format!(
            "{} of {} are in memory, {} were read",
            bytes("resident_after"),
            bytes("bytes"),
            bytes("read")
        ),
    }
}

//! `larder report`: what the last night did, as text, JSON or a page.

mod page;
mod runs;

use std::path::PathBuf;

use super::args::Reported;
use super::client::Client;
use super::output::{Output, at, note, table};
use super::{OK, TRY_LATER};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::warm::{Regret, Report, ReportRow};

pub(super) async fn run(settings: Settings, ask: Reported, output: &Output) -> Result<u8> {
    let report =
        Client::larder_or_here(settings).await?.report(ask.since, ask.requested_by.as_deref()).await?;
    if let Some(path) = &ask.html {
        write(path, &page::render(&report, *output))?;
        note(&format!("the page is {}", path.display()));
    }
    output.print(&report, || human(&report, *output))?;
    Ok(if report.is_wrong() && ask.check { TRY_LATER } else { OK })
}

fn write(path: &PathBuf, page: &str) -> Result<()> {
    std::fs::write(path, page).map_err(|error| Error::io("write the page", path, &error))
}

/// Whose jobs they are: the queue of a fleet knows those of all hosts.
fn whose(report: &Report) -> String {
    match report.is_fleet {
        true => format!("the hosts of the fleet did, as {} tells it,", report.host),
        false => format!("{} did", report.host),
    }
}

fn human(report: &Report, output: Output) -> String {
    let mut lines = vec![format!("what {} from {} to {}", whose(report), at(report.from), at(report.to))];
    lines.push(String::new());
    lines.extend(runs::human(report));
    lines.push(downloads(report, output));
    for (title, rows) in [("failed", &report.failed), ("waiting", &report.waiting)] {
        if !rows.is_empty() {
            lines.push(String::new());
            lines.push(table(
                &[&title.to_uppercase(), "REASON", "WHAT"],
                rows.iter().map(told).collect(),
                &[],
            ));
        }
    }
    lines.extend(bytes(report, output));
    if report.is_partial {
        lines.push("there were more jobs than a report looks at; the oldest are missing".into());
    }
    lines.join("\n")
}

/// How many downloads came to what.
fn downloads(report: &Report, output: Output) -> String {
    if report.is_empty() {
        return match &report.requested_by {
            Some(name) => format!("no download was asked for by {name} in this time"),
            None => "no download was asked for in this time".into(),
        };
    }
    let counts = [
        ("done", count(&report.done), format!("{} came", output.size(report.bytes_fetched))),
        ("skipped", count(&report.skipped), "it was there".into()),
        ("failed", count(&report.failed), words(&report.failed_by_reason)),
        ("waiting", count(&report.waiting), words(&report.waiting_by_reason)),
        ("running", count(&report.running), String::new()),
        ("cancelled", count(&report.cancelled), String::new()),
    ];
    let rows = counts.into_iter().filter(|(_, count, _)| *count != "0");
    table(&["", "MODELS", ""], rows.map(|(a, b, c)| vec![a.into(), b, c]).collect(), &[1])
}

/// Where the bytes came from, and what went.
fn bytes(report: &Report, output: Output) -> Vec<String> {
    let mut lines = Vec::new();
    if !report.bytes_by_source.is_empty() {
        lines.push(String::new());
        let rows =
            report.bytes_by_source.iter().map(|(source, bytes)| vec![source.clone(), output.size(*bytes)]);
        lines.push(table(&["FROM", "BYTES"], rows.collect(), &[1]));
    }
    lines.push(String::new());
    lines.push(format!(
        "evicted {} for {}; {} of them came back within a day of the eviction",
        report.evicted.models,
        output.size(report.evicted.bytes),
        report.regretted.len()
    ));
    if !report.regretted.is_empty() {
        lines.push(String::new());
        let row = |one: &Regret| {
            let model = format!("{}@{}", one.repo, one.commit.short());
            vec![model, one.host.clone(), output.size(one.bytes), at(one.evicted_at), at(one.back_at)]
        };
        let rows = report.regretted.iter().map(row).collect();
        lines.push(table(&["EVICTED TOO EARLY", "HOST", "SIZE", "WENT", "CAME BACK"], rows, &[2]));
    }
    lines
}

fn count(rows: &[ReportRow]) -> String {
    rows.len().to_string()
}

fn told(row: &ReportRow) -> Vec<String> {
    let reason = row.reason.clone().unwrap_or_else(|| "queued".into());
    let until = row.until.map(|until| format!("until {}", at(until)));
    vec![row.model.clone(), reason, row.message.clone().or(until).unwrap_or_default()]
}

fn words(by_reason: &std::collections::BTreeMap<String, usize>) -> String {
    by_reason.iter().map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ")
}

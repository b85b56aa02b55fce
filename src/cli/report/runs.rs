//! What the report tells of the runs of schedules, in text and on the page.

use std::fmt::Write as _;

use super::super::output::{at, table};
use super::page::escaped;
use crate::warm::{LeftOut, Outcome, PastRun, Report};

/// The runs, and what they did not ask for; nothing if no schedule was due.
pub(super) fn human(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if report.runs.is_empty() {
        return lines;
    }
    let row = |run: &PastRun| vec![run.manifest.clone(), at(run.due), run.outcome.word().into(), what(run)];
    lines.push(table(&["SCHEDULED", "DUE", "RUN", "WHAT"], report.runs.iter().map(row).collect(), &[]));
    lines.push(String::new());
    let dropped = report.runs.iter().flat_map(|run| run.dropped.iter().map(move |one| (run, one)));
    let rows: Vec<_> = dropped.map(|(run, one)| vec![one.model.clone(), at(run.due), why(one)]).collect();
    if !rows.is_empty() {
        lines.push(table(&["NOT ASKED FOR", "DUE", "WHY"], rows, &[]));
        lines.push(String::new());
    }
    lines
}

/// The same for the page.
pub(super) fn page(page: &mut String, report: &Report) {
    if report.runs.is_empty() {
        return;
    }
    page.push_str("<h2>Scheduled</h2>\n<table>\n<tr><th>manifest<th>due<th>run<th>what\n");
    for run in &report.runs {
        let class = if run.is_wrong() { " class=\"bad\"" } else { "" };
        let (manifest, due, outcome) = (escaped(&run.manifest), at(run.due), run.outcome.word());
        let _ = writeln!(page, "<tr><td>{manifest}<td>{due}<td{class}>{outcome}<td>{}", escaped(&what(run)));
    }
    page.push_str("</table>\n");
    if report.runs.iter().any(|run| !run.dropped.is_empty()) {
        page.push_str("<h2>Not asked for</h2>\n<table>\n<tr><th>model<th>due<th>why\n");
        for (run, one) in report.runs.iter().flat_map(|run| run.dropped.iter().map(move |one| (run, one))) {
            let (model, due) = (escaped(&one.model), at(run.due));
            let _ = writeln!(page, "<tr><td>{model}<td>{due}<td>{}", escaped(&why(one)));
        }
        page.push_str("</table>\n");
    }
}

/// What came of a run, in words.
fn what(run: &PastRun) -> String {
    let jobs = match (run.outcome, run.jobs) {
        (Outcome::Elsewhere, _) => "another host of the fleet asked for it".into(),
        (Outcome::Asked, 0) => "nothing was left to ask for".into(),
        (Outcome::Asked, 1) => "1 job".into(),
        (Outcome::Asked, jobs) => format!("{jobs} jobs"),
        // Its own part, before the rest failed.
        (_, 0) => String::new(),
        (_, jobs) => format!("{jobs} asked for before"),
    };
    let dropped = match run.dropped() {
        0 => String::new(),
        1 => "1 model not asked for".into(),
        count => format!("{count} models not asked for"),
    };
    let failed = match (&run.reason, &run.message) {
        (Some(reason), Some(message)) => format!("{reason}: {message}"),
        (reason, message) => reason.as_ref().or(message.as_ref()).cloned().unwrap_or_default(),
    };
    let parts = [jobs, dropped, failed].into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("; ")
}

fn why(one: &LeftOut) -> String {
    match &one.host {
        Some(host) => format!("on {host}: {}", one.why),
        None => one.why.clone(),
    }
}

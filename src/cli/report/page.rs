//! The report as one page that needs nothing else: no script, no font, no address.

use std::fmt::Write as _;

use super::super::output::{Output, at};
use super::runs;
use crate::warm::{Report, ReportRow};

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #24292f; --soft: #6e7781; --line: #d8dee4; --page: #fff; --bad: #b91c1c }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9198a1; --line: #30363d; --page: #0d1117; --bad: #ff7b72 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem }
.soft { color: var(--soft) } .bad { color: var(--bad) }
.sums { display: flex; flex-wrap: wrap; gap: 2rem; margin: 1.5rem 0 } .sums b { display: block; font-size: 1.6rem; font-weight: 600 }
table { border-collapse: collapse; width: 100% } th { text-align: left; font-weight: 600; color: var(--soft) }
td, th { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top } td.n, th.n { text-align: right }";

pub(super) fn render(report: &Report, output: Output) -> String {
    let host = escaped(report.host.as_str());
    let whose = if report.is_fleet { format!("the fleet, as {host} tells it") } else { host };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>larder: the night of {whose}</title>\n<style>\n{STYLE}\n</style>\n\
         <h1>The night of {whose}</h1>\n<p class=\"soft\">{} to {}</p>\n",
        at(report.from),
        at(report.to),
    );
    sums(&mut page, report, output);
    runs::page(&mut page, report);
    if report.is_empty() {
        page.push_str("<p>No download was asked for in this time.</p>\n");
    }
    for (title, rows) in [
        ("Failed", &report.failed),
        ("Waiting", &report.waiting),
        ("Running", &report.running),
        ("Done", &report.done),
        ("Skipped: it was there", &report.skipped),
        ("Cancelled", &report.cancelled),
    ] {
        part(&mut page, title, rows, output);
    }
    if !report.bytes_by_source.is_empty() {
        page.push_str("<h2>Where the bytes came from</h2>\n<table>\n");
        for (source, bytes) in &report.bytes_by_source {
            let _ = writeln!(page, "<tr><td>{}<td class=\"n\">{}", escaped(source), output.size(*bytes));
        }
        page.push_str("</table>\n");
    }
    if !report.regretted.is_empty() {
        page.push_str("<h2>Evicted too early</h2>\n<table>\n");
        for one in &report.regretted {
            let (repo, host, bytes) =
                (escaped(&one.repo.to_string()), escaped(&one.host), output.size(one.bytes));
            let (gone, back) = (at(one.evicted_at), at(one.back_at));
            let _ = writeln!(
                page,
                "<tr><td>{repo}<td>{host}<td class=\"n\">{bytes}<td>went {gone}, came back {back}"
            );
        }
        page.push_str("</table>\n");
    }
    if report.is_partial {
        page.push_str(
            "<p class=\"soft\">There were more jobs than a report looks at; the oldest are missing.</p>\n",
        );
    }
    page
}

fn sums(page: &mut String, report: &Report, output: Output) {
    page.push_str("<div class=\"sums\">\n");
    for (what, value, is_bad) in [
        ("done", report.done.len().to_string(), false),
        ("were there", report.skipped.len().to_string(), false),
        ("failed", report.failed.len().to_string(), !report.failed.is_empty()),
        ("wait", report.waiting.len().to_string(), false),
        ("fetched", output.size(report.bytes_fetched), false),
        ("evicted", output.size(report.evicted.bytes), false),
        ("evicted too early", report.regretted.len().to_string(), !report.regretted.is_empty()),
    ] {
        let class = if is_bad { " class=\"bad\"" } else { "" };
        let _ = writeln!(page, "<div{class}><b>{}</b>{what}</div>", escaped(&value));
    }
    page.push_str("</div>\n");
}

fn part(page: &mut String, title: &str, rows: &[ReportRow], output: Output) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(
        page,
        "<h2>{title}</h2>\n<table>\n<tr><th>model<th>host<th class=\"n\">fetched<th>ended<th>why"
    );
    for row in rows {
        let ended = row.finished_at.or(row.until).map(at).unwrap_or_default();
        let why = match (&row.reason, &row.message) {
            (Some(reason), Some(message)) => format!("{reason}: {message}"),
            (Some(reason), None) => reason.clone(),
            (None, _) => String::new(),
        };
        let _ = writeln!(
            page,
            "<tr><td>{}<td>{}<td class=\"n\">{}<td>{ended}<td>{}",
            escaped(&row.model),
            escaped(&row.hosts.join(", ")),
            output.size(row.bytes_fetched),
            escaped(&why)
        );
    }
    page.push_str("</table>\n");
}

/// Text that came from elsewhere, harmless in a page.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_elsewhere_becomes_markup() {
        let (from, to) = (jiff::Timestamp::UNIX_EPOCH, jiff::Timestamp::UNIX_EPOCH);
        let mut report = Report::new("gpu-1".parse().expect("a name"), from, to, None);
        report.bytes_by_source.insert("<script>alert(\"x\")</script>&".into(), 5);
        report.runs.push(crate::warm::PastRun {
            message: Some("<script>".into()),
            ..crate::warm::PastRun::new("<script>.toml".into(), from)
        });
        let page = render(&report, Output::new(false, true));
        assert!(page.contains("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;"), "{page}");
        assert!(!page.contains("<script"));
    }
}

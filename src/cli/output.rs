//! What verbs print: one JSON value or text for people on stdout, failures on stderr.

use std::io::{self, Write as _};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use larder_jobs::{JobView, Problem, Size};
use serde::Serialize;

use crate::error::{Error, Result};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
    exact: bool,
}

impl Output {
    pub(super) fn new(json: bool, exact: bool) -> Self {
        Self { json, exact }
    }

    /// Whether JSON is asked for.
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// A size as asked for: `523.0 MiB`, or exact bytes.
    pub(super) fn size(self, bytes: u64) -> String {
        if self.exact { bytes.to_string() } else { Size(bytes).to_string() }
    }

    /// Prints `value` as JSON, or the text that `human` makes of it.
    pub(super) fn print<T: Serialize>(self, value: &T, human: impl FnOnce() -> String) -> Result<()> {
        let text = if self.json {
            serde_json::to_string_pretty(value)
                .map_err(|error| Error::internal(format!("the result became no JSON: {error}")))?
        } else {
            human()
        };
        self.line(&text);
        Ok(())
    }

    /// A line on stdout; a closed pipe (`larder ls | head`) is no failure.
    pub(super) fn line(self, text: &str) {
        if !text.is_empty() {
            let _ = writeln!(io::stdout(), "{text}");
        }
    }

    /// A failure: on stderr for people, as a problem document on stdout if JSON is asked for.
    pub(super) fn failure(self, error: &Error) {
        if self.json {
            let problem = Problem::from(error.clone());
            if let Ok(text) = serde_json::to_string_pretty(&problem) {
                self.line(&text);
            }
        }
        let _ = writeln!(io::stderr(), "error: {error} [{}]\n hint: {}", error.reason(), error.hint());
    }
}

/// A line for people on stderr.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A table without lines; the columns in `right` are numbers.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for index in right {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `1 file`, `8 files`.
pub(super) fn files(count: u64) -> String {
    if count == 1 { "1 file".into() } else { format!("{count} files") }
}

/// `1 job is`, `8 jobs are`.
pub(super) fn jobs_are(count: usize) -> String {
    if count == 1 { "1 job is".into() } else { format!("{count} jobs are") }
}

/// `owner/name@revision`, or what is known of it.
pub(super) fn model(view: &JobView) -> String {
    match (&view.repo, &view.revision) {
        (Some(repo), Some(revision)) => format!("{repo}@{revision}"),
        (Some(repo), None) => repo.to_string(),
        (None, _) => "unknown".into(),
    }
}

/// A point in time to the second.
pub(super) fn at(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `5 min ago`, for times that people read.
pub(super) fn ago(then: Option<jiff::Timestamp>, now: jiff::Timestamp) -> String {
    let Some(then) = then else { return "unknown".into() };
    let seconds = now.as_second().saturating_sub(then.as_second());
    match seconds {
        ..60 => "just now".into(),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_one_unit() {
        let now = jiff::Timestamp::from_second(1_000_000).expect("time");
        let at =
            |seconds: i64| ago(Some(jiff::Timestamp::from_second(1_000_000 - seconds).expect("time")), now);
        assert_eq!(
            [at(5), at(120), at(7_200), at(864_000)],
            ["just now", "2 min ago", "2 h ago", "10 days ago"]
        );
        assert_eq!(ago(None, now), "unknown");
    }

    #[test]
    fn tables_have_no_trailing_blanks() {
        let text = table(
            &["MODEL", "SIZE"],
            vec![vec!["a/b".into(), "1".into()], vec!["a/bcd".into(), "22".into()]],
            &[1],
        );
        assert_eq!(text, "MODEL  SIZE\na/b       1\na/bcd    22");
    }
}

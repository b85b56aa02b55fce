//! Progress on stderr: bars on a terminal, a plain line now and then elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use larder_jobs::{JobView, State};

use super::output::{Output, note};

/// Plain lines come at this distance, or when the state changes.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Bars for files beside the total.
const MAX_BARS: usize = 6;

/// Shows how one job goes on.
pub(super) struct Progress {
    output: Output,
    look: Look,
}

enum Look {
    Bars { all: MultiProgress, total: ProgressBar, files: BTreeMap<String, ProgressBar> },
    Lines { last: Option<(Instant, State)> },
}

impl Progress {
    pub(super) fn new(bars: &MultiProgress, output: Output) -> Self {
        let look = if std::io::stderr().is_terminal() {
            let total = bars.add(ProgressBar::new(0));
            total.set_style(style("{prefix:10} {wide_bar:.cyan/238} {msg}"));
            Look::Bars { all: bars.clone(), total, files: BTreeMap::new() }
        } else {
            Look::Lines { last: None }
        };
        Self { output, look }
    }

    /// Draws the job as it is now.
    pub(super) fn show(&mut self, view: &JobView) {
        let text = self.text(view);
        match &mut self.look {
            Look::Bars { all, total, files } => {
                total.set_prefix(view.state.word());
                total.set_length(view.bytes_total.unwrap_or(0));
                total.set_position(view.bytes_done);
                total.set_message(text);
                draw_files(all, files, view, self.output);
            }
            Look::Lines { last } => {
                let due = last.is_none_or(|(at, state)| state != view.state || at.elapsed() >= LINE_EVERY);
                if due && !view.state.is_terminal() {
                    *last = Some((Instant::now(), view.state));
                    note(format!("{:10} {text}", view.state).trim_end());
                }
            }
        }
    }

    /// Takes the bars away.
    pub(super) fn clear(self) {
        if let Look::Bars { all, .. } = self.look {
            // A terminal that went away has nothing to clear.
            let _ = all.clear();
        }
    }

    fn text(&self, view: &JobView) -> String {
        // One that nobody takes says why.
        let is_idle = view.state == State::Queued && view.message.is_some();
        if view.state == State::Waiting || is_idle {
            let why = view.reason.map(|reason| format!("{reason}: ")).unwrap_or_default();
            let what =
                view.message.as_deref().map_or("", |text| text.split("; hint: ").next().unwrap_or(text));
            return format!("{why}{what}");
        }
        let Some(total) = view.bytes_total else { return String::new() };
        let mut parts = vec![format!("{} of {}", self.output.size(view.bytes_done), self.output.size(total))];
        if let Some(files) = view.files_total {
            parts.push(format!("{} of {}", view.files_done, super::output::files(files)));
        }
        if let (State::Fetching, Some(rate)) = (view.state, view.bytes_per_second) {
            parts.push(format!("{}/s", self.output.size(rate)));
            if let Some(left) = view.seconds_left {
                parts.push(format!("{} left", humantime::format_duration(Duration::from_secs(left))));
            }
        }
        parts.join("  ")
    }
}

fn draw_files(all: &MultiProgress, bars: &mut BTreeMap<String, ProgressBar>, view: &JobView, output: Output) {
    bars.retain(|path, bar| {
        let keep = view.active.iter().any(|file| file.path == *path);
        if !keep {
            bar.finish_and_clear();
            all.remove(bar);
        }
        keep
    });
    for file in &view.active {
        if !bars.contains_key(&file.path) && bars.len() >= MAX_BARS {
            continue;
        }
        let bar = bars.entry(file.path.clone()).or_insert_with(|| {
            let bar = all.add(ProgressBar::new(file.bytes_total));
            bar.set_style(style("           {wide_bar:.245/238} {msg}"));
            bar
        });
        bar.set_length(file.bytes_total);
        bar.set_position(file.bytes_done);
        bar.set_message(format!("{} {}", output.size(file.bytes_total), file.path));
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants; a broken one would fall back to the default look.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸━")
}

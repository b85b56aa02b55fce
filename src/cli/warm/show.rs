//! What a night would do, for people.

use jiff::tz::TimeZone;

use super::super::output::{Output, table};
use crate::plan::{Fetching, Finish, HostNight};
use crate::warm::NightView;

/// Reasons for unknown sizes that are told for one host.
const MAX_REASONS: usize = 3;

/// A table for each host, what is dropped, and whether all of it is there in time.
pub(super) fn human(view: &NightView, output: Output) -> String {
    let mut lines = Vec::new();
    for night in &view.plan.hosts {
        let there = night.present.iter().map(|one| {
            vec![one.model.clone(), output.size(one.bytes), "there".into(), String::new(), String::new()]
        });
        let fetched = night.fetch.iter().map(|one| fetching(one, output));
        let rows: Vec<_> = there.chain(fetched).collect();
        if rows.is_empty() {
            continue;
        }
        lines.push(format!("on {}", night.host));
        lines.push(table(&["MODEL", "SIZE", "PLAN", "FROM", "UNTIL"], rows, &[1]));
        for victim in &night.evict {
            let what = format!("{}@{}", victim.repo, &victim.commit.as_str()[..8]);
            lines.push(format!("evict {what}: {}, {}", output.size(victim.bytes), victim.reason.word()));
        }
        lines.extend(reasons(&night.fetch));
        lines.push(format!(
            "{}, {} free for models now",
            to_fetch(night, output),
            output.size(night.disk_free)
        ));
        lines.push(String::new());
    }
    for one in &view.plan.dropped {
        let host = one.host.as_ref().map_or_else(String::new, |host| format!(" on {host}"));
        lines.push(format!("drop {}{host} (priority {}): {}", one.model, one.priority, one.why));
    }
    lines.extend(view.notes.iter().map(|note| format!("note: {note}")));
    lines.push(verdict(view));
    lines.join("\n")
}

fn fetching(one: &Fetching, output: Output) -> Vec<String> {
    let size = one.bytes.map_or_else(|| "unknown".into(), |bytes| output.size(bytes));
    let plan = match one.finishes {
        Finish::Will => "fetch".to_owned(),
        Finish::May if one.bytes.is_none() => "fetch, size unknown".into(),
        Finish::May | Finish::WillNot => "fetch, if the line is fast enough".into(),
    };
    let from = one.starts_at.map_or_else(String::new, clock);
    let until = match (one.ends_at_earliest, one.ends_at) {
        (Some(low), Some(high)) if high.duration_since(low).as_secs() >= 60 => {
            format!("{} to {}", clock(low), clock(high))
        }
        (_, Some(high)) => clock(high),
        (Some(low), None) => format!("{} or later", clock(low)),
        (None, None) => String::new(),
    };
    vec![one.model.clone(), size, plan, from, until]
}

/// By the clock of this machine.
fn clock(at: jiff::Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%a %H:%M").to_string()
}

/// Why sizes are unknown; what is the same for many is told once.
fn reasons(fetch: &[Fetching]) -> Vec<String> {
    let mut whys: Vec<&str> = Vec::new();
    for one in fetch.iter().filter(|one| one.bytes.is_none()) {
        if !whys.contains(&one.why.as_str()) {
            whys.push(&one.why);
        }
    }
    let more = whys.len().saturating_sub(MAX_REASONS);
    let mut lines: Vec<_> = whys.iter().take(MAX_REASONS).map(|why| format!("size unknown: {why}")).collect();
    if more > 0 {
        lines.push(format!("size unknown: {more} more reasons; see --json"));
    }
    lines
}

/// What is known of the bytes of a host, and of how many models it is not.
fn to_fetch(night: &HostNight, output: Output) -> String {
    if let (Some(bytes), Some(disk)) = (night.bytes_to_fetch, night.disk_needed) {
        return format!("{} to fetch, {} of the disk", output.size(bytes), output.size(disk));
    }
    let known: Vec<u64> = night.fetch.iter().filter_map(|one| one.bytes).collect();
    let unknown = format!("{} of unknown size", models(night.fetch.len() - known.len()));
    match known.is_empty() {
        true => format!("{unknown} to fetch"),
        false => format!("{} and {unknown} to fetch", output.size(known.iter().sum())),
    }
}

fn verdict(view: &NightView) -> String {
    let plan = &view.plan;
    let unknown = plan.hosts.iter().flat_map(|night| &night.fetch).filter(|one| one.bytes.is_none()).count();
    let mut doubt = match unknown {
        0 => String::new(),
        count => format!("; the size of {} is unknown", models(count)),
    };
    if !plan.measured {
        doubt.push_str("; how fast the line is will be known after the first download");
    }
    let (end, may) = match plan.deadline {
        Some(deadline) => (
            format!(" by {}", deadline.to_zoned(TimeZone::system()).strftime("%a %Y-%m-%d %H:%M %Z")),
            "may be there",
        ),
        None => (String::new(), "may be there within a week, there is no deadline"),
    };
    match plan.finishes {
        Finish::Will if plan.deadline.is_none() => {
            format!("there is no deadline; it is done within a week{doubt}")
        }
        Finish::Will => format!("all of it is there{end}{doubt}"),
        Finish::May => format!("all of it {may}{end}{doubt}"),
        Finish::WillNot => {
            format!("{} of the manifest will not be there{end}{doubt}", models(plan.dropped.len()))
        }
    }
}

fn models(count: usize) -> String {
    if count == 1 { "1 model".into() } else { format!("{count} models") }
}

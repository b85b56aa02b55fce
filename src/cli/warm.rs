//! `larder warm MANIFEST`: what a night would do, and the jobs that do it.

use std::io::Read as _;
use std::path::Path;

use axum::http::Method;
use jiff::tz::TimeZone;
use larder_jobs::{JobId, JobView, Reason};
use serde::Deserialize;
use serde_json::json;

use super::args::Warm;
use super::client::Client;
use super::output::{Output, note, table};
use super::{OK, stage};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::plan::{Fetching, Finish};
use crate::warm::{Impossible, MAX_BYTES, NightView, Syntax};

/// Exit code of what the manifest itself refuses.
const REFUSED: u8 = 4;

pub(super) async fn run(settings: Settings, warm: Warm, output: &Output) -> Result<u8> {
    let text = read(&warm.manifest)?;
    let syntax = Syntax::of(&warm.manifest);
    if warm.dry_run {
        let view = Client::larder_or_here(settings).await?.warm(&text, syntax).await?;
        output.print(&view, || human(&view, *output))?;
        return Ok(if is_refused(&view) { REFUSED } else { OK });
    }
    let Some(client) = Client::larder(&settings).await? else { return Err(stage::nobody(&settings)) };
    let view = client.warm(&text, syntax).await?;
    if is_refused(&view) {
        output.print(&view, || human(&view, *output))?;
        note("nothing is asked for: not all of it can be there by the deadline, and impossible = \"refuse\"");
        return Ok(REFUSED);
    }
    let name = warm.manifest.file_name().map(|name| name.to_string_lossy().into_owned());
    let asked = client.ask_night(&text, syntax, name.as_deref()).await?;
    let jobs = &asked.batch.children;
    output.print(
        &json!({
            "id": asked.id,
            "created": asked.created,
            "jobs": jobs,
            "finishes": view.plan.finishes,
            "dropped": view.plan.dropped,
        }),
        || human(&view, *output),
    )?;
    if !output.is_json() {
        let what = if asked.created { "accepted" } else { "there already" };
        note(&format!("{} jobs are {what}; follow them with: larder jobs show {}", jobs.len(), asked.id));
    }
    Ok(OK)
}

fn is_refused(view: &NightView) -> bool {
    view.plan.finishes == Finish::WillNot && view.impossible == Impossible::Refuse
}

/// What came of asking for a night.
#[derive(Deserialize)]
struct Asked {
    id: JobId,
    created: bool,
    batch: JobView,
}

impl Client {
    /// Asks for all jobs of a manifest, or for none.
    async fn ask_night(&self, text: &str, syntax: Syntax, name: Option<&str>) -> Result<Asked> {
        let body = json!({"manifest": text, "syntax": syntax, "name": name});
        self.call(Method::POST, "/v1/warm/jobs", Some(body.to_string().into_bytes())).await
    }
}

/// The text of the manifest; `-` is stdin.
fn read(path: &Path) -> Result<String> {
    let io = |error: std::io::Error| Error::io("read the manifest", path, &error);
    let most = MAX_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(most).read_to_end(&mut bytes).map_err(io)?;
    } else {
        std::fs::File::open(path).map_err(io)?.take(most).read_to_end(&mut bytes).map_err(io)?;
    }
    if bytes.len() > MAX_BYTES {
        return Err(Error::new(
            Reason::InvalidRequest,
            format!("the manifest {} is too long; at most 1 MiB is read", path.display()),
            "split it into several manifests",
        ));
    }
    String::from_utf8(bytes).map_err(|_| {
        let what = format!("the manifest {} is no UTF-8 text", path.display());
        Error::new(Reason::InvalidRequest, what, "write it in TOML or YAML")
    })
}

fn human(view: &NightView, output: Output) -> String {
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
        lines.push(format!(
            "{} to fetch, {} of the disk, {} free for models now",
            output.size(night.bytes_to_fetch),
            output.size(night.disk_needed),
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
        Finish::May if one.bytes.is_none() => one.why.clone(),
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

fn verdict(view: &NightView) -> String {
    let plan = &view.plan;
    let rate =
        if plan.measured { "" } else { "; how fast the line is will be known after the first download" };
    let Some(deadline) = plan.deadline else {
        return match plan.finishes {
            Finish::Will => format!("there is no deadline; it is done within a week{rate}"),
            _ => format!("there is no deadline; not all of it is done within a week{rate}"),
        };
    };
    let deadline = deadline.to_zoned(TimeZone::system()).strftime("%a %Y-%m-%d %H:%M %Z");
    match plan.finishes {
        Finish::Will => format!("all of it is there by {deadline}{rate}"),
        Finish::May => format!("all of it may be there by {deadline}{rate}"),
        Finish::WillNot => {
            format!("{} of the manifest will not be there by {deadline}{rate}", models(plan.dropped.len()))
        }
    }
}

fn models(count: usize) -> String {
    if count == 1 { "1 model".into() } else { format!("{count} models") }
}

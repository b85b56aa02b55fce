//! `larder jobs`: look at jobs and change them.

use indicatif::MultiProgress;
use jiff::Timestamp;
use larder_jobs::{JobView, Kind};
use serde_json::json;

use super::OK;
use super::args::Jobs;
use super::client::Client;
use super::output::{Output, ago, model, note, table};
use super::watch::{Signals, Watched, blocked, report, watch};
use crate::config::Settings;
use crate::error::{Error, Result};
use larder_jobs::Reason;

pub(super) async fn run(
    settings: Settings,
    verb: Option<Jobs>,
    output: &Output,
    bars: MultiProgress,
) -> Result<u8> {
    let client = Client::reach_or_here(settings).await?;
    match verb.unwrap_or(Jobs::List { state: None, host: None, limit: 50 }) {
        Jobs::List { state, host, limit } => {
            let jobs = client.jobs(state, host.as_ref(), limit).await?;
            if jobs.is_empty() && !output.is_json() {
                note("no jobs");
            } else {
                output.print(&jobs, || list(&jobs))?;
            }
        }
        Jobs::Show { id } => {
            let view = client.job(id).await?;
            output.print(&view, || show(&view, *output))?;
        }
        Jobs::Cancel { id, requested_by } => {
            let view = client.cancel(id, requested_by.as_deref()).await?;
            output.print(&view, || {
                // Who takes back one wish of several does not stop it.
                let is_one = requested_by.is_some() && view.children.is_empty();
                match (view.state.is_terminal(), view.requested_by.join(", ")) {
                    (true, _) => format!("{id} {}", view.state),
                    (false, others) if is_one && !others.is_empty() => {
                        format!("{id} goes on, since it is wanted by {others}, too")
                    }
                    (false, _) if is_one => {
                        format!("{id} is being stopped, unless somebody without a name wants it")
                    }
                    (false, _) => format!("{id} is being stopped"),
                }
            })?;
        }
        Jobs::Retry { id } => {
            let view = client.retry(id).await?;
            output.print(&view, || format!("{id} {}", view.state))?;
            nobody_runs(&client, output);
        }
        Jobs::Redrive => {
            let redriven = client.redrive().await?;
            output.print(&json!({"redriven": redriven}), || {
                format!("{redriven} failed {} again", if redriven == 1 { "job runs" } else { "jobs run" })
            })?;
            nobody_runs(&client, output);
        }
        Jobs::Watch { id } => {
            // Without an owner nothing would ever change.
            if !client.is_remote() {
                let view = client.job(id).await?;
                return if view.state.is_terminal() { report(&view, output) } else { Err(idle()) };
            }
            return match watch(&client, id, *output, &bars, &mut Signals::new()?).await? {
                Watched::Ended(view) => report(&view, output),
                Watched::Asked(..) => Ok(OK),
                Watched::Blocked(view) => blocked(&view, output),
                Watched::OwnerLeft => Err(idle()),
            };
        }
    }
    Ok(OK)
}

fn idle() -> Error {
    Error::new(
        Reason::QueueUnavailable,
        "no larder works off the queue",
        "start one with larder serve, or stage the model again in the foreground",
    )
}

fn nobody_runs(client: &Client, output: &Output) {
    if !client.is_remote() && !output.is_json() {
        note("no larder works off the queue now; start one with larder serve");
    }
}

fn percent(view: &JobView) -> String {
    match view.bytes_total {
        Some(0) | None => "-".into(),
        Some(total) => format!("{}%", view.bytes_done.min(total).saturating_mul(100) / total),
    }
}

fn list(jobs: &[JobView]) -> String {
    let now = Timestamp::now();
    // On a machine of its own the host says nothing.
    let fleet = jobs.iter().any(|view| view.hosts != jobs[0].hosts);
    // Nearly all are downloads.
    let kinds = jobs.iter().any(|view| view.kind != Kind::Download);
    let rows = jobs.iter().map(|view| {
        let kind = kinds.then(|| view.kind.to_string());
        let mut row: Vec<_> = [view.id.to_string()].into_iter().chain(kind).collect();
        row.extend([
            view.state.to_string(),
            if view.repo.is_none() && view.kind != Kind::Download { "-".into() } else { model(view) },
            percent(view),
            view.attempts.to_string(),
            ago(Some(view.created_at), now),
            view.reason.map(|reason| reason.to_string()).unwrap_or_default(),
        ]);
        if fleet {
            row.push(if view.hosts.is_empty() { "any".into() } else { view.hosts.join(", ") });
        }
        row
    });
    let mut heads: Vec<_> = ["ID"].into_iter().chain(kinds.then_some("KIND")).collect();
    heads.extend(["STATE", "MODEL", "DONE", "ATTEMPTS", "ASKED FOR", "REASON"]);
    heads.extend(fleet.then_some("HOST"));
    let first = heads.len() - 4 - usize::from(fleet);
    table(&heads, rows.collect(), &[first, first + 1])
}

fn show(view: &JobView, output: Output) -> String {
    let time = |time: Option<Timestamp>| time.map_or_else(|| "-".into(), |time| time.to_string());
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".into(), |bytes| output.size(bytes));
    let mut rows = vec![
        ("id", view.id.to_string()),
        ("kind", view.kind.to_string()),
        ("state", view.state.to_string()),
        ("model", model(view)),
        ("commit", view.commit.as_ref().map_or_else(|| "unknown".into(), ToString::to_string)),
        (
            "bytes",
            format!(
                "{} of {}, {} verified, {} fetched",
                output.size(view.bytes_done),
                bytes(view.bytes_total),
                output.size(view.bytes_verified),
                output.size(view.bytes_fetched)
            ),
        ),
        ("attempts", view.attempts.to_string()),
        ("priority", view.priority.to_string()),
        ("hosts", if view.hosts.is_empty() { "any".into() } else { view.hosts.join(", ") }),
        ("asked by", view.requested_by.join(", ")),
        ("asked at", time(Some(view.created_at))),
        ("started", time(view.started_at)),
        ("finished", time(view.finished_at)),
    ];
    rows.extend(view.deadline.map(|deadline| ("deadline", deadline.to_string())));
    rows.extend(view.bytes_per_second.map(|rate| ("speed", format!("{}/s", output.size(rate)))));
    rows.extend(view.seconds_left.map(|seconds| ("time left", format!("{seconds} s"))));
    rows.extend(view.until.map(|until| ("waits until", until.to_string())));
    rows.extend(view.path.clone().map(|path| ("path", path)));
    rows.extend(view.reason.map(|reason| ("reason", reason.to_string())));
    rows.extend(view.message.clone().map(|message| ("message", message)));
    rows.extend(view.placed.clone().map(|placed| ("placed", placed)));
    rows.extend(super::watch::evicted(view, output).map(|gone| ("evicted", gone)));
    rows.extend(
        view.came_back.as_ref().map(|back| ("came back", format!("was evicted at {}", back.evicted_at))),
    );
    rows.extend(view.parent.map(|parent| ("part of", parent.to_string())));
    let rows = rows.into_iter().map(|(name, value)| format!("{name:12} {value}"));
    let text = rows.map(|row| row.trim_end().to_owned()).collect::<Vec<_>>().join("\n");
    if view.children.is_empty() { text } else { format!("{text}\n\n{}", children(view, output)) }
}

/// The jobs of a batch, one line each.
pub(super) fn children(view: &JobView, output: Output) -> String {
    let rows = view.children.iter().map(|child| {
        vec![
            child.id.to_string(),
            child.host.clone().unwrap_or_else(|| "any".into()),
            child.repo.as_ref().map_or_else(|| "unknown".into(), ToString::to_string),
            child.state.to_string(),
            output.size(child.bytes_done),
            child.reason.map(|reason| reason.to_string()).unwrap_or_default(),
        ]
    });
    table(&["ID", "HOST", "MODEL", "STATE", "DONE", "REASON"], rows.collect(), &[4])
}

//! `larder warm MANIFEST`: what a night would do, and the jobs that do it.

mod show;

use std::io::Read as _;
use std::path::Path;

use axum::http::Method;
use larder_jobs::client::{Connection, Placed, Queue, Title};
use larder_jobs::{HostName, Hosts, Job, JobId, JobView, Reason, Target};
use serde::Deserialize;
use serde_json::json;
use sha2::Digest as _;

use super::OK;
use super::args::Warm;
use super::client::Client;
use super::output::{Output, jobs_are, note};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::plan::Finish;
use crate::warm::{Impossible, MAX_BYTES, NightView, Syntax};
use show::human;

/// Exit code of what the manifest itself refuses.
const REFUSED: u8 = 4;

pub(super) async fn run(settings: Settings, warm: Warm, output: &Output) -> Result<u8> {
    let text = read(&warm.manifest)?;
    let syntax = match warm.manifest.as_os_str() == "-" {
        true => Syntax::of_text(&text),
        false => Syntax::of(&warm.manifest),
    };
    let client = Client::larder(&settings).await?;
    if warm.dry_run {
        let client = match client {
            Some(client) => client,
            None => Client::larder_or_here(settings).await?,
        };
        let view = client.warm(&text, syntax).await?;
        output.print(&view, || human(&view, *output))?;
        return Ok(if is_refused(&view) { REFUSED } else { OK });
    }
    let way = match (client, settings.fleet.clone()) {
        (Some(client), _) => Way { client, queue: None },
        // Nobody serves here, but the queue of the fleet knows the hosts that do.
        (None, Some((address, host))) => {
            let client = Client::larder_or_here(settings).await?;
            Way { client, queue: Some((Queue::new(Connection::new(address)), host)) }
        }
        (None, None) => return Err(nobody(&settings)),
    };
    let view = way.client.warm(&text, syntax).await?;
    let none = is_refused(&view) || view.jobs.is_empty();
    if none {
        output.print(&view, || human(&view, *output))?;
        note(match is_refused(&view) {
            true => "nothing is asked for: not all of it can be there, and impossible = \"refuse\"",
            false => "nothing is asked for: none of it can be there, see above why",
        });
        return Ok(REFUSED);
    }
    let name = warm.manifest.file_name().map(|name| name.to_string_lossy().into_owned());
    let asked = match &way.queue {
        None => way.client.ask_night(&text, syntax, name.as_deref()).await?,
        Some((queue, host)) => ask_fleet(queue, host, &text, name, &view).await?,
    };
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
        note(&format!("{} {what}; follow with: larder jobs show {}", jobs_are(jobs.len()), asked.id));
    }
    Ok(OK)
}

/// How a night is planned and asked for: by a larder, or here and through the queue of a fleet as this host.
struct Way {
    client: Client,
    queue: Option<(Queue, HostName)>,
}

fn nobody(settings: &Settings) -> Error {
    Error::new(
        Reason::QueueUnavailable,
        format!("no larder runs for {}, so nobody would fetch anything", settings.state_dir.display()),
        "start one with larder serve, name one elsewhere with --api-url, or see the plan alone with --dry-run",
    )
}

fn is_refused(view: &NightView) -> bool {
    view.plan.finishes == Finish::WillNot && view.impossible == Impossible::Refuse
}

/// Puts the jobs of a plan into the queue of a fleet, all or none, as a larder does that is asked for them.
async fn ask_fleet(
    queue: &Queue,
    this: &HostName,
    text: &str,
    name: Option<String>,
    view: &NightView,
) -> Result<Asked> {
    let now = jiff::Timestamp::now();
    let title = Title {
        id: JobId::random(now),
        requested_by: Some("warm".into()),
        idempotency_key: None,
        name: name.or_else(|| Some("manifest".into())),
        job: None,
        asks: hex::encode(sha2::Sha256::digest(text)),
        notify: None,
    };
    let place = |job: &Job| {
        let host = match &job.common.hosts {
            Hosts::Named(names) => names.first().unwrap_or(this),
            _ => this,
        };
        Placed { id: JobId::random(now), job: job.clone(), target: Target::Host(host.clone()), why: None }
    };
    let (created, id) = queue.enqueue_all(&title, &view.jobs.iter().map(place).collect::<Vec<_>>()).await?;
    let (batch, records) = queue
        .batch(id)
        .await?
        .ok_or_else(|| Error::internal("the queue does not know what it has just taken"))?;
    Ok(Asked { id, created, batch: batch.view(&records, None) })
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
    let io = |error: std::io::Error| {
        use std::io::ErrorKind::{IsADirectory, NotFound, PermissionDenied};
        if !matches!(error.kind(), IsADirectory | NotFound | PermissionDenied) {
            return Error::io("read the manifest", path, &error);
        }
        // Trying again does not help.
        let what = format!("the manifest {} cannot be read: {error}", path.display());
        Error::new(Reason::InvalidRequest, what, "name a file that this user may read, or - for stdin")
    };
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

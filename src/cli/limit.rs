//! `larder limit`: how fast bytes may come, shown and changed while a larder runs.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use axum::http::Method;
use larder_jobs::{Bandwidth, FleetLimits, FleetLimitsChange, JobId, Reason, SourceLimitsChange, SourceName};

use super::OK;
use super::args::{Limit, Requests};
use super::client::{Client, JobLimit, Limits};
use super::output::{Output, table};
use crate::config::Settings;
use crate::error::{Error, Result};

pub(super) async fn run(
    settings: &Settings,
    bandwidth: Option<Limit>,
    job: Option<JobId>,
    output: &Output,
) -> Result<u8> {
    let client = Client::larder(settings).await?.ok_or_else(|| nobody(settings))?;
    match (bandwidth, job) {
        (None, None) => host(&client.limits().await?, *output),
        (Some(Limit(bandwidth)), None) => host(&client.set_limit(bandwidth).await?, *output),
        (Some(Limit(bandwidth)), Some(id)) => one(client.set_job_limit(id, bandwidth).await?, *output),
        (None, Some(id)) => {
            let limits = client.limits().await?;
            let running = limits.jobs.into_iter().find(|job| job.id == id);
            one(running.ok_or_else(|| not_running(id))?, *output)
        }
    }
}

/// What all hosts of the fleet together may take, of one source or as a whole, changed if something is said, and shown.
pub(super) async fn of_fleet(
    settings: Settings,
    source: Option<SourceName>,
    bandwidth: Option<Limit>,
    requests: Option<Requests>,
    output: &Output,
) -> Result<u8> {
    let client = Client::reach(&settings).await?.ok_or_else(|| nobody(&settings))?;
    let bandwidth = bandwidth.map(|Limit(bandwidth)| bandwidth);
    let requests_per_second = requests.map(|Requests(requests)| requests);
    if bandwidth.is_some() || requests_per_second.is_some() {
        let change = match source {
            Some(source) => FleetLimitsChange {
                sources: [(source, SourceLimitsChange { bandwidth, requests_per_second })].into(),
                ..FleetLimitsChange::default()
            },
            None => FleetLimitsChange { bandwidth, requests_per_second, sources: BTreeMap::new() },
        };
        client.change_fleet_limits(&change).await?;
    }
    let limits = client.fleet_limits().await?;
    output.print(&limits, || {
        let row = |of: &str, bandwidth, requests: Option<NonZeroU32>, without: &str| {
            let requests = requests.map_or_else(|| without.to_owned(), |requests| format!("{requests}/s"));
            vec![of.to_owned(), words(bandwidth, *output), requests]
        };
        let whole = row("all sources", limits.bandwidth, limits.requests_per_second, "none");
        let sources = limits.sources.iter();
        let sources = sources
            .map(|(name, own)| row(name.as_str(), own.bandwidth, own.requests_per_second, "as to all"));
        let rows = std::iter::once(whole).chain(sources).collect();
        table(&["OF THE FLEET FROM", "BYTES", "REQUESTS TO EACH"], rows, &[1, 2])
    })?;
    Ok(OK)
}

impl Client {
    async fn fleet_limits(&self) -> Result<FleetLimits> {
        match self.fleet() {
            Some(fleet) => Ok(fleet.limits().await?),
            None => self.call(Method::GET, "/v1/fleet/limits", None).await,
        }
    }

    async fn change_fleet_limits(&self, change: &FleetLimitsChange) -> Result<()> {
        if let Some(fleet) = self.fleet() {
            return Ok(fleet.change_limits(change).await?);
        }
        let body = serde_json::to_vec(change).map_err(|error| Error::internal(error.to_string()))?;
        self.call::<FleetLimits>(Method::PUT, "/v1/fleet/limits", Some(body)).await.map(drop)
    }
}

fn nobody(settings: &Settings) -> Error {
    Error::new(
        Reason::QueueUnavailable,
        format!(
            "no larder runs for {}, so there is no limit to show or to change",
            settings.state_dir.display()
        ),
        "for the next start set hub.bandwidth in the configuration; for one job: larder stage MODEL --bandwidth 20MB",
    )
}

fn not_running(id: JobId) -> Error {
    Error::new(
        Reason::NotFound,
        format!("the job {id} does not run there"),
        "larder limit lists the jobs that run; larder jobs lists them all",
    )
}

fn words(bandwidth: Option<Bandwidth>, output: Output) -> String {
    bandwidth.map_or_else(|| "none".into(), |bandwidth| format!("{}/s", output.size(bandwidth.bytes())))
}

fn one(job: JobLimit, output: Output) -> Result<u8> {
    output.print(&job, || words(job.bandwidth, output))?;
    Ok(OK)
}

fn host(limits: &Limits, output: Output) -> Result<u8> {
    output.print(limits, || {
        let jobs = limits.jobs.iter().map(|job| (job.id.to_string(), job.bandwidth));
        let rows = std::iter::once(("host".to_owned(), limits.bandwidth)).chain(jobs);
        let rows = rows.map(|(whose, bandwidth)| vec![whose, words(bandwidth, output)]);
        table(&["OF", "AT MOST"], rows.collect(), &[1])
    })?;
    Ok(OK)
}

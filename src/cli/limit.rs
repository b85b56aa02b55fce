//! `larder limit`: how fast bytes may come, shown and changed while a larder runs.

use axum::http::Method;
use larder_jobs::{Bandwidth, FleetLimits, JobId, Reason};

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

/// What all hosts of the fleet together may take, shown or changed.
pub(super) async fn of_fleet(
    settings: Settings,
    bandwidth: Option<Limit>,
    requests: Option<Requests>,
    output: &Output,
) -> Result<u8> {
    let client = Client::reach(&settings).await?.ok_or_else(|| nobody(&settings))?;
    let mut limits = client.fleet_limits().await?;
    if bandwidth.is_some() || requests.is_some() {
        limits.bandwidth = bandwidth.map_or(limits.bandwidth, |Limit(bandwidth)| bandwidth);
        limits.requests_per_second =
            requests.map_or(limits.requests_per_second, |Requests(requests)| requests);
        client.set_fleet_limits(limits).await?;
    }
    output.print(&limits, || {
        let requests = limits.requests_per_second;
        let requests = requests.map_or_else(|| "none".into(), |requests| format!("{requests}/s"));
        let rows = [("bytes", words(limits.bandwidth, *output)), ("requests to each source", requests)];
        table(&["OF THE FLEET", "AT MOST"], rows.map(|(what, most)| vec![what.into(), most]).into(), &[1])
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

    async fn set_fleet_limits(&self, limits: FleetLimits) -> Result<()> {
        if let Some(fleet) = self.fleet() {
            return Ok(fleet.set_limits(limits).await?);
        }
        let body = serde_json::to_vec(&limits).map_err(|error| Error::internal(error.to_string()))?;
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

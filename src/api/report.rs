//! `GET /v1/report`: what the runs of schedules and the downloads of the last hours did, from the jobs of the queue and the
//! ledger.

use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State as Shared};
use jiff::{SignedDuration, Timestamp};
use larder_jobs::{HostName, Invalid, Kind, Span, State};

use super::Api;
use super::models::parameters;
use super::problem::Failure;
use crate::error::{Result, blocking};
use crate::keeper::Keeper;
use crate::queue::Filter;
use crate::warm::{Regret, Report};

/// What a report is about if nobody says: a night, and the evening before.
const SINCE: Duration = Duration::from_secs(24 * 3_600);
/// The longest time; jobs are not kept longer by default.
const MOST: Duration = Duration::from_secs(31 * 24 * 3_600);
/// Jobs of each state that are looked at, the newest.
const MAX_JOBS: usize = 1_000;

fn since(text: Option<String>) -> Result<SignedDuration, Invalid> {
    let Some(text) = text else { return Ok(SignedDuration::try_from(SINCE).unwrap_or(SignedDuration::MAX)) };
    let span: Span = text.parse()?;
    match SignedDuration::try_from(span.get()) {
        Ok(since) if span.get() <= MOST && !since.is_zero() => Ok(since),
        _ => Err(Invalid::new("`since` is not between 1s and 31 days", "leave it out for the last 24h")),
    }
}

pub(super) async fn show(
    Shared(api): Shared<Api>,
    RawQuery(query): RawQuery,
) -> Result<Json<Report>, Failure> {
    let [span, by] = parameters(query.as_deref(), ["since", "requested_by"])?;
    if by.as_ref().is_some_and(String::is_empty) {
        return Err(Invalid::new("`requested_by` is empty", "name who asked, or leave it out").into());
    }
    let (since, to) = (since(span)?, Timestamp::now());
    let from = to.checked_sub(since).unwrap_or(Timestamp::MIN);
    let host: HostName = api.host.parse()?;
    let mut report = Report { is_fleet: api.fleet.is_some(), ..Report::new(host, from, to, by) };
    report.add_runs(&api.sampler.latest().runs);
    for kind in [Kind::Download, Kind::Evict] {
        for state in State::ALL {
            let filter =
                Filter { kind: Some(kind), state: Some(*state), limit: MAX_JOBS, ..Filter::default() };
            let records = api.queue.list(filter).await?;
            let oldest = records.iter().filter_map(|record| record.finished_at).min();
            report.is_partial |= records.len() >= MAX_JOBS && oldest.is_none_or(|oldest| oldest >= from);
            for job in records.iter().map(|record| record.view(Some(&api.host))) {
                report.add(&job);
                report.add_evictions(&job);
            }
        }
    }
    let keeper = api.keeper.clone();
    Ok(Json(blocking(move || remembered(&keeper, report)).await?))
}

/// Adds what this host remembers: what went. Blocks.
fn remembered(keeper: &Keeper, mut report: Report) -> Result<Report> {
    for gone in keeper.ledger().gone_since(report.from)? {
        if gone.at >= report.from && gone.at <= report.to {
            report.evicted.models += 1;
            report.evicted.bytes = report.evicted.bytes.saturating_add(gone.bytes);
        }
        if gone.is_regretted()
            && let Some(back_at) = gone.back_at.filter(|back| *back >= report.from)
        {
            let (repo, commit, bytes) = (gone.repo.clone(), gone.commit.clone(), gone.bytes);
            let host = report.host.to_string();
            report.regretted.push(Regret { host, repo, commit, bytes, evicted_at: gone.at, back_at });
        }
    }
    report.regretted.sort_by_key(|regret| regret.back_at);
    Ok(report)
}

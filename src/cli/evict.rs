//! `larder evict`: what would go and why, or have it go.

use indicatif::MultiProgress;
use jiff::Timestamp;
use larder_jobs::{Evict as Wanted, Job, JobView, ModelRef, State, Work};

use super::OK;
use super::args::Evict;
use super::client::Client;
use super::output::{Output, ago, note, table};
use super::stage::{How, finish};
use super::watch::unfinished;
use crate::config::Settings;
use crate::error::Result;
use crate::keeper::{KeptView, PlanView};

pub(super) async fn run(
    settings: Settings,
    evict: Evict,
    output: &Output,
    bars: MultiProgress,
) -> Result<u8> {
    let wants = wants(&evict)?;
    if evict.dry_run {
        return plan(settings, &evict, output).await;
    }
    // A name that means nothing here stops it all before anything goes.
    check(&settings, &evict.models).await?;
    let mut code = OK;
    for want in wants {
        let job = Job::new(Work::Evict(want));
        let ended = finish(settings.clone(), &job, How::default(), output, &bars, report).await?;
        code = code.max(ended);
    }
    if let Some(trash) = settings.config.cache.trash.filter(|_| code == OK && !evict.models.is_empty()) {
        note(&format!("larder restore brings back what was named within {trash}"));
    }
    Ok(code)
}

/// One job for each model, or the one for bytes or an age.
fn wants(evict: &Evict) -> Result<Vec<Wanted>> {
    let of = |model: &ModelRef| Wanted {
        repo: Some(model.repo().clone()),
        revision: model.revision().cloned(),
        ..Wanted::default()
    };
    let mut wants: Vec<Wanted> = evict.models.iter().map(of).collect();
    let others = Wanted { free_bytes: evict.free, older_than: evict.older_than, ..Wanted::default() };
    // What the watermarks ask for is a plan, and no order.
    let is_plan = evict.dry_run && evict.free.is_none() && evict.older_than.is_none();
    if wants.is_empty() && !is_plan {
        others.validate()?;
        wants.push(others);
    }
    Ok(wants)
}

async fn check(settings: &Settings, models: &[ModelRef]) -> Result<()> {
    if models.is_empty() {
        return Ok(());
    }
    // Of a fleet's queue nothing about models can be asked; the job itself tells then.
    if Client::larder(settings).await?.is_none() && settings.fleet.is_some() {
        return Ok(());
    }
    let client = Client::larder_or_here(settings.clone()).await?;
    for model in models {
        client.eviction_plan(&[("model", model.to_string())]).await?;
    }
    Ok(())
}

async fn plan(settings: Settings, evict: &Evict, output: &Output) -> Result<u8> {
    let client = Client::larder_or_here(settings).await?;
    let mut query: Vec<(&str, String)> = Vec::new();
    query.extend(evict.free.map(|size| ("free", size.bytes().to_string())));
    query.extend(evict.older_than.map(|age| ("older_than", age.to_string())));
    let mut plan = PlanView::default();
    if evict.models.is_empty() {
        plan = client.eviction_plan(&query).await?;
    }
    for model in &evict.models {
        let one = client.eviction_plan(&[("model", model.to_string())]).await?;
        plan.freed_bytes += one.freed_bytes;
        plan.evict.extend(one.evict);
        plan.keep.extend(one.keep);
    }
    // What one model's plan keeps because it is not named, another's evicts.
    let gone: Vec<_> = plan.evict.iter().map(|one| (one.repo.clone(), one.commit.clone())).collect();
    plan.keep.retain(|one| !gone.contains(&(one.repo.clone(), one.commit.clone())));
    plan.keep.sort_by(|a, b| (&a.repo, &a.commit).cmp(&(&b.repo, &b.commit)));
    plan.keep.dedup_by(|a, b| (&a.repo, &a.commit) == (&b.repo, &b.commit));
    output.print(&plan, || human(&plan, *output))?;
    Ok(OK)
}

fn human(plan: &PlanView, output: Output) -> String {
    let now = Timestamp::now();
    let row = |one: &KeptView, what: &str| {
        vec![
            format!("{}@{}", one.repo, one.commit.short()),
            output.size(one.bytes),
            ago(one.last_used_at, now),
            what.to_owned(),
            one.reason.replace('_', " "),
        ]
    };
    let evict = plan.evict.iter().map(|one| row(one, "evict"));
    let rows: Vec<_> = evict.chain(plan.keep.iter().map(|one| row(one, "keep"))).collect();
    let mut lines = Vec::new();
    if rows.is_empty() {
        lines.push("no models in the cache".to_owned());
    } else {
        lines.push(table(&["MODEL", "SIZE", "LAST USED", "PLAN", "REASON"], rows, &[1]));
        lines.push(String::new());
    }
    let models = models(plan.evict.len());
    lines.push(format!("{} would become free, with {models}", output.size(plan.freed_bytes)));
    if plan.short_bytes > 0 {
        lines.push(format!("{} less than wanted", output.size(plan.short_bytes)));
    }
    lines.join("\n")
}

fn models(number: usize) -> String {
    if number == 1 { "1 revision".into() } else { format!("{number} revisions") }
}

/// Prints what an eviction did.
pub(super) fn report(view: &JobView, output: &Output) -> Result<u8> {
    let rows: Vec<_> = view
        .evicted
        .iter()
        .map(|one| {
            vec![
                format!("{}@{}", one.repo, one.commit.short()),
                output.size(one.bytes),
                one.reason.replace('_', " "),
            ]
        })
        .collect();
    if view.state != State::Done {
        if !rows.is_empty() && !output.is_json() {
            output.line(&table(&["EVICTED", "FREED", "REASON"], rows, &[1]));
        }
        return unfinished(view, output);
    }
    let more = usize::try_from(view.files_done).unwrap_or(usize::MAX).saturating_sub(rows.len());
    output.print(view, || {
        if rows.is_empty() { String::new() } else { table(&["EVICTED", "FREED", "REASON"], rows, &[1]) }
    })?;
    if !output.is_json() {
        if more > 0 {
            note(&format!("and {more} more"));
        }
        note(&match view.files_done {
            0 => "nothing had to go".into(),
            number => format!(
                "{} freed, with {}",
                output.size(view.bytes_done),
                models(usize::try_from(number).unwrap_or(usize::MAX))
            ),
        });
    }
    Ok(OK)
}

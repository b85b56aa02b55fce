//! `larder plan --category NAME` and `larder plan` of several models: what it takes to evaluate them.

use larder_jobs::{ModelRef, Size, Variant};
use serde_json::Value;

use super::OK;
use super::args::{FileChoice, On, Several};
use super::client::Client;
use super::output::{Output, note, table};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::scout::{EvaluationRow, EvaluationView, Loading, Seconds};

pub(super) async fn run(
    settings: Settings,
    several: Several,
    choice: FileChoice,
    on: On,
    output: &Output,
) -> Result<u8> {
    let body = body(&several, choice, &on)?;
    let view = Client::larder_or_here(settings).await?.evaluate(&body).await?;
    output.print(&view, || human(&view, *output))?;
    if !output.is_json() && view.models.iter().any(|row| row.job.is_some()) {
        note("stage it: larder plan … --json | larder stage --plan -");
    }
    // Of a plan in which nothing could be looked at, the first problem is the answer.
    let first = view.models.first().and_then(|row| row.problem.as_ref());
    let all = view.models.iter().all(|row| row.problem.is_some());
    Ok(first.filter(|_| all).map_or(OK, |problem| problem.reason.exit_code()))
}

fn body(several: &Several, choice: FileChoice, on: &On) -> Result<Value> {
    // The fields of a download, of whichever model, without what names it.
    let any = ModelRef::new("any/model".parse()?, None);
    let variant = choice.variant();
    let job = serde_json::to_value(choice.job(any)).map_err(|error| Error::internal(error.to_string()))?;
    let Value::Object(mut fields) = job else { return Err(Error::internal("a job is an object")) };
    for name in ["kind", "v", "repo", "revision"] {
        fields.remove(name);
    }
    if variant.is_some_and(|variant| variant == Variant::Exact) {
        fields.insert("variant".into(), "exact".into());
    }
    if let Some(category) = &several.category {
        fields.insert("category".into(), category.clone().into());
    }
    if !several.models.is_empty() {
        let names: Vec<Value> = several.models.iter().map(|model| model.to_string().into()).collect();
        fields.insert("models".into(), names.into());
    }
    super::fit::purpose(&mut fields, on);
    Ok(Value::Object(fields))
}

fn human(view: &EvaluationView, output: Output) -> String {
    let rows = view.models.iter().map(|row| row_of(row, output));
    let listed = table(
        &[
            "#",
            "MODEL",
            "VARIANT",
            "FROM",
            "SIZE",
            "TO FETCH",
            "FETCHING",
            "LOADING (WARM)",
            "BATCH",
            "FITS",
            "WHY",
        ],
        rows.collect(),
        &[0, 4, 5, 8],
    );
    let staged = view.models.iter().filter(|row| row.job.is_some()).count();
    let drift = view.models.iter().flat_map(|row| row.drift.iter().map(|one| (&row.model, one)));
    let drift: String = drift
        .map(|(model, one)| {
            format!("the registry says of {model} {} = {}, the repo {}\n", one.key, one.registry, one.repo)
        })
        .collect();
    format!(
        "on {}\n\n{listed}\n\n{drift}{staged} of {} models: {} in all, {} to fetch in {}, loading takes {} from the disk (from memory)",
        view.target.called(),
        view.models.len(),
        output.size(view.bytes_total),
        output.size(view.bytes_to_fetch),
        seconds(Some(view.seconds_to_fetch)),
        loading(Some(view.seconds_to_load)),
    )
}

fn row_of(row: &EvaluationRow, output: Output) -> Vec<String> {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".into(), |bytes| output.size(bytes));
    let from = if row.repo == row.model { String::new() } else { row.repo.to_string() };
    vec![
        row.order.to_string(),
        row.model.to_string(),
        row.variant.clone().unwrap_or_else(|| "-".into()),
        from,
        size(row.bytes_total),
        size(row.bytes_to_fetch),
        seconds(row.seconds_to_fetch),
        loading(row.seconds_to_load),
        row.batch.map_or_else(|| "-".into(), |batch| batch.to_string()),
        row.verdict.word().into(),
        row.why.clone(),
    ]
}

/// `12 s`, or `3 s to 5 min` where nobody has measured.
fn seconds(of: Option<Seconds>) -> String {
    let Some(of) = of else { return "-".into() };
    let (low, high) = (span(of.low), span(of.high));
    if of.measured || low == high { high } else { format!("{low} to {high}") }
}

/// `31 s (2 s)`: from the disk, and from memory.
fn loading(of: Option<Loading>) -> String {
    of.map_or_else(|| "-".into(), |of| format!("{} ({})", seconds(Some(of.cold)), seconds(Some(of.warm))))
}

fn span(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => "less than 1 s".into(),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3_600.0),
    }
}

/// The jobs of a plan that `larder plan --json` printed.
///
/// # Errors
/// `invalid_request` if it is none.
pub(super) fn jobs(text: &str) -> Result<Vec<larder_jobs::Job>> {
    let plan: EvaluationView = serde_json::from_str(text).map_err(|error| {
        Error::new(
            larder_jobs::Reason::InvalidRequest,
            format!("this is no evaluation plan: {error}"),
            "write it with larder plan --category NAME --json",
        )
    })?;
    let left_out = plan.models.iter().filter(|row| row.job.is_none());
    left_out.for_each(|row| note(&format!("{} is left out: {}", row.model, row.why)));
    let total = Size(plan.bytes_to_fetch);
    note(&format!("{total} to fetch"));
    Ok(plan.models.into_iter().filter_map(|row| row.job).collect())
}

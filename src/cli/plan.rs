//! `larder plan`, `larder stage --dry-run`: what would happen, and nothing else.

use larder_jobs::{Job, Work};
use tokio_util::sync::CancellationToken;

use super::OK;
use super::args::{FileChoice, On, Several};
use super::evaluate;
use super::output::{Output, files, table};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::plan::{Skip, Weights};
use crate::scout::PlanView;
use crate::serve;
use crate::worker;

/// What staging one model would do, or what it takes to evaluate several.
pub(super) async fn either(
    settings: Settings,
    several: Several,
    choice: FileChoice,
    on: On,
    output: &Output,
) -> Result<u8> {
    match several.models.as_slice() {
        [model] if several.category.is_none() && on.is_empty() => {
            let job = choice.job(model.clone());
            job.validate()?;
            run(settings, job, output).await
        }
        _ => evaluate::run(settings, several, choice, on, output).await,
    }
}

pub(super) async fn run(settings: Settings, job: Job, output: &Output) -> Result<u8> {
    let Work::Download(want) = job.work else { return Err(Error::internal("only downloads are planned")) };
    let hub = Hub::new(&settings.config.hub, settings.tokens.clone())?;
    let context = serve::planner(&settings, hub, true)?;
    let view = worker::plan_view(&context, &want, &CancellationToken::new()).await?;
    output.print(&view, || human(&view, *output))?;
    Ok(OK)
}

fn human(view: &PlanView, output: Output) -> String {
    let rows = view.plan.files.iter().map(|file| {
        let todo = match file.to_fetch {
            0 => "there".to_owned(),
            bytes if bytes == file.bytes => "fetch".to_owned(),
            bytes => format!("fetch the last {}", output.size(bytes)),
        };
        vec![file.path.clone(), output.size(file.bytes), todo]
    });
    let skipped =
        view.skipped.iter().map(|file| vec![file.path.to_string(), String::new(), why(file.reason).into()]);
    let listed = table(&["FILE", "SIZE", "PLAN"], rows.chain(skipped).collect(), &[1]);
    let plan = &view.plan;
    let mut lines = vec![format!("{}@{}", view.repo, view.commit), String::new(), listed, String::new()];
    if let Some(chosen) = &view.chosen {
        lines.push(format!("variant {} because of the GPU: {}", chosen.variant, chosen.why));
    } else if let Some(Weights::Gguf(Some(quant))) = &view.weights {
        lines.push(format!("quantization {quant}; name another with --include '*Q8_0*'"));
    }
    lines.push(format!(
        "{} in {}: {} there, {} to fetch",
        output.size(plan.bytes_total),
        files(u64::try_from(plan.files.len()).unwrap_or(u64::MAX)),
        output.size(plan.bytes_present),
        output.size(plan.bytes_to_fetch)
    ));
    if let (Some(free), Some(keep)) = (plan.disk_free, plan.keep_free) {
        let left = free.saturating_sub(plan.disk_needed);
        lines.push(format!(
            "disk: {} free, {} after it, {} stay free by policy",
            output.size(free),
            output.size(left),
            output.size(keep)
        ));
    }
    match (&view.fit, &view.fit_problem) {
        (Some(fit), _) => lines.extend(super::fit::in_short(fit)),
        (None, Some(problem)) => lines.push(format!("nobody can tell whether it fits: {}", problem.detail)),
        (None, None) => {}
    }
    lines.join("\n")
}

fn why(skip: Skip) -> &'static str {
    match skip {
        Skip::Pattern => "skip: the patterns",
        Skip::OtherFormat => "skip: another format of the same weights",
        Skip::OtherRuntime => "skip: for another runtime",
        Skip::OtherVariant => "skip: another variant",
        Skip::Unsafe => "skip: pickle, see --allow-unsafe",
        Skip::RemoteCode => "skip: the repo's code, see --allow-unsafe",
    }
}

//! `larder plan`, `larder stage --dry-run`: what would happen, and nothing else.

use larder_jobs::{CommitId, FilePath, RepoId, Work};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::OK;
use super::args::Want;
use super::output::{Output, files, table};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::plan::{DownloadPlan, Skip, Weights};
use crate::serve;
use crate::worker::{self, Planned};

/// The plan as it is printed.
#[derive(Serialize)]
struct View {
    repo: RepoId,
    commit: CommitId,
    weights: Option<Weights>,
    #[serde(flatten)]
    plan: DownloadPlan,
    skipped: Vec<SkippedFile>,
}

#[derive(Serialize)]
struct SkippedFile {
    path: FilePath,
    reason: Skip,
}

pub(super) async fn run(settings: Settings, want: Want, output: &Output) -> Result<u8> {
    let job = want.job();
    job.validate()?;
    let Work::Download(want) = job.work else { return Err(Error::internal("only downloads are planned")) };
    let hub = Hub::new(&settings.config.hub, settings.tokens.clone())?;
    let context = serve::planner(&settings, hub, true);
    let planned = worker::plan(&context, &want, &CancellationToken::new()).await?;
    let view = view(planned);
    output.print(&view, || human(&view, *output))?;
    Ok(OK)
}

fn view(planned: Planned) -> View {
    let (weights, skipped) = match planned.chosen {
        Some(chosen) => (Some(chosen.weights), chosen.skipped),
        None => (None, Vec::new()),
    };
    let skipped = skipped.into_iter().map(|(path, reason)| SkippedFile { path, reason });
    View {
        repo: planned.repo,
        commit: planned.commit,
        weights,
        plan: planned.plan,
        skipped: skipped.collect(),
    }
}

fn human(view: &View, output: Output) -> String {
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
    if let Some(Weights::Gguf(Some(quant))) = &view.weights {
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

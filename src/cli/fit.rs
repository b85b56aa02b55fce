//! `larder fit`: will it fit, and at which quantization?

use serde_json::{Map, Value};

use super::args::{On, Want};
use super::client::Client;
use super::output::{Output, note, table};
use super::{FAILED, OK};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::fit::{Verdict, gib};
use crate::scout::{FitView, VariantView};

/// Parts of less than this are not worth a word.
const SHOWN: u64 = 5 << 20;

pub(super) async fn run(settings: Settings, want: Want, on: On, output: &Output) -> Result<u8> {
    let body = body(want, &on)?;
    let view = Client::larder_or_here(settings).await?.fit(&body).await?;
    output.print(&view, || human(&view, *output))?;
    if !output.is_json() {
        for one in &view.notes {
            note(&format!("note: {one}"));
        }
    }
    // A script that asks gets its answer from the exit code, too.
    Ok(if view.verdict == Verdict::No { FAILED } else { OK })
}

/// The body of `POST /v1/fit` for what was typed.
pub(super) fn body(want: Want, on: &On) -> Result<Value> {
    let job = want.job();
    job.validate()?;
    let mut body = serde_json::to_value(&job).map_err(|error| Error::internal(error.to_string()))?;
    if let Some(fields) = body.as_object_mut() {
        purpose(fields, on);
    }
    Ok(body)
}

/// What for, as fields of a body.
pub(super) fn purpose(fields: &mut Map<String, Value>, on: &On) {
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.into(), value);
        }
    };
    put("gpu", on.gpu.clone().map(Value::from));
    put("vram", on.vram.map(|size| size.bytes().into()));
    put("gpus", on.gpus.map(Value::from));
    put("context", on.context.map(Value::from));
    put("batch", on.batch.map(Value::from));
    put("engine", on.engine.map(|engine| engine.word().into()));
    put("local", on.local.then_some(true.into()));
}

fn human(view: &FitView, output: Output) -> String {
    let mut lines = vec![title(view), String::new()];
    lines.push(format!("{}: {}", view.verdict.word(), view.reason));
    if let (Some(terms), Some(total)) = (view.terms, view.total_bytes) {
        let part = |name: &str, bytes: u64| (bytes >= SHOWN).then(|| format!("{name} {}", gib(bytes)));
        let parts = [
            part("weights", terms.weights),
            part("KV cache", terms.kv_cache),
            part("activations", terms.activations),
            part("logits", terms.logits),
            part("CUDA context", terms.context),
            part("workspace", terms.workspace),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        lines.push(format!("{} = {}", gib(total), parts.join(" + ")));
        let unverified = view.provenance.is_some_and(|of| of.unverified);
        let range =
            (view.low_bytes.map_or_else(String::new, gib), view.high_bytes.map_or_else(String::new, gib));
        lines.push(format!(
            "expected between {} and {}, for {} with {} tokens and a batch of {}{}",
            range.0,
            range.1,
            view.engine,
            view.context,
            view.batch,
            if unverified { "; the formulas of this engine are not verified" } else { "" }
        ));
    }
    if !view.variants.is_empty() {
        lines.extend([String::new(), rows(&view.variants, output), String::new()]);
        lines.push(view.recommendation.clone());
    }
    lines.extend(oddities(view));
    lines.join("\n")
}

/// Whether a model that is looked at for another reason fits, and what is odd about it.
pub(super) fn in_short(view: &FitView) -> Vec<String> {
    let verdict = match view.target.budget_bytes {
        Some(_) => format!("{} on {}: {}", view.verdict.word(), view.target.called(), view.reason),
        // Why none is known is told by `larder info`.
        None => {
            format!("no GPU is known here; larder fit {} --gpu NAME tells whether it fits one", view.repo)
        }
    };
    std::iter::once(verdict).chain(oddities(view)).collect()
}

/// Where the registry is wrong, and what is wrong with the files.
fn oddities(view: &FitView) -> impl Iterator<Item = String> {
    let drift = view.drift.iter();
    let drift =
        drift.map(|one| format!("the registry says {} = {}, the repo {}", one.key, one.registry, one.repo));
    let found = view.findings.iter().map(|one| format!("{}: {}; {}", one.severity, one.what, one.hint));
    drift.chain(found)
}

fn title(view: &FitView) -> String {
    let commit = view.commit.as_ref().map_or_else(String::new, |commit| format!("@{}", commit.short()));
    format!("{}{commit} on {}", view.repo, view.target.called())
}

fn rows(variants: &[VariantView], output: Output) -> String {
    let unknown = || "-".to_owned();
    let number = |n: Option<u64>| n.map_or_else(unknown, |n| n.to_string());
    let rows = variants.iter().map(|one| {
        let verdict =
            if one.recommended { format!("{} *", one.verdict.word()) } else { one.verdict.word().into() };
        vec![
            one.variant.clone(),
            one.repo.to_string(),
            one.download_bytes.map_or_else(unknown, |bytes| output.size(bytes)),
            one.vram_bytes.map_or_else(unknown, |bytes| output.size(bytes)),
            tier(one),
            number(one.largest_batch),
            number(one.largest_context),
            one.engine.to_string(),
            verdict,
            one.why_not.clone().unwrap_or_default(),
        ]
    });
    table(
        &["VARIANT", "REPO", "DOWNLOAD", "VRAM", "QUALITY", "BATCH", "CONTEXT", "ENGINE", "FITS", "WHY NOT"],
        rows.collect(),
        &[2, 3, 5, 6],
    )
}

fn tier(one: &VariantView) -> String {
    // The word as in JSON.
    serde_json::to_value(one.tier)
        .ok()
        .and_then(|word| Some(word.as_str()?.replace('_', " ")))
        .unwrap_or_default()
}

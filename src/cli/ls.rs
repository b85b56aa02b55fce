//! `larder ls`: the models in the cache.

use jiff::Timestamp;
use larder_jobs::{ModelRef, Reason};

use super::OK;
use super::client::Client;
use super::output::{Output, ago, note, table};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::ledger::ModelView;

pub(super) async fn run(settings: Settings, model: Option<ModelRef>, output: &Output) -> Result<u8> {
    let root = settings.cache_root.clone();
    let client = Client::larder_or_here(settings).await?;
    let mut models = client.models().await?;
    if let Some(model) = &model {
        models.retain(|view| view.is(model));
        if models.is_empty() {
            return Err(Error::new(
                Reason::NotFound,
                format!("{model} is not in the cache {}", root.display()),
                format!("stage it: larder stage {model}"),
            ));
        }
    }
    if models.is_empty() && !output.is_json() {
        note(&format!("no models in {}; stage one: larder stage openai-community/gpt2", root.display()));
        return Ok(OK);
    }
    output.print(&models, || human(&models, *output))?;
    Ok(OK)
}

fn keep(view: &ModelView) -> String {
    let words = [(view.pinned, "pinned"), (view.leased, "leased"), (view.in_use == Some(true), "in use")];
    words.iter().filter(|(holds, _)| *holds).map(|(_, word)| *word).collect::<Vec<_>>().join(",")
}

fn human(models: &[ModelView], output: Output) -> String {
    let now = Timestamp::now();
    let rows = models.iter().map(|view| {
        let revisions = view.revisions.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        vec![
            view.repo.to_string(),
            if revisions.is_empty() { "-".into() } else { revisions },
            view.commit.short().to_owned(),
            output.size(view.bytes),
            view.files.to_string(),
            ago(view.last_used_at, now),
            keep(view),
            view.origin.word().to_owned(),
        ]
    });
    table(
        &["MODEL", "REVISION", "COMMIT", "SIZE", "FILES", "LAST USED", "KEEP", "ORIGIN"],
        rows.collect(),
        &[3, 4],
    )
}

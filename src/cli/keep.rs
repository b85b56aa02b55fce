//! `larder pin`, `unpin`, `lease`, `release` and `restore`: who wants a model kept, and for how long.

use larder_jobs::{ModelRef, Span};

use super::OK;
use super::client::Client;
use super::output::{Output, at, note};
use crate::config::Settings;
use crate::error::Result;
use crate::ledger::ModelView;

pub(super) async fn pin(settings: Settings, model: ModelRef, pinned: bool, output: &Output) -> Result<u8> {
    let client = Client::larder_or_here(settings).await?;
    let models = client.set_pin(&model, pinned).await?;
    let what =
        if pinned { "is pinned: nothing evicts it until it is unpinned" } else { "is not pinned any more" };
    tell(&models, what, output)
}

pub(super) async fn restore(settings: Settings, model: ModelRef, output: &Output) -> Result<u8> {
    let client = Client::larder_or_here(settings).await?;
    tell(&client.restore(&model).await?, "is back", output)
}

pub(super) async fn lease(
    settings: Settings,
    model: ModelRef,
    ttl: Span,
    holder: Option<String>,
    output: &Output,
) -> Result<u8> {
    let client = Client::larder_or_here(settings).await?;
    let holder = holder.unwrap_or_else(user);
    let models = client.lease(&model, &holder, ttl).await?;
    let until = models.iter().flat_map(|model| &model.leases).find(|lease| lease.holder == holder);
    let until = until.map_or_else(String::new, |lease| format!(" until {}", at(lease.until)));
    tell(&models, &format!("is leased to {holder}{until}"), output)
}

pub(super) async fn release(
    settings: Settings,
    model: ModelRef,
    holder: Option<String>,
    all: bool,
    output: &Output,
) -> Result<u8> {
    let client = Client::larder_or_here(settings).await?;
    let holder = if all { None } else { Some(holder.unwrap_or_else(user)) };
    let models = client.release(&model, holder.as_deref()).await?;
    let whose = holder.unwrap_or_else(|| "anybody".into());
    tell(&models, &format!("is not leased to {whose} any more"), output)
}

/// The name that leases of a person have.
fn user() -> String {
    let named = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    named
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

fn tell(models: &[ModelView], what: &str, output: &Output) -> Result<u8> {
    if output.is_json() {
        output.print(&models, String::new)?;
        return Ok(OK);
    }
    for model in models {
        note(&format!("{}@{} {what}", model.repo, model.commit.short()));
    }
    Ok(OK)
}

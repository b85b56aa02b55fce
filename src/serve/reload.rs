//! SIGHUP: the configuration is read again, and what may change while larder runs is applied.

use larder_jobs::Bandwidth;
use tokio::signal::unix::Signal;

use super::House;
use crate::api::Door;
use crate::config::{Config, Environment, Sources};
use crate::error::{Error, Result};

/// On each SIGHUP applies `hub.bandwidth`, who is let in, and what notices are signed with. Never returns: what runs
/// beside it does.
pub(super) async fn on_hangup(hangup: &mut Signal, sources: &Sources, house: &House, door: Option<Door>) {
    while hangup.recv().await.is_some() {
        let sources = sources.clone();
        let read = tokio::task::spawn_blocking(move || Config::load(&sources, &Environment::process())).await;
        match read.unwrap_or_else(|died| Err(Error::internal(format!("reading it died: {died}")))) {
            Ok(config) => apply(&config, house, door.as_ref()),
            Err(error) => tracing::warn!(
                %error,
                hint = error.hint(),
                "SIGHUP: the configuration is refused, nothing changes"
            ),
        }
    }
    std::future::pending::<()>().await;
}

fn apply(config: &Config, house: &House, door: Option<&Door>) {
    house.hub.limits().set_bandwidth(config.hub.bandwidth);
    if let Some(door) = door {
        told("tokens and certificate", door.reload(&config.api));
    }
    if house.api.notifier.is_able() || !config.notify.secret_file.is_empty() {
        told("the secrets of notices", house.api.notifier.reload(&config.notify));
    }
    let bandwidth = config.hub.bandwidth.map(Bandwidth::bytes);
    tracing::info!(bandwidth, "SIGHUP: hub.bandwidth is applied; every other key applies at the next start");
}

fn told(what: &str, read: Result<()>) {
    match read {
        Ok(()) => tracing::info!("SIGHUP: {what} are read again"),
        Err(error) => {
            tracing::warn!(%error, hint = error.hint(), "SIGHUP: {what} stay as they were");
        }
    }
}

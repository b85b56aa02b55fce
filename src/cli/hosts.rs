//! `larder hosts`: who is in the fleet, who has which model, who takes no jobs.

use axum::http::Method;
use jiff::Timestamp;
use larder_jobs::client::why_nobody;
use larder_jobs::{HostGpu, HostName, HostState, Labels, ModelRef, Presence};

use super::OK;
use super::args::Hosts;
use super::client::{Client, queried};
use super::output::{Output, ago, note, table};
use crate::api::{FleetHost, HostList};
use crate::config::Settings;
use crate::error::Result;

pub(super) async fn run(settings: Settings, verb: Option<Hosts>, output: &Output) -> Result<u8> {
    let client = Client::reach_or_here(settings).await?;
    match verb.unwrap_or(Hosts::List { model: None, labels: None }) {
        Hosts::List { model, labels } => {
            let list = client.hosts(model.as_ref(), labels.as_ref()).await?;
            if list.hosts.is_empty() && !output.is_json() {
                note(&match (&model, &labels) {
                    (Some(_), _) => "no host of the fleet has it".to_owned(),
                    (None, Some(labels)) => {
                        let all = client.hosts(None, None).await?;
                        let hosts: Vec<_> = all.hosts.into_iter().map(|view| view.host).collect();
                        why_nobody(labels, &hosts)
                            .map_or_else(String::new, |why| format!("{}; {}", why.what(), why.hint()))
                    }
                    (None, None) => "no hosts".to_owned(),
                });
            } else {
                output.print(&list.hosts, || many(&list.hosts, *output))?;
            }
        }
        Hosts::Show { host } => {
            let view = client.fleet_host(&host).await?;
            output.print(&view, || one(&view, *output))?;
        }
        Hosts::Drain { host, requested_by } => {
            let view = client.drain(&host, true, requested_by.as_deref()).await?;
            output.print(&view, || format!("{host} takes no more jobs; what runs there goes on"))?;
            let waits = view.host.queued + view.host.waiting;
            if waits > 0 && !output.is_json() {
                let jobs = if waits == 1 { "1 job waits".to_owned() } else { format!("{waits} jobs wait") };
                note(&format!("{jobs} in its queue until larder hosts undrain {host}"));
            }
        }
        Hosts::Undrain { host } => {
            let view = client.drain(&host, false, None).await?;
            output.print(&view, || match view.host.state {
                Presence::Gone => format!("{host} is gone, and takes jobs when it is back"),
                _ => format!("{host} takes jobs again"),
            })?;
        }
    }
    Ok(OK)
}

impl Client {
    async fn hosts(&self, model: Option<&ModelRef>, labels: Option<&Labels>) -> Result<HostList> {
        if let Some(fleet) = self.fleet() {
            return listed(fleet, model, labels).await;
        }
        let mut query: Vec<_> = model.map(|model| ("model", model.to_string())).into_iter().collect();
        query.extend(labels.map(|labels| ("labels", labels.to_string())));
        self.call(Method::GET, &format!("/v1/hosts{}", queried(&query)), None).await
    }

    async fn fleet_host(&self, name: &HostName) -> Result<FleetHost> {
        let Some(fleet) = self.fleet() else {
            return self.call(Method::GET, &format!("/v1/hosts/{name}"), None).await;
        };
        let host = fleet.host(name).await?;
        Ok(FleetHost { host, held: Some(fleet.stock(name).await?) })
    }

    async fn drain(&self, name: &HostName, drained: bool, by: Option<&str>) -> Result<FleetHost> {
        if let Some(fleet) = self.fleet() {
            fleet.drain(name, drained, by).await?;
            return self.fleet_host(name).await;
        }
        let method = if drained { Method::PUT } else { Method::DELETE };
        let by: Vec<_> = by.map(|by| ("requested_by", by.to_owned())).into_iter().collect();
        self.call(method, &format!("/v1/hosts/{name}/drain{}", queried(&by)), None).await
    }
}

/// The hosts of a fleet that this machine is no part of.
async fn listed(
    fleet: &larder_jobs::client::Client,
    model: Option<&ModelRef>,
    labels: Option<&Labels>,
) -> Result<HostList> {
    let held = match model {
        Some(model) => Some(fleet.holders(model).await?),
        None => None,
    };
    let mut hosts = Vec::new();
    for host in fleet.hosts().await? {
        let held: Option<Vec<_>> =
            held.as_ref().map(|held| held.iter().filter(|held| held.host == host.name).cloned().collect());
        let is_meant = labels.is_none_or(|labels| labels.select(&host.labels()));
        if is_meant && held.as_ref().is_none_or(|held| !held.is_empty()) {
            hosts.push(FleetHost { host, held });
        }
    }
    Ok(HostList { hosts })
}

fn many(hosts: &[FleetHost], output: Output) -> String {
    let with_models = hosts.iter().any(|view| view.held.is_some());
    let rows = hosts.iter().map(|view| {
        let mut row = row(&view.host, output);
        for held in view.held.iter().flatten().take(1) {
            row.push(held.commit.short().to_owned());
            row.push(output.size(held.bytes));
        }
        row
    });
    let mut heads =
        vec!["HOST", "STATE", "HEALTH", "GPUS", "VRAM FREE", "ROOM", "MODELS", "RUNS", "QUEUED", "SEEN"];
    if with_models {
        heads.extend(["COMMIT", "SIZE"]);
    }
    table(&heads, rows.collect(), &[4, 5, 6, 7, 8])
}

fn row(host: &HostState, output: Output) -> Vec<String> {
    let unknown = || "unknown".to_owned();
    let about = host.about.as_ref();
    let room = about.and_then(|about| about.disk.room).map_or_else(unknown, |room| output.size(room));
    let free: Option<u64> = about.and_then(|about| about.gpus.iter().map(|gpu| gpu.memory_free).sum());
    let health = about.map_or_else(unknown, |about| match about.health.reasons.as_slice() {
        [] => about.health.state.clone(),
        reasons => format!("{} ({})", about.health.state, reasons.join(", ")),
    });
    vec![
        host.name.to_string(),
        host.state.word().to_owned(),
        health,
        about.map_or_else(unknown, |about| cards(&about.gpus)),
        free.map_or_else(unknown, |free| output.size(free)),
        room,
        about.map_or_else(unknown, |about| about.models.to_string()),
        host.running.map_or_else(unknown, |count| count.to_string()),
        (host.queued + host.waiting).to_string(),
        if host.state == Presence::Gone && host.seen_at.is_none() {
            "never".into()
        } else {
            ago(host.seen_at, Timestamp::now())
        },
    ]
}

/// `8 x NVIDIA H100`, or `none`.
fn cards(gpus: &[HostGpu]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for gpu in gpus {
        match counts.iter_mut().find(|(name, _)| *name == gpu.name) {
            Some((_, count)) => *count += 1,
            None => counts.push((&gpu.name, 1)),
        }
    }
    let words: Vec<_> = counts
        .into_iter()
        .map(|(name, count)| if count == 1 { name.to_owned() } else { format!("{count} x {name}") })
        .collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

fn one(view: &FleetHost, output: Output) -> String {
    let (host, unknown) = (&view.host, || "unknown".to_owned());
    let about = host.about.as_ref();
    let size = |bytes: Option<u64>| bytes.map_or_else(unknown, |bytes| output.size(bytes));
    let mut lines = vec![
        ("host", format!("{}, {}", host.name, host.state.word())),
        ("version", about.map_or_else(unknown, |about| about.version.clone())),
        ("labels", about.map_or_else(unknown, |about| about.labels.to_string())),
        ("health", row(host, output).swap_remove(2)),
        ("gpus", about.map_or_else(unknown, |about| cards(&about.gpus))),
        ("room", size(about.and_then(|about| about.disk.room))),
        ("evictable", size(about.and_then(|about| about.disk.evictable))),
        ("queue", format!("{} queued, {} waiting", host.queued, host.waiting)),
    ];
    if let Some(about) = about {
        let ids: Vec<_> = about.running.iter().map(ToString::to_string).collect();
        lines.push(("runs", ids.join(", ")));
    }
    if let Some(drained) = &host.drained {
        let by = drained.by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
        lines.push(("drained", format!("{}{by}", ago(Some(drained.since), Timestamp::now()))));
    }
    let lines = lines.into_iter().map(|(name, value)| format!("{name:10} {value}").trim_end().to_owned());
    let mut text = lines.collect::<Vec<_>>().join("\n");
    let held = view.held.iter().flatten();
    let rows: Vec<_> = held
        .map(|held| {
            let used = ago(held.last_used_at, Timestamp::now());
            vec![held.repo.to_string(), held.commit.short().to_owned(), output.size(held.bytes), used]
        })
        .collect();
    if !rows.is_empty() {
        text.push_str("\n\n");
        text.push_str(&table(&["MODEL", "COMMIT", "SIZE", "USED"], rows, &[2]));
    }
    text
}

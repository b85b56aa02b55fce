//! The manifest of a night, in TOML or YAML.

mod raw;
mod trouble;

use std::collections::HashMap;
use std::path::Path;

use jiff::Timestamp;
use jiff::civil::Time;
use larder_jobs::{
    Bandwidth, Download, Hosts, Invalid, Job, ModelRef, RepoId, Revision, Window, Windows, Work, Zone,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::NightOrder;
use raw::{Raw, RawWish};
use trouble::{at_line, line_of};

/// Most bytes of a manifest.
pub const MAX_BYTES: usize = 1 << 20;
/// Most models of a manifest.
pub const MAX_MODELS: usize = 1_000;
/// Days in which a time of the day comes by, whatever the clocks do.
const DAYS: i64 = 3;

/// How a manifest is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Syntax {
    /// TOML.
    #[default]
    Toml,
    /// YAML.
    Yaml,
}

impl Syntax {
    /// By the ending of the file; TOML unless it says YAML.
    pub fn of(path: &Path) -> Self {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        match ending.to_ascii_lowercase().as_str() {
            "yaml" | "yml" => Self::Yaml,
            _ => Self::Toml,
        }
    }

    /// By the first line that says something: TOML has `key = value` or `[table]` there, YAML `key: value` or `- item`.
    pub fn of_text(text: &str) -> Self {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let Some(first) = lines.next() else { return Self::Toml };
        let is_table = first.starts_with('[') && first.ends_with(']') && first.len() > 2;
        let key = first.find(['=', ':']).map(|at| first.as_bytes()[at]);
        match is_table || key == Some(b'=') {
            true => Self::Toml,
            false => Self::Yaml,
        }
    }
}

/// What happens when not everything can be there by the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Impossible {
    /// Nothing is asked for.
    #[default]
    Refuse,
    /// What can be there is asked for; the rest is told.
    Warn,
}

/// When everything should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deadline {
    /// At this moment.
    At(Timestamp),
    /// When the clock of the zone shows this next.
    Daily(Time, Zone),
}

impl Deadline {
    /// The moment, as seen from `now`.
    pub fn after(&self, now: Timestamp) -> Timestamp {
        let (time, zone) = match self {
            Self::At(at) => return *at,
            Self::Daily(time, zone) => (*time, zone.rules()),
        };
        let today = zone.to_datetime(now).date();
        let days = (0..=DAYS).filter_map(|days| today.checked_add(jiff::Span::new().days(days)).ok());
        // A time that the clock skips is the one after the jump.
        let moments =
            days.filter_map(|day| zone.to_ambiguous_timestamp(day.to_datetime(time)).compatible().ok());
        moments.into_iter().find(|moment| *moment > now).unwrap_or(Timestamp::MAX)
    }
}

/// One model of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// What to stage.
    pub download: Download,
    /// Higher is fetched first and dropped last.
    pub priority: i16,
    /// Where.
    pub hosts: Hosts,
}

/// What should be there, and when bytes may come for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The hours; always without.
    pub windows: Option<Windows>,
    /// Bytes per second that each host may take within the hours.
    pub bandwidth: Option<Bandwidth>,
    /// The same outside of them; nothing without.
    pub bandwidth_outside: Option<Bandwidth>,
    /// When everything should be there.
    pub deadline: Option<Deadline>,
    /// What a host fetches first.
    pub order: NightOrder,
    /// What happens when not everything can be there.
    pub impossible: Impossible,
    /// The models, in their order.
    pub wishes: Vec<Wish>,
}

impl Manifest {
    /// Reads a manifest; `name` reads a model's name, short ones of the registry too.
    ///
    /// # Errors
    /// `invalid_request` with the line and, for a typo, the nearest name.
    pub fn read(
        text: &str,
        syntax: Syntax,
        name: impl Fn(&str) -> Result<ModelRef, Invalid>,
    ) -> Result<Self, Invalid> {
        if text.len() > MAX_BYTES {
            return Err(Invalid::new(
                format!(
                    "the manifest has {} bytes; at most 1 MiB and {MAX_MODELS} models are read",
                    text.len()
                ),
                "split it into several manifests",
            ));
        }
        let raw = Raw::read(text, syntax)?;
        let windows = windows(text, &raw)?;
        if raw.bandwidth_outside.is_some() && windows.is_none() {
            return Err(Invalid::new(
                format!(
                    "{}`bandwidth_outside` is set, but there are no `windows`",
                    at_line(text, "bandwidth_outside", 1)
                ),
                "add windows = [\"22:00-06:00 Europe/Berlin\"], or set `bandwidth`",
            ));
        }
        let deadline =
            raw.deadline.as_deref().map(|deadline| self::deadline(text, deadline, &raw, windows.as_ref()));
        let wishes = wishes(text, &raw, name)?;
        Ok(Self {
            windows,
            bandwidth: raw.bandwidth,
            bandwidth_outside: raw.bandwidth_outside,
            deadline: deadline.transpose()?,
            order: raw.order,
            impossible: raw.impossible,
            wishes,
        })
    }

    /// A short name for what it means: the same whatever the comments, the spaces and the syntax.
    pub fn digest(&self) -> String {
        use sha2::Digest as _;
        let deadline = self.deadline.as_ref().map(|deadline| match deadline {
            Deadline::At(at) => at.to_string(),
            Deadline::Daily(time, zone) => format!("{time} {zone}"),
        });
        let wishes: Vec<_> = self
            .wishes
            .iter()
            .map(|wish| serde_json::json!([wish.download, wish.priority, wish.hosts]))
            .collect();
        let all = serde_json::json!([
            self.windows,
            self.bandwidth,
            self.bandwidth_outside,
            deadline,
            self.order,
            self.impossible,
            wishes,
        ]);
        hex::encode(&sha2::Sha256::digest(all.to_string())[..8])
    }

    /// The job of a wish, for a night that begins at `now`. `run` names the run of a schedule and the host that the job is
    /// for: the same run asks for the same job only once, whoever asks.
    pub fn job(&self, wish: &Wish, now: Timestamp, run: Option<(&str, &str)>) -> Job {
        let download = Download {
            window: self.windows.clone(),
            bandwidth: self.bandwidth,
            bandwidth_outside: self.bandwidth_outside,
            ..wish.download.clone()
        };
        let mut job = Job::new(Work::Download(download));
        job.common.priority = match self.order {
            NightOrder::Priority => wish.priority,
            // Beside the jobs of others all of them are worth what the most urgent one is; among themselves they run in the
            // order in which they are asked for.
            NightOrder::Listed | NightOrder::Smallest => {
                self.wishes.iter().map(|wish| wish.priority).max().unwrap_or(wish.priority)
            }
        };
        job.common.hosts = wish.hosts.clone();
        job.common.requested_by = Some("warm".into());
        job.common.deadline = self.deadline.as_ref().map(|deadline| deadline.after(now));
        let opens = self.windows.as_ref().filter(|_| self.bandwidth_outside.is_none());
        job.common.not_before =
            opens.and_then(|windows| windows.next_opening(now)).filter(|opens| *opens > now);
        job.common.idempotency_key = run.map(|(run, host)| format!("{run}/{}", fingerprint(wish, host)));
        job
    }
}

/// A short name for a wish on a host; of what one of several hosts shall have it is the same whichever that is.
fn fingerprint(wish: &Wish, host: &str) -> String {
    use sha2::Digest as _;
    let host = if matches!(wish.hosts, Hosts::Pool | Hosts::Best(_)) { "" } else { host };
    hex::encode(&sha2::Sha256::digest(format!("{} {} {host}", wish.download.want(), wish.hosts))[..8])
}

fn windows(text: &str, raw: &Raw) -> Result<Option<Windows>, Invalid> {
    let read = |hours: &String| {
        Window::within(hours, raw.zone.as_ref()).map_err(|invalid| {
            let hint = match invalid.to_string().contains("time zone") && raw.zone.is_none() {
                true => format!("{}, or set `zone`", invalid.hint()),
                false => invalid.hint().to_owned(),
            };
            Invalid::new(format!("{}{invalid}", at_line(text, hours, 1)), hint)
        })
    };
    match raw.windows.is_empty() {
        true => Ok(None),
        false => Windows::new(raw.windows.iter().map(read).collect::<Result<_, _>>()?).map(Some),
    }
}

fn deadline(text: &str, deadline: &str, raw: &Raw, windows: Option<&Windows>) -> Result<Deadline, Invalid> {
    if let Ok(at) = deadline.parse::<Timestamp>() {
        return Ok(Deadline::At(at));
    }
    let line = at_line(text, deadline, 1);
    // TOML's own times have seconds.
    let clock = deadline.strip_suffix(":00").filter(|clock| clock.len() == 5).unwrap_or(deadline);
    let shape = clock.len() == 5 && clock.as_bytes()[2] == b':';
    let time = shape.then(|| Time::strptime("%H:%M", clock).ok()).flatten().ok_or_else(|| {
        Invalid::new(
            format!(
                "{line}`{}` is not a deadline",
                deadline.chars().take(64).collect::<String>().escape_debug()
            ),
            "write a time of the day in the manifest's zone (06:30), or a moment (2026-12-01T06:30:00+01:00)",
        )
    })?;
    let zone = raw.zone.as_ref().or_else(|| windows.map(|windows| windows.all()[0].zone()));
    let zone = zone.cloned().ok_or_else(|| {
        Invalid::new(
            format!("{line}the deadline {deadline} has no time zone"),
            "set zone = \"Europe/Berlin\"",
        )
    })?;
    Ok(Deadline::Daily(time, zone))
}

fn wishes(
    text: &str,
    raw: &Raw,
    name: impl Fn(&str) -> Result<ModelRef, Invalid>,
) -> Result<Vec<Wish>, Invalid> {
    if raw.models.is_empty() {
        return Err(Invalid::new(
            "the manifest names no model",
            "add one, in TOML: [[models]] and below it model = \"owner/name\"",
        ));
    }
    if raw.models.len() > MAX_MODELS {
        return Err(Invalid::new(
            format!("the manifest has {} models; at most {MAX_MODELS} are read", raw.models.len()),
            "split it into several manifests",
        ));
    }
    let mut seen: HashMap<(String, String), usize> = HashMap::new();
    let mut wishes = Vec::with_capacity(raw.models.len());
    for (n, one) in raw.models.iter().enumerate() {
        let place = |what: &str| match line_of(text, &one.model, 1) {
            Some(line) => format!("line {line}, models[{n}]: {what}"),
            None => format!("models[{n}]: {what}"),
        };
        let wish = wish(one, raw, &name).map_err(|e| Invalid::new(place(&e.to_string()), e.hint()))?;
        let hosts = serde_json::to_string(&wish.hosts).unwrap_or_default();
        if let Some(first) = seen.insert((wish.download.want(), hosts), n) {
            let model = wish.download.model();
            let line = line_of(text, &one.model, 2).or_else(|| line_of(text, &one.model, 1));
            let line = line.map_or_else(String::new, |line| format!("line {line}, "));
            return Err(Invalid::new(
                format!("{line}models[{n}]: {model} is there twice, first as models[{first}]"),
                "leave one of them out, or give them other files, revisions or hosts",
            ));
        }
        wishes.push(wish);
    }
    Ok(wishes)
}

fn wish(one: &RawWish, raw: &Raw, name: impl Fn(&str) -> Result<ModelRef, Invalid>) -> Result<Wish, Invalid> {
    let defaults = &raw.defaults;
    let model = name(&one.model)?;
    let revision = match (model.revision(), &one.revision) {
        (Some(_), Some(_)) => {
            return Err(Invalid::new(
                "the revision is in `model` and in `revision`",
                "write it once: model = \"owner/name@revision\"",
            ));
        }
        (Some(revision), None) | (None, Some(revision)) => revision.clone(),
        (None, None) => Revision::default(),
    };
    let repo: RepoId = model.repo().clone();
    let mut download = Download::new(ModelRef::new(repo, Some(revision)));
    let files_are_named = !one.include.is_empty() || one.format.is_some();
    download.include.clone_from(&one.include);
    download.exclude.clone_from(&one.exclude);
    download.format = one.format.or(defaults.format.filter(|_| one.variant.is_none())).unwrap_or_default();
    // Who names files wants those, whatever the default says about variants.
    let default = defaults.variant.as_ref().filter(|_| !files_are_named);
    download.variant = one.variant.as_ref().or(default).cloned().unwrap_or_default();
    download.allow_unsafe = one.allow_unsafe.or(defaults.allow_unsafe).unwrap_or(false);
    download.pin = one.pin.or(defaults.pin).unwrap_or(false);
    download.lease_ttl = one.lease_ttl.or(defaults.lease_ttl);
    download.token_ref = one.token_ref.clone().or_else(|| defaults.token_ref.clone());
    download.validate()?;
    Ok(Wish {
        download,
        priority: one.priority.or(defaults.priority).unwrap_or(0),
        hosts: one.hosts.clone().or_else(|| defaults.hosts.clone()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;

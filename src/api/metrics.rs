//! `/metrics`: the events that were counted, and the state of this moment, in Prometheus' text format 0.0.4.

mod gpu;
mod warm;

use std::fmt::{Display, Write as _};

use axum::extract::State as Shared;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use super::{Api, Sampled};
use crate::ledger::Shelf;
use crate::plan::Watermarks;
use crate::scout::judged;

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn scrape(Shared(api): Shared<Api>) -> Response {
    let mut text = api.metrics.render();
    let kept = Kept {
        shelf: &api.keeper.ledger().shelf(),
        promised: api.keeper.reservations().promised(),
        capacity: api.keeper.capacity(),
        watermarks: api.keeper.watermarks(),
    };
    let sampled = api.sampler.latest();
    render_state(&mut text, &sampled, &kept, api.max_models);
    hardware(&mut text, &api, &sampled);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

/// What the GPUs said last, and what was learnt of them.
fn hardware(text: &mut String, api: &Api, sampled: &Sampled) {
    let mut page = Page { text };
    let Some(gpus) = api.scout.watched() else { return };
    let facts = sampled.facts.as_deref();
    let health = facts.map_or_else(crate::gpu::Health::default, |facts| judged(&gpus, facts));
    gpu::render(&mut page, &gpus, &health, Timestamp::now());
    measured(&mut page, sampled);
    if sampled.calibrations.is_empty() {
        return;
    }
    let help =
        "How much more of a GPU's memory engines took than was predicted, as a share of the prediction.";
    let mut family = page.gauge("larder_fit_error_ratio", help);
    for known in &sampled.calibrations {
        let of = &known.key;
        let labels = [
            ("architecture", of.architecture.as_str()),
            ("engine", of.engine.as_str()),
            ("quantization", of.quantization.as_str()),
            ("gpu", of.gpu.as_str()),
        ];
        family.sample(&labels, known.ratio - 1.0);
    }
}

/// The newest of what `larder profile` measured, and how fast downloads came.
fn measured(page: &mut Page<'_>, sampled: &Sampled) {
    let rates = &sampled.rates;
    let disk = [
        ("write", rates.disk_write),
        ("read_cold", rates.disk_read_cold),
        ("read_cold_parallel", rates.disk_read_cold_parallel),
        ("read_warm", rates.disk_read_warm),
    ];
    if disk.iter().any(|(_, rate)| rate.is_some()) {
        let help = "How fast the cache's disk was when it was last profiled.";
        let mut family = page.gauge("larder_profile_disk_bytes_per_second", help);
        for (test, rate) in disk {
            if let Some(rate) = rate {
                family.sample(&[("test", test)], rate);
            }
        }
    }
    if let Some(rate) = rates.memory_copy {
        let help = "How fast memory was copied when it was last profiled, read and written bytes together.";
        page.gauge("larder_profile_memory_bytes_per_second", help).sample(&[], rate);
    }
    if let Some(seconds) = rates.hub_round_trip {
        let help = "How long the hub took to answer when it was last profiled.";
        page.gauge("larder_profile_hub_round_trip_seconds", help).sample(&[], seconds);
    }
    if let Some(rate) = sampled.fetch_rate {
        let help = "How fast this host's downloads came, the newest counting most.";
        page.gauge("larder_profile_hub_bytes_per_second", help).sample(&[], rate);
    }
    if rates.at > Timestamp::UNIX_EPOCH {
        let help = "When the host was last profiled.";
        page.gauge("larder_profile_timestamp_seconds", help).sample(&[], rates.at.as_second());
    }
}

/// What the keeper knows.
struct Kept<'a> {
    shelf: &'a Shelf,
    promised: u64,
    capacity: Option<u64>,
    watermarks: Watermarks,
}

/// One family at a time, as the format asks.
struct Page<'a> {
    text: &'a mut String,
}

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        // Writing to a String cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        Family { text: self.text, name: name.to_owned() }
    }
}

struct Family<'a> {
    text: &'a mut String,
    name: String,
}

impl Family<'_> {
    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(&self.name);
        for (n, (label, value)) in labels.iter().enumerate() {
            self.text.push(if n == 0 { '{' } else { ',' });
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{label}=\"{value}\"");
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

fn render_state(text: &mut String, sampled: &Sampled, kept: &Kept<'_>, max_models: usize) {
    let Kept { shelf, promised, .. } = *kept;
    let mut page = Page { text };
    page.gauge("larder_build_info", "Always 1; the labels say what runs.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    collectors(&mut page, sampled);
    queue(&mut page, sampled);
    warm::render(&mut page, &sampled.nights);
    warm::failed(&mut page, &sampled.failed_nights);
    disk(&mut page, sampled, kept);
    cache(&mut page, shelf);
    page.gauge(
        "larder_cache_reserved_bytes",
        "Free bytes of the disk that were promised to running downloads.",
    )
    .sample(&[], promised);
    models(&mut page, shelf, max_models);
}

fn collectors(page: &mut Page<'_>, sampled: &Sampled) {
    let queue = sampled.queue.as_ref().map(|c| ("queue", c.value.is_some(), c.took));
    let disk = sampled.disk.as_ref().map(|c| ("disk", c.value.is_some(), c.took));
    let gpu = sampled.gpus.as_ref().map(|gpus| {
        // That there is no GPU is an answer, too.
        let success = gpus.why_none.as_ref().is_none_or(|why| why.word.is_no_gpu()) && !gpus.stale;
        ("gpu", success, std::time::Duration::try_from_secs_f64(gpus.took_seconds).unwrap_or_default())
    });
    let all: Vec<_> = queue.into_iter().chain(disk).chain(gpu).collect();
    let mut family =
        page.gauge("larder_collect_success", "Whether the last sample of a collector succeeded.");
    for (name, success, _) in &all {
        family.sample(&[("collector", name)], u8::from(*success));
    }
    let mut family =
        page.gauge("larder_collect_duration_seconds", "How long the last sample of a collector took.");
    for (name, _, took) in &all {
        family.sample(&[("collector", name)], took.as_secs_f64());
    }
}

fn queue(page: &mut Page<'_>, sampled: &Sampled) {
    let Some(collected) = &sampled.queue else { return };
    page.gauge("larder_queue_up", "Whether the queue answers.")
        .sample(&[], u8::from(collected.value.is_some()));
    let Some(stats) = &collected.value else { return };
    let mut family = page.gauge("larder_jobs", "Jobs by kind and state.");
    for ((kind, state), count) in &stats.jobs {
        family.sample(&[("kind", kind.word()), ("state", state.word())], count);
    }
    let mut family =
        page.gauge("larder_job_queue_age_seconds", "How long the oldest queued job has been waiting.");
    for (kind, age) in &stats.oldest_queued {
        family.sample(&[("kind", kind.word())], age.as_secs_f64());
    }
    if stats.deadline_slack.is_empty() {
        return;
    }
    let help = "How long until the first deadline ahead, less what that job's missing bytes take; below zero \
                if it will be missed.";
    let mut family = page.gauge("larder_deadline_slack_seconds", help);
    for (kind, slack) in &stats.deadline_slack {
        family.sample(&[("kind", kind.word())], slack.as_secs_f64());
    }
}

fn disk(page: &mut Page<'_>, sampled: &Sampled, kept: &Kept<'_>) {
    let Some(usage) = sampled.disk.as_ref().and_then(|collected| collected.value) else { return };
    let mount =
        sampled.mountpoint.as_deref().map_or_else(|| "unknown".into(), std::path::Path::to_string_lossy);
    page.gauge("larder_disk_total_bytes", "Size of the cache's filesystem.")
        .sample(&[("mountpoint", &mount)], usage.total);
    page.gauge("larder_disk_free_bytes", "Free bytes of the cache's filesystem for larder's user.")
        .sample(&[("mountpoint", &mount)], usage.free);
    if let Some((total, free)) = usage.inodes {
        page.gauge("larder_disk_inodes", "Inodes of the cache's filesystem.")
            .sample(&[("mountpoint", &mount)], total);
        page.gauge("larder_disk_inodes_free", "Free inodes of the cache's filesystem for larder's user.")
            .sample(&[("mountpoint", &mount)], free);
    }
    page.gauge(
        "larder_cache_capacity_bytes",
        "Bytes that the cache may take: cache.capacity, or the size of its filesystem.",
    )
    .sample(&[], kept.capacity.unwrap_or(u64::MAX).min(usage.total));
    // As `plan::evict` has it: without a capacity it is the disk that fills, whoever fills it.
    let (of, bytes) = kept.capacity.map_or(("disk", usage.total), |capacity| ("cache", capacity));
    let (high, low) = kept.watermarks.of(bytes);
    let help = "Bytes of the disk or of the cache above which room is made (high), and down to which (low).";
    let mut family = page.gauge("larder_cache_watermark_bytes", help);
    family.sample(&[("watermark", "high"), ("of", of)], high);
    family.sample(&[("watermark", "low"), ("of", of)], low);
}

fn cache(page: &mut Page<'_>, shelf: &Shelf) {
    let used = shelf.used(Timestamp::now());
    let mut family = page.gauge("larder_cache_used_bytes", "Bytes in the cache by what may happen to them.");
    for (class, bytes) in [
        ("pinned", used.pinned),
        ("in_use", used.in_use),
        ("leased", used.leased),
        ("evictable", used.evictable),
        ("partial", used.partial),
        ("foreign", used.foreign),
    ] {
        family.sample(&[("class", class)], bytes);
    }
}

fn models(page: &mut Page<'_>, shelf: &Shelf, max_models: usize) {
    let views = shelf.views(Timestamp::now());
    let omitted = views.len().saturating_sub(max_models);
    let shown = &views[..views.len() - omitted];
    let mut family = page.gauge("larder_model_info", "Always 1; one series for each revision in the cache.");
    for view in shown {
        let quantization = view.quantization.as_deref().unwrap_or("");
        let format = view.format.as_deref().unwrap_or("");
        let labels = [
            ("repo", view.repo.as_str()),
            ("commit", view.commit.as_str()),
            ("format", format),
            ("quantization", quantization),
        ];
        family.sample(&labels, 1);
    }
    let mut repos = std::collections::BTreeMap::new();
    for view in shown {
        let last = repos.entry(&view.repo).or_insert(None);
        *last = view.last_used_at.max(*last);
    }
    let mut family =
        page.gauge("larder_model_bytes", "Bytes of a repo in the cache, shared files counted once.");
    for repo in repos.keys() {
        family.sample(&[("repo", repo.as_str())], shelf.repo_bytes(repo));
    }
    let mut family =
        page.gauge("larder_model_last_used_timestamp_seconds", "When a repo was last asked for or used.");
    for (repo, last) in &repos {
        if let Some(last) = last {
            family.sample(&[("repo", repo.as_str())], last.as_second());
        }
    }
    page.gauge("larder_models_omitted", "Models without a series of their own, beyond metrics.max_models.")
        .sample(&[], omitted);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_unknown_is_absent() {
        let mut text = String::new();
        let mut page = Page { text: &mut text };
        page.gauge("x", "Help.").sample(&[("a", "q\"b\\c\nd")], 1.5);
        assert_eq!(text, "# HELP x Help.\n# TYPE x gauge\nx{a=\"q\\\"b\\\\c\\nd\"} 1.5\n");
        let mut text = String::new();
        let watermarks = Watermarks { high: 90, low: 80 };
        let kept = Kept { shelf: &Shelf::default(), promised: 0, capacity: None, watermarks };
        render_state(&mut text, &Sampled::default(), &kept, 10);
        assert!(!text.contains("larder_disk_free_bytes") && !text.contains("larder_queue_up"), "{text}");
        assert!(text.contains("larder_models_omitted 0"));
    }

    #[test]
    fn watermarks_are_of_the_disk_unless_the_cache_has_a_capacity() {
        let shown = |capacity| {
            let mut text = String::new();
            let watermarks = Watermarks { high: 90, low: 80 };
            let kept = Kept { shelf: &Shelf::default(), promised: 0, capacity, watermarks };
            let usage = crate::disk::Usage { total: 1000, free: 500, inodes: None };
            let collected =
                super::super::sample::Collected { value: Some(usage), took: std::time::Duration::ZERO };
            let sampled = Sampled { disk: Some(collected), ..Sampled::default() };
            render_state(&mut text, &sampled, &kept, 10);
            let lines = text.lines().filter(|line| line.starts_with("larder_cache_watermark_bytes"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let line = |watermark: &str, of: &str, bytes: u64| {
            format!("larder_cache_watermark_bytes{{watermark=\"{watermark}\",of=\"{of}\"}} {bytes}")
        };
        assert_eq!(shown(None), [line("high", "disk", 900), line("low", "disk", 800)]);
        assert_eq!(shown(Some(200)), [line("high", "cache", 180), line("low", "cache", 160)]);
    }
}

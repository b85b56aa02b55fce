//! The last run of each manifest that is on a schedule: what was planned against what is there.

use std::collections::BTreeMap;

use super::Page;
use crate::warm::{Night, Tally};

/// Name and help of a family, and the number that it shows.
type Bytes = (&'static str, &'static str, fn(&Tally) -> u64);

pub(super) fn render(page: &mut Page<'_>, nights: &BTreeMap<String, Night>) {
    // A family without a series says nothing.
    if nights.is_empty() {
        return;
    }
    let bytes: [Bytes; 3] = [
        ("larder_warm_planned_bytes", "Bytes that the last run of a manifest was to fetch.", |tally| {
            tally.planned
        }),
        ("larder_warm_done_bytes", "Bytes of those that are there.", |tally| tally.done),
        ("larder_warm_remaining_bytes", "Bytes that the open jobs of that run still lack.", |tally| {
            tally.remaining
        }),
    ];
    for (name, help, of) in bytes {
        let mut family = page.gauge(name, help);
        for (manifest, night) in nights {
            family.sample(&[("manifest", manifest)], of(&night.tally));
        }
    }
    let mut family =
        page.gauge("larder_warm_models", "Models of the last run of a manifest, by what became of them.");
    for (manifest, night) in nights {
        let models = &night.tally.models;
        for (state, count) in [
            ("waiting", models.waiting),
            ("running", models.running),
            ("done", models.done),
            ("failed", models.failed),
            ("cancelled", models.cancelled),
            ("dropped", models.dropped),
        ] {
            family.sample(&[("manifest", manifest), ("state", state)], count);
        }
    }
    let mut family =
        page.gauge("larder_warm_due_timestamp_seconds", "When the last run of a manifest was due.");
    for (manifest, night) in nights {
        family.sample(&[("manifest", manifest)], night.due.as_second());
    }
    if nights.values().all(|night| night.deadline.is_none()) {
        return;
    }
    let help = "When all of the last run of a manifest should be there; absent for one without a deadline.";
    let mut family = page.gauge("larder_warm_deadline_timestamp_seconds", help);
    for (manifest, night) in nights {
        if let Some(deadline) = night.deadline {
            family.sample(&[("manifest", manifest)], deadline.as_second());
        }
    }
}

/// Also of a manifest that could not be read, of which there is nothing else to tell.
pub(super) fn failed(page: &mut Page<'_>, failed: &BTreeMap<String, bool>) {
    if failed.is_empty() {
        return;
    }
    let help =
        "Whether the last run of a manifest asked for nothing: refused, unreadable, or in vain so far.";
    let mut family = page.gauge("larder_warm_run_failed", help);
    for (manifest, failed) in failed {
        family.sample(&[("manifest", manifest)], u8::from(*failed));
    }
}

//! How much happens at which time of the made-up days, and how often each thing does.

use std::f64::consts::TAU;

use support::Dice;

pub(super) const DAY: i64 = 86_400;
/// A night begins and ends at these seconds of the day, in UTC; all of it should be there by the deadline.
pub(super) const NIGHT: std::ops::Range<i64> = 3_600..13_500;
pub(super) const DEADLINE: i64 = 23_400;
/// A counter's name and labels, and how many it counts in a second of the rush.
type Counted = (&'static str, &'static [(&'static str, &'static str)], f64);

/// What is counted.
pub(super) const COUNTED: &[Counted] = &[
    ("larder_download_resumed_bytes_total", &[], 4_000.0),
    ("larder_download_stalls_total", &[], 0.001),
    ("larder_download_wasted_bytes_total", &[("reason", "integrity_mismatch")], 9_000.0),
    ("larder_download_wasted_bytes_total", &[("reason", "hedged")], 3_000.0),
    ("larder_evicted_bytes_total", &[], 500_000.0),
    ("larder_evictions_total", &[("reason", "least_recently_used")], 0.03),
    ("larder_evictions_total", &[("reason", "over_capacity")], 0.008),
    ("larder_evictions_total", &[("reason", "requested")], 0.004),
    ("larder_eviction_regret_total", &[], 0.002),
    ("larder_fit_observations_total", &[], 0.002),
    ("larder_fit_false_yes_total", &[], 0.00004),
    ("larder_job_retries_total", &[("kind", "download"), ("reason", "rate_limited")], 0.0009),
    ("larder_job_retries_total", &[("kind", "download"), ("reason", "stalled")], 0.0003),
    ("larder_jobs_failed_total", &[("kind", "download"), ("reason", "deadline_missed")], 0.00006),
    ("larder_jobs_failed_total", &[("kind", "download"), ("reason", "gated")], 0.0002),
    ("larder_jobs_failed_total", &[("kind", "download"), ("reason", "insufficient_disk")], 0.0003),
    ("larder_jobs_failed_total", &[("kind", "download"), ("reason", "insufficient_vram")], 0.00015),
    ("larder_jobs_failed_total", &[("kind", "download"), ("reason", "integrity_mismatch")], 0.00008),
    ("larder_jobs_failed_total", &[("kind", "download"), ("reason", "not_found")], 0.0004),
    ("larder_jobs_failed_total", &[("kind", "download"), ("reason", "unsafe_format")], 0.0001),
    ("larder_variant_fallbacks_total", &[("variant", "fp8")], 0.0004),
    ("larder_variant_fallbacks_total", &[("variant", "awq")], 0.0002),
    ("larder_variant_fallbacks_total", &[("variant", "gguf")], 0.0001),
    ("larder_verified_bytes_total", &[], 500_000.0),
];

/// Between 0 and 1, as a day goes: least at two in the morning.
fn sun(at: i64) -> f64 {
    let turn = (at - DAY / 3).rem_euclid(DAY) as f64 / DAY as f64;
    0.5 + 0.5 * (TAU * turn).sin()
}

/// Between 0 and 1, by chance, with about so many seconds from a low to a high; the same at every call.
pub(super) fn wave(at: i64, period: i64) -> f64 {
    let knot = |n: i64| Dice::new((n as u64) ^ ((period as u64) << 40)).below(1_001) as f64 / 1_000.0;
    let (n, part) = (at.div_euclid(period), at.rem_euclid(period) as f64 / period as f64);
    let smooth = part * part * (3.0 - 2.0 * part);
    knot(n) + (knot(n + 1) - knot(n)) * smooth
}

/// How much is asked for, from a fifth to all: most in the afternoon, and never twice the same.
pub(super) fn rush(at: i64) -> f64 {
    let noise = 0.6 * wave(at, 1_380) + 0.4 * wave(at, 5_520);
    0.1 + sun(at) * (0.4 + 0.5 * noise)
}

/// How far the last night has come, and when it was due.
pub(super) fn night(at: i64) -> (f64, i64) {
    let midnight = at - at.rem_euclid(DAY);
    let due = if at - midnight < NIGHT.start { midnight - DAY + NIGHT.start } else { midnight + NIGHT.start };
    let share = ((at - due) as f64 / (NIGHT.end - NIGHT.start) as f64).min(1.0);
    (share, due)
}

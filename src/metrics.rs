//! The event half of the metrics: counters and histograms, described once and born at zero.
//!
//! What IS (models, disk, jobs by state) is rendered from a snapshot at scrape time in `api::metrics`;
//! what HAPPENED is counted here. No family lives in both halves. The catalogue is docs/metrics.md.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::error::{Error, Result};
use larder_jobs::{Kind, Reason, State};

/// From a second to six hours: a job may stage hundreds of gigabytes.
const JOB_SECONDS: &[f64] = &[
    0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0,
    21_600.0,
];
const FLUSH_SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
/// A sweep of the histograms' buckets every so often keeps their memory bounded.
pub const UPKEEP: Duration = Duration::from_secs(5);

/// Families of variants that a download may fall back to.
const VARIANTS: &[&str] = &["fp8", "mxfp4", "awq", "gptq", "gptq-int8", "gguf", "int8", "nf4", "other"];

/// Status codes that a source's answers are counted by; those that alerts look at are born at zero.
const CODES: &[u16] = &[
    200, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 408, 409, 410, 416, 421, 425, 429, 451, 500,
    502, 503, 504,
];
const WATCHED_CODES: &[u16] = &[200, 206, 401, 403, 404, 429, 500, 502, 503, 504];

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the recorder of this process; a second call returns the same handle.
///
/// # Errors
/// `internal` if another library installed a recorder first.
pub fn install() -> Result<PrometheusHandle> {
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let broken = |error: &dyn std::fmt::Display| {
        Error::internal(format!("cannot install the metrics recorder: {error}"))
    };
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Prefix("larder_job_".into()), JOB_SECONDS)
        .and_then(|b| b.set_buckets_for_metric(Matcher::Prefix("larder_store_".into()), FLUSH_SECONDS))
        .map_err(|error| broken(&error))?
        .install_recorder()
        .map_err(|error| broken(&error))?;
    describe();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

fn describe() {
    describe_histogram!(
        "larder_job_duration_seconds",
        Unit::Seconds,
        "Time from first start to end of a job, by result."
    );
    describe_counter!("larder_job_retries_total", "Attempts that were put back for another try, by reason.");
    describe_counter!(
        "larder_queue_emptied_total",
        "Times that the fleet's queue was found without its data; jobs that waited were lost."
    );
    describe_counter!("larder_jobs_failed_total", "Jobs that failed for good, by reason.");
    describe_counter!("larder_download_bytes_total", Unit::Bytes, "Bytes received from a source.");
    describe_counter!(
        "larder_download_resumed_bytes_total",
        Unit::Bytes,
        "Bytes of earlier attempts that were used again."
    );
    describe_counter!(
        "larder_download_wasted_bytes_total",
        Unit::Bytes,
        "Bytes that were received and thrown away, by reason."
    );
    describe_counter!("larder_download_stalls_total", "Connections that were given up because nothing came.");
    describe_counter!(
        "larder_download_quarantined_total",
        "Files whose bytes were wrong twice and were moved out of the way."
    );
    describe_counter!("larder_http_responses_total", "Answers of a source by status code.");
    describe_counter!(
        "larder_cache_drift_total",
        "Differences between records and disk that reconciling repaired, by kind."
    );
    describe_counter!("larder_evictions_total", "Revisions that were evicted, by reason.");
    describe_counter!(
        "larder_variant_fallbacks_total",
        "Downloads that staged another variant than the model named, by variant."
    );
    describe_counter!(
        "larder_fit_observations_total",
        "Predictions of VRAM that were compared with an engine's."
    );
    describe_counter!(
        "larder_fit_false_yes_total",
        "Predictions of VRAM whose margin did not cover what an engine took."
    );
    describe_counter!("larder_evicted_bytes_total", Unit::Bytes, "Bytes that became free by evictions.");
    describe_counter!(
        "larder_eviction_blocked_total",
        "Revisions that were chosen and turned out to be protected, by reason."
    );
    describe_counter!("larder_eviction_short_total", "Evictions that could not free as much as was wanted.");
    describe_counter!(
        "larder_eviction_regret_total",
        "Models that were asked for again within 24 hours of being evicted by the rules."
    );
    describe_counter!("larder_cache_leftovers_total", "Leftovers of transfers that were removed, by kind.");
    describe_counter!(
        "larder_cache_leftover_bytes_total",
        Unit::Bytes,
        "Bytes that became free by removing leftovers."
    );
    describe_counter!(
        "larder_verified_bytes_total",
        Unit::Bytes,
        "Bytes that were read again and compared with their hashes."
    );
    describe_counter!(
        "larder_verify_corrupt_total",
        "Files in the cache whose bytes were found wrong and were moved out of the way."
    );
    describe_histogram!(
        "larder_store_flush_duration_seconds",
        Unit::Seconds,
        "Time to make the store durable."
    );
    describe_counter!(
        "larder_store_flush_failures_total",
        "Times that the store could not be made durable; it takes nothing more until a restart."
    );
    describe_counter!(
        "larder_store_recoveries_total",
        "Stores that were found damaged or emptied and replaced, by reason."
    );
    describe_counter!(
        "larder_webhooks_total",
        "Notices of ended jobs, and tries to deliver them, by result."
    );
    for result in ["delivered", "retried", "failed", "refused", "dropped"] {
        counter!("larder_webhooks_total", "result" => result).absolute(0);
    }
    counter!("larder_fit_observations_total").absolute(0);
    counter!("larder_fit_false_yes_total").absolute(0);
    for variant in VARIANTS {
        counter!("larder_variant_fallbacks_total", "variant" => *variant).absolute(0);
    }
    for kind in Kind::ALL {
        let done = if *kind == Kind::Download { State::Ready } else { State::Done };
        for state in [done, State::Failed, State::Cancelled] {
            drop(job_seconds(*kind, state.word()));
        }
        for reason in Reason::ALL {
            counter!("larder_jobs_failed_total", "kind" => kind.word(), "reason" => reason.word())
                .absolute(0);
            if reason.is_transient() {
                counter!("larder_job_retries_total", "kind" => kind.word(), "reason" => reason.word())
                    .absolute(0);
            }
        }
    }
    counter!("larder_queue_emptied_total").absolute(0);
    counter!("larder_download_resumed_bytes_total").absolute(0);
    counter!("larder_download_stalls_total").absolute(0);
    counter!("larder_download_quarantined_total").absolute(0);
    for reason in ["hedged", "integrity_mismatch", "restarted"] {
        counter!("larder_download_wasted_bytes_total", "reason" => reason).absolute(0);
    }
    for drift in ["adopted", "vanished", "damaged"] {
        counter!("larder_cache_drift_total", "kind" => drift).absolute(0);
    }
    for reason in
        ["requested", "expired", "least_recently_used", "low_value", "over_capacity", "below_keep_free"]
    {
        counter!("larder_evictions_total", "reason" => reason).absolute(0);
    }
    for reason in ["pinned", "leased", "in_use", "use_unknown", "fetching"] {
        counter!("larder_eviction_blocked_total", "reason" => reason).absolute(0);
    }
    for kind in ["partial", "orphan"] {
        counter!("larder_cache_leftovers_total", "kind" => kind).absolute(0);
    }
    for name in [
        "larder_evicted_bytes_total",
        "larder_eviction_short_total",
        "larder_eviction_regret_total",
        "larder_cache_leftover_bytes_total",
        "larder_verified_bytes_total",
        "larder_verify_corrupt_total",
        "larder_store_flush_failures_total",
    ] {
        counter!(name).absolute(0);
    }
    for reason in ["damaged", "emptied"] {
        counter!("larder_store_recoveries_total", "reason" => reason).absolute(0);
    }
}

/// A revision was evicted, and so many bytes became free.
pub fn evicted(reason: &'static str, bytes: u64) {
    counter!("larder_evictions_total", "reason" => reason).increment(1);
    counter!("larder_evicted_bytes_total").increment(bytes);
}

/// A revision was chosen and turned out to be protected.
pub fn eviction_blocked(reason: &'static str) {
    counter!("larder_eviction_blocked_total", "reason" => reason).increment(1);
}

/// Less became free than was wanted.
pub fn eviction_short() {
    counter!("larder_eviction_short_total").increment(1);
}

/// A download takes another variant than was named.
pub fn fell_back(variant: &str) {
    let family = variant.split(':').next().unwrap_or(variant);
    let known = VARIANTS.iter().copied().find(|one| *one == family).unwrap_or("other");
    counter!("larder_variant_fallbacks_total", "variant" => known).increment(1);
}

/// A prediction was compared with what an engine takes; its margin did not cover the difference if it is a false yes.
pub fn fit_observed(said_yes_wrongly: bool) {
    counter!("larder_fit_observations_total").increment(1);
    counter!("larder_fit_false_yes_total").increment(u64::from(said_yes_wrongly));
}

/// A model that was evicted by the rules was asked for again within a day.
pub fn eviction_regretted() {
    counter!("larder_eviction_regret_total").increment(1);
}

/// A leftover was removed.
pub fn leftover(kind: &'static str, bytes: u64) {
    counter!("larder_cache_leftovers_total", "kind" => kind).increment(1);
    counter!("larder_cache_leftover_bytes_total").increment(bytes);
}

/// Bytes were read again and were right or not.
pub fn verified(bytes: u64) {
    counter!("larder_verified_bytes_total").increment(bytes);
}

/// A file in the cache has wrong bytes.
pub fn corrupt() {
    counter!("larder_verify_corrupt_total").increment(1);
}

/// What became of a notice, or of a try: `delivered`, `retried`, `failed` (given up), `refused` (never goes there) or
/// `dropped` (too many).
pub fn webhook(result: &'static str) {
    counter!("larder_webhooks_total", "result" => result).increment(1);
}

/// A job ended; `seconds` since a worker first took it.
pub fn job_ended(kind: Kind, result: &'static str, seconds: f64) {
    job_seconds(kind, result).record(seconds);
}

fn job_seconds(kind: Kind, result: &'static str) -> metrics::Histogram {
    histogram!("larder_job_duration_seconds", "kind" => kind.word(), "result" => result)
}

/// An attempt was put back for another try.
pub fn job_retried(kind: Kind, reason: Reason) {
    counter!("larder_job_retries_total", "kind" => kind.word(), "reason" => reason.word()).increment(1);
}

/// The fleet's queue was found without its data.
pub fn queue_emptied() {
    counter!("larder_queue_emptied_total").increment(1);
}

/// A job failed for good.
pub fn job_failed(kind: Kind, reason: Reason) {
    counter!("larder_jobs_failed_total", "kind" => kind.word(), "reason" => reason.word()).increment(1);
}

/// The bytes of one source, counted without looking the series up for every chunk.
#[derive(Clone)]
pub struct Bytes(metrics::Counter);

impl Bytes {
    /// So many more came.
    pub fn more(&self, bytes: u64) {
        self.0.increment(bytes);
    }
}

/// `source` (scheme and host of a configured endpoint, so the label set is bounded) will be asked: what is counted
/// of it is born at zero.
pub fn source_known(source: &str) -> Bytes {
    for code in WATCHED_CODES {
        http_responses(source, *code).increment(0);
    }
    let bytes = counter!("larder_download_bytes_total", "source" => source.to_owned());
    bytes.increment(0);
    Bytes(bytes)
}

/// `bytes` of an earlier attempt were found on the disk and used.
pub fn bytes_resumed(bytes: u64) {
    counter!("larder_download_resumed_bytes_total").increment(bytes);
}

/// `bytes` were received and thrown away; `reason` is `integrity_mismatch`, `restarted` (the source ignores ranges) or
/// `hedged` (another connection was faster).
pub fn bytes_wasted(reason: &'static str, bytes: u64) {
    if bytes == 0 {
        return;
    }
    counter!("larder_download_wasted_bytes_total", "reason" => reason).increment(bytes);
}

/// A connection was given up because nothing came.
pub fn download_stalled() {
    counter!("larder_download_stalls_total").increment(1);
}

/// A file's bytes were wrong twice, and it was moved out of the way.
pub fn download_quarantined() {
    counter!("larder_download_quarantined_total").increment(1);
}

/// `source` answered with `code`; codes that nobody knows are one, whatever a source makes up.
pub fn http_response(source: &str, code: u16) {
    http_responses(source, code).increment(1);
}

fn http_responses(source: &str, code: u16) -> metrics::Counter {
    let code = if CODES.contains(&code) { code.to_string() } else { "other".to_owned() };
    counter!("larder_http_responses_total", "source" => source.to_owned(), "code" => code)
}

/// Reconciling found `count` differences of one kind: `adopted`, `vanished` or `damaged`.
pub fn drift(kind: &'static str, count: u64) {
    counter!("larder_cache_drift_total", "kind" => kind).increment(count);
}

/// The store was made durable.
pub fn store_flushed(took: Duration) {
    histogram!("larder_store_flush_duration_seconds").record(took.as_secs_f64());
}

/// The store could not be made durable.
pub fn store_flush_failed() {
    counter!("larder_store_flush_failures_total").increment(1);
}

/// A store was replaced; `reason` is `damaged` or `emptied`.
pub fn store_recovered(reason: &'static str) {
    counter!("larder_store_recoveries_total", "reason" => reason).increment(1);
}

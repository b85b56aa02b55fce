//! What may happen to a job, as pure functions: a record, an event, the settings and the time in, the next
//! record out. Both stores apply these, so a job means the same on one machine and in a fleet.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use larder_jobs::{Bandwidth, Job, JobId, Progress, Reason, Record, Span, State, Work};
use serde_json::Value;

use super::bounds::{self, clipped_payload};
use super::window;
use super::{Config, Outcome, Settlement};
use crate::error::{Error, Result};

/// A source may ask for a longer pause, but the job tries again after this one.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);
/// Longest wait for a condition; then the job looks again.
pub const MAX_WAIT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// What a point of priority is worth, in microseconds of waiting: ten minutes, so that the least urgent job has its
/// turn too.
const AGE: i64 = 600_000_000;

/// Where a queued job stands, the lowest first: when it was asked for or could first run, less its priority. It never
/// changes while the job waits, so no store has to sort anew.
pub fn place(record: &Record) -> i64 {
    record.ages_from.unwrap_or(record.created_at).as_microsecond() - i64::from(record.priority) * AGE
}

/// A new record for `job`.
///
/// # Errors
/// `invalid_request` for a job that breaks the contract or whose payload is larger than 8 KiB.
pub fn accept(job: &Job, id: JobId, seq: u64, now: Timestamp) -> Result<Record> {
    let payload = job.payload()?;
    let due = job.common.not_before.filter(|due| *due > now);
    let mut record = Record {
        job: payload,
        want: job.work.want_hash(),
        priority: job.common.priority,
        state: if due.is_some() { State::Waiting } else { State::Queued },
        due,
        deadline: job.common.deadline,
        ..Record::new(id, job.work.kind(), seq, now)
    };
    bounds::remember_requester(&mut record, job.common.requested_by.as_deref());
    bounds::remember_key(&mut record, job.common.idempotency_key.as_deref());
    bounds::remember_notify(&mut record, job.common.notify.as_deref());
    Ok(record)
}

/// Another request for the same want: the more urgent of both in every respect.
///
/// Without a deadline a job has all the time there is, so any deadline is earlier. A job that only waits
/// for its `not_before` runs when the more impatient request says; one that waits for a retry waits on. Of two
/// limits the more generous one holds, and none at all is more generous than any; of two leases the longer one; of two
/// windows their union; of those who want to be told of the end all, within the record's bound. Who waits for a window that
/// is another one now looks at it again.
pub fn join(mut record: Record, job: &Job, now: Timestamp) -> Record {
    record.priority = record.priority.max(job.common.priority);
    record.deadline = record.deadline.into_iter().chain(job.common.deadline).min();
    bounds::remember_requester(&mut record, job.common.requested_by.as_deref());
    bounds::remember_key(&mut record, job.common.idempotency_key.as_deref());
    bounds::remember_notify(&mut record, job.common.notify.as_deref());
    let mut looks_again = record.state == State::Waiting && record.reason.is_none();
    let is_shut_out = window::is_shut_out(&record);
    let held = lease_ttl(&record.job);
    if let (Work::Download(download), Value::Object(fields)) = (&job.work, &mut record.job) {
        looks_again |= window::widen(fields, download) && is_shut_out;
        if download.pin {
            fields.insert("pin".into(), Value::Bool(true));
        }
        let limit = fields.get("bandwidth").and_then(Value::as_u64);
        match download.bandwidth.map(Bandwidth::bytes) {
            None => drop(fields.remove("bandwidth")),
            Some(wider) if limit.is_some_and(|limit| limit < wider) => {
                fields.insert("bandwidth".into(), wider.into());
            }
            Some(_) => {}
        }
        if let Some(ttl) = download.lease_ttl.filter(|ttl| Some(*ttl) > held) {
            fields.insert("lease_ttl".into(), ttl.to_string().into());
        }
    }
    if looks_again {
        record.due = record.due.min(job.common.not_before.or(Some(now)));
        record = wake(record, now);
    }
    record
}

/// Whether the job that an idempotency key stands for gives what another request asks for with it: the same want, kept no
/// less. Of one that could not be read nobody knows what it wanted.
pub fn answers(record: &Record, job: &Job) -> bool {
    if record.want.is_empty() {
        return true;
    }
    let Work::Download(download) = &job.work else { return record.want == job.work.want_hash() };
    record.want == job.work.want_hash()
        && (!download.pin || record.job.get("pin") == Some(&Value::Bool(true)))
        && download.lease_ttl <= lease_ttl(&record.job)
}

/// For how long a download leases what it has staged.
fn lease_ttl(payload: &Value) -> Option<Span> {
    payload.get("lease_ttl").and_then(Value::as_str).and_then(|text| text.parse().ok())
}

/// A waiting job whose time has come is queued; any other stays as it is.
pub fn wake(mut record: Record, now: Timestamp) -> Record {
    if record.state == State::Waiting && record.due.is_none_or(|due| due <= now) {
        // What it could not have run in is no waiting for its turn.
        if record.reason.is_none_or(|reason| reason == Reason::OutsideWindow) {
            record.ages_from = record.due.or(record.ages_from);
        }
        record.state = State::Queued;
        record.reason = None;
    }
    record
}

/// A worker takes a queued job: an attempt begins, or the job fails because its deadline has passed.
pub fn claim(mut record: Record, config: &Config, now: Timestamp) -> Record {
    if record.deadline.is_some_and(|deadline| deadline <= now) {
        return miss_deadline(record, now);
    }
    record.state = record.kind.first();
    record.reason = None;
    record.due = None;
    record.attempts += 1;
    record.token = next_token(record.token, now);
    record.lease_until = Some(after(now, config.lease.get()));
    record.started_at.get_or_insert(now);
    record
}

/// The fencing token from `now` on of a job whose last token was `old`: never one that was given before, not
/// even one that the store has forgotten.
///
/// A store can lose its last writes after it answered them: Redis with `appendfsync everysec`, or a failover to
/// a replica that lags. A claim among them is still held by its worker, and a mere count would give the next
/// worker the same token. The clock does not go back with the data, so it is the floor: microseconds, which
/// stay below 2^53 until the year 2255, so that JSON and Lua keep them exact. A clock beyond that is not believed.
fn next_token(old: u64, now: Timestamp) -> u64 {
    let clock = u64::try_from(now.as_microsecond()).ok().filter(|micros| *micros < 1 << 53);
    clock.unwrap_or_default().max(old + 1)
}

/// The worker is alive. The token must have been checked.
pub fn renew(
    mut record: Record,
    state: State,
    progress: Progress,
    config: &Config,
    now: Timestamp,
) -> Record {
    if state.is_running() {
        record.state = state;
    }
    record.progress = bounds::progress(progress);
    record.lease_until = Some(after(now, config.lease.get()));
    record
}

/// The worker ends the attempt. The token must have been checked.
pub fn settle(mut record: Record, settlement: Settlement, config: &Config, now: Timestamp) -> Record {
    let called_off = record.cancel;
    record.lease_until = None;
    match settlement {
        Settlement::Done(done) => {
            record.progress = bounds::progress(done.progress);
            record.path = done.path;
            record.reason = None;
            record.message = None;
            let success = record.kind.success();
            end(record, success, now)
        }
        Settlement::Fail { reason: Reason::DeadlineMissed, .. } => miss_deadline(record, now),
        Settlement::Fail { reason, message } => fail(record, reason, bounds::message(&message), now),
        Settlement::Cancelled => call_off(record, now),
        _ if called_off => call_off(record, now),
        Settlement::Retry { reason, message, .. } if record.attempts >= config.max_attempts => {
            let (message, attempts) = (bounds::message(&message), record.attempts);
            fail(record, reason, format!("{message} (given up after {attempts} attempts)"), now)
        }
        Settlement::Retry { reason, message, after: least } => {
            let least = least.unwrap_or_default().min(MAX_RETRY_AFTER);
            let pause = backoff(record.id, record.attempts, config).max(least);
            snooze(record, reason, &message, after(now, pause), now)
        }
        Settlement::Wait { reason, message, wait } => {
            record.attempts = record.attempts.saturating_sub(1);
            if reason == Reason::OutsideWindow && !window::has_window(&record) {
                return requeue(record, now);
            }
            snooze(record, reason, &message, after(now, wait.min(MAX_WAIT)), now)
        }
        Settlement::Release => {
            record.attempts = record.attempts.saturating_sub(1);
            requeue(record, now)
        }
    }
}

/// The worker vanished: its attempt counts, its token is worth nothing any more.
pub fn expire(mut record: Record, config: &Config, now: Timestamp) -> Record {
    record.lease_until = None;
    record.token = next_token(record.token, now);
    if record.cancel {
        return call_off(record, now);
    }
    if record.attempts >= config.max_attempts {
        let what = format!("the worker vanished in attempt {0} of {0}", record.attempts);
        let hint = "look for a crash in the log of the host, then retry the job";
        return fail(record, Reason::LeaseLost, format!("{what}; hint: {hint}"), now);
    }
    requeue(record, now)
}

/// Somebody takes a wish back: `requester`'s, or everybody's if none is named.
pub fn cancel(mut record: Record, requester: Option<&str>, now: Timestamp) -> (Record, Outcome) {
    if record.state.is_terminal() {
        return (record, Outcome::Over);
    }
    if let Some(name) = requester {
        record.requesters.retain(|known| known != name);
        if record.anonymous || !record.requesters.is_empty() {
            return (record, Outcome::Wanted);
        }
    }
    if record.state.is_running() {
        record.cancel = true;
        return (record, Outcome::Stopping);
    }
    (call_off(record, now), Outcome::Ended)
}

/// Somebody wants a failed or cancelled job again, with all its attempts. A deadline that has passed is
/// dropped: who asks now knows of it.
///
/// # Errors
/// `invalid_request` for a job that has not failed, or whose payload cannot be read.
pub fn retry(mut record: Record, now: Timestamp) -> Result<Record> {
    if !matches!(record.state, State::Failed | State::Cancelled) {
        return Err(Error::new(
            Reason::InvalidRequest,
            format!(
                "the job {} is {}; only a failed or cancelled job can be retried",
                record.id, record.state
            ),
            "ask for the same again instead; one that has not ended can be cancelled first",
        ));
    }
    record.decode()?;
    record.attempts = 0;
    record.cancel = false;
    record.message = None;
    record.started_at = None;
    record.finished_at = None;
    record.deadline = record.deadline.filter(|deadline| *deadline > now);
    record.anonymous |= record.requesters.is_empty();
    record.ages_from = Some(now);
    Ok(requeue(record, now))
}

/// A job whose payload cannot be read fails and keeps the beginning of the payload.
pub fn bury(record: Record, now: Timestamp) -> Record {
    let Err(invalid) = record.decode() else { return record };
    fail(record, invalid.reason(), bounds::message(&Error::from(invalid).message()), now)
}

/// The pause after attempt number `attempt` (from 1): it doubles, is bounded, and lies between half of
/// itself and itself, so that jobs that failed together do not come back together. Whole microseconds, which is
/// as exact as every store keeps a time.
pub fn backoff(id: JobId, attempt: u32, config: &Config) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    let full = config.backoff_min.get().saturating_mul(1 << doublings).min(config.backoff_max.get());
    let hash = crc32fast::hash(format!("{id}/{attempt}").as_bytes());
    let pause = full.mul_f64(0.5 + 0.5 * f64::from(hash) / f64::from(u32::MAX));
    Duration::new(pause.as_secs(), pause.subsec_micros() * 1_000)
}

/// What a job has to spare until its deadline when its missing bytes come as fast as they do now.
pub(super) fn slack(deadline: Timestamp, now: Timestamp, progress: &Progress) -> SignedDuration {
    let left = progress.seconds_left().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
    deadline.duration_since(now).saturating_sub(SignedDuration::from_secs(left))
}

/// `now` and `wait`, or the end of time.
pub(super) fn after(now: Timestamp, wait: Duration) -> Timestamp {
    SignedDuration::try_from(wait).ok().and_then(|wait| now.checked_add(wait).ok()).unwrap_or(Timestamp::MAX)
}

fn snooze(mut record: Record, reason: Reason, message: &str, due: Timestamp, now: Timestamp) -> Record {
    record.message = Some(bounds::message(message));
    if record.deadline.is_some_and(|deadline| deadline <= due) {
        return miss_deadline(record, now);
    }
    record.reason = Some(reason);
    record.state = State::Waiting;
    record.due = Some(due);
    record.progress.stop();
    record
}

fn requeue(mut record: Record, now: Timestamp) -> Record {
    record.state = State::Queued;
    record.reason = None;
    // From now on it waits for a worker.
    record.due = Some(now);
    record.progress.stop();
    record
}

pub(super) fn miss_deadline(record: Record, now: Timestamp) -> Record {
    let before = record.message.as_deref().map_or(String::new(), |message| format!(" (before: {message})"));
    let message = format!(
        "the job was not done by its deadline; hint: ask again with a later one, or with none{before}"
    );
    fail(record, Reason::DeadlineMissed, message, now)
}

fn call_off(mut record: Record, now: Timestamp) -> Record {
    record.reason = Some(Reason::Cancelled);
    end(record, State::Cancelled, now)
}

/// `message` is within its bound but for what these rules say themselves, which is never cut off.
fn fail(mut record: Record, reason: Reason, message: String, now: Timestamp) -> Record {
    record.reason = Some(reason);
    record.message = Some(message);
    if record.decode().is_err() {
        record.job = clipped_payload(&record.job);
    }
    end(record, State::Failed, now)
}

fn end(mut record: Record, state: State, now: Timestamp) -> Record {
    record.state = state;
    record.due = None;
    record.lease_until = None;
    record.progress.stop();
    record.finished_at = Some(now);
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::testing::{config, job};
    use proptest::prelude::*;

    fn id(n: u128) -> JobId {
        JobId::new(Timestamp::UNIX_EPOCH, n)
    }

    proptest! {
        #[test]
        fn backoff_grows_within_its_bounds(n in any::<u128>()) {
            let config = Config {
                backoff_min: Span(Duration::from_secs(1)),
                backoff_max: Span(Duration::from_secs(600)),
                ..config()
            };
            let pauses: Vec<_> = (1..80).map(|attempt| backoff(id(n), attempt, &config)).collect();
            prop_assert!(pauses[0] >= Duration::from_millis(500) && pauses[0] <= Duration::from_secs(1));
            prop_assert!(pauses[..9].is_sorted(), "{pauses:?}");
            prop_assert!(pauses[10..].iter().all(|pause| (300..=600).contains(&pause.as_secs())));
        }
    }

    #[test]
    fn backoff_does_not_depend_on_the_moment() {
        assert_eq!(backoff(id(1), 3, &config()), backoff(id(1), 3, &config()));
        assert_ne!(backoff(id(1), 3, &config()), backoff(id(2), 3, &config()));
    }

    #[test]
    fn a_token_is_new_even_if_the_last_claim_was_forgotten() {
        let now: Timestamp = "2026-01-02T03:04:05.000006Z".parse().expect("a time");
        let micros = 1_767_323_045_000_006;
        assert_eq!(next_token(5, now), micros);
        assert_eq!(next_token(5, after(now, Duration::from_micros(1))), micros + 1);
        assert_eq!(next_token(micros, now), micros + 1, "a second claim in the same microsecond");
        assert_eq!(next_token(5, Timestamp::UNIX_EPOCH), 6);
        assert_eq!((next_token(5, Timestamp::MIN), next_token(5, Timestamp::MAX)), (6, 6), "a broken clock");
    }

    #[test]
    fn a_source_cannot_put_a_job_off_for_ever() {
        let now = Timestamp::UNIX_EPOCH;
        let record = accept(&job("a/b"), id(1), 0, now).expect("accepted");
        let record = claim(record, &config(), now);
        let settlement = Settlement::Retry {
            reason: Reason::RateLimited,
            message: "no".into(),
            after: Some(Duration::from_secs(999_999)),
        };
        let record = settle(record, settlement, &config(), now);
        assert_eq!(record.due, Some(after(now, MAX_RETRY_AFTER)));
    }

    #[test]
    fn a_large_payload_is_refused() {
        let mut large = job("a/b");
        let Work::Download(download) = &mut large.work else { panic!("a download") };
        download.include =
            (0..60).map(|n| format!("{n}{}", "x".repeat(200)).parse().expect("a pattern")).collect();
        let error = accept(&large, id(1), 0, Timestamp::UNIX_EPOCH).expect_err("refused");
        assert_eq!(error.reason(), Reason::InvalidRequest);
    }
}

//! What was measured on this host: how fast its disk, memory and hub are, what hardware it had when, and by how much the
//! predicted memory of models was off. All of it is history: bounded, and worth nothing on another host.

use std::time::Duration;

use jiff::Timestamp;
use larder_jobs::CommitId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Ledger;
use crate::error::Result;
use crate::gpu::{MINUTES, Minute};
use crate::store::{Batch, Table};

const MEASURED: Table<Measured> = Table::new("measured");
const MINUTE: Table<Minute> = Table::new("minute");
const HARDWARE: Table<Hardware> = Table::new("hardware");
const FETCHED: Table<FetchRate> = Table::new("fetched");
const CALIBRATED: Table<Calibration> = Table::new("calibrated");
const FETCHED_KEY: &[u8] = b"hub";
/// Most profiles and most changes of the hardware that are remembered.
const MAX_HISTORY: usize = 100;
/// Most combinations of architecture, engine, quantization and card whose error is remembered.
const MAX_CALIBRATIONS: usize = 1_000;
/// Fewer bytes say more about the round trip than about the line.
const TELLING_BYTES: u64 = 16 << 20;
/// How much the newest of several measurements counts.
const NEWEST: f64 = 0.3;

/// One profile of the host. Rates in bytes per second; what was not measured is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measured {
    /// When.
    pub at: Timestamp,
    /// Writing to the cache's disk, flushed.
    #[serde(default)]
    pub disk_write: Option<f64>,
    /// Reading what is not in memory, one after the other.
    #[serde(default)]
    pub disk_read_cold: Option<f64>,
    /// The same by several readers.
    #[serde(default)]
    pub disk_read_cold_parallel: Option<f64>,
    /// Reading what is in memory.
    #[serde(default)]
    pub disk_read_warm: Option<f64>,
    /// Copying memory, read and written bytes together.
    #[serde(default)]
    pub memory_copy: Option<f64>,
    /// Seconds until the hub answers a small question.
    #[serde(default)]
    pub hub_round_trip: Option<f64>,
    /// What was not measured and why, in words.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The hardware from some time on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hardware {
    /// Since when.
    pub since: Timestamp,
    /// What does not change from second to second: devices, driver, health; as `GET /v1/host` shows it.
    #[schemars(with = "crate::gpu::HardwareState")]
    pub state: serde_json::Value,
}

/// How fast downloads came.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct FetchRate {
    bytes_per_second: f64,
}

/// How far off predictions were for models of one architecture, engine, quantization and card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Calibration {
    /// What it is about.
    pub key: CalibrationKey,
    /// Measured by predicted bytes, the mean; newer observations count more.
    pub ratio: f64,
    /// How far single observations lie from that, as a share.
    pub error: f64,
    /// Observations.
    pub observations: u64,
    /// Predictions whose margin did not cover what the engine took.
    #[serde(default)]
    pub false_yes: u64,
    /// The commit that was observed last.
    #[serde(default)]
    pub commit: Option<CommitId>,
    /// When.
    pub at: Timestamp,
}

/// What predictions are corrected for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct CalibrationKey {
    /// `model_type` of the config.
    pub architecture: String,
    /// The engine.
    pub engine: String,
    /// The quantization.
    pub quantization: String,
    /// The card, as NVML names it.
    pub gpu: String,
}

impl CalibrationKey {
    fn bytes(&self) -> Vec<u8> {
        let Self { architecture, engine, quantization, gpu } = self;
        format!("{architecture}|{engine}|{quantization}|{gpu}").into_bytes()
    }
}

impl Calibration {
    /// The calibration after one more observation, of a prediction that had not been corrected yet.
    #[must_use]
    pub fn observed(key: CalibrationKey, earlier: Option<&Self>, ratio: f64, now: Timestamp) -> Self {
        let (mean, error, observations) = match earlier {
            None => (ratio, 0.0, 1),
            Some(old) => {
                let off = ((ratio - old.ratio) / old.ratio).abs();
                (
                    old.ratio + NEWEST * (ratio - old.ratio),
                    old.error + NEWEST * (off - old.error),
                    old.observations.saturating_add(1),
                )
            }
        };
        let false_yes = earlier.map_or(0, |old| old.false_yes);
        Self { key, ratio: mean, error, observations, false_yes, commit: None, at: now }
    }
}

fn time_key(at: Timestamp) -> [u8; 8] {
    // Times before 1970 do not happen here; as big-endian numbers the others sort by time.
    u64::try_from(at.as_microsecond()).unwrap_or(0).to_be_bytes()
}

impl Ledger {
    /// Remembers a profile of this host.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn measured(&self, measured: &Measured) -> Result<()> {
        self.remember(MEASURED, &time_key(measured.at), measured, MAX_HISTORY)
    }

    /// The profiles of this host, oldest first.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn measurements(&self) -> Result<Vec<Measured>> {
        self.all(MEASURED)
    }

    /// The newest known value of each measurement.
    pub fn rates(&self) -> Measured {
        let mut rates = Measured::default();
        // A store that fails is told elsewhere; without it nothing is known.
        for one in self.measurements().unwrap_or_default() {
            rates.at = one.at;
            rates.disk_write = one.disk_write.or(rates.disk_write);
            rates.disk_read_cold = one.disk_read_cold.or(rates.disk_read_cold);
            rates.disk_read_cold_parallel = one.disk_read_cold_parallel.or(rates.disk_read_cold_parallel);
            rates.disk_read_warm = one.disk_read_warm.or(rates.disk_read_warm);
            rates.memory_copy = one.memory_copy.or(rates.memory_copy);
            rates.hub_round_trip = one.hub_round_trip.or(rates.hub_round_trip);
        }
        rates
    }

    /// Remembers how long a download took for its bytes; few bytes say nothing.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn fetched(&self, bytes: u64, took: Duration) -> Result<()> {
        if bytes < TELLING_BYTES || took.is_zero() {
            return Ok(());
        }
        #[allow(clippy::cast_precision_loss)] // a rate needs no sixteen digits
        let rate = bytes as f64 / took.as_secs_f64();
        let bytes_per_second = match self.fetch_rate() {
            Some(old) => old + NEWEST * (rate - old),
            None => rate,
        };
        let mut batch = Batch::default();
        batch.put(FETCHED, FETCHED_KEY, &FetchRate { bytes_per_second });
        self.store.commit(batch)
    }

    /// Bytes per second of this host's downloads, if there were any of a telling size.
    pub fn fetch_rate(&self) -> Option<f64> {
        self.store.get(FETCHED, FETCHED_KEY).ok().flatten().map(|rate| rate.bytes_per_second)
    }

    /// Remembers what the hardware is, if it is another than before.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn saw_hardware(&self, state: serde_json::Value, now: Timestamp) -> Result<()> {
        if self.hardware()?.last().is_some_and(|last| last.state == state) {
            return Ok(());
        }
        self.remember(HARDWARE, &time_key(now), &Hardware { since: now, state }, MAX_HISTORY)
    }

    /// What the hardware was, oldest first; the last is what it is.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn hardware(&self) -> Result<Vec<Hardware>> {
        self.all(HARDWARE)
    }

    /// Remembers how the GPUs fared in a minute.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn saw_minute(&self, minute: &Minute) -> Result<()> {
        self.remember(MINUTE, &time_key(minute.began), minute, MINUTES)
    }

    /// How the GPUs fared in the last minutes, oldest first. Those that a wrong clock put into the future are forgotten.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn minutes(&self, now: Timestamp) -> Result<Vec<Minute>> {
        let (past, future): (Vec<_>, Vec<_>) =
            self.all(MINUTE)?.into_iter().partition(|minute| minute.began <= now);
        let mut batch = Batch::default();
        future.iter().for_each(|minute| batch.delete(MINUTE, &time_key(minute.began)));
        if !future.is_empty() {
            self.store.commit(batch)?;
        }
        Ok(past)
    }

    /// Takes in that a prediction and what was measured differ by `ratio`.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn calibrate(&self, calibration: &Calibration) -> Result<()> {
        self.remember(CALIBRATED, &calibration.key.bytes(), calibration, MAX_CALIBRATIONS)
    }

    /// What is known of predictions like that one.
    pub fn calibration(&self, key: &CalibrationKey) -> Option<Calibration> {
        self.store.get(CALIBRATED, &key.bytes()).ok().flatten()
    }

    /// Everything that is known of predictions on this host.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn calibrations(&self) -> Result<Vec<Calibration>> {
        self.all(CALIBRATED)
    }

    fn all<T: serde::de::DeserializeOwned>(&self, table: Table<T>) -> Result<Vec<T>> {
        let records = self.store.scan(table, b"").map(|item| Ok(item?.1.ok()));
        // A damaged measurement is not worth more than one that was never made.
        Ok(records.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Puts a record, and lets the first ones go if there are more than `most`.
    fn remember<T: Serialize + serde::de::DeserializeOwned>(
        &self,
        table: Table<T>,
        key: &[u8],
        record: &T,
        most: usize,
    ) -> Result<()> {
        let _writing = self.lock();
        let mut batch = Batch::default();
        batch.put(table, key, record);
        let keys: Vec<Vec<u8>> =
            self.store.scan(table, b"").map(|item| Ok(item?.0)).collect::<Result<_>>()?;
        let is_new = !keys.iter().any(|known| known == key);
        let too_many = (keys.len() + usize::from(is_new)).saturating_sub(most);
        keys.iter().filter(|known| *known != key).take(too_many).for_each(|old| batch.delete(table, old));
        self.store.commit(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Cache;
    use crate::store::{StateLock, Store};
    use larder_jobs::Span;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("time")
    }

    fn with_ledger(test: impl FnOnce(&Ledger)) {
        let dir = tempfile::tempdir().expect("temp dir");
        let _lock = StateLock::acquire(dir.path()).expect("lock").expect("free");
        let (store, opened) = Store::open(dir.path()).expect("opens");
        let cache = Cache::new(dir.path().join("cache"));
        let grace = Span(Duration::from_secs(1));
        test(&Ledger::open(store, cache, grace, &opened, at(0)).expect("opens"));
    }

    #[test]
    fn history_is_bounded_and_the_newest_value_counts() {
        with_ledger(|ledger| {
            for n in 0..150_u32 {
                let disk_write = (n % 2 == 0).then(|| f64::from(n));
                let one = Measured { at: at(i64::from(n) + 1), disk_write, ..Measured::default() };
                ledger.measured(&one).expect("stored");
            }
            let all = ledger.measurements().expect("read");
            assert_eq!((all.len(), all[0].at, all[99].at), (100, at(51), at(150)));
            let rates = ledger.rates();
            assert_eq!((rates.disk_write, rates.memory_copy, rates.at), (Some(148.0), None, at(150)));
        });
    }

    #[test]
    fn hardware_is_remembered_when_it_changes() {
        with_ledger(|ledger| {
            for (second, name) in [(1, "a"), (2, "a"), (3, "b"), (4, "a")] {
                ledger.saw_hardware(serde_json::json!({"gpu": name}), at(second)).expect("stored");
            }
            let since: Vec<_> = ledger.hardware().expect("read").iter().map(|one| one.since).collect();
            assert_eq!(since, [at(1), at(3), at(4)]);
        });
    }

    #[test]
    fn minutes_of_gpus_are_kept_in_order_and_none_of_the_future() {
        use crate::gpu::Moment;
        let minute = |began: i64, used: u64| Minute {
            began: at(began * 60),
            gpus: vec![Moment { used_bytes: Some(used), ..Moment::default() }],
        };
        with_ledger(|ledger| {
            for (began, used) in [(1, 10), (2, 20), (2, 30), (9_000_000, 1)] {
                ledger.saw_minute(&minute(began, used)).expect("stored");
            }
            let now = at(1_000_000);
            assert_eq!(ledger.minutes(now).expect("read"), [minute(1, 10), minute(2, 30)]);
            assert_eq!(ledger.minutes(at(1_000_000_000)).expect("read").len(), 2, "it is gone for good");
        });
    }

    #[test]
    fn rates_follow_what_was_seen_last_and_small_downloads_tell_nothing() {
        with_ledger(|ledger| {
            ledger.fetched(1 << 20, Duration::from_secs(1)).expect("ignored");
            assert_eq!(ledger.fetch_rate(), None);
            ledger.fetched(100 << 20, Duration::from_secs(1)).expect("stored");
            ledger.fetched(200 << 20, Duration::from_secs(1)).expect("stored");
            let rate = ledger.fetch_rate().expect("known") / f64::from(1 << 20);
            assert!((rate - 130.0).abs() < 1e-6, "{rate}");
        });
    }

    #[test]
    fn calibration_moves_to_what_is_observed() {
        let key = CalibrationKey {
            architecture: "llama".into(),
            engine: "vllm".into(),
            quantization: "16bit".into(),
            gpu: "NVIDIA L4".into(),
        };
        with_ledger(|ledger| {
            assert_eq!(ledger.calibration(&key), None);
            for n in 0..20 {
                let earlier = ledger.calibration(&key);
                let next = Calibration::observed(key.clone(), earlier.as_ref(), 1.2, at(n));
                ledger.calibrate(&next).expect("stored");
            }
            let known = ledger.calibration(&key).expect("known");
            assert!((known.ratio - 1.2).abs() < 1e-9 && known.error < 1e-9, "{known:?}");
            assert_eq!((known.observations, ledger.calibrations().expect("read").len()), (20, 1));
        });
    }
}

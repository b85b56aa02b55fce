//! This host as the scout sees it: processor, memory, disk, GPUs, what was measured, and whether it is fit for work.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Scout;
use crate::error::{Error, Result, blocking};
use crate::gpu::health::{self, Health};
use crate::gpu::{DeviceKind, Gpus, HardwareState};
use crate::host::{Facts, Roots};
use crate::ledger::{Calibration, Hardware, Measured};

/// What `larder info` and `GET /v1/host` show.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ThisHost")]
pub struct HostView {
    /// Its name.
    pub name: String,
    /// Version of larder.
    pub version: String,
    /// What a framework would run on.
    pub device: DeviceKind,
    /// Whether it is fit for work, and why not.
    pub health: Health,
    /// Processor, memory and the disk of the cache.
    #[serde(flatten)]
    pub facts: Facts,
    /// The GPUs.
    pub gpus: Gpus,
    /// The newest of each measurement; `null` if the host was never profiled.
    pub measured: Option<Measured>,
    /// Bytes per second of its downloads, if there were any of a telling size.
    pub fetched_bytes_per_second: Option<f64>,
    /// How far off predictions of VRAM were here.
    pub calibrations: Vec<Calibration>,
}

/// What this host was.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HostHistory {
    /// Its profiles, oldest first.
    pub measurements: Vec<Measured>,
    /// Its hardware, a record for every change, oldest first.
    pub hardware: Vec<Hardware>,
}

impl Scout {
    /// This host as it is now. Reads files of the kernel; never waits for a GPU that another thread watches.
    ///
    /// # Errors
    /// `internal` if the look died.
    pub async fn host(&self, name: &str) -> Result<HostView> {
        let gpus = self.gpus().await?;
        let root = self.cache.root().to_owned();
        let facts = blocking(move || Ok(Facts::read(&Roots::default(), &[&root]))).await?;
        let health = judged(&gpus, &facts);
        let ledger = self.ledger.as_deref();
        let measured =
            ledger.map(crate::ledger::Ledger::rates).filter(|rates| rates.at > Timestamp::UNIX_EPOCH);
        Ok(HostView {
            name: name.to_owned(),
            version: env!("CARGO_PKG_VERSION").into(),
            device: gpus.device(),
            health,
            facts,
            measured,
            fetched_bytes_per_second: ledger.and_then(crate::ledger::Ledger::fetch_rate),
            calibrations: ledger.map(crate::ledger::Ledger::calibrations).transpose()?.unwrap_or_default(),
            gpus: (*gpus).clone(),
        })
    }

    /// The GPUs as they were read last, if a thread of this process watches them.
    pub fn watched(&self) -> Option<std::sync::Arc<Gpus>> {
        self.watched.as_ref().map(crate::gpu::Handle::latest)
    }

    /// How the GPUs fared over the last hours; nothing if no thread of this process watches them.
    pub fn vram_history(&self) -> crate::gpu::History {
        self.watched.as_ref().map(crate::gpu::Handle::history).unwrap_or_default()
    }

    /// The newest of each measurement; nothing without records.
    pub fn rates(&self) -> Measured {
        self.ledger.as_ref().map(|ledger| ledger.rates()).unwrap_or_default()
    }

    /// Bytes per second of this host's downloads, if there were any of a telling size.
    pub fn fetch_rate(&self) -> Option<f64> {
        self.ledger.as_ref().and_then(|ledger| ledger.fetch_rate())
    }

    /// How far off predictions of VRAM were; nothing without records.
    pub fn calibrations(&self) -> Vec<Calibration> {
        self.ledger.as_ref().and_then(|ledger| ledger.calibrations().ok()).unwrap_or_default()
    }

    /// Whether this host is fit for work, by what is known now.
    pub fn health(&self, facts: &Facts) -> Option<Health> {
        self.watched.as_ref().map(|handle| judged(&handle.latest(), facts))
    }

    /// Which GPUs there are and how they are, by which a change is noticed.
    pub fn standing(&self) -> Vec<(Option<String>, bool, crate::gpu::State)> {
        let gpus = self.watched();
        let of = |gpu: &crate::gpu::Gpu| (gpu.uuid.clone(), gpu.lost, gpu.health.state);
        gpus.map(|gpus| gpus.devices.iter().map(of).collect()).unwrap_or_default()
    }

    /// Remembers the hardware, if it is another than before.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub async fn remember_hardware(&self) -> Result<()> {
        let (Some(handle), Some(ledger)) = (&self.watched, self.ledger.clone()) else { return Ok(()) };
        let (gpus, root) = (handle.latest(), self.cache.root().to_owned());
        blocking(move || {
            let facts = Facts::read(&Roots::default(), &[&root]);
            let health = judged(&gpus, &facts);
            let state = serde_json::to_value(HardwareState::of(&gpus, &health))
                .map_err(|error| Error::internal(error.to_string()))?;
            ledger.saw_hardware(state, Timestamp::now())
        })
        .await
    }

    /// Gives the watched GPUs the minutes that an earlier process recorded.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn recall_minutes(&self) -> Result<()> {
        if let (Some(handle), Some(ledger)) = (&self.watched, &self.ledger) {
            handle.precede(ledger.minutes(Timestamp::now())?);
        }
        Ok(())
    }

    /// Records the newest minute of the watched GPUs, unless it is the one that was recorded last: the one that is over, or
    /// at the end the one that is open.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub async fn remember_minute(&self, last: &mut Option<Timestamp>, is_over: bool) -> Result<()> {
        let (Some(handle), Some(ledger)) = (&self.watched, self.ledger.clone()) else { return Ok(()) };
        let Some(minute) = handle.newest_minute(is_over).filter(|newest| Some(newest.began) > *last) else {
            return Ok(());
        };
        let began = minute.began;
        blocking(move || ledger.saw_minute(&minute)).await?;
        *last = Some(began);
        Ok(())
    }

    /// What this host was; empty without records.
    ///
    /// # Errors
    /// `io_error` if the store fails.
    pub fn history(&self) -> Result<HostHistory> {
        let Some(ledger) = &self.ledger else {
            return Ok(HostHistory { measurements: Vec::new(), hardware: Vec::new() });
        };
        Ok(HostHistory { measurements: ledger.measurements()?, hardware: ledger.hardware()? })
    }
}

/// The verdict on GPUs, the cache's filesystem and its drives.
pub fn judged(gpus: &Gpus, facts: &Facts) -> Health {
    let disk = facts.disks.first();
    let path = disk.map(|disk| disk.path.display().to_string()).unwrap_or_default();
    let drives = facts.disks.iter().flat_map(|disk| &disk.nvme).filter_map(|drive| {
        let wear = drive.wear.as_ref()?;
        Some(health::Drive {
            name: &drive.device,
            percentage_used: wear.percentage_used,
            critical_warning: wear.critical_warning,
        })
    });
    let drives: Vec<_> = drives.collect();
    health::of_host(&health::Signs {
        gpus,
        now: Timestamp::now(),
        cache: (&path, disk.and_then(|disk| disk.read_only)),
        drives: &drives,
    })
}

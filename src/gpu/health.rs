//! Whether this host is fit to serve models: healthy, degraded for reasons that are named, or unknown.
//!
//! Pure: what the GPUs, the cache's filesystem and its drives say comes in, and the time as well. Only what stays bad
//! until somebody acts counts: an application that failed does not make its host bad, and corrected errors are what
//! the correction is for. Sources of the rules: NVIDIA's Xid catalogue (see [`super::xid`]); NVIDIA's "GPU Memory
//! Error Management" for row remapping, <https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/index.html>; the NVMe
//! base specification's SMART / health log.

use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::snapshot::{Gpu, Gpus, Throttle};
use super::xid;

/// How long an Xid counts. Nobody tells whether the GPU was reset since, so it is forgotten after a day.
pub const XID_COUNTS: Duration = Duration::from_secs(24 * 3600);
/// Most reasons that are listed.
const MAX_REASONS: usize = 64;
/// Of the endurance that a drive's maker promises, in per cent.
const WORN: u8 = 100;

/// The verdict and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// The verdict.
    pub state: State,
    /// Why it is not healthy.
    pub reasons: Vec<Reason>,
}

/// The verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "HealthState")]
pub enum State {
    /// Nothing is known to be wrong.
    Healthy,
    /// Something is.
    Degraded,
    /// Nobody can tell.
    #[default]
    Unknown,
}

impl State {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unknown => "unknown",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "HealthReason")]
pub struct Reason {
    /// In one word.
    pub word: Word,
    /// The GPU, path or drive.
    pub subject: String,
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub hint: String,
}

/// What is wrong, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "HealthWord")]
pub enum Word {
    /// A GPU is out of reach.
    GpuLost,
    /// A GPU works again only after a reset.
    GpuResetRequired,
    /// The driver reported an error after which NVIDIA asks for action.
    Xid,
    /// The memory had errors that could not be corrected.
    EccUncorrected,
    /// A row of the memory waits for a reset to be replaced.
    RowRemapPending,
    /// A row of the memory could not be replaced.
    RowRemapFailure,
    /// A GPU is slowed down by heat.
    ThermalSlowdown,
    /// A GPU is slowed down by its power supply.
    PowerBrake,
    /// A GPU is slowed down by its hardware, for one of these two reasons.
    HardwareSlowdown,
    /// The cache's filesystem takes no writes.
    CacheReadOnly,
    /// A drive is past the endurance that its maker promises.
    DriveWorn,
    /// A drive warns.
    DriveWarning,
    /// The GPUs cannot be read.
    GpusUnreadable,
    /// The GPUs have not been read for a while.
    GpusStale,
    /// The driver reported an error of which nobody says what it means.
    XidUnclassified,
}

impl Word {
    /// The word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::GpuLost => "gpu_lost",
            Self::GpuResetRequired => "gpu_reset_required",
            Self::Xid => "xid",
            Self::EccUncorrected => "ecc_uncorrected",
            Self::RowRemapPending => "row_remap_pending",
            Self::RowRemapFailure => "row_remap_failure",
            Self::ThermalSlowdown => "thermal_slowdown",
            Self::PowerBrake => "power_brake",
            Self::HardwareSlowdown => "hardware_slowdown",
            Self::CacheReadOnly => "cache_read_only",
            Self::DriveWorn => "drive_worn",
            Self::DriveWarning => "drive_warning",
            Self::GpusUnreadable => "gpus_unreadable",
            Self::GpusStale => "gpus_stale",
            Self::XidUnclassified => "xid_unclassified",
        }
    }

    /// All of them.
    pub const ALL: &[Self] = &[
        Self::GpuLost,
        Self::GpuResetRequired,
        Self::Xid,
        Self::EccUncorrected,
        Self::RowRemapPending,
        Self::RowRemapFailure,
        Self::ThermalSlowdown,
        Self::PowerBrake,
        Self::HardwareSlowdown,
        Self::CacheReadOnly,
        Self::DriveWorn,
        Self::DriveWarning,
        Self::GpusUnreadable,
        Self::GpusStale,
        Self::XidUnclassified,
    ];

    /// Whether it means that nobody can tell, rather than that something is wrong.
    const fn unknown(self) -> bool {
        matches!(self, Self::GpusUnreadable | Self::GpusStale | Self::XidUnclassified)
    }
}

/// What the verdict rests on.
#[derive(Debug, Clone, Copy)]
pub struct Signs<'a> {
    /// The GPUs.
    pub gpus: &'a Gpus,
    /// The time.
    pub now: Timestamp,
    /// Where the cache is, and whether its filesystem is mounted read-only; `None` if that is not known.
    pub cache: (&'a str, Option<bool>),
    /// The drives below the cache whose health could be read.
    pub drives: &'a [Drive<'a>],
}

/// What a drive says of its health; see `host` for where it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Drive<'a> {
    /// The block device.
    pub name: &'a str,
    /// Of the promised endurance, in per cent; 255 is 255 and more.
    pub percentage_used: u8,
    /// Bits of the NVMe specification: 0 spare low, 1 temperature, 2 reliability, 3 read-only, 4 backup, 5 persistent
    /// memory.
    pub critical_warning: u8,
}

impl Health {
    fn of(mut reasons: Vec<Reason>) -> Self {
        let state = match reasons.as_slice() {
            [] => State::Healthy,
            some if some.iter().all(|reason| reason.word.unknown()) => State::Unknown,
            _ => State::Degraded,
        };
        // What is wrong goes before what is not known.
        reasons.sort_by_key(|reason| reason.word.unknown());
        reasons.truncate(MAX_REASONS);
        Self { state, reasons }
    }

    /// The reasons in words, for a log line or an error.
    pub fn words(&self) -> String {
        let words = self.reasons.iter().map(|reason| format!("{}: {}", reason.subject, reason.what));
        words.collect::<Vec<_>>().join("; ")
    }
}

/// Whether the host is fit.
pub fn of_host(signs: &Signs<'_>) -> Health {
    let mut reasons: Vec<Reason> =
        signs.gpus.devices.iter().flat_map(|gpu| of_gpu(gpu, signs.now).reasons).collect();
    reasons.extend(unreadable(signs.gpus));
    if signs.cache.1 == Some(true) {
        reasons.push(Reason {
            word: Word::CacheReadOnly,
            subject: signs.cache.0.to_owned(),
            what: "the filesystem is mounted read-only".into(),
            hint: "see in dmesg why the kernel did that, check the disk, and mount it again".into(),
        });
    }
    reasons.extend(signs.drives.iter().flat_map(worn));
    Health::of(reasons)
}

/// Whether a GPU is fit.
pub fn of_gpu(gpu: &Gpu, now: Timestamp) -> Health {
    let subject = gpu.uuid.clone().unwrap_or_else(|| format!("GPU {}", gpu.index));
    let mut reasons = Vec::new();
    let mut add = |word, what: String, hint: &str| {
        reasons.push(Reason { word, subject: subject.clone(), what, hint: hint.to_owned() });
    };
    if gpu.lost {
        let hint = "drain the host and restart it; check the GPU's seating, power and cooling if it repeats";
        add(Word::GpuLost, "it fell off the bus or is otherwise out of reach".into(), hint);
    }
    if gpu.reset_required {
        add(Word::GpuResetRequired, "it works again only after a reset".into(), xid::Class::ResetGpu.hint());
    }
    let uncorrected = gpu.ecc.and_then(|ecc| ecc.volatile.uncorrected).unwrap_or(0);
    if uncorrected > 0 {
        let what = format!("{uncorrected} memory errors since its driver was loaded could not be corrected");
        add(Word::EccUncorrected, what, xid::Class::ResetGpu.hint());
    }
    if let Some(rows) = gpu.remapped_rows {
        if rows.failure {
            let hint = "have the GPU replaced: it has no spare rows left for a part of its memory";
            add(Word::RowRemapFailure, "a bad row of its memory could not be replaced".into(), hint);
        }
        if rows.pending {
            let what = "a bad row of its memory waits to be replaced";
            add(Word::RowRemapPending, what.into(), xid::Class::ResetGpu.hint());
        }
    }
    let (word, what, hint) = match slowdown(gpu) {
        Some(Word::ThermalSlowdown) => {
            (Word::ThermalSlowdown, "it is too hot and slowed down", "check fans, air flow and dust")
        }
        Some(Word::PowerBrake) => {
            (Word::PowerBrake, "its power supply slows it down", "check the host's power supplies")
        }
        Some(_) => (Word::HardwareSlowdown, "its hardware slows it down", "check cooling and power supplies"),
        None => return with_xids(reasons, gpu, &subject, now),
    };
    add(word, what.into(), hint);
    with_xids(reasons, gpu, &subject, now)
}

fn slowdown(gpu: &Gpu) -> Option<Word> {
    let has = |reason| gpu.throttle_reasons.as_ref().is_some_and(|reasons| reasons.contains(&reason));
    [
        (Throttle::HwThermalSlowdown, Word::ThermalSlowdown),
        (Throttle::HwPowerBrakeSlowdown, Word::PowerBrake),
        (Throttle::HwSlowdown, Word::HardwareSlowdown),
    ]
    .into_iter()
    .find(|(reason, _)| has(*reason))
    .map(|(_, word)| word)
}

fn with_xids(mut reasons: Vec<Reason>, gpu: &Gpu, subject: &str, now: Timestamp) -> Health {
    for event in gpu.xid.iter().flat_map(|xids| &xids.last) {
        // A clock that was set back makes an Xid young, not old.
        let age = Duration::try_from(now.duration_since(event.at)).unwrap_or(Duration::ZERO);
        let word = match event.class.degrades() {
            Some(true) => Word::Xid,
            Some(false) => continue,
            None => Word::XidUnclassified,
        };
        if age < XID_COUNTS {
            reasons.push(Reason {
                word,
                subject: subject.to_owned(),
                what: format!("the driver reported Xid {} at {}", event.code, event.at),
                hint: event.class.hint().to_owned(),
            });
        }
    }
    Health::of(reasons)
}

fn unreadable(gpus: &Gpus) -> Option<Reason> {
    if let Some(why) = gpus.why_none.as_ref().filter(|why| !why.word.is_no_gpu()) {
        let (what, hint) = (why.what.clone(), why.hint.clone());
        return Some(Reason { word: Word::GpusUnreadable, subject: "GPUs".into(), what, hint });
    }
    gpus.stale.then(|| Reason {
        word: Word::GpusStale,
        subject: "GPUs".into(),
        what: format!("they were read last at {}", gpus.taken_at),
        hint: "see whether nvidia-smi answers and what the kernel log says (dmesg | grep NVRM)".into(),
    })
}

fn worn(drive: &Drive<'_>) -> Vec<Reason> {
    let reason = |word, what| Reason {
        word,
        subject: drive.name.to_owned(),
        what,
        hint: "replace the drive; every model on it can be staged again".into(),
    };
    let mut reasons = Vec::new();
    if drive.critical_warning != 0 {
        let names =
            ["spare low", "temperature", "reliability", "read-only", "backup failed", "persistent memory"];
        let set: Vec<_> =
            (0..).zip(names).filter(|(bit, _)| drive.critical_warning >> bit & 1 == 1).collect();
        let set: Vec<_> = set.into_iter().map(|(_, name)| name).collect();
        reasons.push(reason(Word::DriveWarning, format!("it warns: {}", set.join(", "))));
    }
    if drive.percentage_used >= WORN {
        let what = format!("{} % of its promised endurance is used", drive.percentage_used);
        reasons.push(reason(Word::DriveWorn, what));
    }
    reasons
}

#[cfg(test)]
mod tests;

//! How each GPU fared over the last hours: one value for each minute, the most that was seen in it. At most [`MINUTES`] of
//! them for [`MAX_GPUS`] GPUs, which is about 2 MB; what is older or more is left out. It is kept in columns, as a chart
//! wants it, and travels by the [`Minute`], as the ledger keeps it over restarts.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::snapshot::{Gpu, Gpus};

/// Minutes that are remembered.
pub const MINUTES: usize = 12 * 60;
/// GPUs that are remembered.
pub const MAX_GPUS: usize = 64;
const MINUTE: i64 = 60;

/// How the GPUs fared in one minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minute {
    /// When it began.
    pub began: Timestamp,
    /// The GPUs that were there.
    pub gpus: Vec<Moment>,
}

/// How one GPU fared; `None` is what could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// As the driver prints it.
    pub uuid: Option<String>,
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: Option<String>,
    /// Bytes of its memory.
    pub total_bytes: Option<u64>,
    /// The most bytes that were used.
    pub used_bytes: Option<u64>,
    /// The most degrees Celsius.
    #[serde(default)]
    pub temperature_c: Option<u32>,
    /// Uncorrected ECC errors of its life.
    #[serde(default)]
    pub ecc_uncorrected: Option<u64>,
}

impl Minute {
    /// A reading, as the minute in which it was made; `None` for a time that no calendar has.
    fn of(gpus: &Gpus) -> Option<Self> {
        let second = gpus.taken_at.as_second();
        let began = Timestamp::from_second(second - second.rem_euclid(MINUTE)).ok()?;
        Some(Self { began, gpus: gpus.devices.iter().map(Moment::of).collect() })
    }
}

impl Moment {
    fn of(gpu: &Gpu) -> Self {
        Self {
            uuid: gpu.uuid.clone(),
            index: gpu.index,
            name: gpu.name.clone(),
            total_bytes: gpu.memory.total,
            used_bytes: gpu.memory.used,
            temperature_c: gpu.temperature_c,
            ecc_uncorrected: gpu.ecc.as_ref().and_then(|ecc| ecc.aggregate.uncorrected),
        }
    }
}

/// What was seen, by minute. A minute in which nobody read the GPUs is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "GpuHistory")]
pub struct History {
    /// When each minute began, oldest first.
    minutes: VecDeque<Timestamp>,
    /// The GPUs, each with one value for each of the minutes.
    gpus: Vec<Track>,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "GpuTrack")]
struct Track {
    /// As the driver prints it; `null` if it never told.
    uuid: Option<String>,
    /// Its number.
    index: u32,
    /// The product.
    name: Option<String>,
    /// The size of its memory when that was last known.
    total_bytes: Option<u64>,
    used_bytes: Column<u64>,
    temperature_c: Column<u32>,
    ecc_uncorrected: Column<u64>,
}

/// The most that was seen in each of the minutes; `null` where it could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
struct Column<T>(VecDeque<Option<T>>);

impl<T: Copy + Ord> Column<T> {
    fn unknown(minutes: usize) -> Self {
        Self(std::iter::repeat_n(None, minutes).collect())
    }

    fn see(&mut self, value: Option<T>) {
        if let Some(most) = self.0.back_mut() {
            *most = (*most).max(value);
        }
    }

    fn at(&self, minute: usize) -> Option<T> {
        self.0.get(minute).copied().flatten()
    }
}

impl Track {
    fn new(gpu: &Moment, minutes: usize) -> Self {
        Self {
            uuid: gpu.uuid.clone(),
            index: gpu.index,
            name: gpu.name.clone(),
            total_bytes: None,
            used_bytes: Column::unknown(minutes),
            temperature_c: Column::unknown(minutes),
            ecc_uncorrected: Column::unknown(minutes),
        }
    }

    fn is_of(&self, gpu: &Moment) -> bool {
        match (&self.uuid, &gpu.uuid) {
            (Some(known), Some(uuid)) => known == uuid,
            _ => self.index == gpu.index,
        }
    }

    fn see(&mut self, gpu: Moment) {
        self.index = gpu.index;
        self.uuid = gpu.uuid.or(self.uuid.take());
        self.name = gpu.name.or(self.name.take());
        self.total_bytes = gpu.total_bytes.or(self.total_bytes);
        self.used_bytes.see(gpu.used_bytes);
        self.temperature_c.see(gpu.temperature_c);
        self.ecc_uncorrected.see(gpu.ecc_uncorrected);
    }

    fn begin(&mut self) {
        self.used_bytes.0.push_back(None);
        self.temperature_c.0.push_back(None);
        self.ecc_uncorrected.0.push_back(None);
    }

    fn forget_first(&mut self) {
        self.used_bytes.0.pop_front();
        self.temperature_c.0.pop_front();
        self.ecc_uncorrected.0.pop_front();
    }

    /// Whether the GPU was seen in any of the minutes.
    fn is_known(&self) -> bool {
        self.used_bytes.0.iter().any(Option::is_some)
            || self.temperature_c.0.iter().any(Option::is_some)
            || self.ecc_uncorrected.0.iter().any(Option::is_some)
    }

    fn at(&self, minute: usize) -> Moment {
        Moment {
            uuid: self.uuid.clone(),
            index: self.index,
            name: self.name.clone(),
            total_bytes: self.total_bytes,
            used_bytes: self.used_bytes.at(minute),
            temperature_c: self.temperature_c.at(minute),
            ecc_uncorrected: self.ecc_uncorrected.at(minute),
        }
    }
}

impl History {
    /// Remembers a reading.
    pub(super) fn note(&mut self, gpus: &Gpus) {
        if let Some(minute) = Minute::of(gpus) {
            self.put(minute);
        }
    }

    /// Remembers what was before: the minutes of an earlier process, oldest first.
    pub(super) fn precede(&mut self, earlier: Vec<Minute>) {
        let own = (0..self.minutes.len()).filter_map(|minute| self.minute(minute));
        let mut all = Self::default();
        earlier.into_iter().chain(own).for_each(|minute| all.put(minute));
        *self = all;
    }

    /// The newest minute: the one that is open, or the last that is over.
    pub(super) fn newest(&self, is_over: bool) -> Option<Minute> {
        self.minute(self.minutes.len().checked_sub(1 + usize::from(is_over))?)
    }

    fn minute(&self, minute: usize) -> Option<Minute> {
        let began = *self.minutes.get(minute)?;
        Some(Minute { began, gpus: self.gpus.iter().map(|track| track.at(minute)).collect() })
    }

    fn put(&mut self, minute: Minute) {
        self.begin(minute.began);
        for gpu in minute.gpus {
            if let Some(track) = self.track(&gpu) {
                track.see(gpu);
            }
        }
        self.gpus.retain(Track::is_known);
    }

    /// Opens a minute, unless it is open, and forgets those that are too many or too old. A clock that was put back goes
    /// on in the minute that is open.
    fn begin(&mut self, minute: Timestamp) {
        if self.minutes.back().is_some_and(|last| *last >= minute) {
            return;
        }
        self.minutes.push_back(minute);
        self.gpus.iter_mut().for_each(Track::begin);
        let span = SignedDuration::from_mins(MINUTES as i64);
        while self.minutes.front().is_some_and(|first| minute.duration_since(*first) >= span) {
            self.minutes.pop_front();
            self.gpus.iter_mut().for_each(Track::forget_first);
        }
    }

    fn track(&mut self, gpu: &Moment) -> Option<&mut Track> {
        let known = self.gpus.iter().position(|track| track.is_of(gpu));
        let place = match known {
            Some(place) => place,
            None if self.gpus.len() < MAX_GPUS => {
                self.gpus.push(Track::new(gpu, self.minutes.len()));
                self.gpus.len() - 1
            }
            None => return None,
        };
        self.gpus.get_mut(place)
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{DeviceKind, Memory, Missing, WhyNone};
    use super::*;

    fn gpu(index: u32, used: Option<u64>) -> Gpu {
        let memory = Memory { total: Some(80), used, ..Memory::default() };
        Gpu { uuid: Some(format!("GPU-{index}")), memory, ..Gpu::unknown(index, DeviceKind::Cuda) }
    }

    fn noted(readings: &[(i64, Vec<Gpu>)]) -> History {
        let mut history = History::default();
        for (second, devices) in readings {
            let why = WhyNone { word: Missing::NoLibrary, what: String::new(), hint: String::new() };
            let at = Timestamp::from_second(*second).expect("in range");
            history.note(&Gpus { devices: devices.clone(), ..Gpus::none(why, at) });
        }
        history
    }

    fn used(history: &History, place: usize) -> Vec<Option<u64>> {
        history.gpus[place].used_bytes.0.iter().copied().collect()
    }

    #[test]
    fn a_minute_has_the_most_that_was_seen_in_it() {
        let history = noted(&[
            (61, vec![gpu(0, Some(5))]),
            (70, vec![gpu(0, Some(9))]),
            (119, vec![gpu(0, Some(2))]),
            (120, vec![gpu(0, None)]),
            (400, vec![gpu(0, Some(1))]),
        ]);
        assert_eq!(used(&history, 0), [Some(9), None, Some(1)]);
        let minutes: Vec<_> = history.minutes.iter().map(|at| at.as_second()).collect();
        assert_eq!(minutes, [60, 120, 360], "minutes that nobody saw are not there");
    }

    #[test]
    fn gpus_come_and_go_and_no_value_leaves_its_minute() {
        let history = noted(&[
            (0, vec![gpu(0, Some(1))]),
            (60, vec![gpu(0, Some(2)), gpu(1, Some(7))]),
            (120, vec![gpu(1, Some(8))]),
            (130, Vec::new()),
        ]);
        assert_eq!(used(&history, 0), [Some(1), Some(2), None]);
        assert_eq!(used(&history, 1), [None, Some(7), Some(8)]);
        let much_later = i64::try_from(MINUTES).expect("small") * 60 + 90;
        let later = noted(&[(0, vec![gpu(0, Some(1))]), (much_later, vec![gpu(1, Some(3))])]);
        assert_eq!((later.minutes.len(), later.gpus.len()), (1, 1), "what was forgotten is not shown");
    }

    #[test]
    fn it_is_bounded_and_a_clock_put_back_changes_nothing_older() {
        let many = || (0..100).map(|n| gpu(n, Some(u64::from(n)))).collect::<Vec<_>>();
        let minutes = i64::try_from(MINUTES).expect("small");
        let mut readings: Vec<_> = (0..minutes + 50).map(|minute| (minute * 60, many())).collect();
        readings.push((60, many()));
        let history = noted(&readings);
        assert_eq!((history.minutes.len(), history.gpus.len()), (MINUTES, MAX_GPUS));
        assert!(history.gpus.iter().all(|track| track.used_bytes.0.len() == MINUTES));
        assert_eq!(history.minutes[0].as_second(), 50 * 60);
    }

    #[test]
    fn what_was_before_a_restart_comes_first_and_a_minute_of_both_is_one() {
        let hot = |used| Gpu { temperature_c: Some(70), ..gpu(0, Some(used)) };
        let before = noted(&[(0, vec![hot(9)]), (60, vec![hot(4)]), (70, vec![gpu(1, Some(3))])]);
        let kept: Vec<_> = (0..before.minutes.len()).filter_map(|minute| before.minute(minute)).collect();
        assert_eq!(
            (before.newest(true), before.newest(false)),
            (kept.first().cloned(), kept.last().cloned())
        );
        let mut after = noted(&[(100, vec![gpu(0, Some(5))]), (120, vec![gpu(0, Some(6))])]);
        after.precede(kept);
        assert_eq!(
            used(&after, 0),
            [Some(9), Some(5), Some(6)],
            "the second minute's most came after the restart"
        );
        assert_eq!(used(&after, 1), [None, Some(3), None]);
        assert_eq!(Vec::from(after.gpus[0].temperature_c.0.clone()), [Some(70), Some(70), None]);
        let much_later = i64::try_from(MINUTES).expect("small") * 60 + 90;
        let mut later = noted(&[(much_later, vec![gpu(0, Some(1))])]);
        later.precede(vec![before.minute(0).expect("there")]);
        assert_eq!(used(&later, 0), [Some(1)], "what is too old does not come back");
        assert_eq!(History::default().newest(true), None);
    }
}

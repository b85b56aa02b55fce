//! How much of each GPU's memory was used over the last hours: in memory only, one value for each minute, the most that
//! was seen in it. At most [`MINUTES`] of them for [`MAX_GPUS`] GPUs, which is about 1 MB; what is older or more is left out.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::snapshot::{Gpu, Gpus};

/// Minutes that are remembered.
pub const MINUTES: usize = 12 * 60;
/// GPUs that are remembered.
pub const MAX_GPUS: usize = 64;
const MINUTE: i64 = 60;

/// What was used, by minute. A minute in which nobody read the GPUs is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct History {
    /// When each minute began, oldest first.
    minutes: VecDeque<Timestamp>,
    /// The GPUs, each with one value for each of the minutes.
    gpus: Vec<Track>,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Track {
    /// As the driver prints it; `None` if it never told.
    uuid: Option<String>,
    index: u32,
    name: Option<String>,
    /// The size of its memory when that was last known.
    total_bytes: Option<u64>,
    /// The most that was seen used; `None` where it could not be read.
    used_bytes: VecDeque<Option<u64>>,
}

impl Track {
    fn is_of(&self, gpu: &Gpu) -> bool {
        match (&self.uuid, &gpu.uuid) {
            (Some(known), Some(uuid)) => known == uuid,
            _ => self.index == gpu.index,
        }
    }
}

impl History {
    /// Remembers a reading.
    pub(super) fn note(&mut self, gpus: &Gpus) {
        let second = gpus.taken_at.as_second();
        let Ok(minute) = Timestamp::from_second(second - second.rem_euclid(MINUTE)) else { return };
        self.begin(minute);
        for gpu in &gpus.devices {
            let Some(track) = self.track(gpu) else { continue };
            track.index = gpu.index;
            track.uuid = gpu.uuid.clone().or(track.uuid.take());
            track.name = gpu.name.clone().or(track.name.take());
            track.total_bytes = gpu.memory.total.or(track.total_bytes);
            if let Some(most) = track.used_bytes.back_mut() {
                *most = (*most).max(gpu.memory.used);
            }
        }
        self.gpus.retain(|track| track.used_bytes.iter().any(Option::is_some));
    }

    /// Opens a minute, unless it is open, and forgets those that are too many or too old. A clock that was put back goes
    /// on in the minute that is open.
    fn begin(&mut self, minute: Timestamp) {
        if self.minutes.back().is_some_and(|last| *last >= minute) {
            return;
        }
        self.minutes.push_back(minute);
        self.gpus.iter_mut().for_each(|track| track.used_bytes.push_back(None));
        let span = SignedDuration::from_mins(MINUTES as i64);
        while self.minutes.front().is_some_and(|first| minute.duration_since(*first) >= span) {
            self.minutes.pop_front();
            for track in &mut self.gpus {
                track.used_bytes.pop_front();
            }
        }
    }

    fn track(&mut self, gpu: &Gpu) -> Option<&mut Track> {
        let known = self.gpus.iter().position(|track| track.is_of(gpu));
        let place = match known {
            Some(place) => place,
            None if self.gpus.len() < MAX_GPUS => {
                let used_bytes = std::iter::repeat_n(None, self.minutes.len()).collect();
                let (index, uuid, name) = (gpu.index, gpu.uuid.clone(), gpu.name.clone());
                self.gpus.push(Track { uuid, index, name, total_bytes: None, used_bytes });
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
        history.gpus[place].used_bytes.iter().copied().collect()
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
        assert!(history.gpus.iter().all(|track| track.used_bytes.len() == MINUTES));
        assert_eq!(history.minutes[0].as_second(), 50 * 60);
    }
}

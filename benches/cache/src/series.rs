//! What was measured of one thing, round after round.

/// Times in seconds, and memory where it was looked at.
#[derive(Debug, Default)]
pub(crate) struct Series {
    pub(crate) seconds: Vec<f64>,
    /// The most memory of all rounds, bytes.
    pub(crate) memory: Option<u64>,
}

/// The middle of some values, and their ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Series {
    /// Takes in one measurement.
    pub(crate) fn add(&mut self, seconds: f64, memory: Option<u64>) {
        self.seconds.push(seconds);
        self.memory = self.memory.max(memory);
    }

    /// Its times; nothing without any.
    pub(crate) fn spread(&self) -> Option<Spread> {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, greatest) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Some(Spread { median, least, greatest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_middle_and_the_ends() {
        let of = |seconds: &[f64]| Series { seconds: seconds.to_vec(), memory: None }.spread();
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[2.0]), Some(Spread { median: 2.0, least: 2.0, greatest: 2.0 }));
        assert_eq!(of(&[3.0, 1.0, 9.0]), Some(Spread { median: 3.0, least: 1.0, greatest: 9.0 }));
        assert_eq!(of(&[4.0, 1.0, 2.0, 9.0]), Some(Spread { median: 3.0, least: 1.0, greatest: 9.0 }));
    }

    #[test]
    fn the_most_memory_is_kept() {
        let mut series = Series::default();
        [Some(2), Some(5), None].into_iter().for_each(|memory| series.add(1.0, memory));
        assert_eq!(series.memory, Some(5));
    }
}

//! Which bytes of a file are there: disjoint half-open ranges, merged where they touch.

use std::collections::BTreeMap;
use std::ops::Range;

/// Start to end, sorted, disjoint, never touching, never empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Takes `range` in; returns how many of its bytes are new.
    pub(super) fn add(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let (mut start, mut end, mut known) = (range.start, range.end, 0);
        while let Some((&from, &to)) = self.0.range(..=end).next_back() {
            if to < start {
                break;
            }
            known += to.min(range.end).saturating_sub(from.max(range.start));
            self.0.remove(&from);
            start = start.min(from);
            end = end.max(to);
        }
        self.0.insert(start, end);
        range.end - range.start - known
    }

    /// Number of bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// Everything before this byte is there.
    pub(super) fn frontier(&self) -> u64 {
        self.0.get(&0).copied().unwrap_or(0)
    }

    /// The parts of `range` that are not there.
    pub(super) fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut at = range.start;
        let before = self.0.range(..=range.start).next_back();
        let after = self.0.range(range.start.saturating_add(1)..range.end);
        for (&start, &end) in before.into_iter().chain(after) {
            if start > at {
                missing.push(at..start);
            }
            at = at.max(end);
        }
        if at < range.end {
            missing.push(at..range.end);
        }
        missing
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(&start, &end)| start..end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the plain model: one flag for every byte.
        #[test]
        fn as_flags_say(adds in proptest::collection::vec((0_u64..60, 0_u64..20), 0..20), from in 0_u64..60) {
            let mut ranges = Ranges::default();
            let mut flags = [false; 80];
            for (start, len) in adds {
                let there = &mut flags[usize::try_from(start)?..usize::try_from(start + len)?];
                let new = there.iter().filter(|flag| !**flag).count() as u64;
                there.fill(true);
                prop_assert_eq!(ranges.add(start..start + len), new);
            }
            prop_assert_eq!(ranges.bytes(), flags.iter().filter(|flag| **flag).count() as u64);
            let frontier = flags.iter().take_while(|flag| **flag).count() as u64;
            prop_assert_eq!(ranges.frontier(), frontier);
            let mut missing: Vec<u64> = ranges.missing(from..80).into_iter().flatten().collect();
            let expected: Vec<u64> =
                (from..80).filter(|at| !flags[usize::try_from(*at).unwrap_or(0)]).collect();
            missing.sort_unstable();
            prop_assert_eq!(missing, expected);
        }
    }
}

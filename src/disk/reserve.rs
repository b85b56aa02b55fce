//! Room on the cache's disk that was promised to transfers and that they have not taken yet.
//!
//! The filesystem only knows what was taken. Two downloads that fit singly but not together would both be let in by
//! its free bytes alone, so whoever decides about a download also sees what others were promised, and nobody takes
//! room or decides while one decides: each promised byte is counted once, be it here or as no longer free.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::Result;

/// What was promised on one disk; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Reservations {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bytes that were promised and not taken yet.
    promised: AtomicU64,
    /// Bytes that were promised to those who still hold a promise, taken or not.
    granted: AtomicU64,
    /// Whoever decides has it alone, whoever takes shares it.
    gate: RwLock<()>,
}

/// Room that was promised to one transfer; what it did not take is given back on drop.
#[derive(Debug)]
pub struct Reservation {
    shared: Arc<Shared>,
    granted: u64,
    left: AtomicU64,
}

impl Reservations {
    /// Bytes that were promised and not taken yet.
    pub fn promised(&self) -> u64 {
        self.shared.promised.load(Relaxed)
    }

    /// Bytes that were promised to transfers that are under way, taken or not: what the cache will have grown by.
    pub fn granted(&self) -> u64 {
        self.shared.granted.load(Relaxed)
    }

    /// Lets `decide` look at the disk and at what is promised (its argument, in bytes), and promises the bytes that it
    /// returns beside its result. Nobody else decides, and nothing that was promised is taken, meanwhile. Blocks.
    ///
    /// # Errors
    /// What `decide` says; nothing is promised then.
    pub fn reserve<T>(&self, decide: impl FnOnce(u64) -> Result<(u64, T)>) -> Result<(Reservation, T)> {
        let _alone = self.shared.gate.write().unwrap_or_else(PoisonError::into_inner);
        let (bytes, decision) = decide(self.promised())?;
        self.shared.promised.fetch_add(bytes, Relaxed);
        self.shared.granted.fetch_add(bytes, Relaxed);
        let shared = Arc::clone(&self.shared);
        Ok((Reservation { shared, granted: bytes, left: AtomicU64::new(bytes) }, decision))
    }
}

impl Reservation {
    /// Room that nobody was promised, for those who need none.
    pub fn none() -> Self {
        Self { shared: Arc::default(), granted: 0, left: AtomicU64::new(0) }
    }

    /// Runs `take`, which takes room from the disk and returns how many bytes beside its result. Blocks.
    pub fn take<T>(&self, take: impl FnOnce() -> (u64, T)) -> T {
        let _shared = self.shared.gate.read().unwrap_or_else(PoisonError::into_inner);
        let (bytes, result) = take();
        self.taken(bytes);
        result
    }

    /// At most what is left: a transfer may turn out to need more than was planned, and nobody was promised that.
    fn taken(&self, bytes: u64) {
        let mut gone = 0;
        // Never fails: the closure always has an answer.
        let _ = self.left.fetch_update(Relaxed, Relaxed, |left| {
            gone = bytes.min(left);
            Some(left - gone)
        });
        self.shared.promised.fetch_sub(gone, Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.taken(u64::MAX);
        self.shared.granted.fetch_sub(self.granted, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Error;

    /// A promise of `bytes` on a disk of which `free` are free.
    fn ask(on: &Reservations, free: u64, bytes: u64) -> Result<Reservation> {
        let decide = |promised| match bytes + promised <= free {
            true => Ok((bytes, ())),
            false => Err(Error::internal("full")),
        };
        on.reserve(decide).map(|(reservation, ())| reservation)
    }

    #[test]
    fn two_that_fit_singly_do_not_both_start() {
        let disk = Reservations::default();
        let first = ask(&disk, 100, 60).expect("fits");
        assert!(ask(&disk, 100, 60).is_err());
        first.take(|| (60, ()));
        assert_eq!((disk.promised(), disk.granted()), (0, 60), "the disk itself knows by now");
        assert!(ask(&disk, 40, 60).is_err());
        drop(first);
        ask(&disk, 100, 60).expect("fits again");
    }

    #[test]
    fn what_was_not_taken_is_given_back_and_more_than_was_promised_is_nobodys() {
        let disk = Reservations::default();
        let (one, other) = (ask(&disk, 100, 10).expect("fits"), ask(&disk, 100, 20).expect("fits"));
        one.take(|| (50, ()));
        assert_eq!(disk.promised(), 20);
        drop(one);
        assert_eq!(disk.promised(), 20);
        drop(other);
        assert_eq!(disk.promised(), 0);
    }

    proptest! {
        /// However many ask at once and take bit by bit, the disk never has fewer bytes than were promised.
        #[test]
        fn nobody_is_promised_what_is_not_there(wants in prop::collection::vec((1..40_u64, 1..8_u64), 1..24)) {
            let (disk, free) = (Reservations::default(), AtomicU64::new(100));
            let (on, free) = (&disk, &free);
            std::thread::scope(|scope| {
                for (bytes, step) in &wants {
                    scope.spawn(move || {
                        let decide = |promised| {
                            let free = free.load(Relaxed);
                            assert!(promised <= free, "{promised} of {free}");
                            if bytes + promised <= free { Ok((*bytes, ())) } else { Err(Error::internal("full")) }
                        };
                        let Ok((reservation, ())) = on.reserve(decide) else { return };
                        let mut left = *bytes;
                        while left > 0 {
                            let now = left.min(*step);
                            reservation.take(|| (now, free.fetch_sub(now, Relaxed)));
                            left -= now;
                        }
                    });
                }
            });
            prop_assert_eq!((disk.promised(), disk.granted()), (0, 0));
        }
    }
}

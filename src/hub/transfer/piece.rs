//! A piece of a file that one connection works on, and when another connection should take a part of it.
//!
//! Near the end of a transfer idle connections look at what the others still have to bring. One that is much
//! slower than the rest gives the second half of its piece away, or, where little is left, all of it: a hedge
//! against a connection that trickles or hangs, which costs at most what was on its way there. Only the network
//! makes a connection slow: time in which it waits for a limit or for the disk does not count.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// A piece that will be there within this is left alone.
const SOON: Duration = Duration::from_secs(1);
/// How many times slower than the others a connection must be.
const SLOWER: f64 = 3.0;
/// Less than this is not divided but taken whole.
const DIVIDE: u64 = 2 << 20;

/// A half-open range of bytes with the connection that brings it; its end moves down when others take from it.
#[derive(Debug)]
pub(super) struct Piece {
    span: Mutex<Span>,
    /// Fires when somebody took what was left.
    taken: CancellationToken,
    /// How often these bytes were taken from a slower connection; each time the next must wait longer.
    inherited: u32,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    at: u64,
    end: u64,
    /// When the piece was begun, moved on by the time that did not count.
    begun: Instant,
    /// Since when it waits for something else than the network.
    held: Option<Instant>,
}

impl Piece {
    pub(super) fn new(range: Range<u64>) -> Self {
        Self::inherit(range, 0)
    }

    fn inherit(range: Range<u64>, inherited: u32) -> Self {
        let Range { start, end } = range;
        let span = Mutex::new(Span { start, at: start, end, begun: Instant::now(), held: None });
        Self { span, taken: CancellationToken::new(), inherited }
    }

    fn span(&self) -> MutexGuard<'_, Span> {
        self.span.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What did not come yet.
    pub(super) fn left(&self) -> Range<u64> {
        let span = self.span();
        span.at..span.end
    }

    /// `length` bytes came at the place where the last ones ended; how many of them belong to the piece.
    pub(super) fn came(&self, length: u64) -> u64 {
        let mut span = self.span();
        let wanted = length.min(span.end - span.at);
        span.at += wanted;
        wanted
    }

    /// Awaits `wait`, which is no fault of the connection's: a limit, or the disk.
    pub(super) async fn held<T>(&self, wait: impl Future<Output = T>) -> T {
        self.span().held = Some(Instant::now());
        let result = wait.await;
        let mut span = self.span();
        if let Some(since) = span.held.take() {
            span.begun += since.elapsed();
        }
        result
    }

    /// Waits until somebody took what was left.
    pub(super) async fn taken(&self) {
        self.taken.cancelled().await;
    }

    /// Takes a part of the piece for an idle connection, if that helps; others bring `typical` bytes a second.
    pub(super) fn give(&self, typical: f64, now: Instant) -> Option<Self> {
        let mut span = self.span();
        let now = span.held.unwrap_or(now);
        let progress = Progress {
            came: span.at - span.start,
            left: span.end - span.at,
            took: now.saturating_duration_since(span.begun),
        };
        let kept = progress.keeps(typical, self.inherited)?;
        let given = span.at + kept..span.end;
        span.end = given.start;
        if kept == 0 {
            self.taken.cancel();
        }
        Some(Self::inherit(given, self.inherited + 1))
    }
}

/// How far a connection is with its piece.
#[derive(Debug, Clone, Copy)]
struct Progress {
    came: u64,
    left: u64,
    took: Duration,
}

impl Progress {
    /// How many of its bytes it keeps, if it should give some away.
    fn keeps(self, typical: f64, inherited: u32) -> Option<u64> {
        if self.left == 0 {
            return None;
        }
        let patience = SOON.saturating_mul(1 << inherited.min(6)).as_secs_f64();
        let took = self.took.as_secs_f64();
        if took < patience {
            return None;
        }
        let rate = self.came as f64 / took;
        let is_slow = rate * SLOWER < typical || self.came == 0;
        if !is_slow || self.left as f64 <= rate * patience {
            return None;
        }
        Some(if self.left < DIVIDE || self.came == 0 { 0 } else { self.left / 2 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn keeps(came: u64, left: u64, seconds: u64, inherited: u32) -> Option<u64> {
        let progress = Progress { came, left, took: Duration::from_secs(seconds) };
        progress.keeps(10.0 * MIB as f64, inherited)
    }

    #[test]
    fn only_a_slow_connection_gives_away() {
        assert_eq!(keeps(20 * MIB, 12 * MIB, 2, 0), None, "as fast as the others");
        assert_eq!(keeps(2 * MIB, 30 * MIB, 2, 0), Some(15 * MIB), "a tenth of the others' speed");
        assert_eq!(keeps(2 * MIB, MIB / 2, 2, 0), None, "slow, but it will be there soon");
        assert_eq!(keeps(MIB / 10, MIB, 2, 0), Some(0), "too little to divide");
        assert_eq!(keeps(0, 30 * MIB, 2, 0), Some(0), "it hangs");
        assert_eq!(keeps(0, 30 * MIB, 0, 0), None, "it has just begun");
        assert_eq!(keeps(0, 30 * MIB, 2, 2), None, "taken twice already: perhaps the source is slow");
        assert_eq!(keeps(0, 30 * MIB, 4, 2), Some(0));
    }

    #[tokio::test]
    async fn waiting_for_a_limit_is_not_being_slow() {
        let piece = Piece::new(0..32 * MIB);
        piece.came(MIB);
        let minutes = Duration::from_secs(600);
        let others = 10.0 * MIB as f64;
        let waits = piece.held(async {
            assert!(piece.give(others, Instant::now() + minutes).is_none(), "it is held up, not slow");
            piece.span().held = Some(Instant::now().checked_sub(minutes).expect("up for as long"));
        });
        waits.await;
        assert!(piece.give(others, Instant::now() + minutes).is_none(), "the time it waited does not count");
        assert!(piece.give(others, Instant::now() + 2 * minutes).is_some(), "the time after it does");
    }

    proptest! {
        /// Whatever is given and whatever comes, no byte is lost and none is brought by two pieces.
        #[test]
        fn pieces_stay_disjoint_and_complete(steps in prop::collection::vec((0..8_usize, 0..3 * MIB, any::<bool>()), 0..40)) {
            let whole = 16 * MIB;
            let mut pieces = vec![Piece::new(0..whole)];
            let mut came = 0;
            for (n, bytes, give) in steps {
                let piece = &pieces[n % pieces.len()];
                if give {
                    let later = Instant::now() + Duration::from_secs(600);
                    let given = piece.give(1e12, later);
                    pieces.extend(given);
                } else {
                    came += piece.came(bytes);
                }
                let left: u64 = pieces.iter().map(|piece| { let left = piece.left(); left.end - left.start }).sum();
                prop_assert_eq!(came + left, whole);
            }
            let mut left: Vec<_> = pieces.iter().map(Piece::left).filter(|left| !left.is_empty()).collect();
            left.sort_by_key(|left| left.start);
            prop_assert!(left.windows(2).all(|two| two[0].end <= two[1].start));
        }
    }
}

//! How many connections a transfer should have: more as long as more are faster. Pure; who calls it has the clock.
//!
//! A content delivery network caps every connection, a busy link does not, and nobody says which it is. So a
//! transfer begins with a few, takes more at once if these are slow, doubles them while that brings something, and
//! takes the last step back when it brought nothing. Now and then it looks again, since networks change.

/// Connections to begin with: as many as fill a link on which a single one is fast, and cost little there.
const FEW: usize = 4;
/// Bytes a second of a connection that is fast.
const FAST: f64 = 100e6;
/// Bytes a second of a connection that is not, but that somebody may have capped; with less the link itself may be slow.
const CAPPED: f64 = 25e6;
/// Connections to go on with if the first were capped, and if they brought less than that.
const MANY: usize = 32;
const SOME: usize = 16;
/// A step up must bring at least this factor of speed to stay.
const WORTH_IT: f64 = 1.15;
/// Windows after which a transfer that settled looks again: soon, since one window may deceive, then ever later.
const LOOK_AGAIN: u32 = 4;
const LOOK_AGAIN_LATEST: u32 = 64;

/// The state of one transfer.
#[derive(Debug, Clone)]
pub(super) struct Climb {
    target: usize,
    most: usize,
    /// Nothing is known yet.
    is_new: bool,
    /// Connections and bytes a second before the last step up.
    before: Option<(usize, f64)>,
    /// Windows until the next step up is tried, and how many it will be after a step that brings nothing.
    wait: u32,
    patience: u32,
}

impl Climb {
    /// A transfer that may have `most` connections.
    pub(super) fn new(most: usize) -> Self {
        Self { target: FEW.min(most), most, is_new: true, before: None, wait: 0, patience: LOOK_AGAIN }
    }

    /// Whether no window was told yet.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Connections that it should have now.
    pub(super) fn target(&self) -> usize {
        self.target
    }

    /// Connections that what is left should be divided among: before anything is known, as many as a slow link may get,
    /// so that the first few do not hold on to all of a small model.
    pub(super) fn shares(&self) -> usize {
        if self.is_new { SOME.min(self.most).max(self.target) } else { self.target }
    }

    /// A window is over in which every connection had work and `rate` bytes a second came.
    pub(super) fn window(&mut self, rate: f64) {
        if std::mem::take(&mut self.is_new) && rate < FAST * self.target as f64 {
            let some = SOME.min(self.most);
            if rate < CAPPED * self.target as f64 {
                self.target = some;
            } else {
                (self.target, self.before) = (MANY.min(self.most), Some((some, rate)));
            }
            return;
        }
        if let Some((connections, slower)) = self.before.take() {
            if rate < slower * WORTH_IT {
                self.target = connections;
                self.settle();
                return;
            }
            self.patience = LOOK_AGAIN;
        }
        if self.wait > 0 {
            self.wait -= 1;
            return;
        }
        if self.target < self.most {
            self.before = Some((self.target, rate));
            self.target = (self.target * 2).min(self.most);
        }
    }

    /// The source said that it is too much.
    pub(super) fn refused(&mut self) {
        self.target = (self.target / 2).max(1);
        self.before = None;
        self.settle();
    }

    fn settle(&mut self) {
        self.wait = self.patience;
        self.patience = (self.patience * 2).min(LOOK_AGAIN_LATEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The connections that it ends up with when `speed` says what so many bring together.
    fn settled(most: usize, speed: impl Fn(usize) -> f64) -> usize {
        let mut climb = Climb::new(most);
        // The last window is within a long wait, not a step that is tried.
        for _ in 0..40 {
            climb.window(speed(climb.target()));
        }
        climb.target()
    }

    #[test]
    fn connections_that_are_capped_become_many_and_a_full_link_gets_no_more() {
        assert_eq!(settled(64, |n| n as f64 * 50e6), 64);
        assert_eq!(settled(64, |_| 100e6), 16);
        assert_eq!(settled(64, |_| 700e6), 4, "each of the first four was fast, and eight are no faster");
        assert_eq!(settled(64, |n| (n as f64 * 300e6).min(4_800e6)), 16);
        assert_eq!(settled(64, |n| (n as f64 * 50e6).min(1_600e6)), 32);
        assert_eq!(settled(3, |n| n as f64), 3);
        assert_eq!(settled(1, |_| 1.0), 1);
    }

    #[test]
    fn the_first_pieces_leave_some_for_those_who_may_come() {
        let mut climb = Climb::new(64);
        assert_eq!((climb.target(), climb.shares()), (4, 16));
        climb.window(700e6);
        assert_eq!((climb.target(), climb.shares()), (8, 8), "they are fast, so eight are tried");
        assert_eq!(Climb::new(2).shares(), 2);
    }

    #[test]
    fn a_window_that_deceives_is_soon_put_right() {
        let mut climb = Climb::new(64);
        climb.window(200e6);
        climb.window(210e6);
        assert_eq!(climb.target(), 16, "32 seemed to bring nothing");
        for _ in 0..LOOK_AGAIN + 4 {
            climb.window(climb.target() as f64 * 50e6);
        }
        assert_eq!(climb.target(), 64);
    }

    #[test]
    fn a_source_that_has_enough_is_believed_and_asked_again_ever_later() {
        let mut climb = Climb::new(64);
        climb.window(1.0);
        let mut wait = LOOK_AGAIN;
        for _ in 0..5 {
            climb.window(1.0);
            assert_eq!(climb.target(), 32);
            climb.refused();
            for _ in 0..wait {
                assert_eq!(climb.target(), 16);
                climb.window(1.0);
            }
            wait *= 2;
        }
        for _ in 0..20 {
            climb.refused();
        }
        assert_eq!(climb.target(), 1);
    }
}

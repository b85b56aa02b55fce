//! Random numbers that are the same in every run.

/// A splitmix64 generator.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The numbers of this seed, from the first.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, less than `bound`; zero when nothing is.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_all_of_them_come() {
        let roll = |seed| {
            let mut dice = Dice::new(seed);
            (0..600).map(|_| dice.below(6)).collect::<Vec<_>>()
        };
        assert_eq!(roll(1), roll(1));
        assert_ne!(roll(1), roll(2));
        for eyes in 0..6 {
            let n = roll(1).iter().filter(|rolled| **rolled == eyes).count();
            assert!((60..140).contains(&n), "{eyes} came {n} times");
        }
        assert_eq!(Dice::new(1).below(0), 0);
    }
}

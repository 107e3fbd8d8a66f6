//! Numbers that look random and are the same in every run with the same seed.

/// Where the next number comes from.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, smaller than `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        // Knuth's MMIX generator; its lower bits repeat too soon.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

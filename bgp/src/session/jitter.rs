//! Random shortening of timers from a seed (RFC 4271 section 10).

use std::time::Duration;

/// A reproducible sequence of factors between 0.75 and 1.
#[derive(Debug, Clone)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `duration`, shortened by up to a quarter.
    pub(crate) fn apply(&mut self, duration: Duration) -> Duration {
        // SplitMix64: one addition and three mixing steps a number.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let fraction = (z ^ (z >> 31)) % 1024;
        duration - duration.mul_f64(0.25 * fraction as f64 / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_lie_between_three_quarters_and_one_and_differ() {
        let mut jitter = Jitter::new(1);
        let values: Vec<_> = (0..100)
            .map(|_| jitter.apply(Duration::from_secs(4)))
            .collect();
        assert!(
            values
                .iter()
                .all(|v| (3.0..=4.0).contains(&v.as_secs_f64()))
        );
        assert_ne!(values[0], values[1]);
    }
}

//! Randomness as a function of (seed, stream, counter).
//!
//! The n-th number of a stream is the finaliser of SplitMix64 (Steele, Lea, Flood 2014) over
//! a keyed counter. No state is shared between streams, so the order in which rows, layers or
//! threads draw does not matter. Not for cryptography. Called by [`super::corpus`] and
//! [`super::net`].

/// The increment of SplitMix64: 2^64 divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One stream of random numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    key: u64,
    counter: u64,
}

impl Rng {
    /// The stream `stream` of `seed`, at its beginning.
    pub fn new(seed: u64, stream: u64) -> Self {
        let key = mix(mix(seed.wrapping_add(GOLDEN)) ^ stream.wrapping_mul(GOLDEN).wrapping_add(1));
        Self { key, counter: 0 }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        mix(self.key.wrapping_add(self.counter.wrapping_mul(GOLDEN)))
    }

    /// A number in `0..n`; zero when `n` is zero. The bias is below n / 2^32.
    pub fn below(&mut self, n: usize) -> usize {
        (((self.next_u64() >> 32) * n as u64) >> 32) as usize
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A nearly normal number of mean 0 and deviation 1: the sum of twelve uniform numbers
    /// (Irwin-Hall), which needs no function that could round differently elsewhere.
    pub fn normal(&mut self) -> f32 {
        let mut total = 0u64;
        for _ in 0..12 {
            total += self.next_u64() >> 44;
        }
        // 12 draws of 20 bits: the mean of the sum is 6 * 2^20, short of half a step.
        (total as i64 - 6 * (1 << 20)) as f32 * (1.0 / (1 << 20) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, stream| {
            let mut r = Rng::new(seed, stream);
            [r.next_u64(), r.next_u64(), r.next_u64()]
        };
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_deviation_one() {
        let mut r = Rng::new(7, 7);
        let draws: Vec<f64> = (0..20_000).map(|_| r.normal() as f64).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let var = draws.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 20_000.0;
        assert!(
            mean.abs() < 0.03 && (var - 1.0).abs() < 0.05,
            "{mean} {var}"
        );
    }
}

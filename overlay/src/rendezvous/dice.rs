//! Choices that are free, from a seed: the same seed makes the same choices.

use std::time::Duration;

use zeroize::Zeroizing;

use super::secret::hmac;

/// The choices, in order.
pub(super) struct Dice {
    seed: Zeroizing<[u8; 32]>,
    thrown: u64,
}

impl Dice {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self { seed: Zeroizing::new(seed), thrown: 0 }
    }

    /// 32 bytes that only the seed tells.
    pub(super) fn bytes(&mut self) -> [u8; 32] {
        self.thrown += 1;
        self.fixed(b"dice", &self.thrown.to_be_bytes())
    }

    /// The same for the same `what`.
    pub(super) fn fixed(&self, label: &[u8], what: &[u8]) -> [u8; 32] {
        hmac(&self.seed, &[label, what])
    }

    /// A number below `end`, which is small and not zero.
    pub(super) fn below(&mut self, end: usize) -> usize {
        let number = u32::from_be_bytes(self.bytes()[..4].try_into().expect("four of 32 bytes"));
        number as usize % end
    }

    /// A time between zero and `longest`.
    pub(super) fn within(&mut self, longest: Duration) -> Duration {
        let number = u32::from_be_bytes(self.bytes()[..4].try_into().expect("four of 32 bytes"));
        longest.mul_f64(f64::from(number) / f64::from(u32::MAX))
    }

    /// A time that is up to a fifth shorter or longer.
    pub(super) fn about(&mut self, time: Duration) -> Duration {
        time.mul_f64(0.8) + self.within(time.mul_f64(0.4))
    }

    /// `0..count` in some order.
    pub(super) fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<_> = (0..count).collect();
        for end in (1..count).rev() {
            order.swap(end, self.below(end + 1));
        }
        order
    }
}

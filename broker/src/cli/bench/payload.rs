//! Values to send: each distinct, and none of them copied or made while the clock runs.

/// Values are slices of one block of letters, taken in turns; a stamp at the start of each makes it
/// distinct.
pub struct Payload {
    block: Vec<u8>,
    size: usize,
    position: usize,
    rounds: usize,
}

/// How much of the block is walked before it starts again: it stays within the second-level cache.
const BLOCK_BYTES: usize = 1 << 20;

/// By how many bytes each round is shifted against the one before.
const SHIFTS: usize = 61;

impl Payload {
    /// Values of `size` bytes; another seed gives other letters.
    pub fn new(size: usize, seed: u64) -> Self {
        let bytes = BLOCK_BYTES.max(size) + size + SHIFTS;
        let mut state = seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15) | 1;
        let mut letter = || {
            // xorshift64: quick, and far from repeating within a block.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b'A' + u8::try_from(state % 26).unwrap_or(0)
        };
        Self {
            block: (0..bytes).map(|_| letter()).collect(),
            size,
            position: 0,
            rounds: 0,
        }
    }

    /// How large every value is.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// The next value, which begins with as much of `stamp` as fits.
    pub fn next(&mut self, stamp: &[u8]) -> &[u8] {
        if self.position + self.size > self.block.len() {
            self.rounds += 1;
            self.position = self.rounds % SHIFTS;
        }
        let from = self.position;
        self.position += self.size.max(1);
        let value = self
            .block
            .get_mut(from..from + self.size)
            .unwrap_or_default();
        for (byte, stamp) in value.iter_mut().zip(stamp) {
            *byte = *stamp;
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn values_have_their_size_and_are_distinct() {
        for size in [8, 100, 1_000, 3 << 20] {
            let mut payload = Payload::new(size, 1);
            let count: u64 = if size > 100_000 { 5 } else { 20_000 };
            let mut seen = HashSet::new();
            for number in 0..count {
                let value = payload.next(&number.to_le_bytes());
                assert_eq!(value.len(), size);
                assert!(
                    seen.insert(value.to_vec()),
                    "value {number} of {size} bytes repeats"
                );
            }
        }
    }

    #[test]
    fn tiny_values_are_possible() {
        assert_eq!(Payload::new(0, 1).next(&[1, 2]), b"");
        assert_eq!(Payload::new(1, 1).next(&[1, 2]), &[1]);
    }
}

//! Variable-length integers as records carry them: zigzag, then seven bits a byte, lowest first.
//!
//! Source: Kafka's `ByteUtils`, which took them from Protocol Buffers. Nothing here allocates.

/// The longest encoding, in bytes: 64 bits in groups of seven.
pub const VARINT_BYTES_MAX: usize = 10;

/// Small magnitudes of either sign become small unsigned numbers.
const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// Undoes [`zigzag`].
const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// How many bytes the encoding of `value` takes.
#[must_use]
pub const fn varint_bytes(value: i64) -> usize {
    match zigzag(value) {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        0x20_0000..=0xfff_ffff => 4,
        0x1000_0000..=0x7_ffff_ffff => 5,
        0x8_0000_0000..=0x3ff_ffff_ffff => 6,
        0x400_0000_0000..=0x1_ffff_ffff_ffff => 7,
        0x2_0000_0000_0000..=0xff_ffff_ffff_ffff => 8,
        0x100_0000_0000_0000..=0x7fff_ffff_ffff_ffff => 9,
        0x8000_0000_0000_0000..=u64::MAX => VARINT_BYTES_MAX,
    }
}

/// A few integers encoded on the stack, so that a buffer is extended once for all of them.
pub(super) struct Encoded {
    bytes: [u8; 4 * VARINT_BYTES_MAX],
    length: usize,
}

impl Encoded {
    /// Nothing yet.
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; 4 * VARINT_BYTES_MAX],
            length: 0,
        }
    }

    /// One byte as it is. What exceeds four integers is dropped; nobody encodes as many.
    #[inline]
    pub(super) fn byte(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.length) {
            *slot = byte;
            self.length += 1;
        }
    }

    /// One integer.
    #[inline]
    pub(super) fn varint(&mut self, value: i64) {
        let mut rest = zigzag(value);
        while rest >= 0x80 {
            let [low, ..] = rest.to_le_bytes();
            self.byte(low | 0x80);
            rest >>= 7;
        }
        let [low, ..] = rest.to_le_bytes();
        self.byte(low);
    }

    /// Starts again.
    #[inline]
    pub(super) const fn clear(&mut self) {
        self.length = 0;
    }

    /// What was encoded and some bytes behind it, if that is no more than sixteen bytes.
    #[inline]
    pub(super) const fn first_bytes(&self) -> Option<&[u8; 16]> {
        if self.length <= 16 {
            self.bytes.first_chunk()
        } else {
            None
        }
    }

    /// What was encoded.
    #[inline]
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Reads integers and slices from the front of borrowed bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Starts at the front of `bytes`.
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// One byte.
    #[inline]
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    /// One integer of up to 64 bits; none if it is cut off or has more.
    #[inline(always)]
    pub(super) fn varlong(&mut self) -> Option<i64> {
        let first = self.byte()?;
        if first < 0x80 {
            return Some(unzigzag(u64::from(first)));
        }
        // Lengths and offsets take two bytes more often than not.
        match self.rest.split_first() {
            Some((&second, rest)) if second < 0x80 => {
                self.rest = rest;
                let value = u64::from(first & 0x7f) | u64::from(second) << 7;
                Some(unzigzag(value))
            }
            _ => self.varlong_rest(first),
        }
    }

    #[cold]
    fn varlong_rest(&mut self, first: u8) -> Option<i64> {
        let mut value = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(unzigzag(value));
            }
        }
        None
    }

    /// One integer of up to 32 bits; none if it is cut off or has more.
    #[inline(always)]
    pub(super) fn varint(&mut self) -> Option<i32> {
        i32::try_from(self.varlong()?).ok()
    }

    /// The next `length` bytes; none if fewer are left.
    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    /// A length and as many bytes; the inner none is null, the outer one an error.
    #[inline(always)]
    pub(super) fn nullable(&mut self) -> Option<Option<&'a [u8]>> {
        match self.varint()? {
            -1 => Some(None),
            length => self.take(usize::try_from(length).ok()?).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    fn encode(value: i64) -> Vec<u8> {
        let mut encoded = Encoded::new();
        encoded.varint(value);
        encoded.as_bytes().to_vec()
    }

    #[test]
    fn known_encodings() {
        assert_eq!(encode(0), [0]);
        assert_eq!(encode(-1), [1]);
        assert_eq!(encode(1), [2]);
        assert_eq!(encode(63), [0x7e]);
        assert_eq!(encode(-64), [0x7f]);
        assert_eq!(encode(64), [0x80, 1]);
        assert_eq!(encode(300), [0xd8, 4]);
        assert_eq!(encode(i64::MIN), [[0xff; 9].as_slice(), &[1]].concat());
    }

    #[test]
    fn cut_off_and_overlong_ones_are_refused() {
        assert_eq!(Cursor::new(&[]).varlong(), None);
        assert_eq!(Cursor::new(&[0x80]).varlong(), None);
        assert_eq!(Cursor::new(&[0xff; 11]).varlong(), None);
        let beyond = [[0xff; 9].as_slice(), &[2]].concat();
        assert_eq!(Cursor::new(&beyond).varlong(), None);
        let past_32_bits = encode(i64::from(i32::MAX) + 1);
        assert_eq!(Cursor::new(&past_32_bits).varint(), None);
    }

    proptest! {
        #[test]
        fn every_integer_reads_back(value in any::<i64>(), shift in 0..64_u32) {
            let value = value >> shift;
            let bytes = encode(value);
            assert_eq!(bytes.len(), varint_bytes(value));
            let mut cursor = Cursor::new(&bytes);
            assert_eq!(cursor.varlong(), Some(value));
            assert!(cursor.rest().is_empty());
        }
    }
}

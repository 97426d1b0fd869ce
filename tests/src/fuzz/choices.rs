//! Reads an input as a row of choices: what makes a target know the structure of what it builds.

use strandline_protocol::{
    Timestamp,
    batch::{BatchBuilder, Codec, NewRecord, ProducerStamp},
};

/// The input, from its front on. Once it is used up, every choice is zero and every text empty, so
/// that any input is a whole row.
#[derive(Clone, Debug)]
pub(super) struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    pub(super) const fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    pub(super) const fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// What is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// The next `count` bytes, or as many as are left.
    pub(super) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    pub(super) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn i64(&mut self) -> i64 {
        i64::from_le_bytes(self.array())
    }

    /// A number below `end`, which is at most 256.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::from(self.u8()) % end
    }

    /// Up to 255 bytes behind their length.
    pub(super) fn short(&mut self) -> &'a [u8] {
        let count = usize::from(self.u8());
        self.bytes(count)
    }

    /// Up to 65,535 bytes behind their length.
    pub(super) fn long(&mut self) -> &'a [u8] {
        let count = usize::from(self.u16());
        self.bytes(count)
    }

    /// A small number mostly, any sometimes.
    pub(super) fn number(&mut self) -> i64 {
        match self.u8() {
            255 => self.i64(),
            254 => i64::from(self.u16()),
            small => i64::from(small) - 1,
        }
    }

    pub(super) fn codec(&mut self) -> Codec {
        Codec::ALL[self.below(Codec::ALL.len())]
    }

    fn nullable(&mut self) -> Option<&'a [u8]> {
        match self.u8() {
            255 => None,
            count => Some(self.bytes(usize::from(count))),
        }
    }

    /// A whole batch as a producer makes it, of one record or more.
    pub(super) fn batch(&mut self, codec: Codec, timestamp: i64, stamp: ProducerStamp) -> Vec<u8> {
        let mut builder = BatchBuilder::new(codec, 256);
        for _ in 0..=self.below(8) {
            let key = self.nullable();
            let value = self.nullable();
            let repeat = 1 << self.below(6);
            let value = value.map(|value| value.repeat(repeat));
            let headers = [("trace", self.nullable()), ("", None)];
            let headers = &headers[..self.below(3)];
            let record = NewRecord {
                timestamp: Timestamp(timestamp.wrapping_add(self.number())),
                key,
                value: value.as_deref(),
                headers,
            };
            builder.try_append(1 << 20, record).unwrap();
        }
        builder.finish(stamp).unwrap().to_vec()
    }

    /// Up to 7 edits of `bytes`.
    pub(super) fn edit(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(8) {
            self.edit_once(bytes);
        }
    }

    /// One edit: a byte, a field, a cut, an insertion, zeros, a copy.
    pub(super) fn edit_once(&mut self, bytes: &mut Vec<u8>) {
        let (kind, at) = (self.below(7), usize::from(self.u16()));
        let at = at.min(bytes.len());
        match kind {
            0 => {
                let mask = self.u8();
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= mask;
                }
            }
            1 => {
                let field = self.short();
                let end = (at + field.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&field[..end - at]);
            }
            2 => bytes.truncate(at),
            3 => {
                let piece = self.short();
                bytes.splice(at..at, piece.iter().copied());
            }
            4 => {
                let end = (at + usize::from(self.u16())).min(bytes.len());
                bytes[at..end].fill(0);
            }
            5 => {
                let end = (at + self.below(256)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let end = (at + usize::from(self.u16() % 1024)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.extend(piece);
            }
        }
    }
}

//! Cuts a stream of bytes into lines: every byte but the newline passes as it is.
//!
//! A last line without a newline counts, an empty line is an empty record. Lines are borrowed from
//! one buffer that is filled in big chunks, so a line costs no allocation and no copy, unless it
//! lies across the end of the buffer.

use std::io::{self, Read};

/// How many bytes are asked of the source at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Why there is no next line.
#[derive(Debug)]
pub enum LineError {
    /// The source failed.
    Io(io::Error),
    /// The line with this number (counted from 1) is longer than the limit.
    TooLong(u64),
}

/// Reads lines from a source.
pub struct Lines<R> {
    source: R,
    buffer: Vec<u8>,
    /// What of the buffer is filled and not yet given out.
    start: usize,
    end: usize,
    /// Up to where the rest is known to hold no newline.
    searched: usize,
    line_bytes_max: usize,
    lines: u64,
    bytes: u64,
    ended: bool,
}

impl<R: Read> Lines<R> {
    /// Lines of `source`, each at most `line_bytes_max` bytes long.
    pub fn new(source: R, line_bytes_max: usize) -> Self {
        Self {
            source,
            buffer: vec![0; CHUNK_BYTES],
            start: 0,
            end: 0,
            searched: 0,
            line_bytes_max,
            lines: 0,
            bytes: 0,
            ended: false,
        }
    }

    /// How many lines were given out: the number of the last one.
    pub const fn count(&self) -> u64 {
        self.lines
    }

    /// How many bytes were read from the source, newlines included.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next line without its newline, or none at the end of the source.
    ///
    /// # Errors
    /// [`LineError::Io`] if the source fails, [`LineError::TooLong`] if the line exceeds the limit.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, LineError> {
        let (from, to) = loop {
            let newline = self
                .unsearched()
                .and_then(|rest| memchr::memchr(b'\n', rest));
            if let Some(distance) = newline {
                let range = (self.start, self.searched + distance);
                self.start = range.1 + 1;
                self.searched = self.start;
                break range;
            }
            self.searched = self.end;
            if self.end - self.start > self.line_bytes_max {
                return Err(LineError::TooLong(self.lines + 1));
            }
            if self.ended {
                if self.start == self.end {
                    return Ok(None);
                }
                let range = (self.start, self.end);
                self.start = self.end;
                break range;
            }
            self.fill().map_err(LineError::Io)?;
        };
        self.lines += 1;
        if to - from > self.line_bytes_max {
            return Err(LineError::TooLong(self.lines));
        }
        Ok(self.buffer.get(from..to))
    }

    fn unsearched(&self) -> Option<&[u8]> {
        self.buffer.get(self.searched..self.end)
    }

    /// Reads once, after making room: first by moving what is left to the front, then by growing.
    fn fill(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.searched -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let count = loop {
            match self.source.read(room) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        self.end += count;
        self.bytes += super::quantity::length(count);
        self.ended = count == 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives out its bytes in pieces of one size.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(room.len());
            let (now, later) = self.0.split_at(count);
            room[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    fn lines_of(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let mut lines = Lines::new(Drip(bytes, piece), 1 << 22);
        let mut all = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            all.push(line.to_vec());
        }
        assert_eq!(lines.bytes(), crate::cli::quantity::length(bytes.len()));
        assert_eq!(lines.count(), crate::cli::quantity::length(all.len()));
        all
    }

    #[test]
    fn every_byte_but_the_newline_passes() {
        let cases: [(&[u8], &[&[u8]]); 6] = [
            (b"", &[]),
            (b"\n", &[b""]),
            (b"a\nb\n", &[b"a", b"b"]),
            (b"a\n\n\r\n\0\xff", &[b"a", b"", b"\r", b"\0\xff"]),
            (b"last", &[b"last"]),
            (b"x\n\n", &[b"x", b""]),
        ];
        for (bytes, lines) in cases {
            for piece in [1, 2, 7, 1 << 20] {
                assert_eq!(lines_of(bytes, piece), lines, "in pieces of {piece}");
            }
        }
    }

    #[test]
    fn lines_longer_than_the_buffer_pass() {
        let mut bytes = vec![b'x'; CHUNK_BYTES * 3];
        bytes.extend_from_slice(b"\nshort\n");
        bytes.extend_from_slice(&vec![b'y'; CHUNK_BYTES + 1]);
        let lines = lines_of(&bytes, 300_000);
        let lengths: Vec<usize> = lines.iter().map(Vec::len).collect();
        assert_eq!(lengths, [CHUNK_BYTES * 3, 5, CHUNK_BYTES + 1]);
    }

    #[test]
    fn a_line_over_the_limit_is_named_by_its_number() {
        for tail in ["", "\n", "\nmore\n"] {
            let bytes = format!("ok\n12345\n123456{tail}");
            let mut lines = Lines::new(bytes.as_bytes(), 5);
            assert_eq!(lines.next_line().unwrap(), Some(&b"ok"[..]));
            assert_eq!(lines.next_line().unwrap(), Some(&b"12345"[..]));
            assert!(matches!(lines.next_line(), Err(LineError::TooLong(3))));
        }
    }
}

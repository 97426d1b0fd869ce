//! Frames on their way out: small ones are gathered, fetched ranges of the log go as they are, and
//! one vectored write takes as much of both as the socket accepts.

use std::{
    collections::VecDeque,
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// The most pieces that one system call is given.
const PIECES_PER_WRITE: usize = 64;

/// A payload of up to this many bytes is copied behind its header; a larger one is a piece of its
/// own.
const COPIED_BYTES_MAX: usize = 2 << 10;

/// What has to be written, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    pieces: VecDeque<Piece>,
    /// Small frames behind the last piece.
    tail: BytesMut,
    /// Bytes queued and not written yet.
    queued_bytes: usize,
    /// Those of them that are ranges of the log, and take no memory.
    log_bytes: usize,
    /// Bytes ever queued; the position behind the last frame.
    position: u64,
    /// Bytes ever written.
    written: u64,
}

/// Bytes that are written as they are.
#[derive(Debug)]
enum Piece {
    /// Frames that were gathered.
    Gathered(Bytes),
    /// A range of the log.
    Log(Bytes),
}

impl Piece {
    const fn bytes(&self) -> &Bytes {
        match self {
            Self::Gathered(bytes) | Self::Log(bytes) => bytes,
        }
    }

    const fn bytes_mut(&mut self) -> &mut Bytes {
        match self {
            Self::Gathered(bytes) | Self::Log(bytes) => bytes,
        }
    }
}

impl Outbox {
    /// Queues a frame: its fixed part, its message and its payload.
    pub fn push(&mut self, header: &[u8], message: &[u8], payload: Vec<Bytes>) {
        self.copy(header);
        self.copy(message);
        for part in payload {
            if part.len() <= COPIED_BYTES_MAX {
                self.copy(&part);
                continue;
            }
            self.seal();
            self.count(part.len());
            self.log_bytes = self.log_bytes.saturating_add(part.len());
            self.pieces.push_back(Piece::Log(part));
        }
    }

    /// How much is waiting, in bytes.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// How much of that takes memory, in bytes: all but ranges of the log.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.queued_bytes.saturating_sub(self.log_bytes)
    }

    /// Where the last queued frame ends, counted from the first byte of the connection.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Up to where everything is with the kernel.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Writes as much as the socket takes; returns how much that was.
    pub fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        self.seal();
        let mut slices = [IoSlice::new(&[]); PIECES_PER_WRITE];
        let mut count = 0;
        for (slot, piece) in slices.iter_mut().zip(&self.pieces) {
            *slot = IoSlice::new(piece.bytes());
            count += 1;
        }
        let slices = slices.get(..count).unwrap_or_default();
        match Pin::new(stream).poll_write_vectored(context, slices) {
            Poll::Ready(Ok(written)) => {
                self.drop_written(written);
                Poll::Ready(Ok(written))
            }
            other => other,
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.count(bytes.len());
    }

    fn count(&mut self, bytes: usize) {
        self.queued_bytes = self.queued_bytes.saturating_add(bytes);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.position = self.position.saturating_add(bytes);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let gathered = self.tail.split().freeze();
            self.pieces.push_back(Piece::Gathered(gathered));
        }
    }

    fn drop_written(&mut self, written: usize) {
        self.queued_bytes = self.queued_bytes.saturating_sub(written);
        let position = u64::try_from(written).unwrap_or(u64::MAX);
        self.written = self.written.saturating_add(position);
        let mut left = written;
        while let Some(piece) = self.pieces.front_mut() {
            let count = piece.bytes().len().min(left);
            if let Piece::Log(_) = piece {
                self.log_bytes = self.log_bytes.saturating_sub(count);
            }
            if piece.bytes().len() > left {
                piece.bytes_mut().advance(left);
                break;
            }
            left -= count;
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() && self.tail.is_empty() {
            // An idle connection keeps no memory for replies.
            self.tail = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn everything_is_written_once_and_in_order() {
        let mut outbox = Outbox::default();
        let large = Bytes::from(vec![9; 10_000]);
        outbox.push(
            b"head",
            b"message",
            vec![Bytes::from_static(b"small"), large],
        );
        outbox.push(b"next", b"", Vec::new());
        assert_eq!(outbox.queued_bytes(), 4 + 7 + 5 + 10_000 + 4);
        assert_eq!(outbox.memory_bytes(), 4 + 7 + 5 + 4);
        let mut stream = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        while outbox.queued_bytes() > 0 {
            assert!(outbox.poll_write(&mut stream, &mut context).is_ready());
        }
        let expected = [&b"headmessagesmall"[..], &[9; 10_000], b"next"].concat();
        assert_eq!(stream, expected);
        assert_eq!(outbox.written(), outbox.position());
        assert_eq!(outbox.memory_bytes(), 0);
    }
}

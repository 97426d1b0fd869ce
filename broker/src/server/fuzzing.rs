//! What fuzz targets reach of the server's inside; exists under `cfg(fuzzing)` only.
//!
//! **Owns** no behaviour: it drives a connection's receive buffer as the connection does.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use strandline_core::budget::{Pool, PoolSizes};
use strandline_protocol::frame::FrameError;
use tokio::io::{AsyncRead, ReadBuf};

use super::{
    buffers::BufferPool,
    connection::{Front, Receive},
    memory::MemoryBudget,
};

/// A message and its payload.
pub type Received = (Vec<u8>, Vec<u8>);

/// A stream that arrives in pieces of these lengths, again and again; all at once without any.
struct Pieces<'a> {
    stream: &'a [u8],
    pieces: std::iter::Cycle<std::slice::Iter<'a, usize>>,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let piece = self.pieces.next().map_or(usize::MAX, |it| *it);
        let count = piece.min(buffer.remaining()).min(self.stream.len());
        let (now, later) = self.stream.split_at(count);
        buffer.put_slice(now);
        self.stream = later;
        Poll::Ready(Ok(()))
    }
}

/// Feeds `stream` to a receive buffer in `pieces`; what comes out, and what ended it.
///
/// # Panics
/// If the buffer is left without room for what it waits for.
#[must_use]
pub fn receive(
    stream: &[u8],
    pieces: &[usize],
    frame_bytes_max: usize,
) -> (Vec<Received>, Option<FrameError>) {
    let budget = MemoryBudget::new(PoolSizes {
        client_bytes: 256 << 20,
        replication_bytes: 0,
        control_bytes: 0,
    });
    let pool = BufferPool::default();
    let mut receive = Receive::new(frame_bytes_max);
    let mut context = Context::from_waker(Waker::noop());
    let mut frames = Vec::new();
    let pieces = pieces.iter().cycle();
    let mut stream = Pieces { stream, pieces };
    loop {
        match receive.front() {
            Err(error) => return (frames, Some(error)),
            Ok(Front::Frame(_)) => {
                let (message, payload) = receive.frame();
                frames.push((message.to_vec(), payload.to_vec()));
                receive.consume();
                receive.rest(&pool);
            }
            Ok(Front::TooSmall { bytes, .. }) => {
                // The client's bytes are reserved before they are allocated: see `poll_reserve`.
                let needed = Receive::reservation_for(bytes);
                let reserved = budget.poll_reserve(Pool::Client, needed, &mut None, &mut context);
                let Poll::Ready(reservation) = reserved else {
                    panic!("memory is still reserved for frames that were handled");
                };
                assert!(
                    bytes <= frame_bytes_max,
                    "more is reserved than is accepted"
                );
                if bytes
                    > stream
                        .stream
                        .len()
                        .saturating_add(super::buffers::BUFFER_BYTES)
                {
                    // The peer will never send as much; a test need not allocate it.
                    return (frames, None);
                }
                receive.grow(&pool, bytes, reservation);
            }
            Ok(Front::Incomplete) => match receive.poll_fill(&mut stream, &mut context) {
                Poll::Ready(Ok(1..)) => {}
                _ => return (frames, None),
            },
        }
    }
}

//! The task of one connection: moves bytes between the socket and the [`Exchange`].
//!
//! Everything that is queued when it runs leaves in one vectored write; what arrives is cut out of
//! a receive buffer without a copy. The buffer is used again once nobody holds a part of it.
//!
//! [`Exchange`]: super::exchange::Exchange

use std::{
    collections::VecDeque,
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use strandline_protocol::channel::FrameDecoder;
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    time::{Instant, Sleep},
};

use super::{Shared, describe};
use crate::net::{BusyPoll, TcpStream};

/// How much is read at once while no larger frame is expected, in bytes.
const READ_BYTES: usize = 64 << 10;

/// How many buffers one write gathers at most; the system's limit is 1024.
const WRITE_SLICES: usize = 64;

/// How often the task reads before it lets others run.
const READS_PER_POLL: usize = 32;

/// Why the task ends.
enum End {
    /// Nobody needs it any more.
    Finished,
    /// The connection cannot go on.
    Broken(String),
}

pub(super) struct Driver {
    socket: TcpStream,
    shared: Arc<Shared>,
    decoder: FrameDecoder,
    writing: VecDeque<Bytes>,
    reading: BytesMut,
    /// Armed while an answer is awaited.
    timer: Option<Pin<Box<Sleep>>>,
    busy: BusyPoll,
}

impl Driver {
    pub(super) fn new(socket: TcpStream, shared: Arc<Shared>, frame_bytes_max: usize) -> Self {
        Self {
            socket,
            shared,
            decoder: FrameDecoder::new(frame_bytes_max),
            writing: VecDeque::new(),
            reading: BytesMut::new(),
            timer: None,
            busy: BusyPoll::default(),
        }
    }

    /// Writes until nothing is left or the socket takes no more.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.shared.exchange.lock().take_outgoing(&mut self.writing);
            if self.writing.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
            let mut filled = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.writing) {
                *slice = IoSlice::new(bytes);
                filled += 1;
            }
            let slices = slices.get(..filled).unwrap_or_default();
            let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(context, slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
            self.busy.sent();
            self.shared.exchange.lock().has_written(written);
        }
    }

    fn advance(&mut self, written: usize) {
        let mut left = written;
        while let Some(front) = self.writing.front_mut() {
            if left < front.len() {
                front.advance(left);
                return;
            }
            left -= front.len();
            self.writing.pop_front();
        }
    }

    /// Reads and hands out frames until nothing more has arrived.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<End> {
        for _ in 0..READS_PER_POLL {
            let missing = match self.hand_out() {
                Ok(missing) => missing,
                Err(reason) => return Poll::Ready(End::Broken(reason)),
            };
            let spare = self.reading.capacity() - self.reading.len();
            if spare < missing {
                self.reading.reserve(missing.max(READ_BYTES));
            }
            let read = pin!(self.socket.read_buf(&mut self.reading));
            match ready!(read.poll(context)) {
                Ok(0) => return Poll::Ready(End::Broken("the broker closed it".to_owned())),
                Ok(count) => self.busy.arrived(count),
                Err(error) => return Poll::Ready(End::Broken(describe(&error))),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands out every whole frame; returns how many bytes the next one lacks at least.
    fn hand_out(&mut self) -> Result<usize, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        while let Some(frame) = self
            .decoder
            .decode(&mut self.reading)
            .map_err(|error| text(&error))?
        {
            let mut exchange = self.shared.exchange.lock();
            exchange.received(frame).map_err(|error| text(&error))?;
        }
        let needed = self.decoder.bytes_needed();
        Ok(needed.saturating_sub(self.reading.len()))
    }

    /// Ends when an answer is overdue: what comes later on this connection is not waited for.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<End> {
        loop {
            if self.timer.is_none() {
                let deadline = self.shared.exchange.lock().next_deadline();
                self.timer = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
            }
            let Some(timer) = &mut self.timer else {
                return Poll::Pending;
            };
            ready!(timer.as_mut().poll(context));
            self.timer = None;
            let next = self.shared.exchange.lock().next_deadline();
            if next.is_some_and(|deadline| deadline <= Instant::now()) {
                let timeout = self.shared.request_timeout.as_millis();
                let reason = format!("a request was not answered within {timeout} ms");
                return Poll::Ready(End::Broken(reason));
            }
        }
    }

    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<End> {
        loop {
            if let Poll::Ready(Err(error)) = self.poll_write(context) {
                return Poll::Ready(End::Broken(describe(&error)));
            }
            if let Poll::Ready(end) = self.poll_read(context) {
                return Poll::Ready(end);
            }
            if let Poll::Ready(end) = self.poll_deadline(context) {
                return Poll::Ready(end);
            }
            let mut exchange = self.shared.exchange.lock();
            if exchange.is_finished() {
                return Poll::Ready(End::Finished);
            }
            // What is queued behind a full socket waits for the socket, not for this.
            if exchange.park(context.waker()) || !self.writing.is_empty() {
                if exchange.next_deadline().is_some() {
                    self.busy.rest(context);
                } else {
                    self.busy.pause();
                }
                return Poll::Pending;
            }
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let reason = match ready!(self.poll_end(context)) {
            End::Finished => "it was closed here".to_owned(),
            End::Broken(reason) => reason,
        };
        tracing::debug!(address = %self.shared.address, %reason, "connection ended");
        self.shared.exchange.lock().end(&reason);
        Poll::Ready(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // With its runtime, usually: nobody must wait for what will not come.
        self.shared
            .exchange
            .lock()
            .end("the runtime is shutting down");
    }
}

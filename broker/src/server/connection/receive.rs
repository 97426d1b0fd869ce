//! The bytes that have arrived and are not handled yet.
//!
//! An idle connection owns a small buffer only. A frame that does not fit reserves its memory from
//! a budget first and takes a shared buffer then; both go back once all that was in it is handled.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use strandline_protocol::frame::{FrameError, FrameHeader, HEADER_BYTES};
use tokio::io::{AsyncRead, ReadBuf};

use crate::server::{
    buffers::{BUFFER_BYTES, Buffer, BufferPool},
    memory::Reservation,
};

/// What an idle connection owns, in bytes.
const SMALL_BYTES: usize = 4 << 10;

/// What a connection gets at least for a frame while memory is scarce, in bytes: ten thousand of
/// these fit the budget.
const STEP_BYTES_MIN: usize = 16 << 10;

/// What stands at the front of the buffer.
#[derive(Clone, Copy, Debug)]
pub enum Front {
    /// Not enough bytes yet to say or to handle; there is room for more.
    Incomplete,
    /// A frame that does not fit: see [`Receive::grow`].
    TooSmall {
        /// Its header.
        header: FrameHeader,
        /// The buffer that it needs, in bytes.
        bytes: usize,
    },
    /// A whole frame, whose checksum is right: see [`Receive::frame`].
    Frame(FrameHeader),
}

/// The receive buffer of one connection.
#[derive(Debug)]
pub struct Receive {
    small: Box<[u8]>,
    large: Option<Large>,
    start: usize,
    end: usize,
    /// The header at `start`, once it has arrived.
    header: Option<FrameHeader>,
    /// Whether the checksum of that frame has been found right.
    checked: Checked,
    frame_bytes_max: usize,
}

#[derive(Debug)]
struct Large {
    bytes: Buffer,
    _reservation: Reservation,
}

impl Large {
    fn give_back(self, pool: &BufferPool) {
        // One that was taken small fits nobody else.
        if self.bytes.len() >= BUFFER_BYTES {
            pool.give_back(self.bytes);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checked {
    NotYet,
    Right,
}

impl Receive {
    /// An empty buffer that refuses frames larger than `frame_bytes_max`.
    #[must_use]
    pub fn new(frame_bytes_max: usize) -> Self {
        Self {
            small: vec![0; SMALL_BYTES].into_boxed_slice(),
            large: None,
            start: 0,
            end: 0,
            header: None,
            checked: Checked::NotYet,
            frame_bytes_max,
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Reads what the socket has; 0 is the end of the stream.
    ///
    /// There must be room, which is so after [`Front::Incomplete`].
    pub fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        self.make_room();
        let end = self.end;
        let room = self.bytes().get_mut(end..).unwrap_or_default();
        debug_assert!(
            !room.is_empty(),
            "a full buffer holds a whole frame or grows"
        );
        let mut read = ReadBuf::new(room);
        match Pin::new(stream).poll_read(context, &mut read) {
            Poll::Ready(Ok(())) => {
                let count = read.filled().len();
                self.end = self.end.saturating_add(count);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Looks at the front of the buffer.
    ///
    /// # Errors
    /// [`FrameError`] ends the connection.
    pub fn front(&mut self) -> Result<Front, FrameError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(fixed) = self.fixed_part() else {
                    // Another protocol's peer may wait for an answer before it sends as many bytes.
                    let frame_bytes_max = self.frame_bytes_max;
                    FrameHeader::check_start(self.arrived(), frame_bytes_max)?;
                    return Ok(Front::Incomplete);
                };
                let header = FrameHeader::decode(&fixed, self.frame_bytes_max)?;
                self.header = Some(header);
                header
            }
        };
        let bytes = HEADER_BYTES.saturating_add(header.body_bytes);
        self.check_message(&header)?;
        if self.end.saturating_sub(self.start) >= bytes {
            return Ok(Front::Frame(header));
        }
        // A shared buffer that was taken small grows once it is full.
        let is_full = self.end.saturating_sub(self.start) >= self.capacity();
        if bytes > self.capacity() && (self.large.is_none() || is_full) {
            return Ok(Front::TooSmall { header, bytes });
        }
        Ok(Front::Incomplete)
    }

    /// The message and the payload of the whole frame at the front.
    pub fn frame(&mut self) -> (&[u8], &mut [u8]) {
        let (start, header) = (self.start, self.header);
        let Some(header) = header else {
            return (&[], &mut []);
        };
        let from = start.saturating_add(HEADER_BYTES);
        let to = from.saturating_add(header.body_bytes);
        let body = self.bytes().get_mut(from..to).unwrap_or_default();
        let (message, payload) = body
            .split_at_mut_checked(header.message_bytes)
            .unwrap_or_default();
        (message, payload)
    }

    /// Drops the frame at the front, which has been handled.
    pub fn consume(&mut self) {
        if let Some(header) = self.header.take() {
            let bytes = HEADER_BYTES.saturating_add(header.body_bytes);
            self.start = self.start.saturating_add(bytes).min(self.end);
        }
        self.checked = Checked::NotYet;
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
        }
    }

    /// How large the buffer becomes for a frame of `bytes` bytes while memory is scarce: twice what
    /// has arrived, so that whoever declares much and sends little holds little.
    #[must_use]
    pub fn next_step(&self, bytes: usize) -> usize {
        let arrived = self.end.saturating_sub(self.start);
        arrived.saturating_mul(2).max(STEP_BYTES_MIN).min(bytes)
    }

    /// Whether a shared buffer is in use for a frame that is not handled yet.
    #[must_use]
    pub const fn holds_shared(&self) -> bool {
        self.large.is_some() && !self.is_empty()
    }

    /// Moves what has arrived to a buffer of at least `bytes` bytes, whose memory is `reservation`.
    pub fn grow(&mut self, pool: &BufferPool, bytes: usize, reservation: Reservation) {
        let mut larger = if bytes < BUFFER_BYTES {
            Buffer::new(bytes)
        } else {
            pool.take(bytes)
        };
        let arrived = self.arrived();
        let count = arrived.len();
        if let Some(room) = larger.get_mut(..count) {
            room.copy_from_slice(arrived);
        }
        let before = self.large.replace(Large {
            bytes: larger,
            _reservation: reservation,
        });
        if let Some(before) = before {
            before.give_back(pool);
        }
        self.start = 0;
        self.end = count;
    }

    /// Gives the shared buffer back if nothing is in it.
    pub fn rest(&mut self, pool: &BufferPool) {
        if self.is_empty()
            && let Some(large) = self.large.take()
        {
            large.give_back(pool);
            self.start = 0;
            self.end = 0;
        }
    }

    /// What must be reserved for a frame of `bytes` bytes: at least a shared buffer.
    #[must_use]
    pub const fn reservation_for(bytes: usize) -> usize {
        BufferPool::bytes_for(bytes)
    }

    /// What must be reserved for a step of `bytes` bytes: the buffer that [`Receive::grow`] takes.
    #[must_use]
    pub const fn reservation_for_step(bytes: usize) -> usize {
        if bytes < BUFFER_BYTES {
            bytes
        } else {
            BufferPool::bytes_for(bytes)
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        match &mut self.large {
            Some(large) => &mut large.bytes,
            None => &mut self.small,
        }
    }

    fn capacity(&self) -> usize {
        match &self.large {
            Some(large) => large.bytes.len(),
            None => self.small.len(),
        }
    }

    /// Moves an incomplete frame to the start of the buffer if it cannot be completed where it is.
    fn make_room(&mut self) {
        let wanted = self
            .header
            .map_or(HEADER_BYTES, |header| HEADER_BYTES + header.body_bytes);
        let (start, end) = (self.start, self.end);
        if start > 0 && start.saturating_add(wanted) > self.capacity() {
            self.bytes().copy_within(start..end, 0);
            self.end = end - start;
            self.start = 0;
        }
    }

    fn arrived(&mut self) -> &[u8] {
        let arrived = self.start..self.end;
        self.bytes().get(arrived).unwrap_or_default()
    }

    fn fixed_part(&mut self) -> Option<[u8; HEADER_BYTES]> {
        self.arrived().first_chunk().copied()
    }

    /// Checks the checksum as soon as the message is there, before the payload is waited for.
    fn check_message(&mut self, header: &FrameHeader) -> Result<(), FrameError> {
        if self.checked == Checked::Right {
            return Ok(());
        }
        let from = self.start.saturating_add(HEADER_BYTES);
        let to = from.saturating_add(header.message_bytes);
        if to > self.end {
            return Ok(());
        }
        let Some(fixed) = self.fixed_part() else {
            return Ok(());
        };
        let message = self.bytes().get(from..to).unwrap_or_default();
        header.check(&fixed, message)?;
        self.checked = Checked::Right;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use strandline_core::budget::{Pool, PoolSizes};
    use strandline_protocol::{CorrelationId, ErrorCode, frame::Flags};

    use super::*;
    use crate::server::memory::MemoryBudget;

    fn budget() -> MemoryBudget {
        MemoryBudget::new(PoolSizes {
            client_bytes: 64 << 20,
            replication_bytes: 0,
            control_bytes: 0,
        })
    }

    fn reserve(budget: &MemoryBudget, bytes: usize) -> Reservation {
        let mut context = Context::from_waker(Waker::noop());
        let bytes = Receive::reservation_for(bytes);
        match budget.poll_reserve(Pool::Client, bytes, &mut None, &mut context) {
            Poll::Ready(reservation) => reservation,
            Poll::Pending => panic!("there is room"),
        }
    }

    fn frame(message: &[u8], payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader::encode(
            9,
            0,
            Flags::REQUEST,
            ErrorCode::NONE,
            CorrelationId(1),
            message,
            payload.len(),
        );
        [&header[..], message, payload].concat()
    }

    /// A message and its payload.
    type Whole = (Vec<u8>, Vec<u8>);

    /// Feeds `stream` in one piece after the other and returns the frames that come out.
    fn receive(mut stream: &[u8]) -> Result<Vec<Whole>, FrameError> {
        let budget = budget();
        let pool = BufferPool::default();
        let mut receive = Receive::new(8 << 20);
        let mut context = Context::from_waker(Waker::noop());
        let mut frames = Vec::new();
        loop {
            match receive.front()? {
                Front::Frame(_) => {
                    let (message, payload) = receive.frame();
                    frames.push((message.to_vec(), payload.to_vec()));
                    receive.consume();
                    receive.rest(&pool);
                }
                Front::TooSmall { bytes, .. } => {
                    receive.grow(&pool, bytes, reserve(&budget, bytes));
                }
                Front::Incomplete => match receive.poll_fill(&mut stream, &mut context) {
                    Poll::Ready(Ok(0)) => return Ok(frames),
                    Poll::Ready(Ok(_)) => {}
                    other => panic!("{other:?}"),
                },
            }
        }
    }

    #[test]
    fn frames_of_every_size_come_out_whole() {
        let sizes = [0, 1, 100, 4_000, 4_096, 5_000, 300_000, 2 << 20, 17];
        let payloads: Vec<Vec<u8>> = sizes.iter().map(|size| vec![7; *size]).collect();
        let stream: Vec<u8> = payloads
            .iter()
            .flat_map(|payload| frame(b"message", payload))
            .collect();
        let frames = receive(&stream).unwrap();
        let expected: Vec<_> = payloads
            .into_iter()
            .map(|payload| (b"message".to_vec(), payload))
            .collect();
        assert!(frames == expected);
    }

    #[test]
    fn a_frame_arrives_whole_in_a_buffer_that_grows_with_it() {
        let (budget, pool) = (budget(), BufferPool::default());
        let payload: Vec<u8> = (0..1_000_000_u32)
            .map(|number| number.to_be_bytes()[3])
            .collect();
        let bytes = [frame(b"first", b""), frame(b"message", &payload)].concat();
        let mut stream = &bytes[..];
        let mut receive = Receive::new(8 << 20);
        let mut context = Context::from_waker(Waker::noop());
        let mut steps = Vec::new();
        loop {
            match receive.front().unwrap() {
                Front::Frame(header) if header.message_bytes == 5 => receive.consume(),
                Front::Frame(_) => break,
                Front::TooSmall { bytes, .. } => {
                    let step = receive.next_step(bytes);
                    steps.push(step);
                    receive.grow(&pool, step, reserve(&budget, step));
                }
                Front::Incomplete => {
                    let filled = receive.poll_fill(&mut stream, &mut context);
                    assert!(matches!(filled, Poll::Ready(Ok(1..))));
                }
            }
        }
        assert!(receive.frame().1 == payload);
        assert_eq!(steps[..3], [16 << 10, 32 << 10, 64 << 10]);
    }

    /// Less than a fixed part was waited for to become one, until the connection was idle for long.
    #[test]
    fn another_protocol_is_named_before_a_fixed_part_has_arrived() {
        for (start, name) in [
            (&b"GET / HTTP/1.0\r\n\r\n"[..], "HTTP"),
            (b"HTTP", "HTTP"),
            (&[0x16, 0x03, 0x01, 0x00], "TLS"),
            (&[0, 0, 0, 14, 0, 18, 0, 3], "Kafka"),
        ] {
            let error = receive(start).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        assert!(receive(b"GET").unwrap().is_empty());
        let whole = frame(b"message", b"payload");
        for length in 0..HEADER_BYTES {
            assert_eq!(receive(&whole[..length]), Ok(Vec::new()), "{length}");
        }
    }

    #[test]
    fn a_damaged_message_is_noticed() {
        let mut stream = frame(b"message", b"");
        stream[HEADER_BYTES] ^= 1;
        assert_eq!(receive(&stream), Err(FrameError::Checksum));
    }

    #[test]
    fn the_shared_buffer_goes_back() {
        let budget = budget();
        let pool = BufferPool::default();
        let mut receive = Receive::new(1 << 20);
        receive.grow(&pool, 300_000, reserve(&budget, 10_000));
        assert_eq!(budget.used(Pool::Client), 256 << 10);
        receive.rest(&pool);
        assert_eq!(budget.used(Pool::Client), 0);
    }
}

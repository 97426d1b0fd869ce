//! What is queued on a connection and who waits for it: the pure half, without a socket.
//!
//! A request has been sent when its last byte was handed to the system: a broker does not act on
//! half a frame. Whether it was decides between "not sent" and "outcome unknown" when the
//! connection ends.

use std::{
    collections::{BTreeMap, VecDeque},
    task::Waker,
};

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use strandline_protocol::{
    CorrelationId, ErrorCode,
    api::ApiKey,
    channel::{ChannelError, ClientChannel, Completion, Frame, FrameKind, WindowFull},
    frame::{FrameHeader, HEADER_BYTES},
    limits::MESSAGE_BYTES_MAX,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// How many requests may be unanswered on one connection; far above what producers and consumers
/// have under way, so that only a leak meets it.
const IN_FLIGHT_MAX: usize = 16_384;

/// An answer or a push, not yet decoded.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) error: ErrorCode,
    pub(super) message: Bytes,
    pub(super) payload: Bytes,
}

/// The connection ended first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Whether the whole request had left.
    pub(super) sent: bool,
    pub(super) reason: String,
}

impl Broken {
    fn not_sent(reason: &str) -> Self {
        Self {
            sent: false,
            reason: reason.to_owned(),
        }
    }
}

/// A request with its message encoded: everything that needs no lock has been done.
#[derive(Debug)]
pub(super) struct Outgoing {
    api: ApiKey,
    /// Room for the fixed part, and the message.
    head: BytesMut,
    payload: Vec<Bytes>,
}

impl Outgoing {
    /// None if the message is larger than a message may be.
    pub(super) fn new<M: Serialize>(api: ApiKey, message: &M, payload: Vec<Bytes>) -> Option<Self> {
        let mut head = BytesMut::with_capacity(256);
        head.put_bytes(0, HEADER_BYTES);
        let encoded = rmp_serde::encode::write_named(&mut (&mut head).writer(), message);
        let fits = head.len() <= HEADER_BYTES + MESSAGE_BYTES_MAX;
        (encoded.is_ok() && fits).then_some(Self { api, head, payload })
    }

    /// Fills in the fixed part.
    fn frame(&mut self, kind: FrameKind, payload_bytes: usize) -> Bytes {
        let mut head = std::mem::take(&mut self.head);
        if let Some((fixed, message)) = head.split_first_chunk_mut::<HEADER_BYTES>() {
            *fixed = FrameHeader::encode(
                kind.api_key,
                kind.version,
                kind.flags,
                kind.error,
                kind.correlation,
                message,
                payload_bytes,
            );
        }
        head.freeze()
    }
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Who waits, and for what.
#[derive(Debug)]
pub(super) enum Waiting {
    /// For the answer.
    Answer {
        answered: oneshot::Sender<Result<Reply, Broken>>,
        deadline: Instant,
    },
    /// For the answer, and then for every push.
    Subscribed {
        answered: oneshot::Sender<Result<Reply, Broken>>,
        pushed: mpsc::Sender<Reply>,
        deadline: Instant,
    },
    /// For the last byte to leave.
    Written(oneshot::Sender<Result<(), Broken>>),
}

#[derive(Debug)]
struct Pending {
    waiting: Waiting,
    /// How many bytes of the connection have left when this request has.
    end: u64,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Exchange {
    channel: ClientChannel<Pending>,
    outgoing: VecDeque<Bytes>,
    queued: u64,
    written: u64,
    /// One-way requests, by the end of their bytes.
    leaving: VecDeque<Pending>,
    subscriptions: BTreeMap<CorrelationId, mpsc::Sender<Reply>>,
    waker: Option<Waker>,
    closing: bool,
    ended: Option<String>,
    /// Who waits for the end; each receiver learns of it when its sender goes.
    watched: Vec<oneshot::Sender<()>>,
}

impl Exchange {
    pub(super) const fn new() -> Self {
        Self {
            channel: ClientChannel::new(IN_FLIGHT_MAX),
            outgoing: VecDeque::new(),
            queued: 0,
            written: 0,
            leaving: VecDeque::new(),
            subscriptions: BTreeMap::new(),
            waker: None,
            closing: false,
            ended: None,
            watched: Vec::new(),
        }
    }

    pub(super) const fn is_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Ends, or fails, with the connection.
    pub(super) fn watch(&mut self) -> oneshot::Receiver<()> {
        let (told, ended) = oneshot::channel();
        if self.ended.is_none() {
            self.watched.retain(|waits| !waits.is_closed());
            self.watched.push(told);
        }
        ended
    }

    /// Queues a request; returns whom to wake.
    pub(super) fn begin(&mut self, mut request: Outgoing, waiting: Waiting) -> Option<Waker> {
        if let Some(reason) = &self.ended {
            waiting.fail(Broken::not_sent(reason));
            return None;
        }
        let payload_bytes = request.payload.iter().map(Bytes::len).sum();
        let end = self.queued + to_u64(request.head.len()) + to_u64(payload_bytes);
        let api = request.api;
        let pending = Pending { waiting, end };
        let kind = if matches!(pending.waiting, Waiting::Written(_)) {
            self.leaving.push_back(pending);
            FrameKind::one_way(api, self.channel.begin_one_way())
        } else {
            match self.channel.begin(api, pending) {
                Ok(correlation) => FrameKind::request(api, correlation),
                Err(WindowFull(pending)) => {
                    let reason = "too many requests are unanswered";
                    pending.waiting.fail(Broken::not_sent(reason));
                    return None;
                }
            }
        };
        self.queued = end;
        self.outgoing.push_back(request.frame(kind, payload_bytes));
        let payload = request.payload.into_iter();
        self.outgoing
            .extend(payload.filter(|bytes| !bytes.is_empty()));
        self.waker.take()
    }

    /// Moves what is queued behind `writing`.
    pub(super) fn take_outgoing(&mut self, writing: &mut VecDeque<Bytes>) {
        writing.append(&mut self.outgoing);
    }

    /// Bytes have left; one-way requests that have left whole are done.
    pub(super) fn has_written(&mut self, bytes: usize) {
        self.written += to_u64(bytes);
        while let Some(front) = self.leaving.front() {
            if front.end > self.written {
                break;
            }
            if let Some(Waiting::Written(done)) =
                self.leaving.pop_front().map(|front| front.waiting)
            {
                let _ = done.send(Ok(()));
            }
        }
    }

    /// Hands a frame to who waits for it. Answers that nobody waits for are dropped.
    ///
    /// # Errors
    /// If nobody asked for it: the connection must be closed.
    pub(super) fn received(&mut self, frame: Frame) -> Result<(), ChannelError> {
        let correlation = frame.header.correlation;
        let reply = Reply {
            error: frame.header.error,
            message: frame.message,
            payload: frame.payload,
        };
        let answered = match self.channel.complete(&frame.header)? {
            Completion::Push { subscription, .. } => {
                if let Some(pushed) = self.subscriptions.get(&subscription)
                    && pushed.try_send(reply).is_err()
                {
                    self.subscriptions.remove(&subscription);
                }
                return Ok(());
            }
            Completion::Response(request) => request.context.waiting,
        };
        match answered {
            Waiting::Answer { answered, .. } => {
                let _ = answered.send(Ok(reply));
            }
            Waiting::Subscribed {
                answered, pushed, ..
            } => {
                if reply.error.is_none() {
                    // One watch per connection: the broker has replaced the one before.
                    self.subscriptions.clear();
                    self.subscriptions.insert(correlation, pushed);
                }
                let _ = answered.send(Ok(reply));
            }
            Waiting::Written(_) => {}
        }
        Ok(())
    }

    /// The next deadline of an answer.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.channel.contexts().filter_map(Pending::deadline).min()
    }

    /// Remembers whom to wake when something is queued. Returns false if something already is.
    pub(super) fn park(&mut self, waker: &Waker) -> bool {
        if !self.outgoing.is_empty() {
            return false;
        }
        match &mut self.waker {
            Some(parked) => parked.clone_from(waker),
            None => self.waker = Some(waker.clone()),
        }
        true
    }

    /// No handle is left; the task ends when nothing is under way.
    pub(super) fn close(&mut self) -> Option<Waker> {
        self.closing = true;
        self.subscriptions.clear();
        self.waker.take()
    }

    /// Whether it has ended, or no handle is left and nothing is under way that anybody waits for.
    pub(super) fn is_finished(&self) -> bool {
        let is_idle =
            || self.written == self.queued && self.channel.contexts().all(Pending::is_abandoned);
        self.ended.is_some() || (self.closing && is_idle())
    }

    /// The connection has ended: fails everything that is under way, and everything later.
    pub(super) fn end(&mut self, reason: &str) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(reason.to_owned());
        self.outgoing.clear();
        self.subscriptions.clear();
        self.watched.clear();
        let written = self.written;
        let unanswered = self.channel.abandon().map(|request| request.context);
        for Pending { waiting, end } in unanswered.chain(std::mem::take(&mut self.leaving)) {
            let sent = end <= written;
            let reason = reason.to_owned();
            waiting.fail(Broken { sent, reason });
        }
    }
}

impl Pending {
    const fn deadline(&self) -> Option<Instant> {
        match &self.waiting {
            Waiting::Answer { deadline, .. } | Waiting::Subscribed { deadline, .. } => {
                Some(*deadline)
            }
            Waiting::Written(_) => None,
        }
    }

    fn is_abandoned(&self) -> bool {
        match &self.waiting {
            Waiting::Answer { answered, .. } | Waiting::Subscribed { answered, .. } => {
                answered.is_closed()
            }
            Waiting::Written(done) => done.is_closed(),
        }
    }
}

impl Waiting {
    pub(super) fn fail(self, broken: Broken) {
        // Whoever gave up waiting is not told.
        match self {
            Self::Answer { answered, .. } | Self::Subscribed { answered, .. } => {
                let _ = answered.send(Err(broken));
            }
            Self::Written(done) => {
                let _ = done.send(Err(broken));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use strandline_protocol::{frame::Flags, messages::DescribeBrokerRequest};

    use super::*;

    type Answer = oneshot::Receiver<Result<Reply, Broken>>;

    fn waiting() -> (Waiting, Answer) {
        let (answered, answer) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(1);
        (Waiting::Answer { answered, deadline }, answer)
    }

    fn request(payload: &'static [u8]) -> Outgoing {
        let payload = vec![Bytes::from_static(payload)];
        Outgoing::new(ApiKey::DescribeBroker, &DescribeBrokerRequest {}, payload).unwrap()
    }

    fn response(correlation: u32) -> Frame {
        let bytes = FrameHeader::encode(
            ApiKey::DescribeBroker.code(),
            0,
            Flags::RESPONSE,
            ErrorCode::NONE,
            CorrelationId(correlation),
            b"",
            0,
        );
        Frame {
            header: FrameHeader::decode(&bytes, 1 << 20).unwrap(),
            message: Bytes::new(),
            payload: Bytes::new(),
        }
    }

    #[test]
    fn a_request_whose_last_byte_has_not_left_was_not_sent() {
        let mut exchange = Exchange::new();
        let (first, mut first_answer) = waiting();
        let (second, mut second_answer) = waiting();
        exchange.begin(request(b"payload"), first);
        exchange.begin(request(b"payload"), second);
        let mut writing = VecDeque::new();
        exchange.take_outgoing(&mut writing);
        let bytes: usize = writing.iter().map(Bytes::len).sum();
        exchange.has_written(bytes - 1);
        exchange.end("reset");
        assert!(first_answer.try_recv().unwrap().unwrap_err().sent);
        assert!(!second_answer.try_recv().unwrap().unwrap_err().sent);
        let (late, mut late_answer) = waiting();
        exchange.begin(request(b""), late);
        assert!(!late_answer.try_recv().unwrap().unwrap_err().sent);
    }

    #[test]
    fn answers_find_their_requests_in_any_order() {
        let mut exchange = Exchange::new();
        let (first, mut first_answer) = waiting();
        let (second, mut second_answer) = waiting();
        exchange.begin(request(b""), first);
        exchange.begin(request(b""), second);
        exchange.received(response(1)).unwrap();
        assert!(second_answer.try_recv().is_ok() && first_answer.try_recv().is_err());
        exchange.received(response(0)).unwrap();
        assert!(first_answer.try_recv().is_ok());
        assert!(exchange.received(response(0)).is_err());
    }

    #[test]
    fn a_one_way_request_is_done_when_it_has_left() {
        let mut exchange = Exchange::new();
        let (done, mut left) = oneshot::channel();
        exchange.begin(request(b"x"), Waiting::Written(done));
        exchange.has_written(HEADER_BYTES + 1);
        assert!(left.try_recv().is_err());
        exchange.has_written(1);
        assert_eq!(left.try_recv().unwrap(), Ok(()));
    }

    #[test]
    fn a_closed_connection_ends_when_nobody_waits_any_more() {
        let mut exchange = Exchange::new();
        let (waits, answer) = waiting();
        exchange.begin(request(b""), waits);
        exchange.close();
        assert!(!exchange.is_finished());
        exchange.has_written(usize::try_from(exchange.queued).unwrap());
        assert!(!exchange.is_finished());
        drop(answer);
        assert!(exchange.is_finished());
    }
}

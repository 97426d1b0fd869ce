//! What is queued on a connection and who waits for it: the pure half, without a socket.
//!
//! A request has been sent when its last byte was handed to the system: a broker does not act on
//! half a frame. Whether it was decides between "not sent" and "outcome unknown" when the connection
//! ends.

use std::{
    collections::{BTreeMap, VecDeque},
    task::Waker,
};

use bytes::Bytes;
use strandline_protocol::{
    CorrelationId, ErrorCode,
    api::ApiKey,
    frame::{Flags, FrameHeader, HEADER_BYTES},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

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
    correlation: u32,
    outgoing: VecDeque<Bytes>,
    queued: u64,
    written: u64,
    pending: BTreeMap<CorrelationId, Pending>,
    /// One-way requests, by the end of their bytes.
    leaving: VecDeque<Pending>,
    subscriptions: BTreeMap<CorrelationId, mpsc::Sender<Reply>>,
    waker: Option<Waker>,
    closing: bool,
    ended: Option<String>,
}

impl Exchange {
    pub(super) const fn new() -> Self {
        Self {
            correlation: 0,
            outgoing: VecDeque::new(),
            queued: 0,
            written: 0,
            pending: BTreeMap::new(),
            leaving: VecDeque::new(),
            subscriptions: BTreeMap::new(),
            waker: None,
            closing: false,
            ended: None,
        }
    }

    pub(super) const fn is_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Queues a frame; returns whom to wake.
    pub(super) fn begin(
        &mut self,
        api: ApiKey,
        flags: Flags,
        message: &[u8],
        payload: Vec<Bytes>,
        waiting: Option<Waiting>,
    ) -> Option<Waker> {
        if let Some(reason) = &self.ended {
            let reason = reason.clone();
            let sent = false;
            if let Some(waiting) = waiting {
                waiting.fail(Broken { sent, reason });
            }
            return None;
        }
        let correlation = CorrelationId(self.correlation);
        self.correlation = self.correlation.wrapping_add(1);
        let payload_bytes = payload.iter().map(Bytes::len).sum();
        let version = *api.api().versions.end();
        let none = ErrorCode::NONE;
        let header = FrameHeader::encode(
            api.code(),
            version,
            flags,
            none,
            correlation,
            message,
            payload_bytes,
        );
        let mut head = Vec::with_capacity(HEADER_BYTES + message.len());
        head.extend_from_slice(&header);
        head.extend_from_slice(message);
        self.push(Bytes::from(head));
        for bytes in payload {
            self.push(bytes);
        }
        let end = self.queued;
        match waiting {
            Some(waiting @ Waiting::Written(_)) => {
                self.leaving.push_back(Pending { waiting, end });
            }
            Some(waiting) => {
                self.pending.insert(correlation, Pending { waiting, end });
            }
            None => {}
        }
        self.waker.take()
    }

    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queued += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            self.outgoing.push_back(bytes);
        }
    }

    /// Moves what is queued behind `writing`.
    pub(super) fn take_outgoing(&mut self, writing: &mut VecDeque<Bytes>) {
        writing.append(&mut self.outgoing);
    }

    /// Bytes have left; one-way requests that have left whole are done.
    pub(super) fn has_written(&mut self, bytes: usize) {
        self.written += u64::try_from(bytes).unwrap_or(u64::MAX);
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
    pub(super) fn received(
        &mut self,
        header: &FrameHeader,
        reply: Reply,
    ) -> Result<(), &'static str> {
        let correlation = header.correlation;
        if header.flags == Flags::PUSH {
            if let Some(pushed) = self.subscriptions.get(&correlation)
                && pushed.try_send(reply).is_err()
            {
                self.subscriptions.remove(&correlation);
            }
            return Ok(());
        }
        if header.flags != Flags::RESPONSE {
            return Err("it sent a frame that is neither a response nor a push");
        }
        match self.pending.remove(&correlation).map(|found| found.waiting) {
            Some(Waiting::Answer { answered, .. }) => {
                let _ = answered.send(Ok(reply));
            }
            Some(Waiting::Subscribed {
                answered, pushed, ..
            }) => {
                if reply.error.is_none() {
                    self.subscriptions.insert(correlation, pushed);
                }
                let _ = answered.send(Ok(reply));
            }
            Some(Waiting::Written(_)) | None => {
                return Err("it answered a request that was not made");
            }
        }
        Ok(())
    }

    /// The next deadline of an answer.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.pending.values().filter_map(Pending::deadline).min()
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

    /// Whether no handle is left and nothing is under way that anybody waits for.
    pub(super) fn is_finished(&self) -> bool {
        self.closing
            && self.written == self.queued
            && self.pending.values().all(Pending::is_abandoned)
    }

    /// The connection has ended: fails everything that is under way, and everything later.
    pub(super) fn end(&mut self, reason: &str) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(reason.to_owned());
        self.outgoing.clear();
        self.subscriptions.clear();
        let written = self.written;
        let pending = std::mem::take(&mut self.pending).into_values();
        for Pending { waiting, end } in pending.chain(std::mem::take(&mut self.leaving)) {
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
    fn fail(self, broken: Broken) {
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

    use super::*;

    fn waiting() -> (Waiting, oneshot::Receiver<Result<Reply, Broken>>) {
        let (answered, answer) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(1);
        (Waiting::Answer { answered, deadline }, answer)
    }

    fn response(correlation: u32) -> FrameHeader {
        let bytes = FrameHeader::encode(
            0,
            0,
            Flags::RESPONSE,
            ErrorCode::NONE,
            CorrelationId(correlation),
            b"",
            0,
        );
        FrameHeader::decode(&bytes, 1 << 20).unwrap()
    }

    fn empty_reply() -> Reply {
        Reply {
            error: ErrorCode::NONE,
            message: Bytes::new(),
            payload: Bytes::new(),
        }
    }

    #[test]
    fn a_request_whose_last_byte_has_not_left_was_not_sent() {
        let mut exchange = Exchange::new();
        let (first, mut first_answer) = waiting();
        let (second, mut second_answer) = waiting();
        let payload = vec![Bytes::from_static(b"payload")];
        exchange.begin(
            ApiKey::Produce,
            Flags::REQUEST,
            b"m",
            payload.clone(),
            Some(first),
        );
        exchange.begin(ApiKey::Produce, Flags::REQUEST, b"m", payload, Some(second));
        let frame = HEADER_BYTES + 1 + 7;
        exchange.has_written(2 * frame - 1);
        exchange.end("reset");
        assert!(first_answer.try_recv().unwrap().unwrap_err().sent);
        assert!(!second_answer.try_recv().unwrap().unwrap_err().sent);
        let (late, mut late_answer) = waiting();
        exchange.begin(
            ApiKey::Produce,
            Flags::REQUEST,
            b"m",
            Vec::new(),
            Some(late),
        );
        assert!(!late_answer.try_recv().unwrap().unwrap_err().sent);
    }

    #[test]
    fn answers_find_their_requests_in_any_order() {
        let mut exchange = Exchange::new();
        let (first, mut first_answer) = waiting();
        let (second, mut second_answer) = waiting();
        exchange.begin(ApiKey::Fetch, Flags::REQUEST, b"", Vec::new(), Some(first));
        exchange.begin(ApiKey::Fetch, Flags::REQUEST, b"", Vec::new(), Some(second));
        exchange.received(&response(1), empty_reply()).unwrap();
        assert!(second_answer.try_recv().is_ok() && first_answer.try_recv().is_err());
        exchange.received(&response(0), empty_reply()).unwrap();
        assert!(first_answer.try_recv().is_ok());
        assert!(exchange.received(&response(0), empty_reply()).is_err());
        assert!(exchange.received(&response(9), empty_reply()).is_err());
    }

    #[test]
    fn a_one_way_request_is_done_when_it_has_left() {
        let mut exchange = Exchange::new();
        let (done, mut left) = oneshot::channel();
        let waiting = Some(Waiting::Written(done));
        exchange.begin(ApiKey::Produce, Flags::ONE_WAY, b"m", Vec::new(), waiting);
        exchange.has_written(HEADER_BYTES);
        assert!(left.try_recv().is_err());
        exchange.has_written(1);
        assert_eq!(left.try_recv().unwrap(), Ok(()));
    }
}

//! The task of a connection.

use std::{
    collections::VecDeque,
    future::{Future as _, poll_fn},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use strandline_client::net::{BusyPoll, TcpStream};
use strandline_core::budget::Pool;
use strandline_protocol::{
    ApiKey,
    frame::FrameError,
    messages::{Peer, Purpose},
};
use tokio::{
    io::AsyncWrite as _,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, Sleep},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    Event, Events,
    outbox::Outbox,
    parked::Parked,
    pressure::{Awaited, LARGE_MESSAGE_BYTES, Look, Pressure},
    receive::{Front, Receive},
    requests::{Waiting, Work},
};
use crate::{
    metrics::{OpenConnection, Refusal},
    server::{
        broker::Broker,
        fetch_session::FetchSessions,
        handlers::{k02_watch_metadata::Watch, k10_fetch::Patience},
        memory::Ticket,
    },
};

/// How much may wait to be written before no more requests are handled, in bytes.
pub(super) const OUTBOX_BYTES_MAX: usize = 8 << 20;

/// After how many bytes of requests answers leave although there is more to handle: small requests
/// share a write, and whoever sends large ones hears of the first while the next is on its way.
const ANSWER_AFTER_BYTES: usize = 128 << 10;

/// How long a new connection may take to say `Hello`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How many frames are handled in one poll before others on this thread get their turn.
const FRAMES_PER_POLL: usize = 32;

/// A connection of a client.
pub struct Connection {
    pub(super) broker: Arc<Broker>,
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// The broker that has connected; none if it is a client.
    pub(super) peer_broker: Option<Peer>,
    pub(super) number: u64,
    pub(super) phase: Phase,
    pub(super) receive: Receive,
    pub(super) outbox: Outbox,
    pub(super) parked: Parked<Waiting>,
    pub(super) events: UnboundedReceiver<Event>,
    pub(super) own_events: Events,
    /// Bytes of requests that were handled since answers were last written.
    handled_bytes: usize,
    pub(super) memory: Option<Ticket>,
    pub(super) pressure: Pressure,
    /// Bytes that have ever arrived.
    read_bytes: u64,
    /// When a large message may be handled that has to wait for its turn.
    turn: Option<Instant>,
    pub(super) watch: Option<Watch>,
    /// The session of a follower that fetches.
    pub(super) sessions: Arc<FetchSessions>,
    /// Answers that are not written yet: where they end, and when they were queued.
    pub(super) unsent: VecDeque<(u64, Instant, ApiKey)>,
    timer: Pin<Box<Sleep>>,
    busy: BusyPoll,
    /// When a byte last moved in, and when one last moved out while some waited.
    pub(super) last_read: Instant,
    pub(super) last_write: Instant,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    _open: OpenConnection,
}

/// How far the connection has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nobody has said `Hello` yet.
    New,
    /// It serves the client of that name.
    Open(String),
    /// Nothing is read any more; what was asked before is answered.
    Draining,
}

/// Why a connection ended.
#[derive(Debug)]
enum End {
    /// The peer closed it, or everything was answered after the broker began to stop.
    Closed,
    /// The socket failed.
    Socket(std::io::Error),
    /// What arrived is not our protocol.
    Protocol(FrameError),
    /// Nothing arrived for too long.
    Idle,
    /// The peer does not read.
    Slow,
    /// It holds memory that others wait for, and nothing moves.
    Stalled,
}

/// What a step has achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Some,
    None,
}

impl Connection {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(
        broker: Arc<Broker>,
        stream: TcpStream,
        peer: SocketAddr,
        number: u64,
        open: OpenConnection,
    ) -> Self {
        let (own_events, events) = unbounded_channel();
        let now = Instant::now();
        Self {
            receive: Receive::new(broker.limits.frame_bytes_max),
            pressure: Pressure::new(&broker.memory),
            read_bytes: 0,
            turn: None,
            stopping: Box::pin(broker.stopping.clone().cancelled_owned()),
            broker,
            stream,
            peer,
            peer_broker: None,
            number,
            phase: Phase::New,
            outbox: Outbox::default(),
            parked: Parked::default(),
            events,
            own_events,
            handled_bytes: 0,
            memory: None,
            watch: None,
            sessions: Arc::default(),
            unsent: VecDeque::new(),
            timer: Box::pin(tokio::time::sleep_until(now + HELLO_TIMEOUT)),
            busy: BusyPoll::default(),
            last_read: now,
            last_write: now,
            _open: open,
        }
    }

    /// Serves the connection until it ends.
    pub async fn run(mut self) {
        let end = poll_fn(|context| self.poll(context)).await;
        let (peer, native) = (self.peer, &self.broker.metrics.native);
        let client = match &self.phase {
            Phase::Open(client) => client.as_str(),
            _ => "",
        };
        match end {
            End::Closed => tracing::debug!(%peer, client, "connection closed"),
            End::Socket(error) => tracing::debug!(%peer, client, "connection lost: {error}"),
            End::Protocol(error) => {
                native.refused(Refusal::Protocol);
                tracing::warn!(%peer, client, "connection closed: {error}");
            }
            End::Idle => {
                native.refused(Refusal::Idle);
                tracing::debug!(%peer, client, "connection closed: nothing arrived for too long");
            }
            End::Slow => {
                native.refused(Refusal::Slow);
                tracing::warn!(%peer, client, "connection closed: the peer does not read");
            }
            End::Stalled => {
                native.refused(Refusal::Slow);
                tracing::warn!(
                    %peer, client,
                    "connection closed: it held memory that others waited for, and did not go on"
                );
            }
        }
        self.let_go();
    }

    /// Takes what is parked out of every list.
    fn let_go(&mut self) {
        self.broker.watchers.remove(self.number);
        for waiting in self.parked.drain() {
            if let Work::Fetch(mut fetch) = waiting.work {
                fetch.cancel(&self.broker);
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        match self.poll_steps(context) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    /// Does all that can be done now; the waker is registered for everything else.
    fn poll_steps(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        self.poll_stop(context);
        for _ in 0..FRAMES_PER_POLL {
            // Answers are gathered while there is something to handle, and leave together.
            if self.poll_events(context) == Progress::Some
                || self.poll_requests(context)? == Progress::Some
            {
                if self.handled_bytes >= ANSWER_AFTER_BYTES {
                    self.handled_bytes = 0;
                    self.poll_write(context)?;
                }
                continue;
            }
            self.handled_bytes = 0;
            if self.poll_write(context)? == Progress::Some {
                continue;
            }
            if self.is_done() {
                let _ = Pin::new(&mut self.stream).poll_shutdown(context);
                return Err(End::Closed);
            }
            if self.poll_timer(context)? == Progress::None {
                if self.parked.is_empty() && self.outbox.queued_bytes() == 0 {
                    self.busy.rest(context);
                } else {
                    self.busy.sleep();
                }
                return Ok(());
            }
        }
        self.poll_write(context)?;
        context.waker().wake_by_ref();
        Ok(())
    }

    /// Whether everything that was asked is answered, and nothing more will be read.
    fn is_done(&self) -> bool {
        self.phase == Phase::Draining && self.parked.is_empty() && self.outbox.queued_bytes() == 0
    }

    fn poll_stop(&mut self, context: &mut Context<'_>) {
        if self.phase != Phase::Draining && self.stopping.as_mut().poll(context).is_ready() {
            self.drain();
        }
    }

    /// Reads nothing more, and answers fetches with what there is.
    fn drain(&mut self) {
        self.phase = Phase::Draining;
        self.memory = None;
        self.turn = None;
        self.answer_fetches();
    }

    /// Answers fetches that wait for data with what there is.
    fn answer_fetches(&mut self) -> Progress {
        let mut progress = Progress::None;
        for slot in self.parked.slots() {
            let waits_for_data = matches!(
                self.parked.get_mut(slot),
                Some(Waiting {
                    work: Work::Fetch(_) | Work::ReplicaFetch(_),
                    ..
                })
            );
            if waits_for_data {
                self.look_again(slot, Patience::Over);
                progress = Progress::Some;
            }
        }
        progress
    }

    fn poll_events(&mut self, context: &mut Context<'_>) -> Progress {
        let mut progress = Progress::None;
        while let Poll::Ready(Some(event)) = self.events.poll_recv(context) {
            progress = Progress::Some;
            match event {
                Event::Acknowledged {
                    slot,
                    index,
                    failure,
                } => {
                    let done = match self.parked.get_mut(slot) {
                        Some(Waiting {
                            work: Work::Produce(produce),
                            ..
                        }) => produce.acknowledged(index, failure),
                        _ => false,
                    };
                    if done {
                        self.finish_produce(slot, "");
                    }
                }
                Event::Ready { slot } => self.look_again(slot, Patience::Left),
                Event::Answer { slot, reply } => {
                    if let Some(waiting) = self.parked.take(slot) {
                        self.pressure.unparked(waiting.origin.message_bytes);
                        self.answer(waiting.origin, reply, Some(waiting.since));
                    }
                }
                Event::MetadataChanged => self.push_metadata(),
            }
        }
        progress
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) -> Result<Progress, End> {
        let mut progress = Progress::None;
        let now = Instant::now();
        while let Some(slot) = self.parked.expired(now) {
            progress = Progress::Some;
            match self.parked.get_mut(slot).map(|waiting| &waiting.work) {
                Some(Work::Fetch(_) | Work::ReplicaFetch(_)) => {
                    self.look_again(slot, Patience::Over)
                }
                _ => self.finish_produce(slot, "within the time that the request allows"),
            }
        }
        if now >= self.write_deadline() {
            return Err(End::Slow);
        }
        if now >= self.idle_deadline() {
            return Err(End::Idle);
        }
        if self.turn.is_some_and(|turn| turn <= now) {
            self.turn = None;
            progress = Progress::Some;
        }
        let let_go = self.look_at_pressure(now)?;
        if let_go == Progress::Some {
            progress = Progress::Some;
        }
        let next = self
            .parked
            .next_deadline()
            .into_iter()
            .chain(self.pressure.next_look())
            .chain(self.turn)
            .chain([self.write_deadline(), self.idle_deadline()])
            .min();
        if let Some(next) = next {
            // Moving a timer costs a lock: only do it when it would ring too late, or has rung.
            if next < self.timer.deadline() || self.timer.is_elapsed() {
                self.timer.as_mut().reset(next);
            }
            if self.timer.as_mut().poll(context).is_ready() {
                return Ok(Progress::Some);
            }
        }
        Ok(progress)
    }

    /// Lets go what others wait for.
    fn look_at_pressure(&mut self, now: Instant) -> Result<Progress, End> {
        if self.is_replica() || !self.receive.holds_shared() && !self.pressure.holds_much() {
            self.pressure.at_ease();
            return Ok(Progress::None);
        }
        let moved = self.read_bytes.saturating_add(self.outbox.written());
        let awaited = if self.memory.is_some() || self.turn.is_some() {
            Awaited::Share
        } else if self.outbox.queued_bytes() == 0 && !self.parked.is_empty() {
            Awaited::Work
        } else {
            Awaited::Peer
        };
        match self.pressure.look(now, moved, awaited) {
            Look::Fine => Ok(Progress::None),
            Look::Stalled => Err(End::Stalled),
            Look::Scarce => Ok(self.answer_fetches()),
        }
    }

    fn write_deadline(&self) -> Instant {
        if self.outbox.queued_bytes() == 0 {
            return far_away(self.last_write);
        }
        self.last_write + self.broker.limits.write_timeout
    }

    fn idle_deadline(&mut self) -> Instant {
        let has_room = self.has_room();
        match self.phase {
            Phase::New => self.last_read + HELLO_TIMEOUT.min(self.broker.limits.idle_timeout),
            // Half a frame holds memory that others wait for: it has to go on.
            Phase::Open(_) if has_room && self.memory.is_none() && !self.receive.is_empty() => {
                self.last_read + self.broker.limits.write_timeout
            }
            Phase::Open(_) if self.parked.is_empty() => {
                self.last_read + self.broker.limits.idle_timeout
            }
            Phase::Open(_) | Phase::Draining => far_away(self.last_read),
        }
    }

    /// Whether one more request may be handled.
    fn has_room(&mut self) -> bool {
        self.parked.len() < self.broker.limits.requests_in_flight_max
            && self.outbox.queued_bytes() < OUTBOX_BYTES_MAX
            && (self.pressure.may_hold_more(self.outbox.memory_bytes()) || self.is_replica())
    }

    /// Whether a follower fetches over it: what clients hold must not hold that up.
    fn is_replica(&self) -> bool {
        let peer = self.peer_broker.as_ref();
        peer.is_some_and(|peer| peer.purpose == Purpose::Replication)
    }

    /// Handles what has arrived, and reads more.
    fn poll_requests(&mut self, context: &mut Context<'_>) -> Result<Progress, End> {
        if self.phase == Phase::Draining || !self.has_room() {
            return Ok(Progress::None);
        }
        match self.receive.front().map_err(End::Protocol)? {
            Front::Frame(header) => {
                let is_large = header.message_bytes > LARGE_MESSAGE_BYTES;
                if is_large && !self.is_replica() && !self.takes_turn() {
                    return Ok(Progress::None);
                }
                self.request(&header);
                self.handled_bytes = self.handled_bytes.saturating_add(header.body_bytes);
                self.receive.consume();
                Ok(Progress::Some)
            }
            Front::TooSmall { header, bytes } => {
                let pool = if header.api_key == ApiKey::Produce.code() {
                    Pool::Client
                } else if self.is_replica() {
                    Pool::Replication
                } else {
                    Pool::Control
                };
                let memory = &self.broker.memory;
                let whole = Receive::reservation_for(bytes);
                let (bytes, wanted) = if memory.has_plenty(pool, whole) {
                    (bytes, whole)
                } else {
                    let step = self.receive.next_step(bytes);
                    (step, Receive::reservation_for_step(step))
                };
                let ticket = &mut self.memory;
                let reserved = if self.receive.holds_shared() {
                    memory.poll_reserve_more(pool, wanted, ticket, context)
                } else {
                    memory.poll_reserve(pool, wanted, ticket, context)
                };
                match reserved {
                    Poll::Ready(reservation) => {
                        let bytes = if reservation.is_beyond() {
                            whole
                        } else {
                            bytes
                        };
                        self.receive.grow(&self.broker.buffers, bytes, reservation);
                        Ok(Progress::Some)
                    }
                    Poll::Pending => Ok(Progress::None),
                }
            }
            Front::Incomplete => match self.receive.poll_fill(&mut self.stream, context) {
                Poll::Ready(Ok(0)) => {
                    // Half-closed: what was asked is answered all the same.
                    self.drain();
                    Ok(Progress::Some)
                }
                Poll::Ready(Ok(count)) => {
                    self.busy.arrived(count);
                    self.last_read = Instant::now();
                    let count = u64::try_from(count).unwrap_or(u64::MAX);
                    self.read_bytes = self.read_bytes.saturating_add(count);
                    Ok(Progress::Some)
                }
                Poll::Ready(Err(error)) => Err(End::Socket(error)),
                Poll::Pending => {
                    self.receive.rest(&self.broker.buffers);
                    Ok(Progress::None)
                }
            },
        }
    }

    /// Whether a large message is handled now; otherwise the timer rings when it may be.
    fn takes_turn(&mut self) -> bool {
        let taken = self.broker.turns.take(Instant::now());
        self.turn = taken.err();
        taken.is_ok()
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<Progress, End> {
        if self.outbox.queued_bytes() == 0 {
            return Ok(Progress::None);
        }
        match self.outbox.poll_write(&mut self.stream, context) {
            Poll::Ready(Ok(0)) => Err(End::Socket(std::io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(_)) => {
                let now = Instant::now();
                self.last_write = now;
                while let Some((end, queued, api)) = self.unsent.front()
                    && *end <= self.outbox.written()
                {
                    let send = &self.broker.metrics.api(*api).send;
                    send.record(now.duration_since(*queued));
                    self.unsent.pop_front();
                }
                Ok(Progress::Some)
            }
            Poll::Ready(Err(error)) => Err(End::Socket(error)),
            Poll::Pending => Ok(Progress::None),
        }
    }
}

/// A deadline that does not matter.
fn far_away(from: Instant) -> Instant {
    from + Duration::from_secs(30 * 24 * 3_600)
}

//! The session of a follower that fetches over one connection.
//!
//! *Patterns: request batch, versioned value.* The follower names a partition when its position has
//! changed; what was answered with records, a divergence or a failure is not looked at again before
//! it does. A partition that failed is forgotten.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use metrics::Gauge;
use parking_lot::Mutex;
use strandline_client::net::random;
use strandline_core::replica::{FollowerFetch, Marks};
use strandline_protocol::{
    ApiKey, ErrorCode, Offset, TopicPartition,
    messages::{Failure, FetchSession, ReplicaFetchedPartition},
};
use strandline_storage::log::Fetched;
use tokio::time::Instant;

use super::{broker::Broker, handlers::cold::ColdRead};
use crate::metrics::ReplicationMetrics;
use crate::partition::{Feed, FetchToken, Look, Partition, ReplicaReadFailure};

/// How long after an answer a high watermark waits for records to go with.
const LINGER: Duration = Duration::from_millis(5);

/// How many segments a fetch reads of one partition at most.
const PIECES_PER_PARTITION: usize = 8;

/// The session of a connection, if it has one.
#[derive(Default)]
pub struct FetchSessions {
    current: Mutex<Option<Session>>,
}

struct Session {
    id: u64,
    _open: OpenSession,
    /// The number of its last request.
    number: u32,
    feed: Arc<Feed>,
    partitions: BTreeMap<TopicPartition, Entry>,
    /// When it was told something last.
    answered: Instant,
    /// When the last answers but one, and the last one, were given.
    answers: [Option<Instant>; 2],
    /// Which partition was the last that was answered with records.
    served: Option<TopicPartition>,
}

/// A session counts for as long as this is held.
struct OpenSession {
    open: Gauge,
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.open.decrement(1.0);
    }
}

/// A partition as the follower has named it last.
#[derive(Debug)]
struct Entry {
    fetch: FollowerFetch,
    bytes_max: usize,
    answer: Answer,
    /// The high watermark and the log start that the follower was told of last.
    told: Option<(Offset, Offset)>,
}

/// Whether the follower was answered since it named the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The partition has not heard yet where the follower stands.
    DueFirst,
    /// It has, and there was nothing to read.
    Due,
    Given,
}

/// What became of one partition at a look.
enum Looked {
    /// There is nothing new.
    Nothing,
    /// It is in the answer.
    Told,
    /// It is not in memory.
    Cold,
    /// Its next batch does not fit into what is left of the answer.
    NoRoom,
    /// It is in the answer as a failure.
    Failed,
}

/// A partition that a request names.
#[derive(Debug)]
pub struct Named {
    /// Which one.
    pub id: TopicPartition,
    /// Where the follower stands.
    pub fetch: FollowerFetch,
    /// How much of it at most, in bytes.
    pub bytes_max: usize,
}

/// What a look has found.
#[derive(Debug, Default)]
pub struct Gathered {
    /// What there is to tell.
    pub partitions: Vec<ReplicaFetchedPartition>,
    /// The records.
    pub payload: Vec<Bytes>,
    /// What is not in memory, and not in the answer.
    pub cold: Vec<ColdRead>,
    bytes: usize,
}

impl fmt::Debug for FetchSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchSessions").finish_non_exhaustive()
    }
}

impl FetchSessions {
    /// Takes in what a request says, which opens the session if it names none. Wakes the request
    /// before it, if that waits.
    ///
    /// # Errors
    /// `FETCH_SESSION_ID_NOT_FOUND` and `INVALID_FETCH_SESSION_EPOCH`: open a new one.
    pub fn next(
        &self,
        metrics: &ReplicationMetrics,
        wanted: FetchSession,
        named: impl Iterator<Item = Named>,
        forgotten: impl Iterator<Item = TopicPartition>,
    ) -> Result<FetchSession, Failure> {
        let mut current = self.current.lock();
        if wanted.id == 0 {
            let before = current.replace(Session::open(metrics));
            if let Some(before) = before {
                before.feed.wake();
            }
        }
        let session = current
            .as_mut()
            .filter(|session| wanted.id == 0 || session.id == wanted.id)
            .ok_or_else(|| {
                let message = "the session is not known on this connection: open a new one";
                Failure::new(ErrorCode::FETCH_SESSION_ID_NOT_FOUND, message)
            })?;
        if wanted.id != 0 {
            let expected = session.number.wrapping_add(1);
            if wanted.number != expected {
                let number = wanted.number;
                return Err(Failure::new(
                    ErrorCode::INVALID_FETCH_SESSION_EPOCH,
                    format!("request {number} came in place of {expected}: open a new session"),
                ));
            }
            session.number = expected;
            // Two requests are under way at most: this one was sent behind the last answer but one.
            if let Some(at) = session.answers[0] {
                session.feed.followed(at);
            }
            session.feed.wake();
        }
        session.take_in(named, forgotten);
        Ok(FetchSession {
            id: session.id,
            number: session.number,
        })
    }

    /// Looks at what the follower has named and at what has news. None if the request is not the
    /// last one of its session.
    pub fn look(
        &self,
        broker: &Broker,
        id: u64,
        number: u32,
        bytes_max: usize,
        look: Look,
    ) -> Option<Gathered> {
        let mut current = self.current.lock();
        let session = current.as_mut()?;
        if session.id != id || session.number != number {
            return None;
        }
        session.feed.unpark();
        Some(session.look(broker, bytes_max, look))
    }

    /// A request of the session is answered now.
    pub fn answered(&self, id: u64) {
        let mut current = self.current.lock();
        if let Some(session) = current.as_mut().filter(|session| session.id == id) {
            session.answers = [session.answers[1], Some(Instant::now())];
        }
    }

    /// While there are only news that have time, and the session was answered just now: until when
    /// they wait for something to go with. The request is woken by that.
    #[must_use]
    pub fn linger(&self, id: u64, number: u32, token: FetchToken) -> Option<Instant> {
        let current = self.current.lock();
        let session = current.as_ref()?;
        if session.id != id || session.number != number {
            return None;
        }
        let until = session.answered + LINGER;
        (Instant::now() < until && session.feed.linger(token)).then_some(until)
    }

    /// Has the request woken by the next news; returns false if there are some already.
    #[must_use]
    pub fn park(&self, token: FetchToken) -> bool {
        let current = self.current.lock();
        let Some(session) = &*current else {
            return false;
        };
        session.feed.park(token)
    }
}

impl Session {
    fn open(metrics: &ReplicationMetrics) -> Self {
        let open = metrics.sessions.clone();
        open.increment(1.0);
        Self {
            id: random().max(1),
            _open: OpenSession { open },
            number: 0,
            feed: Arc::default(),
            partitions: BTreeMap::new(),
            answered: Instant::now(),
            answers: [None; 2],
            served: None,
        }
    }

    fn take_in(
        &mut self,
        named: impl Iterator<Item = Named>,
        forgotten: impl Iterator<Item = TopicPartition>,
    ) {
        for id in forgotten {
            self.partitions.remove(&id);
            self.feed.forgets(id);
        }
        let mut ids = Vec::new();
        for Named {
            id,
            fetch,
            bytes_max,
        } in named
        {
            let before = self.partitions.get(&id);
            if before.is_none() {
                self.feed.names(id);
            }
            // What else was told may be under way still, and is out of date when it arrives.
            let has_arrived = |before: &&Entry| {
                before.answer == Answer::Given && before.fetch.leader_epoch == fetch.leader_epoch
            };
            let told = before.filter(has_arrived).and_then(|it| it.told);
            let entry = Entry {
                fetch,
                bytes_max,
                answer: Answer::DueFirst,
                told,
            };
            self.partitions.insert(id, entry);
            ids.push(id);
        }
        if !ids.is_empty() {
            self.feed.put_back(ids);
        }
    }

    fn look(&mut self, broker: &Broker, bytes_max: usize, look: Look) -> Gathered {
        let mut gathered = Gathered::default();
        let mut later = Vec::new();
        for id in self.feed.take(self.served) {
            let Some(entry) = self.partitions.get_mut(&id) else {
                continue;
            };
            if entry.answer == Answer::Given {
                // Until the follower says where it stands now.
                continue;
            }
            let left = bytes_max.saturating_sub(gathered.bytes);
            if left == 0 {
                later.push(id);
                continue;
            }
            let bytes = gathered.bytes;
            let looked = match broker.partitions.get(id) {
                Ok(partition) => {
                    gathered.partition(broker, &partition, entry, &self.feed, left, look)
                }
                Err(failure) => gathered.failed(broker, id, failure, None),
            };
            match looked {
                Looked::Told if gathered.bytes > bytes => self.served = Some(id),
                Looked::Told | Looked::Nothing => {}
                Looked::Cold | Looked::NoRoom => later.push(id),
                Looked::Failed => {
                    self.partitions.remove(&id);
                    self.feed.forgets(id);
                }
            }
        }
        if !later.is_empty() {
            self.feed.put_back(later);
        }
        if !gathered.partitions.is_empty() {
            self.answered = Instant::now();
        }
        let bytes = u64::try_from(gathered.bytes).unwrap_or(u64::MAX);
        broker.metrics.replication.bytes_out.increment(bytes);
        gathered
    }
}

impl Gathered {
    fn partition(
        &mut self,
        broker: &Broker,
        partition: &Arc<Partition>,
        entry: &mut Entry,
        feed: &Arc<Feed>,
        left: usize,
        look: Look,
    ) -> Looked {
        let id = partition.id();
        let bytes_max = entry.bytes_max.min(left);
        let read = if entry.answer == Answer::DueFirst {
            partition.serve_follower(&entry.fetch, feed, bytes_max, look)
        } else {
            partition.serve_again(&entry.fetch, bytes_max, look)
        };
        let read = match read {
            Ok(Ok(read)) => read,
            Ok(Err(range)) => {
                entry.answer = Answer::Due;
                self.cold.push(ColdRead {
                    range,
                    partition: Arc::clone(partition),
                    offset: entry.fetch.fetch_offset,
                    bytes_max,
                });
                return Looked::Cold;
            }
            Err(ReplicaReadFailure { failure, marks }) => {
                return self.failed(broker, id, failure, marks);
            }
        };
        let (marks, gap) = (read.marks, read.gap);
        let next_bytes = read.fetched.as_ref().map_or(0, |first| first.bytes.len());
        if !self.has_room(next_bytes, bytes_max) {
            entry.answer = Answer::Due;
            return Looked::NoRoom;
        }
        let bytes = match read.fetched {
            Some(first) => match self.take(partition, first, bytes_max, look) {
                Ok(bytes) => bytes,
                Err(failure) => return self.failed(broker, id, failure, Some(marks)),
            },
            None => 0,
        };
        let told = Some((marks.high_watermark, marks.log_start));
        if bytes == 0 && read.diverging.is_none() && entry.told == told {
            entry.answer = Answer::Due;
            return Looked::Nothing;
        }
        // Who has to cut its log first takes nothing else over.
        entry.told = told.filter(|_| read.diverging.is_none());
        entry.answer = if bytes == 0 && read.diverging.is_none() {
            Answer::Due
        } else {
            Answer::Given
        };
        let mut answer = answer_of(id, Some(marks));
        answer.diverging = read.diverging;
        answer.bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        answer.gap = gap.filter(|_| bytes > 0);
        self.partitions.push(answer);
        Looked::Told
    }

    /// Checks what was read, and reads on; returns how many bytes there are.
    ///
    /// # Errors
    /// If the first batch is damaged.
    fn take(
        &mut self,
        partition: &Partition,
        first: Fetched,
        bytes_max: usize,
        look: Look,
    ) -> Result<usize, Failure> {
        let (mut taken, mut next) = (0_usize, Some(first));
        for _ in 0..PIECES_PER_PARTITION {
            let Some(fetched) = next else {
                break;
            };
            let bytes = fetched.bytes.len();
            if bytes == 0 || !self.has_room(bytes, bytes_max.saturating_sub(taken)) {
                break;
            }
            if let Err(error) = fetched.check() {
                // What is good goes out first; who reads on from there meets the damage.
                if taken > 0 {
                    break;
                }
                match partition.good_part(&fetched, &error) {
                    Some(good) => {
                        taken = good.bytes.len();
                        self.payload.push(good.bytes);
                        self.bytes = self.bytes.saturating_add(taken);
                        break;
                    }
                    None => return Err(partition.read_error(error).failure),
                }
            }
            let end = fetched.end_offset;
            self.payload.push(fetched.bytes);
            self.bytes = self.bytes.saturating_add(bytes);
            taken = taken.saturating_add(bytes);
            if taken >= bytes_max / 2 {
                break;
            }
            next = partition
                .serve_on(end, bytes_max.saturating_sub(taken), look)
                .ok()
                .flatten();
        }
        Ok(taken)
    }

    /// The first batch of an answer comes whole, whatever its size; no other one may exceed `left`.
    const fn has_room(&self, bytes: usize, left: usize) -> bool {
        self.bytes == 0 || bytes <= left
    }

    fn failed(
        &mut self,
        broker: &Broker,
        id: TopicPartition,
        failure: Failure,
        marks: Option<Marks>,
    ) -> Looked {
        broker.metrics.error(ApiKey::ReplicaFetch, failure.error);
        let mut answer = answer_of(id, marks);
        answer.failure = failure;
        self.partitions.push(answer);
        Looked::Failed
    }
}

fn answer_of(id: TopicPartition, marks: Option<Marks>) -> ReplicaFetchedPartition {
    let unknown = Offset(-1);
    ReplicaFetchedPartition {
        topic_id: id.topic,
        partition: id.partition,
        failure: Failure::none(),
        diverging: None,
        log_start_offset: marks.map_or(unknown, |marks| marks.log_start),
        log_end_offset: marks.map_or(unknown, |marks| marks.log_end),
        high_watermark: marks.map_or(unknown, |marks| marks.high_watermark),
        bytes: 0,
        gap: None,
    }
}

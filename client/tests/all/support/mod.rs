//! A cluster of fake brokers in this process, whose requests a test can intercept: real sockets and
//! frames, logs in memory, and the rules of idempotent producers.

mod handlers;
mod log;
pub mod records;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use log::FakeLog;
use parking_lot::Mutex;
use strandline_client::{
    Client, ClientOptions,
    protocol::{
        ApiKey, BrokerId, ClusterId, ErrorCode, LeaderEpoch, Offset, PartitionId, TopicId,
        channel::{Frame, FrameDecoder, FrameKind, put_frame},
        frame::Flags,
        messages::{ErrorMessage, MetadataPush},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    task::AbortHandle,
};

/// What a test does to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intercept {
    /// Served as usual.
    Serve,
    /// Not served; answered with this code, entry by entry where the API has entries.
    Refuse(ErrorCode),
    /// Served, and then answered with this code all the same.
    ServeAndRefuse(ErrorCode),
    /// Served; the connection breaks instead of the answer.
    LoseAnswer,
    /// Not served; the connection breaks.
    Break,
    /// Served, never answered; the connection stays.
    Swallow,
}

/// A request as an interceptor sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub broker: i32,
    pub api: ApiKey,
    /// How many requests of this API came before, over all brokers.
    pub count: usize,
}

type Interceptor = Box<dyn Fn(&Seen) -> Intercept + Send + Sync>;

pub struct FakeTopic {
    pub id: TopicId,
    pub logs: Vec<FakeLog>,
    pub leaders: Vec<(i32, i32)>,
    /// Who keeps each partition: whoever led it last.
    pub keepers: Vec<i32>,
    /// Brokers that keep every partition in sync beside its leader, as fast as light.
    pub followers: Vec<i32>,
    pub batch_bytes_max: u32,
    pub compression: String,
}

pub struct State {
    pub topics: BTreeMap<String, FakeTopic>,
    pub addresses: Vec<String>,
    pub version: i64,
    pub next_producer: i64,
    pub epochs: BTreeMap<i64, i16>,
    pub seen: Vec<Seen>,
    /// Where brokers run.
    pub racks: BTreeMap<i32, String>,
    /// Brokers that read nothing from their sockets, as if they were stopped.
    pub paused: BTreeSet<i32>,
    /// How often each broker has served records to consumers.
    pub served: BTreeMap<i32, usize>,
    /// The broker that belongs to another cluster, if one does.
    pub foreign: Option<i32>,
    counts: BTreeMap<u16, usize>,
    interceptor: Interceptor,
    watchers: Vec<Watcher>,
}

/// A broker, and where it pushes.
type Watcher = (i32, FrameKind, mpsc::UnboundedSender<Bytes>);

/// Brokers that share one state.
#[derive(Clone)]
pub struct FakeCluster {
    pub state: Arc<Mutex<State>>,
    tasks: Arc<Mutex<Vec<(i32, AbortHandle)>>>,
    /// Sockets that are open.
    pub connections: Arc<AtomicUsize>,
    _kept: Arc<Vec<TcpSocket>>,
}

/// A socket that keeps an address, where nobody listens until a test does so with `SO_REUSEADDR`:
/// it is bound and never listens, and the system gives its port to nobody else.
pub fn keep_an_address() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    socket
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FakeCluster {
    pub async fn start(brokers: usize) -> Self {
        let kept: Vec<TcpSocket> = (0..brokers).map(|_| keep_an_address()).collect();
        let address = |socket: &TcpSocket| socket.local_addr().unwrap().to_string();
        let cluster = Self {
            state: Arc::new(Mutex::new(State {
                topics: BTreeMap::new(),
                addresses: kept.iter().map(address).collect(),
                version: 1,
                next_producer: 1_000,
                epochs: BTreeMap::new(),
                seen: Vec::new(),
                racks: BTreeMap::new(),
                paused: BTreeSet::new(),
                served: BTreeMap::new(),
                foreign: None,
                counts: BTreeMap::new(),
                interceptor: Box::new(|_| Intercept::Serve),
                watchers: Vec::new(),
            })),
            tasks: Arc::default(),
            connections: Arc::default(),
            _kept: Arc::new(kept),
        };
        cluster.restart().await;
        cluster
    }

    fn listen(&self, broker: i32, listener: TcpListener) {
        let cluster = self.clone();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let serving = cluster.clone();
                serving.connections.fetch_add(1, Ordering::Relaxed);
                let open = Open(Arc::clone(&serving.connections));
                let task = tokio::spawn(async move {
                    serving.serve(broker, socket).await;
                    drop(open);
                });
                cluster.tasks.lock().push((broker, task.abort_handle()));
            }
        });
        self.tasks.lock().push((broker, task.abort_handle()));
    }

    /// Stops every broker: sockets close, and nobody listens.
    pub fn stop(&self) {
        for (_, task) in self.tasks.lock().drain(..) {
            task.abort();
        }
    }

    /// Stops one broker, as [`FakeCluster::stop`] does all.
    pub fn stop_broker(&self, broker: i32) {
        let mut tasks = self.tasks.lock();
        for (_, task) in tasks.iter().filter(|(of, _)| *of == broker) {
            task.abort();
        }
        tasks.retain(|(of, _)| *of != broker);
    }

    /// Listens again where it listened before.
    pub async fn restart(&self) {
        let addresses = self.state.lock().addresses.clone();
        for (id, address) in addresses.iter().enumerate() {
            let listener = loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            self.listen(i32::try_from(id).unwrap(), listener);
        }
    }

    /// What to do with the requests from now on.
    pub fn intercept(&self, interceptor: impl Fn(&Seen) -> Intercept + Send + Sync + 'static) {
        let mut state = self.state.lock();
        state.counts.clear();
        state.interceptor = Box::new(interceptor);
    }

    pub fn create_topic(&self, name: &str, partitions: usize) {
        let mut state = self.state.lock();
        state.version += 1;
        let id = TopicId([u8::try_from(state.version).unwrap(); 16]);
        let topic = FakeTopic {
            id,
            logs: (0..partitions).map(|_| FakeLog::default()).collect(),
            leaders: vec![(0, 0); partitions],
            keepers: vec![0; partitions],
            followers: Vec::new(),
            batch_bytes_max: 1 << 20,
            compression: "producer".to_owned(),
        };
        state.topics.insert(name.to_owned(), topic);
    }

    /// Another broker leads, or none (-1); watchers are told.
    pub fn move_leader(&self, topic: &str, partition: usize, broker: i32) {
        let mut state = self.state.lock();
        state.version += 1;
        let moved = state.topics.get_mut(topic).unwrap();
        let leader = &mut moved.leaders[partition];
        *leader = (broker, leader.1 + 1);
        if broker >= 0 {
            moved.keepers[partition] = broker;
        }
        state.push(topic);
    }

    /// Copies of every partition lie on these brokers too.
    pub fn replicate(&self, topic: &str, followers: &[i32]) {
        let mut state = self.state.lock();
        state.version += 1;
        state.topics.get_mut(topic).unwrap().followers = followers.to_vec();
        state.push(topic);
    }

    /// A broker stops as by a signal: connections stay, nothing comes back.
    pub fn pause(&self, broker: i32) {
        self.state.lock().paused.insert(broker);
    }

    /// It goes on.
    pub fn go_on(&self, broker: i32) {
        self.state.lock().paused.remove(&broker);
    }

    async fn while_paused(&self, broker: i32) {
        while self.state.lock().paused.contains(&broker) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The values in one partition, in order.
    pub fn values(&self, topic: &str, partition: usize) -> Vec<String> {
        self.state.lock().topics[topic].logs[partition].values()
    }

    pub fn count(&self, api: ApiKey) -> usize {
        let state = self.state.lock();
        state.counts.get(&api.code()).copied().unwrap_or(0)
    }

    pub async fn client(&self) -> Client {
        self.client_with(ClientOptions {
            backoff_min: Duration::from_millis(1),
            backoff_max: Duration::from_millis(20),
            ..ClientOptions::default()
        })
        .await
    }

    pub async fn client_with(&self, options: ClientOptions) -> Client {
        let addresses = self.state.lock().addresses.clone();
        Client::connect(&addresses[..1], options).await.unwrap()
    }

    async fn serve(self, broker: i32, socket: TcpStream) {
        let (mut reading, mut writing) = socket.into_split();
        let (answers, mut queue) = mpsc::unbounded_channel::<Bytes>();
        let writer = tokio::spawn(async move {
            while let Some(bytes) = queue.recv().await {
                if bytes.is_empty() || writing.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        self.tasks.lock().push((broker, writer.abort_handle()));
        let mut decoder = FrameDecoder::new(64 << 20);
        let mut buffer = BytesMut::new();
        loop {
            while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                self.while_paused(broker).await;
                if !self.handle(broker, frame, &answers).await {
                    // An empty chunk ends the writer.
                    let _ = answers.send(Bytes::new());
                    return;
                }
            }
            match reading.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// Handles one request; returns false to break the connection.
    async fn handle(
        &self,
        broker: i32,
        frame: Frame,
        answers: &mpsc::UnboundedSender<Bytes>,
    ) -> bool {
        let api = ApiKey::row(frame.header.api_key).unwrap().key;
        let intercept = {
            let mut state = self.state.lock();
            let count = state.counts.entry(api.code()).or_default();
            let seen = Seen {
                broker,
                api,
                count: *count,
            };
            *count += 1;
            state.seen.push(seen.clone());
            (state.interceptor)(&seen)
        };
        if intercept == Intercept::Break {
            return false;
        }
        let refused = match intercept {
            Intercept::Refuse(code) => Some(code),
            Intercept::ServeAndRefuse(code) => {
                handlers::answer(self, broker, api, &frame, None).await;
                Some(code)
            }
            _ => None,
        };
        if api == ApiKey::WatchMetadata {
            let kind = FrameKind::push(&frame.header);
            let watcher = (broker, kind, answers.clone());
            self.state.lock().watchers.push(watcher);
        }
        let one_way = frame.header.flags == Flags::ONE_WAY;
        let answer = match refused {
            Some(code) if api != ApiKey::Produce && api != ApiKey::Fetch => {
                let message = ErrorMessage {
                    message: "refused by the test".to_owned(),
                };
                encoded(FrameKind::response(&frame.header, code), &message, &[])
            }
            _ => handlers::answer(self, broker, api, &frame, refused).await,
        };
        match intercept {
            Intercept::LoseAnswer => false,
            Intercept::Swallow => true,
            _ => {
                if !one_way {
                    let _ = answers.send(answer);
                }
                true
            }
        }
    }
}

impl State {
    fn push(&mut self, topic: &str) {
        let push = MetadataPush {
            version: Offset(self.version),
            brokers: handlers::brokers(self),
            topics: vec![handlers::topic_metadata(self, topic)],
        };
        let paused = self.paused.clone();
        let pushed = |(broker, kind, watcher): &Watcher| {
            paused.contains(broker) || watcher.send(encoded(*kind, &push, &[])).is_ok()
        };
        self.watchers.retain(pushed);
    }
}

/// A whole frame.
pub fn encoded<M: serde::Serialize>(kind: FrameKind, message: &M, payload: &[u8]) -> Bytes {
    let mut buffer = BytesMut::new();
    put_frame(&mut buffer, kind, message, payload.len()).unwrap();
    buffer.extend_from_slice(payload);
    buffer.freeze()
}

pub fn cluster_id() -> ClusterId {
    ClusterId([9; 16])
}

pub fn broker_id(id: i32) -> BrokerId {
    BrokerId(id)
}

pub fn partition(id: usize) -> PartitionId {
    PartitionId(i32::try_from(id).unwrap())
}

pub fn epoch(epoch: i32) -> LeaderEpoch {
    LeaderEpoch(epoch)
}

/// Waits until `condition` holds, at most ten seconds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

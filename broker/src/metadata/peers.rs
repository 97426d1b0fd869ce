//! The other brokers: where they are, and the connections to them.
//!
//! *Patterns: single-socket channel, state watch.* Each pair of brokers holds one connection per
//! purpose, so that no heartbeat queues behind a snapshot. Where a broker is, its newest
//! registration tells; until that is known, an older one or its own `Hello` is a hint. Who answers
//! is checked: a wiped disk, or another broker under an old address, is not who is meant.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use strandline_client::{ClientError, ClientOptions, connection::Connection};
use strandline_core::metadata::{Image, Registration};
use strandline_protocol::{
    BrokerEpoch, BrokerId, ClusterId, ErrorCode,
    messages::{HelloResponse, Peer, Purpose},
};

use tokio::time::Instant;

use crate::settings::Address;

/// How long a peer may take to accept a connection and to say who it is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a peer may leave a request unanswered before its connection counts as broken. Above
/// what a slow disk takes for a sync.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How many other clusters are told of that take this broker for one of theirs.
const STRANGERS_MAX: usize = 16;

/// A connection that is younger shows who answers now.
const LATELY: Duration = Duration::from_secs(1);

/// Who this broker is to its peers.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number.
    pub broker: BrokerId,
    /// The random Raft id of its first data directory.
    pub raft_id: u64,
    /// Where others reach it.
    pub address: Address,
}

/// See the module. Clones are handles of the same.
#[derive(Clone, Debug)]
pub struct Peers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    me: Identity,
    /// Where to ask when nothing else is known.
    bootstrap: Vec<Address>,
    book: Mutex<BTreeMap<BrokerId, Entry>>,
    links: Mutex<BTreeMap<(Address, Purpose), Arc<Link>>>,
    /// Where another cluster answers, which has been told.
    astray: Mutex<BTreeSet<Address>>,
    /// Other clusters that take this broker for one of theirs, which has been told.
    strangers: Mutex<BTreeSet<ClusterId>>,
}

/// What is known of where a broker is.
#[derive(Clone, Debug)]
struct Entry {
    address: Address,
    /// Of the newest registration that was looked at; `-1` if there was none.
    epoch: BrokerEpoch,
    /// Of its first data directory.
    raft_id: Option<u64>,
}

#[derive(Debug, Default)]
struct Link {
    open: tokio::sync::Mutex<Option<Opened>>,
}

/// A connection, and since when it is open.
#[derive(Debug)]
struct Opened {
    connection: Connection,
    at: Instant,
}

/// Why a peer cannot be asked. Nothing has reached it.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It has never registered, as far as is known here.
    #[error("the address of broker {0} is not known")]
    NoAddress(BrokerId),
    /// It does not answer, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Somebody else answers.
    #[error("{address} is broker {found} with Raft id {found_raft}, not {wanted}")]
    SomebodyElse {
        /// Where.
        address: Address,
        /// Who.
        found: BrokerId,
        /// Its Raft id.
        found_raft: String,
        /// Who was meant.
        wanted: String,
    },
}

impl Peers {
    /// Nobody is known but who answers at `bootstrap`.
    #[must_use]
    pub fn new(me: Identity, bootstrap: Vec<Address>) -> Self {
        Self {
            shared: Arc::new(Shared {
                me,
                bootstrap,
                book: Mutex::default(),
                links: Mutex::default(),
                astray: Mutex::default(),
                strangers: Mutex::default(),
            }),
        }
    }

    /// Who this broker is.
    #[must_use]
    pub fn me(&self) -> &Identity {
        &self.shared.me
    }

    /// A broker has said itself where it is. Another directory than the one that is registered does
    /// not count: it may be a second process that was given the number of a living one.
    pub fn heard_of(&self, peer: &Peer) {
        if peer.broker_id == self.shared.me.broker {
            return;
        }
        let address = Address {
            host: peer.host.clone(),
            port: peer.port,
        };
        let mut book = self.shared.book.lock();
        let known = book.get(&peer.broker_id);
        let epoch = known.map_or(BrokerEpoch(-1), |entry| entry.epoch);
        let registered = known.filter(|known| known.epoch >= BrokerEpoch(0));
        let registered = registered.and_then(|known| known.raft_id);
        if registered.is_some_and(|registered| registered != peer.raft_id) {
            return;
        }
        let entry = Entry {
            address,
            epoch,
            raft_id: Some(peer.raft_id),
        };
        book.insert(peer.broker_id, entry);
    }

    /// A registration in the log, committed or not: the newest of a broker counts.
    pub fn registered(&self, registration: &Registration, epoch: BrokerEpoch) {
        if registration.broker == self.shared.me.broker {
            return;
        }
        let mut book = self.shared.book.lock();
        let known = book.get(&registration.broker);
        if known.is_some_and(|known| known.epoch >= epoch) {
            return;
        }
        let address = Address {
            host: registration.host.clone(),
            port: registration.port,
        };
        let entry = Entry {
            address,
            epoch,
            raft_id: registration.raft_id,
        };
        book.insert(registration.broker, entry);
    }

    /// All that an image tells.
    pub fn follow(&self, image: &Image) {
        for broker in image.brokers() {
            self.registered(&broker.registration, broker.epoch);
        }
    }

    /// Where a broker is.
    #[must_use]
    pub fn address(&self, broker: BrokerId) -> Option<Address> {
        let book = self.shared.book.lock();
        book.get(&broker).map(|entry| entry.address.clone())
    }

    /// Everywhere where somebody of the cluster may answer: known brokers, then the bootstrap
    /// addresses. Not this broker's own.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        let mut seen = BTreeSet::from([self.shared.me.address.clone()]);
        let book = self.shared.book.lock();
        let known = book.values().map(|entry| entry.address.clone());
        known
            .chain(self.shared.bootstrap.iter().cloned())
            .filter(|address| seen.insert(address.clone()))
            .collect()
    }

    /// A connection to `broker`. With `raft_id`, only if that directory answers.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`PeerError`]: nothing has been asked.
    pub async fn connection(
        &self,
        broker: BrokerId,
        raft_id: Option<u64>,
        purpose: Purpose,
    ) -> Result<Connection, PeerError> {
        let address = self.address(broker).ok_or(PeerError::NoAddress(broker))?;
        let is_wanted = |hello: &HelloResponse| {
            hello.broker_id == broker && raft_id.is_none_or(|wanted| hello.raft_id == Some(wanted))
        };
        let mut connection = self.connection_to(&address, purpose).await?;
        if !is_wanted(connection.hello()) {
            // It may be from before the disk was replaced, and nobody notices that a connection is
            // dead on which nothing is asked.
            self.give_up_old(&address, purpose).await;
            connection = self.connection_to(&address, purpose).await?;
        }
        let hello = connection.hello();
        if is_wanted(hello) {
            return Ok(connection);
        }
        Err(PeerError::SomebodyElse {
            address,
            found: hello.broker_id,
            found_raft: hello.raft_id.map_or("none".to_owned(), |id| id.to_string()),
            wanted: match raft_id {
                Some(raft_id) => format!("broker {broker} with Raft id {raft_id}"),
                None => format!("broker {broker}"),
            },
        })
    }

    /// A connection to whoever of this cluster answers at `address`.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`PeerError`]: nothing has been asked.
    pub async fn connection_to(
        &self,
        address: &Address,
        purpose: Purpose,
    ) -> Result<Connection, PeerError> {
        let key = (address.clone(), purpose);
        let link = Arc::clone(self.shared.links.lock().entry(key).or_default());
        let mut open = link.open.lock().await;
        if let Some(opened) = open.as_ref().filter(|it| !it.connection.is_closed()) {
            return Ok(opened.connection.clone());
        }
        *open = None;
        let me = &self.shared.me;
        let options = ClientOptions {
            client_id: format!("broker-{}", me.broker),
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            cluster_id: Some(me.cluster),
            ..ClientOptions::default()
        };
        let peer = Peer {
            broker_id: me.broker,
            raft_id: me.raft_id,
            host: me.address.host.clone(),
            port: me.address.port,
            purpose,
        };
        let opened = Connection::open_as_peer(&address.to_string(), &options, peer).await;
        let connection = opened.inspect_err(|error| self.went_astray(address, error))?;
        self.shared.astray.lock().remove(address);
        *open = Some(Opened {
            connection: connection.clone(),
            at: Instant::now(),
        });
        Ok(connection)
    }

    /// Tells once that another cluster answers where a broker of this one is expected.
    fn went_astray(&self, address: &Address, error: &ClientError) {
        let is_foreign = matches!(
            error,
            ClientError::Refused {
                code: ErrorCode::INCONSISTENT_CLUSTER_ID,
                ..
            }
        );
        if is_foreign && self.shared.astray.lock().insert(address.clone()) {
            tracing::warn!(
                %address,
                "another cluster answers where a broker of this one was: {error}"
            );
        }
    }

    /// Whether it is new that a broker of `cluster` takes this one for a member of it.
    #[must_use]
    pub fn is_new_stranger(&self, cluster: ClusterId) -> bool {
        let mut strangers = self.shared.strangers.lock();
        strangers.len() < STRANGERS_MAX && strangers.insert(cluster)
    }

    /// The next one is opened anew, unless this one was lately.
    async fn give_up_old(&self, address: &Address, purpose: Purpose) {
        let key = (address.clone(), purpose);
        let link = Arc::clone(self.shared.links.lock().entry(key).or_default());
        let mut open = link.open.lock().await;
        open.take_if(|opened| opened.at.elapsed() >= LATELY);
    }

    /// Ends every connection.
    pub fn close(&self) {
        self.shared.links.lock().clear();
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broker {} at {}", self.broker, self.address)
    }
}

#[cfg(test)]
mod tests {
    use strandline_core::metadata::METADATA_VERSION;
    use strandline_protocol::DirectoryId;

    use super::*;

    fn said(raft_id: u64, port: u16) -> Peer {
        Peer {
            broker_id: BrokerId(2),
            raft_id,
            host: "two".to_owned(),
            port,
            purpose: Purpose::Control,
        }
    }

    fn registration(raft_id: u64, port: u16) -> Registration {
        Registration {
            broker: BrokerId(2),
            incarnation: [0; 16],
            host: "two".to_owned(),
            port,
            rack: None,
            directories: vec![DirectoryId([2; 16])],
            raft_id: Some(raft_id),
            software: String::new(),
            metadata_version_max: METADATA_VERSION,
            lossy: Vec::new(),
        }
    }

    fn lone() -> Peers {
        let me = Identity {
            cluster: ClusterId([7; 16]),
            broker: BrokerId(1),
            raft_id: 11,
            address: Address {
                host: "one".to_owned(),
                port: 1,
            },
        };
        Peers::new(me, Vec::new())
    }

    #[test]
    fn a_second_process_of_a_number_does_not_hide_the_first() {
        let peers = lone();
        let port = || peers.address(BrokerId(2)).map(|address| address.port);
        // While nothing is registered, whoever speaks last is a hint.
        peers.heard_of(&said(12, 1));
        peers.heard_of(&said(13, 2));
        assert_eq!(port(), Some(2));
        peers.registered(&registration(13, 3), BrokerEpoch(5));
        peers.heard_of(&said(14, 4));
        assert_eq!(port(), Some(3));
        // The same directory at another port, after a restart; a wiped one once it is registered.
        peers.heard_of(&said(13, 5));
        assert_eq!(port(), Some(5));
        peers.registered(&registration(14, 6), BrokerEpoch(9));
        assert_eq!(port(), Some(6));
    }

    #[test]
    fn each_stranger_is_told_once() {
        let peers = lone();
        assert!(peers.is_new_stranger(ClusterId([8; 16])));
        assert!(!peers.is_new_stranger(ClusterId([8; 16])));
        let told = (0..100).filter(|id| peers.is_new_stranger(ClusterId([*id; 16])));
        assert_eq!(told.count(), STRANGERS_MAX - 1);
    }
}

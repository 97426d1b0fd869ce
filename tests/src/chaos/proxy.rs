//! The network between brokers and clients, as a TCP proxy in front of every broker.
//!
//! *Pattern: fault injection proxy.* A broker advertises its proxy's address, so that clients and
//! the other brokers come through it. Who connects is read from the `Hello` that every connection
//! begins with; from then on each direction obeys what the [`Network`] says of its two ends. A
//! direction that is cut holds its bytes, as a network does whose packets are sent again later:
//! when it heals, late bytes of somebody who was declared dead arrive. What the end of a connection
//! does meanwhile is not told to the other one, which is then half-open.
//!
//! **Never** changes or drops a byte of a connection that lives on.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use strandline_client::protocol::{
    ApiKey,
    frame::{FrameHeader, HEADER_BYTES},
    messages::{HelloRequest, decode},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use crate::broker::kept_port;

/// How much is passed on at once.
const CHUNK_BYTES: usize = 64 << 10;

/// How large a `Hello` may be.
const HELLO_BYTES_MAX: usize = 64 << 10;

/// How long a connection may take to say who it is.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A broker.
    Broker(i32),
    /// Any client.
    Client,
}

/// What is wrong with the network; nothing by default.
#[derive(Clone, Debug, Default)]
struct Rules {
    /// Nothing gets from the first to the second.
    cuts: BTreeSet<(Party, Party)>,
    /// What gets from the first to the second takes so long.
    delays: BTreeMap<(Party, Party), Duration>,
    /// How often connections between the two were reset.
    resets: BTreeMap<(Party, Party), u64>,
}

/// The network of one cluster. Cheap to clone; clones are the same network.
#[derive(Clone, Debug)]
pub struct Network {
    rules: Arc<watch::Sender<Rules>>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            rules: Arc::new(watch::Sender::new(Rules::default())),
        }
    }
}

impl Network {
    /// Lets nothing through from `from` to `to`, in connections of either.
    pub fn cut(&self, from: Party, to: Party) {
        self.rules.send_modify(|rules| {
            rules.cuts.insert((from, to));
        });
    }

    /// Lets nothing through in either direction.
    pub fn cut_both(&self, one: Party, other: Party) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Has what `from` sends to `to` arrive later.
    pub fn delay(&self, from: Party, to: Party, by: Duration) {
        self.rules.send_modify(|rules| {
            rules.delays.insert((from, to), by);
        });
    }

    /// Ends every connection between two parties as if its host had forgotten it.
    pub fn reset(&self, one: Party, other: Party) {
        self.rules.send_modify(|rules| {
            *rules.resets.entry(ordered(one, other)).or_default() += 1;
        });
    }

    /// Takes back every cut and every delay.
    pub fn heal(&self) {
        self.rules.send_modify(|rules| {
            rules.cuts.clear();
            rules.delays.clear();
        });
    }
}

fn ordered(one: Party, other: Party) -> (Party, Party) {
    (one.min(other), one.max(other))
}

/// What stands in front of one broker.
#[derive(Debug)]
pub struct Proxy {
    network: Network,
    broker: i32,
    port: u16,
    target: u16,
    accepting: Option<JoinHandle<()>>,
    /// Changes when the broker's machine goes: its connections end.
    up: Arc<watch::Sender<u64>>,
}

impl Proxy {
    /// One in front of `broker`, which listens on port `target`. Refuses connections until it is
    /// told that the broker is there.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn new(network: &Network, broker: i32, target: u16) -> Self {
        Self {
            network: network.clone(),
            broker,
            port: kept_port(),
            target,
            accepting: None,
            up: Arc::new(watch::Sender::new(0)),
        }
    }

    /// What the broker advertises.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Accepts connections.
    ///
    /// # Errors
    /// If somebody took the port meanwhile.
    pub fn open(&mut self) -> anyhow::Result<()> {
        if self.accepting.is_some() {
            return Ok(());
        }
        let listener = listen(self.port).with_context(|| format!("port {} is gone", self.port))?;
        let link = Link {
            network: self.network.clone(),
            broker: self.broker,
            target: self.target,
            up: Arc::clone(&self.up),
        };
        self.accepting = Some(tokio::spawn(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    let link = link.clone();
                    // Whatever ends a connection ends it for both: there is nobody to tell.
                    tokio::spawn(async move {
                        let _ = link.carry(stream).await;
                    });
                }
            }
        }));
        Ok(())
    }

    /// Refuses connections and ends those that there are, as a machine does whose broker is gone.
    pub async fn close(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // It ends as cancelled, and its port with it.
            let _ = accepting.await;
        }
        self.up.send_modify(|generation| *generation += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
        self.up.send_modify(|generation| *generation += 1);
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into())?;
    socket.listen(256)
}

/// The way to one broker.
#[derive(Clone, Debug)]
struct Link {
    network: Network,
    broker: i32,
    target: u16,
    up: Arc<watch::Sender<u64>>,
}

impl Link {
    async fn carry(self, mut stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut up = self.up.subscribe();
        let hello = tokio::select! {
            hello = tokio::time::timeout(HELLO_PATIENCE, read_hello(&mut stream)) => hello??,
            _ = up.changed() => return stream.set_zero_linger().map_err(Into::into),
        };
        let from = party_of(&hello);
        let to = Party::Broker(self.broker);
        let mut resets = self.network.rules.subscribe();
        let count = |rules: &Rules| rules.resets.get(&ordered(from, to)).copied();
        let before = count(&resets.borrow());
        let Ok(target) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.target)).await else {
            return stream.set_zero_linger().map_err(Into::into);
        };
        target.set_nodelay(true)?;
        let (mut client_reads, mut client_writes) = stream.into_split();
        let (mut broker_reads, mut broker_writes) = target.into_split();
        let there = Direction::new(&self.network, from, to);
        let back = Direction::new(&self.network, to, from);
        let ended_well = tokio::select! {
            ended = async {
                tokio::try_join!(
                    there.pass(&mut client_reads, &mut broker_writes, hello),
                    back.pass(&mut broker_reads, &mut client_writes, Vec::new()),
                )
            } => ended.is_ok(),
            _ = resets.wait_for(|rules| count(rules) != before) => false,
            _ = up.changed() => false,
        };
        if !ended_well {
            // Reset, not closed: its other end is lost with its host.
            client_writes.as_ref().set_zero_linger()?;
            broker_writes.as_ref().set_zero_linger()?;
            client_writes.forget();
            broker_writes.forget();
        }
        Ok(())
    }
}

/// The first frame of a connection, whole.
async fn read_hello(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    // What is no frame at all is for the broker to refuse.
    let Ok(decoded) = FrameHeader::decode(&header, HELLO_BYTES_MAX) else {
        return Ok(header.to_vec());
    };
    let mut hello = header.to_vec();
    hello.resize(decoded.frame_bytes(), 0);
    stream.read_exact(&mut hello[HEADER_BYTES..]).await?;
    Ok(hello)
}

fn party_of(hello: &[u8]) -> Party {
    let message = hello.get(HEADER_BYTES..).unwrap_or_default();
    let hello: Option<HelloRequest> = decode(ApiKey::Hello, message).ok();
    let peer = hello.and_then(|hello| hello.peer);
    peer.map_or(Party::Client, |peer| Party::Broker(peer.broker_id.0))
}

/// One way of one connection.
struct Direction {
    rules: watch::Receiver<Rules>,
    way: (Party, Party),
}

impl Direction {
    fn new(network: &Network, from: Party, to: Party) -> Self {
        Self {
            rules: network.rules.subscribe(),
            way: (from, to),
        }
    }

    /// Passes on what comes, `first` before it, until it ends, and then its end.
    async fn pass(
        mut self,
        from: &mut OwnedReadHalf,
        to: &mut OwnedWriteHalf,
        first: Vec<u8>,
    ) -> anyhow::Result<()> {
        self.admit().await?;
        to.write_all(&first).await?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            self.until_open().await?;
            let count = from.read(&mut chunk).await?;
            // Cut meanwhile: it is on its way, and so is the end of the connection.
            self.admit().await?;
            if count == 0 {
                return Ok(to.shutdown().await?);
            }
            to.write_all(&chunk[..count]).await?;
        }
    }

    async fn until_open(&mut self) -> anyhow::Result<()> {
        let way = self.way;
        let open = self.rules.wait_for(|rules| !rules.cuts.contains(&way));
        open.await.context("the network is gone")?;
        Ok(())
    }

    async fn admit(&mut self) -> anyhow::Result<()> {
        self.until_open().await?;
        let delay = self.rules.borrow().delays.get(&self.way).copied();
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
            self.until_open().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proxy in front of something that says back what it hears, and a connection to it.
    async fn echo(network: &Network) -> (Proxy, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = stream.split();
                    tokio::io::copy(&mut reads, &mut writes).await
                });
            }
        });
        let mut proxy = Proxy::new(network, 1, target);
        proxy.open().unwrap();
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        (proxy, stream)
    }

    async fn hears(stream: &mut TcpStream, text: &[u8]) -> bool {
        let mut heard = vec![0; text.len()];
        let read = stream.read_exact(&mut heard);
        let read = tokio::time::timeout(Duration::from_millis(150), read).await;
        matches!(read, Ok(Ok(_)) if heard == text)
    }

    /// No frame, so taken for a client's.
    const START: &[u8] = b"twenty-four bytes or so.";

    #[tokio::test]
    async fn a_cut_holds_bytes_until_it_heals() {
        for (from, to) in [
            (Party::Client, Party::Broker(1)),
            (Party::Broker(1), Party::Client),
        ] {
            let network = Network::default();
            let (_proxy, mut stream) = echo(&network).await;
            stream.write_all(START).await.unwrap();
            assert!(hears(&mut stream, START).await);
            network.cut(from, to);
            stream.write_all(b"held").await.unwrap();
            assert!(!hears(&mut stream, b"held").await);
            network.heal();
            assert!(hears(&mut stream, b"held").await, "{from:?} to {to:?}");
        }
    }

    #[tokio::test]
    async fn a_cut_of_others_changes_nothing() {
        let network = Network::default();
        let (_proxy, mut stream) = echo(&network).await;
        network.cut_both(Party::Broker(2), Party::Broker(1));
        network.cut_both(Party::Broker(2), Party::Client);
        stream.write_all(START).await.unwrap();
        assert!(hears(&mut stream, START).await);
    }

    #[tokio::test]
    async fn a_reset_and_a_broker_that_goes_end_connections() {
        let network = Network::default();
        let (mut proxy, mut stream) = echo(&network).await;
        stream.write_all(START).await.unwrap();
        assert!(hears(&mut stream, START).await);
        network.reset(Party::Client, Party::Broker(1));
        assert!(stream.read(&mut [0]).await.is_err(), "it was not reset");

        let mut next = TcpStream::connect(proxy.address()).await.unwrap();
        next.write_all(START).await.unwrap();
        assert!(hears(&mut next, START).await);
        proxy.close().await;
        assert!(next.read(&mut [0]).await.is_err(), "it was not reset");
        assert!(TcpStream::connect(proxy.address()).await.is_err());
    }
}

//! Which broker to ask: what is known of the cluster, and the connections to it.
//!
//! **Owns** the image of the cluster, its refreshing, and the way to a leader. **Never** decides
//! whether a write may be repeated: that is the producer's.

mod backoff;
mod image;
mod leaders;
mod links;
mod reach;
mod watch;

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::Duration,
};

pub(crate) use backoff::Backoff;
pub(crate) use image::{Image, Leader, Topic};
pub use leaders::{DeletedUpTo, ListedPartition};
pub(crate) use links::Links;
use parking_lot::Mutex;
use reach::first_that_answers;
use strandline_protocol::{
    ClusterId, ErrorClass, ErrorCode, Offset, PartitionId,
    api::{Cost, Retry},
    limits::ENTRIES_PER_REQUEST_MAX,
    messages::{
        BrokerMetadata, Failure, MetadataRequest, MetadataResponse, Request, TopicMetadata,
    },
};
use tokio::{sync::Notify, time::Instant};

use crate::{ClientError, ClientOptions, connection::Connection};

/// How long a broker may take to answer what it has in memory before another one is asked too, at
/// the first attempt: longer than any that works needs, short enough for one that is paused or cut
/// off to be left quickly. It doubles from attempt to attempt, for those that are merely slow.
const PATIENCE: Duration = Duration::from_millis(500);

/// The same for a change of metadata, which waits for the disks of a majority.
const PATIENCE_FOR_CHANGES: Duration = Duration::from_secs(2);

/// How long a request may take at its first attempt; none for one that must not be sent twice, or
/// that waits on purpose.
fn patience<R: Request>() -> Option<Duration> {
    let api = R::API.api();
    match (api.retry, api.cost) {
        (Retry::Idempotent, Cost::Low) => Some(PATIENCE),
        (Retry::Idempotent, Cost::MetadataWrite) => Some(PATIENCE_FOR_CHANGES),
        _ => None,
    }
}

/// A cluster, as all producers, consumers and admins of one client share it.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) options: ClientOptions,
    bootstrap: Vec<String>,
    links: Links,
    /// The address that answered last; asked first.
    preferred: Mutex<String>,
    image: tokio::sync::watch::Sender<Arc<Image>>,
    watched: Mutex<BTreeSet<String>>,
    watch_anew: Arc<Notify>,
    watching: OnceLock<()>,
    cluster_id: ClusterId,
}

impl Cluster {
    /// Asks the addresses in turn, once.
    pub(crate) async fn connect(
        bootstrap: Vec<String>,
        options: ClientOptions,
    ) -> Result<Arc<Self>, ClientError> {
        let first = Links::new(&options, None);
        let (address, connection) = first_that_answers(&first, &bootstrap).await?;
        let cluster_id = connection.hello().cluster_id;
        drop(connection);
        // The same connections, but from now on for this cluster only.
        let links = first.bound_to(cluster_id);
        Ok(Arc::new(Self {
            options,
            bootstrap,
            links,
            preferred: Mutex::new(address),
            image: tokio::sync::watch::Sender::new(Arc::new(Image::default())),
            watched: Mutex::new(BTreeSet::new()),
            watch_anew: Arc::new(Notify::new()),
            watching: OnceLock::new(),
            cluster_id,
        }))
    }

    /// Connections for one more purpose.
    pub(crate) fn new_links(&self) -> Links {
        Links::new(&self.options, Some(self.cluster_id))
    }

    /// What is known now.
    pub(crate) fn image(&self) -> Arc<Image> {
        Arc::clone(&self.image.borrow())
    }

    /// Tells when what is known changes.
    pub(crate) fn changes(&self) -> tokio::sync::watch::Receiver<Arc<Image>> {
        self.image.subscribe()
    }

    /// A connection to any broker: the last that answered, else the first that does, once around.
    pub(crate) async fn control(&self) -> Result<Connection, ClientError> {
        let addresses = self.addresses();
        let (address, connection) = first_that_answers(&self.links, &addresses).await?;
        *self.preferred.lock() = address;
        Ok(connection)
    }

    /// Every address that is known, the preferred one first, and then in a circle from there.
    fn addresses(&self) -> Vec<String> {
        let preferred = self.preferred.lock().clone();
        let known = self.image();
        let brokers = known.brokers.values().map(|address| address.to_string());
        let mut addresses: Vec<String> = Vec::new();
        for address in brokers.chain(self.bootstrap.iter().cloned()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        match addresses.iter().position(|address| *address == preferred) {
            Some(at) => addresses.rotate_left(at),
            None => addresses.insert(0, preferred),
        }
        addresses
    }

    /// The broker that is preferred could not help, or told nothing new: the next one is asked
    /// first from now on. One that was cut off from its controller answers, but does not know.
    fn look_elsewhere(&self) {
        if let Some(next) = self.addresses().into_iter().nth(1) {
            *self.preferred.lock() = next;
        }
    }

    /// Asks any broker, again with growing pauses while it may help, within the request timeout.
    /// One that says nothing for a while is left for the next one, if the request may be sent
    /// twice.
    pub(crate) async fn ask<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        self.ask_by(|| self.control(), request).await
    }

    async fn ask_by<R, F>(
        &self,
        connection: impl Fn() -> F,
        request: &R,
    ) -> Result<R::Response, ClientError>
    where
        R: Request,
        F: Future<Output = Result<Connection, ClientError>>,
    {
        let deadline = Instant::now() + self.options.request_timeout;
        let mut backoff = Backoff::new(&self.options);
        let mut patience = patience::<R>();
        loop {
            let attempt = async {
                let connection = connection().await?;
                let answer = connection.request(request, Vec::new());
                let Some(limit) = patience else {
                    return Ok(Some(answer.await?.0));
                };
                match tokio::time::timeout(limit, answer).await {
                    Ok(answer) => Ok(Some(answer?.0)),
                    Err(_) => Ok(None),
                }
            };
            let (error, pause) = match attempt.await {
                Ok(Some(response)) => return Ok(response),
                Ok(None) => {
                    patience = patience.map(|limit| limit.saturating_mul(2));
                    // What it pushes does not come either.
                    self.watch_anew.notify_one();
                    (silent::<R>(&self.preferred.lock()), Duration::ZERO)
                }
                Err(error) => (error, backoff.next_pause()),
            };
            if !may_ask_again::<R>(&error) || Instant::now() + pause >= deadline {
                return Err(error);
            }
            if !matches!(error, ClientError::Unreachable { .. }) {
                self.look_elsewhere();
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// A topic, from what is known or by asking; it is watched from now on.
    pub(crate) async fn topic(self: &Arc<Self>, name: &str) -> Result<Arc<Topic>, ClientError> {
        if let Some(topic) = self.image().topics.get(name) {
            return Ok(Arc::clone(topic));
        }
        self.refresh(vec![name.to_owned()]).await?;
        let topic = self.known_topic(name)?;
        if self.watched.lock().insert(name.to_owned()) {
            if self.watching.set(()).is_ok() {
                let watching = watch::run(Arc::downgrade(self), Arc::clone(&self.watch_anew));
                tokio::spawn(watching);
            } else {
                self.watch_anew.notify_one();
            }
        }
        Ok(topic)
    }

    /// A topic, asked for anew and not watched.
    pub(crate) async fn topic_now(&self, name: &str) -> Result<Arc<Topic>, ClientError> {
        self.refresh(vec![name.to_owned()]).await?;
        self.known_topic(name)
    }

    /// As [`Cluster::topic_now`], for one who has found that what is known is wrong: see
    /// [`Cluster::refresh_in_doubt`].
    pub(crate) async fn topic_in_doubt(&self, name: &str) -> Result<Arc<Topic>, ClientError> {
        self.refresh_in_doubt(vec![name.to_owned()]).await?;
        self.known_topic(name)
    }

    fn known_topic(&self, name: &str) -> Result<Arc<Topic>, ClientError> {
        let topic = self.image().topics.get(name).map(Arc::clone);
        topic.ok_or_else(|| ClientError::UnknownTopic {
            topic: name.to_owned(),
        })
    }

    fn watched(&self) -> Vec<String> {
        self.watched.lock().iter().cloned().collect()
    }

    /// Asks for topics and takes over what is said.
    ///
    /// A topic that does not exist is forgotten and not an error; any other failure is.
    pub(crate) async fn refresh(&self, names: Vec<String>) -> Result<(), ClientError> {
        for names in names.chunks(ENTRIES_PER_REQUEST_MAX) {
            let pages = self.metadata(Some(names.to_vec())).await?;
            self.take_over(pages)?;
        }
        Ok(())
    }

    /// As [`Cluster::refresh`], for one who has found that what is known is wrong: if the broker
    /// that answers knows nothing newer, another one is asked first the next time.
    pub(crate) async fn refresh_in_doubt(&self, names: Vec<String>) -> Result<(), ClientError> {
        let before = self.image().version();
        self.refresh(names).await?;
        if before == self.image().version() {
            self.look_elsewhere();
        }
        Ok(())
    }

    /// As [`Cluster::refresh`], from the broker of one connection and no other.
    async fn refresh_from(
        &self,
        connection: &Connection,
        names: &[String],
    ) -> Result<(), ClientError> {
        for names in names.chunks(ENTRIES_PER_REQUEST_MAX) {
            let ask = |request: MetadataRequest| async move {
                let answer = connection.request(&request, Vec::new());
                Ok((answer.await?.0, request))
            };
            self.take_over(pages(Some(names.to_vec()), ask).await?)?;
        }
        Ok(())
    }

    fn take_over(&self, pages: Vec<MetadataResponse>) -> Result<(), ClientError> {
        for page in &pages {
            self.apply(page.version, &page.brokers, &page.topics);
        }
        for topic in pages.into_iter().flat_map(|page| page.topics) {
            match topic.failure.error {
                ErrorCode::NONE | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => {}
                _ => return Err(ClientError::of_topic(&topic.name, topic.failure)),
            }
        }
        Ok(())
    }

    /// Every page of what is known of `names`, or of all topics.
    pub(crate) async fn metadata(
        &self,
        names: Option<Vec<String>>,
    ) -> Result<Vec<MetadataResponse>, ClientError> {
        let ask = |request: MetadataRequest| async move {
            let page = self.ask(&request).await?;
            Ok((page, request))
        };
        pages(names, ask).await
    }

    fn apply(&self, version: Offset, brokers: &[BrokerMetadata], topics: &[TopicMetadata]) {
        self.image.send_modify(|image| {
            let image = Arc::make_mut(image);
            image.apply_brokers(version, brokers);
            for topic in topics {
                image.apply_topic(version, topic);
            }
        });
    }
}

/// Every page of an answer; `ask` gives the request back with each.
async fn pages<F>(
    names: Option<Vec<String>>,
    ask: impl Fn(MetadataRequest) -> F,
) -> Result<Vec<MetadataResponse>, ClientError>
where
    F: Future<Output = Result<(MetadataResponse, MetadataRequest), ClientError>>,
{
    let mut pages = Vec::new();
    let mut request = MetadataRequest {
        topics: names,
        cursor: None,
    };
    loop {
        let (page, mut asked) = ask(request).await?;
        let next = page.next_cursor.clone();
        pages.push(page);
        // A cursor that does not move would never end.
        if next.is_none() || next == asked.cursor {
            return Ok(pages);
        }
        asked.cursor = next;
        request = asked;
    }
}

/// Whether a request that failed may be sent again.
fn may_ask_again<R: Request>(error: &ClientError) -> bool {
    match error.class() {
        ErrorClass::Retry | ErrorClass::RefreshMetadata => true,
        ErrorClass::OutcomeUnknown => R::API.api().retry == Retry::Idempotent,
        _ => false,
    }
}

/// The error of a broker that does not answer.
fn silent<R: Request>(address: &str) -> ClientError {
    ClientError::OutcomeUnknown {
        what: R::API.api().name.to_owned(),
        reason: format!("{address} does not answer"),
    }
}

/// The error of a partition that nobody leads now; asking again may help.
pub(crate) fn no_leader(image: &Image, topic: &Topic, partition: PartitionId) -> ClientError {
    let reason = image.why_leaderless(topic, partition);
    let failure = Failure::new(ErrorCode::LEADER_NOT_AVAILABLE, reason);
    ClientError::refused(format!("`{}`-{partition}", topic.name), failure)
}

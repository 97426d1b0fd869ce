//! One socket to one broker, on which requests are pipelined.
//!
//! *Pattern: single-socket channel.* Requests leave in the order in which they were made.
//! *Pattern: request pipeline.* None waits for the answer to another; answers come in any order.
//!
//! **Owns** the way of one request to a broker and of its answer back, and the knowledge whether a
//! request can have had an effect when its connection breaks. **Never** sends anything twice.
//!
//! `exchange` is the pure half (what is queued, who waits), `driver` the task that moves bytes.

mod driver;
mod exchange;

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use strandline_protocol::{
    ErrorCode,
    api::ApiKey,
    messages::{ErrorMessage, HELLO_MAGIC, HelloRequest, HelloResponse, Peer, Request, decode},
};
use tokio::sync::{mpsc, oneshot};

use self::{
    driver::Driver,
    exchange::{Broken, Exchange, Outgoing, Reply, Waiting},
};
use crate::{ClientError, ClientOptions, net};

/// The software and its version, as a `Hello` names it.
const SOFTWARE: &str = concat!("strandline-client/", env!("CARGO_PKG_VERSION"));

/// How many pushes of a subscription may wait for the application; more end the subscription, so
/// that who reads too slowly asks again instead of seeing a gap.
const PUSHES_MAX: usize = 256;

/// One socket to one broker. Cheap to clone. After the last clone is dropped, what was requested is
/// still sent and the socket then closes.
#[derive(Clone, Debug)]
pub struct Connection {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    hello: HelloResponse,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// What the handles and the task have in common.
#[derive(Debug)]
struct Shared {
    address: String,
    request_timeout: Duration,
    exchange: Mutex<Exchange>,
}

impl Shared {
    fn close(&self) {
        let waker = self.exchange.lock().close();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn broken(&self, what: &'static str, broken: Broken) -> ClientError {
        let Broken { sent, reason } = broken;
        if sent {
            ClientError::OutcomeUnknown {
                what: what.to_owned(),
                reason: format!("the connection to {} ended: {reason}", self.address),
            }
        } else {
            ClientError::NotSent {
                address: self.address.clone(),
                reason,
            }
        }
    }

    fn protocol_error(&self, reason: impl ToString) -> ClientError {
        ClientError::Protocol {
            address: self.address.clone(),
            reason: reason.to_string(),
        }
    }

    /// Queues a request and wakes the task.
    fn begin<R: Request>(&self, request: &R, payload: Vec<Bytes>, waiting: Waiting) {
        let Some(outgoing) = Outgoing::new(R::API, request, payload) else {
            waiting.fail(Broken {
                sent: false,
                reason: "the message is too large: ask for less at once".to_owned(),
            });
            return;
        };
        let waker = self.exchange.lock().begin(outgoing, waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn decode<R: Request>(&self, reply: Reply) -> Result<(R::Response, Bytes), ClientError> {
        if reply.error != ErrorCode::NONE {
            let message = decode::<ErrorMessage>(R::API, &reply.message).map_or_else(
                |_| "the broker gave no reason".to_owned(),
                |error| error.message,
            );
            return Err(ClientError::Refused {
                subject: format!("{} at {}", R::API.api().name, self.address),
                code: reply.error,
                message,
            });
        }
        let response =
            decode(R::API, &reply.message).map_err(|error| self.protocol_error(error))?;
        Ok((response, reply.payload))
    }
}

/// Pushes of one subscription, in order. Ends with the connection.
#[derive(Debug)]
pub struct Pushes {
    api: ApiKey,
    shared: Arc<Shared>,
    received: mpsc::Receiver<Reply>,
}

impl Pushes {
    /// The next push; none after the connection has ended or if more than 256 were not taken.
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Protocol`] if it cannot be read.
    pub async fn next<P: serde::de::DeserializeOwned>(&mut self) -> Option<Result<P, ClientError>> {
        let push = self.received.recv().await?;
        let decoded = decode(self.api, &push.message);
        Some(decoded.map_err(|error| self.shared.protocol_error(error)))
    }
}

impl Connection {
    /// Opens a socket to `address` (`HOST:PORT`) and says `Hello`, within
    /// [`connect_timeout`](ClientOptions::connect_timeout). Must be called within a tokio runtime.
    ///
    /// Cancel safe: dropped before it is done, it leaves nothing open.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], and what the broker says to a `Hello` that it refuses.
    pub async fn open(address: &str, options: &ClientOptions) -> Result<Self, ClientError> {
        Self::open_as(address, options, None).await
    }

    /// As [`Connection::open`], for a broker that connects to another one of its cluster.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub async fn open_as_peer(
        address: &str,
        options: &ClientOptions,
        peer: Peer,
    ) -> Result<Self, ClientError> {
        Self::open_as(address, options, Some(peer)).await
    }

    async fn open_as(
        address: &str,
        options: &ClientOptions,
        peer: Option<Peer>,
    ) -> Result<Self, ClientError> {
        let unreachable = |reason: String| ClientError::Unreachable {
            address: address.to_owned(),
            reason,
        };
        let socket = net::connect(address, options.connect_timeout)
            .await
            .map_err(|error| unreachable(describe(&error)))?;
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            request_timeout: options.request_timeout,
            exchange: Mutex::new(Exchange::new()),
        });
        tokio::spawn(Driver::new(
            socket,
            Arc::clone(&shared),
            options.frame_bytes_max,
        ));
        let closing = CloseOnDrop(Some(Arc::clone(&shared)));
        let hello = HelloRequest {
            magic: HELLO_MAGIC.to_owned(),
            client_id: options.client_id.clone(),
            software: SOFTWARE.to_owned(),
            cluster_id: options.cluster_id,
            directory_id: None,
            authentication: None,
            peer,
        };
        let answer = request_on::<HelloRequest>(&shared, &hello, Vec::new(), Duration::ZERO);
        let hello = match tokio::time::timeout(options.connect_timeout, answer).await {
            Ok(Ok((hello, _))) => hello,
            Ok(Err(ClientError::OutcomeUnknown { reason, .. })) => return Err(unreachable(reason)),
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                return Err(unreachable(
                    "it accepts connections but does not answer".to_owned(),
                ));
            }
        };
        closing.keep();
        Ok(Self {
            handle: Arc::new(Handle { shared, hello }),
        })
    }

    /// What the broker said to the `Hello`.
    #[must_use]
    pub fn hello(&self) -> &HelloResponse {
        &self.handle.hello
    }

    /// The address that it was opened to.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.handle.shared.address
    }

    /// Whether the connection has ended; every request then fails with [`ClientError::NotSent`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.shared.exchange.lock().is_ended()
    }

    /// Waits until the connection has ended. Does not keep it open. Cancel safe.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let ended = self.handle.shared.exchange.lock().watch();
        async move {
            // Nobody sends anything: the other end goes with the connection.
            let _ = ended.await;
        }
    }

    /// Ends the connection for everybody who has a clone of it, for `reason`: requests that are
    /// under way fail at once, as if the peer had closed it, and the socket closes. For who learns
    /// in another way that nothing comes back on it any more.
    pub fn abandon(&self, reason: &str) {
        let shared = &self.handle.shared;
        shared.exchange.lock().end(reason);
        shared.close();
    }

    /// Queues a request at once, in the order of the calls, and returns its answer and its payload.
    /// `payload` is written from where it lies. The request is sent even if the future is dropped
    /// or never polled; only its answer is then lost.
    ///
    /// # Errors
    /// [`ClientError::NotSent`] if it cannot have had an effect, [`ClientError::OutcomeUnknown`] if
    /// it may have had one (the connection broke, or no answer came within
    /// [`request_timeout`](ClientOptions::request_timeout), which breaks the connection),
    /// [`ClientError::Refused`] if the broker says so.
    pub fn request<R: Request>(
        &self,
        request: &R,
        payload: Vec<Bytes>,
    ) -> impl Future<Output = Result<(R::Response, Bytes), ClientError>> + Send + use<R> {
        self.request_that_waits(request, payload, Duration::ZERO)
    }

    /// As [`Connection::request`], for one whose answer the broker may hold back for `wait`.
    ///
    /// # Errors
    /// As [`Connection::request`].
    pub fn request_that_waits<R: Request>(
        &self,
        request: &R,
        payload: Vec<Bytes>,
        wait: Duration,
    ) -> impl Future<Output = Result<(R::Response, Bytes), ClientError>> + Send + use<R> {
        request_on::<R>(&self.handle.shared, request, payload, wait)
    }

    /// Sends a request that is never answered. The future ends when the whole of it has been handed
    /// to the system; dropping it takes nothing back.
    ///
    /// # Errors
    /// [`ClientError::NotSent`].
    pub fn one_way<R: Request>(
        &self,
        request: &R,
        payload: Vec<Bytes>,
    ) -> impl Future<Output = Result<(), ClientError>> + Send + use<R> {
        let (written, wait) = oneshot::channel();
        let shared = Arc::clone(&self.handle.shared);
        shared.begin(request, payload, Waiting::Written(written));
        async move {
            match wait.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(broken)) => Err(shared.broken(R::API.api().name, broken)),
                Err(_) => Err(shared.protocol_error("the connection's task is gone")),
            }
        }
    }

    /// Sends a request that subscribes, and returns its answer and what is pushed afterwards.
    ///
    /// # Errors
    /// As [`Connection::request`].
    pub fn subscribe<R: Request>(
        &self,
        request: &R,
    ) -> impl Future<Output = Result<(R::Response, Pushes), ClientError>> + Send + use<R> {
        let (answered, answer) = oneshot::channel();
        let (pushed, received) = mpsc::channel(PUSHES_MAX);
        let shared = Arc::clone(&self.handle.shared);
        let deadline = tokio::time::Instant::now() + shared.request_timeout;
        let waiting = Waiting::Subscribed {
            answered,
            pushed,
            deadline,
        };
        shared.begin(request, Vec::new(), waiting);
        async move {
            let reply = answer_of(&shared, R::API, answer).await?;
            let (response, _) = shared.decode::<R>(reply)?;
            let api = R::API;
            let pushes = Pushes {
                api,
                shared,
                received,
            };
            Ok((response, pushes))
        }
    }
}

fn request_on<R: Request>(
    shared: &Arc<Shared>,
    request: &R,
    payload: Vec<Bytes>,
    wait: Duration,
) -> impl Future<Output = Result<(R::Response, Bytes), ClientError>> + Send + use<R> {
    let (answered, answer) = oneshot::channel();
    let deadline = tokio::time::Instant::now() + shared.request_timeout + wait;
    let waiting = Waiting::Answer { answered, deadline };
    shared.begin(request, payload, waiting);
    let shared = Arc::clone(shared);
    async move {
        let reply = answer_of(&shared, R::API, answer).await?;
        shared.decode::<R>(reply)
    }
}

async fn answer_of(
    shared: &Shared,
    api: ApiKey,
    answer: oneshot::Receiver<Result<Reply, Broken>>,
) -> Result<Reply, ClientError> {
    match answer.await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(broken)) => Err(shared.broken(api.api().name, broken)),
        // The task was dropped with its runtime, without a word about what it had written.
        Err(_) => Err(ClientError::OutcomeUnknown {
            what: api.api().name.to_owned(),
            reason: "the runtime is shutting down".to_owned(),
        }),
    }
}

/// Ends the connection of a `Hello` that is not finished.
struct CloseOnDrop(Option<Arc<Shared>>);

impl CloseOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.close();
        }
    }
}

/// What the system says, without its error number.
fn describe(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        std::io::ErrorKind::BrokenPipe => "broken pipe".to_owned(),
        _ => {
            let text = error.to_string();
            match text.find(" (os error") {
                Some(end) => text.get(..end).unwrap_or_default().to_lowercase(),
                None => text,
            }
        }
    }
}

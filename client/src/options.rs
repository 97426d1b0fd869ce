//! The options of a client, and how options are held against their bounds.

use std::time::Duration;

use strandline_protocol::{
    ClusterId,
    frame::HEADER_BYTES,
    limits::{CLIENT_ID_BYTES_MAX, FRAME_BYTES_MAX_DEFAULT, MESSAGE_BYTES_MAX},
};

use crate::ClientError;

/// How a client connects. [`ClientOptions::default`] is right for most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// A name for the broker's logs and metrics; not an identity. Default `strandline-client`, at
    /// most 249 bytes.
    pub client_id: String,
    /// How long opening one connection may take, its `Hello` included. Default 5 s. Shorter gives
    /// up on a dead host sooner; longer survives a slow name server.
    pub connect_timeout: Duration,
    /// How long a request waits for its answer before its connection counts as broken. Default 30
    /// s. Shorter notices a stuck broker sooner, but takes a slow one for a stuck one.
    pub request_timeout: Duration,
    /// How long the first pause before a new attempt is; it doubles from there. Default 20 ms.
    /// Shorter finds a restarted broker sooner, longer spares a busy one.
    pub backoff_min: Duration,
    /// How long a pause becomes at most. Default 1 s. Every pause is drawn between a half and the
    /// whole of its length, so that many clients do not come back at once.
    pub backoff_max: Duration,
    /// The largest frame that is accepted from a broker, in bytes. Default 64 MiB. Bounds what one
    /// answer can make this process allocate; must hold the largest fetch.
    pub frame_bytes_max: usize,
    /// The cluster that is expected; another one is refused. Default none: any.
    pub cluster_id: Option<ClusterId>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            client_id: "strandline-client".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            frame_bytes_max: FRAME_BYTES_MAX_DEFAULT,
            cluster_id: None,
        }
    }
}

/// One row of a table of bounds: a number that an options struct holds, and its least and largest
/// value.
pub(crate) struct Bound<O> {
    pub(crate) option: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) value: fn(&O) -> u128,
    pub(crate) least: u128,
    pub(crate) largest: u128,
}

/// Holds `options` against every row of `bounds`.
pub(crate) fn check_bounds<O>(options: &O, bounds: &[Bound<O>]) -> Result<(), ClientError> {
    for bound in bounds {
        let value = (bound.value)(options);
        if value < bound.least || value > bound.largest {
            let Bound {
                unit,
                least,
                largest,
                ..
            } = bound;
            return Err(ClientError::InvalidOption {
                option: bound.option,
                reason: format!("{value} {unit} is not between {least} and {largest}"),
            });
        }
    }
    Ok(())
}

/// A number of bytes as the tables compare it.
pub(crate) fn bytes(value: usize) -> u128 {
    u128::try_from(value).unwrap_or(u128::MAX)
}

const HOUR_MS: u128 = 3_600_000;

const BOUNDS: &[Bound<ClientOptions>] = &[
    Bound {
        option: "client_id",
        unit: "bytes",
        value: |options| bytes(options.client_id.len()),
        least: 1,
        largest: 249,
    },
    Bound {
        option: "connect_timeout",
        unit: "ms",
        value: |options| options.connect_timeout.as_millis(),
        least: 1,
        largest: HOUR_MS,
    },
    Bound {
        option: "request_timeout",
        unit: "ms",
        value: |options| options.request_timeout.as_millis(),
        least: 1,
        largest: HOUR_MS,
    },
    Bound {
        option: "backoff_min",
        unit: "ms",
        value: |options| options.backoff_min.as_millis(),
        least: 1,
        largest: 60_000,
    },
    Bound {
        option: "backoff_max",
        unit: "ms",
        value: |options| options.backoff_max.as_millis(),
        least: 1,
        largest: HOUR_MS,
    },
    Bound {
        option: "frame_bytes_max",
        unit: "bytes",
        value: |options| bytes(options.frame_bytes_max),
        least: 1 << 21,
        largest: 1 << 30,
    },
];

// The rows above spell these out, as a table is read by people.
const _: () = assert!(CLIENT_ID_BYTES_MAX == 249 && MESSAGE_BYTES_MAX + HEADER_BYTES < 1 << 21);

impl ClientOptions {
    /// Holds every option against its bounds.
    ///
    /// # Errors
    /// [`ClientError::InvalidOption`] names the first that is out of its bounds.
    pub fn validate(&self) -> Result<(), ClientError> {
        check_bounds(self, BOUNDS)?;
        if self.backoff_min > self.backoff_max {
            return Err(ClientError::InvalidOption {
                option: "backoff_min",
                reason: "it is longer than `backoff_max`".to_owned(),
            });
        }
        Ok(())
    }
}

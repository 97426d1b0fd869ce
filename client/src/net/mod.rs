//! Sockets, the wall clock and randomness: the only place that names them.
//!
//! Under `--cfg strandline_sim` they are those of a deterministic simulation (turmoil), so that the
//! real client and the real broker run in it unchanged. Monotonic time is tokio's, which the
//! simulation drives by itself. **Never** decides anything.

mod busy_poll;
#[cfg(strandline_sim)]
mod simulated;
#[cfg(not(strandline_sim))]
mod system;

use std::{io, time::Duration};

use strandline_protocol::Timestamp;

#[cfg(strandline_sim)]
use simulated as backend;
#[cfg(not(strandline_sim))]
use system as backend;

pub use backend::{TcpListener, TcpStream};
pub use busy_poll::BusyPoll;
#[cfg(strandline_sim)]
pub use simulated::skew_clock;

/// The wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Now, in milliseconds since 1970.
    #[must_use]
    pub fn now(self) -> Timestamp {
        Timestamp(backend::wall_clock_ms())
    }
}

/// Opens a connection to `address` (`HOST:PORT`) within `timeout`, and [`prepare`]s it.
///
/// Cancel safe: dropped before it is done, it leaves nothing open.
///
/// # Errors
/// What the system says; `TimedOut` after `timeout`.
pub async fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    match tokio::time::timeout(timeout, backend::open(address)).await {
        Ok(connected) => {
            let stream = connected?;
            prepare(&stream)?;
            Ok(stream)
        }
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} ms", timeout.as_millis()),
        )),
    }
}

/// Sets what every connection needs, whoever opened it: small writes leave at once (`TCP_NODELAY`),
/// and within one machine no congestion control paces what is sent.
///
/// # Errors
/// What the system says of the first; the connection works all the same.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    backend::tune(stream);
    stream.set_nodelay(true)
}

/// Listens on `address` (`HOST:PORT`; port 0 takes a free one).
///
/// # Errors
/// What the system says; the caller names the address.
pub async fn listen(address: &str) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// A random number, for jitter and for where sticky partitioning begins. Not for secrets. In a
/// simulation it follows the seed of [`seed_random`].
#[must_use]
pub fn random() -> u64 {
    backend::random()
}

/// Makes [`random`] repeat itself on this thread in a simulation; elsewhere it does nothing.
pub fn seed_random(seed: u64) {
    backend::seed_random(seed);
}

/// One step of SplitMix64 (Steele, Lea, Flood, 2014): the next state and the number drawn.
const fn split_mix(state: u64) -> (u64, u64) {
    let next = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = next;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (next, mixed ^ (mixed >> 31))
}

//! The sockets, the clock and the randomness of the system.

use std::{
    cell::Cell,
    time::{SystemTime, UNIX_EPOCH},
};

pub use tokio::net::{TcpListener, TcpStream};

pub(super) fn wall_clock_ms() -> i64 {
    // A clock before 1970 is not set; 0 says so without failing.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

pub(super) fn random() -> u64 {
    STATE.with(|state| {
        // Without entropy of the system, the clock has to do: it is only jitter.
        let seed = state
            .get()
            .or_else(|| getrandom::u64().ok())
            .unwrap_or_else(|| wall_clock_ms().unsigned_abs());
        let (next, drawn) = super::split_mix(seed);
        state.set(Some(next));
        drawn
    })
}

pub(super) fn seed_random(_seed: u64) {}

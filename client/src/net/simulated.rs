//! The network and the clock of a deterministic simulation, and randomness from its seed.

use std::cell::Cell;

pub use turmoil::net::{TcpListener, TcpStream};

/// Simulated connections have nothing to tune.
pub(super) const fn tune(_stream: &TcpStream) {}

pub(super) fn wall_clock_ms() -> i64 {
    let since = turmoil::since_epoch().unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(0) };
}

pub(super) fn random() -> u64 {
    STATE.with(|state| {
        let (next, drawn) = super::split_mix(state.get());
        state.set(next);
        drawn
    })
}

pub(super) fn seed_random(seed: u64) {
    STATE.with(|state| state.set(seed));
}

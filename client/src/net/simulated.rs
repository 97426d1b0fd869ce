//! The network and the clock of a deterministic simulation, and randomness from its seed.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::pending,
    io,
    rc::Rc,
};

use tokio::{
    runtime::{Handle, Id},
    time::Instant,
};
pub use turmoil::net::{TcpListener, TcpStream};

/// Simulated connections have nothing to tune.
pub(super) const fn tune(_stream: &TcpStream) {}

/// Where nothing gets through, the simulation says at once that nobody listens. Nobody can know
/// that: who is out of reach does not answer. A host that does refuse takes its time on the way.
pub(super) async fn open(address: &str) -> io::Result<TcpStream> {
    let asked = Instant::now();
    let opened = TcpStream::connect(address).await;
    match opened {
        Err(error)
            if error.kind() == io::ErrorKind::ConnectionRefused && asked == Instant::now() =>
        {
            pending().await
        }
        opened => opened,
    }
}

pub(super) fn wall_clock_ms() -> i64 {
    let since = turmoil::since_epoch().unwrap_or_default();
    let right = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    right.saturating_add(skew_ms())
}

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(0) };
    /// How wrong the clocks of hosts are, by their runtimes. Never walked through.
    static SKEWS: RefCell<HashMap<Id, Rc<Cell<i64>>>> = RefCell::default();
}

/// From now on the wall clock of the host that this runs on is ahead by as many milliseconds as
/// `skew` holds at each moment.
///
/// # Panics
/// Outside of a runtime.
pub fn skew_clock(skew: Rc<Cell<i64>>) {
    let host = Handle::current().id();
    SKEWS.with_borrow_mut(|skews| skews.insert(host, skew));
}

fn skew_ms() -> i64 {
    let Ok(host) = Handle::try_current() else {
        return 0;
    };
    SKEWS.with_borrow(|skews| skews.get(&host.id()).map_or(0, |skew| skew.get()))
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

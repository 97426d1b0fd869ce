//! The machine that the broker runs on: its disk, and how both go down and come back.

use std::{
    cell::{Cell, RefCell},
    future::pending,
    rc::Rc,
};

use strandline_broker::{server::Server, settings::Settings};
use strandline_storage::fs::simulated::SimulatedDisk;
use tokio::sync::Notify;

use super::{BROKER, PORT, trace::Trace};

/// A machine with a disk.
pub(super) struct Machine {
    disk: RefCell<SimulatedDisk>,
    /// Asks the broker that runs to stop in order.
    stop: RefCell<Rc<Notify>>,
    /// Whether its disk was told to fail, so that a broker may refuse to stop or to start.
    pub(super) fails: Cell<bool>,
    /// How often a broker began to serve.
    pub(super) starts: Cell<u32>,
    /// Operations that changed something, on the disks before this one.
    changes_before: Cell<u64>,
    trace: Trace,
}

impl Machine {
    pub(super) fn new(seed: u64, trace: Trace) -> Self {
        Self {
            disk: RefCell::new(SimulatedDisk::new(seed)),
            stop: RefCell::default(),
            fails: Cell::new(false),
            starts: Cell::new(0),
            changes_before: Cell::new(0),
            trace,
        }
    }

    pub(super) fn disk(&self) -> SimulatedDisk {
        self.disk.borrow().clone()
    }

    /// All operations so far that changed something on the disk.
    pub(super) fn changes(&self) -> u64 {
        self.changes_before.get() + self.disk.borrow().changes()
    }

    /// Puts the disk there that a power cut or a kill has left.
    pub(super) fn restart(&self, left: impl FnOnce(&SimulatedDisk) -> SimulatedDisk) {
        self.changes_before.set(self.changes());
        let disk = left(&self.disk.borrow());
        self.disk.replace(disk);
        self.stop.take();
        self.fails.set(false);
    }

    pub(super) fn ask_to_stop(&self) {
        self.stop.borrow().notify_one();
    }

    /// The broker, from its start to its end.
    pub(super) async fn serve(self: Rc<Self>) -> turmoil::Result {
        let stop = Rc::clone(&self.stop.borrow());
        let disk = self.disk();
        let server = match Server::start_on(settings(), disk.file_system()).await {
            Ok(server) => server,
            Err(error) if disk.is_off() || self.fails.get() => {
                self.trace.note(BROKER, format_args!("start: {error:#}"));
                return pending().await;
            }
            Err(error) => return Err(format!("the broker does not start: {error:#}").into()),
        };
        self.starts.set(self.starts.get() + 1);
        let changes = self.changes();
        self.trace
            .note(BROKER, format_args!("serves, changes {changes}"));
        stop.notified().await;
        let stopped = server.shutdown().await;
        let changes = self.changes();
        self.trace
            .note(BROKER, format_args!("{stopped:?}, changes {changes}"));
        match stopped {
            Err(error) if !disk.is_off() && !self.fails.get() => {
                Err(format!("the broker does not stop: {error:#}").into())
            }
            _ => Ok(()),
        }
    }
}

fn settings() -> Settings {
    Settings::with(&[
        ("data", "/data"),
        ("listen", &format!("0.0.0.0:{PORT}")),
        ("advertise", &format!("{BROKER}:{PORT}")),
        // It is served by a library that knows the system's sockets only.
        ("http", "off"),
        ("shutdown_timeout", "2s"),
        ("limits.idle_timeout", "20s"),
        ("limits.write_timeout", "5s"),
        ("storage.checkpoint_interval", "300ms"),
        ("storage.retention_interval", "500ms"),
    ])
    .expect("valid settings")
}

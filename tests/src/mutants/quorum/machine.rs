//! One machine: its disk, and the broker that runs on it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle},
};

use strandline_broker::{server::Server, settings::Settings};
use strandline_core::metadata::Image;
use strandline_protocol::Offset;
use strandline_storage::fs::simulated::SimulatedDisk;
use tokio::{sync::Notify, time::sleep};

use super::POLL;

/// See the module.
pub(super) struct Machine {
    disk: SimulatedDisk,
    /// Whether its disk is another one than at first.
    pub(super) is_wiped: bool,
    running: Option<Running>,
}

/// A broker on its thread.
struct Running {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
}

/// How it is told to end.
#[derive(Default)]
struct Stop {
    at_once: Notify,
    in_order: Notify,
}

/// What can be seen of it from outside.
#[derive(Default)]
struct Seen {
    /// Its newest image, once it serves.
    image: Option<Arc<Image>>,
    is_controller: bool,
    /// Every topic that was in an image.
    shown: BTreeSet<String>,
    /// Why it did not start, or not stop in order.
    failed: Option<String>,
}

impl Machine {
    pub(super) const fn new(disk: SimulatedDisk) -> Self {
        Self {
            disk,
            is_wiped: false,
            running: None,
        }
    }

    pub(super) fn start(&mut self, settings: Settings) {
        let (seen, stop) = (Arc::default(), Arc::<Stop>::default());
        let thread = {
            let (disk, seen, stop) = (self.disk.clone(), Arc::clone(&seen), Arc::clone(&stop));
            thread::spawn(move || run(settings, &disk, &seen, &stop))
        };
        self.running = Some(Running { seen, stop, thread });
    }

    /// The machine goes off: what was synced is left, and of the rest what `seed` says. Returns
    /// every topic that its broker has shown.
    pub(super) fn power_off(&mut self, seed: u64) -> BTreeSet<String> {
        self.disk = self.disk.power_cut(seed);
        let Some(running) = self.running.take() else {
            return BTreeSet::new();
        };
        running.stop.at_once.notify_one();
        let ended = running.thread.join();
        ended.expect("what a broker does to a dead disk ends");
        std::mem::take(&mut seen(&running.seen).shown)
    }

    /// The broker stops in order, and its process is gone.
    ///
    /// # Errors
    /// If it did not, or had not started.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        running.stop.in_order.notify_one();
        running.thread.join().expect("a broker that stops ends");
        self.disk = self.disk.kill();
        let failed = seen(&running.seen).failed.take();
        failed.map_or(Ok(()), Err)
    }

    /// What its disk is now.
    pub(super) const fn disk(&self) -> &SimulatedDisk {
        &self.disk
    }

    /// Puts an empty disk in, while it is off.
    pub(super) fn wipe(&mut self, seed: u64) {
        self.disk = SimulatedDisk::new(seed);
        self.is_wiped = true;
    }

    /// The newest image of its broker; none unless that serves.
    ///
    /// # Errors
    /// If it did not start.
    pub(super) fn image(&self) -> Result<Option<Arc<Image>>, String> {
        let Some(running) = &self.running else {
            return Ok(None);
        };
        let seen = seen(&running.seen);
        match &seen.failed {
            Some(failed) => Err(failed.clone()),
            None => Ok(seen.image.clone()),
        }
    }

    pub(super) fn serves(&self) -> bool {
        self.look(|seen| seen.image.is_some())
    }

    pub(super) fn is_controller(&self) -> bool {
        self.look(|seen| seen.is_controller)
    }

    pub(super) fn shown(&self) -> BTreeSet<String> {
        self.look(|seen| seen.shown.clone())
    }

    fn look<T: Default>(&self, at: impl FnOnce(&Seen) -> T) -> T {
        let running = self.running.as_ref();
        running.map_or_else(T::default, |running| at(&seen(&running.seen)))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off(0);
    }
}

fn seen(shared: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    shared.lock().expect("nobody panics with it")
}

/// A broker, from its start to its end. Nothing of it outlives this.
fn run(settings: Settings, disk: &SimulatedDisk, shared: &Mutex<Seen>, stop: &Stop) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let server = tokio::select! {
            biased;
            () = stop.at_once.notified() => return,
            started = Server::start_on(settings, disk.file_system()) => match started {
                Ok(server) => server,
                Err(error) => {
                    seen(shared).failed = Some(format!("a broker does not start: {error:#}"));
                    return;
                }
            },
        };
        let mut version = Offset(-1);
        loop {
            look(&server, shared, &mut version);
            tokio::select! {
                biased;
                () = stop.at_once.notified() => return,
                () = stop.in_order.notified() => break,
                () = sleep(POLL) => {}
            }
        }
        if let Err(error) = server.shutdown().await {
            seen(shared).failed = Some(format!("a broker does not stop: {error:#}"));
        }
    });
    runtime.shutdown_background();
}

fn look(server: &Server, shared: &Mutex<Seen>, version: &mut Offset) {
    let image = server.image();
    let mut seen = seen(shared);
    seen.is_controller = server.is_controller();
    if image.version() != *version || seen.image.is_none() {
        *version = image.version();
        let names = image.topics().map(|topic| topic.name.to_string());
        seen.shown.extend(names);
        seen.image = Some(image);
    }
}

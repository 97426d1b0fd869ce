//! Reads metadata and watches it change, from one broker after the other.
//!
//! On one connection versions never go back, neither those that are pushed nor those that are
//! asked for; and nothing is told that is not committed.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use strandline_client::{
    ClientError,
    connection::{Connection, Pushes},
    protocol::{
        Offset,
        messages::{MetadataPush, MetadataRequest, WatchMetadataRequest},
    },
};
use tokio::time::{sleep, timeout};

use super::{ClusterPlan, Trace, address_of, checks::Checks, options};
use crate::random::Random;

/// See the module.
pub(super) struct Watcher {
    name: String,
    plan: ClusterPlan,
    random: RefCell<Random>,
    checks: Rc<Checks>,
    trace: Trace,
    /// How many pushes came.
    pub(super) pushes: Cell<u64>,
    /// How many connections it had.
    pub(super) connections: Cell<u64>,
    /// Tells it to come to an end.
    pub(super) stop: Cell<bool>,
}

impl Watcher {
    pub(super) fn new(plan: &ClusterPlan, number: u64, checks: Rc<Checks>, trace: Trace) -> Self {
        Self {
            name: format!("watcher-{number}"),
            plan: *plan,
            random: RefCell::new(Random::new(plan.seed, 600 + number)),
            checks,
            trace,
            pushes: Cell::new(0),
            connections: Cell::new(0),
            stop: Cell::new(false),
        }
    }

    pub(super) async fn run(self: Rc<Self>) -> turmoil::Result {
        while !self.stop.get() {
            let machine = self.random.borrow_mut().index(self.plan.machines);
            if let Err(error) = self.watch(&address_of(machine)).await {
                self.trace
                    .detail(&self.name, format_args!("{}: {error}", address_of(machine)));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Follows one broker for a time, or until the connection ends.
    async fn watch(&self, address: &str) -> Result<(), ClientError> {
        let connection = Connection::open(address, &options(&self.name)).await?;
        self.connections.set(self.connections.get() + 1);
        let topics: Vec<String> = (1..60).map(|number| format!("admin-0-{number}")).collect();
        let (set, mut pushes) = connection
            .subscribe(&WatchMetadataRequest { topics })
            .await?;
        let mut asked = set.version;
        let mut pushed = set.version;
        let rounds = self.random.borrow_mut().within(1..12);
        for _ in 0..rounds {
            if self.stop.get() {
                break;
            }
            let pause = self.random.borrow_mut().ms(20..500);
            self.take(address, &mut pushes, pause, &mut pushed).await?;
            let request = MetadataRequest {
                topics: None,
                cursor: None,
            };
            let (told, _) = connection.request(&request, Vec::new()).await?;
            self.compare(address, "metadata", asked, told.version);
            asked = told.version;
            for topic in &told.topics {
                if topic.failure.error.is_none() && !self.checks.was_created(topic.id) {
                    self.checks.violation(format!(
                        "{address} tells of {} ({}), which is in no committed image",
                        topic.name, topic.id
                    ));
                }
            }
        }
        Ok(())
    }

    /// Takes what is pushed for a time.
    async fn take(
        &self,
        address: &str,
        pushes: &mut Pushes,
        time: Duration,
        pushed: &mut Offset,
    ) -> Result<(), ClientError> {
        let until = tokio::time::Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            match timeout(left, pushes.next::<MetadataPush>()).await {
                Err(_) | Ok(None) => return Ok(()),
                Ok(Some(push)) => {
                    let push = push?;
                    self.compare(address, "push", *pushed, push.version);
                    *pushed = push.version;
                    self.pushes.set(self.pushes.get() + 1);
                }
            }
        }
    }

    fn compare(&self, address: &str, what: &str, before: Offset, now: Offset) {
        if now < before {
            self.checks.violation(format!(
                "{address} told {} version {before} and then, by {what}, {now}",
                self.name
            ));
        }
        if now > self.checks.newest_version() {
            self.checks.violation(format!(
                "{address} told {} of version {now}, and {} is the newest that is committed",
                self.name,
                self.checks.newest_version()
            ));
        }
    }
}

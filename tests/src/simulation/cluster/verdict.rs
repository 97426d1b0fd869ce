//! What came of a run.

use strandline_broker::metadata::Observer;

use super::Running;
use crate::{simulation::alone::named, sweep::Outcome};

/// What brokers log about what is not seen from outside.
const TORN_METADATA: &str = "the metadata log was recovered: what was half written has been cut";
const TORN_PARTITION: &str = "opener recovered: what was half written has been cut";

impl Running<'_> {
    /// Looks at everything once more, now that all is quiet.
    pub(super) fn judge(&self) {
        for admin in &self.administrators {
            admin.judge();
        }
        let members: Vec<Observer> = self
            .machines
            .left()
            .filter_map(|machine| machine.observer())
            .collect();
        self.checks.check_majority(&members);
    }

    pub(super) fn outcome(&self, ended: Option<String>) -> Outcome {
        let mut violations = self.checks.take_violations();
        violations.append(&mut self.records.violations.borrow_mut());
        violations.extend(ended);
        let (seen, wrongs) = (self.checks.seen.get(), &self.faults.wrongs);
        let records = self.records.counts();
        let admins = || self.administrators.iter().map(|admin| admin.done.get());
        let watchers = || self.watchers.iter();
        let starts = self.machines.all().iter();
        let starts: u64 = starts.map(|machine| u64::from(machine.starts.get())).sum();
        let mut counts = vec![
            ("elections", seen.elections),
            ("changes of the leader", seen.leader_changes),
            ("changes of the voters", seen.voter_changes),
            ("brokers fenced", seen.fencings),
            ("snapshots installed", seen.snapshots_installed),
            ("metadata logs trimmed", seen.trimmed),
            ("images compared", seen.images_compared),
            (
                "torn tails of the metadata log",
                self.trace.told(TORN_METADATA),
            ),
            ("torn tails of partitions", self.trace.told(TORN_PARTITION)),
            ("starts of a broker", starts),
            ("power cuts", wrongs.power_cuts),
            (
                "power cuts within an operation",
                wrongs.cuts_within_operations,
            ),
            ("power cuts of all machines", wrongs.cuts_of_all),
            ("kills", wrongs.kills),
            ("orderly stops", wrongs.stops),
            ("failed syncs", wrongs.failed_syncs),
            ("wiped disks", wrongs.wiped_disks),
            ("machines held up", wrongs.pauses),
            ("machines isolated", wrongs.isolations),
            ("machines cut off one way", wrongs.one_way_cuts),
            ("splits", wrongs.splits),
            ("clients cut off", wrongs.client_cuts),
            ("clocks stepped", wrongs.clock_steps),
            ("machines gone for ever", wrongs.gone),
            (
                "metadata changes acknowledged",
                admins().map(|it| it.acknowledged).sum(),
            ),
            (
                "metadata changes of unknown outcome",
                admins().map(|it| it.unknown).sum(),
            ),
            (
                "metadata changes refused",
                admins().map(|it| it.refused).sum(),
            ),
            (
                "reads through the controller",
                admins().map(|it| it.reads).sum(),
            ),
            (
                "metadata pushes",
                watchers().map(|it| it.pushes.get()).sum(),
            ),
            ("watches", watchers().map(|it| it.connections.get()).sum()),
            ("records acknowledged", records.0 as u64),
            ("records of unknown outcome", records.1 as u64),
            ("records refused", records.2 as u64),
            ("records found in the end", self.records.found.get() as u64),
        ];
        if let Some(replication) = &self.replication {
            counts.extend(replication.counts());
            counts.extend([
                ("pairs of machines held up", wrongs.pairs_held_up),
                ("leaders left behind", wrongs.left_behind),
            ]);
        }
        Outcome {
            violations,
            lasted: self.sim.elapsed(),
            counts: named(&counts),
            ..Outcome::default()
        }
    }
}

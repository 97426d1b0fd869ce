//! What must hold, whatever happens.

use std::collections::BTreeMap;

use strandline_core::{
    FlushMode,
    invariants::{self, Violation},
};
use strandline_protocol::{BrokerId, LeaderEpoch, Offset};

use super::{
    Machine,
    log::Log,
    process::{Acknowledged, Process},
};

/// Everything that anybody was told.
#[derive(Debug, Default)]
pub struct Checks {
    /// What any replica has shown to be committed, and in which epoch that was first.
    committed: BTreeMap<i64, (LeaderEpoch, u64)>,
    acknowledged: BTreeMap<i64, u64>,
    leaders: Vec<(LeaderEpoch, BrokerId)>,
    was_async: bool,
}

impl Checks {
    pub fn switched(&mut self, to: FlushMode) {
        self.was_async |= to == FlushMode::Async;
    }

    fn end(&self) -> i64 {
        self.committed.last_key_value().map_or(0, |(at, _)| *at + 1)
    }

    /// H3 and S7: what a process shows, it shows for ever, and so does everybody else.
    pub fn shows(&mut self, process: &mut Process, log: &Log) -> Result<(), String> {
        let shown = process.replica.marks().high_watermark;
        let before = Offset(process.checked);
        invariants::high_watermark_is_monotone(before, shown).map_err(told)?;
        for offset in process.checked.max(log.start)..shown.0 {
            let value = log.value(offset).ok_or_else(|| {
                format!(
                    "broker {} shows offset {offset} and lacks it",
                    process.broker
                )
            })?;
            let entry = (process.replica.leader_epoch(), value);
            let (_, first) = *self.committed.entry(offset).or_insert(entry);
            if first != value {
                return Err(format!(
                    "offset {offset} was shown as {first}, and by broker {} as {value}",
                    process.broker
                ));
            }
        }
        process.checked = shown.0;
        Ok(())
    }

    /// S2 and S5: who begins to lead.
    pub fn leads(&mut self, process: &Process, log: &Log) -> Result<(), String> {
        self.leaders
            .push((process.replica.leader_epoch(), process.broker));
        invariants::one_leader_per_epoch(self.leaders.iter().copied()).map_err(told)?;
        // It may hear late that it was elected, when others have led and committed since.
        let epoch = process.replica.leader_epoch();
        let before = self.committed.iter().filter(|(_, entry)| entry.0 < epoch);
        let committed = before.map(|(offset, entry)| (Offset(*offset), entry.1));
        invariants::leader_is_complete(committed, Offset(log.start), log.values()).map_err(|it| {
            let broker = process.broker;
            format!("broker {broker} leads in epoch {epoch}: {it}")
        })
    }

    /// What the present leader says is the end is not before what anybody has shown.
    pub fn knows(
        &self,
        process: &Process,
        leader: Option<(BrokerId, LeaderEpoch)>,
    ) -> Result<(), String> {
        let replica = &process.replica;
        let leads = leader == Some((process.broker, replica.leader_epoch()));
        let told = replica.marks().high_watermark.0;
        if leads && replica.knows_high_watermark() && told < self.end() {
            return Err(format!(
                "the leader, broker {}, tells {told} as the end, {} was shown",
                process.broker,
                self.end()
            ));
        }
        Ok(())
    }

    /// H1, as far as it can be seen at once: what is acknowledged is committed, at its place.
    pub fn acknowledges(&mut self, acknowledged: &Acknowledged) -> Result<(), String> {
        for (offset, value) in (acknowledged.base..).zip(&acknowledged.values) {
            let committed = self.committed.get(&offset).map(|entry| entry.1);
            if committed != Some(*value) {
                return Err(format!(
                    "{value} is acknowledged at {offset}, where {committed:?} is committed"
                ));
            }
            self.acknowledged.insert(offset, *value);
        }
        Ok(())
    }

    /// Under `flush=ack` a partition always comes back by itself.
    pub fn only_async_is_lost(&self) -> Result<(), String> {
        if self.was_async {
            return Ok(());
        }
        Err("nobody may lead any more, although everything was flushed".into())
    }

    /// H1 and S1, once everybody is back.
    pub fn at_the_end(&self, machines: &[Machine]) -> Result<(), String> {
        for (number, one) in machines.iter().enumerate() {
            for (offset, value) in self.acknowledged.range(one.log.start..) {
                if one.log.value(*offset) != Some(*value) {
                    return Err(format!(
                        "{value} was acknowledged at {offset}, broker {} has {:?} there",
                        one.broker,
                        one.log.value(*offset)
                    ));
                }
            }
            for other in machines.iter().skip(number + 1) {
                invariants::logs_match(one.log.entries(), other.log.entries())
                    .map_err(|it| format!("brokers {} and {}: {it}", one.broker, other.broker))?;
            }
        }
        Ok(())
    }
}

fn told(violation: Violation) -> String {
    violation.to_string()
}

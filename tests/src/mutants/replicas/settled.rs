//! Whether everybody has come back once the faults are over.

use super::World;

impl World {
    /// Whether all replicas have all there is, and all are in sync.
    pub fn is_settled(&self) -> bool {
        let Some((leader, epoch)) = self.controller.leader() else {
            return false;
        };
        let mut processes = self.machines.iter().filter_map(|it| it.process.as_ref());
        let Some(leads) = processes.clone().find(|it| it.broker == leader) else {
            return false;
        };
        let end = leads.replica.marks().high_watermark;
        self.controller.isr().len() == self.machines.len()
            && leads.replica.knows_high_watermark()
            && processes.clone().count() == self.machines.len()
            && processes.all(|it| {
                it.replica.leader_epoch() == epoch
                    && it.replica.marks().high_watermark.0 + 30 > end.0
            })
    }

    pub fn why_unsettled(&self) -> String {
        let states: Vec<String> = self
            .machines
            .iter()
            .map(|machine| match &machine.process {
                Some(process) => format!(
                    "{}: {:?} in {} {:?}",
                    machine.broker,
                    process.replica.role(),
                    process.replica.leader_epoch(),
                    process.replica.marks()
                ),
                None => format!("{}: down", machine.broker),
            })
            .collect();
        format!(
            "all faults are over, and still not everybody is in sync: leader {:?}, ISR {:?}; {}",
            self.controller.leader(),
            self.controller.isr(),
            states.join("; ")
        )
    }
}

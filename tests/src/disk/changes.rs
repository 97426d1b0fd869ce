//! Steps that change more than a log's end: retention, `DeleteRecords`, truncation, metadata.

use std::collections::BTreeMap;

use strandline_protocol::{
    LeaderEpoch, Offset, ProducerEpoch, ProducerId,
    messages::{
        AlterConfigsRequest, ConfigChange, CreateTopicsRequest, DeleteTopicsRequest,
        InitProducerIdRequest, NewTopic,
    },
};
use strandline_storage::directory::PartitionName;

use super::{
    machine::{BROKER, full_is_fine},
    model::{Attempt, TopicState},
    workload::{Done, Driver, Stop, index},
};

/// Topics are called by these names, again and again.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// `retention.bytes` of a topic is one of these.
const RETENTIONS: [&str; 4] = ["-1", "2000", "4000", "6000"];

impl Driver<'_> {
    pub(super) fn delete_records(&mut self, name: &PartitionName) -> Done {
        let Some(served) = self.machine().served.get(name) else {
            return Ok(());
        };
        let (start, durable) = (served.log.start().0, served.log.durable().0);
        if durable <= start {
            return Ok(());
        }
        let to = start + self.random.within(0..(durable - start) as u64 + 1) as i64;
        let (now, at) = (self.now(), index(name));
        self.say(format!("DeleteRecords below {to}"));
        self.know(|expected| {
            let line = expected.line(&name.topic, at);
            line.start.1 = line.start.1.max(to);
        });
        let served = self.machine().served.get_mut(name).expect("it is served");
        let deleted = served.log.delete_before(Offset(to), now);
        let reached = served.log.start().0;
        match self.done(deleted)? {
            Some(removed) => {
                if reached != to.max(start) {
                    let what = format!("{name} starts at {reached} after a deletion below {to}");
                    return Err(Stop::Violation(what));
                }
                self.know(|expected| {
                    expected.line(&name.topic, at).start = (reached, reached);
                });
                self.done(full_is_fine(removed.finish())).map(drop)
            }
            None => {
                self.know(|expected| expected.line(&name.topic, at).start.0 = reached);
                Ok(())
            }
        }
    }

    pub(super) fn retain(&mut self, name: &PartitionName) -> Done {
        let Some(served) = self.machine().served.get(name) else {
            return Ok(());
        };
        let (durable, at, now) = (served.log.durable(), index(name), self.now());
        let before = self
            .expected
            .find(&name.topic, at)
            .map_or(0, |line| line.start.1);
        self.know(|expected| {
            let line = expected.line(&name.topic, at);
            line.start.1 = line.start.1.max(durable.0);
        });
        let served = self.machine().served.get_mut(name).expect("it is served");
        let removed = served.log.apply_retention(now, durable);
        let start = served.log.start().0;
        let removed = self.done(removed)?;
        // On a full disk names may have changed all the same.
        let most = if removed.is_some() { before } else { durable.0 };
        self.know(|expected| {
            let line = expected.line(&name.topic, at);
            line.start = (start, start.max(before).max(most));
        });
        match removed {
            Some(removed) => self.done(full_is_fine(removed.finish())).map(drop),
            None => Ok(()),
        }
    }

    pub(super) fn truncate(&mut self, name: &PartitionName) -> Done {
        // A checkpoint that is under way would write down producers that are cut.
        self.release_checkpoint()?;
        let Some(served) = self.machine().served.get(name) else {
            return Ok(());
        };
        let (start, end) = (served.log.start().0, served.log.end().0);
        let durable = served.log.durable().0;
        if end <= start {
            return Ok(());
        }
        let to = start + self.random.within(0..(end - start) as u64) as i64;
        let at = index(name);
        let least = self
            .expected
            .find(&name.topic, at)
            .map_or(0, |line| line.boundary(to));
        self.say(format!("truncation to {to}, which is {least}"));
        // The recovery point on disk must not be above what is left.
        let machine = self.machine();
        machine.remember(name, Offset(least.min(durable)));
        let written = machine.data.write_checkpoint(&machine.checkpoint);
        let written =
            written.and_then(|()| machine.data.write_checkpoint_for_kafka(&machine.checkpoint));
        if self.done(written)?.is_none() {
            return Ok(());
        }
        self.know(|expected| {
            let line = expected.line(&name.topic, at);
            line.durable = line.durable.min(least);
            line.start.0 = line.start.0.min(least);
        });
        let now = self.now();
        let served = self.machine().served.get_mut(name).expect("it is served");
        let cut = served.log.truncate_to(Offset(to), now);
        // A leader writes on under another epoch.
        served.epoch = LeaderEpoch(served.epoch.0 + 1);
        let end = match cut {
            Ok(end) => end.0,
            Err(error) => return Err(self.dead(error.to_string())),
        };
        if end != least {
            let what = format!("{name} ends at {end} after a truncation to {to}, not at {least}");
            return Err(Stop::Violation(what));
        }
        self.know(|expected| {
            let line = expected.line(&name.topic, at);
            line.batches.retain(|batch| batch.end <= end);
            line.durable = line.durable.min(end);
            line.start = (line.start.0.min(end), line.start.1.min(end));
        });
        Ok(())
    }

    pub(super) fn create_any(&mut self) -> Done {
        let free = NAMES
            .iter()
            .filter(|name| !self.expected.topics.contains_key(**name));
        let free: Vec<&str> = free.copied().collect();
        if free.is_empty() {
            return Ok(());
        }
        let name = free[self.random.within(0..free.len() as u64) as usize];
        let partitions = self.random.within(1..3) as i32;
        self.create(name, partitions)
    }

    pub(super) fn create(&mut self, name: &str, partitions: i32) -> Done {
        let retention = RETENTIONS[self.random.within(0..RETENTIONS.len() as u64) as usize];
        self.say(format!("create {name}, {partitions} partitions"));
        self.know(|expected| {
            expected.attempt = Some(Attempt::Create {
                name: name.to_owned(),
                retention: retention.to_owned(),
                partitions: partitions as usize,
            });
        });
        let topic = NewTopic {
            name: name.to_owned(),
            partitions: Some(partitions),
            replication_factor: None,
            configs: BTreeMap::from([("retention.bytes".to_owned(), retention.to_owned())]),
        };
        let request = CreateTopicsRequest {
            topics: vec![topic],
            validate_only: false,
        };
        let created = {
            let machine = self.machine();
            machine.settle(machine.metadata.create_topics(request))
        };
        let Some(response) = self.done(created)? else {
            self.know(|expected| expected.attempt = None);
            return Ok(());
        };
        let id = response.topics[0].id;
        self.done(response.topics[0].failure.clone().into_result())?;
        self.know(|expected| {
            expected.attempt = None;
            let topic = TopicState {
                id,
                retention: retention.to_owned(),
                lines: vec![Default::default(); partitions as usize],
            };
            expected.topics.insert(name.to_owned(), topic);
        });
        self.follow()
    }

    pub(super) fn delete_topic(&mut self) -> Done {
        let Some(name) = self.any_topic() else {
            return Ok(());
        };
        self.say(format!("delete {name}"));
        self.know(|expected| {
            expected.attempt = Some(Attempt::Delete { name: name.clone() });
        });
        let request = DeleteTopicsRequest {
            names: vec![name.clone()],
        };
        let deleted = {
            let machine = self.machine();
            machine.settle(machine.metadata.delete_topics(request))
        };
        let Some(response) = self.done(deleted)? else {
            self.know(|expected| expected.attempt = None);
            return Ok(());
        };
        self.done(response.topics[0].failure.clone().into_result())?;
        self.know(|expected| {
            expected.attempt = None;
            if let Some(topic) = expected.topics.remove(&name) {
                expected.gone.insert(topic.id);
            }
        });
        self.follow()
    }

    pub(super) fn configure(&mut self) -> Done {
        let Some(topic) = self.any_topic() else {
            return self.create_any();
        };
        let retention = RETENTIONS[self.random.within(0..RETENTIONS.len() as u64) as usize];
        self.say(format!("configure {topic}"));
        self.know(|expected| {
            expected.attempt = Some(Attempt::Configure {
                name: topic.clone(),
                retention: retention.to_owned(),
            });
        });
        let change = ConfigChange {
            key: "retention.bytes".to_owned(),
            value: Some(retention.to_owned()),
        };
        let request = AlterConfigsRequest {
            topic: topic.clone(),
            changes: vec![change],
            validate_only: false,
        };
        let altered = {
            let machine = self.machine();
            machine.settle(machine.metadata.alter_configs(request))
        };
        let Some(response) = self.done(altered)? else {
            self.know(|expected| expected.attempt = None);
            return Ok(());
        };
        self.done(response.failure.into_result())?;
        self.know(|expected| {
            expected.attempt = None;
            if let Some(topic) = expected.topics.get_mut(&topic) {
                topic.retention = retention.to_owned();
            }
        });
        self.follow()
    }

    pub(super) fn new_producer(&mut self) -> Done {
        let request = InitProducerIdRequest {
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
        };
        let given = {
            let machine = self.machine();
            machine.settle(machine.metadata.init_producer_id(BROKER, &request))
        };
        let Some(given) = self.done(given)? else {
            return Ok(());
        };
        let id = given.producer_id;
        if self.expected.producers.contains(&id) {
            return Err(Stop::Violation(format!("producer id {id} was given twice")));
        }
        self.know(|expected| {
            expected.producers.insert(id);
        });
        Ok(())
    }

    fn any_topic(&mut self) -> Option<String> {
        let count = self.expected.topics.len() as u64;
        if count == 0 {
            return None;
        }
        let at = self.random.within(0..count) as usize;
        self.expected.topics.keys().nth(at).cloned()
    }
}

//! Consumers: one reads from leaders, one from whoever is near, one reads everything in the end;
//! and somebody who asks where partitions end.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use strandline_client::{
    Client, ClientError, Consumer, ConsumerOptions, OutOfRange, Records, StartAt,
    protocol::{
        ErrorClass, Offset, PartitionId,
        messages::{Acks, OffsetQuery},
    },
};
use tokio::time::{sleep, timeout};

use super::{
    super::machines::rack_of,
    Replication,
    ledger::{Found, Place},
    topics::{PARTITIONS, TopicPlan, Trimmed},
};
use crate::{history::Mark, random::Random};

/// A leader that was replaced may not know it for so long, and tells what it knows: it finds out
/// by its lease at the latest.
const KNOWS_WITHIN: Duration = Duration::from_secs(3);

/// How often the examiner may find something that has to be repaired first.
const EXAMINED_WITHIN: u32 = 60;

/// The number of the consumer that reads old records again and again.
const REREADER: u32 = 2;

/// Where a consumer is due in each partition.
type Due = BTreeMap<Place, i64>;

impl Replication {
    /// Follows all partitions, until every producer has ended and everything was read.
    pub(in crate::simulation::cluster) async fn consume(
        self: Rc<Self>,
        number: u32,
    ) -> turmoil::Result {
        let name = format!("reader-{number}");
        let mut random = Random::new(self.plan.seed, 830 + u64::from(number));
        self.topics_are_there().await;
        let client = self.client(&name, &mut random).await;
        let mut consumer = self
            .consumer(&name, &client, super::near(number, &self.plan), |_| true)
            .await;
        let mut due = Due::new();
        loop {
            let is_over = self.stop.get() && self.writers_left.get() == 0;
            if number == REREADER && !is_over && random.one_in(12) {
                self.go_back(&name, &mut consumer, &mut due, &mut random)
                    .await;
            }
            let polled = if is_over {
                match consumer.poll_to_end().await {
                    Ok(None) => return Ok(()),
                    Ok(Some(records)) => Ok(records),
                    Err(error) => Err(error),
                }
            } else {
                match timeout(Duration::from_millis(300), consumer.poll()).await {
                    Ok(polled) => polled,
                    Err(_) => continue,
                }
            };
            match polled {
                Ok(records) => self.take(&name, &records, &mut due),
                Err(error) => {
                    self.trace.note(&name, format_args!("poll: {error}"));
                    self.cannot_read(&name, &error);
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    /// A consumer of all partitions of some topics.
    async fn consumer(
        &self,
        name: &str,
        client: &Client,
        options: ConsumerOptions,
        reads: impl Fn(&TopicPlan) -> bool,
    ) -> Consumer {
        let mut consumer = client.consumer(options).expect("valid options");
        let topics = self.topics.iter().filter(|topic| reads(topic));
        let wanted: Vec<_> = topics
            .flat_map(|topic| {
                let partitions = (0..PARTITIONS).map(PartitionId);
                partitions.map(|partition| (topic.name, partition, StartAt::Beginning))
            })
            .collect();
        while let Err(error) = consumer.assign(&wanted).await {
            self.trace.note(name, format_args!("assign: {error}"));
            sleep(Duration::from_millis(50)).await;
        }
        consumer
    }

    /// Reads from somewhere before where it is.
    async fn go_back(
        &self,
        name: &str,
        consumer: &mut Consumer,
        due: &mut Due,
        random: &mut Random,
    ) {
        let Some((&place, &next)) = due.iter().nth(random.index(due.len().max(1))) else {
            return;
        };
        let offset = random.within(0..next.unsigned_abs() + 1) as i64;
        let topic = self.topics[place.0].name;
        let to = StartAt::Offset(Offset(offset));
        let moved = consumer.seek(topic, PartitionId(place.1), to);
        match timeout(Duration::from_secs(2), moved).await {
            Ok(Ok(())) => drop(due.insert(place, offset)),
            Ok(Err(error)) => self.trace.note(name, format_args!("seek: {error}")),
            Err(_) => {}
        }
    }

    /// Damage is told until it is repaired.
    fn cannot_read(&self, name: &str, error: &ClientError) {
        let is_for_good = matches!(error.class(), ErrorClass::Fatal | ErrorClass::Fenced);
        if is_for_good && !self.replicas.is_any_bad() {
            self.violation(format!("S14: {name} cannot read: {error}"));
        }
    }

    /// H3, H5 and H6 while the run goes on.
    fn take(&self, name: &str, records: &Records, due: &mut Due) {
        let Some(place) = self.place(records.topic(), records.partition()) else {
            return;
        };
        let first = due.get(&place).copied();
        let may_skip = self.topics[place.0].trimmed == Trimmed::Sometimes || self.is_lossy(place);
        for record in records.iter() {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    self.violation(format!("S14: {name} was given {error}"));
                    continue;
                }
            };
            let (offset, next) = (record.offset.0, due.entry(place).or_insert(0));
            if offset < *next && !self.is_lossy(place) {
                self.violation(format!(
                    "H6: {name} {place:?}: {offset} where {next} is due"
                ));
            } else if offset > *next && !may_skip {
                self.violation(format!(
                    "H5: {name} {place:?}: {offset} where {next} is due"
                ));
            }
            *next = offset + 1;
            let mark = record.value.and_then(Mark::of);
            let read = self.ledger.borrow_mut().read(place, offset, mark);
            if let Err(what) = read
                && !self.is_lossy(place)
            {
                self.violation(what);
            }
        }
        self.trace.detail(
            name,
            format_args!("{place:?}: {first:?} to {:?}", due.get(&place)),
        );
    }

    /// Asks where partitions end: never before what was acknowledged when it asked.
    pub(in crate::simulation::cluster) async fn ask_for_ends(self: Rc<Self>) -> turmoil::Result {
        let name = "asker";
        let mut random = Random::new(self.plan.seed, 840);
        self.topics_are_there().await;
        let client = self.client(name, &mut random).await;
        while !self.stop.get() {
            sleep(random.ms(5..120)).await;
            let topic = random.index(self.topics.len());
            let since = self.now().saturating_sub(KNOWS_WITHIN);
            let least = |partition| {
                let ledger = self.ledger.borrow();
                ledger.acknowledged_end((topic, partition), since)
            };
            let least: Vec<i64> = (0..PARTITIONS).map(least).collect();
            let admin = client.admin();
            let told = admin.list_offsets(self.topics[topic].name, OffsetQuery::Latest);
            let Ok(told) = timeout(Duration::from_secs(3), told).await else {
                continue;
            };
            match told {
                Ok(ends) => {
                    self.ends_asked.set(self.ends_asked.get() + 1);
                    let ends = ends
                        .iter()
                        .map(|end| end.offset.map_or(0, |offset| offset.0));
                    for ((partition, least), end) in (0..).zip(least).zip(ends) {
                        self.check_end((topic, partition), end, least);
                    }
                }
                Err(error) => self.trace.detail(name, format_args!("{topic}: {error}")),
            }
        }
        Ok(())
    }

    fn check_end(&self, place: Place, end: i64, least: i64) {
        let is_promised = self.topics[place.0].acks == Acks::All;
        if end < least && is_promised && !self.is_lossy(place) {
            self.violation(format!(
                "H9: {place:?} is said to end at {end}, and {least} was acknowledged long ago"
            ));
        }
    }

    /// Reads everything from its beginning, and holds it against all that is known.
    pub(in crate::simulation::cluster) async fn read_all(
        self: Rc<Self>,
        after: After,
    ) -> turmoil::Result {
        let name = "examiner";
        let mut random = Random::new(self.plan.seed, 850);
        let client = self.client(name, &mut random).await;
        // What may be lost with all copies at once is led by nobody then.
        let is_kept =
            |topic: &TopicPlan| after == After::Faults || topic.survives_power_cut_of_all();
        let mut consumer = self
            .consumer(name, &client, super::near(0, &self.plan), is_kept)
            .await;
        let starts: BTreeMap<Place, i64> = consumer
            .positions()
            .iter()
            .filter_map(|it| Some((self.place(&it.topic, it.partition)?, it.offset.0)))
            .collect();
        let mut found: BTreeMap<Place, Vec<(i64, Option<Mark>)>> = BTreeMap::new();
        let mut tries = 0;
        loop {
            match consumer.poll_to_end().await {
                Ok(None) => break,
                Ok(Some(records)) => {
                    let Some(place) = self.place(records.topic(), records.partition()) else {
                        continue;
                    };
                    let partition = found.entry(place).or_default();
                    for record in records.iter() {
                        let record = record?;
                        partition.push((record.offset.0, record.value.and_then(Mark::of)));
                    }
                }
                Err(error) if tries < EXAMINED_WITHIN => {
                    self.trace.note(name, format_args!("poll: {error}"));
                    tries += 1;
                    sleep(Duration::from_millis(500)).await;
                }
                Err(error) => {
                    self.violation(format!("S14: {name} cannot read: {error}"));
                    break;
                }
            }
        }
        for (place, start) in starts {
            let records = found.remove(&place).unwrap_or_default();
            self.examine(place, start, &records, after);
        }
        Ok(())
    }

    /// Reads everything from the copies on one machine where it can, so that whatever has gone bad
    /// there is found.
    pub(in crate::simulation::cluster) async fn read_copies_near(
        self: Rc<Self>,
        machine: usize,
    ) -> turmoil::Result {
        let name = format!("reader-near-{machine}");
        let mut random = Random::new(self.plan.seed, 880 + machine as u64);
        let client = self.client(&name, &mut random).await;
        let options = ConsumerOptions {
            rack: Some(rack_of(machine)),
            out_of_range: OutOfRange::Beginning,
            ..ConsumerOptions::default()
        };
        let mut consumer = self.consumer(&name, &client, options, |_| true).await;
        let mut tries = 0;
        loop {
            match consumer.poll_to_end().await {
                Ok(None) => return Ok(()),
                Ok(Some(_)) => {}
                Err(error) => {
                    self.trace.note(&name, format_args!("poll: {error}"));
                    tries += 1;
                    if tries > EXAMINED_WITHIN {
                        self.violation(format!("S14: {name} cannot read: {error}"));
                        return Ok(());
                    }
                    sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    fn examine(&self, place: Place, start: i64, records: &[(i64, Option<Mark>)], after: After) {
        let topic = &self.topics[place.0];
        self.found.set(self.found.get() + records.len() as u64);
        self.trace.detail(
            "examiner",
            format_args!("{place:?} from {start}: {records:?}"),
        );
        let is_promised = after == After::Faults || topic.survives_power_cut_of_all();
        if self.is_lossy(place) || !is_promised {
            return;
        }
        let found = Found { start, records };
        let ledger = self.ledger.borrow();
        let may_be_lost = |mark, offset| self.may_be_lost(place, mark, offset);
        for violation in ledger.check(place, &found, may_be_lost) {
            self.violation(violation);
        }
    }
}

/// After what everything is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::simulation::cluster) enum After {
    /// After all that went wrong, once everything is whole again.
    Faults,
    /// After the power went everywhere at once.
    PowerCut,
}

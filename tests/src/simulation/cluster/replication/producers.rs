//! Producers: each writes marked records to its topics, and notes what it was told.

use std::{collections::VecDeque, rc::Rc, time::Duration};

use strandline_client::{
    Client, ClientError, Delivery, NewRecord, Producer, ProducerOptions,
    protocol::{ErrorClass, PartitionId, messages::Acks},
};
use tokio::time::sleep;

use super::{Replication, ledger::Place, topics::PARTITIONS};
use crate::{
    history::{Mark, Outcome},
    random::Random,
};

/// Deliveries that one producer awaits at once.
const WAITING_MAX: usize = 120;

/// How many producers there are.
pub(in crate::simulation::cluster) const PRODUCERS: u32 = 4;

/// What one producer does.
#[derive(Clone, Copy, Debug)]
struct Duties {
    acks: Acks,
    /// How long it waits for a delivery: one that gives up early leaves records of unknown outcome.
    patience: Duration,
}

impl Duties {
    const fn of(number: u32) -> Self {
        let patience = Duration::from_secs(if number == 1 { 1 } else { 600 });
        let acks = if number < 3 { Acks::All } else { Acks::Leader };
        Self { acks, patience }
    }

    const fn options(self) -> ProducerOptions {
        ProducerOptions {
            acks: self.acks,
            batch_bytes: 2048,
            linger: Duration::ZERO,
            in_flight_max: 5,
            memory_bytes_max: 64 << 20,
            delivery_timeout: self.patience,
            // A connection counts as broken after this and the timeout of requests.
            acks_timeout: Duration::from_millis(1500),
            compression: strandline_client::Compression::Topic,
            partitioner: strandline_client::Partitioner::KeyHash,
        }
    }
}

/// A delivery that is awaited.
type Awaited = (Place, Mark, Delivery);

impl Replication {
    /// One producer, until it is told to stop and has heard of everything.
    pub(in crate::simulation::cluster) async fn produce(
        self: Rc<Self>,
        number: u32,
    ) -> turmoil::Result {
        let name = format!("writer-{number}");
        let duties = Duties::of(number);
        let mut random = Random::new(self.plan.seed, 810 + u64::from(number));
        self.topics_are_there().await;
        let client = self.client(&name, &mut random).await;
        let producer = client.producer(duties.options())?;
        let places = self.places(|topic| topic.acks == duties.acks);
        let (mut counter, mut waiting) = (0, VecDeque::new());
        while !self.stop.get() {
            let pause = self.produce_some(&producer, &places, (number, &mut counter), &mut random);
            waiting.extend(pause.await);
            while waiting.len() > WAITING_MAX {
                self.settle(&name, &mut waiting).await;
            }
            // Now and then it is quiet, so that there is nothing that is not replicated.
            let is_quiet = random.one_in(60);
            sleep(random.ms(if is_quiet { 200..1500 } else { 2..40 })).await;
        }
        while !waiting.is_empty() {
            self.settle(&name, &mut waiting).await;
        }
        let closed = producer.close().await;
        self.trace.note(&name, format_args!("{closed:?}"));
        drop::<Client>(client);
        self.writers_left.set(self.writers_left.get() - 1);
        Ok(())
    }

    async fn produce_some(
        &self,
        producer: &Producer,
        places: &[Place],
        (number, counter): (u32, &mut u64),
        random: &mut Random,
    ) -> Vec<Awaited> {
        let mut sent = Vec::new();
        for _ in 0..random.within(1..8) {
            let place = places[random.index(places.len())];
            let mark = Mark {
                producer: number,
                counter: *counter,
            };
            *counter += 1;
            let value = mark.value(random.index(300) + 24);
            let record = NewRecord::to(self.topics[place.0].name)
                .partition(PartitionId(place.1))
                .value(&value);
            self.ledger.borrow_mut().sent(place, mark, self.now());
            match producer.send(record).await {
                Ok(delivery) => sent.push((place, mark, delivery)),
                Err(error) => self.told(place, mark, Err(&error)),
            }
        }
        sent
    }

    /// Awaits the oldest delivery.
    async fn settle(&self, name: &str, waiting: &mut VecDeque<Awaited>) {
        let Some((place, mark, delivery)) = waiting.pop_front() else {
            return;
        };
        let delivered = delivery.await;
        let offset = delivered
            .as_ref()
            .map(|position| position.offset.map_or(-1, |offset| offset.0));
        self.trace
            .detail(name, format_args!("{place:?} {}: {offset:?}", mark.counter));
        self.told(place, mark, offset);
    }

    fn told(&self, place: Place, mark: Mark, told: Result<i64, &ClientError>) {
        let outcome = match told {
            Ok(offset) => Outcome::Acknowledged(offset),
            Err(error) => {
                if error.class() == ErrorClass::Fenced {
                    let name = mark.producer;
                    self.violation(format!("S9: writer {name} was fenced by nobody: {error}"));
                }
                match error.class() {
                    ErrorClass::OutcomeUnknown => Outcome::Unknown,
                    _ => Outcome::Refused,
                }
            }
        };
        let mut ledger = self.ledger.borrow_mut();
        ledger.told(place, mark, outcome, self.now());
    }

    /// The partitions of the topics that fit.
    fn places(&self, fits: impl Fn(&super::topics::TopicPlan) -> bool) -> Vec<Place> {
        let topics = self.topics.iter().enumerate();
        let fitting = topics.filter(|(_, topic)| fits(topic));
        let places = fitting.flat_map(|(topic, _)| (0..PARTITIONS).map(move |it| (topic, it)));
        places.collect()
    }
}

//! Asks the controller for changes of who is in sync.
//!
//! *Patterns: request batch, consistent core.* Partitions decide what to ask for (core does); here
//! it is gathered, so that a broker that has lost a follower asks once and not a thousand times.
//! One request is under way at a time; what is proposed meanwhile fills the next.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use strandline_core::{
    metadata::{Command, Reply},
    replica::{IsrProposal, ProposalOutcome},
};
use strandline_protocol::{
    BrokerEpoch, BrokerId, ErrorCode, TopicPartition,
    limits::ENTRIES_PER_REQUEST_MAX,
    messages::{AlterPartition, AlterPartitionsRequest, AlterPartitionsResponse},
};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};

use super::{Partition, Partitions};
use crate::metadata::MetadataLog;

/// How often partitions are looked at at least, if followers may be behind for so long.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// What waits to be asked for.
#[derive(Debug, Default)]
pub struct Proposals {
    waiting: Mutex<Vec<(Arc<Partition>, IsrProposal)>>,
    arrived: Notify,
}

impl Proposals {
    /// Has a change asked for. The partition hears of the outcome.
    pub fn push(&self, partition: &Arc<Partition>, proposal: IsrProposal) {
        self.waiting.lock().push((Arc::clone(partition), proposal));
        self.arrived.notify_one();
    }

    /// Takes as many as fit one request.
    fn take(&self) -> Vec<(Arc<Partition>, IsrProposal)> {
        let mut waiting = self.waiting.lock();
        let count = waiting.len().min(ENTRIES_PER_REQUEST_MAX);
        waiting.drain(..count).collect()
    }
}

/// What asks.
#[derive(Debug)]
pub struct IsrDriver {
    /// This broker.
    pub broker: BrokerId,
    /// The way to the controller.
    pub metadata: MetadataLog,
    /// What to look at.
    pub partitions: Arc<Partitions>,
    /// What to ask for.
    pub proposals: Arc<Proposals>,
    /// How long a follower may be behind.
    pub lag_max: Duration,
}

impl IsrDriver {
    /// Looks at every partition from time to time, and asks for what is due. Runs until it is
    /// dropped.
    pub async fn run(self) {
        let looking = async {
            let mut ticks = interval((self.lag_max / 4).min(LOOK_MAX));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if self.metadata.image().brokers().nth(1).is_none() {
                    // Who is alone has no followers.
                    continue;
                }
                for partition in self.partitions.all() {
                    partition.look_after_isr();
                }
            }
        };
        let asking = async {
            loop {
                self.proposals.arrived.notified().await;
                loop {
                    let some = self.proposals.take();
                    if some.is_empty() {
                        break;
                    }
                    self.ask(some).await;
                }
            }
        };
        tokio::join!(looking, asking);
    }

    async fn ask(&self, proposals: Vec<(Arc<Partition>, IsrProposal)>) {
        let own = self.metadata.image();
        let own = own.broker(self.broker);
        let request = AlterPartitionsRequest {
            broker_id: self.broker,
            broker_epoch: own.map_or(BrokerEpoch(-1), |own| own.epoch),
            partitions: proposals
                .iter()
                .map(|(partition, proposal)| wanted(partition.id(), proposal))
                .collect(),
        };
        let command = Command::AlterPartitions(request);
        let answer = match self.metadata.propose(command).await {
            Ok(Reply::AlterPartitions(answer)) => answer,
            Ok(_) => AlterPartitionsResponse {
                partitions: Vec::new(),
            },
            Err(failure) => {
                tracing::debug!("who is in sync cannot be changed now: {}", failure.message);
                AlterPartitionsResponse {
                    partitions: Vec::new(),
                }
            }
        };
        let mut answers = answer.partitions.into_iter();
        for (partition, proposal) in proposals {
            let outcome = match answers.next() {
                Some(answer) => {
                    tell(&partition, &proposal, &answer.failure);
                    ProposalOutcome::of(answer.failure.error, answer.partition_epoch)
                }
                None => ProposalOutcome::Unknown,
            };
            partition.proposal_answered(&proposal, outcome);
        }
    }
}

fn wanted(id: TopicPartition, proposal: &IsrProposal) -> AlterPartition {
    AlterPartition {
        topic_id: id.topic,
        partition: id.partition,
        leader_epoch: proposal.leader_epoch,
        partition_epoch: proposal.partition_epoch,
        isr: proposal.isr.clone(),
    }
}

/// The line for whoever reads the log.
fn tell(
    partition: &Partition,
    proposal: &IsrProposal,
    failure: &strandline_protocol::messages::Failure,
) {
    let isr: Vec<String> = proposal
        .isr
        .iter()
        .map(|replica| replica.broker_id.to_string())
        .collect();
    let (topic, number) = (partition.topic(), partition.id().partition);
    if failure.error.is_none() || failure.error == ErrorCode::NEW_LEADER_ELECTED {
        tracing::info!(topic, partition = %number, isr = isr.join(","), "in sync");
    } else {
        tracing::info!(
            topic, partition = %number, isr = isr.join(","),
            "not put in sync: {} ({})", failure.message, failure.error
        );
    }
}

//! `strandline topic reassign`: where the replicas of a partition lie.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use strandline_protocol::{BrokerId, PartitionId};

use super::progress::{Moving, follow};
use crate::cli::{
    connection::{ConnectionArguments, check_partition, describe},
    error::CommandError,
    output::print_text,
    values::{byte_size, topic_name},
};

/// Move the replicas of a partition to other brokers.
///
/// The partition serves meanwhile. New replicas are added and catch up first; the old ones go once
/// the new ones are in sync, so that there are never fewer copies than before. More brokers than
/// before raise the replication factor, fewer lower it. The first broker is the preferred leader.
///
/// The command shows how far it is and ends when it is done. If it is interrupted, the move goes on
/// by itself: the same command shows it again, and --cancel takes it back. The order of the
/// replicas may be another one then, and with it the preferred leader: the next reassign sets it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline topic reassign orders --partition 0 --replicas 2,3,4
  strandline topic reassign orders --partition 0 --replicas 2,3,4 --throttle 50MB
  strandline topic reassign orders --partition 0 --cancel")]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct ReassignArguments {
    /// Which topic.
    #[arg(value_name = "NAME", value_parser = topic_name)]
    pub name: String,
    /// Which partition.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: i32,
    /// The brokers that are to keep it, the preferred leader first.
    #[arg(long, value_name = "ID[,ID]", value_delimiter = ',', group = "what")]
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    pub replicas: Vec<i32>,
    /// Take back a move that is under way: replicas that were being added go.
    #[arg(long, group = "what")]
    pub cancel: bool,
    /// How many bytes a second each broker may fetch for replicas that are being added, in the
    /// whole cluster and from now on; 0 takes the limit away.
    #[arg(long, value_name = "BYTES/s", value_parser = byte_size)]
    pub throttle: Option<usize>,
    /// End once it has begun, and do not wait until it is done.
    #[arg(long)]
    pub no_wait: bool,
}

impl ReassignArguments {
    /// Runs the command.
    ///
    /// # Errors
    /// What the controller refuses.
    pub async fn run(self, connection: &ConnectionArguments) -> Result<(), CommandError> {
        let wanted: Vec<BrokerId> = self.replicas.iter().copied().map(BrokerId).collect();
        let unique: BTreeSet<_> = wanted.iter().collect();
        if unique.len() != wanted.len() {
            return Err(CommandError::usage("--replicas names a broker twice")
                .hint("a broker keeps a partition once"));
        }
        let client = connection.connect().await?;
        let topic = describe(&client, &self.name).await?;
        check_partition(&topic, Some(self.partition))?;
        let id = PartitionId(self.partition);
        let leader = topic.partitions.iter().find(|it| it.id == id);
        if !self.cancel && leader.is_some_and(|it| it.leader.is_none()) {
            return Err(without_leader(&self.name, id));
        }
        let admin = client.admin();
        let to = BTreeMap::from([(id, (!self.cancel).then(|| wanted.clone()))]);
        let throttle = self
            .throttle
            .map(|bytes| u64::try_from(bytes).unwrap_or(u64::MAX));
        let changes = admin.reassign_partitions(&self.name, &to, throttle).await?;
        for change in changes {
            change.outcome?;
        }
        let (name, partition) = (&self.name, self.partition);
        if !self.no_wait {
            let moving = Moving::from([(name.clone(), BTreeSet::from([id]))]);
            follow(&admin, &moving).await?;
        }
        let now = describe(&client, name).await?;
        let found = now.partitions.iter().find(|it| it.id == id);
        let replicas = found.map_or(&[][..], |it| it.replicas.as_slice());
        let is_as_wanted = self.no_wait || self.cancel || replicas == wanted;
        let replicas: Vec<String> = replicas.iter().map(ToString::to_string).collect();
        let replicas = replicas.join(", ");
        if !is_as_wanted {
            return Err(CommandError::failure(format!(
                "{name} partition {partition} lies on brokers {replicas}: somebody cancelled this \
                 move, or gave it another goal"
            ))
            .hint(format!(
                "`strandline topic describe {name}` shows where its replicas are; ask again if \
                 they shall move"
            )));
        }
        let done = match (self.no_wait, self.cancel) {
            (true, _) => "moves; its replicas are now",
            (false, true) => "is not moved any more; it lies on brokers",
            (false, false) => "lies on brokers",
        };
        print_text(&format!("{name} partition {partition} {done} {replicas}\n"))
    }
}

/// Why nothing of a partition can be moved that nobody leads.
pub(in crate::cli) fn without_leader(topic: &str, partition: PartitionId) -> CommandError {
    CommandError::failure(format!(
        "{topic} partition {partition} has no leader, so that its records cannot be copied; \
         nothing is moved"
    ))
    .hint(format!(
        "start the brokers that have everything (strandline topic describe {topic}); if they are \
         gone for good, give up what only they had: strandline topic elect-preferred {topic} \
         --partition {partition} --unclean --accept-data-loss, or strandline topic delete {topic}"
    ))
}

//! `strandline topic elect-preferred`: who leads.

use clap::Args;
use strandline_client::{Admin, ClientError, PartitionChange, TopicDescription};
use strandline_protocol::{ErrorCode, PartitionId, messages::Election};

use crate::cli::{
    connection::{ConnectionArguments, check_partition, describe},
    error::CommandError,
    output::{Rows, print_text},
    quantity::{counted, length},
    values::topic_name,
};

/// Have the preferred replica lead: the first of REPLICAS in `topic describe`.
///
/// After a restart leaderships stay where they are until they are balanced, which the cluster does
/// by itself after a while; this does it now. A partition whose preferred replica leads already, or
/// is not in sync, is left as it is.
///
/// With --unclean, a partition that nobody leads gets any replica that lives as its leader, also
/// one that lacks records which were acknowledged: they are lost for good, and consumers may see
/// other records at offsets that they have read. It is the last resort when the brokers that have
/// everything will never come back.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline topic elect-preferred orders
  strandline topic elect-preferred orders --partition 3 --unclean --accept-data-loss")]
pub struct ElectArguments {
    /// Which topic.
    #[arg(value_name = "NAME", value_parser = topic_name)]
    pub name: String,
    /// Only this partition; all of them otherwise.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// Where nobody leads, any replica that lives may: records that were acknowledged may be lost.
    #[arg(long)]
    pub unclean: bool,
    /// Says that you know what --unclean means.
    #[arg(long, requires = "unclean")]
    pub accept_data_loss: bool,
}

impl ElectArguments {
    /// Runs the command.
    ///
    /// # Errors
    /// If a partition could not be given its leader.
    pub async fn run(self, connection: &ConnectionArguments) -> Result<(), CommandError> {
        let election = self.election()?;
        let client = connection.connect().await?;
        let topic = describe(&client, &self.name).await?;
        let partitions = match check_partition(&topic, self.partition)? {
            Some(partition) => vec![partition],
            None => wanted(&topic, election),
        };
        if partitions.is_empty() {
            return print_text(&format!("every partition of {} has a leader\n", self.name));
        }
        let admin = client.admin();
        let changes = admin
            .elect_leaders(&self.name, &partitions, election)
            .await?;
        self.tell(&admin, &changes).await
    }

    fn election(&self) -> Result<Election, CommandError> {
        match (self.unclean, self.accept_data_loss) {
            (false, _) => Ok(Election::Preferred),
            (true, true) => Ok(Election::Unclean),
            (true, false) => Err(CommandError::usage(
                "an unclean election may lose records that were acknowledged, for good",
            )
            .hint(
                "start the brokers that `strandline topic describe` shows as in sync or eligible; \
                 if they are gone for good, say --accept-data-loss",
            )),
        }
    }

    async fn tell(&self, admin: &Admin, changes: &[PartitionChange]) -> Result<(), CommandError> {
        let now = admin.describe_topics(&[&self.name]).await?;
        let leader = |id: PartitionId| {
            let partitions = now.iter().flat_map(|topic| &topic.partitions);
            let mut found = partitions.filter(|partition| partition.id == id);
            found.next().and_then(|partition| partition.leader)
        };
        let mut rows = Rows::new(&["PARTITION#", "LEADER#", "RESULT"]);
        let mut failed = 0;
        for change in changes {
            let result = match &change.outcome {
                Ok(()) => "elected".to_owned(),
                Err(error) if is_not_needed(error) => "as it was".to_owned(),
                Err(error) => {
                    failed += 1;
                    CommandError::from(error.clone()).message().to_owned()
                }
            };
            let leader = leader(change.partition);
            rows.push([
                change.partition.to_string(),
                leader.map_or_else(|| "-".to_owned(), |leader| leader.to_string()),
                result,
            ]);
        }
        rows.print()?;
        if failed == 0 {
            return Ok(());
        }
        let partitions = counted(length(failed), "partition");
        let error = CommandError::failure(format!("{partitions} could not be changed"));
        Err(error.hint("`strandline topic describe` shows who is in sync"))
    }
}

/// Which partitions an election of a whole topic is about.
fn wanted(topic: &TopicDescription, election: Election) -> Vec<PartitionId> {
    let partitions = topic.partitions.iter();
    let wanted = partitions.filter(|it| election == Election::Preferred || it.leader.is_none());
    wanted.map(|partition| partition.id).collect()
}

fn is_not_needed(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Refused {
            code: ErrorCode::ELECTION_NOT_NEEDED,
            ..
        }
    )
}

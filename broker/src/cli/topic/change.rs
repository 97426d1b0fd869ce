//! Commands that change topics. What was done is told on standard error.

use std::collections::BTreeMap;

use strandline_client::{Admin, Client};
use strandline_protocol::{
    Offset, PartitionId,
    messages::{ConfigChange, NewPartitions, NewTopic, OffsetQuery},
};

use super::{AlterArguments, CreateArguments, DeleteArguments, TrimArguments};
use crate::cli::{
    connection::{check_partition, describe},
    error::CommandError,
    position::Bound,
    quantity::{counted, length},
    values::Pair,
};

/// The topic that was asked for.
///
/// # Errors
/// If a key is given twice.
pub fn new_topic(topic: CreateArguments) -> Result<NewTopic, CommandError> {
    let mut configs = BTreeMap::new();
    for Pair { key, value } in topic.config {
        if configs.insert(key.clone(), value).is_some() {
            return Err(CommandError::usage(format!("--config names {key} twice"))
                .hint("give every key once"));
        }
    }
    Ok(NewTopic {
        name: topic.name,
        partitions: topic.partitions,
        replication_factor: topic.replication_factor,
        configs,
    })
}

/// Creates a topic.
pub async fn create(admin: &Admin, new: NewTopic) -> Result<(), CommandError> {
    let name = new.name.clone();
    admin.create_topics(&[new]).await?;
    eprintln!("created topic {name}");
    Ok(())
}

/// Deletes a topic.
pub async fn delete(admin: &Admin, topic: &DeleteArguments) -> Result<(), CommandError> {
    admin.delete_topics(&[&topic.name]).await?;
    eprintln!("deleted topic {}", topic.name);
    Ok(())
}

/// The changes of settings that were asked for.
///
/// # Errors
/// If a key is changed twice.
pub fn changes(topic: &AlterArguments) -> Result<Vec<ConfigChange>, CommandError> {
    let set = topic.config.iter().map(|pair| ConfigChange {
        key: pair.key.clone(),
        value: Some(pair.value.clone()),
    });
    let unset = topic.delete_config.iter().map(|key| ConfigChange {
        key: key.clone(),
        value: None,
    });
    let mut changes: Vec<ConfigChange> = set.chain(unset).collect();
    changes.sort_by(|one, other| one.key.cmp(&other.key));
    let twice = changes.windows(2).find_map(|pair| match pair {
        [one, other] if one.key == other.key => Some(&one.key),
        _ => None,
    });
    match twice {
        Some(key) => Err(CommandError::usage(format!("{key} is changed twice"))
            .hint("give every key once, in --config or in --delete-config")),
        None => Ok(changes),
    }
}

/// Changes the configuration, then the number of partitions.
pub async fn alter(
    admin: &Admin,
    topic: &AlterArguments,
    changes: Vec<ConfigChange>,
) -> Result<(), CommandError> {
    if !changes.is_empty() {
        let count = changes.len();
        admin.alter_configs(&topic.name, changes).await?;
        let settings = counted(length(count), "setting");
        eprintln!("changed {settings} of topic {}", topic.name);
    }
    if let Some(total) = topic.partitions {
        let more = NewPartitions {
            name: topic.name.clone(),
            total,
        };
        admin.create_partitions(&[more]).await?;
        let total = counted(u64::try_from(total).unwrap_or_default(), "partition");
        eprintln!("topic {} has {total}", topic.name);
    }
    Ok(())
}

/// Deletes the records before an offset or a time.
pub async fn trim(client: &Client, topic: &TrimArguments) -> Result<(), CommandError> {
    let admin = client.admin();
    let known = describe(client, &topic.name).await?;
    let only = check_partition(&known, topic.partition)?;
    let wanted = |partition: PartitionId| only.is_none_or(|only| only == partition);
    // A partition without a record of that time or later is emptied: no offset stands for its end.
    let bounds: BTreeMap<PartitionId, Option<Offset>> = match topic.before {
        Bound::Offset(offset) => known
            .partitions
            .iter()
            .map(|it| (it.id, Some(offset)))
            .collect(),
        Bound::Time(time) => {
            let found = admin
                .list_offsets(&topic.name, OffsetQuery::At(time))
                .await?;
            found.iter().map(|it| (it.partition, it.offset)).collect()
        }
    };
    let bounds = bounds
        .into_iter()
        .filter(|(partition, _)| wanted(*partition))
        .collect();
    for left in admin.delete_records(&topic.name, &bounds).await? {
        let (name, partition, start) = (&topic.name, left.partition, left.log_start_offset);
        eprintln!("{name} partition {partition} begins at offset {start}");
    }
    Ok(())
}

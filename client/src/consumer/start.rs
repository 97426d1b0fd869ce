//! Where reading begins, and how that becomes an offset.

use std::collections::BTreeMap;

use strandline_protocol::{Offset, PartitionId, Timestamp, messages::OffsetQuery};

use crate::{
    ClientError,
    routing::{Cluster, Topic},
};

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// At the first record that there is.
    Beginning,
    /// Behind the last record that there is now.
    End,
    /// At this offset.
    Offset(Offset),
    /// At the first record of this time or later; at the end if there is none.
    Time(Timestamp),
    /// So many offsets before the end, or at the beginning if there are fewer.
    FromEnd(u64),
}

/// The offsets that `starts` stand for.
pub(super) async fn look_up(
    cluster: &Cluster,
    topic: &Topic,
    starts: &BTreeMap<PartitionId, StartAt>,
) -> Result<BTreeMap<PartitionId, Offset>, ClientError> {
    for &partition in starts.keys() {
        topic.check(partition)?;
    }
    let ask = async |query: fn(StartAt) -> Option<OffsetQuery>| {
        let queries = starts.iter();
        let queries = queries.filter_map(|(&id, &start)| Some((id, query(start)?)));
        let queries: BTreeMap<_, _> = queries.collect();
        if queries.is_empty() {
            return Ok(BTreeMap::new());
        }
        cluster.list_offsets(topic, &queries).await
    };
    let begins = ask(|start| match start {
        StartAt::Beginning | StartAt::FromEnd(_) => Some(OffsetQuery::Earliest),
        StartAt::Time(time) => Some(OffsetQuery::At(time)),
        StartAt::End | StartAt::Offset(_) => None,
    })
    .await?;
    let ends = ask(|start| match start {
        StartAt::End | StartAt::FromEnd(_) | StartAt::Time(_) => Some(OffsetQuery::Latest),
        StartAt::Beginning | StartAt::Offset(_) => None,
    })
    .await?;
    let offset_of = |found: &BTreeMap<_, crate::ListedPartition>, partition| {
        found.get(&partition).and_then(|listed| listed.offset)
    };
    let offsets = starts.iter().map(|(&partition, &start)| {
        let begin = offset_of(&begins, partition);
        let end = offset_of(&ends, partition);
        let offset = match start {
            StartAt::Offset(offset) => Some(offset),
            StartAt::Beginning => begin,
            StartAt::End => end,
            StartAt::Time(_) => begin.or(end),
            StartAt::FromEnd(records) => {
                let records = i64::try_from(records).unwrap_or(i64::MAX);
                let start = end.map(|end| end.plus(-records));
                start.max(begin)
            }
        };
        (partition, offset.unwrap_or(Offset::ZERO))
    });
    Ok(offsets.collect())
}

#[cfg(test)]
mod tests {
    use super::StartAt;
    use crate::Consumer;

    fn is_send(_: impl Send) {}

    /// Whether it compiles is the test: each of these can be awaited in a task of its own.
    #[test]
    fn a_consumer_can_be_moved_to_a_task() {
        fn check(mut consumer: Consumer) {
            is_send(consumer.assign(&[]));
            is_send(consumer.assign_topic("tides", StartAt::Beginning));
            is_send(consumer.seek("tides", crate::protocol::PartitionId(0), StartAt::End));
            is_send(consumer.poll());
            is_send(consumer.poll_to_end());
            is_send(consumer.end_offsets());
            is_send(consumer);
        }
        let _ = check;
    }
}

//! What the directories inside of a data directory are called.
//!
//! `<topic>-<partition>` is a partition; `….<32 hexadecimal digits>-delete` is one that is being
//! deleted, `…-stray` one that was set aside. The names are Kafka's.

use std::{fmt, str::FromStr};

use strandline_protocol::{PartitionId, TopicId};

/// The longest name that common file systems take.
const NAME_BYTES_MAX: usize = 255;

/// A partition as the disk knows it: by the name of its topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionName {
    /// The topic.
    pub topic: String,
    /// The partition within it.
    pub partition: PartitionId,
}

impl fmt::Display for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// The text is not `<topic>-<partition>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a partition: <topic>-<number> is expected")]
pub struct NotAPartition;

impl FromStr for PartitionName {
    type Err = NotAPartition;

    fn from_str(text: &str) -> Result<Self, NotAPartition> {
        let (topic, number) = text.rsplit_once('-').ok_or(NotAPartition)?;
        let partition: i32 = number.parse().map_err(|_| NotAPartition)?;
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let name = Self {
            topic: topic.to_owned(),
            partition: PartitionId(partition),
        };
        // One partition has one name: `t-01` or `t-+1` would be a second one of `t-1`.
        let is_canonical = partition >= 0 && name.to_string() == text;
        if topic.is_empty() || !topic.bytes().all(is_legal) || !is_canonical {
            return Err(NotAPartition);
        }
        Ok(name)
    }
}

/// Why a directory does not carry the name of its partition any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetAside {
    /// Its files are being removed.
    Delete,
    /// Nobody knows it; an operator may want to look at it.
    Stray,
}

impl SetAside {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Delete => "-delete",
            Self::Stray => "-stray",
        }
    }

    /// What `name` is called once it is set aside. `unique` keeps it apart from others of its name.
    pub(super) fn name(self, name: &PartitionName, unique: [u8; 16]) -> String {
        let number = u128::from_be_bytes(unique);
        let tail = format!("-{}.{number:032x}{}", name.partition, self.suffix());
        let mut topic = name.topic.clone();
        // The topic is ASCII, and is only there for people to read.
        topic.truncate(NAME_BYTES_MAX.saturating_sub(tail.len()));
        topic + &tail
    }
}

/// What a directory is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DirectoryKind {
    Partition(PartitionName),
    SetAside(SetAside),
    Foreign,
}

impl DirectoryKind {
    pub(super) fn of(name: &str) -> Self {
        for aside in [SetAside::Delete, SetAside::Stray] {
            if name
                .strip_suffix(aside.suffix())
                .is_some_and(has_unique_end)
            {
                return Self::SetAside(aside);
            }
        }
        name.parse().map_or(Self::Foreign, Self::Partition)
    }
}

/// The id in the text of a `partition.metadata` file; none if the text is not one.
#[must_use]
pub fn topic_id_in(partition_metadata: &str) -> Option<TopicId> {
    let mut lines = partition_metadata.lines();
    let (version, id) = (lines.next()?, lines.next()?);
    if version.trim() != "version: 0" || lines.any(|line| !line.trim().is_empty()) {
        return None;
    }
    id.trim().strip_prefix("topic_id: ")?.parse().ok()
}

fn has_unique_end(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, unique)| {
        unique.len() == 32 && unique.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_known_by_their_names() {
        for good in [
            "a-0",
            "a-b-12",
            "__cluster_metadata-0",
            "a--1",
            "9.9-2147483647",
        ] {
            let name: PartitionName = good.parse().unwrap();
            assert_eq!(name.to_string(), good);
            assert_eq!(DirectoryKind::of(good), DirectoryKind::Partition(name));
        }
        for bad in [
            "a",
            "-0",
            "a-",
            "a-01",
            "a-+1",
            "a-2147483648",
            "a b-1",
            "ü-1",
            "a/b-1",
            "a-1x",
        ] {
            assert_eq!(bad.parse::<PartitionName>(), Err(NotAPartition), "{bad}");
        }
    }

    #[test]
    fn directories_set_aside_keep_a_name_that_fits() {
        let name = PartitionName {
            topic: "t".repeat(249),
            partition: PartitionId(i32::MAX),
        };
        for aside in [SetAside::Delete, SetAside::Stray] {
            let long = aside.name(&name, [0xab; 16]);
            assert_eq!(long.len(), 255);
            assert_eq!(DirectoryKind::of(&long), DirectoryKind::SetAside(aside));
            assert_eq!(long.parse::<PartitionName>(), Err(NotAPartition));
        }
        let short = "orders-3".parse().unwrap();
        let expected = format!("orders-3.{:032x}-delete", 7);
        assert_eq!(
            SetAside::Delete.name(&short, 7_u128.to_be_bytes()),
            expected
        );
        // A topic may be called like that; its directory still ends with its number.
        assert_eq!(
            "x-delete-0".parse::<PartitionName>().unwrap().topic,
            "x-delete"
        );
        assert_eq!(DirectoryKind::of("x-delete"), DirectoryKind::Foreign);
    }

    #[test]
    fn partition_metadata_names_the_topic() {
        let id = TopicId([5; 16]);
        assert_eq!(
            topic_id_in(&format!("version: 0\ntopic_id: {id}")),
            Some(id)
        );
        assert_eq!(
            topic_id_in(&format!("version: 0\ntopic_id: {id}\n")),
            Some(id)
        );
        assert_eq!(topic_id_in(&format!("version: 1\ntopic_id: {id}")), None);
        assert_eq!(topic_id_in("version: 0\ntopic_id: nonsense"), None);
        assert_eq!(topic_id_in(""), None);
    }
}

//! Whose data directory it is: `meta.properties`, and its twin under a checksum.
//!
//! The text is Kafka's, with one property of ours, `raft.id`. The twin `meta.sealed` says the same
//! under a checksum. A difference between the two is damage that somebody has to look at: the wrong
//! identity makes a broker vote with another's memory.

use std::{collections::BTreeMap, fmt, path::Path, str::FromStr};

use strandline_protocol::{BrokerId, ClusterId, DirectoryId};

use super::{
    atomic::{read_text, write_atomically},
    sealed::{self, Kind},
};
use crate::{error::StorageError, fs::FileSystem};

/// Kafka's name for the file.
const PROPERTIES: &str = "meta.properties";
/// The twin.
const TWIN: &str = "meta.sealed";
const TWIN_KIND: Kind = Kind {
    name: "meta",
    version: 1,
};

/// The identity of a member of the metadata quorum, drawn for a data directory and never used
/// again: a wiped disk is another member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RaftId(pub u64);

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose data directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node within it.
    pub node_id: BrokerId,
    /// The directory itself.
    pub directory_id: DirectoryId,
    /// The voter or learner that keeps its log here.
    pub raft_id: RaftId,
}

/// As whose a data directory is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What a new directory becomes. The ids in it are random, drawn by the caller. Its `node_id`
    /// is also held against that of an old one.
    pub identity: Identity,
    /// The cluster that an old directory must belong to, where that is known already.
    pub cluster_id: Option<ClusterId>,
    /// How many bytes are kept aside for a full disk; see
    /// [`super::DataDirectory::release_reserve`].
    pub reserve_bytes: u64,
}

/// Reads the identity of `directory`, or gives it one if it is new. The answer says which.
pub(super) fn establish(
    fs: &dyn FileSystem,
    directory: &Path,
    claim: &Claim,
    is_used: impl FnOnce() -> Result<bool, StorageError>,
) -> Result<(Identity, Origin), StorageError> {
    let properties = directory.join(PROPERTIES);
    let text = read_text(fs, &properties)?;
    let twin_path = directory.join(TWIN);
    let twin = match sealed::read(fs, &twin_path, TWIN_KIND)? {
        Some(lines) => Some(parse(&twin_path, &lines, None)?),
        None => None,
    };
    let (identity, origin) = match (&text, twin) {
        (None, Some(twin)) => (twin, Origin::Old),
        (Some(text), None) => (parse(&properties, text, Some(claim))?, Origin::Old),
        (Some(text), Some(twin)) => {
            if parse(&properties, text, None).ok() != Some(twin) {
                return Err(StorageError::damaged(
                    &properties,
                    format!(
                        "it differs from its twin {TWIN}, whose checksum is right: remove it, and \
                         it is written again"
                    ),
                ));
            }
            (twin, Origin::Old)
        }
        (None, None) if is_used()? => {
            return Err(StorageError::damaged(
                &properties,
                "it is missing, but there are partitions: restore it, or give an empty --data",
            ));
        }
        (None, None) => (claim.identity, Origin::New),
    };
    check(directory, &identity, claim)?;
    if twin.is_none() {
        sealed::write(fs, &twin_path, TWIN_KIND, &lines_of(&identity))?;
    }
    if text.is_none() {
        let text = format!(
            "# Whose directory this is. Written once; do not edit.\n{}",
            lines_of(&identity)
        );
        write_atomically(fs, &properties, text.as_bytes())?;
    }
    Ok((identity, origin))
}

/// The identity of `directory`; none if it has none. Changes nothing.
pub(super) fn look(
    fs: &dyn FileSystem,
    directory: &Path,
) -> Result<Option<Identity>, StorageError> {
    let (twin_path, properties) = (directory.join(TWIN), directory.join(PROPERTIES));
    if let Some(lines) = sealed::read(fs, &twin_path, TWIN_KIND)? {
        return parse(&twin_path, &lines, None).map(Some);
    }
    let Some(text) = read_text(fs, &properties)? else {
        return Ok(None);
    };
    // Kafka's has no Raft id, and what is not ours is not asked for it here.
    let any = Claim {
        identity: Identity {
            cluster_id: ClusterId::default(),
            node_id: BrokerId(0),
            directory_id: DirectoryId::default(),
            raft_id: RaftId::default(),
        },
        cluster_id: None,
        reserve_bytes: 0,
    };
    parse(&properties, &text, Some(&any)).map(Some)
}

/// Whether a data directory has been used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was empty, and has an identity now.
    New,
    /// It has been used before.
    Old,
}

fn lines_of(identity: &Identity) -> String {
    let Identity {
        cluster_id,
        node_id,
        directory_id,
        raft_id,
    } = identity;
    format!(
        "version=1\ncluster.id={cluster_id}\nnode.id={node_id}\ndirectory.id={directory_id}\n\
         raft.id={raft_id}\n"
    )
}

/// Reads properties. A directory that Kafka formatted lacks `raft.id`, which `claim` then gives.
fn parse(path: &Path, text: &str, claim: Option<&Claim>) -> Result<Identity, StorageError> {
    let properties: BTreeMap<&str, &str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', '!']))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect();
    if properties.get("version") != Some(&"1") {
        return Err(StorageError::damaged(path, "it does not say version=1"));
    }
    let raft_id = match (claim, properties.contains_key("raft.id")) {
        (Some(claim), false) => claim.identity.raft_id,
        _ => RaftId(property(path, &properties, "raft.id")?),
    };
    Ok(Identity {
        cluster_id: property(path, &properties, "cluster.id")?,
        node_id: BrokerId(property(path, &properties, "node.id")?),
        directory_id: property(path, &properties, "directory.id")?,
        raft_id,
    })
}

fn property<T: FromStr>(
    path: &Path,
    properties: &BTreeMap<&str, &str>,
    key: &'static str,
) -> Result<T, StorageError> {
    let value = properties
        .get(key)
        .ok_or_else(|| StorageError::damaged(path, format!("{key} is missing")))?;
    value
        .parse()
        .map_err(|_| StorageError::damaged(path, format!("{key} cannot be {value:?}")))
}

fn check(directory: &Path, identity: &Identity, claim: &Claim) -> Result<(), StorageError> {
    let foreign = |field, found: String, expected: String| StorageError::ForeignDirectory {
        directory: directory.to_path_buf(),
        field,
        found,
        expected,
    };
    if let Some(expected) = claim.cluster_id
        && expected != identity.cluster_id
    {
        let found = identity.cluster_id.to_string();
        return Err(foreign("cluster.id", found, expected.to_string()));
    }
    let expected = claim.identity.node_id;
    if expected != identity.node_id {
        let found = identity.node_id.to_string();
        return Err(foreign("node.id", found, expected.to_string()));
    }
    Ok(())
}

//! What a member of the metadata quorum has promised: `quorum.sealed`, beside the metadata log.
//!
//! *Pattern: majority quorum.* A member that forgot for whom it voted could vote twice in one term,
//! and the term would have two leaders. So the vote is durable before anybody hears of it, lies
//! under a checksum, and damage to it is never guessed around.
//!
//! ```text
//! 0      the vote, sealed, then zeros
//! 4096   the same, written after the first one was synced
//! 8192
//! ```
//!
//! The file is made once, at its full size, and written where it lies: on a disk that is full to
//! the last block a member can still vote. A vote counts once both copies are synced. So one copy
//! that is damaged, by a write that a power cut has torn or by rot, leaves another that counts: if
//! the copies differ, the first one is newer, and nobody has heard of it yet.

use std::{path::Path, sync::Arc};

use strandline_protocol::LeaderEpoch;

use super::{
    atomic::{read_small, write_atomically},
    identity::RaftId,
    sealed::{self, Kind},
};
use crate::{
    error::StorageError,
    fs::{File, FileSystem, FsError},
};

/// The name of the file, in the data directory that the metadata log lies in.
pub const QUORUM_FILE: &str = "quorum.sealed";

const KIND: Kind = Kind {
    name: "quorum",
    version: 1,
};

/// The room of one copy, in bytes: a block, so that no write tears both.
const COPY_BYTES: usize = 4_096;

/// The newest promise: in `term` no other candidate is supported, in terms before it none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumVote {
    /// The term that it counts for.
    pub term: LeaderEpoch,
    /// For whom.
    pub candidate: RaftId,
    /// What is known of the election.
    pub election: Election,
}

/// What is known of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// The candidate has this vote, and perhaps not enough of them.
    Open,
    /// A majority voted for the candidate: it leads the term.
    Won,
}

/// The vote in the data directory `directory`; none if it was never written.
///
/// # Errors
/// [`StorageError::Damaged`] if it is not what was written: the member must not vote then. If the
/// disk fails.
pub fn read_quorum_vote(
    fs: &dyn FileSystem,
    directory: &Path,
) -> Result<Option<QuorumVote>, StorageError> {
    let path = directory.join(QUORUM_FILE);
    let Some(content) = read_small(fs, &path)? else {
        return Ok(None);
    };
    // The first copy counts, or the second: see the module.
    let mut reason = None;
    for copy in copies(&content) {
        match sealed::unseal(KIND, copy).map(parse) {
            Ok(Some(vote)) => return Ok(Some(vote)),
            Ok(None) => {
                reason.get_or_insert_with(|| {
                    "it does not name a term, a candidate and an election".to_owned()
                });
            }
            Err(error) => {
                reason.get_or_insert(error);
            }
        }
    }
    Err(StorageError::damaged(&path, reason.unwrap_or_default()))
}

/// Replaces the vote in the data directory `directory`. Durable when it returns.
///
/// # Errors
/// If the disk fails or is full; which vote a restart finds is not known then.
pub fn write_quorum_vote(
    fs: &dyn FileSystem,
    directory: &Path,
    vote: &QuorumVote,
) -> Result<(), FsError> {
    let path = directory.join(QUORUM_FILE);
    let copy = padded(vote);
    let Some(file) = whole(fs, &path)? else {
        // None yet, one without a second copy, or one that nothing can be read of.
        return write_atomically(fs, &path, &[&copy[..], &copy].concat());
    };
    let (first, second) = (0, COPY_BYTES);
    let content = file.view(0..file.size())?;
    let (before, after) = content.split_at_checked(COPY_BYTES).unwrap_or_default();
    // What is about to be overwritten must not be the only good copy.
    if before != after && sealed::unseal(KIND, trimmed(before)).is_ok() {
        put(&*file, second, before)?;
    }
    put(&*file, first, &copy)?;
    put(&*file, second, &copy)
}

/// The file, if it has room for both copies and one of them reads.
fn whole(fs: &dyn FileSystem, path: &Path) -> Result<Option<Arc<dyn File>>, FsError> {
    let file = match fs.open(path) {
        Err(error) if error.is_not_found() => return Ok(None),
        result => result?,
    };
    let size = u64::try_from(2 * COPY_BYTES).unwrap_or(u64::MAX);
    if file.size() != size {
        return Ok(None);
    }
    file.populate(0..size)?;
    let content = file.view(0..size)?;
    let reads = copies(&content).any(|copy| sealed::unseal(KIND, copy).is_ok());
    Ok(reads.then_some(file))
}

fn put(file: &dyn File, at: usize, copy: &[u8]) -> Result<(), FsError> {
    file.write(u64::try_from(at).unwrap_or(u64::MAX), &[copy])?;
    file.sync()
}

/// Both copies, or the only one of a file of a version that wrote one.
fn copies(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content.chunks(COPY_BYTES).map(trimmed)
}

fn trimmed(copy: &[u8]) -> &[u8] {
    let end = copy.iter().rposition(|byte| *byte != 0);
    end.and_then(|last| copy.get(..=last)).unwrap_or_default()
}

fn padded(vote: &QuorumVote) -> Vec<u8> {
    let mut copy = sealed::seal(KIND, &lines_of(vote)).into_bytes();
    copy.resize(COPY_BYTES, 0);
    copy
}

fn lines_of(vote: &QuorumVote) -> String {
    let election = match vote.election {
        Election::Open => "open",
        Election::Won => "won",
    };
    format!(
        "term={}\ncandidate={}\nelection={election}\n",
        vote.term, vote.candidate
    )
}

fn parse(text: &str) -> Option<QuorumVote> {
    let mut lines = text.lines();
    let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix('=');
    let term = LeaderEpoch(value("term")?.parse().ok().filter(|term| *term >= 0)?);
    let candidate = RaftId(value("candidate")?.parse().ok()?);
    let election = match value("election")? {
        "open" => Election::Open,
        "won" => Election::Won,
        _ => return None,
    };
    lines.next().is_none().then_some(QuorumVote {
        term,
        candidate,
        election,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::simulated::SimulatedDisk;

    const VOTE: QuorumVote = QuorumVote {
        term: LeaderEpoch(7),
        candidate: RaftId(u64::MAX),
        election: Election::Open,
    };

    #[test]
    fn a_vote_is_read_as_it_was_written_and_the_newest_counts() {
        let disk = SimulatedDisk::new(1);
        let (fs, root) = (disk.file_system(), Path::new("/"));
        assert_eq!(read_quorum_vote(&*fs, root).unwrap(), None);
        write_quorum_vote(&*fs, root, &VOTE).unwrap();
        assert_eq!(read_quorum_vote(&*fs, root).unwrap(), Some(VOTE));
        let won = QuorumVote {
            election: Election::Won,
            ..VOTE
        };
        write_quorum_vote(&*fs, root, &won).unwrap();
        // Whatever a power cut takes, it does not take a vote back.
        for seed in 0..32 {
            let fs = disk.power_cut(seed).file_system();
            assert_eq!(read_quorum_vote(&*fs, root).unwrap(), Some(won), "{seed}");
        }
    }

    /// Cut at every operation of a vote: what is found is the vote before or the new one, and once
    /// the write has returned, the new one.
    #[test]
    fn a_power_cut_within_a_vote_leaves_the_one_before_or_the_new_one() {
        let vote = |term| QuorumVote {
            term: LeaderEpoch(term),
            ..VOTE
        };
        let root = Path::new("/");
        let mut cuts = 0;
        for operations in 1..12 {
            for seed in 0..24 {
                let disk = SimulatedDisk::new(seed);
                let fs = disk.file_system();
                write_quorum_vote(&*fs, root, &vote(1)).unwrap();
                // A vote that was cut off itself, and then one more.
                let mut acknowledged = 1;
                let mut left = disk;
                for term in 2..5 {
                    left.crash_after(operations);
                    let written = write_quorum_vote(&*left.file_system(), root, &vote(term));
                    if written.is_ok() {
                        acknowledged = term;
                    } else {
                        cuts += 1;
                    }
                    left = left.power_cut(seed + u64::try_from(term).unwrap());
                    let found = read_quorum_vote(&*left.file_system(), root)
                        .unwrap()
                        .unwrap();
                    let allowed = acknowledged..=term;
                    assert!(
                        allowed.contains(&found.term.0),
                        "{operations} operations, seed {seed}: {found:?} not in {allowed:?}"
                    );
                    acknowledged = found.term.0;
                }
            }
        }
        assert!(cuts > 100, "only {cuts} cuts");
    }

    #[test]
    fn the_one_copy_of_earlier_versions_is_read_and_becomes_two() {
        let disk = SimulatedDisk::new(1);
        let (fs, root) = (disk.file_system(), Path::new("/"));
        let path = root.join(QUORUM_FILE);
        sealed::write(&*fs, &path, KIND, &lines_of(&VOTE)).unwrap();
        assert_eq!(read_quorum_vote(&*fs, root).unwrap(), Some(VOTE));
        write_quorum_vote(&*fs, root, &VOTE).unwrap();
        assert_eq!(fs.open(&path).unwrap().size(), 8_192);
        assert_eq!(read_quorum_vote(&*fs, root).unwrap(), Some(VOTE));
    }

    #[test]
    fn one_damaged_copy_is_got_over_and_two_are_no_vote_and_say_so() {
        let disk = SimulatedDisk::new(1);
        let (fs, root) = (disk.file_system(), Path::new("/"));
        write_quorum_vote(&*fs, root, &VOTE).unwrap();
        disk.rot(&root.join(QUORUM_FILE), 24, 1).unwrap();
        assert_eq!(read_quorum_vote(&*fs, root).unwrap(), Some(VOTE));
        disk.rot(&root.join(QUORUM_FILE), 4_096 + 24, 1).unwrap();
        let refused = read_quorum_vote(&*fs, root).unwrap_err().to_string();
        assert!(refused.contains(QUORUM_FILE), "{refused}");
        for lines in [
            "",
            "term=1\n",
            "term=-1\ncandidate=1\nelection=won\n",
            "term=1\ncandidate=x\nelection=won\n",
            "term=1\ncandidate=1\nelection=perhaps\n",
            "term=1\ncandidate=1\nelection=won\nmore=1\n",
        ] {
            assert_eq!(parse(lines), None, "{lines}");
        }
    }
}

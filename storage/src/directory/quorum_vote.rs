//! What a member of the metadata quorum has promised: `quorum.sealed`, beside the metadata log.
//!
//! *Pattern: majority quorum.* A member that forgot for whom it voted could vote twice in one term,
//! and the term would have two leaders. So the vote is durable before anybody hears of it, lies
//! under a checksum, and damage to it is never guessed around.

use std::path::Path;

use strandline_protocol::LeaderEpoch;

use super::{
    identity::RaftId,
    sealed::{self, Kind},
};
use crate::{
    error::StorageError,
    fs::{FileSystem, FsError},
};

/// The name of the file, in the data directory that the metadata log lies in.
pub const QUORUM_FILE: &str = "quorum.sealed";

const KIND: Kind = Kind {
    name: "quorum",
    version: 1,
};

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
    let Some(lines) = sealed::read(fs, &path, KIND)? else {
        return Ok(None);
    };
    match parse(&lines) {
        Some(vote) => Ok(Some(vote)),
        None => Err(StorageError::damaged(
            &path,
            "it does not name a term, a candidate and an election",
        )),
    }
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
    sealed::write(fs, &directory.join(QUORUM_FILE), KIND, &lines_of(vote))
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

    #[test]
    fn a_damaged_vote_is_no_vote_and_says_so() {
        let disk = SimulatedDisk::new(1);
        let (fs, root) = (disk.file_system(), Path::new("/"));
        write_quorum_vote(&*fs, root, &VOTE).unwrap();
        disk.rot(&root.join(QUORUM_FILE), 24, 1).unwrap();
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

//! A voter of the metadata quorum on a machine that loses power again and again, and candidates
//! who ask for its vote: in no term does it vote for two of them.
//!
//! The voter is the broker's own member with its disk; the candidates are played. Two votes in one
//! term make two leaders, and two histories of the metadata.

use std::{collections::BTreeMap, future::Future, path::Path, time::Duration};

use strandline_broker::metadata::{
    Flushing, Founding, METADATA_DIRECTORY, MetadataLog, MetadataOptions, SnapshotLimits,
};
use strandline_core::metadata::{Defaults, Membership, Voter};
use strandline_protocol::{
    BrokerId, ClusterId, LeaderEpoch,
    messages::{Ballot, QuorumVoteRequest, TermVote},
};
use strandline_storage::{
    directory::RaftId,
    fs::simulated::SimulatedDisk,
    log::{RecoveryHint, Shutdown},
};
use tokio::time::{sleep, timeout};

use crate::random::Random;

/// How often the power goes in one run.
const LIVES: u64 = 40;

/// How often a candidate asks between two power cuts, at most.
const QUESTIONS: u64 = 12;

/// Changes of the disk before the power goes, at most.
const CHANGES: u64 = 30;

/// How long a start or an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

const RAFT_ID: u64 = 1;
const DATA: &str = "/data";

/// Runs it; tells what was done.
///
/// # Errors
/// What must not be.
pub fn run(seed: u64) -> Result<String, String> {
    let mut random = Random::new(seed, 602);
    let mut disk = SimulatedDisk::new(seed);
    let files = disk.file_system();
    files.create_directory(Path::new(DATA)).expect("no fault");
    files.sync_directory(Path::new("/")).expect("no fault");
    let mut votes = Votes::default();
    for life in 0..LIVES {
        // A runtime for each, so that nothing of the voter outlives its machine.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(live(&disk, life, &mut votes, &mut random))?;
        disk = disk.power_cut(random.draw());
    }
    Ok(format!(
        "{} votes in {} terms, over {LIVES} power cuts",
        votes.given,
        votes.by_term.len()
    ))
}

/// Who was told that it has the vote.
#[derive(Default)]
struct Votes {
    by_term: BTreeMap<i32, u64>,
    given: u64,
}

/// From a start of the voter to the power cut.
async fn live(
    disk: &SimulatedDisk,
    life: u64,
    votes: &mut Votes,
    random: &mut Random,
) -> Result<(), String> {
    let opened = MetadataLog::open(options(disk));
    let (voter, _) = opened.map_err(|error| format!("start {life}: {error}"))?;
    wait_until_it_answers(&voter).await?;
    disk.crash_after(random.within(1..CHANGES));
    for _ in 0..random.within(1..QUESTIONS) {
        let last = votes.by_term.last_key_value().map_or(0, |(term, _)| *term);
        let term = (last + random.below(4) as i32 - 1).max(1);
        let candidate = random.within(2..5);
        let asked = within(voter.vote(&request(Ballot::Binding, term, candidate))).await?;
        let Ok(answer) = asked else {
            if disk.is_off() {
                return Ok(());
            }
            return Err(format!("term {term}: the voter refuses to answer"));
        };
        if !answer.granted {
            continue;
        }
        votes.given += 1;
        let first = *votes.by_term.entry(term).or_insert(candidate);
        if first != candidate {
            return Err(format!(
                "in term {term} the voter has voted for {first} and, after power cut {life}, for \
                 {candidate}: both may lead"
            ));
        }
    }
    Ok(())
}

fn options(disk: &SimulatedDisk) -> MetadataOptions {
    let own = Voter {
        raft_id: RAFT_ID,
        broker: BrokerId(1),
    };
    MetadataOptions {
        file_system: disk.file_system(),
        directory: Path::new(DATA).join(METADATA_DIRECTORY),
        hint: RecoveryHint {
            shutdown: Shutdown::Unclean,
            ..RecoveryHint::default()
        },
        raft_id: RaftId(RAFT_ID),
        membership: Membership::of(ClusterId([6; 16]), vec![own]),
        founding: Founding::Elsewhere,
        defaults: Defaults::default(),
        flushing: Flushing::Inline,
        snapshots: SnapshotLimits::default(),
    }
}

fn request(ballot: Ballot, term: i32, candidate: u64) -> QuorumVoteRequest {
    QuorumVoteRequest {
        to: RAFT_ID,
        ballot,
        vote: TermVote {
            term: LeaderEpoch(term),
            candidate,
            won: false,
        },
        last: None,
        leadership_transfer: false,
    }
}

/// A vote on trial changes nothing.
async fn wait_until_it_answers(voter: &MetadataLog) -> Result<(), String> {
    let answers = async {
        while voter.vote(&request(Ballot::Trial, 1, 2)).await.is_err() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    within(answers).await
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let done = timeout(PATIENCE, work).await;
    done.map_err(|_| format!("the voter is silent for {PATIENCE:?}"))
}

//! How a snapshot gets to a member that is behind the log.
//!
//! The leader sends the file part by part; the receiver writes them down one behind the other,
//! answers how much it has, and when it has all of it, makes it durable, reads it whole, and
//! installs it. A part that is not the next one is not taken: the answer tells the sender where to
//! go on. So parts may be lost, come twice, or come from two leaders one after the other.

use std::sync::Arc;

use bytes::Bytes;
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use strandline_protocol::{
    ErrorCode,
    messages::{Failure, QuorumSnapshotRequest, QuorumSnapshotResponse},
};
use strandline_storage::{
    directory::RaftId,
    fs::{File, FsError},
};

use super::{
    super::{
        Raft,
        failure::Failing,
        machine::Public,
        store::{Store, blocking},
        stored_membership,
        types::{LogId, Types, Vote, log_id, vote_to_raft},
        wire::{term_vote, vote_of},
    },
    format::{Unusable, to_u64},
    kept::{SnapshotFile, Snapshots},
};

/// The largest part that is taken, in bytes.
const PART_BYTES_MAX: usize = 1 << 20;

/// The largest snapshot that is taken, in bytes: many times that of the largest cluster.
const SNAPSHOT_BYTES_MAX: u64 = 2 << 30;

/// By how much the file of a snapshot that comes in grows, in bytes.
const GROW_BYTES: u64 = 4 << 20;

/// What of a snapshot has come in.
struct Receiving {
    last: LogId,
    bytes: u64,
    /// How much there is, without a gap.
    received: u64,
    file: Arc<dyn File>,
}

/// Takes snapshots from a leader, one at a time.
pub(in crate::metadata) struct Receiver {
    raft_id: RaftId,
    store: Store,
    snapshots: Snapshots,
    public: Public,
    failing: Failing,
    receiving: tokio::sync::Mutex<Option<Receiving>>,
}

impl Receiver {
    pub(in crate::metadata) fn new(
        raft_id: RaftId,
        store: Store,
        snapshots: Snapshots,
        public: Public,
        failing: Failing,
    ) -> Self {
        Self {
            raft_id,
            store,
            snapshots,
            public,
            failing,
            receiving: tokio::sync::Mutex::default(),
        }
    }

    /// Takes a part. Once the last one is there, the snapshot is durable and in force when this
    /// returns.
    ///
    /// Cancel safe: the sender is told where to go on.
    ///
    /// # Errors
    /// A request that no leader sends; a snapshot that does not read, or is another cluster's; a
    /// disk that fails or is full.
    pub(in crate::metadata) async fn take(
        &self,
        raft: &Raft,
        request: QuorumSnapshotRequest,
        part: Bytes,
    ) -> Result<QuorumSnapshotResponse, Failure> {
        check(self.raft_id, &request, &part)?;
        let (image, told) = (self.public.image(), request.last);
        if told.offset <= image.version() && told.term > image.term() {
            return Err(refused(format!(
                "entry {} of term {} contradicts what is committed here: is this the same cluster?",
                told.offset, told.term
            )));
        }
        let mine = vote_to_raft(&self.store.vote());
        let vote = vote_of(request.vote);
        let answer = |received| QuorumSnapshotResponse {
            vote: term_vote(&mine),
            received,
        };
        if mine > vote {
            return Ok(answer(0));
        }
        let mut receiving = self.receiving.lock().await;
        let last = log_id(request.last.term, request.last.offset);
        let is_same = |held: &Receiving| held.last == last && held.bytes == request.bytes;
        let mut held = receiving.take().filter(is_same);
        if request.position == 0 {
            // From the beginning, whatever was there before.
            held = Some(self.begin(last, request.bytes).await?);
        }
        let Some(mut held) = held else {
            return Ok(answer(0));
        };
        if held.received == request.position {
            self.write(&mut held, part).await?;
        }
        if held.received < held.bytes {
            let received = held.received;
            *receiving = Some(held);
            return Ok(answer(received));
        }
        let theirs = self.install(raft, vote, held).await?;
        Ok(QuorumSnapshotResponse {
            vote: term_vote(&theirs),
            received: request.bytes,
        })
    }

    async fn begin(&self, last: LogId, bytes: u64) -> Result<Receiving, Failure> {
        let snapshots = self.snapshots.clone();
        let create = move || Ok(snapshots.begin_receiving());
        let file = blocking(self.snapshots.flushing(), create).await;
        Ok(Receiving {
            last,
            bytes,
            received: 0,
            file: self.of_disk(file)?,
        })
    }

    async fn write(&self, held: &mut Receiving, part: Bytes) -> Result<(), Failure> {
        let (file, at) = (Arc::clone(&held.file), held.received);
        let end = at.saturating_add(to_u64(part.len()));
        let write = move || {
            let room = file.size();
            let write = || {
                if end > room {
                    file.allocate(end.max(room.saturating_add(GROW_BYTES)))?;
                }
                file.write(at, &[&part])?;
                file.start_writeback(at..end);
                Ok(())
            };
            Ok(write())
        };
        self.of_disk(blocking(self.snapshots.flushing(), write).await)?;
        held.received = end;
        Ok(())
    }

    /// Reads it whole, and hands it to the group if it is what it should be. Returns the vote that
    /// this member holds to then.
    async fn install(&self, raft: &Raft, vote: Vote, held: Receiving) -> Result<Vote, Failure> {
        let snapshots = self.snapshots.clone();
        let check = move || Ok(snapshots.check_received(&held.file, held.last, held.bytes));
        let checked = blocking(self.snapshots.flushing(), check).await;
        let snapshot = match checked {
            Ok(Ok(snapshot)) => snapshot,
            Ok(Err(Unusable::Disk(error))) => return Err(self.disk_failed(error)),
            Ok(Err(reason)) => return Err(refused(format!("the snapshot is of no use: {reason}"))),
            Err(error) => return Err(refused(error.to_string())),
        };
        let stands = snapshot
            .received
            .as_ref()
            .map(|held| (held.membership.clone(), held.membership_at));
        let snapshot = SnapshotOf::<Types, SnapshotFile> {
            meta: SnapshotMetaOf::<Types> {
                last_log_id: Some(snapshot.last),
                last_membership: stored_membership(stands.as_ref()),
            },
            snapshot,
        };
        let installed = raft.install_full_snapshot(vote, snapshot).await;
        // It has another name now, unless it told nothing new.
        let snapshots = self.snapshots.clone();
        let forget = move || {
            snapshots.forget_received();
            Ok(())
        };
        let _ = blocking(self.snapshots.flushing(), forget).await;
        match installed {
            Ok(response) => Ok(response.vote),
            Err(error) => Err(self
                .failing
                .refusal()
                .unwrap_or_else(|| refused(error.to_string()))),
        }
    }

    fn of_disk<T>(&self, result: std::io::Result<Result<T, FsError>>) -> Result<T, Failure> {
        match result {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.disk_failed(error)),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// A full disk refuses the snapshot, and nothing else.
    fn disk_failed(&self, error: FsError) -> Failure {
        let error = strandline_storage::StorageError::from(error);
        if error.is_full() {
            let text = format!("there is no room for a snapshot of the metadata: {error}");
            return Failure::new(ErrorCode::DISK_FULL, text);
        }
        self.failing.fail(&error);
        let failed = self.failing.refusal();
        failed.unwrap_or_else(|| Failure::new(ErrorCode::STORAGE_ERROR, error.to_string()))
    }
}

/// Whether a leader may send this at all.
fn check(raft_id: RaftId, request: &QuorumSnapshotRequest, part: &Bytes) -> Result<(), Failure> {
    let end = request.position.saturating_add(to_u64(part.len()));
    let wrong = if request.to != raft_id.0 {
        "it is meant for another directory"
    } else if request.bytes == 0 || request.bytes > SNAPSHOT_BYTES_MAX {
        "a snapshot is not of that size"
    } else if part.is_empty() || part.len() > PART_BYTES_MAX || end > request.bytes {
        "the part is empty, too large, or reaches beyond the snapshot"
    } else if request.last.offset.0 < 0 || request.last.term.0 < 0 || !request.vote.won {
        "no leader names such an entry or vote"
    } else if request.last.term > request.vote.term {
        "its last entry is of a later term than its leader"
    } else {
        return Ok(());
    };
    let text = format!(
        "part of a metadata snapshot at {}: {wrong}",
        request.position
    );
    Err(Failure::new(ErrorCode::INVALID_REQUEST, text))
}

fn refused(text: String) -> Failure {
    Failure::new(ErrorCode::UNKNOWN_SERVER_ERROR, text)
}

//! The store, as openraft writes and reads it.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds, RangeInclusive},
};

use openraft::{
    LogState, OptionalSend, RaftLogReader,
    alias::LogIdOf,
    storage::{IOFlushed, RaftLogStorage},
};
use strandline_protocol::Offset;

use super::{
    store::Store,
    types::{RaftEntry, Types, Vote, log_id, offset_of, vote_from_raft, vote_to_raft},
};

/// How much a message to a peer carries, in bytes; more only if one entry is larger.
const MESSAGE_BYTES: usize = 256 << 10;

fn offset(index: u64) -> Offset {
    Offset(i64::try_from(index).unwrap_or(i64::MAX))
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(first) => offset(*first),
            Bound::Excluded(before) => offset(*before).plus(1),
            Bound::Unbounded => self.start()?,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => offset(*last).plus(1),
            Bound::Excluded(end) => offset(*end),
            Bound::Unbounded => Offset(i64::MAX),
        };
        self.read(start..end, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(Some(vote_to_raft(&self.vote())))
    }

    /// What one message to a peer carries.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        self.read(offset(start)..offset(end), MESSAGE_BYTES)
    }

    /// The last entry of each term, from what the log knows of its epochs.
    async fn get_key_log_ids(
        &mut self,
        range: RangeInclusive<LogIdOf<Types>>,
    ) -> Result<Vec<LogIdOf<Types>>, io::Error> {
        let terms = self.terms(offset_of(range.start())..offset_of(range.end()).plus(1))?;
        let newest = terms
            .into_iter()
            .map(|(term, end)| log_id(term, end.plus(-1)));
        Ok(newest.collect())
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        Ok(LogState {
            last_purged_log_id: self.purged(),
            last_log_id: self.last()?,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.keep_vote(vote_from_raft(vote)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.write(entries, callback).await
    }

    async fn truncate_after(
        &mut self,
        last_log_id: Option<LogIdOf<Types>>,
    ) -> Result<(), io::Error> {
        let end = last_log_id.map_or(Offset::ZERO, |last| offset_of(&last).plus(1));
        self.cut(end).await
    }

    /// Moves the log's start behind `log_id`, which a snapshot reflects.
    async fn purge(&mut self, log_id: LogIdOf<Types>) -> Result<(), io::Error> {
        self.trim(log_id).await
    }
}

//! Appending entries, and waiting for room where the disk is full.
//!
//! *Pattern: write-ahead log.* openraft ends a member whose append fails. A full disk is no
//! failure: the member stands still until there is space, as one that is slow, and the others go on
//! without it; one that is alone ends, as nobody goes on. What the controller proposes has taken
//! its room before (`Store::reserve`).

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use openraft::storage::IOFlushed;
use strandline_client::net::Clock;
use strandline_core::metadata::Entry;
use strandline_protocol::Timestamp;
use strandline_storage::log::AppendError;
use tokio::{sync::oneshot, time::sleep};

use super::{
    super::super::batches,
    super::types::{LogId, RaftEntry, Types, from_raft, offset_of, term_of},
    Held, Shared, State, Store, closed,
};

/// How often a full disk is tried again.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// An entry on its way into the log.
struct Incoming {
    id: LogId,
    entry: Arc<Entry>,
    batch: Bytes,
    /// Who waits to hear that it has its place.
    placed: Option<oneshot::Sender<LogId>>,
}

impl Store {
    /// Appends, and sees to it that a sync runs, after which `callback` is called. The entries can
    /// be read when this returns. Waits for as long as the disk is full.
    ///
    /// Not cancel safe: some of the entries may be in the log.
    pub(in crate::metadata::quorum) async fn write(
        &self,
        entries: impl IntoIterator<Item = RaftEntry>,
        callback: IOFlushed<Types>,
    ) -> io::Result<()> {
        let now = Clock.now();
        let incoming = entries.into_iter();
        let incoming = incoming.map(|entry| self.shared.incoming(entry, now));
        let mut incoming = incoming.collect::<io::Result<VecDeque<Incoming>>>()?;
        let mut is_told = false;
        while let Some(full) = self.shared.place(&mut incoming, now)? {
            let is_alone = !self.shared.has_company.load(Ordering::Acquire);
            if is_alone || self.shared.leaving.load(Ordering::Acquire) {
                self.shared.failing.fail_with(full.code(), &full);
                return Err(io::Error::new(io::ErrorKind::StorageFull, full.to_string()));
            }
            if !is_told {
                tracing::warn!(
                    "this broker follows no change of the metadata until there is space again: \
                     {full}"
                );
                is_told = true;
                self.shared.stands_still.store(true, Ordering::Release);
            }
            sleep(TRY_EVERY).await;
        }
        if is_told {
            self.shared.stands_still.store(false, Ordering::Release);
            tracing::info!("there is space again: this broker follows the metadata");
        }
        let job = {
            let mut state = self.shared.state.lock();
            let end = state.log.as_ref().ok_or_else(closed)?.end();
            state.waiting.push_back((end, callback));
            state.next_job()
        };
        if let Some(job) = job {
            self.run(job);
        }
        Ok(())
    }

    /// Nobody waits for a full disk any more: the broker is about to stop.
    pub(in crate::metadata) fn leave(&self) {
        self.shared.leaving.store(true, Ordering::Release);
    }
}

impl Shared {
    fn incoming(&self, entry: RaftEntry, now: Timestamp) -> io::Result<Incoming> {
        let id = entry.log_id;
        let (entry, placed) = from_raft(self.cluster, entry.payload).map_err(io::Error::other)?;
        let batch = batches::encode(&entry, now).map_err(io::Error::other)?;
        Ok(Incoming {
            id,
            entry,
            batch,
            placed,
        })
    }

    /// Appends as many as there is room for; says so if there is none for the next one.
    fn place(
        &self,
        incoming: &mut VecDeque<Incoming>,
        now: Timestamp,
    ) -> io::Result<Option<AppendError>> {
        let mut state = self.state.lock();
        while let Some(next) = incoming.front() {
            let log = state.log.as_mut().ok_or_else(closed)?;
            if offset_of(&next.id) != log.end() {
                let (id, end) = (next.id, log.end());
                return Err(io::Error::other(format!(
                    "entry {id} cannot be appended at {end}"
                )));
            }
            match log.append(&next.batch, term_of(&next.id), now) {
                Ok(_) => {}
                Err(full @ AppendError::DiskFull(_)) => return Ok(Some(full)),
                Err(error) => {
                    self.failing.fail_with(error.code(), &error);
                    return Err(io::Error::other(error.to_string()));
                }
            }
            if let Some(placed) = incoming.pop_front() {
                state.take(placed);
            }
        }
        Ok(None)
    }
}

impl State {
    /// An entry has its place in the log.
    fn take(&mut self, placed: Incoming) {
        let (id, bytes) = (placed.id, placed.batch.len());
        self.appended = self
            .appended
            .saturating_add(u64::try_from(bytes).unwrap_or(0));
        self.tail.push_back(Held {
            id,
            entry: placed.entry,
            bytes,
        });
        if let Some(told) = placed.placed {
            // The controller may have ended meanwhile; what it decided stands all the same.
            let _ = told.send(id);
        }
    }
}

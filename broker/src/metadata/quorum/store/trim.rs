//! The log behind a snapshot goes.
//!
//! *Pattern: low-water mark.*

use std::{io, sync::Arc};

use strandline_client::net::Clock;
use strandline_storage::log::{Log, Removed};

use super::{
    super::types::{LogId, offset_of, term_of},
    Shared, State, Store, closed,
};

/// How the log and a snapshot lie to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overlap {
    /// The log begins behind the snapshot's last entry: there is nothing to do.
    None,
    /// The log holds that entry, and goes on behind it.
    Held,
    /// The log ends before it, or holds another one there: nothing of it may stay.
    Other,
}

impl Store {
    /// Takes the entries up to `upto` (inclusive) out of the log, which a snapshot reflects. Where
    /// that is not what the log holds, nothing of it is left. Durable when it returns.
    pub(in super::super) async fn trim(&self, upto: LogId) -> io::Result<()> {
        let _no_checkpoint = Arc::clone(&self.shared.checkpoints).write_owned().await;
        self.quiet().await;
        self.blocking(move |shared| shared.trim(upto)).await
    }
}

impl Shared {
    fn trim(&self, upto: LogId) -> io::Result<()> {
        let (end, now) = (offset_of(&upto).plus(1), Clock.now());
        let mut state = self.state.lock();
        let log = state.log.as_mut().ok_or_else(closed)?;
        let overlap = Overlap::of(log, &upto);
        let trimmed = match overlap {
            Overlap::None => Ok(Removed::default()),
            Overlap::Held => log.delete_before(end, now),
            Overlap::Other => log.restart_at(end, now).map(|()| Removed::default()),
        };
        let start = log.start();
        let removed = match trimmed {
            // It stays longer than it must; the next start tries again.
            Err(error) if error.is_full() && overlap == Overlap::Held => {
                tracing::warn!("the metadata log could not be trimmed: {error}");
                Removed::default()
            }
            trimmed => trimmed.map_err(|error| self.failed(&error))?,
        };
        state.forget(&upto, overlap);
        drop(state);
        removed.finish().map_err(|error| self.failed(&error))?;
        let trimmed = self.snapshots.trim(start);
        trimmed.map_err(|error| self.failed(&error.into()))
    }
}

impl State {
    fn forget(&mut self, upto: &LogId, overlap: Overlap) {
        match overlap {
            Overlap::None => return,
            Overlap::Held => {
                let is_gone = |id: &LogId| id.index() <= upto.index();
                while self.tail.front().is_some_and(|held| is_gone(&held.id)) {
                    self.tail.pop_front();
                }
            }
            Overlap::Other => self.tail.clear(),
        }
        self.purged = Some(*upto);
    }
}

impl Overlap {
    fn of(log: &Log, upto: &LogId) -> Self {
        let (last, end) = (offset_of(upto), offset_of(upto).plus(1));
        if end <= log.start() {
            Self::None
        } else if end <= log.end() && log.epoch_at(last) == Some(term_of(upto)) {
            Self::Held
        } else {
            Self::Other
        }
    }
}

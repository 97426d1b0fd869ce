//! What is not in memory: brought in and checked off the threads that serve connections.
//!
//! Neither the disk nor the first touch of so many pages holds up the connections of a thread. A
//! disk that cannot read, or damage, is met again, as an error, by the read that follows.

use std::sync::Arc;

use strandline_protocol::Offset;
use strandline_storage::log::ColdRange;

use crate::{
    partition::Partition,
    server::spawn::{self, Threads},
};

/// A part of a log that is not in memory, and where in the log it is.
#[derive(Debug)]
pub(in crate::server) struct ColdRead {
    pub(in crate::server) range: ColdRange,
    pub(in crate::server) partition: Arc<Partition>,
    pub(in crate::server) offset: Offset,
    pub(in crate::server) bytes_max: usize,
}

/// Brings ranges into memory and checks them on the blocking pool.
pub(in crate::server) async fn warm(threads: Threads, reads: Vec<ColdRead>) {
    let work = move || reads.into_iter().for_each(ColdRead::warm);
    spawn::blocking(threads, work).await;
}

/// Does so without anybody who waits. Otherwise a partition that always has something new would
/// keep those from being read that are cold. One at a time for each partition: who asks again
/// before the disk has answered must not line up the same work again.
pub(in crate::server) fn warm_behind(threads: Threads, mut reads: Vec<ColdRead>) {
    reads.retain(|read| read.partition.may_warm());
    if reads.is_empty() {
        return;
    }
    let partitions: Vec<_> = reads.iter().map(|it| Arc::clone(&it.partition)).collect();
    spawn::spawn(async move {
        warm(threads, reads).await;
        for partition in partitions {
            partition.warmed();
        }
    });
}

impl ColdRead {
    fn warm(self) {
        if let Err(error) = self.range.populate() {
            tracing::warn!("cannot bring a part of the log into memory: {error}");
            return;
        }
        if let Some(fetched) = self.partition.read_again(self.offset, self.bytes_max) {
            // What is good is known to be so from now on.
            let _ = fetched.check();
        }
    }
}

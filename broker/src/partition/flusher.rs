//! Group commit: while one `fdatasync` runs, the next group of appends fills.
//!
//! *Pattern: write-ahead log.* A partition with something to flush stands in its directory's queue
//! once, however much is appended to it; a thread takes it out and syncs all of it at once. When
//! nobody waits for a flush, the same threads have the kernel begin to write what was appended.

use std::{collections::VecDeque, sync::Arc, thread::JoinHandle};

use parking_lot::{Condvar, Mutex};
use strandline_storage::log::WritebackJob;
use tokio::sync::Notify;

use super::Partition;
use crate::server::spawn::{Threads, spawn};

/// How many partitions of one directory are flushed at the same time: enough for the file system to
/// share one journal commit among them, few enough to cost nothing when idle.
const FLUSHERS_PER_DIRECTORY: usize = 2;

/// How many more lend a hand when many partitions wait at once: each of them waits for the disk on
/// its own, and the disk has room for more.
const HELPERS_PER_DIRECTORY: usize = 6;

/// How many partitions have to wait for that. A few busy ones never are so many.
const CROWD: usize = 16;

/// A flusher needs little more than a system call.
const FLUSHER_STACK_BYTES: usize = 256 << 10;

/// How many jobs of early writing wait at most: where the disk is slower than the appends, the
/// kernel's own limits do the rest.
const WRITEBACKS_MAX: usize = 8;

/// Partitions of one directory that wait for a flush.
#[derive(Debug, Default)]
pub struct FlushQueue {
    waiting: Mutex<Waiting>,
    /// For flusher threads.
    arrived: Condvar,
    /// For those that help out.
    crowded: Condvar,
    /// For the flusher task of a build without threads.
    notify: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    partitions: VecDeque<Arc<Partition>>,
    writebacks: VecDeque<WritebackJob>,
    /// Whether a flusher is at one: another one stays free for whoever waits for a flush.
    writing_back: WritingBack,
    closed: Closed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum WritingBack {
    #[default]
    Nobody,
    Somebody,
}

/// What a flusher does next.
enum Work {
    Flush(Arc<Partition>),
    WriteBack(WritebackJob),
}

impl Waiting {
    /// Flushes come first: somebody may wait for them.
    fn take(&mut self) -> Option<Work> {
        if let Some(partition) = self.partitions.pop_front() {
            return Some(Work::Flush(partition));
        }
        if self.writing_back == WritingBack::Somebody {
            return None;
        }
        let job = self.writebacks.pop_front()?;
        self.writing_back = WritingBack::Somebody;
        Some(Work::WriteBack(job))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Closed {
    #[default]
    No,
    Yes,
}

impl FlushQueue {
    /// Puts a partition at the end. The caller makes sure that it is not in the queue already.
    pub fn push(&self, partition: Arc<Partition>) {
        let mut waiting = self.waiting.lock();
        waiting.partitions.push_back(partition);
        let is_crowded = waiting.partitions.len() > CROWD;
        drop(waiting);
        self.arrived.notify_one();
        if is_crowded {
            self.crowded.notify_one();
        }
        self.notify.notify_one();
    }

    /// Has the kernel begin to write soon, when nobody waits for a flush; dropped if too many wait.
    pub fn write_back(&self, job: WritebackJob) {
        let mut waiting = self.waiting.lock();
        if waiting.writebacks.len() >= WRITEBACKS_MAX {
            return;
        }
        waiting.writebacks.push_back(job);
        drop(waiting);
        self.arrived.notify_one();
        self.notify.notify_one();
    }

    /// Does one piece of work.
    fn perform(&self, work: Work) {
        match work {
            Work::Flush(partition) => partition.flush(),
            Work::WriteBack(job) => {
                job.run();
                self.waiting.lock().writing_back = WritingBack::Nobody;
            }
        }
    }

    /// Lets flushers finish what is in the queue, and end.
    fn close(&self) {
        self.waiting.lock().closed = Closed::Yes;
        self.arrived.notify_all();
        self.crowded.notify_all();
        self.notify.notify_one();
    }

    /// The next work; waits for it, and returns none once the queue is closed and empty.
    fn next(&self) -> Option<Work> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(work) = waiting.take() {
                return Some(work);
            }
            if waiting.closed == Closed::Yes {
                return None;
            }
            self.arrived.wait(&mut waiting);
        }
    }

    /// As [`FlushQueue::next`], but only while more wait than a few.
    fn next_of_crowd(&self) -> Option<Arc<Partition>> {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.partitions.len() > CROWD {
                return waiting.partitions.pop_front();
            }
            if waiting.closed == Closed::Yes {
                return None;
            }
            self.crowded.wait(&mut waiting);
        }
    }

    /// As [`FlushQueue::next`], without a thread to block. Cancel safe.
    async fn next_async(&self) -> Option<Work> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if let Some(work) = waiting.take() {
                    return Some(work);
                }
                if waiting.closed == Closed::Yes {
                    return None;
                }
            }
            self.notify.notified().await;
        }
    }
}

/// Whoever empties the queues.
#[derive(Debug)]
pub struct Flushers {
    queues: Vec<Arc<FlushQueue>>,
    threads: Vec<JoinHandle<()>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Flushers {
    /// Starts flushers for the queues.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(queues: Vec<Arc<FlushQueue>>, threads: Threads) -> std::io::Result<Self> {
        let mut flushers = Self {
            queues,
            threads: Vec::new(),
            tasks: Vec::new(),
        };
        for queue in &flushers.queues {
            match threads {
                Threads::Allowed => {
                    for number in 0..FLUSHERS_PER_DIRECTORY {
                        let queue = Arc::clone(queue);
                        let work = move || queue.next().map(|work| queue.perform(work));
                        let thread = start(format!("flush-{number}"), work)?;
                        flushers.threads.push(thread);
                    }
                    for number in 0..HELPERS_PER_DIRECTORY {
                        let queue = Arc::clone(queue);
                        let work = move || queue.next_of_crowd().map(|it| it.flush());
                        let thread = start(format!("flush-help-{number}"), work)?;
                        flushers.threads.push(thread);
                    }
                }
                Threads::None => {
                    let queue = Arc::clone(queue);
                    flushers.tasks.push(spawn(async move {
                        while let Some(work) = queue.next_async().await {
                            queue.perform(work);
                            tokio::task::yield_now().await;
                        }
                    }));
                }
            }
        }
        Ok(flushers)
    }

    /// Flushes what is in the queues, then ends. Blocks a thread for that long where there are any.
    pub async fn stop(mut self) {
        for queue in &self.queues {
            queue.close();
        }
        for task in std::mem::take(&mut self.tasks) {
            let _ = task.await;
        }
        let threads = std::mem::take(&mut self.threads);
        if threads.is_empty() {
            return;
        }
        let _ = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
        })
        .await;
    }
}

/// A thread that does one piece of work after the other until there is none.
fn start(
    name: String,
    work: impl Fn() -> Option<()> + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name)
        .stack_size(FLUSHER_STACK_BYTES)
        .spawn(move || while work().is_some() {})
}

impl Drop for Flushers {
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.close();
        }
        for task in &self.tasks {
            task.abort();
        }
    }
}

//! One partition: its log, its replica's state and who waits for them, behind one lock.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use parking_lot::Mutex;
use strandline_core::{
    replica::{AckWait, Flush, Replica},
    waiting::{Condition, Parked, WaitingList},
};
use strandline_protocol::{
    ErrorCode, LeaderEpoch, Offset, TopicPartition,
    messages::{Acks, Failure},
};
use strandline_storage::{
    directory::PartitionName,
    log::{Log, WritebackJob},
};
use tokio::time::Instant;

use super::{AckToken, Acknowledged, Directory, FetchWaits, Figures, Opening, damage::DamageTold};
use crate::{metrics::TopicMetrics, server::Event};

/// One partition that this broker leads.
#[derive(Debug)]
pub struct Partition {
    pub(super) id: TopicPartition,
    /// The topic's name, for paths, logs and metrics.
    pub(super) topic: Arc<str>,
    pub(super) directory: Arc<Directory>,
    pub(super) waits: Arc<FetchWaits>,
    pub(super) metrics: Arc<TopicMetrics>,
    pub(super) damage_told: DamageTold,
    /// Whether somebody brings a part of it into memory behind an answer.
    pub(super) is_warming: AtomicBool,
    /// Bytes ever made visible to consumers, since the partition was opened.
    pub(super) visible: AtomicI64,
    pub(super) inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// None once it was closed, or its topic deleted.
    pub(super) log: Option<Log>,
    pub(super) replica: Replica,
    pub(super) acks: WaitingList<Mark, AckToken, Instant>,
    /// Appended batches above the high watermark: where each ends, and how many bytes it has.
    pub(super) hidden: VecDeque<(Offset, i64)>,
    pub(super) flushing: Flushing,
    pub(super) unsynced: Unsynced,
}

/// Whether the directory knows that there is something that nobody waits for to be flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Unsynced {
    #[default]
    Unlisted,
    Listed,
}

/// What an acknowledgement waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    Durable,
    HighWatermark,
}

/// How far the next flush has come. One runs at a time; what is appended meanwhile fills the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushing {
    /// Nobody asked for one.
    Idle,
    /// It stands in the directory's queue.
    Queued,
    /// It runs.
    Running,
    /// It runs, and another one is wanted behind it.
    RunningAgain,
}

/// What has to be told to others.
#[derive(Debug, Default)]
#[must_use = "somebody waits for it"]
pub(super) struct Effects {
    acknowledged: Vec<AckToken>,
    /// Bytes ever made visible, if there are more of them.
    visible: Option<i64>,
    queue: Queue,
    unsynced: Unsynced,
    pub(super) writeback: Option<WritebackJob>,
}

impl Effects {
    /// The partition wants one more flush.
    pub(super) fn join(&mut self, queue: Queue) {
        if queue == Queue::Join {
            self.queue = queue;
        }
    }
}

/// Whether the partition has to join the queue of those that wait for a flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Queue {
    /// It is there already, or needs no flush.
    #[default]
    Stay,
    /// It has to.
    Join,
}

impl Partition {
    /// Takes up leadership over a log that was just opened.
    #[must_use]
    pub fn new(opening: Opening) -> Self {
        let Opening { log, .. } = opening;
        let replica = Replica::lead(
            opening.leader_epoch,
            opening.flush,
            log.start(),
            log.end(),
            log.durable(),
        );
        Self {
            id: opening.id,
            topic: opening.topic,
            directory: opening.directory,
            waits: opening.waits,
            metrics: opening.metrics,
            damage_told: DamageTold::default(),
            is_warming: AtomicBool::new(false),
            visible: AtomicI64::new(0),
            inner: Mutex::new(Inner {
                log: Some(log),
                replica,
                acks: WaitingList::new(),
                hidden: VecDeque::new(),
                flushing: Flushing::Idle,
                unsynced: Unsynced::Unlisted,
            }),
        }
    }

    /// Which partition it is.
    #[must_use]
    pub const fn id(&self) -> TopicPartition {
        self.id
    }

    /// The name of its topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Where it lies.
    #[must_use]
    pub const fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// What its directory calls it.
    #[must_use]
    pub fn name(&self) -> PartitionName {
        PartitionName {
            topic: self.topic.to_string(),
            partition: self.id.partition,
        }
    }

    /// The counters of its topic.
    #[must_use]
    pub fn metrics(&self) -> &TopicMetrics {
        &self.metrics
    }

    /// Bytes ever made visible to consumers: see [`FetchWaits`].
    #[must_use]
    pub fn visible(&self) -> i64 {
        self.visible.load(Ordering::SeqCst)
    }

    /// Where it stands; none once it is closed.
    #[must_use]
    pub fn figures(&self) -> Option<Figures> {
        let inner = self.inner.lock();
        inner.log.as_ref().map(|log| Figures {
            marks: inner.replica.marks(),
            bytes: log.bytes(),
            segments: log.segments(),
        })
    }

    /// What has to be told to others since something has changed. To be carried out, by
    /// [`Partition::perform`], once the lock is released: it wakes tasks and threads.
    pub(super) fn settle(&self, inner: &mut Inner, flush: Flush) -> Effects {
        let marks = inner.replica.marks();
        let mut effects = Effects {
            acknowledged: inner.acks.advance(&Mark::Durable, marks.durable_end.0),
            ..Effects::default()
        };
        let committed = inner
            .acks
            .advance(&Mark::HighWatermark, marks.high_watermark.0);
        effects.acknowledged.extend(committed);
        let mut shown = 0_i64;
        while let Some((end, bytes)) = inner.hidden.front()
            && *end <= marks.high_watermark
        {
            shown = shown.saturating_add(*bytes);
            inner.hidden.pop_front();
        }
        if shown > 0 {
            let visible = self.visible.load(Ordering::SeqCst).saturating_add(shown);
            // Only moved under the lock; an atomic for those who look without it.
            self.visible.store(visible, Ordering::SeqCst);
            effects.visible = Some(visible);
        }
        if flush == Flush::Wanted {
            effects.queue = inner.want_flush();
        } else if marks.durable_end < marks.log_end && inner.unsynced == Unsynced::Unlisted {
            inner.unsynced = Unsynced::Listed;
            effects.unsynced = Unsynced::Listed;
        }
        effects
    }

    /// Tells others what has changed.
    pub(super) fn perform(self: &Arc<Self>, effects: Effects) {
        if effects.queue == Queue::Join {
            self.directory.queue().push(Arc::clone(self));
        }
        for token in effects.acknowledged {
            acknowledge(token, None);
        }
        if let Some(visible) = effects.visible {
            self.waits.advance(self.id, visible);
        }
        if effects.unsynced == Unsynced::Listed {
            self.directory.has_unsynced(self);
        }
        if let Some(job) = effects.writeback {
            self.directory.queue().write_back(job);
        }
    }
}

impl Inner {
    /// Asks for a flush; says whether the partition has to join its directory's queue for that.
    pub(super) fn want_flush(&mut self) -> Queue {
        match self.flushing {
            Flushing::Idle => {
                self.flushing = Flushing::Queued;
                return Queue::Join;
            }
            Flushing::Running => self.flushing = Flushing::RunningAgain,
            Flushing::Queued | Flushing::RunningAgain => {}
        }
        Queue::Stay
    }

    pub(super) fn open_log(&mut self) -> Result<(LeaderEpoch, &mut Log), Failure> {
        let epoch = self.replica.leader_epoch();
        match &mut self.log {
            Some(log) => Ok((epoch, log)),
            None => Err(Failure::new(
                ErrorCode::UNKNOWN_TOPIC_ID,
                "the partition is not served here any more: refresh metadata",
            )),
        }
    }

    pub(super) fn await_ack(
        &mut self,
        acks: Acks,
        end: Offset,
        token: impl FnOnce() -> AckToken,
    ) -> Acknowledged {
        let (mark, offset) = match self.replica.ack_wait(acks, end) {
            AckWait::Unanswered | AckWait::Nothing => return Acknowledged::Now,
            AckWait::Durable(offset) => (Mark::Durable, offset),
            AckWait::HighWatermark(offset) => (Mark::HighWatermark, offset),
        };
        // The connection watches the deadline of the whole request; what is left here then is taken
        // out by the flush or the failure that must come.
        let never = Instant::now() + FAR_FUTURE;
        let condition = Condition::All(vec![(mark, offset.0)]);
        match self.acks.park(token(), never, condition) {
            Parked::Waiting(_) => Acknowledged::Later,
            Parked::Ready(_) => Acknowledged::Now,
        }
    }

    /// The log was closed after it was flushed up to `end`.
    pub(super) fn durable_at_close(&mut self, end: Offset) {
        let _ = self.replica.flushed(end);
        for mark in [Mark::Durable, Mark::HighWatermark] {
            for token in self.acks.advance(&mark, end.0) {
                acknowledge(token, None);
            }
        }
    }

    pub(super) fn release(&mut self, failure: Failure) {
        for mark in [Mark::Durable, Mark::HighWatermark] {
            for token in self.acks.remove_key(&mark) {
                acknowledge(token, Some(failure.clone()));
            }
        }
    }
}

const FAR_FUTURE: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3_600);

/// What is told of a batch that may or may not survive.
pub(super) fn outcome_unknown(reason: &str) -> Failure {
    Failure::new(
        ErrorCode::UNKNOWN_SERVER_ERROR,
        format!("the batch may have been appended, but is not known to be durable: {reason}"),
    )
}

fn acknowledge(token: AckToken, failure: Option<Failure>) {
    // A connection that is gone does not need the answer.
    let _ = token.events.send(Event::Acknowledged {
        slot: token.slot,
        index: token.index,
        failure,
    });
}

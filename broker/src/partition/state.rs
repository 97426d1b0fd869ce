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
    replica::{AckWait, Flush, IsrProposal, Marks, Opened, Replica, Role},
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

use super::{
    AckToken, Acknowledged, Directory, Figures, Opening, Surroundings,
    damage::DamageTold,
    feed::{Feed, Feeds, Urgency},
};
use crate::{metrics::TopicMetrics, server::Event};

/// How many batches above the high watermark are remembered one by one.
const HIDDEN_MAX: usize = 1_024;

/// One replica of a partition, on this broker.
#[derive(Debug)]
pub struct Partition {
    pub(super) id: TopicPartition,
    /// The topic's name, for paths, logs and metrics.
    pub(super) topic: Arc<str>,
    pub(super) directory: Arc<Directory>,
    pub(super) surroundings: Arc<Surroundings>,
    pub(super) metrics: Arc<TopicMetrics>,
    pub(super) damage_told: DamageTold,
    /// Whether somebody brings a part of it into memory behind an answer.
    pub(super) is_warming: AtomicBool,
    /// Bytes ever made visible to consumers, since the partition was opened.
    pub(super) visible: AtomicI64,
    /// Held, and taken before `inner`, while what is remembered of the log on disk is in question:
    /// by checkpoints, whatever moves the log start, and cuts.
    pub(super) upkeep: Mutex<()>,
    pub(super) inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// None once it was closed, or its topic deleted.
    pub(super) log: Option<Log>,
    pub(super) replica: Replica,
    pub(super) acks: WaitingList<Mark, AckToken, Instant>,
    /// How many brokers keep it.
    pub(super) replicas: usize,
    /// The sessions of its followers.
    pub(super) feeds: Feeds,
    /// What those were told of last.
    pub(super) fed: Marks,
    /// Up to where what became visible was counted.
    pub(super) shown: Offset,
    /// Whether the directory knows that the high watermark has moved.
    pub(super) moved: Moved,
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

/// Whether the directory knows that the high watermark is another one than it has written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Moved {
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
    /// Who waited for the own disk.
    acknowledged: Vec<AckToken>,
    /// Who waited for every replica in sync, and what they are answered with if not with success.
    committed: Vec<AckToken>,
    after_append: Option<Failure>,
    /// Bytes ever made visible, if there are more of them.
    visible: Option<i64>,
    queue: Queue,
    unsynced: Unsynced,
    moved: Moved,
    news: Vec<Arc<Feed>>,
    urgency: Urgency,
    pub(super) proposal: Option<IsrProposal>,
    pub(super) writeback: Option<WritebackJob>,
}

impl Effects {
    /// The partition wants one more flush.
    pub(super) fn join(&mut self, queue: Queue) {
        if queue == Queue::Join {
            self.queue = queue;
        }
    }

    /// Has these sessions look again, whatever there is to tell.
    pub(super) fn tell(&mut self, feeds: Vec<Arc<Feed>>) {
        self.news.extend(feeds);
        self.urgency = Urgency::Now;
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
    /// Over a log that was just opened. It does nothing before [`Partition::apply`] has told it
    /// what it is.
    #[must_use]
    pub fn new(opening: Opening) -> Self {
        let Opening { log, .. } = opening;
        let opened = Opened {
            log_start: log.start(),
            log_end: log.end(),
            durable_end: log.durable(),
            high_watermark: opening.high_watermark,
        };
        let replica = Replica::open(opening.flush, opened);
        let marks = replica.marks();
        Self {
            id: opening.id,
            topic: opening.topic,
            directory: opening.directory,
            surroundings: opening.surroundings,
            metrics: opening.metrics,
            damage_told: DamageTold::default(),
            is_warming: AtomicBool::new(false),
            visible: AtomicI64::new(0),
            upkeep: Mutex::default(),
            inner: Mutex::new(Inner {
                log: Some(log),
                replica,
                acks: WaitingList::new(),
                replicas: 1,
                feeds: Feeds::default(),
                fed: marks,
                shown: marks.high_watermark,
                moved: Moved::Unlisted,
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

    /// Bytes ever made visible to consumers: see [`super::FetchWaits`].
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

    /// What it is to its partition.
    #[must_use]
    pub fn role(&self) -> Role {
        self.inner.lock().replica.role()
    }

    /// How many leaders the partition has had, as far as is known here.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.inner.lock().replica.leader_epoch()
    }

    /// Whether other brokers keep it, too.
    #[must_use]
    pub fn is_replicated(&self) -> bool {
        self.inner.lock().is_replicated()
    }

    /// What has to be told to others since something has changed. To be carried out, by
    /// [`Partition::perform`], once the lock is released: it wakes tasks and threads.
    pub(super) fn settle(&self, inner: &mut Inner, flush: Flush) -> Effects {
        let marks = inner.replica.marks();
        let mut effects = Effects::default();
        if inner.replica.role() == Role::Leader {
            inner.acknowledge(&marks, &mut effects);
        }
        if marks.high_watermark > inner.shown {
            let shown = inner.show(marks.high_watermark);
            let visible = self.visible.load(Ordering::SeqCst).saturating_add(shown);
            // Only moved under the lock; an atomic for those who look without it.
            self.visible.store(visible, Ordering::SeqCst);
            effects.visible = Some(visible);
        }
        if inner.is_replicated() {
            inner.feed(&marks, &mut effects);
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
        for token in effects.committed {
            acknowledge(token, effects.after_append.clone());
        }
        if let Some(visible) = effects.visible {
            self.surroundings.waits.advance(self.id, visible);
        }
        for feed in effects.news {
            feed.touch(self.id, effects.urgency);
        }
        if let Some(proposal) = effects.proposal {
            self.surroundings.proposals.push(self, proposal);
        }
        if effects.moved == Moved::Listed {
            self.directory.synced(self);
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

    /// Answers whoever waits for what is durable or committed by now.
    fn acknowledge(&mut self, marks: &Marks, effects: &mut Effects) {
        effects.acknowledged = self.acks.advance(&Mark::Durable, marks.durable_end.0);
        effects.committed = self
            .acks
            .advance(&Mark::HighWatermark, marks.high_watermark.0);
        if !effects.committed.is_empty() {
            effects.after_append = self.replica.check_completion(Acks::All).err();
        }
    }

    /// Counts what becomes visible up to `high_watermark`, in bytes. Where a batch ends that was
    /// there when the log was opened nobody remembers: it counts as something.
    fn show(&mut self, high_watermark: Offset) -> i64 {
        self.shown = high_watermark;
        let mut shown = 0_i64;
        while let Some((end, bytes)) = self.hidden.front()
            && *end <= high_watermark
        {
            shown = shown.saturating_add(*bytes);
            self.hidden.pop_front();
        }
        shown.max(1)
    }

    /// So many bytes that end at `end` were appended.
    pub(super) fn hide(&mut self, end: Offset, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let is_full = self.hidden.len() >= HIDDEN_MAX;
        match self.hidden.back_mut() {
            // While nothing is committed for long, readers learn of it less exactly.
            Some(last) if is_full => {
                *last = (end, last.1.saturating_add(bytes));
            }
            _ => self.hidden.push_back((end, bytes)),
        }
    }

    /// The log was cut, or begun anew, and ends at `end` now.
    pub(super) fn cut(&mut self, end: Offset) {
        while self.hidden.back().is_some_and(|(last, _)| *last > end) {
            self.hidden.pop_back();
        }
        self.shown = self.shown.min(end);
    }

    /// Whether other brokers keep it, too.
    pub(super) const fn is_replicated(&self) -> bool {
        self.replicas > 1
    }

    /// Tells followers, and the directory, what has moved.
    fn feed(&mut self, marks: &Marks, effects: &mut Effects) {
        if self.fed == *marks {
            return;
        }
        let durable_end = self.fed.durable_end;
        let is_news = Marks {
            durable_end,
            ..*marks
        } != self.fed;
        if marks.high_watermark != self.fed.high_watermark && self.moved == Moved::Unlisted {
            self.moved = Moved::Listed;
            effects.moved = Moved::Listed;
        }
        if marks.log_end != self.fed.log_end {
            effects.urgency = Urgency::Now;
        }
        self.fed = *marks;
        if is_news {
            effects.news = self.feeds.all();
        }
    }

    /// Refuses what only the leader does.
    ///
    /// # Errors
    /// `NOT_LEADER_OR_FOLLOWER` names the leader, if one is known.
    pub(super) fn check_leads(&self) -> Result<(), Failure> {
        match self.replica.role() {
            Role::Leader => Ok(()),
            role => Err(not_leader(role)),
        }
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
        let marks = self.replica.marks();
        for (mark, offset) in [
            (Mark::Durable, marks.durable_end),
            (Mark::HighWatermark, marks.high_watermark),
        ] {
            for token in self.acks.advance(&mark, offset.0) {
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

/// What is answered to whoever asked for what only the leader does.
pub(super) fn not_leader(role: Role) -> Failure {
    let message = match role {
        Role::Follower { leader } => {
            format!("broker {leader} leads the partition: refresh metadata and ask there")
        }
        Role::Leader | Role::Idle => {
            "nobody leads the partition now, as far as is known here: refresh metadata and retry"
                .to_owned()
        }
    };
    Failure::new(ErrorCode::NOT_LEADER_OR_FOLLOWER, message)
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

//! One process of a broker: what a driver does around a [`Replica`].

use std::time::Duration;

use strandline_core::{
    FlushMode,
    replica::{
        AckWait, Flush, FollowerFetch, FollowerFlush, IsrProposal, LeaderMarks, ProposalOutcome,
        Replica, Role, RoleChange,
        divergence::{self, FetchAnswer, Reaction},
    },
};
use strandline_protocol::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, messages::Acks};

use super::{
    controller::Image,
    log::{Log, Record},
    network::Answer,
};
use crate::random::Random;

/// Records of one answer, at most.
const READ_COUNT: u64 = 6;

/// A request that waits for its answer.
#[derive(Clone, Debug)]
pub struct Pending<T> {
    pub id: u64,
    pub sent_at: u64,
    pub what: T,
}

/// A write that waits: its records begin and end here.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub wait: AckWait,
    pub acks: Acks,
    pub base: i64,
    pub values: Vec<u64>,
}

/// What an acknowledgement told a client.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub base: i64,
    pub values: Vec<u64>,
}

#[derive(Clone, Debug)]
pub struct Process {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
    pub replica: Replica,
    /// How many images it has applied, counted by their numbers.
    pub seen: usize,
    pub fetch: Option<Pending<LeaderEpoch>>,
    pub proposal: Option<Pending<IsrProposal>>,
    pub waiting: Vec<Waiting>,
    pub wants_flush: Flush,
    /// The end of what a flush that runs will have made durable.
    flushing: Option<i64>,
    /// Up to where what it shows was held against what others have shown.
    pub checked: i64,
    told_durable: i64,
}

impl Process {
    pub fn start(
        broker: BrokerId,
        epoch: BrokerEpoch,
        seen: usize,
        flush: FlushMode,
        log: &Log,
    ) -> Self {
        Self {
            broker,
            epoch,
            replica: Replica::open(flush, log.opened()),
            seen,
            fetch: None,
            proposal: None,
            waiting: Vec::new(),
            wants_flush: Flush::NotNeeded,
            flushing: None,
            checked: 0,
            told_durable: 0,
        }
    }

    /// Takes an image in.
    pub fn learn(&mut self, image: &Image, log: &mut Log, now: u64) -> RoleChange {
        self.wants_flush = self.replica.set_flush(image.flush);
        if self.replica.would_lead(self.broker, &image.facts) {
            log.begin_epoch(image.facts.leader_epoch, log.end);
        }
        let change = self.replica.learn(self.broker, &image.facts, ms(now));
        match change {
            RoleChange::Unchanged => {}
            RoleChange::Leads => self.fetch = None,
            RoleChange::Follows { .. } | RoleChange::Idles => {
                self.fetch = None;
                self.proposal = None;
                // Their outcome is unknown: it is told so.
                self.waiting.clear();
            }
        }
        change
    }

    /// What its next fetch says, to which leader.
    pub fn fetch(&self, log: &Log) -> Option<(BrokerId, FollowerFetch)> {
        let Role::Follower { leader } = self.replica.role() else {
            return None;
        };
        let position = self.replica.position(leader)?;
        let fetch = FollowerFetch {
            broker: self.broker,
            broker_epoch: self.epoch,
            leader_epoch: position.leader_epoch,
            fetch_offset: position.fetch_offset,
            last_epoch: log.last_epoch(),
            durable_offset: position.durable_offset,
        };
        Some((leader, fetch))
    }

    /// What it tells of a flush, to which leader.
    pub fn progress(&mut self) -> Option<(BrokerId, FollowerFlush)> {
        let Role::Follower { leader } = self.replica.role() else {
            return None;
        };
        let position = self.replica.progress(leader)?;
        if position.durable_offset.0 == self.told_durable {
            return None;
        }
        self.told_durable = position.durable_offset.0;
        let flushed = FollowerFlush {
            broker: self.broker,
            broker_epoch: self.epoch,
            leader_epoch: position.leader_epoch,
            durable_offset: position.durable_offset,
        };
        Some((leader, flushed))
    }

    /// The leader's answer to a fetch.
    pub fn serve(
        &mut self,
        fetch: &FollowerFetch,
        log: &Log,
        now: u64,
        random: &mut Random,
    ) -> Answer {
        let end_offset_for = |epoch| log.end_offset_for(epoch);
        let marks = self.replica.marks();
        let judged = self
            .replica
            .follower_fetched(fetch, end_offset_for, ms(now));
        match judged {
            Ok(FetchAnswer::Records) => {
                let count = random.below(READ_COUNT + 1) as usize;
                let marks = self.replica.marks();
                Answer::Records {
                    records: log.read(fetch.fetch_offset.0, count),
                    log_start: marks.log_start,
                    high_watermark: marks.high_watermark,
                }
            }
            Ok(FetchAnswer::Diverging(end)) => Answer::Diverging(end),
            Err(failure) if failure.error == ErrorCode::OFFSET_OUT_OF_RANGE => Answer::OutOfRange {
                log_start: marks.log_start,
                log_end: marks.log_end,
            },
            Err(_) => Answer::Refused,
        }
    }

    /// A follower takes an answer in. Returns what it cuts below what it has shown, if it does.
    pub fn take(
        &mut self,
        epoch: LeaderEpoch,
        answer: Answer,
        log: &mut Log,
    ) -> Result<(), String> {
        if self.replica.check_following(epoch).is_err() {
            return Ok(());
        }
        let marks = self.replica.marks();
        let reaction = match answer {
            Answer::Records {
                records,
                log_start,
                high_watermark,
            } => {
                log.append(&records);
                if !records.is_empty() {
                    self.wants_flush = self.replica.appended(Offset(log.end));
                }
                let told = LeaderMarks {
                    leader_epoch: epoch,
                    high_watermark,
                    log_start,
                };
                if let Some(start) = self.replica.leader_told(told) {
                    log.delete_before(start.0);
                    self.replica.log_started(start);
                }
                return Ok(());
            }
            Answer::Diverging(end) => {
                divergence::diverged(end, &marks, |epoch| log.end_offset_for(epoch))
            }
            Answer::OutOfRange { log_start, log_end } => {
                divergence::out_of_range(log_start, log_end, &marks)
            }
            Answer::Refused => Reaction::Retry,
        };
        self.react(reaction, log)
    }

    fn react(&mut self, reaction: Reaction, log: &mut Log) -> Result<(), String> {
        let shown = self.replica.marks().high_watermark;
        match reaction {
            Reaction::Truncate(to) => {
                if to < shown {
                    return Err(format!(
                        "broker {} cuts its log at {to}, and has shown up to {shown}",
                        self.broker
                    ));
                }
                log.truncate(to.0);
                self.replica.truncated(to);
                self.flushing = None;
            }
            Reaction::Restart(at) => {
                if at < shown {
                    return Err(format!(
                        "broker {} starts again at {at}, and has shown up to {shown}",
                        self.broker
                    ));
                }
                log.restart(at.0);
                self.replica.restarted(at);
                self.flushing = None;
            }
            Reaction::Retry => {}
        }
        Ok(())
    }

    /// A producer's records.
    pub fn produce(&mut self, values: Vec<u64>, acks: Acks, log: &mut Log) {
        if self.replica.check_append(acks).is_err() {
            return;
        }
        let (base, epoch) = (log.end, self.replica.leader_epoch());
        let records: Vec<Record> = values.iter().map(|value| (epoch, *value)).collect();
        log.append(&records);
        self.wants_flush = self.replica.appended(Offset(log.end));
        let wait = self.replica.ack_wait(acks, Offset(log.end));
        self.waiting.push(Waiting {
            wait,
            acks,
            base,
            values,
        });
    }

    /// Begins a flush, or ends the one that runs.
    pub fn flush(&mut self, log: &mut Log) {
        match self.flushing.take() {
            None => self.flushing = Some(log.end),
            Some(end) => {
                log.durable = log.durable.max(end);
                self.wants_flush = self.replica.flushed(Offset(log.durable));
            }
        }
    }

    pub const fn is_flushing(&self) -> bool {
        self.flushing.is_some()
    }

    /// Takes out what need not wait any longer, and what is acknowledged of it with `acks=all`.
    pub fn acknowledge(&mut self) -> Vec<Acknowledged> {
        let marks = self.replica.marks();
        let due = self.waiting.extract_if(.., |it| match it.wait {
            AckWait::Nothing | AckWait::Unanswered => true,
            AckWait::Durable(end) => marks.durable_end >= end,
            AckWait::HighWatermark(end) => marks.high_watermark >= end,
        });
        let due: Vec<_> = due.collect();
        due.into_iter()
            .filter(|it| it.acks == Acks::All && self.replica.check_completion(it.acks).is_ok())
            .map(|it| Acknowledged {
                base: it.base,
                values: it.values,
            })
            .collect()
    }

    /// The controller's answer, or none for one that was lost.
    pub fn altered(&mut self, id: u64, outcome: ProposalOutcome, now: u64) {
        if let Some(pending) = self.proposal.take_if(|pending| pending.id == id) {
            self.replica
                .proposal_answered(&pending.what, outcome, ms(now));
        }
    }
}

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

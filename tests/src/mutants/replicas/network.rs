//! Messages on their way: they take their time, overtake each other, and get lost.

use strandline_core::replica::{FollowerFetch, FollowerFlush, IsrProposal};
use strandline_protocol::{
    BrokerEpoch, ErrorCode, LeaderEpoch, Offset, PartitionEpoch, messages::EpochEnd,
};

use super::log::Record;
use crate::random::Random;

/// A process: the place of its broker, and its epoch. What is sent to one that is gone is lost with
/// its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub at: usize,
    pub epoch: BrokerEpoch,
}

/// Who a message is for, or comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    Process(Address),
    Controller,
}

#[derive(Clone, Debug)]
pub enum Body {
    Fetch {
        id: u64,
        fetch: FollowerFetch,
    },
    Fetched {
        id: u64,
        /// The epoch of the fetch.
        epoch: LeaderEpoch,
        answer: Answer,
    },
    Flushed(FollowerFlush),
    Alter {
        id: u64,
        proposal: IsrProposal,
    },
    Altered {
        id: u64,
        error: ErrorCode,
        partition_epoch: PartitionEpoch,
    },
}

/// A leader's answer to a fetch.
#[derive(Clone, Debug)]
pub enum Answer {
    Records {
        records: Vec<Record>,
        log_start: Offset,
        high_watermark: Offset,
    },
    Diverging(EpochEnd),
    OutOfRange {
        log_start: Offset,
        log_end: Offset,
    },
    Refused,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub from: Node,
    pub to: Node,
    pub body: Body,
    deliver_at: u64,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// How many of a thousand messages get lost.
    pub lost: u64,
    /// How many of a thousand take seconds.
    pub slow: u64,
}

/// Everything that is on its way, and who cannot reach whom.
#[derive(Debug, Default)]
pub struct Network {
    pub weather: Weather,
    /// Pairs of places that are cut off from each other; the controller's is `usize::MAX`.
    pub cuts: Vec<(usize, usize)>,
    messages: Vec<Message>,
}

/// The controller's place.
pub const CONTROLLER: usize = usize::MAX;

impl Network {
    pub fn are_connected(&self, one: usize, other: usize) -> bool {
        let pair = (one.min(other), one.max(other));
        !self.cuts.contains(&pair)
    }

    pub fn cut(&mut self, one: usize, other: usize) {
        self.cuts.push((one.min(other), one.max(other)));
    }

    pub fn send(&mut self, from: Node, to: Node, body: Body, now: u64, random: &mut Random) {
        if random.below(1_000) < self.weather.lost {
            return;
        }
        let delay = if random.below(1_000) < self.weather.slow {
            random.within(100..3_000)
        } else {
            random.within(1..20)
        };
        self.messages.push(Message {
            from,
            to,
            body,
            deliver_at: now + delay,
        });
    }

    /// What arrives now.
    pub fn due(&mut self, now: u64) -> Vec<Message> {
        let arrived = self.messages.extract_if(.., |it| it.deliver_at <= now);
        let mut arrived: Vec<_> = arrived.collect();
        arrived.retain(|it| self.are_connected(place(it.from), place(it.to)));
        arrived.sort_by_key(|it| it.deliver_at);
        arrived
    }
}

const fn place(node: Node) -> usize {
    match node {
        Node::Process(address) => address.at,
        Node::Controller => CONTROLLER,
    }
}

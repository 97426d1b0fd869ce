//! Which topics a run has, and what is promised of each.

use std::collections::BTreeMap;

use strandline_client::protocol::messages::{Acks, NewTopic};

use super::super::{ClusterPlan, Style};
use crate::random::Random;

/// Partitions of each topic.
pub(super) const PARTITIONS: i32 = 2;

/// One topic. What is promised of it follows from `flush`, `min_isr` and `acks`: see
/// `docs/guarantees.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TopicPlan {
    pub(super) name: &'static str,
    /// How many copies of each partition there are.
    pub(super) factor: usize,
    pub(super) flush: &'static str,
    pub(super) min_isr: usize,
    /// How its producers want writes to be acknowledged.
    pub(super) acks: Acks,
    pub(super) trimmed: Trimmed,
}

/// Whether records are deleted while the run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trimmed {
    Never,
    Sometimes,
}

impl TopicPlan {
    /// Those of a run.
    pub(super) fn all(plan: &ClusterPlan) -> Vec<Self> {
        let mut random = Random::new(plan.seed, 800);
        let flushed = ("flushed", "ack", Acks::All);
        let written = ("written", "async", Acks::All);
        let led = ("led", "ack", Acks::Leader);
        let all = [flushed, written, led].into_iter();
        all.map(|(name, flush, acks)| {
            let factor = match random.within(0..6) {
                0 => 2,
                1 if plan.machines >= 5 => 5,
                _ => 3,
            };
            // Where a machine goes for ever, a majority of the copies must be left.
            let factor = if plan.style == Style::Forever {
                factor.max(3)
            } else {
                factor
            };
            let most = if factor == 2 { 2 } else { factor / 2 + 1 };
            let min_isr = if random.one_in(3) { 1 } else { most };
            let trimmed = if random.one_in(3) {
                Trimmed::Sometimes
            } else {
                Trimmed::Never
            };
            Self {
                name,
                factor,
                flush,
                min_isr,
                acks,
                trimmed,
            }
        })
        .collect()
    }

    /// What is asked for to create it. The copies are `copies`, which is its factor where the
    /// cluster can replicate.
    pub(super) fn request(&self) -> NewTopic {
        let min_isr = self.min_isr.to_string();
        let configs = [
            ("flush", self.flush),
            ("segment.bytes", "16384"),
            ("retention.ms", "-1"),
            ("min.insync.replicas", min_isr.as_str()),
        ];
        let configs = configs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        NewTopic {
            name: self.name.to_owned(),
            partitions: Some(PARTITIONS),
            replication_factor: i16::try_from(self.factor).ok(),
            configs: BTreeMap::from(configs),
        }
    }

    /// Whether what is acknowledged survives a power cut of all its copies at once.
    pub(super) fn survives_power_cut_of_all(&self) -> bool {
        self.flush == "ack"
    }
}

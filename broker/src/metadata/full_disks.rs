//! What the controller is told of full disks, and when it does something about it.

use std::{collections::BTreeMap, time::Duration};

use strandline_protocol::BrokerId;

use super::losses::News;

/// How often others are asked to lead what is led on full disks: new topics may be led there.
const RELIEVE_EVERY: Duration = Duration::from_secs(1);

/// The brokers with data directories on full disks.
#[derive(Default)]
pub(super) struct FullDisks(BTreeMap<BrokerId, Full>);

struct Full {
    directories: usize,
    relieve_at: Duration,
}

impl FullDisks {
    /// A broker tells how many of its data directories lie on full disks; `now` since some moment.
    /// Something is due if others shall lead what is led there.
    pub(super) fn told(&mut self, broker: BrokerId, directories: usize, now: Duration) -> News {
        if directories == 0 {
            self.0.remove(&broker);
            return News::None;
        }
        let full = self.0.entry(broker).or_insert(Full {
            directories: 0,
            relieve_at: now,
        });
        let is_due = directories > full.directories || now >= full.relieve_at;
        full.directories = directories;
        if !is_due {
            return News::None;
        }
        full.relieve_at = now.saturating_add(RELIEVE_EVERY);
        News::Due
    }

    /// How many data directories of a broker lie on full disks, as it told last.
    pub(super) fn of(&self, broker: BrokerId) -> usize {
        self.0.get(&broker).map_or(0, |full| full.directories)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_asked_when_a_disk_runs_full_and_every_so_often() {
        let (broker, mut full) = (BrokerId(1), FullDisks::default());
        let mut told = |directories, seconds| {
            let news = full.told(broker, directories, Duration::from_secs(seconds));
            (news, full.of(broker))
        };
        assert_eq!(told(0, 0), (News::None, 0));
        assert_eq!(told(1, 1), (News::Due, 1));
        assert_eq!(told(1, 1), (News::None, 1));
        assert_eq!(told(2, 1), (News::Due, 2));
        assert_eq!(told(1, 1), (News::None, 1));
        assert_eq!(told(2, 2), (News::Due, 2));
        assert_eq!(told(0, 2), (News::None, 0));
        assert_eq!(told(1, 2), (News::Due, 1));
    }
}

//! How far replicas are that move: looked at again and again, and shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use strandline_client::Admin;
use strandline_protocol::{
    BrokerId, PartitionId,
    messages::{DescribedReplicas, PartitionMetadata},
};

use crate::cli::{error::CommandError, quantity};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often a line is written where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// After how long without any progress somebody is told what may be wrong.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// The partitions that move, by topic.
pub type Moving = BTreeMap<String, BTreeSet<PartitionId>>;

/// How far one look found them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Partitions that have arrived.
    pub done: u64,
    /// All of them.
    pub partitions: u64,
    /// Records that replicas which are being added have.
    pub records: u64,
    /// Records that they are to have.
    pub wanted: u64,
    /// Brokers that are still waited for.
    pub adding: BTreeSet<BrokerId>,
}

impl Reached {
    /// Counts one partition; `told` is what its leader says, if it does.
    pub fn count(&mut self, partition: &PartitionMetadata, told: Option<&DescribedReplicas>) {
        self.partitions += 1;
        if partition.adding.is_empty() && partition.removing.is_empty() {
            self.done += 1;
        }
        self.adding.extend(&partition.adding);
        let Some(told) = told else {
            return;
        };
        let whole = told.log_end_offset.since(told.log_start_offset);
        let whole = u64::try_from(whole).unwrap_or_default();
        for adding in &partition.adding {
            let replica = told.replicas.iter().find(|it| it.broker_id == *adding);
            let end = replica.and_then(|replica| replica.log_end_offset);
            let has = end.map_or(0, |end| end.since(told.log_start_offset));
            self.records += u64::try_from(has).unwrap_or_default().min(whole);
            self.wanted += whole;
        }
    }

    /// Whether nothing moves any more.
    pub const fn is_done(&self) -> bool {
        self.done == self.partitions
    }

    /// From 0 to 1,000: a partition counts when it has arrived, and before by its records.
    pub fn permille(&self) -> u64 {
        if self.is_done() || self.partitions == 0 {
            return 1_000;
        }
        let part = (self.records * 1_000).checked_div(self.wanted).unwrap_or(0);
        let left = self.partitions - self.done;
        ((self.done * 1_000 + left * part) / self.partitions).min(999)
    }

    fn text(&self) -> String {
        let partitions = format!("{} of {} partitions", self.done, self.partitions);
        if self.wanted == 0 {
            return partitions;
        }
        format!(
            "{partitions}, {} of {} records",
            quantity::thousands(self.records),
            quantity::thousands(self.wanted)
        )
    }
}

/// Waits until every partition of `moving` has arrived. It goes on by itself if this is
/// interrupted.
///
/// # Errors
/// If nobody answers any more, or a topic was deleted meanwhile.
pub async fn follow(admin: &Admin, moving: &Moving) -> Result<(), CommandError> {
    let mut shown = Shown::new();
    let mut moved = (0, Instant::now());
    let mut told = false;
    loop {
        let reached = look(admin, moving).await?;
        shown.show(&reached);
        if reached.is_done() {
            shown.finish();
            return Ok(());
        }
        let permille = reached.permille();
        if permille != moved.0 {
            moved = (permille, Instant::now());
            told = false;
        } else if moved.1.elapsed() > STALLED_AFTER && !told {
            told = true;
            let brokers: Vec<String> = reached.adding.iter().map(ToString::to_string).collect();
            shown.say(&format!(
                "no progress for {} s: do brokers {} live? (`strandline cluster health`) Is a \
                 throttle too low? (`strandline cluster describe` shows it, --throttle 0 lifts it)",
                STALLED_AFTER.as_secs(),
                brokers.join(", ")
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(admin: &Admin, moving: &Moving) -> Result<Reached, CommandError> {
    let mut reached = Reached::default();
    for (name, partitions) in moving {
        let topics = admin.describe_topics(&[name]).await?;
        let all = topics.iter().flat_map(|topic| &topic.partitions);
        let meant: Vec<_> = all.filter(|it| partitions.contains(&it.id)).collect();
        let described = if meant.iter().all(|it| it.adding.is_empty()) {
            BTreeMap::new()
        } else {
            admin.describe_replicas(name).await?
        };
        for partition in meant {
            let told = described.get(&partition.id);
            reached.count(partition, told.and_then(|told| told.as_ref().ok()));
        }
    }
    Ok(reached)
}

/// A bar on a terminal, lines elsewhere.
struct Shown {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
}

impl Shown {
    fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(1_000);
            let style = ProgressStyle::with_template("[{bar:30}] {percent:>3} %  {msg}  {elapsed}");
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Self {
            bar,
            last_line: None,
        }
    }

    fn show(&mut self, reached: &Reached) {
        if let Some(bar) = &self.bar {
            bar.set_message(reached.text());
            bar.set_position(reached.permille());
            return;
        }
        if self.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            self.last_line = Some(Instant::now());
            let percent = reached.permille() / 10;
            eprintln!("{percent} %: {}", reached.text());
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use strandline_protocol::{
        LeaderEpoch, Offset, PartitionEpoch, TopicId,
        messages::{Failure, ReplicaDescription},
    };

    use super::*;

    fn partition(adding: &[i32], removing: &[i32]) -> PartitionMetadata {
        let ids = |ids: &[i32]| ids.iter().map(|&id| BrokerId(id)).collect();
        PartitionMetadata {
            id: PartitionId(0),
            leader: Some(BrokerId(1)),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            replicas: ids(&[1, 2, 3]),
            isr: ids(&[1]),
            eligible: Vec::new(),
            adding: ids(adding),
            removing: ids(removing),
        }
    }

    fn told(start: i64, end: i64, of: &[(i32, i64)]) -> DescribedReplicas {
        DescribedReplicas {
            topic_id: TopicId([1; 16]),
            partition: PartitionId(0),
            failure: Failure::none(),
            leader_epoch: LeaderEpoch(0),
            log_start_offset: Offset(start),
            high_watermark: Offset(end),
            log_end_offset: Offset(end),
            replicas: of
                .iter()
                .map(|&(id, end)| ReplicaDescription {
                    broker_id: BrokerId(id),
                    log_end_offset: Some(Offset(end)),
                    durable_offset: None,
                    behind_ms: None,
                })
                .collect(),
        }
    }

    #[test]
    fn what_has_arrived_and_what_is_copied_counts() {
        let mut reached = Reached::default();
        reached.count(&partition(&[], &[]), None);
        reached.count(&partition(&[3], &[2]), Some(&told(100, 300, &[(3, 200)])));
        assert_eq!((reached.done, reached.permille()), (1, 750));
        assert_eq!(reached.text(), "1 of 2 partitions, 100 of 200 records");
        // A replica that has everything is not there before it is in sync.
        let mut reached = Reached::default();
        reached.count(&partition(&[3], &[2]), Some(&told(0, 300, &[(3, 300)])));
        assert_eq!((reached.is_done(), reached.permille()), (false, 999));
        // Nobody knows how far it is.
        let mut reached = Reached::default();
        reached.count(&partition(&[3], &[]), None);
        assert_eq!(
            (reached.permille(), reached.text().as_str()),
            (0, "0 of 1 partitions")
        );
        // An old replica that still has to go.
        let mut reached = Reached::default();
        reached.count(&partition(&[], &[2]), Some(&told(0, 0, &[])));
        assert!(!reached.is_done());
    }
}

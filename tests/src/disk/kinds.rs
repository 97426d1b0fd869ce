//! Which workloads there are: what each does, and how often.

use crate::random::Random;

/// A step of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One batch.
    Append,
    /// A few batches, as a connection sends them.
    Burst,
    /// Makes durable what is there.
    Flush,
    /// The same, with an append while the sync runs.
    FlushBehind,
    /// Makes a flush job and lets it lie.
    HoldFlush,
    /// Runs the oldest flush job that lies about.
    ReleaseFlush,
    /// Recovery points, indexes and producers of everything.
    Checkpoint,
    /// Makes a checkpoint job of one log and lets it lie.
    HoldCheckpoint,
    /// Runs the checkpoint job that lies about.
    ReleaseCheckpoint,
    /// Kafka's checkpoint files.
    KafkaCheckpoint,
    /// Closes a segment by its age.
    Roll,
    /// `DeleteRecords`.
    Delete,
    /// Retention.
    Retain,
    /// A week and a day goes by.
    Age,
    /// Cuts a log back, as a follower does.
    Truncate,
    /// Creates a topic.
    Create,
    /// Deletes a topic.
    DeleteTopic,
    /// Changes a topic's configuration.
    Configure,
    /// Hands out a producer id.
    NewProducer,
    /// Stops in order and starts again.
    Restart,
    /// Is killed and starts again.
    Kill,
    /// The disk fills up.
    Fill,
    /// There is room again.
    Free,
}

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Appends and flushes.
    Appends,
    /// Many short segments.
    Rolls,
    /// Retention by size and by age.
    Retention,
    /// `DeleteRecords`.
    DeleteRecords,
    /// Logs that are cut back.
    Truncation,
    /// Checkpoints, also while other things go on.
    Checkpoints,
    /// Idempotent producers and their snapshots.
    Producers,
    /// Topics that come and go.
    Topics,
    /// Changes of configuration.
    Configs,
    /// Clean and other restarts.
    Restarts,
    /// A full disk, and room again.
    FullDisk,
    /// All of it.
    Everything,
}

impl Kind {
    /// Every one.
    pub const ALL: [Self; 12] = [
        Self::Appends,
        Self::Rolls,
        Self::Retention,
        Self::DeleteRecords,
        Self::Truncation,
        Self::Checkpoints,
        Self::Producers,
        Self::Topics,
        Self::Configs,
        Self::Restarts,
        Self::FullDisk,
        Self::Everything,
    ];

    /// What it is called on the command line and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Appends => "appends",
            Self::Rolls => "rolls",
            Self::Retention => "retention",
            Self::DeleteRecords => "delete-records",
            Self::Truncation => "truncation",
            Self::Checkpoints => "checkpoints",
            Self::Producers => "producers",
            Self::Topics => "topics",
            Self::Configs => "configs",
            Self::Restarts => "restarts",
            Self::FullDisk => "full-disk",
            Self::Everything => "everything",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What it draws its steps from, and with which weight.
    const fn weights(self) -> &'static [(Step, u64)] {
        use Step::{
            Age, Append, Burst, Checkpoint, Configure, Create, Delete, DeleteTopic, Fill, Flush,
            FlushBehind, Free, HoldCheckpoint, HoldFlush, KafkaCheckpoint, Kill, NewProducer,
            ReleaseCheckpoint, ReleaseFlush, Restart, Retain, Roll, Truncate,
        };
        match self {
            Self::Appends => &[
                (Append, 6),
                (Burst, 3),
                (Flush, 4),
                (FlushBehind, 2),
                (HoldFlush, 2),
                (ReleaseFlush, 2),
                (Checkpoint, 1),
            ],
            Self::Rolls => &[
                (Append, 4),
                (Burst, 2),
                (Flush, 2),
                (FlushBehind, 1),
                (Roll, 4),
                (HoldFlush, 1),
                (ReleaseFlush, 1),
                (Checkpoint, 1),
            ],
            Self::Retention => &[
                (Burst, 6),
                (Flush, 4),
                (Retain, 4),
                (Age, 1),
                (Checkpoint, 1),
                (Roll, 1),
            ],
            Self::DeleteRecords => &[
                (Burst, 6),
                (Flush, 4),
                (Delete, 4),
                (Checkpoint, 1),
                (Roll, 1),
                (Retain, 1),
            ],
            Self::Truncation => &[
                (Burst, 5),
                (Append, 2),
                (Flush, 3),
                (Truncate, 2),
                (HoldFlush, 1),
                (ReleaseFlush, 1),
                (Checkpoint, 3),
                (Delete, 1),
                (Retain, 1),
                (Roll, 1),
            ],
            Self::Checkpoints => &[
                (Burst, 5),
                (Flush, 3),
                (Checkpoint, 3),
                (HoldCheckpoint, 3),
                (ReleaseCheckpoint, 3),
                (KafkaCheckpoint, 1),
                (Roll, 1),
            ],
            Self::Producers => &[
                (Append, 8),
                (Flush, 3),
                (NewProducer, 1),
                (Checkpoint, 2),
                (Roll, 1),
                (Retain, 1),
                (Kill, 1),
            ],
            Self::Topics => &[
                (Create, 4),
                (DeleteTopic, 3),
                (Append, 3),
                (Flush, 2),
                (Checkpoint, 1),
                (NewProducer, 1),
            ],
            Self::Configs => &[
                (Configure, 4),
                (Create, 1),
                (Burst, 3),
                (Flush, 2),
                (Retain, 2),
                (Checkpoint, 1),
            ],
            Self::Restarts => &[
                (Burst, 6),
                (Flush, 3),
                (Checkpoint, 1),
                (Restart, 2),
                (Kill, 1),
                (Delete, 1),
            ],
            Self::FullDisk => &[
                (Burst, 8),
                (Flush, 3),
                (Fill, 3),
                (Free, 2),
                (Retain, 2),
                (Delete, 2),
                (Checkpoint, 2),
                (Roll, 1),
                (Create, 1),
                (DeleteTopic, 1),
                (Configure, 1),
                (Kill, 1),
            ],
            Self::Everything => &[
                (Append, 8),
                (Burst, 6),
                (Flush, 6),
                (FlushBehind, 2),
                (HoldFlush, 2),
                (ReleaseFlush, 2),
                (Checkpoint, 3),
                (HoldCheckpoint, 1),
                (ReleaseCheckpoint, 2),
                (KafkaCheckpoint, 1),
                (Roll, 2),
                (Delete, 2),
                (Retain, 2),
                (Truncate, 1),
                (Create, 2),
                (DeleteTopic, 1),
                (Configure, 1),
                (NewProducer, 1),
                (Restart, 1),
                (Kill, 1),
            ],
        }
    }

    /// The next step.
    pub fn step(self, random: &mut Random) -> Step {
        let weights = self.weights();
        let total = weights.iter().map(|(_, weight)| weight).sum();
        let mut drawn = random.within(0..total);
        for (step, weight) in weights {
            if drawn < *weight {
                return *step;
            }
            drawn -= weight;
        }
        Step::Flush
    }

    /// Whether its clock jumps by days, so that producers are forgotten.
    #[must_use]
    pub const fn ages(self) -> bool {
        matches!(self, Self::Retention)
    }
}

//! Which partitions lack replicas, over the whole image.

use super::image::Image;

/// How many partitions lack replicas in sync.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LackOfReplicas {
    /// Partitions that have fewer in sync than they are to have.
    pub under_replicated: usize,
    /// Those of them that have fewer in sync than a write needs which all replicas acknowledge.
    pub under_min_isr: usize,
}

impl Image {
    /// Counts them. Walks over every partition: for people and scrapes, not for a hot path.
    #[must_use]
    pub fn lack_of_replicas(&self) -> LackOfReplicas {
        let mut lack = LackOfReplicas::default();
        for topic in self.topics() {
            // Nearly every partition of a topic has the same factor.
            let mut known = (0, 0);
            for (_, partition) in topic.partitions() {
                let (factor, in_sync) = (partition.factor(), partition.isr.len());
                if in_sync >= factor {
                    continue;
                }
                if known.0 != factor {
                    known = (factor, topic.min_isr(factor));
                }
                lack.under_replicated += 1;
                lack.under_min_isr += usize::from(in_sync < known.1);
            }
        }
        lack
    }
}

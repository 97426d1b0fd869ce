//! When a snapshot is written, and how far the log is trimmed behind it.

use super::{
    super::{Raft, machine::Public, store::Store, types::offset_of},
    SnapshotLimits, Snapshots,
};

/// Watches how the log grows. Each member does, whether it leads or not.
#[derive(Clone)]
pub(in crate::metadata) struct Keeper {
    pub(in crate::metadata) limits: SnapshotLimits,
    pub(in crate::metadata) public: Public,
    pub(in crate::metadata) store: Store,
    pub(in crate::metadata) snapshots: Snapshots,
}

impl Keeper {
    /// Runs until the group has ended, and then for ever, doing nothing.
    pub(in crate::metadata) async fn run(self, raft: Raft) {
        self.watch(&raft).await;
        std::future::pending().await
    }

    /// Returns when the group has ended.
    async fn watch(&self, raft: &Raft) -> Option<()> {
        let (mut images, mut newest) = (self.public.watch(), self.snapshots.watch());
        let mut appended_before = 0;
        loop {
            if self.is_due(appended_before) {
                // Does nothing while one is being written, or has just been and the group does not
                // know yet: so it is not waited for, and the next change asks again.
                raft.trigger().snapshot().await.ok()?;
            }
            tokio::select! {
                biased;
                changed = newest.changed() => {
                    changed.ok()?;
                    appended_before = self.store.appended();
                    self.trim(raft).await?;
                }
                changed = images.changed() => changed.ok()?,
            }
        }
    }

    /// Whether enough has been appended since the newest snapshot.
    fn is_due(&self, appended_before: u64) -> bool {
        let settled = self.public.image().version().plus(1);
        let entries = u64::try_from(settled.since(self.snapshots.end())).unwrap_or(0);
        let bytes = self.store.appended().saturating_sub(appended_before);
        entries > 0 && (entries >= self.limits.entries || bytes >= self.limits.bytes)
    }

    /// Trims the log behind the older of the kept snapshots: whoever is slow can still read what
    /// came after it, and if the newest does not read, the one before does with that.
    async fn trim(&self, raft: &Raft) -> Option<()> {
        let Some(older) = self.snapshots.older() else {
            return Some(());
        };
        let upto = u64::try_from(offset_of(&older).0).ok()?;
        raft.trigger().purge_log(upto).await.ok()
    }
}

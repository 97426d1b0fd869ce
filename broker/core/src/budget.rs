//! Memory in flight: bytes that were promised to requests that are not finished yet.
//!
//! Every length is reserved here before anything is allocated for it. Replication and control have
//! pools of their own, so that clients, however many, cannot starve what keeps the data safe.

/// On whose behalf bytes are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pool {
    /// Requests of producers, consumers and people.
    Client,
    /// Fetches between brokers.
    Replication,
    /// Heartbeats, metadata, elections.
    Control,
}

impl Pool {
    /// Every pool.
    pub const ALL: [Self; 3] = [Self::Client, Self::Replication, Self::Control];

    /// The name, as in metrics and errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Replication => "replication",
            Self::Control => "control",
        }
    }
}

/// How much each pool holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSizes {
    /// For [`Pool::Client`].
    pub client_bytes: u64,
    /// For [`Pool::Replication`].
    pub replication_bytes: u64,
    /// For [`Pool::Control`].
    pub control_bytes: u64,
}

/// Nothing was reserved; there may be room once other requests are finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wanted} bytes do not fit the {} bytes of the {} memory budget, {used} of which are in \
     flight: retry later, or send smaller requests", .size, .pool.name()
)]
pub struct OverBudget {
    /// Whose pool.
    pub pool: Pool,
    /// What was asked for, in bytes.
    pub wanted: u64,
    /// What is in flight, in bytes.
    pub used: u64,
    /// What the pool holds, in bytes.
    pub size: u64,
}

impl OverBudget {
    /// Whether waiting is of no use: the request alone is larger than its whole pool.
    #[must_use]
    pub const fn never_fits(&self) -> bool {
        self.wanted > self.size
    }
}

/// The counters of the pools. One per broker; the caller keeps it behind a lock.
#[derive(Clone, Debug)]
pub struct Budget {
    client: Account,
    replication: Account,
    control: Account,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    size: u64,
    used: u64,
}

impl Budget {
    /// Empty pools of these sizes.
    #[must_use]
    pub const fn new(sizes: PoolSizes) -> Self {
        const fn empty(size: u64) -> Account {
            Account { size, used: 0 }
        }
        Self {
            client: empty(sizes.client_bytes),
            replication: empty(sizes.replication_bytes),
            control: empty(sizes.control_bytes),
        }
    }

    /// Holds `bytes` of `pool` until they are given back with [`Budget::release`].
    ///
    /// # Errors
    /// [`OverBudget`] if they do not fit now; nothing is held then.
    pub fn reserve(&mut self, pool: Pool, bytes: u64) -> Result<(), OverBudget> {
        let account = self.account(pool);
        // Cannot wrap: used <= size, so the room is never negative.
        if bytes > account.size - account.used {
            return Err(OverBudget {
                pool,
                wanted: bytes,
                used: account.used,
                size: account.size,
            });
        }
        account.used += bytes;
        Ok(())
    }

    /// Gives back what [`Budget::reserve`] held.
    pub fn release(&mut self, pool: Pool, bytes: u64) {
        let account = self.account(pool);
        // More than was held means that the books are wrong, and with them every bound on memory.
        assert!(
            bytes <= account.used,
            "{bytes} bytes of {} given back, {} are held",
            pool.name(),
            account.used
        );
        account.used -= bytes;
    }

    /// How many bytes of `pool` are in flight.
    #[must_use]
    pub const fn used(&self, pool: Pool) -> u64 {
        match pool {
            Pool::Client => self.client.used,
            Pool::Replication => self.replication.used,
            Pool::Control => self.control.used,
        }
    }

    /// How many bytes `pool` holds in all.
    #[must_use]
    pub const fn size(&self, pool: Pool) -> u64 {
        match pool {
            Pool::Client => self.client.size,
            Pool::Replication => self.replication.size,
            Pool::Control => self.control.size,
        }
    }

    const fn account(&mut self, pool: Pool) -> &mut Account {
        match pool {
            Pool::Client => &mut self.client,
            Pool::Replication => &mut self.replication,
            Pool::Control => &mut self.control,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        Budget::new(PoolSizes {
            client_bytes: 100,
            replication_bytes: 10,
            control_bytes: 1,
        })
    }

    #[test]
    fn clients_cannot_starve_the_others() {
        let mut budget = budget();
        assert_eq!(budget.reserve(Pool::Client, 100), Ok(()));
        let refused = budget.reserve(Pool::Client, 1).expect_err("it is full");
        assert!(!refused.never_fits());
        assert_eq!(
            refused.to_string(),
            "1 bytes do not fit the 100 bytes of the client memory budget, 100 of which are in \
             flight: retry later, or send smaller requests"
        );
        assert_eq!(budget.reserve(Pool::Replication, 10), Ok(()));
        assert_eq!(budget.reserve(Pool::Control, 1), Ok(()));
        budget.release(Pool::Client, 40);
        assert_eq!(budget.reserve(Pool::Client, 40), Ok(()));
        assert_eq!(budget.used(Pool::Client), budget.size(Pool::Client));
    }

    #[test]
    fn what_is_larger_than_its_pool_never_fits() {
        let refused = budget()
            .reserve(Pool::Control, u64::MAX)
            .expect_err("it is too large");
        assert!(refused.never_fits());
    }

    #[test]
    #[should_panic(expected = "given back")]
    fn giving_back_what_was_not_held_is_a_bug() {
        budget().release(Pool::Client, 1);
    }
}

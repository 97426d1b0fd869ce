//! Which brokers and directories keep a new partition.
//!
//! *Pattern: fixed partitions.* The number of partitions is chosen once, where each of them lies is
//! chosen here: spread over racks first, then to whoever keeps the fewest.

use std::collections::BTreeSet;

use strandline_protocol::{BrokerId, DirectoryId};

use crate::metadata::{Replica, Replicas};

/// A broker that can take partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub broker: BrokerId,
    /// Its rack, where one is configured.
    pub rack: Option<String>,
    /// Its usable data directories and how many partitions each keeps.
    pub directories: Vec<(DirectoryId, usize)>,
}

/// There are fewer brokers than copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{copies} copies need {copies} brokers with a usable data directory, there are {brokers}")]
pub struct TooFewBrokers {
    /// How many copies are wanted.
    pub copies: usize,
    /// How many brokers can take one.
    pub brokers: usize,
}

/// What a broker keeps while partitions are being placed.
struct Shelf<'a> {
    broker: BrokerId,
    rack: Option<&'a str>,
    leads: usize,
    keeps: usize,
    /// (load, place in the configured order, directory): the first one is the emptiest.
    directories: BTreeSet<(usize, usize, DirectoryId)>,
}

impl Shelf<'_> {
    /// Takes one more copy, into the emptiest directory.
    fn take(&mut self) -> Option<Replica> {
        let (load, order, directory) = self.directories.pop_first()?;
        self.directories.insert((load + 1, order, directory));
        self.keeps += 1;
        Some(Replica {
            broker: self.broker,
            directory,
        })
    }
}

/// Places `partitions` new partitions of `copies` copies each. The leader comes first: the broker
/// that has been given the fewest to lead. The others follow in racks that the partition is not in
/// yet, as long as there are such, each time on the broker that keeps the fewest.
///
/// `turn` rotates who is asked first among equals, so that many small topics do not all begin at
/// the same broker; the same arguments always give the same answer.
///
/// # Errors
/// [`TooFewBrokers`].
pub fn place(
    candidates: &[Candidate],
    partitions: usize,
    copies: usize,
    turn: usize,
) -> Result<Vec<Replicas>, TooFewBrokers> {
    let mut shelves: Vec<Shelf<'_>> = candidates
        .iter()
        .filter(|candidate| !candidate.directories.is_empty())
        .map(shelf)
        .collect();
    if copies == 0 || shelves.len() < copies {
        return Err(TooFewBrokers {
            copies,
            brokers: shelves.len(),
        });
    }
    let by = turn % shelves.len();
    shelves.rotate_left(by);
    Ok((0..partitions)
        .map(|_| place_one(&mut shelves, copies))
        .collect())
}

fn shelf(candidate: &Candidate) -> Shelf<'_> {
    Shelf {
        broker: candidate.broker,
        rack: candidate.rack.as_deref(),
        leads: 0,
        keeps: candidate.directories.iter().map(|(_, load)| load).sum(),
        directories: candidate
            .directories
            .iter()
            .enumerate()
            .map(|(order, (directory, load))| (*load, order, *directory))
            .collect(),
    }
}

fn place_one(shelves: &mut [Shelf<'_>], copies: usize) -> Replicas {
    let mut replicas = Replicas::with_capacity(copies);
    let mut racks: Vec<&str> = Vec::with_capacity(copies);
    for copy in 0..copies {
        let free = |shelf: &&mut Shelf<'_>| {
            replicas
                .iter()
                .all(|replica: &Replica| replica.broker != shelf.broker)
        };
        let chosen = shelves.iter_mut().filter(free).min_by_key(|shelf| {
            let leads = if copy == 0 { shelf.leads } else { 0 };
            let same_rack = shelf.rack.is_some_and(|rack| racks.contains(&rack));
            (leads, same_rack, shelf.keeps)
        });
        if let Some(shelf) = chosen {
            shelf.leads += usize::from(copy == 0);
            racks.extend(shelf.rack);
            replicas.extend(shelf.take());
        }
    }
    replicas
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn candidate(broker: i32, rack: &str, loads: &[usize]) -> Candidate {
        let directories = (0_u8..).zip(loads).map(|(number, load)| {
            let mut id = [number; 16];
            id[0] = broker.try_into().expect("a small number");
            (DirectoryId(id), *load)
        });
        Candidate {
            broker: BrokerId(broker),
            rack: (!rack.is_empty()).then(|| rack.into()),
            directories: directories.collect(),
        }
    }

    fn brokers(replicas: &Replicas) -> Vec<i32> {
        replicas.iter().map(|replica| replica.broker.0).collect()
    }

    #[test]
    fn the_emptiest_directory_is_filled_first() {
        let placed = place(&[candidate(1, "", &[5, 2, 4])], 5, 1, 0).expect("it fits");
        let directories: Vec<u8> = placed.iter().map(|one| one[0].directory.0[1]).collect();
        assert_eq!(directories, [1, 1, 1, 2, 0]);
    }

    #[test]
    fn leaders_are_spread_and_copies_cross_racks() {
        let candidates: Vec<_> = [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c")]
            .into_iter()
            .map(|(broker, rack)| candidate(broker, rack, &[0]))
            .collect();
        let placed = place(&candidates, 60, 3, 4).expect("it fits");
        let (mut leads, mut keeps) = (BTreeMap::new(), BTreeMap::new());
        for replicas in &placed {
            let racks: BTreeSet<_> = brokers(replicas).iter().map(|id| (id - 1) / 2).collect();
            assert_eq!(racks.len(), 3, "{replicas:?}");
            *leads.entry(replicas[0].broker).or_insert(0) += 1;
            for replica in replicas {
                *keeps.entry(replica.broker).or_insert(0) += 1;
            }
        }
        assert!(leads.values().all(|&count| count == 10), "{leads:?}");
        assert!(keeps.values().all(|&count| count == 30), "{keeps:?}");
        assert_eq!(brokers(&placed[0])[0], 5);
    }

    #[test]
    fn fewer_brokers_than_copies_is_an_error() {
        let candidates = [candidate(1, "", &[0]), candidate(2, "", &[])];
        let refused = place(&candidates, 1, 2, 0).expect_err("one has no directory");
        assert_eq!(
            refused.to_string(),
            "2 copies need 2 brokers with a usable data directory, there are 1"
        );
    }
}

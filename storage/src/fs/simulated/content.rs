//! The bytes of one simulated file: what processes see, and what the medium holds.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::random::Random;

/// What a disk writes at once, or nearly so: see the module on tearing.
pub(super) const SECTOR: u64 = 512;
const SECTOR_BYTES: usize = 512;

/// Versions of one sector that are remembered between two syncs. Of more, older ones are forgotten:
/// a crash then finds one of the others.
const VERSIONS_MAX: usize = 8;

/// In 1 of 8 cases a sector that survives does so in part.
const TEARS: u64 = 32;

type Sector = Arc<[u8; SECTOR_BYTES]>;

/// How likely an unsynced change is found after a power cut, of 256.
#[derive(Clone, Copy, Debug)]
pub(super) struct Survival(pub(super) u64);

/// One file. Sectors that were never written are absent and read as zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    size: u64,
    sectors: BTreeMap<u64, Sector>,
    durable_size: u64,
    durable: BTreeMap<u64, Sector>,
    /// Sizes since the last sync, without the present one.
    earlier_sizes: Vec<u64>,
    /// Sectors written since the last sync, with their contents before the present one.
    unsynced: BTreeMap<u64, Vec<Sector>>,
    /// Not in memory: reading waits for the disk.
    pub(super) is_cold: bool,
}

impl Content {
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Changes the size. What is cut off is gone; what is new reads as zeros.
    pub(super) fn resize(&mut self, size: u64) {
        if size < self.size {
            let end = self.size;
            self.zero(size..end);
        }
        if size != self.size {
            self.earlier_sizes.push(self.size);
            self.size = size;
        }
    }

    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        let mut position = at;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, offset) = (position / SECTOR, offset_in_sector(position));
            let (now, later) = rest.split_at(rest.len().min(SECTOR_BYTES.saturating_sub(offset)));
            self.change(number, |sector| {
                let target = sector.iter_mut().skip(offset);
                target.zip(now).for_each(|(target, byte)| *target = *byte);
            });
            position = position.saturating_add(length(now));
            rest = later;
        }
    }

    pub(super) fn zero(&mut self, range: Range<u64>) {
        // Only sectors that exist can hold anything else: allocated space costs no time here.
        let numbers: Vec<u64> = self
            .sectors
            .range(range.start / SECTOR..range.end.div_ceil(SECTOR))
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            let start = number.saturating_mul(SECTOR);
            self.change(number, |sector| {
                for (byte, position) in sector.iter_mut().zip(start..) {
                    if range.contains(&position) {
                        *byte = 0;
                    }
                }
            });
        }
    }

    pub(super) fn read(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut position = range.start;
        while position < range.end {
            let offset = offset_in_sector(position);
            let left = usize::try_from(range.end.saturating_sub(position)).unwrap_or(usize::MAX);
            let count = left.min(SECTOR_BYTES.saturating_sub(offset));
            match self.sectors.get(&(position / SECTOR)) {
                Some(sector) => bytes.extend(sector.iter().skip(offset).take(count)),
                None => bytes.resize(bytes.len().saturating_add(count), 0),
            }
            position = position.saturating_add(u64::try_from(count).unwrap_or(SECTOR));
        }
        bytes
    }

    /// A sync that works.
    pub(super) fn sync(&mut self) {
        for number in std::mem::take(&mut self.unsynced).into_keys() {
            if let Some(sector) = self.sectors.get(&number) {
                self.durable.insert(number, Arc::clone(sector));
            }
        }
        self.durable_size = self.size;
        self.earlier_sizes.clear();
    }

    /// A sync that fails. Some of the sectors have reached the medium. None is dirty any more, so a
    /// sync that works later does not write the others either, though they are still seen.
    pub(super) fn fail_sync(&mut self, random: &mut Random) {
        for number in std::mem::take(&mut self.unsynced).into_keys() {
            if random.happens(128)
                && let Some(sector) = self.sectors.get(&number)
            {
                self.durable.insert(number, Arc::clone(sector));
            }
        }
        self.earlier_sizes.clear();
        if random.happens(128) {
            self.durable_size = self.size;
        }
    }

    /// What is found once power is back.
    pub(super) fn after_power_cut(&self, survival: Survival, random: &mut Random) -> Self {
        let mut durable = self.durable.clone();
        for (number, earlier) in &self.unsynced {
            if !random.happens(survival.0) {
                continue;
            }
            let versions: Vec<&Sector> = earlier.iter().chain(self.sectors.get(number)).collect();
            // Mostly the newest; any earlier one may have been written back before it.
            let newest = versions.len().saturating_sub(1);
            let chosen = if random.happens(192) {
                newest
            } else {
                random.below(versions.len())
            };
            if let Some(sector) = versions.get(chosen) {
                let before = durable
                    .get(number)
                    .map_or([0; SECTOR_BYTES], |sector| **sector);
                durable.insert(*number, torn(before, sector, random));
            }
        }
        let mut size = self.durable_size;
        let sizes = &self.earlier_sizes;
        if random.happens(survival.0) {
            let chosen = random.below(sizes.len().saturating_add(1));
            size = sizes.get(chosen).copied().unwrap_or(self.size);
        }
        let beyond = durable.split_off(&size.div_ceil(SECTOR));
        drop(beyond);
        let mut found = Self {
            size,
            sectors: durable.clone(),
            durable_size: size,
            durable,
            ..Self::default()
        };
        found.clear_behind_end();
        found
    }

    /// Flips bits of a byte where it is stored.
    pub(super) fn rot(&mut self, at: u64, mask: u8) {
        for sectors in [&mut self.sectors, &mut self.durable] {
            let sector = sectors
                .entry(at / SECTOR)
                .or_insert_with(|| Arc::new([0; SECTOR_BYTES]));
            if let Some(byte) = Arc::make_mut(sector).get_mut(offset_in_sector(at)) {
                *byte ^= mask;
            }
        }
    }

    /// Whether something would be lost by a power cut now.
    pub(super) fn is_unsynced(&self) -> bool {
        !self.unsynced.is_empty() || self.size != self.durable_size
    }

    fn change(&mut self, number: u64, change: impl FnOnce(&mut [u8; SECTOR_BYTES])) {
        let zeros = || Arc::new([0; SECTOR_BYTES]);
        let sector = self.sectors.entry(number).or_insert_with(zeros);
        let earlier = self.unsynced.entry(number).or_default();
        let before = Arc::clone(sector);
        change(Arc::make_mut(sector));
        if earlier.len() >= VERSIONS_MAX {
            earlier.remove(0);
        }
        earlier.push(before);
    }

    /// A file system never shows what lies behind the end once the file grows again.
    fn clear_behind_end(&mut self) {
        let (number, offset) = (self.size / SECTOR, offset_in_sector(self.size));
        for sectors in [&mut self.sectors, &mut self.durable] {
            if let Some(sector) = sectors.get_mut(&number) {
                let behind = Arc::make_mut(sector).iter_mut().skip(offset);
                behind.for_each(|byte| *byte = 0);
            }
        }
    }
}

/// What is left of writing `sector` over `before` when the power goes.
fn torn(before: [u8; SECTOR_BYTES], sector: &Sector, random: &mut Random) -> Sector {
    if !random.happens(TEARS) {
        return Arc::clone(sector);
    }
    let written = random.below(SECTOR_BYTES);
    let mut torn = before;
    let target = torn.iter_mut().zip(sector.iter()).take(written);
    target.for_each(|(target, byte)| *target = *byte);
    Arc::new(torn)
}

fn offset_in_sector(position: u64) -> usize {
    usize::try_from(position % SECTOR).unwrap_or(0)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

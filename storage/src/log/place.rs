//! Finding positions in one segment, closed or active alike.

use std::sync::Arc;

use bytes::Bytes;
use strandline_protocol::Offset;

use super::{
    Log,
    active::Active,
    errors::ReadError,
    offset_index::{OffsetEntry, OffsetIndex},
    segment::{Damage, Loss, Segment},
    time_index::TimeIndex,
    verified::Verified,
    walk::{HeaderWalk, Located, WalkError},
};
use crate::{error::StorageError, fs::File};

/// How many closed segments of one log have their indexes mapped.
const LOADED_MAX: usize = 16;

/// One segment, as a reader needs it.
#[derive(Debug)]
pub struct Place<'a> {
    /// Its first offset.
    pub base: Offset,
    /// The offset behind its last one.
    pub end: Offset,
    /// Its batches.
    pub file: &'a Arc<dyn File>,
    /// How much of it may be batches.
    pub size: u64,
    /// From where on it needs no check.
    pub own_from: u64,
    /// What else needs none.
    pub verified: &'a Arc<Verified>,
    segment: Option<&'a Segment>,
    indexes: IndexBytes<'a>,
    damage: Arc<[Damage]>,
}

#[derive(Debug)]
enum IndexBytes<'a> {
    Growing(&'a Active),
    Closed { offsets: Bytes, times: Bytes },
}

/// Where a read ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Behind the last batch.
    pub position: u64,
    /// Behind the last record.
    pub offset: Offset,
}

impl<'a> Place<'a> {
    fn of_active(active: &'a Active, end: Offset) -> Self {
        Self {
            base: active.base,
            end,
            file: &active.file,
            size: active.size,
            own_from: active.own_from,
            verified: &active.verified,
            segment: None,
            indexes: IndexBytes::Growing(active),
            damage: Arc::default(),
        }
    }

    /// The offset index.
    #[must_use]
    pub fn offsets(&self) -> OffsetIndex<'_> {
        match &self.indexes {
            IndexBytes::Growing(active) => OffsetIndex::new(active.indexes.offsets()),
            IndexBytes::Closed { offsets, .. } => OffsetIndex::new(offsets),
        }
    }

    /// The time index.
    #[must_use]
    pub fn times(&self) -> TimeIndex<'_> {
        match &self.indexes {
            IndexBytes::Growing(active) => TimeIndex::new(active.indexes.times()),
            IndexBytes::Closed { times, .. } => TimeIndex::new(times),
        }
    }

    /// A position at or before the batch that holds `offset`.
    #[must_use]
    pub fn hint(&self, offset: Offset) -> u64 {
        self.entry_for(offset)
            .map_or(0, |entry| u64::from(entry.position))
    }

    fn entry_for(&self, offset: Offset) -> Option<OffsetEntry> {
        self.offsets()
            .floor(u32::try_from(offset.since(self.base)).ok()?)
    }

    /// A walk from an index entry, or from the segment's beginning without one. None if the entry
    /// does not point to the header that it says.
    fn walk_from(
        &self,
        entry: Option<OffsetEntry>,
    ) -> Result<Option<HeaderWalk<'a>>, StorageError> {
        let Some(entry) = entry else {
            return Ok(Some(HeaderWalk::new(
                self.file,
                0,
                self.size,
                Some(self.base),
            )));
        };
        let position = u64::from(entry.position);
        let last_offset = self.base.plus(i64::from(entry.last_offset_delta));
        let mut peek = HeaderWalk::new(self.file, position, self.size, None);
        match peek.next() {
            Ok(Some(batch)) if batch.header.last_offset() == last_offset => {
                let expected = Some(batch.header.base_offset());
                Ok(Some(peek.back_to(position, expected)))
            }
            Ok(_) | Err(WalkError::Broken { .. }) => Ok(None),
            Err(WalkError::Fs(error)) => Err(error.into()),
        }
    }

    /// A walk that leads to `offset`, from behind the damage that lies before it.
    fn walk_to(&self, offset: Offset) -> Result<Option<HeaderWalk<'a>>, StorageError> {
        let entry = self.entry_for(offset);
        let before = |damage: &&Damage| damage.offsets.end <= offset;
        match self.damage.iter().rfind(before) {
            Some(damage) if entry.is_none_or(|it| u64::from(it.position) < damage.resume) => {
                let expected = Some(damage.offsets.end);
                Ok(Some(HeaderWalk::new(
                    self.file,
                    damage.resume,
                    self.size,
                    expected,
                )))
            }
            _ => self.walk_from(entry),
        }
    }

    /// The batch that holds `offset`; none if the way there is broken.
    pub fn find(&self, offset: Offset) -> Result<Option<Located>, StorageError> {
        let Some(mut walk) = self.walk_to(offset)? else {
            return Ok(None);
        };
        loop {
            match walk.next() {
                Ok(Some(batch)) if batch.header.last_offset() >= offset => {
                    let is_within = batch.header.base_offset() <= offset
                        && batch.header.end_offset() <= self.end;
                    return Ok(Some(batch).filter(|_| is_within));
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(WalkError::Broken { .. }) => return Ok(None),
                Err(WalkError::Fs(error)) => return Err(error.into()),
            }
        }
    }

    /// Where a read that begins with `first` ends: as many whole batches as fit into `bytes_max`
    /// and end at `end` or before, but the first in any case.
    pub fn stop(&self, first: &Located, bytes_max: u64, end: Offset) -> Result<Stop, StorageError> {
        let (end, limit) = (end.min(self.end), first.position.saturating_add(bytes_max));
        let mut stop = Stop {
            position: first.end(),
            offset: first.header.end_offset(),
        };
        let Some(mut walk) = self.walk_near(first, limit, end)? else {
            return Ok(stop);
        };
        while stop.offset < end {
            // What is broken ends the read; the next one begins there and says so.
            let batch = match walk.next() {
                Ok(Some(batch)) => batch,
                Ok(None) | Err(WalkError::Broken { .. }) => break,
                Err(WalkError::Fs(error)) => return Err(error.into()),
            };
            if batch.end() > limit || batch.header.end_offset() > end {
                if batch.position > stop.position {
                    stop = Stop {
                        position: batch.position,
                        offset: batch.header.base_offset(),
                    };
                }
                break;
            }
            stop = Stop {
                position: batch.end(),
                offset: batch.header.end_offset(),
            };
        }
        Ok(stop)
    }

    /// A walk that begins behind `first`, or as near before `limit` and `end` as the index allows.
    fn walk_near(
        &self,
        first: &Located,
        limit: u64,
        end: Offset,
    ) -> Result<Option<HeaderWalk<'a>>, StorageError> {
        let behind = HeaderWalk::new(
            self.file,
            first.end(),
            self.size,
            Some(first.header.end_offset()),
        );
        let last_offset = u32::try_from(end.since(self.base).saturating_sub(1)).ok();
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let nearest = [
            last_offset.and_then(|delta| self.offsets().floor(delta)),
            self.offsets().floor_by_position(limit),
        ];
        let [Some(by_offset), Some(by_position)] = nearest else {
            return Ok(Some(behind));
        };
        let entry = if by_offset.position < by_position.position {
            by_offset
        } else {
            by_position
        };
        if u64::from(entry.position) <= first.end() {
            return Ok(Some(behind));
        }
        match self.walk_from(Some(entry))? {
            Some(walk) => Ok(Some(walk)),
            None => Ok(Some(behind)),
        }
    }
}

impl Log {
    /// The segment that holds `offset`; none if the log has none yet.
    pub(super) fn place_of(&self, offset: Offset) -> Result<Option<Place<'_>>, StorageError> {
        if let Some(active) = &self.active
            && offset >= active.base
        {
            return Ok(Some(Place::of_active(active, self.end)));
        }
        let count = self
            .sealed
            .partition_point(|segment| segment.base <= offset);
        match count.checked_sub(1).and_then(|at| self.sealed.get(at)) {
            Some(segment) => self.place_in(segment).map(Some),
            None => Ok(None),
        }
    }

    /// A closed segment, with its indexes.
    pub(super) fn place_in<'a>(&'a self, segment: &'a Segment) -> Result<Place<'a>, StorageError> {
        let interval = self.config.index_interval_bytes;
        let loaded = segment.load(self.files.as_ref(), &self.directory, interval)?;
        self.note_loaded(segment.base);
        Ok(Place {
            base: segment.base,
            end: segment.end,
            file: &segment.file,
            size: segment.size,
            own_from: u64::MAX,
            verified: &segment.verified,
            segment: Some(segment),
            damage: loaded.damage,
            indexes: IndexBytes::Closed {
                offsets: loaded.offsets,
                times: loaded.times,
            },
        })
    }

    /// Keeps the number of mapped indexes small: mappings are few, and segments may be many.
    fn note_loaded(&self, base: Offset) {
        let mut loaded = self.loaded.lock();
        if loaded.back() == Some(&base) {
            return;
        }
        loaded.retain(|known| *known != base);
        loaded.push_back(base);
        if loaded.len() > LOADED_MAX
            && let Some(oldest) = loaded.pop_front()
            && let Ok(at) = self
                .sealed
                .binary_search_by_key(&oldest, |segment| segment.base)
            && let Some(segment) = self.sealed.get(at)
        {
            segment.unload();
        }
    }

    /// Every segment from the one that holds `offset` on.
    pub(super) fn places_from(
        &self,
        offset: Offset,
    ) -> impl Iterator<Item = Result<Place<'_>, StorageError>> {
        let sealed = self
            .sealed
            .iter()
            .filter(move |segment| segment.end > offset)
            .map(|segment| self.place_in(segment));
        let active = self
            .active
            .iter()
            .map(|active| Ok(Place::of_active(active, self.end)));
        sealed.chain(active)
    }

    /// The batch that holds `from`. If the index leads astray, it is built again; if the log itself
    /// is broken there, says so.
    pub(super) fn locate(&self, place: &Place<'_>, from: Offset) -> Result<Located, ReadError> {
        check_damage(&place.damage, from)?;
        if let Some(batch) = place.find(from)? {
            return Ok(batch);
        }
        let interval = self.config.index_interval_bytes;
        let (again, damage) = match (place.segment, &place.indexes) {
            (Some(segment), _) => {
                segment
                    .reload(self.files.as_ref(), &self.directory, interval)
                    .map_err(StorageError::from)?;
                let again = self.place_in(segment)?;
                let damage = Arc::clone(&again.damage);
                (again, damage)
            }
            (None, _) => self.walk_active(interval)?,
        };
        check_damage(&damage, from)?;
        again.find(from)?.ok_or_else(|| ReadError::Corrupt {
            offset: from,
            next_good: place.end,
            reason: "no batch holds the offset".to_owned(),
        })
    }

    /// What cannot be read of the active segment.
    fn walk_active(&self, interval: u32) -> Result<(Place<'_>, Arc<[Damage]>), StorageError> {
        let Some(active) = &self.active else {
            return Err(StorageError::damaged(
                &self.directory,
                "there is no active segment",
            ));
        };
        let segment = Segment::new(active.base, self.end, Arc::clone(&active.file), active.size);
        let (indexes, damage) = segment.rebuild(interval)?;
        let (offsets, times) = indexes.into_bytes();
        let damage: Arc<[Damage]> = damage.into();
        let mut place = Place::of_active(active, self.end);
        place.damage = Arc::clone(&damage);
        place.indexes = IndexBytes::Closed {
            offsets: offsets.into(),
            times: times.into(),
        };
        Ok((place, damage))
    }
}

fn check_damage(damage: &[Damage], offset: Offset) -> Result<(), ReadError> {
    match damage
        .iter()
        .find(|damage| damage.offsets.contains(&offset))
    {
        Some(damage) if damage.loss == Loss::Removed => Err(ReadError::Removed {
            offset,
            next: damage.offsets.end,
        }),
        Some(damage) => Err(ReadError::Corrupt {
            offset,
            next_good: damage.offsets.end,
            reason: damage.reason.clone(),
        }),
        None => Ok(()),
    }
}

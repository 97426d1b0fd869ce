//! The part of recovery that reads the log: what is kept and what is cut.

use std::{collections::VecDeque, ops::Range, path::Path, sync::Arc};

use strandline_core::mutants::{self, Mutant};
use strandline_protocol::{Offset, Timestamp};

use super::{
    LogConfig,
    active::Active,
    epochs::Epochs,
    hole,
    indexes::Indexes,
    offset_index::{OffsetEntry, OffsetIndex},
    partition_state::Source,
    producer_snapshot::IndexMark,
    recovery::{RecoveryHint, RecoveryReport, Shutdown},
    remove_if_there,
    search::Search,
    segment::Segment,
    state_file::{read_file, write_file},
    units::{FileKind, to_u64, to_usize},
    walk::{CheckedWalk, HeaderWalk, Located, WalkError},
};
use crate::{
    error::StorageError,
    fs::{File, FileSystem, FsError},
};

/// How much of a tail is looked at in one view.
const TAIL_VIEW_BYTES: u64 = 1 << 20;

static ZEROS: [u8; 4096] = [0; 4096];

/// The work, and what it goes by.
#[derive(Debug)]
pub struct Scan<'a> {
    /// The disk.
    pub files: &'a dyn FileSystem,
    /// The partition's directory.
    pub directory: &'a Path,
    /// Its configuration.
    pub config: &'a LogConfig,
    /// What the data directory remembers.
    pub hint: &'a RecoveryHint,
    /// The broker's time.
    pub now: Timestamp,
    /// How much of which index is good.
    pub mark: Option<IndexMark>,
    /// The epochs that were stored.
    pub epochs: Epochs,
    /// Which file said so; none if none did.
    pub source: Option<Source>,
    /// What is told about it.
    pub report: &'a mut RecoveryReport,
}

/// What is there.
#[derive(Debug)]
pub struct Scanned {
    /// Closed segments, oldest first.
    pub sealed: VecDeque<Segment>,
    /// The last one, unless nothing may be appended to it.
    pub active: Option<Active>,
    /// Where the log ends.
    pub end: Offset,
    /// The epochs, with those that only the log knew.
    pub epochs: Epochs,
}

/// One segment under the scan.
struct Under {
    base: Offset,
    file: Arc<dyn File>,
    /// Where its successor begins, if it has one.
    limit: Option<Offset>,
    indexes: Indexes,
    indexes_written: (usize, usize),
    position: u64,
    expected: Offset,
    /// Whether batches were left out.
    is_damaged: bool,
}

/// How the scan of one segment ended.
enum Outcome {
    /// It reaches its successor, or is the last and ends well.
    Whole,
    /// Above the recovery point something is not as it must be: the log ends here.
    Cut,
    /// Nothing good follows any more in front of its successor: a repair took it out, or it is
    /// damage below the recovery point. What is there is kept.
    Lost,
}

impl Scan<'_> {
    /// Scans the segments that begin at `bases`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn run(mut self, bases: &[Offset]) -> Result<Scanned, StorageError> {
        let recovery_point = self.hint.recovery_point;
        let trusted = self.trusted(bases);
        let mut sealed = VecDeque::new();
        let mut active = None;
        let mut end = Offset::ZERO;
        for (at, base) in bases.iter().enumerate() {
            let file = self
                .files
                .open(&FileKind::Log.path(self.directory, *base))?;
            let limit = bases.get(at.saturating_add(1)).copied();
            if let (true, Some(limit)) = (at < trusted, limit) {
                let size = file.size();
                sealed.push_back(Segment::new(*base, limit, file, size));
                continue;
            }
            if at > trusted && end != *base {
                // The one before was cut: nothing may follow it.
                self.remove_from(bases.get(at..).unwrap_or_default())?;
                break;
            }
            let mut under = self.begin(*base, file, limit)?;
            let outcome = self.scan(&mut under)?;
            end = under.expected;
            let is_last = limit.is_none() || limit != Some(end);
            match outcome {
                Outcome::Whole if !is_last => {
                    if !under.is_damaged {
                        self.settle_indexes(&mut under)?;
                    }
                    sealed.push_back(under.close(end));
                }
                Outcome::Whole | Outcome::Cut => {
                    self.cut(&under)?;
                    let mut last =
                        Active::over(under.file, *base, under.position, under.indexes, self.now);
                    last.indexes_written = under.indexes_written;
                    active = Some(last);
                }
                Outcome::Lost => {
                    end = limit.unwrap_or(recovery_point);
                    let size = under.file.size();
                    sealed.push_back(Segment::new(*base, end, under.file, size));
                }
            }
        }
        Ok(Scanned {
            sealed,
            active,
            end,
            epochs: self.epochs,
        })
    }

    /// How many segments need no look. A checkpoint makes the indexes of closed segments durable
    /// before it tells its recovery point. One that was closed behind that may end at the recovery
    /// point too, and what is found of its indexes may be what an earlier checkpoint wrote: they
    /// are good if producers were written down since, while a later segment was active.
    fn trusted(&self, bases: &[Offset]) -> usize {
        let recovery_point = self.hint.recovery_point;
        let marked = self.mark.map_or(Offset::ZERO, |mark| mark.base);
        let is_closed = self.hint.shutdown == Shutdown::Clean;
        let is_good = |limit: Offset| {
            limit < recovery_point || limit == recovery_point && (is_closed || limit <= marked)
        };
        bases
            .iter()
            .skip(1)
            .take_while(|limit| is_good(**limit))
            .count()
    }

    /// Where to begin in a segment: at the last entry of the indexes that are known to be good.
    fn begin(
        &self,
        base: Offset,
        file: Arc<dyn File>,
        limit: Option<Offset>,
    ) -> Result<Under, StorageError> {
        let mut under = Under {
            base,
            file,
            limit,
            indexes: Indexes::new(base, self.config.index_interval_bytes),
            indexes_written: (0, 0),
            position: 0,
            expected: base,
            is_damaged: false,
        };
        let Some((indexes, entry)) = self.marked_indexes(base)? else {
            self.drop_indexes(base, limit)?;
            return Ok(under);
        };
        let written = (indexes.offsets().len(), indexes.times().len());
        if let Some(entry) = entry {
            let position = u64::from(entry.position);
            let last_offset = base.plus(i64::from(entry.last_offset_delta));
            let mut peek = HeaderWalk::new(&under.file, position, under.file.size(), None).cold();
            match peek.next() {
                Ok(Some(batch)) if batch.header.last_offset() == last_offset => {
                    (under.position, under.expected) = (position, batch.header.base_offset());
                }
                Ok(_) | Err(WalkError::Broken { .. }) => {
                    self.drop_indexes(base, limit)?;
                    return Ok(under);
                }
                Err(WalkError::Fs(error)) => return Err(error.into()),
            }
        }
        (under.indexes, under.indexes_written) = (indexes, written);
        Ok(under)
    }

    /// The indexes of the segment, cut to what the mark says, if its CRC holds.
    fn marked_indexes(
        &self,
        base: Offset,
    ) -> Result<Option<(Indexes, Option<OffsetEntry>)>, StorageError> {
        let trusts_files = mutants::is_active(Mutant::IndexTrustedAfterCrash);
        let mark = self.mark.filter(|mark| mark.base == base);
        let Some(mark) = mark.or_else(|| trusts_files.then(IndexMark::default)) else {
            return Ok(None);
        };
        let read = |kind: FileKind, bytes: u64| -> Result<Option<Vec<u8>>, FsError> {
            let found = read_file(self.files, &kind.path(self.directory, base))?;
            let good = match &found {
                Some(found) if trusts_files => found.len(),
                _ => to_usize(bytes),
            };
            Ok(found.and_then(|found| found.get(..good).map(<[u8]>::to_vec)))
        };
        let (Some(offsets), Some(times)) = (
            read(FileKind::Index, mark.offset_bytes)?,
            read(FileKind::TimeIndex, mark.time_bytes)?,
        ) else {
            return Ok(None);
        };
        let crc = crc32c::crc32c_append(crc32c::crc32c(&offsets), &times);
        if crc != mark.crc && !trusts_files {
            return Ok(None);
        }
        let entry = OffsetIndex::new(&offsets).last();
        let interval = self.config.index_interval_bytes;
        let mut indexes = Indexes::resume(base, interval, offsets, times);
        if mark.first_timestamp.0 >= 0 {
            indexes.note_first_timestamp(mark.first_timestamp);
        }
        Ok(Some((indexes, entry)))
    }

    /// Removes the index files of what will be the active segment: they are not what they must be.
    fn drop_indexes(&self, base: Offset, limit: Option<Offset>) -> Result<(), FsError> {
        if limit.is_none() {
            for kind in [FileKind::Index, FileKind::TimeIndex] {
                remove_if_there(self.files, &kind.path(self.directory, base))?;
            }
        }
        Ok(())
    }

    fn scan(&mut self, under: &mut Under) -> Result<Outcome, StorageError> {
        if let Some(outcome) = self.scan_trusted(under)? {
            return Ok(outcome);
        }
        self.scan_untrusted(under)
    }

    /// Hops up to the recovery point. What is broken on the way is damage.
    fn scan_trusted(&mut self, under: &mut Under) -> Result<Option<Outcome>, StorageError> {
        let file = Arc::clone(&under.file);
        let (end, recovery_point) = (file.size(), self.hint.recovery_point);
        let goal = under
            .limit
            .map_or(recovery_point, |limit| limit.min(recovery_point));
        let mut walk = HeaderWalk::new(&file, under.position, end, Some(under.expected)).cold();
        let mut search = Search::new(Arc::clone(&file), end);
        let mut before = None;
        while under.expected < goal {
            let broken_at = walk.position();
            let reason = match walk.next() {
                Ok(Some(batch)) => {
                    under.take(&batch);
                    before = Some(batch);
                    continue;
                }
                Ok(None) => "the file ends early".to_owned(),
                Err(WalkError::Broken { reason }) => reason,
                Err(WalkError::Fs(error)) => return Err(error.into()),
            };
            let (good, first) = search.resume_behind(before.as_ref(), broken_at, under.expected)?;
            before = None;
            let good = good.filter(|batch| batch.header.base_offset() <= recovery_point);
            let lost_to = under.limit.unwrap_or(recovery_point);
            let next = good.map_or(lost_to, |batch| batch.header.base_offset());
            if good.is_none() && under.limit == Some(next) && self.is_removed(under, first..next)? {
                return Ok(Some(Outcome::Lost));
            }
            self.report.damage.push(format!(
                "offsets {first} to {next} (exclusive) of {} cannot be read: {reason}",
                self.directory.display(),
            ));
            self.report.damaged.push(first..next);
            if mutants::is_active(Mutant::BadBatchTruncatesDurable) {
                return Ok(Some(Outcome::Cut));
            }
            let Some(good) = good else {
                return Ok(Some(Outcome::Lost));
            };
            (under.position, under.expected) = (good.position, next);
            under.is_damaged = true;
            walk = HeaderWalk::new(&file, good.position, end, Some(next)).cold();
        }
        Ok(None)
    }

    /// The same for what is missing in front of its successor.
    fn is_removed_at_end(&self, under: &Under) -> Result<bool, FsError> {
        match under.limit {
            Some(limit) if under.expected < limit => self.is_removed(under, under.expected..limit),
            _ => Ok(false),
        }
    }

    /// Whether a repair took out what is missing at the end of a segment.
    fn is_removed(&self, under: &Under, offsets: Range<Offset>) -> Result<bool, FsError> {
        let path = FileKind::Log.path(self.directory, under.base);
        hole::is_declared(self.files, &path, &offsets)
    }

    /// Reads what was not known to be synced, up to the first thing that cannot be.
    fn scan_untrusted(&mut self, under: &mut Under) -> Result<Outcome, StorageError> {
        let file = Arc::clone(&under.file);
        let end = file.size();
        let from = under.position;
        let mut walk = CheckedWalk::new(&file, from, end, Some(under.expected));
        if self.hint.shutdown == Shutdown::Clean {
            walk = walk.trusting();
        }
        let outcome = loop {
            if under.limit == Some(under.expected) {
                break Outcome::Whole;
            }
            match walk.next() {
                Ok(Some(batch)) if self.is_epoch_in_order(&batch) => under.take(&batch),
                Ok(None) if under.limit.is_none() => break Outcome::Whole,
                Ok(None) if self.is_removed_at_end(under)? => break Outcome::Lost,
                Ok(_) | Err(WalkError::Broken { .. }) => break Outcome::Cut,
                Err(WalkError::Fs(error)) => return Err(error.into()),
            }
        };
        if self.hint.shutdown == Shutdown::Unclean {
            self.report.bytes_scanned = self
                .report
                .bytes_scanned
                .saturating_add(under.position.saturating_sub(from));
            // What only the page cache of a killed process holds must not count as durable. Below
            // the recovery point all of it is.
            let may_be_lost = under.expected > self.hint.recovery_point;
            if may_be_lost && !mutants::is_active(Mutant::RecoveryDoesNotSync) {
                file.sync()?;
            }
        }
        Ok(outcome)
    }

    /// An epoch is durable before its first batch, so the protected file knows it. Without that
    /// file, epochs must not decrease, and one that is not known begins here.
    fn is_epoch_in_order(&mut self, batch: &Located) -> bool {
        let (epoch, base_offset) = (batch.header.leader_epoch(), batch.header.base_offset());
        let knows_all = matches!(self.source, Some(Source::Protected | Source::Outdated));
        match self.epochs.at(base_offset) {
            Some(known) if epoch < known => false,
            Some(known) if epoch == known => true,
            // Below the log start, epochs are forgotten.
            None if knows_all => true,
            Some(_) if knows_all => false,
            _ => {
                self.epochs.assign(epoch, base_offset);
                true
            }
        }
    }

    /// Cuts what lies behind the last good batch. Nobody has a view of it yet. Where that is only
    /// space which was allocated ahead, it stays for the batches to come.
    fn cut(&mut self, under: &Under) -> Result<(), StorageError> {
        let size = under.file.size();
        if size <= under.position {
            return Ok(());
        }
        let cut = bytes_used(&under.file, under.position, size)?;
        if cut == 0 {
            return Ok(());
        }
        self.report.bytes_cut = self.report.bytes_cut.saturating_add(cut);
        under.file.truncate(under.position)?;
        under.file.sync()?;
        Ok(())
    }

    /// Replaces the index files of a closed segment that are not what the scan has built: a crash
    /// may have left those of an earlier checkpoint, which look whole.
    fn settle_indexes(&self, under: &mut Under) -> Result<(), StorageError> {
        under.indexes.finish();
        let indexes = [
            (FileKind::Index, under.indexes.offsets()),
            (FileKind::TimeIndex, under.indexes.times()),
        ];
        for (kind, bytes) in indexes {
            let path = kind.path(self.directory, under.base);
            let found = read_file(self.files, &path)?;
            if found.is_some_and(|found| found == bytes) {
                continue;
            }
            let written = write_file(self.files, &path, bytes).and_then(|file| file.sync());
            match written {
                // What is not there is built again when it is asked for.
                Err(error) if error.is_full() => {
                    remove_if_there(self.files, &path)?;
                    self.files.sync_directory(self.directory)?;
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// Removes segments, the youngest first, so that a crash leaves no hole.
    fn remove_from(&mut self, bases: &[Offset]) -> Result<(), StorageError> {
        for base in bases.iter().rev() {
            let path = FileKind::Log.path(self.directory, *base);
            let file = self.files.open(&path)?;
            let cut = bytes_used(&file, 0, file.size())?;
            self.report.bytes_cut = self.report.bytes_cut.saturating_add(cut);
            for kind in FileKind::ALL {
                remove_if_there(self.files, &kind.path(self.directory, *base))?;
            }
            self.files.sync_directory(self.directory)?;
        }
        Ok(())
    }
}

impl Under {
    fn take(&mut self, batch: &Located) {
        self.indexes
            .note(&batch.header, batch.position, batch.bytes);
        self.position = batch.end();
        self.expected = batch.header.end_offset();
    }

    fn close(self, end: Offset) -> Segment {
        Segment::new(self.base, end, self.file, self.position)
    }
}

/// How far behind `from` the last byte lies that is not zero.
fn bytes_used(file: &Arc<dyn File>, from: u64, end: u64) -> Result<u64, FsError> {
    let mut used = 0_u64;
    let mut at = from;
    while at < end {
        let until = end.min(at.saturating_add(TAIL_VIEW_BYTES));
        file.populate(at..until)?;
        let view = file.view(at..until)?;
        // Mostly it is all zeros, and there is much of it: whole blocks are compared first.
        let mut behind = view.len();
        for block in view.rchunks(ZEROS.len()) {
            let before = behind.saturating_sub(block.len());
            if ZEROS.get(..block.len()) != Some(block)
                && let Some(last) = block.iter().rposition(|byte| *byte != 0)
            {
                used = at
                    .saturating_sub(from)
                    .saturating_add(to_u64(before.saturating_add(last)))
                    .saturating_add(1);
                break;
            }
            behind = before;
        }
        at = until;
    }
    Ok(used)
}

//! The bytes of a snapshot.
//!
//! ```text
//! <20-digit end offset>-<10-digit term>.checkpoint     Kafka's name
//!
//! batch 0       key "snapshot": the header, lines of text
//! batch 1       the membership, as the entry that it is in the log
//! batches 2..   no key: what builds the image, in order
//! last batch    key "end": the footer, lines of text
//! ```
//!
//! Every batch is a record batch v2 of one record, like those of the log, with a CRC of its own;
//! base offsets count from 0, the leader epoch is the term of the last entry. The footer has the
//! number of batches before it, their bytes, and a CRC over all of those; the file ends with it. So
//! a file that is short, torn, patched together or has one wrong bit is noticed before any of it is
//! believed.
//!
//! ```text
//! strandline-metadata-snapshot 1          batches 5
//! cluster <id>                            bytes 812
//! last <term> <offset>                    crc32c <8 hexadecimal digits>
//! membership <term> <offset>
//! metadata-version <number>
//! ```

use std::{path::Path, str::FromStr};

use strandline_core::metadata::{Entry, Image, ImageBuilder, METADATA_VERSION, Membership};
use strandline_protocol::{
    ClusterId, LeaderEpoch, Offset, Timestamp,
    batch::{BatchView, split_batches, stamp_position},
};
use strandline_storage::{
    StorageError,
    fs::{File, FsError},
};

use super::super::{
    super::batches,
    types::{LogId, log_id, offset_of, term_of},
};

const FORMAT: &str = "strandline-metadata-snapshot 1";
const HEADER_KEY: &[u8] = b"snapshot";
const FOOTER_KEY: &[u8] = b"end";

/// How much is collected before it is written, in bytes; one batch may be larger.
const WRITE_BYTES: usize = 256 << 10;

/// By how much the file grows, in bytes.
const GROW_BYTES: u64 = 4 << 20;

/// What a snapshot tells.
#[derive(Clone, Debug)]
pub(in crate::metadata) struct Loaded {
    pub(in crate::metadata) last: LogId,
    pub(in crate::metadata) image: Image,
    pub(in crate::metadata) membership: Membership,
    /// The entry that the membership stands in.
    pub(in crate::metadata) membership_at: LogId,
}

impl Loaded {
    /// The end (exclusive) of what it reflects.
    pub(in crate::metadata) fn end(&self) -> Offset {
        offset_of(&self.last).plus(1)
    }
}

/// Why a snapshot is not used.
#[derive(Debug, thiserror::Error)]
pub(in crate::metadata) enum Unusable {
    /// It is not what was written.
    #[error("at byte {position}: {reason}")]
    Damaged {
        /// Where it shows.
        position: u64,
        /// What is wrong.
        reason: String,
    },
    /// It is whole, but not for this broker.
    #[error("{0}")]
    Foreign(String),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] FsError),
}

fn damaged(position: usize, reason: impl ToString) -> Unusable {
    Unusable::Damaged {
        position: to_u64(position),
        reason: reason.to_string(),
    }
}

/// Writes the snapshot of `image` to `file`, which is empty, from its beginning to its end, and
/// makes it durable. `membership_at` is where the membership of the image stands in the log.
///
/// # Errors
/// If the disk fails or is full.
pub(super) fn write(
    file: &dyn File,
    path: &Path,
    image: &Image,
    membership_at: LogId,
    now: Timestamp,
) -> Result<(), StorageError> {
    let last = log_id(image.term(), image.version());
    let Some(membership) = image.membership() else {
        let reason = format!(
            "there is nothing in the metadata yet to write to {}",
            path.display()
        );
        return Err(StorageError::Refused { reason });
    };
    let mut writer = Writer {
        file,
        buffer: Vec::with_capacity(WRITE_BYTES),
        written: 0,
        batches: 0,
        crc: 0,
        term: image.term(),
        now,
    };
    writer.batch(
        Some(HEADER_KEY),
        header_of(image, last, membership_at).as_bytes(),
    )?;
    writer.batch(None, &Entry::Membership(membership.clone()).encode())?;
    for value in image.snapshot_values() {
        writer.batch(None, &value)?;
    }
    writer.flush()?;
    let footer = footer_of(writer.batches, writer.written, writer.crc);
    writer.batch(Some(FOOTER_KEY), footer.as_bytes())?;
    writer.flush()?;
    file.truncate(writer.written)?;
    Ok(file.sync()?)
}

/// Reads a snapshot whole and checks all of it.
///
/// # Errors
/// [`Unusable`]; nothing of it may be believed then.
pub(super) fn read(file: &dyn File, cluster: ClusterId, last: LogId) -> Result<Loaded, Unusable> {
    let all = 0..file.size();
    if all.is_empty() {
        return Err(damaged(0, "it is empty"));
    }
    // A sector that cannot be read is an error here; it would be a signal in the view.
    file.populate(all.clone())?;
    let bytes = file.view(all)?;
    check_whole(&bytes, last)?;
    let mut reader = Reader::new(&bytes);
    let header = Header::read(&reader.next()?)?;
    header.check(cluster, last)?;
    let membership = match Entry::decode(&reader.next()?.value) {
        Ok(Entry::Membership(membership)) => membership,
        Ok(_) => {
            return Err(damaged(
                reader.position,
                "the second batch is no membership",
            ));
        }
        Err(error) => return Err(damaged(reader.position, error)),
    };
    let mut builder = ImageBuilder::default();
    loop {
        let at = reader.position;
        let part = reader.next()?;
        match part.key.as_deref() {
            None => builder
                .add_value(&part.value)
                .map_err(|error| damaged(at, error))?,
            // It was looked at before.
            Some(FOOTER_KEY) => break,
            Some(_) => return Err(damaged(at, "a batch has a key that is unknown")),
        }
    }
    let image = builder.finish();
    let image = image.map_err(|error| damaged(bytes.len(), error))?;
    let fits = last == log_id(image.term(), image.version())
        && image.membership() == Some(&membership)
        && image.metadata_version() == header.metadata_version;
    if !fits {
        return Err(damaged(
            bytes.len(),
            "its header is that of another snapshot",
        ));
    }
    Ok(Loaded {
        last,
        image,
        membership,
        membership_at: header.membership_at,
    })
}

/// Looks at every byte: batches one behind the other, counted from 0, to a footer that knows them
/// and is the end.
fn check_whole(bytes: &[u8], last: LogId) -> Result<(), Unusable> {
    let (mut position, mut count) = (0_usize, 0_u64);
    for batch in split_batches(bytes) {
        let batch = batch.map_err(|error| damaged(position, error))?;
        batch
            .check_crc()
            .map_err(|error| damaged(position, error))?;
        let header = batch.header();
        let is_next = u64::try_from(header.base_offset().0) == Ok(count);
        if !is_next || header.leader_epoch() != term_of(&last) {
            return Err(damaged(position, "a batch is not the next one"));
        }
        let end = position.saturating_add(batch.bytes().len());
        if end == bytes.len() {
            let part = Part::of(&batch).map_err(|reason| damaged(position, reason))?;
            let before = bytes.get(..position).unwrap_or_default();
            let expected = footer_of(count, to_u64(position), crc32c::crc32c(before));
            if part.key.as_deref() != Some(FOOTER_KEY) || part.value != expected.as_bytes() {
                return Err(damaged(position, "it ends without its footer"));
            }
            return Ok(());
        }
        (position, count) = (end, count.saturating_add(1));
    }
    Err(damaged(position, "it ends without its footer"))
}

fn header_of(image: &Image, last: LogId, membership_at: LogId) -> String {
    format!(
        "{FORMAT}\ncluster {}\nlast {}\nmembership {}\nmetadata-version {}\n",
        image.cluster(),
        place_of(&last),
        place_of(&membership_at),
        image.metadata_version(),
    )
}

fn footer_of(batches: u64, bytes: u64, crc: u32) -> String {
    format!("batches {batches}\nbytes {bytes}\ncrc32c {crc:08x}\n")
}

fn place_of(id: &LogId) -> String {
    format!("{} {}", term_of(id), offset_of(id))
}

/// What the first batch says.
struct Header {
    cluster: ClusterId,
    last: LogId,
    membership_at: LogId,
    metadata_version: u16,
}

impl Header {
    fn read(part: &Part) -> Result<Self, Unusable> {
        if part.key.as_deref() != Some(HEADER_KEY) {
            return Err(damaged(0, "it does not begin with its header"));
        }
        let text = std::str::from_utf8(&part.value).map_err(|error| damaged(0, error))?;
        let mut lines = text.lines();
        let format = lines.next().unwrap_or_default();
        if format != FORMAT {
            return Err(Unusable::Foreign(format!(
                "it is a \"{format}\", and this broker knows \"{FORMAT}\": start the version of \
                 strandline that wrote it"
            )));
        }
        let mut value = |key: &str| {
            let line = lines.next()?.strip_prefix(key)?;
            line.strip_prefix(' ')
        };
        let mut read = || {
            Some(Self {
                cluster: value("cluster")?.parse().ok()?,
                last: place_in(value("last")?)?,
                membership_at: place_in(value("membership")?)?,
                metadata_version: value("metadata-version")?.parse().ok()?,
            })
        };
        read().ok_or_else(|| damaged(0, "its header does not read"))
    }

    fn check(&self, cluster: ClusterId, last: LogId) -> Result<(), Unusable> {
        if self.cluster != cluster {
            let found = self.cluster;
            return Err(Unusable::Foreign(format!(
                "it belongs to cluster {found}, not to {cluster}: put it back where it came from"
            )));
        }
        let version = self.metadata_version;
        if version > METADATA_VERSION {
            return Err(Unusable::Foreign(format!(
                "its metadata version is {version}, and the newest that this broker knows is \
                 {METADATA_VERSION}: start the version of strandline that wrote it"
            )));
        }
        if self.last != last || self.membership_at > last {
            return Err(damaged(0, "its header is that of another snapshot"));
        }
        Ok(())
    }
}

fn place_in(text: &str) -> Option<LogId> {
    let (term, offset) = text.split_once(' ')?;
    let (term, offset) = (i32::from_str(term).ok()?, i64::from_str(offset).ok()?);
    (term >= 0 && offset >= 0).then(|| log_id(LeaderEpoch(term), Offset(offset)))
}

/// Key and value of the one record of a batch.
struct Part {
    key: Option<Vec<u8>>,
    value: Vec<u8>,
}

impl Part {
    fn of(batch: &BatchView<'_>) -> Result<Self, String> {
        let (key, value) = batches::decode_record(batch)?;
        Ok(Self { key, value })
    }
}

/// Goes from batch to batch.
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    fn next(&mut self) -> Result<Part, Unusable> {
        let at = self.position;
        let rest = self.bytes.get(at..).unwrap_or_default();
        let batch = BatchView::first(rest).map_err(|error| damaged(at, error))?;
        self.position = at.saturating_add(batch.bytes().len());
        Part::of(&batch).map_err(|reason| damaged(at, reason))
    }
}

/// Writes batch by batch, with no more than [`WRITE_BYTES`] and one batch in memory.
struct Writer<'a> {
    file: &'a dyn File,
    buffer: Vec<u8>,
    written: u64,
    batches: u64,
    crc: u32,
    term: LeaderEpoch,
    now: Timestamp,
}

impl Writer<'_> {
    fn batch(&mut self, key: Option<&[u8]>, value: &[u8]) -> Result<(), StorageError> {
        let refused = |reason: String| StorageError::Refused { reason };
        let batch = batches::encode_record(key, value, self.now).map_err(refused)?;
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&batch);
        let number = Offset(i64::try_from(self.batches).unwrap_or(i64::MAX));
        let placed = self.buffer.get_mut(at..).unwrap_or_default();
        stamp_position(placed, number, self.term);
        self.batches = self.batches.saturating_add(1);
        if self.buffer.len() >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        let end = self.written.saturating_add(to_u64(self.buffer.len()));
        if end > self.file.size() {
            let room = self.file.size().saturating_add(GROW_BYTES);
            self.file.allocate(room.max(end))?;
        }
        self.file.write(self.written, &[&self.buffer])?;
        self.file.start_writeback(self.written..end);
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.written = end;
        self.buffer.clear();
        Ok(())
    }
}

pub(super) fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

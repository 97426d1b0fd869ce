//! `strandline log dump`: what files hold, item by item, however large they are.

use std::{
    borrow::Cow,
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use strandline_protocol::{Offset, batch::BatchHeader};
use strandline_storage::log::inspect::{Batches, Dump, Piece, dump, is_known, is_segment};

use super::{check_there, files, lock, storage_error};
use crate::cli::{error::CommandError, output::OutputFormat, position::show_time};

/// Dumps every path; of a directory, its segments.
///
/// # Errors
/// If a file cannot be read, or is none of a log.
pub fn run(paths: &[PathBuf], format: OutputFormat) -> Result<(), CommandError> {
    let files = files();
    let mut items = Items::new(format);
    for path in paths {
        check_there(path)?;
        let directory = if path.is_dir() {
            path
        } else {
            path.parent().unwrap_or(path)
        };
        let directory = match directory.as_os_str().is_empty() {
            true => Path::new("."),
            false => directory,
        };
        let _lock = lock(&files, directory)?;
        for file in segments(path)? {
            items.title(&file)?;
            show(
                &file,
                dump(&files, &file).map_err(|it| storage_error(&it))?,
                &mut items,
            )?;
        }
    }
    items.finish()
}

/// The path itself, or the segments in it.
fn segments(path: &Path) -> Result<Vec<PathBuf>, CommandError> {
    if !path.is_dir() {
        if !is_known(&name_of(path)) {
            let message = format!("{} is no file of a log, going by its name", path.display());
            return Err(CommandError::failure(message)
                .hint("give a segment, such as strandline-data/NAME-0/00000000000000000000.log"));
        }
        return Ok(vec![path.to_path_buf()]);
    }
    let wrong = |error: io::Error| CommandError::io(path.display(), &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(wrong)? {
        let file = entry.map_err(wrong)?.path();
        if is_segment(&name_of(&file)) {
            found.push(file);
        }
    }
    found.sort();
    if found.is_empty() {
        let message = format!("{} holds no segment", path.display());
        return Err(CommandError::failure(message)
            .hint("give a partition's directory, such as strandline-data/NAME-0, or files"));
    }
    Ok(found)
}

fn name_of(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn show(path: &Path, dump: Dump, items: &mut Items) -> Result<(), CommandError> {
    match dump {
        Dump::Log(batches) => show_batches(path, batches, items),
        Dump::OffsetIndex { base, entries } => entries.iter().try_for_each(|entry| {
            let offset = base.plus(i64::from(entry.last_offset_delta)).0;
            let position = entry.position;
            items.push(
                format_args!("last offset {offset} at position {position}"),
                || json!({"kind": "offset_index_entry", "offset": offset, "position": position}),
            )
        }),
        Dump::TimeIndex { base, entries } => entries.iter().try_for_each(|entry| {
            let offset = base.plus(i64::from(entry.last_offset_delta)).0;
            let time = show_time(entry.timestamp);
            items.push(format_args!("{time} up to last offset {offset}"), || {
                let timestamp = entry.timestamp.0;
                json!({"kind": "time_index_entry", "timestamp": timestamp, "offset": offset})
            })
        }),
        Dump::Producers { end, producers } => producers.iter().try_for_each(|(id, producer)| {
            let last = producer.window().last();
            let sequence = last.map(|mark| mark.last_sequence.0);
            let offset = last.map(|mark| mark.last_offset.0);
            let epoch = producer.epoch.0;
            let shown = (sequence.unwrap_or(-1), offset.unwrap_or(-1));
            items.push(
                format_args!(
                    "producer {id} epoch {epoch}: last sequence {} at offset {}, as of offset \
                     {end}",
                    shown.0, shown.1
                ),
                || {
                    json!({"kind": "producer", "end": end.0, "producer_id": id.0, "epoch": epoch,
                        "last_sequence": sequence, "last_offset": offset})
                },
            )
        }),
        Dump::Epochs(entries) => entries.iter().try_for_each(|entry| {
            let (epoch, start) = (entry.epoch.0, entry.start.0);
            items.push(
                format_args!("epoch {epoch} begins at offset {start}"),
                || json!({"kind": "epoch", "epoch": epoch, "start": start}),
            )
        }),
        Dump::Text(text) => text.lines().try_for_each(|line| {
            items.push(
                format_args!("{line}"),
                || json!({"kind": "text", "line": line}),
            )
        }),
    }
}

fn show_batches(path: &Path, batches: Batches, items: &mut Items) -> Result<(), CommandError> {
    for piece in batches {
        match piece.map_err(|error| storage_error(&error))? {
            Piece::Batch {
                position,
                bytes,
                header,
            } => show_batch(position, bytes, &header, items)?,
            Piece::Unused { position, bytes } => items.push(
                format_args!("position {position}: {bytes} bytes are allocated and not used"),
                || json!({"kind": "unused", "position": position, "bytes": bytes}),
            )?,
            Piece::Bad {
                position,
                bytes,
                offset,
                next_good,
                reason,
            } => {
                let next = next_good.map(|Offset(next)| next);
                let follows = next.map_or_else(
                    || "nothing good follows".to_owned(),
                    |next| format!("good again from offset {next}"),
                );
                items.push(
                    format_args!(
                        "position {position}: BAD, {bytes} bytes from offset {offset} on: \
                         {reason}; {follows}"
                    ),
                    || {
                        json!({"kind": "bad", "path": path, "position": position, "bytes": bytes,
                            "offset": offset.0, "next_good": next, "reason": reason})
                    },
                )?;
            }
        }
    }
    Ok(())
}

fn show_batch(
    position: u64,
    bytes: u64,
    header: &BatchHeader,
    items: &mut Items,
) -> Result<(), CommandError> {
    let (base, last) = (header.base_offset().0, header.last_offset().0);
    let records = header.record_count();
    let epoch = header.leader_epoch().0;
    let (id, producer_epoch) = (header.producer_id().0, header.producer_epoch().0);
    let sequence = header.base_sequence().0;
    let time = show_time(header.max_timestamp());
    let codec = header
        .attributes()
        .codec()
        .map_or("unknown", strandline_protocol::batch::Codec::name);
    items.push(
        format_args!(
            "position {position}: {bytes} bytes, offsets {base} to {last}, {records} records, \
             epoch {epoch}, codec {codec}, producer {id} epoch {producer_epoch} sequence \
             {sequence}, {time}"
        ),
        || {
            json!({"kind": "batch", "position": position, "bytes": bytes, "base_offset": base,
                "last_offset": last, "records": records, "leader_epoch": epoch, "codec": codec,
                "producer_id": id, "producer_epoch": producer_epoch, "base_sequence": sequence,
                "base_timestamp": header.base_timestamp().0,
                "max_timestamp": header.max_timestamp().0})
        },
    )
}

/// What is printed, one after the other: lines, or the elements of one JSON array.
struct Items {
    out: BufWriter<io::StdoutLock<'static>>,
    format: OutputFormat,
    path: String,
    printed: bool,
}

impl Items {
    fn new(format: OutputFormat) -> Self {
        Self {
            out: BufWriter::with_capacity(1 << 16, io::stdout().lock()),
            format,
            path: String::new(),
            printed: false,
        }
    }

    /// What follows is of this file.
    fn title(&mut self, path: &Path) -> Result<(), CommandError> {
        self.path = path.display().to_string();
        match self.format {
            OutputFormat::Json => Ok(()),
            OutputFormat::Table => wrote(writeln!(self.out, "{}", self.path)),
        }
    }

    fn push(
        &mut self,
        line: std::fmt::Arguments<'_>,
        value: impl FnOnce() -> Value,
    ) -> Result<(), CommandError> {
        if self.format == OutputFormat::Table {
            return wrote(writeln!(self.out, "  {line}"));
        }
        let mut value = value();
        if let Some(fields) = value.as_object_mut() {
            fields.insert("path".to_owned(), Value::from(self.path.as_str()));
        }
        let before = if self.printed { ",\n" } else { "[\n" };
        self.printed = true;
        wrote(write!(self.out, "{before}{value}"))
    }

    fn finish(mut self) -> Result<(), CommandError> {
        if self.format == OutputFormat::Json {
            let end = if self.printed { "\n]" } else { "[]" };
            wrote(writeln!(self.out, "{end}"))?;
        }
        wrote(self.out.flush())
    }
}

fn wrote(result: io::Result<()>) -> Result<(), CommandError> {
    result.map_err(|error| CommandError::io("standard output", &error))
}

//! Where replay begins: at the newest snapshot that reads, or at the first entry.
//!
//! *Pattern: low-water mark.* A snapshot that is damaged is never used. The one before it does as
//! well, as long as the log still reaches back to it; if it does not, the broker must not start.

use std::path::PathBuf;

use strandline_client::net::Clock;
use strandline_protocol::{LeaderEpoch, Offset};
use strandline_storage::log::Log;

use super::{
    error::MetadataError,
    quorum::{
        Kept, Loaded, LogId, Unusable, load_at, name_of, names_in, offset_of, stored_membership,
        term_of,
    },
    replay::{MetadataOptions, segment_of},
};

/// What replay builds on.
#[derive(Default)]
pub(super) struct Base {
    /// What the snapshot tells; none if replay begins at the first entry.
    pub(super) loaded: Option<Loaded>,
    /// The snapshots that are kept, oldest first.
    pub(super) kept: Vec<Kept>,
    /// The last entry that the log does not hold any more.
    pub(super) purged: Option<LogId>,
}

impl Base {
    /// Where replay begins.
    pub(super) fn end(&self) -> Offset {
        self.loaded.as_ref().map_or(Offset::ZERO, Loaded::end)
    }

    /// The term of the snapshot.
    pub(super) fn term(&self) -> LeaderEpoch {
        let loaded = self.loaded.as_ref();
        loaded.map_or(LeaderEpoch(0), |loaded| term_of(&loaded.last))
    }
}

/// Finds where replay begins, and brings the log in line with it, as far as a crash in the middle
/// of an installation or of trimming has left that to do.
///
/// # Errors
/// [`MetadataError`]; the broker must not start then.
pub(super) fn find(options: &MetadataOptions, log: &mut Log) -> Result<Base, MetadataError> {
    let files = options.file_system.as_ref();
    let names = names_in(files, &options.directory).map_err(storage)?;
    let Some(loaded) = newest(options, log, &names)? else {
        return Ok(Base::default());
    };
    settle(options, log, &loaded)?;
    let before = names
        .iter()
        .rfind(|last| offset_of(last) < offset_of(&loaded.last));
    let older = before
        .filter(|last| log.start() <= offset_of(last).plus(1))
        .copied();
    trim(log, &loaded, older)?;
    let stands = (loaded.membership.clone(), loaded.membership_at);
    let newest = Kept {
        last: loaded.last,
        membership: Some(stored_membership(Some(&stands))),
    };
    let older = older.map(|last| Kept {
        last,
        membership: None,
    });
    let kept: Vec<Kept> = older.into_iter().chain([newest]).collect();
    let is_purged = |last: &LogId| offset_of(last).plus(1) == log.start();
    let purged = kept.iter().map(|kept| kept.last).find(is_purged);
    Ok(Base {
        loaded: Some(loaded),
        kept,
        purged,
    })
}

/// The newest snapshot that reads, if the log goes on from there; none if there is none and the log
/// does without.
fn newest(
    options: &MetadataOptions,
    log: &Log,
    names: &[LogId],
) -> Result<Option<Loaded>, MetadataError> {
    let mut damage: Option<(PathBuf, Unusable)> = None;
    for last in names.iter().rev() {
        let path = options.directory.join(name_of(last));
        let is_reached = log.start() <= offset_of(last).plus(1);
        // What a damaged one told must be in the log, or it is lost.
        let is_told = damage.is_none() || names.iter().all(|name| offset_of(name) < log.end());
        if !is_reached || !is_told {
            break;
        }
        let cluster = options.membership.cluster;
        match load_at(options.file_system.as_ref(), &path, cluster, *last) {
            Ok(loaded) => return Ok(Some(loaded)),
            Err(Unusable::Disk(error)) => return Err(storage(error)),
            Err(reason @ Unusable::Foreign(_)) => {
                return Err(unusable(log, path, &reason.to_string()));
            }
            Err(reason) => {
                tracing::warn!(
                    file = %path.display(),
                    "a snapshot of the metadata is damaged and is not used: {reason}"
                );
                damage.get_or_insert((path, reason));
            }
        }
    }
    let is_whole = log.start() == Offset::ZERO && log.end() > Offset::ZERO;
    match damage {
        // A log that was never trimmed tells everything itself.
        None if log.start() == Offset::ZERO => Ok(None),
        Some(_) if is_whole && names.iter().all(|name| offset_of(name) < log.end()) => Ok(None),
        Some((path, reason)) => Err(unusable(log, path, &reason.to_string())),
        None => {
            let reason = "there is none that the log goes on from";
            Err(unusable(log, options.directory.clone(), reason))
        }
    }
}

/// A snapshot that came from a leader is installed before the log is emptied; a crash in between
/// leaves a log that ends below it or is of another history.
fn settle(options: &MetadataOptions, log: &mut Log, loaded: &Loaded) -> Result<(), MetadataError> {
    let (last, end) = (offset_of(&loaded.last), loaded.end());
    let is_held = end <= log.end() && log.epoch_at(last) == Some(term_of(&loaded.last));
    if log.start() == end || is_held {
        return Ok(());
    }
    // Who has written the snapshot itself had all of the log.
    let is_own = loaded.membership.is_alone(options.raft_id.0);
    if is_own || log.end() < options.hint.recovery_point {
        let at = log.end().min(last);
        return Err(MetadataError::Damaged {
            file: segment_of(options, at),
            offset: at,
            reason: format!("it does not lead to its snapshot {}", name_of(&loaded.last)),
        });
    }
    log.restart_at(end, Clock.now())?;
    Ok(())
}

/// Trims as far as the older of the two snapshots; a crash may have left it undone, or half done.
fn trim(log: &mut Log, loaded: &Loaded, older: Option<LogId>) -> Result<(), MetadataError> {
    let target = match older {
        Some(older) => offset_of(&older).plus(1),
        None if log.start() > Offset::ZERO => loaded.end(),
        None => return Ok(()),
    };
    match log.delete_before(target, Clock.now()) {
        Ok(removed) => removed.finish()?,
        Err(error) if error.is_full() => tracing::warn!("the metadata log is not trimmed: {error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn unusable(log: &Log, file: PathBuf, reason: &str) -> MetadataError {
    MetadataError::Snapshot {
        file,
        reason: reason.to_owned(),
        held: format!("offsets {} to {} (exclusive)", log.start(), log.end()),
    }
}

fn storage(error: strandline_storage::fs::FsError) -> MetadataError {
    strandline_storage::StorageError::from(error).into()
}

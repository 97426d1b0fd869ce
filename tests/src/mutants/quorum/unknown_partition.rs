//! Somebody restores a backup: a partition's directory that no metadata speaks of lies among the
//! others at a start. It must not hinder the others, and every byte of it must be there still.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use strandline_protocol::{Timestamp, TopicId, batch::BatchView};
use strandline_storage::{
    fs::{FileSystem, FsError},
    log::{Log, LogConfig, RecoveryHint},
};

use super::{Cluster, told};
use crate::{disk::check::read_all, random::Random};

const TOPIC: &str = "known";
const DATA: &str = "/data";
const KNOWN: &str = "known-0";
const UNKNOWN: &str = "restored-0";

/// What is set aside is called so.
const ASIDE: &str = "-stray";

/// By name: the bytes of each file of a directory.
type Files = BTreeMap<String, Bytes>;

/// See the module.
pub(super) fn run(cluster: &mut Cluster, random: &mut Random) -> Result<String, String> {
    cluster.start(0);
    cluster.serving(&[0])?;
    cluster.create(TOPIC)?;
    let id = cluster.topic_id(0, TOPIC)?;
    let mut records = 0;
    for _ in 0..random.within(1..20) {
        records += append(cluster, id, random)?;
    }
    if random.one_in(3) {
        cluster.power_off(0, random);
    } else {
        cluster.machines[0].stop()?;
    }
    let files = cluster.machines[0].disk().file_system();
    let copied = copy(&*files).map_err(told)?;
    cluster.start(0);
    cluster.serving(&[0])?;
    // Once a partition takes records, everything that lies there was looked at.
    let more = append(cluster, id, random)?;
    cluster.power_off(0, random);
    let files = cluster.machines[0].disk().file_system();
    let (aside, found) = find(&*files).map_err(told)?;
    if found != copied {
        return Err(format!(
            "{UNKNOWN} held {} files of {} bytes, and after a start {} of {} bytes are found at \
             {aside:?}: the metadata does not know it, and its data is gone",
            copied.len(),
            bytes(&copied),
            found.len(),
            bytes(&found)
        ));
    }
    let aside = aside.ok_or("nothing was copied")?;
    for (name, expected) in [(aside.as_str(), records), (KNOWN, records + more)] {
        let readable = count(cluster, name, id)?;
        if readable != expected {
            return Err(format!(
                "{name}: {readable} records can be read, not {expected}"
            ));
        }
    }
    Ok(format!(
        "{records} records that nobody knew are kept in {} files at {aside}",
        found.len()
    ))
}

/// Writes a batch; tells how many records it has.
fn append(cluster: &Cluster, id: TopicId, random: &mut Random) -> Result<usize, String> {
    let values: Vec<String> = (0..random.within(1..5))
        .map(|_| random.draw().to_string())
        .collect();
    cluster.write_once(0, id, &values)?;
    Ok(values.len())
}

/// Copies the directory of the partition, durably; tells what it holds.
fn copy(files: &dyn FileSystem) -> Result<Files, FsError> {
    let to = Path::new(DATA).join(UNKNOWN);
    let held = read(files, &Path::new(DATA).join(KNOWN))?;
    files.create_directory(&to)?;
    for (name, bytes) in &held {
        let file = files.create(&to.join(name))?;
        file.allocate(bytes.len() as u64)?;
        file.write(0, &[bytes])?;
        file.sync()?;
    }
    files.sync_directory(&to)?;
    files.sync_directory(Path::new(DATA))?;
    Ok(held)
}

fn read(files: &dyn FileSystem, directory: &Path) -> Result<Files, FsError> {
    let mut held = Files::new();
    for entry in files.list(directory)? {
        let file = files.open(&directory.join(&entry.name))?;
        held.insert(entry.name, file.view(0..file.size())?);
    }
    Ok(held)
}

/// What was set aside of the copy: under which name, and what it holds.
fn find(files: &dyn FileSystem) -> Result<(Option<String>, Files), FsError> {
    let data = Path::new(DATA);
    let names = files.list(data)?.into_iter().map(|entry| entry.name);
    let mut named = names.filter(|name| name.starts_with(UNKNOWN) && name.ends_with(ASIDE));
    let Some(name) = named.next() else {
        return Ok((None, Files::new()));
    };
    let held = read(files, &data.join(&name))?;
    Ok((Some(name), held))
}

/// How many records of a log can be read.
fn count(cluster: &Cluster, directory: &str, id: TopicId) -> Result<usize, String> {
    let files = cluster.machines[0].disk().file_system();
    let (path, hint) = (Path::new(DATA).join(directory), RecoveryHint::default());
    let now = Timestamp(1_700_000_000_000);
    let opened = Log::open(files, &path, id, LogConfig::default(), hint, now);
    let (log, _) = opened.map_err(|error| format!("{directory} does not open: {error}"))?;
    let mut records = 0;
    for batch in read_all(&log).map_err(told)? {
        let view = BatchView::exactly(&batch).map_err(told)?;
        records += view.header().record_count() as usize;
    }
    Ok(records)
}

fn bytes(files: &Files) -> usize {
    files.values().map(Bytes::len).sum()
}

//! Which cluster a broker belongs to, found out before a directory is opened.
//!
//! A broker with an empty data directory founds a cluster, unless it is told to join one: then it
//! asks until a member answers, and never founds one instead. The data directory remembers, so that
//! later starts need no `--join`; one of another cluster is refused.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use strandline_client::{ClientError, ClientOptions, connection::Connection};
use strandline_core::metadata::Image;
use strandline_protocol::ClusterId;
use strandline_storage::directory::{begin_joining, end_joining, identity_of, joining};
use tokio::time::{Instant, sleep};

use super::{
    disks::unusable,
    ground::Site,
    spawn::{Threads, blocking},
};
use crate::{
    metadata::MetadataLog,
    partition::Directory,
    settings::{Address, Settings},
};

/// How long a member may take to say which cluster it belongs to.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait before everybody is asked again.
const PAUSE: Duration = Duration::from_millis(250);

/// How often a broker that waits tells what for.
const TELL_EVERY: Duration = Duration::from_secs(3);

/// What the first data directory tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Belonging {
    /// The cluster that a new directory belongs to; none if it founds one.
    pub(super) cluster: Option<ClusterId>,
    /// Whether its member is not known to the cluster yet.
    pub(super) newcomer: Newcomer,
}

/// See [`Belonging`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Newcomer {
    Yes,
    No,
}

/// Finds out.
///
/// # Errors
/// If the directory belongs to another cluster than who is to be joined; if the disk fails.
pub(super) async fn belonging(site: &Site<'_>) -> anyhow::Result<Belonging> {
    let (settings, file_system, threads) = (site.settings, &site.file_system, site.threads);
    let first = settings
        .data
        .first()
        .context("no data directory is configured; set --data")?;
    let (files, path) = (Arc::clone(file_system), first.clone());
    let look = move || {
        Ok((
            identity_of(files.as_ref(), &path)?,
            joining(files.as_ref(), &path)?,
        ))
    };
    let looked: Result<_, strandline_storage::StorageError> =
        blocking(threads, look).await.context("the runtime stops")?;
    let (identity, mark) = looked.map_err(|error| unusable(first, error))?;
    let newcomer = if mark.is_some() {
        Newcomer::Yes
    } else {
        Newcomer::No
    };
    match identity {
        Some(identity) => {
            check_same(settings, site.own, identity.cluster_id, first).await?;
            let cluster = Some(identity.cluster_id);
            Ok(Belonging { cluster, newcomer })
        }
        None if settings.join.is_empty() => match mark {
            None => Ok(Belonging {
                cluster: None,
                newcomer,
            }),
            Some(cluster) => bail!(
                "data directory {} was about to join cluster {cluster}: name brokers of it with \
                 --join",
                first.display()
            ),
        },
        None => {
            let cluster = ask_until_answered(site).await?;
            let (files, path) = (Arc::clone(file_system), first.clone());
            let begin = move || begin_joining(files.as_ref(), &path, cluster);
            blocking(threads, begin)
                .await
                .context("the runtime stops")?
                .map_err(|error| unusable(first, error))?;
            tracing::info!(%cluster, "joining the cluster");
            Ok(Belonging {
                cluster: Some(cluster),
                newcomer: Newcomer::Yes,
            })
        }
    }
}

/// Refuses to join a cluster with the data of another one. Who cannot be asked now refuses later.
async fn check_same(
    settings: &Settings,
    own: &Address,
    cluster: ClusterId,
    directory: &Path,
) -> anyhow::Result<()> {
    for address in settings.join.iter().filter(|address| *address != own) {
        match ask(address).await {
            Ok(other) if other != cluster => bail!(
                "data directory {} belongs to cluster {cluster}, but {address} to cluster {other}: \
                 to join that, give an empty data directory with --data; to go on in its own, \
                 leave --join out",
                directory.display()
            ),
            Ok(_) => return Ok(()),
            Err(reason) => tracing::debug!(%address, "cannot be asked for its cluster: {reason}"),
        }
    }
    Ok(())
}

async fn ask_until_answered(site: &Site<'_>) -> anyhow::Result<ClusterId> {
    let (settings, own) = (site.settings, site.own);
    let others: Vec<&Address> = settings
        .join
        .iter()
        .filter(|address| *address != own)
        .collect();
    if others.is_empty() {
        bail!(
            "--join names this broker itself only ({own}): name another one, or leave it out to \
             found a cluster"
        );
    }
    let (since, mut told) = (Instant::now(), None::<Instant>);
    loop {
        let mut reasons = Vec::new();
        for address in &others {
            match ask(address).await {
                Ok(cluster) => return Ok(cluster),
                Err(reason) => reasons.push(reason),
            }
        }
        let what = format!(
            "waiting for a broker of the cluster to join: {}; start one of them without --join if \
             there is no cluster yet",
            reasons.join("; ")
        );
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            tracing::warn!(waited_s = since.elapsed().as_secs(), "{what}");
        }
        site.readiness.waits(what);
        sleep(PAUSE).await;
    }
}

/// Which cluster the broker at `address` belongs to.
async fn ask(address: &Address) -> Result<ClusterId, String> {
    let options = ClientOptions {
        client_id: "joining-broker".to_owned(),
        connect_timeout: ANSWER_TIMEOUT,
        ..ClientOptions::default()
    };
    let opened = Connection::open(&address.to_string(), &options).await;
    let connection = opened.map_err(|error| match error {
        ClientError::Unreachable { address, reason } => format!("{address}: {reason}"),
        error => error.to_string(),
    })?;
    Ok(connection.hello().cluster_id)
}

/// Waits until the cluster knows the member of `directory`, and forgets that it was about to join.
pub(super) async fn settle_in(metadata: MetadataLog, directory: Arc<Directory>, threads: Threads) {
    let raft_id = directory.data().identity().raft_id.0;
    let is_member = |image: &Arc<Image>| {
        image
            .membership()
            .is_some_and(|known| known.members().any(|member| member.raft_id == raft_id))
    };
    let mut images = metadata.watch();
    if images.wait_for(is_member).await.is_err() {
        return;
    }
    let settle = move || {
        let data = directory.data();
        end_joining(data.file_system().as_ref(), data.path())
    };
    if let Some(Err(error)) = blocking(threads, settle).await {
        tracing::warn!("cannot note that the cluster was joined, the next start tries: {error}");
    }
}

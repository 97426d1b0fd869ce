//! What happens to the disk, and what the broker owes then.

use std::{future::Future, pin::Pin, time::Duration};

use super::stage::Stage;

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    pub(super) disk: Disk,
    pub(super) backend: &'static str,
    pub(super) record_bytes: usize,
    pub(super) act: Act,
}

pub(super) type Act =
    for<'a> fn(&'a mut Stage) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

/// Which disk gets the trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    /// A plain directory, the second one.
    Plain,
    /// A small one in memory, as the second directory.
    MemorySecond,
    /// A small one in memory, as the first directory, which holds the metadata.
    MemoryFirst,
}

const fn scenario(
    name: &'static str,
    disk: Disk,
    backend: &'static str,
    record_bytes: usize,
    act: Act,
) -> Scenario {
    Scenario {
        name,
        disk,
        backend,
        record_bytes,
        act,
    }
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    scenario("sync-fails", Disk::Plain, "mapped", 200, |stage| {
        Box::pin(directory_fails(stage, "fdatasync", "error=EIO"))
    }),
    scenario(
        "sync-fails-everywhere",
        Disk::Plain,
        "mapped",
        200,
        |stage| Box::pin(everything_fails(stage)),
    ),
    scenario("sync-is-slow", Disk::Plain, "mapped", 200, |stage| {
        Box::pin(sync_is_slow(stage))
    }),
    scenario("write-fails", Disk::Plain, "pwrite", 200, |stage| {
        Box::pin(directory_fails(stage, "pwritev", "error=EIO"))
    }),
    scenario(
        "write-finds-no-space",
        Disk::Plain,
        "pwrite",
        200,
        |stage| Box::pin(no_space(stage, "pwritev")),
    ),
    scenario("allocate-fails", Disk::Plain, "mapped", 2_000, |stage| {
        Box::pin(directory_fails(stage, "fallocate", "error=EIO"))
    }),
    scenario("allocate-no-space", Disk::Plain, "mapped", 2_000, |stage| {
        Box::pin(no_space(stage, "fallocate"))
    }),
    scenario("full", Disk::MemorySecond, "mapped", 2_000, |stage| {
        Box::pin(full(stage))
    }),
    scenario(
        "full-pwrite",
        Disk::MemorySecond,
        "pwrite",
        2_000,
        |stage| Box::pin(full(stage)),
    ),
    scenario("full-first", Disk::MemoryFirst, "mapped", 2_000, |stage| {
        Box::pin(full(stage))
    }),
    scenario(
        "full-killed",
        Disk::MemorySecond,
        "mapped",
        2_000,
        |stage| Box::pin(full_and_killed(stage)),
    ),
    scenario(
        "full-first-killed",
        Disk::MemoryFirst,
        "mapped",
        2_000,
        |stage| Box::pin(full_and_killed(stage)),
    ),
];

/// A call that cannot be trusted any more takes its directory offline, and no other.
async fn directory_fails(
    stage: &mut Stage,
    system_call: &'static str,
    effect: &'static str,
) -> anyhow::Result<()> {
    let injection = stage.inject(system_call, effect)?;
    let (here, there) = (stage.here.clone(), stage.there.clone());
    stage
        .fail_with(&here, &["offline", "EIO", "Input/output error"])
        .await;
    injection.end();
    stage.go_on(&there).await;
    let (online, ready) = (stage.is_online(), stage.is_ready());
    stage.require(!online, "the directory is still online");
    stage.require(ready, "the broker is not ready any more");
    Ok(())
}

/// No directory is left: nothing is acknowledged, the broker says so and does not end.
async fn everything_fails(stage: &mut Stage) -> anyhow::Result<()> {
    let injection = stage.inject_everywhere("fdatasync", "error=EIO")?;
    let all = [stage.here.clone(), stage.there.clone()].concat();
    stage
        .fail_with(&all, &["offline", "EIO", "Input/output error"])
        .await;
    injection.end();
    let (online, ready) = (stage.is_online(), stage.is_ready());
    stage.require(!online, "the directory is still online");
    stage.require(!ready, "a broker without a directory says that it is ready");
    stage.note("not ready, as no directory is left");
    Ok(())
}

/// A slow disk holds up who waits for it, and nobody else.
async fn sync_is_slow(stage: &mut Stage) -> anyhow::Result<()> {
    const DELAY: Duration = Duration::from_millis(200);
    let injection = stage.inject("fdatasync", "delay_enter=200ms")?;
    let (here, there) = (stage.here.clone(), stage.there.clone());
    let slow = stage.quickest_median(&here, 10 * DELAY).await;
    let quick = stage.go_on(&there).await;
    injection.end();
    stage.require(slow >= DELAY, format!("{slow:?} is no slow disk"));
    stage.require(
        quick < DELAY / 2,
        format!("the other directory takes {quick:?}"),
    );
    stage.note(format!(
        "median to an acknowledgement {} ms here, {} ms there",
        slow.as_millis(),
        quick.as_millis()
    ));
    let online = stage.is_online();
    stage.require(online, "a slow disk was taken offline");
    Ok(())
}

/// A call finds no space: producers hear of it, and writing goes on by itself afterwards.
async fn no_space(stage: &mut Stage, system_call: &'static str) -> anyhow::Result<()> {
    let injection = stage.inject(system_call, "error=ENOSPC")?;
    let (here, there) = (stage.here.clone(), stage.there.clone());
    stage.fail_with(&here, &["disk is full"]).await;
    stage.go_on(&there).await;
    stage.reads_go_on().await?;
    injection.end();
    stage.everybody_writes("once there is space again").await;
    let online = stage.is_online();
    stage.require(online, "a full disk was taken offline");
    Ok(())
}

/// A disk that is really full.
async fn full(stage: &mut Stage) -> anyhow::Result<()> {
    let (here, there) = (stage.here.clone(), stage.there.clone());
    stage.fail_with(&here, &["disk is full"]).await;
    stage.go_on(&there).await;
    stage.reads_go_on().await?;
    stage.deletes_go_on().await?;
    stage.make_room()?;
    stage.everybody_writes("once there is space again").await;
    stage.note("writing resumes once there is space");
    let online = stage.is_online();
    stage.require(online, "a full disk was taken offline");
    Ok(())
}

/// A disk that is full while the broker starts.
async fn full_and_killed(stage: &mut Stage) -> anyhow::Result<()> {
    let (here, there) = (stage.here.clone(), stage.there.clone());
    stage.fail_with(&here, &["disk is full"]).await;
    stage.kill_and_start().await?;
    stage.fail_with(&here, &["disk is full"]).await;
    stage.go_on(&there).await;
    stage.reads_go_on().await?;
    stage.deletes_go_on().await?;
    stage.make_room()?;
    stage.everybody_writes("once there is space again").await;
    Ok(())
}

//! Snapshots among members: who is behind the log gets one, and nobody has to read it all.

use bytes::Bytes;
use strandline_protocol::{
    LeaderEpoch,
    messages::{EntryId, QuorumSnapshotRequest, TermVote},
};

use super::{super::replay, *};

/// So small that a few topics make several snapshots.
const SMALL: SnapshotLimits = SnapshotLimits {
    entries: 10,
    bytes: u64::MAX,
};

/// The snapshots on the disk of a member, by name, oldest first.
fn snapshots_on(disk: &SimulatedDisk) -> Vec<String> {
    let directory = Path::new("/data").join(METADATA_DIRECTORY);
    let entries = disk.file_system().list(&directory).unwrap();
    let names = entries.into_iter().map(|entry| entry.name);
    names.filter(|name| name.ends_with(".checkpoint")).collect()
}

fn start_of(metadata: &MetadataLog) -> Offset {
    metadata.store.start().unwrap()
}

async fn fill(metadata: &MetadataLog, prefix: &str, topics: usize) {
    for number in 0..topics {
        create(metadata, &format!("{prefix}-{number}"))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_newcomer_behind_the_trimmed_log_gets_a_snapshot_and_follows() {
    let mut group = Group::alone(SMALL).await;
    let first = group.logs[&IDS[0]].clone();
    fill(&first, "early", 40).await;
    until("the log is trimmed", || start_of(&first) > Offset(10)).await;
    until("two snapshots are left", || {
        snapshots_on(&group.disks[&IDS[0]]).len() == 2
    })
    .await;

    group.start(IDS[1], Founding::Elsewhere).await;
    let raft = group.raft(IDS[0]);
    raft.add_learner(IDS[1], broker(IDS[1]), true)
        .await
        .unwrap();
    assert!(
        group.wires.parts.load(Ordering::Relaxed) > 0,
        "it came by the log"
    );
    fill(&first, "late", 5).await;
    let image = group.agreed(&IDS[..2]).await;
    assert!(has(&image, "alone") && has(&image, "early-39") && has(&image, "late-4"));
    assert!(image.is_consistent());
    assert!(start_of(&group.logs[&IDS[1]]) > Offset(10));

    // What it was given outlasts a power cut, and with its vote it can lead.
    raft.change_membership(BTreeSet::from([IDS[0], IDS[1]]), false)
        .await
        .unwrap();
    fill(&first, "more", 15).await;
    let before = group.agreed(&IDS[..2]).await;
    for id in &IDS[..2] {
        group.power_off(*id, 3 + id.0).await;
    }
    for id in &IDS[..2] {
        group.start(*id, Founding::Forbidden).await;
        assert!(group.logs[id].image().version() >= Offset(10), "{id}");
    }
    let leader = group.leader(&IDS[..2]).await;
    create(&group.logs[&leader], "again").await.unwrap();
    let after = group.agreed(&IDS[..2]).await;
    assert!(
        before
            .topics()
            .all(|topic| after.topic(&topic.name) == Some(topic))
    );
    assert!(has(&after, "again"));
}

#[tokio::test]
async fn who_was_cut_off_for_long_gets_a_snapshot_in_place_of_what_it_has() {
    let mut group = Group::of_three_with(SMALL).await;
    group.agreed(&IDS).await;
    group.power_off(IDS[2], 5).await;
    let first = group.logs[&IDS[0]].clone();
    let behind = first.image().version();
    fill(&first, "meanwhile", 40).await;
    until("the log is trimmed", || start_of(&first) > behind.plus(5)).await;
    group.start(IDS[2], Founding::Forbidden).await;
    let image = group.agreed(&IDS).await;
    assert!(has(&image, "meanwhile-39"));
    assert!(
        group.wires.parts.load(Ordering::Relaxed) > 0,
        "it came by the log"
    );
    group.power_off(IDS[2], 6).await;
    group.start(IDS[2], Founding::Forbidden).await;
    create(&first, "after").await.unwrap();
    assert!(has(group.agreed(&IDS).await.as_ref(), "after"));
}

#[tokio::test]
async fn followers_snapshot_and_trim_by_themselves() {
    let group = Group::of_three_with(SMALL).await;
    let first = group.logs[&IDS[0]].clone();
    fill(&first, "topic", 60).await;
    group.agreed(&IDS).await;
    for id in IDS {
        until("the log is trimmed", || {
            start_of(&group.logs[&id]) > Offset(20)
        })
        .await;
        until("two snapshots are left", || {
            snapshots_on(&group.disks[&id]).len() == 2
        })
        .await;
    }
    assert_eq!(group.wires.parts.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_snapshot_that_is_due_while_the_one_before_ends_is_not_forgotten() {
    let limits = SnapshotLimits {
        entries: 1,
        bytes: u64::MAX,
    };
    let group = Group::alone(limits).await;
    let first = group.logs[&IDS[0]].clone();
    for number in 0..40 {
        fill(&first, &format!("round-{number}"), 2).await;
        let settled = first.image().version();
        until("the log is trimmed", || {
            start_of(&first) > settled.plus(-20)
        })
        .await;
    }
}

/// The requests by which `leader` would send its newest snapshot to the member `to`.
fn parts_of(leader: &SimulatedDisk, to: RaftId) -> Vec<(QuorumSnapshotRequest, Bytes)> {
    const PART_BYTES: u64 = 700;
    let name = snapshots_on(leader).pop().unwrap();
    let path = Path::new("/data").join(METADATA_DIRECTORY).join(&name);
    let file = leader.file_system().open(&path).unwrap();
    let (end, term) = name
        .trim_end_matches(".checkpoint")
        .split_once('-')
        .unwrap();
    let last = EntryId {
        term: LeaderEpoch(term.parse().unwrap()),
        offset: Offset(end.parse().unwrap()).plus(-1),
    };
    let vote = TermVote {
        term: last.term,
        candidate: IDS[0].0,
        won: true,
    };
    let mut parts = Vec::new();
    let mut position = 0;
    while position < file.size() {
        let part = file
            .view(position..file.size().min(position + PART_BYTES))
            .unwrap();
        let request = QuorumSnapshotRequest {
            to: to.0,
            vote,
            last,
            bytes: file.size(),
            position,
        };
        position += u64::try_from(part.len()).unwrap();
        parts.push((request, part));
    }
    assert!(parts.len() > 3, "{} parts", parts.len());
    parts
}

/// A disk whose log holds `topics` of an older history, or nothing, and one with a newer snapshot.
async fn behind(topics: usize) -> (SimulatedDisk, SimulatedDisk, Arc<Image>) {
    let group = if topics == 0 {
        let mut group = Group::alone(SMALL).await;
        group.start(IDS[1], Founding::Elsewhere).await;
        group
    } else {
        Group::of_three_with(SnapshotLimits::default()).await
    };
    let first = group.logs[&IDS[0]].clone();
    fill(&first, "old", topics).await;
    let raft = group.raft(IDS[1]);
    if topics > 0 {
        group.agreed(&IDS).await;
    }
    let behind = group.disks[&IDS[1]].power_cut(1);
    let raft_of_first = group.raft(IDS[0]);
    fill(&first, "new", 25).await;
    raft_of_first.trigger().snapshot().await.unwrap();
    until("there is a snapshot", || {
        !snapshots_on(&group.disks[&IDS[0]]).is_empty()
    })
    .await;
    let image = first.image();
    raft.shutdown().await.unwrap();
    (behind, group.disks[&IDS[0]].clone(), image)
}

/// Opens the member 2 on `disk` and gives it `parts` until the machine goes off. Tells whether the
/// last one was acknowledged.
async fn receive(disk: &SimulatedDisk, parts: &[(QuorumSnapshotRequest, Bytes)]) -> bool {
    let options = options(disk, IDS[1], Founding::Elsewhere, SMALL);
    let wire = Wire {
        wires: Arc::default(),
        from: IDS[1],
        to: IDS[1],
    };
    let Ok((metadata, _)) = MetadataLog::open_over(options, wire, None) else {
        return false;
    };
    until("the member starts, or fails", || {
        metadata.member.get().is_some() || metadata.failing.refusal().is_some()
    })
    .await;
    let mut received = 0;
    for (request, part) in parts {
        match metadata
            .receive_snapshot(request.clone(), part.clone())
            .await
        {
            Ok(response) => received = response.received,
            Err(_) => break,
        }
    }
    if let Some(raft) = metadata.member.get() {
        let _ = raft.shutdown().await;
    }
    received == parts[0].0.bytes
}

#[tokio::test]
async fn a_power_cut_at_every_operation_of_an_installation_leaves_what_was_or_what_came() {
    let (mut cuts, mut taken) = (0, 0);
    for topics in [0, 4] {
        let (behind, leader, image) = behind(topics).await;
        let parts = parts_of(&leader, IDS[1]);
        for operation in 0.. {
            let disk = behind.power_cut(operation);
            disk.crash_after(operation);
            let is_acknowledged = receive(&disk, &parts).await;
            if !disk.is_off() {
                assert!(is_acknowledged);
                break;
            }
            let left = disk.power_cut(operation + 1);
            let open = |disk: &SimulatedDisk| {
                let opened = replay::open(&options(disk, IDS[1], Founding::Elsewhere, SMALL));
                opened.map(|opened| (opened.image, opened.log.start(), opened.log.end()))
            };
            let what = format!("{topics} topics, operation {operation}");
            let (found, start, end) = open(&left).expect(&what);
            let is_taken = found.version() == parts[0].0.last.offset;
            assert!(
                is_taken || !is_acknowledged,
                "{what}: {:?}",
                found.version()
            );
            if is_taken {
                assert!(
                    start <= end && end > found.version(),
                    "{what}: {start} to {end}"
                );
                assert!(found.topics().eq(image.topics()), "{what}");
            } else {
                assert_eq!(found, Image::default(), "{what}");
            }
            let left = left.power_cut(operation + 2);
            assert_eq!(open(&left).expect(&what), (found, start, end), "{what}");
            // And the leader can send it again.
            assert!(receive(&left, &parts).await, "{what}");
            cuts += 1;
            taken += usize::from(is_taken);
        }
    }
    println!("{cuts} power cuts; the snapshot was in force after {taken} of them");
    assert!(cuts > 40 && taken > 5 && taken < cuts);
}

//! Several members of one quorum in one process, on simulated disks: no network but function calls,
//! which can be cut one way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod snapshots;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    alias::{SnapshotOf, VoteOf},
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};
use parking_lot::Mutex;
use strandline_core::metadata::{
    Defaults, Image, METADATA_VERSION, Membership, Registration, Voter,
};
use strandline_protocol::{
    BrokerId, ClusterId, DirectoryId, ErrorCode, Offset,
    messages::{CreateTopicsRequest, Failure, NewTopic},
};
use strandline_storage::{
    directory::RaftId,
    fs::simulated::SimulatedDisk,
    log::{RecoveryHint, Shutdown},
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Flushing, Founding, METADATA_DIRECTORY, MetadataLog, MetadataOptions, SnapshotLimits,
    quorum::{Raft, SnapshotFile, Types, send_snapshot},
};

const CLUSTER: ClusterId = ClusterId([5; 16]);

/// How long anything may take, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who runs, and which ways are cut.
#[derive(Default)]
struct Wires {
    members: Mutex<BTreeMap<RaftId, Raft>>,
    logs: Mutex<BTreeMap<RaftId, MetadataLog>>,
    /// How many parts of snapshots were sent.
    parts: AtomicUsize,
    /// From whom to whom nothing gets through.
    cut: Mutex<BTreeSet<(RaftId, RaftId)>>,
}

impl Wires {
    fn isolate(&self, id: RaftId, others: &[RaftId]) {
        let both = others.iter().flat_map(|other| [(id, *other), (*other, id)]);
        self.cut.lock().extend(both);
    }

    fn heal(&self) {
        self.cut.lock().clear();
    }
}

/// The way from one member to others, or to one of them.
#[derive(Clone)]
struct Wire {
    wires: Arc<Wires>,
    from: RaftId,
    to: RaftId,
}

impl Wire {
    fn peer(&self) -> Result<Raft, Unreachable<Types>> {
        let is_cut = self.wires.cut.lock().contains(&(self.from, self.to));
        let peer = self.wires.members.lock().get(&self.to).cloned();
        peer.filter(|_| !is_cut)
            .ok_or_else(|| Unreachable::from_string("cut off"))
    }

    /// An answer gets back only if that way is open.
    fn back<T>(&self, answer: Result<T, impl std::fmt::Display>) -> Result<T, RPCError<Types>> {
        if self.wires.cut.lock().contains(&(self.to, self.from)) {
            return Err(Unreachable::from_string("cut off").into());
        }
        answer.map_err(|error| Unreachable::from_string(error).into())
    }
}

impl RaftNetworkFactory<Types> for Wire {
    type Network = Self;

    async fn new_client(&mut self, target: RaftId, _node: &BrokerId) -> Self {
        Self {
            to: target,
            ..self.clone()
        }
    }
}

impl RaftNetworkV2<Types> for Wire {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let answer = self.peer()?.append_entries(request).await;
        self.back(answer)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.peer()?.vote(request).await;
        self.back(answer)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.peer()?.pre_vote(request).await;
        self.back(answer)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        send_snapshot(self.to, vote, snapshot, cancel, |request, part| async {
            self.peer()?;
            let peer = self.wires.logs.lock().get(&self.to).cloned();
            let peer = peer.ok_or_else(|| Unreachable::from_string("it is off"))?;
            self.wires.parts.fetch_add(1, Ordering::Relaxed);
            self.back(
                peer.receive_snapshot(request, part)
                    .await
                    .map_err(|failure| failure.message),
            )
        })
        .await
    }
}

fn options(
    disk: &SimulatedDisk,
    id: RaftId,
    founding: Founding,
    snapshots: SnapshotLimits,
) -> MetadataOptions {
    MetadataOptions {
        file_system: disk.file_system(),
        directory: Path::new("/data").join(METADATA_DIRECTORY),
        hint: RecoveryHint {
            shutdown: Shutdown::Unclean,
            ..RecoveryHint::default()
        },
        raft_id: id,
        membership: Membership::of(
            CLUSTER,
            vec![Voter {
                raft_id: id.0,
                broker: broker(id),
            }],
        ),
        founding,
        defaults: Defaults::default(),
        flushing: Flushing::Inline,
        snapshots,
    }
}

/// The members 1 to 3, each with a disk of its own.
struct Group {
    limits: SnapshotLimits,
    wires: Arc<Wires>,
    disks: BTreeMap<RaftId, SimulatedDisk>,
    logs: BTreeMap<RaftId, MetadataLog>,
}

const IDS: [RaftId; 3] = [RaftId(1), RaftId(2), RaftId(3)];

fn broker(id: RaftId) -> BrokerId {
    BrokerId(i32::try_from(id.0).unwrap())
}

impl Group {
    /// One member founds the cluster, the others join, and all three vote after one change.
    async fn of_three() -> Self {
        Self::of_three_with(SnapshotLimits::default()).await
    }

    async fn of_three_with(limits: SnapshotLimits) -> Self {
        let mut group = Self::alone(limits).await;
        for id in [IDS[1], IDS[2]] {
            group.start(id, Founding::Elsewhere).await;
            let added = group.raft(IDS[0]).add_learner(id, broker(id), true).await;
            added.unwrap();
        }
        let voters = BTreeSet::from(IDS);
        let raft = group.raft(IDS[0]);
        raft.change_membership(voters, false).await.unwrap();
        group
    }

    /// One member has founded the cluster, the others have empty disks.
    async fn alone(limits: SnapshotLimits) -> Self {
        let mut group = Self {
            limits,
            wires: Arc::default(),
            disks: BTreeMap::new(),
            logs: BTreeMap::new(),
        };
        for id in IDS {
            let disk = SimulatedDisk::new(id.0);
            let files = disk.file_system();
            files.create_directory(Path::new("/data")).unwrap();
            files.sync_directory(Path::new("/")).unwrap();
            group.disks.insert(id, disk);
        }
        group.start(IDS[0], Founding::Allowed).await;
        let first = group.logs[&IDS[0]].clone();
        first.register(registration(IDS[0])).await.unwrap();
        create(&first, "alone").await.unwrap();
        group
    }

    async fn start(&mut self, id: RaftId, founding: Founding) {
        let options = options(&self.disks[&id], id, founding, self.limits);
        let wire = Wire {
            wires: Arc::clone(&self.wires),
            from: id,
            to: id,
        };
        let (metadata, _) = MetadataLog::open_over(options, wire, None).unwrap();
        until("the member starts", || metadata.member.get().is_some()).await;
        let raft = metadata.member.get().unwrap().clone();
        self.wires.members.lock().insert(id, raft);
        self.wires.logs.lock().insert(id, metadata.clone());
        self.logs.insert(id, metadata);
    }

    /// The machine goes off: nothing that was not synced is left.
    async fn power_off(&mut self, id: RaftId, seed: u64) {
        let raft = self.wires.members.lock().remove(&id).unwrap();
        // What the member does from here on reaches nobody, and not the disk that is left.
        let left = self.disks[&id].power_cut(seed);
        self.disks.insert(id, left);
        self.wires.logs.lock().remove(&id);
        self.logs.remove(&id);
        raft.shutdown().await.unwrap();
    }

    fn raft(&self, id: RaftId) -> Raft {
        self.wires.members.lock()[&id].clone()
    }

    /// The one of `among` that leads and can commit.
    async fn leader(&self, among: &[RaftId]) -> RaftId {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for id in among {
                let raft = self.raft(*id);
                if raft.current_leader().await == Some(*id)
                    && timeout(Duration::from_secs(1), raft.write_blank())
                        .await
                        .is_ok_and(|written| written.is_ok())
                {
                    return *id;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until all of `among` have the same image, and returns it.
    async fn agreed(&self, among: &[RaftId]) -> Arc<Image> {
        let images =
            || -> Vec<Arc<Image>> { among.iter().map(|id| self.logs[id].image()).collect() };
        let newest = images().iter().map(|image| image.version()).max();
        until("the members agree", || {
            let images = images();
            images.windows(2).all(|pair| pair[0] == pair[1])
                && images.first().map(|image| image.version()) >= newest
        })
        .await;
        images().swap_remove(0)
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn registration(id: RaftId) -> Registration {
    Registration {
        broker: broker(id),
        incarnation: [0; 16],
        host: "localhost".into(),
        port: 9290,
        rack: None,
        directories: vec![DirectoryId([u8::try_from(id.0).unwrap(); 16])],
        raft_id: Some(id.0),
        software: "strandline/0.0.0".into(),
        metadata_version_max: METADATA_VERSION,
        lossy: Vec::new(),
    }
}

async fn create(metadata: &MetadataLog, name: &str) -> Result<(), Failure> {
    let topic = NewTopic {
        name: name.into(),
        partitions: Some(2),
        replication_factor: None,
        configs: BTreeMap::new(),
    };
    let request = CreateTopicsRequest {
        topics: vec![topic],
        validate_only: false,
    };
    let response = metadata.create_topics(request).await?;
    response.topics[0].failure.clone().into_result()
}

fn has(image: &Image, name: &str) -> bool {
    image.topic(name).is_some()
}

#[tokio::test]
async fn one_grows_to_three_and_a_dead_controller_is_replaced_without_a_loss() {
    let mut group = Group::of_three().await;
    let image = group.agreed(&IDS).await;
    assert!(has(&image, "alone"));
    let membership = image.membership().unwrap();
    assert_eq!(membership.cluster, CLUSTER);
    assert_eq!((membership.voters.len(), membership.learners.len()), (3, 0));
    assert!(membership.voters_before.is_empty());

    // Who does not lead names the controller.
    let refused = create(&group.logs[&IDS[1]], "elsewhere").await.unwrap_err();
    assert_eq!(refused.error, ErrorCode::NOT_CONTROLLER);
    assert!(refused.message.contains("broker 1"), "{}", refused.message);

    create(&group.logs[&IDS[0]], "before").await.unwrap();
    group.power_off(IDS[0], 1).await;
    let others = [IDS[1], IDS[2]];
    let leader = group.leader(&others).await;
    create(&group.logs[&leader], "after").await.unwrap();
    let image = group.agreed(&others).await;
    assert!(has(&image, "alone") && has(&image, "before") && has(&image, "after"));

    group.start(IDS[0], Founding::Forbidden).await;
    let image = group.agreed(&IDS).await;
    assert!(has(&image, "before") && has(&image, "after"));
}

#[tokio::test]
async fn what_an_isolated_controller_appends_is_never_public_and_goes() {
    let mut group = Group::of_three().await;
    let others = [IDS[1], IDS[2]];
    let before = group.agreed(&IDS).await;
    group.wires.isolate(IDS[0], &others);
    let isolated = group.logs[&IDS[0]].clone();
    // It does not know yet that it is alone.
    let lost = tokio::spawn(async move { create(&isolated, "lost").await });
    let leader = group.leader(&others).await;
    create(&group.logs[&leader], "kept").await.unwrap();
    assert!(!has(&group.logs[&IDS[0]].image(), "lost"));
    assert!(group.logs[&IDS[0]].image().version() <= before.version().plus(1));

    group.wires.heal();
    let image = group.agreed(&IDS).await;
    assert!(has(&image, "kept") && !has(&image, "lost"));
    let failure = timeout(PATIENCE, lost).await.unwrap().unwrap().unwrap_err();
    let told = [ErrorCode::UNKNOWN_SERVER_ERROR, ErrorCode::NOT_CONTROLLER];
    assert!(told.contains(&failure.error), "{failure:?}");

    // And the whole group comes back from a power cut.
    for id in IDS {
        group.power_off(id, 7 + id.0).await;
    }
    for id in IDS {
        group.start(id, Founding::Forbidden).await;
        assert_eq!(group.logs[&id].image().version(), Offset(-1));
    }
    let leader = group.leader(&IDS).await;
    create(&group.logs[&leader], "again").await.unwrap();
    let image = group.agreed(&IDS).await;
    assert!(has(&image, "kept") && has(&image, "again") && !has(&image, "lost"));
}

#[tokio::test]
async fn a_voter_that_lost_its_vote_does_not_start() {
    let mut group = Group::of_three().await;
    group.agreed(&IDS).await;
    group.power_off(IDS[1], 3).await;
    let files = group.disks[&IDS[1]].file_system();
    files.remove(Path::new("/data/quorum.sealed")).unwrap();
    let options = MetadataOptions {
        file_system: files,
        directory: Path::new("/data").join(METADATA_DIRECTORY),
        hint: RecoveryHint::default(),
        raft_id: IDS[1],
        membership: Membership::of(CLUSTER, Vec::new()),
        founding: Founding::Forbidden,
        defaults: Defaults::default(),
        flushing: Flushing::Inline,
        snapshots: SnapshotLimits::default(),
    };
    let refused = MetadataLog::open(options)
        .expect_err("it is refused")
        .to_string();
    assert!(refused.contains("could vote twice"), "{refused}");
    assert!(refused.contains("quorum.sealed"), "{refused}");
}

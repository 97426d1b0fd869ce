//! What brokers say to each other, and to those who ask about the cluster.

use strandline_protocol::{
    BrokerEpoch, BrokerId, ClusterId, DirectoryId, LeaderEpoch, Offset, ProducerId,
    messages::{
        Ballot, BrokerDescription, BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerState,
        ChangeVotersRequest, ChangeVotersResponse, DescribeClusterRequest, DescribeClusterResponse,
        Duty, EntryId, HELLO_MAGIC, HelloRequest, MemberDescription, MemberRole, Peer, Purpose,
        QuorumAppendRequest, QuorumAppendResponse, QuorumSnapshotRequest, QuorumSnapshotResponse,
        QuorumTransferRequest, QuorumTransferResponse, QuorumVoteRequest, QuorumVoteResponse,
        RegisterBrokerRequest, RegisterBrokerResponse, ReserveProducerIdsRequest,
        ReserveProducerIdsResponse, TermVote, UnregisterBrokerRequest, UnregisterBrokerResponse,
    },
};

use super::{Codec, Samples, batch};

/// The random Raft ids of two directories.
pub const RAFT_IDS: [u64; 2] = [0x0123_4567_89ab_cdef, u64::MAX];

const LAST: EntryId = EntryId {
    term: LeaderEpoch(4),
    offset: Offset(1_016),
};

const ASKED_FOR: TermVote = TermVote {
    term: LeaderEpoch(5),
    candidate: RAFT_IDS[0],
    won: false,
};

const WON: TermVote = TermVote {
    won: true,
    ..ASKED_FOR
};

pub fn all(samples: &mut Samples) {
    peer(samples);
    votes(samples);
    entries(samples);
    snapshots(samples);
    registration(samples);
    description(samples);
    changes(samples);
}

fn peer(samples: &mut Samples) {
    let hello = HelloRequest {
        magic: HELLO_MAGIC.to_owned(),
        client_id: "broker-2".to_owned(),
        software: "strandline/0.1.0".to_owned(),
        cluster_id: Some(ClusterId(*b"cluster id bytes")),
        directory_id: None,
        authentication: None,
        peer: Some(Peer {
            broker_id: BrokerId(2),
            raft_id: RAFT_IDS[1],
            host: "broker-2.example".to_owned(),
            port: 9_290,
            purpose: Purpose::Quorum,
        }),
    };
    samples.request("-peer", &hello, &[]);
}

fn votes(samples: &mut Samples) {
    for (what, ballot, last) in [
        ("", Ballot::Binding, Some(LAST)),
        ("-trial", Ballot::Trial, None),
    ] {
        let request = QuorumVoteRequest {
            to: RAFT_IDS[1],
            ballot,
            vote: ASKED_FOR,
            last,
            leadership_transfer: last.is_none(),
        };
        samples.request(what, &request, &[]);
    }
    let answer = QuorumVoteResponse {
        vote: ASKED_FOR,
        granted: true,
        last: Some(LAST),
    };
    samples.response::<QuorumVoteRequest>("", &answer, &[]);
}

fn entries(samples: &mut Samples) {
    let mut append = QuorumAppendRequest {
        to: RAFT_IDS[1],
        vote: WON,
        previous: Some(LAST),
        commit: Some(LAST),
    };
    samples.request("", &append, &batch(Codec::None));
    (append.previous, append.commit) = (None, None);
    samples.request("-heartbeat", &append, &[]);
    for (what, answer) in [
        ("", QuorumAppendResponse::Accepted),
        ("-partly", QuorumAppendResponse::AcceptedTo(Some(LAST))),
        ("-conflict", QuorumAppendResponse::Conflict),
        ("-outvoted", QuorumAppendResponse::HigherVote(WON)),
    ] {
        samples.response::<QuorumAppendRequest>(what, &answer, &[]);
    }
}

fn snapshots(samples: &mut Samples) {
    let snapshot = QuorumSnapshotRequest {
        to: RAFT_IDS[1],
        vote: WON,
        last: LAST,
        bytes: 3 << 20,
        position: 1 << 20,
    };
    // The bytes of a snapshot are no batches, but nothing on the way looks into them.
    samples.request("", &snapshot, &batch(Codec::None));
    let answer = QuorumSnapshotResponse {
        vote: WON,
        received: 2 << 20,
    };
    samples.response::<QuorumSnapshotRequest>("", &answer, &[]);
    let transfer = QuorumTransferRequest {
        to: RAFT_IDS[1],
        successor: RAFT_IDS[1],
        vote: WON,
        last: Some(LAST),
    };
    samples.request("", &transfer, &[]);
    let answer = QuorumTransferResponse { accepted: true };
    samples.response::<QuorumTransferRequest>("", &answer, &[]);
}

fn registration(samples: &mut Samples) {
    let mut register = RegisterBrokerRequest {
        cluster_id: Some(ClusterId(*b"cluster id bytes")),
        broker_id: BrokerId(2),
        incarnation: *b"drawn at a start",
        raft_id: RAFT_IDS[1],
        host: "broker-2.example".to_owned(),
        port: 9_290,
        rack: Some("b".to_owned()),
        directories: vec![DirectoryId(*b"directory id, 16"), DirectoryId([7; 16])],
        software: "strandline/0.1.0".to_owned(),
        metadata_version_max: 2,
        lossy: Vec::new(),
    };
    samples.request("", &register, &[]);
    (register.cluster_id, register.rack) = (None, None);
    samples.request("-joining", &register, &[]);
    let answer = RegisterBrokerResponse {
        cluster_id: ClusterId(*b"cluster id bytes"),
        broker_epoch: BrokerEpoch(1_017),
    };
    samples.response::<RegisterBrokerRequest>("", &answer, &[]);
    let heartbeat = BrokerHeartbeatRequest {
        broker_id: BrokerId(2),
        broker_epoch: BrokerEpoch(1_017),
        applied: Offset(1_020),
        stopping: true,
        offline: vec![DirectoryId([7; 16])],
        recovering: false,
        damaged: Vec::new(),
        full: Vec::new(),
    };
    samples.request("", &heartbeat, &[]);
    let answer = BrokerHeartbeatResponse {
        controller_epoch: LeaderEpoch(5),
        session_ms: 1_500,
        fenced: false,
        may_stop: true,
    };
    samples.response::<BrokerHeartbeatRequest>("", &answer, &[]);
    let reserve = ReserveProducerIdsRequest {
        broker_id: BrokerId(2),
        broker_epoch: BrokerEpoch(1_017),
    };
    samples.request("", &reserve, &[]);
    let answer = ReserveProducerIdsResponse {
        first: ProducerId(4_000),
        count: 1_000,
    };
    samples.response::<ReserveProducerIdsRequest>("", &answer, &[]);
}

/// A cluster of three brokers, of which the last one was not heard of for a while.
fn described() -> DescribeClusterResponse {
    let member = |id, raft_id, role, heard_ms_ago: Option<u64>| MemberDescription {
        broker_id: BrokerId(id),
        raft_id,
        role,
        log_end: heard_ms_ago.map(|_| Offset(1_020)),
        heard_ms_ago,
    };
    let broker = |id, state, lease_ms| BrokerDescription {
        id: BrokerId(id),
        epoch: BrokerEpoch(1_000 + i64::from(id)),
        host: format!("broker-{id}.example"),
        port: 9_290,
        rack: (id != 1).then(|| "b".to_owned()),
        software: "strandline/0.1.0".to_owned(),
        state,
        lease_ms,
        applied: lease_ms.map(|_| Offset(1_020)),
        duty: if id == 3 { Duty::Drained } else { Duty::Full },
        leads: 3,
        keeps: 4,
        full_directories: 1,
    };
    DescribeClusterResponse {
        cluster_id: ClusterId(*b"cluster id bytes"),
        answered_by: BrokerId(1),
        controller: Some(BrokerId(1)),
        controller_epoch: LeaderEpoch(5),
        metadata_version: 2,
        version: Offset(1_020),
        members: vec![
            member(1, RAFT_IDS[0], MemberRole::Voter, Some(0)),
            member(2, RAFT_IDS[1], MemberRole::Voter, Some(120)),
            member(3, 17, MemberRole::Learner, None),
            member(4, 18, MemberRole::LeavingVoter, Some(90)),
        ],
        voters_changing: true,
        brokers: vec![
            broker(1, BrokerState::Active, Some(1_500)),
            broker(2, BrokerState::Stopping, Some(1_380)),
            broker(3, BrokerState::Fenced, None),
        ],
        topics: 3,
        partitions: 12,
        partitions_without_leader: 3,
        partitions_under_replicated: 5,
        partitions_under_min_isr: 4,
        throttle_bytes_per_second: None,
    }
}

fn description(samples: &mut Samples) {
    samples.request("", &DescribeClusterRequest {}, &[]);
    let mut answer = described();
    samples.response::<DescribeClusterRequest>("", &answer, &[]);
    answer.answered_by = BrokerId(2);
    answer.controller = None;
    samples.response::<DescribeClusterRequest>("-without-controller", &answer, &[]);
    answer.throttle_bytes_per_second = Some(50_000_000);
    samples.response::<DescribeClusterRequest>("-throttled", &answer, &[]);
}

fn changes(samples: &mut Samples) {
    let change = ChangeVotersRequest {
        add: vec![BrokerId(3), BrokerId(4)],
        remove: vec![BrokerId(2)],
    };
    samples.request("", &change, &[]);
    let voters = vec![BrokerId(1), BrokerId(3), BrokerId(4)];
    samples.response::<ChangeVotersRequest>("", &ChangeVotersResponse { voters }, &[]);
    let broker_id = BrokerId(2);
    samples.request("", &UnregisterBrokerRequest { broker_id }, &[]);
    samples.response::<UnregisterBrokerRequest>("", &UnregisterBrokerResponse {}, &[]);
}

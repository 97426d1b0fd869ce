//! What people read about a made-up cluster.

use strandline_protocol::{
    BrokerEpoch, BrokerId, ClusterId, LeaderEpoch, Offset,
    messages::{
        BrokerDescription, BrokerState, DescribeClusterResponse, Duty, MemberDescription,
        MemberRole,
    },
};

use super::{
    change::registered,
    health::{Verdict, examine},
    show::text,
};

fn member(id: i32, role: MemberRole, log_end: i64, heard_ms_ago: Option<u64>) -> MemberDescription {
    MemberDescription {
        broker_id: BrokerId(id),
        raft_id: 40 + u64::try_from(id).unwrap(),
        role,
        log_end: Some(Offset(log_end)),
        heard_ms_ago,
    }
}

fn broker(id: i32, state: BrokerState, lease_ms: Option<u64>) -> BrokerDescription {
    BrokerDescription {
        id: BrokerId(id),
        epoch: BrokerEpoch(100 + i64::from(id)),
        host: if id == 3 { "::1" } else { "a.example" }.to_owned(),
        port: 9_290,
        rack: (id == 2).then(|| "west".to_owned()),
        software: "strandline/0.1.0".to_owned(),
        state,
        lease_ms,
        applied: lease_ms.map(|_| Offset(119)),
        duty: Duty::Full,
        leads: 4,
        keeps: 4,
        full_directories: 0,
    }
}

/// Three brokers; all is well.
fn well() -> DescribeClusterResponse {
    DescribeClusterResponse {
        cluster_id: ClusterId([7; 16]),
        answered_by: BrokerId(1),
        controller: Some(BrokerId(1)),
        controller_epoch: LeaderEpoch(5),
        metadata_version: 2,
        version: Offset(119),
        members: vec![
            member(1, MemberRole::Voter, 120, None),
            member(2, MemberRole::Voter, 118, Some(130)),
            member(3, MemberRole::Voter, 120, Some(40)),
        ],
        voters_changing: false,
        brokers: vec![
            broker(1, BrokerState::Active, Some(1_500)),
            broker(2, BrokerState::Active, Some(1_420)),
            broker(3, BrokerState::Active, Some(1_380)),
        ],
        topics: 2,
        partitions: 12,
        partitions_without_leader: 0,
        partitions_under_replicated: 0,
        partitions_under_min_isr: 0,
        throttle_bytes_per_second: None,
    }
}

fn shown(cluster: &DescribeClusterResponse) -> String {
    let lines: Vec<String> = text(cluster)
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

#[test]
fn a_cluster_is_two_tables_between_two_lines() {
    let expected = "\
cluster BwcHBwcHBwcHBwcHBwcHBw: controller broker 1, epoch 5, metadata version 2

MEMBER  ROLE   LOG END  LAG  HEARD
     1  voter      120    0  now
     2  voter      118    2  0.1 s
     3  voter      120    0  0.0 s

BROKER  RACK  ADDRESS         EPOCH  STATE   LEASE  LAG  VERSION  LEADS  KEEPS
     1  -     a.example:9290    101  active  1.5 s    0  0.1.0        4      4
     2  west  a.example:9290    102  active  1.4 s    0  0.1.0        4      4
     3  -     [::1]:9290        103  active  1.3 s    0  0.1.0        4      4

2 topics, 12 partitions";
    let squeeze = |text: &str| {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(words).collect::<Vec<_>>()
    };
    assert_eq!(squeeze(&shown(&well())), squeeze(expected));
    // Columns are aligned: every row of a table begins its columns where the others do.
    let lines = shown(&well());
    let columns: Vec<_> = lines
        .lines()
        .filter_map(|line| line.find("voter"))
        .collect();
    assert_eq!(columns.len(), 3);
    assert!(columns.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn what_is_not_known_is_a_dash_and_who_answers_says_so() {
    let mut cluster = well();
    cluster.answered_by = BrokerId(2);
    cluster.controller = None;
    cluster.partitions_without_leader = 3;
    cluster.voters_changing = true;
    for member in &mut cluster.members {
        (member.log_end, member.heard_ms_ago) = (None, None);
    }
    cluster.brokers[2] = broker(3, BrokerState::Fenced, None);
    let leaving = member(4, MemberRole::LeavingVoter, 120, None);
    cluster.members.push(leaving);
    let text = shown(&cluster);
    assert!(text.contains("voter, leaving"));
    assert!(text.contains("no controller, epoch 5, metadata version 2 (as broker 2 knows it)"));
    assert!(text.contains("A change of the voters is under way."));
    assert!(text.ends_with("2 topics, 12 partitions, 3 without a leader"));
    let fenced = text.lines().find(|line| line.contains("fenced")).unwrap();
    assert_eq!(fenced.matches(" - ").count(), 3, "{fenced}");
}

#[test]
fn a_cluster_that_is_well_has_no_findings() {
    let health = examine(&well());
    assert_eq!(health.verdict, Verdict::Healthy);
    assert_eq!(
        health.text(),
        "healthy: cluster BwcHBwcHBwcHBwcHBwcHBw, 3 of 3 brokers active, 3 voters, 12 of 12 \
         partitions led\n"
    );
}

/// Changes something about a cluster that is well, and tells the verdict and the findings.
fn after(change: impl Fn(&mut DescribeClusterResponse)) -> (Verdict, String) {
    let mut cluster = well();
    change(&mut cluster);
    let health = examine(&cluster);
    (health.verdict, health.text())
}

#[test]
fn every_fault_is_told_with_what_to_do() {
    let (verdict, text) = after(|cluster| cluster.members[1].heard_ms_ago = Some(12_300));
    assert_eq!(verdict, Verdict::Degraded);
    assert!(text.contains("- broker 2, one of 3 voters, was not heard of for 12.3 s\n"));
    assert!(text.contains("--instead-of 2\n"));

    let (verdict, text) = after(|cluster| {
        cluster.brokers[2] = broker(3, BrokerState::Fenced, None);
        cluster.partitions_without_leader = 4;
    });
    assert_eq!(verdict, Verdict::Degraded);
    assert!(text.contains("2 of 3 brokers active"));
    assert!(text.contains("- broker 3 is fenced: it leads nothing, and keeps 4 partitions\n"));
    assert!(text.contains("strandline broker decommission 3\n"));
    assert!(text.contains("- 4 of 12 partitions have no leader"));
    assert!(text.contains("start the brokers that keep them"));

    let (_, text) = after(|cluster| cluster.partitions_without_leader = 4);
    assert!(text.contains("every broker is there, so directories are not that had everything"));
    assert!(text.contains("--unclean --accept-data-loss"));

    let (verdict, text) = after(|cluster| cluster.brokers[1].full_directories = 1);
    assert_eq!(verdict, Verdict::Degraded);
    assert!(text.contains("- a disk of broker 2 is full: others lead what it led there"));
    assert!(text.contains("writes are refused\n"));
    assert!(text.contains("(`strandline topic trim`)"));
    let (_, text) = after(|cluster| {
        cluster.brokers[1].full_directories = 1;
        cluster.members[1].heard_ms_ago = Some(12_300);
    });
    assert!(text.contains("- broker 2, one of 3 voters, follows no change of the metadata, as"));
    assert!(!text.contains("was not heard of"), "{text}");
    let (_, text) = after(|cluster| cluster.brokers[0].full_directories = 1);
    assert!(text.contains("it is the controller, so that topics and leaders may not change"));
    let (verdict, text) = after(|cluster| {
        cluster.brokers[0].full_directories = 1;
        cluster.controller = None;
    });
    assert_eq!(verdict, Verdict::Unusable);
    assert!(text.contains("- broker 1 knows of no controller, as it follows no change"));
    assert!(text.contains("ask another broker than 1 (--bootstrap)\n"));

    let learners = |cluster: &mut DescribeClusterResponse| {
        for member in &mut cluster.members[1..] {
            member.role = MemberRole::Learner;
        }
    };
    let (verdict, text) = after(learners);
    assert_eq!(verdict, Verdict::Degraded);
    assert!(text.contains("- no voter may be lost (now 1): the metadata"));
    assert!(text.contains("strandline cluster add-voter 2,3\n"));
    let (verdict, _) = after(|cluster| {
        learners(cluster);
        cluster.brokers.pop();
    });
    assert_eq!(verdict, Verdict::Healthy, "two voters would be worse");

    let (verdict, text) = after(|cluster| cluster.members[2].log_end = Some(Offset(-9_880)));
    assert_eq!(verdict, Verdict::Degraded);
    assert!(text.contains("broker 3, one of 3 voters, is 10000 entries behind"));

    let (verdict, _) = after(|cluster| cluster.brokers[0].state = BrokerState::Stopping);
    assert_eq!(verdict, Verdict::Degraded);

    let (verdict, text) = after(|cluster| cluster.answered_by = BrokerId(2));
    assert_eq!(verdict, Verdict::Unusable);
    assert!(text.contains("the controller, broker 1, did not answer broker 2"));
}

#[test]
fn replicas_that_are_missing_are_told_by_what_they_cost() {
    let (verdict, text) = after(|cluster| cluster.partitions_under_replicated = 5);
    assert_eq!(verdict, Verdict::Degraded);
    assert!(
        text.contains("- under-replicated: 5 partitions; reads and writes go on"),
        "{text}"
    );
    let (verdict, text) = after(|cluster| {
        cluster.partitions_under_replicated = 9;
        cluster.partitions_under_min_isr = 4;
        cluster.partitions_without_leader = 1;
    });
    assert_eq!(verdict, Verdict::Degraded);
    assert!(
        text.contains("- 1 of 12 partitions have no leader"),
        "{text}"
    );
    assert!(
        text.contains("- no writes with acks=all in 3 partitions"),
        "{text}"
    );
    assert!(text.contains("- under-replicated: 5 partitions"), "{text}");
    let mut cluster = well();
    cluster.partitions_under_replicated = 9;
    cluster.partitions_under_min_isr = 4;
    cluster.brokers[1].duty = Duty::Drained;
    let text = shown(&cluster);
    assert!(
        text.ends_with("12 partitions, 9 under-replicated, 4 under min ISR"),
        "{text}"
    );
    assert!(text.contains("active, drained"), "{text}");
}

#[test]
fn without_a_controller_or_a_leader_nothing_works() {
    let (verdict, text) = after(|cluster| {
        cluster.controller = None;
        cluster.brokers[1] = broker(2, BrokerState::Fenced, None);
    });
    assert_eq!(verdict, Verdict::Unusable);
    let told: Vec<_> = text.lines().filter(|line| line.starts_with("- ")).collect();
    // The gravest comes first, and who is silent is not guessed.
    assert_eq!(told.len(), 2, "{text}");
    assert!(told[0].contains("knows of no controller"));
    assert!(text.contains("more than half of the voters (1, 2, 3) must run"));

    let (verdict, _) = after(|cluster| cluster.partitions_without_leader = 12);
    assert_eq!(verdict, Verdict::Unusable);
    // A cluster without a single partition is not one whose partitions have no leader.
    let (verdict, _) = after(|cluster| cluster.partitions = 0);
    assert_eq!(verdict, Verdict::Healthy);
}

#[test]
fn a_broker_that_is_none_is_told_with_those_that_are() {
    let error = registered(&well(), &[2, 7]).unwrap_err();
    let expected = "error: there is no broker 7\nhint: the brokers are 1, 2, 3\n";
    assert_eq!(error.to_string(), expected);
    assert_eq!(
        registered(&well(), &[3, 1]).unwrap(),
        [BrokerId(3), BrokerId(1)]
    );
}

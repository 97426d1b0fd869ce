//! `strandline broker decommission`: one step after the other, each of which may be done already.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use strandline_client::{Admin, ClientError};
use strandline_protocol::{
    BrokerId, ErrorCode,
    messages::{BrokerState, DescribeClusterResponse, Duty, MemberRole},
};

use super::{
    DecommissionArguments,
    plan::{Move, Plan, Stuck, Why, plan},
};
use crate::cli::{
    connection::ConnectionArguments,
    error::CommandError,
    output::{Rows, print_text},
    quantity::{counted, length},
    topic::{
        progress::{Moving, follow},
        reassign::without_leader,
    },
};

/// How often it is looked whether the broker is gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many partitions are named in one request to move.
const MOVES_PER_REQUEST: usize = 1_000;

/// Runs the command.
///
/// # Errors
/// If a partition can be placed nowhere, and what is refused.
pub(super) async fn run(
    connection: &ConnectionArguments,
    arguments: &DecommissionArguments,
) -> Result<(), CommandError> {
    let admin = connection.connect().await?.admin();
    let leaving = BrokerId(arguments.id);
    let plan = planned(&admin, leaving).await?;
    if arguments.dry_run {
        return show(&plan, leaving);
    }
    admin.drain_broker(leaving, Duty::Drained).await?;
    print_text(&format!("broker {leaving} is drained\n"))?;
    move_replicas(&admin, &plan, arguments).await?;
    // What was placed on it while it was not drained yet.
    let rest = planned(&admin, leaving).await?;
    move_replicas(&admin, &rest, arguments).await?;
    give_up_vote(&admin, leaving).await?;
    wait_until_gone(&admin, leaving).await?;
    admin.unregister_broker(leaving).await?;
    print_text(&format!("broker {leaving} is struck off\n"))
}

async fn planned(admin: &Admin, leaving: BrokerId) -> Result<Plan, CommandError> {
    let cluster = admin.describe_cluster().await?;
    known(&cluster, leaving)?;
    let topics = admin.list_topics().await?;
    plan(&cluster, &topics, leaving).map_err(|stuck| stays(&stuck, leaving))
}

/// The broker's state; it must be registered.
fn known(cluster: &DescribeClusterResponse, id: BrokerId) -> Result<BrokerState, CommandError> {
    let found = cluster.brokers.iter().find(|broker| broker.id == id);
    found.map(|broker| broker.state).ok_or_else(|| {
        let ids: Vec<String> = cluster.brokers.iter().map(|it| it.id.to_string()).collect();
        let error = CommandError::failure(format!(
            "there is no broker {id}, or it is struck off already"
        ));
        error.hint(format!("the brokers are {}", ids.join(", ")))
    })
}

/// What cannot be moved, and what to do about it.
fn stays(stuck: &Stuck, leaving: BrokerId) -> CommandError {
    let Stuck {
        topic,
        partition,
        why,
    } = stuck;
    match why {
        Why::NoPlace { replicas, brokers } => {
            let brokers = counted(length(*brokers), "broker");
            CommandError::failure(format!(
                "{topic} partition {partition} has {replicas} replicas, and without broker \
                 {leaving} only {brokers} can keep any; nothing is moved"
            ))
            .hint(format!(
                "add a broker, or keep fewer copies: strandline topic reassign {topic} --partition \
                 {partition} --replicas ..."
            ))
        }
        Why::NoLeader => without_leader(topic, *partition),
    }
}

fn show(plan: &Plan, leaving: BrokerId) -> Result<(), CommandError> {
    let ids = |ids: &[BrokerId]| {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        ids.join(",")
    };
    let mut rows = Rows::new(&["TOPIC", "PARTITION#", "REPLICAS", "WOULD BE"]);
    for it in &plan.moves {
        rows.push([
            it.topic.clone(),
            it.partition.to_string(),
            ids(&it.from),
            ids(&it.to),
        ]);
    }
    if !plan.moves.is_empty() {
        rows.print()?;
    }
    let (moves, under_way) = (length(plan.moves.len()), length(plan.under_way.len()));
    print_text(&format!(
        "{} would move from broker {leaving}, {under_way} more on the way already\n",
        counted(moves, "replica"),
    ))
}

/// Moves everything, and waits until it has arrived.
async fn move_replicas(
    admin: &Admin,
    plan: &Plan,
    arguments: &DecommissionArguments,
) -> Result<(), CommandError> {
    let mut moving = Moving::new();
    for (topic, partition) in &plan.under_way {
        let partitions = moving.entry(topic.clone()).or_default();
        partitions.insert(*partition);
    }
    let mut by_topic: BTreeMap<&str, Vec<&Move>> = BTreeMap::new();
    for it in &plan.moves {
        by_topic.entry(&it.topic).or_default().push(it);
    }
    let throttle = arguments
        .throttle
        .map(|bytes| u64::try_from(bytes).unwrap_or(u64::MAX));
    for (topic, moves) in by_topic {
        for moves in moves.chunks(MOVES_PER_REQUEST) {
            let to = moves.iter().map(|it| (it.partition, Some(it.to.clone())));
            let to = to.collect();
            for change in admin.reassign_partitions(topic, &to, throttle).await? {
                change.outcome?;
            }
            let partitions: BTreeSet<_> = moves.iter().map(|it| it.partition).collect();
            moving
                .entry(topic.to_owned())
                .or_default()
                .extend(partitions);
        }
    }
    if moving.is_empty() {
        return Ok(());
    }
    let count = moving.values().map(BTreeSet::len).sum();
    let (id, count) = (arguments.id, counted(length(count), "replica"));
    eprintln!("{count} move from broker {id}; that goes on if this is interrupted");
    follow(admin, &moving).await?;
    print_text(&format!("broker {id}: {count} moved to others\n"))
}

/// Who can vote in its place: a broker that takes part and has no vote yet.
fn next_voter(cluster: &DescribeClusterResponse, leaving: BrokerId) -> Option<BrokerId> {
    let votes = |id: BrokerId| {
        let mut members = cluster.members.iter();
        members.any(|it| it.broker_id == id && it.role != MemberRole::Learner)
    };
    let brokers = cluster.brokers.iter();
    let mut able = brokers.filter(|it| it.state == BrokerState::Active && it.duty == Duty::Full);
    able.find(|it| it.id != leaving && !votes(it.id))
        .map(|it| it.id)
}

/// Takes its vote, if it has one; another broker gets one in the same change, if there is any.
async fn give_up_vote(admin: &Admin, leaving: BrokerId) -> Result<(), CommandError> {
    loop {
        let cluster = admin.describe_cluster().await?;
        let mut members = cluster.members.iter();
        let votes = members.any(|it| it.broker_id == leaving && it.role != MemberRole::Learner);
        if !votes {
            return Ok(());
        }
        let next: Vec<_> = next_voter(&cluster, leaving).into_iter().collect();
        match admin.change_voters(&next, &[leaving]).await {
            Ok(_) => {
                let instead = next
                    .first()
                    .map_or_else(String::new, |next| format!(", broker {next} does instead"));
                return print_text(&format!("broker {leaving} votes no more{instead}\n"));
            }
            // Another change is under way, or this one was and nobody knows how it ended.
            Err(ClientError::OutcomeUnknown { .. }) => {}
            Err(ClientError::Refused { code, .. })
                if [
                    ErrorCode::VOTERS_CHANGING,
                    ErrorCode::VOTER_NOT_FOUND,
                    ErrorCode::DUPLICATE_VOTER,
                ]
                .contains(&code) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until it is not heard of any more: only then it can be struck off.
async fn wait_until_gone(admin: &Admin, leaving: BrokerId) -> Result<(), CommandError> {
    let mut told = false;
    loop {
        let cluster = admin.describe_cluster().await?;
        if known(&cluster, leaving)? == BrokerState::Fenced {
            return Ok(());
        }
        if !told {
            told = true;
            eprintln!(
                "broker {leaving} keeps nothing and votes no more: stop it now; this waits until \
                 it is gone"
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

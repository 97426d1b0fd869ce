//! Commands that change who belongs to the cluster.

use strandline_client::Admin;
use strandline_protocol::{
    BrokerId,
    messages::{DescribeClusterResponse, MemberRole},
};

use super::health::ids;
use crate::cli::{error::CommandError, output::print_text};

/// Lets brokers vote, and others no more in the same step.
pub(super) async fn add_voters(
    admin: &Admin,
    numbers: &[i32],
    instead_of: &[i32],
) -> Result<(), CommandError> {
    let cluster = admin.describe_cluster().await?;
    let chosen = registered(&cluster, numbers)?;
    change(admin, &cluster, &chosen, &brokers(instead_of)).await
}

/// Takes the vote of brokers.
pub(super) async fn remove_voters(admin: &Admin, numbers: &[i32]) -> Result<(), CommandError> {
    let cluster = admin.describe_cluster().await?;
    change(admin, &cluster, &[], &brokers(numbers)).await
}

/// Asks the controller, who knows what is under way, and names the voters of now if it refuses.
async fn change(
    admin: &Admin,
    cluster: &DescribeClusterResponse,
    add: &[BrokerId],
    remove: &[BrokerId],
) -> Result<(), CommandError> {
    let changed = admin.change_voters(add, remove).await;
    let voters = changed.map_err(|error| {
        CommandError::from(error).hint(format!("the voters are {}", ids(voters(cluster))))
    })?;
    print_text(&format!("voters: {}\n", ids(voters.into_iter())))
}

fn brokers(numbers: &[i32]) -> Vec<BrokerId> {
    numbers.iter().map(|id| BrokerId(*id)).collect()
}

/// Forgets a broker.
pub(super) async fn remove_broker(admin: &Admin, number: i32) -> Result<(), CommandError> {
    let cluster = admin.describe_cluster().await?;
    let chosen = registered(&cluster, &[number])?;
    for broker in chosen {
        admin.unregister_broker(broker).await?;
        print_text(&format!("removed broker {broker}\n"))?;
    }
    Ok(())
}

/// The brokers of these numbers, if all of them are registered.
pub(super) fn registered(
    cluster: &DescribeClusterResponse,
    numbers: &[i32],
) -> Result<Vec<BrokerId>, CommandError> {
    let chosen: Vec<BrokerId> = numbers.iter().map(|id| BrokerId(*id)).collect();
    let known = |id: &BrokerId| cluster.brokers.iter().any(|broker| broker.id == *id);
    match chosen.iter().find(|id| !known(id)) {
        None => Ok(chosen),
        Some(unknown) => {
            let brokers = cluster.brokers.iter().map(|broker| broker.id);
            let error = CommandError::failure(format!("there is no broker {unknown}"));
            Err(error.hint(format!("the brokers are {}", ids(brokers))))
        }
    }
}

fn voters(cluster: &DescribeClusterResponse) -> impl Iterator<Item = BrokerId> {
    let members = cluster.members.iter();
    let voters = members.filter(|member| member.role == MemberRole::Voter);
    voters.map(|member| member.broker_id)
}

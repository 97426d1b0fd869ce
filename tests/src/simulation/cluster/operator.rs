//! Changes who votes, now and then, as somebody would who maintains the cluster.

use std::{rc::Rc, time::Duration};

use strandline_client::{
    ClientError,
    connection::Connection,
    protocol::{
        BrokerId,
        messages::{ChangeVotersRequest, DescribeClusterRequest},
    },
};
use tokio::time::sleep;

use super::{ClusterPlan, Trace, address_of, checks::Checks, machines::Machines, options};
use crate::random::Random;

const NAME: &str = "operator";

/// Runs for as long as things go wrong.
pub(super) async fn operate(
    plan: ClusterPlan,
    machines: Rc<Machines>,
    checks: Rc<Checks>,
    trace: Trace,
) -> turmoil::Result {
    let mut random = Random::new(plan.seed, 700);
    let until = turmoil::sim_elapsed().unwrap_or_default() + plan.faults_for;
    while turmoil::sim_elapsed().unwrap_or_default() < until {
        sleep(random.ms(200..3000)).await;
        let machine = random.index(plan.machines);
        let change = change(&mut random, &machines, &checks);
        let outcome = ask(&address_of(machine), change.clone()).await;
        match (change, outcome) {
            (Some(change), outcome) => trace.note(NAME, format_args!("{change:?}: {outcome:?}")),
            (None, Err(error)) => trace.detail(NAME, format_args!("looks: {error}")),
            (None, Ok(_)) => {}
        }
    }
    Ok(())
}

/// One voter for another one, if there is somebody who does not vote.
fn change(
    random: &mut Random,
    machines: &Machines,
    checks: &Checks,
) -> Option<ChangeVotersRequest> {
    let image = checks.newest_image()?;
    let membership = image.membership()?;
    let voters: Vec<BrokerId> = membership.voters.iter().map(|voter| voter.broker).collect();
    let learner = machines
        .left()
        .map(|machine| machine.broker)
        .find(|broker| !voters.contains(broker))?;
    if random.one_in(2) {
        return None;
    }
    let remove = voters.get(random.index(voters.len())).copied()?;
    Some(ChangeVotersRequest {
        add: vec![learner],
        remove: vec![remove],
    })
}

/// Makes the change, or looks at the cluster.
async fn ask(address: &str, change: Option<ChangeVotersRequest>) -> Result<String, ClientError> {
    let connection = Connection::open(address, &options(NAME)).await?;
    match change {
        Some(change) => {
            let (changed, _) = connection
                .request_that_waits(&change, Vec::new(), Duration::from_secs(3))
                .await?;
            Ok(format!("{:?}", changed.voters))
        }
        None => {
            let (told, _) = connection
                .request(&DescribeClusterRequest::default(), Vec::new())
                .await?;
            Ok(format!("{:?}", told.controller))
        }
    }
}

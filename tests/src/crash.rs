//! `kill -9` under load: producers that never stop, a broker that is killed at random moments.
//!
//! Every producer is idempotent and sends to every partition; what it was told goes into a
//! `History`. After each kill the broker starts again on the same directory, and in the end every
//! partition is read from its start and held against the history.

use std::time::Duration;

use crate::{
    broker::BrokerSetup,
    load::{Checked, Load, Plan, check_all, create_topic},
    random::{Random, fresh_seed},
};

const TOPIC: &str = "crash";

/// What a campaign does.
#[derive(Clone, Debug, clap::Args)]
pub struct Campaign {
    /// How often the broker is killed.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub rounds: u32,
    /// How many producers there are.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub producers: u32,
    /// How many partitions they write to.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub partitions: i32,
    /// How long a record is, in bytes.
    #[arg(long = "record-size", value_name = "BYTES", default_value_t = 200)]
    pub record_bytes: usize,
    /// From where the moments of the kills are drawn; another one each time if it is not given.
    #[arg(long, value_name = "N", default_value_t = fresh_seed(), hide_default_value = true)]
    pub seed: u64,
}

/// What a campaign found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Records that were acknowledged, of unknown outcome, refused.
    pub records: (usize, usize, usize),
    /// Records that are there.
    pub found: usize,
    /// From each start of the process to its readiness, shortest first.
    pub ready_after: Vec<Duration>,
    /// Everything that must never happen, and did.
    pub violations: Vec<String>,
}

/// Runs a campaign on `setup`; `progress` hears of every round.
///
/// # Errors
/// If the rig itself does not work; what the broker does wrong is among the findings.
///
/// # Panics
/// If a producer's task panicked.
pub async fn run(
    setup: &BrokerSetup,
    campaign: &Campaign,
    mut progress: impl FnMut(u32, Duration),
) -> anyhow::Result<Findings> {
    let mut random = Random::new(campaign.seed, 1);
    let mut broker = setup.start();
    let configs = [("segment.bytes", "1048576"), ("flush", "ack")];
    create_topic(&setup.address(), TOPIC, campaign.partitions, &configs).await?;
    let plan = Plan {
        record_bytes: campaign.record_bytes,
        ..Plan::all_to_all(TOPIC, campaign.producers, campaign.partitions)
    };
    let load = Load::start(&plan, &setup.address()).await?;

    let mut ready_after = Vec::new();
    for round in 1..=campaign.rounds {
        let alive = Duration::from_millis(100 + random.below(900));
        tokio::time::sleep(alive).await;
        broker.kill();
        let setup = setup.clone();
        broker = tokio::task::spawn_blocking(move || setup.start()).await?;
        ready_after.push(broker.ready_after());
        progress(round, broker.ready_after());
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let history = load.stop().await?;
    let Checked { found, violations } =
        check_all(&setup.address(), TOPIC, campaign.partitions, &history).await?;
    ready_after.sort_unstable();
    Ok(Findings {
        records: history.counts(),
        found,
        ready_after,
        violations,
    })
}

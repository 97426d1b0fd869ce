//! `strandline cluster health`: a verdict, what is wrong, what to do.

use serde::Serialize;
use strandline_protocol::{
    BrokerId,
    messages::{
        BrokerDescription, BrokerState, DescribeClusterResponse, Duty, MemberDescription,
        MemberRole,
    },
};

use super::show::{broker_lag, lag};
use crate::cli::{
    connection::ConnectionArguments,
    error::{CommandError, EXIT_FAILURE, EXIT_USAGE},
    output::{OutputFormat, print_json, print_text},
    quantity::{counted, seconds},
};

/// A voter that was not heard of for longer is silent. The quorum exchanges heartbeats several
/// times a second.
const SILENCE_MS_MAX: u64 = 3_000;

/// Who is further behind is told. The metadata log grows by an entry per change.
const LAG_MAX: i64 = 1_000;

/// The fewest voters of which one may be lost.
const VOTERS_MIN: usize = 3;

/// How the cluster is; the order is that of gravity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// Nothing is wrong.
    Healthy,
    /// It works, but something is wrong.
    Degraded,
    /// It does not work.
    Unusable,
}

/// Something that is wrong.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    pub(super) what: String,
    pub(super) remedy: String,
}

/// The verdict on a cluster.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    pub(super) verdict: Verdict,
    cluster: String,
    controller: Option<BrokerId>,
    summary: String,
    pub(super) findings: Vec<Finding>,
}

/// Looks, prints, and ends with the exit code of the verdict.
///
/// # Errors
/// If the cluster is not healthy.
pub(super) async fn run(
    connection: &ConnectionArguments,
    format: OutputFormat,
) -> Result<(), CommandError> {
    let unreachable = |error: CommandError| error.ends_with(EXIT_USAGE);
    let admin = super::look(connection).await.map_err(unreachable)?;
    let cluster = admin.describe_cluster().await;
    let cluster = cluster.map_err(|error| unreachable(error.into()))?;
    let health = examine(&cluster);
    match format {
        OutputFormat::Json => print_json(&health)?,
        OutputFormat::Table => print_text(&health.text())?,
    }
    match health.verdict {
        Verdict::Healthy => Ok(()),
        Verdict::Degraded => Err(CommandError::told(EXIT_FAILURE)),
        Verdict::Unusable => Err(CommandError::told(EXIT_USAGE)),
    }
}

/// Everything that is wrong with a cluster, the gravest first.
pub(super) fn examine(cluster: &DescribeClusterResponse) -> Health {
    let mut findings = Vec::new();
    controller(cluster, &mut findings);
    partitions(cluster, &mut findings);
    closed(cluster, &mut findings);
    voters(cluster, &mut findings);
    few_voters(cluster, &mut findings);
    brokers(cluster, &mut findings);
    full(cluster, &mut findings);
    lacking(cluster, &mut findings);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    let gravest = findings.iter().map(|finding| finding.verdict).max();
    Health {
        verdict: gravest.unwrap_or(Verdict::Healthy),
        cluster: cluster.cluster_id.to_string(),
        controller: cluster.controller,
        summary: summary(cluster),
        findings,
    }
}

impl Health {
    /// The lines for people.
    pub(super) fn text(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Healthy => "healthy",
            Verdict::Degraded => "degraded",
            Verdict::Unusable => "unusable",
        };
        let mut text = format!("{verdict}: cluster {}, {}\n", self.cluster, self.summary);
        for Finding { what, remedy, .. } in &self.findings {
            text.push_str(&format!("- {what}\n  {remedy}\n"));
        }
        text
    }
}

fn summary(cluster: &DescribeClusterResponse) -> String {
    let voters = voters_of(cluster).count();
    let brokers = cluster.brokers.len();
    let active = |broker: &&BrokerDescription| broker.state == BrokerState::Active;
    let active = cluster.brokers.iter().filter(active).count();
    let partitions = cluster.partitions;
    let led = partitions.saturating_sub(cluster.partitions_without_leader);
    let drained = cluster.brokers.iter().filter(|it| it.duty == Duty::Drained);
    let drained: Vec<String> = drained.map(|it| it.id.to_string()).collect();
    let drained = if drained.is_empty() {
        String::new()
    } else {
        format!(" (drained: {})", drained.join(", "))
    };
    format!(
        "{active} of {brokers} brokers active{drained}, {voters} voters, {led} of {partitions} \
         partitions led"
    )
}

fn voters_of(cluster: &DescribeClusterResponse) -> impl Iterator<Item = &MemberDescription> {
    let members = cluster.members.iter();
    members.filter(|member| member.role == MemberRole::Voter)
}

fn controller(cluster: &DescribeClusterResponse, findings: &mut Vec<Finding>) {
    let asked = cluster.answered_by;
    let finding = match cluster.controller {
        None if is_full(cluster, asked) => Finding {
            verdict: Verdict::Unusable,
            what: format!(
                "broker {asked} knows of no controller, as it follows no change of the metadata \
                 while its disk is full"
            ),
            remedy: format!("free space there, or ask another broker than {asked} (--bootstrap)"),
        },
        None => Finding {
            verdict: Verdict::Unusable,
            what: format!("broker {asked} knows of no controller, so nothing can be changed"),
            remedy: format!(
                "more than half of the voters ({}) must run, reach each other and have room on \
                 their disks: start those that do not run, free space on those that are full",
                ids(voters_of(cluster).map(|member| member.broker_id))
            ),
        },
        Some(controller) if controller != asked => Finding {
            // Nobody else has been elected either, as far as this broker is told.
            verdict: Verdict::Unusable,
            what: format!("the controller, broker {controller}, did not answer broker {asked}"),
            remedy: format!(
                "if this lasts for more than seconds, more than half of the voters ({}) are down \
                 or cut off: start them, and look at the network",
                ids(voters_of(cluster).map(|member| member.broker_id))
            ),
        },
        Some(_) => return,
    };
    findings.push(finding);
}

fn voters(cluster: &DescribeClusterResponse, findings: &mut Vec<Finding>) {
    if cluster.controller != Some(cluster.answered_by) {
        // Only the controller knows who is silent.
        return;
    }
    let total = voters_of(cluster).count();
    for member in voters_of(cluster) {
        let id = member.broker_id;
        let silent =
            id != cluster.answered_by && member.heard_ms_ago.is_none_or(|ago| ago > SILENCE_MS_MAX);
        if silent && is_full(cluster, id) {
            findings.push(Finding {
                verdict: Verdict::Degraded,
                what: format!(
                    "broker {id}, one of {total} voters, follows no change of the metadata, as its \
                     disk is full"
                ),
                remedy: "free space there: it goes on by itself".to_owned(),
            });
        } else if silent {
            let since = member.heard_ms_ago.map_or_else(
                || "since the controller was elected".to_owned(),
                |ago| format!("for {}", seconds(ago)),
            );
            findings.push(Finding {
                verdict: Verdict::Degraded,
                what: format!("broker {id}, one of {total} voters, was not heard of {since}"),
                remedy: format!(
                    "start it, or look at its log and the controller's; if it is gone for good, \
                     give its vote to another broker: strandline cluster add-voter {} --instead-of \
                     {id}",
                    substitute(cluster)
                ),
            });
        } else if let Some(lag) = lag(cluster, member.log_end).filter(|lag| *lag > LAG_MAX) {
            findings.push(Finding {
                verdict: Verdict::Degraded,
                what: format!("broker {id}, one of {total} voters, is {lag} entries behind"),
                remedy: "it catches up by itself; if it does not, look at its disk and its log"
                    .to_owned(),
            });
        }
    }
}

/// Fewer votes than the brokers could have, so that no voter may be lost.
fn few_voters(cluster: &DescribeClusterResponse, findings: &mut Vec<Finding>) {
    let voters: Vec<BrokerId> = voters_of(cluster).map(|it| it.broker_id).collect();
    let others = cluster.brokers.iter().filter(|it| !voters.contains(&it.id));
    let others = others.filter(|it| it.state == BrokerState::Active);
    let missing = VOTERS_MIN.saturating_sub(voters.len());
    let new: Vec<String> = others.take(missing).map(|it| it.id.to_string()).collect();
    if missing == 0 || new.len() < missing || cluster.voters_changing {
        return;
    }
    findings.push(Finding {
        verdict: Verdict::Degraded,
        what: format!(
            "no voter may be lost (now {}): the metadata could not be changed until it is back",
            ids(voters.into_iter())
        ),
        remedy: format!(
            "three votes go on without one: strandline cluster add-voter {}",
            new.join(",")
        ),
    });
}

/// Who could vote in the place of somebody else: a broker that takes part and has no vote.
fn substitute(cluster: &DescribeClusterResponse) -> String {
    let votes = |id: BrokerId| voters_of(cluster).any(|member| member.broker_id == id);
    let mut brokers = cluster.brokers.iter();
    let spare = brokers.find(|broker| broker.state == BrokerState::Active && !votes(broker.id));
    spare.map_or_else(|| "NEW".to_owned(), |broker| broker.id.to_string())
}

fn brokers(cluster: &DescribeClusterResponse, findings: &mut Vec<Finding>) {
    for broker in &cluster.brokers {
        let id = broker.id;
        match broker.state {
            BrokerState::Fenced => findings.push(Finding {
                verdict: Verdict::Degraded,
                what: format!(
                    "broker {id} is fenced: it leads nothing, and keeps {}",
                    counted(broker.keeps.into(), "partition")
                ),
                remedy: format!(
                    "start it, or look at its log; if it is gone for good: strandline broker \
                     decommission {id}"
                ),
            }),
            BrokerState::Stopping => findings.push(Finding {
                verdict: Verdict::Degraded,
                what: format!("broker {id} is about to stop, and leads {}", broker.leads),
                remedy: "wait until it has stopped, and start it again when you are done"
                    .to_owned(),
            }),
            BrokerState::Active => {
                let lag = broker_lag(cluster, broker).filter(|lag| *lag > LAG_MAX);
                findings.extend(lag.map(|lag| Finding {
                    verdict: Verdict::Degraded,
                    what: format!("broker {id} follows the metadata {lag} entries behind"),
                    remedy: "it catches up by itself; if it does not, look at its disk".to_owned(),
                }));
            }
        }
    }
}

fn is_full(cluster: &DescribeClusterResponse, id: BrokerId) -> bool {
    let mut brokers = cluster.brokers.iter();
    brokers.any(|broker| broker.id == id && broker.full_directories > 0)
}

/// Disks that take nothing more.
fn full(cluster: &DescribeClusterResponse, findings: &mut Vec<Finding>) {
    for broker in cluster.brokers.iter().filter(|it| it.full_directories > 0) {
        let id = broker.id;
        let controls = if cluster.controller == Some(id) {
            "; it is the controller, so that topics and leaders may not change until some voter \
             has room"
        } else {
            ""
        };
        findings.push(Finding {
            verdict: Verdict::Degraded,
            what: format!(
                "a disk of broker {id} is full: others lead what it led there, and it falls \
                 behind; where no other one is in sync and has room writes are refused{controls}"
            ),
            remedy: "free space there: it goes on by itself. Deleting records (`strandline topic \
                     trim`) or topics does it, as long as a majority of the voters has room"
                .to_owned(),
        });
    }
}

/// Partitions that take no writes which all replicas acknowledge.
fn closed(cluster: &DescribeClusterResponse, findings: &mut Vec<Finding>) {
    let (under_min_isr, leaderless) = (
        cluster.partitions_under_min_isr,
        cluster.partitions_without_leader,
    );
    // What nobody leads is told of as such.
    let closed = under_min_isr.saturating_sub(leaderless);
    if closed > 0 {
        findings.push(Finding {
            verdict: Verdict::Degraded,
            what: format!(
                "no writes with acks=all in {}: fewer replicas are in sync than their \
                 `min.insync.replicas`",
                counted(closed.into(), "partition")
            ),
            remedy: "start the brokers that keep them and make room on full disks, or move their \
                     replicas to brokers that live (`strandline topic reassign`)"
                .to_owned(),
        });
    }
}

/// Partitions that work, with fewer copies than they are to have.
fn lacking(cluster: &DescribeClusterResponse, findings: &mut Vec<Finding>) {
    if cluster.controller != Some(cluster.answered_by) {
        // What was known last may be long over, and nobody knows what works.
        return;
    }
    let more = cluster
        .partitions_under_min_isr
        .max(cluster.partitions_without_leader);
    let rest = cluster.partitions_under_replicated.saturating_sub(more);
    if rest > 0 {
        findings.push(Finding {
            verdict: Verdict::Degraded,
            what: format!(
                "under-replicated: {}; reads and writes go on, with fewer copies",
                counted(rest.into(), "partition")
            ),
            remedy: "they catch up by themselves once their brokers live: `strandline topic \
                     describe` tells who is behind"
                .to_owned(),
        });
    }
}

fn partitions(cluster: &DescribeClusterResponse, findings: &mut Vec<Finding>) {
    let (leaderless, partitions) = (cluster.partitions_without_leader, cluster.partitions);
    if leaderless == 0 {
        return;
    }
    let verdict = if leaderless >= partitions {
        Verdict::Unusable
    } else {
        Verdict::Degraded
    };
    let are_active = |broker: &BrokerDescription| broker.state == BrokerState::Active;
    let remedy = if cluster.brokers.iter().all(are_active) {
        "every broker is there, so directories are not that had everything: look at the logs of \
         the brokers that keep them (`strandline topic describe` names them), and bring the disk \
         back. If it is gone for good, what was only there is lost: keep what another replica has \
         (strandline topic elect-preferred NAME --partition P --unclean --accept-data-loss), and \
         delete topics that no other one has"
    } else {
        "start the brokers that keep them: `strandline topic describe` names them"
    };
    findings.push(Finding {
        verdict,
        what: format!(
            "{leaderless} of {partitions} partitions have no leader: nobody writes or reads them"
        ),
        remedy: remedy.to_owned(),
    });
}

pub(super) fn ids(brokers: impl Iterator<Item = BrokerId>) -> String {
    let ids: Vec<String> = brokers.map(|id| id.to_string()).collect();
    if ids.is_empty() {
        return "none is known".to_owned();
    }
    ids.join(", ")
}

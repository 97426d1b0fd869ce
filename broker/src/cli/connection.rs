//! `--bootstrap`, the runtime of a command, and what a client's errors mean to a person.

use std::{collections::BTreeSet, future::Future, time::Duration};

use clap::Args;
use strandline_client::{Client, ClientError, ClientOptions, TopicDescription};
use strandline_protocol::{ErrorCode, PartitionId};
use tokio::runtime::Builder;

use super::error::CommandError;

/// How a command finds its broker.
#[derive(Clone, Debug, Args)]
pub struct ConnectionArguments {
    /// Brokers to ask first; any one of a cluster will do.
    #[arg(
        long,
        global = true,
        env = "STRANDLINE_BOOTSTRAP",
        value_name = "HOST:PORT[,..]",
        value_delimiter = ',',
        value_parser = address,
        default_value = "127.0.0.1:9290"
    )]
    pub bootstrap: Vec<String>,
}

impl ConnectionArguments {
    /// Connects to the first broker that answers.
    ///
    /// # Errors
    /// If none does.
    pub async fn connect(&self) -> Result<Client, CommandError> {
        self.connect_within(ClientOptions::default().request_timeout)
            .await
    }

    /// As [`ConnectionArguments::connect`], for requests that give up after `timeout`.
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn connect_within(&self, timeout: Duration) -> Result<Client, CommandError> {
        let options = ClientOptions {
            client_id: "strandline-cli".to_owned(),
            request_timeout: timeout,
            ..ClientOptions::default()
        };
        Ok(Client::connect(&self.bootstrap, options).await?)
    }

    /// Runs a command on a runtime of its own.
    ///
    /// # Errors
    /// What the command ends with, or that the runtime cannot be built.
    pub fn block_on<F>(&self, command: F) -> Result<(), CommandError>
    where
        F: Future<Output = Result<(), CommandError>>,
    {
        run_on(&mut Builder::new_multi_thread(), command)
    }

    /// As [`ConnectionArguments::block_on`], on the calling thread alone: for a command that waits
    /// for one answer after the other, where a second thread would only have to be woken.
    ///
    /// # Errors
    /// What the command ends with, or that the runtime cannot be built.
    pub fn block_on_this_thread<F>(&self, command: F) -> Result<(), CommandError>
    where
        F: Future<Output = Result<(), CommandError>>,
    {
        run_on(&mut Builder::new_current_thread(), command)
    }
}

fn run_on<F>(runtime: &mut Builder, command: F) -> Result<(), CommandError>
where
    F: Future<Output = Result<(), CommandError>>,
{
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| CommandError::io("cannot start", &error))?;
    runtime.block_on(command)
}

/// What the cluster knows of a topic.
///
/// # Errors
/// If there is no such topic or nobody answers.
pub async fn describe(client: &Client, topic: &str) -> Result<TopicDescription, CommandError> {
    let mut topics = client.admin().describe_topics(&[topic]).await?;
    topics.pop().ok_or_else(|| {
        CommandError::from(ClientError::UnknownTopic {
            topic: topic.to_owned(),
        })
    })
}

/// The partitions that nobody leads now, among those of `only`; each is told on standard error.
pub fn tell_leaderless(
    topic: &TopicDescription,
    only: Option<PartitionId>,
) -> BTreeSet<PartitionId> {
    let wanted = |id: PartitionId| only.is_none_or(|only| only == id);
    let partitions = topic.partitions.iter();
    let leaderless = partitions.filter(|it| it.leader.is_none() && wanted(it.id));
    let leaderless: BTreeSet<_> = leaderless.map(|it| it.id).collect();
    for partition in &leaderless {
        eprintln!(
            "warning: {} partition {partition} has no leader now; `strandline topic describe {}` \
             tells who could lead it",
            topic.name, topic.name
        );
    }
    leaderless
}

/// Holds a partition that was asked for against those that the topic has.
///
/// # Errors
/// If there is no such partition.
pub fn check_partition(
    topic: &TopicDescription,
    partition: Option<i32>,
) -> Result<Option<PartitionId>, CommandError> {
    let Some(partition) = partition.map(PartitionId) else {
        return Ok(None);
    };
    if topic.partitions.iter().any(|known| known.id == partition) {
        return Ok(Some(partition));
    }
    Err(CommandError::from(ClientError::UnknownPartition {
        topic: topic.name.clone(),
        partition,
        partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
    }))
}

impl From<ClientError> for CommandError {
    /// The messages of the client end in a remedy, which becomes the hint.
    fn from(error: ClientError) -> Self {
        let text = match &error {
            // The code is for programs. Some messages name their subject themselves.
            ClientError::Refused {
                subject, message, ..
            } if message.starts_with(subject.as_str()) => message.clone(),
            ClientError::Refused {
                subject, message, ..
            } => format!("{subject}: {message}"),
            ClientError::Corrupt {
                topic,
                partition,
                offset,
                next_good,
                reason,
            } => {
                let behind = next_good.map_or_else(
                    || {
                        "drain its leader and start it again: it checks its files anew, and \
                         fetches what is damaged from another replica; `strandline log verify`, \
                         while it is stopped, tells more"
                            .to_owned()
                    },
                    |next| {
                        format!(
                            "go on behind the damage: strandline consume {topic} --partition \
                             {partition} --from {next}"
                        )
                    },
                );
                format!("`{topic}`-{partition} is damaged at offset {offset}: {reason}; {behind}")
            }
            _ => error.to_string(),
        };
        let told = if is_usage(&error) {
            Self::usage_with_remedy(&text)
        } else {
            Self::failure_with_remedy(&text)
        };
        match remedy(&error) {
            Some(hint) => told.or_hint(hint),
            None => told,
        }
    }
}

/// Whether the request is wrong whatever the state of the broker.
fn is_usage(error: &ClientError) -> bool {
    match error {
        ClientError::InvalidOption { .. } => true,
        ClientError::Refused { code, .. } => [
            ErrorCode::INVALID_CONFIG,
            ErrorCode::INVALID_TOPIC,
            ErrorCode::INVALID_REPLICATION_FACTOR,
            ErrorCode::INVALID_REPLICA_ASSIGNMENT,
        ]
        .contains(code),
        _ => false,
    }
}

/// What to do about an error whose message does not say it.
fn remedy(error: &ClientError) -> Option<&'static str> {
    let ClientError::Refused { code, .. } = error else {
        return None;
    };
    match *code {
        ErrorCode::TOPIC_ALREADY_EXISTS => Some("see it with `strandline topic describe`"),
        ErrorCode::INVALID_CONFIG => {
            Some("`strandline topic describe` of any topic lists every key with its value")
        }
        ErrorCode::INVALID_PARTITIONS => {
            Some("`strandline topic describe` tells how many partitions there are")
        }
        ErrorCode::OFFSET_OUT_OF_RANGE => {
            Some("`strandline offsets` tells where the partitions begin and end")
        }
        ErrorCode::DISK_FULL => Some("make room on the broker's disk; appends then go on"),
        ErrorCode::OVERLOADED | ErrorCode::SHUTTING_DOWN | ErrorCode::NOT_READY => {
            Some("try again later")
        }
        ErrorCode::VOTERS_CHANGING => {
            Some("wait until `strandline cluster describe` shows the change done, and try again")
        }
        ErrorCode::NOT_CONTROLLER | ErrorCode::LEADER_NOT_AVAILABLE => {
            Some("`strandline cluster health` tells what is wrong, and what to do")
        }
        ErrorCode::NOT_REMOVABLE
        | ErrorCode::DUPLICATE_VOTER
        | ErrorCode::VOTER_NOT_FOUND
        | ErrorCode::BROKER_ID_NOT_REGISTERED => {
            Some("`strandline cluster describe` shows who votes, lives and keeps what")
        }
        ErrorCode::INVALID_REPLICATION_FACTOR | ErrorCode::INVALID_REPLICA_ASSIGNMENT => {
            Some("`strandline cluster describe` shows the brokers that there are")
        }
        ErrorCode::NO_REASSIGNMENT_IN_PROGRESS => {
            Some("`strandline topic describe` shows what is on its way")
        }
        ErrorCode::NOT_ENOUGH_REPLICAS | ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE => {
            Some("`strandline cluster health` tells which brokers are missing")
        }
        ErrorCode::INCONSISTENT_CLUSTER_ID => {
            Some("all addresses of --bootstrap must be brokers of one cluster")
        }
        _ => None,
    }
}

/// Checks that a bootstrap address has a host and a port.
fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(text.to_owned())
        }
        _ => Err("expected HOST:PORT such as 127.0.0.1:9290".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_of_a_client_error_becomes_the_hint() {
        let error = CommandError::from(ClientError::UnknownTopic {
            topic: "logs".to_owned(),
        });
        let text = error.to_string();
        assert!(
            text.starts_with("error: topic `logs` does not exist\nhint: create it"),
            "{text}"
        );
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn a_config_that_is_none_is_wrong_use() {
        let error = CommandError::from(ClientError::Refused {
            subject: "topic `logs`".to_owned(),
            code: ErrorCode::INVALID_CONFIG,
            message: "unknown key `x`".to_owned(),
        });
        assert!(
            error
                .to_string()
                .starts_with("error: topic `logs`: unknown key `x`\nhint: ")
        );
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for text in [
            "127.0.0.1:9290",
            "localhost:1",
            "[::1]:9290",
            "a.b.example:65535",
        ] {
            assert!(address(text).is_ok(), "{text}");
        }
        for text in ["", "localhost", ":9290", "a:0", "a:65536", "a:b", "9290"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}

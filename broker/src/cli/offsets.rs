//! `strandline offsets`: where the partitions of a topic begin, end, or were at a time.

use clap::Args;
use serde::Serialize;
use strandline_client::ListedPartition;
use strandline_protocol::{ids::Timestamp, messages::OffsetQuery};

use super::{
    connection::{ConnectionArguments, describe, tell_leaderless},
    error::CommandError,
    output::{OutputArguments, OutputFormat, Rows, print_json},
    position::{parse_time, show_time},
    values::topic_name,
};

/// Show where each partition of a topic begins and ends, and where it was at a time.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strandline offsets orders
  strandline offsets orders --at 2026-11-23T08:00:00Z --output json")]
pub struct OffsetsArguments {
    /// Which topic.
    #[arg(value_name = "TOPIC", value_parser = topic_name)]
    pub topic: String,
    /// Also the first record of that time or later.
    #[arg(long, value_name = "RFC3339", value_parser = parse_time)]
    pub at: Option<Timestamp>,
    #[command(flatten)]
    pub output: OutputArguments,
}

/// The offsets of one partition.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    partition: i32,
    start: i64,
    end: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Found>,
}

/// The first record of a time or later; without an offset if none is that young.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Found {
    offset: Option<i64>,
    timestamp: Option<String>,
}

impl OffsetsArguments {
    /// Runs the command.
    ///
    /// # Errors
    /// If the topic cannot be asked about.
    pub async fn run(self, connection: &ConnectionArguments) -> Result<(), CommandError> {
        let client = connection.connect().await?;
        // What nobody leads is told of, and not waited for.
        tell_leaderless(&describe(&client, &self.topic).await?, None);
        let admin = client.admin();
        let look_up = async |query| admin.list_offsets_of_led(&self.topic, query).await;
        let starts = look_up(OffsetQuery::Earliest).await?;
        let ends = look_up(OffsetQuery::Latest).await?;
        let found = match self.at {
            Some(time) => Some(look_up(OffsetQuery::At(time)).await?),
            None => None,
        };
        let rows = rows(&starts, &ends, found.as_deref());
        match self.output.output {
            OutputFormat::Json => print_json(&rows),
            OutputFormat::Table => print_table(&rows, self.at),
        }
    }
}

fn rows(
    starts: &[ListedPartition],
    ends: &[ListedPartition],
    found: Option<&[ListedPartition]>,
) -> Vec<Row> {
    let offset = |listed: &ListedPartition| listed.offset.map(|offset| offset.0);
    let of = |all: &[ListedPartition], partition| {
        all.iter()
            .copied()
            .find(|listed| listed.partition == partition)
    };
    starts
        .iter()
        .map(|start| Row {
            partition: start.partition.0,
            start: offset(start).unwrap_or(0),
            end: of(ends, start.partition)
                .as_ref()
                .and_then(offset)
                .unwrap_or(0),
            at: found
                .and_then(|found| of(found, start.partition))
                .map(|found| Found {
                    offset: offset(&found),
                    timestamp: found.offset.and(found.timestamp).map(show_time),
                }),
        })
        .collect()
}

fn print_table(rows: &[Row], at: Option<Timestamp>) -> Result<(), CommandError> {
    let mut columns = vec!["PARTITION#", "START#", "END#", "RECORDS#"];
    if at.is_some() {
        columns.extend(["AT#", "TIME"]);
    }
    let mut table = Rows::new(&columns);
    for row in rows {
        let records = row.end.saturating_sub(row.start);
        let mut cells: Vec<String> = [i64::from(row.partition), row.start, row.end, records]
            .iter()
            .map(ToString::to_string)
            .collect();
        if let Some(found) = &row.at {
            cells.push(
                found
                    .offset
                    .map_or_else(|| "-".to_owned(), |offset| offset.to_string()),
            );
            cells.push(found.timestamp.clone().unwrap_or_else(|| "-".to_owned()));
        }
        table.push(cells);
    }
    table.print()
}

//! The command line: one binary, every command.
//!
//! **Owns** what a person types and reads: flags, help, tables, progress, errors and exit codes.
//! One file per command; what several share lies beside them.
//!
//! **Never** reaches into a broker: commands speak to it through the public client, as any
//! application does. Only `log` opens files, and those of a broker that is stopped.

mod bench;
mod broker;
mod cluster;
mod connection;
mod consume;
mod error;
mod lines;
mod log;
mod offsets;
mod output;
mod position;
mod produce;
mod quantity;
mod reference;
mod server;
mod template;
mod topic;
mod values;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use connection::ConnectionArguments;
use error::CommandError;

const EXAMPLES: &str = "\
Examples:
  strandline server                                  start a broker; data in ./strandline-data
  strandline topic create logs --partitions 4
  strandline produce logs --file app.log             one record a line
  strandline consume logs --exit-at-end
  strandline cluster health                          is all well, and what to do if not
  strandline broker drain 2                          before maintenance of broker 2
  strandline bench produce --topic bench

Exit codes: 0 success, 1 failure, 2 wrong use. Errors are one line on standard error and a hint.";

/// A partitioned log broker: its server, its tools and its benchmarks in one binary.
#[derive(Debug, Parser)]
#[command(name = "strandline", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(propagate_version = true, disable_help_subcommand = true)]
#[command(arg_required_else_help = false)]
struct Arguments {
    #[command(flatten)]
    connection: ConnectionArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = false)]
enum Command {
    Server(server::ServerArguments),
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    Produce(produce::ProduceArguments),
    Consume(consume::ConsumeArguments),
    Offsets(offsets::OffsetsArguments),
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    #[command(subcommand)]
    Broker(broker::BrokerCommand),
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    #[command(subcommand)]
    Log(log::LogCommand),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let parsed = command()
        .try_get_matches_from(words)
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    match parsed {
        Ok(arguments) => match dispatch(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => error.report(),
        },
        Err(error) => error::report_clap(&error),
    }
}

pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

fn dispatch(arguments: Arguments) -> Result<(), CommandError> {
    let connection = arguments.connection;
    match arguments.command {
        Command::Server(server) => server.run(),
        Command::Topic(topic) => connection.block_on(topic.run(&connection)),
        Command::Produce(produce) => connection.block_on(produce.run(&connection)),
        Command::Consume(consume) => connection.block_on(consume.run(&connection)),
        Command::Offsets(offsets) => connection.block_on(offsets.run(&connection)),
        Command::Cluster(cluster) => connection.block_on(cluster.run(&connection)),
        Command::Broker(broker) => connection.block_on(broker.run(&connection)),
        Command::Bench(bench) => bench.run(&connection),
        Command::Log(log) => log.run(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_commands_is_consistent() {
        command().debug_assert();
    }
}

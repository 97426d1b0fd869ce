//! `strandline bench`: how fast it is, told so that it can be compared.
//!
//! The benchmarks of the broker use the public client and wait for every acknowledgement; `machine`
//! measures without a broker what the hardware and the kernel allow.

mod consume;
mod end_to_end;
mod load;
mod machine;
mod payload;
mod produce;
mod report;

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    connection::ConnectionArguments,
    error::CommandError,
    output::OutputArguments,
    values::{AcksFlag, CompressionFlag, byte_size, duration, topic_name},
};

/// Measure a broker, or the machine it runs on.
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = false)]
pub enum BenchCommand {
    /// Send records as fast as they are acknowledged, or at a rate.
    #[command(after_help = "\
Examples:
  strandline bench produce --topic bench --record-size 1KiB
  strandline bench produce --topic bench --producers 4 --partitions 4 --output json")]
    Produce(LoadArguments),
    /// Read a topic from its beginning; fills it first if it holds too little.
    #[command(after_help = "\
Example:
  strandline bench consume --topic bench --records 1000000 --record-size 1KiB")]
    Consume(LoadArguments),
    /// Send at a fixed rate and measure from the intended sending of a record to its arrival.
    #[command(after_help = "\
Example:
  strandline bench end-to-end --topic bench --rate 10000 --records 100000

Latency counts from when a record was due, not from when it was sent: a stall is charged to every
record that had to wait for it.")]
    EndToEnd(LoadArguments),
    Machine(machine::MachineArguments),
}

/// What a benchmark of the broker does.
#[derive(Clone, Debug, Args)]
pub struct LoadArguments {
    /// Which topic; created if it is missing.
    #[arg(long, value_name = "T", value_parser = topic_name)]
    pub topic: String,
    /// How many records are measured; 1,000,000, and ten seconds' worth for end-to-end.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub records: Option<u64>,
    /// The size of a record's value.
    #[arg(long, value_name = "B", value_parser = byte_size, default_value = "1024")]
    pub record_size: usize,
    /// How many partitions the topic gets if it is created; as many as producers otherwise.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: Option<i32>,
    /// How many brokers keep each partition of the topic if it is created; three, or as many as
    /// there are.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i16).range(1..))]
    pub replication_factor: Option<i16>,
    /// How many replicas must have a record before it is acknowledged.
    #[arg(long, value_name = "0|1|all", value_enum, default_value = "all")]
    pub acks: AcksFlag,
    /// The size up to which a batch fills.
    #[arg(long, value_name = "B", value_parser = byte_size)]
    pub batch_size: Option<usize>,
    /// How long a batch waits to fill.
    #[arg(long, value_name = "D", value_parser = duration)]
    pub linger: Option<Duration>,
    /// How batches are compressed.
    #[arg(long, value_name = "C", value_enum, default_value = "none")]
    pub compression: CompressionFlag,
    /// How many records are due per second in all; produce sends without a limit otherwise,
    /// end-to-end sends 10,000.
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// produce: send a record only after the one before was acknowledged. Measures what a program
    /// feels that waits for every record; says nothing about throughput.
    #[arg(long, conflicts_with = "rate")]
    pub one_at_a_time: bool,
    /// How many producers, each with a connection of its own.
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        allow_negative_numbers = true
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub producers: u32,
    /// How many consumers, each with a connection of its own; they share the partitions.
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        allow_negative_numbers = true
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub consumers: u32,
    #[command(flatten)]
    pub output: OutputArguments,
}

impl BenchCommand {
    /// Runs the benchmark.
    ///
    /// # Errors
    /// If the broker cannot be used, or a record is not acknowledged.
    pub fn run(self, connection: &ConnectionArguments) -> Result<(), CommandError> {
        match self {
            Self::Machine(machine) => machine.run(),
            Self::Produce(load) if load.one_at_a_time => connection.block_on_this_thread(async {
                produce::run(connection, &load)
                    .await?
                    .print(load.output.output)
            }),
            Self::Produce(load) => connection.block_on(async {
                produce::run(connection, &load)
                    .await?
                    .print(load.output.output)
            }),
            Self::Consume(load) => connection.block_on(async {
                consume::run(connection, &load)
                    .await?
                    .print(load.output.output)
            }),
            Self::EndToEnd(load) => connection.block_on(async {
                end_to_end::run(connection, &load)
                    .await?
                    .print(load.output.output)
            }),
        }
    }
}

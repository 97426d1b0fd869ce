//! What applications depend on to use Strandline: connection, producer, consumer, admin.
//!
//! **Owns** the way from an application to the leader of a partition and back: batching, order,
//! retries, uniqueness.
//!
//! **Never** knows how a broker stores anything, and never calls an unknown outcome a failure.
//!
//! # Produce
//!
//! ```no_run
//! # async fn example() -> Result<(), strandline_client::ClientError> {
//! use strandline_client::{Client, ClientOptions, NewRecord, ProducerOptions};
//!
//! let client = Client::connect(&["127.0.0.1:9290"], ClientOptions::default()).await?;
//! let producer = client.producer(ProducerOptions::default())?;
//! let delivery = producer.send(NewRecord::to("greetings").key(b"en").value(b"hello")).await?;
//! let position = delivery.await?;
//! println!("written to partition {} at {:?}", position.partition, position.offset);
//! producer.close().await
//! # }
//! ```
//!
//! # Consume
//!
//! ```no_run
//! # async fn example() -> Result<(), strandline_client::ClientError> {
//! use strandline_client::{Client, ClientOptions, ConsumerOptions, StartAt};
//! use strandline_client::protocol::PartitionId;
//!
//! let client = Client::connect(&["127.0.0.1:9290"], ClientOptions::default()).await?;
//! let mut consumer = client.consumer(ConsumerOptions::default())?;
//! consumer.assign(&[("greetings", PartitionId(0), StartAt::Beginning)]).await?;
//! loop {
//!     let records = consumer.poll().await?;
//!     for record in records.iter() {
//!         let record = record?;
//!         println!("{}: {:?}", record.offset, record.value);
//!     }
//! }
//! # }
//! ```

mod admin;
mod client;
pub mod connection;
mod consumer;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod net;
mod options;
mod producer;
mod routing;

pub use strandline_protocol as protocol;
pub use strandline_protocol::batch::{Header, Headers, Record};

pub use admin::{Admin, PartitionChange, TopicDescription};
pub use client::Client;
pub use consumer::{
    Consumer, ConsumerOptions, ConsumerWatch, OutOfRange, OwnedRecord, Position, RecordStream,
    Records, RecordsIter, StartAt,
};
pub use error::ClientError;
pub use options::ClientOptions;
pub use producer::{
    Compression, Delivery, NewRecord, Partitioner, Producer, ProducerOptions, RecordPosition,
    murmur2, partition_for_key,
};
pub use routing::{DeletedUpTo, ListedPartition};

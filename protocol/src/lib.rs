//! The language that Strandline's brokers and clients speak.
//!
//! **Owns** the quantities of the domain ([`Offset`], [`LeaderEpoch`], …), the record batch that is
//! the same bytes in the client, on the wire and on disk ([`batch`]) and how it is
//! compressed ([`compression`]), the frame around a message
//! ([`frame`]), every request and response ([`messages`]) and the order of requests on one
//! connection ([`channel`]).
//!
//! **Never** does I/O, reads a clock or panics on any input bytes: whatever comes from a peer or
//! from a file is checked here and refused with an error that names what is wrong.

pub mod api;
pub mod batch;
pub mod channel;
pub mod compression;
pub mod error;
pub mod frame;
pub mod ids;
pub mod limits;
pub mod messages;

pub use api::{Api, ApiKey};
pub use error::{ErrorClass, ErrorCode};
pub use ids::{
    BrokerEpoch, BrokerId, ClusterId, CorrelationId, DirectoryId, LeaderEpoch, Offset,
    PartitionEpoch, PartitionId, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicId,
    TopicPartition,
};

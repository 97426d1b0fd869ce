//! One connection: one task that reads, handles, answers.
//!
//! *Patterns: single-socket channel, request pipeline.*
//!
//! A request is parsed, carried out and answered in one poll of the task, so that nothing is handed
//! to another thread on the way. What has to wait is parked and blocks nobody behind it. The task
//! stops reading, and thereby slows its client down, while too many requests are parked, while too
//! much is waiting to be written, or while there is no memory for the next frame. Whoever holds
//! memory that others wait for and does not go on loses its connection.

mod event;
mod outbox;
mod parked;
mod pressure;
mod receive;
mod reply;
mod requests;
mod serve;

pub use event::{Event, Events};
pub use parked::Slot;
pub use pressure::Turns;
#[cfg(fuzzing)]
pub use receive::{Front, Receive};
pub use reply::Reply;
pub use serve::Connection;

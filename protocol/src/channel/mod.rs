//! One connection without its socket: bytes in, frames out, and which answer belongs to what.
//!
//! *Pattern: single-socket channel.* [`FrameDecoder`] cuts what a socket delivers into frames
//! without copying it and [`put_frame`] writes frames; both sides of a connection share them.
//! [`ClientChannel`] is the client's half of the pipeline: correlation ids, the window in flight,
//! pushes.
//!
//! **Never** reads or writes a socket, waits or looks at a clock: whoever drives it does.

mod client;
mod decoder;
mod outgoing;

pub use client::{ChannelError, ClientChannel, Completion, Unanswered, WindowFull};
pub use decoder::{Frame, FrameDecoder};
pub use outgoing::{FrameKind, put_frame};

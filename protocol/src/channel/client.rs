//! The client's half of a connection: which answer belongs to which request.
//!
//! *Pattern: request pipeline.* Requests are sent without waiting for the answers to those before
//! them; answers come in any order.

use std::collections::BTreeMap;

use crate::{
    api::ApiKey,
    frame::{Flags, FrameHeader},
    ids::CorrelationId,
};

/// What is known of the requests of one connection. `T` is what the driver keeps with a request:
/// whom to tell.
#[derive(Debug)]
pub struct ClientChannel<T> {
    window: usize,
    /// How many requests were begun; its low 32 bits are the next correlation id.
    begun: u64,
    in_flight: BTreeMap<u64, Unanswered<T>>,
    subscriptions: BTreeMap<u64, ApiKey>,
}

/// A request that has not been answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered<T> {
    /// Of which API.
    pub api: ApiKey,
    /// What the driver keeps with it.
    pub context: T,
}

/// The window in flight is full; wait for an answer. What was to be kept is handed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowFull<T>(pub T);

/// What a frame from the broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion<T> {
    /// The answer to this request, be it a success or an error.
    Response(Unanswered<T>),
    /// One more push of the subscription that the request of that id began.
    Push {
        /// Of which API.
        api: ApiKey,
        /// The request that subscribed.
        subscription: CorrelationId,
    },
}

/// The broker broke the protocol; the connection must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// An answer to nothing that was asked.
    #[error("the broker answered request {0}, which was not sent or has been answered")]
    UnknownCorrelation(CorrelationId),
    /// An answer that names another API than its request.
    #[error("the broker answered request {correlation} of API {sent} with API {received}")]
    WrongApi {
        /// The request.
        correlation: CorrelationId,
        /// The API of the request.
        sent: u16,
        /// The API of the answer.
        received: u16,
    },
    /// A push for nothing that was subscribed to.
    #[error("the broker pushed to subscription {0}, which does not exist")]
    UnknownSubscription(CorrelationId),
    /// Neither a response nor a push.
    #[error("the broker sent a frame of flags {0:#06x}, which is neither a response nor a push")]
    UnexpectedFlags(u16),
}

impl<T> ClientChannel<T> {
    /// A channel on which at most `window` requests are unanswered at once.
    #[must_use]
    pub const fn new(window: usize) -> Self {
        Self {
            window,
            begun: 0,
            in_flight: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
        }
    }

    /// How many requests are unanswered.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether a request can be begun.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.in_flight.len() < self.window
    }

    /// What the driver keeps with each unanswered request, in the order in which they were begun.
    pub fn contexts(&self) -> impl Iterator<Item = &T> {
        self.in_flight.values().map(|request| &request.context)
    }

    /// Registers a request of `api`, to be sent under the id that is returned. Requests must be
    /// sent in the order in which they are begun: brokers execute those on one partition in that
    /// order.
    ///
    /// A request of [`ApiKey::WatchMetadata`] also begins a subscription.
    ///
    /// # Errors
    /// [`WindowFull`].
    pub fn begin(&mut self, api: ApiKey, context: T) -> Result<CorrelationId, WindowFull<T>> {
        if !self.has_room() {
            return Err(WindowFull(context));
        }
        let (sequence, correlation) = self.next();
        self.in_flight.insert(sequence, Unanswered { api, context });
        if api == ApiKey::WatchMetadata {
            self.subscriptions.insert(sequence, api);
        }
        Ok(correlation)
    }

    /// The id for a request that is not answered; it does not count towards the window.
    pub fn begin_one_way(&mut self) -> CorrelationId {
        self.next().1
    }

    /// Tells what the frame that begins with `header` is, and forgets the request that it answers.
    ///
    /// # Errors
    /// [`ChannelError`]; the connection must be closed.
    pub fn complete(&mut self, header: &FrameHeader) -> Result<Completion<T>, ChannelError> {
        match header.flags {
            Flags::RESPONSE => self.complete_response(header),
            Flags::PUSH => self.complete_push(header),
            Flags(flags) => Err(ChannelError::UnexpectedFlags(flags)),
        }
    }

    /// Ends the channel: what was never answered, in the order in which it was begun. The outcome
    /// of each is unknown.
    pub fn abandon(&mut self) -> impl Iterator<Item = Unanswered<T>> + use<T> {
        self.subscriptions.clear();
        std::mem::take(&mut self.in_flight).into_values()
    }

    fn next(&mut self) -> (u64, CorrelationId) {
        let sequence = self.begun;
        self.begun = self.begun.wrapping_add(1);
        (sequence, low_bits(sequence))
    }

    /// The latest request with that id: ids repeat after 2^32 requests.
    fn sequence_of(&self, correlation: CorrelationId) -> Option<u64> {
        let back = low_bits(self.begun).0.wrapping_sub(correlation.0);
        // The next id itself was last used a whole round ago, if at all.
        let back = if back == 0 { 1 << 32 } else { u64::from(back) };
        self.begun.checked_sub(back)
    }

    fn complete_response(&mut self, header: &FrameHeader) -> Result<Completion<T>, ChannelError> {
        let correlation = header.correlation;
        let unknown = ChannelError::UnknownCorrelation(correlation);
        let sequence = self.sequence_of(correlation).ok_or(unknown.clone())?;
        let request = self.in_flight.remove(&sequence).ok_or(unknown)?;
        if request.api.code() != header.api_key {
            return Err(ChannelError::WrongApi {
                correlation,
                sent: request.api.code(),
                received: header.api_key,
            });
        }
        if request.api == ApiKey::WatchMetadata {
            if header.error.is_none() {
                // The broker replaced the subscription before this one.
                self.subscriptions = self.subscriptions.split_off(&sequence);
            } else {
                self.subscriptions.remove(&sequence);
            }
        }
        Ok(Completion::Response(request))
    }

    fn complete_push(&self, header: &FrameHeader) -> Result<Completion<T>, ChannelError> {
        let subscription = header.correlation;
        self.sequence_of(subscription)
            .and_then(|sequence| self.subscriptions.get(&sequence))
            .filter(|api| api.code() == header.api_key)
            .map(|&api| Completion::Push { api, subscription })
            .ok_or(ChannelError::UnknownSubscription(subscription))
    }
}

fn low_bits(sequence: u64) -> CorrelationId {
    let [.., a, b, c, d] = sequence.to_be_bytes();
    CorrelationId(u32::from_be_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlation_ids_repeat_after_all_of_them_were_used() {
        let mut channel = ClientChannel::new(10);
        let stuck = channel.begin(ApiKey::Fetch, "stuck").unwrap();
        channel.begun = (1 << 32) - 1;
        let last = channel.begin(ApiKey::Fetch, "last").unwrap();
        assert_eq!((last.0, channel.sequence_of(stuck)), (u32::MAX, Some(0)));
        let first = channel.begin(ApiKey::Fetch, "first").unwrap();
        assert_eq!(first.0, 0);
        assert_eq!(channel.sequence_of(last), Some((1 << 32) - 1));
        assert_eq!(channel.sequence_of(first), Some(1 << 32));
        assert_eq!(channel.sequence_of(CorrelationId(1)), Some(1));
    }
}

//! `InitProducerId` (8): the identity of an idempotent producer (KIP-98, KIP-360).
//!
//! *Pattern: idempotent receiver.* The identity, its epoch and a sequence per partition let a
//! broker recognise a batch that it already has.

use serde::{Deserialize, Serialize};

use super::Request;
use crate::{
    api::ApiKey,
    ids::{ProducerEpoch, ProducerId},
};

/// Asks for a new identity, or for the next epoch of the one that is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitProducerIdRequest {
    /// The identity so far; [`ProducerId::NONE`] asks for a new one.
    pub producer_id: ProducerId,
    /// Its epoch so far.
    pub producer_epoch: ProducerEpoch,
}

impl Request for InitProducerIdRequest {
    const API: ApiKey = ApiKey::InitProducerId;
    type Response = InitProducerIdResponse;
}

/// The identity to use from now on, with sequences from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitProducerIdResponse {
    /// The identity; a new one too where the epochs of the old one are used up.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
}

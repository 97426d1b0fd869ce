//! Which broker to ask: what is known of the cluster, and the connections to it.
use std::sync::Arc;

use crate::{ClientError, ClientOptions};

#[derive(Debug)]
pub(crate) struct Cluster {}

impl Cluster {
    pub(crate) async fn connect(
        _bootstrap: Vec<String>,
        _options: ClientOptions,
    ) -> Result<Arc<Self>, ClientError> {
        todo!()
    }
}

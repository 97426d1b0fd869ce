//! The way in: one client per cluster, from which producers, consumers and admins are made.

use std::sync::Arc;

use crate::{
    Admin, ClientError, ClientOptions, Consumer, ConsumerOptions, Producer, ProducerOptions,
    routing::Cluster,
};

/// A cluster as an application sees it: what is known of its topics, and connections to its
/// brokers.
///
/// Cheap to clone; all clones share what is known. Connections are opened when they are needed, and
/// again with a growing pause when they break; they close when the last clone, producer, consumer
/// and admin is gone.
#[derive(Clone, Debug)]
pub struct Client {
    cluster: Arc<Cluster>,
}

impl Client {
    /// Connects to the first of `bootstrap` (`HOST:PORT` each) that answers; the other brokers of
    /// the cluster are learnt from it. One round over all of them: it does not wait for a broker to
    /// start.
    ///
    /// Cancel safe: dropped before it is done, it leaves nothing behind.
    ///
    /// # Errors
    /// [`ClientError::InvalidOption`], [`ClientError::Unreachable`] if none answers, and what a
    /// broker says to a `Hello` that it refuses.
    pub async fn connect<A: AsRef<str>>(
        bootstrap: &[A],
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        options.validate()?;
        let bootstrap = bootstrap.iter().map(|address| address.as_ref().to_owned());
        let cluster = Cluster::connect(bootstrap.collect(), options).await?;
        Ok(Self { cluster })
    }

    /// Looks at topics, creates them, changes them.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.cluster))
    }

    /// A producer with its own connections. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::InvalidOption`].
    pub fn producer(&self, options: ProducerOptions) -> Result<Producer, ClientError> {
        options.validate()?;
        Ok(Producer::new(Arc::clone(&self.cluster), options))
    }

    /// A consumer with its own connections, to which nothing is assigned yet.
    ///
    /// # Errors
    /// [`ClientError::InvalidOption`].
    pub fn consumer(&self, options: ConsumerOptions) -> Result<Consumer, ClientError> {
        options.validate()?;
        Ok(Consumer::new(Arc::clone(&self.cluster), options))
    }
}

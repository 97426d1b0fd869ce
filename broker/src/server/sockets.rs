//! Binding the addresses of a broker, before anything else is touched.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use strandline_client::net::{self, TcpListener};

use super::disks::reason;
use crate::{
    http::{self, HttpServer, Readiness},
    metrics::Metrics,
    settings::{Address, Settings},
};

/// What is bound. HTTP is served at once, clients are not.
pub(super) struct Sockets {
    pub(super) listener: TcpListener,
    /// With its real port.
    pub(super) address: SocketAddr,
    pub(super) http: Option<HttpServer>,
}

impl Sockets {
    /// Binds them.
    ///
    /// # Errors
    /// If an address is taken, or cannot be listened on.
    pub(super) async fn bind(
        settings: &Settings,
        metrics: &Arc<Metrics>,
        readiness: &Readiness,
    ) -> anyhow::Result<Self> {
        let (listener, address) = listen(settings).await?;
        Ok(Self {
            listener,
            address,
            http: serve_http(settings, metrics, readiness).await?,
        })
    }

    /// Where others reach this broker.
    pub(super) fn advertised(&self, settings: &Settings) -> Address {
        settings.advertise.clone().unwrap_or_else(|| Address {
            // The host as it was written, as a name may mean more than the address that it stands
            // for.
            host: settings.listen.host.clone(),
            port: self.address.port(),
        })
    }
}

async fn listen(settings: &Settings) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = net::listen(&settings.listen.to_string())
        .await
        .map_err(|error| cannot_listen(&settings.listen, "--listen", &error))?;
    let address = listener
        .local_addr()
        .context("the listener does not know its address")?;
    Ok((listener, address))
}

async fn serve_http(
    settings: &Settings,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
) -> anyhow::Result<Option<HttpServer>> {
    let Some(address) = &settings.http else {
        return Ok(None);
    };
    let listener = tokio::net::TcpListener::bind(address.to_string())
        .await
        .map_err(|error| cannot_listen(address, "--http", &error))?;
    let server = http::serve(listener, Arc::clone(metrics), readiness.clone())
        .with_context(|| format!("cannot serve HTTP on {address}"))?;
    Ok(Some(server))
}

fn cannot_listen(address: &Address, flag: &str, error: &std::io::Error) -> anyhow::Error {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{address} is in use by another process; stop that, or take another address with {flag}"
        ),
        std::io::ErrorKind::PermissionDenied => anyhow::anyhow!(
            "this process may not listen on {address}; take a port from 1024 on with {flag}"
        ),
        _ => anyhow::anyhow!(
            "cannot listen on {address}: {}; name an address of this machine with {flag}",
            reason(error)
        ),
    }
}

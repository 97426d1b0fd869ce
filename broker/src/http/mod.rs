//! The HTTP listener: metrics, health, readiness.
//!
//! **Owns** its socket and its task. It answers while the broker starts and while it stops, so that
//! whoever watches sees both.
//!
//! **Never** changes anything: every page is read only.

mod readiness;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use readiness::{Readiness, Ready};

use crate::metrics::Metrics;

/// How long a request in flight may take to end once the listener stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The content type of Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const PAGE: &str = "\
Strandline

/metrics  figures for Prometheus
/healthz  200 while the process answers
/readyz   200 while the broker serves clients and all its partitions, else 503 and the reason
";

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    readiness: Readiness,
}

/// The running HTTP listener. Dropping it stops it at once.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Serves on a bound listener until it is stopped.
///
/// # Errors
/// If the listener does not know its address.
pub fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    readiness: Readiness,
) -> io::Result<HttpServer> {
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let router = Router::new()
        .route("/", get(|| async { PAGE }))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(tell_readiness))
        .route("/metrics", get(tell_metrics))
        .with_state(Shared { metrics, readiness });
    let stopped = stop.clone().cancelled_owned();
    let task = tokio::spawn(async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(stopped);
        if let Err(error) = serving.await {
            tracing::error!(%error, "the HTTP listener ended");
        }
    });
    Ok(HttpServer {
        address,
        stop,
        task,
    })
}

impl HttpServer {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening, lets requests in flight end for a second, and returns.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // Whoever keeps a connection busy for longer is cut off by the drop.
        let _ = tokio::time::timeout(STOP_TIMEOUT, &mut self.task).await;
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tell_readiness(State(shared): State<Shared>) -> Response {
    match shared.readiness.get() {
        Ready::Yes => (StatusCode::OK, "ready\n").into_response(),
        Ready::No(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
        }
    }
}

async fn tell_metrics(State(shared): State<Shared>) -> Response {
    // Thousands of partitions take milliseconds to render: too long for a thread that also serves
    // connections.
    let rendered = tokio::task::spawn_blocking(move || shared.metrics.render()).await;
    match rendered {
        Ok(text) => ([(CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

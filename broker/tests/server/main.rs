//! A whole broker in this process, spoken to in raw frames.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    missing_docs
)]

mod connections;
mod data_path;
mod faults;
mod lifecycle;
mod peer;
mod recovery;
mod topics;

use std::{path::Path, time::Duration};

use strandline_broker::{
    server::Server,
    settings::{Inputs, Settings},
};

/// How long a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Settings for a broker on `data` with free ports.
fn settings(data: &Path, more: &[(&str, &str)]) -> Settings {
    let mut inputs = Inputs::default();
    inputs.flag("data", [data.to_str().unwrap()]);
    for (key, value) in [
        ("listen", "127.0.0.1:0"),
        ("http", "off"),
        ("shutdown_timeout", "5s"),
    ] {
        inputs.flag(key, [value]);
    }
    for (key, value) in more {
        if *key == "data" {
            inputs.flag(key, value.split(','));
        } else {
            inputs.flag(key, [*value]);
        }
    }
    Settings::resolve(&inputs).unwrap()
}

/// A running broker, all of whose partitions are open.
async fn start(data: &Path, more: &[(&str, &str)]) -> Server {
    let server = Server::start(settings(data, more)).await.unwrap();
    server.recovered().await;
    server
}

/// Polls until `condition` holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

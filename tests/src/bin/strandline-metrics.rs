//! `cargo run -p strandline-tests --bin strandline-metrics`: what a broker that has served some
//! traffic answers to a scrape, for `promtool check metrics`.

use std::io::Write as _;

use anyhow::Context as _;
use strandline_broker::{server::Server, settings::Settings};
use strandline_tests::scrape::{Scraped, make_traffic};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().to_string_lossy();
    let settings = Settings::with(&[
        ("data", &*path),
        ("listen", "127.0.0.1:0"),
        ("http", "127.0.0.1:0"),
    ])?;
    let server = Server::start(settings).await?;
    make_traffic(&server.native_addr().to_string(), "tides", 1_000).await?;
    let http = server.http_addr().context("HTTP is served")?;
    let scraped = tokio::task::spawn_blocking(move || Scraped::of(http)).await?;
    std::io::stdout().write_all(scraped.text.as_bytes())?;
    server.shutdown().await?;
    Ok(())
}
